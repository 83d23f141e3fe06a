//! AdamW on the device: a launch for each run of parts that decay alike.

use std::ops::Range;

use super::super::driver::Arg;
use super::super::kernels::SUM_THREADS;
use super::buffer::{Operand, stored};
use super::sums::fours;
use super::{Cuda, CudaBuffer, CudaSums};
use crate::cpu::Factors;
use crate::operands::{adam_cover, expect_len};
use crate::{AdamPart, AdamSource, AdamStep, AdamTarget, Result, View, ViewMut};

/// A state's buffer: where its values are, and where they go.
struct Moved {
    from: Operand,
    to: Operand,
}

impl Moved {
    fn args(&self, skip: usize) -> [Arg; 2] {
        let skip = (skip * size_of::<f32>()) as u64;
        [Arg::At(self.from.at + skip), Arg::At(self.to.at + skip)]
    }
}

/// Runs of elements that decay alike.
fn runs(parts: &[AdamPart]) -> Vec<(Range<usize>, f64)> {
    let mut runs: Vec<(Range<usize>, f64)> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some((range, decay)) if *decay == part.weight_decay => range.end = part.end,
            Some((Range { end, .. }, _)) => {
                let start = *end;
                runs.push((start..part.end, part.weight_decay));
            }
            None => runs.push((0..part.end, part.weight_decay)),
        }
    }
    runs.retain(|(range, _)| !range.is_empty());
    runs
}

impl Cuda {
    fn moved(
        &self,
        what: &'static str,
        target: &ViewMut<'_, CudaBuffer>,
        source: Option<View<'_, CudaBuffer>>,
        len: usize,
    ) -> Result<Moved> {
        let to = self.overwrites_state("adamw", target)?;
        let from = source.map_or(Ok(to), |view| stored("adamw", &view))?;
        expect_len("adamw", what, to.len, len)?;
        expect_len("adamw", what, from.len, len)?;
        Ok(Moved { from, to })
    }

    pub(super) fn step_adamw(
        &self,
        target: &AdamTarget<'_, CudaBuffer>,
        source: AdamSource<'_, CudaBuffer>,
        sums: &mut CudaSums,
        at: &Range<usize>,
        step: &AdamStep,
        parts: &[AdamPart],
    ) -> Result<()> {
        sums.check("adamw", at)?;
        adam_cover(parts, at.len())?;
        let weights = self.moved("weights", &target.weights, source.weights, at.len())?;
        let avg = self.moved("exp_avg", &target.exp_avg, source.exp_avg, at.len())?;
        let square = self.moved("exp_avg_sq", &target.exp_avg_sq, source.exp_avg_sq, at.len())?;
        let rounded = target.weights.buffer.rounded(&target.weights.range);
        let kernel = self.code.plain(&format!("adamw{}", sums.suffix()))?;
        let [unit, tokens] = sums.mean_args(step.tokens);
        for (range, decay) in runs(parts) {
            let ([w, w_to], [m, m_to], [v, v_to]) = (
                weights.args(range.start),
                avg.args(range.start),
                square.args(range.start),
            );
            let args = [
                w,
                m,
                v,
                w_to,
                m_to,
                v_to,
                Arg::At(rounded.map_or(0, |r| r.at + (range.start * r.element.bytes()) as u64)),
                Arg::At(sums.at(at.start + range.start)),
                Arg::Len(range.len() as u64),
                unit,
                tokens,
                Arg::Factors(Factors::new(step, decay).all()),
            ];
            self.stream
                .launch(kernel, fours(range.len()), SUM_THREADS, 0, &args)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_decay_alike_are_one_run() {
        let part = |end, weight_decay| AdamPart { end, weight_decay };
        let parts = [
            part(0, 0.1),
            part(4, 0.0),
            part(10, 0.1),
            part(20, 0.1),
            part(20, 0.0),
            part(25, 0.2),
        ];
        assert_eq!(runs(&parts), [(0..4, 0.0), (4..20, 0.1), (20..25, 0.2)]);
        assert_eq!(runs(&[]), []);
    }
}
