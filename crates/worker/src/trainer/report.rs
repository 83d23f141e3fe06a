//! What is told about a step, and the sums that need others for that.

use rekindle_transport::{Tag, TagKind};
use rekindle_types::{RankId, StepReport};

use super::TrainerError;
use super::commit::Sums;
use super::context::{Context, SharedTransport};

/// Everything measured in a step.
pub struct Measured {
    /// The step, 1-based.
    pub step: u64,
    /// The sums of all ranks.
    pub sums: Sums,
    /// The learning rate used.
    pub lr: f64,
    /// Wall time since the commit before, seconds.
    pub step_seconds: f64,
    /// Digest of the whole state, on digest steps.
    pub state_digest: Option<u128>,
    /// Mean loss on held-out text, on evaluation steps.
    pub val_loss: Option<f64>,
}

impl Measured {
    /// The line of `metrics.jsonl`.
    #[must_use]
    pub fn report(&self, context: &Context) -> StepReport {
        let tokens = context.spec.tokens_per_step();
        StepReport {
            step: self.step,
            loss: self.sums.loss.mean_loss(tokens),
            grad_norm: self.sums.squares.norm(),
            lr: self.lr,
            tokens,
            step_seconds: self.step_seconds,
            epoch: context.plan.epoch,
            data_digest: hex(self.sums.data_digest),
            state_digest: self.state_digest.map(hex),
            val_loss: self.val_loss,
            stage_norms: self.sums.stages.iter().map(|stage| stage.norm()).collect(),
        }
    }
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

/// Adds one number of every rank, wrapping, on each of `receivers`, without anybody waiting for them. `index` tells
/// sums of a step apart.
///
/// # Errors
/// [`TrainerError::Transport`] when a rank is lost.
pub fn sum_for(
    receivers: &[RankId],
    context: &Context,
    transport: &SharedTransport,
    (step, index): (u64, u32),
    own: i128,
) -> Result<Option<i128>, TrainerError> {
    let (me, tag) = (context.id(), Tag::new(TagKind::Eval, step, index));
    for receiver in receivers.iter().filter(|rank| **rank != me) {
        transport.send_slice(*receiver, tag, &[own], context.deadline())?;
    }
    if !receivers.contains(&me) {
        return Ok(None);
    }
    let mut sum = own;
    for rank in context.plan.ranks().filter(|rank| *rank != me) {
        let mut word = [0_i128];
        transport.recv_into(rank, tag, &mut word, context.deadline())?;
        sum = sum.wrapping_add(word[0]);
    }
    Ok(Some(sum))
}
