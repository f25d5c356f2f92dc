//! The preflight: requests to the canary before the first user.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::fields::{PlanProblems, join};

/// The maximum of preflight requests.
const REQUESTS_MAX: usize = 32;
/// The maximum of headers per preflight request.
const HEADERS_MAX: usize = 32;

/// Requests to each endpoint of the canary. A failed one ends the release before it has traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Preflight {
    /// The requests in order. Empty means a TCP connection only.
    pub requests: Vec<Smoke>,
    /// The timeout for all of them.
    pub timeout: Duration,
}

/// One preflight request.
#[derive(Clone, Debug, PartialEq)]
pub struct Smoke {
    /// The method in upper case.
    pub method: String,
    /// The path with an optional query.
    pub path: String,
    /// Headers in addition to the standard ones.
    pub headers: Vec<(String, String)>,
    /// The accepted statuses.
    pub expect: RangeInclusive<u16>,
    /// The timeout until the response head.
    pub timeout: Duration,
}

const KEYS: [&str; 2] = ["requests", "timeout"];
const REQUEST_KEYS: [&str; 5] = ["method", "path", "headers", "expect", "timeout"];

impl Preflight {
    pub(super) fn read(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<Preflight> {
        let object = problems.object(at, value, "a mapping with `requests`")?;
        problems.unknown(at, object, &KEYS);
        let mut preflight = Preflight {
            requests: Vec::new(),
            timeout: Duration::from_secs(30),
        };
        if let Some(timeout) = object.get("timeout") {
            preflight.timeout = problems.duration_above_zero(&join(at, "timeout"), timeout)?;
        }
        if let Some(requests) = object.get("requests") {
            let at = join(at, "requests");
            let items = problems
                .list(&at, requests, "a list of requests", REQUESTS_MAX)
                .iter();
            let smokes = items
                .enumerate()
                .map(|(i, item)| Smoke::read(&format!("{at}/{i}"), item, problems));
            preflight.requests = smokes.collect::<Vec<_>>().into_iter().flatten().collect();
        }
        Some(preflight)
    }

    /// The preflight without values that may be secret.
    pub(super) fn redacted(&self) -> Preflight {
        Preflight {
            requests: self.requests.iter().map(Smoke::redacted).collect(),
            timeout: self.timeout,
        }
    }

    pub(super) fn write(&self) -> Value {
        let requests: Vec<Value> = self.requests.iter().map(Smoke::write).collect();
        json!({ "requests": requests, "timeout": super::write::time(self.timeout) })
    }
}

impl Smoke {
    fn redacted(&self) -> Smoke {
        let path = match self.path.split_once('?') {
            Some((path, _)) => format!("{path}?*"),
            None => self.path.clone(),
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, _)| (name.clone(), "*".to_owned()));
        Smoke {
            path,
            headers: headers.collect(),
            ..self.clone()
        }
    }

    fn get(path: &str) -> Smoke {
        Smoke {
            method: "GET".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            expect: 200..=399,
            timeout: Duration::from_secs(5),
        }
    }

    /// A path alone, or a mapping.
    fn read(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<Smoke> {
        if value.is_string() {
            return Some(Smoke::get(path(at, value, problems)?));
        }
        let object = problems.object(at, value, "a path, or a mapping with `path`")?;
        problems.unknown(at, object, &REQUEST_KEYS);
        let Some(given) = object.get("path") else {
            problems.at(
                join(at, "path"),
                "`path` is missing; expected a path such as `/ready`",
            );
            return None;
        };
        let mut smoke = Smoke::get(path(&join(at, "path"), given, problems)?);
        if let Some(value) = object.get("method") {
            smoke.method = method(&join(at, "method"), value, problems)?;
        }
        if let Some(value) = object.get("headers") {
            smoke.headers = headers(&join(at, "headers"), value, problems);
        }
        if let Some(value) = object.get("expect") {
            smoke.expect = expect(&join(at, "expect"), value, problems)?;
        }
        if let Some(value) = object.get("timeout") {
            smoke.timeout = problems.duration_above_zero(&join(at, "timeout"), value)?;
        }
        Some(smoke)
    }

    fn write(&self) -> Value {
        let headers: Map<String, Value> = self
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({
            "method": self.method,
            "path": self.path,
            "headers": headers,
            "expect": format!("{}-{}", self.expect.start(), self.expect.end()),
            "timeout": super::write::time(self.timeout),
        })
    }
}

fn path<'a>(at: &str, value: &'a Value, problems: &mut PlanProblems) -> Option<&'a str> {
    let what = "a path that begins with `/`";
    let path = problems.text(at, value, what)?;
    let target: Result<http::uri::PathAndQuery, _> = path.parse();
    if !path.starts_with('/') || target.is_err() {
        problems.expected(at, what, value);
        return None;
    }
    Some(path)
}

fn method(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<String> {
    let what = "a method such as `GET`";
    let method = problems.text(at, value, what)?.to_ascii_uppercase();
    if http::Method::from_bytes(method.as_bytes()).is_err() || method == "CONNECT" {
        problems.expected(at, what, value);
        return None;
    }
    Some(method)
}

fn headers(at: &str, value: &Value, problems: &mut PlanProblems) -> Vec<(String, String)> {
    let Some(object) = problems.object(at, value, "a mapping of headers") else {
        return Vec::new();
    };
    if object.len() > HEADERS_MAX {
        problems.at(at, format!("at most {HEADERS_MAX} headers are allowed"));
    }
    let mut headers = Vec::new();
    for (name, value) in object.iter().take(HEADERS_MAX) {
        let at = join(at, name);
        let text = value
            .as_str()
            .filter(|text| HeaderValue::from_str(text).is_ok());
        match (HeaderName::from_bytes(name.as_bytes()), text) {
            (Err(_), _) => problems.at(at, format!("`{name}` is not the name of a header")),
            (_, None) => problems.expected(&at, "the value of a header, as a string", value),
            (Ok(name), Some(text)) => headers.push((name.as_str().to_owned(), text.to_owned())),
        }
    }
    headers
}

/// `204`, or `"200-399"`.
fn expect(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<RangeInclusive<u16>> {
    let of_text = |text: &str| match text.split_once('-') {
        Some((low, high)) => Some(low.trim().parse().ok()?..=high.trim().parse().ok()?),
        None => text.trim().parse().ok().map(|status: u16| status..=status),
    };
    let range = match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|status| u16::try_from(status).ok())
            .map(|s| s..=s),
        Value::String(text) => of_text(text),
        _ => None,
    };
    let range =
        range.filter(|range| !range.is_empty() && *range.start() >= 100 && *range.end() <= 599);
    if range.is_none() {
        problems.expected(
            at,
            "a status such as 204, or statuses such as `200-399`",
            value,
        );
    }
    range
}
