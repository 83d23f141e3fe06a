//! Comparing checkpoints, and the way from and to Hugging Face folders.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use std::path::Path;

use rekindle_checkpoint::catalog::{ImportOptions, diff, export_hf, import_hf};
use rekindle_checkpoint::format::Span;
use rekindle_checkpoint::testing::{State, plan, write_checkpoint};
use rekindle_checkpoint::{Blocking, Checkpoint, HfModel, StateError};
use rekindle_types::{JobId, LayerId, ModelConfig, StateKind};
use support::{folder, memory, same_bits, tiny_model};

#[test]
fn differences_are_found_and_measured() {
    let disk = Blocking::with_store(memory("catalog-diff")).unwrap();
    let mut state = State::random(&tiny_model(), 1);
    for layer in state.config.layers() {
        for kind in StateKind::ALL {
            state.get_mut(layer, kind).fill(0.5);
        }
    }
    disk.run(write_checkpoint(disk.store(), &state, &plan(2, &[2, 2]), 10))
        .unwrap();
    // The same state, cut otherwise.
    disk.run(write_checkpoint(disk.store(), &state, &plan(1, &[3, 1]), 20))
        .unwrap();
    let head = state.get_mut(LayerId::Head, StateKind::ExpAvg);
    (head[0], head[5000], head[9000]) = (0.75, -0.5, 0.25);
    disk.run(write_checkpoint(disk.store(), &state, &plan(1, &[4]), 30))
        .unwrap();
    let [a, b, c] = [10, 20, 30].map(|step| disk.checkpoint(step).unwrap());
    let same = diff(&a, &b, true).unwrap();
    assert!(
        same.same_state() && same.topology.is_some() && same.keys == Default::default(),
        "{same:?}"
    );
    assert_eq!(same.layers.len(), 4 * 3);
    let other = diff(&a, &c, true).unwrap();
    let changed: Vec<_> = other
        .layers
        .iter()
        .filter(|layer| layer.same != Some(true))
        .collect();
    assert_eq!(
        (changed.len(), changed[0].layer, changed[0].kind),
        (1, LayerId::Head, StateKind::ExpAvg)
    );
    let values = changed[0].values.unwrap();
    assert_eq!(
        (values.elements, values.differing, values.largest),
        (32 + 300 * 32, 3, 1.0)
    );
    assert!(
        diff(&a, &c, false)
            .unwrap()
            .layers
            .iter()
            .all(|layer| layer.values.is_none())
    );
    // Another model: what has no counterpart is neither the same nor different.
    let bigger = ModelConfig {
        num_hidden_layers: 3,
        vocab_size: 301,
        ..tiny_model()
    };
    disk.run(write_checkpoint(
        disk.store(),
        &State::random(&bigger, 1),
        &plan(1, &[5]),
        40,
    ))
    .unwrap();
    let other = diff(&a, &disk.checkpoint(40).unwrap(), true).unwrap();
    let of = |layer| {
        other
            .layers
            .iter()
            .find(|l| l.layer == layer && l.kind == StateKind::Weights)
            .unwrap()
    };
    assert_eq!(
        (of(LayerId::Block(2)).same, of(LayerId::Embed).same),
        (None, None)
    );
    assert!(of(LayerId::Block(1)).same == Some(false) && of(LayerId::Block(1)).values.is_some());
    assert_eq!(other.keys.refused.len(), 2);
}

fn exported(checkpoint: &Checkpoint, folder: &Path) -> HfModel {
    let mut told = Vec::new();
    export_hf(checkpoint, folder, "bytes", &mut |done, all| {
        told.push((done, all))
    })
    .unwrap();
    let layers = checkpoint.manifest().model.layers().count();
    assert_eq!(told.last(), Some(&(layers, layers)));
    HfModel::open(folder).unwrap()
}

#[test]
fn weights_go_to_hugging_face_and_come_back() {
    for tie_word_embeddings in [false, true] {
        let model = ModelConfig {
            tie_word_embeddings,
            ..tiny_model()
        };
        let disk = Blocking::with_store(memory(&format!("catalog-hf-{tie_word_embeddings}"))).unwrap();
        let state = State::random(&model, 1);
        disk.run(write_checkpoint(disk.store(), &state, &plan(3, &[1, 2, 1]), 10))
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let hf = exported(&disk.checkpoint(10).unwrap(), dir.path());
        for layer in model.layers() {
            assert!(same_bits(
                &hf.read_layer(layer).unwrap(),
                state.get(layer, StateKind::Weights)
            ));
        }
        let options = ImportOptions {
            job: JobId::new("import").unwrap(),
            now_unix_ms: 7,
        };
        let (_kept, back) = folder();
        for store in [memory(&format!("catalog-hf-back-{tie_word_embeddings}")), back] {
            let disk = Blocking::with_store(store).unwrap();
            let manifest = disk
                .run(import_hf(dir.path(), disk.store(), &options, &mut |_, _| {}))
                .unwrap();
            assert_eq!((manifest.step, manifest.tokens, &manifest.recipe), (0, 0, &None));
            let checkpoint = disk.checkpoint(0).unwrap();
            assert!(checkpoint.verify(None).unwrap().is_good());
            for layer in model.layers() {
                for kind in StateKind::ALL {
                    let span = Span::new(layer, kind, 0..model.layout(layer).numel() as u64);
                    let mut values = vec![f32::NAN; span.len() as usize];
                    checkpoint
                        .read_into(&mut [(span.clone(), &mut values)], &Default::default())
                        .unwrap();
                    match kind {
                        StateKind::Weights => assert!(same_bits(&values, state.of(&span))),
                        _ => assert!(values.iter().all(|value| value.to_bits() == 0)),
                    }
                }
            }
            let again = disk.run(import_hf(dir.path(), disk.store(), &options, &mut |_, _| {}));
            assert!(matches!(again, Err(StateError::Taken { .. })));
        }
    }
}
