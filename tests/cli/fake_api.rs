//! A fake admin API with scripted responses for any number of calls.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Ended, weighbridge};

/// A request received by the fake admin API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (key, value) = header.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A scripted response.
pub(crate) enum Reply {
    Json(u16, Value),
    Problem(u16, &'static str),
    /// Events, then the end of the stream or silence.
    Events {
        events: Vec<(u64, Value)>,
        then_end: bool,
    },
    /// Closes the connection without a response.
    Close,
}

/// A running fake admin API.
pub(crate) struct FakeApi {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeApi {
    /// Responds to each call with the result of `script` for its method and path.
    pub(crate) fn scripted(script: impl FnMut(&str) -> Reply + Send + 'static) -> FakeApi {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (received, script) = (Arc::clone(&requests), Arc::new(Mutex::new(script)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, received) = (stream.unwrap(), Arc::clone(&received));
                let script = Arc::clone(&script);
                std::thread::spawn(move || serve(stream, &received, &*script));
            }
        });
        FakeApi { address, requests }
    }

    pub(crate) fn admin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        let admin = self.admin();
        let all: Vec<&str> = arguments
            .iter()
            .copied()
            .chain(["--admin", &admin])
            .collect();
        weighbridge(&all)
    }

    /// The calls whose request line starts with `line`.
    pub(crate) fn requests(&self, line: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.line.starts_with(line))
            .cloned()
            .collect()
    }
}

fn serve(
    mut stream: TcpStream,
    received: &Mutex<Vec<Request>>,
    script: &Mutex<impl FnMut(&str) -> Reply>,
) {
    let request = read_request(&stream);
    let line = request.line.trim_end_matches(" HTTP/1.1").to_owned();
    received.lock().unwrap().push(request);
    let reply = script.lock().unwrap()(&line);
    let written = match reply {
        Reply::Json(status, body) => write_response(&mut stream, status, "application/json", &body),
        Reply::Problem(status, detail) => {
            let body = json!({
                "type": "/problems/some", "title": "Some", "status": status, "detail": detail,
            });
            write_response(&mut stream, status, "application/problem+json", &body)
        }
        Reply::Events { events, then_end } => write_events(&mut stream, &events, then_end),
        Reply::Close => Ok(()),
    };
    // An error is ignored: the client may have disconnected.
    drop(written);
}

fn write_response(
    stream: &mut TcpStream,
    status: u16,
    kind: &str,
    body: &Value,
) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn write_events(
    stream: &mut TcpStream,
    events: &[(u64, Value)],
    then_end: bool,
) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: \
         open\nretry: 1000\n\n"
    )?;
    for (id, event) in events {
        let kind = event["type"].as_str().unwrap();
        write!(stream, "id: {id}\nevent: {kind}\ndata: {event}\n\n")?;
    }
    stream.flush()?;
    if !then_end {
        // Waits until the client disconnects.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

/// Reads a request with its body.
pub(crate) fn read_request(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let mut request = Request {
        line,
        headers: lines,
        body: String::new(),
    };
    let length = request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request.body = String::from_utf8(body).unwrap();
    request
}
