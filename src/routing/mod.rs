//! What to do with a request: the immutable routing table and the choosers on it, and the swap of one table for the
//! next.
//!
//! Everything here is a plain function of a [`Snapshot`]: [`RoutingTable::route`] finds the service, [`Split`] the
//! upstream, [`Upstream::endpoint`] the endpoint. Randomness is an argument (`draw`), and nothing here opens a socket,
//! sleeps or asks a clock. Lookups do not allocate.

mod balance;
mod keys;
mod matcher;
mod publish;
mod split;
mod table;
#[cfg(test)]
mod testing;
mod watch;

pub use balance::{Endpoint, EndpointKey, HealthEvent, InFlight, Upstream};
pub use keys::Keys;
pub use publish::{Acknowledged, Acknowledger, Publisher, Reader, Snapshot};
pub use split::Split;
pub use table::{Live, RoutingTable, Service};
pub use watch::{BudgetKind, OnCanary, Rescue, Trip, Tripwire, Watch, WatchSpec};
