//! Commands that take several ids: each id is tried, even if one before it failed.

use super::Error;

/// Runs `command` for each id and reports what fails. Fails at the end if anything did.
pub(super) async fn each(
    ids: &[String],
    mut command: impl AsyncFnMut(String) -> Result<(), Error>,
) -> Result<(), Error> {
    if let [id] = ids {
        return command(id.clone()).await;
    }
    let mut failed = 0;
    for id in ids {
        match command(id.clone()).await {
            Ok(()) => {}
            Err(Error::OutputClosed) => return Err(Error::OutputClosed),
            Err(error) => {
                eprintln!("icebox: {id}: {error}");
                failed += 1;
            }
        }
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Error::Failed(format!("{failed} of {} failed", ids.len())))
    }
}
