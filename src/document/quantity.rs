//! Quantities as people write them: `1m30s`, `64KiB`, `0.05pp`, `5%`.

use std::time::Duration;

/// Parses one or more pairs of number and unit without spaces, as in `1m30s`, to the microsecond.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let end = tail
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        total += number
            * match unit {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = tail;
    }
    let rounded = (total * 1e6).round() / 1e6;
    let duration = Duration::try_from_secs_f64(rounded).ok()?;
    (!text.is_empty()).then_some(duration)
}

/// A duration in the largest unit that gives a whole number, up to seconds.
pub(crate) fn write_duration(duration: Duration) -> String {
    match duration.as_micros() {
        us if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        us if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}

/// Parses a number and a unit without a space: `10MiB`.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let scale: u32 = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = (number * f64::from(scale)).round();
    /// 2^53, up to which whole numbers are exact as a double: 8 PiB.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and from 0 to 2^53, checked"
    )]
    (0.0..=EXACT).contains(&bytes).then_some(bytes as u64)
}

/// A size in the largest binary unit that gives a whole number.
pub(crate) fn write_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = |(scale, _): &&(u64, &str)| bytes > 0 && bytes.is_multiple_of(*scale);
    match units.iter().find(fits) {
        Some((scale, unit)) => format!("{}{unit}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

/// Splits digits with at most one decimal point from the rest.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('.') {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// Parses a fraction: `0.05pp` (percentage points) and `0.05%` are both 0.0005.
pub(crate) fn parse_fraction(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, scale) = match text.strip_suffix("pp").or_else(|| text.strip_suffix('%')) {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    let value: f64 = number.trim_end().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value / scale)
}

/// A fraction with `unit`, which is `%` or `pp`.
pub(crate) fn write_fraction(fraction: f64, unit: &str) -> String {
    // Rounded to hide binary fractions.
    format!("{}{unit}", (fraction * 1e8).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        assert_eq!(parse_duration("500ms"), Some(seconds(0.5)));
        assert_eq!(parse_duration("0.5ms"), Some(seconds(0.0005)));
        assert_eq!(parse_duration("1m30s"), Some(seconds(90.0)));
        assert_eq!(parse_duration("1.5h"), Some(seconds(5_400.0)));
        for wrong in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5.s",
            ".5s",
            "5x",
            "1e3s",
            "5s5",
            "1.2.3s",
            "10 parsecs",
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn written_quantities_read_as_the_same_value() {
        for (text, us) in [("90s", 90_000_000), ("1ms", 1_000), ("3us", 3), ("0s", 0)] {
            let duration = Duration::from_micros(us);
            assert_eq!(write_duration(duration), text);
            assert_eq!(parse_duration(text), Some(duration));
        }
        for (text, bytes) in [("64KiB", 65_536), ("65534B", 65_534), ("0B", 0)] {
            assert_eq!(write_size(bytes), text);
            assert_eq!(parse_size(text), Some(bytes));
        }
        assert_eq!(write_fraction(0.0005, "pp"), "0.05pp");
        assert_eq!(write_fraction(0.05, "%"), "5%");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("1.5MB"), Some(1_500_000));
        for wrong in ["", "5", "KiB", "5 KiB", "-5B", "5K", "9999999GiB", "5kb"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fractions_are_parsed_and_rejected() {
        for (text, value) in [
            ("0.05pp", 0.0005),
            ("5%", 0.05),
            ("0.3", 0.3),
            (" 1 % ", 0.01),
            ("0pp", 0.0),
        ] {
            let parsed = parse_fraction(text).unwrap();
            assert!((parsed - value).abs() < 1e-15, "{text}");
        }
        for text in ["", "pp", "-1%", "5 percent", "nan", "inf%"] {
            assert!(parse_fraction(text).is_none(), "{text}");
        }
    }
}
