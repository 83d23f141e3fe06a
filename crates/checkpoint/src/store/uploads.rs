//! Multipart uploads that nobody finished, on S3 and services like it: they are paid for, and no listing shows them.
//!
//! In: a bucket's prefix and an age. Out: how many were aborted. The library can abort uploads but not list them, so
//! the listing (`ListMultipartUploads`) is asked for here, by a URL the library signs. Where that isn't allowed, a
//! rule of the bucket has to do it.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::signer::{SignedUrlOptions, Signer};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;

use super::{Remote, Result, StoreError, StoreErrorKind, Swept};

/// How long a signed URL may be used.
const SIGNED_FOR: Duration = Duration::from_secs(300);
/// Pages of 1000 uploads at most.
const MOST_PAGES: usize = 100;

/// What is needed to list and abort uploads.
#[derive(Debug, Clone)]
pub(super) struct Uploads {
    s3: Arc<AmazonS3>,
    client: Client,
    retries: usize,
    pause: Duration,
}

/// An answer to `ListMultipartUploads`, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Uploads {
    pub(super) fn new(s3: Arc<AmazonS3>, remote: &Remote, url: &str) -> Result<Self> {
        let client = Client::builder()
            .connect_timeout(remote.connect_timeout)
            .timeout(remote.request_timeout);
        let client = client
            .build()
            .map_err(|e| StoreErrorKind::Invalid.error(url, e.to_string()))?;
        let (retries, pause) = (remote.retries, remote.first_pause);
        Ok(Self {
            s3,
            client,
            retries,
            pause,
        })
    }

    /// Aborts what was started below `prefix` before `before_unix_ms`.
    pub(super) async fn sweep(&self, prefix: &ObjectPath, url: &str, before_unix_ms: u64) -> Result<Swept> {
        let mut swept = Swept {
            removed: 0,
            listable: true,
        };
        let mut from = (String::new(), String::new());
        for _ in 0..MOST_PAGES {
            let page = match self.page(prefix, url, &from).await {
                Err(StoreError::Denied { url, why }) => {
                    tracing::warn!(%url, %why, "unfinished uploads can't be listed; a rule of the bucket has to end them");
                    return Ok(Swept {
                        listable: false,
                        ..swept
                    });
                }
                page => page?,
            };
            let old = |upload: &&Upload| unix_ms(&upload.initiated).is_some_and(|at| at < before_unix_ms);
            for upload in page.uploads.iter().filter(old) {
                swept.removed += self.abort(prefix, url, upload).await?;
            }
            if !page.is_truncated {
                break;
            }
            from = (page.next_key_marker, page.next_upload_id_marker);
        }
        Ok(swept)
    }

    /// Returns 1 for an upload that is ours and isn't there any more.
    async fn abort(&self, prefix: &ObjectPath, url: &str, upload: &Upload) -> Result<u64> {
        let path = ObjectPath::parse(&upload.key).ok();
        let Some(path) = path.filter(|path| path.prefix_matches(prefix)) else {
            return Ok(0);
        };
        match self.s3.abort_multipart(&path, &upload.upload_id).await {
            // Finished or aborted since it was listed.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(1),
            Err(error) => Err(StoreError::of_objects(format!("{url} ({})", upload.key), &error)),
        }
    }

    async fn page(&self, prefix: &ObjectPath, url: &str, from: &(String, String)) -> Result<Page> {
        let mut last = None;
        for attempt in 0..=self.retries {
            if attempt > 0 {
                tokio::time::sleep(self.pause * 2_u32.saturating_pow(attempt.min(8) as u32)).await;
            }
            match self.ask(prefix, url, from).await {
                Err(error) if error.is_transient() => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.unwrap_or_else(|| StoreErrorKind::Unavailable.error(url, "nobody was asked")))
    }

    async fn ask(&self, prefix: &ObjectPath, url: &str, from: &(String, String)) -> Result<Page> {
        let mut query = vec![("uploads", String::new()), ("prefix", prefix.to_string())];
        if !from.0.is_empty() {
            query.push(("key-marker", from.0.clone()));
            query.push(("upload-id-marker", from.1.clone()));
        }
        let options = SignedUrlOptions::default().with_query(query);
        let root = ObjectPath::default();
        let signed = self
            .s3
            .signed_url_opts(Method::GET, &root, SIGNED_FOR, &options)
            .await;
        let signed = signed.map_err(|e| StoreError::of_objects(url, &e))?;
        // Without the URL: it carries a signature.
        let failed = |e: reqwest::Error| StoreErrorKind::Unavailable.error(url, e.without_url().to_string());
        let answer = self.client.get(signed.as_str()).send().await.map_err(failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(failed)?;
        if !status.is_success() {
            let why = format!("listing uploads was answered with {status}");
            return Err(kind(status).error(url, why));
        }
        quick_xml::de::from_str(&text)
            .map_err(|e| StoreErrorKind::Invalid.error(url, format!("no list of uploads: {e}")))
    }
}

fn kind(status: StatusCode) -> StoreErrorKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => StoreErrorKind::Unavailable,
        StatusCode::NOT_FOUND => StoreErrorKind::NotFound,
        // Services that don't know the question refuse it, too.
        StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => StoreErrorKind::Denied,
        status if status.is_server_error() => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Denied,
    }
}

/// Milliseconds since 1970 of `2026-01-31T12:34:56[.789]Z`.
fn unix_ms(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| {
        text.split(by)
            .map(|n| n.parse().ok())
            .collect::<Option<Vec<u64>>>()
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let (&[year, month, day], &[hours, minutes, seconds]) = (date.as_slice(), time.as_slice()) else {
        return None;
    };
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of a calendar that starts in March, so that the odd day is a year's last (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    let millis: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-02T00:00:01.5Z", 86_401_500),
            ("2000-02-29T12:00:00.000Z", 951_825_600_000),
            ("2010-11-10T20:48:33.000Z", 1_289_422_113_000),
            ("2026-01-01T00:00:00.123456Z", 1_767_225_600_123),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(unix_ms(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "x-01-01T00:00:00Z",
            "2026-01T00:00Z",
        ] {
            assert_eq!(unix_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn listings_are_understood() {
        let page: Page = quick_xml::de::from_str(
            "<?xml version=\"1.0\"?><ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Bucket>b</Bucket><KeyMarker/><NextKeyMarker>k2</NextKeyMarker><IsTruncated>true</IsTruncated>\
             <Upload><Key>a/b.safetensors</Key><UploadId>1</UploadId><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>\
             <CommonPrefixes/><Upload><Key>k2</Key><UploadId>2</UploadId><Owner><ID>x</ID></Owner><Initiated>y</Initiated></Upload>\
             </ListMultipartUploadsResult>",
        )
        .unwrap();
        assert!(page.is_truncated && page.next_key_marker == "k2" && page.next_upload_id_marker.is_empty());
        assert_eq!(
            page.uploads.iter().map(|u| u.key.as_str()).collect::<Vec<_>>(),
            ["a/b.safetensors", "k2"]
        );
        let empty: Page =
            quick_xml::de::from_str("<ListMultipartUploadsResult></ListMultipartUploadsResult>").unwrap();
        assert!(!empty.is_truncated && empty.uploads.is_empty());
    }
}
