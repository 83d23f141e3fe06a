//! Runs a range of seeds (`seeds FROM TO`) and prints what fails, or one seed with its trace (`seeds SEED`, with a
//! cut of the journal `seeds SEED RECORD 0|1`).

use rekindle_sim::{Cut, SimConfig, run};

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    match numbers[..] {
        [from, to] => {
            for seed in from..to {
                let report = run(SimConfig::new(seed));
                for violation in &report.violations {
                    println!("seed {seed}: {violation}");
                }
            }
        }
        [seed, record, heard] => cut(seed, record, heard > 0),
        [seed] => {
            let config = SimConfig {
                trace: true,
                ..SimConfig::new(seed)
            };
            let report = run(config);
            println!("{}", report.trace.join("\n"));
            println!("{:?}\n{:?}", report.jobs, report.violations);
        }
        _ => println!("usage: seeds FROM TO | seeds SEED | seeds SEED RECORD 0|1"),
    }
}

/// A quiet run whose coordinator dies at a record.
fn cut(seed: u64, record: u64, heard: bool) {
    let config = SimConfig {
        trace: true,
        faults: Some(0),
        cut: Some(Cut { record, heard }),
        ..SimConfig::new(seed)
    };
    let report = run(config);
    println!("{}", report.trace.join("\n"));
    println!("{:?}\n{:?}", report.jobs, report.violations);
}
