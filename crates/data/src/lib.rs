//! Text and tokens: what a job trains on, in which order, and how to tell that everybody saw the same.
//!
//! In: paths from a job file (`rekindle_types::spec::DataSpec`), a vocabulary size, a seed. Out: samples of
//! `seq_len + 1` token ids, sample numbers of a step, digests of what was consumed, token files, tokenizers.
//!
//! Invariants
//! - DA-1 The tokens of a corpus are a function of the input paths' contents, the tokenizer and the format alone:
//!   neither the order in which a file system lists a folder, nor threads, nor whether the text was prepared into a
//!   token file before, shows.
//! - DA-2 Which samples a step takes is a function of (seed, step) and sizes; nobody owns a cursor ([`Sampler`]).
//! - DA-3 Every sample is used once per pass over the data, before any is used again.
//! - DA-4 The digest of a step doesn't depend on who read which sample, or when ([`DataDigest`]).
//! - DA-5 Memory is bounded by the corpus's tokens (token files are mapped) plus a few MiB of text
//!   in flight, and what the tokenizer needs for the pieces of 64 KiB it is at.
//!
//! Deliberately absent: networks and object stores (paths are local), packing with document masks (documents are
//! concatenated).

mod atomic;
mod bpe;
mod corpus;
mod digest;
mod documents;
mod encode;
mod error;
mod feistel;
mod glob;
mod jsonl;
mod kinds;
mod parquet;
mod prepare;
mod sampler;
mod segments;
mod sidecar;
mod sources;
mod stats;
mod text;
mod token_file;
mod tokenizer;

pub use bpe::{TrainedBpe, train_bpe};
pub use corpus::Corpus;
pub use digest::DataDigest;
pub use error::DataError;
pub use prepare::{Prepared, prepare};
pub use sampler::Sampler;
pub use sidecar::{Sidecar, SourceDigest};
pub use sources::{Kind, Source, resolve};
pub use stats::{Inspection, inspect, unigram_entropy};
pub use token_file::Width;
pub use tokenizer::Tokenizer;
