//! Readers of scalars: strings, numbers, durations, sizes, addresses.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read::ProblemList;
use super::tree::{Node, NodeKind};
use crate::model::{one_of, similar};

/// A longer duration is a mistake, and timers could overflow.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a string.
pub(super) fn text<'a>(node: &'a Node, problems: &ProblemList) -> Option<&'a str> {
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

/// Why a string is invalid.
pub(super) struct Wrong {
    /// The expected value, as it follows "expected".
    expected: &'static str,
    /// A hint; may quote the value.
    help: Option<String>,
}

impl Wrong {
    pub(super) fn with_help(expected: &'static str, help: impl Into<String>) -> Wrong {
        Wrong {
            expected,
            help: Some(help.into()),
        }
    }
}

impl From<&'static str> for Wrong {
    fn from(expected: &'static str) -> Wrong {
        Wrong {
            expected,
            help: None,
        }
    }
}

/// Reads a string with `parse`.
pub(super) fn parsed<T>(
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
pub(super) fn choice<T: Copy>(
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
    match similar(given, &names) {
        Some(name) => problems.help(node, message, format!("did you mean `{name}`?")),
        None => problems.at(node, message),
    }
    None
}

/// Reads a whole number within `range`.
pub(super) fn count(
    node: &Node,
    problems: &ProblemList,
    range: RangeInclusive<usize>,
) -> Option<usize> {
    let value = match &node.kind {
        NodeKind::Integer(value) => usize::try_from(*value).ok(),
        NodeKind::Text(text) if node.substituted => text.parse().ok(),
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

/// Reads a duration; zero is allowed.
pub(super) fn duration(node: &Node, problems: &ProblemList) -> Option<Duration> {
    let what = "a duration such as `30s`, `500ms` or `1m30s`";
    let parsed = parse_duration(with_unit(node, problems, what, "s")?);
    match parsed {
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

/// Reads a duration above zero.
pub(super) fn duration_above_zero(node: &Node, problems: &ProblemList) -> Option<Duration> {
    let duration = duration(node, problems)?;
    if duration.is_zero() {
        problems.at(node, "expected a duration above zero");
        return None;
    }
    Some(duration)
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

/// Like [`size`], for values that must fit into memory.
pub(super) fn memory(
    node: &Node,
    problems: &ProblemList,
    range: RangeInclusive<usize>,
) -> Option<usize> {
    let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let bytes = size(node, problems, wide(*range.start())..=wide(*range.end()))?;
    usize::try_from(bytes).ok()
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

/// Parses one or more pairs of number and unit without spaces: `1m30s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// Parses a number and a unit without a space: `10MiB`.
fn parse_size(text: &str) -> Option<u64> {
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

/// Reads an address to listen on.
pub(super) fn address(node: &Node, problems: &ProblemList) -> Option<SocketAddr> {
    let expected = "`IP:port`, such as `0.0.0.0:8080` or `[::]:8080`";
    parsed(node, problems, |text| match socket_address(text) {
        Some(address) => Ok(address),
        None if text.starts_with(':') => Err(Wrong::with_help(
            expected,
            format!("write `0.0.0.0{text}` for all interfaces"),
        )),
        None => Err(expected.into()),
    })
}

/// Parses `IP:port`, or `localhost:port` for the IPv4 loopback.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// Reads a file path; a relative one is resolved against the directory of the configuration file.
pub(super) fn path(node: &Node, problems: &ProblemList) -> Option<PathBuf> {
    let text = text(node, problems)?;
    if text.is_empty() {
        problems.at(node, "expected a path, found an empty string");
        return None;
    }
    let directory = Path::new(problems.file()).parent().unwrap_or(Path::new(""));
    Some(directory.join(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        assert_eq!(parse_duration("500ms"), Some(seconds(0.5)));
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
            "99999999999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("0B"), Some(0));
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1.5MB"), Some(1_500_000));
        for wrong in ["", "5", "KiB", "5 KiB", "-5B", "5K", "9999999GiB", "5kb"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
