//! A stage's state outside its engine: taken, put back, destroyed.

use rekindle_model::StateKind;

use crate::error::{ExperimentError, Result};

use super::{Engine, Pipeline, Place, numels};

/// Weights and moments of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerState {
    /// The weights.
    pub weights: Vec<f32>,
    /// First moment.
    pub exp_avg: Vec<f32>,
    /// Second moment.
    pub exp_avg_sq: Vec<f32>,
}

/// Weights and moments of a stage, by layer in pipeline order.
#[derive(Debug, Clone, PartialEq)]
pub struct StageState {
    /// Its layers.
    pub layers: Vec<LayerState>,
    /// Steps its Adam has made.
    pub adam_steps: u64,
}

impl StageState {
    /// Takes an engine's state.
    ///
    /// # Errors
    /// When the device fails.
    pub fn of(engine: &Engine, adam_steps: u64) -> Result<Self> {
        let layer = |(id, numel): (_, usize)| -> Result<LayerState> {
            let of = |kind| engine.export(id, kind, 0..numel);
            Ok(LayerState {
                weights: of(StateKind::Weights)?,
                exp_avg: of(StateKind::ExpAvg)?,
                exp_avg_sq: of(StateKind::ExpAvgSq)?,
            })
        };
        let layers = numels(engine).into_iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, adam_steps })
    }

    /// Puts the state into an engine of the same shape.
    ///
    /// # Errors
    /// When a layer has another size.
    pub fn put(&self, engine: &mut Engine) -> Result<()> {
        for ((id, _), layer) in numels(engine).into_iter().zip(&self.layers) {
            engine.import(id, StateKind::Weights, 0, &layer.weights)?;
            engine.import(id, StateKind::ExpAvg, 0, &layer.exp_avg)?;
            engine.import(id, StateKind::ExpAvgSq, 0, &layer.exp_avg_sq)?;
        }
        Ok(())
    }

    /// A state of the same shape with every number replaced.
    fn filled(engine: &Engine, value: f32) -> Self {
        let layer = |(_, numel)| LayerState {
            weights: vec![value; numel],
            exp_avg: vec![value; numel],
            exp_avg_sq: vec![value; numel],
        };
        Self {
            layers: numels(engine).into_iter().map(layer).collect(),
            adam_steps: 0,
        }
    }
}

impl Pipeline {
    /// A stage's state.
    ///
    /// # Errors
    /// [`ExperimentError::Dead`] when the stage is lost.
    pub fn state(&self, place: Place) -> Result<StageState> {
        let member = self.member(place);
        if !member.alive {
            return Err(ExperimentError::Dead { place });
        }
        StageState::of(&member.engine, member.adam_steps)
    }

    /// Gives a stage a state; a lost one lives again.
    ///
    /// # Errors
    /// When a layer has another size.
    pub fn put(&mut self, place: Place, state: &StageState) -> Result<()> {
        let member = self.member_mut(place);
        state.put(&mut member.engine)?;
        member.adam_steps = state.adam_steps;
        member.alive = true;
        Ok(())
    }

    /// Destroys a stage's state: every number becomes NaN, so that whoever still uses it is found out.
    ///
    /// # Errors
    /// When the device fails.
    pub fn lose(&mut self, place: Place) -> Result<()> {
        let member = self.member_mut(place);
        StageState::filled(&member.engine, f32::NAN).put(&mut member.engine)?;
        member.alive = false;
        member.adam_steps = 0;
        Ok(())
    }
}
