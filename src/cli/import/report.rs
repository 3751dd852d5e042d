//! What an import tells while it runs, and at the end.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use indicatif::ProgressBar;
use tonic::Status;

use super::{Done, End, Kind, Outcome, files::file_size_bytes};
use crate::cli::{
    Error,
    output::{Count, Printable},
    progress,
};

/// The most notes, and the most refusals, that are printed. The others are only counted.
const NOTES_MAX: u64 = 20;
const REFUSALS_MAX: u64 = 20;

/// Tells about the import while it runs, and counts for the summary.
pub(super) struct Report {
    pub(super) bar: ProgressBar,
    pub(super) is_quiet: bool,
    pub(super) is_dry: bool,
    pub(super) backups: u64,
    pub(super) jobs: u64,
    pub(super) clients: u64,
    pub(super) actions: u64,
    pub(super) sessions: u64,
    pub(super) updated: u64,
    pub(super) unchanged: u64,
    pub(super) refused: u64,
    pub(super) broken_files: u64,
    pub(super) notes: u64,
}

impl Report {
    pub(super) fn new(bar: ProgressBar) -> Report {
        Report {
            bar,
            is_quiet: false,
            is_dry: false,
            backups: 0,
            jobs: 0,
            clients: 0,
            actions: 0,
            sessions: 0,
            updated: 0,
            unchanged: 0,
            refused: 0,
            broken_files: 0,
            notes: 0,
        }
    }

    /// Tells about an outcome. Returns the error that makes it pointless to go on, if there is one.
    pub(super) fn take(&mut self, outcome: Outcome) -> Option<Status> {
        let Outcome {
            file,
            read_bytes,
            notes,
            end,
        } = outcome;
        for note in notes {
            self.notes += 1;
            if self.notes <= NOTES_MAX && !self.is_quiet {
                self.tell(&format!("note: {file}: {note}"));
            }
        }
        match end {
            End::Done(_, Done::Updated) => self.updated += 1,
            End::Done(_, Done::Unchanged) => self.unchanged += 1,
            End::Done(Kind::Backup, Done::Stored) => self.backups += 1,
            End::Done(Kind::Job, Done::Stored) => self.jobs += 1,
            End::Done(Kind::Client, Done::Stored) => self.clients += 1,
            End::Done(Kind::Action, Done::Stored) => self.actions += 1,
            End::Done(Kind::Session, Done::Stored) => self.sessions += 1,
            End::OnlyNotes => {}
            End::Refused { record, reason } => {
                self.refused += 1;
                if self.refused <= REFUSALS_MAX {
                    self.tell(&format!("{file}: {record}: {reason}"));
                }
            }
            End::Broken(reason) => {
                self.broken_files += 1;
                self.tell(&format!("{file}: {reason}"));
            }
            End::Lost(status) => return Some(status),
        }
        let position = if self.bar.length().is_some() {
            read_bytes
        } else {
            self.records()
        };
        // Calls may end in any order; the bar only moves forward.
        self.bar.set_position(position.max(self.bar.position()));
        None
    }

    pub(super) fn records(&self) -> u64 {
        let stored = self.backups + self.jobs + self.clients + self.actions + self.sessions;
        stored + self.updated + self.unchanged + self.refused
    }

    /// Prints the summary. Returns how many records were imported or refused.
    pub(super) fn finish(&self) -> u64 {
        if self.notes > NOTES_MAX && !self.is_quiet {
            self.tell(&format!("note: and {} more", self.notes - NOTES_MAX));
        }
        if self.refused > REFUSALS_MAX {
            self.tell(&format!(
                "and {} more were refused",
                self.refused - REFUSALS_MAX
            ));
        }
        self.bar.finish_and_clear();
        if !self.is_quiet {
            // A failure to write the summary does not make the import fail.
            let _ = writeln!(
                io::stdout(),
                "{} {}; {} updated, {} unchanged, {} refused",
                if self.is_dry {
                    "would import"
                } else {
                    "imported"
                },
                self.stored(),
                self.updated,
                self.unchanged,
                self.refused
            );
        }
        self.records()
    }

    /// How many of each kind were stored. Backups and jobs are always named, other kinds only if there are any.
    fn stored(&self) -> String {
        let others = [
            Count(self.clients, "client"),
            Count(self.actions, "action"),
            Count(self.sessions, "session"),
        ];
        let others = others.into_iter().filter(|Count(count, _)| *count > 0);
        let kinds = [Count(self.backups, "backup"), Count(self.jobs, "job")];
        let kinds: Vec<_> = kinds.into_iter().chain(others).collect();
        let kinds: Vec<_> = kinds.iter().map(ToString::to_string).collect();
        let (last, first) = kinds.split_last().expect("there are two at least");
        format!("{} and {last}", first.join(", "))
    }

    pub(super) fn verdict(&self) -> Result<(), Error> {
        let mut complaints = Vec::new();
        if self.refused > 0 {
            let were = if self.refused == 1 { "was" } else { "were" };
            complaints.push(format!(
                "{} of {} {were} refused",
                self.refused,
                Count(self.records(), "record")
            ));
        }
        if self.broken_files > 0 {
            complaints.push(format!(
                "{} could not be read to the end",
                Count(self.broken_files, "file")
            ));
        }
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(Error::Failed(complaints.join(", ")))
        }
    }

    pub(super) fn tell(&self, line: &str) {
        let line = Printable(line);
        self.bar.suspend(|| {
            // If standard error is closed, there is nobody to tell.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }
}

/// A bar over the bytes to read if their number is known; otherwise a count of records. It is shown on terminals only.
pub(super) fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let sizes_bytes: Option<u64> = files.iter().map(|path| file_size_bytes(path)).sum();
    let (bar, template) = match sizes_bytes {
        Some(total_bytes) => (
            ProgressBar::new(total_bytes),
            "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ),
        None => (
            ProgressBar::no_length(),
            "{spinner} {human_pos} records, {per_sec}",
        ),
    };
    bar.with_style(progress::style(template))
}
