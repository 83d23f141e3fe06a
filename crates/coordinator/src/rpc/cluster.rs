//! `rekindle.v1.ClusterService`.

use rekindle_proto::API_REVISION;
use rekindle_proto::pb::v1 as pb;
use rekindle_proto::view::{ClusterStatus, WorkerStatus};
use tonic::{Request, Response, Status};

use super::Api;
use super::page::page;
use crate::clock;
use crate::view::worker_status;

#[tonic::async_trait]
impl pb::cluster_service_server::ClusterService for Api {
    async fn get_cluster(
        &self,
        _request: Request<pb::GetClusterRequest>,
    ) -> Result<Response<pb::GetClusterResponse>, Status> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (connected, active) = self
            .handle
            .query(|shell| {
                let workers = shell.core.workers();
                let jobs = shell.core.durable().jobs();
                let connected = workers.iter().filter(|worker| worker.connected).count();
                let active = jobs.values().filter(|job| !job.state.is_terminal()).count();
                (connected, active)
            })
            .await?;
        let status = ClusterStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_revision: API_REVISION,
            started_unix_ms: self.started_at,
            connected_workers: count(connected),
            active_jobs: count(active),
        };
        Ok(Response::new((&status).into()))
    }

    async fn list_workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let request = request.into_inner();
        let views = self.handle.query(|shell| shell.core.workers()).await?;
        let now = clock::now();
        let workers = views.iter().map(|view| worker_status(view, now)).collect();
        let key = |worker: &WorkerStatus| worker.worker.to_string();
        let (workers, next_page_token) = page(workers, request.page_size, &request.page_token, key);
        Ok(Response::new(pb::ListWorkersResponse {
            workers: workers.iter().map(Into::into).collect(),
            next_page_token,
        }))
    }
}
