//! The data plane.

mod options;

pub use options::{DrainOptions, Options, PoolOptions};
