//! Finds a key among a file's records. The places of some records are kept, so that each key is near one of them.

use std::{cmp::Ordering, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{RECORD_HEADER_BYTES, Stored};
use crate::store::{Error, local::disk, reader::Reader, view::Waits};

/// The least distance between two places in memory. This much is read to find a record. A million records of 1.2 KiB have 70,000
/// places.
const BLOCK_BYTES: u64 = 16 << 10;
/// How many blocks are read at a time while blocks are read one after another.
const BLOCKS_AHEAD: usize = 4;

/// The places of some records in the order of their keys. A block reaches from one of them to the next.
#[derive(Clone, Debug, Default)]
pub(in crate::store::local) struct Blocks {
    keys: Vec<u8>,
    starts: Vec<Start>,
    /// Where the records end.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    /// Where the key of its first record ends among `keys`.
    key_end: usize,
    /// Where that record begins in the file.
    at: u64,
}

impl Blocks {
    /// Adds the next record. Its key is kept if it begins a block.
    pub(super) fn add(&mut self, key: &[u8], at: u64) {
        let last = self.starts.last();
        if last.is_none_or(|last| at >= last.at + BLOCK_BYTES) {
            self.keys.extend_from_slice(key);
            self.starts.push(Start {
                key_end: self.keys.len(),
                at,
            });
        }
    }

    /// The finished blocks, after all records were added.
    pub(super) fn ending_at(mut self, end: u64) -> Self {
        self.keys.shrink_to_fit();
        self.starts.shrink_to_fit();
        self.end = end;
        self
    }

    /// The block that may have a key.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let (mut first, mut end) = (0, self.starts.len());
        while first < end {
            let middle = usize::midpoint(first, end);
            if self.key(middle) <= key {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        first.checked_sub(1)
    }

    fn key(&self, block: usize) -> &[u8] {
        let before = block.checked_sub(1);
        let start = before.map_or(0, |before| self.starts[before].key_end);
        &self.keys[start..self.starts[block].key_end]
    }

    /// Where a block begins. For the number behind the last block, where that one ends.
    fn start(&self, block: usize) -> u64 {
        self.starts.get(block).map_or(self.end, |start| start.at)
    }
}

/// Looks up values among a file's records. It continues where the last one was, if the next one is near.
pub(in crate::store::local) struct Lookup<'a> {
    stored: Arc<Stored>,
    /// Some blocks that follow each other.
    chunk: Bytes,
    first_block: usize,
    end_block: usize,
    /// The place in the chunk behind the last record that was looked at.
    place: usize,
    last_key: Bytes,
    waits: Waits<'a>,
}

impl<'a> Lookup<'a> {
    pub(in crate::store::local) fn new(stored: Arc<Stored>, waits: Waits<'a>) -> Self {
        Lookup {
            stored,
            chunk: Bytes::new(),
            first_block: 0,
            end_block: 0,
            place: 0,
            last_key: Bytes::new(),
            waits,
        }
    }

    /// The value of a key, if it is among the records.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the records are damaged; errors of the disk; [`Error::Busy`] if it may not wait for the disk but would
    /// have to.
    pub(in crate::store::local) fn value(&mut self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if !self.chunk.is_empty() && *self.last_key < *key {
            match self.walk_to(key) {
                Walked::To(value) => return Ok(Some(value)),
                Walked::Past => return Ok(None),
                Walked::Out => {}
            }
        }
        let stored = self.stored.clone();
        let blocks = stored.blocks()?;
        let Some(block) = blocks.find(key) else {
            return Ok(None);
        };
        if !(self.first_block..self.end_block).contains(&block) {
            self.read(blocks, block)?;
        }
        let start = blocks.start(block) - blocks.start(self.first_block);
        self.place = usize::try_from(start).expect("it is in the chunk");
        match self.walk_to(key) {
            Walked::To(value) => Ok(Some(value)),
            Walked::Past | Walked::Out => Ok(None),
        }
    }

    fn read(&mut self, blocks: &Blocks, block: usize) -> Result<(), Error> {
        let follows = block == self.end_block && block > 0;
        let end_block = block + if follows { BLOCKS_AHEAD } else { 1 };
        let end_block = end_block.min(blocks.starts.len());
        let (start, end) = (blocks.start(block), blocks.start(end_block));
        let mut chunk = vec![0; usize::try_from(end - start).expect("a few blocks")];
        let read = disk::read(&*self.stored.file, start, &mut chunk, self.waits)?;
        chunk.truncate(read);
        self.chunk = chunk.into();
        (self.first_block, self.end_block) = (block, end_block);
        Ok(())
    }

    /// Walks forward to a key.
    fn walk_to(&mut self, key: &[u8]) -> Walked {
        loop {
            let Some((next_key, value)) = self.next() else {
                return Walked::Out;
            };
            match (*next_key).cmp(key) {
                Ordering::Less => {
                    self.place = value.end;
                    self.last_key = next_key;
                }
                Ordering::Equal => {
                    self.place = value.end;
                    self.last_key = next_key;
                    return Walked::To(self.chunk.slice(value));
                }
                Ordering::Greater => return Walked::Past,
            }
        }
    }

    /// The key of the next record in the chunk, and where in the chunk its value is, if the chunk has all of it.
    fn next(&self) -> Option<(Bytes, Range<usize>)> {
        let mut reader = Reader(self.chunk.get(self.place..)?);
        let (key_len, value_len) = (reader.u32()?, reader.u32()?);
        let key_at = self.place + RECORD_HEADER_BYTES;
        let value_at = key_at.checked_add(key_len as usize)?;
        let end = value_at.checked_add(value_len as usize)?;
        (end <= self.chunk.len()).then(|| (self.chunk.slice(key_at..value_at), value_at..end))
    }
}

/// The result of a walk to a key.
enum Walked {
    /// Found, with its value.
    To(Bytes),
    /// The key is missing.
    Past,
    /// The chunk ended before the key.
    Out,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::store::{
        batch::Entry,
        change::Position,
        local::{
            disk::RealDisk,
            file::{FileSink, Header, Writer},
        },
        state_hash::StateHash,
    };

    fn key(n: usize) -> Bytes {
        format!("k{n:05}").into()
    }

    fn value(n: usize) -> Bytes {
        vec![n.to_le_bytes()[0]; n * 7919 % 4000].into()
    }

    /// A file with every second one of these keys.
    fn stored(dir: &Path, keys: usize) -> Arc<Stored> {
        let disk = RealDisk::new(dir.to_owned());
        let header = Header {
            store: uuid::Uuid::nil(),
            time_ms: 0,
        };
        let mut sink = FileSink::begin(&disk, Path::new("file")).unwrap();
        let mut writer = Writer::begin(&mut sink, header).unwrap();
        for n in (1..keys).step_by(2) {
            let entry = Entry {
                key: key(n),
                value: value(n),
                revision: 1,
            };
            writer.record(&entry).unwrap();
        }
        let start = (Position::default(), 0);
        writer
            .end_of_records(start, 0, (0, StateHash::default()))
            .unwrap();
        Arc::new(Stored::open(&disk, Path::new("file")).unwrap())
    }

    #[test]
    fn a_walk_through_all_reads_each_part_once_and_some_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let stored = stored(dir.path(), 2000);
        let blocks = stored.blocks().unwrap().starts.len();
        assert!(blocks > 100, "{blocks}");
        let mut lookup = Lookup::new(stored, Waits::Yes);
        let mut chunks = 0;
        for n in 0..2000 {
            let before = lookup.end_block;
            let found = lookup.value(&key(n)).unwrap();
            assert_eq!(found, (n % 2 == 1).then(|| value(n)), "{n}");
            chunks += usize::from(lookup.end_block != before);
        }
        assert!(chunks <= blocks / BLOCKS_AHEAD + 2, "{chunks} of {blocks}");
    }

    proptest! {
        #[test]
        fn whatever_was_looked_up_before_the_next_is_found(
            keys in 0..300_usize,
            wanted in proptest::collection::vec(0..300_usize, 1..60),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut lookup = Lookup::new(stored(dir.path(), keys), Waits::Yes);
            for n in wanted {
                let found = lookup.value(&key(n)).unwrap();
                prop_assert_eq!(found, (n % 2 == 1 && n < keys).then(|| value(n)));
            }
        }
    }
}
