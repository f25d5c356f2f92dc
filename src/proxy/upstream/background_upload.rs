//! The rest of a request whose answer began before its end.
//!
//! It is rare, and the one thing that goes on beside the request's task: whether the upstream reads
//! on must not depend on how fast the client takes the answer, and a client that is still sending
//! has to get rid of its request before it is certain to read the answer.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::fault::UpstreamFault;
use super::outbound::OutboundBody;
use super::request_writer::RequestWriter;

/// How much of what nobody takes is read from the client and thrown away, so that it gets to read
/// the answer.
const LINGER_BYTES: usize = 1024 * 1024;

/// How far the request has come.
#[derive(Debug)]
enum State {
    Running,
    /// The request has been sent whole.
    Sent(OwnedWriteHalf),
    /// The upstream takes no more of it, which is its right.
    Refused,
    /// It broke off on the client's side, and what is answered is an answer to a part.
    Broken,
}

/// The answer's side.
#[derive(Debug)]
pub(super) struct BackgroundUpload {
    shared: Rc<Shared>,
    task: tokio::task::AbortHandle,
}

#[derive(Debug)]
struct Shared {
    state: RefCell<State>,
    /// Whether the answer is through, and the request has the connection for itself.
    alone: Cell<bool>,
    /// The task that reads the answer.
    reader: RefCell<Option<Waker>>,
    /// The task that sends the request.
    sender: RefCell<Option<Waker>>,
}

impl BackgroundUpload {
    /// Goes on sending the request over one half of the connection.
    pub(super) fn spawn(
        half: OwnedWriteHalf,
        outgoing: RequestWriter,
        body: impl OutboundBody,
    ) -> BackgroundUpload {
        let shared = Rc::new(Shared {
            state: RefCell::new(State::Running),
            alone: Cell::new(false),
            reader: RefCell::default(),
            sender: RefCell::default(),
        });
        let task = tokio::task::spawn_local(run(Rc::clone(&shared), half, outgoing, body));
        BackgroundUpload {
            shared,
            task: task.abort_handle(),
        }
    }

    /// Whether the request has broken off; the task is woken when it does.
    pub(super) fn is_broken(&self, cx: &Context<'_>) -> bool {
        keep(&self.shared.reader, cx);
        matches!(*self.shared.state.borrow(), State::Broken)
    }

    /// The connection as a whole, if the request is through as well; otherwise it goes on alone.
    pub(super) fn into_stream(self, read: OwnedReadHalf) -> Option<TcpStream> {
        match self.shared.state.replace(State::Running) {
            State::Sent(write) => read.reunite(write).ok(),
            state => {
                self.shared.state.replace(state);
                self.shared.alone.set(true);
                wake(&self.shared.sender);
                None
            }
        }
    }
}

impl Drop for BackgroundUpload {
    fn drop(&mut self) {
        // An answer that nobody waits for any more ends with its request.
        if !self.shared.alone.get() {
            self.task.abort();
        }
    }
}

async fn run(
    shared: Rc<Shared>,
    mut half: OwnedWriteHalf,
    mut outgoing: RequestWriter,
    mut body: impl OutboundBody,
) {
    let sent = std::future::poll_fn(|cx| {
        keep(&shared.sender, cx);
        let polled = outgoing.poll(Pin::new(&mut half), &mut body, cx);
        if polled.is_pending() && shared.alone.get() {
            // While the answer was read, its limits of time held for both.
            ready!(body.poll_stuck(cx));
            return Poll::Ready(Err(UpstreamFault::Closed));
        }
        polled
    })
    .await;
    let state = match sent {
        Ok(()) => State::Sent(half),
        Err(UpstreamFault::Upload) => State::Broken,
        Err(_) => State::Refused,
    };
    let refused = matches!(state, State::Refused);
    shared.state.replace(state);
    wake(&shared.reader);
    if refused {
        linger(body).await;
    }
}

/// Takes in some more of the client's body, which is bounded in time itself.
async fn linger(mut body: impl OutboundBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > LINGER_BYTES {
            return;
        }
    }
}

fn keep(waker: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut waker = waker.borrow_mut();
    if !waker
        .as_ref()
        .is_some_and(|waker| waker.will_wake(cx.waker()))
    {
        *waker = Some(cx.waker().clone());
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
