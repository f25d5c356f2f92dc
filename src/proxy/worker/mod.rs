//! The state of one worker, and what its tasks share: nothing here serves a request.

pub(crate) mod client;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod reports;
pub(crate) mod retry_budget;
pub(crate) mod sample_rates;
pub(crate) mod state;
pub(crate) mod tick;
