//! The decision engine of a release.

pub(crate) mod cohorts;
mod overdue;
pub(crate) mod scored;
