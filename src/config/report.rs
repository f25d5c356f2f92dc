//! The problems of a configuration, as text and as JSON.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::{Serialize, Serializer};

use crate::document::{DocumentProblem, ProblemList, SourceText, TextSpan};

/// Problems that are reported in full; of the others only the number is given.
const PROBLEMS_MAX: usize = 100;

/// One problem with its position and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The path of the field, such as `services.shop.weights`; empty for the file as a whole.
    pub path: String,
    /// The problem and what was expected.
    pub message: String,
    /// A hint, where the message is not enough.
    pub help: Option<String>,
    source: Arc<SourceText>,
    span: Option<TextSpan>,
}

impl From<DocumentProblem> for ConfigProblem {
    fn from(problem: DocumentProblem) -> ConfigProblem {
        ConfigProblem {
            path: problem.path.dotted(),
            message: problem.message,
            help: problem.help,
            source: problem.source,
            span: problem.span,
        }
    }
}

impl ConfigProblem {
    /// The file, as named by the caller.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The line, from 1; 0 without a position, as when the file cannot be read.
    pub fn line(&self) -> u64 {
        self.span.as_ref().map_or(0, |span| span.line)
    }

    /// The column, from 1, in characters; 0 when there is none.
    pub fn column(&self) -> u64 {
        self.span.as_ref().map_or(0, |span| span.column)
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut group = Group::with_title(Level::ERROR.primary_title(&*self.message));
        match &self.span {
            Some(span) => group = group.element(self.snippet(span)),
            None => group = group.element(annotate_snippets::Origin::path(&*self.source.name)),
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(&**help));
        }
        renderer.render(&[group])
    }

    /// The line and the one before it; rendering the whole file for each problem would be slow.
    fn snippet<'a>(&'a self, span: &TextSpan) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let line = usize::try_from(span.line).unwrap_or(usize::MAX).max(1);
        let first = line.saturating_sub(2);
        let mut lines = self.source.text.lines().skip(first).take(line - first);
        let shown: Vec<String> = lines.by_ref().map(masked).collect();
        let before: usize = shown
            .iter()
            .take(line - first - 1)
            .map(|line| line.len() + 1)
            .sum();
        let text = shown.get(line - first - 1).map_or("", String::as_str);
        let column = usize::try_from(span.column).unwrap_or(usize::MAX).max(1);
        let start = text
            .char_indices()
            .nth(column - 1)
            .map_or(text.len(), |(at, _)| at);
        let end = text.floor_char_boundary(start.saturating_add(span.bytes.len()));
        Snippet::source(shown.join("\n"))
            .line_start(first + 1)
            .path(&*self.source.name)
            .fold(false)
            .annotation(
                AnnotationKind::Primary
                    .span(before + start..before + end)
                    .label(&*self.path),
            )
    }
}

/// Fields whose values are masked in output, known or unknown.
const SECRETS: [&str; 5] = ["sha256:", "token:", "secret:", "password:", "url:"];

/// Masks the values of such fields in a line, byte for byte, so that positions stay valid.
fn masked(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(end) = SECRETS
        .iter()
        .filter_map(|key| Some(rest.find(key)? + key.len()))
        .min()
    {
        let (shown, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let value = tail.find([',', '}']).unwrap_or(tail.len());
        let (hidden, tail) = tail.split_at_checked(value).unwrap_or((tail, ""));
        out.push_str(shown);
        out.extend(hidden.chars().flat_map(|c| {
            let stars = if c == ' ' { " " } else { "*" };
            std::iter::repeat_n(stars, c.len_utf8())
        }));
        rest = tail;
    }
    out.push_str(rest);
    out
}

impl Serialize for ConfigProblem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shape<'a> {
            file: &'a str,
            line: u64,
            column: u64,
            path: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            help: Option<&'a str>,
        }
        Shape {
            file: self.file(),
            line: self.line(),
            column: self.column(),
            path: &self.path,
            message: &self.message,
            help: self.help.as_deref(),
        }
        .serialize(serializer)
    }
}

/// All problems of a configuration in the order of the text. Displays as text without colour,
/// serialises as a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    problems: Vec<ConfigProblem>,
    left_out: usize,
}

impl Report {
    pub(super) fn new(problems: ProblemList) -> Report {
        let problems = problems.into_inner().into_iter();
        let mut problems: Vec<ConfigProblem> = problems.map(Into::into).collect();
        // Stable: problems of one place stay in the order in which they were found.
        problems.sort_by(|a, b| {
            (a.file(), a.line(), a.column()).cmp(&(b.file(), b.line(), b.column()))
        });
        let left_out = problems.len().saturating_sub(PROBLEMS_MAX);
        problems.truncate(PROBLEMS_MAX);
        Report { problems, left_out }
    }

    /// The problems, in the order of the text; the first hundred if there are more.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }

    /// The report in colour.
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut all: Vec<String> = self
            .problems
            .iter()
            .map(|problem| problem.render(renderer))
            .collect();
        if self.left_out > 0 {
            all.push(format!("and {} more problems", self.left_out));
        }
        all.join("\n\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Report {}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.problems.serialize(serializer)
    }
}
