//! The configuration: parses YAML text into a validated [`Config`], or a [`Report`] of all
//! problems.
//!
//! Two stages: `yaml` and `tree` hold the values with their positions; the readers of each section
//! interpret and validate them. Nothing is ignored: unknown fields, and fields that this version
//! does not support yet, are problems. This module has no side effects; `app` applies the result.

mod admin;
mod env;
mod listener;
mod process;
mod read;
mod release;
mod report;
mod route;
mod scalar;
#[expect(dead_code, reason = "these types only generate the schema")]
mod schema;
mod service;
mod sticky;
mod tree;
mod watch;
mod webhook;
mod yaml;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use self::read::{Fields, ProblemList};
use self::release::Callers;
use self::report::SourceText;
pub use self::report::{ConfigProblem, Report};
pub use self::schema::schema;
use self::tree::{Node, NodeKind};
pub use self::watch::{FileWatch, watch};
use crate::model::{ServiceSpec, Webhook};
use crate::net::ListenerOptions;
use crate::{proxy, store, telemetry};

/// The longest configuration that is read.
const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

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

/// Reads the configuration at `path`, with the environment of the process.
///
/// # Errors
///
/// A report of all problems, also when the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    match read_text(path) {
        Ok(text) => parse(&name, &text, &environment()),
        Err(error) => {
            let source = Arc::new(SourceText {
                name: name.clone(),
                text: String::new(),
            });
            let message = format!("cannot read the configuration: {error}");
            Err(Report::new(vec![ConfigProblem::new(
                &source, None, "", message,
            )]))
        }
    }
}

/// Parses the configuration in `text`. `name` is the file name in messages; relative paths are
/// resolved against its directory.
///
/// # Errors
///
/// A report of all problems.
pub fn parse(name: &str, text: &str, env: &HashMap<String, String>) -> Result<Config, Report> {
    let source = Arc::new(SourceText {
        name: name.to_owned(),
        text: text.to_owned(),
    });
    if text.len() > TEXT_BYTES_MAX {
        let problem = ConfigProblem::new(
            &source,
            None,
            "",
            format!("the configuration is longer than {TEXT_BYTES_MAX} bytes"),
        );
        return Err(Report::new(vec![problem]));
    }
    let mut found = Vec::new();
    let tree = yaml::read(&source, env, &mut found);
    let problems = ProblemList::new(source, found);
    let config = tree.and_then(|tree| config(&tree, &problems, env));
    let problems = problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Report::new(problems)),
    }
}

fn config(tree: &Node, problems: &ProblemList, env: &HashMap<String, String>) -> Option<Config> {
    if matches!(tree.kind, NodeKind::Null) {
        problems.at_start("the file is empty; expected at least `services`");
        return None;
    }
    let mut fields = Fields::of(tree, problems)?;
    let proxy = process::proxy(&mut fields);
    let listeners = fields.read("listeners", listener::listeners);
    let known = problems.count();
    let admin = fields.read("admin", |node, problems| admin::admin(node, problems, env));
    let callers = callers(
        fields.get("admin"),
        admin.as_ref(),
        problems.count() > known,
    );
    let store = fields.read("store", process::store);
    let services = fields.required(
        "services",
        "a mapping of names to services",
        |node, problems| service::services(node, problems, callers),
    );
    let webhooks = fields.read("webhooks", webhook::webhooks);
    let log = fields.read("log", process::log);
    let access_log = fields.read("access_log", process::access_log);
    let config = Config {
        listeners: listeners.unwrap_or_else(|| vec![ListenerOptions::default()]),
        admin: admin.clone().unwrap_or_default(),
        store: store.unwrap_or_default(),
        proxy,
        telemetry: telemetry::Options {
            log: log.unwrap_or_default(),
            access_log: access_log.flatten(),
        },
        services: services.unwrap_or_default(),
        webhooks: webhooks.unwrap_or_default(),
    };
    let address = config.admin.address;
    if address.port() != 0
        && config
            .listeners
            .iter()
            .any(|listener| listener.address == address)
    {
        let node = fields.get("admin").unwrap_or(tree);
        problems.at(
            node,
            format!("the admin API and a listener both listen on {address}"),
        );
    }
    fields.finish();
    Some(config)
}

/// The callers of the admin API. Invalid tokens are reported elsewhere; here it only matters
/// whether any are configured.
fn callers<'a>(
    node: Option<&Node>,
    admin: Option<&'a crate::admin::Options>,
    is_wrong: bool,
) -> Callers<'a> {
    let is_meant = |entry: &tree::MapEntry| matches!(&*entry.key, "tokens" | "tokens_file");
    let meant = node.is_some_and(
        |node| matches!(&node.kind, NodeKind::Map(entries) if entries.iter().any(is_meant)),
    );
    match admin {
        _ if !meant => Callers::Nameless,
        Some(admin) if !is_wrong => Callers::Named(&admin.tokens),
        _ => Callers::Unclear,
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
