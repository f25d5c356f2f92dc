//! The tables of `src/ARCHITECTURE.md`: who may import what, for modules and for rooms of a module.

use std::collections::{BTreeMap, BTreeSet};

/// A name, and what it may import.
pub(crate) type Row = (String, BTreeSet<String>);

/// A text up to its next heading.
pub(crate) fn section(text: &str) -> &str {
    text.find("\n#").map_or(text, |end| &text[..end])
}

/// The rows of a table of name, description and imports.
pub(crate) fn rows(table: &str) -> Vec<Row> {
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, imports] = &*cells else {
            panic!("not a row of three cells: {row}");
        };
        let imports = imports.split(',').map(plain);
        (
            plain(name),
            imports.filter(|import| import != "—").collect(),
        )
    })
    .collect()
}

fn plain(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

/// What is wrong with the rooms of the modules for which the page has a heading "Rooms of …".
///
/// A room is a submodule. Its files may import what its row lists, which stands above it, so that
/// there is one order and no circle; the file of the module itself, which joins its rooms, may
/// import them all.
pub(crate) fn wrong(page: &str, modules: &[(String, BTreeSet<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for part in page.split("\n### Rooms of `").skip(1) {
        let (module, rest) = part.split_once('`').unwrap();
        wrong.extend(wrong_in(module, &rows(section(rest)), modules));
    }
    wrong
}

fn wrong_in(module: &str, rows: &[Row], modules: &[(String, BTreeSet<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut above = BTreeSet::new();
    for (room, allowed) in rows {
        let below: Vec<_> = allowed.difference(&above).collect();
        if !below.is_empty() {
            wrong.push(format!("{module}::{room} comes before {below:?}"));
        }
        if !above.insert(room.clone()) {
            wrong.push(format!("{module}::{room} has two rows"));
        }
    }
    let allowed: BTreeMap<_, _> = rows.iter().cloned().collect();
    let prefix = format!("{module}::");
    let room_of = |path: &str| {
        let inside = path.strip_prefix(&prefix)?;
        inside.split("::").next().map(str::to_owned)
    };
    let mut built = BTreeSet::new();
    for (path, imports) in modules {
        let Some(room) = room_of(path) else { continue };
        built.insert(room.clone());
        let Some(allowed) = allowed.get(&room) else {
            wrong.push(format!("{path}: {module}::{room} has no row in its table"));
            continue;
        };
        for import in imports {
            let Some(other) = room_of(import) else {
                continue;
            };
            if other != room && !allowed.contains(&other) {
                wrong.push(format!("{path}: {module}::{room} must not import {import}"));
            }
        }
    }
    let gone = allowed.keys().filter(|room| !built.contains(*room));
    wrong.extend(gone.map(|room| format!("{module}::{room} does not exist")));
    wrong
}

#[test]
fn rooms_are_held_to_the_order_of_their_table() {
    let modules = |edges: &[(&str, &[&str])]| -> Vec<_> {
        let edges = edges.iter().map(|(from, to)| {
            let to = to.iter().map(|name| (*name).to_owned());
            ((*from).to_owned(), to.collect())
        });
        edges.collect()
    };
    let page = "# Page\n\n### Rooms of `house`\n\n\
                | room | what it is | may import |\n|---|---|---|\n\
                | `cellar` | stores | — |\n| `hall` | joins | `cellar` |\n| `attic` | dries | \
                `cellar`, `hall` |\n\n## Other\n\n| `street` | no room | — |\n";
    let good = modules(&[
        ("house", &["house::attic"]),
        ("house::cellar", &["house::cellar::shelf", "street"]),
        ("house::cellar::shelf", &[]),
        ("house::hall", &["house::cellar::shelf"]),
        ("house::attic", &["house::hall"]),
        ("street", &["house::attic"]),
    ]);
    assert_eq!(wrong(page, &good), <[String; 0]>::default());
    let bad = modules(&[
        ("house::cellar::shelf", &["house::hall"]),
        ("house::hall", &[]),
        ("house::garage", &[]),
    ]);
    assert_eq!(
        wrong(page, &bad),
        [
            "house::cellar::shelf: house::cellar must not import house::hall",
            "house::garage: house::garage has no row in its table",
            "house::attic does not exist",
        ]
    );
    let backwards = page.replace("stores | — |", "stores | `attic` |");
    assert_eq!(
        wrong(&backwards, &good),
        [r#"house::cellar comes before ["attic"]"#]
    );
}
