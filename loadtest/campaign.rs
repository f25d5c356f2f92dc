//! The part of `loadtest/campaign` that carries the load: the users of several services, and two
//! versions of each, of which one does what the script tells it to.
//!
//! One thread does it all, so that two cores are enough for everything. It says on standard output
//! where it listens, takes commands as lines of JSON over TCP, a connection for each service, and
//! ends when its standard input does.

mod fault;
mod users;
mod version;

use std::cell::{Cell, OnceCell};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::fault::Fault;
use crate::users::{Flow, Seen, Tally, Users};
use crate::version::Version;

/// The names of a service's versions.
const VERSIONS: [&str; 2] = ["blue", "green"];

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, run())
}

async fn run() -> Result<()> {
    let mut words = env::args().skip(1);
    let seed = words
        .next()
        .context("SEED RATE:HABIT…: an argument is missing")?
        .parse()?;
    let mut lanes = Vec::new();
    for (number, word) in words.enumerate() {
        let (rate, habit) = word.split_once(':').context("RATE:HABIT was expected")?;
        let flow = Flow {
            rate: rate.parse()?,
            habit: habit.parse()?,
        };
        lanes.push(Lane::start(number, flow, seed).await?);
    }
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let versions: Vec<_> = lanes.iter().map(|lane| lane.addresses()).collect();
    writeln!(
        io::stdout(),
        "{}",
        json!({ "control": control.local_addr()?, "services": versions })
    )?;
    let lanes: Rc<[Lane]> = lanes.into();
    let mut ended = end_of_input();
    loop {
        tokio::select! {
            _ = &mut ended => return Ok(()),
            accepted = control.accept() => { spawn_local(obey(Rc::clone(&lanes), accepted?.0)); }
        }
    }
}

/// Standard input is held open by the script: when it goes, so do we.
fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel();
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    ended
}

async fn obey(lanes: Rc<[Lane]>, stream: TcpStream) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match command(&lanes, &line).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

/// What the script may ask for.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Let the users of all services come.
    Go { proxy: SocketAddr },
    /// Give a version a fault and begin to count what users see.
    Open {
        lane: usize,
        canary: String,
        fault: Fault,
        /// It begins with `begin`.
        late: bool,
    },
    /// Let a fault that grows, or an outage, begin.
    Begin { lane: usize },
    /// Count to the end, take the fault away, and work out what other policies would have let
    /// through.
    Close { lane: usize, policies: Vec<Policy> },
    /// What all users have seen since the beginning.
    Totals,
}

/// How long another policy lets a canary have its share of the users.
#[derive(Debug, Deserialize)]
struct Policy {
    name: String,
    /// Percent.
    weight: f64,
    /// From the beginning of the fault.
    seconds: f64,
}

async fn command(lanes: &[Lane], line: &str) -> Result<Value> {
    let lane = |number: usize| lanes.get(number).context("there is no such service");
    match serde_json::from_str(line)? {
        Command::Go { proxy } => {
            lanes.iter().try_for_each(|lane| lane.go(proxy))?;
            Ok(json!({}))
        }
        Command::Open {
            lane: number,
            canary,
            fault,
            late,
        } => lane(number)?.open(&canary, fault, late),
        Command::Begin { lane: number } => Ok(lane(number)?.begin()),
        Command::Close {
            lane: number,
            policies,
        } => lane(number)?.close(&policies).await,
        Command::Totals => {
            let totals = lanes
                .iter()
                .map(|lane| lane.users().map(|users| users.total()));
            Ok(json!(totals.collect::<Result<Vec<Seen>>>()?))
        }
    }
}

/// One service: its versions and its users.
struct Lane {
    number: usize,
    flow: Flow,
    seed: u64,
    versions: [Rc<Version>; 2],
    users: OnceCell<Rc<Users>>,
    fault: Cell<Fault>,
    onset: Cell<Option<Instant>>,
}

impl Lane {
    async fn start(number: usize, flow: Flow, seed: u32) -> Result<Lane> {
        let seed = u64::from(seed) << 32 | (number as u64) << 8;
        Ok(Lane {
            number,
            flow,
            seed,
            versions: [
                Version::start(seed + 1).await?,
                Version::start(seed + 2).await?,
            ],
            users: OnceCell::new(),
            fault: Cell::default(),
            onset: Cell::default(),
        })
    }

    fn addresses(&self) -> Value {
        let named = VERSIONS.iter().zip(&self.versions);
        named
            .map(|(name, version)| ((*name).to_owned(), json!(version.addresses)))
            .collect()
    }

    fn go(&self, proxy: SocketAddr) -> Result<()> {
        let users = Users::start(
            format!("lane{}.test", self.number),
            proxy,
            self.flow,
            self.seed,
        );
        ensure!(self.users.set(users).is_ok(), "the users are there already");
        Ok(())
    }

    fn users(&self) -> Result<&Users> {
        self.users
            .get()
            .map(|users| &**users)
            .context("no users yet")
    }

    fn open(&self, canary: &str, fault: Fault, is_late: bool) -> Result<Value> {
        let Some(index) = VERSIONS.iter().position(|name| *name == canary) else {
            bail!("there is no version {canary}");
        };
        for (number, version) in self.versions.iter().enumerate() {
            // Both versions depend on what fails in an outage.
            let concerned = number == index || fault.is_shared();
            version.set(if concerned { fault } else { Fault::None }, is_late);
        }
        self.fault.set(fault);
        self.onset.set(None);
        self.users()?.open();
        Ok(json!({}))
    }

    fn begin(&self) -> Value {
        self.onset.set(Some(Instant::now()));
        self.versions.iter().for_each(|version| version.begin());
        json!({})
    }

    async fn close(&self, policies: &[Policy]) -> Result<Value> {
        let users = self.users()?;
        let tally = users.close().await;
        let requests: Vec<_> = self
            .versions
            .iter()
            .map(|version| version.requests())
            .collect();
        self.versions
            .iter()
            .for_each(|version| version.set(Fault::None, false));
        let others = policies.iter().map(|policy| {
            (
                policy.name.clone(),
                json!(self.let_through(users, &tally, policy)),
            )
        });
        Ok(json!({ "seen": tally.seen(), "received": requests,
            "others": others.collect::<Value>() }))
    }

    fn let_through(&self, users: &Users, tally: &Tally, policy: &Policy) -> f64 {
        let onset = self.onset.get().unwrap_or(tally.since());
        users.let_through(
            tally,
            self.fault.get(),
            onset,
            policy.weight / 100.0,
            policy.seconds,
        )
    }
}
