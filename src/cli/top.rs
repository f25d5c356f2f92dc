//! `top`: polls services and releases and shows them live.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::args::{Format, Global, Top};
use super::exit::{Exit, Failure};
use super::panel::{Line, Panel};
use super::release::line;
use super::status::{healthy, marked, weight_cell};
use super::table::{Table, count, latency, rate};
use super::terminal::Terminal;
use super::verbs::{block_on, client};
use crate::client::{AdminClient, ApiResponse, Error};
use crate::model::api::{Phase, Release, Service, Window};

/// The statistics window that is shown, and its length in seconds.
const SPAN: (&str, u32) = ("10s", 10);
/// Error rate above which a row is highlighted.
const ERRORS_HIGH: f64 = 0.01;

const DIM: &str = "2";
const RED: &str = "31";
const YELLOW: &str = "33";

/// Shows snapshots until Ctrl-C, which is the normal end; or one with `--once`.
pub(super) fn run(global: &Global, args: &Top, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let client = client(global)?;
    block_on(async {
        tokio::select! {
            shown = watch(&client, args, terminal) => shown.map(|()| Exit::Done),
            // Without a signal handler, Ctrl-C ends the process by default.
            Ok(()) = tokio::signal::ctrl_c() => Ok(Exit::Done),
        }
    })?
}

async fn watch(client: &AdminClient, args: &Top, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut poller = Poller::of(client, args.service.as_deref());
    let mut view = View::new(terminal);
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match poller.poll().await {
            Ok(result) => view.show(&result)?,
            Err(error) if view.has_shown() && error.may_pass() => view.miss(&error)?,
            Err(error) => return Err(error.into()),
        }
        if args.once {
            return Ok(());
        }
    }
}

/// Polls the admin API.
struct Poller<'a> {
    client: &'a AdminClient,
    service: Option<&'a str>,
    /// The latest running release of each service; kept after its end to show the outcome.
    releases: BTreeMap<String, String>,
}

/// The result of one poll.
#[derive(Debug, Default)]
struct PollResult {
    services: Vec<Service>,
    releases: Vec<Release>,
    /// The JSON as received.
    json: Value,
}

impl<'a> Poller<'a> {
    fn of(client: &'a AdminClient, service: Option<&'a str>) -> Poller<'a> {
        Poller {
            client,
            service,
            releases: BTreeMap::new(),
        }
    }

    async fn poll(&mut self) -> Result<PollResult, Error> {
        let (services, services_json) = self.services().await?;
        for service in &services {
            if let Some(id) = &service.release {
                self.releases.insert(service.name.clone(), id.clone());
            }
        }
        let (mut releases, mut releases_json) = (Vec::new(), Vec::new());
        for id in self.releases.values() {
            match self.client.release(id).await {
                Ok(ApiResponse { value, json, .. }) => {
                    releases.push(value);
                    releases_json.push(json);
                }
                // It has ended and is no longer stored.
                Err(Error::Problem(problem)) if problem.status == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let json = json!({ "services": services_json, "releases": releases_json });
        Ok(PollResult {
            services,
            releases,
            json,
        })
    }

    async fn services(&self) -> Result<(Vec<Service>, Value), Error> {
        Ok(match self.service {
            Some(service) => {
                let answer = self.client.service(service).await?;
                (vec![answer.value], json!([answer.json]))
            }
            None => {
                let mut answer = self.client.services().await?;
                let json = answer.json.get_mut("services").map(Value::take);
                (answer.value.services, json.unwrap_or_default())
            }
        })
    }
}

/// The output: redrawn in place on a terminal, else one snapshot after another, as one JSON line
/// each in JSON format.
struct View<'a> {
    terminal: &'a mut Terminal,
    panel: Option<Panel>,
    /// The lines shown last.
    lines: Vec<Line>,
    misses: u32,
}

impl<'a> View<'a> {
    fn new(terminal: &'a mut Terminal) -> View<'a> {
        let in_place = terminal.format() == Format::Text && terminal.live();
        let colored = terminal.colored();
        View {
            terminal,
            panel: in_place.then(|| Panel::new(colored)),
            lines: Vec::new(),
            misses: 0,
        }
    }

    fn has_shown(&self) -> bool {
        !self.lines.is_empty()
    }

    fn show(&mut self, result: &PollResult) -> Result<(), Failure> {
        self.misses = 0;
        self.lines = lines(result);
        self.lines.insert(0, (title(result), DIM));
        match &mut self.panel {
            Some(panel) => self.terminal.print(&panel.draw(&self.lines)),
            None if self.terminal.format() == Format::Json => {
                self.terminal.print_json_line(&result.json)
            }
            None => {
                let text: Vec<&str> = self.lines.iter().map(|(line, _)| line.as_str()).collect();
                self.terminal.print(&(text.join("\n") + "\n\n"))
            }
        }
    }

    /// Handles a failed poll that may be temporary: keeps the last snapshot, with the error above.
    fn miss(&mut self, error: &Error) -> Result<(), Failure> {
        self.misses += 1;
        if let Some(panel) = &mut self.panel {
            if let Some(title) = self.lines.first_mut() {
                *title = (format!("{error}; retrying"), RED);
            }
            return self.terminal.print(&panel.draw(&self.lines));
        }
        if self.misses == 1 {
            self.terminal.say(&format!("{error}; retrying"));
        }
        Ok(())
    }
}

fn title(result: &PollResult) -> String {
    let now = jiff::Timestamp::now();
    let running = result
        .releases
        .iter()
        .filter(|release| !release.phase.is_over());
    format!(
        "{now:.0}  services: {}, running releases: {}; * marks the baseline, statistics cover \
         the last {}",
        result.services.len(),
        running.count(),
        SPAN.0
    )
}

fn lines(result: &PollResult) -> Vec<Line> {
    let mut lines = upstreams(&result.services);
    if !result.releases.is_empty() {
        lines.push((String::new(), ""));
    }
    for release in &result.releases {
        let color = match release.phase {
            Phase::RolledBack => RED,
            Phase::Waiting | Phase::Pending | Phase::Cancelled => YELLOW,
            _ => "",
        };
        lines.push((line(release), color));
    }
    lines
}

/// The table, its heading first.
fn upstreams(services: &[Service]) -> Vec<Line> {
    let mut table = Table::new(&[
        "SERVICE",
        "UPSTREAM",
        ">WEIGHT",
        "HEALTHY",
        ">IN FLIGHT",
        ">REQ/S",
        ">ERRORS",
        ">P50",
        ">P90",
        ">P99",
    ]);
    let mut colors = vec![DIM];
    for service in services {
        for (at, (name, upstream)) in service.upstreams.iter().enumerate() {
            let window = upstream.windows.get(SPAN.0).cloned().unwrap_or_default();
            let has_unhealthy = upstream.endpoints.iter().any(|endpoint| !endpoint.healthy);
            colors.push(if has_unhealthy || window.error_rate > ERRORS_HIGH {
                RED
            } else {
                ""
            });
            table.row([
                if at == 0 {
                    service.name.clone()
                } else {
                    String::new()
                },
                marked(service, name),
                weight_cell(&service.weights, name),
                healthy(upstream),
                count(
                    upstream
                        .endpoints
                        .iter()
                        .map(|endpoint| endpoint.in_flight)
                        .sum(),
                ),
                per_second(&window),
                rate(window.error_rate, window.requests),
                latency(window.latency_us.p50),
                latency(window.latency_us.p90),
                latency(window.latency_us.p99),
            ]);
        }
    }
    let text = table.text();
    text.lines().map(str::to_owned).zip(colors).collect()
}

fn per_second(window: &Window) -> String {
    match window.requests / u64::from(SPAN.1) {
        0..100 => format!("{:.1}", window.requests as f64 / f64::from(SPAN.1)),
        rate => count(rate),
    }
}
