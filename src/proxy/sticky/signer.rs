//! The signature of a sticky cookie, by which the proxy knows the keys that it has given out
//! itself.
//!
//! A value is `KEY.TAG`: 32 hexadecimal digits of the key, and as many of the first half of
//! HMAC-SHA-256(secret, service || 0 || KEY). A service's name holds no zero byte, so no two pairs
//! of a service and a key are signed as the same bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::{FixedState, RandomState};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::model::{Name, StickySecret, hex};

/// The length of a key in a cookie.
pub(crate) const KEY_BYTES: usize = 32;
/// The length of its tag, of which each byte holds four bits.
const TAG_BYTES: usize = 32;
/// The length of a whole value.
pub(crate) const VALUE_BYTES: usize = KEY_BYTES + 1 + TAG_BYTES;
/// Services whose state is kept prepared; a configuration has fewer.
const SERVICES_MAX: usize = 16_384;
/// Tags of a worker that are remembered as right.
const LATELY_MAX: usize = 1_024;

/// What the value of a cookie is by its form alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// A key with a tag, which may be wrong.
    Signed { key: &'a [u8], tag: &'a [u8] },
    /// A key without a tag, as it was given out before cookies were signed.
    Unsigned(&'a [u8]),
    /// Nothing that was ever given out.
    Foreign,
}

impl Form<'_> {
    pub(crate) fn of(value: &[u8]) -> Form<'_> {
        let Some((key, rest)) = value.split_at_checked(KEY_BYTES) else {
            return Form::Foreign;
        };
        match rest {
            _ if !key.iter().all(u8::is_ascii_hexdigit) => Form::Foreign,
            [] => Form::Unsigned(key),
            [b'.', tag @ ..] if tag.len() == TAG_BYTES => Form::Signed { key, tag },
            _ => Form::Foreign,
        }
    }
}

/// Signs and verifies for all services, each with a prepared state of its own: what comes before
/// the key has been absorbed.
#[derive(Debug)]
pub(crate) struct Signer {
    keyed: Hmac<Sha256>,
    services: RefCell<HashMap<Name, Hmac<Sha256>, FixedState>>,
    /// The tags that were right lately, each in the one place that its key has. A user who sends
    /// many requests has his tag reckoned once.
    lately: RefCell<Vec<Option<Verified>>>,
    places: RandomState,
}

/// A key of a service, with its tag.
#[derive(Clone, Debug)]
struct Verified {
    service: Name,
    key: [u8; KEY_BYTES],
    tag: [u8; TAG_BYTES],
}

impl Signer {
    pub(crate) fn new(secret: &StickySecret) -> Signer {
        // A key that is shorter than a block is filled up with zeros (RFC 2104 section 2).
        let mut block = [0; 64];
        block
            .iter_mut()
            .zip(secret.bytes())
            .for_each(|(place, byte)| *place = *byte);
        Signer {
            keyed: Hmac::new(&block.into()),
            services: RefCell::default(),
            lately: RefCell::new(vec![None; LATELY_MAX]),
            places: RandomState::default(),
        }
    }

    /// The value of a cookie that gives a user of this service this key.
    pub(crate) fn sign(&self, service: &Name, key: &[u8; KEY_BYTES]) -> [u8; VALUE_BYTES] {
        let mut value = [b'.'; VALUE_BYTES];
        let tag = self.tag(service, key);
        let (front, back) = value.split_at_mut(KEY_BYTES);
        front.copy_from_slice(key);
        back.iter_mut()
            .skip(1)
            .zip(tag)
            .for_each(|(place, digit)| *place = digit);
        value
    }

    /// Whether the tag is the key's. Takes as long wherever they differ.
    pub(crate) fn verify(&self, service: &Name, key: &[u8], tag: &[u8]) -> bool {
        let at = usize::try_from(self.places.hash_one(key)).unwrap_or(0) % LATELY_MAX;
        let mut lately = self.lately.borrow_mut();
        let Some(place) = lately.get_mut(at) else {
            return false;
        };
        if let Some(known) = place
            && known.key == key
            && known.service == *service
        {
            return known.tag.ct_eq(tag).into();
        }
        let expected = self.tag(service, key);
        let right = expected.ct_eq(tag).into();
        // Nobody can push others out by tags that are wrong.
        if right && let Ok(key) = key.try_into() {
            let (service, tag) = (Name::clone(service), expected);
            *place = Some(Verified { service, key, tag });
        }
        right
    }

    fn tag(&self, service: &Name, key: &[u8]) -> [u8; TAG_BYTES] {
        let mut mac = self.prepared(service);
        mac.update(key);
        let whole = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        for (pair, byte) in tag.chunks_exact_mut(2).zip(whole) {
            pair.copy_from_slice(&hex::pair(byte));
        }
        tag
    }

    fn prepared(&self, service: &Name) -> Hmac<Sha256> {
        let mut services = self.services.borrow_mut();
        if let Some(prepared) = services.get(service) {
            return prepared.clone();
        }
        if services.len() == SERVICES_MAX {
            // Reloads have named that many; those that are still there are prepared again.
            services.clear();
        }
        let mut mac = self.keyed.clone();
        mac.update(service.as_bytes());
        mac.update(&[0]);
        services.insert(Name::clone(service), mac.clone());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8; KEY_BYTES] = b"00112233445566778899aabbccddeeff";

    fn signer() -> Signer {
        Signer::new(&StickySecret::new(*b"0123456789abcdef0123456789abcdef"))
    }

    #[test]
    fn the_value_is_what_openssl_says() {
        // printf 'shop\00000112233445566778899aabbccddeeff' | openssl dgst -sha256 -hmac
        // 0123456789abcdef0123456789abcdef
        let value = signer().sign(&"shop".into(), KEY);
        assert_eq!(
            std::str::from_utf8(&value).unwrap(),
            "00112233445566778899aabbccddeeff.c1cbaa2f3803a7c33b4b4b0e48e2ca6b"
        );
    }

    #[test]
    fn a_tag_holds_for_its_key_service_and_secret_alone() {
        let (signer, shop) = (signer(), Name::from("shop"));
        let value = signer.sign(&shop, KEY);
        let Form::Signed { key, tag } = Form::of(&value) else {
            panic!("not of the signed form")
        };
        assert!(signer.verify(&shop, key, tag));
        assert!(
            signer.verify(&shop, key, tag),
            "the prepared state was used up"
        );
        assert!(!signer.verify(&"cart".into(), key, tag));
        assert!(!Signer::new(&StickySecret::new([7; 32])).verify(&shop, key, tag));
        let mut other = *KEY;
        other[0] = b'1';
        assert!(!signer.verify(&shop, &other, tag));
        for at in 0..TAG_BYTES {
            let mut wrong = tag.to_vec();
            wrong[at] ^= 1;
            assert!(!signer.verify(&shop, key, &wrong), "{at}");
        }
        assert!(!signer.verify(&shop, key, &tag[1..]));
        assert!(!signer.verify(&shop, key, &tag.to_ascii_uppercase()));
    }

    #[test]
    fn values_are_told_apart_by_their_form() {
        let value = signer().sign(&"shop".into(), KEY);
        assert!(matches!(Form::of(&value), Form::Signed { key, .. } if key == KEY));
        assert_eq!(Form::of(KEY), Form::Unsigned(KEY));
        let foreign: [&[u8]; 9] = [
            b"",
            b"green",
            b".",
            &KEY[1..],
            b"00112233445566778899aabbccddeefg",
            b"00112233445566778899aabbccddeeff0",
            b"00112233445566778899aabbccddeeff.",
            &value[..VALUE_BYTES - 1],
            &[&value[..], b"0"].concat(),
        ];
        for value in foreign {
            assert_eq!(Form::of(value), Form::Foreign, "{}", value.escape_ascii());
        }
    }
}
