//! Writes HTML so that text cannot become markup: markup is what stands in this source, and all
//! else is escaped.

use std::fmt::{self, Display, Write};

/// A document in the making.
#[derive(Debug, Default)]
pub(super) struct Html {
    text: String,
}

impl Html {
    /// Markup. Only what is known when the program is built can be that.
    pub(super) fn mark(&mut self, markup: &'static str) -> &mut Html {
        self.text.push_str(markup);
        self
    }

    /// Anything else, as it reads: in an element or between the double quotes of an attribute.
    pub(super) fn text(&mut self, value: impl Display) -> &mut Html {
        // Writing to a string cannot fail.
        let _ = write!(Escaping(&mut self.text), "{value}");
        self
    }

    /// A text in an element without attributes, such as `td`.
    pub(super) fn element(&mut self, name: &'static str, value: impl Display) -> &mut Html {
        self.mark("<").mark(name).mark(">");
        self.text(value);
        self.mark("</").mark(name).mark(">")
    }

    /// A row of cells of a table.
    pub(super) fn row<const N: usize>(&mut self, cells: [&dyn Display; N]) -> &mut Html {
        self.mark("<tr>");
        for cell in cells {
            self.element("td", cell);
        }
        self.mark("</tr>\n")
    }

    /// The beginning of a table with these headings; `</table>` is the caller's.
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
                // What could hide or turn the text around it is shown by its number.
                c if is_deceptive(c) => write!(self.0, "\\u{{{:x}}}", u32::from(c))?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Control characters but for blanks, and those that change the direction of text (Unicode, UAX
/// #9).
fn is_deceptive(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut html = Html::default();
        html.row([&"<b>", &"a\"'&", &"x\u{202e}\0y"]);
        assert_eq!(
            html.finish(),
            "<tr><td>&lt;b&gt;</td><td>a&quot;&#39;&amp;</td><td>x\\u{202e}\\u{0}y</td></tr>\n"
        );
    }
}
