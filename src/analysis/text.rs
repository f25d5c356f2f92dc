//! Quantities as people write them: `0.05pp`, `5%`, `1ms`. A bare number is a fraction from 0 to 1.
//!
//! They are serialized in the same units, so that a plan reads alike everywhere.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;

/// Parses a fraction: `0.05pp` (percentage points) and `0.05%` are both 0.0005.
///
/// # Errors
///
/// A message for the user.
pub fn fraction(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, scale) = match text.strip_suffix("pp").or_else(|| text.strip_suffix('%')) {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim_end().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value / scale),
        _ => Err(format!(
            "`{text}` is not a share such as `0.05pp`, `5%` or `0.05`"
        )),
    }
}

/// Parses a duration: numbers with `us`, `ms`, `s`, `m`, `h` or `d`, added up as in `1m30s`.
///
/// # Errors
///
/// A message for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as `1ms`, `10s` or `1h30m`");
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| c.is_ascii_alphabetic() || c == 'µ')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail
            .find(|c: char| !(c.is_ascii_alphabetic() || c == 'µ'))
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        seconds += number.trim().parse::<f64>().map_err(|_| wrong())? * scale;
        rest = tail.trim_start();
    }
    let rounded = (seconds * 1e6).round() / 1e6;
    Duration::try_from_secs_f64(rounded).map_err(|_| wrong())
}

/// A field that is a share: `#[serde(with = "share")]`.
pub(crate) mod share {
    use super::*;

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the form that serde calls"
    )]
    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_any(ShareVisitor)
    }
}

struct ShareVisitor;

impl Visitor<'_> for ShareVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a share such as `0.05pp`, `5%` or 0.05")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
        fraction(text).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }
}

/// A field that is a duration: `#[serde(with = "time")]`.
pub(crate) mod time {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Written(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(TimeVisitor)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as `1ms`, `10s` or `1h30m`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        duration(text).map_err(E::custom)
    }

    /// Only 0 is the same in every unit.
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        match number {
            0 => Ok(Duration::ZERO),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
        }
    }
}

/// A duration in the largest unit that gives a whole number.
struct Written(Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            us if us.is_multiple_of(1_000_000) => write!(f, "{}s", us / 1_000_000),
            us if us.is_multiple_of(1_000) => write!(f, "{}ms", us / 1_000),
            us => write!(f, "{us}us"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parsed_and_rejected() {
        for (text, value) in [
            ("0.05pp", 0.0005),
            ("5%", 0.05),
            ("0.3", 0.3),
            (" 1 % ", 0.01),
            ("0pp", 0.0),
        ] {
            assert!((fraction(text).unwrap() - value).abs() < 1e-15, "{text}");
        }
        for text in ["", "pp", "-1%", "5 percent", "nan", "inf%"] {
            assert!(fraction(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_parsed_and_rejected() {
        for (text, us) in [
            ("1ms", 1_000),
            ("10s", 10_000_000),
            ("1m30s", 90_000_000),
            ("0.5ms", 500),
            ("0s", 0),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_micros(us), "{text}");
            let written = Written(duration(text).unwrap()).to_string();
            assert_eq!(
                duration(&written).unwrap(),
                Duration::from_micros(us),
                "{written}"
            );
        }
        for text in ["", "10", "10 parsecs", "s", "-1s", "1e400s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
