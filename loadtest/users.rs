//! The users of a service: requests at random times, whether or not earlier ones have been
//! answered, and what they saw.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{COOKIE, HOST, HeaderMap, HeaderValue, SET_COOKIE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use crate::fault::{Fault, NEW_USERS, ROUTES};
use crate::version::{CAUSE, USER};

/// Longer than the proxy waits for a version, so that its rescue is seen.
const PATIENCE: Duration = Duration::from_secs(8);
/// Of users who are impatient: far longer than a version takes when nothing is wrong with it.
const IMPATIENCE: Duration = Duration::from_millis(150);
/// More than this behind its time, a request does not show what the proxy does, but the machine.
const LATE: Duration = Duration::from_millis(50);
/// Users of whom any may come again, where users keep cookies; the first one is forgotten.
const USERS: usize = 2000;
/// A connection that was not used for so long may be on its way to be closed by the proxy.
const FRESH: Duration = Duration::from_secs(20);
/// The share of requests that write, which nobody may repeat for the user.
const WRITES: f64 = 0.15;

/// What users saw in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    /// Status 200.
    pub(crate) good: u64,
    /// Failures as every version has them.
    pub(crate) base: u64,
    /// Failures by the fault of a version.
    pub(crate) fault: u64,
    /// Failures that the proxy answered itself.
    pub(crate) proxy: u64,
    /// Requests without an answer.
    pub(crate) unanswered: u64,
    /// Requests whose users were impatient and gave up.
    pub(crate) given_up: u64,
    /// Requests that were sent long after their time, since the machine had no core for them.
    pub(crate) late: u64,
}

/// How the users of a service behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Nobody is known from earlier.
    Plain,
    /// They come again, with the cookies that they were given.
    Sticky,
    /// They give up soon.
    Impatient,
}

impl FromStr for Habit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Habit> {
        Ok(match text {
            "plain" => Habit::Plain,
            "sticky" => Habit::Sticky,
            "impatient" => Habit::Impatient,
            _ => bail!("{text}: plain, sticky or impatient was expected"),
        })
    }
}

/// How many requests a second come, and from whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) rate: f64,
    pub(crate) habit: Habit,
}

/// Somebody who asks.
#[derive(Clone)]
struct User {
    /// Among all users, 0 to 1.
    place: f64,
    cookie: Option<HeaderValue>,
}

impl Seen {
    fn add(&mut self, outcome: Outcome, is_late: bool) {
        self.requests += 1;
        self.late += u64::from(is_late);
        let place = match outcome {
            Outcome::Good => &mut self.good,
            Outcome::Base => &mut self.base,
            Outcome::Fault => &mut self.fault,
            Outcome::Proxy => &mut self.proxy,
            Outcome::Unanswered => &mut self.unanswered,
            Outcome::GivenUp => &mut self.given_up,
        };
        *place += 1;
    }
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Good,
    Base,
    Fault,
    Proxy,
    Unanswered,
    GivenUp,
}

/// What is seen from a moment on, with the times of all requests since.
pub(crate) struct Tally {
    since: Instant,
    seen: Cell<Seen>,
    arrived_s: RefCell<Vec<f64>>,
}

/// A Poisson process.
#[derive(Clone)]
struct Arrivals {
    rng: fastrand::Rng,
    rate: f64,
    next: Instant,
}

impl Arrivals {
    fn advance(&mut self) {
        let gap = -(1.0 - self.rng.f64()).ln() / self.rate;
        self.next += Duration::from_secs_f64(gap);
    }
}

/// The users of one service.
pub(crate) struct Users {
    host: String,
    proxy: SocketAddr,
    habit: Habit,
    known: RefCell<VecDeque<User>>,
    arrivals: RefCell<Arrivals>,
    rng: RefCell<fastrand::Rng>,
    idle: RefCell<Vec<(Instant, SendRequest<Full<Bytes>>)>>,
    tally: RefCell<Rc<Tally>>,
    total: Cell<Seen>,
}

impl Users {
    /// Users who ask for `host` at `proxy`, so many times a second, from now on.
    pub(crate) fn start(host: String, proxy: SocketAddr, flow: Flow, seed: u64) -> Rc<Users> {
        let Flow { rate, habit } = flow;
        let mut rng = fastrand::Rng::with_seed(seed);
        let arrivals = Arrivals {
            rng: rng.fork(),
            rate,
            next: Instant::now(),
        };
        let users = Rc::new(Users {
            host,
            proxy,
            habit,
            known: RefCell::default(),
            arrivals: RefCell::new(arrivals),
            rng: RefCell::new(rng),
            idle: RefCell::default(),
            tally: RefCell::new(Tally::start()),
            total: Cell::default(),
        });
        spawn_local(Rc::clone(&users).arrive());
        users
    }

    /// Begins a new tally.
    pub(crate) fn open(&self) {
        *self.tally.borrow_mut() = Tally::start();
    }

    /// Ends the tally, and waits until all of its requests have ended.
    pub(crate) async fn close(&self) -> Rc<Tally> {
        let tally = self.tally.replace(Tally::start());
        while Rc::strong_count(&tally) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tally
    }

    /// What was seen since the start.
    pub(crate) fn total(&self) -> Seen {
        self.total.get()
    }

    /// How many requests a fault would have harmed, had it had `weight` (0 to 1) of these users for
    /// `seconds` from `onset` on: over the requests of the tally, and after its end over those
    /// that would come next.
    pub(crate) fn let_through(
        &self,
        tally: &Tally,
        fault: Fault,
        onset: Instant,
        weight: f64,
        seconds: f64,
    ) -> f64 {
        let from = onset.saturating_duration_since(tally.since).as_secs_f64();
        let mut future = self.arrivals.borrow().clone();
        let to_come = std::iter::from_fn(|| {
            let next = future
                .next
                .saturating_duration_since(tally.since)
                .as_secs_f64();
            future.advance();
            Some(next)
        });
        let arrived = tally.arrived_s.borrow();
        let last = arrived.last().copied().unwrap_or_default();
        let times = arrived
            .iter()
            .copied()
            .chain(to_come.skip_while(|at| *at <= last));
        let ages = times.map(|at| at - from).skip_while(|age| *age < 0.0);
        ages.take_while(|age| *age < seconds)
            .map(|age| weight * fault.harm(age))
            .sum()
    }

    async fn arrive(self: Rc<Self>) {
        loop {
            let next = self.arrivals.borrow().next;
            sleep_until(next).await;
            let tally = Rc::clone(&self.tally.borrow());
            tally
                .arrived_s
                .borrow_mut()
                .push(next.saturating_duration_since(tally.since).as_secs_f64());
            spawn_local(Rc::clone(&self).ask(tally, next.elapsed() > LATE));
            self.arrivals.borrow_mut().advance();
        }
    }

    async fn ask(self: Rc<Self>, tally: Rc<Tally>, is_late: bool) {
        let patience = match self.habit {
            Habit::Impatient => IMPATIENCE,
            Habit::Plain | Habit::Sticky => PATIENCE,
        };
        let outcome = match timeout(patience, self.exchange()).await {
            Ok(Ok(outcome)) => outcome,
            Err(_) if self.habit == Habit::Impatient => Outcome::GivenUp,
            Ok(Err(_)) | Err(_) => Outcome::Unanswered,
        };
        for seen in [&tally.seen, &self.total] {
            let mut sum = seen.get();
            sum.add(outcome, is_late);
            seen.set(sum);
        }
    }

    async fn exchange(&self) -> Result<Outcome> {
        let mut connection = self.connection().await?;
        let user = self.user();
        let answer = connection.send_request(self.request(&user)?).await?;
        self.keep(user, answer.headers());
        let outcome = match (answer.status(), answer.headers().get(CAUSE)) {
            (StatusCode::OK, _) => Outcome::Good,
            (_, Some(cause)) if cause == "base" => Outcome::Base,
            (_, Some(_)) => Outcome::Fault,
            (_, None) => Outcome::Proxy,
        };
        answer.into_body().collect().await?;
        self.idle.borrow_mut().push((Instant::now(), connection));
        Ok(outcome)
    }

    /// The connection that was used last, or a new one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        while let Some(mut connection) = self.idle_connection() {
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        spawn_local(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn idle_connection(&self) -> Option<SendRequest<Full<Bytes>>> {
        let (used, connection) = self.idle.borrow_mut().pop()?;
        if used.elapsed() > FRESH {
            // Those below it have waited longer still.
            self.idle.borrow_mut().clear();
            return None;
        }
        Some(connection)
    }

    /// Somebody new, or one of those who were there already.
    fn user(&self) -> User {
        let (mut rng, known) = (self.rng.borrow_mut(), self.known.borrow());
        let somebody = User {
            place: rng.f64(),
            cookie: None,
        };
        if known.is_empty() || rng.f64() < NEW_USERS {
            return somebody;
        }
        let number = rng.usize(..known.len());
        known.get(number).cloned().unwrap_or(somebody)
    }

    /// The user may come again, with the cookie of this answer.
    fn keep(&self, user: User, headers: &HeaderMap) {
        let pair = |cookie: &HeaderValue| cookie.to_str().ok()?.split(';').next()?.parse().ok();
        let cookie = headers.get(SET_COOKIE).and_then(pair);
        if self.habit != Habit::Sticky || (user.cookie.is_some() && cookie.is_none()) {
            return;
        }
        let mut known = self.known.borrow_mut();
        known.retain(|other| other.place != user.place);
        known.push_back(User {
            cookie: cookie.or(user.cookie),
            ..user
        });
        if known.len() > USERS {
            known.pop_front();
        }
    }

    fn request(&self, user: &User) -> Result<Request<Full<Bytes>>> {
        let mut rng = self.rng.borrow_mut();
        let path = format!("/{}/{}", rng.usize(..ROUTES), rng.u32(..1000));
        let (method, body) = if rng.f64() < WRITES {
            (
                Method::POST,
                Bytes::from_static(br#"{"basket": [1, 2, 3]}"#),
            )
        } else {
            (Method::GET, Bytes::new())
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host);
        request = request.header(USER, user.place.to_string());
        if let Some(cookie) = &user.cookie {
            request = request.header(COOKIE, cookie);
        }
        request
            .body(Full::new(body))
            .context("a request that cannot be")
    }
}

impl Tally {
    fn start() -> Rc<Tally> {
        Rc::new(Tally {
            since: Instant::now(),
            seen: Cell::default(),
            arrived_s: RefCell::default(),
        })
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.get()
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}
