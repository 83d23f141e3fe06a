//! A micro-batch that visits embedding, blocks and head of a stage one after the other computes the bits of one that
//! goes through the whole stage.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use rekindle_compute::Cpu;
use rekindle_model::{EngineError, Stage, StageInput, StageOutput};
use rekindle_types::{LayerId, Part, Recompute};
use support::{Cluster, Shape, samples, small_model};

type Engine = Stage<Cpu<f32>>;

fn engine(recompute: Recompute) -> Engine {
    let shape = Shape {
        recompute,
        ..Shape::single(small_model(false))
    };
    let mut cluster = Cluster::<f32>::new(shape);
    cluster.stages.remove(0).remove(0)
}

fn tokens(engine: &Engine, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let spec = engine.spec();
    let all = samples(
        seed,
        spec.micro_batch as usize,
        spec.seq_len as usize + 1,
        spec.model.vocab_size,
    );
    let rows = |from: usize| {
        all.iter()
            .flat_map(|s| &s[from..s.len() - 1 + from])
            .copied()
            .collect()
    };
    (rows(0), rows(1))
}

fn activations(output: StageOutput<'_, f32>) -> Vec<f32> {
    match output {
        StageOutput::Activations(values) => values.into_owned(),
        StageOutput::Loss { .. } => panic!("a loss"),
    }
}

fn forward(engine: &mut Engine, slot: u32, (inputs, targets): &(Vec<u32>, Vec<u32>)) -> f64 {
    let x = activations(
        engine
            .forward_part(slot, Part::Embed, StageInput::Tokens(inputs), None)
            .unwrap(),
    );
    let x = activations(
        engine
            .forward_part(slot, Part::Blocks, StageInput::Activations(&x), None)
            .unwrap(),
    );
    match engine
        .forward_part(slot, Part::Head, StageInput::Activations(&x), Some(targets))
        .unwrap()
    {
        StageOutput::Loss { sum } => sum,
        StageOutput::Activations(_) => panic!("no loss"),
    }
}

fn backward(engine: &mut Engine, slot: u32) -> Vec<LayerId> {
    let mut done = Vec::new();
    let mut gradient: Option<Vec<f32>> = None;
    for part in [Part::Head, Part::Blocks, Part::Embed] {
        let next = engine.backward_part(slot, part, gradient.as_deref(), &mut |_, layer| done.push(layer));
        gradient = next.unwrap().map(std::borrow::Cow::into_owned);
    }
    assert!(
        gradient.is_none(),
        "the embedding has no input that a gradient could be of"
    );
    done
}

#[test]
fn parts_one_after_the_other_have_the_bits_of_the_whole() {
    for recompute in [Recompute::None, Recompute::Block] {
        let (mut whole, mut parts) = (engine(recompute), engine(recompute));
        let all: Vec<_> = (0..3).map(|m| tokens(&whole, m)).collect();
        for (m, batch) in (0..).zip(&all) {
            let StageOutput::Loss { sum } = whole
                .forward(m, StageInput::Tokens(&batch.0), Some(&batch.1))
                .unwrap()
            else {
                panic!("no loss");
            };
            // All are in flight at once, one of them whole.
            let apart = match m {
                1 => match parts
                    .forward(m, StageInput::Tokens(&batch.0), Some(&batch.1))
                    .unwrap()
                {
                    StageOutput::Loss { sum } => sum,
                    StageOutput::Activations(_) => panic!("no loss"),
                },
                m => forward(&mut parts, m, batch),
            };
            assert_eq!(apart.to_bits(), sum.to_bits(), "micro-batch {m}");
        }
        for m in [2, 1, 0] {
            let mut done = Vec::new();
            whole.backward(m, None, &mut |_, layer| done.push(layer)).unwrap();
            if m == 1 {
                parts.backward(m, None, &mut |_, _| {}).unwrap();
            } else {
                assert_eq!(backward(&mut parts, m), done);
            }
        }
        for layer in whole.layers() {
            let numel = whole.spec().model.layout(layer).numel();
            let of = |engine: &Engine| engine.gradient_bytes(layer, 0..numel).unwrap().into_owned();
            assert!(of(&parts) == of(&whole), "{layer}, {recompute:?}");
        }
        assert_eq!(
            parts.memory().activations,
            whole.memory().activations,
            "one slot a micro-batch"
        );
    }
}

#[test]
fn parts_out_of_order_are_refused_and_leave_the_others() {
    let mut engine = engine(Recompute::None);
    let (inputs, targets) = tokens(&engine, 1);
    let refused = |result: Result<(), EngineError>| matches!(result, Err(EngineError::Order { slot: 5, .. }));
    let x = activations(
        engine
            .forward_part(5, Part::Embed, StageInput::Tokens(&inputs), None)
            .unwrap(),
    );
    for part in [Part::Embed, Part::Whole] {
        let again = engine
            .forward_part(5, part, StageInput::Tokens(&inputs), Some(&targets))
            .map(drop);
        assert!(refused(again), "{part:?}");
    }
    let not_yet = engine
        .backward_part(5, Part::Blocks, Some(&x), &mut |_, _| {})
        .map(drop);
    assert!(refused(not_yet));
    let short = engine
        .forward_part(5, Part::Blocks, StageInput::Activations(&x[1..]), None)
        .map(drop);
    assert!(matches!(short, Err(EngineError::Input { .. })), "{short:?}");
    engine
        .forward_part(5, Part::Blocks, StageInput::Activations(&x), None)
        .unwrap();
    engine
        .backward_part(5, Part::Blocks, Some(&x), &mut |_, _| {})
        .unwrap();
    engine
        .backward_part(5, Part::Embed, Some(&x), &mut |_, _| {})
        .unwrap();
    let gone = engine
        .backward_part(5, Part::Embed, Some(&x), &mut |_, _| {})
        .map(drop);
    assert!(refused(gone));
}
