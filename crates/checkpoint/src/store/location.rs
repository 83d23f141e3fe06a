//! Names of places: what a user writes in a job file or on a command line, checked and taken apart.
//!
//! In: a path, `file://…`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`,
//! `memory://name/prefix` (one process's memory, for tests). Out: a [`Location`], or what is wrong with the text.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Result, StoreError};

/// Longest key in bytes: the least that any of the stores takes.
const LONGEST_KEY: usize = 1024;
/// Longest part of a key between two `/`: what file systems take.
const LONGEST_PART: usize = 255;

/// The object stores there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    S3,
    Gcs,
    Azure,
    Memory,
}

const SCHEMES: &[(&str, Scheme)] = &[
    ("s3", Scheme::S3),
    ("gs", Scheme::Gcs),
    ("az", Scheme::Azure),
    ("memory", Scheme::Memory),
];

/// A place that holds checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    Bucket {
        scheme: Scheme,
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl Location {
    /// Takes a path or URL apart. A URL of files is the path behind `file://`, taken as it is.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] naming the text and what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why: String| StoreError::Invalid {
            url: format!("{text:?}"),
            why,
        };
        let path = match text.split_once("://") {
            None if looks_like_url(text) => {
                return Err(fail(
                    "a URL has \"://\" behind its scheme, a path no ':' before its first '/'".to_owned(),
                ));
            }
            None => text,
            Some(("file", path)) => path,
            Some((scheme, rest)) => return bucket(scheme, rest).map(Self).map_err(fail),
        };
        if path.is_empty() || path.contains('\0') {
            return Err(fail("names no folder".to_owned()));
        }
        Ok(Self(Place::Folder(PathBuf::from(path))))
    }

    /// The folder, if it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.0 {
            Place::Folder(path) => Some(path),
            Place::Bucket { .. } => None,
        }
    }

    /// Scheme, bucket and prefix, if it is none.
    pub(crate) fn bucket(&self) -> Option<(Scheme, &str, &str)> {
        match &self.0 {
            Place::Folder(_) => None,
            Place::Bucket {
                scheme,
                bucket,
                prefix,
            } => Some((*scheme, bucket, prefix)),
        }
    }

    /// The folder `part` (a key, see [`check_key`]) inside this one.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for what isn't a key.
    pub fn join(&self, part: &str) -> Result<Self> {
        check_key(&self.to_string(), part)?;
        let mut place = self.0.clone();
        match &mut place {
            Place::Folder(path) => path.push(part),
            Place::Bucket { prefix, .. } if prefix.is_empty() => part.clone_into(prefix),
            Place::Bucket { prefix, .. } => *prefix = format!("{prefix}/{part}"),
        }
        Ok(Self(place))
    }

    /// The folder around this one and this one's name: `…/checkpoints` and `step-00000050`.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, String)> {
        match &self.0 {
            Place::Folder(path) => {
                let name = path.file_name()?.to_str()?.to_owned();
                let parent = match path.parent()? {
                    parent if parent.as_os_str().is_empty() => PathBuf::from("."),
                    parent => parent.to_owned(),
                };
                Some((Self(Place::Folder(parent)), name))
            }
            Place::Bucket {
                scheme,
                bucket,
                prefix,
            } => {
                let (parent, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
                let (scheme, bucket, prefix) = (*scheme, bucket.clone(), parent.to_owned());
                (!name.is_empty()).then(|| {
                    let place = Place::Bucket {
                        scheme,
                        bucket,
                        prefix,
                    };
                    (Self(place), name.to_owned())
                })
            }
        }
    }
}

/// As it is written: a path, or a URL without a slash at its end.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(path) => write!(f, "{}", path.display()),
            Place::Bucket {
                scheme,
                bucket,
                prefix,
            } => {
                let name = SCHEMES
                    .iter()
                    .find(|(_, s)| s == scheme)
                    .map_or("", |(name, _)| name);
                let slash = if prefix.is_empty() { "" } else { "/" };
                write!(f, "{name}://{bucket}{slash}{prefix}")
            }
        }
    }
}

/// `s3:/bucket`, `s3:bucket`: a scheme with too few slashes, which would otherwise become a folder of that name.
fn looks_like_url(text: &str) -> bool {
    text.split('/').next().is_some_and(|first| first.contains(':'))
}

fn bucket(scheme: &str, rest: &str) -> std::result::Result<Place, String> {
    let Some((_, scheme)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
        return Err(format!(
            "the scheme {scheme}:// is not known; use a path, file://, s3://, gs:// or az://"
        ));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bucket.is_empty() || bucket.starts_with('.') || !bucket.chars().all(good) {
        return Err(format!(
            "{bucket:?} is no name of a bucket; a URL is for instance s3://bucket/folder"
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() {
        plain(prefix)?;
    }
    Ok(Place::Bucket {
        scheme: *scheme,
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

/// CK-8: checks that `key` is a path of plain names: letters, digits and `-_.=@+,`, separated by single `/`, none
/// starting with a dot. `place` is named in the error.
///
/// # Errors
/// [`StoreError::Invalid`] saying what is wrong.
pub fn check_key(place: &str, key: &str) -> Result<()> {
    plain(key).map_err(|why| StoreError::Invalid {
        url: place.to_owned(),
        why: format!("the name {:?} can't be used: {why}", shorten(key)),
    })
}

fn shorten(key: &str) -> String {
    key.chars().take(120).collect()
}

fn plain(key: &str) -> std::result::Result<(), String> {
    if key.len() > LONGEST_KEY {
        return Err(format!("it is longer than {LONGEST_KEY} bytes"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.=@+,".contains(c);
    for part in key.split('/') {
        if part.is_empty() {
            return Err("a part between slashes is empty".to_owned());
        }
        if part.starts_with('.') {
            return Err("a part starts with a dot".to_owned());
        }
        if part.len() > LONGEST_PART {
            return Err(format!("a part is longer than {LONGEST_PART} bytes"));
        }
        if let Some(bad) = part.chars().find(|c| !good(*c)) {
            return Err(format!("it holds {bad:?}; use letters, digits and -_.=@+,"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Location {
        Location::parse(text).unwrap()
    }

    #[test]
    fn paths_and_urls_are_understood() {
        assert_eq!(parse("runs/a").folder(), Some(Path::new("runs/a")));
        assert_eq!(parse("file:///runs/a b").folder(), Some(Path::new("/runs/a b")));
        assert_eq!(parse("s3://bucket").bucket(), Some((Scheme::S3, "bucket", "")));
        assert_eq!(parse("gs://b/x/y/").bucket(), Some((Scheme::Gcs, "b", "x/y")));
        for text in ["az://c/p", "memory://m", "s3://bucket/a/b", "runs/x"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "no folder"),
            ("file://", "no folder"),
            ("ftp://host/x", "ftp://"),
            ("s3:/bucket/x", "\"://\""),
            ("s3:bucket", "\"://\""),
            ("s3://", "bucket"),
            ("s3:///x", "bucket"),
            ("s3://key:secret@bucket/x", "bucket"),
            ("s3://b/a//c", "empty"),
            ("s3://b/../c", "dot"),
            ("s3://b/a?x=y", "'?'"),
        ] {
            let error = Location::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(why) && error.contains(&format!("{text:?}")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn joining_and_splitting_are_inverse() {
        for text in ["/runs/a", "runs", "s3://b", "memory://m/x/y"] {
            let at = parse(text);
            let (parent, name) = at.join("step-00000050").unwrap().split_last().unwrap();
            assert_eq!((parent, name.as_str()), (at, "step-00000050"));
        }
        assert_eq!(parse("step-00000001").split_last().unwrap().0, parse("."));
        assert_eq!(parse("s3://b").split_last(), None);
    }

    #[test]
    fn keys_are_plain() {
        for good in ["a", "step-00000050/demo-1-e3-19a/model/block.0+3.safetensors"] {
            check_key("here", good).unwrap();
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".hidden",
            "a/.rekindle-1",
            "a\\b",
            "C:a",
            "ä",
            "a\n",
            &long,
        ] {
            let error = check_key("here", bad).unwrap_err().to_string();
            assert!(error.starts_with("here: "), "{error}");
        }
    }
}
