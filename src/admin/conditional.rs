//! Entity tags and preconditions (RFC 9110, 13). The tag of a service is its revision.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::problem::{self, ProblemResponse};

/// Entity tag of a revision.
pub(super) fn tag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// List of tags sent by a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`
    Any,
    /// These revisions; a tag that is no revision cannot match and is left out.
    These {
        /// Strong tags.
        strong: Vec<u64>,
        /// Weak tags.
        weak: Vec<u64>,
    },
}

impl Tags {
    /// Strong comparison for `If-Match`: weak tags never match (RFC 9110, 13.1.1).
    pub(super) fn match_strongly(&self, revision: u64) -> bool {
        match self {
            Tags::Any => true,
            Tags::These { strong, .. } => strong.contains(&revision),
        }
    }

    /// Weak comparison for `If-None-Match`: weak tags match too (RFC 9110, 13.1.2).
    pub(super) fn match_weakly(&self, revision: u64) -> bool {
        match self {
            Tags::Any => true,
            Tags::These { strong, weak } => strong.contains(&revision) || weak.contains(&revision),
        }
    }
}

/// Tags of `If-Match`; `None` without the header.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<Tags>, ProblemResponse> {
    read(headers, &header::IF_MATCH)
}

/// Tags of `If-None-Match`; `None` without the header.
pub(super) fn if_none_match(headers: &HeaderMap) -> Result<Option<Tags>, ProblemResponse> {
    read(headers, &header::IF_NONE_MATCH)
}

fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, ProblemResponse> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let lines: Result<Vec<&str>, _> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::to_str)
        .collect();
    let tags = lines.ok().and_then(|lines| parse(&lines.join(",")));
    tags.map(Some).ok_or_else(|| {
        ProblemResponse::new(
            problem::BAD_REQUEST,
            format!("{name} must be `*` or a list of tags in double quotes, as ETag gives them."),
        )
    })
}

/// Parses `*` or tags separated by commas. A tag may contain commas, so splitting is not enough.
fn parse(text: &str) -> Option<Tags> {
    if text.trim() == "*" {
        return Some(Tags::Any);
    }
    let (mut strong, mut weak) = (Vec::new(), Vec::new());
    let mut rest = text.trim_start_matches([',', ' ', '\t']);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (list, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (&mut weak, quoted),
            None => (&mut strong, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        list.extend(
            opaque
                .parse::<u64>()
                .ok()
                .filter(|revision| revision.to_string() == opaque),
        );
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with(',') {
            return None;
        }
        rest = after.trim_start_matches([',', ' ', '\t']);
    }
    Some(Tags::These { strong, weak })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&[u64], &[u64])>) {
        let tags = expected.map(|(strong, weak)| Tags::These {
            strong: strong.to_vec(),
            weak: weak.to_vec(),
        });
        assert_eq!(parse(text), tags, "{text}");
    }

    #[test]
    fn entity_tag_lists_are_parsed() {
        assert_eq!(parse(" * "), Some(Tags::Any));
        check(r#""3""#, Some((&[3], &[])));
        check(r#""3" , W/"4",, "5","#, Some((&[3, 5], &[4])));
        check(r#""", "03", "+3", "a,b", "x""#, Some((&[], &[])));
        for wrong in [
            "",
            ",",
            "3",
            "\"3",
            "w/\"3\"",
            "\"3\"\"4\"",
            "\"3\" \"4\"",
            "*, \"3\"",
        ] {
            check(wrong, None);
        }
    }
}
