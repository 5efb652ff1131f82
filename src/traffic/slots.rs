//! A table with slots that are used again, each with a generation so that an old key finds nothing.

use crate::traffic::token::{GENERATIONS, Key};

/// A table of at most a fixed number of values. Its memory is reserved at once and touched only as far as it is used,
/// so an insertion never allocates.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    first_free: Option<u32>,
    used: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: SlotState<T>,
}

#[derive(Debug)]
enum SlotState<T> {
    Used(T),
    Free { next: Option<u32> },
}

impl<T> Slots<T> {
    /// Room for `capacity` values, at most 2^31.
    pub(crate) fn with_capacity(capacity: usize) -> Slots<T> {
        Slots { slots: Vec::with_capacity(capacity.min(GENERATIONS as usize)), first_free: None, used: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many slots were ever used: the keys of all values have a smaller `slot`.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The key that the next [`Slots::insert`] will use. `None` when the table is full.
    pub(crate) fn next_key(&self) -> Option<Key> {
        match self.first_free {
            Some(slot) => Some(Key { slot, generation: self.slots[slot as usize].generation }),
            None if self.slots.len() < self.slots.capacity() => Some(Key { slot: self.slots(), generation: 0 }),
            None => None,
        }
    }

    /// Puts a value in. Gives it back when the table is full.
    pub(crate) fn insert(&mut self, value: T) -> Result<Key, T> {
        let Some(key) = self.next_key() else { return Err(value) };
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) => {
                if let SlotState::Free { next } = slot.state {
                    self.first_free = next;
                }
                slot.state = SlotState::Used(value);
            }
            None => self.slots.push(Slot { generation: 0, state: SlotState::Used(value) }),
        }
        self.used += 1;
        Ok(key)
    }

    /// The value of this key, unless it was removed.
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some(Slot { generation, state: SlotState::Used(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Takes the value of this key out.
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation != key.generation || matches!(slot.state, SlotState::Free { .. }) {
            return None;
        }
        slot.generation = (slot.generation + 1) % GENERATIONS;
        let SlotState::Used(value) = std::mem::replace(&mut slot.state, SlotState::Free { next: self.first_free })
        else {
            return None;
        };
        self.first_free = Some(key.slot);
        self.used -= 1;
        Some(value)
    }

    /// The key of the value that is in this slot now.
    pub(crate) fn key_at(&self, slot: u32) -> Option<Key> {
        match self.slots.get(slot as usize) {
            Some(Slot { generation, state: SlotState::Used(_) }) => Some(Key { slot, generation: *generation }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_finds_nothing() {
        let mut table = Slots::with_capacity(2);
        let first = table.insert("first").unwrap();
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second").unwrap();
        assert_eq!(second.slot, first.slot);
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = Slots::with_capacity(1);
        let capacity = table.slots.capacity();
        for value in 0..capacity {
            table.insert(value).unwrap();
        }
        assert_eq!(table.insert(7), Err(7));
        assert_eq!(table.next_key(), None);
    }

    #[test]
    fn the_announced_key_is_the_key() {
        let mut table = Slots::with_capacity(3);
        for _ in 0..3 {
            let announced = table.next_key().unwrap();
            assert_eq!(table.insert(()).unwrap(), announced);
        }
        let key = table.key_at(1).unwrap();
        table.remove(key);
        assert_eq!(table.key_at(1), None);
        let announced = table.next_key().unwrap();
        assert_eq!(table.insert(()).unwrap(), announced);
    }
}
