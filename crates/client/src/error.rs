//! What a caller can be told.

use rekindle_proto::{ApiError, ConvertError, Reason};
use tonic::Code;

/// Why a call gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The endpoint can't be used.
    #[error("{endpoint:?} is no coordinator address: {why}; write it as http://HOST:PORT")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The files for TLS can't be used.
    #[error("TLS to {endpoint}: {why}")]
    BadTls {
        /// The coordinator.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing answers.
    #[error(
        "no coordinator answers at {endpoint} ({why}); start one with `rekindle coordinator`, or name the right address with --coordinator"
    )]
    Unreachable {
        /// The coordinator.
        endpoint: String,
        /// What the attempt said.
        why: String,
    },
    /// The coordinator didn't answer in time.
    #[error("the coordinator at {endpoint} didn't answer within {seconds} s; try again, or look at its log")]
    TimedOut {
        /// The coordinator.
        endpoint: String,
        /// The deadline.
        seconds: u64,
    },
    /// The coordinator refused.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// The coordinator's answer can't be read.
    #[error("the coordinator's answer can't be read ({0}); compare `rekindle version` on both sides")]
    Protocol(#[from] ConvertError),
}

impl ClientError {
    /// The reason the coordinator gave, if it was the coordinator who refused.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Api(error) => error.reason,
            _ => None,
        }
    }

    /// Whether what was asked about doesn't exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(error) if error.code == Code::NotFound)
    }

    /// Whether the coordinator doesn't know the call: it is older, or was started without what the call needs.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Api(error) if error.code == Code::Unimplemented)
    }

    /// Whether the coordinator couldn't be reached or didn't answer.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Api(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// What a failed call means.
    pub(crate) fn of(endpoint: &str, status: &tonic::Status) -> Self {
        let error = ApiError::from(status);
        match (error.code, error.reason) {
            // Without a reason of ours it is the transport that speaks.
            (Code::Unavailable, None) => Self::Unreachable {
                endpoint: endpoint.to_owned(),
                why: causes(status),
            },
            (Code::Unknown | Code::Cancelled, None) if is_transport(status) => Self::Unreachable {
                endpoint: endpoint.to_owned(),
                why: causes(status),
            },
            _ => Self::Api(Box::new(error)),
        }
    }
}

fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The innermost cause: "Connection refused" says more than "transport error".
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = last.source() {
        last = next;
    }
    match error.downcast_ref::<tonic::Status>() {
        Some(status) if std::ptr::addr_eq(last, error) => status.message().to_owned(),
        _ => last.to_string(),
    }
}
