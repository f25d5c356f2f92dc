//! What survives a restart.

mod options;

pub use options::Options;
