//! What the store takes from outside: time, and threads. It reaches everything else through `Disk`.
//!
//! The rest of the store may not ask for either. So a simulation that steps the store's parts decides everything that happens
//! (`local/simulation/`).
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

/// Whether the system's clock shows a time before 1970.
pub(super) fn is_before_epoch() -> bool {
    clock::is_before_epoch()
}

/// Waits.
pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Runs `work`, and returns its result and the time that it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}

/// Runs work that may wait for the disk on one of tokio's threads for that. A panic continues in the caller.
///
/// # Errors
/// [`Error::Closed`] if the work never began because the process is ending.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|stopped| match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Closed,
    })
}

/// Runs two things at the same time. If one of them panics, so does the caller.
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

/// How soon the work of a thread is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Callers wait for it.
    Awaited,
    /// It may wait while others need the processor.
    Behind,
}

/// The niceness of a thread whose work may wait. If the processor is busy, such a thread gets about a tenth of it.
const BEHIND_NICENESS: i32 = 10;

/// Starts one of the store's threads. If it panics, the process is aborted: otherwise the store would accept what nobody handles.
///
/// # Errors
/// If the system cannot start another thread.
pub(super) fn spawn(
    name: &str,
    urgency: Urgency,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let run = move || {
        let _guard = AbortOnPanic;
        if urgency == Urgency::Behind {
            // If this is not allowed, the thread is only less polite. In Linux each thread has its own niceness.
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

/// Lets other threads go first that are ready to run on this processor.
pub(super) fn give_way() {
    thread::yield_now();
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

    /// Set in the process that is to be aborted.
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
