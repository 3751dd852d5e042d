//! The form of a block: neighbouring keys together, with what is stored of each.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32C of the block's own key and what follows here |
//! | … | its entries, in the order of their keys |
//!
//! An entry:
//!
//! | bytes | what |
//! |---|---|
//! | varint | how many bytes at its start the key shares with the key before it |
//! | varint | how many bytes the rest of the key has |
//! | varint | how many bytes are stored of it |
//! | … | the rest of the key |
//! | … | what is stored of it |

use std::{cmp::Ordering, ops::Range};

use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};
use sled::IVec;

use crate::store::Error;

/// A block that would have more than this is split. With twice as much, a key that is written alone writes twice as much.
pub(super) const BLOCK_BYTES: usize = 512;
/// What an entry has beside its key and what is stored, if all of it is short.
pub(super) const LENS_BYTES: usize = 3;
pub(super) const CRC_BYTES: usize = 4;
/// Room for most keys.
const KEY_BYTES: usize = 128;

/// A block as it is in sled.
pub(super) struct Block {
    pub(super) key: IVec,
    pub(super) bytes: IVec,
}

impl Block {
    /// What it stores of a key.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        let mut entries = self.entries()?;
        while let Some(stored) = entries.next()? {
            match entries.key[..].cmp(key) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(self.slice(stored))),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn entries(&self) -> Result<BlockEntries<'_>, Error> {
        Ok(BlockEntries {
            block: self,
            rest: unsealed(&self.key, &self.bytes).ok_or_else(|| self.damaged())?,
            key: Vec::with_capacity(KEY_BYTES),
        })
    }

    /// Its entries before `end`.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn read(&self, end: Option<&[u8]>) -> Result<Vec<(Bytes, IVec)>, Error> {
        let mut entries = self.entries()?;
        let mut keys = Vec::with_capacity(2 * self.bytes.len());
        let mut places = Vec::new();
        while let Some(stored) = entries.next()? {
            if end.is_some_and(|end| entries.key[..] >= *end) {
                break;
            }
            let start = keys.len();
            keys.extend_from_slice(&entries.key);
            places.push((start..keys.len(), stored));
        }
        let keys = Bytes::from(keys);
        let places = places.into_iter();
        Ok(places
            .map(|(key, stored)| (keys.slice(key), self.slice(stored)))
            .collect())
    }

    /// A part of it, which shares its memory.
    fn slice(&self, range: Range<usize>) -> IVec {
        self.bytes.subslice(range.start, range.len())
    }

    fn damaged(&self) -> Error {
        Error::Corrupt {
            what: format!(
                "the view fails its checksum at key {}",
                self.key.escape_ascii()
            ),
        }
    }
}

/// Reads the entries of a block one by one.
struct BlockEntries<'a> {
    block: &'a Block,
    rest: &'a [u8],
    /// The key that was read last.
    key: Vec<u8>,
}

impl BlockEntries<'_> {
    /// Reads the next key. Returns where in the block that is what is stored of it.
    fn next(&mut self) -> Result<Option<Range<usize>>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let stored = self.read().ok_or_else(|| self.block.damaged())?;
        Ok(Some(stored))
    }

    fn read(&mut self) -> Option<Range<usize>> {
        let mut len = || usize::try_from(decode_varint(&mut self.rest).ok()?).ok();
        let (shared, rest_of_key, stored) = (len()?, len()?, len()?);
        let (rest_of_key, rest) = self.rest.split_at_checked(rest_of_key)?;
        let (_, rest) = rest.split_at_checked(stored)?;
        self.rest = rest;
        self.key.truncate(shared);
        self.key.extend_from_slice(rest_of_key);
        let end = self.block.bytes.len() - rest.len();
        Some(end - stored..end)
    }
}

/// Distributes entries evenly over blocks. The first one has this own key, the others begin with theirs.
pub(super) fn split(own_key: &[u8], entries: &[(&[u8], &[u8])]) -> Vec<Block> {
    let mut before: &[u8] = &[];
    let shared: Vec<usize> = entries
        .iter()
        .map(|(key, _)| {
            let same = key.iter().zip(before).take_while(|(a, b)| a == b).count();
            before = key;
            same
        })
        .collect();
    let each = entries.iter().zip(shared);
    let len = |((key, stored), shared): (&(&[u8], &[u8]), usize)| {
        LENS_BYTES + key.len() - shared + stored.len()
    };
    let bytes: usize = each.clone().map(len).sum();
    let part_bytes = bytes.div_ceil(bytes.div_ceil(BLOCK_BYTES).max(1));
    let mut parts: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for (&(key, stored), shared) in each {
        match parts.last_mut() {
            Some((_, bytes)) if bytes.len() < CRC_BYTES + part_bytes => {
                append((key, stored), shared, bytes);
            }
            _ => {
                let mut bytes = Vec::with_capacity(CRC_BYTES + part_bytes + KEY_BYTES);
                bytes.resize(CRC_BYTES, 0);
                append((key, stored), 0, &mut bytes);
                parts.push((if parts.is_empty() { own_key } else { key }, bytes));
            }
        }
    }
    let sealed = |(key, mut bytes): (&[u8], Vec<u8>)| {
        seal(key, &mut bytes);
        Block {
            key: key.into(),
            bytes: bytes.into(),
        }
    };
    parts.into_iter().map(sealed).collect()
}

fn append((key, stored): (&[u8], &[u8]), shared: usize, block: &mut Vec<u8>) {
    for len in [shared, key.len() - shared, stored.len()] {
        encode_varint(len as u64, block);
    }
    block.extend_from_slice(&key[shared..]);
    block.extend_from_slice(stored);
}

/// Puts the checksum of a key of sled and of what it holds into the room at the front.
pub(super) fn seal(key: &[u8], held: &mut [u8]) {
    let (room, behind) = held.split_at_mut(CRC_BYTES);
    room.copy_from_slice(&checksum(key, behind).to_le_bytes());
}

/// What a key of sled holds, without the checksum, if that is right.
pub(super) fn unsealed<'a>(key: &[u8], held: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, behind) = held.split_first_chunk()?;
    (u32::from_le_bytes(*crc) == checksum(key, behind)).then_some(behind)
}

fn checksum(key: &[u8], behind: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of entries that store something.
    fn blocks() -> Vec<Block> {
        let keys: Vec<String> = (0..40).map(|n| format!("key {n:02}")).collect();
        let entries: Vec<_> = keys
            .iter()
            .map(|key| (key.as_bytes(), &[7; 40][..]))
            .collect();
        split(b"key 00", &entries)
    }

    fn is_damaged(key: &IVec, bytes: &[u8]) -> bool {
        let block = Block {
            key: key.clone(),
            bytes: bytes.into(),
        };
        let reads = [block.get(b"key 00").err(), block.read(None).err()];
        let damaged = reads.map(|error| matches!(error, Some(Error::Corrupt { .. })));
        assert_eq!(damaged[0], damaged[1]);
        damaged[0]
    }

    #[test]
    fn entries_are_distributed_evenly_over_as_few_blocks_as_possible() {
        // An entry of 64 bytes each, whose key shares nothing with the one before it.
        const ENTRY_BYTES: usize = 64;
        let keys: Vec<[u8; 4]> = (0..=u8::MAX).map(|n| [n, 1, 2, 3]).collect();
        let stored = [7; ENTRY_BYTES - LENS_BYTES - 4];
        let entries: Vec<_> = keys.iter().map(|key| (&key[..], &stored[..])).collect();
        let fit = BLOCK_BYTES / ENTRY_BYTES;
        let lens = |count: usize| -> Vec<usize> {
            let blocks = split(b"", &entries[..count]).into_iter();
            let len = |block: Block| (block.bytes.len() - CRC_BYTES) / ENTRY_BYTES;
            blocks.map(len).collect()
        };
        assert!(lens(0).is_empty());
        assert_eq!(lens(fit), [fit]);
        assert_eq!(lens(fit + 2), [fit / 2 + 1, fit / 2 + 1]);
        assert_eq!(lens(4 * fit), [fit; 4]);
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_bytes_of_another_block_are_too() {
        let [first, second, ..] = &blocks()[..] else {
            panic!("there are several");
        };
        assert!(!is_damaged(&first.key, &first.bytes));
        for bit in 0..first.bytes.len() * 8 {
            let mut flipped = first.bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_damaged(&first.key, &flipped), "bit {bit}");
        }
        for bytes in [&second.bytes[..], &first.bytes[..3], b""] {
            assert!(is_damaged(&first.key, bytes));
        }
    }

    #[test]
    fn entries_that_do_not_fit_are_damage_though_the_checksum_is_right() {
        let key = IVec::from("key");
        let sealed = |entry: &[u8]| {
            let mut bytes = [&[0; CRC_BYTES], entry].concat();
            seal(&key, &mut bytes);
            bytes
        };
        assert!(!is_damaged(&key, &sealed(&[0, 1, 1, b'k', b's'])));
        let without_end = [0x80; 11];
        for entry in [
            &[0, 1, 2, b'k', b's'][..],
            &[0, 9, 0, b'k'],
            &[0, 1],
            &without_end,
        ] {
            assert!(is_damaged(&key, &sealed(entry)), "{entry:?}");
        }
    }
}
