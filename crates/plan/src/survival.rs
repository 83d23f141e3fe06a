//! What a plan survives, what that costs, and how often it won't do.
//!
//! In: a job, a plan, how often a machine is lost. Out: a line for each of the job's recovery sources, and what is
//! expected of a week.
//!
//! The model: machines are lost one by one at a constant rate, each as likely as the other (a Poisson process); a
//! loss of a process is always recovered from its machine's memory and isn't counted. With `shadow` and k guards a
//! rank a loss needs more only if the next k, before the state is at k + 1 places again, hit the rest of the machines
//! that hold a rank's. With `parity` it needs more if the machine has a rank that is in no group, or if as many of
//! the next ones as a group outlives hit machines of a group that the lost one is in. With both, the better of the
//! two counts. Where guards keep moments alone (`replica`), losing all lanes of a stage is one too many as well.
//!
//! Deliberately absent: how long a recovery takes (that is measured, not planned).

use std::collections::BTreeMap;
use std::fmt;

use rekindle_types::spec::RecoverySource;
use rekindle_types::{JobSpec, LayerId, Plan, RankId, WorkerId, shard_range};
use serde::Serialize;

use crate::cost::FLOAT_BYTES;
use crate::guard::{end_guards_of, end_layer, guards_of, moments_alone};
use crate::parity::parity_groups;
use crate::report::mib;

mod chance;

use chance::{at_least, fatal_share, parity_fails, twins_fail};

/// Seconds until a recovered state is at all its places again, as reckoned with: a lease, the placing, and the
/// transfer of a large rank.
const EXPOSED_SECONDS: f64 = 60.0;
const WEEK_HOURS: f64 = 7.0 * 24.0;

/// What the losses of a week come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurvivalReport {
    /// The job's sources, in order.
    pub sources: Vec<SourceReport>,
    /// Guards of each rank: so many machines may be lost at once, whichever they are. 0 without `shadow`, or with one
    /// machine.
    pub guards: u32,
    /// Hours between losses of a machine, all machines together (`checkpoint.mtbf_hours`).
    pub mtbf_hours: f64,
    /// Losses of a machine expected in a week.
    pub losses_per_week: f64,
    /// Of these, such as take state that nobody else holds in memory.
    pub beyond_memory_per_week: f64,
    /// What becomes of those.
    pub beyond_memory: BeyondMemory,
    /// Probability that a week holds at least one of them.
    pub beyond_memory_probability: f64,
    /// With the source `parity`: who is in which group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parity: Option<ParityReport>,
}

/// Groups that keep parities of each other's states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParityReport {
    /// Members of a group that may be lost at once.
    pub losses: u32,
    /// Steps between exchanges.
    pub every: u64,
    /// The ranks of each group.
    pub groups: Vec<Vec<RankId>>,
    /// Ranks that are in none: too many ranks share their worker, or there are too few workers.
    pub without: Vec<RankId>,
}

/// Who is in which group; none without the source `parity`.
fn parity(spec: &JobSpec, plan: &Plan) -> Option<ParityReport> {
    if !spec.recovery.allows(RecoverySource::Parity) {
        return None;
    }
    let settings = &spec.recovery.parity;
    let groups = parity_groups(plan, settings);
    let alone = |rank: &RankId| !groups.iter().any(|group| group.contains(rank));
    Some(ParityReport {
        losses: settings.losses,
        every: settings.every,
        without: plan.ranks().filter(alone).collect(),
        groups,
    })
}

/// What happens when no memory holds the state any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BeyondMemory {
    /// The newest checkpoint is taken.
    Checkpoint,
    /// The job begins again: it may use checkpoints, but makes none.
    Beginning,
    /// The job fails.
    Failure,
    /// An inner stage is made of the stages beside it; where that can't be, the job does what its other sources allow.
    NeighbourAverage,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// Its name in the job file.
    pub source: RecoverySource,
    /// Bytes of memory that it takes on the worker where it takes most.
    pub memory_bytes: u64,
    /// Bytes that it sends in a step, all ranks together.
    pub bytes_per_step: u64,
}

/// Works out what `plan` survives.
#[must_use]
pub fn survival(spec: &JobSpec, plan: &Plan) -> SurvivalReport {
    let sources: Vec<SourceReport> = spec
        .recovery
        .sources
        .iter()
        .map(|source| cost(spec, plan, *source))
        .collect();
    let mtbf = spec.checkpoint.mtbf_hours;
    let losses = WEEK_HOURS / mtbf;
    let guards = guards_of(spec, plan);
    let count = guards.values().map(Vec::len).max().unwrap_or(0);
    // Without guards every loss is one too many. With them the next ones have to come in time, and to hit what is
    // left of a rank's holders.
    let exposed = EXPOSED_SECONDS / (mtbf * 3600.0);
    let shadow_fails =
        at_least(count, exposed) * fatal_share(plan, &guards) + twins_fail(spec, plan, exposed);
    let beyond = losses * shadow_fails.min(parity_fails(spec, plan, at_least(1, exposed)));
    SurvivalReport {
        guards: u32::try_from(count).unwrap_or(u32::MAX),
        mtbf_hours: mtbf,
        losses_per_week: losses,
        beyond_memory_per_week: beyond,
        beyond_memory: beyond_memory(spec),
        beyond_memory_probability: 1.0 - (-beyond).exp(),
        parity: parity(spec, plan),
        sources,
    }
}

fn beyond_memory(spec: &JobSpec) -> BeyondMemory {
    let (recovery, saves) = (&spec.recovery, spec.checkpoint.is_on());
    let averages = recovery.allows(RecoverySource::NeighbourAverage);
    if averages && (recovery.rather_averages() || !saves) {
        return BeyondMemory::NeighbourAverage;
    }
    match recovery.allows(RecoverySource::Checkpoint) {
        true if saves => BeyondMemory::Checkpoint,
        true => BeyondMemory::Beginning,
        false => BeyondMemory::Failure,
    }
}

/// Elements of (weights held, shard owned) of a rank.
fn elements(spec: &JobSpec, plan: &Plan, rank: RankId) -> (u64, u64) {
    let place = plan.rank(rank);
    let layers: Vec<LayerId> = spec.model.layers().collect();
    let range = plan.stages.get(place.stage as usize).cloned().unwrap_or_default();
    let own = layers
        .get(range.start as usize..range.end as usize)
        .unwrap_or_default();
    own.iter().fold((0, 0), |(held, owned), layer| {
        let numel = spec.model.layout(*layer).numel();
        let shard = shard_range(numel, plan.lanes, place.lane).len();
        (held + numel as u64, owned + shard as u64)
    })
}

fn cost(spec: &JobSpec, plan: &Plan, source: RecoverySource) -> SourceReport {
    let mut memory = BTreeMap::<Option<&WorkerId>, u64>::new();
    let mut bytes_per_step = 0;
    match source {
        RecoverySource::Local => {
            for rank in plan.ranks() {
                let (held, owned) = elements(spec, plan, rank);
                *memory.entry(plan.worker_of(rank)).or_default() += FLOAT_BYTES * (held + 2 * owned);
            }
        }
        RecoverySource::Shadow => {
            // Moments, and weights where no other lane has them.
            let kinds = if moments_alone(spec, plan) { 2 } else { 3 };
            for (rank, guards) in guards_of(spec, plan) {
                let (_, owned) = elements(spec, plan, rank);
                for guard in guards {
                    bytes_per_step += FLOAT_BYTES * owned;
                    // Those of the last step and those of the one before.
                    *memory.entry(plan.worker_of(guard)).or_default() += 2 * kinds * FLOAT_BYTES * owned;
                }
            }
        }
        RecoverySource::Parity => {
            let settings = &spec.recovery.parity;
            let groups = parity_groups(plan, settings);
            for rank in plan.ranks() {
                let state = 3 * FLOAT_BYTES * elements(spec, plan, rank).1;
                let group = groups.iter().find(|group| group.contains(&rank));
                let parities = group.map_or(0, |group| parity_bytes(spec, plan, group));
                // The set that is whole and the one in the making.
                *memory.entry(plan.worker_of(rank)).or_default() += 2 * (state + parities);
                let sent = group.map_or(0, |_| u64::from(settings.losses) * state);
                bytes_per_step += sent / settings.every;
            }
        }
        RecoverySource::Swap => {
            for (rank, guards) in end_guards_of(spec, plan) {
                let place = plan.rank(rank);
                let numel = spec.model.layout(end_layer(place.stage)).numel();
                let owned = shard_range(numel, plan.lanes, place.lane).len();
                for guard in guards {
                    bytes_per_step += FLOAT_BYTES * owned as u64;
                    *memory.entry(plan.worker_of(guard)).or_default() += 2 * 3 * FLOAT_BYTES * owned as u64;
                }
            }
        }
        RecoverySource::Replica | RecoverySource::Checkpoint | RecoverySource::NeighbourAverage => {}
    }
    SourceReport {
        source,
        memory_bytes: memory.into_values().max().unwrap_or(0),
        bytes_per_step,
    }
}

/// Bytes of each member's parities.
fn parity_bytes(spec: &JobSpec, plan: &Plan, group: &[RankId]) -> u64 {
    let states = group
        .iter()
        .map(|rank| 3 * FLOAT_BYTES * elements(spec, plan, *rank).1);
    let losses = u64::from(spec.recovery.parity.losses);
    losses
        * states
            .max()
            .unwrap_or(0)
            .div_ceil((group.len() as u64 - losses).max(1))
}

impl fmt::Display for SurvivalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}{:>16}{:>16}  what it gives back",
            "recovery", "memory a worker", "bytes a step"
        )?;
        for SourceReport {
            source,
            memory_bytes,
            bytes_per_step,
        } in &self.sources
        {
            let (name, what) = match source {
                RecoverySource::Local => (
                    "local",
                    "a trainer or worker process that died: the step in flight is run again",
                ),
                RecoverySource::Shadow if self.guards > 1 => (
                    "shadow",
                    "machines that were lost, as many at once as ranks have guards: the step in flight is run again",
                ),
                RecoverySource::Shadow => (
                    "shadow",
                    "a machine that was lost: the step in flight is run again",
                ),
                RecoverySource::Replica => (
                    "replica",
                    "weights of a machine that was lost, from another lane: so guards keep moments alone",
                ),
                RecoverySource::Parity => (
                    "parity",
                    "machines of a group: the steps since the last exchange are run again",
                ),
                RecoverySource::Checkpoint => (
                    "checkpoint",
                    "anything: the steps since the newest one are run again",
                ),
                RecoverySource::NeighbourAverage => (
                    "neighbour_average",
                    "an inner stage that nobody has, or one of which another lane has the weights, approximately",
                ),
                RecoverySource::Swap => (
                    "swap",
                    "the first or the last stage, as a copy of the one beside it (embedding and head exactly)",
                ),
            };
            writeln!(
                f,
                "{name:<20}{:>16}{:>16}  {what}",
                mib(*memory_bytes),
                mib(*bytes_per_step)
            )?;
        }
        let then = match self.beyond_memory {
            BeyondMemory::Checkpoint => "the job goes back to the newest checkpoint",
            BeyondMemory::Beginning => "the job begins again: it saves no checkpoints",
            BeyondMemory::Failure => "the job fails",
            BeyondMemory::NeighbourAverage => {
                "a stage is made of those beside it or another lane's weights (approximate), where it can be"
            }
        };
        writeln!(
            f,
            "a machine lost every {} h makes {:.2} losses a week; {:.2e} of them leave the state in nobody's memory (any of them: {:.3} %): {then}",
            self.mtbf_hours,
            self.losses_per_week,
            self.beyond_memory_per_week,
            1e2 * self.beyond_memory_probability
        )?;
        if let Some(parity) = &self.parity {
            write!(f, "{parity}")?;
        }
        let again = |s: &SourceReport| matches!(s.source, RecoverySource::Shadow | RecoverySource::Parity);
        if self.sources.iter().any(again) {
            writeln!(
                f,
                "(reckoned with {EXPOSED_SECONDS} s from a loss until the state is at {} places again)",
                self.guards + 1
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ParityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { losses, every, .. } = self;
        let sizes: Vec<String> = self.groups.iter().map(|group| group.len().to_string()).collect();
        writeln!(
            f,
            "parity: groups of {} ranks; each may lose {losses} at once; states are exchanged every {every} steps",
            if sizes.is_empty() {
                "no".to_owned()
            } else {
                sizes.join(", ")
            },
        )?;
        if !self.without.is_empty() {
            let ranks: Vec<String> = self.without.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "parity: {} can't be in a group, as too few other workers have ranks beside them: their loss needs another source",
                ranks.join(", ")
            )?;
        }
        Ok(())
    }
}
