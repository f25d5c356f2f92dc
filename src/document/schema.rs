//! Prints a shape as a JSON Schema.

use serde_json::{Map, Value, json};

use super::shape::{FieldShape, Shape};

/// Pattern of a variable in a value; such a value is not validated by the schema.
pub(crate) const VARIABLE: &str = r"\$\{";

/// Pattern of a key that is a name; keys have no variables.
pub(crate) const KEY: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$";

/// The JSON Schema (draft 2020-12) of `shape`.
pub(crate) fn schema(title: &str, text: &str, shape: &Shape) -> Value {
    let mut printer = Printer::default();
    let keywords = printer.keywords(shape);
    let mut whole = Map::new();
    let draft = "https://json-schema.org/draft/2020-12/schema";
    whole.insert("$schema".to_owned(), draft.into());
    whole.insert("title".to_owned(), title.into());
    whole.insert("description".to_owned(), text.into());
    whole.extend(keywords);
    whole.insert("$defs".to_owned(), Value::Object(printer.definitions));
    Value::Object(whole)
}

#[derive(Default)]
struct Printer {
    /// The shapes with names.
    definitions: Map<String, Value>,
}

impl Printer {
    fn keywords(&mut self, shape: &Shape) -> Map<String, Value> {
        let keywords = match shape {
            Shape::Scalar(keywords) => keywords.clone(),
            Shape::Named(name, shape) => {
                let definition = self.value(shape);
                self.definitions.insert((*name).to_owned(), definition);
                json!({ "$ref": format!("#/$defs/{name}") })
            }
            Shape::Object { fields, is_choice } => self.object(fields, *is_choice),
            Shape::List { items, least, most } => {
                let mut list = json!({ "type": "array" });
                list["items"] = self.value(items);
                if *least > 0 {
                    list["minItems"] = json!(least);
                }
                list["maxItems"] = json!(most);
                list
            }
            Shape::Map {
                keys,
                values,
                least,
                most,
                ..
            } => {
                let mut map = json!({ "type": "object", "propertyNames": keys });
                map["additionalProperties"] = self.value(values);
                if *least > 0 {
                    map["minProperties"] = json!(least);
                }
                map["maxProperties"] = json!(most);
                map
            }
            Shape::Any(forms) => {
                let forms: Vec<Value> = forms.iter().map(|form| self.value(form)).collect();
                json!({ "anyOf": forms })
            }
        };
        match keywords {
            Value::Object(keywords) => keywords,
            _ => Map::new(),
        }
    }

    fn value(&mut self, shape: &Shape) -> Value {
        Value::Object(self.keywords(shape))
    }

    fn object(&mut self, fields: &[FieldShape], is_choice: bool) -> Value {
        let properties: Map<String, Value> = fields
            .iter()
            .map(|field| (field.name.to_owned(), Value::Object(self.property(field))))
            .collect();
        let mut object = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        let required = fields.iter().filter(|field| field.is_required);
        let required: Vec<&str> = required.map(|field| field.name).collect();
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        if is_choice {
            object["minProperties"] = json!(1);
            object["maxProperties"] = json!(1);
        }
        object
    }

    fn property(&mut self, field: &FieldShape) -> Map<String, Value> {
        let mut property = Map::new();
        property.insert("description".to_owned(), field.text.into());
        property.extend(self.keywords(&field.shape));
        if let Some(default) = &field.default {
            property.insert("default".to_owned(), default.clone());
        }
        property
    }
}
