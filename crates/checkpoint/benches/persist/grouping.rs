//! How many layers a file should hold, on a disk and far away.

use std::sync::Arc;
use std::time::Duration;

use rekindle_checkpoint::store::{Fault, Faulty, Op, open};
use rekindle_checkpoint::{Location, Store, Writer};

use super::measure::{Runs, spread};
use super::options::Options;
use super::state::{capture, clean, durable, local, model, state};
use super::{Error, LONG, MIB};

/// Requests of a store with so long a way to it.
fn far(name: &str, latency: Duration) -> Result<(Faulty, Arc<dyn Store>), Error> {
    let faulty = Faulty::new(open(&Location::parse(&format!("memory://bench-{name}"))?)?);
    for op in [Op::Put, Op::StartUpload, Op::PutPart, Op::Complete] {
        faulty.next(op, u64::MAX, Fault::Delay(latency));
    }
    Ok((faulty.clone(), Arc::new(faulty)))
}

pub fn grouping(options: &Options) -> Result<(), Error> {
    let rounds = options.get("rounds", 5);
    let sizes = [1, 4, 8, 16, 32, 64, 128];
    println!("\n### Files of small layers: what a group costs ({rounds} rounds)\n");
    println!(
        "| layers | group target, weights | files | folder: MB/s (spread) | object store, 30 ms a request, simulated: requests | seconds (spread) |"
    );
    println!("|---|---|---|---|---|---|");
    for (hidden, layers) in [(256, 64), (512, 24)] {
        let model = Arc::new(model(hidden, layers));
        let parts = state(&model)?;
        let bytes = 12.0 * model.parameters() as f64;
        let layer = 4.0 * model.layout(rekindle_types::LayerId::Block(0)).numel() as f64 / MIB;
        let folder = options.folder()?;
        let mut disk: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let mut net: Vec<Runs> = sizes.iter().map(|_| Runs::default()).collect();
        let mut counts = vec![(0, 0); sizes.len()];
        for round in 0..=rounds {
            for (case, size) in sizes.into_iter().enumerate() {
                let mut chosen = options.writer();
                chosen.group_bytes = if size == 1 { 1 } else { size << 20 };
                clean(folder.path())?;
                let writer = Writer::start(local(folder.path())?, chosen.clone())?;
                counts[case].0 = disk[case].time(round > 0, || {
                    writer.begin(capture(&model, parts.clone(), round))?;
                    durable(writer.finish(LONG))
                })?;
                let (faulty, store) = far(&format!("{hidden}-{size}-{round}"), Duration::from_millis(30))?;
                let writer = Writer::start(Arc::clone(&store), chosen)?;
                net[case].time(round > 0, || {
                    writer.begin(capture(&model, parts.clone(), round))?;
                    durable(writer.finish(LONG))
                })?;
                counts[case].1 = faulty.log().len();
                drop(writer);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(store.delete_dir(&rekindle_checkpoint::format::step_folder(round)))?;
            }
        }
        clean(folder.path())?;
        for (case, size) in sizes.into_iter().enumerate() {
            let rates: Vec<f64> = disk[case].seconds.iter().map(|s| bytes / 1e6 / s).collect();
            let target = if size == 1 {
                "one layer".to_owned()
            } else {
                format!("{size} MiB")
            };
            println!(
                "| {} of {layer:.1} MiB | {target} | {} | {} | {} | {} |",
                layers + 2,
                counts[case].0,
                spread(&rates, 0),
                counts[case].1,
                spread(&net[case].seconds, 2),
            );
        }
    }
    Ok(())
}
