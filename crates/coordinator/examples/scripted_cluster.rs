//! A coordinator with one worker that follows a script instead of training: for trying out clients of other languages.
//!
//! `cargo run -p rekindle-coordinator --example scripted_cluster` prints the address it listens at, takes jobs of two
//! stages, and reports made-up steps. `scripts/check_grpc_python.py` runs against it.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{FakeWorker, Running, step};
use rekindle_types::{Command, Report};

#[tokio::main]
async fn main() {
    let folder = std::env::temp_dir().join(format!("scripted-cluster-{}", std::process::id()));
    let coordinator = Running::start(&folder).await;
    println!("{}", coordinator.address);
    let mut worker = FakeWorker::connect(coordinator.address, "scripted", 2).await;
    loop {
        let Some(Command::Start(start)) = worker.command_within(std::time::Duration::from_millis(500)).await
        else {
            worker.heartbeat().await;
            continue;
        };
        let steps = start.spec.training.steps;
        let (job, epoch) = worker.go_on(*start, 2).await;
        for number in 1..=steps {
            let report = Report::Step(step(number, epoch));
            worker.report(&job, epoch, 0, report).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        for rank in 0..2 {
            worker.report(&job, epoch, rank, Report::Finished).await;
        }
    }
}
