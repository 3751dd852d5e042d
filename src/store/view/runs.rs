//! Runs: neighbouring keys with what a reader wants of their values, together in one piece of memory.
//!
//! sled returns one key at a time, each with its own value. A list that is read again finds runs instead, in the form in which
//! records go onto the wire. That takes one search for about thirty records, which lie side by side and were checked when they were
//! copied. A filter that lets little through finds runs of extracts, which have only what filters test.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow, Range},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{
    Feed,
    feeding::{self, Copies, Feeding, Moment},
};
use crate::store::batch::{Entry, Found, Framed};

/// Runs of whole records. One is twice what a frame of HTTP/2 holds, so that a page consists of whole frames. In the rest of the
/// cache sled holds where the values stand.
pub(super) const OF_RECORDS: Shape = Shape {
    share_of_cache: 3,
    run_bytes: 32 << 10,
};
/// Runs of extracts, about fifty in each: a write of one record removes the extracts of all.
pub(super) const OF_EXTRACTS: Shape = Shape {
    share_of_cache: 12,
    run_bytes: 8 << 10,
};
/// The most entries in a run.
const RUN_ENTRIES_MAX: usize = 256;
/// The memory that a run takes beside its entries, and each entry beside its key and value.
const RUN_OVERHEAD_BYTES: usize = 256;
const ENTRY_OVERHEAD_BYTES: usize = size_of::<Span>();

/// Appends a value with its revision to `to` in the form that a reader wants. Returns where in `to` the value itself is, or what
/// stands for it. A range of keys is always read with the same function.
pub(crate) type Framing = fn(value: &[u8], revision: u64, to: &mut Vec<u8>) -> Range<usize>;

/// How much memory runs may take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    /// All of them together take the cache, divided by this.
    share_of_cache: u64,
    /// A run that would exceed this with another entry like its last one takes none.
    run_bytes: usize,
}

/// All existing keys from `from` up to, but not including, `to`, with what they hold.
#[derive(Debug)]
pub(super) struct Run {
    from: Vec<u8>,
    to: Vec<u8>,
    spans: Vec<Span>,
    keys: Vec<u8>,
    framed: Bytes,
    /// Whether it was read since the last search for room.
    was_read: AtomicBool,
}

/// Where the parts of an entry are. Each part begins where the one before it ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    revision: u64,
    key_end: u32,
    value_start: u32,
    value_end: u32,
    framed_end: u32,
}

/// A run that is being made.
pub(super) struct Draft {
    from: Vec<u8>,
    spans: Vec<Span>,
    keys: Vec<u8>,
    framed: Vec<u8>,
    framing: Framing,
    run_bytes: usize,
    begun: Moment,
}

/// Runs of one sled. Their size is limited.
#[derive(Debug, Default)]
pub(super) struct Runs {
    inner: RwLock<Inner>,
    bytes_max: usize,
    run_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// The runs by their first keys. They do not overlap.
    runs: BTreeMap<Vec<u8>, Arc<Run>>,
    bytes: usize,
    feeding: Feeding,
    /// Where the search for runs that nobody reads continues.
    hand: Vec<u8>,
}

/// What the runs have at a key.
pub(super) enum At {
    /// The run that covers it.
    Run(Arc<Run>),
    /// No run: one can be made from the key up to the next run, if there is one.
    Gap(Draft, Option<Vec<u8>>),
}

impl Runs {
    /// Runs that take their share of a cache.
    pub(super) fn new(shape: Shape, cache_bytes: u64) -> Self {
        let bytes_max = cache_bytes / shape.share_of_cache;
        Runs {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            run_bytes: shape.run_bytes,
            ..Runs::default()
        }
    }

    /// The most bytes that they take.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    /// The run that covers a key, or a draft that begins there.
    pub(super) fn at(&self, key: &[u8], framing: Framing) -> At {
        let inner = self.read();
        if let Some(run) = inner.to_read(key) {
            return At::Run(run);
        }
        let next = inner
            .runs
            .range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded));
        let next = next.map(|(from, _)| from.clone()).next();
        let begun = inner.feeding.now();
        drop(inner);
        At::Gap(
            Draft {
                from: key.to_vec(),
                spans: Vec::new(),
                keys: Vec::new(),
                framed: Vec::with_capacity(self.run_bytes),
                framing,
                run_bytes: self.run_bytes,
                begun,
            },
            next,
        )
    }

    /// The run that covers a key, if there is one.
    pub(super) fn covering(&self, key: &[u8]) -> Option<Arc<Run>> {
        self.read().to_read(key)
    }

    /// Finishes a run that covers every key before `to`. Keeps it, unless sled has been fed with one of its keys meanwhile.
    pub(super) fn keep(&self, draft: Draft, to: Vec<u8>) -> Arc<Run> {
        let Draft {
            from,
            spans,
            keys,
            mut framed,
            begun,
            ..
        } = draft;
        framed.shrink_to_fit();
        let run = Arc::new(Run {
            from,
            to,
            spans,
            keys,
            framed: framed.into(),
            was_read: AtomicBool::new(false),
        });
        let mut inner = self.write();
        let is_present = inner.feeding.spares(run.range(), begun);
        if is_present && run.bytes() <= self.bytes_max && !inner.reaches_into(&run) {
            inner.put(run.clone());
            inner.make_room(self.bytes_max);
        }
        run
    }

    /// Removes the runs that a feed makes outdated. Call this before sled is fed.
    pub(super) fn begin_feed(&self, feed: &Arc<Feed>) {
        feeding::begin(&self.inner, feed);
    }

    /// Call this after sled was fed, or feeding has failed.
    pub(super) fn end_feed(&self) {
        feeding::end(&self.inner);
    }

    /// Removes all runs.
    #[cfg(test)]
    pub(super) fn clear(&self) {
        feeding::end(&self.inner);
        let mut inner = self.write();
        inner.runs.clear();
        inner.bytes = 0;
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copies for Inner {
    fn feeding(&mut self) -> &mut Feeding {
        &mut self.feeding
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(run) = self.covering(key).cloned() {
            self.bytes -= run.bytes();
            self.runs.remove(&run.from);
        }
    }
}

impl Inner {
    fn covering(&self, key: &[u8]) -> Option<&Arc<Run>> {
        let up_to = (Bound::Unbounded, Bound::Included(key));
        let (_, run) = self.runs.range::<[u8], _>(up_to).next_back()?;
        (key < &run.to[..]).then_some(run)
    }

    /// The run that covers a key, for a reader.
    fn to_read(&self, key: &[u8]) -> Option<Arc<Run>> {
        let run = self.covering(key)?;
        // Written only if it changes, because readers on other threads share the cache line.
        if !run.was_read.load(Ordering::Relaxed) {
            run.was_read.store(true, Ordering::Relaxed);
        }
        Some(run.clone())
    }

    /// Whether another run covers a part of this one: another reader was faster.
    fn reaches_into(&self, run: &Run) -> bool {
        self.covering(&run.from).is_some()
            || self.runs.range::<[u8], _>(run.range()).next().is_some()
    }

    fn put(&mut self, run: Arc<Run>) {
        self.bytes += run.bytes();
        self.runs.insert(run.from.clone(), run);
    }

    /// Removes runs that were not read since the last time, until the others fit. The search goes around like the hand of a clock.
    fn make_room(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let behind = (Bound::Excluded(&self.hand[..]), Bound::Unbounded);
            let next = self.runs.range::<[u8], _>(behind).next();
            let Some((_, run)) = next else {
                self.hand.clear();
                continue;
            };
            let run = run.clone();
            self.hand.clone_from(&run.from);
            if !run.was_read.swap(false, Ordering::Relaxed) {
                self.forget(&run.from);
            }
        }
    }
}

impl Draft {
    /// The key at which it begins.
    pub(super) fn from(&self) -> &[u8] {
        &self.from
    }

    /// Adds the next entry. Returns whether there is room for another.
    pub(super) fn push(&mut self, found: &Found<'_>) -> bool {
        let before = self.framed.len();
        let value = (self.framing)(found.value, found.revision, &mut self.framed);
        self.keys.extend_from_slice(found.key);
        self.spans.push(Span {
            revision: found.revision,
            key_end: offset(self.keys.len()),
            value_start: offset(value.start),
            value_end: offset(value.end),
            framed_end: offset(self.framed.len()),
        });
        let of_last = self.framed.len() - before;
        self.framed.len() + of_last <= self.run_bytes && self.spans.len() < RUN_ENTRIES_MAX
    }
}

/// A place in a run. A run is far smaller than 4 GiB: it ends with the entry that exceeds `run_bytes` at the latest, and messages are
/// limited.
fn offset(place: usize) -> u32 {
    u32::try_from(place).expect("a run is far smaller than 4 GiB")
}

impl Run {
    /// The first key that it does not cover.
    pub(super) fn to(&self) -> &[u8] {
        &self.to
    }

    /// Calls `visit` with its entries from `from` up to, but not including, `to`, until `visit` breaks off.
    pub(super) fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let is_whole = self.to[..] <= *to;
        for at in self.first_from(from)..self.spans.len() {
            let key = self.key(at);
            if !is_whole && key >= to {
                break;
            }
            let span = self.spans[at];
            let framed_start = at.checked_sub(1).map_or(0, |at| self.spans[at].framed_end);
            visit(Found {
                key,
                value: &self.framed[range(span.value_start, span.value_end)],
                revision: span.revision,
                framed: Some(Framed {
                    within: &self.framed,
                    start: framed_start as usize,
                    end: span.framed_end as usize,
                }),
            })?;
        }
        ControlFlow::Continue(())
    }

    /// What a key that it covers holds.
    pub(super) fn get(&self, key: &[u8]) -> Option<Entry> {
        let at = self.first_from(key);
        let span = self.spans.get(at).filter(|_| self.key(at) == key)?;
        Some(Entry {
            key: Bytes::copy_from_slice(key),
            // A slice would keep all of the run in memory.
            value: Bytes::copy_from_slice(&self.framed[range(span.value_start, span.value_end)]),
            revision: span.revision,
        })
    }

    /// The place of the first key that is not before this one.
    fn first_from(&self, key: &[u8]) -> usize {
        let (mut first, mut end) = (0, self.spans.len());
        while first < end {
            let middle = usize::midpoint(first, end);
            if self.key(middle) < key {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        first
    }

    fn key(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |at| self.spans[at].key_end);
        &self.keys[range(start, self.spans[at].key_end)]
    }

    fn range(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(&self.from), Bound::Excluded(&self.to))
    }

    fn bytes(&self) -> usize {
        // `from` is also a key of the map.
        RUN_OVERHEAD_BYTES
            + 2 * self.from.len()
            + self.to.len()
            + self.keys.capacity()
            + self.spans.capacity() * ENTRY_OVERHEAD_BYTES
            + self.framed.len()
    }
}

/// The first key that a lower bound may allow.
pub(super) fn first_within(lower: &Bound<Vec<u8>>) -> Vec<u8> {
    match lower {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => behind(key),
        Bound::Unbounded => Vec::new(),
    }
}

/// The first key that an upper bound does not allow, if there is one.
pub(super) fn first_behind(upper: &Bound<Vec<u8>>) -> Option<Vec<u8>> {
    match upper {
        Bound::Included(key) => Some(behind(key)),
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    }
}

/// The first key after this one.
pub(super) fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn range(start: u32, end: u32) -> Range<usize> {
    start as usize..end as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        change::{Position, Stands},
        view::recent::Written,
    };

    fn plain(value: &[u8], _: u64, to: &mut Vec<u8>) -> Range<usize> {
        to.extend_from_slice(value);
        to.len() - value.len()..to.len()
    }

    fn runs(bytes_max: u64) -> Runs {
        Runs::new(OF_RECORDS, bytes_max * OF_RECORDS.share_of_cache)
    }

    fn gap(runs: &Runs, key: &str) -> (Draft, Option<Vec<u8>>) {
        match runs.at(key.as_bytes(), plain) {
            At::Gap(draft, next) => (draft, next),
            At::Run(run) => panic!("{key} is in {run:?}"),
        }
    }

    fn fill(mut draft: Draft, keys: &[&str]) -> Draft {
        for key in keys {
            draft.push(&Found {
                key: key.as_bytes(),
                value: key.to_uppercase().as_bytes(),
                revision: 1,
                framed: None,
            });
        }
        draft
    }

    fn feed(keys: &[&str]) -> Arc<Feed> {
        let written = Written {
            value: None,
            revision: 2,
            stands: Stands::Nowhere,
            share: None,
        };
        let keys = keys
            .iter()
            .map(|key| Bytes::copy_from_slice(key.as_bytes()));
        Arc::new(Feed {
            writes: keys.map(|key| (key, written.clone())).collect(),
            end: Position::default(),
        })
    }

    fn is_kept(runs: &Runs, key: &str) -> bool {
        matches!(runs.at(key.as_bytes(), plain), At::Run(_))
    }

    fn visited(run: &Run, from: &str, to: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let _ = run.visit(from.as_bytes(), to.as_bytes(), &mut |found| {
            assert_eq!(found.key.to_ascii_uppercase(), found.value);
            keys.push(String::from_utf8(found.key.to_vec()).unwrap());
            ControlFlow::Continue(())
        });
        keys
    }

    #[test]
    fn a_run_tells_of_its_keys_and_gaps_end_at_the_next_one() {
        let runs = runs(1 << 20);
        let (draft, next) = gap(&runs, "d");
        assert_eq!(next, None);
        let run = runs.keep(fill(draft, &["d", "e", "g"]), b"h".to_vec());
        assert_eq!(visited(&run, "a", "z"), ["d", "e", "g"]);
        assert_eq!(visited(&run, "e", "g"), ["e"]);
        assert_eq!(visited(&run, "f", "h"), ["g"]);
        assert!(is_kept(&runs, "d") && is_kept(&runs, "gg"));
        let held = |key: &str| runs.covering(key.as_bytes()).unwrap().get(key.as_bytes());
        assert_eq!(held("e").map(|held| held.value), Some("E".into()));
        assert_eq!([held("f"), held("gg")], [None, None]);
        assert!(runs.covering(b"c").is_none() && runs.covering(b"h").is_none());
        assert_eq!(gap(&runs, "h").1, None);
        assert_eq!(gap(&runs, "a").1, Some(b"d".to_vec()));
    }

    #[test]
    fn a_run_is_kept_only_if_sled_was_not_fed_with_a_key_of_it() {
        let outcome = |fed: &[&str], begins_before: bool, ends_before: bool| {
            let runs = runs(1 << 20);
            let fed = feed(fed);
            if begins_before {
                runs.begin_feed(&fed);
            }
            let (draft, _) = gap(&runs, "d");
            if !begins_before {
                runs.begin_feed(&fed);
            }
            if ends_before {
                runs.end_feed();
            }
            let run = runs.keep(fill(draft, &["d", "e"]), b"f".to_vec());
            assert_eq!(visited(&run, "a", "z"), ["d", "e"], "its maker reads it");
            is_kept(&runs, "e")
        };
        for begins_before in [true, false] {
            assert!(!outcome(&["a", "dd", "z"], begins_before, false));
            assert!(!outcome(&["a", "dd", "z"], begins_before, true));
            assert!(outcome(&["a", "f", "z"], begins_before, false));
        }
    }

    #[test]
    fn what_sled_is_fed_with_is_forgotten_and_the_rest_stays() {
        let runs = runs(1 << 20);
        for (from, to) in [("a", "d"), ("d", "g"), ("g", "j")] {
            runs.keep(fill(gap(&runs, from).0, &[from]), to.into());
        }
        // A feed with a key that did not exist adds it there.
        runs.begin_feed(&feed(&["e"]));
        assert_eq!(
            ["a", "d", "g"].map(|key| is_kept(&runs, key)),
            [true, false, true]
        );
        // If two readers make a run for the same place, only one is kept.
        runs.end_feed();
        let (first, second) = (gap(&runs, "d").0, gap(&runs, "e").0);
        runs.keep(fill(second, &["e"]), b"g".to_vec());
        runs.keep(fill(first, &["d", "e"]), b"g".to_vec());
        assert!(is_kept(&runs, "e") && !is_kept(&runs, "d"));
    }

    #[test]
    fn what_was_read_stays_when_room_is_made() {
        let runs = runs(8 << 10);
        let key = |n: usize| format!("k{n:04}");
        for n in 0..1000 {
            let (draft, _) = gap(&runs, &key(n));
            runs.keep(fill(draft, &[&key(n)]), key(n + 1).into());
            let inner = runs.read();
            assert!(inner.bytes <= 8 << 10);
            let bytes: usize = inner.runs.values().map(|run| run.bytes()).sum();
            assert_eq!(inner.bytes, bytes);
            drop(inner);
            assert!(
                is_kept(&runs, &key(0)),
                "read each time, and lost after {n}"
            );
        }
        let kept = runs.read().runs.len();
        assert!((11..=(8 << 10) / RUN_OVERHEAD_BYTES).contains(&kept));
        let long = key(0).repeat(1000);
        let run = runs.keep(fill(gap(&runs, "z").0, &[&long]), b"zz".to_vec());
        assert!(run.bytes() > 2 * long.len(), "its key, and its value");
    }
}
