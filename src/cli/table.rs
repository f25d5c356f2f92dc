//! Formats tables and numbers for people.

/// A table with columns two spaces apart. A column whose heading starts with `>` is right-aligned.
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headings: &[&'static str]) -> Table {
        Table {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn text(&self) -> String {
        let headings: Vec<String> = self
            .headings
            .iter()
            .map(|heading| heading.trim_start_matches('>').to_owned())
            .collect();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self
                    .rows
                    .iter()
                    .chain([&headings])
                    .filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in [&headings].into_iter().chain(&self.rows) {
            let cells = row.iter().zip(&widths).zip(&self.headings);
            let line: Vec<String> = cells
                .map(|((cell, width), heading)| align(cell, *width, heading.starts_with('>')))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn align(cell: &str, width: usize, right: bool) -> String {
    if right {
        format!("{cell:>width$}")
    } else {
        format!("{cell:<width$}")
    }
}

/// Formats `95 %`, `0.01 %`.
pub(super) fn percent(percent: f64) -> String {
    format!("{percent} %")
}

/// Formats an error rate, with more digits below 1 %; `-` without requests.
pub(super) fn rate(rate: f64, requests: u64) -> String {
    match (requests, rate * 100.0) {
        (0, _) => "-".to_owned(),
        (_, percent) if percent > 0.0 && percent < 1.0 => format!("{percent:.3} %"),
        (_, percent) => format!("{percent:.1} %"),
    }
}

/// Formats a latency with about three digits; `-` without a measurement.
pub(crate) fn latency(us: u64) -> String {
    if us == 0 {
        return "-".to_owned();
    }
    let seconds = std::time::Duration::from_micros(us).as_secs_f64();
    match us {
        0..10_000 => format!("{:.2} ms", seconds * 1e3),
        10_000..1_000_000 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// Formats a count with thousands separators.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        let mut table = Table::new(&["NAME", ">REQUESTS", "NOTE"]);
        table.row(["blue".into(), "1,234".into(), String::new()]);
        table.row(["a-long-name".into(), "7".into(), "x".into()]);
        let expected =
            "NAME         REQUESTS  NOTE\nblue            1,234\na-long-name         7  x\n";
        assert_eq!(table.text(), expected);
    }

    #[test]
    fn numbers_are_formatted_with_few_digits() {
        assert_eq!(percent(95.0), "95 %");
        assert_eq!(percent(0.01), "0.01 %");
        assert_eq!(rate(0.0, 0), "-");
        assert_eq!(rate(0.0, 10), "0.0 %");
        assert_eq!(rate(0.0005, 10_000), "0.050 %");
        assert_eq!(rate(0.5, 10), "50.0 %");
        assert_eq!(
            [0, 940, 5_120, 51_200, 2_500_000].map(latency),
            ["-", "0.94 ms", "5.12 ms", "51 ms", "2.50 s"]
        );
        assert_eq!(
            [7, 1_234, 12_345_678].map(count),
            ["7", "1,234", "12,345,678"]
        );
    }
}
