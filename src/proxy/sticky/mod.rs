//! Sticky cookies, and how the upstream of a request is chosen.
//!
//! A cookie counts as a key only with the proxy's own signature for this service: whoever makes up
//! values, however many, cannot choose which upstream he comes to.

mod issue;
mod shared;
mod signer;

use std::io;
use std::sync::Arc;

pub(crate) use self::issue::{Issue, Warned};
pub(crate) use self::signer::{Form, KEY_BYTES, Signer};
use crate::model::StickySecret;

/// How the upstream of a request is to be chosen.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// A tester named this upstream.
    Named(Box<str>),
    /// By this user's key.
    Key(Box<[u8]>),
    /// By a draw of its own.
    Draw(u64),
}

/// Who a request is from, as it is assigned: all that there is to know of its key, in one place.
///
/// A key that is fresh has been made up for this very request and is given to the user with the
/// answer, so this request is its first. An answer that cannot carry the cookie ([`Issue::onto`])
/// leaves the user without it. Then the key never comes again, and the request is what one without
/// a key is: one that was drawn by itself.
#[derive(Debug)]
pub(crate) struct StickyIdentity {
    /// By the key, or by a draw where there can be none.
    pub(crate) choice: Choice,
    /// The cookie to give with the answer.
    pub(crate) issue: Option<Issue>,
}

/// What all workers have in common for sticky cookies.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) secret: StickySecret,
    pub(crate) warned: Arc<Warned>,
}

impl Common {
    /// With this secret, or with one that ends with the process.
    ///
    /// # Errors
    ///
    /// The system gives no random bytes.
    pub(crate) fn new(secret: Option<StickySecret>) -> io::Result<Common> {
        let secret = match secret {
            Some(secret) => secret,
            None => {
                let mut bytes = [0; StickySecret::BYTES];
                getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
                StickySecret::new(bytes)
            }
        };
        Ok(Common {
            secret,
            warned: Arc::default(),
        })
    }
}
