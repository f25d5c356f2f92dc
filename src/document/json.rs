//! JSON to a tree of nodes.

use serde_json::Value;

use super::node::{MapEntry, Node, NodeKind, NodePath};
use super::problem::TextSpan;

impl Node {
    /// The tree of a JSON value, without positions.
    pub(crate) fn from_json(value: &Value) -> Node {
        node(value, NodePath::default())
    }
}

fn node(value: &Value, path: NodePath) -> Node {
    let mut written = String::new();
    let kind = match value {
        Value::Null => NodeKind::Null,
        Value::Bool(value) => {
            written = value.to_string();
            NodeKind::Bool(*value)
        }
        Value::Number(number) => {
            written = number.to_string();
            match number.as_i128() {
                Some(whole) => NodeKind::Integer(whole),
                None => NodeKind::Number(number.as_f64().unwrap_or(f64::NAN)),
            }
        }
        Value::String(text) => {
            written.clone_from(text);
            NodeKind::Text(text.clone())
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            NodeKind::List(items.map(|(at, item)| node(item, path.index(at))).collect())
        }
        Value::Object(fields) => {
            let entry = |(key, value): (&String, &Value)| MapEntry {
                key: key.clone(),
                span: TextSpan::default(),
                value: node(value, path.key(key)),
            };
            NodeKind::Map(fields.iter().map(entry).collect())
        }
    };
    Node {
        path,
        span: TextSpan::default(),
        written,
        substituted: false,
        kind,
    }
}
