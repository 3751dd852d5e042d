//! Looks at a store without changing it: what is damaged, what would repair that, and what the store still holds. Nothing is
//! written to it, so that it may lie on a read-only medium.

use std::{
    fs, io,
    ops::{Bound, ControlFlow},
    path::Path,
    sync::Arc,
};

use super::{
    disk::{Disk, RealDisk},
    file::Stored,
    home::{self, Paths},
    log::Log,
    recovery::Home,
    values::Current,
    views::Views,
};
use crate::store::{
    Error, Found, OpenError, Read,
    batch::Entry,
    change::Position,
    refusing,
    state_hash::StateHash,
    view::{Sled, Waits},
};
use tempfile::TempDir;

/// Cache for the view that is looked at.
const CACHE_BYTES: u64 = 64 << 20;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which file, where in it, and what is lost.
    pub what: String,
    /// How to repair it.
    pub cure: &'static str,
}

/// What a store holds, read without touching it.
pub(crate) struct Examined {
    /// What is damaged.
    pub findings: Vec<Finding>,
    /// The revision of its content.
    pub revision: u64,
    sled: Sled,
    /// The directory of the view that is read: a copy, or one that was made for this.
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
        self.sled.get(key, Waits::Yes)
    }

    fn scan<E: From<Error>>(
        &self,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        visit: impl FnMut(Found<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        refusing(visit, |visit| self.sled.scan(bounds, Waits::Yes, visit))
    }
}

const REMAKE: &str = "the next start makes it anew";
const CORRECT: &str = "the next start corrects them";
const RESTORE: &str =
    "nothing heals it: restore a snapshot, or write what is left with `icebox export --store`";

/// Looks at a snapshot, or at the store in `path` while no server runs on it. The view in `view`, or else beside the file, is
/// copied to the system's directory for temporary files, because sled cannot open anything without writing to it.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::Foreign`], [`OpenError::NewerFormat`]; [`Error::Corrupt`] if the header is damaged; errors
/// of the disk. Other damage is not an error, but one of the findings.
pub(crate) fn examine(path: &Path, view: Option<&Path>) -> Result<Examined, OpenError> {
    let paths = Paths::of(path)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(paths.dir.clone()));
    let stored = Arc::new(Stored::open(&*disk, &paths.file)?);
    let _lock = paths.claim_to_read(&*stored.file)?;
    let store = stored.store();
    let scratch =
        TempDir::new().map_err(|error| Error::io("create", &std::env::temp_dir(), &error))?;
    let mut findings = Vec::new();
    let mut found = |what: String, cure| findings.push(Finding { what, cure });

    let views = Views::new(view.unwrap_or(&paths.view), store, CACHE_BYTES);
    let view = copied_view(&views, scratch.path());
    let shown = match &view {
        Ok(Some((_, shown, _))) => *shown,
        _ => 0,
    };
    let home = Home {
        disk: disk.clone(),
        paths,
        views: Arc::new(Views::new(scratch.path(), store, CACHE_BYTES)),
        journal_room_bytes: 0,
        closing: Arc::default(),
    };
    // This reads the records for both.
    let whole = stored.verify();
    let whole = whole.and_then(|()| checked(&stored, shown));
    let whole = whole.inspect_err(|damage| found(damage.to_string(), RESTORE));
    let (sled, revision) = if let Ok((log, end)) = whole {
        let current = Arc::new(Current::new(log));
        let view = view.and_then(|view| {
            let view = view.map(|view| proved(&home, view, &current, end));
            view.transpose()
        });
        let view = view.inspect_err(|damage| found(damage.to_string(), REMAKE));
        content(&home, &current, end, view.ok().flatten(), &mut found)?
    } else {
        // What is damaged in the file is missing from the view, too.
        let (view, revision, missing) = home.salvage(&stored, 2)?;
        for what in missing {
            found(what, RESTORE);
        }
        (view, revision)
    };
    Ok(Examined {
        findings,
        revision,
        sled,
        _scratch: scratch,
    })
}

/// A file's frames with their end, if they have everything that the store had reached. The view has reached `shown`.
fn checked(stored: &Arc<Stored>, shown: u64) -> Result<(Arc<Log>, Position), Error> {
    let (log, checked) = Log::open(stored)?;
    let end = checked.end.position;
    home::check_reached(stored.status.reached.max(shown), end.revision)?;
    if checked.torn_bytes > 0 {
        tracing::info!(
            file = stored.name,
            bytes = checked.torn_bytes,
            "a write was under way when the process ended: the next start cuts it off"
        );
    }
    Ok((Arc::new(log), end))
}

/// The view, brought to the end of the journal, if it holds what was written.
fn proved(
    home: &Home,
    view: (Sled, u64, StateHash),
    current: &Arc<Current>,
    end: Position,
) -> Result<Sled, Error> {
    // After a kill the view may be behind the journal; after a close it is not.
    let status = current.log().stored.status;
    let closed_at = if status.owner == 0 { status.reached } else { 0 };
    let (_, shown, _) = view;
    if shown < closed_at {
        return Err(Error::Corrupt {
            what: format!("the view was closed at revision {closed_at} and shows revision {shown}"),
        });
    }
    let proved = home.proved(home.summed(view)?, current, end)?;
    let (view, _) = proved.map_err(|_| Error::Corrupt {
        what: "the view does not hold what was written".into(),
    })?;
    Ok(view)
}

/// The view, or another one that is made from the file, and its revision.
fn content(
    home: &Home,
    current: &Arc<Current>,
    end: Position,
    view: Option<Sled>,
    found: &mut dyn FnMut(String, &'static str),
) -> Result<(Sled, u64), Error> {
    if let Some(view) = view {
        return Ok((view, end.revision));
    }
    let (view, state, _) = home.build_once(current, end, 1)?;
    if state != end.state {
        let what = "the sums in the journal are wrong, though its changes are whole";
        found(what.into(), CORRECT);
    }
    Ok((view, end.revision))
}

/// A copy of the store's view, opened, with the revision and state that it claims to show. `None` if there is no view: a restored
/// store that was never opened has none, and somebody may have deleted it.
fn copied_view(views: &Views, scratch: &Path) -> Result<Option<(Sled, u64, StateHash)>, Error> {
    let Some(oldest) = views.numbers()?.first().copied() else {
        return Ok(None);
    };
    let (from, copy) = (views.path(oldest), scratch.join("copy"));
    copy_tree(&from, &copy).map_err(|error| Error::io("copy", &from, &error))?;
    let view = Sled::open(&copy, CACHE_BYTES)?;
    let (shown, claimed) = view.shown()?;
    Ok(Some((view, shown, claimed)))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            // `fs::copy` would make the copy of a read-only file read-only.
            io::copy(
                &mut fs::File::open(entry.path())?,
                &mut fs::File::create(target)?,
            )?;
        }
    }
    Ok(())
}
