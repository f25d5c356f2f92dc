//! The admin API: services and their weights, rollback, releases and their evidence, events,
//! journal, metrics, probes and the OpenAPI document.
//!
//! It authenticates and validates requests and passes them to the controller. It makes no traffic
//! decisions; its only state is the responses stored for idempotency keys. It serves plain HTTP/1.1
//! and accepts a non-loopback address only with configured tokens.

mod auth;
mod body;
mod conditional;
mod connect_info;
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
mod state;
#[cfg(test)]
mod tests;
mod wire;
mod writes;

pub use options::{Options, Role, Token};
pub use server::{AdminStartError, serve};
