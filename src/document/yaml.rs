//! Parses YAML text into a tree of nodes with positions. Only this module uses the YAML library.
//!
//! The library deserializes into Rust types and stops at the first mismatch. Here it reads into a
//! tree that fits every document, so that the readers of the tree report all problems at once. Only
//! invalid YAML stops at the first error.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::{DuplicateKeyPolicy, Error, Location, NonFiniteFloatPolicy, Options, Spanned};

use super::env::substitute;
use super::node::{MapEntry, Node, NodeKind, NodePath};
use super::problem::{ProblemList, SourceText, TextSpan};

/// Maximum nesting depth; the configuration needs eight levels.
const DEPTH_MAX: usize = 32;

/// The longest text that is read.
pub(crate) const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Parses `source`, with variables from `env`.
///
/// A missing variable is reported and its node marked; the rest of the tree is still checked.
/// Without a tree there is exactly one problem with the cause.
pub(crate) fn read(
    source: &Arc<SourceText>,
    env: &HashMap<String, String>,
    problems: &ProblemList,
) -> Option<Node> {
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(&source.text, options()) {
        Ok(raw) => Some(
            Build {
                source,
                env,
                problems,
            }
            .node(raw, NodePath::default()),
        ),
        Err(error) => {
            let place = error.location().map(span);
            problems.push(place.as_ref(), &NodePath::default(), message(&error), None);
            None
        }
    }
}

fn options() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_documents: 1,
            max_depth: DEPTH_MAX,
            max_total_scalar_bytes: 2 * TEXT_BYTES_MAX,
        },
        strict_booleans: true,
        // `Build` reports each of them.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// The library's message without the position, which the report prints itself.
fn message(error: &Error) -> String {
    match error.without_snippet() {
        Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        }
        | Error::MultipleDocuments { .. } => {
            "expected one document; a second one starts here".to_owned()
        }
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => format!("nested deeper than {DEPTH_MAX} levels"),
        // The position is that of the alias; the problem is in the aliased value.
        Error::AliasError { error, .. } => message(error),
        Error::Budget { .. } => {
            "the configuration is too large or has too many alias references".to_owned()
        }
        other => {
            let text = other.render_with_formatter(&serde_yaml::UserMessageFormatter);
            let first = text.lines().next().unwrap_or_default();
            let bare = first
                .rsplit_once(" at line ")
                .map_or(first, |(message, _)| message);
            format!("not valid YAML: {bare}")
        }
    }
}

fn span(location: Location) -> TextSpan {
    let place = location.span();
    let number = |value: Option<u64>| {
        value
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or(0)
    };
    let start = number(place.byte_offset());
    TextSpan {
        line: location.line(),
        column: location.column(),
        bytes: start..start.saturating_add(number(place.byte_len())),
    }
}

/// Any YAML value.
enum Raw {
    Null,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Raw::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            all.push(entry);
        }
        Ok(Raw::Map(all))
    }
}

/// Converts raw values to nodes, resolves variables and reports duplicate keys.
struct Build<'a> {
    source: &'a Arc<SourceText>,
    env: &'a HashMap<String, String>,
    problems: &'a ProblemList,
}

impl Build<'_> {
    fn node(&self, raw: Spanned<Raw>, path: NodePath) -> Node {
        // Messages quote the text of the file, never a value from the environment, which may be a
        // secret.
        let written = self
            .source
            .text
            .get(span(raw.defined).bytes)
            .unwrap_or_default();
        let written = written.lines().next().unwrap_or_default().to_owned();
        let span = span(raw.referenced);
        let mut substituted = false;
        let kind = match raw.value {
            Raw::Null => NodeKind::Null,
            Raw::Bool(value) => NodeKind::Bool(value),
            Raw::Integer(value) => NodeKind::Integer(value),
            Raw::Number(value) => NodeKind::Number(value),
            Raw::Text(text) => {
                substituted = text.contains("${");
                self.text(text, &span, &path)
            }
            Raw::List(items) => {
                let items = items.into_iter().enumerate();
                NodeKind::List(
                    items
                        .map(|(index, item)| self.node(item, path.index(index)))
                        .collect(),
                )
            }
            Raw::Map(entries) => NodeKind::Map(self.entries(entries, &path)),
        };
        Node {
            path,
            span,
            written,
            substituted,
            kind,
        }
    }

    fn text(&self, text: String, span: &TextSpan, path: &NodePath) -> NodeKind {
        match substitute(&text, self.env) {
            Ok(Cow::Borrowed(_)) => NodeKind::Text(text),
            Ok(Cow::Owned(text)) => NodeKind::Text(text),
            Err(fault) => {
                self.problems
                    .push(Some(span), path, fault.message, fault.help);
                NodeKind::Missing
            }
        }
    }

    fn entries(&self, raw: Vec<(Spanned<String>, Spanned<Raw>)>, path: &NodePath) -> Vec<MapEntry> {
        let mut first: HashMap<String, u64> = HashMap::new();
        let mut entries = Vec::with_capacity(raw.len());
        for (key, value) in raw {
            let span = span(key.referenced);
            let path = path.key(&key.value);
            if let Some(line) = first.get(&key.value) {
                let message = format!("duplicate key `{}`; the first is in line {line}", key.value);
                self.problems.push(Some(&span), &path, message, None);
                continue;
            }
            first.insert(key.value.clone(), span.line);
            let mut value = self.node(value, path);
            // A list or mapping has no single position; point at its key.
            if matches!(value.kind, NodeKind::List(_) | NodeKind::Map(_)) {
                value.span = span.clone();
            }
            entries.push(MapEntry {
                key: key.value,
                span,
                value,
            });
        }
        entries
    }
}
