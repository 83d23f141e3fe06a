//! The raised learning rate of a rebuilt stage.
//!
//! The paper multiplies it by 1.1 at each recovery; its code doesn't compound and never takes it back. Both are
//! expressed here: the cap says how far several recoveries may add up, the decay how soon the rate is back.

use serde::Serialize;

/// What a recovery does to a stage's learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BoostRule {
    /// Factor of one recovery; 1 for none.
    pub factor: f64,
    /// Steps in which the factor falls linearly to 1; none: it stays.
    pub decay: Option<u64>,
    /// Never more than this, however often the stage is rebuilt.
    pub cap: f64,
}

impl BoostRule {
    /// No change of the learning rate.
    pub const FLAT: Self = Self {
        factor: 1.0,
        decay: None,
        cap: 1.0,
    };

    /// The factor of a stage that was rebuilt once, `age` steps before.
    #[must_use]
    pub fn factor_at(&self, age: u64) -> f64 {
        let start = self.factor.min(self.cap);
        Boost { start, age }.factor(self)
    }
}

/// The factor of one stage, and its age.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Boost {
    start: f64,
    age: u64,
}

impl Boost {
    /// A stage that was never rebuilt.
    pub const NONE: Self = Self { start: 1.0, age: 0 };

    /// The factor on the learning rate of the stage's next step.
    #[must_use]
    pub fn factor(self, rule: &BoostRule) -> f64 {
        match rule.decay {
            None => self.start,
            Some(steps) if self.age >= steps => 1.0,
            Some(steps) => 1.0 + (self.start - 1.0) * (1.0 - self.age as f64 / steps as f64),
        }
    }

    /// After a step.
    #[must_use]
    pub fn stepped(self) -> Self {
        Self {
            age: self.age.saturating_add(1),
            ..self
        }
    }

    /// After a recovery: the present factor times the rule's, at most the cap.
    #[must_use]
    pub fn recovered(self, rule: &BoostRule) -> Self {
        Self {
            start: (self.factor(rule) * rule.factor).min(rule.cap),
            age: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: BoostRule = BoostRule {
        factor: 1.1,
        decay: None,
        cap: 1.1,
    };

    fn after(boost: Boost, steps: u64) -> Boost {
        (0..steps).fold(boost, |b, _| b.stepped())
    }

    #[test]
    fn t9_recoveries_in_a_row_stop_at_the_cap() {
        let once = Boost::NONE.recovered(&KEEP);
        assert_eq!(once.factor(&KEEP), 1.1);
        assert_eq!(once.recovered(&KEEP).factor(&KEEP), 1.1);
        let compound = BoostRule { cap: 1.25, ..KEEP };
        let twice = once.recovered(&compound);
        assert!((twice.factor(&compound) - 1.21).abs() < 1e-12);
        assert_eq!(twice.recovered(&compound).factor(&compound), 1.25);
    }

    #[test]
    fn a_boost_that_decays_is_gone_in_time_and_one_that_does_not_stays() {
        let rule = BoostRule {
            decay: Some(10),
            ..KEEP
        };
        let boost = Boost::NONE.recovered(&rule);
        assert!((after(boost, 5).factor(&rule) - 1.05).abs() < 1e-12);
        assert_eq!(after(boost, 10).factor(&rule), 1.0);
        assert_eq!(after(boost, 99).recovered(&rule).factor(&rule), 1.1);
        assert_eq!(after(Boost::NONE.recovered(&KEEP), 1000).factor(&KEEP), 1.1);
        assert_eq!(
            [0, 5, 10].map(|age| rule.factor_at(age)),
            [1.1, after(boost, 5).factor(&rule), 1.0]
        );
        assert_eq!(
            Boost::NONE.recovered(&BoostRule::FLAT).factor(&BoostRule::FLAT),
            1.0
        );
    }
}
