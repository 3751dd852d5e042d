//! What the store takes from outside: time, and threads to run on. Everything else it reaches through `Disk`.
//!
//! The rest of the store is forbidden to ask for either, so that a simulation that steps its parts by itself decides all that
//! happens (`local/simulation/`).
#![allow(clippy::disallowed_methods)]

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{process::setpriority_process, thread::gettid};

use super::Error;
use crate::clock;

/// Now, in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    clock::now_ms()
}

/// Whether the system's clock says a time before 1970.
pub(super) fn is_before_epoch() -> bool {
    clock::is_before_epoch()
}

/// Waits.
pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Does something, and says how long that took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Runs what may wait for the disk on one of tokio's threads that may wait. A panic goes on here.
///
/// # Errors
/// [`Error::Closed`] if it never began, since the process is ending.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|stopped| match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Closed,
    })
}

/// Does two things at one time. Whichever panics, the caller does.
pub(super) fn both<A: Send, B>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B,
) -> (A, B) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one.join();
        (
            one.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            other,
        )
    })
}

/// How soon a thread's work is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Callers wait for it.
    Awaited,
    /// It may be done when nobody else needs the processor.
    Behind,
}

/// The niceness of a thread whose work may wait: a tenth of the processor, where it is short.
const BEHIND_NICENESS: i32 = 10;

/// Starts one of the store's threads. A store in which one has panicked would accept what nobody does.
///
/// # Errors
/// If the system has no thread left.
pub(super) fn spawn(
    name: &str,
    urgency: Urgency,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let run = move || {
        let _guard = AbortOnPanic;
        if urgency == Urgency::Behind {
            // Where it is not allowed, the work is only less polite. Linux has a niceness of each thread.
            let _ = setpriority_process(Some(gettid()), BEHIND_NICENESS);
        }
        run();
    };
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| Error::Io {
            action: format!("start the {name}"),
            reason: error.to_string(),
        })
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    /// Set in the process that is to end.
    const DOOMED: &str = "ICEBOX_TEST_DOOMED";
    const SIGABRT: i32 = 6;

    #[test]
    fn a_panic_in_one_of_the_stores_threads_ends_the_process() {
        if std::env::var_os(DOOMED).is_some() {
            let doomed = spawn("doomed", Urgency::Awaited, || panic!("on purpose")).unwrap();
            drop(doomed.join());
            return;
        }
        let this = "store::outside::tests::a_panic_in_one_of_the_stores_threads_ends_the_process";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this])
            .env(DOOMED, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert_eq!(status.unwrap().signal(), Some(SIGABRT));
    }
}
