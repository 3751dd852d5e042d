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
