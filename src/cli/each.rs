//! Commands that take several ids: each is tried, whatever became of those before it.

use super::Error;

/// Does `command` for each id, reports what fails, and fails at the end if anything did.
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
