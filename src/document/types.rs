//! Types of values: how they are read, described and written.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::fields::{Fields, list};
use super::node::{Node, NodeKind};
use super::problem::ProblemList;
use super::schema::VARIABLE;
use super::shape::Shape;
use super::{quantity, scalar};
use crate::model::Weight;

/// A type of values of a document.
pub(crate) struct Type<'t, T> {
    read: Reader<'t, T>,
    shape: Box<dyn Fn() -> Shape + 't>,
    show: Writer<'t, T>,
    /// A value as the reference shows it.
    pub(super) example: Option<&'static str>,
    /// The reference has the example, or the defaults of the fields, in effect.
    pub(super) is_live: bool,
}

type Reader<'t, T> = Box<dyn Fn(&Node, &ProblemList) -> Option<T> + 't>;
type Writer<'t, T> = Box<dyn Fn(&T) -> Option<Value> + 't>;

/// Why a string is invalid.
pub(crate) struct Wrong {
    /// The expected value, as it follows "expected".
    pub(super) expected: Cow<'static, str>,
    /// A hint; may quote the value.
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(crate) fn with_help(expected: &'static str, help: impl Into<String>) -> Wrong {
        Wrong {
            expected: expected.into(),
            help: Some(help.into()),
        }
    }
}

impl From<&'static str> for Wrong {
    fn from(expected: &'static str) -> Wrong {
        Wrong {
            expected: expected.into(),
            help: None,
        }
    }
}

impl<'t, T: 't> Type<'t, T> {
    /// A type with a reader of its own; `shape` says what it accepts.
    pub(crate) fn new(
        shape: impl Fn() -> Shape + 't,
        read: impl Fn(&Node, &ProblemList) -> Option<T> + 't,
    ) -> Type<'t, T> {
        Type {
            read: Box::new(read),
            shape: Box::new(shape),
            show: Box::new(|_| None),
            example: None,
            is_live: false,
        }
    }

    /// A mapping that `reader` takes the fields of.
    pub(crate) fn object(reader: impl Fn(&mut Fields<'_>) -> Option<T> + Copy + 't) -> Type<'t, T> {
        Type::new(
            move || {
                Fields::describe(|fields| {
                    reader(fields);
                })
            },
            move |node, problems| {
                let mut fields = Fields::of(node, problems)?;
                let value = reader(&mut fields);
                fields.finish();
                value
            },
        )
    }

    /// A mapping as `long` reads it, or anything else as `short` does.
    pub(crate) fn short_or_long(short: Type<'t, T>, long: Type<'t, T>) -> Type<'t, T> {
        let (short_shape, long_shape) = (short.shape, long.shape);
        Type::new(
            move || Shape::Any(vec![short_shape(), long_shape()]),
            move |node, problems| match node.kind {
                NodeKind::Map(_) => (long.read)(node, problems),
                _ => (short.read)(node, problems),
            },
        )
    }

    /// A string that `parse` understands.
    pub(crate) fn parsed(parse: impl Fn(&str) -> Result<T, Wrong> + Copy + 't) -> Type<'t, T> {
        Type::new(
            || Shape::Scalar(json!({ "type": "string" })),
            move |node, problems| scalar::parsed(node, problems, parse),
        )
    }

    /// One of a set of words.
    pub(crate) fn choice(choices: &'t [(&'static str, T)]) -> Type<'t, T>
    where
        T: Copy + PartialEq,
    {
        let names = || choices.iter().map(|(name, _)| *name);
        let names: Vec<&str> = names().collect();
        Type::new(
            move || Shape::Scalar(json!({ "type": "string", "enum": names })),
            move |node, problems| scalar::choice(node, problems, choices),
        )
        .shown(move |value| {
            let mut known = choices.iter();
            let name = known.find(|(_, known)| known == value)?.0;
            Some(name.into())
        })
    }

    /// A whole number within `range`.
    pub(crate) fn count(range: RangeInclusive<u64>) -> Type<'t, T>
    where
        T: Whole,
    {
        let bounds = range.clone();
        Type::new(
            move || {
                Shape::Scalar(json!({
                    "type": ["integer", "string"],
                    "minimum": bounds.start(),
                    "maximum": bounds.end(),
                    "pattern": VARIABLE,
                }))
            },
            move |node, problems| T::from_u64(scalar::count(node, problems, range.clone())?),
        )
        .shown(|value| Some(value.to_u64().into()))
    }

    /// A number of bytes within `range`.
    pub(crate) fn size(range: RangeInclusive<u64>) -> Type<'t, T>
    where
        T: Whole,
    {
        let pattern = format!(r"^\d+(\.\d+)?(B|kB|MB|GB|KiB|MiB|GiB)$|{VARIABLE}");
        Type::new(
            move || Shape::Scalar(json!({ "type": "string", "pattern": pattern })),
            move |node, problems| T::from_u64(scalar::size(node, problems, range.clone())?),
        )
        .shown(|value| Some(quantity::write_size(value.to_u64()).into()))
    }

    /// The same type, whose values are written by `show` where a default is documented.
    pub(crate) fn shown(mut self, show: impl Fn(&T) -> Option<Value> + 't) -> Type<'t, T> {
        self.show = Box::new(show);
        self
    }

    /// The same type without a documented default.
    pub(crate) fn without_default(self) -> Type<'t, T> {
        self.shown(|_| None)
    }

    /// The same type with further keywords of JSON Schema.
    pub(crate) fn keywords(mut self, keywords: Value) -> Type<'t, T> {
        let shape = self.shape;
        self.shape = Box::new(move || {
            let mut shape = shape();
            if let (Shape::Scalar(Value::Object(known)), Value::Object(more)) =
                (&mut shape, keywords.clone())
            {
                known.extend(more);
            }
            shape
        });
        self
    }

    /// The same type, which the schema defines under this name.
    pub(crate) fn named(mut self, name: &'static str) -> Type<'t, T> {
        let shape = self.shape;
        self.shape = Box::new(move || Shape::Named(name, Box::new(shape())));
        self
    }

    /// The same type with a value that the reference shows as a comment.
    pub(crate) fn example(mut self, example: &'static str) -> Type<'t, T> {
        self.example = Some(example);
        self
    }

    /// The same type with a value that the reference has in effect.
    pub(crate) fn live_example(self, example: &'static str) -> Type<'t, T> {
        self.example(example).live()
    }

    /// The same type; the reference has its fields in effect, which changes nothing.
    pub(crate) fn live(mut self) -> Type<'t, T> {
        self.is_live = true;
        self
    }

    /// The same type, a mapping or a list; of another node it is told that `what` is expected.
    pub(crate) fn expecting(mut self, what: &'static str) -> Type<'t, T> {
        let read = self.read;
        self.read = Box::new(move |node, problems| match node.kind {
            NodeKind::Map(_) | NodeKind::List(_) | NodeKind::Missing => read(node, problems),
            _ => {
                problems.expected(node, what);
                None
            }
        });
        self
    }

    /// The same type; `check` reports what is wrong with a value that was read.
    pub(crate) fn checked(mut self, check: impl Fn(&T, &Node, &ProblemList) + 't) -> Type<'t, T> {
        let read = self.read;
        self.read = Box::new(move |node, problems| {
            let value = read(node, problems)?;
            let known = problems.count();
            check(&value, node, problems);
            (problems.count() == known).then_some(value)
        });
        self
    }

    /// Another type of the same text; `into` gets each value that was read.
    pub(crate) fn map<U: 't>(self, into: impl Fn(T) -> U + 't) -> Type<'t, U> {
        let (read, shape) = (self.read, self.shape);
        Type {
            example: self.example,
            is_live: self.is_live,
            ..Type::new(shape, move |node, problems| read(node, problems).map(&into))
        }
    }

    /// A list of values of this type; invalid ones are reported and skipped.
    pub(crate) fn list(self, most: usize) -> Type<'t, Vec<T>> {
        self.list_checked(0, most, |_, _, _| ())
    }

    /// Like [`Type::list`]; `check` gets all valid items with their nodes, and the list's node.
    /// `least` goes into the schema, and is for `check` to hold.
    pub(crate) fn list_checked(
        self,
        least: usize,
        most: usize,
        check: impl Fn(&[(&Node, T)], &Node, &ProblemList) + 't,
    ) -> Type<'t, Vec<T>> {
        let (read, shape, show) = (self.read, self.shape, self.show);
        Type::new(
            move || Shape::List {
                items: Box::new(shape()),
                least,
                most,
            },
            move |node, problems| {
                let items = list(node, problems, most, |item| {
                    Some((item, read(item, problems)?))
                })?;
                check(&items, node, problems);
                Some(items.into_iter().map(|(_, item)| item).collect())
            },
        )
        .shown(move |values: &Vec<T>| values.iter().map(&show).collect())
    }

    pub(crate) fn read(&self, node: &Node, problems: &ProblemList) -> Option<T> {
        (self.read)(node, problems)
    }

    pub(crate) fn shape(&self) -> Shape {
        (self.shape)()
    }

    pub(super) fn show(&self, value: &T) -> Option<Value> {
        (self.show)(value)
    }
}

impl<'t> Type<'t, Duration> {
    /// A duration; zero is allowed.
    pub(crate) fn duration() -> Type<'t, Duration> {
        Type::new(duration_shape, scalar::duration)
            .shown(|value| Some(quantity::write_duration(*value).into()))
    }

    /// A duration of a plan; zero is allowed.
    pub(crate) fn time() -> Type<'t, Duration> {
        Type::new(duration_shape, scalar::spaced_duration)
            .shown(|value| Some(quantity::write_duration(*value).into()))
    }

    /// The same type above zero.
    pub(crate) fn above_zero(self) -> Type<'t, Duration> {
        self.checked(|duration, node, problems| {
            if duration.is_zero() {
                problems.at(node, "expected a duration above zero");
            }
        })
    }
}

fn duration_shape() -> Shape {
    Shape::Scalar(json!({
        "type": "string",
        "pattern": format!(r"^(\d+(\.\d+)?(us|ms|s|m|h|d))+$|{VARIABLE}"),
    }))
}

impl<'t> Type<'t, f64> {
    /// A number for which `fits` holds; `what` says which those are.
    pub(crate) fn number(
        what: &'static str,
        keywords: Value,
        fits: impl Fn(f64) -> bool + 't,
    ) -> Type<'t, f64> {
        let shape = || Shape::Scalar(json!({ "type": ["number", "string"], "pattern": VARIABLE }));
        Type::new(shape, move |node, problems| {
            scalar::number(node, problems, what, &fits)
        })
        .shown(|value| Some(json!(value)))
        .keywords(keywords)
    }

    /// A share: a number from 0 on, or a string with `%` or `pp`, for which `fits` holds. `unit` is
    /// the one that a default is documented in.
    pub(crate) fn share(
        what: &'static str,
        unit: &'static str,
        fits: impl Fn(f64) -> bool + 't,
    ) -> Type<'t, f64> {
        let shape = || {
            Shape::Scalar(json!({
                "type": ["number", "string"],
                "minimum": 0,
                "pattern": format!(r"^\d+(\.\d+)?(pp|%)?$|{VARIABLE}"),
            }))
        };
        Type::new(shape, move |node, problems| match &node.kind {
            NodeKind::Text(text) => {
                let share = quantity::parse_fraction(text);
                if share.is_none() {
                    let message = format!(
                        "{} is not a share such as `0.05pp`, `5%` or `0.05`",
                        node.quoted()
                    );
                    problems.at(node, message);
                    return None;
                }
                let share = share.filter(|share| fits(*share));
                if share.is_none() {
                    problems.expected(node, what);
                }
                share
            }
            _ => scalar::number(node, problems, what, &fits),
        })
        .shown(move |value| Some(quantity::write_fraction(*value, unit).into()))
    }
}

impl<'t> Type<'t, String> {
    /// A string that is not blank; `what` says what it is.
    pub(crate) fn word(what: &'static str) -> Type<'t, String> {
        Type::new(
            || Shape::Scalar(json!({ "type": "string" })),
            move |node, problems| match &node.kind {
                NodeKind::Text(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
                NodeKind::Missing => None,
                _ => {
                    problems.expected(node, what);
                    None
                }
            },
        )
        .shown(|value| Some(value.as_str().into()))
    }
}

impl<'t> Type<'t, PathBuf> {
    /// A file path; a relative one is resolved against the directory of the document's file.
    pub(crate) fn path() -> Type<'t, PathBuf> {
        Type::new(|| Shape::Scalar(json!({ "type": "string" })), scalar::path)
    }
}

impl<'t> Type<'t, SocketAddr> {
    /// An address to listen on.
    pub(crate) fn address() -> Type<'t, SocketAddr> {
        let expected = "`IP:port`, such as `0.0.0.0:8080` or `[::]:8080`";
        Type::parsed(move |text: &str| match scalar::socket_address(text) {
            Some(address) => Ok(address),
            None if text.starts_with(':') => Err(Wrong::with_help(
                expected,
                format!("write `0.0.0.0{text}` for all interfaces"),
            )),
            None => Err(expected.into()),
        })
        .shown(|address| Some(address.to_string().into()))
    }
}

impl<'t> Type<'t, Weight> {
    /// A weight in percent, as a number.
    pub(crate) fn percent(
        what: &'static str,
        help: &'static str,
        keywords: Value,
    ) -> Type<'t, Weight> {
        let shape = || {
            Shape::Scalar(json!({
                "type": ["number", "string"],
                "maximum": 100,
                "pattern": VARIABLE,
            }))
        };
        Type::new(shape, move |node, problems| {
            if matches!(node.kind, NodeKind::Text(_)) && !node.substituted {
                problems.help(
                    node,
                    format!("expected {what}, found {}", node.found()),
                    help,
                );
                return None;
            }
            let is_number = matches!(
                node.kind,
                NodeKind::Number(_) | NodeKind::Integer(_) | NodeKind::Text(_)
            );
            let precise = format!("{what} with at most two decimals");
            let expected = if is_number { &precise } else { what };
            let fits = |percent: f64| Weight::from_percent(percent).is_ok();
            let percent = scalar::number(node, problems, expected, fits)?;
            Weight::from_percent(percent).ok()
        })
        .shown(|weight| {
            let percent = weight.percent();
            Some(match weight.basis_points().is_multiple_of(100) {
                true => (weight.basis_points() / 100).into(),
                false => json!(percent),
            })
        })
        .keywords(keywords)
    }
}

/// Whole numbers that a document may hold.
pub(crate) trait Whole: Copy {
    fn from_u64(number: u64) -> Option<Self>;
    fn to_u64(self) -> u64;
}

macro_rules! whole {
    ($($name:ty),*) => {
        $(impl Whole for $name {
            fn from_u64(number: u64) -> Option<Self> {
                number.try_into().ok()
            }

            fn to_u64(self) -> u64 {
                self.try_into().unwrap_or(u64::MAX)
            }
        })*
    };
}

whole!(u32, u64, usize);

impl Whole for NonZeroUsize {
    fn from_u64(number: u64) -> Option<Self> {
        NonZeroUsize::new(usize::from_u64(number)?)
    }

    fn to_u64(self) -> u64 {
        self.get().to_u64()
    }
}
