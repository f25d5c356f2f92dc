//! Raw HTTP/1.1: parsed by hand so that nothing is repaired, written as the case says.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::DEADLINE;

/// A socket and its read buffer.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
}

/// The first line and the fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) headers: Fields,
}

/// Framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// Ends with the connection.
    Close,
}

/// Field names in lower case, and values.
pub(crate) type Fields = Vec<(String, String)>;

/// A body and its trailers.
pub(crate) type Body = (Vec<u8>, Fields);

fn cut(what: &str) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, what.to_owned())
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Wire {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends as much of `bytes` as the peer accepts at once.
    pub(crate) fn offer(&mut self, bytes: &[u8]) {
        self.stream.set_nonblocking(true).unwrap();
        let mut at = 0;
        while let Ok(taken @ 1..) = self.stream.write(&bytes[at..]) {
            at += taken;
        }
        self.stream.set_nonblocking(false).unwrap();
    }

    /// Sends this byte repeatedly until the peer accepts no more.
    pub(crate) fn push(&mut self, byte: u8) {
        self.stream.set_nonblocking(true).unwrap();
        let mut refused = 0;
        while refused < 100 {
            if self
                .stream
                .write(&[byte; 64 * 1024])
                .is_ok_and(|bytes| bytes > 0)
            {
                refused = 0;
            } else {
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.stream.set_nonblocking(false).unwrap();
    }

    /// Reads more into the buffer; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 64 * 1024];
        let bytes = self.stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..bytes]);
        Ok(bytes > 0)
    }

    /// The next line without its CRLF; `None` at the end of the stream between messages.
    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if !self.fill()? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(cut("the stream ended within a line"))
                };
            }
        }
    }

    fn fields(&mut self) -> io::Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let line = self
                .line()?
                .ok_or_else(|| cut("the stream ended within a head"))?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| io::Error::other(format!("not a field: {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The head of the next message; `None` if the peer closed before it.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(first) = self.line()? else {
            return Ok(None);
        };
        Ok(Some(Head {
            first,
            headers: self.fields()?,
        }))
    }

    /// Reads `length` bytes.
    pub(crate) fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Err(cut("the stream ended within a body"));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// A chunk, or the trailers after the last one.
    pub(crate) fn chunk(&mut self) -> io::Result<Result<Vec<u8>, Fields>> {
        let line = self
            .line()?
            .ok_or_else(|| cut("the stream ended between chunks"))?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
            .map_err(io::Error::other)?;
        if size == 0 {
            return Ok(Err(self.fields()?));
        }
        let data = self.exactly(size)?;
        match &*self.exactly(2)? {
            b"\r\n" => Ok(Ok(data)),
            other => Err(io::Error::other(format!(
                "a chunk is followed by {other:?}"
            ))),
        }
    }

    pub(crate) fn body(&mut self, framing: Framing) -> io::Result<Body> {
        match framing {
            Framing::Length(length) => {
                Ok((self.exactly(usize::try_from(length).unwrap())?, Vec::new()))
            }
            Framing::Close => {
                while self.fill()? {}
                Ok((std::mem::take(&mut self.buffer), Vec::new()))
            }
            Framing::Chunked => {
                let mut body = Vec::new();
                loop {
                    match self.chunk()? {
                        Ok(mut data) => body.append(&mut data),
                        Err(trailers) => return Ok((body, trailers)),
                    }
                }
            }
        }
    }

    /// Waits until the peer closes or resets the connection; `false` if it does not.
    pub(crate) fn ends(&mut self) -> bool {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Like [`Wire::ends`], and the peer sent nothing more.
    pub(crate) fn closes(&mut self) -> bool {
        self.ends() && self.buffer.is_empty()
    }

    /// Whether the peer has sent data or closed the connection.
    pub(crate) fn has_news(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let input = self.fill();
        self.stream.set_nonblocking(false).unwrap();
        !self.buffer.is_empty()
            || !matches!(input, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Head {
    /// The values of a field, joined with commas.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(known, _)| known == name)
            .map(|(_, value)| &**value)
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub(crate) fn length(&self) -> Option<u64> {
        self.header("content-length").map(|length| {
            length
                .parse()
                .unwrap_or_else(|_| panic!("{length:?} in {self:?}"))
        })
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.header(name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{self:?}\n{}", self.text());
        self
    }
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) wire: Wire,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Client> {
        TcpStream::connect_timeout(&address, DEADLINE).map(|stream| Client {
            wire: Wire::new(stream),
        })
    }

    /// Sends raw bytes. An error is ignored: a closed connection shows when the response is read.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        let _ = self.wire.write(bytes);
        self
    }

    /// Sends a GET of `path`; each line of `headers` ends in CRLF.
    pub(crate) fn ask(&mut self, path: &str, headers: &str) -> &mut Client {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: shop.test\r\n{headers}\r\n"
        ))
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.ask(path, "").receive()
    }

    #[track_caller]
    pub(crate) fn receive(&mut self) -> Response {
        self.try_receive()
            .unwrap_or_else(|error| panic!("no complete response: {error}"))
    }

    /// Like [`Client::receive`], after any interim responses.
    #[track_caller]
    pub(crate) fn receive_final(&mut self) -> Response {
        loop {
            let response = self.receive();
            if response.status >= 200 {
                return response;
            }
        }
    }

    /// The response to any method but HEAD; an error if it is incomplete.
    pub(crate) fn try_receive(&mut self) -> io::Result<Response> {
        let head = self.head()?;
        let status = status(&head);
        let framing = match (status, head.is_chunked(), head.length()) {
            (100..=199 | 204 | 304, ..) => Framing::Length(0),
            (_, true, None) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::Close,
            (_, true, Some(_)) => {
                return Err(io::Error::other(format!("conflicting framing: {head:?}")));
            }
        };
        let (body, trailers) = self.wire.body(framing)?;
        Ok(Response {
            status,
            head,
            body,
            trailers,
        })
    }

    /// Only the head of the next response.
    pub(crate) fn head(&mut self) -> io::Result<Head> {
        self.wire
            .head()?
            .ok_or_else(|| cut("the connection ended without a response"))
    }

    /// Shuts the write half down and keeps reading.
    pub(crate) fn half_close(&self) {
        self.wire
            .stream
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        reset(self.wire.stream);
    }
}

/// The status code of a response head.
pub(crate) fn status(head: &Head) -> u16 {
    head.first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("{head:?}"))
}

/// Closes a connection with a reset.
pub(super) fn reset(stream: TcpStream) {
    // A socket that is already closed needs no reset.
    let _ = socket2::Socket::from(stream).set_linger(Some(Duration::ZERO));
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address)
        .ask(path, "Connection: close\r\n")
        .receive_final()
}
