//! Tokens a second and the time left, from the last steps.

use std::collections::VecDeque;

use rekindle_types::StepReport;

/// Steps that count: enough to be steady, few enough to follow a change.
const WINDOW: usize = 32;

/// The last steps' tokens and seconds.
#[derive(Debug, Default)]
pub struct Rate {
    steps: VecDeque<(u64, f64)>,
}

impl Rate {
    /// Adds a step. The first one of a run waits for its trainers to connect; it only counts while it is alone.
    pub fn add(&mut self, report: &StepReport) {
        if report.step == 2 || self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back((report.tokens, report.step_seconds));
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|(_, seconds)| seconds).sum()
    }

    /// Tokens a second; 0 before the first step.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let tokens: u64 = self.steps.iter().map(|(tokens, _)| tokens).sum();
        if self.seconds() > 0.0 {
            tokens as f64 / self.seconds()
        } else {
            0.0
        }
    }

    /// Seconds that `steps` more steps take.
    #[must_use]
    pub fn seconds_for(&self, steps: u64) -> f64 {
        self.seconds() / self.steps.len().max(1) as f64 * steps as f64
    }

    /// Loss, speed and time left as text.
    #[must_use]
    pub fn describe(&self, report: &StepReport, total_steps: u64) -> String {
        let left = self.seconds_for(total_steps.saturating_sub(report.step));
        let val = report
            .val_loss
            .map_or_else(String::new, |loss| format!("  val {loss:.4}"));
        format!(
            "loss {:.4}{val}  {:.0} tokens/s  {} left",
            report.loss,
            self.tokens_per_second(),
            duration(left)
        )
    }
}

/// `59s`, `3m07s`, `2h05m`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_types::Epoch;

    fn report(step: u64, step_seconds: f64) -> StepReport {
        StepReport {
            step,
            loss: 2.0,
            grad_norm: 1.0,
            lr: 1e-3,
            tokens: 100,
            step_seconds,
            epoch: Epoch(1),
            data_digest: String::new(),
            state_digest: None,
            val_loss: None,
            stage_norms: Vec::new(),
        }
    }

    #[test]
    fn the_slow_first_step_is_forgotten_and_old_ones_too() {
        let mut rate = Rate::default();
        assert_eq!(rate.tokens_per_second(), 0.0);
        rate.add(&report(1, 10.0));
        assert_eq!(rate.tokens_per_second(), 10.0);
        for step in 2..100 {
            rate.add(&report(step, 0.5));
            assert_eq!(rate.tokens_per_second(), 200.0);
        }
        assert_eq!(rate.seconds_for(20), 10.0);
        assert_eq!(
            rate.describe(&report(99, 0.5), 119),
            "loss 2.0000  200 tokens/s  10s left"
        );
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(f64::NAN), "0s");
        assert_eq!(duration(59.4), "59s");
        assert_eq!(duration(187.0), "3m07s");
        assert_eq!(duration(7500.0), "2h05m");
    }
}
