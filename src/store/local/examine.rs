//! A store that is only looked at: what is damaged, what would heal it, and what it still holds. Nothing is written to it, so
//! that it may lie on a read-only medium.

use std::{
    fs, io,
    ops::{Bound, ControlFlow},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use tempfile::TempDir;
use uuid::Uuid;

use super::{
    checkpoint::Checkpoint,
    checkpointer,
    disk::{Disk, RealDisk},
    home::{self, VIEW_DIR},
    journal::{self, Checked},
    recovery::Home,
};
use crate::store::{
    Error, Found, OpenError, Read, batch::Entry, change::Position, refusing, state_hash::StateHash,
    view::Sled,
};

/// Memory for the view that is looked at.
const CACHE_BYTES: u64 = 64 << 20;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which file, where in it, and what is lost.
    pub what: String,
    /// What would heal it.
    pub cure: &'static str,
}

/// What a store holds, read without touching it.
pub(crate) struct Examined {
    /// What is damaged.
    pub findings: Vec<Finding>,
    /// The revision that what it holds is of.
    pub revision: u64,
    sled: Sled,
    /// Where the view is that is read: a copy, or one made for this.
    _scratch: TempDir,
}

impl std::fmt::Debug for Examined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examined")
            .field("findings", &self.findings)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Read for Examined {
    fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.sled.get(key)
    }

    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        refusing(visit, |visit| self.sled.scan(bounds, visit))
    }
}

const REMAKE: &str = "the next start makes it anew from the checkpoint and the journal";
const CORRECT: &str = "the next start corrects them";
const RESTORE: &str =
    "nothing heals it: restore a snapshot, or write what is left with `icebox export --store`";

/// Looks at the store in `root` while no server runs on it. The view is copied to the system's directory for temporary files,
/// since sled opens nothing without writing to it.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::Foreign`], [`OpenError::NewerFormat`]; [`Error::Corrupt`] where `FORMAT` is missing; what the disk
/// says. Damage is among the findings, and no error.
pub(crate) fn examine(root: &Path) -> Result<Examined, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(root.to_path_buf()));
    let Some(id) = home::read_format(&*disk)? else {
        return Err(if journal::Journal::holds_changes(&*disk)? {
            home::format_is_missing().into()
        } else {
            OpenError::Foreign {
                reason: "there is none".into(),
            }
        });
    };
    let (_lock, closed_at) = home::claim_to_read(root)?;
    let scratch =
        TempDir::new().map_err(|error| Error::io("create", &std::env::temp_dir(), &error))?;
    let mut findings = Vec::new();
    let mut found = |what: String, cure| findings.push(Finding { what, cure });

    let checkpoint = checkpointer::newest(&*disk).and_then(|checkpoint| {
        checkpoint.iter().try_for_each(Checkpoint::verify)?;
        Ok(checkpoint.filter(|checkpoint| checkpoint.summary().store == id))
    });
    let view = copied_view(root, scratch.path());
    let base = match &checkpoint {
        Ok(Some(checkpoint)) => Ok(checkpoint.summary().end),
        Ok(None) => Ok(Position::default()),
        Err(damage) => {
            let cure = if view.is_ok() {
                "the next start makes another from the view"
            } else {
                RESTORE
            };
            found(damage.to_string(), cure);
            journal::start(&*disk, id)
        }
    };
    let shown = view.as_ref().map_or(0, |(_, shown)| *shown);
    let mut state_at_shown = None;
    let checked = base.clone().and_then(|base| {
        if base.revision == shown {
            state_at_shown = Some(base.state);
        }
        let checked = journal::check(&*disk, id, base, &mut |frame, _| {
            if frame.last_revision() == shown {
                state_at_shown = Some(frame.state());
            }
        })?;
        let reached = home::read_reached(&*disk, closed_at)?.max(shown);
        home::check_reached(reached, checked.end.revision)?;
        Ok(checked)
    });
    if let Ok(checked) = &checked
        && let Some(tail) = checked.tail.as_ref().filter(|tail| tail.torn_bytes() > 0)
    {
        tracing::info!(
            file = %tail.path.display(),
            bytes = tail.torn_bytes(),
            "a write was under way when the process ended: the next start cuts it off"
        );
    }
    let home = Home {
        disk: disk.clone(),
        root: scratch.path().to_path_buf(),
        cache_bytes: CACHE_BYTES,
        segment_bytes: 0,
        closing: Arc::default(),
    };
    let journal = checked.as_ref().ok();
    let journal = journal.map(|checked| (checked.end, state_at_shown));
    let view = view.and_then(|view| proved(view, closed_at, journal, &home, id));
    match (&checked, &view) {
        (Err(damage), _) => found(damage.to_string(), RESTORE),
        // A store that was restored and never opened has none yet, and somebody may have thrown it away.
        (Ok(_), Err(damage)) if root.join(VIEW_DIR).exists() => found(damage.to_string(), REMAKE),
        (Ok(_), _) => {}
    }
    let checkpoint = checkpoint.ok().flatten();
    let (sled, revision) = content(
        &home,
        id,
        view.ok(),
        checked.ok(),
        checkpoint.as_ref(),
        &mut found,
    )?;
    Ok(Examined {
        findings,
        revision,
        sled,
        _scratch: scratch,
    })
}

/// The view brought to where the journal ends, with that revision, if it holds what was written. A journal that is damaged
/// has no say in what that is.
fn proved(
    (view, shown): (Sled, u64),
    closed_at: u64,
    journal: Option<(Position, Option<StateHash>)>,
    home: &Home,
    id: Uuid,
) -> Result<(Sled, u64), Error> {
    // After a kill it may be behind; once closed it is not.
    if shown < closed_at {
        return Err(Error::Corrupt {
            what: format!(
                "{VIEW_DIR} was closed at revision {closed_at} and shows revision {shown}"
            ),
        });
    }
    let wrong = || Error::Corrupt {
        what: format!("{VIEW_DIR} does not hold what was written"),
    };
    let (_, claimed) = view.shown()?;
    let (revision, expected) = match journal {
        Some((_, state_at_shown)) if state_at_shown != Some(claimed) => return Err(wrong()),
        Some((end, _)) => {
            home.follow(&view, id, shown, end)?;
            (end.revision, Some(end.state))
        }
        // A process that was killed may have fed it with more than it shows.
        None => (shown, (shown == closed_at).then_some(claimed)),
    };
    let (state, _) = view.state(&AtomicBool::new(false))?;
    if expected.is_some_and(|expected| state != expected) {
        return Err(wrong());
    }
    Ok((view, revision))
}

/// The best view that can be had of the store, and its revision.
fn content(
    home: &Home,
    id: Uuid,
    view: Option<(Sled, u64)>,
    checked: Option<Checked>,
    checkpoint: Option<&Checkpoint>,
    found: &mut dyn FnMut(String, &'static str),
) -> Result<(Sled, u64), Error> {
    match (view, checked) {
        (Some(view), _) => Ok(view),
        (None, Some(checked)) => {
            let (view, state, _) = home.build_once(id, checked.end, 1)?;
            if state != checked.end.state {
                let what = "the sums in the journal are wrong, though its changes are whole";
                found(what.into(), CORRECT);
            }
            Ok((view, checked.end.revision))
        }
        (None, None) => {
            let (view, revision, missing) = home.salvage(id, checkpoint)?;
            for what in missing {
                found(what, RESTORE);
            }
            Ok((view, revision))
        }
    }
}

/// A copy of the store's view, opened, and the revision that it shows.
fn copied_view(root: &Path, scratch: &Path) -> Result<(Sled, u64), Error> {
    let views = root.join(VIEW_DIR);
    let missing = || Error::Corrupt {
        what: format!("{VIEW_DIR} is missing"),
    };
    let names = fs::read_dir(&views).map_err(|_| missing())?;
    let oldest = names
        .filter_map(|name| name.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .min()
        .ok_or_else(missing)?;
    let copy = scratch.join("copy");
    copy_tree(&views.join(oldest.to_string()), &copy)
        .map_err(|error| Error::io("copy", &views, &error))?;
    let view = Sled::open(&copy, CACHE_BYTES)?;
    let (shown, _) = view.shown()?;
    Ok((view, shown))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // Not `fs::copy`, which makes the copy of a read-only file read-only.
            io::copy(
                &mut fs::File::open(entry.path())?,
                &mut fs::File::create(target)?,
            )?;
        }
    }
    Ok(())
}
