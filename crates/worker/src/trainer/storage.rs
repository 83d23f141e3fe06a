//! Standing still until storage has taken what it was given, without being taken for a trainer that hangs.
//!
//! In: an attempt that ends after [`SIGN`] where a checkpoint that is being written still holds what it needs. Out:
//! its result. The worker hears of every such wait, every [`SIGN`]; whoever writes gives up after its own retries,
//! and then the wait ends.

use std::time::{Duration, Instant};

use rekindle_compute::ComputeError;
use rekindle_model::EngineError;
use rekindle_worker_core::trainer_messages::FromTrainer;

use super::TrainerError;

/// How often the worker hears of a wait: well within the coordinator's shortest patience with a step.
pub const SIGN: Duration = Duration::from_secs(5);
/// Longer than the writer tries, so that it ends by itself.
pub const LIMIT: Duration = Duration::from_secs(900);

/// Tells the worker something.
pub type Told = Box<dyn Fn(&FromTrainer) -> Result<(), TrainerError>>;

/// Repeats an update that found its layer still held; one that did has changed nothing.
///
/// # Errors
/// What the update says, and [`ComputeError::StillFrozen`] only after [`LIMIT`].
pub fn outlast<T>(
    step: u64,
    told: &Told,
    mut update: impl FnMut() -> Result<T, EngineError>,
) -> Result<T, TrainerError> {
    let began = Instant::now();
    loop {
        match update() {
            Err(EngineError::Compute(ComputeError::StillFrozen { .. })) if began.elapsed() < LIMIT => {
                told(&FromTrainer::WaitsForStorage { step })?;
            }
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn still_frozen() -> EngineError {
        EngineError::Compute(ComputeError::StillFrozen {
            elements: 1,
            waited: SIGN,
        })
    }

    #[test]
    fn the_worker_hears_of_every_wait_and_nothing_else_is_repeated() {
        let (sender, heard) = mpsc::channel();
        let told: Told = Box::new(move |message| {
            sender.send(message.clone()).unwrap();
            Ok(())
        });
        let mut tries = 0;
        let result = outlast(7, &told, || {
            tries += 1;
            if tries < 4 { Err(still_frozen()) } else { Ok(tries) }
        });
        assert_eq!(result.unwrap(), 4);
        let waits: Vec<_> = heard.try_iter().collect();
        assert_eq!(waits, vec![FromTrainer::WaitsForStorage { step: 7 }; 3]);
        let mut tries = 0;
        let failed = outlast(7, &told, || -> Result<(), _> {
            tries += 1;
            Err(EngineError::Spec { what: "x".to_owned() })
        });
        assert!(failed.is_err() && tries == 1 && heard.try_iter().next().is_none());
    }
}
