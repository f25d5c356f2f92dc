//! The admin API.

mod options;

pub use options::{Options, Role, Token};
