//! What can go wrong with a store: which kind it is of decides what the caller does, the text says where and why.

/// Why a store refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such file.
    #[error("{url}: there is no such file; check the name, and that nothing deletes it")]
    NotFound {
        /// The file.
        url: String,
    },
    /// A file that must be new is there.
    #[error("{url}: is there already and isn't replaced")]
    AlreadyExists {
        /// The file.
        url: String,
    },
    /// Disk or quota are full.
    #[error("{url}: no space ({why}); free some or write elsewhere")]
    NoSpace {
        /// The file.
        url: String,
        /// What the store said.
        why: String,
    },
    /// It may work later: a network, a server, a disk that fails.
    #[error("{url}: not available ({why}); it is worth trying again when the store answers")]
    Unavailable {
        /// The file.
        url: String,
        /// What the store said.
        why: String,
    },
    /// The caller may not.
    #[error("{url}: refused ({why}); check credentials and rights")]
    Denied {
        /// The file.
        url: String,
        /// What the store said.
        why: String,
    },
    /// The request, the name or the content makes no sense; trying again doesn't help.
    #[error("{url}: {why}")]
    Invalid {
        /// The file or location.
        url: String,
        /// What is wrong and what to do.
        why: String,
    },
}

/// The kinds of [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // as the variants of StoreError
pub enum StoreErrorKind {
    NotFound,
    AlreadyExists,
    NoSpace,
    Unavailable,
    Denied,
    Invalid,
}

impl StoreErrorKind {
    /// An error of this kind.
    #[must_use]
    pub fn error(self, url: impl Into<String>, why: impl Into<String>) -> StoreError {
        let (url, why) = (url.into(), why.into());
        match self {
            Self::NotFound => StoreError::NotFound { url },
            Self::AlreadyExists => StoreError::AlreadyExists { url },
            Self::NoSpace => StoreError::NoSpace { url, why },
            Self::Unavailable => StoreError::Unavailable { url, why },
            Self::Denied => StoreError::Denied { url, why },
            Self::Invalid => StoreError::Invalid { url, why },
        }
    }
}

impl StoreError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::NotFound { .. } => StoreErrorKind::NotFound,
            Self::AlreadyExists { .. } => StoreErrorKind::AlreadyExists,
            Self::NoSpace { .. } => StoreErrorKind::NoSpace,
            Self::Unavailable { .. } => StoreErrorKind::Unavailable,
            Self::Denied { .. } => StoreErrorKind::Denied,
            Self::Invalid { .. } => StoreErrorKind::Invalid,
        }
    }

    /// Whether the same call may succeed later without anybody changing a setting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind() == StoreErrorKind::Unavailable
    }

    /// An error of the operating system at `url`.
    #[must_use]
    pub fn of_io(url: impl Into<String>, error: &std::io::Error) -> Self {
        kind_of_io(error.kind()).error(url, error.to_string())
    }
}

fn kind_of_io(kind: std::io::ErrorKind) -> StoreErrorKind {
    use std::io::ErrorKind as K;
    match kind {
        K::NotFound => StoreErrorKind::NotFound,
        K::AlreadyExists => StoreErrorKind::AlreadyExists,
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::NoSpace,
        K::PermissionDenied | K::ReadOnlyFilesystem => StoreErrorKind::Denied,
        K::NotADirectory | K::IsADirectory | K::InvalidInput | K::InvalidFilename | K::Unsupported => {
            StoreErrorKind::Invalid
        }
        _ => StoreErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_and_texts_name_the_place() {
        for kind in [
            StoreErrorKind::NotFound,
            StoreErrorKind::AlreadyExists,
            StoreErrorKind::NoSpace,
            StoreErrorKind::Unavailable,
            StoreErrorKind::Denied,
            StoreErrorKind::Invalid,
        ] {
            let error = kind.error("s3://b/k", "because");
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().starts_with("s3://b/k: "), "{error}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let of = |code| StoreError::of_io("x", &std::io::Error::from_raw_os_error(code)).kind();
        assert_eq!(of(28), StoreErrorKind::NoSpace); // ENOSPC
        assert_eq!(of(122), StoreErrorKind::NoSpace); // EDQUOT
        assert_eq!(of(5), StoreErrorKind::Unavailable); // EIO
        assert_eq!(of(13), StoreErrorKind::Denied); // EACCES
        assert_eq!(of(30), StoreErrorKind::Denied); // EROFS
    }
}
