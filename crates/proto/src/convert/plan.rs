//! What a plan costs.

use rekindle_plan::{
    BeyondMemory, LinkReport, Memory, ParityReport, PlanReport, SourceReport, StageMemory, StageReport,
    SurvivalReport,
};
use rekindle_types::RankId;
use rekindle_types::spec::RecoverySource;

use super::job::{enumeration, same_values};
use super::{ConvertError, required};
use crate::pb::v1 as pb;

same_values!(
    RecoverySource,
    RecoverySource,
    "source",
    [Local, Shadow, Replica, Parity, Checkpoint, NeighbourAverage, Swap]
);
same_values!(
    BeyondMemory,
    BeyondMemory,
    "beyond_memory",
    [Checkpoint, Beginning, Failure, NeighbourAverage]
);

impl From<&PlanReport> for pb::PlanReport {
    fn from(report: &PlanReport) -> Self {
        Self {
            lanes: report.lanes,
            parameters: report.parameters,
            tokens_per_step: report.tokens_per_step,
            flops_per_step: report.flops_per_step,
            micro_batches_per_lane: report.micro_batches_per_lane,
            bubble_share: report.bubble_share,
            imbalance: report.imbalance,
            stages: report.stages.iter().map(Into::into).collect(),
            links: report.links.iter().map(Into::into).collect(),
            recovery: Some((&report.recovery).into()),
        }
    }
}

impl TryFrom<pb::PlanReport> for PlanReport {
    type Error = ConvertError;

    fn try_from(report: pb::PlanReport) -> Result<Self, ConvertError> {
        Ok(Self {
            lanes: report.lanes,
            parameters: report.parameters,
            tokens_per_step: report.tokens_per_step,
            flops_per_step: report.flops_per_step,
            micro_batches_per_lane: report.micro_batches_per_lane,
            bubble_share: report.bubble_share,
            imbalance: report.imbalance,
            stages: report
                .stages
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            links: report.links.into_iter().map(Into::into).collect(),
            recovery: required("recovery", report.recovery)?
                .try_into()
                .map_err(|e: ConvertError| e.inside("recovery"))?,
        })
    }
}

impl From<&SurvivalReport> for pb::PlanRecovery {
    fn from(report: &SurvivalReport) -> Self {
        let source = |source: &SourceReport| pb::PlanSource {
            source: pb::RecoverySource::from(source.source).into(),
            memory_bytes: source.memory_bytes,
            bytes_per_step: source.bytes_per_step,
        };
        Self {
            sources: report.sources.iter().map(source).collect(),
            guards: report.guards,
            mtbf_hours: report.mtbf_hours,
            losses_per_week: report.losses_per_week,
            beyond_memory_per_week: report.beyond_memory_per_week,
            beyond_memory: pb::BeyondMemory::from(report.beyond_memory).into(),
            beyond_memory_probability: report.beyond_memory_probability,
            parity: report.parity.as_ref().map(Into::into),
        }
    }
}

fn ranks(ranks: Vec<u32>) -> Vec<RankId> {
    ranks.into_iter().map(RankId).collect()
}

impl From<&ParityReport> for pb::PlanParity {
    fn from(report: &ParityReport) -> Self {
        let ranks = |ranks: &Vec<RankId>| ranks.iter().map(|rank| rank.0).collect::<Vec<_>>();
        let group = |members: &Vec<RankId>| pb::PlanGroup {
            ranks: ranks(members),
        };
        Self {
            losses: report.losses,
            every_steps: report.every,
            groups: report.groups.iter().map(group).collect(),
            without: ranks(&report.without),
        }
    }
}

impl From<pb::PlanParity> for ParityReport {
    fn from(report: pb::PlanParity) -> Self {
        let groups = report.groups.into_iter();
        Self {
            losses: report.losses,
            every: report.every_steps,
            groups: groups.map(|group| ranks(group.ranks)).collect(),
            without: ranks(report.without),
        }
    }
}

impl TryFrom<pb::PlanRecovery> for SurvivalReport {
    type Error = ConvertError;

    fn try_from(report: pb::PlanRecovery) -> Result<Self, ConvertError> {
        let source = |source: pb::PlanSource| {
            Ok(SourceReport {
                source: enumeration::<pb::RecoverySource, _>("source", source.source)?,
                memory_bytes: source.memory_bytes,
                bytes_per_step: source.bytes_per_step,
            })
        };
        Ok(Self {
            sources: report
                .sources
                .into_iter()
                .map(source)
                .collect::<Result<_, ConvertError>>()?,
            guards: report.guards,
            mtbf_hours: report.mtbf_hours,
            losses_per_week: report.losses_per_week,
            beyond_memory_per_week: report.beyond_memory_per_week,
            beyond_memory: enumeration::<pb::BeyondMemory, _>("beyond_memory", report.beyond_memory)?,
            beyond_memory_probability: report.beyond_memory_probability,
            parity: report.parity.map(Into::into),
        })
    }
}

impl From<&StageReport> for pb::PlanStage {
    fn from(stage: &StageReport) -> Self {
        Self {
            layers: Some(pb::LayerRange {
                first: stage.layers.start,
                end: stage.layers.end,
            }),
            names: stage.names.clone(),
            parameters: stage.parameters,
            flops_share: stage.flops_share,
            worker_ids: stage.workers.clone(),
            cpu_memory: stage.memory.cpu.map(Into::into),
            cuda_memory: Some(stage.memory.cuda.into()),
        }
    }
}

impl TryFrom<pb::PlanStage> for StageReport {
    type Error = ConvertError;

    fn try_from(stage: pb::PlanStage) -> Result<Self, ConvertError> {
        let layers = required("layers", stage.layers)?;
        Ok(Self {
            layers: layers.first..layers.end,
            names: stage.names,
            parameters: stage.parameters,
            flops_share: stage.flops_share,
            memory: StageMemory {
                cpu: stage.cpu_memory.map(Into::into),
                cuda: required("cuda_memory", stage.cuda_memory)?.into(),
            },
            workers: stage.worker_ids,
        })
    }
}

impl From<Memory> for pb::PlanMemory {
    fn from(memory: Memory) -> Self {
        Self {
            weight_bytes: memory.weights,
            rounded_bytes: memory.rounded,
            gradient_bytes: memory.gradients,
            moment_bytes: memory.moments,
            activation_bytes: memory.activations,
            scratch_bytes: memory.scratch,
            spare_bytes: memory.spares,
            workspace_bytes: memory.workspace,
        }
    }
}

impl From<pb::PlanMemory> for Memory {
    fn from(memory: pb::PlanMemory) -> Self {
        Self {
            weights: memory.weight_bytes,
            rounded: memory.rounded_bytes,
            gradients: memory.gradient_bytes,
            moments: memory.moment_bytes,
            activations: memory.activation_bytes,
            scratch: memory.scratch_bytes,
            spares: memory.spare_bytes,
            workspace: memory.workspace_bytes,
        }
    }
}

impl From<&LinkReport> for pb::PlanLink {
    fn from(link: &LinkReport) -> Self {
        Self {
            what: link.what.clone(),
            between: link.between.clone(),
            bytes_per_step: link.bytes_per_step,
        }
    }
}

impl From<pb::PlanLink> for LinkReport {
    fn from(link: pb::PlanLink) -> Self {
        Self {
            what: link.what,
            between: link.between,
            bytes_per_step: link.bytes_per_step,
        }
    }
}
