//! The connections of `loadtest/viewers`: an operator whose rollbacks are timed, and clients that
//! must not delay them.

#[expect(dead_code, reason = "the operator only makes calls")]
mod wire;

use std::{
    env,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::wire::Client;

/// Connections that send only half of a request, or read nothing.
const CROWD: usize = 1_000;
const VIEWERS: usize = 4;
/// Delay before a connection that the proxy closed is reopened.
const REOPEN: Duration = Duration::from_millis(250);
/// Time for the other clients to start before the first rollback.
const WARM_UP: Duration = Duration::from_secs(1);
/// Pause between two rollbacks.
const PAUSE: Duration = Duration::from_millis(10);

const LIST: &str = "GET /api/v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF_HEAD: &str = "GET /api/v1/services HTTP/1.1\r\nHost: localh";
const HALF_BODY: &str = "PUT /api/v1/services/s0/weights HTTP/1.1\r\nHost: \
                         localhost\r\nContent-Type: application/json\r\nContent-Length: \
                         50\r\n\r\n{";

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || {
        args.next()
            .context("ADMIN RUNS SITUATION: an argument is missing")
    };
    let (admin, runs, situation): (SocketAddr, usize, String) =
        (next()?.parse()?, next()?.parse()?, next()?);
    let scene = Arc::new(Scene::default());
    let mut others = Vec::new();
    match situation.as_str() {
        "idle" | "reload" => {}
        "heads" => others.push(crowd(&scene, admin, HALF_HEAD)),
        "bodies" => others.push(crowd(&scene, admin, HALF_BODY)),
        "unread" => others.push(crowd(&scene, admin, LIST)),
        "viewers" => others.extend((0..VIEWERS).map(|_| viewer(&scene, admin, LIST))),
        "scrapes" => {
            let scrape = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            others.extend((0..VIEWERS).map(|_| viewer(&scene, admin, scrape)));
        }
        other => bail!("no situation {other:?}"),
    }
    thread::sleep(WARM_UP);
    let mut times = Vec::new();
    for run in 0..runs {
        let service = format!("/api/v1/services/s{}", run % 10);
        let half = json!({ "weights": { "blue": 50, "green": 50 } }).to_string();
        Client::connect(admin)?.call("PUT", &format!("{service}/weights"), &half)?;
        let began = Instant::now();
        Client::connect(admin)?.call("POST", &format!("{service}/rollback"), "{}")?;
        times.push(began.elapsed().as_micros());
        thread::sleep(PAUSE);
    }
    scene.over.store(true, Ordering::Relaxed);
    let served = scene.served.load(Ordering::Relaxed);
    for other in others {
        let _ = other.join();
    }
    writeln!(
        io::stdout(),
        "{}",
        json!({ "times_us": times, "served": served })
    )?;
    Ok(())
}

#[derive(Default)]
struct Scene {
    over: AtomicBool,
    /// Responses that viewers have read, or connections that the crowd has opened.
    served: AtomicU64,
}

impl Scene {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Connections that send `text` and then nothing, and read nothing; closed ones are reopened.
fn crowd(scene: &Arc<Scene>, admin: SocketAddr, text: &'static str) -> thread::JoinHandle<()> {
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        let mut all: Vec<Option<TcpStream>> = (0..CROWD).map(|_| None).collect();
        while !scene.is_over() {
            for one in &mut all {
                if one.as_ref().is_none_or(is_closed) {
                    *one = open(admin, text).ok();
                    scene.served.fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(REOPEN);
        }
    })
}

fn open(admin: SocketAddr, text: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(admin)?;
    // The smallest receive buffer, so that little of the response is accepted.
    socket2::SockRef::from(&stream).set_recv_buffer_size(4096)?;
    stream.write_all(text.as_bytes())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Nothing is read, so a close is detected only if no data came before it.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        Ok(_) => stream.take_error().is_ok_and(|error| error.is_some()),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Sends the same request repeatedly and reads the responses.
fn viewer(scene: &Arc<Scene>, admin: SocketAddr, ask: &'static str) -> thread::JoinHandle<()> {
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        while !scene.is_over() {
            if let Err(error) = view(&scene, admin, ask) {
                let _ = writeln!(io::stderr(), "a viewer reconnects: {error:#}");
                thread::sleep(REOPEN);
            }
        }
    })
}

fn view(scene: &Scene, admin: SocketAddr, ask: &str) -> Result<()> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut buffer = vec![0; 256 << 10];
    while !scene.is_over() {
        stream.write_all(ask.as_bytes())?;
        let mut head = Vec::new();
        let mut remaining = loop {
            let read = stream.read(&mut buffer)?;
            head.extend_from_slice(buffer.get(..read).unwrap_or_default());
            if let Some(remaining) = remaining(&head)? {
                break remaining;
            }
            if read == 0 {
                bail!("the connection was closed");
            }
        };
        while remaining > 0 {
            match stream.read(&mut buffer)? {
                0 => bail!("the connection was closed within a response"),
                read => remaining = remaining.saturating_sub(read),
            }
        }
        scene.served.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Length of the rest of the body; `None` while the head is incomplete.
fn remaining(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        bail!("{head}");
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("no content-length")?.trim().parse()?;
    Ok(Some((end + 4 + length).saturating_sub(bytes.len())))
}
