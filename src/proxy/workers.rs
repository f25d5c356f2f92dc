//! Starting all workers, and ending them without losing a request.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::net::{Acceptor, ListenerOptions, Sockets};
use crate::proxy::deadline::TICK_MS;
use crate::proxy::downstream::listener;
use crate::proxy::options::Options;
use crate::proxy::sticky;
use crate::proxy::worker::limits::{ConnectionLimit, RequestLimit};
use crate::proxy::worker::listener::Listener;
use crate::proxy::worker::reports::Reports;
use crate::proxy::worker::state::Worker;
use crate::proxy::worker::tick;
use crate::routing::Publisher;
use crate::telemetry::AccessLog;

/// The threads of the data plane.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    stop: CancellationToken,
    abort: CancellationToken,
}

#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
    ended: oneshot::Receiver<bool>,
}

/// A listener with one socket for each worker, all bound to the same address.
#[derive(Debug)]
pub struct BoundListener {
    /// How it was declared.
    pub options: ListenerOptions,
    /// One socket for each worker.
    pub sockets: Sockets,
}

/// How long connections that were accepted in the last moment have to send their request, before
/// idle ones are closed.
const LAST_CALL: Duration = Duration::from_millis(30);

impl Workers {
    /// Starts the workers; from here on requests are served.
    ///
    /// # Errors
    ///
    /// No thread or no random bytes can be had, or a socket cannot be used.
    pub fn start(
        options: &Options,
        listeners: Vec<BoundListener>,
        publisher: &Publisher,
        reports: &Reports,
        access_log: &AccessLog,
    ) -> io::Result<Workers> {
        let mut workers = Workers {
            threads: Vec::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        let room = RequestLimit::new(options.max_in_flight);
        let sticky = sticky::Common::new(options.sticky_secret)?;
        for (number, sockets) in by_worker(listeners, options.workers.get())
            .into_iter()
            .enumerate()
        {
            let part = Part {
                number,
                options: options.clone(),
                sockets,
                publisher: publisher.clone(),
                reports: reports.clone(),
                access_log: access_log.clone(),
                connections: Arc::default(),
                room: room.clone(),
                sticky: sticky.clone(),
                stop: workers.stop.clone(),
                abort: workers.abort.clone(),
            };
            workers.threads.push(part.spawn()?);
        }
        Ok(workers)
    }

    /// Reads how many connections from clients are open.
    pub fn connections(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let all: Vec<_> = self
            .threads
            .iter()
            .map(|thread| Arc::clone(&thread.connections))
            .collect();
        move || all.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }

    /// Stops accepting, lets requests under way finish for `timeout` at most, and ends the threads.
    /// Tells whether all of them did.
    pub async fn drain(self, timeout: Duration) -> bool {
        self.stop.cancel();
        let abort = self.abort.clone();
        let timer = async move {
            tokio::time::sleep(timeout).await;
            abort.cancel();
            std::future::pending::<()>().await;
        };
        let ends = async {
            let mut clean = true;
            for thread in self.threads {
                clean &= thread.ended.await.unwrap_or(false);
                // The thread has said its last word; joining it does not block for long.
                clean &= thread.handle.join().is_ok();
            }
            clean
        };
        tokio::select! {
            clean = ends => clean,
            () = timer => false,
        }
    }
}

/// One worker's socket of a listener.
struct Socket {
    options: ListenerOptions,
    /// The same ones for each worker.
    seats: ConnectionLimit,
    socket: TcpListener,
}

/// Sockets by worker, from sockets by listener.
fn by_worker(listeners: Vec<BoundListener>, workers: usize) -> Vec<Vec<Socket>> {
    let mut all: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for listener in listeners {
        let seats = ConnectionLimit::new(listener.options.limits.connections);
        for (socket, worker) in listener.sockets.into_iter().zip(&mut all) {
            worker.push(Socket {
                options: listener.options.clone(),
                seats: seats.clone(),
                socket,
            });
        }
    }
    all
}

/// What one worker's thread is given.
struct Part {
    number: usize,
    options: Options,
    sockets: Vec<Socket>,
    publisher: Publisher,
    reports: Reports,
    access_log: AccessLog,
    connections: Arc<AtomicUsize>,
    room: RequestLimit,
    sticky: sticky::Common,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Part {
    fn spawn(self) -> io::Result<Thread> {
        let runtime = |builder: &mut Builder| {
            builder
                .enable_io()
                .enable_time()
                .build_local(LocalOptions::default())
        };
        let (end, ended) = oneshot::channel();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let connections = Arc::clone(&self.connections);
        let handle = thread::Builder::new()
            .name(format!("worker-{}", self.number))
            .spawn(move || {
                let local = match runtime(&mut Builder::new_current_thread()) {
                    Ok(local) => local,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let clean = local.block_on(self.run(ready));
                // Whoever waits for the end may have given up.
                let _ = end.send(clean);
            })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Thread {
            handle,
            connections,
            ended,
        })
    }

    async fn run(self, ready: std::sync::mpsc::SyncSender<io::Result<()>>) -> bool {
        let Part {
            number,
            options,
            sockets,
            publisher,
            reports,
            access_log,
            connections,
            room,
            sticky,
            stop,
            abort,
        } = self;
        let (worker, wake) = Worker::new(
            number,
            &options,
            &publisher,
            reports,
            access_log,
            connections,
            (room, sticky),
        );
        worker.acknowledge();
        let accepting = match accept_all(&worker, sockets, &stop) {
            Ok(accepting) => accepting,
            Err(error) => {
                let _ = ready.send(Err(error));
                return false;
            }
        };
        let _ = ready.send(Ok(()));
        tokio::task::spawn_local(tick::run(Rc::clone(&worker), Arc::clone(&wake)));
        for accepting in accepting {
            // A listener's task ends by `stop` alone.
            let _ = accepting.await;
        }
        let clean = tokio::select! {
            () = abort.cancelled() => false,
            () = finish(&worker, &wake) => true,
        };
        worker.flush();
        clean
    }
}

type Accepting = tokio::task::JoinHandle<()>;

fn accept_all(
    worker: &Rc<Worker>,
    sockets: Vec<Socket>,
    stop: &CancellationToken,
) -> io::Result<Vec<Accepting>> {
    let mut accepting = Vec::new();
    for (
        at,
        Socket {
            options,
            seats,
            socket,
        },
    ) in sockets.into_iter().enumerate()
    {
        let port = socket.local_addr()?.port();
        let index = u16::try_from(at).map_err(io::Error::other)?;
        let listener = Listener::new(options, index, port, seats);
        let acceptor = Acceptor::new(&listener.options.name, socket)?;
        let run = listener::run(Rc::clone(worker), listener, acceptor, stop.clone());
        accepting.push(tokio::task::spawn_local(run));
    }
    Ok(accepting)
}

/// Waits until every connection has ended.
async fn finish(worker: &Worker, wake: &Notify) {
    tokio::time::sleep(LAST_CALL).await;
    worker.drain();
    while worker.connections.load(Ordering::Relaxed) > 0 {
        // The tick fires what is due meanwhile.
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
    }
    wake.notify_one();
}
