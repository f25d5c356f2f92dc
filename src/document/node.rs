//! A document as a tree of nodes with position and path, not validated yet.

use std::fmt::Write as _;
use std::sync::Arc;

use super::problem::TextSpan;

/// A value of a document.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its path from the root.
    pub(crate) path: NodePath,
    pub(crate) span: TextSpan,
    /// The first line of its text as written, with variables unresolved.
    pub(crate) written: String,
    /// Whether it contains a variable. Its value may then be a secret, and a number is still a
    /// string.
    pub(crate) substituted: bool,
    pub(crate) kind: NodeKind,
}

/// The kind and value of a node.
#[derive(Debug)]
pub(crate) enum NodeKind {
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
pub(crate) struct MapEntry {
    pub(crate) key: String,
    pub(crate) span: TextSpan,
    pub(crate) value: Node,
}

/// The path of a node: keys and indices from the root. Cheap to clone and to extend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodePath(Option<Arc<(NodePath, PathStep)>>);

#[derive(Debug, PartialEq, Eq)]
enum PathStep {
    Key(String),
    Index(usize),
}

impl Node {
    /// A node that reads as absent; readers are described with it.
    pub(super) fn missing() -> Node {
        Node {
            path: NodePath::default(),
            span: TextSpan::default(),
            written: String::new(),
            substituted: false,
            kind: NodeKind::Missing,
        }
    }

    /// The value of `key`, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        let NodeKind::Map(entries) = &self.kind else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key);
        entry.map(|entry| &entry.value)
    }

    /// The items; none if this is no list.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            NodeKind::List(items) => items,
            _ => &[],
        }
    }

    /// The kind and value, for "expected …, found …".
    pub(crate) fn found(&self) -> String {
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
    pub(crate) fn quoted(&self) -> String {
        const LENGTH_MAX: usize = 80;
        let text = self.written.trim();
        match text.char_indices().nth(LENGTH_MAX) {
            Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
            None => format!("`{text}`"),
        }
    }
}

impl NodePath {
    /// The path of the entry `key` below this one.
    pub(crate) fn key(&self, key: &str) -> NodePath {
        NodePath(Some(Arc::new((
            self.clone(),
            PathStep::Key(key.to_owned()),
        ))))
    }

    /// The path of an item of the list at this path.
    pub(crate) fn index(&self, index: usize) -> NodePath {
        NodePath(Some(Arc::new((self.clone(), PathStep::Index(index)))))
    }

    /// As people read it: `services.shop.routes[0].host`. Keys with unusual characters are quoted.
    pub(crate) fn dotted(&self) -> String {
        self.fold(|mut text, step| {
            match step {
                PathStep::Index(index) => _ = write!(text, "[{index}]"),
                PathStep::Key(key) => {
                    let dot = if text.is_empty() { "" } else { "." };
                    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                    _ = match !key.is_empty() && key.chars().all(is_usual) {
                        true => write!(text, "{dot}{key}"),
                        false => write!(text, "{dot}{key:?}"),
                    };
                }
            }
            text
        })
    }

    /// As a JSON pointer (RFC 6901).
    pub(crate) fn pointer(&self) -> String {
        self.fold(|text, step| match step {
            PathStep::Index(index) => format!("{text}/{index}"),
            PathStep::Key(key) => format!("{text}/{}", key.replace('~', "~0").replace('/', "~1")),
        })
    }

    fn fold(&self, add: impl Fn(String, &PathStep) -> String) -> String {
        let mut steps = Vec::new();
        let mut path = self;
        while let Some(last) = &path.0 {
            steps.push(&last.1);
            path = &last.0;
        }
        steps.into_iter().rev().fold(String::new(), add)
    }
}
