//! `replay`: recorded releases in, one answer for each out.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use crate::app::replay;

use super::exit::{Exit, Failure};
use super::terminal::Terminal;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Judges the runs in a file, or on standard input. The answers are JSON lines for people too: it
/// is what they are kept and compared as.
pub(super) fn run(file: &Path, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let is_input = file == Path::new("-");
    let name = if is_input {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let mut tell = |told: replay::ReplayNotice<'_>| match told {
        replay::ReplayNotice::Answer(answer) => terminal.print(&format!("{answer}\n")),
        replay::ReplayNotice::Warning(warning) => {
            terminal.say(&format!("{name}: {warning}"));
            Ok(())
        }
    };
    let ended = if is_input {
        replay::judge(io::stdin().lock(), &mut tell)
    } else {
        let opened = File::open(file).map_err(replay::Error::Input);
        opened
            .and_then(|file| replay::judge(BufReader::with_capacity(BUFFER_BYTES, file), &mut tell))
    };
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(replay::Error::Told(failure)) => Err(failure),
        Err(error) => Err(Failure::new(Exit::Failed, format!("{name}: {error}"))),
    }
}
