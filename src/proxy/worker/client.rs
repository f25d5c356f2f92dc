//! What is known of one client connection, and what its task, its requests and its socket tell one
//! another.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::listener::Listener;
use super::state::Worker;
use crate::net::Downstream;
use crate::proxy::deadline::{Deadline, Millis};
use crate::proxy::upstream::forwarded_headers::Origin;
use crate::proxy::upstream::held::{Account, Held};
use crate::proxy::upstream::interims::Interims;

/// How long after a request the end of what its client sends still belongs to it: long for a client
/// that has nothing more to do before that end, and shorter than people or programs wait for an
/// answer.
const HALF_CLOSE_MS: u64 = 50;

/// What is known of one client connection.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<Listener>,
    /// The other end, and what was agreed with it.
    pub(crate) downstream: Downstream,
    /// What each request of the connection tells its upstream.
    pub(crate) origin: Origin,
    /// Wakes the connection's task to look for what is overdue.
    pub(crate) deadline: Deadline,
    /// What is held in memory for it.
    pub(crate) held: Rc<Held>,
    /// Interim responses to the request at hand, of HTTP/1.1.
    pub(crate) interims: Interims,
    /// For the answers of HTTP/1.1.
    account: Rc<Account>,
    requests: Cell<u32>,
    /// Whether a head of HTTP/1.1 has begun and is not whole.
    in_head: Cell<bool>,
    /// When something of the request at hand was last there.
    heard: Cell<Millis>,
    /// Whether a client that had half closed the connection has reset it since.
    reset: Cell<bool>,
    /// The connection's task, of HTTP/1.1.
    task: RefCell<Option<Waker>>,
    /// Since when the client has been silent between requests, or been sending one head.
    since: Cell<Millis>,
    /// Since when the client has not taken what is written to it.
    blocked: Cell<Option<Millis>>,
    write_limit: Cell<Duration>,
    /// Answers of which a piece has been given out, and no other been asked for.
    untaken: Cell<u32>,
    /// When the client last made room for a piece of any answer.
    taken: Cell<Millis>,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A head that takes too long: 408.
    Head,
    /// Nothing between two requests for too long.
    Idle,
    /// An answer that the client does not take.
    Write,
}

impl ClientConnection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        listener: Rc<Listener>,
        downstream: Downstream,
    ) -> ClientConnection {
        let deadline = worker.deadlines.deadline();
        deadline.set(listener.options.timeouts.keep_alive);
        let address = downstream.peer.ip().to_canonical();
        let trusted = &listener.options.trusted_proxies;
        let trusted = trusted.iter().any(|net| net.contains(&address));
        let held = Rc::new(Held::default());
        ClientConnection {
            account: Account::http1(&held),
            held,
            origin: Origin::new(address, listener.port, downstream.scheme, trusted),
            downstream,
            interims: Interims::default(),
            requests: Cell::new(0),
            in_head: Cell::new(false),
            heard: Cell::new(0),
            reset: Cell::new(false),
            task: RefCell::default(),
            since: Cell::new(worker.deadlines.coarse()),
            blocked: Cell::new(None),
            write_limit: Cell::new(listener.options.timeouts.keep_alive),
            untaken: Cell::new(0),
            taken: Cell::new(worker.deadlines.coarse()),
            deadline,
            listener,
            worker,
        }
    }

    /// Who pays for the memory of an answer in this version of HTTP.
    pub(crate) fn account(&self, version: http::Version) -> Rc<Account> {
        if version == http::Version::HTTP_2 {
            Account::http2(&self.held)
        } else {
            Rc::clone(&self.account)
        }
    }

    /// A request of this connection begins.
    pub(crate) fn enter(&self, now: Instant) {
        self.requests.set(self.requests.get() + 1);
        self.heard.set(self.worker.deadlines.at(now));
    }

    /// Something of a request's body has come through.
    pub(crate) fn hear(&self, now: Millis) {
        self.heard.set(self.heard.get().max(now));
    }

    /// A request of this connection has been answered to its end, or given up.
    pub(crate) fn leave(&self) {
        let left = self.requests.get().saturating_sub(1);
        self.requests.set(left);
        if left == 0 {
            self.since.set(self.worker.deadlines.coarse());
            self.deadline.set(self.listener.options.timeouts.keep_alive);
        }
    }

    /// How long a client may leave an answer untaken: the service's limit between two pieces of a
    /// body.
    pub(crate) fn limit_writes(&self, limit: Duration) {
        self.write_limit.set(limit);
    }

    /// It is the client's turn to take a piece of an answer. A socket that takes nothing is seen as
    /// such; a client of HTTP/2 may also leave a stream without window.
    pub(crate) fn offer(&self) {
        if self.untaken.replace(self.untaken.get() + 1) == 0 {
            self.taken.set(self.worker.deadlines.coarse());
        }
    }

    /// It has, or nobody waits for it any more.
    pub(crate) fn take(&self) {
        self.untaken.set(self.untaken.get().saturating_sub(1));
        self.taken.set(self.worker.deadlines.coarse());
    }

    /// A head of HTTP/1.1 has begun and is not whole. Most come in one piece; only one that does
    /// not needs a limit of its own.
    pub(crate) fn begin_head(&self) {
        if !self.in_head.replace(true) {
            self.worker.wake();
            self.since.set(self.worker.deadlines.coarse());
            self.deadline.set(self.listener.options.timeouts.header);
        }
    }

    /// It is.
    pub(crate) fn end_head(&self) {
        self.in_head.set(false);
    }

    /// Ready when something is overdue; otherwise the task is woken to look again.
    pub(crate) fn poll_overdue(&self, cx: &Context<'_>) -> Poll<Overdue> {
        while self.deadline.poll(cx).is_ready() {
            if let Some(overdue) = self.overdue(self.worker.deadlines.coarse()) {
                return Poll::Ready(overdue);
            }
        }
        Poll::Pending
    }

    /// What is overdue at `now`; otherwise the deadline is set for the next look.
    fn overdue(&self, now: Millis) -> Option<Overdue> {
        let timeouts = self.listener.options.timeouts;
        let (what, since, limit) = if let Some(blocked) = self.blocked.get() {
            (Overdue::Write, blocked, self.write_limit.get())
        } else if self.untaken.get() > 0 {
            // One answer that moves is enough: a client may well put the others off.
            (Overdue::Write, self.taken.get(), self.write_limit.get())
        } else if self.requests.get() > 0 {
            // Nothing of the connection's own is overdue; look again when something could be.
            self.deadline.set(timeouts.keep_alive.max(timeouts.header));
            return None;
        } else if self.in_head.get() {
            (Overdue::Head, self.since.get(), timeouts.header)
        } else {
            (Overdue::Idle, self.since.get(), timeouts.keep_alive)
        };
        if limit.is_zero() {
            self.deadline.set(timeouts.keep_alive.max(timeouts.header));
            return None;
        }
        let due = since.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(Millis::MAX));
        if due <= now {
            return Some(what);
        }
        self.worker.wake();
        self.deadline.set_at(due);
        None
    }

    /// Whether the end of what the client sends, which has come now, means that it has nothing more
    /// to say and waits for its response. Then it comes with the end of a request; who lets go
    /// later has had enough of waiting. To look at, the two are the same: until something is
    /// written to whoever has gone, nothing comes back.
    pub(crate) fn is_half_close(&self) -> bool {
        let since = self.worker.deadlines.now().saturating_sub(self.heard.get());
        since <= HALF_CLOSE_MS
    }

    /// A client that had half closed the connection has gone away for good.
    pub(crate) fn reset(&self) {
        self.reset.set(true);
        self.wake_task();
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.reset.get()
    }

    /// This is the connection's task.
    pub(crate) fn keep_task(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Something has happened that the connection's task has to look at.
    pub(crate) fn wake_task(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Whether the client does not take what is written to it.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get().is_some()
    }

    /// Takes note of whether the client takes what is written to it.
    pub(crate) fn note_write<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending if self.blocked.get().is_none() => {
                self.worker.wake();
                self.blocked.set(Some(self.worker.deadlines.coarse()));
                self.deadline.set(self.write_limit.get());
            }
            Poll::Ready(_) if self.blocked.get().is_some() => self.blocked.set(None),
            _ => {}
        }
        written
    }
}
