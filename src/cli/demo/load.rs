//! The demo's users: requests at a steady rate, whether or not the answers come.
//!
//! A new request never waits for the answer of an earlier one, as users do not wait for each other:
//! a closed loop would send less just when the answers are slow, and so hide what the users see.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::upstream::VERSION_HEADER;

/// Requests by second.
pub(super) const RATE: u32 = 300;
/// Requests that wait for their answers. At this many, further ones are not sent: it is the machine
/// that is too busy, and that is told, and is no failure of the shop.
const IN_FLIGHT_MAX: usize = 256;
/// A user's patience.
const PATIENCE: Duration = Duration::from_secs(5);
/// The newest requests that are remembered one by one: a minute and more.
const LOG_MAX: usize = 32_768;

type Connection = SendRequest<Empty<Bytes>>;

/// One request, as its user saw it.
#[derive(Clone, Debug)]
pub(super) struct UserRequest {
    /// When its first byte was about to be sent.
    pub(super) sent: Instant,
    /// When its answer was there, or the user gave up.
    pub(super) done: Instant,
    /// The version that answered, if one did.
    pub(super) version: Option<String>,
    pub(super) failed: bool,
}

/// What the users have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadTotals {
    pub(super) requests: u64,
    pub(super) failures: u64,
    /// Requests that were due and were not sent.
    pub(super) unsent: u64,
}

/// The running load; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    log: Arc<Mutex<Log>>,
    running: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Log {
    totals: LoadTotals,
    newest: VecDeque<UserRequest>,
}

impl Load {
    /// Starts sending to `proxy`.
    pub(super) fn start(proxy: SocketAddr) -> Load {
        let log = Arc::new(Mutex::new(Log::default()));
        let running = tokio::spawn(send(proxy, Arc::clone(&log)));
        Load { log, running }
    }

    pub(super) fn totals(&self) -> LoadTotals {
        lock(&self.log).totals
    }

    /// The requests that `of` is true of, among those that are remembered.
    pub(super) fn samples(&self, of: impl Fn(&UserRequest) -> bool) -> Vec<UserRequest> {
        lock(&self.log)
            .newest
            .iter()
            .filter(|sample| of(sample))
            .cloned()
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Sends for as long as it is let.
async fn send(proxy: SocketAddr, log: Arc<Mutex<Log>>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let idle = Arc::new(Mutex::new(Vec::new()));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            lock(&log).totals.unsent += 1;
            continue;
        };
        let (idle, log) = (Arc::clone(&idle), Arc::clone(&log));
        tokio::spawn(async move {
            let sent = Instant::now();
            let answer = tokio::time::timeout(PATIENCE, one(proxy, &idle)).await;
            record(&log, sent, answer.ok().flatten());
            drop(place);
        });
    }
}

/// One request on an idle connection or a new one: the version that answered, and whether it was a
/// failure. `None` without a whole answer.
async fn one(proxy: SocketAddr, idle: &Mutex<Vec<Connection>>) -> Option<(String, bool)> {
    let mut connection = connection(proxy, idle).await?;
    let request = Request::get("/").header(HOST, "shop.example.com");
    let answer = connection
        .send_request(request.body(Empty::new()).ok()?)
        .await
        .ok()?;
    let version = answer
        .headers()
        .get(VERSION_HEADER)
        .and_then(|name| name.to_str().ok());
    let (version, failed) = (
        version.unwrap_or_default().to_owned(),
        !answer.status().is_success(),
    );
    answer.into_body().collect().await.ok()?;
    lock(idle).push(connection);
    Some((version, failed))
}

async fn connection(proxy: SocketAddr, idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    loop {
        let Some(mut connection) = lock(idle).pop() else {
            break;
        };
        if connection.ready().await.is_ok() {
            return Some(connection);
        }
    }
    let stream = TcpStream::connect(proxy).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

fn record(log: &Mutex<Log>, sent: Instant, answer: Option<(String, bool)>) {
    let (version, failed) =
        answer.map_or((None, true), |(version, failed)| (Some(version), failed));
    let mut log = lock(log);
    log.totals.requests += 1;
    log.totals.failures += u64::from(failed);
    if log.newest.len() == LOG_MAX {
        log.newest.pop_front();
    }
    log.newest.push_back(UserRequest {
        sent,
        done: Instant::now(),
        version,
        failed,
    });
}

/// Nothing panics while it holds one of these locks, and what they guard is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::upstream::DemoVersion;
    use super::*;

    async fn until(load: &Load, reached: impl Fn(LoadTotals) -> bool) {
        while !reached(load.totals()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn the_users_see_who_answered_and_what_failed() {
        let shop = DemoVersion::start("v1").await.unwrap();
        let load = Load::start(shop.address());
        until(&load, |totals| totals.requests >= 20).await;
        assert_eq!(load.totals().failures, 0);
        assert!(
            load.samples(|_| true)
                .iter()
                .all(|sample| sample.version.as_deref() == Some("v1"))
        );
        let failing_since = Instant::now();
        shop.set_failing(true);
        until(&load, |totals| totals.failures >= 5).await;
        let failed = load.samples(|sample| sample.failed);
        assert!(failed.iter().all(|sample| sample.done > failing_since));
    }

    #[tokio::test]
    async fn no_answer_at_all_is_a_failure() {
        let shop = DemoVersion::start("v1").await.unwrap();
        let address = shop.address();
        drop(shop);
        let load = Load::start(address);
        until(&load, |totals| totals.failures >= 3).await;
        assert!(load.samples(|sample| sample.version.is_some()).is_empty());
    }
}
