//! Weighbridge: a reverse proxy that splits traffic by weight between the deployed versions of a
//! service, measures every answer as it passes, and takes traffic away from a bad version in
//! milliseconds.
//!
//! `src/ARCHITECTURE.md` tells which module may know which.

pub mod admin;
pub mod analysis;
pub mod app;
pub mod cli;
mod client;
pub mod config;
pub mod control;
mod document;
pub mod model;
pub mod net;
pub mod proxy;
pub mod release;
pub mod routing;
pub mod stats;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod webhook;
