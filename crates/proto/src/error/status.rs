//! [`ApiError`] to `tonic::Status` with `google.rpc` details, and back.

use std::collections::HashMap;

use rekindle_types::Violation;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{ApiError, DOMAIN, Reason, Resource};

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut details = ErrorDetails::new();
        if let Some(reason) = error.reason {
            let facts: HashMap<_, _> = error.metadata.clone().into_iter().collect();
            details.set_error_info(reason.as_str(), DOMAIN, facts);
        }
        for violation in &error.violations {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        if let Some(resource) = &error.resource {
            details.set_resource_info(&resource.kind, &resource.name, "", &error.message);
        }
        if let (Code::FailedPrecondition, Some(reason)) = (error.code, error.reason) {
            let subject = error.resource.as_ref().map_or("", |r| r.name.as_str());
            details.add_precondition_failure_violation(reason.as_str(), subject, &error.message);
        }
        if error.retry_after.is_some() {
            details.set_retry_info(error.retry_after);
        }
        Status::with_error_details(error.code, error.message, details)
    }
}

impl From<&Status> for ApiError {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let violations = details.bad_request().map(|bad| {
            bad.field_violations
                .iter()
                .map(|v| Violation::new(&v.field, &v.description))
                .collect()
        });
        Self {
            code: status.code(),
            reason: info.and_then(|info| Reason::parse(&info.reason)),
            message: status.message().to_owned(),
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            violations: violations.unwrap_or_default(),
            resource: details.resource_info().map(|r| {
                Box::new(Resource {
                    kind: r.resource_type.clone(),
                    name: r.resource_name.clone(),
                })
            }),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
        }
    }
}
