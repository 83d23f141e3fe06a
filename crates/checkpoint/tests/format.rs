//! Manifests from parts, and what parts are refused; headers as other libraries see them; what differs between a
//! checkpoint and a job.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use rekindle_checkpoint::FormatError;
use rekindle_checkpoint::format::{ALIGN, FileLayout, Manifest, SCHEMA_VERSION, Span, check_header, pieces};
use rekindle_checkpoint::testing::{NOW, State, assemble, plan, spec, write_parts};
use rekindle_types::{CheckpointPart, Epoch, LayerId, ModelConfig, Plan, RankId, StateDigest, StateKind};
use safetensors::SafeTensors;
use support::{memory, tiny_model};

async fn parts(name: &str, state: &State, plan: &Plan) -> Vec<CheckpointPart> {
    write_parts(&memory(name), state, plan, 9, 1).await.unwrap()
}

#[tokio::test]
async fn parts_that_make_no_checkpoint_are_refused() {
    let (state, plan) = (State::random(&tiny_model(), 1), plan(2, &[2, 2]));
    let good = parts("refused-parts", &state, &plan).await;
    assert_eq!(
        assemble(&state.config, &plan, 9, &good).unwrap().state_digest,
        state.digest()
    );
    let refused = |what: &str, why: &str, change: &dyn Fn(&mut Vec<CheckpointPart>)| {
        let mut parts = good.clone();
        change(&mut parts);
        let error = assemble(&state.config, &plan, 9, &parts).unwrap_err();
        assert!(
            matches!(error, FormatError::Parts(_)) && error.to_string().contains(why),
            "{what}: {error}"
        );
    };
    refused("a rank is missing", "rank 2 is missing", &|parts| {
        drop(parts.remove(2))
    });
    refused("a rank twice", "rank 1 is there twice", &|parts| {
        parts.push(parts[1].clone())
    });
    refused("a foreign rank", "rank 7", &|parts| parts[0].rank = RankId(7));
    refused("another step", "wrote step 8", &|parts| parts[3].step = 8);
    refused("a file is missing", "lack element", &|parts| {
        drop(parts[0].files.remove(0))
    });
    refused("a section is there twice", "there twice", &|parts| {
        let mut copy = parts[0].files[0].clone();
        copy.path = copy.path.replace(".safetensors", "-copy.safetensors");
        parts[1].files.push(copy);
    });
    refused("another writer's file", "folder of the writer", &|parts| {
        parts[0].files[0].path = parts[0].files[0].path.replace("test-1-e3", "test-1-e2");
    });
    refused("a way out", "starts with a dot", &|parts| {
        let path = &mut parts[0].files[0].path;
        *path = format!("{}/../../x", path.split('/').next().unwrap());
    });
    refused("a gap in a file", "not", &|parts| {
        parts[1].files[1].sections[1].offset += 4
    });
    refused("a short file", "its sections end at", &|parts| {
        parts[0].files[0].bytes -= 4
    });
    refused("an odd header", "multiple of 8", &|parts| {
        parts[0].files[0].header_bytes += 1
    });
    refused("a digest is missing", "digests for", &|parts| {
        parts[0].files[0].sections[0].digests.truncate(0)
    });
    refused("not of whole blocks", "whole blocks", &|parts| {
        let file = &mut parts[0].files[0];
        file.sections[0].end -= 1;
        file.bytes -= 4;
    });
    refused("more than the layer has", "the layer has", &|parts| {
        let file = parts[2].files.last_mut().unwrap();
        file.sections.last_mut().unwrap().end += 4;
        file.bytes += 16;
    });
    refused("a layer the model hasn't", "the model has 2 blocks", &|parts| {
        parts[1].files[0].sections[0].layer = LayerId::Block(2);
    });
    refused("an unknown type", "unknown type F8", &|parts| {
        parts[0].files[0].dtype = "F8".to_owned()
    });
    refused("lengths of any size", "128 digests for", &|parts| {
        let section = &mut parts[0].files[0].sections[0];
        section.start = 0;
        section.end = u64::MAX - 1023;
        section.digests = vec![StateDigest(0); 128];
    });
}

#[tokio::test]
async fn a_manifest_says_where_it_comes_from_and_comes_back_equal() {
    let (state, plan) = (State::random(&tiny_model(), 1), plan(2, &[1, 3]));
    let manifest = assemble(&state.config, &plan, 9, &parts("manifest", &state, &plan).await).unwrap();
    assert_eq!(
        Manifest::from_bytes(&manifest.to_bytes().unwrap()).unwrap(),
        manifest
    );
    assert_eq!(
        (
            manifest.epoch,
            manifest.topology.lanes,
            &manifest.topology.stages[..]
        ),
        (Epoch(3), 2, &[(0, 1), (1, 4)][..])
    );
    assert_eq!(
        (manifest.tokens, manifest.writer.as_str()),
        (9 * 8 * 32, &*format!("test-1-e3-{NOW:x}"))
    );
    let spec = spec(&state.config);
    assert_eq!(Manifest::tokens_at(Some(&manifest), &spec, 12), 12 * 8 * 32);
    assert_eq!(
        manifest.total_bytes,
        manifest.files.iter().map(|file| file.bytes).sum::<u64>()
    );
}

/// The first version stays readable: this file is never written again.
#[test]
fn manifests_of_version_1_are_read() {
    let bytes = include_bytes!("data/manifest-v1.json");
    let manifest = Manifest::from_bytes(bytes).unwrap();
    assert_eq!((manifest.schema_version, manifest.step), (1, 9));
    assert_eq!(manifest.model, tiny_model());
    assert_eq!(
        manifest.to_bytes().unwrap(),
        bytes,
        "what is written changed; raise the version if readers can't ignore it"
    );
    assert_eq!(SCHEMA_VERSION, 1);
}

#[test]
fn headers_are_read_by_the_library_and_start_data_at_a_page() {
    let model = tiny_model();
    let numel = |layer| model.layout(layer).numel() as u64;
    let block = |kind, range| Span::new(LayerId::Block(1), kind, range);
    let end = numel(LayerId::Block(1));
    let lists = [
        vec![Span::new(
            LayerId::Embed,
            StateKind::Weights,
            0..numel(LayerId::Embed),
        )],
        vec![
            block(StateKind::ExpAvg, 1024..2048),
            block(StateKind::ExpAvgSq, 0..1024),
            block(StateKind::ExpAvgSq, 2048..end),
        ],
        vec![
            block(StateKind::Weights, 0..end),
            Span::new(LayerId::Head, StateKind::Weights, 0..numel(LayerId::Head)),
        ],
    ];
    for spans in lists {
        let layout = FileLayout::new(&model, 50, "test-1-e3-abc", &spans).unwrap();
        assert!(layout.header.len().is_multiple_of(ALIGN));
        let mut file = layout.header.clone();
        file.resize(layout.bytes as usize, 0);
        let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
        let about = metadata.metadata().clone().unwrap();
        assert_eq!(
            (
                about["format"].as_str(),
                about["step"].as_str(),
                about["writer"].as_str()
            ),
            ("pt", "50", "test-1-e3-abc")
        );
        let names: Vec<_> = spans.iter().flat_map(|span| pieces(&model, span)).collect();
        let opened = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(opened.len(), names.len());
        for piece in &names {
            let tensor = opened.tensor(&piece.name).unwrap();
            assert_eq!(tensor.shape(), piece.shape);
            assert_eq!(
                tensor.data().len() as u64,
                (piece.elements.end - piece.elements.start) * 4
            );
            assert_eq!(
                about.get(&piece.name),
                piece
                    .piece_of
                    .as_ref()
                    .map(|whole| format!("{whole:?}").replace(' ', ""))
                    .as_ref()
            );
        }
        let digests = layout
            .sections
            .iter()
            .map(|s| vec![StateDigest(0); s.chunk_count() as usize])
            .collect();
        let header = layout.header.clone();
        let entry = layout.entry("w/model/x.safetensors", digests).unwrap();
        check_header(&header, &model, &entry).unwrap();
        let other = ModelConfig {
            intermediate_size: 25,
            vocab_size: 301,
            ..model.clone()
        };
        check_header(&header, &other, &entry).unwrap_err();
        let mut fewer = entry.clone();
        fewer.sections.pop();
        assert!(
            check_header(&header, &model, &fewer)
                .unwrap_err()
                .to_string()
                .contains("w/model/x.safetensors")
        );
    }
}

#[test]
fn files_that_cannot_be_are_refused() {
    let model = tiny_model();
    let weights = |range| Span::new(LayerId::Block(0), StateKind::Weights, range);
    for (spans, why) in [
        (vec![], "hold something"),
        (vec![weights(0..1000)], "whole blocks"),
        (vec![weights(1..1024)], "whole blocks"),
        (vec![weights(1024..1024)], "the layer has"),
        (vec![weights(0..1 << 30)], "the layer has"),
        (vec![weights(0..2048), weights(1024..2048)], "there twice"),
        (
            vec![Span::new(LayerId::Block(9), StateKind::Weights, 0..1024)],
            "2 blocks",
        ),
    ] {
        let error = FileLayout::new(&model, 1, "w", &spans).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let layout = FileLayout::new(&model, 1, "w", &[weights(0..1024)]).unwrap();
    assert!(layout.entry("w/model/x.safetensors", vec![]).is_err());
}

#[tokio::test]
async fn what_a_job_does_otherwise_is_named() {
    let (state, plan) = (State::random(&tiny_model(), 1), plan(1, &[4]));
    let manifest = assemble(&state.config, &plan, 9, &parts("otherwise", &state, &plan).await).unwrap();
    let same = spec(&state.config);
    let found = manifest.differences(&same);
    assert!(found.refused.is_empty() && found.noted.is_empty(), "{found:?}");
    let mut other = same.clone();
    other.job.seed = 8;
    other.job.output = "elsewhere".to_owned();
    other.optimizer.lr = 0.002;
    other.training.steps = 99;
    other.data.train = vec!["b.txt".to_owned()];
    other.model.initializer_range = 0.1;
    let found = manifest.differences(&other);
    assert!(found.refused.is_empty(), "{found:?}");
    assert_eq!(
        found.noted,
        [
            "model.initializer_range: 0.02 in the checkpoint, 0.1 here",
            "data.train: [\"a.txt\"] in the checkpoint, [\"b.txt\"] here",
            "optimizer.lr: 0.001 in the checkpoint, 0.002 here",
            "job.seed: 7 in the checkpoint, 8 here",
            "training.steps: 10 in the checkpoint, 99 here",
        ]
    );
    let mut foreign = same;
    foreign.model.hidden_size = 64;
    foreign.model.rope_theta = 5e5;
    foreign.training.numerics = rekindle_types::Numerics::Fast;
    let found = manifest.differences(&foreign);
    assert_eq!(
        found.refused,
        [
            "model.hidden_size: 32 in the checkpoint, 64 here",
            "model.rope_theta: 10000.0 in the checkpoint, 500000.0 here",
            "training.numerics: \"exact\" in the checkpoint, \"fast\" here",
        ]
    );
}
