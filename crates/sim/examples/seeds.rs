//! Runs a range of seeds (`seeds FROM TO`) and prints what fails, or one seed with its trace (`seeds SEED`).

use rekindle_sim::{SimConfig, run};

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
        [seed] => {
            let config = SimConfig {
                trace: true,
                ..SimConfig::new(seed)
            };
            let report = run(config);
            println!("{}", report.trace.join("\n"));
            println!("{:?}\n{:?}", report.jobs, report.violations);
        }
        _ => println!("usage: seeds FROM TO | seeds SEED"),
    }
}
