//! HTTP/1.1 on a blocking socket, one request at a time: the client of `swaps.rs` and `reflex.rs`.
//! A call writes its bytes directly, so that it can be timed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A keep-alive connection.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream })
    }

    /// Sends a GET with an additional header line, which is empty or ends in CRLF.
    pub(crate) fn send(&mut self, host: &str, header: &str) -> Result<()> {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{header}\r\n");
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Calls the admin API and returns the body of its successful response.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &str) -> Result<String> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        );
        self.stream
            .write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())?;
        self.receive()
    }

    /// The body of a successful response; any other is an error.
    pub(crate) fn receive(&mut self) -> Result<String> {
        let (status, body) = self.response()?;
        if !(200..300).contains(&status) {
            bail!("status {status}: {body}");
        }
        Ok(body)
    }

    /// Status and body of a response.
    pub(crate) fn response(&mut self) -> Result<(u16, String)> {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 16384]);
        loop {
            let read = self.stream.read(&mut chunk)?;
            ensure!(read > 0, "the connection was closed within an exchange");
            bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
            if let Some(complete) = complete(&bytes)? {
                return Ok(complete);
            }
        }
    }
}

fn complete(bytes: &[u8]) -> Result<Option<(u16, String)>> {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .context("no content-length")?;
    Ok((body.len() >= length.trim().parse()?).then(|| (status, body.to_owned())))
}
