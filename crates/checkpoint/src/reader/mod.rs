//! Reading checkpoints: any ranges of any layers, whoever wrote them in whatever layout.
//!
//! ```text
//!   newest_valid --manifests, listings--> Checkpoint --read_ranges(spans)--> chunks, verified --> sink
//! ```
//!
//! In: a store, a step, spans. Out: 32-bit floats of those spans; what is damaged, by file, byte and element.
//!
//! Invariants
//! - CK-13 No value is handed out, and no read succeeds, before the digest of the value's chunk was found right.
//! - CK-14 Memory of a read is bounded: two buffers of at most `LARGEST_READ` bytes (or one header) a thread.
//! - CK-15 A checkpoint is passed over for an older one only when it is itself at fault; a store that doesn't answer
//!   is an error.
//!
//! Deliberately absent: where values go (devices, trainers).

mod blocking;
mod engine;
mod newest;
mod open;
mod place;
pub(crate) mod plan;
mod run;
mod source;
mod verify;

pub use blocking::Blocking;
pub(crate) use newest::open_whole;
pub use newest::{Refusal, Vetoes, newest_valid};
pub use open::Checkpoint;
pub use run::{Options, Progress, ReadReport};
pub use verify::Verdict;
