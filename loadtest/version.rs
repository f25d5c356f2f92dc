//! A version of a service: endpoints that respond as its fault defines.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::COOKIE;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::sleep;

use crate::fault::{Cause, ENDPOINTS, Fate, Fault, RequestInfo};

/// The header of a failure that names its cause.
pub(crate) const CAUSE: &str = "x-cause";
/// The header that identifies the user of a request.
pub(crate) const USER: &str = "x-user";
/// Not 127.0.0.1, from which connections to the endpoints are made: one of those might otherwise
/// get the port of an endpoint that is down at that moment.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A listening version.
pub(crate) struct Version {
    pub(crate) addresses: Vec<SocketAddr>,
    fault: Cell<Fault>,
    /// No fault before it is set.
    is_late: Cell<bool>,
    began: Cell<Option<Instant>>,
    requests: Cell<u64>,
    rng: RefCell<fastrand::Rng>,
    is_down: watch::Sender<bool>,
    crashing: RefCell<Option<AbortHandle>>,
}

impl Version {
    /// Starts listening on the addresses of its endpoints.
    pub(crate) async fn start(seed: u64) -> io::Result<Rc<Version>> {
        let mut listeners = Vec::new();
        for _ in 0..ENDPOINTS {
            listeners.push(TcpListener::bind((HOST, 0)).await?);
        }
        let version = Rc::new(Version {
            addresses: listeners
                .iter()
                .map(TcpListener::local_addr)
                .collect::<io::Result<_>>()?,
            fault: Cell::default(),
            is_late: Cell::default(),
            began: Cell::default(),
            requests: Cell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            is_down: watch::Sender::new(false),
            crashing: RefCell::default(),
        });
        for (endpoint, listener) in listeners.into_iter().enumerate() {
            spawn_local(Rc::clone(&version).run(endpoint, listener));
        }
        Ok(version)
    }

    /// Sets the fault; a late one, a leak or an outage starts at [`Version::begin`].
    pub(crate) fn set(&self, fault: Fault, is_late: bool) {
        if let Some(crashing) = self.crashing.take() {
            crashing.abort();
        }
        self.is_down.send_replace(false);
        self.fault.set(fault);
        self.is_late.set(is_late);
        self.began.set(None);
        self.requests.set(0);
    }

    /// Starts a fault that was set as late.
    pub(crate) fn begin(&self) {
        self.began.set(Some(Instant::now()));
    }

    /// The current fault.
    fn fault(&self) -> Fault {
        if self.is_late.get() && self.began.get().is_none() {
            Fault::None
        } else {
            self.fault.get()
        }
    }

    /// Requests since the fault was set.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Listens while the version is up.
    async fn run(self: Rc<Self>, endpoint: usize, first: TcpListener) {
        let mut is_down = self.is_down.subscribe();
        self.accept(endpoint, first, &mut is_down).await;
        while is_down.wait_for(|down| !down).await.is_ok() {
            match TcpListener::bind(
                self.addresses
                    .get(endpoint)
                    .copied()
                    .unwrap_or((HOST, 0).into()),
            )
            .await
            {
                Ok(listener) => self.accept(endpoint, listener, &mut is_down).await,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Accepts connections until the version is down, which ends all of them.
    async fn accept(
        self: &Rc<Self>,
        endpoint: usize,
        listener: TcpListener,
        is_down: &mut watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = is_down.wait_for(|down| *down) => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn_local(Rc::clone(self).serve(endpoint, stream));
                }
            }
        }
    }

    async fn serve(self: Rc<Self>, endpoint: usize, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        // A crash closes no connection orderly: what is dropped is reset.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        let service = service_fn(|request| self.respond(endpoint, request));
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn respond(
        self: &Rc<Self>,
        endpoint: usize,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.requests.set(self.requests.get() + 1);
        self.crash_in_time();
        let info = RequestInfo {
            route: route_of(request.uri().path()),
            endpoint,
            user: user_of(request.headers()),
            has_cookie: request.headers().contains_key(COOKIE),
            age_s: self.began.get().map(|began| began.elapsed().as_secs_f64()),
        };
        let _ = request.into_body().collect().await;
        let fate = self.fault().decide(info, &mut self.rng.borrow_mut());
        match fate {
            Fate::NoResponse => pending().await,
            Fate::Response { after, failure } => {
                sleep(after).await;
                Ok(response(failure))
            }
        }
    }

    /// The first request starts the crashes, so that the preflight finds a healthy version.
    fn crash_in_time(self: &Rc<Self>) {
        let Fault::Crashes { up_ms, down_ms } = self.fault() else {
            return;
        };
        self.crashing.borrow_mut().get_or_insert_with(|| {
            let is_down = self.is_down.clone();
            let crashing = spawn_local(async move {
                loop {
                    sleep(Duration::from_millis(up_ms)).await;
                    is_down.send_replace(true);
                    sleep(Duration::from_millis(down_ms)).await;
                    is_down.send_replace(false);
                }
            });
            crashing.abort_handle()
        });
    }
}

/// `/3/anything` is on route 3.
fn route_of(path: &str) -> usize {
    path.split('/')
        .nth(1)
        .and_then(|part| part.parse().ok())
        .unwrap_or(0)
}

/// 0 to 1; health checks have no user.
fn user_of(headers: &HeaderMap) -> f64 {
    let user = headers
        .get(USER)
        .and_then(|user| user.to_str().ok()?.parse().ok());
    user.unwrap_or(1.0)
}

fn response(failure: Option<Cause>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(&[b'.'; 200])));
    if let Some(cause) = failure {
        *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        let cause = match cause {
            Cause::Base => "base",
            Cause::Fault => "fault",
        };
        response
            .headers_mut()
            .insert(CAUSE, hyper::header::HeaderValue::from_static(cause));
    }
    response
}
