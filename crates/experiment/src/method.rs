//! The methods that are compared, and their names.
//!
//! A name is a base and options, joined by colons: `checkpoint-50`, `checkfree:l2`, `checkfree+:second:decay`.
//! [`Method`] parses from and prints as its name; options that are the base's usual ones aren't printed.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use rekindle_types::spec::{Moments, Weighting};

/// What happens when a stage is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing is ever lost.
    Undisturbed(Control),
    /// All stages go back to the last checkpoint; the steps since are run again. Exact.
    Checkpoint {
        /// Steps between checkpoints.
        every: u64,
    },
    /// Every stage's work is done twice, so that nothing is lost. Modelled: the undisturbed run with a slower step.
    Redundant,
    /// A guard repeats the update of each stage with the same gradient and hands the state over. Exact.
    Shadow,
    /// The stage is made anew without its own state; training goes on. Approximate.
    Neighbour(Neighbour),
}

/// Undisturbed runs with something that lossy methods have: what it costs by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    Plain,
    /// The learning rate that rebuilt stages end up with.
    Boosted,
    /// Swapped micro-batches.
    Swapped,
}

/// A lossy method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// What stands in.
    pub substitute: Substitute,
    /// How its Adam starts.
    pub moments: Moments,
    /// What happens to its learning rate.
    pub boost: LrBoost,
    /// Whether odd micro-batches visit the ends in swapped order, and embedding and head are replicated (CheckFree+).
    pub swap: bool,
}

/// What stands in for the lost weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substitute {
    /// New random weights.
    Random,
    /// The stage before (the one behind for the first).
    Copy,
    /// The mean of both neighbours.
    Blend(Weighting),
    /// The best of several candidates, by the loss on a cached micro-batch.
    Best,
}

/// The learning rate of a rebuilt stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LrBoost {
    /// Raised for good (the authors' code).
    Keep,
    /// Raised, falling back linearly.
    Decay,
    /// As before.
    Flat,
}

impl Method {
    /// Whether the result is, bit for bit, that of the undisturbed run.
    #[must_use]
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Checkpoint { .. } | Self::Redundant | Self::Shadow)
    }

    /// Whether odd micro-batches are swapped.
    #[must_use]
    pub fn swaps(self) -> bool {
        match self {
            Self::Undisturbed(control) => control == Control::Swapped,
            Self::Neighbour(neighbour) => neighbour.swap,
            _ => false,
        }
    }

    /// Whether failures don't happen to it.
    #[must_use]
    pub fn is_undisturbed(self) -> bool {
        matches!(self, Self::Undisturbed(_))
    }

    /// What the table calls it.
    #[must_use]
    pub fn title(self) -> String {
        match self {
            Self::Undisturbed(Control::Plain) => "no failure".to_owned(),
            Self::Undisturbed(Control::Boosted) => "no failure, raised learning rate (control)".to_owned(),
            Self::Undisturbed(Control::Swapped) => "no failure, swapped micro-batches (control)".to_owned(),
            Self::Checkpoint { every } => format!("checkpoint every {every}"),
            Self::Redundant => "redundant computation (modelled)".to_owned(),
            Self::Shadow => "shadow copy".to_owned(),
            Self::Neighbour(neighbour) => neighbour.title(),
        }
    }
}

impl Neighbour {
    const USUAL: Self = Self {
        substitute: Substitute::Blend(Weighting::Squared),
        moments: Moments::Fresh,
        boost: LrBoost::Keep,
        swap: false,
    };

    fn title(self) -> String {
        let what = match (self.substitute, self.swap) {
            (Substitute::Random, _) => "random weights",
            (Substitute::Copy, _) => "copy of a neighbour",
            (Substitute::Best, _) => "loss-aware choice",
            (Substitute::Blend(Weighting::Uniform), false) => "uniform average",
            (Substitute::Blend(Weighting::Norm), false) => "CheckFree, L2 norms",
            (Substitute::Blend(Weighting::Squared), false) => "CheckFree",
            (Substitute::Blend(Weighting::Uniform), true) => "CheckFree+, uniform average",
            (Substitute::Blend(Weighting::Norm), true) => "CheckFree+, L2 norms",
            (Substitute::Blend(Weighting::Squared), true) => "CheckFree+",
        };
        let moments = match self.moments {
            Moments::Fresh => "",
            Moments::Second => ", second moment blended",
            Moments::Both => ", moments blended",
        };
        let boost = match self.boost {
            LrBoost::Keep => "",
            LrBoost::Decay => ", rate decays back",
            LrBoost::Flat => ", rate unchanged",
        };
        format!("{what}{moments}{boost}")
    }

    fn base(self) -> &'static str {
        match (self.substitute, self.swap) {
            (Substitute::Random, _) => "random",
            (Substitute::Copy, _) => "copy",
            (Substitute::Best, _) => "loss-aware",
            (Substitute::Blend(Weighting::Uniform), false) => "average",
            (Substitute::Blend(_), false) => "checkfree",
            (Substitute::Blend(_), true) => "checkfree+",
        }
    }

    fn option(mut self, option: &str) -> Option<Self> {
        // Nobody has moments that fit random weights.
        let blendable = (self.substitute != Substitute::Random).then_some(&mut self.moments);
        let weighting = matches!(self.substitute, Substitute::Blend(_)).then_some(&mut self.substitute);
        match option {
            "l2" => *weighting? = Substitute::Blend(Weighting::Norm),
            "squared" => *weighting? = Substitute::Blend(Weighting::Squared),
            "uniform" => *weighting? = Substitute::Blend(Weighting::Uniform),
            "fresh" => self.moments = Moments::Fresh,
            "second" => *blendable? = Moments::Second,
            "both" => *blendable? = Moments::Both,
            "keep" => self.boost = LrBoost::Keep,
            "decay" => self.boost = LrBoost::Decay,
            "flat" => self.boost = LrBoost::Flat,
            _ => return None,
        }
        Some(self)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let neighbour = match self {
            Self::Undisturbed(Control::Plain) => return f.write_str("none"),
            Self::Undisturbed(Control::Boosted) => return f.write_str("none:boost"),
            Self::Undisturbed(Control::Swapped) => return f.write_str("none:swap"),
            Self::Checkpoint { every } => return write!(f, "checkpoint-{every}"),
            Self::Redundant => return f.write_str("redundant"),
            Self::Shadow => return f.write_str("shadow"),
            Self::Neighbour(neighbour) => neighbour,
        };
        f.write_str(neighbour.base())?;
        match (neighbour.substitute, neighbour.swap) {
            (Substitute::Blend(Weighting::Norm), _) => f.write_str(":l2")?,
            (Substitute::Blend(Weighting::Uniform), true) => f.write_str(":uniform")?,
            _ => {}
        }
        f.write_str(match neighbour.moments {
            Moments::Fresh => "",
            Moments::Second => ":second",
            Moments::Both => ":both",
        })?;
        f.write_str(match neighbour.boost {
            LrBoost::Keep => "",
            LrBoost::Decay => ":decay",
            LrBoost::Flat => ":flat",
        })
    }
}

/// All names, for messages.
const NAMES: &str = "none, none:boost, none:swap, checkpoint-N, redundant, shadow, random, copy, average, checkfree, checkfree+, \
    loss-aware; the last six take :keep, :decay or :flat (learning rate), all of them but random :fresh, :second or :both \
    (moments), those that average :l2, :squared or :uniform";

impl FromStr for Method {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        parse(name).ok_or_else(|| format!("{name:?} is no method; there are {NAMES}"))
    }
}

fn parse(name: &str) -> Option<Method> {
    match name {
        "none" => return Some(Method::Undisturbed(Control::Plain)),
        "none:boost" => return Some(Method::Undisturbed(Control::Boosted)),
        "none:swap" => return Some(Method::Undisturbed(Control::Swapped)),
        "redundant" => return Some(Method::Redundant),
        "shadow" => return Some(Method::Shadow),
        _ => {}
    }
    if let Some(every) = name.strip_prefix("checkpoint-") {
        let every = every.parse().ok().filter(|&n| n > 0)?;
        return Some(Method::Checkpoint { every });
    }
    let (base, options) = name.split_once(':').map_or((name, None), |(b, o)| (b, Some(o)));
    let usual = Neighbour::USUAL;
    let of = |substitute| Neighbour { substitute, ..usual };
    let start = match base {
        "random" => of(Substitute::Random),
        "copy" => of(Substitute::Copy),
        "average" => of(Substitute::Blend(Weighting::Uniform)),
        "checkfree" => usual,
        "checkfree+" => Neighbour { swap: true, ..usual },
        "loss-aware" => of(Substitute::Best),
        _ => return None,
    };
    let options = options.into_iter().flat_map(|o| o.split(':'));
    let neighbour = options.into_iter().try_fold(start, Neighbour::option)?;
    Some(Method::Neighbour(neighbour))
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "none",
            "none:boost",
            "none:swap",
            "checkpoint-7",
            "redundant",
            "shadow",
            "random",
            "copy",
            "average:second",
            "checkfree",
            "checkfree:l2:both:flat",
            "checkfree+",
            "checkfree+:uniform:second:decay",
            "loss-aware:decay",
        ] {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), name);
        }
        let plain: Method = "checkfree:uniform".parse().unwrap();
        assert_eq!(plain.to_string(), "average");
        assert_eq!(
            "checkfree:squared:fresh:keep"
                .parse::<Method>()
                .unwrap()
                .to_string(),
            "checkfree"
        );
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "checkpoint-0",
            "checkpoint-x",
            "random:l2",
            "random:both",
            "checkfree:",
            "shadow:fast",
            "none:decay",
        ] {
            assert!(name.parse::<Method>().is_err(), "{name}");
        }
    }
}
