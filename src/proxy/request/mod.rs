//! One request, from its head to the end of its response.

pub(crate) mod access;
pub(crate) mod attempts;
pub(crate) mod check;
pub(crate) mod client_body;
pub(crate) mod enrolment;
pub(crate) mod exchange;
pub(crate) mod handle;
pub(crate) mod headers;
pub(crate) mod identify;
pub(crate) mod notice;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod respond;
pub(crate) mod route;
pub(crate) mod send;
pub(crate) mod timeouts;
pub(crate) mod upload;
