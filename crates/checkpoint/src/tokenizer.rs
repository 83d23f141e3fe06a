//! The tokenizer's files of an exported folder.
//!
//! In: `bytes` or the path of a tokenizer.json. Out: `tokenizer.json` and `tokenizer_config.json` (and
//! `special_tokens_map.json` where one lies beside the original), and the id that ends a text.
//!
//! Bytes become a byte-level BPE without merges whose 256 tokens are the byte characters of GPT-2, numbered by byte:
//! any program that reads tokenizer.json then encodes a text to exactly its UTF-8 bytes.

use std::path::{Path, PathBuf};

use rekindle_types::ModelConfig;
use serde_json::{Map, Value, json};

use crate::error::{CheckpointError, Result, io};

/// Names that tokenizers in use give the token that ends a text.
const END_OF_TEXT: [&str; 6] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eos|>",
    "</s>",
    "<eos>",
    "[EOS]",
];

/// The files to write: names and contents.
pub(crate) struct Files {
    pub files: Vec<(&'static str, Vec<u8>)>,
    pub end_of_text: Option<u32>,
}

/// The files for a tokenizer, as a job file names it. Existing files are copied byte by byte.
pub(crate) fn files(tokenizer: &str, config: &ModelConfig) -> Result<Files> {
    if tokenizer == "bytes" {
        let files = vec![
            ("tokenizer.json", pretty(&bytes())),
            ("tokenizer_config.json", pretty(&settings(None, config))),
        ];
        return Ok(Files {
            files,
            end_of_text: None,
        });
    }
    let path = Path::new(tokenizer);
    let (json, text) = read_json(path)?;
    let end = end_of_text(&json);
    let name = end.map(|(name, _)| name);
    let beside = |file: &str| -> Result<Option<Vec<u8>>> {
        let path: PathBuf = path.with_file_name(file);
        if path.is_file() {
            read_json(&path).map(|(_, text)| Some(text))
        } else {
            Ok(None)
        }
    };
    let settings = beside("tokenizer_config.json")?.unwrap_or_else(|| pretty(&settings(name, config)));
    let special = beside("special_tokens_map.json")?.map(|map| ("special_tokens_map.json", map));
    let mut files = vec![("tokenizer.json", text), ("tokenizer_config.json", settings)];
    files.extend(special);
    Ok(Files {
        files,
        end_of_text: end.map(|(_, id)| id),
    })
}

/// A JSON file: parsed, and as it is.
fn read_json(path: &Path) -> Result<(Value, Vec<u8>)> {
    let text = std::fs::read(path).map_err(io(path))?;
    let why = |e: serde_json::Error| CheckpointError::Export {
        path: path.to_owned(),
        why: format!("not JSON: {e}"),
    };
    Ok((serde_json::from_slice(&text).map_err(why)?, text))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Name and id of the added token that ends a text.
fn end_of_text(tokenizer: &Value) -> Option<(&'static str, u32)> {
    let added = tokenizer.get("added_tokens")?.as_array()?;
    END_OF_TEXT.iter().find_map(|&name| {
        let token = added
            .iter()
            .find(|token| token.get("content").and_then(Value::as_str) == Some(name))?;
        Some((name, u32::try_from(token.get("id")?.as_u64()?).ok()?))
    })
}

fn settings(end_of_text: Option<&str>, config: &ModelConfig) -> Value {
    let mut settings = json!({
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_position_embeddings,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    if let Some(token) = end_of_text {
        settings["eos_token"] = json!(token);
    }
    settings
}

/// A tokenizer.json whose ids are bytes.
fn bytes() -> Value {
    let vocab: Map<String, Value> = byte_characters()
        .into_iter()
        .zip(0u32..)
        .map(|(c, id)| (c.to_string(), json!(id)))
        .collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
}

/// The character that stands for each byte: itself where it is printable in Latin-1, else the next free one from
/// U+0100 on (GPT-2).
fn byte_characters() -> Vec<char> {
    let mut free = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => free.next().unwrap_or(char::REPLACEMENT_CHARACTER),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn byte_characters_are_those_of_gpt2() {
        let characters = byte_characters();
        assert_eq!(
            (
                characters[b'A' as usize],
                characters[b' ' as usize],
                characters[b'\n' as usize]
            ),
            ('A', 'Ġ', 'Ċ')
        );
        assert_eq!((characters[0xAD], characters[0xFF]), ('\u{143}', 'ÿ'));
        assert_eq!(characters.iter().collect::<BTreeSet<_>>().len(), 256);
    }

    #[test]
    fn the_end_of_text_is_found_among_added_tokens() {
        let json = json!({"added_tokens": [{"id": 5, "content": "<s>"}, {"id": 2, "content": "</s>"}]});
        assert_eq!(end_of_text(&json), Some(("</s>", 2)));
        assert_eq!(end_of_text(&json!({"added_tokens": []})), None);
    }
}
