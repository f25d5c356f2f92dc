//! Reading of the tree: every reader reports its problems and continues, so that one pass reports
//! all of them.
//!
//! A reader is a function from a node to a value. It returns `None` only after reporting a problem,
//! or for a node that was reported already. The caller then continues with a default, which is
//! never used, since a report with problems discards the document.

use super::node::{MapEntry, Node, NodeKind};
use super::problem::ProblemList;
use super::shape::{FieldShape, Shape};
use super::types::Type;
use crate::model::{one_of, similar};

/// The fields of a mapping with known keys: read from a document, or described without one.
pub(crate) struct Fields<'a> {
    node: &'a Node,
    entries: &'a [MapEntry],
    problems: &'a ProblemList,
    known: Vec<&'static str>,
    unavailable: Vec<&'static str>,
    is_choice: bool,
    /// What has been declared so far, if the reader is described.
    described: Option<Vec<FieldShape>>,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which must be a mapping.
    pub(crate) fn of(node: &'a Node, problems: &'a ProblemList) -> Option<Fields<'a>> {
        Some(Fields {
            node,
            entries: entries(node, problems)?,
            problems,
            known: Vec::new(),
            unavailable: Vec::new(),
            is_choice: false,
            described: None,
        })
    }

    /// The shape that `reader` reads.
    pub(super) fn describe(reader: impl FnOnce(&mut Fields<'_>)) -> Shape {
        let (node, problems) = (Node::missing(), ProblemList::default());
        let mut fields = Fields {
            node: &node,
            entries: &[],
            problems: &problems,
            known: Vec::new(),
            unavailable: Vec::new(),
            is_choice: false,
            described: Some(Vec::new()),
        };
        reader(&mut fields);
        Shape::Object {
            is_choice: fields.is_choice,
            fields: fields.described.unwrap_or_default(),
        }
    }

    /// The mapping.
    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// Where problems are reported.
    pub(crate) fn problems(&self) -> &'a ProblemList {
        self.problems
    }

    /// The node of `name`, if it is present.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        entry.map(|entry| &entry.value)
    }

    /// Reads `name`; `None` if it is absent or invalid.
    pub(crate) fn read<T>(
        &mut self,
        name: &'static str,
        kind: Type<'_, T>,
        text: &'static str,
    ) -> Option<T> {
        self.declare(name, &kind, text, None);
        kind.read(self.get(name)?, self.problems)
    }

    /// Like [`Fields::read`], but reports an absent field; `what` follows "expected".
    pub(crate) fn required<T>(
        &mut self,
        name: &'static str,
        what: &str,
        kind: Type<'_, T>,
        text: &'static str,
    ) -> Option<T> {
        self.declare(name, &kind, text, None);
        self.require(name, what);
        kind.read(self.get(name)?, self.problems)
    }

    fn require(&mut self, name: &'static str, what: &str) {
        if let Some(field) = self.described.as_mut().and_then(|all| all.last_mut()) {
            field.is_required = true;
        } else if self.get(name).is_none() {
            let path = self.node.path.key(name);
            let message = format!("`{name}` is missing; expected {what}");
            self.problems
                .push(Some(&self.node.span), &path, message, None);
        }
    }

    /// Sets `slot`, which holds the default, to the value of `name` if it is present.
    pub(crate) fn set<T>(
        &mut self,
        name: &'static str,
        slot: &mut T,
        kind: Type<'_, T>,
        text: &'static str,
    ) {
        self.declare(name, &kind, text, Some(slot));
        if let Some(node) = self.get(name)
            && let Some(value) = kind.read(node, self.problems)
        {
            *slot = value;
        }
    }

    /// Declares a field that this version does not support yet.
    pub(crate) fn unavailable(&mut self, name: &'static str) {
        self.unavailable.push(name);
    }

    /// Reports if not exactly one of the fields declared so far is present, and returns its node.
    pub(crate) fn exactly_one(&mut self) -> Option<&'a Node> {
        self.is_choice = true;
        let given = self.known.iter().filter_map(|name| self.get(name));
        let given: Vec<&Node> = given.collect();
        if let [only] = *given {
            return Some(only);
        }
        // Of a mapping with other keys only, these are told.
        let is_told = given.is_empty() && !self.entries.is_empty();
        if self.described.is_none() && !is_told {
            let names = one_of(&self.known).replace(" or ", " and ");
            self.problems
                .at(self.node, format!("expected exactly one of {names}"));
        }
        None
    }

    fn declare<T>(
        &mut self,
        name: &'static str,
        kind: &Type<'_, T>,
        text: &'static str,
        default: Option<&T>,
    ) {
        self.known.push(name);
        if let Some(described) = &mut self.described {
            described.push(FieldShape {
                name,
                text,
                is_required: false,
                default: default.and_then(|default| kind.show(default)),
                example: kind.example,
                is_live: kind.is_live,
                shape: kind.shape(),
            });
        }
    }

    /// Reports unknown fields.
    pub(crate) fn finish(self) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.unavailable.contains(&key) {
                let message = format!("`{key}` is not supported in this version");
                self.problems
                    .at_key(entry, message, Some("remove it".to_owned()));
            } else if !self.known.contains(&key) {
                let message = format!("unknown field `{key}`; expected {}", one_of(&self.known));
                let help = similar(key, &self.known).map(|name| format!("did you mean `{name}`?"));
                self.problems.at_key(entry, message, help);
            }
        }
    }
}

/// The entries of a mapping with arbitrary keys.
pub(crate) fn entries<'a>(node: &'a Node, problems: &ProblemList) -> Option<&'a [MapEntry]> {
    match &node.kind {
        NodeKind::Map(entries) => Some(entries),
        NodeKind::Null => {
            problems.help(
                node,
                "expected a mapping, found nothing",
                "remove the key, or write `{}`",
            );
            None
        }
        NodeKind::Missing => None,
        _ => {
            problems.expected(node, "a mapping");
            None
        }
    }
}

/// Reads the items of a list with `reader`, at most `most`; invalid ones are reported and skipped.
pub(super) fn list<'a, T>(
    node: &'a Node,
    problems: &ProblemList,
    most: usize,
    mut reader: impl FnMut(&'a Node) -> Option<T>,
) -> Option<Vec<T>> {
    let items = match &node.kind {
        NodeKind::List(items) => items,
        NodeKind::Missing => return None,
        NodeKind::Null => {
            problems.help(
                node,
                "expected a list, found nothing",
                "remove the key, or write `[]`",
            );
            return None;
        }
        _ => {
            problems.expected(node, "a list");
            return None;
        }
    };
    if items.len() > most {
        problems.at(
            node,
            format!("too many items: {}; expected at most {most}", items.len()),
        );
        return None;
    }
    Some(items.iter().filter_map(|item| reader(item)).collect())
}
