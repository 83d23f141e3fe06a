//! The learning rate of a step, a pure function of the job and the step's number.

use rekindle_types::spec::LrKind;
use rekindle_types::{JobSpec, Rebuilt};

use crate::average::BoostRule;

/// The learning rate of step `step` (1-based): linear warm-up (step `warmup_steps` has the full rate), then the
/// kind's shape down to `min_lr_ratio` at the last step. `wsd` is warmup-stable-decay (Hu et al. 2024, MiniCPM,
/// section 4.2), linear decay.
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

/// What a layer's update of a step computes with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerRate {
    /// How many steps its Adam has counted, this one included: for the bias correction.
    pub count: u64,
    /// Its learning rate.
    pub lr: f64,
}

/// The rate of layer `layer` (in pipeline order) at step `step`. That of a layer whose state was made up is raised
/// (`recovery.average_lr_factor`), and its Adam may count anew.
#[must_use]
pub fn layer_rate(spec: &JobSpec, rebuilt: &[Rebuilt], layer: u32, step: u64) -> LayerRate {
    let lr = learning_rate(spec, step);
    let Some(rebuilt) = rebuilt.iter().find(|rebuilt| rebuilt.layer == layer) else {
        return LayerRate { count: step, lr };
    };
    let age = step.saturating_sub(rebuilt.after + 1);
    LayerRate {
        count: step.saturating_sub(rebuilt.count_from),
        lr: lr * boost_rule(spec).factor_at(age),
    }
}

/// What a recovery does to a stage's learning rate: several don't add up, as in the paper's code.
fn boost_rule(spec: &JobSpec) -> BoostRule {
    let recovery = &spec.recovery;
    BoostRule {
        factor: recovery.average_lr_factor,
        decay: Some(recovery.average_lr_decay_steps).filter(|steps| *steps > 0),
        cap: recovery.average_lr_factor,
    }
}

/// `part / whole`, at most 1; 0 of nothing is 0.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        (part as f64 / whole as f64).min(1.0)
    }
}
