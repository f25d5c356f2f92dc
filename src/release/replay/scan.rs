//! A fast parser for the most common line: a cohort with errors only, in plain numbers.
//!
//! Recordings have millions of such lines, and a general parser takes longer for each than the
//! judge. This one leaves any other input, including invalid input, to the general parser, which
//! reports the problem.

/// A cohort without latencies and rare fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plain {
    pub(super) at_ms: f64,
    pub(super) weight: f64,
    pub(super) baseline: (u64, u64),
    pub(super) canary: (u64, u64),
}

/// The cohort of a plain line; `None` for any other line.
pub(super) fn plain(text: &str) -> Option<Plain> {
    let mut scan = Scan {
        rest: text.as_bytes(),
    };
    let (mut at_ms, mut weight, mut baseline, mut canary) = (None, None, None, None);
    scan.object(|scan, key| match key {
        b"at_ms" => once(&mut at_ms, scan.decimal()?),
        b"weight" => once(&mut weight, scan.decimal()?),
        b"baseline" => once(&mut baseline, scan.arm()?),
        b"canary" => once(&mut canary, scan.arm()?),
        _ => None,
    })?;
    scan.space();
    let plain = Plain {
        at_ms: at_ms?,
        weight: weight?,
        baseline: baseline?,
        canary: canary?,
    };
    scan.rest.is_empty().then_some(plain)
}

/// Fills a field that must not occur twice.
fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

/// The rest of a line. Each method consumes its item from the front, or returns `None` for the
/// whole line.
struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn object(&mut self, mut member: impl FnMut(&mut Scan<'a>, &[u8]) -> Option<()>) -> Option<()> {
        self.eat(b'{')?;
        loop {
            self.eat(b'"')?;
            let end = self.rest.iter().position(|byte| *byte == b'"')?;
            let (key, rest) = self.rest.split_at_checked(end)?;
            self.rest = rest.get(1..)?;
            self.eat(b':')?;
            // A key with an escape matches no known key.
            member(self, key)?;
            if self.eat(b',').is_none() {
                return self.eat(b'}');
            }
        }
    }

    fn arm(&mut self) -> Option<(u64, u64)> {
        let (mut requests, mut failures) = (None, None);
        self.object(|scan, key| match key {
            b"requests" => once(&mut requests, scan.integer()?),
            b"failures" => once(&mut failures, scan.integer()?),
            _ => None,
        })?;
        Some((requests?, failures?))
    }

    fn integer(&mut self) -> Option<u64> {
        let (value, digits) = self.digits()?;
        let plain = !matches!(self.rest, [b'.' | b'e' | b'E', ..]);
        (plain && digits <= MOST_DIGITS).then_some(value)
    }

    /// A number with few enough digits to be exact as a float, so that its quotient by a power of
    /// ten is correctly rounded.
    fn decimal(&mut self) -> Option<f64> {
        let (whole, digits) = self.digits()?;
        let [b'.', rest @ ..] = self.rest else {
            let plain = !matches!(self.rest, [b'e' | b'E', ..]);
            return (plain && digits <= MOST_DIGITS).then_some(whole as f64);
        };
        self.rest = rest;
        let zeros = rest.iter().take_while(|byte| **byte == b'0').count();
        let places = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // Zeros before other digits would be rejected as a leading 0.
        let part = if zeros == places {
            self.rest = self.rest.get(places..)?;
            0
        } else {
            self.rest = self.rest.get(zeros..)?;
            self.digits()?.0
        };
        let scale = 10_u64.checked_pow(u32::try_from(places).ok()?)?;
        let plain =
            places > 0 && digits + places <= MOST_DIGITS && !matches!(self.rest, [b'e' | b'E', ..]);
        plain.then(|| (whole * scale + part) as f64 / scale as f64)
    }

    /// Digits without a leading 0, and their number. Digits beyond [`MOST_DIGITS`] are cut off.
    fn digits(&mut self) -> Option<(u64, usize)> {
        self.space();
        let count = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (digits, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        let value = digits.iter().take(MOST_DIGITS);
        let value = value.fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        let proper = matches!(digits, [_] | [b'1'..=b'9', ..]);
        proper.then_some((value, count))
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        self.space();
        let (first, rest) = self.rest.split_first()?;
        (*first == byte).then(|| self.rest = rest)
    }

    fn space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }
}

/// The maximum of digits of a number that is exact as a float.
const MOST_DIGITS: usize = 15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_line_is_parsed_and_others_are_left() {
        let line = r#" { "at_ms":20,"weight" : 5.25, "canary": {"failures": 1, "requests": 5},
            "baseline": {"requests": 95, "failures": 0} } "#;
        let expected = Plain {
            at_ms: 20.0,
            weight: 5.25,
            baseline: (95, 0),
            canary: (5, 1),
        };
        assert_eq!(plain(line), Some(expected));
        for (from, to) in [
            ("5.25", "5.05e1"),
            ("5.25", "05"),
            ("5.25", "5."),
            ("5.25", ".5"),
            ("5.25", "-1"),
            ("5.25", "1234567890.1234567"),
            ("95", "95.0"),
            ("95", "1234567890123456"),
            ("20", r#""20""#),
            ("\"at_ms\"", "\"at\\u005fms\""),
            ("\"failures\": 1", "\"failures\": 1, \"failures\": 1"),
            ("\"failures\": 1", "\"failures\": 1, \"latency_us\": []"),
            ("\"failures\": 1, ", ""),
            ("\"weight\"", "\"at_ms\""),
            (" } ", " } x"),
            (" } ", ", } "),
            (" } ", ""),
        ] {
            assert!(line.contains(from), "{from}");
            assert_eq!(plain(&line.replacen(from, to, 1)), None, "{from} as {to}");
        }
    }

    proptest! {
        #[test]
        fn numbers_match_the_general_parser(text in "[0-9]{0,9}(\\.[0-9]{0,9})?(e[0-9])?") {
            let line = format!(
                r#"{{"at_ms":{text},"weight":1,"canary":{arm},"baseline":{arm}}}"#,
                arm = r#"{"requests":1,"failures":0}"#,
            );
            if let Some(plain) = plain(&line) {
                prop_assert_eq!(serde_json::from_str::<f64>(&text).ok(), Some(plain.at_ms));
            }
        }
    }
}
