//! Training a byte-level BPE tokenizer (Sennrich et al., "Neural machine translation of rare words with subword
//! units", ACL 2016; the byte alphabet and the splitting of GPT-2).
//!
//! In: inputs of text and a vocabulary size. Out: a `tokenizer.json` that Hugging Face's libraries load, with
//! `<|endoftext|>` as id 0 and all 256 bytes known, so that any text can be encoded. The same inputs give the same
//! file.

use std::io::Write;
use std::path::{Path, PathBuf};

use rekindle_types::spec::DataFormat;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

use crate::error::{DataError, Result, io};
use crate::tokenizer::END_OF_TEXT;
use crate::{atomic, documents, sources};

const BYTE_TOKENS: u32 = 256;

/// What [`train_bpe`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TrainedBpe {
    /// The tokenizer.json.
    pub path: PathBuf,
    /// Its ids; fewer than asked for when the text has no more pairs to merge.
    pub vocab_size: u32,
}

/// Learns a tokenizer of up to `vocab_size` ids from `inputs` and writes it to `out`.
///
/// # Errors
/// A vocabulary below 257 (the bytes and the end of text), and whatever is wrong with an input.
pub fn train_bpe(
    inputs: &[String],
    format: DataFormat,
    text_field: &str,
    vocab_size: u32,
    out: &Path,
) -> Result<TrainedBpe> {
    let fail = |why: String| DataError::Tokenizer {
        name: out.display().to_string(),
        why,
    };
    if vocab_size <= BYTE_TOKENS {
        return Err(fail(format!(
            "a vocabulary of {vocab_size} is too small: the bytes and the end of text take 257"
        )));
    }
    let sources = sources::resolve(inputs, format)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size as usize)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT[0], true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        _,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_post_processor(Some(ByteLevel::new(false, false, true).into()))
    .with_decoder(Some(byte_level.into()))
    .build()
    .map_err(|e| fail(e.to_string()))?;
    // The trainer takes texts, not results: the first failure ends the stream and is told afterwards.
    let mut failed = None;
    let texts = sources
        .iter()
        .flat_map(|source| match documents::open(source, text_field) {
            Ok(pieces) => pieces,
            Err(error) => Box::new(std::iter::once(Err(error))),
        });
    let texts = texts
        .map_while(|piece| piece.map_err(|error| failed = Some(error)).ok())
        .map(|piece| piece.text);
    tokenizer
        .train(&mut trainer, texts)
        .map_err(|e| fail(e.to_string()))?;
    if let Some(error) = failed {
        return Err(error);
    }
    let json = tokenizer.to_string(true).map_err(|e| fail(e.to_string()))?;
    atomic::write(out, |file| file.write_all(json.as_bytes()).map_err(io(out)))?;
    let vocab_size = u32::try_from(tokenizer.get_vocab_size(true)).unwrap_or(u32::MAX);
    Ok(TrainedBpe {
        path: out.to_owned(),
        vocab_size,
    })
}
