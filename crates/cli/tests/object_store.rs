//! Checkpoints in an object store, over real processes and a real server on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;
#[path = "../../checkpoint/tests/support/s3.rs"]
mod s3;

use std::process::Command;

use common::{Job, finish, metrics, rekindle, train};
use s3::{BUCKET, S3Server};

fn with(mut command: Command, server: &S3Server) -> Command {
    command.envs(server.environment());
    command
}

#[test]
fn a_run_goes_on_from_an_object_store_in_another_shape() {
    let Some(server) = S3Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = train(&Job::new(12), folder.path(), "undisturbed", 1, 1);
    let place = format!("s3://{BUCKET}/runs/a");
    let mut job = Job::new(12).over(2, 2).saving(4);
    job.more += &format!("to = {place:?}\n");
    let path = job.write(folder.path(), "remote").display().to_string();
    let done = finish(with(
        rekindle(&["run", &path, "--workers", "2", "--threads", "1"]),
        &server,
    ));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(metrics(&folder.path().join("remote")), undisturbed);
    assert!(!folder.path().join("remote/checkpoints").exists());

    let listed = finish(with(
        rekindle(&["checkpoint", "ls", &place, "-o", "json"]),
        &server,
    ));
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    let steps: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [4, 8, 12]);
    let verified = finish(with(rekindle(&["checkpoint", "verify", &place]), &server));
    assert_eq!(verified.code, 0, "{}", verified.stderr);

    let mut going_on = Job::new(12).over(3, 1);
    going_on.from = Some(format!("{place}/step-00000004"));
    let path = going_on.write(folder.path(), "elsewhere").display().to_string();
    let done = finish(with(
        rekindle(&["run", &path, "--workers", "3", "--threads", "1"]),
        &server,
    ));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let got = metrics(&folder.path().join("elsewhere"));
    assert_eq!(got.len(), 8);
    assert!(got.iter().all(|(step, line)| undisturbed[step] == *line));
}
