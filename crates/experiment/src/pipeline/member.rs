//! One stage of the pipeline with what recovery has to know of it.

use crate::error::Result;
use rekindle_plan::average::Boost;

use super::{Engine, Place};

/// A stage.
pub struct Member {
    /// Where it stands.
    pub place: Place,
    /// Its layers.
    pub engine: Engine,
    /// Whether its state exists.
    pub alive: bool,
    /// Steps its Adam has made.
    pub adam_steps: u64,
    /// The L2 norm of its last gradient, none before the first.
    pub norm: Option<f64>,
    pub(super) boost: Boost,
}

impl Member {
    pub(super) fn new(place: Place, engine: Engine) -> Self {
        Self {
            place,
            engine,
            alive: true,
            adam_steps: 0,
            norm: None,
            boost: Boost::NONE,
        }
    }

    pub(super) fn update(&mut self, lr: f64, clip: f64) -> Result<()> {
        self.adam_steps += 1;
        for layer in self.engine.layers() {
            self.engine.update(layer, self.adam_steps, lr, clip)?;
        }
        self.boost = self.boost.stepped();
        Ok(())
    }
}
