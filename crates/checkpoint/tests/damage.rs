//! What happens when a checkpoint isn't what was written: every kind of file, every kind of damage, each refused by
//! name.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rekindle_checkpoint::format::{Manifest, Span, manifest_key, seal};
use rekindle_checkpoint::store::{Fault, Faulty, Op, Store};
use rekindle_checkpoint::testing::{State, assemble, plan, small_model, write_checkpoint, write_parts};
use rekindle_checkpoint::{
    Blocking, Options, StateError, StoreErrorKind, commit, commit_over_damaged, newest_valid,
};
use rekindle_types::{LayerId, StateKind};
use serde_json::{Value, json};
use support::{folder, memory, same_bits};

/// A folder with the checkpoints of steps 10 and 20.
fn two_steps() -> (tempfile::TempDir, Blocking, [State; 2]) {
    let (dir, store) = folder();
    let disk = Blocking::with_store(store).unwrap();
    let states = [10, 20].map(|step| State::random(&small_model(), step));
    for (state, step) in states.iter().zip([10, 20]) {
        disk.run(write_checkpoint(disk.store(), state, &plan(2, &[4, 4]), step))
            .unwrap();
    }
    (dir, disk, states)
}

fn flip(path: &Path, byte: u64, bits: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte as usize] ^= bits;
    std::fs::write(path, bytes).unwrap();
}

/// As somebody would who knows how a manifest is sealed.
fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("manifest_digest");
    change(&mut value);
    std::fs::write(path, seal(value.to_string().as_bytes())).unwrap();
}

fn step20(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("step-00000020")
}

fn a_tensor_file(manifest: &Manifest, folder: &Path, kind: &str) -> (usize, PathBuf) {
    let number = manifest
        .files
        .iter()
        .position(|file| file.path.contains(kind))
        .unwrap();
    (number, folder.join(&manifest.files[number].path))
}

/// Does something to the folder of a checkpoint.
type Harm = fn(&Path, &Manifest);

#[test]
fn the_newest_valid_one_is_found_past_every_kind_of_damage() {
    let damages: [(&str, &str, Harm); 14] = [
        ("manifest bit", "manifest_digest", |dir, m| {
            // In a number that nothing else depends on.
            let text = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
            let at = text.find(&m.created_unix_ms.to_string()).unwrap();
            flip(&dir.join("manifest.json"), at as u64 + 12, 1);
        }),
        ("manifest cut", "not the manifest", |dir, _| {
            let text = std::fs::read(dir.join("manifest.json")).unwrap();
            std::fs::write(dir.join("manifest.json"), &text[..text.len() / 2]).unwrap();
        }),
        ("manifest empty", "not the manifest", |dir, _| {
            std::fs::write(dir.join("manifest.json"), "").unwrap()
        }),
        ("manifest foreign", "not the manifest", |dir, _| {
            std::fs::write(dir.join("manifest.json"), "{\"weights\": []}").unwrap();
        }),
        ("manifest gone", "never committed", |dir, _| {
            std::fs::remove_file(dir.join("manifest.json")).unwrap()
        }),
        ("newer schema", "schema version 2", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                *m = json!({"schema_version": 2, "all": "else is new"})
            });
        }),
        ("another step", "step 21", |dir, _| {
            change(&dir.join("manifest.json"), |m| m["step"] = json!(21))
        }),
        ("a digest changed", "state_digest", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                m["files"][0]["sections"][0]["digests"][0] = json!("0".repeat(32));
            });
        }),
        ("path leads outside", "can't be used", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                m["files"][0]["path"] = json!("../step-00000010/x")
            });
        }),
        ("path of another writer", "folder of the writer", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                m["files"][0]["path"] = json!("other/model/x.safetensors")
            });
        }),
        ("model changed", "contradicts itself", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                m["model"]["num_hidden_layers"] = json!(7)
            });
        }),
        ("unknown key in a file", "unknown field", |dir, _| {
            change(&dir.join("manifest.json"), |m| {
                m["files"][0]["compressed"] = json!(true)
            });
        }),
        ("file gone", "can't be seen", |dir, m| {
            std::fs::remove_file(a_tensor_file(m, dir, "optim").1).unwrap()
        }),
        ("file cut", "bytes of", |dir, m| {
            let path = a_tensor_file(m, dir, "model").1;
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        }),
    ];
    for (what, why, damage) in damages {
        let (dir, disk, states) = two_steps();
        let manifest = disk.checkpoint(20).unwrap().manifest().clone();
        damage(&step20(&dir), &manifest);
        let (found, refused) = disk.newest_valid(&|_| Ok(())).unwrap();
        assert_eq!(refused.len(), 1, "{what}");
        assert!(
            refused[0].step == 20 && refused[0].why.contains(why),
            "{what}: {}",
            refused[0]
        );
        assert!(refused[0].why.contains("step-00000020"), "{what}: {}", refused[0]);
        let found = found.unwrap();
        assert_eq!(
            (found.manifest().step, found.manifest().state_digest),
            (10, states[0].digest()),
            "{what}"
        );
    }
}

#[test]
fn whoever_asks_may_refuse_a_checkpoint() {
    let (_dir, disk, _) = two_steps();
    let veto = |manifest: &Manifest| {
        if manifest.step == 20 {
            Err("is of another model".to_owned())
        } else {
            Ok(())
        }
    };
    let (found, refused) = disk.newest_valid(&veto).unwrap();
    assert_eq!(found.unwrap().manifest().step, 10);
    assert!(
        refused[0].to_string().starts_with("step 20: file://")
            && refused[0].why.ends_with("is of another model")
    );
    let (found, refused) = disk.newest_valid(&|_| Err("no".to_owned())).unwrap();
    assert!(found.is_none() && refused.len() == 2);
}

#[test]
fn a_key_that_a_reader_may_ignore_is_ignored() {
    let (dir, disk, _) = two_steps();
    change(&step20(&dir).join("manifest.json"), |m| {
        m["remark"] = json!("from a later minor version")
    });
    assert_eq!(disk.checkpoint(20).unwrap().manifest().step, 20);
}

#[test]
fn a_store_that_does_not_answer_is_no_reason_to_go_back() {
    let faulty = Faulty::new(memory("no-answer"));
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let disk = Blocking::with_store(store).unwrap();
    let state = State::random(&small_model(), 1);
    for step in [10, 20] {
        disk.run(write_checkpoint(disk.store(), &state, &plan(1, &[8]), step))
            .unwrap();
    }
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Denied] {
        for op in [Op::Get, Op::List] {
            faulty.next(op, 1, Fault::Fail(kind));
            let error = disk.newest_valid(&|_| Ok(())).unwrap_err();
            assert!(
                matches!(&error, StateError::Store(e) if e.kind() == kind),
                "{error}"
            );
        }
    }
    assert_eq!(
        disk.newest_valid(&|_| Ok(())).unwrap().0.unwrap().manifest().step,
        20
    );
}

/// Flips one bit in the middle of every kind of file, and sees it named to the byte and the element.
#[test]
fn a_flipped_bit_is_found_and_placed() {
    let (dir, disk, states) = two_steps();
    let checkpoint = disk.checkpoint(20).unwrap();
    let manifest = checkpoint.manifest().clone();
    for kind in ["model", "optim"] {
        let (number, path) = a_tensor_file(&manifest, &step20(&dir), kind);
        let section = manifest.files[number].sections.last().unwrap();
        let element = (section.start + section.end) / 2;
        let byte = section.offset + (element - section.start) * 4 + 1;
        flip(&path, byte, 16);
        let verdict = checkpoint.verify(None).unwrap();
        assert_eq!(
            (verdict.damage_count, verdict.damages.len()),
            (1, 1),
            "{:?}",
            verdict.damages
        );
        let damage = &verdict.damages[0];
        let span = damage.span.clone().unwrap();
        assert!(damage.url.ends_with(&manifest.files[number].path) && damage.bytes.contains(&byte));
        assert_eq!((span.layer, span.kind), (section.layer, section.kind));
        assert!(span.range().contains(&element) && span.len() <= section.chunk_elements());
        assert_ne!(verdict.state_digest, manifest.state_digest);
        let whole = Span::new(section.layer, section.kind, section.start..section.end);
        let error = checkpoint.read_ranges(
            std::slice::from_ref(&whole),
            &Options::default(),
            |_, start, values| {
                // CK-13: what comes before the damage is found may be handed out, the damaged chunk may not.
                let part = Span::new(span.layer, span.kind, start..start + values.len() as u64);
                assert!(same_bits(values, states[1].of(&part)));
            },
        );
        assert!(matches!(error, Err(StateError::Damaged(found)) if found == *damage));
        // Whoever doesn't need that chunk isn't hindered.
        let elsewhere = Span::new(section.layer, section.kind, section.start..section.start + 1);
        checkpoint
            .read_ranges(&[elsewhere], &Options::default(), |_, _, _| {})
            .unwrap();
        flip(&path, byte, 16);
    }
    // A header: of no use to us, but another reader would follow it.
    let (number, path) = a_tensor_file(&manifest, &step20(&dir), "model");
    flip(&path, 100, 16);
    let verdict = checkpoint.verify(None).unwrap();
    assert!(
        verdict.damages[0]
            .to_string()
            .contains("bytes 0..4096 (its header)"),
        "{:?}",
        verdict.damages
    );
    let first = Span::of(&manifest.files[number].sections[0]);
    assert!(matches!(
        checkpoint.read_ranges(&[first], &Options::default(), |_, _, _| {}),
        Err(StateError::Damaged(_))
    ));
    flip(&path, 100, 16);
    assert!(checkpoint.verify(None).unwrap().is_good());
}

#[test]
fn files_that_go_missing_later_are_damages_too() {
    let (dir, disk, _) = two_steps();
    let checkpoint = disk.checkpoint(20).unwrap();
    let (number, path) = a_tensor_file(checkpoint.manifest(), &step20(&dir), "optim");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let verdict = checkpoint.verify(None).unwrap();
    // The read that the end belongs to can't be made; all chunks in it are told.
    assert!(
        !verdict.is_good() && verdict.damages.iter().all(|d| d.why.contains("cut short")),
        "{:?}",
        verdict.damages
    );
    std::fs::remove_file(&path).unwrap();
    let verdict = checkpoint.verify(None).unwrap();
    let sections = &checkpoint.manifest().files[number].sections;
    let chunks: u64 = sections.iter().map(|section| section.chunk_count()).sum();
    assert_eq!(verdict.damage_count, chunks + 1);
}

#[test]
fn what_is_damaged_on_its_way_is_read_again() {
    let faulty = Faulty::new(memory("on-its-way"));
    let disk = Blocking::with_store(Arc::new(faulty.clone())).unwrap();
    let state = State::random(&small_model(), 1);
    disk.run(write_checkpoint(disk.store(), &state, &plan(1, &[8]), 5))
        .unwrap();
    let checkpoint = disk.checkpoint(5).unwrap();
    let span = Span::new(LayerId::Head, StateKind::Weights, 0..2000);
    let options = Options {
        parallelism: 1,
        progress: None,
    };
    let read = || {
        checkpoint.read_ranges(std::slice::from_ref(&span), &options, |_, start, values| {
            let part = Span::new(span.layer, span.kind, start..start + values.len() as u64);
            assert!(same_bits(values, state.of(&part)));
        })
    };
    // The first read is of header and chunks; its first part is the header.
    faulty.next(Op::Read, 1, Fault::Flip(77));
    assert_eq!(read().unwrap().rereads, 1);
    faulty
        .next(Op::Read, 1, Fault::Flip(77))
        .next(Op::Read, 1, Fault::Flip(77));
    assert!(matches!(read(), Err(StateError::Damaged(_))));
    faulty.next(Op::Read, 1, Fault::Short);
    assert!(matches!(read(), Err(StateError::Store(e)) if e.is_transient()));
    faulty
        .next(Op::Read, 1, Fault::Delay(Duration::from_millis(5)))
        .next(Op::Read, 1, Fault::Fail(StoreErrorKind::Denied));
    assert!(read().is_err());
    assert_eq!(read().unwrap().rereads, 0);
}

#[tokio::test]
async fn a_commit_happens_once_and_only_over_files_that_are_there() {
    let faulty = Faulty::new(memory("commit"));
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let (state, plan) = (State::random(&small_model(), 1), plan(2, &[3, 5]));
    let parts = write_parts(&store, &state, &plan, 5, 1).await.unwrap();
    let manifest = assemble(&state.config, &plan, 5, &parts).unwrap();
    // An answer that is lost: the second call finds its own manifest.
    faulty.next(Op::PutNew, 1, Fault::Lost(StoreErrorKind::Unavailable));
    assert!(commit(&store, &manifest).await.is_err());
    commit(&store, &manifest).await.unwrap();
    let mut other = manifest.clone();
    other.created_unix_ms += 1;
    let error = commit(&store, &other).await.unwrap_err();
    assert!(
        matches!(&error, StateError::Taken { writer, .. } if *writer == manifest.writer),
        "{error}"
    );
    // A conflict that leaves nothing (the other writer failed) is tried again.
    store.delete(&[manifest_key(5)]).await.unwrap();
    faulty.next(Op::PutNew, 2, Fault::Fail(StoreErrorKind::AlreadyExists));
    commit(&store, &manifest).await.unwrap();
    // Files that only the rank's own machine has.
    store
        .delete(&[
            manifest_key(5),
            format!("step-00000005/{}", manifest.files[3].path),
        ])
        .await
        .unwrap();
    let error = commit(&store, &manifest).await.unwrap_err();
    assert!(error.to_string().contains("all machines share"), "{error}");
    assert!(newest_valid(&store, &|_| Ok(())).await.unwrap().0.is_none());
}

/// The manifest of step 20 as the next plan would write it.
async fn once_more(store: &Arc<dyn Store>, state: &State) -> Manifest {
    let mut plan = plan(3, &[2, 6]);
    plan.epoch.0 += 1;
    let parts = write_parts(store, state, &plan, 20, 3).await.unwrap();
    assemble(&state.config, &plan, 20, &parts).unwrap()
}

#[test]
fn a_damaged_checkpoint_makes_way_for_another_of_its_step_and_its_manifest_is_kept() {
    let harms: [(&str, bool, Harm); 4] = [
        ("a flipped bit of the manifest", false, |dir, _| {
            flip(&dir.join("manifest.json"), 300, 4)
        }),
        ("a missing file", false, |dir, manifest| {
            std::fs::remove_file(a_tensor_file(manifest, dir, "model").1).unwrap();
        }),
        ("a short file", false, |dir, manifest| {
            let (_, path) = a_tensor_file(manifest, dir, "optim");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[1..]).unwrap();
        }),
        ("a flipped bit that a reader found", true, |dir, manifest| {
            flip(&a_tensor_file(manifest, dir, "model").1, 5_000, 1);
        }),
    ];
    for (what, known, harm) in harms {
        let (dir, disk, states) = two_steps();
        let before = disk.checkpoint(20).unwrap().manifest().clone();
        harm(&step20(&dir), &before);
        let damaged = std::fs::read(step20(&dir).join("manifest.json")).unwrap();
        let next = disk.run(once_more(disk.store(), &states[1]));
        let aside = disk.run(commit_over_damaged(disk.store(), &next, known)).unwrap();
        let aside = aside.unwrap_or_else(|| panic!("{what}: nothing was put aside"));
        assert_eq!(
            std::fs::read(aside.trim_start_matches("file://")).unwrap(),
            damaged,
            "{what}"
        );
        let (found, refused) = disk.newest_valid(&|_| Ok(())).unwrap();
        assert_eq!(found.unwrap().manifest(), &next, "{what}: {refused:?}");
        // An answer that was lost: it is there, and there is nothing more to move.
        assert_eq!(
            disk.run(commit_over_damaged(disk.store(), &next, known)).unwrap(),
            None,
            "{what}"
        );
    }
}

#[test]
fn a_sound_checkpoint_and_one_of_a_newer_version_stay_as_they_are() {
    let harms: [(&str, Harm); 2] = [
        ("sound", |_, _| {}),
        ("newer", |dir, _| {
            change(&dir.join("manifest.json"), |value| {
                value["schema_version"] = json!(99)
            });
        }),
    ];
    for (what, harm) in harms {
        let (dir, disk, states) = two_steps();
        let before = disk.checkpoint(20).unwrap().manifest().clone();
        harm(&step20(&dir), &before);
        let there = std::fs::read(step20(&dir).join("manifest.json")).unwrap();
        let next = disk.run(once_more(disk.store(), &states[1]));
        let error = disk
            .run(commit_over_damaged(disk.store(), &next, false))
            .unwrap_err();
        assert!(matches!(error, StateError::Taken { .. }), "{what}: {error}");
        assert_eq!(
            std::fs::read(step20(&dir).join("manifest.json")).unwrap(),
            there,
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_store_that_fails_amid_putting_aside_leaves_the_manifest_in_one_place_at_least() {
    let faults = [
        (Op::PutNew, Fault::Fail(StoreErrorKind::Unavailable)),
        (Op::PutNew, Fault::Lost(StoreErrorKind::Unavailable)),
        (Op::Delete, Fault::Fail(StoreErrorKind::Unavailable)),
        (Op::Delete, Fault::Lost(StoreErrorKind::Unavailable)),
    ];
    for (number, (op, fault)) in faults.into_iter().enumerate() {
        let faulty = Faulty::new(memory(&format!("aside-{number}")));
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let state = State::random(&small_model(), 20);
        write_checkpoint(&store, &state, &plan(2, &[4, 4]), 20)
            .await
            .unwrap();
        let next = once_more(&store, &state).await;
        if op == Op::PutNew {
            // The first write is the commit that finds the step taken, the second the copy.
            faulty.next(op, 1, Fault::Delay(Duration::ZERO));
        }
        faulty.next(op, 1, fault);
        assert!(commit_over_damaged(&store, &next, true).await.is_err());
        let manifests = store.list("").await.unwrap();
        assert!(manifests.iter().any(|entry| entry.key.ends_with("manifest.json")));
        commit_over_damaged(&store, &next, true).await.unwrap();
        let found = newest_valid(&store, &|_| Ok(())).await.unwrap().0;
        assert_eq!(found.unwrap().manifest(), &next);
    }
}
