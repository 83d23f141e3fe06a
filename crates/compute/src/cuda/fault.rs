//! What an error of CUDA means for whoever goes on: the code alone decides.
//!
//! ```text
//!   OutOfMemory  the job doesn't fit on this device: the job's, or a plan's, to mend
//!   Process      what this process has on the device is lost ("sticky" errors): a new process on the same device may go on
//!   Device       the device, its memory or its driver is at fault: better another device
//!   Refused      what was asked can't be done, and won't be the next time either
//! ```
//!
//! A code that isn't known is taken for `Process`: a new process costs little, and restarts have a bound.
//!
//! Deliberately absent: what is done about it. Kernels run later than they are launched, so an error is met by a call
//! that has nothing to do with it.

use cudarc::cublaslt::sys::cublasStatus_t as Status;

use crate::ComputeError;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device has no more memory.
    OutOfMemory,
    /// This process can't use the device any more.
    Process,
    /// The device is at fault.
    Device,
    /// The call is.
    Refused,
}

/// Of a result of the driver (`CUresult` in cuda.h).
pub fn of_driver(code: u32) -> Fault {
    match code {
        2 => Fault::OutOfMemory,
        // No licence, no device, a device or a machine that isn't ready or whose driver doesn't fit; unavailable
        // after an error or by others' use.
        34 | 46 | 100..=103 | 802..=804 => Fault::Device,
        // Memory that can't be corrected, NVLink, an error that was contained, the stack of the hardware.
        214 | 220 | 226 | 714 => Fault::Device,
        // Ends of contexts and of the driver, and what kernels do wrong or what strikes them.
        3 | 4 | 201 | 700 | 702 | 709 | 710 | 715..=719 | 721 => Fault::Process,
        // The service that lets processes share a device; time-outs; the system; unknown.
        304 | 805..=810 | 909 | 911 | 999 => Fault::Process,
        1 | 5..=8 | 200 | 202 | 205..=213 | 215..=219 | 221..=225 => Fault::Refused,
        300..=303 | 400..=402 | 500 | 600 | 701 | 703..=708 | 711..=713 | 720 => Fault::Refused,
        800 | 801 | 811 | 812 | 900..=908 | 910 | 912..=917 => Fault::Refused,
        _ => Fault::Process,
    }
}

/// Of a result of cuBLASLt (`cublasStatus_t`).
pub fn of_cublas(status: u32) -> Fault {
    const ALLOC_FAILED: u32 = Status::CUBLAS_STATUS_ALLOC_FAILED as u32;
    const INVALID_VALUE: u32 = Status::CUBLAS_STATUS_INVALID_VALUE as u32;
    const ARCH_MISMATCH: u32 = Status::CUBLAS_STATUS_ARCH_MISMATCH as u32;
    const NOT_SUPPORTED: u32 = Status::CUBLAS_STATUS_NOT_SUPPORTED as u32;
    const LICENSE_ERROR: u32 = Status::CUBLAS_STATUS_LICENSE_ERROR as u32;
    match status {
        ALLOC_FAILED => Fault::OutOfMemory,
        INVALID_VALUE | ARCH_MISMATCH | NOT_SUPPORTED | LICENSE_ERROR => Fault::Refused,
        // Not initialized, mapping, execution, internal, and what comes new.
        _ => Fault::Process,
    }
}

impl Fault {
    /// The error that tells of it.
    pub fn error(self, what: String) -> ComputeError {
        let look = "look at `dmesg` for Xid errors and at `nvidia-smi`";
        match self {
            Self::OutOfMemory => ComputeError::OutOfMemory { what },
            Self::Process => ComputeError::Lost {
                what: format!("{what}; {look}"),
            },
            Self::Device => ComputeError::Faulty {
                what: format!("{what}: the device or its driver is at fault; {look}, or take another device"),
            },
            Self::Refused => ComputeError::Device { what },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cudarc::driver::sys::CUresult as Code;

    use super::*;

    /// Of the codes from 0 to 999 these are the device's, with two that the bindings have no name of.
    const DEVICE: [Code; 11] = [
        Code::CUDA_ERROR_STUB_LIBRARY,
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE,
        Code::CUDA_ERROR_NO_DEVICE,
        Code::CUDA_ERROR_INVALID_DEVICE,
        Code::CUDA_ERROR_DEVICE_NOT_LICENSED,
        Code::CUDA_ERROR_SYSTEM_NOT_READY,
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
        Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
        Code::CUDA_ERROR_ECC_UNCORRECTABLE,
        Code::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        Code::CUDA_ERROR_HARDWARE_STACK_ERROR,
    ];
    const PROCESS: [Code; 21] = [
        Code::CUDA_ERROR_NOT_INITIALIZED,
        Code::CUDA_ERROR_DEINITIALIZED,
        Code::CUDA_ERROR_INVALID_CONTEXT,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS,
        Code::CUDA_ERROR_LAUNCH_TIMEOUT,
        Code::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        Code::CUDA_ERROR_ASSERT,
        Code::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        Code::CUDA_ERROR_MISALIGNED_ADDRESS,
        Code::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        Code::CUDA_ERROR_INVALID_PC,
        Code::CUDA_ERROR_LAUNCH_FAILED,
        Code::CUDA_ERROR_OPERATING_SYSTEM,
        Code::CUDA_ERROR_MPS_CONNECTION_FAILED,
        Code::CUDA_ERROR_MPS_RPC_FAILURE,
        Code::CUDA_ERROR_MPS_SERVER_NOT_READY,
        Code::CUDA_ERROR_MPS_MAX_CLIENTS_REACHED,
        Code::CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED,
        Code::CUDA_ERROR_MPS_CLIENT_TERMINATED,
        Code::CUDA_ERROR_TIMEOUT,
        Code::CUDA_ERROR_UNKNOWN,
    ];
    /// Calls that can't be made so: a sample of each group of codes.
    const REFUSED: [Code; 12] = [
        Code::CUDA_ERROR_INVALID_VALUE,
        Code::CUDA_ERROR_INVALID_IMAGE,
        Code::CUDA_ERROR_NO_BINARY_FOR_GPU,
        Code::CUDA_ERROR_INVALID_PTX,
        Code::CUDA_ERROR_INVALID_SOURCE,
        Code::CUDA_ERROR_INVALID_HANDLE,
        Code::CUDA_ERROR_NOT_FOUND,
        Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        Code::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED,
        Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
        Code::CUDA_ERROR_NOT_PERMITTED,
        Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
    ];

    #[test]
    fn every_code_of_the_driver_has_its_fault() {
        for code in DEVICE {
            assert_eq!(of_driver(code as u32), Fault::Device, "{code:?}");
        }
        for code in PROCESS {
            assert_eq!(of_driver(code as u32), Fault::Process, "{code:?}");
        }
        for code in REFUSED {
            assert_eq!(of_driver(code as u32), Fault::Refused, "{code:?}");
        }
        // Without a name in the bindings: another one about licences, and CONTAINED.
        let newer = [103, 226];
        let named: BTreeSet<u32> = DEVICE.iter().map(|code| *code as u32).chain(newer).collect();
        let found: BTreeSet<u32> = (0..1000)
            .filter(|code| of_driver(*code) == Fault::Device)
            .collect();
        assert_eq!(found, named);
        let memory: Vec<u32> = (0..2000)
            .filter(|code| of_driver(*code) == Fault::OutOfMemory)
            .collect();
        assert_eq!(memory, [Code::CUDA_ERROR_OUT_OF_MEMORY as u32]);
    }

    /// cuda.h grows: a code that nobody has heard of must neither end a job for good nor condemn a device.
    #[test]
    fn an_unknown_code_costs_a_process() {
        for code in [47, 104, 227, 305, 722, 813, 918, 1000, u32::MAX] {
            assert_eq!(of_driver(code), Fault::Process, "{code}");
        }
        assert_eq!(of_cublas(99), Fault::Process);
    }

    #[test]
    fn statuses_of_products_have_theirs() {
        let of = |status: Status| of_cublas(status as u32);
        assert_eq!(of(Status::CUBLAS_STATUS_ALLOC_FAILED), Fault::OutOfMemory);
        assert_eq!(of(Status::CUBLAS_STATUS_EXECUTION_FAILED), Fault::Process);
        assert_eq!(of(Status::CUBLAS_STATUS_INTERNAL_ERROR), Fault::Process);
        assert_eq!(of(Status::CUBLAS_STATUS_NOT_SUPPORTED), Fault::Refused);
        assert_eq!(of(Status::CUBLAS_STATUS_INVALID_VALUE), Fault::Refused);
    }
}
