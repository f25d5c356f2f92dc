//! The problems of a document.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::node::{MapEntry, Node, NodePath};
use crate::model::api::FieldProblem;

/// A text and its file name; both empty for a document without a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceText {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A position in a text. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextSpan {
    pub(crate) line: u64,
    pub(crate) column: u64,
    pub(crate) bytes: Range<usize>,
}

/// One problem with its place and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DocumentProblem {
    pub(crate) source: Arc<SourceText>,
    /// Absent without a position, as when the file cannot be read.
    pub(crate) span: Option<TextSpan>,
    pub(crate) path: NodePath,
    /// The problem and what was expected.
    pub(crate) message: String,
    /// A hint, where the message is not enough.
    pub(crate) help: Option<String>,
}

impl From<DocumentProblem> for FieldProblem {
    fn from(problem: DocumentProblem) -> FieldProblem {
        let help = problem.help.map(|help| format!("; {help}"));
        FieldProblem {
            pointer: problem.path.pointer(),
            detail: problem.message + &help.unwrap_or_default(),
        }
    }
}

/// Collects the problems of one text.
#[derive(Default)]
pub(crate) struct ProblemList {
    source: Arc<SourceText>,
    all: RefCell<Vec<DocumentProblem>>,
}

impl ProblemList {
    pub(crate) fn new(source: Arc<SourceText>) -> ProblemList {
        ProblemList {
            source,
            all: RefCell::default(),
        }
    }

    /// Reports a problem of `node`.
    pub(crate) fn at(&self, node: &Node, message: impl Into<String>) {
        self.push(Some(&node.span), &node.path, message.into(), None);
    }

    /// Reports a problem of `node` with a hint.
    pub(crate) fn help(&self, node: &Node, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into());
        self.push(Some(&node.span), &node.path, message.into(), help);
    }

    /// Reports a problem of a key, or of a field missing in its mapping.
    pub(crate) fn at_key(
        &self,
        entry: &MapEntry,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(Some(&entry.span), &entry.value.path, message.into(), help);
    }

    /// Reports that `node` is of another kind than expected.
    pub(crate) fn expected(&self, node: &Node, what: &str) {
        self.at(node, format!("expected {what}, found {}", node.found()));
    }

    /// Reports a problem of the text as a whole.
    pub(crate) fn at_start(&self, message: &str) {
        let start = TextSpan {
            line: 1,
            column: 1,
            bytes: 0..0,
        };
        let root = NodePath::default();
        self.push(Some(&start), &root, message.to_owned(), None);
    }

    /// Adds the problems of another text.
    pub(crate) fn extend(&self, others: ProblemList) {
        self.all.borrow_mut().extend(others.into_inner());
    }

    /// The number of problems so far.
    pub(crate) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(crate) fn into_inner(self) -> Vec<DocumentProblem> {
        self.all.into_inner()
    }

    /// The problems as the admin API shows them.
    pub(crate) fn into_fields(self) -> Vec<FieldProblem> {
        self.into_inner().into_iter().map(Into::into).collect()
    }

    /// The text and its file name.
    pub(crate) fn source(&self) -> &SourceText {
        &self.source
    }

    /// Reports a problem at a position of the text; `path` names the field.
    pub(crate) fn push(
        &self,
        span: Option<&TextSpan>,
        path: &NodePath,
        message: String,
        help: Option<String>,
    ) {
        self.all.borrow_mut().push(DocumentProblem {
            source: Arc::clone(&self.source),
            span: span.cloned(),
            path: path.clone(),
            message,
            help,
        });
    }
}
