//! Pins: small files that keep a checkpoint from being cleaned up.
//!
//! In: a name, a step, who and why. Out: `pins/<name>.json`, create-only.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::reader::Checkpoint;
use crate::state_error::{Result, StateError};
use crate::store::{Store, StoreError, check_key};

/// Largest pin that is read.
const LARGEST: u64 = 64 << 10;

/// Why a checkpoint is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The checkpoint.
    pub step: u64,
    /// Who wants it.
    pub by: String,
    /// What for.
    pub reason: String,
    /// Since when, milliseconds since 1970.
    pub time_unix_ms: u64,
}

fn key(store: &Arc<dyn Store>, name: &str) -> Result<String> {
    let place = store.url_of("pins");
    check_key(&place, name)?;
    if name.contains('/') {
        let why = format!("the pin's name {name:?} holds a slash");
        return Err(StoreError::Invalid { url: place, why }.into());
    }
    Ok(format!("pins/{name}.json"))
}

/// Pins a committed checkpoint under a name that is free. When it returns, the checkpoint is there and the next
/// cleaning up keeps it.
///
/// # Errors
/// [`StoreError::AlreadyExists`] for a name in use, a checkpoint that can't be opened, or what the store says.
pub async fn pin(store: &Arc<dyn Store>, name: &str, pin: &Pin) -> Result<()> {
    let key = key(store, name)?;
    Checkpoint::open(Arc::clone(store), pin.step).await?;
    let text = serde_json::to_vec(pin).map_err(|e| StateError::Request {
        url: store.url_of(&key),
        why: e.to_string(),
    })?;
    store.put_new(&key, Bytes::from(text)).await?;
    // It may have been deleted between the look and the pin.
    if let Err(error) = Checkpoint::open(Arc::clone(store), pin.step).await {
        store.delete(&[key]).await?;
        return Err(error);
    }
    Ok(())
}

/// Removes a pin and says what it was.
///
/// # Errors
/// [`StoreError::NotFound`], or what the store says.
pub async fn unpin(store: &Arc<dyn Store>, name: &str) -> Result<Pin> {
    let key = key(store, name)?;
    let pin = read(store, &key).await?;
    store.delete(&[key]).await?;
    Ok(pin)
}

/// Every pin by its name.
///
/// # Errors
/// What the store says; [`StateError::Request`] for one that can't be understood: what it holds isn't known, so
/// nothing may be deleted.
pub async fn pins(store: &Arc<dyn Store>) -> Result<BTreeMap<String, Pin>> {
    let mut found = BTreeMap::new();
    for entry in store.list("pins").await? {
        let name = entry
            .key
            .strip_prefix("pins/")
            .and_then(|file| file.strip_suffix(".json"));
        let Some(name) = name.filter(|name| !name.contains('/')) else {
            continue;
        };
        match read(store, &entry.key).await {
            // Removed since it was listed.
            Err(StateError::Store(StoreError::NotFound { .. })) => {}
            pin => {
                found.insert(name.to_owned(), pin?);
            }
        }
    }
    Ok(found)
}

async fn read(store: &Arc<dyn Store>, key: &str) -> Result<Pin> {
    let bytes = store.get(key, LARGEST).await?;
    serde_json::from_slice(&bytes).map_err(|e| StateError::Request {
        url: store.url_of(key),
        why: format!("is no pin ({e}); mend or remove it"),
    })
}
