//! What is refused, and what the refusal says.

mod common;

use common::{FakeWorker, Running, job_file, soon};
use rekindle_client::{
    ApiError, Cancel, Client, ClientError, JobText, LogQuery, Options, Reason, Submission,
};
use rekindle_coordinator::{CoordinatorConfig, ServeError, bind};
use rekindle_proto::pb::worker::v1 as pb;
use rekindle_proto::pb::worker::v1::worker_service_client::WorkerServiceClient;
use rekindle_types::JobId;
use tonic::Code;

fn api(error: ClientError) -> ApiError {
    match error {
        ClientError::Api(error) => *error,
        other => unreachable!("{other:?} is no answer of the coordinator"),
    }
}

fn submission(text: String) -> Submission {
    Submission::new(JobText::Toml(text))
}

#[tokio::test]
async fn a_submission_has_one_effect() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let output = folder.path().join("run");
    let wish = Submission {
        request_id: Some("request-1".to_owned()),
        ..submission(job_file(&output, 3))
    };
    let first = client.submit(wish.clone()).await.unwrap();
    // Also when the run has begun to write.
    std::fs::create_dir_all(&output).unwrap();
    std::fs::write(output.join("metrics.jsonl"), "{}\n").unwrap();
    let second = client.submit(wish.clone()).await.unwrap();
    assert_eq!(second.job, first.job);
    assert_eq!(client.list(&[]).await.unwrap().len(), 1);

    let other = Submission {
        spec: JobText::Toml(job_file(&folder.path().join("other"), 4)),
        ..wish
    };
    let error = api(client.submit(other).await.unwrap_err());
    assert_eq!(error.reason, Some(Reason::RequestIdReused));
    let named = Submission {
        job: first.job.clone(),
        ..submission(job_file(&folder.path().join("other"), 4))
    };
    let error = api(client.submit(named).await.unwrap_err());
    assert_eq!(
        (error.code, error.reason),
        (Code::AlreadyExists, Some(Reason::JobExists))
    );
    coordinator.stop().await;
}

#[tokio::test]
async fn a_folder_belongs_to_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let used = folder.path().join("used");
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("metrics.jsonl"), "{}\n").unwrap();
    let error = api(client.submit(submission(job_file(&used, 3))).await.unwrap_err());
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.reason, Some(Reason::OutputNotEmpty));
    assert!(error.message.contains("used"), "{}", error.message);

    let run = folder.path().join("run");
    let first = client.submit(submission(job_file(&run, 3))).await.unwrap();
    let error = api(client.submit(submission(job_file(&run, 3))).await.unwrap_err());
    assert_eq!(error.reason, Some(Reason::OutputNotEmpty));
    assert!(
        error.message.contains(first.job.unwrap().as_str()),
        "{}",
        error.message
    );

    let inside = used.join("metrics.jsonl/run");
    let error = api(client.submit(submission(job_file(&inside, 3))).await.unwrap_err());
    assert_eq!(error.reason, Some(Reason::OutputUnusable));
    coordinator.stop().await;
}

#[tokio::test]
async fn an_impossible_job_comes_back_with_every_violation() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let text = job_file(&folder.path().join("run"), 3);
    let fields = async |text: String| {
        let error = api(client.submit(submission(text)).await.unwrap_err());
        assert_eq!(
            (error.code, error.reason),
            (Code::InvalidArgument, Some(Reason::JobInvalid))
        );
        error.violations
    };
    let unknown = fields(
        text.replace("micro_batch", "micro_bach")
            .replace("seq_len", "seqlen"),
    )
    .await;
    let named: Vec<_> = unknown.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["data.seqlen", "training.micro_bach"]);
    assert!(unknown[1].description.contains("micro_batch"));
    let shape = fields(
        text.replace("micro_batch = 2", "micro_batch = 3")
            .replace("pipeline = 2", "pipeline = 9"),
    );
    let named: Vec<_> = shape.await.into_iter().map(|v| v.field).collect();
    assert_eq!(named, ["training.micro_batch", "parallelism.pipeline"]);
    let relative = fields(text.replace("/tmp/a.txt", "a.txt")).await;
    assert_eq!(relative[0].field, "data.train");
    let place = format!("{text}[checkpoint]\nevery = 5\nto = \"s4://bucket/run\"\n");
    assert_eq!(fields(place).await[0].field, "checkpoint.to");

    let base = text.replace("[model]", "[model]\nconfig = \"/nowhere/config.json\"");
    let error = api(client.submit(submission(base)).await.unwrap_err());
    assert_eq!(error.reason, Some(Reason::BaseModelUnreadable));
    assert!(error.to_string().contains("/nowhere/config.json"), "{error}");

    let check = Submission {
        validate_only: true,
        ..submission(text)
    };
    assert_eq!(client.submit(check).await.unwrap().job, None);
    assert!(client.list(&[]).await.unwrap().is_empty());
    coordinator.stop().await;
}

#[tokio::test]
async fn unknown_jobs_are_not_found_by_any_call() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let id = JobId::new("nobody").unwrap();
    let errors = [
        client.get(&id).await.unwrap_err(),
        client.cancel(&id, Cancel::Now).await.unwrap_err(),
        client.events(&id).await.unwrap_err(),
        client.explain(&id).await.unwrap_err(),
        client.watch(&id).await.unwrap_err(),
        client.watch_events(&id, 0).await.unwrap_err(),
        client.metrics(&id, 0, true).await.unwrap_err(),
        client.logs(&id, LogQuery::default()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_not_found());
        let error = api(error);
        assert_eq!(error.reason, Some(Reason::JobNotFound));
        assert_eq!(error.resource.unwrap().name, "nobody");
    }
    coordinator.stop().await;
}

#[tokio::test]
async fn a_dead_coordinator_is_named_with_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::connect(&free.to_string(), Options::default())
        .await
        .unwrap_err();
    assert!(error.is_unreachable());
    let text = error.to_string();
    assert!(
        text.contains(&free.to_string()) && text.contains("rekindle coordinator"),
        "{text}"
    );

    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    coordinator.stop().await;
    let error = client.cluster().await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[tokio::test]
async fn an_address_others_can_reach_needs_tls_or_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let open = CoordinatorConfig::new("0.0.0.0:0".parse().unwrap(), folder.path());
    let error = bind(open.clone()).await.unwrap_err();
    assert!(matches!(error, ServeError::OpenAddress { .. }));
    assert!(error.to_string().contains("--insecure"), "{error}");
    let insecure = CoordinatorConfig {
        insecure: true,
        ..open
    };
    assert!(bind(insecure).await.is_ok());
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_journal_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(folder.path()).await;
    // The first has the journal when it answers.
    coordinator.client().await.cluster().await.unwrap();
    let config = CoordinatorConfig::new("127.0.0.1:0".parse().unwrap(), folder.path());
    let run = bind(config)
        .await
        .unwrap()
        .run(tokio_util::sync::CancellationToken::new());
    let error = soon("a refusal", run).await.unwrap_err();
    assert!(matches!(error, ServeError::State { .. }), "{error}");
    coordinator.stop().await;
}

#[tokio::test]
async fn sessions_begin_with_a_registration_and_names_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let url = format!("http://{}", coordinator.address);
    let mut raw = WorkerServiceClient::connect(url).await.unwrap();
    let heartbeat = pb::SessionRequest {
        message: Some(pb::session_request::Message::Heartbeat(pb::Heartbeat {})),
    };
    let stream = raw.session(tokio_stream::once(heartbeat)).await.unwrap();
    let status = soon("a refusal", stream.into_inner().message())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let _first = FakeWorker::connect(coordinator.address, "w1", 1).await;
    let registration = pb::Registration {
        worker_id: "w1".to_owned(),
        incarnation: 8,
        data_host: "127.0.0.1".to_owned(),
        threads: 1,
        slots: 1,
        ..pb::Registration::default()
    };
    let registration = pb::SessionRequest {
        message: Some(pb::session_request::Message::Registration(registration)),
    };
    let (up, queue) = tokio::sync::mpsc::channel(1);
    up.send(registration).await.unwrap();
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let stream = raw.session(queue).await.unwrap();
    let status = soon("a refusal", stream.into_inner().message())
        .await
        .unwrap_err();
    let error = ApiError::from(&status);
    assert_eq!(error.reason, Some(Reason::WorkerNameTaken), "{error}");
    let workers = coordinator.client().await.workers().await.unwrap();
    assert_eq!(workers.len(), 1);
    assert!(workers[0].connected);
    coordinator.stop().await;
}

#[tokio::test]
async fn plans_are_made_without_workers_and_need_enough_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let client = coordinator.client().await;
    let text = JobText::Toml(job_file(&folder.path().join("run"), 3));
    let planned = client.plan(text.clone(), 2).await.unwrap();
    assert_eq!(planned.plan.stage_count(), 2);
    assert_eq!(
        planned.report,
        rekindle_plan::report(&planned.spec, &planned.plan)
    );
    let error = api(client.plan(text, 0).await.unwrap_err());
    assert_eq!(error.reason, Some(Reason::NotEnoughWorkers));
    assert_eq!(error.metadata["needed"], "2");
    coordinator.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

    let folder = tempfile::tempdir().unwrap();
    let coordinator = Running::start(&folder.path().join("state")).await;
    let url = format!("http://{}", coordinator.address);
    let channel = tonic::transport::Endpoint::from_shared(url.clone()).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "rekindle.v1.JobService", "rekindle.worker.v1.WorkerService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = soon("services", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|ServiceResponse { name }| name)
        .collect();
    for service in [
        "rekindle.v1.JobService",
        "rekindle.worker.v1.WorkerService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    coordinator.stop().await;
}
