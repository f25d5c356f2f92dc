//! Connections to endpoints, and the HTTP/1.1 that is spoken on them.

mod background_upload;
mod body;
mod buffers;
mod connection;
mod fault;
pub(crate) mod forwarded;
pub(crate) mod forwarded_headers;
pub(crate) mod held;
pub(crate) mod interims;
mod outbound;
pub(crate) mod pool;
mod read_buffer;
mod request;
mod request_writer;
pub(crate) mod revision_guard;

pub(crate) use self::body::Body;
pub(crate) use self::buffers::{BLOCK, Buffers};
pub(crate) use self::connection::UpstreamConnection;
pub(crate) use self::fault::{BodyAborted, UpstreamFault};
pub(crate) use self::outbound::OutboundBody;
