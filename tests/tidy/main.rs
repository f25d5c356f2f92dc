//! The rules of the code's own shape: which module may know which, what pure modules do without,
//! how long a file may be, and that every configuration that is shipped can be used.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers; a file that cannot be read is a failure"
)]

mod graph;
mod rooms;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use graph::Graph;
use source::{
    code, contains_word, imports, is_of_word, is_test_file, production, public_types, read, root,
    rust_files, words,
};

/// The longest file, in lines.
const FILE_LINES_MAX: usize = 600;

/// The longest line, in characters.
const LINE_MAX: usize = 100;

/// Names that a module may use although others have it too: its settings, and what goes wrong.
const SHARED_NAMES: [&str; 2] = ["Options", "Error"];

/// The most files that may import each other in a circle.
const CIRCLE_MAX: usize = 3;

/// Larger circles that are still there: the folders that hold the files, and how many they are at
/// most. An entry that is no longer needed is an error.
const CIRCLES_ALLOWED: [(&[&str], usize); 3] =
    [(&["config"], 5), (&["control"], 6), (&["release/plan"], 6)];

/// Retired terms, and the standard one for each.
const RETIRED: [(&str, &str); 25] = [
    ("errand", "background job"),
    ("testimony", "report"),
    ("culprit", "cause"),
    ("last words", "final response"),
    ("stale sight", "stale revision"),
    ("notebook", "event buffer"),
    ("heed", "handle"),
    ("untold", "undelivered"),
    ("gave no answer", "is inconclusive"),
    ("whosoever", "who"),
    ("betimes", "early"),
    ("erelong", "soon"),
    ("look after", "after tick"),
    ("keyless", "without a key"),
    ("oncanary", "canary permit"),
    ("spoiled", "tainted"),
    ("suspect", "uncertain commit"),
    ("sorter", "dispatcher"),
    ("discreet", "redacted"),
    ("complain", "report"),
    ("rouse", "wake"),
    ("poke", "wake"),
    ("vanish", "grammar"),
    ("rim", "load shedding"),
    ("foreign answer", "unexpected response"),
];

/// What a pure module does without: runtimes, sockets, files, threads, clocks, generators, logs.
const IMPURE: [&str; 22] = [
    "tokio",
    "hyper",
    "hyper_util",
    "axum",
    "futures_util",
    "socket2",
    "rusqlite",
    "tracing",
    "fastrand",
    "rand",
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "println",
    "eprintln",
];

#[test]
fn modules_import_only_what_the_table_lists() {
    let layers = layers();
    let mut wrong = Vec::new();
    for module in modules() {
        let Some(allowed) = layers.get(&module) else {
            wrong.push(format!(
                "{module} has no row in the table of src/ARCHITECTURE.md"
            ));
            continue;
        };
        for (path, text) in sources_of(&module) {
            for import in imports(&code(&text)) {
                if import != module && !allowed.contains(&import) && !allowed.contains("all") {
                    wrong.push(format!(
                        "{}: {module} must not know {import}",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An edge that leads back would make the table's order a lie.
#[test]
fn the_table_lists_a_module_below_those_it_may_import() {
    let text = read(&root().join("src/ARCHITECTURE.md"));
    let mut above = BTreeSet::new();
    for (module, allowed) in module_rows(&text) {
        let known = |name: &String| name == "all" || above.contains(name);
        // The verbs start the program, and the program's parts know no verbs.
        let unknown: Vec<_> = allowed.iter().filter(|name| !known(name)).collect();
        assert!(
            unknown.is_empty() || module == "cli",
            "{module} comes before {unknown:?}"
        );
        above.insert(module);
    }
}

#[test]
fn pure_modules_do_without_the_world() {
    let mut wrong = Vec::new();
    for module in pure_modules() {
        for (path, text) in sources_of(&module) {
            if is_test_file(&path) {
                continue;
            }
            let code = code(production(&text));
            for word in IMPURE.into_iter().filter(|word| contains_word(&code, word)) {
                wrong.push(format!(
                    "{}: {module} is pure and must not use {word}",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let folders = ["src", "tests", "benches", "loadtest"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| rust_files(folder));
    let long: Vec<_> = files
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:?}");
}

#[test]
fn no_line_is_too_long() {
    let folders = ["src", "tests", "benches", "loadtest"].map(|folder| root().join(folder));
    let mut long = Vec::new();
    for path in folders.iter().flat_map(|folder| rust_files(folder)) {
        let text = read(&path);
        // Tests beside the program's code are formatted as they are.
        let is_in_src = path.starts_with(root().join("src"));
        if is_in_src && is_test_file(&path) {
            continue;
        }
        let checked = if is_in_src { production(&text) } else { &text };
        for (number, line) in checked.lines().enumerate() {
            if line.chars().count() > LINE_MAX {
                long.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(
        long.is_empty(),
        "over {LINE_MAX} characters:\n{}",
        long.join("\n")
    );
}

/// Files that import each other can only be understood together.
#[test]
fn no_circle_of_imports_has_more_than_three_files() {
    let wrong = graph::circles_beyond(&graph_of_src().edges(), CIRCLE_MAX, &CIRCLES_ALLOWED);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_import_only_what_their_table_lists() {
    let modules = graph_of_src().modules();
    let wrong = rooms::wrong(&read(&root().join("src/ARCHITECTURE.md")), &modules);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One noun for one concept: a name that is seen outside its file belongs to one type.
#[test]
fn no_public_type_name_is_used_twice() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in rust_files(&root().join("src")) {
        for name in public_types(&code(&read(&path))) {
            places
                .entry(name)
                .or_default()
                .push(path.display().to_string());
        }
    }
    let shared = |name: &String| SHARED_NAMES.contains(&name.as_str());
    places.retain(|name, places| places.len() > 1 && !shared(name));
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn comments_and_texts_use_standard_terms() {
    let mut wrong = Vec::new();
    let folders = ["src", "tests", "benches", "loadtest"].map(|folder| root().join(folder));
    for path in folders.iter().flat_map(|folder| rust_files(folder)) {
        // The list itself is here.
        if path.ends_with("tests/tidy/main.rs") {
            continue;
        }
        let text = read(&path).to_lowercase();
        for (retired, standard) in RETIRED
            .into_iter()
            .filter(|(term, _)| contains_word(&text, term))
        {
            wrong.push(format!("{}: {retired}: write {standard}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The page on architecture names functions, so it must name those that exist.
#[test]
fn the_page_on_architecture_names_what_exists() {
    let sources = rust_files(&root().join("src"));
    let sources: Vec<String> = sources.iter().map(|path| code(&read(path))).collect();
    let known: BTreeSet<&str> = sources.iter().flat_map(|text| words(text)).collect();
    let page = read(&root().join("src/ARCHITECTURE.md"));
    let paths = page.split(|letter: char| !is_of_word(letter) && letter != ':');
    let paths = paths
        .map(|path| path.trim_matches(':'))
        .filter(|path| path.contains("::"));
    let unknown: Vec<_> = paths
        .filter(|path| {
            path.split("::")
                .any(|name| !name.is_empty() && !known.contains(name))
        })
        .collect();
    assert!(unknown.is_empty(), "not in the code: {unknown:?}");
}

#[test]
fn every_configuration_that_is_shipped_can_be_loaded() {
    let mut loaded = 0;
    for entry in fs::read_dir(root().join("config")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            if let Err(report) = weighbridge::config::load(&path) {
                panic!("{}: {report}", path.display());
            }
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "config/ holds {loaded} configurations");
}

/// The examples for pipelines are no configurations; what their commands do is tried by
/// `config/examples/try`.
#[test]
fn every_example_for_a_pipeline_is_yaml() {
    let mut read_so_far = 0;
    for entry in fs::read_dir(root().join("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yml") {
            let documents = serde_yaml::from_multiple::<serde_json::Value>(&read(&path));
            let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(
                documents.iter().all(|document| document.is_object()),
                "{}",
                path.display()
            );
            read_so_far += 1;
        }
    }
    assert!(
        read_so_far >= 4,
        "config/examples/ holds {read_so_far} examples in YAML"
    );
}

/// The scanners must see what they look for, or all of the above would pass on anything.
#[test]
fn the_scanners_see_what_they_look_for() {
    let text = "use crate::{model, stats::{Class, Reason}, time};\n// crate::admin\nlet x = \
                crate::proxy::run();\n/* crate::cli */ let tokio_like = 1;\n#[cfg(test)]\nmod \
                tests {\n    use tokio;\n}\n";
    let found: Vec<_> = imports(&code(text)).into_iter().collect();
    assert_eq!(found, ["model", "proxy", "stats", "time"]);
    assert!(!contains_word(&code(production(text)), "tokio"));
    assert!(contains_word(&code(text), "tokio"));
    assert!(contains_word("std::fs::read", "std::fs"));
    assert!(contains_word("use std::{fs, sync::Arc};", "std::fs"));
    assert!(contains_word(
        "use std::{fs, time::{Duration, Instant}};",
        "Instant"
    ));
    assert!(!contains_word("std::fsync", "std::fs"));
    let types = "pub struct A<T>(T);\npub(crate) enum B {}\nstruct C;\n    pub type D = u8;\n";
    assert_eq!(public_types(types), ["A", "B"]);
    assert_eq!(
        pure_modules(),
        [
            "model", "document", "stats", "routing", "analysis", "release"
        ]
    );
    assert!(layers().len() >= modules().len() && modules().len() > 5);
}

/// The modules of the library.
fn modules() -> Vec<String> {
    let text = read(&root().join("src/lib.rs"));
    let names = text.lines().filter_map(|line| {
        let declared = line
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        declared.strip_prefix("mod ")?.strip_suffix(';')
    });
    names.map(str::to_owned).collect()
}

/// Module to what it may import, from the table of `src/ARCHITECTURE.md`.
fn layers() -> BTreeMap<String, BTreeSet<String>> {
    module_rows(&read(&root().join("src/ARCHITECTURE.md")))
        .into_iter()
        .collect()
}

fn module_rows(page: &str) -> Vec<rooms::Row> {
    let (_, table) = page.split_once("\n## Modules\n").unwrap();
    rooms::rows(rooms::section(table))
}

/// The modules that the line `Pure: …` names.
fn pure_modules() -> Vec<String> {
    let text = read(&root().join("src/ARCHITECTURE.md"));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pure: "))
        .unwrap();
    let names = line.trim_end_matches('.').split(',');
    names
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect()
}

/// The files of a module, which is one file or a folder.
fn sources_of(module: &str) -> Vec<(PathBuf, String)> {
    let folder = root().join("src").join(module);
    let mut files = rust_files(&folder);
    files.extend(Some(folder.with_extension("rs")).filter(|file| file.exists()));
    files
        .into_iter()
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

fn graph_of_src() -> Graph {
    let src = root().join("src");
    let files = rust_files(&src).into_iter();
    Graph::new(files.map(|path| (path.strip_prefix(&src).unwrap().to_owned(), read(&path))))
}
