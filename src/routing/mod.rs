//! What to do with a request: the immutable routing table and the choosers on it, and the swap of one table for the
//! next.
//!
//! Everything here is a plain function of a [`Snapshot`]: [`RoutingTable::route`] finds the service, [`Split`] the
//! upstream, [`Upstream::endpoint`] the endpoint. Randomness is an argument (`draw`), and nothing here opens a socket,
//! sleeps or asks a clock. Lookups do not allocate.

mod balance;
mod key_registry;
mod matcher;
mod publish;
mod split;
mod table;
#[cfg(test)]
mod testing;
mod release_handle;

pub use balance::{RoutedEndpoint, EndpointKey, HealthEvent, InFlight, RoutedUpstream};
pub use key_registry::KeyRegistry;
pub use publish::{Acknowledged, Acknowledger, Publisher, SnapshotReader, Snapshot};
pub use split::Split;
pub use table::{LiveState, RoutingTable, RoutedService};
pub use release_handle::{BudgetKind, CanaryPermit, RescuePolicy, Trip, Tripwire, ReleaseHandle, ReleaseHandleSpec};
