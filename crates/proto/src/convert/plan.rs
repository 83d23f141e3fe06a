//! What a plan costs.

use rekindle_plan::{LinkReport, PlanReport, StageReport};

use super::{ConvertError, required};
use crate::pb::v1 as pb;

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
            weight_bytes: stage.weight_bytes,
            gradient_bytes: stage.gradient_bytes,
            optimizer_bytes: stage.optimizer_bytes,
            activation_bytes: stage.activation_bytes,
            worker_ids: stage.workers.clone(),
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
            weight_bytes: stage.weight_bytes,
            gradient_bytes: stage.gradient_bytes,
            optimizer_bytes: stage.optimizer_bytes,
            activation_bytes: stage.activation_bytes,
            workers: stage.worker_ids,
        })
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
