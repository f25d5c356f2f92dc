//! Exchanges that are kept for people who want to see what a release did: a few of each kind,
//! without what could be secret.
//!
//! What a request brings is remembered by reference until it is known whether it is one of the few;
//! when none is due, that is all it costs.

use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Uri};

use crate::model::redact;
use crate::proxy::worker::state::Worker;
use crate::stats::{Arm, Class, ReleaseKey, SampledExchange};
use crate::time::{Clock, SystemClock};

const HEADERS_MAX: usize = 16;
const VALUE_BYTES_MAX: usize = 100;

/// What is kept of an answer's header fields.
type Fields = Box<[(Box<str>, Box<str>)]>;

/// A request that may become a sample, until that is decided.
#[derive(Debug)]
pub(crate) struct SampleCandidate {
    method: Method,
    uri: Uri,
    /// Header fields of its answer, if that is good so far and one is due.
    fields: Option<Fields>,
}

/// What is known of an answer.
#[derive(Debug)]
pub(crate) struct SampledResponse<'a> {
    pub(crate) class: Class,
    /// `None` if no answer has come.
    pub(crate) status: Option<u16>,
    /// At the head of the answer; `None` at its end.
    pub(crate) headers: Option<&'a HeaderMap>,
    /// Since the request's arrival.
    pub(crate) took: Duration,
    pub(crate) request_id: Option<&'a HeaderValue>,
}

impl SampleCandidate {
    pub(crate) fn new(method: Method, uri: Uri) -> SampleCandidate {
        SampleCandidate {
            method,
            uri,
            fields: None,
        }
    }

    /// Keeps the exchange if one of its kind is due. A failure is kept at once, since it may be the
    /// one that ends the release; a good answer at its end. Gives whether that is decided.
    pub(crate) fn see(
        &mut self,
        worker: &Worker,
        watch: ReleaseKey,
        side: Arm,
        seen: &SampledResponse<'_>,
    ) -> bool {
        let now = worker.deadlines.coarse();
        if seen.class.is_failure() {
            if worker.samples.failure(watch, now) {
                self.keep(worker, watch, side, seen);
            }
            return true;
        }
        if let Some(headers) = seen.headers {
            if worker.samples.good(watch, side, now) {
                self.fields = Some(fields(headers));
            }
            return false;
        }
        if self.fields.is_some() && seen.class != Class::ClientAbort {
            self.keep(worker, watch, side, seen);
        }
        true
    }

    fn keep(&mut self, worker: &Worker, watch: ReleaseKey, side: Arm, seen: &SampledResponse<'_>) {
        let fields = self.fields.take().or_else(|| seen.headers.map(fields));
        let sample = SampledExchange {
            side,
            at: SystemClock.now(),
            method: redact::method(self.method.as_str()).into(),
            path: redact::path(self.uri.path()).into(),
            status: seen.status,
            reason: seen.class.is_failure().then(|| seen.class.as_str()),
            latency_us: u64::try_from(seen.took.as_micros()).unwrap_or(u64::MAX),
            request_id: seen
                .request_id
                .and_then(|id| id.to_str().ok())
                .map(Into::into),
            headers: fields.unwrap_or_default(),
        };
        worker.notes.borrow_mut().sample(watch, sample);
    }
}

/// Header fields as far as anybody may read them.
fn fields(headers: &HeaderMap) -> Fields {
    let shown = headers.iter().filter_map(|(name, value)| {
        let value = redact::field(name.as_str(), &String::from_utf8_lossy(value.as_bytes()))?;
        Some((name.as_str().into(), cut(&value, VALUE_BYTES_MAX).into()))
    });
    shown.take(HEADERS_MAX).collect()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn fields_are_those_of_a_list_and_what_is_long_is_cut() {
        let long = "/cart".repeat(80);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/html"),
            ("set-cookie", "id=hunter2"),
            ("x-debug", "hunter2"),
            ("password", "hunter2"),
            ("jwt", "hunter2"),
            ("link", "</reset/hunter2>; rel=next"),
            (
                "location",
                "https://user:hunter2@localhost/reset/hunter2?code=hunter2",
            ),
            ("content-location", &long),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let told = fields(&headers);
        assert!(!format!("{told:?}").contains("hunter2"));
        assert_eq!(told.len(), 3);
        let of = |name: &str| &*told.iter().find(|(known, _)| &**known == name).unwrap().1;
        assert_eq!(of("content-type"), "text/html");
        assert_eq!(of("location"), "https://localhost/reset/*");
        assert!(of("content-location").len() <= VALUE_BYTES_MAX);
        for _ in 0..20 {
            headers.append("vary", HeaderValue::from_static("origin"));
        }
        assert_eq!(fields(&headers).len(), HEADERS_MAX);
    }
}
