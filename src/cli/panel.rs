//! A block of lines that is redrawn in place on a terminal; permanent output stays above it.

use terminal_size::{Height, Width, terminal_size};

use super::terminal::{paint, plain};

/// Columns and rows, when the terminal size is unknown.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// A line and the SGR sequence of its colour; empty for none.
pub(crate) type Line = (String, &'static str);

/// The panel above the cursor. Each method returns text to be written in one piece, so that no
/// partial update is visible.
#[derive(Debug)]
pub(crate) struct Panel {
    colored: bool,
    drawn: usize,
}

impl Panel {
    pub(crate) const fn new(colored: bool) -> Panel {
        Panel { colored, drawn: 0 }
    }

    /// Erases the panel, if it is on the screen.
    pub(crate) fn wipe(&mut self) -> String {
        let up = self.up();
        self.drawn = 0;
        if up.is_empty() { up } else { up + "\x1b[J" }
    }

    /// Replaces the previous lines.
    pub(crate) fn draw(&mut self, lines: &[Line]) -> String {
        self.draw_within(lines, size())
    }

    /// Keeps the panel on the screen: further output follows below it.
    pub(crate) fn leave(&mut self) {
        self.drawn = 0;
    }

    /// Cuts lines to the width, since a wrapped line would take more rows than are overwritten, and
    /// the panel to the height, since rows that scrolled off cannot be.
    fn draw_within(&mut self, lines: &[Line], (columns, rows): (usize, usize)) -> String {
        let room = rows.saturating_sub(1).max(1);
        let fits = if lines.len() <= room {
            lines.len()
        } else {
            room - 1
        };
        let mut text = self.up();
        for (line, sgr) in lines.iter().take(fits) {
            let cut: String = plain(line)
                .chars()
                .take(columns.saturating_sub(1))
                .collect();
            text.push_str(&paint(&cut, sgr, self.colored && !sgr.is_empty()));
            text.push_str("\x1b[K\n");
        }
        if fits < lines.len() {
            text.push_str(&format!("({} more lines)\x1b[K\n", lines.len() - fits));
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len().min(room);
        text
    }

    /// Moves the cursor to the first line of the panel.
    fn up(&self) -> String {
        match self.drawn {
            0 => String::new(),
            drawn => format!("\x1b[{drawn}A\r"),
        }
    }
}

/// The width of the terminal in columns.
pub(crate) fn width() -> usize {
    size().0
}

fn size() -> (usize, usize) {
    terminal_size().map_or(SIZE_DEFAULT, |(Width(columns), Height(rows))| {
        (usize::from(columns), usize::from(rows))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<Line> {
        texts.iter().map(|text| ((*text).to_owned(), "")).collect()
    }

    #[test]
    fn a_panel_overwrites_the_previous_one() {
        let mut panel = Panel::new(false);
        assert_eq!(panel.wipe(), "", "nothing is drawn yet");
        let size = (80, 24);
        assert_eq!(
            panel.draw_within(&lines(&["a", "b"]), size),
            "a\x1b[K\nb\x1b[K\n\x1b[J"
        );
        assert_eq!(
            panel.draw_within(&lines(&["c"]), size),
            "\x1b[2A\rc\x1b[K\n\x1b[J"
        );
        assert_eq!(panel.wipe(), "\x1b[1A\r\x1b[J");
        panel.draw_within(&lines(&["d"]), size);
        panel.leave();
        assert_eq!(panel.wipe(), "");
    }

    #[test]
    fn a_panel_is_cut_to_the_screen_and_control_characters_are_removed() {
        let mut panel = Panel::new(true);
        let mut all = lines(&["a\x1b[2Jbcdefgh", "2", "3", "4"]);
        all[1].1 = "31";
        let expected = "a [2Jbc\x1b[K\n\x1b[31m2\x1b[0m\x1b[K\n(2 more lines)\x1b[K\n\x1b[J";
        assert_eq!(panel.draw_within(&all, (8, 4)), expected);
        assert!(panel.wipe().starts_with("\x1b[3A"));
    }
}
