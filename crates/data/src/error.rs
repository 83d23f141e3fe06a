//! Everything that can be wrong with data, each error naming the input at fault and what to do.

use std::path::{Path, PathBuf};

/// Why data could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An input names nothing.
    #[error(
        "data input {input:?} matches no usable file; check the path, or data.format if the files are of another kind"
    )]
    NoMatch {
        /// The path or glob as given.
        input: String,
    },
    /// A list of inputs is empty.
    #[error("no data inputs are given; name at least one file, folder or glob")]
    NoInputs,
    /// The extension doesn't tell what a file holds.
    #[error("{}: can't tell what it holds: {why}; set data.format to text, jsonl, parquet, tokens-u16 or tokens-u32", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        why: &'static str,
    },
    /// A text file isn't text.
    #[error("{}: not valid UTF-8 at byte {position}; convert it to UTF-8 or leave it out", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// First offending byte, from 0.
        position: u64,
    },
    /// A line of JSONL is no object with the wanted field.
    #[error("{}, line {line}: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong and what to do.
        why: String,
    },
    /// A Parquet file can't be read, or has no such text column.
    #[error("{}: {why}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// A tokenizer can't be loaded, trained or applied.
    #[error("tokenizer {name}: {why}")]
    Tokenizer {
        /// `bytes` or the path.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The tokenizer has more ids than the model.
    #[error(
        "tokenizer {name} has {tokens} ids, but model.vocab_size is {vocab_size}; set model.vocab_size to at least {tokens}"
    )]
    VocabTooSmall {
        /// `bytes` or the path.
        name: String,
        /// Ids of the tokenizer.
        tokens: u32,
        /// Ids of the model.
        vocab_size: u32,
    },
    /// A token file holds an id that the model hasn't.
    #[error(
        "{}: token {position} has id {id}, outside the vocabulary of {vocab_size}; use the tokenizer the file was made with, \
         or check whether its ids are 16 or 32 bits wide", path.display()
    )]
    TokenOutOfRange {
        /// The token file.
        path: PathBuf,
        /// Index of the token in its file, from 0.
        position: u64,
        /// The id found there.
        id: u32,
        /// Ids of the model.
        vocab_size: u32,
    },
    /// A token file's size is no multiple of its tokens' width.
    #[error("{}: {bytes} bytes is no multiple of {width}; the file is cut short or its ids have another width", path.display())]
    OddLength {
        /// The token file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Bytes an id.
        width: u64,
    },
    /// A token file and the JSON beside it disagree.
    #[error("{}: {why}", path.display())]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// Not one sample.
    #[error(
        "the data has {tokens} tokens, but one sample of data.seq_len = {seq_len} needs {needed}; add data or shorten data.seq_len"
    )]
    TooLittle {
        /// Tokens there are.
        tokens: u64,
        /// Tokens one sample needs.
        needed: u64,
        /// Tokens a sequence.
        seq_len: u32,
    },
    /// A sample number past the end.
    #[error("sample {sample} doesn't exist: there are {samples} of seq_len {seq_len}")]
    NoSuchSample {
        /// The number asked for.
        sample: u64,
        /// How many there are.
        samples: u64,
        /// Tokens a sequence.
        seq_len: u32,
    },
    /// A size is zero where it can't be.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// Which size.
        name: &'static str,
    },
    /// 16 bits are too narrow.
    #[error(
        "tokenizer {name} has {tokens} ids, more than 16 bits hold; write 32-bit token files (tokens-u32)"
    )]
    TooWide {
        /// `bytes` or the path.
        name: String,
        /// Ids of the tokenizer.
        tokens: u32,
    },
    /// The inputs of a preparation are token files already.
    #[error("{}: a token file already; text, JSONL or Parquet is wanted here", path.display())]
    AlreadyTokens {
        /// The token file.
        path: PathBuf,
    },
}

pub(crate) type Result<T> = std::result::Result<T, DataError>;

/// Names `path` in an error of the operating system.
pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError + '_ {
    move |source| DataError::Io {
        path: path.to_owned(),
        source,
    }
}
