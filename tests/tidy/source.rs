//! Source files, and what is seen in their text without a parser.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| {
        if path.ends_with("target") {
            Vec::new()
        } else if path.is_dir() {
            rust_files(&path)
        } else {
            vec![path]
        }
    });
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// The types of a file that are seen outside it.
pub(crate) fn public_types(code: &str) -> Vec<String> {
    let named = code.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub")?;
        let rest = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(") ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        let (kind, rest) = rest.split_once(' ')?;
        ["struct", "enum", "trait", "type"]
            .contains(&kind)
            .then(|| identifier(rest))
    });
    named.collect()
}

pub(crate) fn is_test_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name.ends_with("_tests.rs") {
        return true;
    }
    path.components().any(|part| {
        ["tests", "tests.rs", "testing.rs", "fuzzing"]
            .iter()
            .any(|name| part.as_os_str() == *name)
    })
}

/// What is before the file's tests, which come last.
pub(crate) fn production(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {")
        .map_or(text, |at| &text[..at])
}

/// A text without its comments.
pub(crate) fn code(text: &str) -> String {
    let mut rest = text;
    let mut code = String::new();
    while let Some(at) = rest.find("/*") {
        code += &rest[..at];
        rest = rest[at..]
            .find("*/")
            .map_or("", |end| &rest[at + end + 2..]);
    }
    code += rest;
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules that a text reaches by `crate::`.
pub(crate) fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => found.extend(names_in_group(group)),
            None => {
                found.insert(identifier(after));
            }
        }
    }
    found.remove("");
    found
}

/// The first names of `a, b::c, d::{e, f}}`.
pub(crate) fn names_in_group(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut part_begins = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => part_begins = true,
            _ if letter.is_whitespace() => {}
            _ => {
                if std::mem::take(&mut part_begins) {
                    names.push(identifier(&group[at..]));
                }
            }
        }
    }
    names
}

pub(crate) fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|letter| is_of_word(*letter))
        .collect()
}

pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter| !is_of_word(letter))
}

pub(crate) fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Whether a text uses a name: alone, as a path, or out of a group of imports (`std::{fs, io}`).
pub(crate) fn contains_word(code: &str, word: &str) -> bool {
    let whole = code.match_indices(word).any(|(at, _)| {
        let before = code[..at]
            .chars()
            .next_back()
            .is_none_or(|letter| !is_of_word(letter));
        let after = code[at + word.len()..]
            .chars()
            .next()
            .is_none_or(|letter| !is_of_word(letter));
        before && after
    });
    let Some((path, name)) = word.rsplit_once("::") else {
        return whole;
    };
    let group_begins = format!("{path}::{{");
    let mut groups = code.split(&group_begins).skip(1);
    whole || groups.any(|group| names_in_group(group).iter().any(|found| found == name))
}

/// The code of a text that is built for the program: no comments, strings or tests.
pub(crate) fn production_code(text: &str) -> String {
    without_tests(&without_texts(text))
}

/// Blanks comments, strings and characters. A lifetime is none of these.
fn without_texts(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_of_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest).filter(|_| !after_word) {
            length
        } else if first == '"' {
            1 + quoted(&rest[1..], '"')
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

/// Bytes up to a closing quote, and it.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, letter)| {
        let ends = !escaped && *letter == quote;
        escaped = !escaped && *letter == '\\';
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

fn raw_string(text: &str) -> Option<usize> {
    let prefix = usize::from(text.starts_with('b')) + 1;
    let hashes = text.get(prefix - 1..)?.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let body = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let length = body.find(&end)? + end.len();
    Some(prefix + count + 1 + length)
}

fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return Some(1 + quoted(inner, '\''));
    }
    let first = inner.chars().next()?.len_utf8();
    inner[first..].starts_with('\'').then_some(first + 2)
}

/// Takes out the items that are built for tests alone.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest
        .find("#[cfg(test)]")
        .into_iter()
        .chain(rest.find("#[cfg(any(test"))
        .min()
    {
        kept += &rest[..at];
        rest = &rest[at..];
        while let Some(attribute) = rest.strip_prefix("#[") {
            rest = attribute
                .split_once(']')
                .map_or("", |(_, after)| after)
                .trim_start();
        }
        rest = &rest[item(rest)..];
    }
    kept + rest
}

/// The length of the item at the beginning of a text.
fn item(code: &str) -> usize {
    let mut depth = 0;
    let is_use = code
        .split(['{', ';'])
        .next()
        .is_some_and(|head| words(head).any(|word| word == "use"));
    for (at, letter) in code.char_indices() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 && (letter == ';' || (letter == '}' && !is_use)) {
            return at + 1;
        }
    }
    code.len()
}

/// Names, `::`, and single characters.
pub(crate) fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_of_word(first) {
            rest.find(|letter| !is_of_word(letter))
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Whether a token is a name.
pub(crate) fn is_name(token: &str) -> bool {
    token.starts_with(is_of_word) && !token.starts_with(|letter: char| letter.is_ascii_digit())
}
