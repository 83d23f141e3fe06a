//! `[recovery]`: what a job may go on from when it has lost a part of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::FailureClass;

/// Where lost state may come from. See the design, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoverySource {
    /// A trainer that dies leaves its state in its worker's memory: all ranks go on from the last step that all of
    /// them have there, at most the step in flight is run again. Exact. Costs as much memory again as weights and
    /// moments take.
    Local,
    /// Every rank has a guard on another worker that repeats its updates: ranks whose machine was lost with its
    /// memory go on from there, on another worker. Exact. Needs `local` for the ranks that weren't lost. Costs 4
    /// bytes per parameter and step on the network, and as much memory as `local` again.
    Shadow,
    /// Where more lanes than one have a stage's weights, guards keep moments alone: a rank whose machine was lost
    /// gets these from a guard and the weights from another lane. Exact. Needs `shadow` with fewer guards than there
    /// are lanes, and takes a third off its memory.
    Replica,
    /// Groups of ranks on different workers keep parities of each other's states as of every few steps: when a few of
    /// them were lost with their memory, all ranks go back to the newest such step and run those after it again.
    /// Exact. Needs `local`. Costs that state twice over in memory with its parities, and what it takes to exchange
    /// it now and then ([`ParitySpec`]).
    Parity,
    /// All ranks go back to the newest valid checkpoint (without one: to the beginning) and run the steps after it
    /// again. Exact.
    Checkpoint,
    /// An inner stage that nobody has the state of gets the mean of the stages beside it, and no step is run again
    /// (CheckFree, arXiv 2506.15461); where another lane of it lives, that lane's weights, and only moments start
    /// anew. Approximate. Needs `local` for the ranks that weren't lost. Costs nothing while nothing fails. Where it
    /// stands before `checkpoint` in the list, it is taken rather than to go back.
    NeighbourAverage,
    /// Makes the ends of the pipeline recoverable, too (CheckFree+): odd micro-batches visit the two first and the
    /// two last stages in the other order, so that these learn each other's work, and a lost end is a copy of the
    /// stage beside it, which also keeps the embedding or the head of it, exactly. Approximate. Needs
    /// `neighbour_average`. The losses then depend on `parallelism.pipeline`. Costs 4 bytes on the network and 24 of
    /// memory for each parameter of embedding and head, and time in the pipeline.
    Swap,
}

/// How the norms of two neighbours' last gradients become their weights in a mean.
///
/// The paper prints the norm with an ambiguous "2" (L2 or squared); the authors' code takes the plain norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// Each neighbour counts the same.
    Uniform,
    /// By the L2 norm.
    #[default]
    Norm,
    /// By the squared L2 norm.
    Squared,
}

/// How Adam's moments of a rebuilt stage start.
///
/// The paper says nothing about them; its code starts a new Adam. A new second moment makes the first steps of every
/// weight as long as the learning rate whatever the gradient, so blending the neighbours' is offered, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moments {
    /// Both 0, the count of steps starts anew.
    #[default]
    Fresh,
    /// The first 0, the second blended, the count kept.
    Second,
    /// Both blended, the count kept.
    Both,
}

/// `[recovery]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverySpec {
    /// What is allowed; empty: a loss fails the job. Without `[checkpoint]` a lost worker fails the job.
    #[serde(default = "defaults::sources")]
    pub sources: Vec<RecoverySource>,
    /// With `shadow`: how many guards a rank has, each on another worker. So many workers may be lost at once,
    /// whichever they are. Every one of them costs as much as the first.
    #[serde(default = "defaults::guards")]
    pub guards: u32,
    /// Restarts without progress that lasts (a checkpoint, or a step committed from memory) in between; one more loss
    /// fails the job.
    #[serde(default = "defaults::max_restarts")]
    pub max_restarts: u32,
    /// The same for losses of one class, beside the sum of all; 0: such a loss fails the job. Classes that aren't
    /// named have the sum's bound alone.
    #[serde(default)]
    pub max_restarts_of: BTreeMap<FailureClass, u32>,
    /// `[recovery.parity]`
    #[serde(default)]
    pub parity: ParitySpec,
    /// `neighbour_average`: what the neighbours count.
    #[serde(default)]
    pub average_weights: Weighting,
    /// `neighbour_average`: whether other shares of the neighbours are tried, too, and those with the lowest loss on
    /// a micro-batch taken.
    #[serde(default)]
    pub average_by_loss: bool,
    /// `neighbour_average`: how the moments start.
    #[serde(default)]
    pub average_moments: Moments,
    /// `neighbour_average`: factor on the rebuilt stage's learning rate; several recoveries don't multiply.
    #[serde(default = "defaults::lr_factor")]
    pub average_lr_factor: f64,
    /// `neighbour_average`: steps in which that factor falls linearly to 1; 0: it stays.
    #[serde(default)]
    pub average_lr_decay_steps: u64,
}

impl RecoverySpec {
    /// Whether this source is allowed.
    #[must_use]
    pub fn allows(&self, source: RecoverySource) -> bool {
        self.sources.contains(&source)
    }

    /// Whether odd micro-batches visit the ends of the pipeline in the other order.
    #[must_use]
    pub fn swaps(&self) -> bool {
        self.allows(RecoverySource::Swap)
    }

    /// Whether a stage that nobody has is rather made of its neighbours than that all go back to a checkpoint.
    #[must_use]
    pub fn rather_averages(&self) -> bool {
        let at = |source| self.sources.iter().position(|s| *s == source);
        at(RecoverySource::NeighbourAverage).is_some_and(|average| {
            at(RecoverySource::Checkpoint).is_none_or(|checkpoint| average < checkpoint)
        })
    }

    /// How many guards each rank is to have: none without `shadow`.
    #[must_use]
    pub fn guards_wanted(&self) -> u32 {
        match self.allows(RecoverySource::Shadow) {
            true => self.guards,
            false => 0,
        }
    }

    /// How many workers may be lost at once with all that lies in their memory, while training goes on from that of
    /// the others.
    #[must_use]
    pub fn losses_at_once(&self) -> u32 {
        let if_allowed = |source, losses| if self.allows(source) { losses } else { 0 };
        let parity = if_allowed(RecoverySource::Parity, self.parity.losses);
        let average = if_allowed(RecoverySource::NeighbourAverage, 1);
        self.guards_wanted().max(parity).max(average)
    }
}

/// `[recovery.parity]`: what counts with the source `parity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParitySpec {
    /// Steps between exchanges; the exchange of one has to be over before the next begins.
    pub every: u64,
    /// Members of a group that may be lost at once.
    pub losses: u32,
    /// Members of a group at most, unless others would be too few: more take less memory each and are lost more often
    /// together.
    pub group: u32,
}

impl Default for ParitySpec {
    fn default() -> Self {
        Self {
            every: 10,
            losses: 1,
            group: 8,
        }
    }
}

impl Default for RecoverySpec {
    fn default() -> Self {
        Self {
            sources: defaults::sources(),
            guards: defaults::guards(),
            max_restarts: defaults::max_restarts(),
            max_restarts_of: BTreeMap::new(),
            parity: ParitySpec::default(),
            average_weights: Weighting::default(),
            average_by_loss: false,
            average_moments: Moments::default(),
            average_lr_factor: defaults::lr_factor(),
            average_lr_decay_steps: 0,
        }
    }
}

mod defaults {
    use super::RecoverySource;

    pub(super) fn sources() -> Vec<RecoverySource> {
        vec![RecoverySource::Local, RecoverySource::Checkpoint]
    }
    pub(super) fn guards() -> u32 {
        1
    }
    pub(super) fn max_restarts() -> u32 {
        8
    }
    pub(super) fn lr_factor() -> f64 {
        1.1
    }
}
