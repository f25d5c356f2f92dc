//! The chunked coding (RFC 9112 section 7.1), read to the letter of its grammar and written, for
//! both directions.
//!
//! Pure: a state machine over a buffer. Chunks are split off the buffer and not copied.

use std::io::Write;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::Malformed;
use super::grammar;

/// The most bytes in a chunk's size line, extensions included.
const CHUNK_LINE_MAX: usize = 256;
/// The most bytes of a trailer section.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// The most fields of the trailer section of a response, and of a request.
const TRAILERS_MAX: usize = 64;
const REQUEST_TRAILERS_MAX: usize = 256;

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    /// The CRLF after a chunk's data.
    DataEnd,
    Trailers,
    Done,
    /// Something was wrong, and no byte after it means anything.
    Broken(&'static str),
}

/// A piece of a body.
#[derive(Debug, PartialEq)]
pub(crate) enum ChunkedPiece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has been read whole.
    End,
    /// The buffer is used up.
    More,
}

/// The reader of one body.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    trailers: HeaderMap,
    trailer_bytes: usize,
    trailers_max: usize,
    /// Whether a framing field among the trailers is an error; else it is left to whoever takes
    /// off what may not be there.
    strict: bool,
}

impl Chunked {
    /// For a response's body.
    pub(crate) fn new() -> Chunked {
        Chunked {
            state: State::Size,
            trailers: HeaderMap::new(),
            trailer_bytes: 0,
            trailers_max: TRAILERS_MAX,
            strict: false,
        }
    }

    /// For a request's body, whose trailers may have so many fields, and no field about framing or
    /// host.
    pub(crate) fn strict(trailers_max: usize) -> Chunked {
        Chunked {
            trailers_max: trailers_max.min(REQUEST_TRAILERS_MAX),
            strict: true,
            ..Chunked::new()
        }
    }

    /// Whether the body has been read whole.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether what comes next is data.
    pub(crate) fn is_in_data(&self) -> bool {
        matches!(self.state, State::Data(_))
    }

    /// Whether what comes next are trailers.
    pub(crate) fn is_in_trailers(&self) -> bool {
        self.state == State::Trailers
    }

    /// Takes the next piece off the front of `buffer`.
    ///
    /// # Errors
    ///
    /// What has come is not a chunked body.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<ChunkedPiece, Malformed> {
        loop {
            match self.state {
                State::Data(left) => return Ok(self.data(buffer, left)),
                State::Done => return Ok(ChunkedPiece::End),
                State::Broken(why) => return Err(Malformed(why)),
                State::Size | State::DataEnd | State::Trailers => {}
            }
            if !self.step(buffer)? {
                return Ok(ChunkedPiece::More);
            }
            if self.is_done() && !self.trailers.is_empty() {
                return Ok(ChunkedPiece::Trailers(std::mem::take(&mut self.trailers)));
            }
        }
    }

    /// Reads on as far as there is neither data nor a trailer: so the end is known with the last
    /// piece, when it came with it, and not only by looking once more.
    pub(crate) fn look_ahead(&mut self, buffer: &mut BytesMut) {
        while matches!(self.state, State::DataEnd | State::Size)
            || (self.state == State::Trailers
                && self.trailers.is_empty()
                && buffer.starts_with(b"\r\n"))
        {
            // What is wrong is kept in the state, and told when it is its turn.
            if !matches!(self.step(buffer), Ok(true)) {
                return;
            }
        }
    }

    fn data(&mut self, buffer: &mut BytesMut, left: u64) -> ChunkedPiece {
        if buffer.is_empty() {
            return ChunkedPiece::More;
        }
        let here = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.state = match left - here as u64 {
            0 => State::DataEnd,
            left => State::Data(left),
        };
        ChunkedPiece::Data(buffer.split_to(here).freeze())
    }

    /// Reads one line, or the CRLF after a chunk. Tells whether there was one.
    fn step(&mut self, buffer: &mut BytesMut) -> Result<bool, Malformed> {
        let step = match self.state {
            State::DataEnd => data_end(buffer),
            State::Size => size(buffer),
            _ => self.trailer(buffer),
        };
        match step {
            Ok(None) => Ok(false),
            Ok(Some(state)) => {
                self.state = state;
                Ok(true)
            }
            Err(why) => {
                self.state = State::Broken(why);
                Err(Malformed(why))
            }
        }
    }

    fn trailer(&mut self, buffer: &mut BytesMut) -> Result<Option<State>, &'static str> {
        let left = TRAILER_BYTES_MAX - self.trailer_bytes;
        let Some(line) = line(buffer, left, "the trailers are too long")? else {
            return Ok(None);
        };
        self.trailer_bytes += line.len() + 2;
        if line.is_empty() {
            return Ok(Some(State::Done));
        }
        if self.trailers.len() >= self.trailers_max {
            return Err("the trailers are too many");
        }
        if self.strict && !matches!(grammar::field(&line), Ok(grammar::Header::Other)) {
            return Err("a trailer is malformed, or about the framing");
        }
        let (name, value) = field(&line).ok_or("a trailer is malformed")?;
        self.trailers.append(name, value);
        Ok(Some(State::Trailers))
    }
}

fn data_end(buffer: &mut BytesMut) -> Result<Option<State>, &'static str> {
    match buffer.get(..2) {
        Some(b"\r\n") => {
            buffer.advance(2);
            Ok(Some(State::Size))
        }
        None if b"\r\n".starts_with(buffer) => Ok(None),
        _ => Err("a chunk's data is not followed by CRLF"),
    }
}

fn size(buffer: &mut BytesMut) -> Result<Option<State>, &'static str> {
    let Some(line) = line(buffer, CHUNK_LINE_MAX, "a chunk's size line is too long")? else {
        return Ok(None);
    };
    match grammar::chunk_size(&line) {
        Ok(0) => Ok(Some(State::Trailers)),
        Ok(size) => Ok(Some(State::Data(size))),
        Err(_) => Err("a chunk's size line is malformed"),
    }
}

/// Takes a line of at most `limit` bytes, and leaves out its CRLF.
fn line(
    buffer: &mut BytesMut,
    limit: usize,
    too_long: &'static str,
) -> Result<Option<Bytes>, &'static str> {
    let end = memchr::memchr(b'\n', buffer);
    if end.unwrap_or(buffer.len()) >= limit {
        return Err(too_long);
    }
    let Some(end) = end else { return Ok(None) };
    let mut line = buffer.split_to(end + 1).freeze();
    if !line.ends_with(b"\r\n") {
        return Err("a line ends in LF without CR");
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

fn field(line: &Bytes) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at_checked(colon)?;
    // A copy: fields that come one by one would each hold the memory that they were read into.
    Some((
        HeaderName::from_bytes(name).ok()?,
        HeaderValue::from_bytes(grammar::trim(value.get(1..)?)).ok()?,
    ))
}

/// What follows a chunk.
pub(crate) const CHUNK_END: &[u8] = b"\r\n";
/// What follows the last chunk when there are no trailers.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Both.
pub(crate) const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// Writes the line that opens a chunk of `bytes` bytes, more than none.
pub(crate) fn write_size(out: &mut Vec<u8>, bytes: usize) {
    // Writing to memory does not fail.
    let _ = write!(out, "{bytes:x}\r\n");
}

/// Writes the last chunk and the trailer section with these fields.
pub(crate) fn write_trailers<'a>(
    out: &mut Vec<u8>,
    trailers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        write_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a field's line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "chunked_tests.rs"]
mod tests;
