//! The keys of a release: the state of each, and which have changed since they were saved.

use crate::stats::RequestEvent;

/// Slots for keys. Seven eighths of them are used, so that a search stays short.
const SLOTS: u32 = 1 << 20;
/// The maximum of keys. Beyond it no new units begin.
pub(super) const KEYS_MAX: usize = (SLOTS / 8 * 7) as usize;
/// The maximum of distinct weights at which keys are assigned.
pub(super) const WEIGHTS_MAX: usize = 128;

/// The saved form of one key: its number in the order of keys, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The number of the key in the release, from 0.
    pub number: u32,
    /// Opaque.
    pub state: Vec<u8>,
}

/// The state of one key. There may be a million of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyState {
    pub(super) user: u32,
    /// The time of its last assignment, in widths, without the upper half of the bits.
    pub(super) begun: u32,
    /// The weights at which it was assigned, one bit for each.
    draws: [u32; WEIGHTS_MAX / 32],
    pub(super) failures: u16,
    /// The last of these weights, and [`ON_CANARY`] if that assignment put it on the canary.
    last: u8,
    is_changed: bool,
}

/// A flag beside a number that is less than [`WEIGHTS_MAX`].
const ON_CANARY: u8 = 0x80;

impl KeyState {
    /// Assigns it at the weight with this number.
    pub(super) fn draw(&mut self, weight: u8, on_canary: bool, at: u64) {
        if let Some(word) = self.draws.get_mut(usize::from(weight / 32)) {
            *word |= 1 << (weight % 32);
        }
        self.last = weight | if on_canary { ON_CANARY } else { 0 };
        self.begun = truncated(at);
    }

    /// Whether its last assignment put it on the canary. There is none after that.
    pub(super) fn on_canary(&self) -> bool {
        self.last & ON_CANARY != 0
    }

    /// The weight number of its last assignment.
    pub(super) fn last(&self) -> u8 {
        self.last & !ON_CANARY
    }

    /// The weight numbers of all its assignments, in no particular order.
    pub(super) fn draws(&self) -> impl Iterator<Item = u8> + use<> {
        let draws = self.draws;
        (0..ON_CANARY).filter(move |weight| {
            let word = draws.get(usize::from(weight / 32));
            word.is_some_and(|word| word >> (weight % 32) & 1 == 1)
        })
    }

    /// The assignments are written as far as there are any, in a power of two bytes: a row is never
    /// as long as an [`OldKey`].
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

/// The counter wraps after more than a year, and assignments are looked up by time only while they
/// are younger than `bake`.
pub(super) fn truncated(at: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it is meant")]
    let at = at as u32;
    at
}

/// A row of an earlier version, which stored only the last assignment of each key: the numbers of
/// the weight and of the probability in a list, and whether its unit had failed.
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
pub(super) enum StoredKeys {
    Key(KeyState),
    Old(OldKey),
}

impl StoredKeys {
    pub(super) fn row(state: &[u8]) -> Option<StoredKeys> {
        if state.len() == OldKey::BYTES {
            return OldKey::read(state).map(StoredKeys::Old);
        }
        KeyState::read(state).map(StoredKeys::Key)
    }
}

/// Keys in the order in which they were first seen, with an index: open addressing by the key's own
/// hash.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyTable {
    all: Vec<KeyState>,
    /// The number of a key, from 1; empty until the first.
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

    /// The slot of a key, existing or new, and its number if it exists.
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

    /// Restores a saved key. Numbers between the restored ones are unused keys.
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
