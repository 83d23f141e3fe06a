//! A store that fails as it is told to: for tests of whoever uses a [`Store`].
//!
//! In: another store and a script ("the next 3 reads of manifests return a flipped bit"), a seed, or a bandwidth.
//! Out: the same store, failing in exactly that way each time. What is scripted is used up; without a script nothing
//! is changed. Multipart uploads through [`Store::objects`] are covered too; files written to [`Store::local_path`]
//! are not, as no call comes by here.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use super::faulty_objects::FaultyObjects;
use super::{Entry, Result, Store, StoreErrorKind, Swept};

/// The calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `put_new`, and an object put with create-only semantics.
    PutNew,
    /// `put`, and any other object put.
    Put,
    /// `get`, and an object read as a whole.
    Get,
    /// `read`, and an object read in part.
    Read,
    /// `list` and `list_dirs`.
    List,
    /// `delete` and `delete_dir`.
    Delete,
    /// `sweep_uploads`.
    Sweep,
    /// Start of a multipart upload.
    StartUpload,
    /// One part of it.
    PutPart,
    /// Its end.
    Complete,
    /// Giving it up.
    Abort,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Fail(StoreErrorKind),
    /// It is done, but the caller is told that it failed: an answer that was lost.
    Lost(StoreErrorKind),
    /// It is done later.
    Delay(Duration),
    /// It never returns.
    Hang,
    /// What was read lacks its last byte, and nobody says so.
    Short,
    /// This bit (modulo the length) of what was read is turned over.
    Flip(u64),
}

#[derive(Debug)]
struct Rule {
    op: Op,
    part: String,
    left: u64,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    random: Option<(u64, u64, StoreErrorKind)>,
    calls: Vec<(Op, String)>,
}

/// What is to fail, shared by the store and its uploads.
#[derive(Debug, Default)]
pub(super) struct Script {
    plan: Mutex<Plan>,
    bandwidth: Mutex<Option<u64>>,
    /// Held by the transfer that the bandwidth is given to.
    pipe: tokio::sync::Mutex<()>,
}

/// A store that fails to order.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    script: Arc<Script>,
}

impl Faulty {
    /// `inner`, which doesn't fail more than it did before.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let script = Arc::default();
        Self { inner, script }
    }

    /// The next `count` calls of `op` go wrong.
    pub fn next(&self, op: Op, count: u64, fault: Fault) -> &Self {
        self.on(op, "", count, fault)
    }

    /// The next `count` calls of `op` about keys that contain `part` go wrong. Of several orders for a call, the
    /// oldest counts.
    pub fn on(&self, op: Op, part: &str, count: u64, fault: Fault) -> &Self {
        let part = part.to_owned();
        self.script.plan().rules.push(Rule {
            op,
            part,
            left: count,
            fault,
        });
        self
    }

    /// From now on about one in `every` calls fails; which ones is a function of the seed and of the calls before.
    pub fn randomly(&self, seed: u64, every: u64, kind: StoreErrorKind) -> &Self {
        self.script.plan().random = Some((seed, every.max(1), kind));
        self
    }

    /// All transfers together take a second for so many bytes; none: as fast as it goes.
    pub fn bandwidth(&self, bytes_per_second: Option<u64>) -> &Self {
        *self
            .script
            .bandwidth
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = bytes_per_second;
        self
    }

    /// Drops every order that isn't used up.
    pub fn heal(&self) -> &Self {
        let mut plan = self.script.plan();
        plan.rules.clear();
        plan.random = None;
        drop(plan);
        self.bandwidth(None)
    }

    /// How often `op` was called.
    #[must_use]
    pub fn calls(&self, op: Op) -> usize {
        self.script
            .plan()
            .calls
            .iter()
            .filter(|(called, _)| *called == op)
            .count()
    }

    /// Every call, with the key it was about.
    #[must_use]
    pub fn log(&self) -> Vec<(Op, String)> {
        self.script.plan().calls.clone()
    }

    /// Makes a call that moves `bytes` there, with whatever is ordered for it.
    async fn call<T>(
        &self,
        op: Op,
        key: &str,
        bytes: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let fail = |kind: StoreErrorKind| kind.error(self.url_of(key), "a fault was ordered");
        self.script.call(op, key, bytes, work, fail).await
    }

    async fn fetch(&self, op: Op, key: &str, work: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
        let damage = self.script.damage(op, key);
        let bytes = self.call(op, key, 0, work).await?;
        self.script.transfer(bytes.len()).await;
        Ok(damage.map_or(bytes.clone(), |fault| damaged(&bytes, &fault)))
    }
}

/// What a reader gets instead of `bytes`.
pub(super) fn damaged(bytes: &Bytes, fault: &Fault) -> Bytes {
    match fault {
        Fault::Short => bytes.slice(..bytes.len().saturating_sub(1)),
        Fault::Flip(bit) if !bytes.is_empty() => {
            let mut copy = bytes.to_vec();
            let bit = bit % (copy.len() as u64 * 8);
            copy[usize::try_from(bit / 8).unwrap_or(0)] ^= 1 << (bit % 8);
            Bytes::from(copy)
        }
        _ => bytes.clone(),
    }
}

impl Script {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order for a call that changes what it gives, if that is the next one.
    pub(super) fn damage(&self, op: Op, key: &str) -> Option<Fault> {
        self.take(op, key, |fault| matches!(fault, Fault::Short | Fault::Flip(_)))
    }

    fn take(&self, op: Op, key: &str, kind: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut plan = self.plan();
        let meant = |rule: &&mut Rule| rule.op == op && rule.left > 0 && key.contains(&rule.part);
        let rule = plan.rules.iter_mut().find(meant)?;
        if !kind(&rule.fault) {
            return None;
        }
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    fn by_chance(&self, op: Op) -> Option<Fault> {
        let plan = self.plan();
        let (seed, every, kind) = plan.random?;
        let number = plan.calls.iter().filter(|(called, _)| *called == op).count() as u64;
        let hit = mix(seed ^ mix(op as u64) ^ number.wrapping_mul(0x9E37_79B9)).is_multiple_of(every);
        hit.then_some(Fault::Fail(kind))
    }

    pub(super) async fn call<T, E>(
        &self,
        op: Op,
        key: &str,
        bytes: usize,
        work: impl Future<Output = std::result::Result<T, E>>,
        fail: impl Fn(StoreErrorKind) -> E,
    ) -> std::result::Result<T, E> {
        self.plan().calls.push((op, key.to_owned()));
        let fault = self
            .take(op, key, |fault| !matches!(fault, Fault::Short | Fault::Flip(_)))
            .or_else(|| self.by_chance(op));
        match fault {
            Some(Fault::Fail(kind)) => return Err(fail(kind)),
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Lost(kind)) => {
                work.await?;
                return Err(fail(kind));
            }
            _ => {}
        }
        self.transfer(bytes).await;
        work.await
    }

    /// Waits as long as the bandwidth makes `bytes` last.
    pub(super) async fn transfer(&self, bytes: usize) {
        let rate = *self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = rate {
            let _one_at_a_time = self.pipe.lock().await;
            let nanos = (bytes as u128) * 1_000_000_000 / u128::from(rate.max(1));
            tokio::time::sleep(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).await;
        }
    }
}

/// Steele, Lea & Flood 2014 (SplitMix64's output function).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[async_trait::async_trait]
impl Store for Faulty {
    async fn put_new(&self, key: &str, bytes: Bytes) -> Result<()> {
        let work = self.inner.put_new(key, bytes.clone());
        self.call(Op::PutNew, key, bytes.len(), work).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let work = self.inner.put(key, bytes.clone());
        self.call(Op::Put, key, bytes.len(), work).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes> {
        self.fetch(Op::Get, key, self.inner.get(key, max_bytes)).await
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.fetch(Op::Read, key, self.inner.read(key, range)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.call(Op::List, prefix, 0, self.inner.list(prefix)).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        self.call(Op::List, prefix, 0, self.inner.list_dirs(prefix)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.call(Op::Delete, &keys.join(" "), 0, self.inner.delete(keys))
            .await
    }

    async fn delete_dir(&self, prefix: &str) -> Result<u64> {
        self.call(Op::Delete, prefix, 0, self.inner.delete_dir(prefix))
            .await
    }

    async fn sweep_uploads(&self, before_unix_ms: u64) -> Result<Swept> {
        let work = self.inner.sweep_uploads(before_unix_ms);
        self.call(Op::Sweep, "", 0, work).await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    fn objects(&self) -> Option<(Arc<dyn ObjectStore>, ObjectPath)> {
        let (inner, prefix) = self.inner.objects()?;
        let script = Arc::clone(&self.script);
        Some((Arc::new(FaultyObjects { inner, script }), prefix))
    }
}

/// The error that `object_store` would give, such that `StoreError::of_objects` finds `kind` in it.
pub(super) fn object_error(kind: StoreErrorKind, path: &str) -> object_store::Error {
    let path = path.to_owned();
    let source = |text: &str| Box::from(format!("a fault was ordered: {text}"));
    match kind {
        StoreErrorKind::NotFound => object_store::Error::NotFound {
            path,
            source: source(""),
        },
        StoreErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
            path,
            source: source(""),
        },
        StoreErrorKind::Denied => object_store::Error::PermissionDenied {
            path,
            source: source(""),
        },
        StoreErrorKind::NoSpace => generic(source("status code: 507")),
        StoreErrorKind::Unavailable => generic(source("status code: 503")),
        StoreErrorKind::Invalid => generic(source("no sense")),
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic {
        store: "Faulty",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, StoreError, open};

    fn faulty(name: &str) -> Faulty {
        Faulty::new(open(&Location::parse(&format!("memory://faulty-{name}")).unwrap()).unwrap())
    }

    #[tokio::test]
    async fn orders_are_followed_once_and_for_the_keys_meant() {
        let store = faulty("orders");
        store.put("a", Bytes::from_static(b"abc")).await.unwrap();
        store.put("b", Bytes::from_static(b"abc")).await.unwrap();
        store
            .on(Op::Get, "a", 1, Fault::Flip(1))
            .next(Op::Put, 1, Fault::Fail(StoreErrorKind::NoSpace));
        assert_eq!(store.get("b", 9).await.unwrap().as_ref(), b"abc");
        assert_eq!(store.get("a", 9).await.unwrap().as_ref(), b"cbc");
        assert_eq!(store.get("a", 9).await.unwrap().as_ref(), b"abc");
        assert_eq!(
            store.put("b", Bytes::new()).await.unwrap_err().kind(),
            StoreErrorKind::NoSpace
        );
        assert_eq!(store.get("b", 9).await.unwrap().as_ref(), b"abc");
        store.next(Op::PutNew, 1, Fault::Lost(StoreErrorKind::Unavailable));
        assert!(store.put_new("c", Bytes::new()).await.unwrap_err().is_transient());
        assert!(store.get("c", 9).await.is_ok());
        store.next(Op::Read, 1, Fault::Short);
        assert_eq!(store.read("a", 0..2).await.unwrap().as_ref(), b"a");
        assert_eq!((store.calls(Op::Put), store.calls(Op::Get)), (3, 5));
    }

    #[tokio::test]
    async fn chance_is_a_function_of_the_seed() {
        let mut seen = Vec::new();
        for seed in [1, 1, 2] {
            let store = faulty("chance");
            store.put("k", Bytes::new()).await.unwrap();
            store.randomly(seed, 4, StoreErrorKind::Unavailable);
            let mut failed = Vec::new();
            for _ in 0..64 {
                failed.push(store.get("k", 9).await.is_err());
            }
            let count = failed.iter().filter(|failed| **failed).count();
            assert!((4..=32).contains(&count), "{count}");
            seen.push(failed);
        }
        assert_eq!(seen[0], seen[1]);
        assert_ne!(seen[0], seen[2]);
    }

    #[tokio::test]
    async fn transfers_share_the_bandwidth() {
        let store = faulty("bandwidth");
        store.put("k", Bytes::from(vec![1; 2000])).await.unwrap();
        store.bandwidth(Some(100_000));
        let start = std::time::Instant::now();
        let (one, other) = tokio::join!(store.put("a", Bytes::from(vec![1; 2000])), store.get("k", 2000));
        assert!(one.is_ok() && other.is_ok());
        // It may take longer, on a busy machine, but not less.
        assert!(start.elapsed() >= std::time::Duration::from_millis(39));
    }

    #[tokio::test]
    async fn errors_of_every_kind_pass_through_object_store() {
        for kind in [
            StoreErrorKind::NotFound,
            StoreErrorKind::AlreadyExists,
            StoreErrorKind::NoSpace,
            StoreErrorKind::Unavailable,
            StoreErrorKind::Denied,
            StoreErrorKind::Invalid,
        ] {
            assert_eq!(StoreError::of_objects("x", &object_error(kind, "x")).kind(), kind);
        }
    }
}
