//! `replay`: judges recorded releases again and prints one result for each.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use crate::app::replay;

use super::exit::{Exit, Failure};
use super::terminal::Terminal;

/// Size of the read buffer.
const BUFFER_BYTES: usize = 1 << 20;

/// Judges the runs in a file or on standard input. Results are JSON lines in text format too, since
/// they are stored and compared in this form.
pub(super) fn run(file: &Path, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let is_input = file == Path::new("-");
    let name = if is_input {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let mut notify = |notice: replay::ReplayNotice<'_>| match notice {
        replay::ReplayNotice::Answer(answer) => terminal.print(&format!("{answer}\n")),
        replay::ReplayNotice::Warning(warning) => {
            terminal.say(&format!("{name}: {warning}"));
            Ok(())
        }
    };
    let ended = if is_input {
        replay::judge(io::stdin().lock(), &mut notify)
    } else {
        let opened = File::open(file).map_err(replay::Error::Input);
        opened.and_then(|file| {
            replay::judge(BufReader::with_capacity(BUFFER_BYTES, file), &mut notify)
        })
    };
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(replay::Error::Told(failure)) => Err(failure),
        Err(error) => Err(Failure::new(Exit::Failed, format!("{name}: {error}"))),
    }
}
