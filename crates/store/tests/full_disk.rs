//! A journal on a disk that gets full: what was acknowledged stays, what wasn't is gone, and with room it goes on
//! (ST-1).
//!
//! Needs root, see [`disk`].

mod disk;

use disk::Disk;
use rekindle_coordinator_core::{Record, Seq};
use rekindle_store::{Journal, StoreError, conformance};

/// Appends records from `first` on until that fails; the last one that was acknowledged, and why it ended.
fn append_until_full(journal: &mut Journal, first: u64) -> (u64, StoreError) {
    for number in first.. {
        if let Err(error) = journal.append(Seq(number), &conformance::sample(number)) {
            return (number - 1, error);
        }
    }
    unreachable!("the numbers don't end")
}

fn numbered(last: u64) -> Vec<(Seq, Record)> {
    (1..=last).map(|n| (Seq(n), conformance::sample(n))).collect()
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = Disk::mount(folder.path(), 4 << 10) else {
        return;
    };
    let path = folder.path().join("journal");
    let mut acknowledged = 0;
    for round in 0..3 {
        let (mut journal, found) = Journal::open(&path).expect("there is room");
        assert_eq!(found, numbered(acknowledged), "round {round}");
        for number in acknowledged + 1..=acknowledged + 20 {
            journal
                .append(Seq(number), &conformance::sample(number))
                .expect("there is room");
        }
        disk.fill();
        let (last, error) = append_until_full(&mut journal, acknowledged + 21);
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(error.to_string().contains("check the disk's space"), "{error}");
        // It doesn't take the next one as if nothing had been.
        let next = journal.append(Seq(last + 1), &conformance::sample(last + 1));
        assert!(next.is_err(), "a journal that failed went on");
        drop(journal);
        // Opening it may need room as well; then it says so, and leaves what is there.
        if let Ok((_, found)) = Journal::open(&path) {
            assert_eq!(found, numbered(last), "round {round}, still full");
        }
        disk.make_room();
        acknowledged = last;
    }
    let (_, found) = Journal::open(&path).expect("there is room");
    assert_eq!(found, numbered(acknowledged));
    assert!(acknowledged >= 60);
}
