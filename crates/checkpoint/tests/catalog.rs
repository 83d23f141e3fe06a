//! Listing, pinning, and cleaning up (ended at every point).

#![allow(clippy::unwrap_used, clippy::panic)] // The lint's exception for tests doesn't reach their helper functions.

mod support;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use object_store::ObjectStore;
use rekindle_checkpoint::catalog::{AtWork, Condition, GcReport, ImportOptions, Kept, Pin, Policy};
use rekindle_checkpoint::catalog::{gc, import_hf, list, pin, pins, unpin};
use rekindle_checkpoint::format::{Manifest, manifest_key};
use rekindle_checkpoint::store::{Entry, Store, Swept};
use rekindle_checkpoint::testing::{State, plan, write_checkpoint, write_parts};
use rekindle_checkpoint::{Checkpoint, StateError, StoreError, StoreErrorKind, commit, newest_valid};
use rekindle_types::JobId;
use support::{folder, memory, tiny_model};

async fn with_steps(store: &Arc<dyn Store>, steps: &[u64]) -> State {
    let state = State::random(&tiny_model(), 1);
    for step in steps {
        write_checkpoint(store, &state, &plan(2, &[2, 2]), *step)
            .await
            .unwrap();
    }
    state
}

/// Everything that was written is old.
fn policy(keep_last: u32) -> Policy {
    Policy {
        keep_last,
        protect: Vec::new(),
        writer: None,
        sweep_older_than_ms: 0,
        now_unix_ms: u64::MAX,
    }
}

fn a_pin(step: u64) -> Pin {
    Pin {
        step,
        by: "me".to_owned(),
        reason: "the best one".to_owned(),
        time_unix_ms: 5,
    }
}

async fn steps(store: &Arc<dyn Store>) -> Vec<u64> {
    list(store)
        .await
        .unwrap()
        .iter()
        .map(|summary| summary.step)
        .collect()
}

#[tokio::test]
async fn the_newest_pinned_and_protected_ones_stay() {
    for store in [memory("catalog-gc"), folder().1] {
        with_steps(&store, &[10, 20, 30, 40, 50]).await;
        pin(&store, "best", &a_pin(10)).await.unwrap();
        let policy = Policy {
            protect: vec![20],
            ..policy(2)
        };
        let planned = gc(&store, &policy, true).await.unwrap();
        assert_eq!(
            steps(&store).await,
            [10, 20, 30, 40, 50],
            "a dry run touches nothing"
        );
        let done = gc(&store, &policy, false).await.unwrap();
        assert_eq!(
            GcReport {
                dry_run: false,
                uploads: done.uploads,
                ..planned.clone()
            },
            done,
            "it does what it said"
        );
        assert_eq!(done.deleted, [30]);
        assert!(done.freed_bytes > 400_000);
        assert_eq!(
            done.kept,
            [
                (50, Kept::Newest),
                (40, Kept::Newest),
                (20, Kept::Protected),
                (10, Kept::Pinned)
            ]
        );
        assert_eq!(steps(&store).await, [10, 20, 40, 50]);
        assert_eq!(store.list("step-00000030").await.unwrap(), []);
        unpin(&store, "best").await.unwrap();
        // Keeping none keeps one.
        let done = gc(&store, &self::policy(0), false).await.unwrap();
        assert_eq!((done.deleted, steps(&store).await), (vec![40, 20, 10], vec![50]));
    }
}

#[tokio::test]
async fn broken_ones_are_neither_counted_nor_deleted() {
    let store = memory("catalog-broken");
    with_steps(&store, &[10, 20, 30, 40]).await;
    let file = store.list("step-00000040").await.unwrap().pop().unwrap().key;
    store.delete(&[file]).await.unwrap();
    store
        .put(&manifest_key(30), Bytes::from_static(b"{\"schema_version\": 9}"))
        .await
        .unwrap();
    let done = gc(&store, &policy(1), false).await.unwrap();
    assert_eq!((done.kept, done.deleted), (vec![(20, Kept::Newest)], vec![10]));
    assert_eq!(
        done.broken.iter().map(|broken| broken.step).collect::<Vec<_>>(),
        [40, 30]
    );
    assert!(
        done.broken[1].why.contains("schema version 9"),
        "{}",
        done.broken[1]
    );
    assert_eq!(steps(&store).await, [20, 30, 40]);
}

#[tokio::test]
async fn leftovers_go_when_they_are_old() {
    let (_dir, store) = folder();
    let state = with_steps(&store, &[10]).await;
    // A stale writer of the same step, and a step that was never committed.
    store
        .put(
            "step-00000010/test-1-e2-abc/model/x.safetensors",
            Bytes::from_static(b"stale"),
        )
        .await
        .unwrap();
    write_parts(&store, &state, &plan(1, &[4]), 20, 1).await.unwrap();
    let young = Policy {
        sweep_older_than_ms: 3_600_000,
        now_unix_ms: now(),
        ..policy(1)
    };
    let done = gc(&store, &young, false).await.unwrap();
    assert_eq!((done.swept.len(), steps(&store).await), (0, vec![10, 20]));
    // A clock that jumped ahead makes them look old; who still writes is known by name.
    let at_work = |from| {
        Some(AtWork {
            writer: "test-1-e3-19b76daa800".to_owned(),
            from,
        })
    };
    let busy = Policy {
        writer: at_work(20),
        ..policy(1)
    };
    let done = gc(&store, &busy, true).await.unwrap();
    assert_eq!(done.swept, ["step-00000010/test-1-e2-abc"]);
    // What it has given up goes, young as it is; what of that is committed stays.
    let further = Policy {
        writer: at_work(21),
        ..young
    };
    let done = gc(&store, &further, true).await.unwrap();
    assert_eq!(done.swept, ["step-00000020/test-1-e3-19b76daa800"]);
    assert_eq!(done.kept, [(10, Kept::Newest)]);
    let done = gc(&store, &policy(1), false).await.unwrap();
    assert_eq!(
        done.swept,
        [
            "step-00000020/test-1-e3-19b76daa800",
            "step-00000010/test-1-e2-abc"
        ]
    );
    let [gone, kept] = ["step-00000020", "step-00000010"].map(|step| store.local_path(step).unwrap());
    assert!(!gone.exists() && kept.exists(), "no empty folder stays");
    assert!(done.uploads.listable);
    let (found, refused) = newest_valid(&store, &|_| Ok(())).await.unwrap();
    assert_eq!((found.unwrap().manifest().step, refused), (10, vec![]));
}

fn now() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    since.as_millis() as u64
}

#[tokio::test]
async fn a_pin_that_cannot_be_read_stops_everything() {
    let store = memory("catalog-bad-pin");
    with_steps(&store, &[10, 20]).await;
    store
        .put("pins/odd.json", Bytes::from_static(b"{\"step\": \"ten\"}"))
        .await
        .unwrap();
    let error = gc(&store, &policy(1), false).await.unwrap_err();
    assert!(error.to_string().contains("pins/odd.json"), "{error}");
    assert!(matches!(list(&store).await, Err(StateError::Request { .. })));
    store.delete(&["pins/odd.json".to_owned()]).await.unwrap();
    assert_eq!(steps(&store).await, [10, 20]);
}

#[tokio::test]
async fn pins_are_made_once_and_for_what_is_there() {
    let store = memory("catalog-pins");
    with_steps(&store, &[10]).await;
    pin(&store, "best", &a_pin(10)).await.unwrap();
    let again = pin(&store, "best", &a_pin(10)).await;
    assert!(matches!(
        again,
        Err(StateError::Store(StoreError::AlreadyExists { .. }))
    ));
    let missing = pin(&store, "other", &a_pin(11)).await.unwrap_err();
    assert!(missing.to_string().contains("step-00000011"), "{missing}");
    for name in ["", "a/b", "..", "a b"] {
        assert!(pin(&store, name, &a_pin(10)).await.is_err(), "{name}");
    }
    assert_eq!(
        pins(&store).await.unwrap().into_iter().collect::<Vec<_>>(),
        [("best".to_owned(), a_pin(10))]
    );
    assert_eq!(list(&store).await.unwrap()[0].pins, ["best"]);
    assert_eq!(unpin(&store, "best").await.unwrap(), a_pin(10));
    assert!(unpin(&store, "best").await.is_err() && pins(&store).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_listing_tells_finished_unfinished_and_broken() {
    let store = memory("catalog-list");
    let state = with_steps(&store, &[10, 20]).await;
    write_parts(&store, &state, &plan(1, &[4]), 30, 1).await.unwrap();
    store
        .put("step-00000020/manifest.json", Bytes::from_static(b"x"))
        .await
        .unwrap();
    store.put("something/else", Bytes::new()).await.unwrap();
    let found = list(&store).await.unwrap();
    assert_eq!(found.len(), 3);
    let Condition::Valid(facts) = &found[0].condition else {
        panic!("{found:?}")
    };
    assert_eq!(
        (facts.state_digest, facts.parameters),
        (state.digest(), tiny_model().parameters())
    );
    assert!(found[0].bytes > facts.parameters * 12 && found[0].files > 4 && found[0].modified_unix_ms > 0);
    assert!(matches!(&found[1].condition, Condition::Broken(why) if why.contains("step-00000020")));
    assert_eq!(found[2].condition, Condition::Unfinished);
}

/// A store whose machine dies after so many files were deleted.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Store>,
    left: AtomicI64,
}

impl Dying {
    async fn remove(&self, keys: &[String]) -> Result<(), StoreError> {
        for key in keys {
            if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
                return Err(StoreErrorKind::Unavailable.error(key, "the machine died"));
            }
            self.inner.delete(std::slice::from_ref(key)).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Dying {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.put_new(key, bytes).await
    }
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.inner.put(key, bytes).await
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.inner.get(key, max_bytes).await
    }
    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.read(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.inner.list(prefix).await
    }
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list_dirs(prefix).await
    }
    async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        self.remove(keys).await
    }
    async fn delete_dir(&self, prefix: &str) -> Result<u64, StoreError> {
        let mut keys: Vec<String> = self
            .inner
            .list(prefix)
            .await?
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        // A listing has no order to rely on; the manifest is the last of these.
        keys.sort_by_key(|key| (key.ends_with("manifest.json"), key.clone()));
        self.remove(&keys).await.map(|()| keys.len() as u64)
    }
    async fn sweep_uploads(&self, before_unix_ms: u64) -> Result<Swept, StoreError> {
        self.inner.sweep_uploads(before_unix_ms).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }
    fn objects(&self) -> Option<(Arc<dyn ObjectStore>, object_store::path::Path)> {
        self.inner.objects()
    }
}

/// CK-17: after any number of deletions each checkpoint is whole, or nobody takes it for one; and the next cleaning
/// up ends the work.
#[tokio::test]
async fn cleaning_up_can_be_ended_anywhere() {
    let mut died = 0;
    for deletions in 0.. {
        let store = memory(&format!("catalog-dying-{deletions}"));
        with_steps(&store, &[10, 20, 30]).await;
        store
            .put(
                "step-00000030/test-1-e1-abc/model/x.safetensors",
                Bytes::from_static(b"stale"),
            )
            .await
            .unwrap();
        let dying: Arc<dyn Store> = Arc::new(Dying {
            inner: Arc::clone(&store),
            left: AtomicI64::new(deletions),
        });
        let ended = gc(&dying, &policy(1), false).await;
        for summary in list(&store).await.unwrap() {
            let good = matches!(summary.condition, Condition::Valid(_) | Condition::Unfinished);
            assert!(good, "after {deletions} deletions: {summary:?}");
        }
        let (found, _) = newest_valid(&store, &|_| Ok(())).await.unwrap();
        assert_eq!(found.unwrap().manifest().step, 30);
        let finished = ended.is_ok();
        died += u64::from(!finished);
        gc(&store, &policy(1), false).await.unwrap();
        let steps: BTreeSet<u64> = steps(&store).await.into_iter().collect();
        assert_eq!(steps, BTreeSet::from([30]));
        if finished {
            break;
        }
    }
    assert!(died > 10, "{died}");
}

/// The coordinator runs these as tasks of a runtime with several threads.
#[test]
fn work_on_checkpoints_can_be_spawned() {
    fn spawnable<T: Send>(_: &T) {}
    let (store, folder, policy) = (memory("catalog-send"), Path::new("none"), policy(1));
    let options = ImportOptions {
        job: JobId::new("import").unwrap(),
        now_unix_ms: 7,
    };
    let manifest = Manifest::from_bytes(include_bytes!("data/manifest-v1.json")).unwrap();
    spawnable(&gc(&store, &policy, true));
    spawnable(&list(&store));
    spawnable(&pin(&store, "x", &a_pin(1)));
    spawnable(&commit(&store, &manifest));
    spawnable(&newest_valid(&store, &|_| Ok(())));
    spawnable(&Checkpoint::open(Arc::clone(&store), 1));
    spawnable(&import_hf(folder, &store, &options, &mut |_, _| {}));
}
