//! A store that is only looked at: what is damaged, what would heal it, and what it still holds. Nothing is written to it, so
//! that it may lie on a read-only medium.

use std::{
    fs, io,
    ops::{Bound, ControlFlow},
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    disk::{Disk, RealDisk},
    file::{Status, Stored},
    home::{self, Paths},
    log::Log,
    recovery::Home,
    views::Views,
};
use crate::store::{
    Error, Found, OpenError, Read, batch::Entry, change::Position, refusing, state_hash::StateHash,
    view::Sled,
};
use tempfile::TempDir;

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

const REMAKE: &str = "the next start makes it anew";
const CORRECT: &str = "the next start corrects them";
const SNAPSHOT: &str =
    "the view still has what is damaged: start the server and take a snapshot, which is whole";
const RESTORE: &str =
    "nothing heals it: restore a snapshot, or write what is left with `icebox export --store`";

/// Looks at the store in `path` while no server runs on it, or at a snapshot. The view, if there is one in `view` or beside the
/// file, is copied to the system's directory for temporary files, since sled opens nothing without writing to it.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::Foreign`], [`OpenError::NewerFormat`]; [`Error::Corrupt`] where the header is damaged; what
/// the disk says. Other damage is among the findings, and no error.
pub(crate) fn examine(path: &Path, view: Option<&Path>) -> Result<Examined, OpenError> {
    let paths = Paths::of(path)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(paths.dir.clone()));
    let stored = Stored::open(&*disk, &paths.file)?;
    let _lock = paths.claim_to_read(&*stored.file)?;
    let store = stored.store();
    let scratch =
        TempDir::new().map_err(|error| Error::io("create", &std::env::temp_dir(), &error))?;
    let mut findings = Vec::new();
    let mut found = |what: String, cure| findings.push(Finding { what, cure });

    let views = Views::new(view.unwrap_or(&paths.view), store, CACHE_BYTES);
    let view = copied_view(&views, scratch.path());
    let shown = match &view {
        Ok(Some((_, shown))) => *shown,
        _ => 0,
    };
    let mut state_at_shown = None;
    let checked = checked(&stored, shown, &mut state_at_shown);
    let proved = view.and_then(|view| {
        let journal = checked.as_ref().ok();
        let journal = journal.map(|(log, end)| (log, *end, state_at_shown));
        view.map(|view| proved(view, stored.status, journal))
            .transpose()
    });
    if let Err(damage) = &checked {
        found(damage.to_string(), RESTORE);
    } else {
        if let Err(damage) = stored.verify() {
            let has_view = matches!(proved, Ok(Some(_)));
            found(
                damage.to_string(),
                if has_view { SNAPSHOT } else { RESTORE },
            );
        }
        if let Err(damage) = &proved {
            found(damage.to_string(), REMAKE);
        }
    }
    let home = Home {
        disk: disk.clone(),
        paths,
        views: Arc::new(Views::new(scratch.path(), store, CACHE_BYTES)),
        journal_room_bytes: 0,
        closing: Arc::default(),
    };
    let view = proved.ok().flatten();
    let (sled, revision) = content(&home, &stored, view, checked.ok(), &mut found)?;
    Ok(Examined {
        findings,
        revision,
        sled,
        _scratch: scratch,
    })
}

/// The frames of a file, with where they end, if they have all that the store had reached; and the state at what the view shows.
fn checked(
    stored: &Stored,
    shown: u64,
    state_at_shown: &mut Option<StateHash>,
) -> Result<(Log, Position), Error> {
    let (log, checked) = Log::open(stored, &mut |position| {
        if position.revision == shown {
            *state_at_shown = Some(position.state);
        }
    })?;
    let end = checked.end.position;
    home::check_reached(stored.status.reached.max(shown), end.revision)?;
    if checked.torn_bytes > 0 {
        tracing::info!(
            file = stored.name,
            bytes = checked.torn_bytes,
            "a write was under way when the process ended: the next start cuts it off"
        );
    }
    Ok((log, end))
}

/// The view brought to where the journal ends, with that revision, if it holds what was written. A journal that is damaged
/// has no say in what that is.
fn proved(
    (view, shown): (Sled, u64),
    status: Status,
    journal: Option<(&Log, Position, Option<StateHash>)>,
) -> Result<(Sled, u64), Error> {
    // After a kill it may be behind; once closed it is not.
    let closed_at = if status.owner == 0 { status.reached } else { 0 };
    if shown < closed_at {
        return Err(Error::Corrupt {
            what: format!("the view was closed at revision {closed_at} and shows revision {shown}"),
        });
    }
    let wrong = || Error::Corrupt {
        what: "the view does not hold what was written".into(),
    };
    let (_, claimed) = view.shown()?;
    let (revision, expected) = match journal {
        Some((_, _, state_at_shown)) if state_at_shown != Some(claimed) => return Err(wrong()),
        Some((log, end, _)) => {
            log.read(shown, end.revision, &mut |frame| view.apply(&frame.changes))?;
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
    stored: &Stored,
    view: Option<(Sled, u64)>,
    checked: Option<(Log, Position)>,
    found: &mut dyn FnMut(String, &'static str),
) -> Result<(Sled, u64), Error> {
    if let Some(view) = view {
        return Ok(view);
    }
    if let Some((log, end)) = checked {
        match home.build_once(&log, end, 1) {
            // It is among the findings.
            Err(Error::Corrupt { .. }) => {}
            built => {
                let (view, state, _) = built?;
                if state != end.state {
                    let what = "the sums in the journal are wrong, though its changes are whole";
                    found(what.into(), CORRECT);
                }
                return Ok((view, end.revision));
            }
        }
    }
    let (view, revision, missing) = home.salvage(stored, 2)?;
    for what in missing {
        found(what, RESTORE);
    }
    Ok((view, revision))
}

/// A copy of the store's view, opened, and the revision that it shows; `None` where there is none. A store that was restored and
/// never opened has none yet, and somebody may have thrown it away.
fn copied_view(views: &Views, scratch: &Path) -> Result<Option<(Sled, u64)>, Error> {
    let Some(oldest) = views.numbers()?.first().copied() else {
        return Ok(None);
    };
    let (from, copy) = (views.path(oldest), scratch.join("copy"));
    copy_tree(&from, &copy).map_err(|error| Error::io("copy", &from, &error))?;
    let view = Sled::open(&copy, CACHE_BYTES)?;
    let (shown, _) = view.shown()?;
    Ok(Some((view, shown)))
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
