//! Suggestions for misspelled names.

/// "`a`, `b` or `c`".
pub(crate) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "no field at all".to_owned(),
    }
}

/// The closest name: within a third of its length in insertions, deletions,
/// replacements and swaps of neighbours.
pub(crate) fn similar<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    const LENGTH_MAX: usize = 64;
    if given.len() > LENGTH_MAX {
        return None;
    }
    names
        .iter()
        .map(|name| (strsim::osa_distance(given, name), *name))
        .filter(|(edits, name)| *edits <= name.len().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_matched_to_the_closest_name() {
        let names = ["weights", "timeouts", "routes"];
        assert_eq!(similar("wieghts", &names), Some("weights"));
        assert_eq!(similar("timeout", &names), Some("timeouts"));
        assert_eq!(similar("sticky", &names), None);
        assert_eq!(similar("", &["abcd"]), None);
    }

    #[test]
    fn choices_are_joined_with_commas_and_or() {
        assert_eq!(one_of(&["a"]), "`a`");
        assert_eq!(one_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
