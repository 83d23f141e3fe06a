//! What swapped micro-batches make of a rank's place ([`Context`]): its program, whom a micro-batch comes from and
//! goes to, and what is kept of the ends of the pipeline by the ranks beside them.

use rekindle_plan::{Op, Stop, is_swapped, program, route, swapped_program};
use rekindle_types::{LayerId, Part, Rank, RankId, Refill, Share};

use super::context::Context;

impl Context {
    /// What this rank does in a step, in order.
    #[must_use]
    pub fn program(&self) -> Vec<Op> {
        let (stage, stages, all) = (self.rank.stage, self.plan.stage_count(), self.micro_batches());
        match self.spec.recovery.swaps() {
            true => swapped_program(stage, stages, &all),
            false => program(stage, stages, &all),
        }
    }

    fn route(&self, swapped: bool) -> Vec<Stop> {
        route(self.plan.stage_count(), swapped && self.spec.recovery.swaps())
    }

    /// The ranks that a micro-batch visits before and after this one's `part`; none at the ends of its way.
    #[must_use]
    pub fn beside(&self, micro_batch: u32, part: Part) -> [Option<RankId>; 2] {
        let stage = self.rank.stage;
        let stops = self.route(is_swapped(micro_batch));
        let at = stops.iter().position(|stop| *stop == Stop { stage, part });
        let rank = |at: Option<usize>| {
            let stage = stops.get(at?)?.stage;
            Some(self.id_of(Rank { stage, ..self.rank }))
        };
        [
            rank(at.and_then(|at| at.checked_sub(1))),
            rank(at.map(|at| at + 1)),
        ]
    }

    /// The ranks of this lane that swapped micro-batches come from or go to here; none in a job that doesn't swap but
    /// its neighbours.
    #[must_use]
    pub fn beside_when_swapped(&self) -> Vec<RankId> {
        let stops = self.route(true);
        let hops = stops.windows(2).map(|pair| (pair[0].stage, pair[1].stage));
        let both = hops.flat_map(|(a, b)| [(a, b), (b, a)]);
        let mine = both.filter(|(from, _)| *from == self.rank.stage);
        mine.map(|(_, stage)| self.id_of(Rank { stage, ..self.rank }))
            .collect()
    }

    /// Whether guards keep what a rank owns of `layer`.
    #[must_use]
    pub fn is_guarded(&self, layer: LayerId) -> bool {
        !self.spec.recovery.swaps() || !Part::Blocks.has(layer)
    }

    /// The layers that a rank's guards keep something of, in pipeline order.
    #[must_use]
    pub fn guarded_layers(&self, rank: RankId) -> Vec<LayerId> {
        let mut layers = self.owned_layers(rank);
        layers.retain(|layer| self.is_guarded(*layer));
        layers
    }

    /// The rank that sends what a guard kept of `rank`, before the first step of an epoch.
    #[must_use]
    pub fn given_by(&self, rank: RankId) -> Option<RankId> {
        match self.refills.get(&rank)? {
            Refill::Guard(guard) => Some(*guard),
            // Of several means an inner stage is one, never an end.
            Refill::Parity(_) | Refill::Best { .. } => None,
            // An end that is a copy of the stage beside it: its embedding or head is there, too.
            Refill::Mean(shares) => {
                let beside = |share: &&Share| self.plan.rank(share.rank).stage != self.plan.rank(rank).stage;
                let guarded = self.spec.recovery.swaps() && self.guards.contains_key(&rank);
                let share = shares.iter().find(beside).filter(|_| guarded)?;
                Some(share.rank)
            }
        }
    }
}
