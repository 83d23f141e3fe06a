//! Which mean of its neighbours a stage becomes that nobody has, by what the model then says: several are tried, the
//! one with the lowest loss stays.
//!
//! ```text
//!   for each such stage, in pipeline order, the others being what they are by then:
//!     for each candidate (rekindle_plan::average::candidates):  the stage becomes it; the first lane takes a micro-batch forward
//!     the losses go to all ranks; the stage's ranks, of all lanes, become the best
//! ```
//!
//! The micro-batch is the first of the last committed step: text that is at hand, and that a rule which is among the
//! candidates can't do better on. In: a pipeline whose stages all stand ([`super::mean`]). Moments stay what the rule
//! made them. What was chosen is in the log of the stage's trainers.
//!
//! Deliberately absent: choosing for stages of one source.

use rekindle_plan::average::{Candidate, Mix, Source, blend, candidates, outputs};
use rekindle_transport::collective::{Group, all_reduce};
use rekindle_transport::{Tag, TagKind};
use rekindle_types::{Rank, RankId, Refill, Share, StateKind};

use super::batch::Batch;
use super::evaluate::forward;
use super::mean::Sources;
use super::step::Trainer;
use super::{Engine, TrainerError};

/// Tells candidates' frames from those of evaluations.
const PART: u32 = 2;

/// Tries other shares for all stages that are to be chosen for. `sources` are the weights that this rank's was made
/// of, if it is one of them.
///
/// # Errors
/// [`TrainerError`] when a peer is lost, or what it has isn't finite.
pub fn choose(trainer: &mut Trainer, sources: &Sources) -> Result<(), TrainerError> {
    let step = trainer.context.started_after();
    let stages = to_choose(trainer);
    if stages.is_empty() {
        return Ok(());
    }
    let batch = Batch::of_step(&trainer.context, trainer.text.as_ref(), step)?;
    for (stage, first) in stages {
        let all = candidates(Source::Blend(0, 1), &Mix::of(0, 1, first));
        let mut losses = Vec::new();
        for (n, candidate) in all.iter().enumerate() {
            if trainer.context.rank == (Rank { lane: 0, stage }) {
                become_it(candidate, sources, &mut trainer.engine)?;
            }
            losses.push(score(trainer, &batch, stage, n)?);
        }
        let losses = told(trainer, stage, losses)?;
        let best = (0..all.len()).min_by_key(|n| losses[*n]);
        if let Some(best) = best.filter(|_| trainer.context.rank.stage == stage) {
            tracing::info!(chosen = ?all[best], tried = all.len(), "of several means this one has the lowest loss");
            become_it(&all[best], sources, &mut trainer.engine)?;
        }
    }
    Ok(())
}

/// The stages that are chosen for, in pipeline order, each with the share of its first neighbour by the job's rule.
fn to_choose(trainer: &Trainer) -> Vec<(u32, f64)> {
    let context = &trainer.context;
    let of = |(rank, refill): (&RankId, &Refill)| match refill {
        Refill::Best { best_of } => Some((context.plan.rank(*rank), first_share(best_of))),
        Refill::Guard(_) | Refill::Parity(_) | Refill::Mean(_) => None,
    };
    let all = context.refills.iter().filter_map(of);
    let first_lane = all.filter(|(rank, _)| rank.lane == 0);
    first_lane.map(|(rank, share)| (rank.stage, share)).collect()
}

fn first_share(shares: &[Share]) -> f64 {
    shares.first().map_or(1.0, |share| share.share)
}

/// The loss with a candidate, on the last stage of the first lane; 0 elsewhere. One that isn't finite is worse than
/// any.
fn score(trainer: &mut Trainer, batch: &Batch, stage: u32, candidate: usize) -> Result<i128, TrainerError> {
    let m = match trainer.context.micro_batches().first() {
        Some(m) if trainer.context.rank.lane == 0 => *m,
        _ => return Ok(0),
    };
    let index = stage << 8 | u32::try_from(candidate).unwrap_or(u32::MAX);
    let tag = Tag::new(TagKind::Eval, trainer.context.started_after(), index).with_part(PART);
    match forward(trainer, batch, m, tag) {
        Ok(loss) => Ok(loss.0),
        Err(TrainerError::NonFinite { .. }) => Ok(i128::MAX),
        Err(error) => Err(error),
    }
}

/// All ranks learn the losses.
fn told(trainer: &Trainer, stage: u32, mut losses: Vec<i128>) -> Result<Vec<i128>, TrainerError> {
    let (context, transport) = (&trainer.context, trainer.transport.as_ref());
    let group = Group::new(context.plan.ranks().collect(), context.id())?;
    // Index 0 is a commit point's.
    let tag = Tag::new(TagKind::Reduce, context.started_after(), 1 + stage);
    all_reduce(transport, &group, tag, &mut losses, context.deadline())?;
    Ok(losses)
}

/// This rank's weights become a candidate.
fn become_it(candidate: &Candidate, sources: &Sources, engine: &mut Engine) -> Result<(), TrainerError> {
    for (layer, neighbours) in sources {
        let parts = candidate.mix.parts().iter();
        let parts = parts.filter_map(|part| Some((neighbours.get(part.stage)?.as_slice(), part.share)));
        let mut weights = blend(&parts.collect::<Vec<_>>())?;
        let outputs = outputs(&engine.spec().model.layout(*layer)).into_iter();
        outputs
            .filter(|_| candidate.bypass)
            .for_each(|range| weights[range].fill(0.0));
        let all = 0..weights.len();
        engine.set_state_bytes(*layer, StateKind::Weights, all, bytemuck::cast_slice(&weights))?;
    }
    Ok(())
}
