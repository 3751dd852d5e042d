//! The applier: brings each durable group into the view, where it can be read, and answers its callers.
//!
//! A thread of its own, so that the next group is being synced meanwhile. Nothing is answered, and nothing can
//! be read, before it is durable; and what is answered can be read.

use std::sync::{Arc, PoisonError, mpsc::Receiver};

use tokio::sync::{oneshot, watch};

use super::{
    Error, Outcome,
    checkpointer::Work,
    core::Core,
    frame::{Frame, Position},
};

/// What a caller is told once the fate of its group is known.
pub(super) struct Answer {
    pub(super) caller: oneshot::Sender<Result<Outcome, Error>>,
    /// Whether it rests on what the group writes, and shares its fate.
    pub(super) is_undurable: bool,
    pub(super) result: Result<Outcome, Error>,
}

impl Answer {
    fn give(self, group: &Result<(), Error>) {
        let result = match (group, self.result) {
            (Err(Error::OutcomeUnknown { reason }), Ok(Outcome::Changed)) if self.is_undurable => {
                // It wrote nothing, so that its own outcome is not in doubt.
                Err(Error::Stopped {
                    reason: reason.clone(),
                })
            }
            (Err(error), Ok(_)) if self.is_undurable => Err(error.clone()),
            (_, result) => result,
        };
        // Nobody listens when the caller has gone.
        let _ = self.caller.send(result);
    }
}

/// A group that the committer is done with.
pub(super) struct Group {
    /// What was written, unless nothing was.
    pub(super) frame: Option<Frame>,
    /// The place before it in the journal.
    pub(super) start: Position,
    /// The place behind it.
    pub(super) end: Position,
    /// Bytes that the journal has had appended since it was opened.
    pub(super) appended_bytes: u64,
    /// Whether it became durable.
    pub(super) outcome: Result<(), Error>,
    /// Its callers, each with what it is told.
    pub(super) answers: Vec<Answer>,
}

/// The applier's own state.
pub(super) struct Applier {
    pub(super) core: Arc<Core>,
    pub(super) groups: Receiver<Group>,
    pub(super) applied: watch::Sender<Position>,
}

impl Applier {
    /// Applies until the committer is gone.
    pub(super) fn run(self) {
        while let Ok(group) = self.groups.recv() {
            self.apply(group);
        }
    }

    fn apply(&self, group: Group) {
        let Group {
            frame,
            start,
            end,
            appended_bytes,
            outcome,
            answers,
        } = group;
        let outcome = outcome.and_then(|()| {
            frame
                .as_ref()
                .map_or(Ok(()), |frame| self.show(frame, start, end))
        });
        for answer in answers {
            answer.give(&outcome);
        }
        // It has work already if it takes no more: it looks again when that is done.
        let _ = self
            .core
            .checkpointer
            .try_send(Work::Look { appended_bytes });
    }

    fn show(&self, frame: &Frame, start: Position, end: Position) -> Result<(), Error> {
        // A group that cannot be shown is durable, but only a restart, which replays it, settles that; and what comes
        // behind it cannot be shown before it.
        let shown = if *self.applied.borrow() == start {
            self.put(frame)
        } else {
            Err("what was written before it could not be shown".into())
        };
        match shown {
            Ok(()) => {
                self.applied.send_replace(end);
                Ok(())
            }
            Err(reason) => {
                let error = Error::OutcomeUnknown { reason };
                self.core.stop(&error);
                Err(error)
            }
        }
    }

    /// Brings the frame into the view, into another one if this one fails.
    fn put(&self, frame: &Frame) -> Result<(), String> {
        loop {
            let gate = self
                .core
                .gate
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let view = self.core.view().map_err(|error| error.to_string())?;
            // A view that was made anew meanwhile has it already, and may have what comes behind it.
            let put = match view.shown() {
                Ok((shown, _)) if shown >= frame.last_revision() => Ok(()),
                Ok(_) => view.apply(&frame.changes),
                Err(error) => Err(error),
            };
            drop(gate);
            let Err(error) = put else {
                return Ok(());
            };
            let healed = self.core.heal(view, &error);
            healed.map_err(|error| error.to_string())?;
        }
    }
}
