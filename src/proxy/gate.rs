//! The gate: what bytes of HTTP/1 a client may send.
//!
//! It stands between the socket and the parser, follows the framing of each message, and lets
//! through only what RFC 9112 allows word for word: lines end in CRLF, no folded lines, no space
//! before a colon, one framing that nobody can read in two ways. What it refuses has not reached
//! the parser, let alone an upstream. It is a pure state machine over bytes: it reads no socket,
//! and it does not keep what it has seen beyond the line at hand.
//!
//! The alternative, to forward what the parser made of a message, would be safe as well, since
//! messages are written anew; but two readers of the same bytes (a firewall in front, an auditor
//! behind) would not agree on what was sent.

use std::collections::VecDeque;
use std::ops::Range;

use super::gate_line::{self, Header, RequestLine};

/// What a head may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the whole head, the request line included.
    pub(crate) head_bytes: usize,
    /// Number of header fields.
    pub(crate) headers: usize,
    /// Bytes of the request target.
    pub(crate) target_bytes: usize,
}

/// Why the gate closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not HTTP, or ambiguous: 400.
    Malformed(&'static str),
    /// The request target is too long: 414.
    TargetTooLong,
    /// The head is too long or has too many fields: 431.
    HeadTooLarge,
    /// A transfer coding that is not `chunked`, alone: 501.
    UnknownCoding,
    /// A version that is not 1.0 or 1.1: 505.
    Version,
}

/// Where in a connection's bytes the gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line; empty lines are tolerated here, as RFC 9112 section 2.2 asks.
    Start,
    /// Within a head, after the request line.
    Headers,
    /// Within a body of known length.
    Length(u64),
    /// Before a chunk's size line.
    ChunkSize,
    /// Within a chunk's data.
    ChunkData(u64),
    /// At the CRLF after a chunk's data; the number of its bytes already seen.
    ChunkEnd(u8),
    /// Within the trailer section.
    Trailers,
    /// HTTP/2 was chosen by its preface: the gate stands open.
    Open,
    /// Something was refused; nothing passes any more.
    Closed,
}

/// What the framing headers of the head at hand said.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    http10: bool,
    /// Whether the request line has characters that are to be masked.
    odd: bool,
    length: Option<u64>,
    chunked: bool,
    hosts: u8,
}

impl Framing {
    /// What is known after the request line.
    fn of_line(RequestLine { http10, odd }: RequestLine) -> Framing {
        Framing {
            http10,
            odd,
            ..Framing::default()
        }
    }

    /// What a whole head says, and the bytes behind it; `None` when it is not whole, or not as it
    /// should be.
    fn of_head<'a>(bytes: &'a [u8], limits: &Limits) -> Option<(Framing, &'a [u8])> {
        let (line, mut rest) = bytes.split_at(memchr::memchr(b'\n', bytes)? + 1);
        let line = line.strip_suffix(b"\r\n")?;
        let mut framing =
            Framing::of_line(gate_line::request_line(line, limits.target_bytes).ok()?);
        for _ in 0..=limits.headers {
            if let Some(after) = rest.strip_prefix(b"\r\n") {
                return (bytes.len() - after.len() <= limits.head_bytes)
                    .then_some((framing, after));
            }
            let (header, after) = gate_line::whole_field(rest)?;
            framing.note(header).ok()?;
            rest = after;
        }
        None
    }

    /// Takes note of a field.
    fn note(&mut self, header: Header) -> Result<(), Refusal> {
        match header {
            Header::Other => {}
            Header::Host => self.hosts = self.hosts.saturating_add(1),
            Header::Length(_) if self.length.is_some() => {
                return Err(Refusal::Malformed("more than one Content-Length"));
            }
            Header::Length(length) => self.length = Some(length),
            Header::Chunked if self.chunked => return Err(Refusal::UnknownCoding),
            Header::Chunked => self.chunked = true,
        }
        Ok(())
    }

    /// What follows the head that says this.
    fn body(self) -> Result<State, Refusal> {
        if self.chunked && self.length.is_some() {
            return Err(Refusal::Malformed(
                "both Content-Length and Transfer-Encoding",
            ));
        }
        if self.chunked && self.http10 {
            return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if self.hosts > 1 || (self.hosts == 0 && !self.http10) {
            return Err(Refusal::Malformed("a request has exactly one Host"));
        }
        Ok(match self.length {
            Some(length) if length > 0 => State::Length(length),
            _ if self.chunked => State::ChunkSize,
            _ => State::Start,
        })
    }
}

/// The gate of one connection.
#[derive(Debug)]
pub(crate) struct Gate {
    state: State,
    limits: Limits,
    /// The part of the line at hand that earlier reads brought.
    line: Vec<u8>,
    /// Bytes of the head (or trailer section, or chunk line) so far.
    seen: usize,
    fields: usize,
    framing: Framing,
    first: bool,
    closed_in_body: bool,
    /// Heads that have passed.
    heads: u64,
    /// Targets with characters that are masked behind the gate, as they were sent, with the number
    /// of their head.
    targets: VecDeque<(u64, Box<[u8]>)>,
    /// Where, among the bytes that were looked at last, characters are to be masked.
    odd: Vec<Range<usize>>,
}

/// The most bytes in a chunk's size line, extensions included.
const CHUNK_LINE_MAX: usize = 256;
/// The most empty lines before a request line.
const EMPTY_LINES_MAX: usize = 4;
/// The first line of HTTP/2's preface (RFC 9113 section 3.4).
const PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

impl Gate {
    /// A gate at the beginning of a connection.
    pub(crate) fn new(limits: Limits) -> Gate {
        Gate {
            state: State::Start,
            limits,
            line: Vec::new(),
            seen: 0,
            fields: 0,
            framing: Framing::default(),
            first: true,
            closed_in_body: false,
            heads: 0,
            targets: VecDeque::new(),
            odd: Vec::new(),
        }
    }

    /// How many heads have passed.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether all that has passed is whole messages.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.state == State::Start && !self.in_head()
    }

    /// The target of this head as it was sent, if it differs from what the parser gets to see.
    pub(crate) fn target(&mut self, head: u64) -> Option<Box<[u8]>> {
        match self.targets.front() {
            Some((number, _)) if *number == head => {
                self.targets.pop_front().map(|(_, target)| target)
            }
            _ => None,
        }
    }

    /// Masks, in the bytes that were looked at last, what the parser would not take.
    pub(crate) fn mask(&mut self, bytes: &mut [u8]) {
        for range in self.odd.drain(..) {
            if let Some(bytes) = bytes.get_mut(range) {
                gate_line::mask(bytes);
            }
        }
    }

    /// Whether the client is within a head: it has begun a request and not finished its header
    /// fields.
    pub(crate) fn in_head(&self) -> bool {
        self.state == State::Headers
            || (self.state == State::Start && (self.seen > 0 || !self.line.is_empty()))
    }

    /// Whether the client is within a request's body.
    pub(crate) fn in_body(&self) -> bool {
        matches!(self.state, State::Length(_) | State::ChunkData(_))
    }

    /// Whether it was within a request's body that something was refused.
    pub(crate) fn closed_in_body(&self) -> bool {
        self.closed_in_body
    }

    /// Looks at the next bytes of the connection.
    ///
    /// # Errors
    ///
    /// The refusal, with the number of leading bytes that may still pass: whole messages before the
    /// bad one, and parts of bodies.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<(), (usize, Refusal)> {
        let mut rest = bytes;
        let mut passed = 0;
        self.odd.clear();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            if self.whole_head(&mut rest, at) {
                passed = bytes.len() - rest.len();
                continue;
            }
            let in_body = !matches!(self.state, State::Start | State::Headers);
            if self.state == State::Start {
                self.note_odd(rest, at);
            }
            if let Err(refusal) = self.step(&mut rest) {
                self.closed_in_body = in_body;
                self.state = State::Closed;
                return Err((passed, refusal));
            }
            if !self.in_head() {
                passed = bytes.len() - rest.len();
            }
        }
        Ok(())
    }

    /// Takes a head that has come as a whole and is as it should be, which nearly every one is: in
    /// one pass, instead of line by line. Any other is left to [`step`](Gate::step), which
    /// knows what is wrong with it or waits for the rest.
    fn whole_head(&mut self, rest: &mut &[u8], at: usize) -> bool {
        if self.state != State::Start || self.seen > 0 || self.fields > 0 || !self.line.is_empty() {
            return false;
        }
        let Some((framing, after)) = Framing::of_head(rest, &self.limits) else {
            return false;
        };
        let Ok(state) = framing.body() else {
            return false;
        };
        if framing.odd {
            self.note_odd(rest, at);
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            self.keep_target(line);
        }
        self.heads += 1;
        self.first = false;
        self.state = state;
        *rest = after;
        true
    }

    /// Notes what is to be masked in the part of a request line that `rest` begins with, `at` bytes
    /// into what is looked at: all behind the method.
    fn note_odd(&mut self, rest: &[u8], at: usize) {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = rest.get(..end).unwrap_or_default();
        if !gate_line::is_odd(line) {
            return;
        }
        let start = if self.line.contains(&b' ') {
            Some(0)
        } else {
            memchr::memchr(b' ', line)
        };
        self.odd.extend(start.map(|start| at + start..at + end));
    }

    /// Keeps the target of a request line that is as it should be.
    fn keep_target(&mut self, line: &[u8]) {
        if let Some(target) = line.split(|byte| *byte == b' ').nth(1) {
            self.targets.push_back((self.heads + 1, target.into()));
        }
    }

    fn step(&mut self, rest: &mut &[u8]) -> Result<(), Refusal> {
        match self.state {
            State::Length(left) => {
                let left = skip(rest, left);
                self.state = if left == 0 {
                    self.restart()
                } else {
                    State::Length(left)
                };
                Ok(())
            }
            State::ChunkData(left) => {
                let left = skip(rest, left);
                self.state = if left == 0 {
                    State::ChunkEnd(0)
                } else {
                    State::ChunkData(left)
                };
                Ok(())
            }
            State::ChunkEnd(at) => self.chunk_end(rest, at),
            State::Open => {
                *rest = &[];
                Ok(())
            }
            State::Closed => Err(Refusal::Malformed("bytes after a refused message")),
            State::Start | State::Headers | State::ChunkSize | State::Trailers => self.line(rest),
        }
    }

    fn restart(&mut self) -> State {
        self.seen = 0;
        self.fields = 0;
        self.framing = Framing::default();
        State::Start
    }

    fn chunk_end(&mut self, rest: &mut &[u8], at: u8) -> Result<(), Refusal> {
        let expected = if at == 0 { b'\r' } else { b'\n' };
        match rest.split_first() {
            Some((byte, after)) if *byte == expected => {
                *rest = after;
                self.state = if at == 0 {
                    State::ChunkEnd(1)
                } else {
                    State::ChunkSize
                };
                Ok(())
            }
            _ => Err(Refusal::Malformed("a chunk's data is not followed by CRLF")),
        }
    }

    /// Takes one line, or keeps its beginning until the rest comes.
    fn line(&mut self, rest: &mut &[u8]) -> Result<(), Refusal> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.bound(rest.len(), rest)?;
            self.line.extend_from_slice(rest);
            *rest = &[];
            return Ok(());
        };
        let (piece, after) = rest.split_at(end + 1);
        self.bound(piece.len(), piece)?;
        *rest = after;
        if self.line.is_empty() {
            return self.whole_line(piece);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let result = self.whole_line(&line);
        line.clear();
        self.line = line;
        result
    }

    /// Counts bytes that belong to a head or line against their limit.
    fn bound(&mut self, more: usize, piece: &[u8]) -> Result<(), Refusal> {
        self.seen += more;
        let (limit, refusal) = match self.state {
            State::ChunkSize => (
                CHUNK_LINE_MAX,
                Refusal::Malformed("a chunk's size line is too long"),
            ),
            State::Start => {
                // Method, two spaces, version and CRLF take some room beside the target.
                let target = self.limits.target_bytes.saturating_add(64);
                if self.line.len() + piece.len() > target {
                    return Err(gate_line::overlong_start(&self.line, piece));
                }
                (self.limits.head_bytes, Refusal::HeadTooLarge)
            }
            _ => (self.limits.head_bytes, Refusal::HeadTooLarge),
        };
        if self.seen > limit {
            Err(refusal)
        } else {
            Ok(())
        }
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return Err(Refusal::Malformed("a line ends in LF without CR"));
        };
        match self.state {
            State::Start if text.is_empty() => self.empty_start(),
            State::Start if self.first && line == PREFACE_LINE => {
                self.state = State::Open;
                Ok(())
            }
            State::Start => self.request_line(text),
            State::Headers if text.is_empty() => self.end_of_head(),
            State::Headers => self.field(text),
            State::ChunkSize => self.chunk_size(text),
            _ if text.is_empty() => {
                self.state = self.restart();
                Ok(())
            }
            _ => self.trailer(text),
        }
    }

    fn empty_start(&mut self) -> Result<(), Refusal> {
        self.fields += 1;
        self.seen = 0;
        if self.fields > EMPTY_LINES_MAX {
            Err(Refusal::Malformed("too many empty lines"))
        } else {
            Ok(())
        }
    }

    fn request_line(&mut self, text: &[u8]) -> Result<(), Refusal> {
        self.first = false;
        self.fields = 0;
        self.framing = Framing::of_line(gate_line::request_line(text, self.limits.target_bytes)?);
        if self.framing.odd {
            self.keep_target(text);
        }
        self.state = State::Headers;
        Ok(())
    }

    fn field(&mut self, text: &[u8]) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > self.limits.headers {
            return Err(Refusal::HeadTooLarge);
        }
        self.framing.note(gate_line::field(text)?)
    }

    fn end_of_head(&mut self) -> Result<(), Refusal> {
        let state = self.framing.body()?;
        self.heads += 1;
        self.restart();
        self.state = state;
        Ok(())
    }

    fn chunk_size(&mut self, text: &[u8]) -> Result<(), Refusal> {
        let size = gate_line::chunk_size(text)?;
        self.seen = 0;
        self.fields = 0;
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::ChunkData(size)
        };
        Ok(())
    }

    fn trailer(&mut self, text: &[u8]) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > self.limits.headers {
            return Err(Refusal::HeadTooLarge);
        }
        match gate_line::field(text)? {
            Header::Other => Ok(()),
            _ => Err(Refusal::Malformed("a framing header among the trailers")),
        }
    }
}

/// Skips up to `left` bytes and returns how many are still to come.
fn skip(rest: &mut &[u8], left: u64) -> u64 {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    *rest = rest.get(here..).unwrap_or_default();
    left - here as u64
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
