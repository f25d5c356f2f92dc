//! End-to-end tests on real sockets: `weighbridge run` as a child process, scripted upstreams,
//! clients that send raw bytes.
//!
//! Cases wait on conditions with a generous deadline and never on the clock; each has its own proxy
//! and ports.

#![cfg(test)]

mod admin;
mod authority;
mod brakes;
mod connection;
mod custody;
mod drain;
mod early;
mod errors;
mod harness;
mod headers;
mod health;
mod interim;
mod interop;
mod limits;
mod log;
mod outage;
mod race;
mod readers;
mod release;
mod reload;
mod resources;
mod routing;
mod secrets;
mod split;
mod stats;
mod sticky;
mod store;
mod streaming;
mod swap;
mod trial;
mod unreliable;
mod uploads;
mod verbs;
mod webhooks;
mod windows;
