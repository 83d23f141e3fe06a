//! A model's state on disk and in object stores: checkpoints, and Hugging Face folders in and out.
//!
//! ```text
//!   rank  --tensor files, durable--> store <--Manifest (commit)-- coordinator        store, format, commit
//!   store --newest_valid--> Checkpoint --read_ranges, verified--> trainer            reader
//!   store --list, diff, pin, gc, export, import--> command line                      catalog
//! ```
//!
//! In: folders of `config.json` and safetensors files; flat layer buffers in the order of `ModelConfig::layout`;
//! parts that ranks have written. Out: the same, the other way round, in any layout.
//!
//! Invariants
//! - CK-1 A folder that was opened ([`HfModel`]) has every tensor of its model, in the right shape and a known type;
//!   reading a layer can't find anything missing.
//! - CK-2 What we can't run exactly as the folder means it is refused by name, never approximated.
//! - CK-3 A float32 weight that is exported and imported has the same bits.
//! - CK-4 A folder that was written by several processes can be loaded only after [`finish`] has seen every part;
//!   files appear whole or not at all.
//! - CK-5 No name found inside a file leads outside the folder.
//!
//! Deliberately absent: the writer of a run, which takes state away while training goes on.

mod aside;
mod atomic;
mod base;
pub mod catalog;
mod commit;
mod config;
mod dtype;
mod error;
mod export;
mod finish;
pub mod format;
mod import;
pub mod plain;
pub mod priority;
pub mod reader;
mod shard;
mod state_error;
pub mod store;
pub mod testing;
mod tokenizer;
pub mod writer;

pub use aside::commit_over_damaged;
pub use base::base_model;
pub use commit::commit;
pub use config::{config_from_json, config_to_json, read_config};
pub use error::CheckpointError;
pub use export::{check_export_folder, shard_name, write_shard};
pub use finish::finish;
pub use format::{FormatError, Manifest, Span};
pub use import::HfModel;
pub use reader::{Blocking, Checkpoint, Options, ReadReport, Refusal, Verdict, newest_valid};
pub use state_error::{Damage, StateError};
pub use store::{Location, Store, StoreError, StoreErrorKind};
pub use writer::{Capture, Held, HeldPart, Outcome, Refused, Ticket, Writer, WriterOptions};
