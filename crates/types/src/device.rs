//! What trainers compute on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device of a machine. As text: `cpu`, or `cuda:` and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceId {
    /// The machine's processor.
    #[default]
    Cpu,
    /// A CUDA device, by its number.
    Cuda(u16),
}

/// A text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no device; use \"cpu\", or \"cuda:0\" with the device's number")]
pub struct DeviceIdError {
    /// The text (shortened to 80 characters).
    pub text: String,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let cuda = text.strip_prefix("cuda:").and_then(number).map(Self::Cuda);
        cuda.or((text == "cpu").then_some(Self::Cpu))
            .ok_or_else(|| DeviceIdError {
                text: text.chars().take(80).collect(),
            })
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceIdError;
    fn try_from(text: String) -> Result<Self, DeviceIdError> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(device: DeviceId) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written_and_nothing_else_is_one() {
        for device in [DeviceId::Cpu, DeviceId::Cuda(0), DeviceId::Cuda(u16::MAX)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for other in [
            "",
            "auto",
            "CPU",
            "cuda",
            "cuda:",
            "cuda:-1",
            "cuda:+1",
            "cuda:65536",
            "cuda:0 ",
        ] {
            assert!(other.parse::<DeviceId>().is_err(), "{other}");
        }
    }
}
