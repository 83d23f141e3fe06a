//! Lossy recovery: a lost stage gets other weights than it had, and training goes on with the current step.

use std::time::Instant;

use crate::cost::Usage;
use crate::error::Result;
use crate::method::{Neighbour, Substitute};
use crate::pipeline::{Member, Pipeline, Place, StageState, numels};
use rekindle_plan::average::{
    self as average, AverageError, Candidate, Mix, Part, StageFacts, copy_of, refuse_adjacent, source_of,
};
use rekindle_types::spec::Weighting;

use super::candidates;
use super::mixing::mixed_state;
use super::replicas::Replicas;
use super::{Loss, Rebuilt, Recovered, Recovery};

/// A lossy method at work.
pub struct Rebuild {
    method: Neighbour,
    replicas: Option<Replicas>,
}

/// A new state, where it came from, and what was mixed.
type Substituted = (StageState, String, Vec<Part>);

impl Rebuild {
    pub fn new(method: Neighbour) -> Self {
        let replicas = method.swap.then(Replicas::default);
        Self { method, replicas }
    }

    fn rebuild(&self, pipeline: &mut Pipeline, place: Place, loss: &Loss<'_>) -> Result<Rebuilt> {
        let (state, how, parts) = match (self.method.substitute, place) {
            (Substitute::Random, _) => random(pipeline, place, loss)?,
            (_, Place::Embed | Place::Head) => self.end(place)?,
            (_, Place::Blocks(stage)) => self.mixed(pipeline, stage as usize)?,
        };
        pipeline.put(place, &state)?;
        pipeline.raise(place);
        Ok(Rebuilt { place, how, parts })
    }

    fn end(&self, place: Place) -> Result<Substituted> {
        let state = self.replicas.as_ref().and_then(|r| r.state(place));
        let state = state.ok_or_else(|| AverageError::NoSource {
            what: place.to_string(),
            why: "no stage has its shape and none keeps a copy; use checkfree+, shadow or checkpoints",
        })?;
        Ok((state, "replica of its weights".to_owned(), Vec::new()))
    }

    fn mixed(&self, pipeline: &Pipeline, stage: usize) -> Result<Substituted> {
        let (facts, norms) = facts(pipeline);
        let (source, weighting) = match self.method.substitute {
            Substitute::Blend(weighting) => (source_of(stage, &facts, self.method.swap)?, weighting),
            Substitute::Best => (source_of(stage, &facts, self.method.swap)?, Weighting::Squared),
            Substitute::Copy | Substitute::Random => (copy_of(stage, &facts)?, Weighting::Uniform),
        };
        let mix = source.mix(weighting, &norms, 0.0)?;
        let state = mixed_state(pipeline, &mix, self.method.moments)?;
        Ok((state, describe(&mix), mix.parts().to_vec()))
    }

    /// Tries all candidates for a stage that already stands, and keeps the one with the lowest loss.
    fn choose(&self, pipeline: &mut Pipeline, rebuilt: &mut Rebuilt, loss: &Loss<'_>) -> Result<()> {
        let Place::Blocks(stage) = rebuilt.place else {
            return Ok(());
        };
        let (facts, norms) = facts(pipeline);
        let source = source_of(stage as usize, &facts, self.method.swap)?;
        let weighted = source.mix(Weighting::Squared, &norms, 0.0)?;
        let mut best: Option<(f64, Candidate, StageState)> = None;
        for candidate in average::candidates(source, &weighted) {
            let state = candidates::state(pipeline, stage as usize, &candidate, self.method.moments)?;
            pipeline.put(rebuilt.place, &state)?;
            let score = pipeline.evaluate(loss.cached)?;
            if best.as_ref().is_none_or(|(lowest, ..)| score < *lowest) {
                best = Some((score, candidate, state));
            }
        }
        if let Some((_, best, state)) = best {
            pipeline.put(rebuilt.place, &state)?;
            let bypass = if best.bypass {
                ", passing its input through"
            } else {
                ""
            };
            rebuilt.how = format!("{}{bypass}", describe(&best.mix));
            rebuilt.parts = best.mix.parts().to_vec();
        }
        Ok(())
    }
}

impl Recovery for Rebuild {
    fn committed(&mut self, pipeline: &Pipeline, _: u64, _: &mut Usage) -> Result<()> {
        match &mut self.replicas {
            Some(replicas) => replicas.refresh(pipeline),
            None => Ok(()),
        }
    }

    fn recover(&mut self, pipeline: &mut Pipeline, loss: &Loss<'_>, usage: &mut Usage) -> Result<Recovered> {
        let stages = pipeline.shape().stages;
        refuse_adjacent(&loss.places.iter().map(|p| p.index(stages)).collect::<Vec<_>>())?;
        let mut rebuilt = loss
            .places
            .iter()
            .map(|&place| self.rebuild(pipeline, place, loss))
            .collect::<Result<Vec<_>>>()?;
        if self.method.substitute == Substitute::Best {
            // Only now is every stage alive, which a score needs.
            let start = Instant::now();
            rebuilt
                .iter_mut()
                .try_for_each(|r| self.choose(pipeline, r, loss))?;
            usage.scoring_seconds += start.elapsed().as_secs_f64();
        }
        let step = loss.committed;
        Ok(Recovered { rebuilt, step })
    }
}

/// New weights, of another seed than the first ones'.
fn random(pipeline: &Pipeline, place: Place, loss: &Loss<'_>) -> Result<Substituted> {
    // Spread over all bits, so that neighbouring seeds and iterations don't meet.
    let seed = (loss.seed ^ loss.iteration << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut engine = pipeline.twin(place)?;
    engine.init_weights(seed)?;
    Ok((
        StageState::of(&engine, 0)?,
        "random weights".to_owned(),
        Vec::new(),
    ))
}

/// What [`rekindle_plan::average`] has to know of the block stages, and the norms of their last gradients.
fn facts(pipeline: &Pipeline) -> (Vec<StageFacts>, Vec<Option<f64>>) {
    let fact = |m: &Member| StageFacts {
        layers: numels(&m.engine).into_iter().map(|(_, n)| n).collect(),
        alive: m.alive,
    };
    let blocks = pipeline
        .members()
        .iter()
        .filter(|m| matches!(m.place, Place::Blocks(_)));
    blocks.map(|m| (fact(m), m.norm)).unzip()
}

fn describe(mix: &Mix) -> String {
    match mix.parts() {
        [only] => format!("copy of S{}", only.stage + 1),
        parts => {
            let of = |p: &Part| format!("{:.3} S{}", p.share, p.stage + 1);
            parts.iter().map(of).collect::<Vec<_>>().join(" + ")
        }
    }
}
