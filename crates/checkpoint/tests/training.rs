//! Training that is saved while it goes on, to a store slower than it: what is written is the state as it was frozen,
//! and the run gives the same bits as one that saves nothing.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

use std::sync::Arc;
use std::time::Duration;

use rekindle_checkpoint::format::{Span, writer_name};
use rekindle_checkpoint::store::{Faulty, Store, open};
use rekindle_checkpoint::testing::{NOW, assemble, plan};
use rekindle_checkpoint::{
    Blocking, Capture, Held, HeldPart, Location, Outcome, Writer, WriterOptions, commit,
};
use rekindle_compute::{ComputeError, Cpu, Frozen};
use rekindle_model::{AdamW, EngineError, Stage, StageInput, StageSpec, StateDigest};
use rekindle_types::{ModelConfig, Numerics, RankId, Recompute};

const LONG: Duration = Duration::from_secs(120);
const STEPS: u64 = 5;

/// What a trainer wraps frozen state in.
struct HeldState<F>(F);

impl<F: Frozen> Held for HeldState<F> {
    fn bytes(&self) -> Result<&[u8], String> {
        self.0.bytes().map_err(|e| e.to_string())
    }
}

fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 48,
        intermediate_size: 100,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 24,
        vocab_size: 301,
        max_position_embeddings: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        initializer_range: 0.05,
    }
}

fn stage(pool: u64) -> Stage<Cpu<f32>> {
    let spec = StageSpec {
        model: model(),
        layers: 0..5,
        micro_batch: 2,
        seq_len: 12,
        numerics: Numerics::Exact,
        recompute: Recompute::None,
        tokens_per_step: 24,
        lane: 0,
        lanes: 1,
        optimizer: AdamW {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
        },
    };
    let mut stage = Stage::new(Arc::new(Cpu::new(2).unwrap()), spec).unwrap();
    stage.init_weights(9).unwrap();
    assert!(stage.reserve_for_checkpoints(pool).unwrap() <= pool);
    stage
}

fn backward(stage: &mut Stage<Cpu<f32>>, step: u64) {
    let tokens: Vec<u32> = (0..25).map(|i| (i * 7 + step as u32 * 13) % 301).collect();
    stage
        .forward(0, StageInput::Tokens(&tokens[..24]), Some(&tokens[1..]))
        .unwrap();
    stage.backward(0, None, &mut |_, _| {}).unwrap();
    stage.finish_gradients().unwrap();
}

fn update(stage: &mut Stage<Cpu<f32>>, step: u64) {
    for layer in stage.layers() {
        stage.update(layer, step, 1e-2, 1.0).unwrap();
    }
}

fn capture(stage: &Stage<Cpu<f32>>, step: u64) -> Capture {
    let part = |part: rekindle_model::FrozenPart<Cpu<f32>>| HeldPart {
        span: Span::new(
            part.layer,
            part.kind,
            part.range.start as u64..part.range.end as u64,
        ),
        held: Arc::new(HeldState(part.frozen)),
        digests: part.digests,
    };
    let plan = plan(1, &[5]);
    Capture {
        step,
        writer: writer_name(&plan.job, plan.epoch, NOW),
        rank: RankId(0),
        lane: None,
        model: Arc::new(model()),
        parts: stage.freeze_state().unwrap().into_iter().map(part).collect(),
    }
}

fn state_bytes() -> u64 {
    12 * model().parameters()
}

fn slow(name: &str) -> (Faulty, Arc<dyn Store>) {
    let memory = open(&Location::parse(&format!("memory://training-{name}")).unwrap()).unwrap();
    let faulty = Faulty::new(memory);
    // A capture takes a tenth of a second: longer than a step.
    faulty.bandwidth(Some(10 * state_bytes()));
    (faulty.clone(), Arc::new(faulty))
}

fn options() -> WriterOptions {
    WriterOptions {
        part_bytes: 64 << 10,
        parts_at_once: 2,
        uploads: 2,
        group_bytes: 1,
        captures: 3,
        ..WriterOptions::default()
    }
}

fn plain() -> Vec<StateDigest> {
    let mut stage = stage(0);
    (1..=STEPS)
        .map(|step| {
            backward(&mut stage, step);
            update(&mut stage, step);
            stage.digest().unwrap()
        })
        .collect()
}

#[test]
fn captures_of_a_slow_store_are_the_states_that_were_frozen() {
    let want = plain();
    let layer = 12 * model().layout(rekindle_types::LayerId::Block(0)).numel() as u64;
    // Nothing, less than a layer, one layer, more than one state.
    for pool in [0, layer - 1, layer, 3 * state_bytes()] {
        let (_, store) = slow(&format!("pool-{pool}"));
        let writer = Writer::start(Arc::clone(&store), options()).unwrap();
        let mut stage = stage(pool);
        let mut waited = Duration::ZERO;
        for step in 1..=STEPS {
            // Digests of some steps come with the state, those of the others are made by the writer.
            stage.set_hashing(step % 2 == 1);
            backward(&mut stage, step);
            update(&mut stage, step);
            waited += stage.take_update_wait();
            assert_eq!(
                stage.digest().unwrap(),
                want[step as usize - 1],
                "pool {pool}, step {step}"
            );
            assert!(writer.wait_for_room(LONG));
            writer.begin(capture(&stage, step)).unwrap();
        }
        println!("pool {pool}: updates waited {waited:?}");
        let outcomes = writer.finish(LONG);
        assert_eq!(
            outcomes.iter().map(Outcome::step).collect::<Vec<_>>(),
            (1..=STEPS).collect::<Vec<_>>()
        );
        let disk = Blocking::with_store(Arc::clone(&store)).unwrap();
        for outcome in outcomes {
            let Outcome::Durable(part) = outcome else {
                panic!("{outcome:?}")
            };
            let step = part.step;
            let manifest = assemble(&model(), &plan(1, &[5]), step, &[part]).unwrap();
            assert_eq!(
                manifest.state_digest,
                want[step as usize - 1],
                "pool {pool}, step {step}"
            );
            disk.run(commit(&store, &manifest)).unwrap();
            let verdict = disk.checkpoint(step).unwrap().verify(None).unwrap();
            assert!(verdict.is_good() && verdict.state_digest == want[step as usize - 1]);
        }
    }
}

/// A store that never answers: the update says what it waits for, the trainer gives the capture up, and the same
/// update goes on.
#[test]
fn a_capture_that_is_stuck_can_be_given_up_for_the_update() {
    let want = plain();
    let (faults, store) = slow("stuck");
    faults.bandwidth(Some(1));
    let writer = Writer::start(store, options()).unwrap();
    let mut stage = stage(0);
    backward(&mut stage, 1);
    update(&mut stage, 1);
    let ticket = writer.begin(capture(&stage, 1)).unwrap();
    backward(&mut stage, 2);
    stage.set_update_patience(Duration::from_millis(20));
    let first = stage.layers()[0];
    let error = stage.update(first, 2, 1e-2, 1.0).unwrap_err();
    assert!(
        matches!(error, EngineError::Compute(ComputeError::StillFrozen { .. })),
        "{error}"
    );
    writer.abandon(ticket, "the next update can't wait");
    stage.set_update_patience(LONG);
    update(&mut stage, 2);
    assert_eq!(stage.digest().unwrap(), want[1]);
    assert!(matches!(
        &writer.finish(LONG)[..],
        [Outcome::Failed { step: 1, .. }]
    ));
}
