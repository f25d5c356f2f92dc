use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::analysis;
use crate::release::Plan;

pub(super) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

fn files() -> Vec<PathBuf> {
    let all = fs::read_dir(file(""))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let yaml: Vec<PathBuf> = all
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    assert!(yaml.len() >= 3);
    yaml
}

fn as_json(path: &Path) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_shipped_configuration_loads_and_matches_the_schema() {
    let schema = schema();
    for path in files() {
        load(&path).unwrap_or_else(|report| panic!("{report}"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# yaml-language-server: $schema=weighbridge.schema.json\n"),
            "{path:?}"
        );
        assert_eq!(fits(&as_json(&path), &schema, &schema), Ok(()), "{path:?}");
    }
}

/// `WEIGHBRIDGE_WRITE_SCHEMA=1 cargo test schema` writes it anew.
#[test]
fn the_committed_schema_is_current() {
    let path = file("weighbridge.schema.json");
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("WEIGHBRIDGE_WRITE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == current,
        "config/weighbridge.schema.json is stale; write it anew by WEIGHBRIDGE_WRITE_SCHEMA=1 \
         cargo test schema"
    );
}

#[test]
fn the_reference_shows_the_defaults() {
    let reference = load(&file("reference.yaml")).unwrap();
    let text = fs::read_to_string(file("reference.yaml")).unwrap();
    let cut = text.find("\nservices:").unwrap();
    let bare = parse("w.yaml", &text[cut..], &HashMap::new()).unwrap();
    assert_eq!(reference, bare);
    let shop = &reference.services[0];
    let without = good(&SHOP.replace("[{}]", "[{ host: shop.example.com }]"));
    let mut expected = without.services[0].clone();
    let checked = good(&format!("{SHOP}    health: {{}}\n")).services[0]
        .health
        .clone();
    expected.health = checked;
    expected.release = shop.release.clone();
    assert_eq!(shop, &expected);
}

#[test]
fn the_reference_shows_the_default_plan() {
    let reference = load(&file("reference.yaml")).unwrap();
    let block = reference.services[0].release.as_deref();
    let fields: BTreeSet<_> = block.unwrap().keys().collect();
    let plan = |block| {
        let mut plan = Plan::read(block, None).unwrap().to_json();
        // None means these two.
        if plan["objectives"].as_array().is_some_and(Vec::is_empty) {
            let margins = analysis::Options::default().judged();
            plan["objectives"] = serde_json::to_value(margins).unwrap();
        }
        plan
    };
    assert_eq!(plan(block), plan(None));
    // All that has a default stands there.
    let defaults = Plan::default().to_json();
    let given: BTreeSet<_> = defaults.keys().collect();
    assert_eq!(fields, given);
}

/// The schema's defaults are those of the reference, and the reference leaves no field of the
/// schema out.
#[test]
fn the_schema_and_the_reference_agree() {
    let schema = schema();
    let text = fs::read_to_string(file("reference.yaml")).unwrap();
    let mut fields = 0;
    compare(
        &schema,
        &schema,
        Some(&as_json(&file("reference.yaml"))),
        &mut |name, default, value| {
            fields += 1;
            assert!(
                text.contains(&format!("{name}:")),
                "{name} is not in the reference"
            );
            if let (Some(default), Some(value)) = (default, value) {
                assert_eq!(default, value, "{name}");
            }
        },
    );
    assert!(fields > 50, "{fields}");
}

/// An unknown field in every mapping: what the readers then say they expect is what the schema has.
#[test]
fn the_schema_and_the_readers_know_the_same_fields() {
    let everywhere = "
zzz: 1
drain: { zzz: 1 }
pool: { zzz: 1 }
listeners: [{ address: 0.0.0.0:1, zzz: 1, timeouts: { zzz: 1 }, limits: { zzz: 1 } }]
admin: { zzz: 1, tokens: [{ zzz: 1 }] }
store: { zzz: 1 }
log: { zzz: 1 }
webhooks: [{ zzz: 1 }]
services:
  shop:
    zzz: 1
    routes: [{ zzz: 1 }]
    upstreams: { blue: { endpoints: [\"10.0.0.1:1\"], zzz: 1 } }
    timeouts: { zzz: 1 }
    health: { zzz: 1 }
    release:
      zzz: 1
      steps: [{ zzz: 1, gate: { zzz: 1 } }]
      objectives:
        - error_rate: { zzz: 1 }
        - latency: { zzz: 1 }
        - slo: { error_rate: { zzz: 1 } }
        - slo: { latency: { zzz: 1 } }
      rescue: { zzz: 1 }
      preflight: { zzz: 1, requests: [{ zzz: 1 }] }
      gate: { zzz: 1 }
      fast_follow: { zzz: 1 }
";
    let schema = schema();
    let report = parse("w.yaml", everywhere, &HashMap::new()).unwrap_err();
    let mut mappings = 0;
    for problem in report
        .problems()
        .iter()
        .filter(|problem| problem.message.contains("`zzz`"))
    {
        mappings += 1;
        let (_, expected) = problem.message.split_once("; expected ").unwrap();
        let readers: BTreeSet<&str> = expected.split('`').skip(1).step_by(2).collect();
        let shape = at_path(&schema, problem.path.strip_suffix("zzz").unwrap());
        let properties: BTreeSet<&str> = shape["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(readers, properties, "{}", problem.path);
        assert_eq!(shape["additionalProperties"], false, "{}", problem.path);
    }
    assert_eq!(mappings, everywhere.matches("zzz").count());
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => root.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// The schema of the mapping at a path such as `services.shop.routes[0].`.
fn at_path<'a>(root: &'a Value, path: &str) -> &'a Value {
    let mut schema = root;
    let steps = path.replace('[', ".[");
    for step in steps.split('.').filter(|step| !step.is_empty()) {
        let inside = |choice: &'a Value| match step {
            item if item.starts_with('[') => choice.get("items"),
            name => choice
                .get("properties")
                .and_then(|properties| properties.get(name))
                .or_else(|| {
                    choice
                        .get("additionalProperties")
                        .filter(|any| any.is_object())
                }),
        };
        schema = choices(root, schema).into_iter().find_map(inside).unwrap();
    }
    let mut shapes = choices(root, schema).into_iter();
    shapes
        .find(|choice| choice.get("properties").is_some())
        .unwrap()
}

/// A schema, or what it lets choose from.
fn choices<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let schema = resolve(root, schema);
    let words = ["oneOf", "anyOf"]
        .into_iter()
        .filter_map(|word| schema.get(word)?.as_array());
    let inner: Vec<&Value> = words
        .flatten()
        .flat_map(|choice| choices(root, choice))
        .collect();
    if inner.is_empty() {
        vec![schema]
    } else {
        inner
    }
}

/// Calls `field` with every property of the schema, its default, and its value in `document`.
fn compare(
    root: &Value,
    schema: &Value,
    document: Option<&Value>,
    field: &mut impl FnMut(&str, Option<&Value>, Option<&Value>),
) {
    for schema in choices(root, schema) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let value = document.and_then(|document| document.get(name));
            field(name, property.get("default"), value);
            compare(root, property, value, field);
        }
        if let Some(items) = schema.get("items") {
            compare(
                root,
                items,
                document.and_then(|document| document.get(0)),
                field,
            );
        }
        if let Some(any) = schema
            .get("additionalProperties")
            .filter(|any| any.is_object())
        {
            let first = document
                .and_then(Value::as_object)
                .and_then(|object| object.values().next());
            compare(root, any, first, field);
        }
    }
}

/// As much of JSON Schema as ours uses, but for patterns.
fn fits(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let schema = resolve(root, schema);
    let wrong = |what: &str| Err(format!("{value} against {what} of {schema}"));
    let of_type = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(names) if names.iter().any(of_type) => {}
        name @ Value::String(_) if of_type(name) => {}
        _ => return wrong("type"),
    }
    for (word, least) in [("oneOf", 1), ("anyOf", 1)] {
        if let Some(choices) = schema[word].as_array()
            && choices
                .iter()
                .filter(|choice| fits(value, choice, root).is_ok())
                .count()
                < least
        {
            return wrong(word);
        }
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return wrong("const");
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|all| !all.contains(value))
    {
        return wrong("enum");
    }
    let outside = |number: f64| {
        schema["minimum"]
            .as_f64()
            .is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most)
    };
    if value.as_f64().is_some_and(outside) {
        return wrong("range");
    }
    for item in value.as_array().into_iter().flatten() {
        fits(item, &schema["items"], root)?;
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap()).is_none() {
            return wrong("required");
        }
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let property = schema["properties"]
            .get(name)
            .unwrap_or(&schema["additionalProperties"]);
        if property == &Value::Bool(false) {
            return Err(format!("{name} is not known to {schema}"));
        }
        fits(value, property, root)?;
    }
    Ok(())
}
