//! The ordered view: every key with its current value. It does not depend on what orders the changes.
//!
//! Durable writes can be read at once from a table of recent writes (`recent.rs`). The feeder (`feeder.rs`) writes them to sled
//! (`sled.rs`) later, many at a time and in the order of their keys. A read looks into both. For most values sled only knows where
//! in the truth they stand (`values.rs`).

mod entry;
mod feeder;
mod feeding;
mod filter;
mod points;
mod recent;
mod runs;
mod sled;
mod values;

use std::{
    cell::Cell,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::watch;

pub(crate) use self::runs::Framing;
pub(super) use self::{
    entry::{Known, bytes_in_memory},
    feeder::Feeder,
    recent::{End, Feed},
    sled::{Direction, Sled},
    values::{ValueReader, Values, Waits},
};
use self::{
    recent::{PART_WRITES_FIRST, PART_WRITES_MAX, Part, Recent},
    sled::Kept,
};
use super::{
    Error, Read,
    batch::{Entry, Found},
    change::{Placed, Position},
    refusing,
    tally::Tally,
};

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);
type Visit<'a> = &'a mut dyn FnMut(Found<'_>) -> ControlFlow<()>;
/// The result of a scan: whether it was broken off.
type Scanned = Result<ControlFlow<()>, Error>;

/// Called with a sled that has failed, and why.
type Alarm = Box<dyn Fn(&Arc<Sled>, &Error) + Send + Sync>;

/// sled, and the writes that it does not have yet.
pub(crate) struct View {
    /// `None` only while a failed sled was removed and the disk has no room for a new one.
    sled: RwLock<Option<Arc<Sled>>>,
    recent: Recent,
    /// Read-locked while an answer of sled decides what is written, and while sled is fed. Write-locked while sled is made anew.
    pub(super) gate: RwLock<()>,
    /// Up to where writes can be read.
    shown: watch::Sender<Position>,
    /// Up to where sled has the writes.
    fed: watch::Sender<Position>,
    /// Counts the existing keys.
    tally: Mutex<Tally>,
    /// How many bytes of keys and values sled keeps in memory.
    capacity: u64,
    alarm: Alarm,
}

impl View {
    /// A view over `sled`, which holds what the store holds at `end`. `alarm` is called when sled fails.
    pub(super) fn new(
        sled: Sled,
        end: Position,
        tally: Tally,
        alarm: impl Fn(&Arc<Sled>, &Error) + Send + Sync + 'static,
    ) -> Self {
        View {
            capacity: sled.capacity(),
            tally: Mutex::new(tally),
            sled: RwLock::new(Some(Arc::new(sled))),
            recent: Recent::new(end),
            gate: RwLock::default(),
            shown: watch::channel(end).0,
            fed: watch::channel(end).0,
            alarm: Box::new(alarm),
        }
    }

    /// Up to where writes can be read.
    pub(super) fn shown(&self) -> Position {
        *self.shown.borrow()
    }

    /// Follows up to where writes can be read.
    pub(super) fn follow(&self) -> watch::Receiver<Position> {
        self.shown.subscribe()
    }

    /// Up to where sled has the writes. Later ones are in the table.
    pub(super) fn fed(&self) -> Position {
        *self.fed.borrow()
    }

    /// Makes durable writes readable. They end at `end`.
    pub(super) fn show(&self, writes: &[Placed<'_>], end: Position) {
        self.recent.put(writes, end);
        self.shown.send_replace(end);
    }

    /// Waits until the table has room for more writes.
    pub(super) fn wait_for_room(&self) {
        self.recent.wait_for_room();
    }

    /// The number of keys that start with these two bytes.
    pub(crate) fn count(&self, start: [u8; 2]) -> u64 {
        self.tally().count(start)
    }

    /// The count of keys, which already includes what is shown next.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of sled fits into its cache, so that reads do not wait for the disk: opening has read everything, and later
    /// writes went through the cache.
    pub(super) fn is_in_memory(&self) -> bool {
        self.tally().view_bytes() < self.capacity
    }

    /// The current sled.
    ///
    /// # Errors
    /// [`Error::Busy`] while there is none.
    pub(super) fn sled(&self) -> Result<Arc<Sled>, Error> {
        let sled = self.sled.read().unwrap_or_else(PoisonError::into_inner);
        sled.clone().ok_or(Error::Busy)
    }

    /// Replaces sled. Running reads keep the old one until they are done.
    pub(super) fn replace(&self, sled: Option<Sled>) {
        let mut place = self.sled.write().unwrap_or_else(PoisonError::into_inner);
        *place = sled.map(Arc::new);
    }

    /// Returns the result of reading `sled`. Raises the alarm if it is a failure.
    pub(super) fn noticed<T>(
        &self,
        sled: &Arc<Sled>,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error @ (Error::Corrupt { .. } | Error::Io { .. } | Error::Full { .. })) =
            &result
        {
            (self.alarm)(sled, error);
        }
        result
    }

    /// The view for a reader that may wait for the disk.
    pub(super) fn patiently(&self) -> Reading<'_> {
        Reading {
            view: self,
            waits: Waits::Yes,
        }
    }

    /// The view for a reader that must not wait for the disk. If it would have to, `would_wait` is set, and what it has read must
    /// not be used.
    pub(super) fn at_once<'a>(&'a self, would_wait: &'a Cell<bool>) -> Reading<'a> {
        Reading {
            view: self,
            waits: Waits::No(would_wait),
        }
    }

    /// What is known about a key's value, in the same way as [`Read::get`].
    ///
    /// # Errors
    /// If the view cannot be read.
    pub(super) fn known(&self, key: &[u8]) -> Result<Option<Known>, Error> {
        if let Some(written) = self.recent.get(key) {
            return Ok(written.known(key));
        }
        let sled = self.sled()?;
        self.noticed(&sled, sled.known(key))
    }

    /// Scans sled with `scan`, together with the recent writes, part by part.
    fn scan_parts(
        &self,
        (mut lower, upper): Bounds,
        visit: Visit<'_>,
        scan: &dyn Fn(&Sled, &Bounds, Visit<'_>) -> Scanned,
    ) -> Scanned {
        let mut writes_max = PART_WRITES_FIRST;
        loop {
            let part = self.recent.part(&lower, &upper, writes_max);
            let until = part.until.as_ref().map(|key| key.to_vec());
            let end = until.clone().map_or(upper.clone(), Bound::Included);
            let sled = self.sled()?;
            let within = (lower, end);
            let scanned = merged(&part, &within, visit, |visit| scan(&sled, &within, visit));
            if self.noticed(&sled, scanned)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            match until {
                Some(key) => lower = Bound::Excluded(key),
                None => return Ok(ControlFlow::Continue(())),
            }
            writes_max = (writes_max * 2).min(PART_WRITES_MAX);
        }
    }

    /// Tells the feeder to end.
    pub(super) fn end(&self, end: End) {
        self.recent.end(end);
    }
}

/// The view for one reader.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    view: &'a View,
    waits: Waits<'a>,
}

impl Reading<'_> {
    /// The number of keys that start with these two bytes.
    pub(crate) fn count(&self, start: [u8; 2]) -> u64 {
        self.view.count(start)
    }

    /// Like [`Read::get`], for keys in ranges that [`Reading::scan_framed`] reads: what a list has read lately needs neither sled nor
    /// the disk.
    ///
    /// # Errors
    /// The same as for [`Read::get`].
    pub(crate) fn get_scanned(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.get_with(key, Sled::get_scanned)
    }

    /// Like [`Read::get`], for small values that are read again and again.
    ///
    /// # Errors
    /// The same as for [`Read::get`].
    pub(crate) fn get_again(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.get_with(key, Sled::get_again)
    }

    fn get_with(
        &self,
        key: &[u8],
        get: impl Fn(&Sled, &[u8], Waits<'_>) -> Result<Option<Entry>, Error>,
    ) -> Result<Option<Entry>, Error> {
        let Reading { view, waits } = *self;
        if let Some(written) = view.recent.get(key) {
            return Ok(written.entry(key));
        }
        let sled = view.sled()?;
        view.noticed(&sled, get(&sled, key, waits))
    }

    /// Like [`Read::scan`], for ranges that are read again and again. It uses runs, and makes missing ones. A value that comes from
    /// a run has the form that `framing` gave it.
    ///
    /// # Errors
    /// The same as for [`Read::scan`].
    pub(crate) fn scan_framed<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        framing: Framing,
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        self.scan_kept((Kept::Framed, framing), bounds, visit)
    }

    /// Like [`Read::scan`], for ranges in which most keys are only looked at. A value may be the extract that `extract` has made of
    /// it, which is kept. The whole value can be had from [`Reading::get_scanned`].
    ///
    /// # Errors
    /// The same as for [`Read::scan`].
    pub(crate) fn scan_extracts<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        extract: Framing,
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        self.scan_kept((Kept::Extracts, extract), bounds, visit)
    }

    fn scan_kept<E: From<Error>>(
        &self,
        kept: (Kept, Framing),
        bounds: Bounds,
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        refusing(visit, |visit| {
            let (_, upper) = bounds.clone();
            self.view.scan_parts(bounds, visit, &|sled, within, visit| {
                sled.scan_runs(within, &upper, kept, self.waits, visit)
            })
        })
    }
}

impl Read for Reading<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.get_with(key, Sled::get)
    }

    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        refusing(visit, |visit| {
            self.view.scan_parts(bounds, visit, &|sled, within, visit| {
                sled.scan(within.clone(), self.waits, visit)
            })
        })
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("shown", &self.shown())
            .finish_non_exhaustive()
    }
}

/// Calls `visit` with what `scan` finds in sled, after applying the recent writes to it.
fn merged(
    part: &Part,
    (lower, upper): &Bounds,
    visit: Visit<'_>,
    scan: impl FnOnce(Visit<'_>) -> Scanned,
) -> Scanned {
    let mut writes = part.writes(lower, upper).peekable();
    let scanned = scan(&mut |found| {
        while let Some((key, written)) = writes.next_if(|(key, _)| key[..] < *found.key) {
            if let Some(written) = written.found(key) {
                visit(written)?;
            }
        }
        match writes.next_if(|(key, _)| key[..] == *found.key) {
            // sled may have been fed since the part was taken. Then its entry is newer.
            Some((key, written)) if written.revision >= found.revision => written
                .found(key)
                .map_or(ControlFlow::Continue(()), &mut *visit),
            _ => visit(found),
        }
    })?;
    if scanned.is_break() {
        return Ok(scanned);
    }
    for (key, written) in writes {
        if let Some(written) = written.found(key)
            && visit(written).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::{
        collections::BTreeMap,
        ops::Range,
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::Duration,
    };

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::store::{batch::Framed, change::Stands, view::values::in_memory::InMemory};

    /// A view with a feeder that is stepped by hand, and the journal with its values.
    fn made(dir: &tempfile::TempDir) -> (Arc<View>, Feeder, InMemory) {
        let journal = InMemory::default();
        let sled = Sled::open(dir.path(), 8 << 20).unwrap();
        let sled = sled.reading(Arc::new(journal.clone()));
        let view = Arc::new(View::new(
            sled,
            Position::default(),
            Tally::default(),
            |_, why| panic!("{why}"),
        ));
        let feeder = Feeder::new(view.clone(), |_, why| Err(why.clone()));
        (view, feeder, journal)
    }

    fn show(view: &View, journal: &InMemory, key: &[u8], value: Option<&[u8]>) {
        let revision = view.shown().revision + 1;
        let end = Position {
            revision,
            ..Position::default()
        };
        let (key, value) = (
            Bytes::copy_from_slice(key),
            value.map(Bytes::copy_from_slice),
        );
        let write = Placed {
            key: &key,
            value: value.as_ref(),
            revision,
            stands: value.as_ref().map_or(Stands::Nowhere, |value| {
                Stands::Journal(journal.append(value))
            }),
            share: None,
        };
        view.show(&[write], end);
    }

    fn framed(value: &[u8], revision: u64, to: &mut Vec<u8>) -> Range<usize> {
        to.push(b'[');
        let value_start = to.len();
        to.extend_from_slice(value);
        let value_end = to.len();
        to.extend_from_slice(&revision.to_le_bytes());
        value_start..value_end
    }

    fn first_byte(value: &[u8], _: u64, to: &mut Vec<u8>) -> Range<usize> {
        to.push(value[0]);
        to.len() - 1..to.len()
    }

    type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

    fn scanned(view: &View, bounds: Bounds, limit: usize) -> Vec<Entry> {
        let mut found = Vec::new();
        let _ = view
            .patiently()
            .scan_framed::<Error>(bounds, framed, |entry| {
                if let Some(Framed { within, start, end }) = entry.framed {
                    let mut expected = Vec::new();
                    framed(entry.value, entry.revision, &mut expected);
                    assert_eq!(within[start..end], expected);
                }
                found.push(Entry {
                    key: Bytes::copy_from_slice(entry.key),
                    value: Bytes::copy_from_slice(entry.value),
                    revision: entry.revision,
                });
                Ok(if found.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            })
            .unwrap();
        found
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Delete(u8),
        /// Writes the next feed to sled, but does not say yet that sled has it.
        FeedHalf,
        Feed,
        Scan(u8, u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..60u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            3 => (0..60u8).prop_map(Step::Delete),
            1 => Just(Step::FeedHalf),
            1 => Just(Step::Feed),
            4 => (0..62u8, 0..62u8, 1..40u8).prop_map(|(a, b, limit)| Step::Scan(a, b, limit)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_show_the_last_write_wherever_it_is(steps in prop::collection::vec(step(), 1..200)) {
            let dir = tempfile::tempdir().unwrap();
            let (view, feeder, journal) = made(&dir);
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        // Some values are small enough to stand in sled, others are not.
                        let value = vec![value; 1 + usize::from(key) * 3];
                        show(&view, &journal, &[b'k', key], Some(&value));
                        model.insert(vec![b'k', key], (value, view.shown().revision));
                    }
                    Step::Delete(key) => {
                        show(&view, &journal, &[b'k', key], None);
                        model.remove(&[b'k', key][..]);
                    }
                    Step::FeedHalf => {
                        if let Some(feed) = view.recent.next_feed() {
                            view.sled().unwrap().feed(&feed).unwrap();
                        }
                    }
                    Step::Feed => drop(feeder.step().unwrap()),
                    Step::Scan(from, to, limit) => {
                        let bounds = (Bound::Excluded(vec![b'k', from]), Bound::Included(vec![b'k', to]));
                        let found = scanned(&view, bounds.clone(), limit.into());
                        let is_empty = from >= to;
                        let expected: Vec<Entry> = model
                            .range(if is_empty { (Bound::Unbounded, Bound::Excluded(Vec::new())) } else { bounds.clone() })
                            .take(limit.into())
                            .map(|(key, (value, revision))| Entry {
                                key: key.clone().into(),
                                value: value.clone().into(),
                                revision: *revision,
                            })
                            .collect();
                        prop_assert_eq!(&found, &expected);
                        let key = [b'k', from];
                        let reading = view.patiently();
                        let mut expected = expected.into_iter();
                        let _ = reading.scan_extracts::<Error>(bounds, first_byte, |found| {
                            let Some(entry) = expected.next() else {
                                return Ok(ControlFlow::Break(()));
                            };
                            assert_eq!((found.key, found.revision), (&entry.key[..], entry.revision));
                            assert_eq!(found.value[0], entry.value[0]);
                            Ok(ControlFlow::Continue(()))
                        }).unwrap();
                        prop_assert_eq!(expected.next(), None);
                        let held = [reading.get(&key), reading.get_scanned(&key), reading.get_again(&key)];
                        for held in held {
                            let held = held.unwrap().map(|entry| (entry.value.to_vec(), entry.revision));
                            prop_assert_eq!(held, model.get(&key[..]).cloned());
                        }
                    }
                }
            }
            while feeder.step().unwrap() {}
            prop_assert!(!view.recent.is_used());
            prop_assert_eq!(view.fed(), view.shown());
        }
    }

    struct EndsOnDrop<'a>(&'a AtomicBool);

    impl Drop for EndsOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_scan_sees_what_exists_throughout_once_while_sled_is_fed() {
        const KEYS: u32 = 3000;
        let dir = tempfile::tempdir().unwrap();
        let (view, feeder, journal) = made(&dir);
        let key = |n: u32| format!("k{n:04}").into_bytes();
        for n in 0..KEYS {
            show(&view, &journal, &key(n), Some(b"first"));
        }
        let ends = &AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    feeder.step().unwrap();
                    thread::sleep(Duration::from_micros(100));
                }
            });
            scope.spawn(|| {
                let mut n = 0;
                while !ends.load(Ordering::Relaxed) {
                    // This key is written again and again, and never deleted.
                    show(&view, &journal, &key(n), Some(b"again"));
                    n = (n + 7) % KEYS;
                    thread::sleep(Duration::from_micros(20));
                }
            });
            // The writers end even if the scans panic.
            let _ends = EndsOnDrop(ends);
            for _ in 0..40 {
                let shown = view.shown().revision;
                let all = (Bound::Included(key(0)), Bound::Excluded(b"l".to_vec()));
                let found = scanned(&view, all, usize::MAX);
                let keys = found.iter().map(|entry| entry.key.to_vec());
                assert!(keys.eq((0..KEYS).map(key)));
                // Everything that was readable before the scan began must be seen.
                let newest = found.iter().map(|entry| entry.revision).max();
                assert!(newest >= Some(shown));
            }
        });
    }
}
