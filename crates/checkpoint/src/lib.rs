//! Weights on disk, as other programs read and write them: import and export of Hugging Face LLaMA folders.
//!
//! In: folders of `config.json` and safetensors files; flat layer buffers in the order of `ModelConfig::layout`. Out: the same, the
//! other way round.
//!
//! Invariants
//! - CK-1 A folder that was opened ([`HfModel`]) has every tensor of its model, in the right shape and a known type; reading a layer
//!   can't find anything missing.
//! - CK-2 What we can't run exactly as the folder means it is refused by name, never approximated.
//! - CK-3 A float32 weight that is exported and imported has the same bits.
//! - CK-4 A folder that was written by several processes can be loaded only after [`finish`] has seen every part; files appear whole or
//!   not at all.
//! - CK-5 No name found inside a file leads outside the folder.
//!
//! Deliberately absent: optimizer state, and object stores.

mod atomic;
mod base;
mod commit;
mod config;
mod dtype;
mod error;
mod export;
mod finish;
pub mod format;
mod import;
pub mod plain;
pub mod reader;
mod shard;
mod state_error;
pub mod store;
pub mod testing;
mod tokenizer;

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
