//! How often to save, a pure function of what saving costs and how often something fails.

/// What is known when the next checkpoint is planned. All in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SaveCosts {
    /// Time that training loses to one checkpoint: stalls, and steps that took longer.
    pub cost: f64,
    /// From the capture to the last durable byte.
    pub persist: f64,
    /// One step.
    pub step: f64,
    /// Mean time between failures.
    pub mtbf: f64,
}

/// Least cost that is believed: what can't be measured isn't nothing.
const LEAST_COST: f64 = 1e-3;

/// Steps between two checkpoints: sqrt(2 C M) seconds (Young 1974, equation 9; Daly 2006 gives the same to first
/// order where C is small beside M), but no more often than the storage keeps up with, nor than every step.
#[must_use]
pub fn save_interval(costs: &SaveCosts) -> u64 {
    let positive = |x: f64| if x.is_finite() { x.max(0.0) } else { 0.0 };
    let step = positive(costs.step).max(1e-6);
    let best = (2.0 * positive(costs.cost).max(LEAST_COST) * positive(costs.mtbf)).sqrt();
    let steps = (best.max(positive(costs.persist)) / step).ceil();
    // Casts saturate; a step count of this size is never reached.
    (steps as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: SaveCosts = SaveCosts {
        cost: 2.0,
        persist: 1.0,
        step: 1.0,
        mtbf: 10_000.0,
    };

    #[test]
    fn the_interval_is_young_s() {
        assert_eq!(save_interval(&COSTS), 200);
        let rare = SaveCosts {
            mtbf: 4.0 * COSTS.mtbf,
            ..COSTS
        };
        assert_eq!(save_interval(&rare), 400, "four times as rare, half as often");
    }

    #[test]
    fn the_storage_sets_a_bound() {
        let slow = SaveCosts {
            persist: 900.0,
            ..COSTS
        };
        assert_eq!(save_interval(&slow), 900);
    }

    #[test]
    fn nonsense_gives_a_sane_number() {
        for x in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let odd = SaveCosts {
                cost: x,
                persist: x,
                step: x,
                mtbf: x,
            };
            assert!(save_interval(&odd) >= 1);
        }
    }
}
