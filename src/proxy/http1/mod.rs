//! HTTP/1.1 as it is spoken on both sides: one grammar, a reader of heads for each direction, one
//! chunked codec.
//!
//! Pure: bytes in, values out, or the other way round; no socket, no clock, no task. The reader is
//! strict, since what two readers could read differently is how requests are smuggled: a message
//! that is passed on is written anew, so whoever stands behind the proxy sees the one reading.

pub(crate) mod chunked;
mod error;
pub(crate) mod fields;
pub(crate) mod grammar;
pub(crate) mod request;
pub(crate) mod response;
mod segment;
pub(crate) mod target;

pub(crate) use self::error::{HeadError, HeadLimits, Malformed};
pub(crate) use self::segment::OutputSegment;
