//! Request routing: the immutable routing table, the selection of service, upstream and endpoint,
//! and the publication of new tables.
//!
//! Everything here is a plain function of a [`Snapshot`]: [`RoutingTable::route`] finds the
//! service, [`Split`] the upstream, [`RoutedUpstream::endpoint`] the endpoint. Randomness is an
//! argument (`draw`), and this module does no I/O and reads no clock. Lookups do not allocate.

mod balance;
mod key_registry;
mod matcher;
mod publish;
mod release_handle;
mod split;
mod table;
#[cfg(test)]
mod testing;

pub use balance::{EndpointKey, HealthEvent, InFlight, RoutedEndpoint, RoutedUpstream};
pub use key_registry::KeyRegistry;
pub use publish::{Acknowledged, Acknowledger, Publisher, Snapshot, SnapshotReader};
pub use release_handle::{
    BudgetKind, CanaryPermit, ReleaseHandle, ReleaseHandleSpec, RescuePolicy, Trip, Tripwire,
};
pub use split::Split;
pub use table::{LiveState, RoutedService, RoutingTable};
