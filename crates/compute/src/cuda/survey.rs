//! What a machine has of CUDA: libraries with their versions, devices, and what is wrong with them.
//!
//! Deliberately absent: any judgement on whether that is enough for a job.

use std::path::PathBuf;

use super::library::{Found, KINDS, Kind, find};
use super::{nvrtc, raw};

/// The oldest devices that the kernels are compiled for.
pub const OLDEST: (i32, i32) = (8, 0);
/// The oldest NCCL with several ranks on one device, which tests on a single device need.
const OLDEST_NCCL: i32 = 23_000;
// Numbers of attributes in cuda.h.
const MULTIPROCESSORS: i32 = 16;
const MAJOR: i32 = 75;
const MINOR: i32 = 76;

/// A library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryState {
    /// Which.
    pub kind: Kind,
    /// Where it is; None if it isn't.
    pub path: Option<PathBuf>,
    /// Its version; None where it couldn't be asked.
    pub version: Option<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its number.
    pub ordinal: i32,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes that nobody uses; None where they couldn't be asked for.
    pub free: Option<usize>,
}

/// Something that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// One of each kind, in order.
    pub libraries: Vec<LibraryState>,
    /// By number.
    pub devices: Vec<DeviceState>,
    /// What is missing or wrong.
    pub troubles: Vec<Trouble>,
}

/// Looks at this machine. Never fails: what can't be seen is a trouble.
#[must_use]
pub fn survey() -> Survey {
    let mut survey = Survey {
        libraries: Vec::new(),
        devices: Vec::new(),
        troubles: Vec::new(),
    };
    for kind in KINDS {
        let found = find(kind);
        survey.add_library(kind, found.as_ref());
        if let (Kind::Driver, Some(driver)) = (kind, &found) {
            survey.add_devices(driver);
        }
    }
    survey
}

/// A version as its library writes it.
fn version(kind: Kind, found: &Found) -> raw::Answer<String> {
    match kind {
        Kind::Driver => raw::written(found, c"cuDriverGetVersion").map(|v| dotted(v / 1000, v % 1000 / 10)),
        Kind::Nvrtc => nvrtc::version()
            .map(|(major, minor)| dotted(major, minor))
            .map_err(|e| e.to_string()),
        Kind::CublasLt => raw::returned(found, c"cublasLtGetVersion").map(|v| match v {
            // From 11 on the major number counts ten thousands.
            100_000.. => format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100),
            _ => format!("{}.{}.{}", v / 1000, v / 100 % 10, v % 100),
        }),
        Kind::Nccl => raw::written(found, c"ncclGetVersion").map(|v| match v {
            10_000.. => format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100),
            _ => format!("{}.{}.{}", v / 1000, v / 100 % 10, v % 100),
        }),
    }
}

fn dotted(major: i32, minor: i32) -> String {
    format!("{major}.{minor}")
}

impl Survey {
    /// Numbers of the devices that are new enough, where the libraries that computing needs are there (NCCL isn't one
    /// of them).
    #[must_use]
    pub fn usable(&self) -> Vec<i32> {
        let works = |library: &LibraryState| library.version.is_some() || library.kind == Kind::Nccl;
        let new = self.devices.iter().filter(|device| device.capability >= OLDEST);
        match self.libraries.iter().all(works) {
            true => new.map(|device| device.ordinal).collect(),
            false => Vec::new(),
        }
    }

    fn trouble(&mut self, what: String, fix: impl Into<String>) {
        self.troubles.push(Trouble {
            what,
            fix: fix.into(),
        });
    }

    fn add_library(&mut self, kind: Kind, found: Option<&Found>) {
        let version = match found.map(|found| version(kind, found)) {
            None => {
                self.trouble(format!("{} isn't there", kind.title()), kind.remedy());
                None
            }
            Some(Err(why)) => {
                self.trouble(format!("{} can't be used: {why}", kind.title()), kind.remedy());
                None
            }
            Some(Ok(version)) => Some(version),
        };
        if let (Kind::Nccl, Some(found)) = (kind, found)
            && let Ok(number) = raw::written(found, c"ncclGetVersion")
            && number < OLDEST_NCCL
        {
            self.trouble("NCCL is older than 2.30".to_owned(), kind.remedy());
        }
        self.libraries.push(LibraryState {
            kind,
            path: found.map(|found| found.path.clone()),
            version,
        });
    }

    fn add_devices(&mut self, driver: &Found) {
        let count = raw::init(driver).and_then(|()| raw::written(driver, c"cuDeviceGetCount"));
        let count = match count {
            Ok(count) => count,
            Err(why) => {
                let fix =
                    "look at `nvidia-smi`; in a container, give it the devices; check CUDA_VISIBLE_DEVICES";
                return self.trouble(format!("no device can be used: {why}"), fix);
            }
        };
        for ordinal in 0..count {
            match look_at(driver, ordinal) {
                Ok(device) => self.add_device(device),
                Err(why) => self.trouble(
                    format!("device {ordinal} can't be used: {why}"),
                    "look at `nvidia-smi`",
                ),
            }
        }
    }

    fn add_device(&mut self, device: DeviceState) {
        if device.capability < OLDEST {
            let (major, minor) = device.capability;
            let what = format!("device {} has compute capability {major}.{minor}", device.ordinal);
            self.trouble(what, "the kernels need 8.0 or newer (A100 and later)");
        }
        self.devices.push(device);
    }
}

fn look_at(driver: &Found, ordinal: i32) -> raw::Answer<DeviceState> {
    let device = raw::device(driver, ordinal)?;
    Ok(DeviceState {
        ordinal,
        name: raw::name(driver, device)?,
        capability: (
            raw::attribute(driver, device, MAJOR)?,
            raw::attribute(driver, device, MINOR)?,
        ),
        multiprocessors: raw::attribute(driver, device, MULTIPROCESSORS)?,
        memory: raw::total_memory(driver, device)?,
        free: raw::free_memory(driver, device).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surveyed(capabilities: &[(i32, i32)], missing: Option<Kind>) -> Survey {
        let library = |kind| LibraryState {
            kind,
            path: None,
            version: (missing != Some(kind)).then(|| "1".to_owned()),
        };
        let device = |(ordinal, capability): (i32, &(i32, i32))| DeviceState {
            ordinal,
            name: "a device".to_owned(),
            capability: *capability,
            multiprocessors: 1,
            memory: 1,
            free: None,
        };
        Survey {
            libraries: KINDS.map(library).into(),
            devices: (0..).zip(capabilities).map(device).collect(),
            troubles: Vec::new(),
        }
    }

    #[test]
    fn usable_devices_are_new_enough_and_have_the_libraries() {
        let devices = [(7, 5), (8, 0), (9, 0)];
        assert_eq!(surveyed(&devices, None).usable(), [1, 2]);
        assert_eq!(surveyed(&devices, Some(Kind::Nccl)).usable(), [1, 2]);
        assert_eq!(surveyed(&devices, Some(Kind::Nvrtc)).usable(), [0; 0]);
        assert_eq!(surveyed(&devices, Some(Kind::CublasLt)).usable(), [0; 0]);
        assert_eq!(surveyed(&[], None).usable(), [0; 0]);
    }
}
