//! HTML pages: self-contained and without scripts, for the browser, for print, or as an attachment.
//!
//! The style sheet is inline, so that a saved page looks the same. The content security policy
//! contains its hash, so that the browser applies no other style.

mod chart;
mod evidence;
mod format;
mod html;

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use sha2::{Digest, Sha256};

use crate::model::api;

/// Content security policy of all responses: no scripts, styles, forms or frames.
pub(super) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("style.css");

/// The common content security policy plus the hash of the style sheet.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = base64(&Sha256::digest(STYLE));
    let policy = format!("{}; style-src 'sha256-{hash}'", CONTENT_SECURITY_POLICY);
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static(CONTENT_SECURITY_POLICY))
});

/// HTML page of an evidence bundle.
pub(super) fn evidence(bundle: &api::EvidenceBundle) -> String {
    evidence::page(bundle)
}

/// Response with a page.
pub(super) fn answer(page: Bytes) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
    ];
    (headers, page).into_response()
}

/// Base64 (RFC 4648, 4), as content security policies require for hashes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| {
        DIGITS
            .get((bits & 63) as usize)
            .map_or('=', |digit| char::from(*digit))
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | chunk.get(at).map_or(0, |byte| u32::from(*byte))
        });
        for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            // One byte fills two digits, two fill three.
            text.push(if at <= chunk.len() {
                digit(bits >> shift)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_test_vectors_of_rfc_4648() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
