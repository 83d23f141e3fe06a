//! What a loss-aware recovery chooses from: the better of the neighbours by what the model then says of a
//! micro-batch, not by a rule.
//!
//! Copies of the neighbours, blends in several proportions, the blend by gradient norms, and a stage that passes its
//! input through: the even blend with both output projections 0, so that its blocks add nothing at first but can
//! learn. No paper's: beside CheckFree's rule, which is among the candidates, so that on the micro-batch the choice
//! is never worse.

use std::ops::Range;

use rekindle_types::LayerLayout;

use super::{Mix, Source};

/// Shares of the first neighbour that are tried.
const SHARES: [f64; 3] = [0.25, 0.5, 0.75];
/// The matrices that write to the residual stream.
const OUTPUTS: [&str; 2] = ["self_attn.o_proj.weight", "mlp.down_proj.weight"];

/// A state that could stand in.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it is made of.
    pub mix: Mix,
    /// Whether its blocks add nothing: [`outputs`] are 0.
    pub bypass: bool,
}

/// All candidates for a stage with these sources, in the order in which they are tried; of equally good ones the
/// first counts. `weighted` is the blend by the job's rule.
#[must_use]
pub fn candidates(source: Source, weighted: &Mix) -> Vec<Candidate> {
    let (mut mixes, even) = match source {
        Source::Copy(from) => (vec![Mix::copy(from)], Mix::copy(from)),
        Source::Blend(left, right) => {
            let copies = [weighted.clone(), Mix::copy(left), Mix::copy(right)];
            let blends = SHARES.map(|share| Mix::of(left, right, share));
            let mixes = copies.into_iter().chain(blends).collect();
            (mixes, Mix::of(left, right, 0.5))
        }
    };
    let first = mixes[0].clone();
    mixes.retain(|mix| *mix != first);
    mixes.insert(0, first);
    let of = |bypass| move |mix| Candidate { mix, bypass };
    let bypass = of(true)(even);
    mixes.into_iter().map(of(false)).chain([bypass]).collect()
}

/// The elements of a layer that are 0 where its block passes its input through.
#[must_use]
pub fn outputs(layout: &LayerLayout) -> Vec<Range<usize>> {
    let tensors = OUTPUTS.iter().filter_map(|name| layout.tensor(name));
    tensors.map(rekindle_types::TensorSpec::range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_s_own_blend_comes_first_and_nothing_twice() {
        let mixes = |weighted: f64| -> Vec<(Vec<f64>, bool)> {
            let of = |candidate: Candidate| {
                let shares = candidate.mix.parts().iter().map(|part| part.share);
                (shares.collect(), candidate.bypass)
            };
            let all = candidates(Source::Blend(2, 4), &Mix::of(2, 4, weighted));
            all.into_iter().map(of).collect()
        };
        assert_eq!(
            mixes(0.6),
            [
                (vec![0.6, 0.4], false),
                (vec![1.0], false),
                (vec![1.0], false),
                (vec![0.25, 0.75], false),
                (vec![0.5, 0.5], false),
                (vec![0.75, 0.25], false),
                (vec![0.5, 0.5], true),
            ]
        );
        assert_eq!(mixes(0.5).len(), 6, "the even blend is there already");
        let copy = candidates(Source::Copy(1), &Mix::copy(1));
        assert_eq!(copy.iter().map(|c| c.bypass).collect::<Vec<_>>(), [false, true]);
    }
}
