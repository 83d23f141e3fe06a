//! The journal in a file: an embedded database (redb), one write transaction per append, fsynced.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageError, TableDefinition, TableError,
};
use rekindle_coordinator_core::{Record, Seq};

use crate::encode::{VERSION, decode, encode};
use crate::{Store, StoreError, check_order};

const RECORDS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("rekindle-journal");
const META: TableDefinition<'static, &'static str, u32> = TableDefinition::new("rekindle-meta");
const FORMAT: &str = "journal-format";

/// A coordinator's journal in a file. Holds the file's lock while it lives.
pub struct Journal {
    path: PathBuf,
    database: Database,
    last: Seq,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.path)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one, and reads it. The folder must exist.
    ///
    /// # Errors
    /// [`StoreError`]: in use, foreign, newer, damaged, or not accessible. The file isn't changed then.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Vec<(Seq, Record)>), StoreError> {
        let path = path.as_ref().to_path_buf();
        let known = path.metadata().is_ok_and(|file| file.len() > 0);
        let database = Database::create(&path).map_err(|error| open_error(&path, error))?;
        let mut journal = Self {
            path,
            database,
            last: Seq(0),
        };
        if known {
            journal.check_format()?;
        } else {
            journal.write_format()?;
        }
        let records = journal.load()?;
        journal.last = records.last().map_or(Seq(0), |(seq, _)| *seq);
        Ok((journal, records))
    }

    /// Makes one record durable.
    ///
    /// # Errors
    /// See [`Store::append`].
    pub fn append(&mut self, seq: Seq, record: &Record) -> Result<(), StoreError> {
        self.append_batch(&[(seq, record.clone())])
    }

    /// Makes several records durable in one transaction (one fsync).
    ///
    /// # Errors
    /// See [`Store::append`].
    pub fn append_batch(&mut self, records: &[(Seq, Record)]) -> Result<(), StoreError> {
        check_order(self.last, records)?;
        let encoded: Result<Vec<_>, _> = records
            .iter()
            .map(|(seq, record)| Ok((seq.0, encode(*seq, record)?)))
            .collect();
        let encoded = encoded?;
        self.write(&encoded).map_err(|error| self.io("written", &error))?;
        if let Some((seq, _)) = records.last() {
            self.last = *seq;
        }
        Ok(())
    }

    /// The number of the last record; 0 in an empty journal.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.last
    }

    fn write(&self, encoded: &[(u64, Vec<u8>)]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(RECORDS)?;
            for (seq, bytes) in encoded {
                table.insert(seq, bytes.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn write_format(&self) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.open_table(META)?.insert(FORMAT, VERSION)?;
            transaction.open_table(RECORDS)?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| self.io("written", &error))
    }

    /// A database without the format's mark is another program's, unless it is quite empty (a crash right after its
    /// making).
    fn check_format(&self) -> Result<(), StoreError> {
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| self.io("read", &error))?;
        let found = match transaction.open_table(META) {
            Ok(table) => {
                let value = table.get(FORMAT).map_err(|error| self.io("read", &error))?;
                value.map(|value| value.value())
            }
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(self.foreign(&error)),
        };
        match found {
            Some(found) if found > VERSION => Err(StoreError::Newer {
                path: self.path.clone(),
                found,
                known: VERSION,
            }),
            Some(_) => Ok(()),
            None => {
                let mut tables = transaction
                    .list_tables()
                    .map_err(|error| self.io("read", &error))?;
                if tables.next().is_some() {
                    return Err(self.foreign(&"a database of another program"));
                }
                drop(tables);
                drop(transaction);
                self.write_format()
            }
        }
    }

    fn io(&self, verb: &'static str, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io {
            path: self.path.clone(),
            verb,
            why: why.to_string(),
        }
    }

    fn foreign(&self, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Foreign {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    fn read(&self) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(RECORDS)?;
        let mut rows = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or(0));
        for row in table.iter()? {
            let (seq, bytes) = row?;
            rows.push((seq.value(), bytes.value().to_vec()));
        }
        Ok(rows)
    }
}

impl Store for Journal {
    fn append(&mut self, records: &[(Seq, Record)]) -> Result<(), StoreError> {
        self.append_batch(records)
    }

    fn load(&self) -> Result<Vec<(Seq, Record)>, StoreError> {
        let rows = self.read().map_err(|error| self.io("read", &error))?;
        let place = self.path.display().to_string();
        let mut records = Vec::with_capacity(rows.len());
        for (wanted, (seq, bytes)) in (1..).zip(rows) {
            if seq != wanted {
                return Err(StoreError::Corrupt {
                    place,
                    seq: Seq(wanted),
                    why: "it is missing".to_owned(),
                });
            }
            records.push((Seq(seq), decode(&place, Seq(seq), &bytes)?));
        }
        Ok(records)
    }
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Locked { path }
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != ErrorKind::InvalidData => {
            StoreError::Io {
                path,
                verb: "opened",
                why: error.to_string(),
            }
        }
        other => StoreError::Foreign {
            path,
            why: other.to_string(),
        },
    }
}
