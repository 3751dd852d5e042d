//! Checkpoints: all that a store held at one revision, in one file that needs no engine to read.
//!
//! A checkpoint is made while writes go on, so that the scan of the view which it starts with is fuzzy: of what is
//! written meanwhile it may have seen some and missed some. The journal's frames since the scan began follow,
//! and putting them on top makes it exact at the revision of the last. With the journal behind that revision it
//! rebuilds everything; by itself it is a snapshot, for people to keep elsewhere.
//!
//! | part | bytes | what |
//! |---|---|---|
//! | header | 8 | magic `IBXCKPT2` |
//! | | 16 | the store's id |
//! | | 8 | when it was begun, milliseconds since the Unix epoch |
//! | | 4 | CRC-32C of this header |
//! | record | 4, 4 | length of key and of value |
//! | | 4 | CRC-32C of revision, key and value |
//! | | 8 | revision of the key's last write |
//! | | … | key, value; records are sorted by key |
//! | end of records | 4 | `FFFFFFFF` |
//! | frames | … | as in the journal: see `frame.rs` |
//! | trailer | 8 | magic `IBXCEND1` |
//! | | 8 | where the frames start |
//! | | 8 | number of records |
//! | | 8, 4, 16 | revision, chain and state hash that it is exact at |
//! | | 4 | CRC-32C of everything before the trailer |
//! | | 4 | CRC-32C of this trailer |
//!
//! All numbers are little-endian.

mod read;
mod write;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use self::{read::Checkpoint, write::Source};
use super::frame::PAYLOAD_BYTES_MAX;
use crate::store::{Error, change::Position};

const MAGIC: [u8; 8] = *b"IBXCKPT2";
const END_MAGIC: [u8; 8] = *b"IBXCEND1";
const HEADER_BYTES: usize = 36;
const TRAILER_BYTES: usize = 60;
const RECORD_HEADER_BYTES: usize = 20;
const END_OF_RECORDS: u32 = u32::MAX;
/// What is written or read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// A key or value that claims more is damage, not a reason to allocate: the largest are far smaller.
const FIELD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Takes a checkpoint's bytes, in order.
pub(super) trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Whatever ends the checkpoint.
    fn put(&mut self, bytes: Bytes) -> Result<(), Error>;
}

/// What a checkpoint says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The store that it is of.
    pub(super) store: Uuid,
    /// When it was begun, milliseconds since the Unix epoch.
    pub(super) time_ms: u64,
    /// Where it is exact.
    pub(super) end: Position,
    /// Records, before the frames are put on top.
    pub(super) records: u64,
    /// The file's size.
    pub(super) bytes: u64,
    frames_at: u64,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::{Batch, Options, Store, local::disk::RealDisk};

    struct Collect(Vec<u8>);

    impl Sink for Collect {
        fn put(&mut self, bytes: Bytes) -> Result<(), Error> {
            self.0.extend_from_slice(&bytes);
            Ok(())
        }
    }

    /// A checkpoint of ten keys of which every write is among the frames as well, as if it had begun before them.
    async fn checkpoint() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &Options::default()).unwrap();
        for n in 0..10 {
            let batch = Batch::new()
                .put(format!("k{n}"), "value")
                .delete(format!("k{}", n - 1));
            store.commit(batch).await.unwrap();
        }
        let source = Source {
            disk: &*store.local().core.home.disk,
            store: store.id(),
            sled: &store.fed_sled(),
            fed: Position::default(),
            durable: &|| store.local().core.view.shown(),
            time_ms: 0,
        };
        let mut bytes = Collect(Vec::new());
        let summary = source.write(&mut bytes).unwrap();
        assert_eq!((summary.records, summary.end.revision), (1, 10));
        bytes.0
    }

    #[tokio::test]
    async fn a_bit_flipped_anywhere_is_found_and_so_is_a_missing_end() {
        let whole = checkpoint().await;
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_owned());
        let verify = |bytes: &[u8]| {
            std::fs::write(dir.path().join("file"), bytes).unwrap();
            Checkpoint::open(&disk, Path::new("file"))?.verify()
        };
        verify(&whole).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(verify(&whole[..len]).is_err(), "length {len}");
        }
    }
}
