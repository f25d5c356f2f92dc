//! Environment variables in values: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`; `$${` is a
//! literal `${`.
//!
//! The YAML library supports this for plain scalars only, but `["${HOST}:80"]` needs quotes.

use std::borrow::Cow;
use std::collections::HashMap;

/// Nesting depth of defaults.
const NESTING_MAX: usize = 8;

/// A problem of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReferenceError {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// Resolves the references in `text`.
pub(super) fn substitute<'a>(
    text: &'a str,
    env: &HashMap<String, String>,
) -> Result<Cow<'a, str>, ReferenceError> {
    resolve(text, env, NESTING_MAX)
}

fn resolve<'a>(
    text: &'a str,
    env: &HashMap<String, String>,
    nesting: usize,
) -> Result<Cow<'a, str>, ReferenceError> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        // `$${` is an escape: the first dollar is removed.
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some(end) = closing(after) else {
            return Err(malformed(&format!("${{{after}")));
        };
        let (reference, tail) = (after.get(..end).unwrap_or_default(), after.get(end + 1..));
        out.push_str(&value(reference, env, nesting)?);
        rest = tail.unwrap_or_default();
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// The position of the brace that closes the one open at the start.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

fn value<'a>(
    reference: &'a str,
    env: &'a HashMap<String, String>,
    nesting: usize,
) -> Result<Cow<'a, str>, ReferenceError> {
    let end = reference
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(reference.len());
    let (name, operator) = reference.split_at_checked(end).unwrap_or((reference, ""));
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(malformed(&format!("${{{reference}}}")));
    }
    let set = env.get(name).map(String::as_str);
    let filled = set.filter(|value| !value.is_empty());
    if let Some(default) = operator.strip_prefix(":-") {
        let Some(nesting) = nesting.checked_sub(1) else {
            return Err(malformed(&format!("${{{reference}}}")));
        };
        return filled.map_or_else(
            || resolve(default, env, nesting),
            |value| Ok(Cow::Borrowed(value)),
        );
    }
    if let Some(message) = operator.strip_prefix(":?") {
        return filled.map(Cow::Borrowed).ok_or_else(|| ReferenceError {
            message: format!("the environment variable `{name}` is not set: {message}"),
            help: None,
        });
    }
    if !operator.is_empty() {
        return Err(malformed(&format!("${{{reference}}}")));
    }
    set.map(Cow::Borrowed).ok_or_else(|| ReferenceError {
        message: format!("the environment variable `{name}` is not set"),
        help: Some(format!("set it, or add a default: `${{{name}:-default}}`")),
    })
}

fn malformed(reference: &str) -> ReferenceError {
    const LENGTH_MAX: usize = 40;
    let shown: String = reference.chars().take(LENGTH_MAX).collect();
    ReferenceError {
        message: format!(
            "expected `${{NAME}}`, `${{NAME:-default}}` or `${{NAME:?message}}`, found `{shown}`"
        ),
        help: Some("write `$${` for a literal `${`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, String> {
        let env = HashMap::from([("A", "a"), ("EMPTY", ""), ("SNEAKY", "${A}")]);
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        substitute(text, &env)
            .map(Cow::into_owned)
            .map_err(|fault| fault.message)
    }

    #[test]
    fn references_are_resolved() {
        for (text, expected) in [
            ("plain $A $", "plain $A $"),
            ("${A}", "a"),
            ("<${A}${A}>", "<aa>"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${NONE:-x}", "x"),
            ("${NONE:-}", ""),
            ("${A:-x}", "a"),
            ("${NONE:-<${A}>}", "<a>"),
            ("${A:?must be set}", "a"),
            ("$${A}", "${A}"),
            ("${SNEAKY}", "${A}"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn missing_variables_and_malformed_references_are_reported() {
        let message = |text| check(text).unwrap_err();
        assert_eq!(
            message("${NONE}"),
            "the environment variable `NONE` is not set"
        );
        assert_eq!(
            message("${NONE:?ask Jo}"),
            "the environment variable `NONE` is not set: ask Jo"
        );
        assert_eq!(
            message("${EMPTY:?ask Jo}"),
            "the environment variable `EMPTY` is not set: ask Jo"
        );
        for text in [
            "${",
            "${}",
            "${A",
            "${1}",
            "${A B}",
            "${A+x}",
            "${NONE:-${}",
        ] {
            assert!(message(text).starts_with("expected `${NAME}`"), "{text}");
        }
        let deep = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
        assert!(check(&deep).is_err());
    }
}
