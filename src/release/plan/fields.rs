//! Validation of a plan's JSON. Every check continues after a problem, so that one pass reports all
//! of them.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::analysis::text;
use crate::model::api::FieldProblem;
use crate::model::{one_of, similar};

/// A longer duration is taken for a mistake.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// A larger count is taken for a mistake; it fits into the counters of the request path.
pub(super) const COUNT_MAX: u64 = 1_000_000_000;

/// The problems of one plan in the order found.
#[derive(Debug, Default)]
pub(super) struct PlanProblems(Vec<FieldProblem>);

/// The expected type of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FieldKind {
    Number,
    Share,
    Count,
    Time,
    OneOf(&'static [&'static str]),
}

impl PlanProblems {
    pub(super) fn at(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldProblem {
            pointer: pointer.into(),
            detail: detail.into(),
        });
    }

    pub(super) fn expected(&mut self, pointer: &str, what: &str, value: &Value) {
        self.at(pointer, format!("expected {what}, found {}", found(value)));
    }

    /// Reports the keys of `object` that are not in `known`.
    pub(super) fn unknown(&mut self, at: &str, object: &Map<String, Value>, known: &[&str]) {
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let suggestion = similar(key, known).map(|name| format!("; did you mean `{name}`?"));
            let detail = format!("unknown field `{key}`; expected {}", one_of(known));
            self.at(join(at, key), detail + &suggestion.unwrap_or_default());
        }
    }

    pub(super) fn object<'a>(
        &mut self,
        at: &str,
        value: &'a Value,
        what: &str,
    ) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.expected(at, what, value);
        }
        object
    }

    pub(super) fn list<'a>(
        &mut self,
        at: &str,
        value: &'a Value,
        what: &str,
        most: usize,
    ) -> &'a [Value] {
        match value.as_array() {
            Some(items) if items.len() <= most => return items,
            Some(items) => self.at(
                at,
                format!("{} items are too many; the maximum is {most}", items.len()),
            ),
            None => self.expected(at, what, value),
        }
        &[]
    }

    pub(super) fn text<'a>(&mut self, at: &str, value: &'a Value, what: &str) -> Option<&'a str> {
        let text = value.as_str().filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.expected(at, what, value);
        }
        text
    }

    pub(super) fn count(&mut self, at: &str, value: &Value, least: u64, most: u64) -> Option<u64> {
        let count = value
            .as_u64()
            .filter(|count| (least..=most).contains(count));
        if count.is_none() {
            self.expected(at, &format!("a whole number from {least} to {most}"), value);
        }
        count
    }

    pub(super) fn duration(&mut self, at: &str, value: &Value) -> Option<Duration> {
        match duration(value) {
            Ok(duration) => Some(duration),
            Err(detail) => {
                self.at(at, detail);
                None
            }
        }
    }

    pub(super) fn duration_above_zero(&mut self, at: &str, value: &Value) -> Option<Duration> {
        let duration = self.duration(at, value)?;
        if duration.is_zero() {
            self.at(at, "expected a time above zero");
            return None;
        }
        Some(duration)
    }

    /// Whether `value` is of `kind`; reports a problem if not.
    pub(super) fn check(&mut self, at: &str, kind: FieldKind, value: &Value) -> bool {
        let checked = kind.check(value);
        if let Err(detail) = &checked {
            self.at(at, detail.as_str());
        }
        checked.is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_inner(self) -> Vec<FieldProblem> {
        self.0
    }
}

impl FieldKind {
    fn check(self, value: &Value) -> Result<(), String> {
        let expected = |what: &str| Err(format!("expected {what}, found {}", found(value)));
        match (self, value) {
            (FieldKind::Number | FieldKind::Share, Value::Number(_)) => Ok(()),
            (FieldKind::Number, _) => expected("a number"),
            (FieldKind::Share, Value::String(text)) => text::fraction(text).map(drop),
            (FieldKind::Share, _) => expected("a share such as `0.05pp`, `5%` or 0.05"),
            (FieldKind::Count, _) if value.as_u64().is_some_and(|count| count <= COUNT_MAX) => {
                Ok(())
            }
            (FieldKind::Count, _) => expected(&format!("a whole number from 0 to {COUNT_MAX}")),
            (FieldKind::Time, _) => duration(value).map(drop),
            (FieldKind::OneOf(names), Value::String(text)) if names.contains(&text.as_str()) => {
                Ok(())
            }
            (FieldKind::OneOf(names), _) => expected(&one_of(names)),
        }
    }
}

fn duration(value: &Value) -> Result<Duration, String> {
    let what = "a time such as `500ms`, `10s` or `1h30m`";
    match value {
        Value::String(text) => match text::duration(text)? {
            duration if duration <= DURATION_MAX => Ok(duration),
            _ => Err(format!("`{text}` is longer than a year")),
        },
        Value::Number(number) => Err(format!(
            "expected {what}, found {number} without a unit; did you mean `{number}s`?"
        )),
        _ => Err(format!("expected {what}, found {}", found(value))),
    }
}

/// The JSON pointer of `key` below `at`, escaped by RFC 6901.
pub(super) fn join(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn found(value: &Value) -> String {
    /// The maximum length of a quoted value.
    const QUOTED: usize = 80;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => format!("`{}`", text.chars().take(QUOTED).collect::<String>()),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
    }
}
