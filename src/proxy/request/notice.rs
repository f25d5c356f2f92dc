//! What is said once in the log, however many requests give rise to it.

use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;

/// What there is to say of a listener and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    /// A trusted proxy says who the user is in a way that is not understood.
    UnreadAddress,
    /// Users are told apart by their address, which may be that of a proxy.
    PrivateHop,
}

/// How much is said until the process ends. Who comes after that is not told.
const NOTICES_MAX: usize = 256;

/// What has been said, as hashes, by all workers. No lock: this is on the path of requests.
#[derive(Debug)]
pub(crate) struct NoticeSet([AtomicU64; NOTICES_MAX]);

static SAID: NoticeSet = NoticeSet::new();

impl NoticeSet {
    const fn new() -> NoticeSet {
        NoticeSet([const { AtomicU64::new(0) }; NOTICES_MAX])
    }

    /// Whether this is to be said now: it has not been, and there is room to remember it.
    fn first(&self, what: impl Hash) -> bool {
        let hash = FixedState::with_seed(0).hash_one(what).max(1);
        for slot in &self.0 {
            match slot.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(known) if known == hash => return false,
                Err(_) => {}
            }
        }
        false
    }
}

/// Whether this is to be said now.
pub(crate) fn first(notice: Notice, listener: u16, peer: IpAddr) -> bool {
    SAID.first((notice, listener, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_given_once_and_their_number_is_bounded() {
        let said = NoticeSet::new();
        assert!(said.first(1_u64) && said.first(2_u64));
        assert!(!said.first(1_u64) && !said.first(2_u64));
        assert_eq!(
            (0..10_000_u64).filter(|number| said.first(number)).count(),
            NOTICES_MAX - 2
        );
    }
}
