//! Blocks: what sled holds. Neighbouring keys are together (`block.rs`) under one key of sled.
//!
//! sled copies a leaf for each key that it is given, splits the leaf when it has more than sixteen, and keeps notes about each leaf
//! in memory. With blocks it does so for several keys at once.
//!
//! A block has all keys from its own key up to the next block's. The first block's own key sorts before all others.
//!
//! **One thread writes.** Others read meanwhile, and find every key that exists all the time. When a block becomes several, the last
//! one is written first, and the one that replaces the old block last. Until then the old block still has what the new ones have. So
//! a block counts only up to the next one's own key. The same holds if the process ends in between. A range that is read forward asks
//! for the next block after it has read one, and misses nothing.

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use sled::IVec;

use super::{
    Direction,
    block::{Block, split},
    failed_to,
};
use crate::store::Error;

/// The own key of the first block. The store's keys start with a letter.
const FIRST_KEY: &[u8] = b"\x01";
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The write of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put<'a> {
    pub(super) key: &'a [u8],
    /// What is stored of it. `None` deletes it.
    pub(super) stored: Option<&'a [u8]>,
}

/// The blocks in a sled.
pub(super) struct Blocks<'a>(pub(super) &'a sled::Db);

impl Blocks<'_> {
    /// What is stored of a key.
    ///
    /// # Errors
    /// If sled fails, or the block is damaged.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        self.get_from(self.covering(key)?, key)
    }

    /// What is stored of a key, which is in this block or in one behind it.
    fn get_from(&self, mut block: Option<Block>, key: &[u8]) -> Result<Option<IVec>, Error> {
        loop {
            let found = block.as_ref().map(|block| block.get(key)).transpose()?;
            if let Some(stored) = found.flatten() {
                return Ok(Some(stored));
            }
            // sled was searched backward: it may have read a leaf before the key's block was put there, and the block that has
            // become shorter after that. Forward, the new one is found.
            let behind = block.map_or(Bound::Included(IVec::from(FIRST_KEY)), |block| {
                Bound::Excluded(block.key)
            });
            block = self.first((behind, Bound::Included(key.into())))?;
            if block.is_none() {
                return Ok(None);
            }
        }
    }

    /// The keys within the bounds with what is stored of each, in order. Nobody may write while they are read backward.
    ///
    /// # Errors
    /// If sled fails. The items are errors if it fails later, or a block is damaged.
    pub(super) fn range(&self, bounds: Bounds, direction: Direction) -> Result<Entries, Error> {
        let first = match &bounds.0 {
            Bound::Included(key) | Bound::Excluded(key) => self.covering(key)?,
            Bound::Unbounded => None,
        };
        let first = first.map_or_else(|| IVec::from(FIRST_KEY), |block| block.key);
        let upper = bounds.1.clone().map(IVec::from);
        let mut blocks = self.0.range((Bound::Included(first), upper));
        let neighbour = match direction {
            Direction::Forward => blocks.next().map(block_of).transpose()?,
            Direction::Backward => None,
        };
        Ok(Entries {
            blocks,
            direction,
            bounds,
            neighbour,
            of_block: Vec::new().into_iter(),
        })
    }

    /// Writes keys, which are in order and different from each other.
    ///
    /// # Errors
    /// If sled fails, or a block is damaged. Then some of the keys may be written.
    pub(super) fn put(&self, mut puts: &[Put<'_>]) -> Result<(), Error> {
        while let Some(first) = puts.first() {
            let block = self.covering(first.key)?;
            let next = self.first((Bound::Excluded(first.key.into()), Bound::Unbounded))?;
            let end = next.as_ref().map(|next| &next.key[..]);
            let count = end.map_or(puts.len(), |end| puts.partition_point(|put| put.key < end));
            let (of_block, behind) = puts.split_at(count);
            self.rewrite(block.as_ref(), end, of_block)?;
            puts = behind;
        }
        Ok(())
    }

    /// Writes keys of one block, which counts up to `end`.
    fn rewrite(
        &self,
        block: Option<&Block>,
        end: Option<&[u8]>,
        puts: &[Put<'_>],
    ) -> Result<(), Error> {
        let old = block.map_or(Ok(Vec::new()), |block| block.read(end))?;
        let own_key = block.map_or(FIRST_KEY, |block| &block.key);
        let blocks = split(own_key, &merged(&old, puts));
        if blocks.is_empty() {
            let removed = self.0.remove(own_key);
            return removed.map(drop).map_err(failed_to("write the view"));
        }
        blocks
            .into_iter()
            .rev()
            .try_for_each(|block| self.write(block))
    }

    fn write(&self, block: Block) -> Result<(), Error> {
        let written = self.0.insert(block.key, block.bytes);
        written.map(drop).map_err(failed_to("write the view"))
    }

    /// The last block that does not begin behind a key.
    fn covering(&self, key: &[u8]) -> Result<Option<Block>, Error> {
        let up_to = (Bound::Included(FIRST_KEY), Bound::Included(key));
        let last = self.0.range::<&[u8], _>(up_to).next_back();
        last.map(block_of).transpose()
    }

    /// The first block whose own key is within the bounds.
    fn first(&self, own_keys: (Bound<IVec>, Bound<IVec>)) -> Result<Option<Block>, Error> {
        let first = self.0.range(own_keys).next();
        first.map(block_of).transpose()
    }
}

/// The keys of a range with what is stored of each.
pub(super) struct Entries {
    blocks: sled::Iter,
    direction: Direction,
    bounds: Bounds,
    /// The block behind the one whose entries were read last.
    neighbour: Option<Block>,
    of_block: std::vec::IntoIter<(Bytes, IVec)>,
}

impl Entries {
    /// Goes on to the next block. Returns whether there is one.
    fn step(&mut self) -> Result<bool, Error> {
        let mut entries = match self.direction {
            Direction::Forward => {
                let Some(block) = self.neighbour.take() else {
                    return Ok(false);
                };
                self.neighbour = self.blocks.next().map(block_of).transpose()?;
                block.read(self.end())?
            }
            Direction::Backward => {
                let Some(block) = self.blocks.next_back().map(block_of).transpose()? else {
                    return Ok(false);
                };
                let mut entries = block.read(self.end())?;
                entries.reverse();
                self.neighbour = Some(block);
                entries
            }
        };
        let (lower, upper) = &self.bounds;
        let bounds = (
            lower.as_ref().map(|key| &key[..]),
            upper.as_ref().map(|key| &key[..]),
        );
        entries.retain(|(key, _)| RangeBounds::<[u8]>::contains(&bounds, &key[..]));
        self.of_block = entries.into_iter();
        Ok(true)
    }

    fn end(&self) -> Option<&[u8]> {
        self.neighbour.as_ref().map(|block| &block.key[..])
    }
}

impl Iterator for Entries {
    type Item = Result<(Bytes, IVec), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.of_block.next() {
                return Some(Ok(entry));
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn block_of(read: sled::Result<(IVec, IVec)>) -> Result<Block, Error> {
    let (key, bytes) = read.map_err(failed_to("read the view"))?;
    Ok(Block { key, bytes })
}

/// The entries of a block after some writes.
fn merged<'a>(old: &'a [(Bytes, IVec)], puts: &[Put<'a>]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut merged = Vec::with_capacity(old.len() + puts.len());
    let mut puts = puts.iter().peekable();
    let entry = |put: &Put<'a>| Some((put.key, put.stored?));
    for (key, stored) in old {
        while let Some(put) = puts.next_if(|put| put.key < &key[..]) {
            merged.extend(entry(put));
        }
        match puts.next_if(|put| put.key == &key[..]) {
            Some(put) => merged.extend(entry(put)),
            None => merged.push((&key[..], &stored[..])),
        }
    }
    merged.extend(puts.filter_map(entry));
    merged
}

#[cfg(test)]
impl Blocks<'_> {
    /// Flips a bit of the block that has a key.
    pub(super) fn damage(&self, key: &[u8]) {
        let block = self.covering(key).unwrap().expect("it is there");
        let mut damaged = block.bytes.to_vec();
        *damaged.last_mut().expect("it has a checksum") ^= 1;
        self.0.insert(block.key, damaged).expect("sled writes");
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{self, AtomicBool},
        thread,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::store::view::sled::block::{BLOCK_BYTES, CRC_BYTES, LENS_BYTES};

    fn opened(dir: &tempfile::TempDir) -> sled::Db {
        sled::open(dir.path()).unwrap()
    }

    fn put(db: &sled::Db, writes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let puts = writes.iter().map(|(key, stored)| Put {
            key,
            stored: stored.as_deref(),
        });
        Blocks(db).put(&puts.collect::<Vec<_>>()).unwrap();
    }

    /// Keys with these numbers, which store these bytes.
    fn writes(
        numbers: impl IntoIterator<Item = u32>,
        stored: &[u8],
    ) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        let write = |n: u32| (key(n), Some(stored.to_vec()));
        numbers.into_iter().map(write).collect()
    }

    fn key(n: u32) -> Vec<u8> {
        // Keys of different lengths, some of which begin as another one.
        let mut key = format!("k{:05}", n / 4).into_bytes();
        key.extend(std::iter::repeat_n(b'x', 5 * (n % 4) as usize));
        key
    }

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn read(db: &sled::Db, bounds: Bounds, direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
        let entries = Blocks(db).range(bounds, direction).unwrap();
        let pair = |(key, stored): (Bytes, IVec)| (key.to_vec(), stored.to_vec());
        entries.map(|entry| pair(entry.unwrap())).collect()
    }

    fn all(db: &sled::Db) -> Model {
        let all = (Bound::Unbounded, Bound::Unbounded);
        read(db, all, Direction::Forward).into_iter().collect()
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![
            (0..400u32).prop_map(|n| Bound::Included(key(n))),
            (0..400u32).prop_map(|n| Bound::Excluded(key(n))),
            Just(Bound::Unbounded),
        ]
    }

    fn batch() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let stored = prop::option::weighted(0.6, prop::collection::vec(any::<u8>(), 0..60));
        prop_oneof![
            prop::collection::btree_map((0..400u32).prop_map(key), stored, 1..60),
            // Whole blocks become empty, or many come at once.
            (0..400u32, 1..200u32, any::<bool>()).prop_map(|(from, count, exist)| {
                let stored = |n: u32| exist.then(|| n.to_le_bytes().to_vec());
                (from..from + count).map(|n| (key(n), stored(n))).collect()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_hold_what_was_put(
            batches in prop::collection::vec(batch(), 1..12),
            lower in bound(),
            upper in bound(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let db = opened(&dir);
            let mut model = Model::new();
            for batch in batches {
                put(&db, &batch);
                for (key, stored) in batch {
                    match stored {
                        Some(stored) => drop(model.insert(key, stored)),
                        None => drop(model.remove(&key)),
                    }
                }
                prop_assert_eq!(&all(&db), &model);
            }
            for n in 0..400 {
                let held = Blocks(&db).get(&key(n)).unwrap().map(|stored| stored.to_vec());
                prop_assert_eq!(held.as_ref(), model.get(&key(n)));
            }
            let bounds = (lower, upper);
            let within = |key: &Vec<u8>| {
                RangeBounds::<Vec<u8>>::contains(&bounds, key)
            };
            let mut expected: Vec<_> = model.into_iter().filter(|(key, _)| within(key)).collect();
            prop_assert_eq!(&read(&db, bounds.clone(), Direction::Forward), &expected);
            expected.reverse();
            prop_assert_eq!(&read(&db, bounds.clone(), Direction::Backward), &expected);
        }
    }

    #[test]
    fn neighbours_share_blocks_of_an_even_size() {
        let dir = tempfile::tempdir().unwrap();
        let db = opened(&dir);
        for n in 0..4 {
            put(&db, &writes(n * 100..(n + 1) * 100, &[7; 40]));
        }
        let lens: Vec<usize> = db.iter().map(|block| block.unwrap().1.len()).collect();
        let entries: usize = 400 * (LENS_BYTES + 40);
        let least = entries / BLOCK_BYTES;
        assert!((least..=least * 3 / 2).contains(&lens.len()), "{lens:?}");
        let longest = CRC_BYTES + BLOCK_BYTES + 2 * (LENS_BYTES + 60);
        assert!(
            lens.iter()
                .all(|len| (BLOCK_BYTES / 2..longest).contains(len)),
            "{lens:?}"
        );
        put(&db, &(0..400).map(|n| (key(n), None)).collect());
        assert!(db.is_empty());
    }

    #[test]
    fn a_block_counts_up_to_the_next_one_if_the_process_ended_before_it_became_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let db = opened(&dir);
        put(&db, &writes(0..10, b"old"));
        // The second half has got a block of its own, and was changed there.
        let mut second = writes(5..9, b"new");
        let entries: Vec<_> = second
            .iter()
            .map(|(key, stored)| (&key[..], stored.as_deref().unwrap()))
            .collect();
        let block = split(&key(5), &entries).pop().unwrap();
        Blocks(&db).write(block).unwrap();
        second.extend(writes(0..5, b"old"));
        let expected: Model = second
            .into_iter()
            .map(|(key, stored)| (key, stored.unwrap()))
            .collect();
        let backward = || {
            read(
                &db,
                (Bound::Unbounded, Bound::Unbounded),
                Direction::Backward,
            )
            .into_iter()
            .collect::<Model>()
        };
        assert_eq!((all(&db), backward()), (expected.clone(), expected.clone()));
        assert_eq!(Blocks(&db).get(&key(9)).unwrap(), None);
        assert_eq!(Blocks(&db).get(&key(7)).unwrap().unwrap(), b"new");
        let first_len = || db.get(FIRST_KEY).unwrap().unwrap().len();
        let before = first_len();
        put(&db, &writes([0], b"old"));
        assert_eq!(all(&db), expected);
        assert!(
            first_len() < before,
            "it becomes shorter with the next write"
        );
    }

    #[test]
    fn a_key_is_found_though_the_block_before_its_own_was_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = opened(&dir);
        put(&db, &writes(0..100, &[7; 40]));
        let last = key(99);
        for taken in [None, Some(&key(0)), Some(&key(50)), Some(&last)] {
            let taken = taken.and_then(|key| Blocks(&db).covering(key).unwrap());
            let found = Blocks(&db).get_from(taken, &last).unwrap();
            assert_eq!(found.unwrap(), [7; 40]);
        }
        assert_eq!(Blocks(&db).get_from(None, &key(100)).unwrap(), None);
    }

    #[test]
    fn what_exists_all_the_time_is_found_while_blocks_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let db = &opened(&dir);
        for round in 0..20u32 {
            // These keys stay. Those between them come and go.
            let (from, until) = (round * 1000, round * 1000 + 1000);
            let emptied = || (from..until).filter(|n| n % 40 != 1);
            put(db, &writes(from..until, &[7; 50]));
            put(db, &emptied().map(|n| (key(n), None)).collect());
            put(db, &writes((from..until).step_by(100), b"stays"));
            let ends = &AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for step in [7, 3, 5, 2] {
                        let between = || (from..until).step_by(step).filter(|n| n % 100 != 0);
                        put(db, &writes(between(), &[7; 50]));
                        put(db, &between().map(|n| (key(n), None)).collect());
                    }
                    ends.store(true, atomic::Ordering::Relaxed);
                });
                scope.spawn(|| {
                    while !ends.load(atomic::Ordering::Relaxed) {
                        let bounds = (Bound::Included(key(from)), Bound::Excluded(key(until)));
                        let stays = read(db, bounds, Direction::Forward).into_iter();
                        let stays = stays
                            .filter(|(_, stored)| stored == b"stays")
                            .map(|(key, _)| key);
                        assert!(stays.eq((from..until).step_by(100).map(key)));
                    }
                });
                while !ends.load(atomic::Ordering::Relaxed) {
                    for n in (from..until).step_by(100) {
                        assert!(Blocks(db).get(&key(n)).unwrap().is_some(), "{n}");
                    }
                }
            });
        }
    }
}
