//! Client of the admin API and of its event stream, for the command line.
//!
//! It knows the API's paths and resources, and nothing of what the verbs make of them.

mod events;
mod http;

pub(crate) use events::{EventSubscription, StreamEvent};
pub(crate) use http::{AdminClient, ApiResponse, Error};
