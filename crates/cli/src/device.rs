//! `--device`: what trainers of a worker, or a command, compute on.
//!
//! In: what was asked for, and what this machine has of CUDA. Out: devices that can be used, or why not.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use rekindle_compute::cuda::survey::{Survey, survey};
use rekindle_types::{DeviceId, DeviceIdError};

use crate::problem::Problem;

/// The `--device` option.
#[derive(Debug, Clone, Copy, Args)]
pub struct DeviceArgs {
    /// What computes: cpu, cuda:N, or auto: the first usable CUDA device, else the CPU
    #[arg(long, env = "REKINDLE_DEVICE", default_value_t = Choice::Auto, value_name = "DEVICE")]
    device: Choice,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Auto,
    This(DeviceId),
}

/// Devices to use, and why these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    first: DeviceId,
    more: Vec<DeviceId>,
    /// Why, for a log.
    pub why: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::This(device) => device.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text
                .parse()
                .map(Self::This)
                .map_err(|_: DeviceIdError| "use auto, cpu, or cuda:0 with the device's number".to_owned()),
        }
    }
}

impl DeviceArgs {
    /// The devices that this stands for on this machine.
    ///
    /// # Errors
    /// A device was named that can't be used.
    pub fn choose(self) -> Result<Chosen, Problem> {
        choose(self.device, survey)
    }
}

impl Chosen {
    fn one(first: DeviceId, why: impl Into<String>) -> Self {
        Self {
            first,
            more: Vec::new(),
            why: why.into(),
        }
    }

    /// The first of them.
    #[must_use]
    pub fn first(&self) -> DeviceId {
        self.first
    }

    /// The device of the worker of this number: they take turns.
    #[must_use]
    pub fn of(&self, worker: usize) -> DeviceId {
        match worker % (self.more.len() + 1) {
            0 => self.first,
            n => self.more[n - 1],
        }
    }
}

fn choose(choice: Choice, survey: impl FnOnce() -> Survey) -> Result<Chosen, Problem> {
    match choice {
        Choice::This(DeviceId::Cpu) => Ok(Chosen::one(DeviceId::Cpu, "asked for")),
        Choice::This(device) => named(device, &survey()),
        Choice::Auto => Ok(best(&survey())),
    }
}

fn usable(survey: &Survey) -> Vec<DeviceId> {
    let numbers = survey.usable().into_iter();
    numbers
        .filter_map(|n| u16::try_from(n).ok())
        .map(DeviceId::Cuda)
        .collect()
}

fn named(device: DeviceId, survey: &Survey) -> Result<Chosen, Problem> {
    if usable(survey).contains(&device) {
        return Ok(Chosen::one(device, "asked for"));
    }
    let cause = match troubles(survey) {
        none if none.is_empty() => format!("there are {} CUDA devices, counted from 0", survey.devices.len()),
        troubles => troubles,
    };
    Err(Problem::new(format!("{device} can't be used on this machine"))
        .cause(cause)
        .fix("look at `rekindle doctor`, or use --device cpu"))
}

/// All usable CUDA devices, or else the CPU: what `auto` stands for.
#[must_use]
pub fn best(survey: &Survey) -> Chosen {
    let mut devices = usable(survey).into_iter();
    match devices.next() {
        Some(first) => Chosen {
            first,
            more: devices.collect(),
            why: "a usable CUDA device".to_owned(),
        },
        None => Chosen::one(
            DeviceId::Cpu,
            format!("no usable CUDA device: {}", troubles(survey)),
        ),
    }
}

fn troubles(survey: &Survey) -> String {
    let all: Vec<_> = survey.troubles.iter().map(|trouble| &*trouble.what).collect();
    all.join("; ")
}

#[cfg(test)]
mod tests {
    use rekindle_compute::cuda::library::KINDS;
    use rekindle_compute::cuda::survey::{DeviceState, LibraryState, Trouble};

    use super::*;

    fn machine(devices: i32) -> Survey {
        let library = |kind| LibraryState {
            kind,
            path: None,
            version: Some("13.0".to_owned()),
        };
        let device = |ordinal| DeviceState {
            ordinal,
            name: "a device".to_owned(),
            capability: (9, 0),
            multiprocessors: 1,
            memory: 1,
            free: None,
        };
        let none = Trouble {
            what: "no driver".to_owned(),
            fix: String::new(),
        };
        Survey {
            libraries: KINDS.into_iter().map(library).collect(),
            devices: (0..devices).map(device).collect(),
            troubles: Some(none).filter(|_| devices == 0).into_iter().collect(),
        }
    }

    fn chosen(text: &str, devices: i32) -> Result<Chosen, Problem> {
        choose(text.parse().unwrap(), || machine(devices))
    }

    #[test]
    fn auto_takes_usable_devices_in_turns_and_else_the_cpu_with_the_reason() {
        let two = chosen("auto", 2).unwrap();
        assert_eq!(two.first(), DeviceId::Cuda(0));
        let turns = [0, 1, 2].map(|worker| two.of(worker));
        assert_eq!(turns, [DeviceId::Cuda(0), DeviceId::Cuda(1), DeviceId::Cuda(0)]);
        let none = chosen("auto", 0).unwrap();
        assert_eq!((none.first(), none.of(3)), (DeviceId::Cpu, DeviceId::Cpu));
        assert!(none.why.contains("no driver"), "{}", none.why);
    }

    #[test]
    fn a_named_device_is_taken_or_refused() {
        let one = chosen("cuda:1", 2).unwrap();
        assert_eq!((one.first(), one.of(1)), (DeviceId::Cuda(1), DeviceId::Cuda(1)));
        assert!(chosen("cuda:2", 2).is_err() && chosen("cuda:0", 0).is_err());
        let cpu = choose(Choice::This(DeviceId::Cpu), || panic!("nothing to look for"));
        assert_eq!(cpu.unwrap().first(), DeviceId::Cpu);
    }

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:11"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        for text in ["", "gpu", "cuda", "cuda:", "cuda:x", "Auto"] {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
