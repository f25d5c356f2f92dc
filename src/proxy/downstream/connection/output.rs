//! A response on its way to a client of HTTP/1.1: in one piece where it fits.

use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderName, StatusCode, response};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::proxy::http1::OutputSegment;
use crate::proxy::http1::chunked::{self, write_field};
use crate::proxy::request::relay::ResponseBody;
use crate::proxy::upstream::BodyAborted;
use crate::proxy::upstream::held::ChargedBytes;

/// A head of a response that takes more memory than this takes no more than it is long.
const LONG_HEAD: usize = 32 * 1024;

/// What the request means for the response to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestTraits {
    pub(super) is_head: bool,
    pub(super) http10: bool,
    pub(super) accepts_trailers: bool,
    /// Whether another request may follow.
    pub(super) keep_alive: bool,
}

/// How the client knows the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none, or so many bytes are still to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A response, piece by piece.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) segment: OutputSegment<ChargedBytes>,
    framing: Framing,
    keep_alive: bool,
    /// The trailers that may follow.
    trailers: Vec<HeaderName>,
    /// Whether the piece at hand is the last.
    finished: bool,
}

impl Output {
    /// A response whose head is the first piece, written behind what is in `buffer`.
    pub(super) fn new(
        buffer: Vec<u8>,
        asked: RequestTraits,
        head: &response::Parts,
        body: &ResponseBody,
    ) -> Output {
        let has_body = !asked.is_head && may_have_body(head.status);
        let length = match body.is_end_stream() {
            true => Some(0),
            false => body.size_hint().exact(),
        };
        let framing = match length {
            _ if !has_body => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None if asked.http10 => Framing::Close,
            None => Framing::Chunked,
        };
        let mut output = Output {
            segment: OutputSegment::new(buffer),
            framing,
            keep_alive: asked.keep_alive && framing != Framing::Close,
            trailers: Vec::new(),
            finished: framing == Framing::Length(0),
        };
        if framing == Framing::Chunked && asked.accepts_trailers {
            output.trailers = announced(&head.headers);
        }
        output.write_head(asked, head);
        output
    }

    fn write_head(&mut self, asked: RequestTraits, head: &response::Parts) {
        let out = &mut self.segment.before;
        write_status(out, asked.http10, head);
        for (name, value) in &head.headers {
            let left_out = match *name {
                // Of a response to HEAD it says how long the body would be; else the framing says
                // it.
                CONTENT_LENGTH => !asked.is_head,
                TRAILER => asked.http10 || asked.is_head || !may_have_body(head.status),
                _ => false,
            };
            if !left_out {
                write_field(out, name.as_str(), value.as_bytes());
            }
        }
        match self.framing {
            Framing::Length(length) if !asked.is_head && may_have_body(head.status) => {
                out.extend_from_slice(b"content-length: ");
                write_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            _ => {}
        }
        match (asked.http10, self.keep_alive) {
            (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (false, false) => out.extend_from_slice(b"connection: close\r\n"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        if out.capacity() > LONG_HEAD {
            // It may wait for as long as its client reads nothing.
            out.shrink_to_fit();
        }
    }

    /// Whether another request may follow the response.
    pub(super) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn is_close_delimited(&self) -> bool {
        self.framing == Framing::Close
    }

    /// Whether everything of the response is in the segment, or written.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Puts as much of the body behind the segment as is at hand and makes one piece. Pending if
    /// the segment is empty then.
    ///
    /// # Errors
    ///
    /// The response cannot be completed.
    pub(super) fn poll_fill(
        &mut self,
        body: &mut ResponseBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyAborted>> {
        while !self.finished && self.segment.has_room() {
            let polled = std::pin::Pin::new(&mut *body).poll_frame(cx);
            if polled.is_pending() && self.segment.gathered() > 0 {
                return Poll::Ready(Ok(()));
            }
            match ready!(polled).transpose()?.map(http_body::Frame::into_data) {
                Some(Ok(data)) => self.put(data, body.is_end_stream())?,
                Some(Err(frame)) => self.end(frame.into_trailers().ok())?,
                None => self.end(None)?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, data: ChargedBytes, last: bool) -> Result<(), BodyAborted> {
        let length = data.len();
        let mut after: &[u8] = b"";
        match &mut self.framing {
            // An empty chunk would end the body.
            Framing::Chunked if length == 0 => return if last { self.end(None) } else { Ok(()) },
            Framing::Chunked => {
                chunked::write_size(&mut self.segment.before, length);
                after = if last {
                    chunked::CHUNK_END_AND_LAST
                } else {
                    chunked::CHUNK_END
                };
                self.finished = last;
            }
            Framing::Length(left) => {
                // More than was announced would be read as another response.
                *left = left.checked_sub(length as u64).ok_or(BodyAborted)?;
                if last && *left > 0 {
                    return Err(BodyAborted);
                }
                self.finished = *left == 0;
            }
            Framing::Close => self.finished = last,
        }
        self.segment.put(data, after);
        Ok(())
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), BodyAborted> {
        match self.framing {
            Framing::Length(left) if left > 0 => return Err(BodyAborted),
            Framing::Chunked => {
                let trailers = trailers.unwrap_or_default();
                let allowed = trailers
                    .iter()
                    .filter(|(name, _)| self.trailers.contains(name));
                chunked::write_trailers(&mut self.segment.before, allowed);
            }
            Framing::Length(_) | Framing::Close => {}
        }
        self.finished = true;
        Ok(())
    }
}

/// Whether a response of this status has a body, or at least says that it is empty.
fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The trailers that a head announces. Others are left out: who merges trailers into the head
/// expects none.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers
        .get_all(TRAILER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    names
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect()
}

fn write_status(out: &mut Vec<u8>, http10: bool, head: &response::Parts) {
    out.extend_from_slice(if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    let own = head
        .extensions
        .get::<ReasonPhrase>()
        .map(ReasonPhrase::as_bytes);
    let usual = || {
        head.status
            .canonical_reason()
            .unwrap_or("<none>")
            .as_bytes()
    };
    out.extend_from_slice(own.unwrap_or_else(usual));
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut left = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;

    use super::*;

    /// What is written for a response with this body.
    fn written(
        asked: RequestTraits,
        status: u16,
        fields: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> String {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        let mut body = ResponseBody::Own(Bytes::from_static(body.as_bytes()));
        let mut output = Output::new(Vec::new(), asked, &head, &body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(
            output.poll_fill(&mut body, &mut cx),
            Poll::Ready(Ok(()))
        ));
        assert!(output.is_finished());
        String::from_utf8(output.segment.rest().to_vec()).unwrap()
    }

    const ASKED: RequestTraits = RequestTraits {
        is_head: false,
        http10: false,
        accepts_trailers: false,
        keep_alive: true,
    };

    #[test]
    fn a_small_response_is_one_piece_whose_framing_is_what_is_done() {
        let fields = [("content-length", "7"), ("x-a", "b")];
        assert_eq!(
            written(ASKED, 200, &fields, "hello"),
            "HTTP/1.1 200 OK\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello"
        );
        assert_eq!(
            written(ASKED, 200, &[], ""),
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        );
    }

    #[test]
    fn a_response_without_a_body_says_so_by_its_status_or_its_request() {
        let fields = [("content-length", "7"), ("trailer", "x-t")];
        assert_eq!(
            written(ASKED, 204, &fields, ""),
            "HTTP/1.1 204 No Content\r\n\r\n"
        );
        assert_eq!(
            written(ASKED, 304, &fields, ""),
            "HTTP/1.1 304 Not Modified\r\n\r\n"
        );
        let head = RequestTraits {
            is_head: true,
            ..ASKED
        };
        assert_eq!(
            written(head, 200, &fields, ""),
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"
        );
    }

    #[test]
    fn the_connection_field_says_what_the_version_does_not() {
        let asked = |http10, keep_alive| RequestTraits {
            http10,
            keep_alive,
            ..ASKED
        };
        for (http10, keep_alive, expected) in [
            (
                false,
                true,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ),
            (
                false,
                false,
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
            ),
            (
                true,
                true,
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
            ),
            (
                true,
                false,
                "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ),
        ] {
            assert_eq!(written(asked(http10, keep_alive), 200, &[], "ok"), expected);
        }
    }

    #[test]
    fn decimals_are_written() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
