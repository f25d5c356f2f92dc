//! Judges recorded releases again: reads lines for `release::replay`.

use std::fmt::Display;
use std::io::{self, BufRead, Read};

use crate::release::replay::Replay;

/// The longest line that is read; one with a full latency histogram has a few kilobytes.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why the replay stopped.
#[derive(Debug)]
pub(crate) enum Error<E> {
    /// The input cannot be read.
    Input(io::Error),
    /// A line is invalid.
    Line(String),
    /// A result cannot be written.
    Told(E),
}

impl<E> Display for Error<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Input(error) => write!(f, "cannot read the input: {error}"),
            Error::Line(problem) => f.write_str(problem),
            Error::Told(_) => f.write_str("cannot write the results"),
        }
    }
}

/// Output of a replay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ReplayNotice<'a> {
    /// The result of a run, as JSON.
    Answer(&'a str),
    /// A warning about a line.
    Warning(&'a str),
}

/// Judges the runs in `input`, and passes on each result as soon as its run has ended.
///
/// # Errors
///
/// [`Error`]; earlier results were passed on.
pub(crate) fn judge<E>(
    mut input: impl BufRead,
    tell: &mut impl FnMut(ReplayNotice<'_>) -> Result<(), E>,
) -> Result<(), Error<E>> {
    let mut replay = Replay::default();
    let mut line = Vec::new();
    while next(&mut input, &mut line)? {
        let text = str::from_utf8(&line)
            .map_err(|error| Error::Line(format!("invalid UTF-8: {error}")))?;
        let answered = replay
            .line(text)
            .map_err(|error| Error::Line(error.to_string()))?;
        for warning in replay.warnings() {
            tell(ReplayNotice::Warning(&warning)).map_err(Error::Told)?;
        }
        if let Some(answer) = answered {
            tell(ReplayNotice::Answer(&json(&answer)?)).map_err(Error::Told)?;
        }
    }
    match replay.finish() {
        Some(answer) => tell(ReplayNotice::Answer(&json(&answer)?)).map_err(Error::Told),
        None => Ok(()),
    }
}

/// The next line; false at the end.
fn next<E>(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Error<E>> {
    line.clear();
    let read = input.take(LINE_BYTES_MAX as u64).read_until(b'\n', line);
    match read.map_err(Error::Input)? {
        0 => Ok(false),
        LINE_BYTES_MAX if !line.ends_with(b"\n") => {
            Err(Error::Line("a line is too long".to_owned()))
        }
        _ => Ok(true),
    }
}

fn json<E>(answer: &impl serde::Serialize) -> Result<String, Error<E>> {
    serde_json::to_string(answer).map_err(|error| Error::Line(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers and, if it went wrong, why.
    fn judged(input: &str) -> (Vec<String>, Option<String>) {
        let mut answers = Vec::new();
        let ended = judge(input.as_bytes(), &mut |told: ReplayNotice<'_>| {
            if let ReplayNotice::Answer(answer) = told {
                answers.push(answer.to_owned());
            }
            Ok::<_, ()>(())
        });
        (answers, ended.err().map(|error| error.to_string()))
    }

    #[test]
    fn each_run_has_a_result_in_input_order() {
        let bad = r#"{"at_ms": 10, "weight": 50,"#.to_owned()
            + r#" "baseline": {"requests": 500, "failures": 0},"#
            + r#" "canary": {"requests": 500, "failures": 400}}"#;
        let input = format!(
            "{{\"run\": \"a\", \"mode\": \"fixed\"}}\n{bad}\n{{\"end\": \"a\"}}\n\n{{\"run\": \
             \"b\"}}"
        );
        let (answers, error) = judged(&input);
        assert_eq!(error, None);
        assert!(
            answers[0].contains(r#""run":"a","verdict":"rolled_back""#),
            "{answers:?}"
        );
        assert!(
            answers[1].contains(r#""run":"b","verdict":"none""#),
            "{answers:?}"
        );
        assert_eq!(answers.len(), 2);
    }

    #[test]
    fn an_invalid_line_is_reported_by_number_after_earlier_results() {
        let (answers, error) = judged("{\"run\": \"a\"}\n{\"end\": \"a\"}\nnonsense\n");
        assert_eq!(answers.len(), 1);
        assert!(error.is_some_and(|error| error.starts_with("line 3: ")));
    }
}
