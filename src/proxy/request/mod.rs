//! One request, from its head to the end of its response.

pub(crate) mod body;
pub(crate) mod check;
pub(crate) mod client_body;
pub(crate) mod destination;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod handle;
pub(crate) mod headers;
pub(crate) mod identify;
pub(crate) mod notice;
pub(crate) mod outbound;
pub(crate) mod rescue;
