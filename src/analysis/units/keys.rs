//! The keys of a release: what is known of each, and which of them have changed since they were written down.

use crate::stats::Note;

/// Places for keys. Seven eighths of them are used, so that a search stays short.
const SLOTS: u32 = 1 << 20;
/// Keys that are told apart. Beyond them no new units begin.
pub(super) const KEYS_MAX: usize = (SLOTS / 8 * 7) as usize;
/// One key as it is written down: its place in the order of keys, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counts the keys of the release, from 0.
    pub number: u32,
    /// Opaque.
    pub state: [u8; ROW_BYTES],
}

/// The bytes of a row.
pub(super) const ROW_BYTES: usize = 20;

/// What is known of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) user: u32,
    /// When its unit began, in widths.
    pub(super) begun: u64,
    pub(super) failures: u16,
    /// The chance at which it was last seen on the baseline.
    pub(super) seen: u16,
    /// The chance of its unit.
    pub(super) chance: u16,
    pub(super) on_canary: bool,
    pub(super) failed: bool,
    is_changed: bool,
}

impl Key {
    fn write(&self) -> [u8; ROW_BYTES] {
        let mut state = [0; ROW_BYTES];
        let flags = u8::from(self.on_canary) | u8::from(self.failed) << 1;
        let fields = self
            .user
            .to_le_bytes()
            .into_iter()
            .chain(self.begun.to_le_bytes())
            .chain(self.failures.to_le_bytes())
            .chain(self.seen.to_le_bytes())
            .chain(self.chance.to_le_bytes())
            .chain([flags]);
        state.iter_mut().zip(fields).for_each(|(slot, byte)| *slot = byte);
        state
    }

    pub(super) fn read(state: &[u8]) -> Option<Key> {
        let (user, rest) = state.split_first_chunk()?;
        let (begun, rest) = rest.split_first_chunk()?;
        let (failures, rest) = rest.split_first_chunk()?;
        let (seen, rest) = rest.split_first_chunk()?;
        let (chance, rest) = rest.split_first_chunk()?;
        let flags = rest.first()?;
        Some(Key {
            user: u32::from_le_bytes(*user),
            begun: u64::from_le_bytes(*begun),
            failures: u16::from_le_bytes(*failures),
            seen: u16::from_le_bytes(*seen),
            chance: u16::from_le_bytes(*chance),
            on_canary: flags & 1 == 1,
            failed: flags >> 1 & 1 == 1,
            is_changed: false,
        })
    }
}

/// Keys in the order in which they were first seen, and where each is: open addressing, by the key's own hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    all: Vec<Key>,
    /// The number of a key, from 1; nothing until the first.
    places: Vec<u32>,
    changed: Vec<u32>,
}

impl Keys {
    pub(super) fn find(&self, user: u32) -> Option<u32> {
        let (_, number) = self.place(user)?;
        number
    }

    pub(super) fn get(&self, number: u32) -> Key {
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
        self.all.push(Key { user, ..Key::default() });
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

    pub(super) fn change(&mut self, number: u32, change: impl FnOnce(&mut Key)) {
        if let Some(key) = self.all.get_mut(number as usize) {
            change(key);
            if !key.is_changed {
                key.is_changed = true;
                self.changed.push(number);
            }
        }
    }

    /// A key that was written down. What lies between the numbers of those that are known is a key of nobody.
    pub(super) fn restore(&mut self, number: u32, key: Key) {
        if number as usize >= KEYS_MAX {
            return;
        }
        if self.places.is_empty() {
            self.places = vec![0; SLOTS as usize];
        }
        let nobody = Key {
            user: Note::KEYLESS,
            ..Key::default()
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
                rows.push(Row {
                    number,
                    state: key.write(),
                });
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
