//! A record as bytes: JSON with the format's version and a checksum of the record's own JSON.

use rekindle_coordinator_core::{Record, Seq};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;

/// The format written, and the newest one read.
pub(crate) const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u32,
    checksum: String,
    record: Record,
}

fn checksum(record: &Record) -> Result<String, serde_json::Error> {
    Ok(format!("{:016x}", xxh3_64(&serde_json::to_vec(record)?)))
}

/// Encodes, and makes sure that decoding gives the same.
pub(crate) fn encode(seq: Seq, record: &Record) -> Result<Vec<u8>, StoreError> {
    let unstorable = |why: String| StoreError::Unstorable { seq, why };
    let envelope = Envelope {
        version: VERSION,
        checksum: checksum(record).map_err(|error| unstorable(error.to_string()))?,
        record: record.clone(),
    };
    let bytes = serde_json::to_vec(&envelope).map_err(|error| unstorable(error.to_string()))?;
    let back = decode("memory", seq, &bytes).map_err(|error| unstorable(error.to_string()))?;
    if back == *record {
        Ok(bytes)
    } else {
        Err(unstorable("it reads back as another value".to_owned()))
    }
}

/// Decodes and checks.
pub(crate) fn decode(place: &str, seq: Seq, bytes: &[u8]) -> Result<Record, StoreError> {
    let corrupt = |why: String| StoreError::Corrupt {
        place: place.to_owned(),
        seq,
        why,
    };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
    if envelope.version > VERSION {
        return Err(StoreError::Newer {
            path: place.into(),
            found: envelope.version,
            known: VERSION,
        });
    }
    let found = checksum(&envelope.record).map_err(|error| corrupt(error.to_string()))?;
    if found != envelope.checksum {
        return Err(corrupt("its checksum is wrong".to_owned()));
    }
    Ok(envelope.record)
}
