//! Accepting connections on one listener, in one worker.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::connection;
use crate::net::{Acceptor, Downstream, Stream};
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::ConnectionPermit;
use crate::proxy::worker::listener::Listener;
use crate::proxy::worker::state::Worker;

/// Accepts until `stop`; then takes in what the kernel has already accepted, so that nobody who is
/// through is refused.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    acceptor: Acceptor,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &acceptor) => accepted,
        };
        // Another worker may have taken the last seat since; who is through waits here, for as long
        // as it may.
        let seat = tokio::select! {
            biased;
            seat = listener.seats.take() => seat,
            () = stop.cancelled() => None,
        };
        admit(&worker, &listener, accepted, seat);
    }
    while let Some(accepted) = acceptor.accept_ready() {
        admit(&worker, &listener, accepted, None);
    }
}

async fn accept(listener: &Listener, acceptor: &Acceptor) -> (Stream, Downstream) {
    // While there is no seat, the kernel's queue holds who comes.
    listener.seats.wait().await;
    acceptor.accept().await
}

fn admit(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    (stream, downstream): (Stream, Downstream),
    seat: ConnectionPermit,
) {
    let guard = Admitted::new(worker, seat);
    worker.wake();
    let client = Rc::new(ClientConnection::new(
        Rc::clone(worker),
        Rc::clone(listener),
        downstream,
    ));
    tokio::task::spawn_local(async move {
        connection::serve(client, stream).await;
        drop(guard);
    });
}

/// Counts a connection until dropped.
struct Admitted {
    worker: Rc<Worker>,
    _seat: ConnectionPermit,
}

impl Admitted {
    fn new(worker: &Rc<Worker>, seat: ConnectionPermit) -> Admitted {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Admitted {
            worker: Rc::clone(worker),
            _seat: seat,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
