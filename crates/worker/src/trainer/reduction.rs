//! From a layer's gradient in this lane to the reduced gradient of what this rank owns of it, which its guard gets at
//! once.
//!
//! ```text
//!   backward of the last micro-batch:  is_final(layer)  -> parts of the other lanes leave; of all layers so far, parts that have come are added;
//!                                                          what is complete leaves for the guard
//!   after it:                          finish()         -> waits for the rest
//! ```
//!
//! So both transfers hide behind the backward of earlier layers. Nothing here waits for a peer while this rank still
//! has to compute, but for room to send.
//!
//! Invariant
//! - WK-9 The parts of a layer are added in the order of lanes, so sums of floats don't depend on when they came.

use std::collections::VecDeque;
use std::ops::Range;

use rekindle_compute::AnyDevice;
use rekindle_model::GradientSums;
use rekindle_types::{LayerId, RankId};

use super::TrainerError;
use super::context::{Context, SharedTransport};
use super::lanes::Lanes;
use super::shadow::send_gradient;

/// One step's reduction on one rank.
pub struct Reduction<'a> {
    context: &'a Context,
    transport: &'a SharedTransport,
    step: u64,
    /// Layers that this rank owns something of, final here, with the lanes whose parts haven't been added.
    incomplete: Vec<(LayerId, VecDeque<RankId>)>,
}

impl<'a> Reduction<'a> {
    /// Of step `step`.
    #[must_use]
    pub fn new(context: &'a Context, transport: &'a SharedTransport, step: u64) -> Self {
        Self {
            context,
            transport,
            step,
            incomplete: Vec::new(),
        }
    }

    /// This lane's gradient of `layer` is complete.
    ///
    /// # Errors
    /// [`TrainerError`] when a peer is lost, or its part doesn't fit.
    pub fn is_final(
        &mut self,
        sums: &mut GradientSums<AnyDevice>,
        layer: LayerId,
    ) -> Result<(), TrainerError> {
        let (context, transport) = (self.context, self.transport);
        let bytes = |range: Range<usize>| Ok(sums.bytes(layer, range)?.into_owned());
        Lanes { context, transport }.send_gradient(self.step, layer, &bytes)?;
        if !context.owned(layer).is_empty() {
            let lanes = context.other_lanes().map(|(_, id)| id).collect();
            self.incomplete.push((layer, lanes));
        }
        self.add(sums, false)
    }

    /// All layers were final here: waits for the other lanes. Afterwards the own shard's gradients are complete.
    ///
    /// # Errors
    /// As [`Reduction::is_final`].
    pub fn finish(mut self, sums: &mut GradientSums<AnyDevice>) -> Result<(), TrainerError> {
        self.add(sums, true)
    }

    fn add(&mut self, sums: &mut GradientSums<AnyDevice>, wait: bool) -> Result<(), TrainerError> {
        let (context, transport, step) = (self.context, self.transport, self.step);
        let lanes = Lanes { context, transport };
        for (layer, missing) in &mut self.incomplete {
            while let Some(from) = missing.front().copied() {
                if !lanes.add_gradient(sums, (step, *layer), from, wait)? {
                    break;
                }
                missing.pop_front();
            }
            if missing.is_empty() {
                send_gradient(context, transport, sums, (step, *layer))?;
            }
        }
        self.incomplete.retain(|(_, missing)| !missing.is_empty());
        Ok(())
    }
}
