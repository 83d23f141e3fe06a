//! No recovery: for runs in which nothing is lost.

use crate::cost::Usage;
use crate::error::Result;
use crate::pipeline::Pipeline;
use rekindle_plan::average::AverageError;

use super::{Loss, Recovered, Recovery};

/// Keeps nothing.
pub struct Nothing;

impl Recovery for Nothing {
    fn recover(&mut self, _: &mut Pipeline, loss: &Loss<'_>, _: &mut Usage) -> Result<Recovered> {
        let what = loss
            .places
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        Err(AverageError::NoSource {
            what,
            why: "this method keeps nothing to rebuild it from",
        }
        .into())
    }
}
