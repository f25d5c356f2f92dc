//! Pages to read: self-contained, without scripts, in the browser, on paper or as a file in a
//! ticket.
//!
//! Their style sheet is in the page itself, so that a page that was saved looks the same, and the
//! browser is told its hash, so that no other style can get in.

mod chart;
mod evidence;
mod format;
mod html;

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use sha2::{Digest, Sha256};

use super::openapi;
use crate::model::api;

const STYLE: &str = include_str!("style.css");

/// The policy of all answers, and this one style sheet.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = base64(&Sha256::digest(STYLE));
    let policy = format!(
        "{}; style-src 'sha256-{hash}'",
        openapi::CONTENT_SECURITY_POLICY
    );
    HeaderValue::try_from(policy)
        .unwrap_or(HeaderValue::from_static(openapi::CONTENT_SECURITY_POLICY))
});

/// The page of an evidence bundle.
pub(super) fn evidence(bundle: &api::EvidenceBundle) -> String {
    evidence::page(bundle)
}

/// A page as an answer.
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

/// Base64 (RFC 4648, 4), which policies write hashes in.
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
    fn base64_is_that_of_the_rfc() {
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
