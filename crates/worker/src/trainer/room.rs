//! Memory of the device: what the plan says is had before anything lies there, or the trainer ends at once and says
//! what it wanted.
//!
//! ```text
//!   a CUDA device --reserve, in one piece--> buffers come out of that, and can't be refused later
//!   refused, now or later, on any device --explain--> OOM_DEVICE, with what the plan wants for what, and what would do with less
//! ```
//!
//! A CPU's memory isn't reserved: pages cost nothing before they are touched, and what lies in shared memory is
//! reserved there.
//!
//! Deliberately absent: how much is needed ([`rekindle_plan::memory`]).

use rekindle_compute::cuda::Cuda;
use rekindle_compute::{AnyDevice, ComputeError, HandedOut};
use rekindle_plan::advice::{needs, would_help};
use rekindle_plan::memory::{Sizes, shared_space};
use rekindle_plan::{Memory, On, memory};
use rekindle_types::{DeviceId, FailureClass, JobSpec, Plan, Rank};

use super::TrainerError;
use super::context::Context;
use super::device::Computing;

/// A device that gives memory in one piece.
pub trait Reserves {
    /// As [`Cuda::reserve`].
    ///
    /// # Errors
    /// [`ComputeError::OutOfMemory`] when the device doesn't have it.
    fn reserve(&self, bytes: usize, space: usize) -> Result<(), ComputeError>;
}

impl Reserves for Cuda {
    fn reserve(&self, bytes: usize, space: usize) -> Result<(), ComputeError> {
        Cuda::reserve(self, bytes, space)
    }
}

/// What a trainer takes of its device.
#[derive(Debug, Clone)]
pub struct Room {
    rank: Rank,
    device: DeviceId,
    on: On,
    planned: Memory,
    /// What it is planned for: what would do with less is worked out when it is asked for.
    spec: JobSpec,
    plan: Plan,
}

impl Room {
    /// As the plan says.
    #[must_use]
    pub fn of(context: &Context, computing: Computing) -> Self {
        let Context { spec, plan, rank, .. } = context;
        let on = match computing.device {
            DeviceId::Cpu => On::Cpu {
                threads: computing.threads,
            },
            DeviceId::Cuda(_) => On::Cuda,
        };
        Self {
            rank: *rank,
            device: computing.device,
            on,
            planned: memory(spec, plan, *rank, on),
            spec: spec.clone(),
            plan: plan.clone(),
        }
    }

    /// Reserves it on a device that has nothing but the library's work space yet.
    ///
    /// # Errors
    /// [`TrainerError::OutOfMemory`] with the plan's figures when the device doesn't have it.
    pub fn reserve(&self, device: &dyn Reserves) -> Result<(), TrainerError> {
        let bytes = self.planned.total().saturating_sub(Sizes::CUDA.workspace);
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let space = shared_space(&self.spec, &self.plan, self.rank);
        let reserved = device.reserve(size(bytes), size(space));
        reserved.map_err(|error| self.explain(error.into()))
    }

    /// The same error, or if it is about the device's memory, with the plan's figures.
    #[must_use]
    pub fn explain(&self, error: TrainerError) -> TrainerError {
        if error.class() != FailureClass::OomDevice || matches!(error, TrainerError::OutOfMemory { .. }) {
            return error;
        }
        let Self { rank, device, .. } = self;
        let smaller = would_help(&self.spec, &self.plan, *rank, self.on);
        let advice = match smaller.is_empty() {
            true => "take a device with more memory".to_owned(),
            false => format!("{smaller} would do with less; or take a device with more memory"),
        };
        let needs = needs(&self.planned);
        TrainerError::OutOfMemory {
            what: format!("{rank} doesn't fit on {device}: {error}; its plan takes {needs}: {advice}"),
        }
    }

    /// Says what was used of what was planned.
    pub fn tell(&self, device: &AnyDevice) {
        let HandedOut { peak, .. } = device.handed_out();
        let beside = match device {
            AnyDevice::Cpu(_) => 0,
            AnyDevice::Cuda(cuda) => cuda.beside_reserved(),
        };
        let planned = self.planned.total();
        tracing::info!(planned, peak, beside, device = %self.device, "bytes of the device's memory");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use rekindle_model::EngineError;
    use rekindle_types::RankId;

    use super::super::{setup, tests};
    use super::*;

    /// A device of so many bytes, which notes what it was asked for.
    struct Fake {
        free: usize,
        asked: Cell<(usize, usize)>,
    }

    impl Reserves for Fake {
        fn reserve(&self, bytes: usize, space: usize) -> Result<(), ComputeError> {
            self.asked.set((bytes, space));
            match bytes <= self.free {
                true => Ok(()),
                false => Err(out_of(self.free)),
            }
        }
    }

    fn out_of(free: usize) -> ComputeError {
        ComputeError::OutOfMemory {
            what: format!("CUDA: {free} bytes are free"),
        }
    }

    fn fake(free: usize) -> Fake {
        let asked = Cell::default();
        Fake { free, asked }
    }

    fn room(device: DeviceId) -> Room {
        let text = tests::folder();
        let spec = tests::spec(text.path(), "", "");
        let plan = tests::plan(2, &[2, 5], &["w"; 4]);
        let start = tests::start(&spec, &plan, RankId(1));
        let context = setup::context(start, Duration::from_secs(1)).unwrap();
        Room::of(&context, Computing { device, threads: 1 })
    }

    #[test]
    fn all_that_is_planned_is_reserved_but_what_the_library_has_already() {
        let (room, device) = (room(DeviceId::Cuda(0)), fake(usize::MAX));
        room.reserve(&device).unwrap();
        let (bytes, space) = device.asked.get();
        assert_eq!(bytes as u64 + (32 << 20), room.planned.total());
        assert_eq!(space as u64, shared_space(&room.spec, &room.plan, room.rank));
        assert!(space > 0 && space < bytes);
    }

    #[test]
    fn what_does_not_fit_ends_the_trainer_with_a_table_and_a_way_out() {
        let room = room(DeviceId::Cuda(3));
        let error = room.reserve(&fake(4711)).unwrap_err();
        assert_eq!(error.class(), FailureClass::OomDevice);
        let text = error.to_string();
        for part in [
            "stage 1",
            "cuda:3",
            "4711 bytes are free",
            "gradients",
            "activations",
            "training.micro_batch = 1",
            "training.recompute = \"block\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(room.explain(error).to_string(), text, "explained once");
    }

    #[test]
    fn a_later_refusal_is_explained_and_other_errors_are_left_alone() {
        let room = room(DeviceId::Cpu);
        let inside = || TrainerError::from(EngineError::from(out_of(12)));
        assert_eq!(inside().class(), FailureClass::OomDevice);
        let later = room.explain(inside());
        assert!(matches!(&later, TrainerError::OutOfMemory { what } if what.contains("12 bytes are free")));
        let lost = ComputeError::Lost { what: "gone".into() };
        assert_eq!(room.explain(lost.into()).to_string(), "gone");
    }
}
