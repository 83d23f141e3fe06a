//! CheckFree+'s copies of embedding and head: their neighbours keep the weights of the last committed step.
//!
//! The paper copies weights; what becomes of the moments it doesn't say. They start anew, as those of other rebuilt
//! stages do.

use crate::error::Result;
use crate::pipeline::{LayerState, Pipeline, Place, StageState};

/// Weights of the ends, by place.
#[derive(Default)]
pub struct Replicas {
    kept: Vec<(Place, Vec<Vec<f32>>)>,
}

impl Replicas {
    /// Refreshes both copies.
    pub fn refresh(&mut self, pipeline: &Pipeline) -> Result<()> {
        let copy = |place| -> Result<_> {
            let layers = pipeline.state(place)?.layers;
            Ok((place, layers.into_iter().map(|l| l.weights).collect()))
        };
        self.kept = vec![copy(Place::Embed)?, copy(Place::Head)?];
        Ok(())
    }

    /// The state an end starts with again.
    pub fn state(&self, place: Place) -> Option<StageState> {
        let (_, layers) = self.kept.iter().find(|(p, _)| *p == place)?;
        let layers = layers.iter().map(|weights| LayerState {
            weights: weights.clone(),
            exp_avg: vec![0.0; weights.len()],
            exp_avg_sq: vec![0.0; weights.len()],
        });
        Some(StageState {
            layers: layers.collect(),
            adam_steps: 0,
        })
    }
}
