//! The commit point of a step: every rank learns the sums that decide the update, and by that that every rank has its
//! gradients.
//!
//! In: this rank's sums. Out: those of all ranks, the same bits everywhere, because they are sums of integers.
//!
//! Invariant
//! - WK-2 No weight changes before the sums of all ranks are known to be finite.

use rekindle_model::ExactSum;
use rekindle_transport::collective::{Group, all_reduce};
use rekindle_transport::{Tag, TagKind};

use super::TrainerError;
use super::context::{Context, SharedTransport};

/// What the ranks add up at the commit point.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// Cross-entropy summed over tokens, nats.
    pub loss: ExactSum,
    /// Squared norm of the mean gradient.
    pub squares: ExactSum,
    /// How many ranks met something that isn't a finite number.
    pub non_finite: i128,
    /// Digest of the tokens, a wrapping sum.
    pub data_digest: u128,
    /// How many ranks want the state after this step to be saved.
    pub save: i128,
    /// How many ranks have published the set of parities that was begun last.
    pub parity: i128,
    /// Squared norms of the stages' mean gradients; empty where nobody asks for them.
    pub stages: Vec<ExactSum>,
}

impl Sums {
    /// The digest travels in two halves, as checked sums don't wrap and a digest has to.
    fn to_words(&self) -> Vec<i128> {
        let (high, low) = (self.data_digest >> 64, self.data_digest & u128::from(u64::MAX));
        let mut words = vec![
            self.loss.0,
            self.squares.0,
            self.non_finite,
            high.cast_signed(),
            low.cast_signed(),
            self.save,
            self.parity,
        ];
        words.extend(self.stages.iter().map(|stage| stage.0));
        words
    }

    fn of_words(words: &[i128]) -> Self {
        let &[
            loss,
            squares,
            non_finite,
            high,
            low,
            save,
            parity,
            ref stages @ ..,
        ] = words
        else {
            return Self::default();
        };
        let data_digest = (high.cast_unsigned() << 64).wrapping_add(low.cast_unsigned());
        Self {
            loss: ExactSum(loss),
            squares: ExactSum(squares),
            non_finite,
            data_digest,
            save,
            parity,
            stages: stages.iter().copied().map(ExactSum).collect(),
        }
    }

    /// Adds the sums of all ranks; the same result everywhere.
    ///
    /// # Errors
    /// [`TrainerError::Transport`] when a rank is lost before all have their sums; the step is then not committed here.
    pub fn all_reduce(
        &self,
        context: &Context,
        transport: &SharedTransport,
        step: u64,
    ) -> Result<Self, TrainerError> {
        let group = Group::new(context.plan.ranks().collect(), context.id())?;
        let mut words = self.to_words();
        all_reduce(
            transport.as_ref(),
            &group,
            Tag::new(TagKind::Reduce, step, 0),
            &mut words,
            context.deadline(),
        )?;
        Ok(Self::of_words(&words))
    }
}

/// The factor that brings a gradient of this norm down to `max_norm` (0: no clipping), as PyTorch's `clip_grad_norm_`
/// has it.
#[must_use]
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 {
        1.0
    } else {
        (max_norm / (norm + 1e-6)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_survive_the_wire_words() {
        let sums = Sums {
            loss: ExactSum(-5),
            squares: ExactSum(7),
            non_finite: 1,
            data_digest: u128::MAX - 3,
            save: 1,
            parity: 2,
            stages: vec![ExactSum(3), ExactSum(4)],
        };
        assert_eq!(Sums::of_words(&sums.to_words()), sums);
        let twice: Vec<i128> = sums.to_words().iter().map(|w| 2 * w).collect();
        let twice = Sums::of_words(&twice);
        assert_eq!(twice.data_digest, sums.data_digest.wrapping_mul(2));
    }

    #[test]
    fn clipping_follows_pytorch() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
    }
}
