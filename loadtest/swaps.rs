//! The part of `loadtest/swaps` that needs one exact clock: two upstreams that record when each
//! request reached them, clients that write into each request when they sent it, and the operator
//! who moves weights and times the replies.
//!
//! All of it is one process, so that every time is measured from the same `Instant`. Each
//! connection has its own thread and blocking sockets: nothing waits behind anything else between
//! the arrival of a request and its time stamp.

mod wire;

use std::{
    env,
    io::{self, BufRead, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::wire::Client;

/// Later than this after the reply, a request on the canary did not just lie in a socket at that
/// moment.
const GRACE: Duration = Duration::from_millis(5);
/// Open connections on which a request is sent as soon as the reply to a change is there.
const PROBES: usize = 8;
const HOST: &str = "swaps.test";
const HALF: &str = r#"{"weights":{"blue":50,"canary":50}}"#;
const NONE: &str = r#"{"weights":{"blue":100,"canary":0}}"#;

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || {
        args.next()
            .context("BLUE CANARY PROXY ADMIN CYCLES HOLD_MS CLIENTS: an argument is missing")
    };
    let (blue, canary) = (TcpListener::bind(next()?)?, TcpListener::bind(next()?)?);
    let (proxy, admin): (SocketAddr, SocketAddr) = (next()?.parse()?, next()?.parse()?);
    let (cycles, hold): (usize, u64) = (next()?.parse()?, next()?.parse()?);
    let clients: usize = next()?.parse()?;

    let scene = Scene {
        start: Instant::now(),
        record: Arc::default(),
    };
    scene.serve(blue, "blue", false);
    scene.serve(canary, "canary", true);
    scene.wait_for_load();
    for _ in 0..clients {
        let (scene, mut client) = (scene.clone(), Client::connect(proxy)?);
        thread::spawn(move || scene.ask_until_the_end(&mut client, proxy));
    }
    let mut operator = Operator::new(&scene, admin, proxy, Duration::from_millis(hold))?;
    for cycle in 0..cycles {
        operator.cycle(cycle)?;
    }
    scene.record.done.store(true, Ordering::Relaxed);
    say(&operator.report())?;

    // The load is stopped by whoever started it; only then do the counts stand still.
    io::stdin().lock().read_line(&mut String::new())?;
    say(&json!({ "blue": scene.record.blue.load(Ordering::Relaxed),
        "canary": scene.record.arrivals().len() }))
}

fn say(value: &serde_json::Value) -> Result<()> {
    Ok(writeln!(io::stdout(), "{value}")?)
}

/// A request on the canary; times are nanoseconds since the start.
#[derive(Clone, Copy)]
struct Arrival {
    received: u64,
    /// When its client sent it, if it was one of ours.
    sent: Option<u64>,
}

#[derive(Default)]
struct Record {
    blue: AtomicU64,
    canary: Mutex<Vec<Arrival>>,
    answers: AtomicU64,
    errors: AtomicU64,
    done: AtomicBool,
}

impl Record {
    fn arrivals(&self) -> Vec<Arrival> {
        self.canary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Clone)]
struct Scene {
    start: Instant,
    record: Arc<Record>,
}

impl Scene {
    fn now(&self) -> u64 {
        self.start
            .elapsed()
            .as_nanos()
            .try_into()
            .unwrap_or(u64::MAX)
    }

    /// Answers every request on a listener with the upstream's name, and records it.
    fn serve(&self, listener: TcpListener, name: &'static str, is_canary: bool) {
        let scene = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let scene = scene.clone();
                thread::spawn(move || scene.answer(stream, name, is_canary));
            }
        });
    }

    fn answer(&self, mut stream: TcpStream, name: &str, is_canary: bool) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        );
        let (mut pending, mut chunk) = (Vec::new(), [0; 16384]);
        loop {
            let read = stream.read(&mut chunk)?;
            let received = self.now();
            if read == 0 {
                return Ok(());
            }
            pending.extend_from_slice(chunk.get(..read).unwrap_or_default());
            while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = pending.drain(..end + 4).collect();
                self.count(
                    is_canary,
                    Arrival {
                        received,
                        sent: sent_at(&head),
                    },
                );
                stream.write_all(answer.as_bytes())?;
            }
        }
    }

    fn count(&self, is_canary: bool, arrival: Arrival) {
        if is_canary {
            self.record
                .canary
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(arrival);
        } else {
            self.record.blue.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The load is started after the upstreams; until it flows there is nothing to see.
    fn wait_for_load(&self) {
        while self.record.blue.load(Ordering::Relaxed) < 1000 {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask_until_the_end(&self, client: &mut Client, proxy: SocketAddr) {
        while !self.record.done.load(Ordering::Relaxed) {
            if let Err(error) = client
                .send(HOST, &stamp(self.now()))
                .and_then(|()| client.receive())
            {
                self.failed(&error);
                if let Ok(fresh) = Client::connect(proxy) {
                    *client = fresh;
                }
            }
            self.record.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        self.record.errors.fetch_add(1, Ordering::Relaxed);
        let _ = writeln!(
            io::stderr(),
            "{:.6}: {error:#}",
            self.start.elapsed().as_secs_f64()
        );
    }
}

/// The header in which our clients write the time.
fn stamp(now: u64) -> String {
    format!("X-Sent-Ns: {now}\r\n")
}

/// The time that one of our clients wrote into its request.
fn sent_at(head: &[u8]) -> Option<u64> {
    let name = b"x-sent-ns:";
    let line = head.split(|byte| *byte == b'\n').find(|line| {
        line.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
    })?;
    std::str::from_utf8(line.get(name.len()..)?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A span in which nothing may be sent to the canary: from the reply to the next change.
struct Closed {
    from: u64,
    until: u64,
}

/// A request that reached the canary after the reply.
struct Behind {
    nanoseconds: u64,
    sent_after: bool,
}

/// How long the three kinds of change took, in nanoseconds.
#[derive(Default)]
struct Replies {
    up: Vec<u64>,
    down: Vec<u64>,
    rollback: Vec<u64>,
}

struct Operator {
    scene: Scene,
    admin: Client,
    probes: Vec<Client>,
    hold: Duration,
    closed: Vec<Closed>,
    replies: Replies,
}

impl Operator {
    fn new(scene: &Scene, admin: SocketAddr, proxy: SocketAddr, hold: Duration) -> Result<Self> {
        let (admin, scene) = (Client::connect(admin)?, scene.clone());
        let probes = (0..PROBES)
            .map(|_| Client::connect(proxy))
            .collect::<Result<_>>()?;
        Ok(Self {
            scene,
            admin,
            probes,
            hold,
            closed: Vec::new(),
            replies: Replies::default(),
        })
    }

    /// Half of the traffic to the canary, and away again: by weights and by the rollback call in
    /// turns.
    fn cycle(&mut self, cycle: usize) -> Result<()> {
        self.open()?;
        thread::sleep(self.hold);
        let from = self.close(cycle % 2 == 1)?;
        self.probe();
        thread::sleep(self.hold);
        self.closed.push(Closed {
            from,
            until: self.scene.now(),
        });
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let before = self.scene.now();
        self.admin
            .call("PUT", "/api/v1/services/swaps/weights", HALF)
            .context("50 % to the canary")?;
        self.replies.up.push(self.scene.now() - before);
        Ok(())
    }

    /// Returns when the reply was there.
    fn close(&mut self, by_rollback: bool) -> Result<u64> {
        let before = self.scene.now();
        if by_rollback {
            self.admin
                .call("POST", "/api/v1/services/swaps/rollback", "{}")
                .context("rollback")?;
        } else {
            self.admin
                .call("PUT", "/api/v1/services/swaps/weights", NONE)
                .context("0 % to the canary")?;
        }
        let after = self.scene.now();
        let replies = if by_rollback {
            &mut self.replies.rollback
        } else {
            &mut self.replies.down
        };
        replies.push(after - before);
        Ok(after)
    }

    /// Requests as soon after the reply as can be, on connections that were open before.
    fn probe(&mut self) {
        let scene = &self.scene;
        for probe in &mut self.probes {
            if let Err(error) = probe.send(HOST, &stamp(scene.now())) {
                scene.failed(&error);
            }
        }
        for probe in &mut self.probes {
            match probe.receive() {
                Ok(_) => scene.record.answers.fetch_add(1, Ordering::Relaxed),
                Err(error) => return scene.failed(&error),
            };
        }
    }

    fn report(&self) -> serde_json::Value {
        let mut arrivals = self.scene.record.arrivals();
        arrivals.sort_unstable_by_key(|arrival| arrival.received);
        let after = self.behind(&arrivals);
        let sent_after = after.iter().filter(|behind| behind.sent_after).count();
        let late = after
            .iter()
            .filter(|behind| u128::from(behind.nanoseconds) > GRACE.as_nanos())
            .count();
        json!({
            "cycles": self.closed.len(),
            "cycles_with_canary": self.open_spans_with(&arrivals),
            "canary_requests": arrivals.len(),
            "checked_answers": self.scene.record.answers.load(Ordering::Relaxed),
            "client_errors": self.scene.record.errors.load(Ordering::Relaxed),
            "sent_after_reply": sent_after,
            "received_after_reply": after.len(),
            "received_late": late,
            "last_received_us":
                after.iter().map(|behind| behind.nanoseconds).max().unwrap_or_default() / 1000,
            "reply_us": {
                "up": percentiles(&self.replies.up),
                "down": percentiles(&self.replies.down),
                "rollback": percentiles(&self.replies.rollback),
            },
        })
    }

    /// The requests that reached the canary in a closed span. One that was sent in it but arrived
    /// after its end may well have been routed by the next change, so the arrival decides, not
    /// the sending.
    fn behind(&self, arrivals: &[Arrival]) -> Vec<Behind> {
        let span_of = |at: u64| {
            self.closed
                .get(self.closed.partition_point(|span| span.until < at))
        };
        arrivals
            .iter()
            .filter_map(|arrival| Some((arrival, span_of(arrival.received)?)))
            .filter(|(arrival, span)| span.from <= arrival.received)
            .map(|(arrival, span)| Behind {
                nanoseconds: arrival.received - span.from,
                sent_after: arrival.sent.is_some_and(|sent| span.from <= sent),
            })
            .collect()
    }

    /// A canary that never got anything would pass every check.
    fn open_spans_with(&self, arrivals: &[Arrival]) -> usize {
        let mut opened = 0;
        let mut with = 0;
        for span in &self.closed {
            let first = arrivals.partition_point(|arrival| arrival.received < opened);
            with += usize::from(
                arrivals
                    .get(first)
                    .is_some_and(|arrival| arrival.received < span.from),
            );
            opened = span.until;
        }
        with
    }
}

/// Median, 99th percentile and maximum of nanoseconds, in microseconds.
fn percentiles(nanoseconds: &[u64]) -> [u64; 3] {
    let mut sorted: Vec<u64> = nanoseconds.iter().map(|ns| ns / 1000).collect();
    sorted.sort_unstable();
    let at = |hundredths: usize| {
        sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1)))
    };
    [50, 99, 100].map(|hundredths| at(hundredths).copied().unwrap_or_default())
}
