//! Freeze windows: times in which releases neither start nor advance. They never delay a rollback.
//!
//! Text forms: `Fri 17:00 - Mon 08:00 Europe/Berlin` (weekly), `22:00 - 06:00` (daily, UTC without
//! a zone), `2026-12-24 00:00 - 2027-01-02 08:00 Europe/Berlin` (once). The zone rules are compiled
//! in, so that no file of the machine decides whether a release may advance.
//!
//! At a change of the clocks, a window starts at the first of two equal local times and ends at the
//! second; a skipped local time maps to the same time after the change. So a window is never too
//! short.

use std::fmt;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};

use crate::model::similar;

/// The maximum of windows that are chained, where each starts before the previous one ends.
const CHAINED: usize = 64;

/// A time in which releases neither start nor advance.
#[derive(Clone, Debug)]
pub struct FreezeWindow {
    text: String,
    zone: TimeZone,
    span: Span,
}

/// The freeze in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The window as configured.
    pub window: String,
    /// The end of the window and of those that follow without a gap: microseconds since 1970.
    pub until_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Span {
    Daily {
        from: Time,
        to: Time,
    },
    Weekly {
        from: (Weekday, Time),
        to: (Weekday, Time),
    },
    Once {
        from: DateTime,
        to: DateTime,
    },
}

/// One end of a window as written.
#[derive(Clone, Copy)]
enum Edge {
    Time(Time),
    Weekday(Weekday, Time),
    Moment(DateTime),
}

impl FreezeWindow {
    /// Parses a window.
    ///
    /// # Errors
    ///
    /// A message for the user.
    pub fn parse(text: &str) -> Result<FreezeWindow, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let dash = words
            .iter()
            .position(|word| ["-", "–"].contains(word))
            .ok_or_else(|| {
                "no ` - ` between start and end, as in `Fri 17:00 - Mon 08:00 \
                 Europe/Berlin`"
                    .to_owned()
            })?;
        let (begin, rest) = words.split_at(dash);
        let rest = rest.get(1..).unwrap_or_default();
        let is_time = |word: &&str| word.contains(':');
        let end = rest
            .iter()
            .position(is_time)
            .map_or(rest.len(), |at| at + 1);
        let (end, zone) = rest.split_at(end);
        Ok(FreezeWindow {
            text: words.join(" "),
            zone: zone_of(zone)?,
            span: Span::of(edge(begin, "start")?, edge(end, "end")?)?,
        })
    }

    /// The end of the window if it is in force at `now_us`.
    fn ends_us(&self, now_us: i64) -> Option<i64> {
        let now = Timestamp::from_microsecond(now_us).ok()?;
        let today = now.to_zoned(self.zone.clone()).date();
        // The longest window is a week; a change of the clocks can move its start by a day.
        let ends = (-8..=1).filter_map(|day| {
            let (from, to) = self
                .span
                .beginning_on(today.checked_add(day.days()).ok()?)?;
            let from = self.zone.to_ambiguous_timestamp(from).compatible().ok()?;
            let to = self.zone.to_ambiguous_timestamp(to).later().ok()?;
            (from <= now && now < to).then(|| to.as_microsecond())
        });
        ends.chain(self.span.once(&self.zone, now)).max()
    }
}

/// The window in force at `now_us`, and the end of the whole chain.
pub(crate) fn frozen(windows: &[FreezeWindow], now_us: i64) -> Option<Frozen> {
    let longest = |at| {
        let ends = windows
            .iter()
            .filter_map(|window| Some((window.ends_us(at)?, window)));
        ends.max_by_key(|(until_us, _)| *until_us)
    };
    let (mut until_us, window) = longest(now_us)?;
    for _ in 0..CHAINED {
        let Some((later_us, _)) = longest(until_us) else {
            break;
        };
        until_us = later_us;
    }
    Some(Frozen {
        window: window.text.clone(),
        until_us,
    })
}

impl Span {
    fn of(from: Edge, to: Edge) -> Result<Span, String> {
        let equal = || "start and end are equal".to_owned();
        match (from, to) {
            (Edge::Time(from), Edge::Time(to)) if from == to => Err(equal()),
            (Edge::Time(from), Edge::Time(to)) => Ok(Span::Daily { from, to }),
            (Edge::Weekday(day, from), Edge::Weekday(last, to)) if (day, from) == (last, to) => {
                Err(equal())
            }
            (Edge::Weekday(day, from), Edge::Weekday(last, to)) => Ok(Span::Weekly {
                from: (day, from),
                to: (last, to),
            }),
            (Edge::Moment(from), Edge::Moment(to)) if from >= to => {
                Err("the end is before the start".to_owned())
            }
            (Edge::Moment(from), Edge::Moment(to)) => Ok(Span::Once { from, to }),
            _ => Err(
                "start and end must be of one kind: both with a weekday, both with a date, or \
                 neither"
                    .to_owned(),
            ),
        }
    }

    /// The occurrence of a recurring window that starts on `date`.
    fn beginning_on(self, date: Date) -> Option<(DateTime, DateTime)> {
        let after = |days: i64, to: Time| Some(date.checked_add(days.days()).ok()?.to_datetime(to));
        match self {
            Span::Daily { from, to } => {
                Some((date.to_datetime(from), after(i64::from(to <= from), to)?))
            }
            Span::Weekly { from, to } if date.weekday() == from.0 => {
                let days = i64::from(from.0.until(to.0));
                let days = if days == 0 && to.1 <= from.1 { 7 } else { days };
                Some((date.to_datetime(from.1), after(days, to.1)?))
            }
            Span::Weekly { .. } | Span::Once { .. } => None,
        }
    }

    fn once(self, zone: &TimeZone, now: Timestamp) -> Option<i64> {
        let Span::Once { from, to } = self else {
            return None;
        };
        let from = zone.to_ambiguous_timestamp(from).compatible().ok()?;
        let to = zone.to_ambiguous_timestamp(to).later().ok()?;
        (from <= now && now < to).then(|| to.as_microsecond())
    }
}

fn edge(words: &[&str], which: &str) -> Result<Edge, String> {
    match *words {
        [time] => Ok(Edge::Time(time_of(time)?)),
        [day, time] => match weekday(day) {
            Some(weekday) => Ok(Edge::Weekday(weekday, time_of(time)?)),
            None => Ok(Edge::Moment(date_of(day)?.to_datetime(time_of(time)?))),
        },
        [] => Err(format!("the {which} is missing")),
        _ => Err(format!(
            "the {which} `{}` is not a time such as `17:00`, `Fri 17:00` or `2026-12-24 17:00`",
            words.join(" ")
        )),
    }
}

fn time_of(text: &str) -> Result<Time, String> {
    let wrong = || format!("`{text}` is not a time of day from 00:00 to 23:59");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let digits = |part: &str| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !(digits(hour) && digits(minute) && minute.len() == 2) {
        return Err(wrong());
    }
    let (hour, minute) = (
        hour.parse().map_err(|_| wrong())?,
        minute.parse().map_err(|_| wrong())?,
    );
    Time::new(hour, minute, 0, 0).map_err(|_| wrong())
}

fn date_of(text: &str) -> Result<Date, String> {
    let wrong =
        |_| format!("`{text}` is neither a weekday such as `Fri` nor a date such as `2026-12-24`");
    text.parse().map_err(wrong)
}

fn weekday(text: &str) -> Option<Weekday> {
    const NAMES: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let text = text.to_ascii_lowercase();
    let named =
        |name: &&(&str, Weekday)| name.0 == text || (text.len() == 3 && name.0.starts_with(&text));
    NAMES.iter().find(named).map(|(_, day)| *day)
}

fn zone_of(words: &[&str]) -> Result<TimeZone, String> {
    let name = match *words {
        [] => return Ok(TimeZone::UTC),
        [name] => name,
        _ => {
            return Err(format!(
                "`{}` is not one time zone such as `Europe/Berlin`",
                words.join(" ")
            ));
        }
    };
    let all = TimeZoneDatabase::bundled();
    all.get(name).map_err(|_| {
        let known: Vec<String> = all.available().map(|zone| zone.to_string()).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        match similar(name, &known) {
            Some(near) => format!("`{name}` is not a time zone; did you mean `{near}`?"),
            None => format!("`{name}` is not a time zone such as `Europe/Berlin`"),
        }
    })
}

impl fmt::Display for FreezeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Two windows are equal when their texts are equal.
impl PartialEq for FreezeWindow {
    fn eq(&self, other: &FreezeWindow) -> bool {
        self.text == other.text
    }
}
