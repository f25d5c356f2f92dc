//! The signature of an event: HMAC-SHA-256 (RFC 2104) over time and body.

use hmac::digest::InvalidLength;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::hex;

/// The value of the header `X-Weighbridge-Signature`. The time is signed too, so that a receiver
/// can reject a replayed request.
///
/// # Errors
///
/// The library rejects the secret; it accepts one of any length.
pub(super) fn sign(secret: &str, unix_seconds: &str, body: &[u8]) -> Result<String, InvalidLength> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())?;
    for part in [unix_seconds.as_bytes(), b".", body] {
        mac.update(part);
    }
    Ok(format!(
        "sha256={}",
        hex::encode(&mac.finalize().into_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_equals_that_of_openssl() {
        // printf '1700000000.{"event":"x"}' | openssl dgst -sha256 -hmac hunter2
        assert_eq!(
            sign("hunter2", "1700000000", br#"{"event":"x"}"#).unwrap(),
            "sha256=197db7eef4d9a1f15b0c52184e4e839ce2a4d07ca9d3a12cbdf554ace9f21873"
        );
    }
}
