//! What sled holds of a key: the value itself, or where it stands and what is known about it.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | revision of the last write |
//! | 1 | whether the value follows, or where it stands |
//! | … | the value; or the next three |
//! | 4 | how long the value is |
//! | 8 | its place in the journal, if it stands there, or did before the file was written anew |
//! | 16 | its share of the state hash |
//!
//! The block that it is in has a checksum. So everything that is damaged or belongs to another key is noticed, in sled and elsewhere.
//! And the state hash of sled is known without reading values that stand elsewhere.

use bytes::Bytes;

use super::values::ValueReader;
use crate::store::{
    Error,
    batch::Entry,
    change::{Placed, Stands},
    reader::Reader,
    state_hash::StateHash,
};

/// The bytes before the value or its place: revision and tag.
pub(super) const HEAD_BYTES: usize = 8 + 1;
pub(super) const PLACE_BYTES: usize = 4 + 8 + StateHash::BYTES;
/// The tags for what follows the head.
const VALUE: u8 = 0;
const IN_JOURNAL: u8 = 1;
const IN_RECORDS: u8 = 2;
/// Values up to this size stand in sled itself. These are names, which are read again and again to find records.
pub(super) const VALUE_BYTES_MAX: usize = 64;
/// The memory that a key takes in sled's cache in addition to its bytes and its entry.
const KEY_OVERHEAD_BYTES: usize = 64;

/// The memory that a key with a value of this size takes in sled.
pub(in crate::store) fn bytes_in_memory(key: &[u8], value_len: usize) -> u64 {
    let held = if value_len > VALUE_BYTES_MAX {
        PLACE_BYTES
    } else {
        value_len
    };
    (KEY_OVERHEAD_BYTES + key.len() + HEAD_BYTES + held) as u64
}

/// Appends the entry for a value: the value itself if it is small or stands nowhere else, otherwise where it stands.
pub(super) fn store(write: &Placed<'_>, value: &[u8], to: &mut Vec<u8>) {
    let place = match write.stands {
        _ if value.len() <= VALUE_BYTES_MAX => None,
        Stands::Journal(at) => Some((IN_JOURNAL, at)),
        Stands::Records => Some((IN_RECORDS, 0)),
        Stands::Nowhere => None,
    };
    to.extend_from_slice(&write.revision.to_le_bytes());
    if let Some((tag, at)) = place {
        let len = u32::try_from(value.len()).expect("it came through a frame");
        let hash = write.share;
        let hash = hash.unwrap_or_else(|| StateHash::of(write.key, value, write.revision));
        to.push(tag);
        to.extend_from_slice(&len.to_le_bytes());
        to.extend_from_slice(&at.to_le_bytes());
        to.extend_from_slice(&hash.to_le_bytes());
    } else {
        to.push(VALUE);
        to.extend_from_slice(value);
    }
}

/// An entry of sled.
pub(super) struct Held<'a> {
    pub(super) revision: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Here(&'a [u8]),
    Elsewhere {
        stands: Stands,
        len: usize,
        hash: StateHash,
    },
}

/// What is known about a key's value without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Known {
    /// The revision of the last write.
    pub(in crate::store) revision: u64,
    /// The size of the value.
    pub(in crate::store) len: usize,
    /// The value's share of the state hash.
    pub(in crate::store) hash: StateHash,
}

impl Known {
    /// What is known about a key with this value.
    pub(in crate::store) fn of(key: &[u8], value: &[u8], revision: u64) -> Known {
        Known {
            revision,
            len: value.len(),
            hash: StateHash::of(key, value, revision),
        }
    }
}

impl<'a> Held<'a> {
    /// # Errors
    /// If the entry is damaged.
    pub(super) fn parse(key: &[u8], stored: &'a [u8]) -> Result<Self, Error> {
        let parse = || {
            let mut reader = Reader(stored);
            let revision = reader.u64()?;
            let tag = reader.take(1)?[0];
            if tag == VALUE {
                let value = Value::Here(reader.0);
                return Some(Held { revision, value });
            }
            let (len, at) = (reader.u32()?, reader.u64()?);
            let value = Value::Elsewhere {
                stands: match tag {
                    IN_JOURNAL => Stands::Journal(at),
                    IN_RECORDS => Stands::Records,
                    _ => return None,
                },
                len: len as usize,
                hash: reader.state_hash()?,
            };
            Some(Held { revision, value })
        };
        parse().ok_or_else(|| damaged(key))
    }

    /// What is known without reading the value.
    pub(super) fn known(&self, key: &[u8]) -> Known {
        match self.value {
            Value::Here(value) => Known::of(key, value, self.revision),
            Value::Elsewhere { len, hash, .. } => Known {
                revision: self.revision,
                len,
                hash,
            },
        }
    }

    /// The bytes at the value's place, if it stands elsewhere.
    ///
    /// # Errors
    /// Errors of the disk; [`Error::Busy`] if it may not wait for the disk but would have to.
    pub(super) fn read(
        &self,
        key: &[u8],
        reader: &mut Option<Box<dyn ValueReader + '_>>,
    ) -> Result<Option<Bytes>, Error> {
        match (&self.value, reader) {
            (Value::Elsewhere { stands, len, .. }, Some(reader)) => reader.read(key, *stands, *len),
            _ => Ok(None),
        }
    }

    /// The value: from the entry, or the bytes that were read, if they are right.
    ///
    /// # Errors
    /// If they are not.
    pub(super) fn checked<'b>(&self, key: &[u8], read: Option<&'b [u8]>) -> Result<&'b [u8], Error>
    where
        'a: 'b,
    {
        match self.value {
            Value::Here(value) => Ok(value),
            Value::Elsewhere { hash, .. } => read
                .filter(|read| StateHash::of(key, read, self.revision) == hash)
                .ok_or_else(|| damaged(key)),
        }
    }
}

fn damaged(key: &[u8]) -> Error {
    Error::Corrupt {
        what: format!("the value of key {} fails its checksum", key.escape_ascii()),
    }
}

/// What a key holds. It shares the memory of sled's entry, or of what was read.
///
/// # Errors
/// The same as for [`Held::parse`], [`Held::read`] and [`Held::checked`].
pub(super) fn checked(
    key: Bytes,
    stored: impl AsRef<[u8]> + Send + 'static,
    reader: &mut Option<Box<dyn ValueReader + '_>>,
) -> Result<Entry, Error> {
    let held = Held::parse(&key, stored.as_ref())?;
    let revision = held.revision;
    let read = held.read(&key, reader)?;
    held.checked(&key, read.as_deref())?;
    let value = read.unwrap_or_else(|| Bytes::from_owner(stored).slice(HEAD_BYTES..));
    Ok(Entry {
        key,
        value,
        revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A truth that has one value, and remembers what it was asked for.
    struct Truth(Bytes, Option<(Stands, usize)>);

    impl ValueReader for &mut Truth {
        fn read(&mut self, _: &[u8], stands: Stands, len: usize) -> Result<Option<Bytes>, Error> {
            self.1 = Some((stands, len));
            Ok(Some(self.0.clone()))
        }
    }

    #[test]
    fn an_entry_has_its_value_or_says_where_it_stands() {
        let key = Bytes::from("key");
        for stands in [Stands::Journal(5), Stands::Records, Stands::Nowhere] {
            for len in [0, VALUE_BYTES_MAX, VALUE_BYTES_MAX + 1] {
                let value = Bytes::from(vec![7; len]);
                let write = Placed {
                    key: &key,
                    value: Some(&value),
                    revision: 9,
                    stands,
                    share: None,
                };
                let mut stored = Vec::new();
                store(&write, &value, &mut stored);
                let known = Held::parse(&key, &stored).unwrap().known(&key);
                assert_eq!(known, Known::of(&key, &value, 9));
                let mut truth = Truth(value.clone(), None);
                let mut reader: Option<Box<dyn ValueReader>> = Some(Box::new(&mut truth));
                let entry = checked(key.clone(), stored.clone(), &mut reader).unwrap();
                drop(reader);
                assert_eq!((&entry.value, entry.revision), (&value, 9));
                let elsewhere = len > VALUE_BYTES_MAX && stands != Stands::Nowhere;
                assert_eq!(truth.1, elsewhere.then_some((stands, len)));
                if elsewhere {
                    assert_eq!(stored.len(), HEAD_BYTES + PLACE_BYTES);
                    let is_whole = |len| Held::parse(&key, &stored[..len]).is_ok();
                    assert!(!(0..stored.len()).any(is_whole));
                }
            }
        }
    }

    #[test]
    fn a_key_takes_its_bytes_and_its_entrys_in_memory() {
        for (value_len, held) in [(0, 0), (64, 64), (65, PLACE_BYTES), (4096, PLACE_BYTES)] {
            let bytes = KEY_OVERHEAD_BYTES + 3 + HEAD_BYTES + held;
            assert_eq!(bytes_in_memory(b"key", value_len), bytes as u64);
        }
    }
}
