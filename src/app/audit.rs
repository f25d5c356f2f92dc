//! Verifies the journal of a store without a running proxy.

use std::path::Path;

use crate::model::api::AuditVerdict;
use crate::store;

/// Verifies the journal of the store at `path`; an error says why it cannot be read.
pub(crate) fn verify(path: &Path) -> Result<AuditVerdict, String> {
    store::verify(path).map_err(|error| error.to_string())
}
