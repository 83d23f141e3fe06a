//! A trainer that dies at any moment leaves whole steps only.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

use std::path::Path;
use std::ptr::NonNull;

use rekindle_types::{JobId, LayerId, RankId, StateKind};
use rekindle_vault::{Arena, Entry, Identity, Snapshot, VaultError, What};

fn identity(rank: u32) -> Identity {
    Identity {
        job: JobId::new("j-1").unwrap(),
        rank: RankId(rank),
        lanes: 1,
        stages: vec![(0, 3)],
        spec: 7,
        what: What::Own,
    }
}

const BYTES: usize = 5000;

/// A trainer with two buffers that takes turns.
struct Trainer {
    arena: Arena,
    buffers: [NonNull<u8>; 2],
}

impl Trainer {
    fn new(path: &Path) -> Self {
        let arena = Arena::create(path, 1 << 20, &identity(0)).unwrap();
        let buffers = [arena.take(BYTES).unwrap(), arena.take(BYTES).unwrap()];
        Self { arena, buffers }
    }

    fn buffer(&mut self, step: u64) -> &mut [u8] {
        // SAFETY: memory of this arena, taken once, used through this borrow alone.
        unsafe { std::slice::from_raw_parts_mut(self.buffers[(step % 2) as usize].as_ptr(), BYTES) }
    }

    fn entry(&mut self, step: u64) -> Entry {
        let pointer = self.buffer(step).as_ptr();
        // SAFETY: as in `buffer`.
        let bytes = unsafe { std::slice::from_raw_parts(pointer, BYTES) };
        Entry {
            layer: LayerId::Block(0),
            kind: StateKind::ExpAvg,
            elements: 0..BYTES as u64 / 4,
            bytes: self.arena.place_of(bytes).unwrap(),
        }
    }

    /// Everything a step does, one act at a time.
    fn act(&mut self, step: u64, act: usize) {
        match act {
            0 => self.arena.retire_before(step - 1),
            1 => {
                let half = BYTES / 2;
                self.buffer(step)[..half].fill(step as u8);
            }
            2 => self.buffer(step).fill(step as u8),
            _ => {
                let entry = self.entry(step);
                self.arena.publish(step, &[entry]).unwrap();
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_act_every_listed_step_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    for acts in 0..40 {
        let path = folder.path().join(format!("{acts}"));
        let mut trainer = Trainer::new(&path);
        for act in 0..acts {
            trainer.act(1 + act as u64 / 4, act % 4);
        }
        // A killed process lets go of its lock and runs nothing else.
        drop(trainer);
        let snapshot = Snapshot::open(&path, &identity(0)).unwrap();
        let published = acts as u64 / 4;
        assert_eq!(
            snapshot.steps().next(),
            (published > 0).then_some(published),
            "{acts}"
        );
        for step in [published, published.saturating_sub(1)] {
            let Some(entries) = snapshot.entries(step) else {
                continue;
            };
            let bytes = snapshot.bytes(&entries[0]);
            assert_eq!(bytes.len(), BYTES);
            assert!(
                bytes.iter().all(|b| *b == step as u8),
                "{acts}: step {step} is torn"
            );
        }
        // The step before stays until the update after the next begins.
        let before = published >= 2 && acts % 4 == 0;
        assert!(!before || snapshot.entries(published - 1).is_some(), "{acts}");
    }
}

#[test]
fn what_is_foreign_or_damaged_offers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let mut trainer = Trainer::new(&path);
    (0..4).for_each(|act| trainer.act(1, act));
    assert!(Snapshot::open(&path, &identity(0)).is_err(), "its writer lives");
    drop(trainer);
    assert_eq!(
        Snapshot::open(&path, &identity(0)).unwrap().steps().next(),
        Some(1)
    );
    assert!(Snapshot::open(&path, &identity(1)).is_err(), "another rank's");
    assert!(Snapshot::open(&folder.path().join("none"), &identity(0)).is_err());
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 20, 30, (8 << 10) + 8, (8 << 10) + 30] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let newest = Snapshot::open(&path, &identity(0))
            .ok()
            .and_then(|s| s.steps().next());
        assert_eq!(newest, None, "byte {at}");
    }
    std::fs::write(&path, &whole[..10_000]).unwrap();
    assert!(Snapshot::open(&path, &identity(0)).is_err(), "cut short");
}

#[test]
fn memory_is_bounded_and_given_once() {
    let folder = tempfile::tempdir().unwrap();
    let arena = Arena::create(&folder.path().join("a"), 3 * 4096, &identity(0)).unwrap();
    let (a, b) = (arena.take(1).unwrap(), arena.take(4097).unwrap());
    assert_eq!(b.as_ptr() as usize - a.as_ptr() as usize, 4096);
    assert!(arena.take(1).is_none());
    assert!(arena.take(usize::MAX).is_none());
    assert_eq!(arena.place_of(&[0; 8]), None, "other memory has no place in it");
}

#[test]
fn a_third_step_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(&folder.path().join("a"));
    let entry = trainer.entry(0);
    for step in [1, 2] {
        trainer.arena.publish(step, std::slice::from_ref(&entry)).unwrap();
    }
    let refused = trainer.arena.publish(3, std::slice::from_ref(&entry));
    assert!(matches!(refused, Err(VaultError::TooLarge { .. })));
    trainer.arena.retire_before(2);
    trainer.arena.publish(3, &[entry]).unwrap();
}

#[test]
fn a_step_s_other_bytes_are_found_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own");
    let arena = Arena::create(&path, 1 << 16, &identity(0)).unwrap();
    let place = arena.take(100).unwrap();
    // SAFETY: memory of this arena, taken once, used here alone.
    let bytes = unsafe { std::slice::from_raw_parts_mut(place.as_ptr(), 100) };
    bytes.fill(7);
    let more = arena.place_of(bytes).unwrap();
    arena.publish_with(4, &[], more).unwrap();
    arena.publish(5, &[]).unwrap();
    drop(arena);
    let snapshot = Snapshot::open(&path, &identity(0)).unwrap();
    assert_eq!(snapshot.more(4), Some([7; 100].as_slice()));
    assert_eq!(snapshot.more(5), Some([].as_slice()));
    assert_eq!(snapshot.more(6), None);
}
