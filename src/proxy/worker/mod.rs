//! The state of one worker, and what its tasks share: nothing here serves a request.

pub(crate) mod client;
pub(crate) mod limits;
pub(crate) mod state;
pub(crate) mod tick;
