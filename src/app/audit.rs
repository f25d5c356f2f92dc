//! The journal of a store, without a proxy.

use std::path::Path;

use crate::model::api::AuditVerdict;
use crate::store;

/// Whether the journal of the store at `path` is as it was written; else why it cannot be said.
pub(crate) fn verify(path: &Path) -> Result<AuditVerdict, String> {
    store::verify(path).map_err(|error| error.to_string())
}
