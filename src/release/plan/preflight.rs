//! The preflight: requests to the canary before the first user.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use crate::document::quantity::write_duration;
use crate::document::{Fields, Node, NodeKind, ProblemList, Shape, Type, Wrong, entries};

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

/// The preflight of a plan.
pub(super) fn preflight() -> Type<'static, Preflight> {
    Type::object(fields)
        .named("Preflight")
        .expecting("a mapping with `requests`")
}

fn fields(fields: &mut Fields<'_>) -> Option<Preflight> {
    let mut preflight = Preflight {
        requests: Vec::new(),
        timeout: Duration::from_secs(30),
    };
    let short = path().map(|path| Smoke::get(&path));
    let long = Type::object(smoke).named("SmokeRequest");
    let requests = Type::short_or_long(short, long).list(REQUESTS_MAX);
    fields.set(
        "requests",
        &mut preflight.requests,
        requests.without_default().example("[/ready]"),
        "in this order; paths, or mappings:",
    );
    fields.set(
        "timeout",
        &mut preflight.timeout,
        Type::time().above_zero(),
        "for all of them",
    );
    Some(preflight)
}

fn smoke(fields: &mut Fields<'_>) -> Option<Smoke> {
    let path = fields.required(
        "path",
        "a path such as `/ready`",
        path().example("/cart"),
        "with a query if there is one",
    );
    let mut smoke = Smoke::get(path.as_deref().unwrap_or_default());
    fields.set(
        "method",
        &mut smoke.method,
        Type::parsed(method).shown(|method| Some(method.as_str().into())),
        "in capitals",
    );
    let header_map = || Shape::Map {
        keys: json!({ "type": "string" }),
        shown: "X-Smoke",
        more: None,
        values: Box::new(Shape::Scalar(json!({ "type": "string" }))),
        least: 0,
        most: HEADERS_MAX,
    };
    fields.set(
        "headers",
        &mut smoke.headers,
        Type::new(header_map, headers).shown(|_| Some(json!({}))),
        "besides the standard ones; as { X-Smoke: \"1\" }",
    );
    fields.set(
        "expect",
        &mut smoke.expect,
        expect(),
        "the accepted status or statuses",
    );
    fields.set(
        "timeout",
        &mut smoke.timeout,
        Type::time().above_zero(),
        "until the end of the response head",
    );
    path.map(|_| smoke)
}

impl Preflight {
    /// The preflight without values that may be secret.
    pub(super) fn redacted(&self) -> Preflight {
        Preflight {
            requests: self.requests.iter().map(Smoke::redacted).collect(),
            timeout: self.timeout,
        }
    }

    pub(super) fn write(&self) -> Value {
        let requests: Vec<Value> = self.requests.iter().map(Smoke::write).collect();
        json!({ "requests": requests, "timeout": write_duration(self.timeout) })
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
            "timeout": write_duration(self.timeout),
        })
    }
}

fn path() -> Type<'static, String> {
    Type::parsed(|path| {
        let target: Result<http::uri::PathAndQuery, _> = path.parse();
        match path.starts_with('/') && target.is_ok() {
            true => Ok(path.to_owned()),
            false => Err("a path that begins with `/`".into()),
        }
    })
}

fn method(text: &str) -> Result<String, Wrong> {
    let method = text.to_ascii_uppercase();
    match http::Method::from_bytes(method.as_bytes()) {
        Ok(known) if known != http::Method::CONNECT => Ok(method),
        _ => Err("a method such as `GET`".into()),
    }
}

fn headers(node: &Node, problems: &ProblemList) -> Option<Vec<(String, String)>> {
    let entries = entries(node, problems)?;
    if entries.len() > HEADERS_MAX {
        problems.at(node, format!("at most {HEADERS_MAX} headers are allowed"));
    }
    let mut headers = Vec::new();
    for entry in entries.iter().take(HEADERS_MAX) {
        let text = match &entry.value.kind {
            NodeKind::Missing => continue,
            NodeKind::Text(text) if HeaderValue::from_str(text).is_ok() => text,
            _ => {
                let what = "the value of a header, as a string";
                problems.expected(&entry.value, what);
                continue;
            }
        };
        match HeaderName::from_bytes(entry.key.as_bytes()) {
            Ok(name) => headers.push((name.as_str().to_owned(), text.clone())),
            Err(_) => {
                let message = format!("`{}` is not the name of a header", entry.key);
                problems.at_key(entry, message, None);
            }
        }
    }
    Some(headers)
}

/// `204`, or `"200-399"`.
fn expect() -> Type<'static, RangeInclusive<u16>> {
    let status = json!({ "type": "integer", "minimum": 100, "maximum": 599 });
    let range = json!({ "type": "string" });
    let shape = move || {
        Shape::Any(vec![
            Shape::Scalar(status.clone()),
            Shape::Scalar(range.clone()),
        ])
    };
    let of_text = |text: &str| match text.split_once('-') {
        Some((low, high)) => Some(low.trim().parse().ok()?..=high.trim().parse().ok()?),
        None => text.trim().parse().ok().map(|status: u16| status..=status),
    };
    let read = move |node: &Node, problems: &ProblemList| {
        let range = match &node.kind {
            NodeKind::Missing => return None,
            NodeKind::Integer(status) => u16::try_from(*status).ok().map(|s| s..=s),
            NodeKind::Text(text) => of_text(text),
            _ => None,
        };
        let is_valid = |range: &RangeInclusive<u16>| {
            !range.is_empty() && *range.start() >= 100 && *range.end() <= 599
        };
        let range = range.filter(is_valid);
        if range.is_none() {
            let what = "a status such as 204, or statuses such as `200-399`";
            problems.expected(node, what);
        }
        range
    };
    Type::new(shape, read).shown(|range| Some(format!("{}-{}", range.start(), range.end()).into()))
}
