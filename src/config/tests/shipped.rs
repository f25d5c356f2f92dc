use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::*;
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

/// `WEIGHBRIDGE_WRITE_SCHEMA=1 cargo test committed_schema` writes both files anew.
#[test]
fn the_committed_schema_and_reference_are_current() {
    let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    for (name, current) in [
        ("weighbridge.schema.json", schema),
        ("reference.yaml", reference()),
    ] {
        if std::env::var_os("WEIGHBRIDGE_WRITE_SCHEMA").is_some() {
            fs::write(file(name), &current).unwrap();
        }
        assert!(
            fs::read_to_string(file(name)).unwrap() == current,
            "config/{name} is stale; write it anew by WEIGHBRIDGE_WRITE_SCHEMA=1 cargo test \
             committed_schema"
        );
    }
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
    assert_eq!(Plan::read(block, None), Ok(Plan::default()));
    // All that has a default stands there.
    let fields: BTreeSet<_> = block.unwrap().keys().collect();
    let defaults = Plan::default().to_json();
    assert_eq!(fields, defaults.keys().collect());
}

/// Every key of every mapping has a text, and stands in the reference.
#[test]
fn every_key_has_a_text_and_stands_in_the_reference() {
    fn keys(schema: &Value, found: &mut Vec<(String, Value)>) {
        let definitions = schema["$defs"].as_object().into_iter().flatten();
        definitions.for_each(|(_, definition)| keys(definition, found));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            found.push((name.clone(), property["description"].clone()));
            keys(property, found);
        }
        let forms = schema["anyOf"].as_array().into_iter().flatten();
        let inner = ["items", "additionalProperties"].map(|word| &schema[word]);
        let inner = forms.chain(inner).filter(|inner| inner.is_object());
        inner.for_each(|inner| keys(inner, found));
    }
    let (text, mut found) = (reference(), Vec::new());
    keys(&schema(), &mut found);
    assert!(found.len() > 120, "{}", found.len());
    for (name, description) in found {
        let description = description.as_str().unwrap();
        assert!(description.len() > 5, "{name}: {description}");
        assert!(text.contains(&format!("{name}:")), "{name}");
    }
}

/// As much of JSON Schema as ours uses, but for patterns.
fn fits(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let schema = match schema["$ref"].as_str() {
        Some(place) => root.pointer(place.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    };
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
