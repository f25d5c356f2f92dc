use std::time::Duration;

use serde_json::{Value, json};

use super::*;

#[derive(Debug, PartialEq)]
struct Settings {
    wait: Duration,
    sizes: Vec<u64>,
    inner: Option<Inner>,
}

#[derive(Debug, PartialEq)]
struct Inner {
    name: String,
    number: u32,
}

fn settings(fields: &mut Fields<'_>) -> Option<Settings> {
    let mut settings = Settings {
        wait: Duration::from_secs(5),
        sizes: Vec::new(),
        inner: None,
    };
    fields.set(
        "wait",
        &mut settings.wait,
        Type::duration().above_zero(),
        "how long",
    );
    let size = Type::size(0..=1_024);
    fields.set("sizes", &mut settings.sizes, size.list(2), "in bytes");
    settings.inner = fields.read("inner", Type::object(inner), "more");
    Some(settings)
}

fn inner(fields: &mut Fields<'_>) -> Option<Inner> {
    let name = fields.required("name", "a name", Type::word("a name").example("x"), "who");
    let mut number = 3;
    fields.set("number", &mut number, Type::count(1..=9), "how many");
    Some(Inner {
        name: name?,
        number,
    })
}

fn read(value: Value) -> Result<Settings, Vec<(String, String)>> {
    let problems = ProblemList::default();
    let read = Type::object(settings).read(&Node::from_json(&value), &problems);
    match (read, problems.is_empty()) {
        (Some(settings), true) => Ok(settings),
        _ => Err(problems
            .into_fields()
            .into_iter()
            .map(|problem| (problem.pointer, problem.detail))
            .collect()),
    }
}

#[test]
fn a_reader_gives_values_or_all_problems_with_pointers() {
    assert_eq!(
        read(json!({ "sizes": ["1KiB"], "inner": { "name": "a" } })),
        Ok(Settings {
            wait: Duration::from_secs(5),
            sizes: vec![1_024],
            inner: Some(Inner {
                name: "a".to_owned(),
                number: 3,
            }),
        })
    );
    let problems = read(json!({
        "wait": "0s", "sizes": ["1B", 2], "inner": { "number": 10 }, "a/b~": 1, "wiat": 1,
    }))
    .unwrap_err();
    let expected = [
        ("/wait", "expected a duration above zero"),
        (
            "/sizes/1",
            "expected a size such as `512B`, `64KiB` or `10MiB`, found `2` without a unit; did you \
             mean `2B`?",
        ),
        ("/inner/name", "`name` is missing; expected a name"),
        (
            "/inner/number",
            "expected a whole number from 1 to 9, found `10`",
        ),
        (
            "/a~1b~0",
            "unknown field `a/b~`; expected `wait`, `sizes` or `inner`",
        ),
        (
            "/wiat",
            "unknown field `wiat`; expected `wait`, `sizes` or `inner`; did you mean `wait`?",
        ),
    ];
    let expected = expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned()));
    assert_eq!(problems, expected);
}

#[test]
fn the_schema_of_a_reader_has_its_types_and_defaults() {
    let schema = schema("Settings", "All.", &Type::object(settings).shape());
    let wait = &schema["properties"]["wait"];
    assert_eq!(
        (&wait["default"], &wait["description"]),
        (&json!("5s"), &json!("how long"))
    );
    let sizes = &schema["properties"]["sizes"];
    assert_eq!(
        (&sizes["maxItems"], &sizes["default"]),
        (&json!(2), &json!([]))
    );
    let inner = &schema["properties"]["inner"];
    assert_eq!(inner["required"], json!(["name"]));
    assert_eq!(inner["additionalProperties"], json!(false));
    assert_eq!(inner["properties"]["number"]["maximum"], json!(9));
}

#[test]
fn the_reference_of_a_reader_has_its_defaults_and_texts() {
    assert_eq!(
        reference(&Type::object(settings).shape()),
        "
wait: 5s                  # how long

sizes: []                 # in bytes

# inner:                    # more
#   name: x                   # who
#   number: 3                 # how many
"
    );
}
