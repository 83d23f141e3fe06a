//! Trainers that go over to another epoch instead of ending (WC-2).
//!
//! ```text
//!   Halt command --> told to halt --Halted--> waits --Start of a newer epoch, same shape--> EditTrainer --Ready--> as any other
//!                        | not in time         | Stop                                           | dies, fails, not ready in time
//!                        v                     v                                                v
//!                      stopped               stopped                                     another process for the same epoch
//! ```
//!
//! Whatever goes wrong ends as it would without: the process ends, and another one is started. What a process that
//! was edited leaves in memory is what its epochs before left, until it is ready.

use rekindle_types::{Epoch, JobId, Report, TrainerPhase};

use crate::TrainerKey;
use crate::effect::Effect;
use crate::machine::Worker;
use crate::trainer_messages::ToTrainer;
use crate::trainers::{Halt, Trainer};
use rekindle_types::clock::Mono;

impl Worker {
    /// An epoch is over: what trains gives it up, everything else of it ends.
    pub(crate) fn halt(&mut self, job: &JobId, epoch: Epoch) {
        self.fences.stop(job, epoch);
        let by = self.mono() + self.config.halt_limit;
        let mut waits = Vec::new();
        for (key, trainer) in &mut self.trainers.living {
            let of = key.job == *job && key.epoch <= epoch;
            if of && trainer.waits() {
                waits.push(key.clone());
            }
            if of && trainer.phase == TrainerPhase::Training && trainer.is_at_work() {
                trainer.halt = Halt::Told(by);
                let (key, message) = (key.clone(), ToTrainer::Halt);
                self.out.push(Effect::ToTrainer { key, message });
            }
        }
        for key in waits {
            // Who asks may not know.
            self.report(&key, Report::Halted { failure: None });
        }
        self.end_others(job, epoch, |_, trainer| trainer.halt != Halt::No);
        self.spawn_startable();
    }

    /// Has the process that was this rank in an older epoch become it in this one, if there is one that can.
    pub(crate) fn edit(&mut self, key: &TrainerKey, start: &rekindle_types::StartTrainer) -> bool {
        let was = |(old, trainer): (&TrainerKey, &Trainer)| {
            let same = old.job == key.job && old.rank == key.rank && old.epoch < key.epoch;
            (same && trainer.may_go_over(start)).then(|| old.clone())
        };
        let Some(from) = self.trainers.living.iter().find_map(was) else {
            return false;
        };
        self.trainers.living.remove(&from);
        self.trainers.enter(key, start);
        let by = self.mono() + self.config.edit_limit;
        if let Some(trainer) = self.trainers.living.get_mut(key) {
            trainer.edit_by = Some(by);
        }
        self.out.push(Effect::EditTrainer {
            from,
            key: key.clone(),
            start: Box::new(start.clone()),
        });
        true
    }

    /// A trainer that was edited can't be what it is to be.
    pub(crate) fn edit_failed(&mut self, key: &TrainerKey, why: &str) {
        let again = self.mono() + self.config.stop_grace.max(1);
        if let Some(trainer) = self.trainers.living.get_mut(key) {
            // Killed once more should it still live then.
            trainer.edit_by = Some(again);
        }
        self.out.push(Effect::Kill { key: key.clone() });
        let message = format!("{key} couldn't go over to its epoch and is started again: {why}");
        self.out.push(Effect::Warn { message });
    }

    /// Stops what was told to halt and doesn't, kills what was edited and isn't ready.
    pub(crate) fn pass_edits(&mut self) {
        let now = self.mono();
        let kill_at = now + self.config.stop_grace;
        let mut late = Vec::new();
        for (key, trainer) in &mut self.trainers.living {
            match &trainer.halt {
                Halt::Told(by) if now >= *by && !trainer.stopping && !trainer.said_end => {
                    trainer.stops(kill_at);
                    self.out.push(Effect::Terminate { key: key.clone() });
                }
                _ if trainer.edit_by.is_some_and(|by| now >= by) => late.push(key.clone()),
                _ => {}
            }
        }
        for key in late {
            self.edit_failed(&key, "it wasn't ready in time");
        }
    }

    /// When to look again.
    pub(crate) fn edit_deadlines(&self) -> impl Iterator<Item = Mono> + '_ {
        let of = |trainer: &Trainer| match &trainer.halt {
            Halt::Told(by) if !trainer.stopping && !trainer.said_end => Some(*by),
            _ => trainer.edit_by,
        };
        self.trainers.living.values().filter_map(of)
    }
}
