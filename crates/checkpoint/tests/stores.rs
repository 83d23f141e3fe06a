//! Every store there is, held to the same rules; and what happens when a remote one doesn't answer.

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use rekindle_checkpoint::store::{Faulty, Location, Remote, Store, Swept, conformance, open, open_with};
use rekindle_checkpoint::{StoreError, StoreErrorKind};
use support::{BUCKET, S3Server, environment, run_in_child};

async fn conforms(store: Arc<dyn Store>) {
    if let Err(broken) = conformance::check(&store).await {
        panic!("{}: {broken}", store.describe());
    }
}

fn at(url: &str) -> Arc<dyn Store> {
    open(&Location::parse(url).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(at(dir.path().join("run/checkpoints").to_str().unwrap())).await;
    let dir = tempfile::tempdir().unwrap();
    conforms(at(&format!("file://{}", dir.path().display()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(at("memory://conformance")).await;
    conforms(at("memory://conformance-prefix/run/checkpoints")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_store_without_faults_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conforms(Arc::new(Faulty::new(at(dir.path().to_str().unwrap())))).await;
    conforms(Arc::new(Faulty::new(at("memory://conformance-faulty")))).await;
}

#[test]
fn a_real_s3_server_conforms() {
    if let Some(server) = S3Server::start() {
        run_in_child("s3_by_environment", &server.environment());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_real_s3_server_conforms, with a server"]
async fn s3_by_environment() {
    conforms(at(&format!("s3://{BUCKET}/run/checkpoints"))).await;
    sweeps_uploads().await;
    let missing = at("s3://no-such-bucket/run");
    let error = missing.put_new("a", Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(
        error
            .to_string()
            .contains("s3://no-such-bucket/run/a: does the bucket exist?"),
        "{error}"
    );
}

/// Uploads that were begun and left are found and ended; those of others are left alone.
async fn sweeps_uploads() {
    let (ours, others) = (
        at(&format!("s3://{BUCKET}/sweep/ours")),
        at(&format!("s3://{BUCKET}/sweep/others")),
    );
    for (store, name) in [(&ours, "a"), (&ours, "b"), (&others, "c")] {
        let (objects, prefix) = store.objects().unwrap();
        let mut upload = objects.put_multipart(&prefix.join(name)).await.unwrap();
        upload.put_part(vec![1; 5 << 20].into()).await.unwrap();
    }
    let swept = |removed| Swept {
        removed,
        listable: true,
    };
    assert_eq!(ours.sweep_uploads(0).await.unwrap(), swept(0));
    assert_eq!(ours.sweep_uploads(u64::MAX).await.unwrap(), swept(2));
    assert_eq!(ours.sweep_uploads(u64::MAX).await.unwrap(), swept(0));
    assert_eq!(others.sweep_uploads(u64::MAX).await.unwrap(), swept(1));
}

/// Short enough for a test, long enough for a busy machine.
fn hasty() -> Remote {
    Remote {
        connect_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(300),
        retries: 2,
        retry_timeout: Duration::from_secs(5),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(20),
    }
}

#[test]
fn servers_that_do_not_answer_are_given_up() {
    // Nobody listens.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    run_in_child("s3_unavailable", &environment(closed));
    // The kernel takes the connections, and nobody ever reads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    run_in_child(
        "s3_unavailable",
        &environment(silent.local_addr().unwrap().port()),
    );
}

#[tokio::test]
#[ignore = "run by servers_that_do_not_answer_are_given_up, with an address"]
async fn s3_unavailable() {
    let store = open_with(&Location::parse("s3://bucket/run").unwrap(), &hasty()).unwrap();
    let errors: Vec<StoreError> = vec![
        store.put_new("a", Bytes::from_static(b"x")).await.unwrap_err(),
        store.put("a", Bytes::from_static(b"x")).await.unwrap_err(),
        store.get("a", 9).await.unwrap_err(),
        store.read("a", 0..1).await.unwrap_err(),
        store.list("").await.unwrap_err(),
        store.list_dirs("").await.unwrap_err(),
        store.delete(&["a".to_owned()]).await.unwrap_err(),
        store.delete_dir("a").await.unwrap_err(),
        store.sweep_uploads(0).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_transient(), "{error:?}");
        assert!(error.to_string().starts_with("s3://bucket/run"), "{error}");
    }
}
