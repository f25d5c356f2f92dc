//! The admin API: services and their weights, rollback, releases and their evidence, events, journal, metrics, probes,
//! and their description.
//!
//! It checks who asks and what is asked, and carries it to the controller; it decides nothing about traffic and holds
//! no state of its own but the answers that it may have to repeat. It serves HTTP/1.1 in clear text, and refuses to be
//! reached from elsewhere by callers without tokens.

mod auth;
mod body;
mod request_context;
mod conditional;
mod connections;
mod problem_layer;
mod events;
mod evidence;
mod origin;
mod idempotency;
mod journal;
mod openapi;
mod options;
mod page;
mod probes;
mod problem;
mod releases;
mod render;
mod router;
mod server;
mod services;
#[cfg(test)]
mod tests;
mod wire;
mod writes;

pub use options::{Options, Role, Token};
pub use server::{AdminStartError, serve};
