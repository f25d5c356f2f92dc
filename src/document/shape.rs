//! What a reader accepts, as data.

use serde_json::Value;

/// What a reader accepts.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// A single value, as the keywords of its JSON Schema.
    Scalar(Value),
    /// A mapping with known keys.
    Object {
        fields: Vec<FieldShape>,
        /// Exactly one of the fields is given.
        is_choice: bool,
    },
    /// A list, with its minimum and maximum of items.
    List {
        items: Box<Shape>,
        least: usize,
        most: usize,
    },
    /// A mapping with arbitrary keys.
    Map {
        /// The keywords of the keys' JSON Schema.
        keys: Value,
        /// The key that the reference shows.
        shown: &'static str,
        /// A further entry of the reference.
        more: Option<&'static str>,
        values: Box<Shape>,
        least: usize,
        most: usize,
    },
    /// Either of these forms.
    Any(Vec<Shape>),
    /// A shape that the schema defines under a name.
    Named(&'static str, Box<Shape>),
}

impl FieldShape {
    /// Whether the reference has it in effect, rather than as a comment.
    pub(super) fn is_in_effect(&self) -> bool {
        self.default.is_some() || self.is_required || self.is_live
    }
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct FieldShape {
    pub(crate) name: &'static str,
    /// What it means and why it is as it is, for the schema and the reference.
    pub(crate) text: &'static str,
    pub(crate) is_required: bool,
    /// The value that holds without it, as the configuration writes it.
    pub(crate) default: Option<Value>,
    /// A value as the reference shows it.
    pub(crate) example: Option<&'static str>,
    /// The reference has the example, or the defaults of its fields, in effect.
    pub(crate) is_live: bool,
    pub(crate) shape: Shape,
}
