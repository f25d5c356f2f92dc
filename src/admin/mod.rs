//! The admin API: services and their weights, rollback, releases and their evidence, events,
//! journal, metrics, probes, and their description.
//!
//! It checks who asks and what is asked, and carries it to the controller; it decides nothing about
//! traffic and holds no state of its own but the answers that it may have to repeat. It serves
//! HTTP/1.1 in clear text, and refuses to be reached from elsewhere by callers without tokens.

mod auth;
mod body;
mod conditional;
mod connections;
mod events;
mod evidence;
mod idempotency;
mod journal;
mod openapi;
mod options;
mod origin;
mod page;
mod probes;
mod problem;
mod problem_layer;
mod releases;
mod render;
mod request_context;
mod router;
mod server;
mod services;
#[cfg(test)]
mod tests;
mod wire;
mod writes;

pub use options::{Options, Role, Token};
pub use server::{AdminStartError, serve};
