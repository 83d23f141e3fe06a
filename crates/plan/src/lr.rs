//! The learning rate of a step, a pure function of the job and the step's number.

use rekindle_types::JobSpec;
use rekindle_types::spec::LrKind;

/// The learning rate of step `step` (1-based): linear warm-up (step `warmup_steps` has the full rate), then the kind's
/// shape down to `min_lr_ratio` at the last step. `wsd` is warmup-stable-decay (Hu et al. 2024, MiniCPM, section 4.2), linear decay.
#[must_use]
pub fn learning_rate(spec: &JobSpec, step: u64) -> f64 {
    let schedule = &spec.lr_schedule;
    let (steps, warmup) = (spec.training.steps, schedule.warmup_steps);
    if step <= warmup {
        return spec.optimizer.lr * share(step, warmup);
    }
    let down = |progress: f64| schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * (1.0 - progress);
    let factor = match schedule.kind {
        LrKind::Constant => 1.0,
        LrKind::Cosine => {
            let progress = share(step - warmup, steps.saturating_sub(warmup));
            down(0.5 * (1.0 - (std::f64::consts::PI * progress).cos()))
        }
        LrKind::Wsd => {
            let decay = schedule.decay_steps.unwrap_or(steps / 5).min(steps - warmup);
            down(share(step.saturating_sub(steps - decay), decay))
        }
    };
    spec.optimizer.lr * factor
}

/// `part / whole`, at most 1; 0 of nothing is 0.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64).min(1.0)
    }
}
