//! The program as a child process with its own configuration, directory and ports.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::{fs, thread};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::{Client, Metrics, Response, Upstream, eventually, until};

/// A service `shop` that matches every request, with all weight on `blue`.
pub(crate) fn shop(blue: &Upstream, green: &Upstream) -> Value {
    json!({
        "routes": [{}],
        "upstreams": {
            "blue": { "endpoints": [blue.address] },
            "green": { "endpoints": [green.address] },
        },
        "weights": { "blue": 100, "green": 0 },
    })
}

/// A port reserved while this value lives: bound but not listening. Another socket can bind this
/// port with SO_REUSEPORT; port 0 never yields it.
#[derive(Debug)]
pub(crate) struct Reserved {
    _socket: Socket,
    pub(crate) address: SocketAddr,
}

impl Reserved {
    pub(crate) fn new() -> Reserved {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Reserved {
            _socket: socket,
            address,
        }
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Address of the listener.
    pub(crate) address: SocketAddr,
    /// Address of the admin API.
    pub(crate) admin: SocketAddr,
    pub(crate) directory: TempDir,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    open_files: Option<u32>,
    /// Replaces the pipe that fills [`Proxy::log`] as standard error.
    stderr: Option<Stdio>,
    _ports: [Reserved; 2],
}

/// Result of a process that exited.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl Proxy {
    /// Starts the program and waits until it is ready. Sets the addresses of the first listener and
    /// the admin API in `config`.
    #[track_caller]
    pub(crate) fn start(config: Value) -> Proxy {
        let mut proxy = Proxy::prepare(config);
        proxy.run();
        proxy
    }

    /// Like [`Proxy::start`], with `shop` as the only service.
    #[track_caller]
    pub(crate) fn with_shop(shop: Value) -> Proxy {
        Proxy::start(json!({ "services": { "shop": shop } }))
    }

    /// Like [`Proxy::start`], with a limit on open files.
    #[track_caller]
    pub(crate) fn start_with_open_files(config: Value, limit: u32) -> Proxy {
        let mut proxy = Proxy::prepare(config);
        proxy.open_files = Some(limit);
        proxy.run();
        proxy
    }

    /// Like [`Proxy::start`], with the given standard error.
    #[track_caller]
    pub(crate) fn start_with_stderr(config: Value, stderr: impl Into<Stdio>) -> Proxy {
        let mut proxy = Proxy::prepare(config);
        proxy.stderr = Some(stderr.into());
        proxy.run();
        proxy
    }

    /// Resident memory of the process in bytes.
    #[track_caller]
    pub(crate) fn memory(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.as_ref().unwrap().id());
        let status = fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim()
            .trim_end_matches(" kB")
            .parse::<usize>()
            .unwrap()
            * 1024
    }

    /// Whether all threads of the program sleep. On a busy machine one that has work may have to
    /// wait for a processor.
    pub(crate) fn sleeps(&self) -> bool {
        let tasks = format!("/proc/{}/task", self.child.as_ref().unwrap().id());
        fs::read_dir(tasks).unwrap().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat"));
            stat.is_ok_and(|stat| stat.rsplit(") ").next().unwrap().starts_with('S'))
        })
    }

    /// Prepares configuration and ports without starting the program.
    pub(crate) fn prepare(config: Value) -> Proxy {
        let ports = [Reserved::new(), Reserved::new()];
        let proxy = Proxy {
            address: ports[0].address,
            admin: ports[1].address,
            directory: tempfile::tempdir().unwrap(),
            child: None,
            log: Arc::default(),
            reader: None,
            open_files: None,
            stderr: None,
            _ports: ports,
        };
        proxy.write_config(config);
        proxy
    }

    /// Path of the configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join("weighbridge.yaml")
    }

    /// Completes `config` and replaces the file atomically. JSON is YAML.
    pub(crate) fn write_config(&self, mut config: Value) {
        if config["listeners"].is_null() {
            config["listeners"] = json!([{}]);
        }
        config["listeners"][0]["address"] = json!(self.address);
        config["admin"]["address"] = json!(self.admin);
        let config = serde_json::to_string_pretty(&config).unwrap();
        let fresh = self.directory.path().join("weighbridge.yaml.new");
        fs::write(&fresh, config).unwrap();
        fs::rename(fresh, self.config_path()).unwrap();
    }

    /// Starts the program and waits until it is ready.
    #[track_caller]
    pub(crate) fn run(&mut self) {
        self.spawn();
        let child = self.child.as_mut().unwrap();
        let (admin, log) = (self.admin, &self.log);
        eventually("the proxy is ready", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the proxy exited with {status}:\n{}", log.lock().unwrap());
            }
            try_admin(admin, "GET", "/readyz", "", None)
                .is_ok_and(|response| response.status == 200)
        });
    }

    /// Starts the program.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "already running");
        let program = env!("CARGO_BIN_EXE_weighbridge");
        let mut command = match self.open_files {
            None => Command::new(program),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    &format!("ulimit -n {limit} && exec \"$0\" \"$@\""),
                    program,
                ]);
                shell
            }
        };
        for (name, _) in std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("WEIGHBRIDGE_"))
        {
            command.env_remove(name);
        }
        command
            .env("NO_COLOR", "1")
            .arg("run")
            .arg("--config")
            .arg(self.config_path());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.stderr.take().unwrap_or_else(Stdio::piped))
            .spawn()
            .unwrap();
        let log = Arc::clone(&self.log);
        self.reader = child.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(bytes @ 1..) = stderr.read(&mut piece) {
                    log.lock()
                        .unwrap()
                        .push_str(&String::from_utf8_lossy(&piece[..bytes]));
                }
            })
        });
        self.child = Some(child);
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Whether the process is running.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id();
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process exits.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> Ended {
        let child = self.child.as_mut().unwrap();
        let status = until("the process exits", || child.try_wait().unwrap());
        self.child = None;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended {
            status,
            log: self.log(),
        }
    }

    /// A client with a connection of its own.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        super::get(self.address, path)
    }

    /// A call of the admin API; `headers` are lines that each end in CRLF.
    #[track_caller]
    pub(crate) fn admin(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&str>,
    ) -> Response {
        try_admin(self.admin, method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The admin API's resource of `shop`.
    #[track_caller]
    pub(crate) fn service(&self) -> Value {
        self.admin("GET", "/api/v1/services/shop", "", None)
            .expect(200)
            .json()
    }

    /// Sets the weights of `shop`.
    #[track_caller]
    pub(crate) fn set_weights(&self, blue: f64, green: f64) -> Response {
        self.put_weights(
            "",
            &json!({ "weights": { "blue": blue, "green": green } }).to_string(),
        )
        .expect(200)
    }

    /// Like [`Proxy::set_weights`], with any headers and body.
    #[track_caller]
    pub(crate) fn put_weights(&self, headers: &str, body: &str) -> Response {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        self.admin("PUT", "/api/v1/services/shop/weights", &headers, Some(body))
    }

    /// Rolls `shop` back to its baseline.
    #[track_caller]
    pub(crate) fn roll_back(&self) -> Response {
        self.admin("POST", "/api/v1/services/shop/rollback", "", None)
            .expect(200)
    }

    /// The current metrics.
    #[track_caller]
    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("GET", "/metrics", "", None).expect(200).text())
    }

    /// Waits until `times` requests are counted as failed or refused for `reason`.
    #[track_caller]
    pub(crate) fn counts_reason(&self, reason: &str, times: u32) {
        eventually(&format!("{reason} is counted {times} times"), || {
            self.metrics().reason(reason) == f64::from(times)
        });
    }
}

fn try_admin(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: Option<&str>,
) -> std::io::Result<Response> {
    let mut client = Client::try_connect(address)?;
    let host = if headers.to_ascii_lowercase().contains("host:") {
        String::new()
    } else {
        format!("Host: {address}\r\n")
    };
    let length = body.map_or_else(String::new, |body| {
        format!("Content-Length: {}\r\n", body.len())
    });
    client.send(format!(
        "{method} {path} HTTP/1.1\r\n{host}{headers}{length}Connection: close\r\n\r\n{}",
        body.unwrap_or_default()
    ));
    client.try_receive()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of the proxy:\n{}---", self.log());
        }
    }
}
