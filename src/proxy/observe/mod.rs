//! What a request of a release notes.

pub(crate) mod request_trial;
pub(crate) mod sample;
