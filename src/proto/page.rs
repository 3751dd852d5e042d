//! A page of a list. On the wire it equals `repeated T = 1`, `next_page_token = 2` and `revision = 3` of the `.proto`.
//!
//! The records stay encoded: a server sends the stored bytes, and a client decodes a record only when it looks at it.

use std::{marker::PhantomData, ops::Range};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::{Action, Backup, Client, Job, Session, fields::Fields};

const RECORDS_TAG: u32 = 1;
const NEXT_PAGE_TOKEN_TAG: u32 = 2;
const REVISION_TAG: u32 = 3;

/// A message that keeps the revision of a stored resource.
pub trait Revisioned {
    /// The number of its field `revision`.
    const REVISION_TAG: u32;
}

impl Revisioned for Backup {
    const REVISION_TAG: u32 = 12;
}

impl Revisioned for Action {
    const REVISION_TAG: u32 = 10;
}

impl Revisioned for Client {
    const REVISION_TAG: u32 = 15;
}

impl Revisioned for Session {
    const REVISION_TAG: u32 = 15;
}

impl Revisioned for Job {
    const REVISION_TAG: u32 = 14;
}

/// A page of backups.
pub type ListBackupsResponse = Page<Backup>;
/// A page of stored actions.
pub type ListActionsResponse = Page<Action>;
/// A page of clients.
pub type ListClientsResponse = Page<Client>;
/// A page of sessions.
pub type ListSessionsResponse = Page<Session>;
/// A page of jobs.
pub type ListJobsResponse = Page<Job>;

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    records: Records,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
    /// The page shows all changes up to this revision, and perhaps later ones.
    pub revision: u64,
    resource: PhantomData<fn() -> T>,
}

#[derive(Clone, Debug, PartialEq)]
enum Records {
    /// This many records in this many bytes, each after its tag and length, as they go onto the wire.
    Spliced {
        pieces: Vec<Bytes>,
        bytes: usize,
        count: usize,
    },
    /// The records as they came from the wire.
    Apart(Vec<Bytes>),
}

/// Collects the records of a page.
///
/// Framed records are not copied, unless so little of what they are in is in the page that the page would keep more than twice its
/// bytes in memory.
///
/// The revision of a stored record is known only after the record is encoded, so that it stands beside the record. On the wire it
/// comes last: of a repeated field, the last one counts.
#[derive(Clone, Debug)]
pub struct Splice<T> {
    /// The pieces that are complete.
    pieces: Vec<Bytes>,
    /// The records that follow them, copied.
    own: BytesMut,
    /// The records that follow these, within what other pages share.
    shared: Option<(Bytes, Range<usize>)>,
    bytes: usize,
    count: usize,
    resource: PhantomData<fn() -> T>,
}

impl<T> Default for Splice<T> {
    fn default() -> Self {
        Splice {
            pieces: Vec::new(),
            own: BytesMut::new(),
            shared: None,
            bytes: 0,
            count: 0,
            resource: PhantomData,
        }
    }
}

impl<T: Revisioned> Splice<T> {
    /// Appends an encoded record with its revision in the form that it has in a page. Returns where in `to` the record itself
    /// begins.
    pub fn frame(record: &[u8], revision: u64, to: &mut impl BufMut) -> usize {
        let len = record.len() + encoding::uint64::encoded_len(T::REVISION_TAG, &revision);
        encoding::encode_key(RECORDS_TAG, WireType::LengthDelimited, to);
        encoding::encode_varint(len as u64, to);
        to.put_slice(record);
        encoding::uint64::encode(T::REVISION_TAG, &revision, to);
        encoding::key_len(RECORDS_TAG) + encoding::encoded_len_varint(len as u64)
    }

    /// Adds an encoded record with its revision.
    pub fn push(&mut self, record: &[u8], revision: u64) {
        self.end_shared();
        let before = self.own.len();
        Self::frame(record, revision, &mut self.own);
        self.bytes += self.own.len() - before;
        self.count += 1;
    }

    /// Adds the record in `range` of `within`, which [`Splice::frame`] made.
    pub fn push_framed(&mut self, within: &Bytes, range: Range<usize>) {
        self.bytes += range.len();
        self.count += 1;
        match &mut self.shared {
            Some((shared, last))
                if shared.as_ptr() == within.as_ptr() && last.end == range.start =>
            {
                last.end = range.end;
            }
            _ => {
                self.end_shared();
                self.shared = Some((within.clone(), range));
            }
        }
    }

    fn end_shared(&mut self) {
        let Some((shared, range)) = self.shared.take() else {
            return;
        };
        if range.len() * 2 < shared.len() {
            self.own.extend_from_slice(&shared[range]);
        } else {
            self.end_own();
            self.pieces.push(shared.slice(range));
        }
    }

    fn end_own(&mut self) {
        if !self.own.is_empty() {
            self.pieces.push(self.own.split().freeze());
        }
    }

    /// The number of records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The bytes that they take in the page.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes a page of these records.
    #[must_use]
    pub fn into_page(mut self, next_page_token: String, revision: u64) -> Page<T> {
        self.end_shared();
        self.end_own();
        Page {
            records: Records::Spliced {
                pieces: self.pieces,
                bytes: self.bytes,
                count: self.count,
            },
            next_page_token,
            revision,
            resource: PhantomData,
        }
    }
}

impl<T> Page<T> {
    /// The number of records.
    #[must_use]
    pub fn count(&self) -> usize {
        match &self.records {
            Records::Spliced { count, .. } => *count,
            Records::Apart(records) => records.len(),
        }
    }
}

impl<T> Page<T> {
    /// The encoded page in pieces. What is in pieces already is not copied.
    #[must_use]
    pub fn encoded_pieces(&self) -> Vec<Bytes> {
        let mut pieces = match &self.records {
            Records::Spliced { pieces, .. } => pieces.clone(),
            Records::Apart(_) => Vec::new(),
        };
        let mut rest = BytesMut::new();
        self.encode_rest(&mut rest);
        pieces.push(rest.freeze());
        pieces
    }

    /// Encodes what is not in pieces.
    fn encode_rest(&self, buf: &mut impl BufMut) {
        if let Records::Apart(records) = &self.records {
            encoding::bytes::encode_repeated(RECORDS_TAG, records, buf);
        }
        if !self.next_page_token.is_empty() {
            encoding::string::encode(NEXT_PAGE_TOKEN_TAG, &self.next_page_token, buf);
        }
        if self.revision != 0 {
            encoding::uint64::encode(REVISION_TAG, &self.revision, buf);
        }
    }

    /// The encoded records, one after another. Each is a part of the page's bytes, not a copy.
    ///
    /// # Errors
    /// If the page does not consist of records.
    pub fn into_encoded(self) -> Result<Vec<Bytes>, DecodeError> {
        match self.records {
            Records::Spliced { pieces, count, .. } => {
                let mut records = Vec::with_capacity(count);
                for piece in pieces {
                    let mut fields = Fields::of(&piece);
                    while let Some((_, record)) = fields.next()? {
                        records.push(piece.slice_ref(record.bytes()?));
                    }
                }
                Ok(records)
            }
            Records::Apart(records) => Ok(records),
        }
    }
}

impl<T: Message + Default> Page<T> {
    /// The decoded records.
    ///
    /// # Errors
    /// If a record is not an encoded `T`.
    pub fn decoded(&self) -> Result<Vec<T>, DecodeError> {
        match &self.records {
            Records::Spliced { pieces, .. } => {
                Page::<T>::decode(Bytes::from(pieces.concat()))?.decoded()
            }
            Records::Apart(records) => records
                .iter()
                .map(|record| T::decode(record.clone()))
                .collect(),
        }
    }
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Page {
            records: Records::Apart(Vec::new()),
            next_page_token: String::new(),
            revision: 0,
            resource: PhantomData,
        }
    }
}

impl<T> Message for Page<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Records::Spliced { pieces, .. } = &self.records {
            for piece in pieces {
                buf.put_slice(piece);
            }
        }
        self.encode_rest(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match (tag, &mut self.records) {
            (RECORDS_TAG, Records::Apart(records)) => {
                encoding::bytes::merge_repeated(wire_type, records, buf, ctx)
            }
            (NEXT_PAGE_TOKEN_TAG, _) => {
                encoding::string::merge(wire_type, &mut self.next_page_token, buf, ctx)
            }
            (REVISION_TAG, _) => encoding::uint64::merge(wire_type, &mut self.revision, buf, ctx),
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let mut len = match &self.records {
            Records::Spliced { bytes, .. } => *bytes,
            Records::Apart(records) => encoding::bytes::encoded_len_repeated(RECORDS_TAG, records),
        };
        if !self.next_page_token.is_empty() {
            len += encoding::string::encoded_len(NEXT_PAGE_TOKEN_TAG, &self.next_page_token);
        }
        if self.revision != 0 {
            len += encoding::uint64::encoded_len(REVISION_TAG, &self.revision);
        }
        len
    }

    fn clear(&mut self) {
        *self = Page::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::JobAction;

    /// The response as a generator makes it from the `.proto`.
    #[derive(Clone, PartialEq, Message)]
    struct OrdinaryListJobsResponse {
        #[prost(message, repeated, tag = "1")]
        jobs: Vec<Job>,
        #[prost(string, tag = "2")]
        next_page_token: String,
        #[prost(uint64, tag = "3")]
        revision: u64,
    }

    #[test]
    fn a_page_is_an_ordinary_list_response_on_the_wire() {
        let ordinary = OrdinaryListJobsResponse {
            jobs: vec![
                Job {
                    description: "nightly".into(),
                    revision: 7,
                    ..Job::default()
                },
                Job {
                    revision: 1 << 40,
                    ..Job::default()
                },
                Job {
                    job_actions: vec![JobAction::default()],
                    revision: u64::MAX,
                    ..Job::default()
                },
                Job {
                    description: "weekly".into(),
                    revision: 9,
                    ..Job::default()
                },
                Job {
                    description: "monthly".into(),
                    revision: 10,
                    ..Job::default()
                },
            ],
            next_page_token: "token".into(),
            revision: 300,
        };
        let mut splice = Splice::<Job>::default();
        // Some records as they are stored, and some framed ones, of which some are neighbours in memory.
        let mut framed = Vec::new();
        let mut ranges = Vec::new();
        let unstamped = |job: &Job| {
            let job = Job {
                revision: 0,
                ..job.clone()
            };
            job.encode_to_vec()
        };
        for job in &ordinary.jobs {
            let start = framed.len();
            let head = Splice::<Job>::frame(&unstamped(job), job.revision, &mut framed);
            assert!(framed[start + head..].starts_with(&unstamped(job)));
            ranges.push(start..framed.len());
        }
        let framed = Bytes::from(framed);
        for (at, job) in ordinary.jobs.iter().enumerate() {
            match at {
                0 | 3 => splice.push(&unstamped(job), job.revision),
                _ => splice.push_framed(&framed, ranges[at].clone()),
            }
        }
        let page = splice.into_page("token".into(), 300);
        assert_eq!(page.count(), ordinary.jobs.len());
        assert_eq!(page.encode_to_vec(), ordinary.encode_to_vec());
        assert_eq!(page.encoded_len(), ordinary.encoded_len());
        assert_eq!(page.encoded_pieces().concat(), ordinary.encode_to_vec());
        let read_back = Page::<Job>::decode(ordinary.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read_back.decoded().unwrap(), ordinary.jobs);
        assert_eq!(page.decoded().unwrap(), ordinary.jobs);
        assert_eq!(
            read_back.encoded_pieces().concat(),
            ordinary.encode_to_vec()
        );
    }

    #[test]
    fn a_page_keeps_at_most_twice_its_bytes_in_memory() {
        const RECORDS: usize = 10;
        let mut framed = Vec::new();
        for _ in 0..RECORDS {
            Splice::<Job>::frame(&[7; 100], 1, &mut framed);
        }
        let (len, framed) = (framed.len() / RECORDS, Bytes::from(framed));
        for count in 1..=RECORDS {
            let mut splice = Splice::<Job>::default();
            for at in 0..count {
                splice.push_framed(&framed, at * len..(at + 1) * len);
            }
            let records = &splice.into_page(String::new(), 0).encoded_pieces()[0];
            let is_shared = framed.as_ptr_range().contains(&records.as_ptr());
            assert_eq!(is_shared, count * 2 >= RECORDS);
            assert_eq!(*records, framed[..count * len]);
        }
    }
}
