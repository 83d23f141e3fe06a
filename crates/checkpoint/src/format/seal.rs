//! The manifest's digest of itself, so that a flipped bit in it is found, too.
//!
//! A manifest file starts with `{"manifest_digest":"`, 32 hex digits and `",`. The digest is xxh3_128 (seed 0) of
//! every byte behind that.

use rekindle_types::StateDigest;
use xxhash_rust::xxh3::xxh3_128;

use super::{FormatError, Result};

const START: &[u8] = b"{\"manifest_digest\":\"";
const END: &[u8] = b"\",";
const DIGITS: usize = 32;

/// Puts the digest in front of the text of a JSON object that has keys.
#[must_use]
pub fn seal(text: &[u8]) -> Vec<u8> {
    let rest = text.strip_prefix(b"{").unwrap_or(text);
    let digest = StateDigest(xxh3_128(rest)).to_string();
    [START, digest.as_bytes(), END, rest].concat()
}

/// Checks that the bytes are the ones that were sealed.
pub(super) fn check_seal(bytes: &[u8]) -> Result<()> {
    let behind = bytes
        .strip_prefix(START)
        .and_then(|rest| rest.split_at_checked(DIGITS));
    let parts = behind.and_then(|(digits, rest)| Some((digits, rest.strip_prefix(END)?)));
    let Some((digits, rest)) = parts else {
        return Err(FormatError::Foreign(
            "it doesn't start with its manifest_digest".to_owned(),
        ));
    };
    let found = StateDigest(xxh3_128(rest)).to_string();
    if digits == found.as_bytes() {
        return Ok(());
    }
    let wanted = String::from_utf8_lossy(digits);
    Err(FormatError::Inconsistent(format!(
        "its digest is {found}, manifest_digest says {wanted}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_counts() {
        let sealed = seal(b"{\"a\":1}\n");
        assert_eq!(sealed.len(), 54 + 7);
        check_seal(&sealed).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(check_seal(&changed).is_err(), "{bit}");
        }
        for end in 0..sealed.len() {
            assert!(check_seal(&sealed[..end]).is_err());
        }
        let value: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(value["a"], 1);
    }
}
