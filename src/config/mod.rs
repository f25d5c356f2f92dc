//! The configuration: parses YAML text into a validated [`Config`], or a [`Report`] of all
//! problems.
//!
//! The module `document` holds the values with their positions; the readers of each section
//! interpret, validate and describe them. Nothing is ignored: unknown fields, and fields that this
//! version does not support yet, are problems. This module has no side effects; `app` applies the
//! result.

mod admin;
mod health;
mod listener;
mod process;
mod release;
mod report;
mod route;
mod service;
mod sticky;
mod watch;
mod webhook;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use self::release::Callers;
pub use self::report::{ConfigProblem, Report};
pub use self::watch::{FileWatch, watch};
use crate::document::yaml::{self, TEXT_BYTES_MAX};
use crate::document::{self, Fields, Node, NodeKind, ProblemList, SourceText, Type};
use crate::model::{ServiceSpec, Webhook};
use crate::net::ListenerOptions;
use crate::{proxy, store, telemetry};

/// What the schema and the reference say of the configuration as a whole.
const ABOUT: &str = "The configuration of Weighbridge. `${NAME}`, `${NAME:-default}` and \
    `${NAME:?message}` in values are taken from the environment; `$${` is a literal `${`.";

/// The first lines of the reference.
const REFERENCE: &str = "\
# yaml-language-server: $schema=weighbridge.schema.json
#
# Every option with its default and reason. Options without a default are comments or examples.
#
# Durations need a unit (us, ms, s, m, h, d: `1m30s`), and so do sizes (B, kB, MB, GB, KiB, MiB,
# GiB); a bare number is rejected as ambiguous. In values, `${NAME}`, `${NAME:-default}` and
# `${NAME:?message}` are environment variables, and `$${` is a literal `${`. Relative paths are
# resolved against the directory of this file.
#
# A reload (SIGHUP, or a change of this file) applies `services`; other keys need a restart, and a
# reload that changes them reports that.
";

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listeners; at least one.
    pub listeners: Vec<ListenerOptions>,
    /// The admin API.
    pub admin: crate::admin::Options,
    /// The store, which survives a restart.
    pub store: store::Options,
    /// The data plane.
    pub proxy: proxy::Options,
    /// Logs.
    pub telemetry: telemetry::Options,
    /// The services, in the order of the file; at least one.
    pub services: Vec<ServiceSpec>,
    /// The receivers of release events.
    pub webhooks: Vec<Webhook>,
}

/// The keys whose changed values only take effect after a restart. A reload applies `services`
/// only.
pub fn changes_needing_restart(old: &Config, new: &Config) -> Vec<String> {
    [
        ("workers", old.proxy.workers != new.proxy.workers),
        ("listeners", old.listeners != new.listeners),
        ("admin", old.admin != new.admin),
        ("store", old.store != new.store),
        ("webhooks", old.webhooks != new.webhooks),
        ("drain", old.proxy.drain != new.proxy.drain),
        ("pool", old.proxy.pool != new.proxy.pool),
        (
            "max_in_flight",
            old.proxy.max_in_flight != new.proxy.max_in_flight,
        ),
        ("log", old.telemetry.log != new.telemetry.log),
        (
            "access_log",
            old.telemetry.access_log != new.telemetry.access_log,
        ),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn schema() -> serde_json::Value {
    document::schema("Configuration", ABOUT, &shape())
}

/// A configuration in which every option stands with its default and its reason.
pub fn reference() -> String {
    REFERENCE.to_owned() + &document::reference(&shape())
}

fn shape() -> document::Shape {
    let env = HashMap::new();
    Type::object(|fields| Some(config(fields, &env))).shape()
}

/// Reads the configuration at `path`, with the environment of the process.
///
/// # Errors
///
/// A report of all problems, also when the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    match read_text(path) {
        Ok(text) => parse(&name, &text, &environment()),
        Err(error) => Err(unreadable(
            name,
            format!("cannot read the configuration: {error}"),
        )),
    }
}

/// Parses the configuration in `text`. `name` is the file name in messages; relative paths are
/// resolved against its directory.
///
/// # Errors
///
/// A report of all problems.
pub fn parse(name: &str, text: &str, env: &HashMap<String, String>) -> Result<Config, Report> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the configuration is longer than {TEXT_BYTES_MAX} bytes");
        return Err(unreadable(name.to_owned(), message));
    }
    let source = Arc::new(SourceText {
        name: name.to_owned(),
        text: text.to_owned(),
    });
    let problems = ProblemList::new(Arc::clone(&source));
    let config = yaml::read(&source, env, &problems).and_then(|tree| {
        if matches!(tree.kind, NodeKind::Null) {
            problems.at_start("the file is empty; expected at least `services`");
            return None;
        }
        Type::object(|fields| Some(config(fields, env))).read(&tree, &problems)
    });
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Report::new(problems)),
    }
}

/// A report with one problem of the file as a whole.
fn unreadable(name: String, message: String) -> Report {
    let text = String::new();
    let problems = ProblemList::new(Arc::new(SourceText { name, text }));
    problems.push(None, &document::NodePath::default(), message, None);
    Report::new(problems)
}

/// Text of `store`.
const STORE: &str = "\
    The store, which survives a restart. Without a path, weights set by the admin API are lost \
    at the end of the process. The directory holds the live state, the journal of all changes, \
    the latest 1000 releases per service, 1000 evidence bundles, 50 recordings, and the \
    responses to the latest 1000 writes with an Idempotency-Key, for 24 hours. Only one process \
    may use it, and the file system must support locks. It also holds the secret of sticky \
    cookies, created at the first start; the database has mode 0600. `weighbridge audit verify \
    --store PATH` checks the journal against the recorded heads. Whoever can write to the \
    database can rewrite those too: keep the printed head elsewhere.";

fn config(fields: &mut Fields<'_>, env: &HashMap<String, String>) -> Config {
    let problems = fields.problems();
    let mut config = Config {
        listeners: vec![ListenerOptions::default()],
        admin: crate::admin::Options::default(),
        store: store::Options::default(),
        proxy: process::proxy(fields),
        telemetry: telemetry::Options::default(),
        services: Vec::new(),
        webhooks: Vec::new(),
    };
    fields.set(
        "listeners",
        &mut config.listeners,
        listener::listeners(),
        "The listeners; by default one on 0.0.0.0:8080.",
    );
    let known = problems.count();
    fields.set(
        "admin",
        &mut config.admin,
        Type::object(|fields| admin::admin(fields, env))
            .named("Admin")
            .live(),
        "The admin API.",
    );
    let callers = callers(fields.get("admin"), &config.admin, problems.count() > known);
    fields.set(
        "store",
        &mut config.store,
        Type::object(process::store).named("Store").live(),
        STORE,
    );
    fields.set(
        "log",
        &mut config.telemetry.log,
        Type::object(process::log).named("Log").live(),
        "The program log, on standard error.",
    );
    fields.set(
        "access_log",
        &mut config.telemetry.access_log,
        process::access_log(),
        "The access log, one line per request: `off`, `stdout`, or a file (a path with a `/`, \
         reopened on SIGUSR1). A log that cannot keep up drops and counts lines; it never delays \
         requests.",
    );
    fields.set(
        "webhooks",
        &mut config.webhooks,
        webhook::webhooks(),
        "Receivers of release events, as JSON or chat messages. Failed deliveries are retried \
         (429, 5xx, broken connection, timeout) and never delay a release. Each receiver has a \
         queue of 256; when it is full, the oldest event is dropped and counted \
         (weighbridge_webhook_deliveries_total), ends of releases last.",
    );
    let services = fields.required(
        "services",
        "a mapping of names to services",
        service::services(callers),
        "The services, by name.",
    );
    config.services = services.unwrap_or_default();
    check_addresses(fields, &config);
    config
}

/// The admin API and a listener must not share an address.
fn check_addresses(fields: &Fields<'_>, config: &Config) {
    let address = config.admin.address;
    let mut others = config.listeners.iter();
    if address.port() != 0 && others.any(|listener| listener.address == address) {
        let node = fields.get("admin").unwrap_or(fields.node());
        fields.problems().at(
            node,
            format!("the admin API and a listener both listen on {address}"),
        );
    }
}

/// The callers of the admin API. Invalid tokens are reported elsewhere; here it only matters
/// whether any are configured.
fn callers<'a>(
    node: Option<&Node>,
    admin: &'a crate::admin::Options,
    is_wrong: bool,
) -> Callers<'a> {
    let is_meant = |key| node.is_some_and(|node| node.get(key).is_some());
    if !is_meant("tokens") && !is_meant("tokens_file") {
        Callers::Nameless
    } else if is_wrong {
        Callers::Unclear
    } else {
        Callers::Named(&admin.tokens)
    }
}

/// The environment variables whose names and values are valid UTF-8.
pub(crate) fn environment() -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads a file, at most [`TEXT_BYTES_MAX`] + 1 bytes.
fn read_text(path: &Path) -> io::Result<String> {
    let most = u64::try_from(TEXT_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {TEXT_BYTES_MAX} bytes"
        )));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests;
