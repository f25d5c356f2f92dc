//! The HTTP client of webhooks: one connection per attempt, with TLS for `https`.
//!
//! Certificates are verified against the system's authorities, or, on an empty root such as the
//! container image's, against Mozilla's built-in list. No rustls type leaves this module.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};

use crate::model::Webhook;

/// Why HTTPS is not available.
#[derive(Debug, thiserror::Error)]
#[error("HTTPS for webhooks cannot be set up: {0}")]
pub struct WebhookStartError(#[from] rustls::Error);

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    /// The receiver's certificate is invalid; a retry would not help.
    #[error("the receiver's certificate was rejected: {0}")]
    Certificate(String),
    /// No connection, or no response on it.
    #[error("{0}")]
    Connection(String),
}

/// Posts events; clones share it.
#[derive(Clone, Debug)]
pub(super) struct WebhookClient(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl WebhookClient {
    /// A client for all of `receivers`.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up.
    pub(super) fn new(receivers: &[Webhook]) -> Result<WebhookClient, WebhookStartError> {
        // The system's authorities are read only if a receiver needs them.
        let tls = receivers
            .iter()
            .any(|webhook| webhook.url.scheme_str() == Some("https"));
        WebhookClient::trusting(if tls {
            authorities()
        } else {
            RootCertStore::empty()
        })
    }

    /// A client that trusts these authorities.
    pub(super) fn trusting(roots: RootCertStore) -> Result<WebhookClient, WebhookStartError> {
        // Given explicitly, so that another provider in the program cannot make the choice
        // ambiguous.
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = legacy::Client::builder(TokioExecutor::new())
            // Events are rare; a pooled connection would be closed by the other side when it is
            // needed.
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(WebhookClient(client))
    }

    /// The head of the receiver's response.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`] if there is none.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, DeliveryError> {
        self.0
            .request(request)
            .await
            .map_err(|error| to_delivery_error(&error))
    }
}

fn authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "the system's certificate authorities cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::info!(
            "the system has no certificate authorities; webhooks are verified against the \
             built-in list"
        );
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// An error with its causes. None of these texts has the URL, which may be a secret.
fn to_delivery_error(error: &legacy::Error) -> DeliveryError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(why)) = tls_error(error) {
            return DeliveryError::Certificate(why.to_string());
        }
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    DeliveryError::Connection(text)
}

/// The TLS error that is wrapped in an I/O error, perhaps more than once.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(outer) => tls_error(outer.get_ref()?),
        None => error.downcast_ref(),
    }
}
