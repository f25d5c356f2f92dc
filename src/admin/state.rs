//! State that the handlers share.

use std::sync::Arc;

use axum::extract::FromRef;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::idempotency::IdempotencyCache;
use super::render::{Renders, SharedResponse};
use crate::control::Handle;

/// State shared by the handlers.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) handle: Handle,
    pub(super) answers: Arc<IdempotencyCache>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) stopping: CancellationToken,
    pub(super) pages: Pages,
    pub(super) renders: Renders,
    /// Responses that are the same for every caller, and large with many services.
    pub(super) services: Arc<SharedResponse>,
    pub(super) metrics: Arc<SharedResponse>,
}

/// Responses that never change.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) openapi: Bytes,
    pub(super) index: Bytes,
}

impl FromRef<App> for Handle {
    fn from_ref(app: &App) -> Handle {
        app.handle.clone()
    }
}

impl FromRef<App> for Renders {
    fn from_ref(app: &App) -> Renders {
        app.renders.clone()
    }
}

impl FromRef<App> for Pages {
    fn from_ref(app: &App) -> Pages {
        app.pages.clone()
    }
}
