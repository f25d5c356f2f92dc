//! The graph of imports between the files of `src`, from the paths in their production code.
//!
//! A name is followed through `use` declarations to the file that defines it, so a file that only
//! re-exports is not an importer's target. What needs types to be known (methods, fields) is not
//! seen; whoever uses those holds a value that some path named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source;

/// A path of names from the crate's root.
type Names = Vec<String>;

/// Declarations that are followed at most, one behind the other.
const HOPS_MAX: usize = 16;

/// The files of a crate, and what each imports.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    files: BTreeMap<Names, File>,
}

#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    /// Child modules that it declares.
    children: BTreeSet<String>,
    /// Names of the items that it defines.
    items: BTreeSet<String>,
    /// Names that it imports, and the path that each stands for, as written.
    names: BTreeMap<String, Names>,
    /// Paths of which it imports everything.
    globs: Vec<Names>,
    /// Every path in its code, as written.
    paths: BTreeSet<Names>,
}

impl Graph {
    /// Reads the files of a crate: the path of each below `src`, and its text.
    pub(crate) fn new(sources: impl IntoIterator<Item = (PathBuf, String)>) -> Graph {
        let mut graph = Graph::default();
        for (path, text) in sources {
            if !source::is_test_file(&path) && !path.ends_with("main.rs") {
                let file = File::read(path, &source::production_code(&text));
                graph.files.insert(module(&file.path), file);
            }
        }
        graph
    }

    /// Each file with those that it imports.
    pub(crate) fn edges(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let edges = self.files.iter().map(|(module, file)| {
            let imported = file.paths.iter().chain(&file.globs);
            let imported = imported.filter_map(|path| self.definer(module, path));
            let others = imported.filter(|other| *other != file.path);
            (file.path.as_path(), others.collect())
        });
        edges.collect()
    }

    /// Modules by their paths from the root, such as `proxy::http1`, with the modules that each
    /// imports.
    pub(crate) fn modules(&self) -> Vec<(String, BTreeSet<String>)> {
        let modules = self.files.iter().map(|(module, file)| {
            let imported = file.paths.iter().chain(&file.globs);
            let imported = imported.filter_map(|path| self.target(module, path, 0));
            (
                module.join("::"),
                imported.map(|(module, _)| module.join("::")).collect(),
            )
        });
        modules.collect()
    }

    /// The file that defines what a path leads to. A path to a module itself imports nothing: what
    /// is used of it has a path of its own.
    fn definer(&self, module: &[String], path: &[String]) -> Option<&Path> {
        let (target, is_module) = self.target(module, path, 0)?;
        let is_glob = path.last().is_some_and(|name| name == "*");
        (!is_module || is_glob).then(|| self.files[&target].path.as_path())
    }

    /// The module that a path as written in `module` leads into, and whether it is all of the path.
    fn target(&self, module: &[String], path: &[String], hops: usize) -> Option<(Names, bool)> {
        let (first, rest) = path.split_first()?;
        let file = self.files.get(module)?;
        match first.as_str() {
            "crate" => self.walk(Vec::new(), rest, hops),
            "self" => self.walk(module.to_vec(), rest, hops),
            "super" => {
                let (_, parent) = module.split_last()?;
                let supers = rest.iter().take_while(|name| *name == "super").count();
                let kept = parent.len().checked_sub(supers)?;
                self.walk(parent[..kept].to_vec(), &rest[supers..], hops)
            }
            name if file.children.contains(name) || file.names.contains_key(name) => {
                self.walk(module.to_vec(), path, hops)
            }
            _ => None,
        }
    }

    /// Follows a path of names from a module.
    fn walk(&self, mut at: Names, path: &[String], hops: usize) -> Option<(Names, bool)> {
        if hops > HOPS_MAX {
            return None;
        }
        for (index, name) in path.iter().enumerate() {
            let file = self.files.get(&at)?;
            if name == "*" || name == "self" {
                return Some((at, true));
            }
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if file.children.contains(name) && self.files.contains_key(&child) {
                at = child;
                continue;
            }
            let rest = &path[index + 1..];
            if let Some(meant) = file.names.get(name) {
                let meant = [meant, rest].concat();
                return self.follow(&at, &meant, hops).or(Some((at, false)));
            }
            let mut globs = file.globs.iter();
            let through_glob = globs.find_map(|glob| {
                let (target, _) = self.follow(&at, glob, hops)?;
                let defined = self.files[&target].items.contains(name);
                let found = (target != at)
                    .then(|| self.walk(target.clone(), &path[index..], hops + 1))??;
                (defined || found.0 != target).then_some(found)
            });
            return through_glob.or(Some((at, false)));
        }
        Some((at, true))
    }

    fn follow(&self, module: &[String], path: &[String], hops: usize) -> Option<(Names, bool)> {
        // A name that stands for a path of the same first name, such as `use http;`, is foreign.
        let own = path.len() == 1 && self.files[module].names.get(&path[0]) == Some(&path.to_vec());
        (!own)
            .then(|| self.target(module, path, hops + 1))
            .flatten()
    }
}

impl File {
    fn read(path: PathBuf, code: &str) -> File {
        let mut file = File {
            path,
            ..File::default()
        };
        let mut tokens = source::tokens(code).into_iter().peekable();
        let mut depth = 0_usize;
        // The depths of braces at which modules within the file begin.
        let mut inline = Vec::new();
        while let Some(token) = tokens.next() {
            match token {
                "mod" => {
                    let name = tokens.next().unwrap_or_default().to_owned();
                    match tokens.peek() {
                        Some(&";") => _ = file.children.insert(name),
                        _ => inline.push(depth),
                    }
                }
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    inline.retain(|begun| *begun < depth);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" => {
                    file.items
                        .extend(tokens.peek().map(|name| (*name).to_owned()));
                }
                "use" if tokens.peek() != Some(&"<") => {
                    let tree: Vec<_> = tokens.by_ref().take_while(|token| *token != ";").collect();
                    let is_of_file = tree
                        .iter()
                        .take_while(|part| ["super", "::"].contains(part));
                    let supers = is_of_file.filter(|part| **part == "super").count();
                    if inline.is_empty() {
                        file.import(&tree, &[]);
                    } else if supers == 0 || supers > inline.len() {
                        let left = supers.min(inline.len());
                        file.import(&tree[2 * left..], &[]);
                    }
                }
                _ if source::is_name(token) && tokens.peek() == Some(&"::") => {
                    let mut path = vec![token.to_owned()];
                    while tokens.peek() == Some(&"::") {
                        tokens.next();
                        let named = tokens.peek().copied().filter(|name| source::is_name(name));
                        let Some(name) = named else { break };
                        path.push(name.to_owned());
                        tokens.next();
                    }
                    file.paths.insert(path);
                }
                // `<…>::name` and `::name` belong to what was before.
                "::" => {
                    tokens.next();
                }
                _ => {}
            }
        }
        file
    }

    /// Reads what a `use` declaration names behind the path `before`.
    fn import(&mut self, tree: &[&str], before: &[String]) {
        for part in alternatives(tree) {
            let mut path = before.to_vec();
            let mut alias = None;
            let mut tokens = part.iter().enumerate();
            let mut is_group = false;
            while let Some((at, token)) = tokens.next() {
                match *token {
                    "{" => {
                        self.import(&part[at + 1..part.len() - 1], &path);
                        is_group = true;
                        break;
                    }
                    "as" => alias = tokens.next().map(|(_, name)| *name),
                    "::" => {}
                    name => path.push(name.to_owned()),
                }
            }
            if !is_group {
                self.declare(path, alias);
            }
        }
    }

    fn declare(&mut self, path: Names, alias: Option<&str>) {
        let Some(last) = path.last() else { return };
        match last.as_str() {
            "*" => self.globs.push(path),
            "self" => {
                let path = path[..path.len() - 1].to_vec();
                self.declare(path, alias);
            }
            name => {
                let name = alias.unwrap_or(name).to_owned();
                self.paths.insert(path.clone());
                self.names.insert(name, path);
            }
        }
    }
}

/// The parts of a group, which commas separate.
fn alternatives<'a, 'b>(group: &'b [&'a str]) -> Vec<&'b [&'a str]> {
    let mut depth = 0;
    let parts = group.split(move |token| {
        depth += i32::from(*token == "{") - i32::from(*token == "}");
        depth == 0 && *token == ","
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// The module of a file, by its path below `src`.
fn module(path: &Path) -> Names {
    let mut names: Names = path
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into())
        .collect();
    if names
        .last()
        .is_some_and(|name| name == "mod" || name == "lib")
    {
        names.pop();
    }
    names
}

/// The circles of a graph: sets of more than one file in which each leads to each.
pub(crate) fn circles<'a>(
    edges: &BTreeMap<&'a Path, BTreeSet<&'a Path>>,
) -> Vec<BTreeSet<&'a Path>> {
    let reach = |from: &'a Path| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            let next = edges.get(file).into_iter().flatten();
            open.extend(next.filter(|next| reached.insert(**next)));
        }
        reached
    };
    let reached: BTreeMap<&Path, BTreeSet<&Path>> =
        edges.keys().map(|file| (*file, reach(file))).collect();
    let circles = edges.keys().map(|file| {
        let there = reached[file].iter();
        let back = there.filter(|other| reached.get(**other).is_some_and(|set| set.contains(file)));
        back.copied().collect::<BTreeSet<_>>()
    });
    let circles: BTreeSet<_> = circles.filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

/// The circles of more than `max` files but for those that are `allowed` (folders, most files), and
/// the entries of that list that no circle needs.
pub(crate) fn circles_beyond(
    edges: &BTreeMap<&Path, BTreeSet<&Path>>,
    max: usize,
    allowed: &[(&[&str], usize)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for circle in circles(edges) {
        if circle.len() <= max {
            continue;
        }
        let lies_in = |folders: &[&str]| {
            let mut files = circle.iter();
            files.all(|file| folders.iter().any(|folder| file.starts_with(folder)))
        };
        let entry = allowed.iter().find(|(folders, _)| lies_in(folders));
        needed.extend(entry.map(|(folders, _)| *folders));
        if entry.is_none_or(|(_, most)| circle.len() > *most) {
            wrong.push(format!("a circle of {} files:", circle.len()));
            for file in &circle {
                let next: Vec<_> = edges[file].intersection(&circle).collect();
                wrong.push(format!("  {} imports {next:?}", file.display()));
            }
        }
    }
    let unneeded = allowed
        .iter()
        .filter(|(folders, _)| !needed.contains(folders));
    wrong.extend(unneeded.map(|(folders, _)| {
        format!("{folders:?} holds no circle of more than {max} files: take it off the list")
    }));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> Graph {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).into(), (*text).to_owned()));
        Graph::new(files)
    }

    fn edges(graph: &Graph) -> Vec<String> {
        let edges = graph.edges().into_iter().flat_map(|(file, imports)| {
            let imports = imports.into_iter();
            imports.map(move |other| format!("{} {}", file.display(), other.display()))
        });
        edges.collect()
    }

    #[test]
    fn names_are_followed_to_the_files_that_define_them() {
        let graph = graph(&[
            ("lib.rs", "pub mod a; mod b; use std::fmt;"),
            (
                "a/mod.rs",
                "mod deep; mod other;\npub use self::deep::{Thing, more as many};",
            ),
            (
                "a/deep.rs",
                "pub struct Thing; // crate::b\nconst TEXT: &str = \"crate::b\";",
            ),
            (
                "a/other.rs",
                "use super::Thing;\nfn f() { crate::b::run::<'static>() }",
            ),
            (
                "b.rs",
                "use crate::a::{self, many};\nfn run(x: a::Thing) -> std::fmt::Result {}\n\
                      #[cfg(test)]\nmod tests { use crate::a::other::Secret; }",
            ),
        ]);
        assert_eq!(
            edges(&graph),
            [
                "a/mod.rs a/deep.rs",
                "a/other.rs a/deep.rs",
                "a/other.rs b.rs",
                "b.rs a/deep.rs",
            ]
        );
        let modules: BTreeMap<_, _> = graph.modules().into_iter().collect();
        let imports = modules["b"].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(imports, ["a", "a::deep"]);
    }

    #[test]
    fn parents_and_globs_count_and_declarations_of_modules_do_not() {
        let graph = graph(&[
            ("lib.rs", "mod a; mod b;"),
            (
                "a.rs",
                "mod child; pub use self::child::*; fn parent() { child::run() }",
            ),
            (
                "a/child.rs",
                "use super::super::b; pub(super) fn run() { b::go(); super::parent() }",
            ),
            ("b.rs", "use crate::a::run; use crate::a::child; fn go() {}"),
            ("a/child_tests.rs", "use crate::b::go;"),
        ]);
        assert_eq!(
            edges(&graph),
            [
                "a/child.rs a.rs",
                "a/child.rs b.rs",
                "a.rs a/child.rs",
                "b.rs a/child.rs",
            ]
        );
    }

    #[test]
    fn a_large_circle_is_named_with_its_imports() {
        let ring = graph(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::c::C;"),
            ("c.rs", "fn f() { crate::d::f() }"),
            ("d.rs", "use crate::a::A;"),
        ]);
        let edges = ring.edges();
        let wrong = circles_beyond(&edges, 3, &[]);
        assert_eq!(wrong[0], "a circle of 4 files:");
        assert_eq!(wrong[3], r#"  c.rs imports ["d.rs"]"#);
        let files: &[&str] = &["a.rs", "b.rs", "c.rs", "d.rs"];
        assert!(circles_beyond(&edges, 4, &[]).is_empty());
        assert!(circles_beyond(&edges, 3, &[(files, 4)]).is_empty());
        assert_eq!(circles_beyond(&edges, 2, &[(files, 3)]).len(), 5);
        assert_eq!(circles_beyond(&edges, 4, &[(files, 4)]).len(), 1);
    }
}
