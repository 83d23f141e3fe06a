//! One file per command. Each takes its parsed arguments and returns the exit status.

pub mod bench;
pub mod cancel;
pub mod chaos;
pub mod checkpoint;
pub mod completion;
pub mod coordinator;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod experiment;
pub mod explain;
pub mod generate;
pub mod jobs;
pub mod logs;
pub mod metrics;
pub mod plan;
pub mod run;
pub mod sim;
pub mod status;
pub mod submit;
pub mod trainer;
pub mod version;
pub mod wait;
pub mod worker;
pub mod workers;

use std::future::Future;
use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::problem::Problem;

/// Runs the command.
///
/// # Errors
/// Whatever the command couldn't do.
pub fn dispatch(cli: Cli) -> Result<ExitCode, Problem> {
    let format = cli.format;
    let exit = match cli.command {
        Command::Demo(args) => block_on(demo::run(args, format)),
        Command::Run(args) => block_on(run::run(args, format)),
        Command::Coordinator(args) => block_on(coordinator::run(args, format)),
        Command::Worker(args) => block_on(worker::run(args)),
        Command::Trainer(args) => return trainer::run(&args),
        Command::Submit(args) => block_on(submit::run(args, format)),
        Command::Plan(args) => plan::run(&args, format),
        Command::Jobs(args) => block_on(jobs::run(args, format)),
        Command::Status(args) => block_on(status::run(args, format)),
        Command::Events(args) => block_on(events::run(args, format)),
        Command::Explain(args) => block_on(explain::run(args, format)),
        Command::Logs(args) => block_on(logs::run(args, format)),
        Command::Metrics(args) => block_on(metrics::run(args, format)),
        Command::Wait(args) => block_on(wait::run(args, format)),
        Command::Cancel(args) => block_on(cancel::run(args, format)),
        Command::Workers(args) => block_on(workers::run(args, format)),
        Command::Generate(args) => generate::run(&args, format),
        Command::Checkpoint(command) => checkpoint::run(&command, format),
        Command::Data(command) => data::run(&command, format),
        Command::Chaos(command) => block_on(chaos::run(command, format)),
        Command::Sim(command) => sim::run(&command, format),
        Command::Experiment(command) => experiment::run(&command, format),
        Command::Bench(command) => bench::run(&command, format),
        Command::Doctor(args) => doctor::run(&args, format),
        Command::Version(args) => version::run(&args, format),
        Command::Completion(args) => completion::run(&args),
    }?;
    Ok(exit.into())
}

/// Runs an asynchronous command on this thread; spawned tasks run on others. Whatever still runs when the command is
/// through is dropped with the runtime, without waiting for blocking work.
fn block_on(command: impl Future<Output = Result<Exit, Problem>>) -> Result<Exit, Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Problem::new("can't start the asynchronous runtime").cause(e))?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}
