//! The parts of the demo, started and connected: two versions, the proxy as `run` assembles it, and
//! the users.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::Error;
use super::load::Load;
use super::upstream::DemoVersion;
use crate::app::{self, Running, start};
use crate::client::AdminClient;
use crate::config;

/// The service's name.
pub(super) const SERVICE: &str = "shop";
/// The version that holds the users.
pub(super) const BASELINE: &str = "v1";
/// The version that is to replace it.
pub(super) const CANARY: &str = "v2";

/// Where the admin API is expected to be, unless something else is there.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
/// Any free port.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The users have gone when the proxy is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) canary: DemoVersion,
    pub(super) load: Load,
    pub(super) client: AdminClient,
    pub(super) admin: SocketAddr,
    pub(super) proxy: SocketAddr,
    running: Running,
    baseline: DemoVersion,
    store: TempDir,
    outside: Outside,
}

impl Stage {
    /// Starts all of it.
    pub(super) async fn set() -> Result<Stage, Error> {
        let store = tempfile::Builder::new()
            .prefix("weighbridge-demo-")
            .tempdir()
            .map_err(Error::Part)?;
        let outside = Outside::start().map_err(Error::Part)?;
        let baseline = outside
            .run(DemoVersion::start(BASELINE))
            .await?
            .map_err(Error::Part)?;
        let canary = outside
            .run(DemoVersion::start(CANARY))
            .await?
            .map_err(Error::Part)?;
        let proxy_with = |admin| start_proxy(&store, admin, baseline.address(), canary.address());
        let running = match proxy_with(ADMIN) {
            // Something else is there, perhaps a proxy that works.
            Err(app::Error::Bind { address: ADMIN, .. }) => proxy_with(ANY),
            other => other,
        }?;
        let admin = running.admin_address();
        let first = running.listener_addresses().first().copied();
        let proxy =
            first.ok_or_else(|| Error::Part(io::Error::other("the proxy has no listener")))?;
        Ok(Stage {
            client: AdminClient::new(&admin.to_string(), None)?,
            load: outside.run(async move { Load::start(proxy) }).await?,
            canary,
            admin,
            proxy,
            running,
            baseline,
            store,
            outside,
        })
    }

    /// Ends all of it, the users first.
    pub(super) async fn clear(self) {
        drop(self.load);
        self.running.drain(Duration::ZERO, DRAIN_TIMEOUT).await;
        drop((self.baseline, self.canary));
        self.outside.end();
        // What is left in the system's directory for such things, the system clears.
        let _ = self.store.close();
    }
}

/// A thread of its own for what is not the proxy: users and versions are elsewhere, and their work
/// must not hold the control plane up.
struct Outside {
    runtime: tokio::runtime::Handle,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Outside {
    fn start() -> io::Result<Outside> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = oneshot::channel();
        Ok(Outside {
            runtime: runtime.handle().clone(),
            end,
            thread: std::thread::Builder::new()
                .name("demo".to_owned())
                .spawn(move || drop(runtime.block_on(ended)))?,
        })
    }

    /// Runs something there, together with what it spawns.
    async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.runtime.spawn(task).await;
        done.map_err(|error| Error::Part(io::Error::other(error)))
    }

    fn end(self) {
        // Whichever way it ends, it has ended.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

fn start_proxy(
    store: &TempDir,
    admin: SocketAddr,
    baseline: SocketAddr,
    canary: SocketAddr,
) -> Result<Running, app::Error> {
    let text = configuration(store, admin, baseline, canary);
    start(config::parse("<demo>", &text, &HashMap::new())?)
}

fn configuration(
    store: &TempDir,
    admin: SocketAddr,
    baseline: SocketAddr,
    canary: SocketAddr,
) -> String {
    let text = serde_json::json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "admin": { "address": admin.to_string() },
        "store": { "path": store.path() },
        "services": { SERVICE: {
            "routes": [{ "path_prefix": "/" }],
            "upstreams": {
                BASELINE: { "endpoints": [baseline.to_string()] },
                CANARY: { "endpoints": [canary.to_string()] },
            },
            "weights": { BASELINE: 100, CANARY: 0 },
        } },
    });
    // JSON is YAML.
    text.to_string()
}
