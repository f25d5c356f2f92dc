//! Prints a shape as a commented example in YAML: every key with its default and its text.
//!
//! Keys with a default, and those whose example is live, are in effect; all others are comments. A
//! text stands behind its value where it fits, else above it.

use serde_json::Value;

use super::shape::{FieldShape, Shape};

/// The longest line.
const WIDTH: usize = 100;

/// Where texts behind values begin, from the start of the key.
const COLUMN: usize = 26;

/// `shape`, which is an object, as an example.
pub(crate) fn reference(shape: &Shape) -> String {
    let mut page = Page {
        lines: Vec::new(),
        indent: 0,
        comment: None,
    };
    let Some(Shape::Object { fields, .. }) = block(shape) else {
        return String::new();
    };
    for field in fields {
        page.lines.push(String::new());
        page.field(field);
    }
    page.lines.join("\n") + "\n"
}

struct Page {
    lines: Vec<String>,
    indent: usize,
    /// What is printed is a comment, which began at this indent.
    comment: Option<usize>,
}

impl Page {
    fn field(&mut self, field: &FieldShape) {
        let (outer, text_lead) = (self.comment, self.lead());
        if !field.is_in_effect() {
            self.comment = outer.or(Some(self.indent));
        }
        let value = match (&field.default, field.example) {
            (Some(default), _) => Some(flow(default)),
            (None, example) => example.map(str::to_owned),
        };
        let block = block(&field.shape);
        // A mapping without a key in effect must not look like nothing at all.
        let value = match block {
            Some(Shape::Object { fields, .. })
                if self.comment.is_none() && !fields.iter().any(FieldShape::is_in_effect) =>
            {
                value.or_else(|| Some("{}".to_owned()))
            }
            _ => value,
        };
        let name = field.name;
        match (value, block) {
            (Some(value), None) => self.line(&text_lead, &format!("{name}: {value}"), field.text),
            (Some(value), Some(_)) if field.is_live || field.is_required => {
                self.line(&text_lead, &format!("{name}: {value}"), field.text);
                if value == "{}" {
                    block.into_iter().for_each(|block| self.block(block));
                }
            }
            (Some(value), Some(block)) => {
                self.line(&text_lead, &format!("{name}: {value}"), field.text);
                // The long form of what has just been shown.
                self.comment = self.comment.or(Some(self.indent));
                self.line("", &format!("{name}:"), "");
                self.block(block);
            }
            (None, block) => {
                self.line(&text_lead, &format!("{name}:"), field.text);
                block.into_iter().for_each(|block| self.block(block));
            }
        }
        self.comment = outer;
    }

    fn block(&mut self, shape: &Shape) {
        self.indent += 2;
        match shape {
            Shape::Object { fields, .. } => fields.iter().for_each(|field| self.field(field)),
            Shape::List { items, .. } => self.items(items),
            Shape::Map {
                shown,
                more,
                values,
                ..
            } => {
                self.line("", &format!("{shown}:"), "");
                if let Some(values) = block(values) {
                    self.block(values);
                }
                if let Some(more) = more {
                    self.line("", more, "");
                }
            }
            Shape::Scalar(_) | Shape::Any(_) | Shape::Named(..) => {}
        }
        self.indent -= 2;
    }

    /// One item with all fields, or one for each field where only one can be given.
    fn items(&mut self, items: &Shape) {
        let Some(Shape::Object { fields, is_choice }) = block(items) else {
            return;
        };
        let items = fields.chunks(if *is_choice { 1 } else { fields.len().max(1) });
        for item in items {
            let first = self.lines.len();
            self.indent += 2;
            item.iter().for_each(|field| {
                let is_live = field.is_live || *is_choice;
                self.field(&FieldShape {
                    is_live,
                    ..field.clone()
                });
            });
            self.indent -= 2;
            self.mark_item(first);
        }
    }

    /// Puts the dash of a list before the first key from line `first` on.
    fn mark_item(&mut self, first: usize) {
        let lead = self.lead();
        for line in self.lines.iter_mut().skip(first) {
            let rest = line.strip_prefix(&format!("{lead}  "));
            if let Some(rest) = rest.filter(|rest| !rest.starts_with('#')) {
                *line = format!("{lead}- {rest}");
                return;
            }
        }
    }

    /// What a line begins with.
    fn lead(&self) -> String {
        match self.comment {
            Some(start) => {
                let (before, after) = (" ".repeat(start), " ".repeat(self.indent - start));
                format!("{before}# {after}")
            }
            None => " ".repeat(self.indent),
        }
    }

    /// A value, and the text about it, which begins with `text_lead` if it stands above.
    fn line(&mut self, text_lead: &str, value: &str, text: &str) {
        let lead = self.lead();
        let short = format!("{lead}{value:<COLUMN$}# {text}");
        if text.is_empty() {
            self.wrapped(&lead, value);
        } else if short.chars().count() <= WIDTH && value.len() < COLUMN {
            self.lines.push(short);
        } else {
            for line in wrap(text, WIDTH - text_lead.len() - 2) {
                self.lines.push(format!("{text_lead}# {line}"));
            }
            self.wrapped(&lead, value);
        }
    }

    /// A value, which a long list takes several lines for.
    fn wrapped(&mut self, lead: &str, value: &str) {
        for (at, line) in wrap(value, WIDTH - lead.len() - 4).iter().enumerate() {
            let further = if at == 0 { "" } else { "    " };
            self.lines.push(format!("{lead}{further}{line}"));
        }
    }
}

/// The part of a shape that takes several lines.
fn block(shape: &Shape) -> Option<&Shape> {
    match shape {
        Shape::Object { .. } => Some(shape),
        Shape::Named(_, shape) => block(shape),
        Shape::List { items, .. } => block(items).map(|_| shape),
        Shape::Map { values, .. } => block(values).map(|_| shape),
        Shape::Any(forms) => forms.iter().find_map(block),
        Shape::Scalar(_) => None,
    }
}

/// A value on one line.
fn flow(value: &Value) -> String {
    let inner = |open: &str, parts: Vec<String>, close: &str| match parts.is_empty() {
        true => format!("{}{}", open.trim(), close.trim()),
        false => format!("{open}{}{close}", parts.join(", ")),
    };
    match value {
        Value::Array(items) => inner("[", items.iter().map(flow).collect(), "]"),
        Value::Object(fields) => {
            let parts = fields
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)));
            inner("{ ", parts.collect(), " }")
        }
        // YAML 1.1 reads these words as booleans.
        Value::String(text) if matches!(text.as_str(), "on" | "off" | "yes" | "no") => {
            format!("\"{text}\"")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}
