//! Reads the whole view, to sum up what it really holds.

use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{Blocks, Direction, SHOWN_KEY, Sled};
use crate::store::{Error, outside, state_hash::StateHash, tally::Tally, view::entry::Held};

/// How many entries are read at a time.
const STATE_STEP: usize = 1000;

impl Sled {
    /// The state hash of what the view really holds, and the count of its keys.
    ///
    /// # Errors
    /// If sled fails or panics, or a value is damaged; [`Error::Closed`] once `closing` is set.
    pub(in crate::store) fn state(
        &self,
        closing: &AtomicBool,
    ) -> Result<(StateHash, Tally), Error> {
        let unread = Mutex::new((Bytes::from_static(SHOWN_KEY), None));
        let from = |direction| {
            let sum = || self.sum_towards_the_other(direction, &unread, closing);
            catch_unwind(AssertUnwindSafe(sum)).unwrap_or_else(|_| {
                Err(Error::Corrupt {
                    what: "sled panicked while reading the view".into(),
                })
            })
        };
        let (backward, forward) =
            outside::both(|| from(Direction::Backward), || from(Direction::Forward));
        let ((state, mut tally), (other_state, other_tally)) = (forward?, backward?);
        tally.merge(&other_tally);
        self.filter.is_complete();
        Ok((state.plus(other_state), tally))
    }

    /// Sums up the entries from one end until it meets the other thread, which reads from the other end. `unread` is between a key
    /// that was read and one that was read by the other, once there are such keys.
    fn sum_towards_the_other(
        &self,
        direction: Direction,
        unread: &Mutex<(Bytes, Option<Bytes>)>,
        closing: &AtomicBool,
    ) -> Result<(StateHash, Tally), Error> {
        let all = (Bound::Excluded(SHOWN_KEY.to_vec()), Bound::Unbounded);
        let mut entries = Blocks(&self.db).range(all, direction)?;
        let mut sum = StateHash::default();
        let mut tally = Tally::default();
        loop {
            let mut step = Vec::with_capacity(STATE_STEP);
            for entry in entries.by_ref().take(STATE_STEP) {
                let (key, stored) = entry?;
                let known = Held::parse(&key, &stored)?.known(&key);
                step.push((key, known));
            }
            if closing.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            let Some(last) = step.last().map(|(key, _)| key.clone()) else {
                return Ok((sum, tally));
            };
            let met = {
                let (low, high) = &mut *unread.lock().unwrap_or_else(PoisonError::into_inner);
                let read = step.len();
                step.retain(|(key, _)| *key > *low && high.as_ref().is_none_or(|high| key < high));
                let met = step.len() < read;
                match direction {
                    Direction::Forward => *low = last.max(low.clone()),
                    Direction::Backward => {
                        *high = Some(high.take().map_or(last.clone(), |high| last.min(high)));
                    }
                }
                met
            };
            for (key, known) in step {
                self.filter.insert(&key);
                sum = sum.plus(known.hash);
                tally.change(&key, None, Some(known.len));
            }
            if met {
                return Ok((sum, tally));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::view::sled::tests::fill;

    #[test]
    fn what_one_end_has_read_the_other_leaves_out() {
        for count in [0, 1, 2, 999, 1000, 1001, 2500] {
            let dir = tempfile::tempdir().unwrap();
            let view = Sled::open(dir.path(), 8 << 20).unwrap();
            let state = fill(&view, count);
            let both = [Direction::Backward, Direction::Forward];
            for directions in [both, [both[1], both[0]]] {
                let unread = Mutex::new((Bytes::from_static(SHOWN_KEY), None));
                let sums = directions.map(|direction| {
                    let sum =
                        view.sum_towards_the_other(direction, &unread, &AtomicBool::default());
                    sum.unwrap()
                });
                let keys = sums.each_ref().map(|(_, tally)| tally.count(*b"k0"));
                assert_eq!(keys, [u64::from(count), 0]);
                assert!(sums[0].0.plus(sums[1].0) == state);
            }
        }
    }
}
