//! Text to ids and back: raw bytes, or a Hugging Face `tokenizer.json`.
//!
//! In: `bytes` or a path. Out: a [`Tokenizer`]. Ids of special tokens that a tokenizer's post-processor would put
//! around a text (such as a beginning-of-text) are not added: documents are joined by the end-of-text token alone.

use rayon::prelude::*;
use rekindle_types::spec::DataSpec;
use tokenizers::Tokenizer as HfTokenizer;

use crate::error::{DataError, Result};
use crate::sources;

/// The name of the tokenizer that takes every byte as an id.
pub(crate) const BYTES: &str = "bytes";

/// Names that tokenizers in use give the token between documents, most telling first.
pub(crate) const END_OF_TEXT: [&str; 6] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eos|>",
    "</s>",
    "<eos>",
    "[EOS]",
];

/// Turns text into ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    name: String,
    inner: Inner,
}

#[derive(Debug, Clone)]
enum Inner {
    Bytes,
    HuggingFace {
        tokenizer: Box<HfTokenizer>,
        ids: u32,
        end_of_text: Option<u32>,
    },
}

impl Tokenizer {
    /// The tokenizer whose ids are bytes; 256 ids, no end-of-text.
    #[must_use]
    pub fn bytes() -> Self {
        Self {
            name: BYTES.to_owned(),
            inner: Inner::Bytes,
        }
    }

    /// `bytes`, or the path of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when the file can't be read or is none.
    pub fn open(name: &str) -> Result<Self> {
        if name == BYTES {
            return Ok(Self::bytes());
        }
        let fail = |why: String| DataError::Tokenizer {
            name: name.to_owned(),
            why,
        };
        let text = std::fs::read(name)
            .map_err(|e| fail(format!("{e}; use \"bytes\" or the path of a tokenizer.json")))?;
        let mut tokenizer =
            HfTokenizer::from_bytes(text).map_err(|e| fail(format!("not a tokenizer.json: {e}")))?;
        // A file may ask for sentences cut or filled to a length; that would drop or invent training text.
        tokenizer.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        tokenizer.with_padding(None);
        let ids = tokenizer
            .get_vocab(true)
            .into_values()
            .max()
            .map_or(0, |id| id.saturating_add(1));
        if ids == 0 {
            return Err(fail("it has no tokens".to_owned()));
        }
        let end_of_text = END_OF_TEXT.iter().find_map(|token| tokenizer.token_to_id(token));
        let inner = Inner::HuggingFace {
            tokenizer: Box::new(tokenizer),
            ids,
            end_of_text,
        };
        Ok(Self {
            name: name.to_owned(),
            inner,
        })
    }

    /// The tokenizer of a job, checked against the vocabulary of its model unless the job reads token files alone.
    ///
    /// # Errors
    /// As [`Tokenizer::open`], and [`DataError::VocabTooSmall`].
    pub fn for_model(data: &DataSpec, vocab_size: u32) -> Result<Self> {
        let tokenizer = Self::open(&data.tokenizer)?;
        if !sources::are_token_files(data) {
            tokenizer.check_fits(vocab_size)?;
        }
        Ok(tokenizer)
    }

    /// Checks that a model of `vocab_size` ids has every id of this tokenizer.
    pub(crate) fn check_fits(&self, vocab_size: u32) -> Result<()> {
        let tokens = self.vocab_size();
        if tokens > vocab_size {
            return Err(DataError::VocabTooSmall {
                name: self.name.clone(),
                tokens,
                vocab_size,
            });
        }
        Ok(())
    }

    /// `bytes` or the path it was opened from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more than the highest id.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        match &self.inner {
            Inner::Bytes => 256,
            Inner::HuggingFace { ids, .. } => *ids,
        }
    }

    /// The token put between documents, where the tokenizer has one.
    #[must_use]
    pub fn end_of_text(&self) -> Option<u32> {
        match &self.inner {
            Inner::Bytes => None,
            Inner::HuggingFace { end_of_text, .. } => *end_of_text,
        }
    }

    /// The ids of one text.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when the tokenizer can't take the text (for instance an unknown character and no
    /// unknown token).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_batch(&[text])?.swap_remove(0))
    }

    /// The ids of several texts, each on its own; on several threads, results in order.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        match &self.inner {
            Inner::Bytes => Ok(texts
                .iter()
                .map(|text| text.bytes().map(u32::from).collect())
                .collect()),
            Inner::HuggingFace { tokenizer, .. } => {
                // Not the library's own batch: it would keep everything it knows of each token until the last text is
                // done.
                let encode = |text: &&str| tokenizer.encode_fast(*text, false).map(|e| e.get_ids().to_vec());
                texts
                    .par_iter()
                    .map(encode)
                    .collect::<std::result::Result<_, _>>()
                    .map_err(|e| self.error(&e))
            }
        }
    }

    /// The text of `ids`. Ids that have no text, and bytes that form no character, show as the replacement character
    /// or vanish.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.inner {
            Inner::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Inner::HuggingFace { tokenizer, .. } => tokenizer.decode(ids, false).map_err(|e| self.error(&e)),
        }
    }

    fn error(&self, error: &tokenizers::Error) -> DataError {
        DataError::Tokenizer {
            name: self.name.clone(),
            why: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_their_own_ids() {
        let tokenizer = Tokenizer::open("bytes").unwrap();
        assert_eq!(tokenizer.encode("aé").unwrap(), [97, 0xC3, 0xA9]);
        assert_eq!(tokenizer.decode(&[97, 0xC3, 0xA9, 0xFF]).unwrap(), "aé\u{FFFD}");
        assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (256, None));
    }

    #[test]
    fn truncation_and_holes_in_the_ids_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        let json = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
            "padding":null,"added_tokens":[{"id":9,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,
            "normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},
            "post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":2,"</s>":9},"unk_token":"?"}}"#;
        std::fs::write(&path, json).unwrap();
        let tokenizer = Tokenizer::open(path.to_str().unwrap()).unwrap();
        assert_eq!(tokenizer.encode("a b c a").unwrap(), [0, 1, 2, 0]);
        assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_text()), (10, Some(9)));
        assert_eq!(tokenizer.decode(&[0, 1]).unwrap(), "a b");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let error = Tokenizer::open("no/such/tokenizer.json").unwrap_err().to_string();
        assert!(
            error.contains("no/such/tokenizer.json") && error.contains("bytes"),
            "{error}"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        std::fs::write(&path, "{}").unwrap();
        assert!(
            Tokenizer::open(path.to_str().unwrap())
                .unwrap_err()
                .to_string()
                .contains("not a tokenizer.json")
        );
    }
}
