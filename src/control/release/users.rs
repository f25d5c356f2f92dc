//! Which users of a release have been seen, have failed, have been timed: what keeps one broken user of a sticky
//! service from condemning the canary (STATISTICS.md 1.e).

use serde::{Deserialize, Serialize};

use crate::stats::Note;

/// Users that are told apart: 128 KiB for each set. With more, some are taken for one another, which can only delay a
/// judgement.
const USERS: u32 = 1 << 20;

/// The users of one release.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Kept", from = "Kept")]
pub(super) struct Users {
    sticky: bool,
    seen: Set,
    failed: Set,
    /// In the present step.
    timed: Set,
}

/// What survives a restart: who has failed. Whom a restart makes forget to have been seen or timed is counted twice in
/// what only warns or only helps the canary.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    sticky: bool,
    failed: Vec<u32>,
}

impl Users {
    /// Nobody yet. `sticky`: users are known by a key that assigns them, so that their requests are not drawn one by one.
    pub(super) fn new(sticky: bool) -> Users {
        Users {
            sticky,
            seen: Set::default(),
            failed: Set::default(),
            timed: Set::default(),
        }
    }

    pub(super) fn are_sticky(&self) -> bool {
        self.sticky
    }

    /// A step has begun.
    pub(super) fn begin_step(&mut self) {
        self.timed = Set::default();
    }

    /// The user of a request that counts; `None` for one that came to a sticky service without its key.
    pub(super) fn counts(&self, user: u32) -> Option<u32> {
        (!self.sticky || user != Note::KEYLESS).then_some(user % USERS)
    }

    /// Whether this is the user's first request; `None` where requests are drawn one by one.
    pub(super) fn first_seen(&mut self, user: u32) -> Option<bool> {
        self.sticky.then(|| self.seen.insert(user))
    }

    /// Whether this is the user's first failure.
    pub(super) fn first_failure(&mut self, user: u32) -> bool {
        self.failed.insert(user)
    }

    /// Whether the latency of this request is an observation: for a sticky user the first of each step.
    pub(super) fn may_time(&mut self, user: u32) -> bool {
        !self.sticky || self.timed.insert(user)
    }
}

impl From<Users> for Kept {
    fn from(users: Users) -> Kept {
        Kept {
            sticky: users.sticky,
            failed: users.failed.members(),
        }
    }
}

impl From<Kept> for Users {
    fn from(kept: Kept) -> Users {
        let mut users = Users::new(kept.sticky);
        for user in kept.failed {
            users.failed.insert(user % USERS);
        }
        users
    }
}

/// A set of users, as bits; nothing until its first member.
#[derive(Clone, Debug, Default)]
struct Set(Vec<u64>);

impl Set {
    /// Whether it was not in it yet.
    fn insert(&mut self, user: u32) -> bool {
        if self.0.is_empty() {
            self.0 = vec![0; (USERS / 64) as usize];
        }
        let bit = 1 << (user % 64);
        match self.0.get_mut((user / 64) as usize) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    fn members(&self) -> Vec<u32> {
        let words = (0..).zip(&self.0).filter(|(_, word)| **word != 0);
        words
            .flat_map(|(at, word)| {
                (0..64)
                    .filter(move |bit| word >> bit & 1 == 1)
                    .map(move |bit| at * 64 + bit)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_fails_once_also_across_a_restart() {
        let mut users = Users::new(true);
        assert!(users.first_failure(70));
        assert!(!users.first_failure(70));
        let text = serde_json::to_string(&users).unwrap();
        let mut users: Users = serde_json::from_str(&text).unwrap();
        assert!(!users.first_failure(70));
        assert!(users.first_failure(71));
    }

    #[test]
    fn requests_without_a_key_count_only_where_each_is_drawn() {
        assert_eq!(Users::new(true).counts(Note::KEYLESS), None);
        assert!(Users::new(false).counts(Note::KEYLESS).is_some());
    }

    #[test]
    fn a_sticky_user_is_timed_once_in_each_step() {
        let mut users = Users::new(true);
        assert!(users.may_time(5) && !users.may_time(5));
        users.begin_step();
        assert!(users.may_time(5));
        let mut drawn = Users::new(false);
        assert!(drawn.may_time(5) && drawn.may_time(5));
    }
}
