//! Reading of the tree: every reader reports its problems and continues, so that one pass reports
//! all of them.
//!
//! A reader is a function from a node to a value. It returns `None` only after reporting a problem,
//! or for a node that was reported already. The caller then continues with a default, which is
//! never used, since a report with problems discards the configuration.

use std::cell::RefCell;
use std::sync::Arc;

use super::report::{ConfigProblem, SourceText, TextSpan};
use super::tree::{MapEntry, Node, NodeKind, join};
use crate::model::{one_of, similar};

/// Collects the problems of one text.
pub(super) struct ProblemList {
    source: Arc<SourceText>,
    all: RefCell<Vec<ConfigProblem>>,
}

impl ProblemList {
    pub(super) fn new(source: Arc<SourceText>, known: Vec<ConfigProblem>) -> ProblemList {
        ProblemList {
            source,
            all: RefCell::new(known),
        }
    }

    /// Reports a problem of `node`.
    pub(super) fn at(&self, node: &Node, message: impl Into<String>) {
        self.push(&node.span, &node.path, message.into(), None);
    }

    /// Reports a problem of `node` with a hint.
    pub(super) fn help(&self, node: &Node, message: impl Into<String>, help: impl Into<String>) {
        self.push(&node.span, &node.path, message.into(), Some(help.into()));
    }

    /// Reports a problem of a key, or of a field missing in its mapping.
    pub(super) fn at_key(
        &self,
        entry: &MapEntry,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(&entry.span, &entry.value.path, message.into(), help);
    }

    /// Reports that `node` is of another kind than expected.
    pub(super) fn expected(&self, node: &Node, what: &str) {
        self.at(node, format!("expected {what}, found {}", node.found()));
    }

    /// Reports a problem of the text as a whole.
    pub(super) fn at_start(&self, message: &str) {
        let start = TextSpan {
            line: 1,
            column: 1,
            bytes: 0..0,
        };
        self.push(&start, "", message.to_owned(), None);
    }

    /// Adds the problems of another text.
    pub(super) fn extend(&self, others: Vec<ConfigProblem>) {
        self.all.borrow_mut().extend(others);
    }

    /// The number of problems so far.
    pub(super) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    pub(super) fn into_inner(self) -> Vec<ConfigProblem> {
        self.all.into_inner()
    }

    /// The file name of the text.
    pub(super) fn file(&self) -> &str {
        &self.source.name
    }

    /// Reports a problem at a position of the text; `path` names the field.
    pub(super) fn push(&self, span: &TextSpan, path: &str, message: String, help: Option<String>) {
        let mut problem = ConfigProblem::new(&self.source, Some(span.clone()), path, message);
        problem.help = help;
        self.all.borrow_mut().push(problem);
    }
}

/// The fields of a mapping with known keys.
pub(super) struct Fields<'a> {
    node: &'a Node,
    entries: &'a [MapEntry],
    problems: &'a ProblemList,
    known: Vec<&'static str>,
    unavailable: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The fields of `node`, which must be a mapping.
    pub(super) fn of(node: &'a Node, problems: &'a ProblemList) -> Option<Fields<'a>> {
        Some(Fields {
            node,
            entries: entries(node, problems)?,
            problems,
            known: Vec::new(),
            unavailable: Vec::new(),
        })
    }

    /// The node of `name`, if it is present.
    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.value)
    }

    /// Reads `name` with `reader`; `None` if it is absent or invalid.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        reader: impl FnOnce(&'a Node, &'a ProblemList) -> Option<T>,
    ) -> Option<T> {
        let node = self.get(name)?;
        reader(node, self.problems)
    }

    /// Like [`Fields::read`], but reports an absent field.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        what: &str,
        reader: impl FnOnce(&'a Node, &'a ProblemList) -> Option<T>,
    ) -> Option<T> {
        let Some(node) = self.get(name) else {
            let path = join(&self.node.path, name);
            let message = format!("`{name}` is missing; expected {what}");
            self.problems.push(&self.node.span, &path, message, None);
            return None;
        };
        reader(node, self.problems)
    }

    /// Sets `bucket`, which holds the default, to the value of `name` if it is present.
    pub(super) fn set<T>(
        &mut self,
        name: &'static str,
        slot: &mut T,
        reader: impl FnOnce(&'a Node, &'a ProblemList) -> Option<T>,
    ) {
        if let Some(value) = self.read(name, reader) {
            *slot = value;
        }
    }

    /// Declares a field that this version does not support yet.
    pub(super) fn unavailable(&mut self, name: &'static str) {
        self.unavailable.push(name);
    }

    /// Reports unknown fields.
    pub(super) fn finish(self) {
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
pub(super) fn entries<'a>(node: &'a Node, problems: &ProblemList) -> Option<&'a [MapEntry]> {
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
    problems: &'a ProblemList,
    most: usize,
    mut reader: impl FnMut(&'a Node, &'a ProblemList) -> Option<T>,
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
    Some(
        items
            .iter()
            .filter_map(|item| reader(item, problems))
            .collect(),
    )
}
