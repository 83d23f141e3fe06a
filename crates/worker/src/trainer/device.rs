//! What this trainer computes on.

use std::sync::Arc;

use rekindle_compute::cuda::{Cuda, Precision};
use rekindle_compute::{AnyDevice, Cpu, StateMemory};
use rekindle_types::{DeviceId, Dtype};

use super::TrainerError;
use super::context::Context;

/// A device and its helpers, as the worker says.
#[derive(Debug, Clone, Copy)]
pub struct Computing {
    /// What computes.
    pub device: DeviceId,
    /// Threads of the processor: the device itself where that is the CPU, and what is computed beside one.
    pub threads: u32,
}

impl Computing {
    /// Whether this device computes in what the job wants.
    ///
    /// # Errors
    /// [`TrainerError::Device`] naming the worker and what to do.
    pub fn check(self, context: &Context) -> Result<(), TrainerError> {
        match (self.device, context.spec.training.dtype) {
            (DeviceId::Cpu, Dtype::Bf16) => Err(TrainerError::Device {
                what: format!(
                    "training.dtype = \"bf16\" needs a CUDA device, and {} of worker {} computes on the {}; start workers with \
                     --device cuda:N (`rekindle doctor` says what a machine has), or set training.dtype = \"f32\"",
                    context.rank,
                    context.plan.workers[context.id().0 as usize],
                    self.device,
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The device. On a CPU, state is to lie in `memory`, if there is one.
    ///
    /// # Errors
    /// [`TrainerError`] when it can't be had, or can't do what the job wants.
    pub fn open(
        self,
        context: &Context,
        memory: Option<Arc<dyn StateMemory>>,
    ) -> Result<AnyDevice, TrainerError> {
        self.check(context)?;
        let precision = match context.spec.training.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        };
        match self.device {
            DeviceId::Cpu => self.cpu(memory),
            DeviceId::Cuda(number) => Ok(Cuda::open(i32::from(number), precision)?.into()),
        }
    }

    /// The processor, whatever else computes here.
    ///
    /// # Errors
    /// [`TrainerError::Compute`] when there are no threads.
    pub fn cpu(self, memory: Option<Arc<dyn StateMemory>>) -> Result<AnyDevice, TrainerError> {
        Ok(Cpu::with_memory(self.threads as usize, memory)?.into())
    }

    /// The processor for work beside training: its caller's thread alone, whose priority counts then.
    ///
    /// # Errors
    /// As [`Computing::cpu`].
    pub fn beside(memory: Option<Arc<dyn StateMemory>>) -> Result<AnyDevice, TrainerError> {
        Ok(Cpu::with_memory(1, memory)?.into())
    }
}
