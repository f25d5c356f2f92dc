//! Quantities as people write them: `0.05pp`, `5%`, `1ms`. A bare number is a fraction from 0 to 1.
//!
//! They are serialized in the same units, so that a plan reads alike everywhere.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;

use crate::document::quantity::{parse_duration, parse_fraction, write_duration};

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
        let wrong = || format!("`{text}` is not a share such as `0.05pp`, `5%` or `0.05`");
        parse_fraction(text).ok_or_else(|| E::custom(wrong()))
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
        serializer.serialize_str(&write_duration(*value))
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
        let wrong = || format!("`{text}` is not a time such as `1ms`, `10s` or `1h30m`");
        let compact: String = text.split_whitespace().collect();
        parse_duration(&compact).ok_or_else(|| E::custom(wrong()))
    }

    /// Only 0 is the same in every unit.
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        match number {
            0 => Ok(Duration::ZERO),
            _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
        }
    }
}
