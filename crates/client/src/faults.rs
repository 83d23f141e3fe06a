//! Faults on request, from a coordinator that was started with `--allow-chaos`.

use rekindle_proto::ConvertError;
use rekindle_proto::pb::admin::v1 as pb;
use rekindle_types::{Fault, FaultTarget};
use tonic::transport::Channel;

use crate::{Client, ClientError};

type Faults = pb::fault_injection_service_client::FaultInjectionServiceClient<Channel>;

impl Client {
    fn fault_service(&self) -> Faults {
        Faults::new(self.channel.clone())
    }

    /// Everything a fault can be done to now.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::is_unimplemented`] where the coordinator doesn't allow faults.
    pub async fn fault_targets(&self) -> Result<Vec<FaultTarget>, ClientError> {
        let response = self
            .call(self.options.timeout, pb::ListTargetsRequest {}, |request| {
                let mut faults = self.fault_service();
                async move { faults.list_targets(request).await }
            })
            .await?;
        let read = |target: pb::FaultTarget| FaultTarget::try_from(target);
        let targets: Result<_, ConvertError> = response.targets.into_iter().map(read).collect();
        Ok(targets?)
    }

    /// Does one fault. Made once only: made again it would be a second fault (CL-2).
    ///
    /// # Errors
    /// [`ClientError`]; with [`crate::Reason::FaultRefused`] where the target's worker doesn't allow it or the target
    /// is gone.
    pub async fn inject_fault(&self, fault: &Fault, target: &FaultTarget) -> Result<(), ClientError> {
        let message = pb::InjectFaultRequest {
            fault: Some(fault.into()),
            target: Some(target.into()),
        };
        let limit = self.options.timeout;
        let mut once = self.clone();
        once.options.attempts = 1;
        once.call(limit, message, |request| {
            let mut faults = self.fault_service();
            async move { faults.inject_fault(request).await }
        })
        .await?;
        Ok(())
    }
}
