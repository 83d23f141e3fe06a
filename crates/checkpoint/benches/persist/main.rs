//! What saving costs: bandwidth beside plain writes of the same bytes, the size of files, steps of a training loop,
//! and what of it is whose.
//!
//! `cargo bench -p rekindle-checkpoint --bench persist [-- [persist] [grouping] [inflation] [parts] [update] [--dir DIR] [--rounds N] [--steps N] [--pool MIB]
//!  [--nice N] [--group MIB] [--chunk MIB] [--threads N] [--layers N] [--hash-in-update 0|1]]`; without a name, all five. Markdown comes out.
//!
//! Cases of a table run in turn in every round, so that they see the same machine; medians and the spread over rounds
//! are printed. Processor time is that of the whole process (user and system), which other load on the machine
//! disturbs less than time on the clock.

mod bandwidth;
mod bystander;
mod grouping;
mod inflation;
mod measure;
mod options;
mod parts;
mod state;
mod training;
mod update;

use std::time::Duration;

use options::Options;

type Error = Box<dyn std::error::Error>;

const LONG: Duration = Duration::from_secs(600);
const MIB: f64 = (1 << 20) as f64;

fn main() -> Result<(), Error> {
    let options = Options::parse()?;
    if options.runs("persist") {
        bandwidth::persist(&options)?;
    }
    if options.runs("grouping") {
        grouping::grouping(&options)?;
    }
    if options.runs("inflation") {
        inflation::inflation(&options)?;
    }
    if options.runs("parts") {
        parts::parts(&options)?;
    }
    if options.runs("update") {
        update::update(&options)?;
    }
    Ok(())
}
