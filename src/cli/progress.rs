//! Progress on a terminal while something takes long. Nothing is shown elsewhere.

use std::{fmt, fs, time::Duration};

use indicatif::{BinaryBytes, ProgressBar, ProgressState, ProgressStyle};

/// How often it is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Shows how much was received. The caller counts that.
pub(super) fn bytes_received() -> ProgressBar {
    ProgressBar::no_length().with_style(style("{bytes} received, {bytes_per_sec}"))
}

/// Shows how much this process has read and written since this was made, and for how long, until it is dropped.
pub(super) struct AtDisk(ProgressBar);

impl AtDisk {
    /// `doing` names the work.
    pub(super) fn new(doing: &'static str) -> AtDisk {
        let before = Bytes::of_this_process();
        let bytes = move |_: &ProgressState, to: &mut dyn fmt::Write| {
            let now = Bytes::of_this_process();
            if let (Some(before), Some(now)) = (before, now) {
                let read = BinaryBytes(now.read - before.read);
                let written = BinaryBytes(now.written - before.written);
                // A failure to draw is not reported: the terminal has gone.
                let _ = write!(to, ": {read} read, {written} written");
            }
        };
        let style = style("{spinner} {prefix}{at_disk}, {elapsed}").with_key("at_disk", bytes);
        let bar = ProgressBar::new_spinner().with_style(style);
        bar.set_prefix(doing);
        bar.enable_steady_tick(TICK);
        AtDisk(bar)
    }
}

impl Drop for AtDisk {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The style for a constant template.
pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}

/// The bytes that a process has read and written since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    read: u64,
    written: u64,
}

impl Bytes {
    /// `None` if the system does not count them.
    fn of_this_process() -> Option<Bytes> {
        Bytes::parse(&fs::read_to_string("/proc/self/io").ok()?)
    }

    fn parse(text: &str) -> Option<Bytes> {
        let count = |name: &str| {
            let mut counts = text.lines().filter_map(|line| line.strip_prefix(name));
            counts.next()?.trim().parse().ok()
        };
        Some(Bytes {
            read: count("rchar:")?,
            written: count("wchar:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_read_is_what_the_system_counts() {
        let text = "rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nread_bytes: 0\n";
        let counted = Bytes {
            read: 323_934_931,
            written: 323_929_600,
        };
        assert_eq!(Bytes::parse(text), Some(counted));
        assert_eq!(Bytes::parse("rchar: 1\n"), None);
        assert_eq!(Bytes::parse("rchar: x\nwchar: 1\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reading_a_file_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, [7; 5000]).unwrap();
        let before = Bytes::of_this_process().unwrap();
        assert!(before.written >= 5000);
        fs::read(&file).unwrap();
        assert!(Bytes::of_this_process().unwrap().read >= before.read + 5000);
    }
}
