//! Interim responses (1xx) on their way from an upstream to a client of HTTP/1.1, and the
//! expectation of a 100.
//!
//! A 100 is asked for end to end: the upstream is told of the expectation, and the body is asked
//! for from the client once the upstream does so. An upstream that says nothing for [`PATIENCE`]
//! gets the body all the same (RFC 9110 section 10.1.1). Where the proxy itself wants the body
//! first, to keep a copy of it for a rescue, it asks for it in its own name.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::time::Duration;

use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::proxy::http1::chunked::write_field;
use crate::proxy::http1::fields;

/// How long an upstream may take to ask for a body, or to refuse it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of interim responses that may wait to be written. They are hints: what exceeds that is
/// left out.
const QUEUED_MAX: usize = 16 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether the client of the request at hand waits for a 100 before it sends the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expectation {
    /// It does not.
    #[default]
    None,
    Waiting,
    /// It has been sent one.
    Met,
}

/// The interim responses to the request at hand of a connection.
#[derive(Debug, Default)]
pub(crate) struct Interims {
    queue: RefCell<Vec<u8>>,
    expectation: Cell<Expectation>,
}

impl Interims {
    /// Another request begins, whose client waits for a 100 or does not.
    pub(crate) fn begin(&self, expects: bool) {
        self.expectation.set(if expects {
            Expectation::Waiting
        } else {
            Expectation::None
        });
    }

    /// Whether the client has not been asked for the body yet.
    pub(crate) fn is_awaited(&self) -> bool {
        self.expectation.get() == Expectation::Waiting
    }

    /// Asks the client for the body, if it waits for that. Tells whether there is something to
    /// write.
    pub(crate) fn ask(&self) -> bool {
        let asks = self.is_awaited();
        if asks {
            self.expectation.set(Expectation::Met);
            self.queue.borrow_mut().extend_from_slice(CONTINUE);
        }
        asks
    }

    /// Passes an interim response on.
    pub(crate) fn pass(&self, interim: &mut Response<()>) {
        let expected = self.is_awaited();
        if interim.status() == StatusCode::CONTINUE {
            match self.expectation.get() {
                Expectation::Met => return,
                Expectation::Waiting => self.expectation.set(Expectation::Met),
                Expectation::None => {}
            }
        }
        fields::strip_hop_by_hop(interim.headers_mut());
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        write(&mut queue, interim);
        if queue.len() > QUEUED_MAX {
            queue.truncate(before);
            if interim.status() == StatusCode::CONTINUE && expected {
                queue.extend_from_slice(CONTINUE);
            }
        }
    }

    /// What waits to be written, which is then the caller's to write.
    pub(crate) fn take(&self, out: &mut Vec<u8>) {
        let mut queue = self.queue.borrow_mut();
        if !queue.is_empty() {
            out.append(&mut queue);
            // An idle connection holds no memory for what is rare.
            *queue = Vec::new();
        }
    }
}

fn write(out: &mut Vec<u8>, interim: &Response<()>) {
    let status = interim.status();
    let own = interim.extensions().get::<ReasonPhrase>();
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    // Writing to memory does not fail.
    let _ = write!(out, "HTTP/1.1 {} ", status.as_u16());
    out.extend_from_slice(own.map_or(usual, ReasonPhrase::as_bytes));
    out.extend_from_slice(b"\r\n");
    for (name, value) in interim.headers() {
        if *name != http::header::CONTENT_LENGTH {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a request's task hears of interim responses while it waits for the final one.
#[derive(Debug, Default)]
pub(crate) struct Heard<'a> {
    /// Where they go, if the client takes any.
    pub(crate) client: Option<&'a Interims>,
    /// How often the upstream has said that it is working on the request (102).
    pub(crate) processing: Cell<u32>,
    /// Whether nothing is read of the answer until the client has taken what is held for it.
    pub(crate) held: Cell<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interim(status: u16) -> Response<()> {
        let builder = Response::builder().status(status);
        builder
            .header("link", "</a>")
            .header("connection", "x")
            .body(())
            .unwrap()
    }

    fn queued(interims: &Interims) -> String {
        let mut out = Vec::new();
        interims.take(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_client_is_asked_for_its_body_once() {
        let interims = Interims::default();
        interims.begin(true);
        assert!(
            interims.is_awaited() && interims.ask() && !interims.ask() && !interims.is_awaited()
        );
        interims.pass(&mut interim(100));
        assert_eq!(queued(&interims), "HTTP/1.1 100 Continue\r\n\r\n");
        interims.begin(true);
        interims.pass(&mut interim(100));
        assert!(!interims.is_awaited() && !interims.ask());
        assert_eq!(
            queued(&interims),
            "HTTP/1.1 100 Continue\r\nlink: </a>\r\n\r\n"
        );
        interims.begin(false);
        assert!(!interims.ask() && queued(&interims).is_empty());
    }

    #[test]
    fn interim_responses_wait_in_bounded_memory() {
        let interims = Interims::default();
        interims.begin(false);
        (0..10_000).for_each(|_| interims.pass(&mut interim(103)));
        let queued = queued(&interims);
        assert!(
            queued.len() <= QUEUED_MAX
                && queued.ends_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        );
    }
}
