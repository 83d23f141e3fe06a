//! Relations between keys of `[recovery]`: what a source needs beside it, and settings of sources that aren't there.

use super::sections::{Auto, JobSpec};
use super::validate::Findings;
use super::{Moments, ParitySpec, RecoverySource, RecoverySpec, Weighting};

impl JobSpec {
    pub(super) fn check_recovery(&self, found: &mut Findings) {
        self.check_average(found);
        self.check_swap(found);
        self.check_guards(found);
        check_parity(&self.recovery, found);
        for class in self.recovery.max_restarts_of.keys() {
            found.check(
                class.may_pass(),
                &format!("recovery.max_restarts_of.{class}"),
                || "a job is never restarted after that; take the line out".to_owned(),
            );
        }
    }

    /// How many lanes it gets: one, if it leaves that open.
    fn lanes(&self) -> u32 {
        match self.parallelism.data {
            Auto::Count(lanes) => lanes,
            Auto::Auto => 1,
        }
    }

    /// Whether no stage has both neighbours, nor another lane.
    fn is_one_lane_of_two_stages(&self) -> bool {
        matches!(self.parallelism.pipeline, Auto::Count(0..=2)) && self.lanes() <= 1
    }

    fn check_average(&self, found: &mut Findings) {
        let recovery = &self.recovery;
        let averages = recovery.allows(RecoverySource::NeighbourAverage);
        found.check(!averages || recovery.allows(RecoverySource::Local), "recovery.sources", || {
            "has \"neighbour_average\" without \"local\", which the ranks go on from that weren't lost; add \"local\"".to_owned()
        });
        found.check(!averages || !self.is_one_lane_of_two_stages(), "recovery.sources", || {
            "has \"neighbour_average\", which needs a stage between two others or another lane; set parallelism.pipeline to 3 or more, or parallelism.data to 2".to_owned()
        });
        let factor = recovery.average_lr_factor;
        found.check(
            factor > 0.0 && factor <= 10.0,
            "recovery.average_lr_factor",
            || format!("{factor} must be above 0 and at most 10"),
        );
        let plain = RecoverySpec::default();
        let set = [
            (
                "average_weights",
                recovery.average_weights != Weighting::default(),
            ),
            ("average_by_loss", recovery.average_by_loss),
            ("average_moments", recovery.average_moments != Moments::default()),
            (
                "average_lr_factor",
                recovery.average_lr_factor != plain.average_lr_factor,
            ),
            ("average_lr_decay_steps", recovery.average_lr_decay_steps != 0),
        ];
        for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
            found.check(averages, &format!("recovery.{key}"), || {
                "is set without \"neighbour_average\" in recovery.sources; add it, or take the line out"
                    .to_owned()
            });
        }
    }

    /// What swapped micro-batches need: a cut that the job file alone decides, and ends that don't overlap.
    fn check_swap(&self, found: &mut Findings) {
        let recovery = &self.recovery;
        if !recovery.swaps() {
            return;
        }
        let mut sources =
            |good, why: &str| found.check(good, "recovery.sources", || format!("has \"swap\" {why}"));
        sources(
            recovery.allows(RecoverySource::NeighbourAverage),
            "without \"neighbour_average\", which makes the other stages recoverable; add \"neighbour_average\"",
        );
        for (source, name) in [
            (RecoverySource::Shadow, "shadow"),
            (RecoverySource::Parity, "parity"),
        ] {
            sources(
                !recovery.allows(source),
                &format!(
                    "beside \"{name}\", which gives a lost end back exactly and needs no swap; take one of them out"
                ),
            );
        }
        let blocks = self.model.num_hidden_layers;
        let stages = match self.parallelism.pipeline {
            Auto::Count(stages) => Some(stages),
            Auto::Auto => None,
        };
        found.check(
            stages.is_some_and(|stages| (4..=blocks).contains(&stages)),
            "parallelism.pipeline",
            || {
                format!(
                    "must be a number from 4 to the model's {blocks} blocks with \"swap\" in recovery.sources: the two first and the two last stages change \
                     places, each has blocks, and the losses depend on the cut"
                )
            },
        );
        let (batch, micro) = (self.training.global_batch, self.training.micro_batch);
        found.check(micro <= batch / 2, "training.micro_batch", || {
            "leaves one micro-batch a step, and \"swap\" in recovery.sources swaps every other one; make it half of global_batch or less".to_owned()
        });
    }

    fn check_guards(&self, found: &mut Findings) {
        let has = |source| self.recovery.allows(source);
        let (shadows, guards) = (has(RecoverySource::Shadow), self.recovery.guards);
        found.check(!shadows || has(RecoverySource::Local), "recovery.sources", || {
            "has \"shadow\" without \"local\", which the ranks go on from that weren't lost; add \"local\"".to_owned()
        });
        found.check(!has(RecoverySource::Replica) || shadows, "recovery.sources", || {
            "has \"replica\" without \"shadow\", whose guards keep the moments that no other lane has; add \"shadow\"".to_owned()
        });
        let lanes = self.lanes();
        found.check(!has(RecoverySource::Replica) || lanes > guards, "recovery.sources", || {
            format!(
                "has \"replica\" with {lanes} lane(s) and {guards} guard(s) of each rank: weights are left out of guards only where more lanes have \
                 them than are lost at once; raise parallelism.data above {guards}, or take it out"
            )
        });
        found.check(guards > 0, "recovery.guards", || {
            "must be at least 1; leave \"shadow\" out of recovery.sources for none".to_owned()
        });
        found.check(guards <= 1 || shadows, "recovery.guards", || {
            format!("is {guards} without \"shadow\" in recovery.sources; add \"shadow\"")
        });
        let Auto::Count(stages) = self.parallelism.pipeline else {
            return;
        };
        let ranks = stages.saturating_mul(lanes);
        found.check(guards <= 1 || guards < ranks, "recovery.guards", || {
            format!(
                "is {guards}, and a rank has {} others at most in a job of {ranks}; lower it, or raise [parallelism]",
                ranks.saturating_sub(1)
            )
        });
    }
}

fn check_parity(recovery: &RecoverySpec, found: &mut Findings) {
    let has = recovery.allows(RecoverySource::Parity);
    found.check(!has || recovery.allows(RecoverySource::Local), "recovery.sources", || {
        "has \"parity\" without \"local\"; add \"local\", so that a trainer that dies costs a step and not an interval".to_owned()
    });
    let parity = &recovery.parity;
    found.check(has || *parity == ParitySpec::default(), "recovery.parity", || {
        "is set without \"parity\" in recovery.sources; add it, or take the section out".to_owned()
    });
    found.check(parity.every > 0, "recovery.parity.every", || {
        "must be at least 1".to_owned()
    });
    found.check(
        (1..=64).contains(&parity.losses),
        "recovery.parity.losses",
        || format!("{} is not between 1 and 64", parity.losses),
    );
    let (losses, group) = (parity.losses, parity.group);
    found.check(group > losses && group <= 128, "recovery.parity.group", || {
        format!("{group} is not more than recovery.parity.losses = {losses} and at most 128")
    });
}
