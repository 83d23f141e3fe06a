//! A store for tests and simulation: keeps the bytes in memory, as a file would.

use rekindle_coordinator_core::{Record, Seq};

use crate::encode::{decode, encode};
use crate::{Store, StoreError, check_order};

/// Records as bytes.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    records: Vec<Vec<u8>>,
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn append(&mut self, records: &[(Seq, Record)]) -> Result<(), StoreError> {
        check_order(Seq(self.records.len() as u64), records)?;
        let encoded: Result<Vec<_>, _> = records.iter().map(|(seq, record)| encode(*seq, record)).collect();
        self.records.extend(encoded?);
        Ok(())
    }

    fn load(&self) -> Result<Vec<(Seq, Record)>, StoreError> {
        let numbered = (1..).map(Seq).zip(&self.records);
        numbered
            .map(|(seq, bytes)| Ok((seq, decode("memory", seq, bytes)?)))
            .collect()
    }
}
