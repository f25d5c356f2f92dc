//! A fake admin API with scripted responses for any number of calls.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Asked, Ended, read_request, weighbridge};

/// A scripted response.
pub(crate) enum Reply {
    Json(u16, Value),
    Problem(u16, &'static str),
    /// Events, then the end of the stream or silence.
    Events {
        events: Vec<(u64, Value)>,
        then_end: bool,
    },
    /// The connection is closed without a response.
    Nothing,
}

/// A running fake admin API.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl StandIn {
    /// Answers each call with the result of `play` for its method and path.
    pub(crate) fn playing(play: impl FnMut(&str) -> Reply + Send + 'static) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, play) = (Arc::clone(&asked), Arc::new(Mutex::new(play)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, seen, play) = (stream.unwrap(), Arc::clone(&seen), Arc::clone(&play));
                std::thread::spawn(move || serve(stream, &seen, &*play));
            }
        });
        StandIn { address, asked }
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
    pub(crate) fn asked(&self, line: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.line.starts_with(line))
            .cloned()
            .collect()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, play: &Mutex<impl FnMut(&str) -> Reply>) {
    let asked = read_request(&stream);
    let line = asked.line.trim_end_matches(" HTTP/1.1").to_owned();
    seen.lock().unwrap().push(asked);
    let reply = play.lock().unwrap()(&line);
    let said = match reply {
        Reply::Json(status, body) => say(&mut stream, status, "application/json", &body),
        Reply::Problem(status, detail) => {
            let body = json!({ "type": "/problems/some", "title": "Some", "status": status,
            "detail": detail });
            say(&mut stream, status, "application/problem+json", &body)
        }
        Reply::Events { events, then_end } => tell(&mut stream, &events, then_end),
        Reply::Nothing => Ok(()),
    };
    // The client may have disconnected.
    drop(said);
}

fn say(stream: &mut TcpStream, status: u16, kind: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn tell(stream: &mut TcpStream, events: &[(u64, Value)], then_end: bool) -> std::io::Result<()> {
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
        // Until the client disconnects.
        let _ = std::io::Read::read(stream, &mut [0]);
    }
    Ok(())
}
