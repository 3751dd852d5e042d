//! The journal's frame: one group of changes. It is synced, checked and torn as one.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic `IBXF` |
//! | 4 | length of the payload |
//! | 4 | CRC-32C of the store's id, the rest of this header and the payload |
//! | 4 | CRC-32C of the frame before: the chain |
//! | 8 | revision of the first change; each next one has the next revision |
//! | 8 | commit time, milliseconds since the Unix epoch |
//! | 4 | number of changes |
//! | … | payload: each change a count of writes and the state hash after it, each write a tag, key and value |
//!
//! All numbers are little-endian. The checksum covers the store's id. So if somebody stores a whole frame inside a record, it fails
//! its check when a damaged journal is searched for frames.

use bytes::Bytes;
use uuid::Uuid;

use crate::store::{
    change::{Change, Group, Placed, Position, REVISION_MAX, Stands, Write},
    reader::Reader,
    state_hash::StateHash,
};

/// The largest payload of a frame: a greater length is damage, and no reason to allocate memory.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The size of a frame's header.
pub(super) const HEADER_BYTES: usize = 36;

const MAGIC: [u8; 4] = *b"IBXF";
const CRC_AT: usize = 8;
/// The bytes of a length.
const LEN_BYTES: usize = 4;
/// The bytes before the writes of a change: their number, and the state hash.
const CHANGE_HEAD_BYTES: usize = LEN_BYTES + StateHash::BYTES;
/// The bytes before the key of a write: its tag, and the key's length.
const WRITE_HEAD_BYTES: usize = 1 + LEN_BYTES;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// The checksum of a frame. The next frame repeats it.
pub(super) type Chain = u32;

/// A whole frame.
pub(super) struct Found {
    pub(super) group: Group,
    /// The chain that it continues.
    pub(super) before: Chain,
    /// Its own checksum.
    pub(super) chain: Chain,
    /// Its size with the header.
    pub(super) len: usize,
}

impl Found {
    /// The position behind the frame.
    pub(super) fn end(&self) -> Position {
        Position {
            revision: self.group.last_revision(),
            chain: self.chain,
            state: self.group.state(),
        }
    }
}

impl Group {
    /// The frame's bytes and its checksum.
    pub(super) fn encode(&self, store: Uuid, before: Chain) -> (Vec<u8>, Chain) {
        let mut bytes = Vec::new();
        let chain = self.encode_over(&mut bytes, store, before);
        (bytes, chain)
    }

    /// Writes the frame over the content of `bytes`, and returns its checksum.
    pub(super) fn encode_over(&self, bytes: &mut Vec<u8>, store: Uuid, before: Chain) -> Chain {
        bytes.clear();
        bytes.reserve(HEADER_BYTES + self.payload_len());
        bytes.extend_from_slice(&MAGIC);
        put_len(bytes, self.payload_len());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&before.to_le_bytes());
        bytes.extend_from_slice(&self.first_revision.to_le_bytes());
        bytes.extend_from_slice(&self.time_ms.to_le_bytes());
        put_len(bytes, self.changes.len());
        for change in &self.changes {
            put_len(bytes, change.writes.len());
            bytes.extend_from_slice(&change.state.to_le_bytes());
            for write in &change.writes {
                bytes.push(if write.value.is_some() { PUT } else { DELETE });
                put_slice(bytes, &write.key);
                if let Some(value) = &write.value {
                    put_slice(bytes, value);
                }
            }
        }
        let chain = checksum(store, bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&chain.to_le_bytes());
        chain
    }

    fn payload_len(&self) -> usize {
        self.changes
            .iter()
            .map(|change| encoded_len(&change.writes))
            .sum()
    }

    /// Its writes in order, with where in the journal the values stand if the frame begins at `frame_at`. Without that they stand
    /// nowhere.
    pub(super) fn placed(&self, frame_at: Option<u64>) -> Vec<Placed<'_>> {
        let mut writes = Vec::new();
        let mut at = frame_at.unwrap_or(0) + HEADER_BYTES as u64;
        for change in &self.changes {
            at += CHANGE_HEAD_BYTES as u64;
            for Write { key, value } in &change.writes {
                at += (WRITE_HEAD_BYTES + key.len()) as u64;
                let value_at = at + LEN_BYTES as u64;
                writes.push(Placed {
                    key,
                    value: value.as_ref(),
                    revision: change.revision,
                    stands: frame_at.map_or(Stands::Nowhere, |_| Stands::Journal(value_at)),
                    share: None,
                });
                if let Some(value) = value {
                    at = value_at + value.len() as u64;
                }
            }
        }
        writes
    }

    /// The length of the payload that follows a header, if this is one.
    pub(super) fn payload_len_in(header: &[u8]) -> Option<usize> {
        let mut header = Reader(header);
        let ours = header.take(4)? == MAGIC;
        let payload_len = header.u32()? as usize;
        (ours && payload_len <= PAYLOAD_BYTES_MAX).then_some(payload_len)
    }

    /// The place and the first revision of the first whole frame in `bytes` whose revision is at least `revision`.
    ///
    /// Damage may have any length, so that a frame may begin at any byte. Records are chosen by callers, but they cannot make this
    /// slow: each candidate is checked in the same short time, whatever length it claims.
    pub(super) fn find(bytes: &[u8], store: Uuid, revision: u64) -> Option<(usize, u64)> {
        let last_start = bytes.iter().rposition(|&byte| byte != 0)?;
        let mut sums = None;
        for at in (0..=last_start).filter(|&at| bytes[at] == MAGIC[0]) {
            let candidate = &bytes[at..];
            let Some(len) = Self::payload_len_in(candidate).map(|len| HEADER_BYTES + len) else {
                continue;
            };
            if candidate.len() < len {
                continue;
            }
            let mut header = Reader(&candidate[CRC_AT..]);
            let (Some(crc), Some(_before), Some(first)) =
                (header.u32(), header.u32(), header.u64())
            else {
                continue;
            };
            if first < revision {
                continue;
            }
            let sums = sums.get_or_insert_with(|| Sums::of(bytes));
            let start =
                crc32c::crc32c_append(crc32c::crc32c(store.as_bytes()), &candidate[..CRC_AT]);
            let rest = sums.between(at + CRC_AT + 4, at + len);
            if crc32c::crc32c_combine(start, rest, len - CRC_AT - 4) == crc {
                return Some((at, first));
            }
        }
        None
    }

    /// The frame at the start of `bytes`, if it is whole and not damaged.
    pub(super) fn decode(bytes: &[u8], store: Uuid) -> Option<Found> {
        let payload_len = Self::payload_len_in(bytes)?;
        let mut header = Reader(bytes.get(8..HEADER_BYTES)?);
        let (chain, before) = (header.u32()?, header.u32()?);
        let (first_revision, time_ms) = (header.u64()?, header.u64()?);
        let count = header.u32()? as usize;
        if first_revision > REVISION_MAX {
            return None;
        }
        let len = HEADER_BYTES + payload_len;
        let bytes = bytes.get(..len)?;
        if checksum(store, bytes) != chain && !cfg!(fuzzing) {
            return None;
        }
        // The checksum is right. What fails from here on was written by another format.
        let payload = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
        let changes = decode_changes(&payload, first_revision, count)?;
        Some(Found {
            group: Group {
                first_revision,
                time_ms,
                changes,
            },
            before,
            chain,
            len,
        })
    }
}

/// The size of a change in a frame's payload.
pub(super) fn encoded_len(writes: &[Write]) -> usize {
    let write_len = |Write { key, value }: &Write| {
        let value_len = value.as_ref().map_or(0, |value| LEN_BYTES + value.len());
        WRITE_HEAD_BYTES + key.len() + value_len
    };
    CHANGE_HEAD_BYTES + writes.iter().map(write_len).sum::<usize>()
}

fn decode_changes(payload: &Bytes, first_revision: u64, count: usize) -> Option<Vec<Change>> {
    let mut reader = Reader(payload);
    let mut changes = Vec::new();
    for n in 0..count {
        let mut writes = Vec::new();
        let writes_count = reader.u32()?;
        let state = reader.state_hash()?;
        for _ in 0..writes_count {
            let tag = reader.take(1)?[0];
            let key = payload.slice_ref(reader.slice()?);
            let value = match tag {
                PUT => Some(payload.slice_ref(reader.slice()?)),
                DELETE => None,
                _ => return None,
            };
            writes.push(Write { key, value });
        }
        changes.push(Change {
            revision: first_revision.checked_add(n as u64)?,
            writes,
            state,
        });
    }
    (reader.0.is_empty() && !changes.is_empty()).then_some(changes)
}

/// CRC-32C of the store's id and of the frame, without its own checksum.
fn checksum(store: Uuid, frame: &[u8]) -> u32 {
    let crc = crc32c::crc32c(store.as_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..CRC_AT]);
    crc32c::crc32c_append(crc, &frame[CRC_AT + 4..])
}

/// CRC-32C of any part of some bytes, in the same short time for any length.
struct Sums<'a> {
    bytes: &'a [u8],
    /// The checksums of everything before each [`Self::STEP_BYTES`]-th byte.
    before: Vec<u32>,
}

impl<'a> Sums<'a> {
    const STEP_BYTES: usize = 256;

    fn of(bytes: &'a [u8]) -> Self {
        let mut sum = 0;
        let mut before = vec![sum];
        for step in bytes.chunks(Self::STEP_BYTES) {
            sum = crc32c::crc32c_append(sum, step);
            before.push(sum);
        }
        Sums { bytes, before }
    }

    fn up_to(&self, end: usize) -> u32 {
        let step = end / Self::STEP_BYTES;
        crc32c::crc32c_append(self.before[step], &self.bytes[step * Self::STEP_BYTES..end])
    }

    fn between(&self, start: usize, end: usize) -> u32 {
        self.up_to(end) ^ crc32c::crc32c_combine(self.up_to(start), 0, end - start)
    }
}

fn put_len(bytes: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("the committer keeps a frame within PAYLOAD_BYTES_MAX");
    bytes.extend_from_slice(&len.to_le_bytes());
}

fn put_slice(bytes: &mut Vec<u8>, slice: &[u8]) {
    put_len(bytes, slice.len());
    bytes.extend_from_slice(slice);
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let write = (bytes(), proptest::option::of(bytes())).prop_map(|(key, value)| Write {
            key: key.into(),
            value: value.map(Bytes::from),
        });
        proptest::collection::vec(write, 0..5)
    }

    fn frames() -> impl Strategy<Value = Group> {
        let transaction = (writes(), any::<[u8; StateHash::BYTES]>());
        (
            1..u64::MAX / 2,
            any::<u64>(),
            proptest::collection::vec(transaction, 1..5),
        )
            .prop_map(|(first_revision, time_ms, transactions)| Group {
                first_revision,
                time_ms,
                changes: (first_revision..)
                    .zip(transactions)
                    .map(|(revision, (writes, state))| Change {
                        revision,
                        writes,
                        state: StateHash::from_le_bytes(state),
                    })
                    .collect(),
            })
    }

    proptest! {
        #[test]
        fn a_frame_reads_back(frame in frames(), before: u32, garbage: Vec<u8>) {
            let (mut bytes, chain) = frame.encode(Uuid::max(), before);
            let len = bytes.len();
            bytes.extend(garbage);
            let found = Group::decode(&bytes, Uuid::max()).unwrap();
            prop_assert_eq!((found.before, found.chain, found.len), (before, chain, len));
            prop_assert_eq!(found.group, frame);
        }

        #[test]
        fn each_value_is_where_it_is_said_to_be(frame in frames(), before: Vec<u8>) {
            let (bytes, _) = frame.encode(Uuid::max(), 7);
            let file = [&before[..], &bytes].concat();
            let writes = frame.changes.iter().flat_map(|change| {
                change.writes.iter().map(|write| (&write.key, write.value.as_ref(), change.revision))
            });
            let placed = frame.placed(Some(before.len() as u64));
            let found = placed.iter().map(|placed| (placed.key, placed.value, placed.revision));
            prop_assert!(found.eq(writes));
            for Placed { value, stands, .. } in placed {
                if let (Some(value), Stands::Journal(at)) = (value, stands) {
                    let at = usize::try_from(at).unwrap();
                    prop_assert_eq!(&file[at..at + value.len()], &value[..]);
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_seen(frame in frames(), at: prop::sample::Index) {
            let (mut bytes, _) = frame.encode(Uuid::nil(), 7);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Group::decode(&bytes, Uuid::nil()).is_none());
        }

        #[test]
        fn a_frame_is_found_wherever_it_starts(frame in frames(), before: Vec<u8>, after: Vec<u8>) {
            let revision = frame.first_revision;
            let (bytes, _) = frame.encode(Uuid::max(), 7);
            let at = before.len();
            let all = [before, bytes, after].concat();
            prop_assert_eq!(Group::find(&all, Uuid::max(), revision), Some((at, revision)));
            prop_assert_eq!(Group::find(&all, Uuid::max(), revision + 1), None);
            prop_assert_eq!(Group::find(&all, Uuid::nil(), revision), None);
        }

        #[test]
        fn random_bytes_are_no_frame(bytes: Vec<u8>) {
            prop_assert!(Group::decode(&bytes, Uuid::nil()).is_none());
        }
    }

    #[test]
    fn what_looks_like_many_long_frames_is_searched_in_linear_time() {
        // Each candidate claims that all the rest is its payload.
        let looks = |bytes: usize| {
            let mut all = Vec::new();
            while all.len() < bytes {
                let rest = u32::try_from(bytes - all.len()).unwrap();
                all.extend_from_slice(&MAGIC);
                all.extend_from_slice(&rest.saturating_sub(100).to_le_bytes());
                all.extend_from_slice(&[1; 32]);
            }
            let start = std::time::Instant::now();
            assert_eq!(Group::find(&all, Uuid::nil(), 1), None);
            start.elapsed()
        };
        let (small, large) = (looks(64 << 10), looks(1 << 20));
        // 16 times as many bytes. When each candidate was read to its end, it took 256 times as long.
        assert!(large < small * 100, "{small:?} and {large:?}");
    }

    #[test]
    fn another_stores_frame_is_no_frame() {
        let frame = Group {
            first_revision: 1,
            time_ms: 0,
            changes: vec![Change {
                revision: 1,
                writes: Vec::new(),
                state: StateHash::default(),
            }],
        };
        assert!(Group::decode(&frame.encode(Uuid::nil(), 0).0, Uuid::max()).is_none());
    }
}
