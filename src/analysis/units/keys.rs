//! The keys of a release: what is known of each, and which of them have changed since they were
//! written down.

use crate::stats::RequestEvent;

/// Places for keys. Seven eighths of them are used, so that a search stays short.
const SLOTS: u32 = 1 << 20;
/// Keys that are told apart. Beyond them no new units begin.
pub(super) const KEYS_MAX: usize = (SLOTS / 8 * 7) as usize;
/// Draws that are told apart: those at so many weights.
pub(super) const WEIGHTS_MAX: usize = 128;

/// One key as it is written down: its place in the order of keys, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counts the keys of the release, from 0.
    pub number: u32,
    /// Opaque.
    pub state: Vec<u8>,
}

/// What is known of one key. There may be a million of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyState {
    pub(super) user: u32,
    /// When its last draw was, in widths, of which the upper half is left out.
    pub(super) begun: u32,
    /// The weights at which it was drawn, a bit for each.
    draws: [u32; WEIGHTS_MAX / 32],
    pub(super) failures: u16,
    /// The last of these weights, and [`ON_CANARY`] if that draw put it on the canary.
    last: u8,
    is_changed: bool,
}

/// A flag beside a number that is less than [`WEIGHTS_MAX`].
const ON_CANARY: u8 = 0x80;

impl KeyState {
    /// Draws it at the weight with this number.
    pub(super) fn draw(&mut self, weight: u8, on_canary: bool, at: u64) {
        if let Some(word) = self.draws.get_mut(usize::from(weight / 32)) {
            *word |= 1 << (weight % 32);
        }
        self.last = weight | if on_canary { ON_CANARY } else { 0 };
        self.begun = truncated(at);
    }

    /// Whether its last draw put it on the canary. Then it was its last.
    pub(super) fn on_canary(&self) -> bool {
        self.last & ON_CANARY != 0
    }

    /// The number of the weight of its last draw.
    pub(super) fn last(&self) -> u8 {
        self.last & !ON_CANARY
    }

    /// The numbers of the weights of all its draws, in no order that means something.
    pub(super) fn draws(&self) -> impl Iterator<Item = u8> + use<> {
        let draws = self.draws;
        (0..ON_CANARY).filter(move |weight| {
            let word = draws.get(usize::from(weight / 32));
            word.is_some_and(|word| word >> (weight % 32) & 1 == 1)
        })
    }

    /// The draws are written as far as there are any, in a power of two bytes: a row is never as
    /// long as an [`OldKey`].
    fn write(&self) -> Vec<u8> {
        let bytes = self.draws.iter().flat_map(|word| word.to_le_bytes());
        let last = bytes
            .clone()
            .enumerate()
            .filter(|(_, byte)| *byte != 0)
            .last();
        let bytes = last.map_or(1, |(at, _)| at + 1).next_power_of_two();
        let draws = self
            .draws
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .take(bytes);
        let before = self
            .user
            .to_le_bytes()
            .into_iter()
            .chain(self.begun.to_le_bytes());
        let before = before.chain(self.failures.to_le_bytes()).chain([self.last]);
        before.chain(draws).collect()
    }

    fn read(state: &[u8]) -> Option<KeyState> {
        let (user, rest) = state.split_first_chunk()?;
        let (begun, rest) = rest.split_first_chunk()?;
        let (failures, rest) = rest.split_first_chunk()?;
        let (last, rest) = rest.split_first()?;
        let mut draws = [0; WEIGHTS_MAX / 8];
        draws
            .iter_mut()
            .zip(rest)
            .for_each(|(slot, byte)| *slot = *byte);
        let mut words = draws.chunks_exact(4).map(|word| {
            let word = word.first_chunk().copied().unwrap_or_default();
            u32::from_le_bytes(word)
        });
        Some(KeyState {
            user: u32::from_le_bytes(*user),
            begun: u32::from_le_bytes(*begun),
            draws: std::array::from_fn(|_| words.next().unwrap_or_default()),
            failures: u16::from_le_bytes(*failures),
            last: *last,
            is_changed: false,
        })
    }
}

/// As many widths pass in more than a year, and draws are looked for by their time while they are
/// younger than `bake`.
pub(super) fn truncated(at: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it is meant")]
    let at = at as u32;
    at
}

/// A row of an earlier version, which knew of each key its last draw: the numbers of the weight and
/// of the chance in a list of chances, and whether its unit had failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct OldKey {
    pub(super) key: KeyState,
    pub(super) seen: u16,
    pub(super) chance: u16,
    pub(super) on_canary: bool,
}

impl OldKey {
    const BYTES: usize = 20;

    fn read(state: &[u8]) -> Option<OldKey> {
        let (user, rest) = state.split_first_chunk()?;
        let (begun, rest) = rest.split_first_chunk()?;
        let (failures, rest) = rest.split_first_chunk()?;
        let (seen, rest) = rest.split_first_chunk()?;
        let (chance, rest) = rest.split_first_chunk()?;
        let flags = rest.first()?;
        let failed = u16::from(flags >> 1 & 1);
        Some(OldKey {
            key: KeyState {
                user: u32::from_le_bytes(*user),
                begun: truncated(u64::from_le_bytes(*begun)),
                failures: u16::from_le_bytes(*failures).max(failed),
                ..KeyState::default()
            },
            seen: u16::from_le_bytes(*seen),
            chance: u16::from_le_bytes(*chance),
            on_canary: flags & 1 == 1,
        })
    }
}

/// A row of this or of an earlier version.
pub(super) enum Read {
    Key(KeyState),
    Old(OldKey),
}

impl Read {
    pub(super) fn row(state: &[u8]) -> Option<Read> {
        if state.len() == OldKey::BYTES {
            return OldKey::read(state).map(Read::Old);
        }
        KeyState::read(state).map(Read::Key)
    }
}

/// Keys in the order in which they were first seen, and where each is: open addressing, by the
/// key's own hash.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyTable {
    all: Vec<KeyState>,
    /// The number of a key, from 1; nothing until the first.
    places: Vec<u32>,
    changed: Vec<u32>,
}

impl KeyTable {
    pub(super) fn find(&self, user: u32) -> Option<u32> {
        let (_, number) = self.place(user)?;
        number
    }

    pub(super) fn get(&self, number: u32) -> KeyState {
        self.all.get(number as usize).copied().unwrap_or_default()
    }

    /// A new key; `None` when the table is full.
    pub(super) fn insert(&mut self, user: u32) -> Option<u32> {
        if self.all.len() >= KEYS_MAX {
            return None;
        }
        if self.places.is_empty() {
            self.places = vec![0; SLOTS as usize];
        }
        let (place, known) = self.place(user)?;
        if known.is_some() {
            return known;
        }
        let number = u32::try_from(self.all.len()).ok()?;
        *self.places.get_mut(place)? = number + 1;
        self.all.push(KeyState {
            user,
            ..KeyState::default()
        });
        self.change(number, |_| {});
        Some(number)
    }

    /// Where a key is or would be, and its number if it is there.
    fn place(&self, user: u32) -> Option<(usize, Option<u32>)> {
        let mask = SLOTS - 1;
        (0..SLOTS).find_map(|step| {
            let place = (user.wrapping_add(step) & mask) as usize;
            match *self.places.get(place)? {
                0 => Some((place, None)),
                number if self.get(number - 1).user == user => Some((place, Some(number - 1))),
                _ => None,
            }
        })
    }

    pub(super) fn change(&mut self, number: u32, change: impl FnOnce(&mut KeyState)) {
        if let Some(key) = self.all.get_mut(number as usize) {
            change(key);
            if !key.is_changed {
                key.is_changed = true;
                self.changed.push(number);
            }
        }
    }

    /// A key that was written down. What lies between the numbers of those that are known is a key
    /// of nobody.
    pub(super) fn restore(&mut self, number: u32, key: KeyState) {
        if number as usize >= KEYS_MAX {
            return;
        }
        if self.places.is_empty() {
            self.places = vec![0; SLOTS as usize];
        }
        let nobody = KeyState {
            user: RequestEvent::NO_KEY,
            ..KeyState::default()
        };
        while self.all.len() <= number as usize {
            self.all.push(nobody);
        }
        if let Some(slot) = self.all.get_mut(number as usize) {
            *slot = key;
        }
        if let Some((place, None)) = self.place(key.user)
            && let Some(slot) = self.places.get_mut(place)
        {
            *slot = number + 1;
        }
    }

    pub(super) fn take_changes(&mut self) -> Vec<Row> {
        let changed = std::mem::take(&mut self.changed);
        let mut rows = Vec::with_capacity(changed.len());
        for number in changed {
            if let Some(key) = self.all.get_mut(number as usize) {
                key.is_changed = false;
                let state = key.write();
                rows.push(Row { number, state });
            }
        }
        rows
    }

    pub(super) fn mark_all(&mut self) {
        for number in 0..u32::try_from(self.all.len()).unwrap_or(u32::MAX) {
            self.change(number, |_| {});
        }
    }
}
