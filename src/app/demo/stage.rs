//! The parts of the demo, started and connected: two versions, the proxy as `run` assembles it, and the users.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tempfile::TempDir;

use super::Error;
use super::load::Load;
use super::upstream::Upstream;
use crate::app::{Running, start};
use crate::cli::client::Client;
use crate::config;

/// The service's name.
pub(super) const SERVICE: &str = "shop";
/// The version that holds the users.
pub(super) const BASELINE: &str = "v1";
/// The version that is to replace it.
pub(super) const CANARY: &str = "v2";

/// Where the admin API is expected to be, unless something else is there.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);
/// The users have gone when the proxy is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) canary: Upstream,
    pub(super) load: Load,
    pub(super) client: Client,
    pub(super) admin: SocketAddr,
    pub(super) proxy: SocketAddr,
    running: Running,
    baseline: Upstream,
    store: TempDir,
}

impl Stage {
    /// Starts all of it.
    pub(super) async fn set() -> Result<Stage, Error> {
        let store = tempfile::Builder::new()
            .prefix("weighbridge-demo-")
            .tempdir()
            .map_err(Error::Part)?;
        let baseline = Upstream::start(BASELINE).await.map_err(Error::Part)?;
        let canary = Upstream::start(CANARY).await.map_err(Error::Part)?;
        let text = configuration(&store, admin_address(), baseline.address(), canary.address());
        let config = config::parse("<demo>", &text, &HashMap::new()).map_err(super::super::Error::from)?;
        let running = start(config)?;
        let admin = running.admin_address();
        let first = running.listener_addresses().first().copied();
        let proxy = first.ok_or_else(|| Error::Part(io::Error::other("the proxy has no listener")))?;
        Ok(Stage {
            client: Client::new(&admin.to_string(), None)?,
            load: Load::start(proxy),
            canary,
            admin,
            proxy,
            running,
            baseline,
            store,
        })
    }

    /// Ends all of it, the users first.
    pub(super) async fn clear(self) {
        drop(self.load);
        self.running.drain(Duration::ZERO, DRAIN_TIMEOUT).await;
        drop((self.baseline, self.canary));
        // What is left in the system's directory for such things, the system clears.
        let _ = self.store.close();
    }
}

fn configuration(store: &TempDir, admin: SocketAddr, baseline: SocketAddr, canary: SocketAddr) -> String {
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

/// The usual address of the admin API, or any other if that is taken.
fn admin_address() -> SocketAddr {
    match TcpListener::bind(ADMIN) {
        Ok(_) => ADMIN,
        Err(_) => SocketAddr::new(ADMIN.ip(), 0),
    }
}
