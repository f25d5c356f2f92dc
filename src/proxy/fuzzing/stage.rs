//! One worker in the thread at hand, for connections that are handed to it.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;

use crate::model::{
    EndpointSpec, HostPattern, Name, PathPrefix, Protocol, Route, ServiceSpec, Timeouts,
    UpstreamSpec, Weights,
};
use crate::net::{Downstream, ListenerOptions, Stream};
use crate::proxy::downstream::connection;
use crate::proxy::options::Options;
use crate::proxy::sticky;
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::{ConnectionLimit, RequestLimit};
use crate::proxy::worker::listener::Listener;
use crate::proxy::worker::reports::Reports;
use crate::proxy::worker::state::Worker;
use crate::proxy::worker::tick;
use crate::routing::{KeyRegistry, Publisher, RoutingTable};
use crate::stats::Watermark;
use crate::telemetry::AccessLog;

/// A worker with its timer, and the runtime in which its connections are served.
pub(crate) struct TestWorker {
    pub(crate) runtime: LocalRuntime,
    worker: Rc<Worker>,
    listener: Rc<Listener>,
}

impl TestWorker {
    /// A worker with one listener and these services.
    pub(crate) fn new(services: &[ServiceSpec], options: ListenerOptions) -> TestWorker {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        let table = RoutingTable::build(services, |_| None, &mut KeyRegistry::new(), None);
        let publisher = Publisher::new(table);
        let reports = Reports {
            batches: mpsc::channel(1).0,
            notes: mpsc::channel(1).0,
            horizon: Arc::new(Watermark::new(1)),
        };
        let sticky = sticky::Common::new(None).expect("random bytes");
        let (worker, wake) = Worker::new(
            0,
            &Options::default(),
            &publisher,
            reports,
            AccessLog::off(),
            Arc::default(),
            (RequestLimit::new(0), sticky),
        );
        let listener = Listener::new(options, 0, 80, ConnectionLimit::new(0));
        let ticking = Rc::clone(&worker);
        runtime.block_on(async move {
            tokio::task::spawn_local(tick::run(ticking, wake));
        });
        TestWorker {
            runtime,
            worker,
            listener,
        }
    }

    /// Serves a connection, whose client has the other one of a pair of sockets, to its end.
    pub(crate) fn serve(&self, socket: UnixStream) -> impl Future<Output = ()> + use<> {
        socket.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from(OwnedFd::from(socket));
        let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        let (worker, listener) = (Rc::clone(&self.worker), Rc::clone(&self.listener));
        worker.wake();
        let client = ClientConnection::new(worker, listener, Downstream::cleartext(peer, local));
        connection::serve(Rc::new(client), Stream::Plain(stream))
    }
}

/// A service for every request, with one upstream.
pub(crate) fn service(upstream: SocketAddr) -> ServiceSpec {
    let name = Name::from("all");
    ServiceSpec {
        name: name.clone(),
        routes: vec![Route {
            host: HostPattern::Any,
            path_prefix: PathPrefix(Arc::from("")),
            methods: Vec::new(),
            headers: Vec::new(),
        }],
        weights: Weights::all_on([&name], &name).expect("its own name"),
        upstreams: vec![UpstreamSpec {
            name,
            endpoints: vec![EndpointSpec(upstream)],
            protocol: Protocol::Http1,
        }],
        baseline: None,
        timeouts: Timeouts::default(),
        sticky: None,
        tester: None,
        health: None,
        release: None,
    }
}
