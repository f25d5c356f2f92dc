//! Readers of scalars: strings, numbers, durations, sizes, addresses.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::{Node, NodeKind};
use super::problem::ProblemList;
use super::quantity::{parse_duration, parse_size};
use super::types::Wrong;
use crate::model::{one_of, similar};

/// A longer duration is a mistake, and timers could overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a string.
pub(crate) fn text<'a>(node: &'a Node, problems: &ProblemList) -> Option<&'a str> {
    match &node.kind {
        NodeKind::Text(text) => Some(text),
        NodeKind::Missing => None,
        NodeKind::Bool(_) | NodeKind::Integer(_) | NodeKind::Number(_) => {
            let help = format!("write it in quotes: \"{}\"", node.written.trim());
            problems.help(
                node,
                format!("expected a string, found {}", node.found()),
                help,
            );
            None
        }
        _ => {
            problems.expected(node, "a string");
            None
        }
    }
}

/// Reads a string with `parse`.
pub(crate) fn parsed<T>(
    node: &Node,
    problems: &ProblemList,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Option<T> {
    match parse(text(node, problems)?) {
        Ok(value) => Some(value),
        Err(Wrong { expected, help }) => {
            let message = format!("expected {expected}, found {}", node.found());
            match help {
                Some(help) if !node.substituted => problems.help(node, message, help),
                _ => problems.at(node, message),
            }
            None
        }
    }
}

/// Reads one of a set of words.
pub(crate) fn choice<T: Copy>(
    node: &Node,
    problems: &ProblemList,
    choices: &[(&str, T)],
) -> Option<T> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let given = match &node.kind {
        NodeKind::Text(given) => given,
        NodeKind::Missing => return None,
        _ => {
            problems.expected(node, &one_of(&names));
            return None;
        }
    };
    if let Some((_, value)) = choices.iter().find(|(name, _)| name == given) {
        return Some(*value);
    }
    let message = format!("expected {}, found {}", one_of(&names), node.found());
    match similar(given, &names).filter(|_| !node.substituted) {
        Some(name) => problems.help(node, message, format!("did you mean `{name}`?")),
        None => problems.at(node, message),
    }
    None
}

/// Reads a whole number within `range`.
pub(crate) fn count(
    node: &Node,
    problems: &ProblemList,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let value = match &node.kind {
        NodeKind::Integer(value) => u64::try_from(*value).ok(),
        NodeKind::Text(text) if node.substituted => text.trim().parse().ok(),
        NodeKind::Missing => return None,
        NodeKind::Text(_) => {
            let message = format!("expected a whole number, found {}", node.found());
            problems.help(node, message, "remove the quotes and the unit");
            return None;
        }
        _ => {
            problems.expected(node, "a whole number");
            return None;
        }
    };
    let value = value.filter(|value| range.contains(value));
    if value.is_none() {
        let bounds = format!("a whole number from {} to {}", range.start(), range.end());
        problems.expected(node, &bounds);
    }
    value
}

/// Reads a number that `fits`; `what` says which do.
pub(crate) fn number(
    node: &Node,
    problems: &ProblemList,
    what: &str,
    fits: impl FnOnce(f64) -> bool,
) -> Option<f64> {
    let number = match &node.kind {
        NodeKind::Missing => return None,
        NodeKind::Number(number) => Some(*number),
        #[expect(clippy::cast_precision_loss, reason = "larger numbers fit nowhere")]
        NodeKind::Integer(number) => Some(*number as f64),
        NodeKind::Text(text) if node.substituted => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| fits(*number));
    if number.is_none() {
        problems.expected(node, what);
    }
    number
}

/// Reads a duration; zero is allowed.
pub(crate) fn duration(node: &Node, problems: &ProblemList) -> Option<Duration> {
    duration_of(node, problems, parse_duration)
}

/// Reads a duration in which spaces are allowed, as plans always took them: `1h 30m`.
pub(super) fn spaced_duration(node: &Node, problems: &ProblemList) -> Option<Duration> {
    let parse = |text: &str| parse_duration(&text.split_whitespace().collect::<String>());
    duration_of(node, problems, parse)
}

fn duration_of(
    node: &Node,
    problems: &ProblemList,
    parse: impl Fn(&str) -> Option<Duration>,
) -> Option<Duration> {
    let what = "a duration such as `30s`, `500ms` or `1m30s`";
    match parse(with_unit(node, problems, what, "s")?) {
        Some(duration) if duration <= DURATION_MAX => Some(duration),
        Some(_) => {
            problems.at(node, format!("{} is longer than a year", node.quoted()));
            None
        }
        None => {
            problems.expected(node, what);
            None
        }
    }
}

/// Reads a number of bytes within `range`.
pub(super) fn size(node: &Node, problems: &ProblemList, range: RangeInclusive<u64>) -> Option<u64> {
    let what = "a size such as `512B`, `64KiB` or `10MiB`";
    let Some(bytes) = parse_size(with_unit(node, problems, what, "B")?) else {
        problems.expected(node, what);
        return None;
    };
    if !range.contains(&bytes) {
        let (least, most) = (range.start(), range.end());
        problems.at(
            node,
            format!("expected {least} to {most} bytes, found {}", node.quoted()),
        );
        return None;
    }
    Some(bytes)
}

/// The text of a quantity; a number without a unit is rejected as ambiguous.
fn with_unit<'a>(
    node: &'a Node,
    problems: &ProblemList,
    what: &str,
    unit: &str,
) -> Option<&'a str> {
    match &node.kind {
        NodeKind::Text(text) => Some(text),
        NodeKind::Missing => None,
        NodeKind::Number(number) if !number.is_finite() => {
            problems.expected(node, what);
            None
        }
        NodeKind::Integer(_) | NodeKind::Number(_) => {
            let message = format!("expected {what}, found {} without a unit", node.found());
            problems.help(
                node,
                message,
                format!("did you mean `{}{unit}`?", node.written.trim()),
            );
            None
        }
        _ => {
            problems.expected(node, what);
            None
        }
    }
}

/// Parses `IP:port`, or `localhost:port` for the IPv4 loopback.
pub(crate) fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// Reads a file path; a relative one is resolved against the directory of the document's file.
pub(crate) fn path(node: &Node, problems: &ProblemList) -> Option<PathBuf> {
    let text = text(node, problems)?;
    if text.is_empty() {
        problems.at(node, "expected a path, found an empty string");
        return None;
    }
    let file = Path::new(&problems.source().name);
    Some(file.parent().unwrap_or(Path::new("")).join(text))
}
