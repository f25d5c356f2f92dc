//! Documents: values with their place, the readers of their fields, and the descriptions of these.
//!
//! The configuration (YAML), plans of releases (YAML or JSON) and their problems all take this way:
//! [`yaml::read`] or [`Node::from_json`] makes a tree of [`Node`]s with places; a reader takes
//! [`Fields`] off it, and reports each [`DocumentProblem`] to a [`ProblemList`].
//!
//! A reader gives each key its name, its [`Type`], its default and its text in one call of
//! [`Fields`]. The same reader runs without a document to describe itself as a [`Shape`], of which
//! the JSON Schema ([`schema`]) and the commented example ([`reference`]) are printed. So there is
//! no second list of keys that could differ.

mod env;
mod fields;
mod json;
mod node;
mod problem;
pub(crate) mod quantity;
mod reference;
mod scalar;
mod schema;
mod shape;
#[cfg(test)]
mod tests;
mod types;
pub(crate) mod yaml;

pub(crate) use fields::{Fields, entries};
pub(crate) use node::{MapEntry, Node, NodeKind, NodePath};
pub(crate) use problem::{DocumentProblem, ProblemList, SourceText, TextSpan};
pub(crate) use reference::reference;
pub(crate) use scalar::{choice, parsed, path, socket_address, text};
pub(crate) use schema::{KEY, VARIABLE, schema};
pub(crate) use shape::Shape;
pub(crate) use types::{Type, Wrong};
