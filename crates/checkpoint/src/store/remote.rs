//! Clients of object stores from a [`Location`] and the usual environment variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`),
//! with every wait bounded (CK-9).
//!
//! `memory://name` is one store for the whole process, so that whoever opens the same name sees the same files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::location::Scheme;
use super::uploads::Uploads;
use super::{Location, Objects, Result, StoreError};

/// How long remote stores are waited for.
///
/// A request that fails with a connection error, a timeout of an idempotent request, or a status of 429 or 500 to 599
/// is made again after a pause that doubles, with jitter, up to `longest_pause`; no more than `retries` times, and
/// not after `retry_timeout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Until a connection is there.
    pub connect_timeout: Duration,
    /// Until a request is answered completely, its body included: bodies are of up to about 64 MiB.
    pub request_timeout: Duration,
    /// Times a request is made again.
    pub retries: usize,
    /// No retry is started later than this after the first try.
    pub retry_timeout: Duration,
    /// Before the first retry.
    pub first_pause: Duration,
    /// Between retries at most.
    pub longest_pause: Duration,
}

impl Default for Remote {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            retries: 6,
            retry_timeout: Duration::from_secs(120),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
        }
    }
}

impl Remote {
    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.first_pause,
                max_backoff: self.longest_pause,
                base: 2.0,
            },
            max_retries: self.retries,
            retry_timeout: self.retry_timeout,
        }
    }

    /// Settings of the HTTP client, except those that the environment sets (`AWS_TIMEOUT`, for instance).
    fn client(&self, prefix: &str) -> Vec<(ClientConfigKey, String)> {
        let text = |d: Duration| format!("{} ms", d.as_millis());
        [
            (
                "CONNECT_TIMEOUT",
                ClientConfigKey::ConnectTimeout,
                text(self.connect_timeout),
            ),
            ("TIMEOUT", ClientConfigKey::Timeout, text(self.request_timeout)),
        ]
        .into_iter()
        .filter(|(name, ..)| std::env::var_os(format!("{prefix}_{name}")).is_none())
        .map(|(_, key, value)| (key, value))
        .collect()
    }
}

/// A builder with everything set but what `build` checks. The builders share no trait.
macro_rules! client {
    ($builder:ty, $key:ident, $prefix:literal, $url:expr, $remote:expr) => {{
        let builder = <$builder>::from_env()
            .with_url($url.as_str())
            .with_retry($remote.retry());
        let builder = $remote
            .client($prefix)
            .into_iter()
            .fold(builder, |builder, (key, value)| {
                builder.with_config($key::Client(key), value)
            });
        builder.build()
    }};
}

/// Opens a location that is no folder. Asks nothing over the network.
pub(super) fn open(location: &Location, remote: &Remote) -> Result<Objects> {
    let url = location.to_string();
    let Some((scheme, bucket, prefix)) = location.bucket() else {
        let why = "is a folder, not an object store (a defect of Rekindle)".to_owned();
        return Err(StoreError::Invalid { url, why });
    };
    use_ring();
    let failed = |error: object_store::Error, hint: &str| StoreError::Invalid {
        url: url.clone(),
        why: format!("{error}; {hint}"),
    };
    let store: Arc<dyn ObjectStore> = match scheme {
        Scheme::Memory => memory(bucket),
        Scheme::S3 => {
            let s3 = client!(AmazonS3Builder, AmazonS3ConfigKey, "AWS", url, remote)
                .map_err(|e| failed(e, "check the AWS_ environment variables"))?;
            let s3 = Arc::new(s3);
            let uploads = Uploads::new(Arc::clone(&s3), remote, &url)?;
            return Ok(Objects::new(s3, prefix, url)?.with_uploads(uploads));
        }
        Scheme::Gcs => Arc::new(
            client!(GoogleCloudStorageBuilder, GoogleConfigKey, "GOOGLE", url, remote)
                .map_err(|e| failed(e, "check the GOOGLE_ environment variables"))?,
        ),
        Scheme::Azure => Arc::new(
            client!(MicrosoftAzureBuilder, AzureConfigKey, "AZURE", url, remote)
                .map_err(|e| failed(e, "set AZURE_STORAGE_ACCOUNT_NAME and a credential"))?,
        ),
    };
    Objects::new(store, prefix, url)
}

/// The TLS code has to be named once for the process; whoever was first named the same.
fn use_ring() {
    let _already_named = rustls::crypto::ring::default_provider().install_default();
}

fn memory(name: &str) -> Arc<dyn ObjectStore> {
    static STORES: Mutex<BTreeMap<String, Arc<InMemory>>> = Mutex::new(BTreeMap::new());
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(stores.entry(name.to_owned()).or_default()) as _
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_every_kind_can_be_made() {
        // Without any credentials: they are looked for when the first request is made. Azure needs to know whose
        // container it is.
        for url in ["s3://bucket/prefix", "gs://bucket/prefix", "memory://here"] {
            open(&Location::parse(url).unwrap(), &Remote::default()).unwrap();
        }
        let azure = open(&Location::parse("az://container").unwrap(), &Remote::default());
        if std::env::var_os("AZURE_STORAGE_ACCOUNT_NAME").is_none() {
            assert!(
                azure
                    .unwrap_err()
                    .to_string()
                    .contains("AZURE_STORAGE_ACCOUNT_NAME")
            );
        }
    }

    #[test]
    fn memory_is_shared_by_name() {
        let pointer = |name| Arc::as_ptr(&memory(name)).cast::<()>();
        assert_eq!(pointer("memory-test-a"), pointer("memory-test-a"));
        assert_ne!(pointer("memory-test-a"), pointer("memory-test-b"));
    }
}
