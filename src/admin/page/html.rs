//! HTML writer that prevents injection: markup comes only from this source, everything else is
//! escaped.

use std::fmt::{self, Display, Write};

/// An HTML document under construction.
#[derive(Debug, Default)]
pub(super) struct Html {
    text: String,
}

impl Html {
    /// Appends markup, which must be a constant.
    pub(super) fn mark(&mut self, markup: &'static str) -> &mut Html {
        self.text.push_str(markup);
        self
    }

    /// Appends escaped text, for an element or a double-quoted attribute.
    pub(super) fn text(&mut self, value: impl Display) -> &mut Html {
        // Writing to a string cannot fail.
        let _ = write!(Escaping(&mut self.text), "{value}");
        self
    }

    /// Appends an element without attributes, such as `td`, with escaped text.
    pub(super) fn element(&mut self, name: &'static str, value: impl Display) -> &mut Html {
        self.mark("<").mark(name).mark(">");
        self.text(value);
        self.mark("</").mark(name).mark(">")
    }

    /// Appends a table row.
    pub(super) fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) -> &mut Html {
        self.mark("<tr>");
        for cell in cells {
            self.element("td", cell);
        }
        self.mark("</tr>\n")
    }

    /// Begins a table with these headings; the caller writes `</table>`.
    pub(super) fn table<const N: usize>(&mut self, headings: [&'static str; N]) -> &mut Html {
        self.mark("<table>\n<thead><tr>");
        for heading in headings {
            self.mark("<th scope=\"col\">").mark(heading).mark("</th>");
        }
        self.mark("</tr></thead>\n")
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Characters that could hide or reorder text are shown by code point.
                c if is_deceptive(c) => write!(self.0, "\\u{{{:x}}}", u32::from(c))?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Control characters except newline and tab, and characters that change the text direction
/// (Unicode, UAX #9).
fn is_deceptive(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut html = Html::default();
        html.row([&"<b>", &"a\"'&", &"x\u{202e}\0y"]);
        assert_eq!(
            html.finish(),
            "<tr><td>&lt;b&gt;</td><td>a&quot;&#39;&amp;</td><td>x\\u{202e}\\u{0}y</td></tr>\n"
        );
    }
}
