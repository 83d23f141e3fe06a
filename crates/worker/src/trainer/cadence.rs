//! When to save: every so many steps, or as often as pays by what saving was measured to cost.
//!
//! In: how long steps took, and whether a checkpoint was being written meanwhile. Out: whether a step's state is to
//! be saved. Rank 0 decides; the others hear of it at the commit point, so that all save the same steps.

use std::collections::VecDeque;

use rekindle_plan::{SaveCosts, save_interval};
use rekindle_types::spec::Cadence;

/// Steps before the first checkpoint with `every = "auto"`: what a step takes without one has to be known first.
const WARM_UP: u64 = 10;
/// Steps whose median is what a step takes.
const RECENT: usize = 31;

/// Decides for a job.
#[derive(Debug)]
pub struct Schedule {
    every: Cadence,
    last_step: u64,
    mtbf: f64,
    meter: Meter,
    /// With `auto`: the next step to save, and the interval it came from.
    next: u64,
    interval: Option<u64>,
}

/// What saving costs.
#[derive(Debug, Default)]
struct Meter {
    /// Seconds of steps without a checkpoint under way.
    clean: VecDeque<f64>,
    /// Time lost to the checkpoint under way so far, seconds.
    lost: f64,
    /// Time lost to a checkpoint, seconds: the mean of the last ones, newer ones counting more.
    cost: Option<f64>,
    /// From capture to durable, seconds.
    persist: f64,
}

impl Schedule {
    /// The schedule of a job of `last_step` steps that starts after `step`. `mtbf`: seconds.
    #[must_use]
    pub fn new(every: Cadence, step: u64, last_step: u64, mtbf: f64) -> Self {
        Self {
            every,
            last_step,
            mtbf,
            meter: Meter::default(),
            next: step + WARM_UP,
            interval: None,
        }
    }

    /// Whether the state after `step` is to be saved.
    #[must_use]
    pub fn is_due(&self, step: u64) -> bool {
        match self.every {
            Cadence::Never => false,
            Cadence::Steps(every) => step == self.last_step || step.is_multiple_of(every),
            Cadence::Auto => step == self.last_step || step >= self.next,
        }
    }

    /// The state after `step` is being saved, whoever wanted it.
    pub fn began(&mut self, step: u64) {
        self.next = step + self.interval.unwrap_or(WARM_UP);
    }

    /// A step took so long; `saving`: while a checkpoint was under way.
    pub fn took(&mut self, seconds: f64, saving: bool) {
        self.meter.took(seconds, saving);
    }

    /// A checkpoint became durable after `persist` seconds. Returns the interval to the next, with `auto`.
    pub fn durable(&mut self, step: u64, persist: f64) -> Option<u64> {
        let costs = self.meter.durable(persist, self.mtbf);
        if self.every != Cadence::Auto {
            return None;
        }
        let interval = save_interval(&costs);
        self.interval = Some(interval);
        self.next = self.next.max(step + interval);
        self.interval
    }
}

impl Meter {
    fn took(&mut self, seconds: f64, saving: bool) {
        if saving && !self.clean.is_empty() {
            self.lost += seconds - self.usual();
        } else {
            self.clean.push_back(seconds);
            if self.clean.len() > RECENT {
                self.clean.pop_front();
            }
        }
    }

    /// The median of steps without a checkpoint.
    fn usual(&self) -> f64 {
        let mut sorted: Vec<f64> = self.clean.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    fn durable(&mut self, persist: f64, mtbf: f64) -> SaveCosts {
        let lost = std::mem::take(&mut self.lost).max(0.0);
        let cost = self.cost.map_or(lost, |before| 0.5 * (before + lost));
        self.cost = Some(cost);
        self.persist = persist;
        SaveCosts {
            cost,
            persist,
            step: self.usual(),
            mtbf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_many_steps_and_the_last() {
        let schedule = Schedule::new(Cadence::Steps(4), 0, 10, 1e5);
        let due: Vec<u64> = (1..=10).filter(|step| schedule.is_due(*step)).collect();
        assert_eq!(due, [4, 8, 10]);
        assert!(!Schedule::new(Cadence::Never, 0, 10, 1e5).is_due(10));
    }

    #[test]
    fn auto_measures_first_and_then_saves_as_often_as_pays() {
        let mut schedule = Schedule::new(Cadence::Auto, 0, 100_000, 20_000.0);
        for step in 1..10 {
            assert!(!schedule.is_due(step));
            schedule.took(1.0, false);
        }
        assert!(schedule.is_due(10));
        schedule.began(10);
        // Two steps of half a second more each: a checkpoint costs 1 s, Young's interval is sqrt(2 * 1 * 20000) = 200
        // s.
        schedule.took(1.5, true);
        schedule.took(1.5, true);
        assert_eq!(schedule.durable(10, 2.0), Some(200));
        assert!(!schedule.is_due(209));
        assert!(schedule.is_due(210));
    }

    #[test]
    fn saving_that_costs_nothing_is_bounded_by_the_storage() {
        let mut schedule = Schedule::new(Cadence::Auto, 0, 100_000, 1e-9);
        schedule.took(1.0, false);
        assert_eq!(schedule.durable(1, 30.0), Some(30));
    }
}
