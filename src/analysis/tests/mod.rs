//! The laws that STATISTICS.md asks of the engine, one by one.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

mod golden;
mod judge;
mod laws;
mod replay;
mod units;
