//! The laws that STATISTICS.md requires of the engine.

#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

mod golden;
mod judge;
mod laws;
