//! Both stores against the suite; the file's own errors.

use std::path::Path;

use redb::ReadableTable;
use rekindle_coordinator_core::{Change, Record, Seq};
use rekindle_store::{Journal, MemoryStore, Store, StoreError, conformance};
use rekindle_types::{Epoch, JobId, JobState, StepReport};

#[test]
fn memory_keeps_the_rules() {
    conformance::check(&mut |old: Option<MemoryStore>| Ok(old.unwrap_or_default())).unwrap();
}

#[test]
fn journal_keeps_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    conformance::check(&mut |old: Option<Journal>| {
        drop(old);
        Journal::open(&path).map(|(journal, _)| journal)
    })
    .unwrap();
}

/// A store that loses what it was given last is caught: the suite can fail.
#[test]
fn the_suite_catches_a_store_that_forgets() {
    struct Forgetful(MemoryStore, Vec<(Seq, Record)>);
    impl Store for Forgetful {
        fn append(&mut self, records: &[(Seq, Record)]) -> Result<(), StoreError> {
            self.0.append(records)?;
            self.1.extend_from_slice(records);
            Ok(())
        }
        fn load(&self) -> Result<Vec<(Seq, Record)>, StoreError> {
            self.0.load()
        }
    }
    let error = conformance::check(&mut |old: Option<Forgetful>| {
        let mut kept = MemoryStore::new();
        if let Some(Forgetful(_, mut records)) = old {
            records.pop();
            kept.append(&records)?;
        }
        Ok(Forgetful(kept, Vec::new()))
    })
    .unwrap_err();
    assert!(error.contains("ST-1"), "{error}");
}

#[test]
fn a_second_coordinator_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (first, _) = Journal::open(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another coordinator"), "{error}");
    drop(first);
    Journal::open(&path).unwrap();
}

#[test]
fn foreign_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "these are not the records you are looking for\n".repeat(500),
    )
    .unwrap();
    let before = std::fs::read(&text).unwrap();
    let error = Journal::open(&text).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert_eq!(std::fs::read(&text).unwrap(), before);

    let other = folder.path().join("other");
    let table = redb::TableDefinition::<u64, u64>::new("somebody-elses");
    edit(&other, |transaction| {
        transaction.open_table(table).unwrap().insert(1, 1).unwrap();
    });
    let error = Journal::open(&other).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn a_newer_format_and_a_damaged_record_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::open(&path).unwrap();
    journal.append(Seq(1), &conformance::sample(1)).unwrap();
    journal.append(Seq(2), &conformance::sample(2)).unwrap();
    drop(journal);
    let records = redb::TableDefinition::<u64, &[u8]>::new("rekindle-journal");
    edit(&path, |transaction| {
        let mut table = transaction.open_table(records).unwrap();
        let bytes = table.get(2).unwrap().unwrap().value().to_vec();
        let text = String::from_utf8(bytes).unwrap().replace("number 2", "number 3");
        table.insert(2, text.as_bytes()).unwrap();
    });
    let error = Journal::open(&path).unwrap_err().to_string();
    assert!(error.contains("#2") && error.contains("checksum"), "{error}");
    edit(&path, |transaction| {
        transaction.open_table(records).unwrap().remove(1).unwrap();
    });
    let error = Journal::open(&path).unwrap_err().to_string();
    assert!(error.contains("#1") && error.contains("missing"), "{error}");
    edit(&path, |transaction| {
        let meta = redb::TableDefinition::<&str, u32>::new("rekindle-meta");
        transaction
            .open_table(meta)
            .unwrap()
            .insert("journal-format", 9)
            .unwrap();
    });
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9, .. }), "{error}");
}

#[test]
fn a_folder_that_isnt_there_is_named() {
    let error = Journal::open("/nonexistent/journal").unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/journal"), "{error}");
}

#[test]
fn what_json_cant_hold_is_refused_before_it_is_written() {
    let step = StepReport {
        step: 1,
        loss: f64::NAN,
        grad_norm: 1.0,
        lr: 0.1,
        tokens: 1,
        step_seconds: 1.0,
        epoch: Epoch(1),
        data_digest: String::new(),
        state_digest: None,
        val_loss: None,
        stage_norms: Vec::new(),
    };
    let change = Change::Ended {
        job: JobId::new("job").unwrap(),
        state: JobState::Succeeded,
        failure: None,
        last_step: Some(step),
    };
    let mut store = MemoryStore::new();
    let error = store.append(&[(Seq(1), Record { at: 1, change })]).unwrap_err();
    assert!(
        matches!(error, StoreError::Unstorable { seq: Seq(1), .. }),
        "{error}"
    );
    assert_eq!(store.load().unwrap(), []);
}

fn edit(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::create(path).expect("the file opens");
    let transaction = database.begin_write().expect("a transaction begins");
    change(&transaction);
    transaction.commit().expect("it commits");
}
