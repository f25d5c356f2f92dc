//! The recorder of `loadtest/reflex`: users, a baseline, a canary that always fails, and
//! consecutive releases, with the times of every exchange on either version.
//!
//! A single process, so that every time is measured from the same `Instant` (CLOCK_MONOTONIC). Each
//! connection has its own thread and blocking sockets: nothing delays the time stamp after a first
//! byte.

mod wire;

use std::{
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::wire::Client;

/// Threads of users; each has at most one request in flight, and responses take well under a
/// millisecond.
const USERS: u32 = 20;
/// Far more than a release of a canary that always fails takes.
const RELEASE_MAX: Duration = Duration::from_secs(30);
/// Requests in flight at the end of a release have arrived by then.
const SETTLE: Duration = Duration::from_millis(100);
/// Polling interval of a release.
const POLL: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = || {
        args.next()
            .context("BLUE CANARY PROXY ADMIN RATE RUNS SEED: an argument is missing")
    };
    let (blue, canary) = (TcpListener::bind(next()?)?, TcpListener::bind(next()?)?);
    let (proxy, admin): (SocketAddr, SocketAddr) = (next()?.parse()?, next()?.parse()?);
    let (rate, runs, seed): (f64, usize, u64) =
        (next()?.parse()?, next()?.parse()?, next()?.parse()?);

    let scene = Scene::new(seed);
    scene.serve(blue, Side::Baseline);
    scene.serve(canary, Side::Canary);
    wait_for(proxy)?;
    scene.start_users(proxy, rate / f64::from(USERS));
    scene.wait_for_load();
    let mut operator = Operator {
        scene: &scene,
        admin: Client::connect(admin)?,
    };
    for run in 0..runs {
        let result = operator
            .release(run)
            .with_context(|| format!("run {run}"))?;
        writeln!(io::stdout(), "{result}")?;
    }
    Ok(())
}

/// Waits for the proxy, which starts later since it checks its upstreams.
fn wait_for(proxy: SocketAddr) -> Result<()> {
    let until = Instant::now() + RELEASE_MAX;
    while let Err(error) = TcpStream::connect(proxy) {
        ensure!(Instant::now() < until, "the proxy does not listen: {error}");
        thread::sleep(POLL);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Baseline,
    Canary,
}

/// A request on a version: when its first byte was read and the last byte of its response written,
/// in nanoseconds since the start.
#[derive(Clone, Copy)]
struct Exchange {
    start: u64,
    /// 0 before the response.
    end: u64,
}

/// State shared by all threads.
#[derive(Clone)]
struct Scene {
    start: Instant,
    baseline: Arc<Mutex<Vec<Exchange>>>,
    canary: Arc<Mutex<Vec<Exchange>>>,
    responses: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
    seed: u64,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        Scene {
            start: Instant::now(),
            baseline: Arc::default(),
            canary: Arc::default(),
            responses: Arc::default(),
            failures: Arc::default(),
            seed,
        }
    }

    fn now(&self) -> u64 {
        self.start
            .elapsed()
            .as_nanos()
            .try_into()
            .unwrap_or(u64::MAX)
    }

    fn of(&self, side: Side) -> MutexGuard<'_, Vec<Exchange>> {
        let exchanges = match side {
            Side::Baseline => &self.baseline,
            Side::Canary => &self.canary,
        };
        exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, listener: TcpListener, side: Side) {
        let scene = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let scene = scene.clone();
                thread::spawn(move || scene.respond(stream, side));
            }
        });
    }

    fn respond(&self, mut stream: TcpStream, side: Side) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let status = match side {
            Side::Baseline => "200 OK",
            Side::Canary => "500 Internal Server Error",
        };
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n.\n");
        let (mut pending, mut chunk) = (Vec::new(), [0; 16384]);
        loop {
            let read = stream.read(&mut chunk)?;
            let start = self.now();
            if read == 0 {
                return Ok(());
            }
            pending.extend_from_slice(chunk.get(..read).unwrap_or_default());
            while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                pending.drain(..end + 4);
                let place = self.begun(side, start);
                stream.write_all(response.as_bytes())?;
                self.ended(side, place);
            }
        }
    }

    fn begun(&self, side: Side, start: u64) -> usize {
        let mut exchanges = self.of(side);
        exchanges.push(Exchange { start, end: 0 });
        exchanges.len() - 1
    }

    fn ended(&self, side: Side, place: usize) {
        let now = self.now();
        if let Some(exchange) = self.of(side).get_mut(place) {
            exchange.end = now;
        }
    }

    /// Starts users that send requests at random times, each thread at `rate` per second.
    fn start_users(&self, proxy: SocketAddr, rate: f64) {
        for number in 0..USERS {
            let scene = self.clone();
            let rng = fastrand::Rng::with_seed(self.seed + u64::from(number));
            thread::spawn(move || scene.send_requests(proxy, rate, rng));
        }
    }

    fn send_requests(&self, proxy: SocketAddr, rate: f64, mut rng: fastrand::Rng) {
        let (mut client, mut next) = (None, Instant::now());
        loop {
            next += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            match self.exchange(&mut client, proxy) {
                Ok(200) => self.responses.fetch_add(1, Ordering::Relaxed),
                Ok(_) => self.failures.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    client = None;
                    let _ = writeln!(
                        io::stderr(),
                        "{:.6}: {error:#}",
                        self.start.elapsed().as_secs_f64()
                    );
                    self.failures.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }

    fn exchange(&self, client: &mut Option<Client>, proxy: SocketAddr) -> Result<u16> {
        let client = match client {
            Some(client) => client,
            None => client.insert(Client::connect(proxy)?),
        };
        client.send("reflex.test", "")?;
        Ok(client.response()?.0)
    }

    fn wait_for_load(&self) {
        while self.responses.load(Ordering::Relaxed) < 3000 {
            thread::sleep(POLL);
        }
    }
}

/// Starts releases and records their results.
struct Operator<'a> {
    scene: &'a Scene,
    admin: Client,
}

impl Operator<'_> {
    fn release(&mut self, run: usize) -> Result<Value> {
        let failures = self.scene.failures.load(Ordering::Relaxed);
        let requests = self.scene.of(Side::Canary).len();
        let from = self.scene.now();
        let start = json!({ "canary": "canary", "version": format!("build-{run}") });
        let started = self.admin.call(
            "POST",
            "/api/v1/services/reflex/releases",
            &start.to_string(),
        )?;
        let started: Value = serde_json::from_str(&started)?;
        let id = started
            .get("id")
            .and_then(Value::as_str)
            .context("the release has no id")?
            .to_owned();
        let release = self.wait_for_end(&id)?;
        thread::sleep(SETTLE);
        let evidence = self.get(&format!("releases/{id}/evidence"))?;
        let visible = self.scene.failures.load(Ordering::Relaxed) - failures;
        let canary = self.exchanges(Side::Canary, from);
        ensure!(
            canary.len() == self.scene.of(Side::Canary).len() - requests,
            "a request arrived before the release"
        );
        Ok(json!({
            "id": id,
            "outcome": release.get("outcome"),
            "budget": release.get("budget"),
            "rescued": release.get("rescued"),
            "judged": evidence.pointer("/judge/canary"),
            "visible": visible,
            "canary": pairs(&canary),
            "baseline": pairs(&self.exchanges(Side::Baseline, from)),
        }))
    }

    fn get(&mut self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.admin.call(
            "GET",
            &format!("/api/v1/{path}"),
            "",
        )?)?)
    }

    fn wait_for_end(&mut self, id: &str) -> Result<Value> {
        let until = Instant::now() + RELEASE_MAX;
        loop {
            let release = self.get(&format!("releases/{id}"))?;
            if release.get("ended_at").is_some_and(Value::is_string) {
                return Ok(release);
            }
            ensure!(Instant::now() < until, "the release did not end: {release}");
            thread::sleep(POLL);
        }
    }

    /// The exchanges since `from`, in the order of their first bytes.
    fn exchanges(&self, side: Side, from: u64) -> Vec<Exchange> {
        let all = self.scene.of(side);
        let mut since: Vec<_> = all
            .iter()
            .copied()
            .filter(|exchange| exchange.start >= from)
            .collect();
        since.sort_unstable_by_key(|exchange| exchange.start);
        since
    }
}

fn pairs(exchanges: &[Exchange]) -> Vec<[u64; 2]> {
    exchanges
        .iter()
        .map(|exchange| [exchange.start, exchange.end])
        .collect()
}
