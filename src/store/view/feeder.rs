//! The feeder: one thread that writes to sled what the table of recent writes has collected.

use std::sync::{Arc, PoisonError};

use super::{End, Sled, View};
use crate::store::Error;

/// Makes sled anew after it has failed with an error.
type Heal = Box<dyn Fn(Arc<Sled>, &Error) -> Result<(), Error> + Send>;

/// The state of the feeder.
pub(in crate::store) struct Feeder {
    view: Arc<View>,
    heal: Heal,
}

impl Feeder {
    pub(in crate::store) fn new(
        view: Arc<View>,
        heal: impl Fn(Arc<Sled>, &Error) -> Result<(), Error> + Send + 'static,
    ) -> Self {
        Feeder {
            view,
            heal: Box::new(heal),
        }
    }

    /// Feeds sled until it is told to end, or sled cannot be made anew.
    pub(in crate::store) fn run(self) {
        let recent = &self.view.recent;
        loop {
            let end = recent.wait_for_work();
            if end == Some(End::Now) {
                return;
            }
            match self.step() {
                Ok(false) if end.is_some() => return,
                Ok(_) => {}
                // The table stays readable. Nothing more comes, because writing has stopped.
                Err(_) => return recent.break_off(),
            }
        }
    }

    /// Feeds sled with what there is. Returns whether there was anything.
    ///
    /// # Errors
    /// If sled fails and cannot be made anew.
    pub(in crate::store) fn step(&self) -> Result<bool, Error> {
        let View {
            recent, gate, fed, ..
        } = &*self.view;
        let Some(feed) = recent.next_feed() else {
            return Ok(false);
        };
        loop {
            let gate = gate.read().unwrap_or_else(PoisonError::into_inner);
            let sled = self.view.sled()?;
            // If sled was made anew meanwhile, it has this already, and perhaps more.
            let done = match sled.shown() {
                Ok((shown, _)) if shown >= feed.end.revision => Ok(()),
                Ok(_) => sled.feed(&feed),
                Err(error) => Err(error),
            };
            drop(gate);
            match done {
                Ok(()) => break,
                Err(error) => (self.heal)(sled, &error)?,
            }
        }
        fed.send_replace(feed.end);
        recent.is_fed();
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use bytes::Bytes;

    use super::*;
    use crate::store::{
        change::{Placed, Position, Stands},
        state_hash::StateHash,
        tally::Tally,
    };

    const LONG: Duration = Duration::from_secs(20);

    fn view(dir: &tempfile::TempDir) -> Arc<View> {
        let sled = Sled::open(dir.path(), 8 << 20).unwrap();
        let (end, tally) = (Position::default(), Tally::default());
        Arc::new(View::new(sled, end, tally, |_, why| panic!("{why}")))
    }

    fn show(view: &View, revision: u64) {
        show_value(view, revision, &Bytes::from_static(b"value"));
    }

    fn show_value(view: &View, revision: u64, value: &Bytes) {
        let write = Placed {
            key: &Bytes::from(format!("k{revision}")),
            value: Some(value),
            revision,
            stands: Stands::Nowhere,
            share: None,
        };
        let end = Position {
            revision,
            ..Position::default()
        };
        view.show(&[write], end);
    }

    /// Says when the feeder has ended.
    fn run(feeder: Feeder) -> mpsc::Receiver<()> {
        let (says, hears) = mpsc::channel();
        thread::spawn(move || {
            feeder.run();
            drop(says);
        });
        hears
    }

    fn assert_ended(feeder: &mpsc::Receiver<()>) {
        let ended = feeder.recv_timeout(LONG);
        assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn sled_is_fed_until_the_end_and_has_everything_then() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(&dir);
        let ends = run(Feeder::new(view.clone(), |_, why| Err(why.clone())));
        for revision in 1..4 {
            show(&view, revision);
            let began = Instant::now();
            while view.fed().revision < revision {
                assert!(began.elapsed() < LONG, "sled was not fed");
                thread::sleep(Duration::from_millis(1));
            }
        }
        show(&view, 4);
        show(&view, 5);
        view.end(End::Fed);
        assert_ended(&ends);
        assert_eq!(view.fed().revision, 5);
        assert_eq!(view.sled().unwrap().shown().unwrap().0, 5);
        assert!(!view.recent.is_used());
    }

    #[test]
    fn a_feeder_that_ends_now_feeds_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(&dir);
        show(&view, 1);
        view.end(End::Now);
        assert_ended(&run(Feeder::new(view.clone(), |_, why| Err(why.clone()))));
        assert_eq!(view.fed().revision, 0);
        assert!(view.recent.is_used());
    }

    #[test]
    fn what_a_new_sled_has_already_is_not_fed_again() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(&dir);
        show(&view, 1);
        let sled = view.sled().unwrap();
        sled.shows(2, StateHash::default()).unwrap();
        let feeder = Feeder::new(view.clone(), |_, why| Err(why.clone()));
        assert!(feeder.step().unwrap());
        assert_eq!(view.sled().unwrap().shown().unwrap().0, 2);
        assert!(!feeder.step().unwrap());
    }

    #[test]
    fn writers_do_not_wait_for_a_feeder_that_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let view = view(&dir);
        view.replace(None);
        show(&view, 1);
        let feeder = Feeder::new(view.clone(), |_, why| Err(why.clone()));
        assert_ended(&run(feeder));
        assert!(view.recent.is_used());
        // More than the table may hold.
        show_value(&view, 2, &vec![7; 16 << 20].into());
        view.wait_for_room();
    }
}
