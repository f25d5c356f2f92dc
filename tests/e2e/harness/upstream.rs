//! An upstream that runs a script for each request and records the requests.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::wire::{Framing, Head, Wire, reset};

/// A request as received.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Index of the connection, from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) head: Head,
    /// The body, once it has been read completely.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.header(name)
    }
}

/// An upstream with one endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    hangups: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

impl Upstream {
    /// Responds to every request with `name`.
    pub(crate) fn named(name: &'static str) -> Upstream {
        Upstream::start(move |call| call.ok(name))
    }

    /// Runs `script` for each request once its head has arrived; reads the rest of the body after
    /// it.
    pub(crate) fn start(script: impl Fn(&mut Call<'_>) + Send + Sync + 'static) -> Upstream {
        Upstream::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// Like [`Upstream::start`], on an existing listener.
    pub(crate) fn on(
        listener: TcpListener,
        script: impl Fn(&mut Call<'_>) + Send + Sync + 'static,
    ) -> Upstream {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (script, accepting) = (Arc::new(script), Arc::clone(&shared));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (script, shared) = (Arc::clone(&script), Arc::clone(&accepting));
                shared.sockets.lock().unwrap().extend(stream.try_clone());
                thread::spawn(move || serve(&shared, connection, stream, &*script));
            }
        });
        Upstream { address, shared }
    }

    /// All requests so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The number of requests so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// The last request.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        lock(&self.shared.seen)
            .last()
            .cloned()
            .expect("no request has arrived")
    }

    /// Number of connections that the proxy closed while a script waited for it.
    pub(crate) fn hangups(&self) -> usize {
        self.shared.hangups.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept thread, which then ends.
        let _ = TcpStream::connect(self.address);
        for socket in lock(&self.shared.sockets).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Ignores poisoning: a script that panicked must not fail the other threads.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    shared: &Shared,
    connection: usize,
    stream: TcpStream,
    script: &(impl Fn(&mut Call<'_>) + ?Sized),
) {
    let mut wire = Some(Wire::new(stream));
    let mut on_connection = 0;
    while let Some(open) = wire.as_mut() {
        let Ok(Some(head)) = open.head() else { break };
        let mut first = head.first.split(' ').map(str::to_owned);
        let seen = Seen {
            connection,
            method: first.next().unwrap_or_default(),
            target: first.next().unwrap_or_default(),
            head,
            body: None,
            trailers: Vec::new(),
        };
        let index = {
            let mut all = lock(&shared.seen);
            all.push(seen.clone());
            all.len() - 1
        };
        let mut call = Call {
            shared,
            index,
            request: seen,
            on_connection,
            wire: &mut wire,
        };
        script(&mut call);
        if call.wire.is_some() && call.body().is_err() {
            break;
        }
        on_connection += 1;
    }
    // The registry's handle would keep the socket open.
    if let Some(wire) = wire {
        let _ = wire.stream.shutdown(Shutdown::Both);
    }
}

/// One request as its script handles it.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    shared: &'a Shared,
    index: usize,
    pub(crate) request: Seen,
    /// Number of earlier requests on this connection.
    pub(crate) on_connection: usize,
    wire: &'a mut Option<Wire>,
}

impl Call<'_> {
    /// The request target.
    pub(crate) fn path(&self) -> &str {
        &self.request.target
    }

    /// Reads the body unless it has been read.
    pub(crate) fn body(&mut self) -> io::Result<Vec<u8>> {
        if let Some(body) = &self.request.body {
            return Ok(body.clone());
        }
        let head = &self.request.head;
        let framing = if head.is_chunked() {
            Framing::Chunked
        } else {
            Framing::Length(head.length().unwrap_or(0))
        };
        let (body, trailers) = self.wire().body(framing)?;
        let mut all = lock(&self.shared.seen);
        all[self.index].body = Some(body.clone());
        all[self.index].trailers = trailers;
        self.request.body = Some(body.clone());
        Ok(body)
    }

    /// The next chunk of the body; `None` after the last one or at an error.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        self.wire().chunk().ok()?.ok()
    }

    /// Responds 200 with a body.
    pub(crate) fn ok(&mut self, body: impl AsRef<[u8]>) {
        self.answer("200 OK", "", body);
    }

    /// Reads the request's body, then responds; each line of `headers` ends in CRLF.
    pub(crate) fn answer(&mut self, status: &str, headers: &str, body: impl AsRef<[u8]>) {
        if self.body().is_err() {
            return self.close();
        }
        let body = body.as_ref();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        if self.write(bytes).is_err() {
            self.close();
        }
    }

    /// Writes raw bytes.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire().write(bytes)
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self) {
        if let Some(wire) = self.wire.take() {
            let _ = wire.stream.shutdown(Shutdown::Both);
        }
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self) {
        if let Some(wire) = self.wire.take() {
            // The kernel sends the reset when the last handle on the socket is closed.
            let ours = (wire.stream.local_addr().ok(), wire.stream.peer_addr().ok());
            lock(&self.shared.sockets)
                .retain(|other| (other.local_addr().ok(), other.peer_addr().ok()) != ours);
            reset(wire.stream);
        }
    }

    /// Waits until the proxy closes the connection, counts that, and discards its input.
    pub(crate) fn await_hangup(&mut self) {
        if self.wire().ends() {
            self.shared.hangups.fetch_add(1, Ordering::SeqCst);
        }
        self.close();
    }

    fn wire(&mut self) -> &mut Wire {
        self.wire
            .as_mut()
            .expect("the script has closed the connection")
    }
}
