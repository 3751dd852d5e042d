//! What the disk alone can do with groups of the size that a server has committed.

use std::{
    fs::File,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prost::Message;
use serde_json::json;

use crate::shared::backup;

/// The room that is reserved for appends.
const ROOM_BYTES: u64 = 256 << 20;
/// What a create takes in the journal beside its record.
const CREATE_OVERHEAD_BYTES: usize = 128;

/// The groups that a server has committed.
#[derive(Clone, Copy)]
pub(crate) struct Groups {
    groups: f64,
    changes: f64,
}

impl Groups {
    /// The groups so far, from the server's metrics.
    pub(crate) fn scraped(address: &str) -> Groups {
        let mut stream = TcpStream::connect(address).expect("it has metrics");
        let request =
            format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let value = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name));
            let value = line.expect("the metric").trim();
            value.parse::<f64>().expect("a number")
        };
        Groups {
            groups: value("icebox_group_changes_count "),
            changes: value("icebox_group_changes_sum "),
        }
    }

    /// The changes in a group, on average, since `before`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(crate) fn mean_since(&self, before: Groups) -> usize {
        ((self.changes - before.changes) / (self.groups - before.groups)).round() as usize
    }
}

/// A file with reserved room, to which creates are appended as to a journal.
pub(crate) struct Appended {
    path: PathBuf,
    file: File,
    /// The creates of one append.
    bytes: Vec<u8>,
    at: u64,
}

impl Appended {
    /// A file for appends of this many creates.
    pub(crate) fn new(dir: &Path, creates: usize) -> Appended {
        let path = dir.join("appended");
        let file = File::create(&path).expect("room");
        let room = usize::try_from(ROOM_BYTES).expect("64 bits");
        file.write_all_at(&vec![0; room], 0).expect("room");
        file.sync_all().expect("it syncs");
        let bytes = vec![7; (backup(0).encoded_len() + CREATE_OVERHEAD_BYTES) * creates];
        Appended {
            path,
            file,
            bytes,
            at: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.at + self.bytes.len() as u64 <= ROOM_BYTES
    }

    /// Appends once, durably.
    pub(crate) fn append(&mut self) {
        assert!(self.has_room());
        self.file
            .write_all_at(&self.bytes, self.at)
            .expect("it was reserved");
        self.file.sync_data().expect("it syncs");
        self.at += self.bytes.len() as u64;
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Appends of some creates, each followed by its fdatasync, in room that was reserved.
pub(crate) struct Appends {
    /// The creates in one append.
    pub(crate) creates: usize,
    /// How many appends the disk does in a second.
    rate: f64,
}

impl Appends {
    pub(crate) fn measure(dir: &Path, creates: usize, duration: Duration) -> Appends {
        let mut file = Appended::new(dir, creates);
        let start = Instant::now();
        let mut appends = 0_u32;
        while start.elapsed() < duration && file.has_room() {
            file.append();
            appends += 1;
        }
        let rate = f64::from(appends) / start.elapsed().as_secs_f64();
        Appends { creates, rate }
    }

    pub(crate) fn creates_a_second(&self) -> f64 {
        self.rate * f64::from(u32::try_from(self.creates).expect("small"))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({"creates_in_a_group": self.creates, "appends": self.rate.round()})
    }
}
