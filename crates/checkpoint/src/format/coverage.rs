//! Whether runs of elements make up a model's state: every element of every kind of every layer, once.

use std::collections::BTreeMap;
use std::ops::Range;

use rekindle_types::{BLOCK, LayerId, ModelConfig, StateKind};

use super::Span;

type Outcome = Result<(), String>;

/// Names a span for a person.
fn named(span: &Span) -> String {
    format!(
        "{} of {}, elements {}..{}",
        span.kind, span.layer, span.start, span.end
    )
}

/// A span of whole blocks inside a layer that the model has.
pub(super) fn check_span(config: &ModelConfig, span: &Span) -> Outcome {
    if let LayerId::Block(n) = span.layer
        && n >= config.num_hidden_layers
    {
        return Err(format!(
            "{}: the model has {} blocks",
            named(span),
            config.num_hidden_layers
        ));
    }
    let numel = config.layout(span.layer).numel() as u64;
    let block = BLOCK as u64;
    if span.is_empty() || span.end > numel {
        return Err(format!("{}: the layer has {numel}", named(span)));
    }
    if !span.start.is_multiple_of(block) || !(span.end.is_multiple_of(block) || span.end == numel) {
        return Err(format!("{}: not of whole blocks of {block}", named(span)));
    }
    Ok(())
}

fn sorted(spans: &[Span]) -> BTreeMap<(LayerId, StateKind), Vec<Range<u64>>> {
    let mut runs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for span in spans {
        runs.entry((span.layer, span.kind))
            .or_default()
            .push(span.range());
    }
    for ranges in runs.values_mut() {
        ranges.sort_by_key(|range| (range.start, range.end));
    }
    runs
}

/// No element twice.
pub(super) fn check_apart(spans: &[Span]) -> Outcome {
    for ((layer, kind), ranges) in sorted(spans) {
        if let Some(pair) = ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
            return Err(format!(
                "elements {:?} of {kind} of {layer} are there twice",
                overlap(pair)
            ));
        }
    }
    Ok(())
}

fn overlap(pair: &[Range<u64>]) -> Range<u64> {
    pair[1].start..pair[0].end.min(pair[1].end)
}

/// Everything, once. Each span was checked by [`check_span`].
pub(super) fn check_whole(config: &ModelConfig, spans: &[Span]) -> Outcome {
    // Before anything is done for each layer of a model whose size is only claimed.
    let layers = config.num_hidden_layers as usize + 2;
    if spans.len() < layers {
        return Err(format!(
            "{} sections lack element 0 of some of {layers} layers",
            spans.len()
        ));
    }
    check_apart(spans)?;
    let runs = sorted(spans);
    for layer in config.layers() {
        let numel = config.layout(layer).numel() as u64;
        for kind in StateKind::ALL {
            let mut next = 0;
            for range in runs.get(&(layer, kind)).into_iter().flatten() {
                if range.start > next {
                    break;
                }
                next = range.end;
            }
            if next < numel {
                return Err(format!("{kind} of {layer} lack element {next} (of {numel})"));
            }
        }
    }
    Ok(())
}
