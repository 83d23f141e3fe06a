//! Jobs that make up what nobody has the state of, and say so.

use crate::common::machines::{home, lose_machine, recovered, start};
use crate::common::{Job, metrics, reaches, signal};

const AVERAGE: &str = r#"["local", "neighbour_average"]"#;

/// An inner stage that is in nobody's memory becomes the mean of its neighbours, the job trains on and says what it
/// is; an end of the pipeline has no like.
#[test]
fn an_inner_stage_that_nobody_has_is_made_of_its_neighbours_and_an_end_is_not() {
    const STEPS: u64 = 4000;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 5, memory.path());
    let run = folder.path().join("averaged");
    let job = Job::new(STEPS).over(3, 1).recovering(AVERAGE);
    let id = cluster.submit(&job.write(folder.path(), "averaged"));
    reaches(&run, 30);
    lose_machine(&mut cluster, home(memory.path(), &id, 1));
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "neighbour_average", "{incident}");
    assert_eq!(incident["exact"], false, "{incident}");
    assert!(incident["steps_again"].as_u64().unwrap() <= 1, "{incident}");
    let resumed = incident["resumed_step"].as_u64().unwrap();
    reaches(&run, resumed + 30);
    let all = metrics(&run);
    let loss = |step: u64| f64::from_bits(all[&step].loss);
    assert!(
        loss(resumed + 30) < loss(1),
        "it still learns: {} of {}",
        loss(resumed + 30),
        loss(1)
    );
    // From then on every recovery says so.
    signal(cluster.trainer(home(memory.path(), &id, 1).0), "KILL");
    let incident = recovered(&cluster, &id, 2);
    assert_eq!(
        (&incident["source"], &incident["exact"]),
        (&"local".into(), &false.into())
    );
    lose_machine(&mut cluster, home(memory.path(), &id, 0));
    let waited = cluster.call(&["wait", &id]);
    assert_eq!(waited.code, 100, "{}", waited.stderr);
    for part in ["nobody's memory", "end of the pipeline", "[checkpoint]"] {
        assert!(waited.stderr.contains(part), "{part}: {}", waited.stderr);
    }
}

/// With `average_by_loss` the trainers try several means, and training goes on with the best.
#[test]
fn a_mean_that_the_loss_decided_is_trained_on() {
    const STEPS: u64 = 400;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 4, memory.path());
    let run = folder.path().join("chosen");
    let sources = format!("{AVERAGE}\naverage_by_loss = true");
    let job = Job::new(STEPS).over(3, 1).recovering(&sources);
    let id = cluster.submit(&job.write(folder.path(), "chosen"));
    reaches(&run, 30);
    lose_machine(&mut cluster, home(memory.path(), &id, 1));
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "neighbour_average", "{incident}");
    let decided = cluster.call(&["events", &id]).stdout;
    assert!(
        decided.contains("lower loss on a micro-batch; approximate"),
        "{decided}"
    );
    assert_eq!(cluster.call(&["wait", &id]).code, 0);
    assert_eq!(metrics(&run).len() as u64, STEPS);
    let tried = cluster.call(&["logs", &id]).stdout;
    assert!(tried.contains("has the lowest loss"), "{tried}");
}

/// A machine of one lane is lost with the first stage: the other lane has its weights.
#[test]
fn what_another_lane_has_of_an_end_is_taken_from_it() {
    const STEPS: u64 = 1_000_000;
    let (folder, memory) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir_in("/dev/shm").unwrap(),
    );
    let mut cluster = start(folder.path(), 5, memory.path());
    let run = folder.path().join("lanes");
    let job = Job {
        tied: true,
        ..Job::new(STEPS)
    };
    let job = job.over(2, 2).recovering(AVERAGE);
    let id = cluster.submit(&job.write(folder.path(), "lanes"));
    reaches(&run, 30);
    lose_machine(&mut cluster, home(memory.path(), &id, 2));
    let incident = recovered(&cluster, &id, 1);
    assert_eq!(incident["source"], "neighbour_average", "{incident}");
    assert_eq!(incident["exact"], false, "{incident}");
    let resumed = incident["resumed_step"].as_u64().unwrap();
    reaches(&run, resumed + 10);
    let all = metrics(&run);
    let loss = |step: u64| f64::from_bits(all[&step].loss);
    // The weights are the lost ones: nothing is unlearnt, steps being as different as they are.
    let between = (loss(resumed - 1) + loss(1)) / 2.0;
    assert!(
        loss(resumed + 1) < between,
        "{} is above {between}",
        loss(resumed + 1)
    );
    assert_eq!(cluster.call(&["cancel", &id, "--now"]).code, 0);
}
