//! The configuration as a tree of nodes with position and path, not validated yet.

use super::report::TextSpan;

/// A value of a document.
#[derive(Debug)]
pub(super) struct Node {
    /// Its path from the root, such as `services.shop.routes[0].host`.
    pub(super) path: String,
    pub(super) span: TextSpan,
    /// The first line of its text as written, with variables unresolved.
    pub(super) written: String,
    /// Whether it contains a variable. Its value may then be a secret, and a number is still a
    /// string.
    pub(super) substituted: bool,
    pub(super) kind: NodeKind,
}

/// The kind and value of a node.
#[derive(Debug)]
pub(super) enum NodeKind {
    Null,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<MapEntry>),
    /// A string with an unset variable, which was reported already.
    Missing,
}

/// A key and value of a mapping.
#[derive(Debug)]
pub(super) struct MapEntry {
    pub(super) key: String,
    pub(super) span: TextSpan,
    pub(super) value: Node,
}

impl Node {
    /// The kind and value, for "expected …, found …".
    pub(super) fn found(&self) -> String {
        match &self.kind {
            NodeKind::Null => "nothing".to_owned(),
            NodeKind::Bool(_)
            | NodeKind::Integer(_)
            | NodeKind::Number(_)
            | NodeKind::Text(_)
            | NodeKind::Missing => self.quoted(),
            NodeKind::List(_) => "a list".to_owned(),
            NodeKind::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The text as written, truncated for messages.
    pub(super) fn quoted(&self) -> String {
        const LENGTH_MAX: usize = 80;
        let text = self.written.trim();
        match text.char_indices().nth(LENGTH_MAX) {
            Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
            None => format!("`{text}`"),
        }
    }
}

/// The path of the entry `key` below `path`; a key with unusual characters is quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let key = if plain {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// The path of an item of the list at `path`.
pub(super) fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}
