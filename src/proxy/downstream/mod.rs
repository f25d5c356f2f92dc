//! Connections of clients: accepted within their limits, and served.

pub(crate) mod connection;
pub(crate) mod gate_frames;
pub(crate) mod half_close;
pub(crate) mod listener;
pub(crate) mod load_shedding;
