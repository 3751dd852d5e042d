//! What is appended is read back, and what is damaged or missing is told.

use super::{segment::encode_header, *};
use crate::store::{
    change::{Change, Write},
    local::disk::{self, RealDisk},
};

const SEGMENT_BYTES: u64 = 16 << 20;

fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(dir.path().to_path_buf()));
    (dir, disk)
}

fn frame(revision: u64, value_bytes: usize) -> Group {
    let write = Write {
        key: b"key".as_slice().into(),
        value: Some(vec![7; value_bytes].into()),
    };
    Group {
        first_revision: revision,
        time_ms: 0,
        changes: vec![Change {
            revision,
            writes: vec![write],
            state: StateHash::default(),
        }],
    }
}

fn written(disk: &Arc<dyn Disk>, frames: u64, value_bytes: usize) {
    let mut journal = Journal::create(
        disk.clone(),
        Uuid::nil(),
        Position::default(),
        SEGMENT_BYTES,
    )
    .unwrap();
    for revision in 1..=frames {
        journal.append(&frame(revision, value_bytes)).unwrap();
    }
}

/// The revisions found at open.
fn reopened(disk: &Arc<dyn Disk>) -> Result<Vec<u64>, Error> {
    let mut revisions = Vec::new();
    let mut visit = |frame: &Group, _: usize| revisions.push(frame.first_revision);
    let journal = Journal::open(
        disk.clone(),
        Uuid::nil(),
        Position::default(),
        SEGMENT_BYTES,
        &mut visit,
    )?;
    assert_eq!(
        journal.end().revision,
        revisions.last().copied().unwrap_or(0)
    );
    Ok(revisions)
}

/// The only segment up to the end of its last frame: its reserved zeros would only take time.
fn content(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1);
    bytes
}

#[test]
fn what_was_appended_is_read_back_over_several_segments() {
    let (_dir, disk) = disk();
    written(&disk, 10, 4 << 20);
    assert!(disk.list(Path::new(DIR)).unwrap().len() > 2);
    assert_eq!(reopened(&disk).unwrap(), (1..=10).collect::<Vec<_>>());
}

#[test]
fn a_journal_that_does_not_continue_the_checkpoint_is_told() {
    let at = |revision, chain| Position {
        revision,
        chain,
        state: StateHash::default(),
    };
    let (_dir, disk) = disk();
    let mut journal = Journal::create(disk.clone(), Uuid::nil(), at(5, 1), SEGMENT_BYTES).unwrap();
    journal.append(&frame(6, 10)).unwrap();
    let end = journal.end();
    let checked = |base| check(&*disk, Uuid::nil(), base, &mut |_, _| ()).map(|found| found.end);
    // At the beginning of a segment, and behind one of its frames.
    assert_eq!(checked(at(5, 1)), Ok(end));
    assert_eq!(checked(end), Ok(end));
    for other in [at(5, 2), at(6, end.chain ^ 1)] {
        assert!(
            matches!(checked(other), Err(Error::Corrupt { .. })),
            "{other:?}"
        );
    }
}

#[test]
fn a_missing_segment_is_told() {
    let (_dir, disk) = disk();
    written(&disk, 12, 4 << 20);
    let names = disk.list(Path::new(DIR)).unwrap();
    disk.remove(&Path::new(DIR).join(&names[1])).unwrap();
    assert!(matches!(reopened(&disk), Err(Error::Corrupt { .. })));
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_written_over() {
    let (dir, disk) = disk();
    written(&disk, 3, 50);
    let path = dir.path().join(segment_path(1));
    let whole = content(&path);
    let end = whole.len();
    let len_of_last = frame(3, 50).encode(Uuid::nil(), 0).0.len();
    for cut in 0..len_of_last {
        let mut torn = whole.clone();
        torn[end - len_of_last + cut..].fill(0);
        std::fs::write(&path, torn).unwrap();
        assert_eq!(reopened(&disk).unwrap(), [1, 2], "cut {cut}");
        let left = content(&path).len();
        assert!(left <= end - len_of_last, "cut {cut}: it is still there");
    }
    let mut journal = Journal::open(
        disk.clone(),
        Uuid::nil(),
        Position::default(),
        SEGMENT_BYTES,
        &mut |_, _| (),
    )
    .unwrap();
    journal.append(&frame(3, 10)).unwrap();
    assert_eq!(reopened(&disk).unwrap(), [1, 2, 3]);
}

#[test]
fn a_bit_flipped_before_the_last_frame_is_told() {
    let (dir, disk) = disk();
    written(&disk, 3, 50);
    let path = dir.path().join(segment_path(1));
    let whole = content(&path);
    let last_frame = whole.len() - frame(3, 50).encode(Uuid::nil(), 0).0.len();
    for at in 0..last_frame {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        assert!(
            matches!(reopened(&disk), Err(Error::Corrupt { .. })),
            "byte {at}"
        );
    }
}

#[test]
fn a_segment_that_a_full_disk_left_behind_is_passed_over() {
    let (dir, disk) = disk();
    written(&disk, 10, 4 << 20);
    let start = |revision| Position {
        revision,
        ..Position::default()
    };
    // The disk was full, and small frames went on in the segment before.
    let left = [
        (2, Vec::new()),
        (3, vec![0; 100]),
        (5, encode_header(Uuid::nil(), start(4))),
    ];
    for (revision, bytes) in &left {
        std::fs::write(dir.path().join(segment_path(*revision)), bytes).unwrap();
    }
    for after in 0..10 {
        let mut revisions = Vec::new();
        read(&*disk, Uuid::nil(), after, u64::MAX, &mut |frame, _| {
            revisions.push(frame.first_revision);
            Ok(())
        })
        .unwrap();
        assert_eq!(revisions, (after + 1..=10).collect::<Vec<_>>());
    }
    assert_eq!(reopened(&disk).unwrap(), (1..=10).collect::<Vec<_>>());
    for (revision, _) in &left {
        assert!(!dir.path().join(segment_path(*revision)).exists());
    }
}

#[test]
fn a_full_disk_opens_and_goes_on_in_the_room_that_is_reserved() {
    let (dir, disk) = disk();
    written(&disk, 3, 50);
    let full = disk::full::FullDisk::new(dir.path());
    full.set_full(true);
    let full: Arc<dyn Disk> = Arc::new(full);
    assert_eq!(reopened(&full).unwrap(), [1, 2, 3]);
    let mut journal = Journal::open(
        full.clone(),
        Uuid::nil(),
        Position::default(),
        SEGMENT_BYTES,
        &mut |_, _| (),
    )
    .unwrap();
    journal.append(&frame(4, 50)).unwrap();
    let refused = journal.append(&frame(5, 16 << 20));
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    journal.append(&frame(5, 50)).unwrap();
    assert_eq!(full.list(Path::new(DIR)).unwrap().len(), 1);
    assert_eq!(reopened(&full).unwrap(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_segment_without_a_header_is_made_again() {
    let (dir, disk) = disk();
    written(&disk, 2, 50);
    std::fs::write(dir.path().join(segment_path(3)), vec![0; 100]).unwrap();
    assert_eq!(reopened(&disk).unwrap(), [1, 2]);
}
