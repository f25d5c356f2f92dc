//! `release`, `plan` and `explain`: start, show, follow and control releases.

pub(super) mod args;
mod explain;
mod follow;
mod forecast;
mod format;
mod show;
mod view;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use args::{ReleaseVerb, Start};
use follow::{FollowEnd, UNREACHED_MAX, WatchLimits};
pub(super) use format::line;
use view::ReleaseView;

use super::args::{Format, Global};
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use super::verbs::{ask, block_on, client};
use crate::client::{AdminClient, ApiResponse, Error};
use crate::model::api;

/// The longest plan that is read.
const PLAN_BYTES_MAX: u64 = 1024 * 1024;

/// Runs a verb of `release`.
pub(super) fn run(
    global: &Global,
    verb: ReleaseVerb,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let client = client(global)?;
    match verb {
        ReleaseVerb::Start(args) => start(&client, *args, terminal),
        ReleaseVerb::Status { subject } => {
            let answer = find(&client, &subject.subject, terminal)?;
            show::status(&answer, terminal)
        }
        ReleaseVerb::Watch { subject, timeout } => {
            let answer = find(&client, &subject.subject, terminal)?;
            // A user at a terminal sees what the release waits for, and may act on it.
            let limits = watch_limits(
                timeout,
                terminal.format() == Format::Text && terminal.live(),
            );
            watch(&client, answer.value, limits, terminal)
        }
        ReleaseVerb::History { service, limit } => {
            let answer = ask(client.releases(&service, limit.into()), terminal)?;
            show::history(&answer, terminal)
        }
        other => command(&client, other, terminal),
    }
}

/// Shows the forecast of a plan.
pub(super) fn forecast(
    global: &Global,
    service: &str,
    plan: Option<&Path>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let plan = plan.map(read_plan).transpose()?;
    let request = api::PlanRequest { plan };
    let answer = ask(client(global)?.forecast(service, &request), terminal)?;
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => terminal.print(&forecast::text(&answer.value))?,
    }
    if terminal.format() == Format::Text {
        for warning in &answer.value.warnings {
            terminal.warn(warning);
        }
    }
    Ok(Exit::Done)
}

/// The state of a release in one line; only its ID if it cannot be read.
pub(super) fn summary(
    client: &AdminClient,
    id: &str,
    terminal: &mut Terminal,
) -> Result<String, Failure> {
    match block_on(client.release(id))? {
        Ok(answer) => Ok(format::line(&answer.value)),
        Err(error) => {
            terminal.explain(&error.to_string());
            Ok(id.to_owned())
        }
    }
}

/// Explains the state of a release.
pub(super) fn explain(
    global: &Global,
    subject: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let client = client(global)?;
    let answer = find(&client, subject, terminal)?;
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => {
            let service = ask(client.service(&answer.value.service), terminal)?;
            terminal.print(&explain::text(&answer.value, &service.value))?;
        }
    }
    Ok(Exit::Done)
}

fn start(client: &AdminClient, args: Start, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let start = api::ReleaseStart {
        canary: args.canary,
        reason: args.why.reason,
        change: args.change,
        version: args.version,
        plan: args.plan.as_deref().map(read_plan).transpose()?,
        start_at: args.at,
        override_freeze: args.freeze.override_freeze,
    };
    let answer = ask(client.start_release(&args.service, &start), terminal)?;
    let release = &answer.value.release;
    if args.wait {
        terminal.say(&format!("{} started", release.id));
        return watch(
            client,
            answer.value.release,
            watch_limits(args.timeout, false),
            terminal,
        );
    }
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => terminal.print(&format!("{}\n", release.id))?,
    }
    terminal.say(&format::line(release));
    terminal.say(&format!(
        "follow it with `weighbridge release watch {}`",
        release.id
    ));
    Ok(Exit::Done)
}

fn command(
    client: &AdminClient,
    verb: ReleaseVerb,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let mut command = api::ReleaseCommand::default();
    let (subject, word) = match verb {
        ReleaseVerb::Pause { subject, why } => {
            command.reason = why.reason;
            (subject, "pause")
        }
        ReleaseVerb::Resume {
            subject,
            why,
            freeze,
        } => {
            (command.reason, command.override_freeze) = (why.reason, freeze.override_freeze);
            (subject, "resume")
        }
        ReleaseVerb::Approve { subject, gate, why } => {
            (command.reason, command.gate) = (why.reason, gate);
            (subject, "approve")
        }
        ReleaseVerb::Promote {
            subject,
            why,
            freeze,
        } => {
            (command.reason, command.override_freeze) = (why.reason, freeze.override_freeze);
            (subject, "promote")
        }
        ReleaseVerb::Rollback { subject, why } => {
            command.reason = why.reason;
            (subject, "rollback")
        }
        ReleaseVerb::Cancel { subject, why } => {
            command.reason = why.reason;
            (subject, "cancel")
        }
        ReleaseVerb::Start(_)
        | ReleaseVerb::Status { .. }
        | ReleaseVerb::Watch { .. }
        | ReleaseVerb::History { .. } => {
            return Err(Failure::new(
                Exit::Failed,
                "this verb is not a release command",
            ));
        }
    };
    let release = find(client, &subject.subject, terminal)?.value;
    let answer = ask(
        client.command_release(&release.id, word, &command),
        terminal,
    )?;
    show::change(&answer, terminal)
}

/// Finds a release: the running or latest one of the service `subject`, else the one with this ID.
fn find(
    client: &AdminClient,
    subject: &str,
    terminal: &mut Terminal,
) -> Result<ApiResponse<api::Release>, Failure> {
    let listed = block_on(client.releases(subject, 1))?;
    let answer = match listed {
        Ok(answer) => answer,
        // No such service: a release ID.
        Err(Error::Problem(problem)) if problem.status == 404 => {
            return ask(client.release(subject), terminal);
        }
        Err(error) => return Err(error.into()),
    };
    terminal.explain(&answer.trace);
    let ApiResponse { value, json, trace } = answer;
    let newest = value.releases.into_iter().next().ok_or_else(|| {
        Failure::new(Exit::Failed, format!("{subject} has no release yet")).hint(format!(
            "`weighbridge release start {subject} CANARY` starts one"
        ))
    })?;
    let json = json.pointer("/releases/0").cloned().unwrap_or(json);
    Ok(ApiResponse {
        value: newest,
        json,
        trace,
    })
}

fn watch_limits(timeout: Option<Duration>, past_inconclusive: bool) -> WatchLimits {
    WatchLimits {
        timeout,
        unreached_max: UNREACHED_MAX,
        past_inconclusive,
    }
}

/// Follows a release to its end, and maps the outcome to an exit code.
fn watch(
    client: &AdminClient,
    release: api::Release,
    limits: WatchLimits,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let mut view = ReleaseView::new(terminal);
    let (ended, release) = block_on(follow::follow(client, release, &mut view, limits))??;
    view.finish();
    let id = &release.id;
    match ended {
        FollowEnd::Over => {
            terminal.say(&format::end(&release));
            if release.phase == api::Phase::RolledBack {
                terminal.say(&format!("evidence: {}", client.evidence_page(id)));
            }
        }
        FollowEnd::Inconclusive => terminal.say(&format::inconclusive(&release)),
        FollowEnd::OutOfTime => terminal.say(&format!(
            "{id} has not ended before the timeout and continues: {}",
            format::line(&release)
        )),
        FollowEnd::Interrupted => terminal.say(&format!(
            "interrupted; {id} continues. `weighbridge release watch {id}` follows it again, \
             `weighbridge release rollback {id}` rolls it back"
        )),
    }
    Ok(exit(ended, &release))
}

fn exit(ended: FollowEnd, release: &api::Release) -> Exit {
    match (ended, release.phase) {
        (FollowEnd::Interrupted, _) => Exit::Interrupted,
        (FollowEnd::Over, api::Phase::Promoted) => Exit::Done,
        (FollowEnd::Over, api::Phase::RolledBack) => Exit::RolledBack,
        (FollowEnd::Over | FollowEnd::Inconclusive | FollowEnd::OutOfTime, _) => Exit::Inconclusive,
    }
}

/// Reads a plan from a file; JSON is valid YAML.
fn read_plan(path: &Path) -> Result<Map<String, Value>, Failure> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let wrong = |what: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("invalid plan in {name}: {what}"))
    };
    let text = read(path).map_err(|error| wrong(&error))?;
    match serde_yaml::from_str::<Value>(&text) {
        Ok(Value::Object(plan)) => Ok(plan),
        Ok(_) => Err(wrong(
            &"expected the fields of a release block, such as `steps: [5, 25, 100]`",
        )),
        Err(error) => Err(wrong(&error)),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(PLAN_BYTES_MAX)
            .read_to_string(&mut text)?;
    } else {
        File::open(path)?
            .take(PLAN_BYTES_MAX)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}
