//! What every [`Store`] must do, as a suite an implementation's tests run.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::ObjectStoreExt;

use super::{Store, StoreErrorKind};

type Outcome = Result<(), String>;

/// Writers that race for one key.
const RACERS: usize = 16;
/// Races.
const RACES: usize = 20;
/// A part of a multipart upload: the least that S3 takes.
const PART: usize = 5 << 20;

fn must(good: bool, rule: &str) -> Outcome {
    if good { Ok(()) } else { Err(rule.to_owned()) }
}

fn told(error: impl ToString) -> String {
    error.to_string()
}

/// Whether a result is an error of this kind.
fn is<T>(result: &super::Result<T>, kind: StoreErrorKind) -> bool {
    result.as_ref().err().is_some_and(|error| error.kind() == kind)
}

/// Runs the suite on an empty store.
///
/// # Errors
/// The first rule that was broken, or what the store said.
pub async fn check(store: &Arc<dyn Store>) -> Outcome {
    empty(store).await?;
    conditions(store).await?;
    races(store).await?;
    reads(store).await?;
    listings(store).await?;
    names(store).await?;
    uploads(store).await?;
    deletions(store).await
}

async fn empty(store: &Arc<dyn Store>) -> Outcome {
    must(
        store.list("").await.map_err(told)?.is_empty(),
        "a new store is empty",
    )?;
    must(
        store.list_dirs("none").await.map_err(told)?.is_empty(),
        "a folder that isn't there is empty",
    )?;
    must(
        is(&store.get("none", 9).await, StoreErrorKind::NotFound),
        "a missing file isn't got",
    )?;
    must(
        is(&store.read("none", 0..1).await, StoreErrorKind::NotFound),
        "a missing file isn't read",
    )?;
    let error = store.get("some/none", 9).await.err().map_or(String::new(), told);
    must(
        error.contains(&store.url_of("some/none")),
        "an error names the file's URL",
    )
}

async fn conditions(store: &Arc<dyn Store>) -> Outcome {
    let put_new = |text: &'static str| store.put_new("a/manifest.json", Bytes::from_static(text.as_bytes()));
    put_new("one").await.map_err(told)?;
    let again = put_new("two").await;
    must(
        is(&again, StoreErrorKind::AlreadyExists),
        "CK-7: a file that is there isn't written by put_new",
    )?;
    must(
        store.get("a/manifest.json", 9).await.map_err(told)? == "one",
        "the first content stays",
    )?;
    store
        .put("a/manifest.json", Bytes::from_static(b"three"))
        .await
        .map_err(told)?;
    must(
        store.get("a/manifest.json", 9).await.map_err(told)? == "three",
        "put replaces",
    )?;
    must(
        is(&put_new("four").await, StoreErrorKind::AlreadyExists),
        "CK-7: after put, too",
    )?;
    store
        .delete(&["a/manifest.json".to_owned()])
        .await
        .map_err(told)?;
    put_new("five").await.map_err(told)
}

/// CK-7: the winner's content is what is there; the losers' is nowhere.
async fn races(store: &Arc<dyn Store>) -> Outcome {
    for race in 0..RACES {
        let key = format!("races/{race}");
        let runs = (0..RACERS).map(|number| {
            let (store, key) = (Arc::clone(store), key.clone());
            tokio::spawn(async move { store.put_new(&key, Bytes::from(vec![number as u8; 1000])).await })
        });
        let mut winners = Vec::new();
        for (number, run) in join_all(runs).await.into_iter().enumerate() {
            let result = run.map_err(told)?;
            let lost = is(&result, StoreErrorKind::AlreadyExists);
            match result {
                Ok(()) => winners.push(number),
                Err(error) => must(lost, &format!("CK-7: a loser is told AlreadyExists, not {error}"))?,
            }
        }
        must(
            winners.len() == 1,
            &format!("CK-7: {} of {RACERS} racing writers won", winners.len()),
        )?;
        let content = store.get(&key, 1000).await.map_err(told)?;
        must(
            content == vec![winners[0] as u8; 1000],
            "CK-7: the winner's content is there",
        )?;
    }
    Ok(())
}

async fn reads(store: &Arc<dyn Store>) -> Outcome {
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    store
        .put("reads/file", Bytes::from(bytes.clone()))
        .await
        .map_err(told)?;
    store.put("reads/empty", Bytes::new()).await.map_err(told)?;
    for range in [
        0..100_000,
        0..1,
        99_999..100_000,
        4096..8192,
        7..7,
        100_000..100_000,
    ] {
        let found = store.read("reads/file", range.clone()).await.map_err(told)?;
        let wanted = &bytes[range.start as usize..range.end as usize];
        must(found == wanted, &format!("bytes {range:?} are the ones written"))?;
    }
    for range in [0..100_001, 99_999..100_001, 100_000..100_001, 200_000..200_010] {
        let short = store.read("reads/file", range.clone()).await;
        must(
            is(&short, StoreErrorKind::Invalid),
            &format!("{range:?} of 100000 bytes is refused: {short:?}"),
        )?;
    }
    must(
        store.get("reads/empty", 0).await.map_err(told)?.is_empty(),
        "an empty file is read",
    )?;
    must(
        is(&store.get("reads/file", 99_999).await, StoreErrorKind::Invalid),
        "a file over the limit isn't got",
    )?;
    must(
        store.get("reads/file", 100_000).await.map_err(told)? == bytes,
        "a file of the limit is got",
    )
}

async fn listings(store: &Arc<dyn Store>) -> Outcome {
    let keys = ["lists/b/x", "lists/a", "lists/b/c/y", "lists/bb", "lists-not"];
    for (number, key) in keys.iter().enumerate() {
        store
            .put(key, Bytes::from(vec![0; number + 1]))
            .await
            .map_err(told)?;
    }
    let entries = store.list("lists").await.map_err(told)?;
    let found: Vec<(&str, u64)> = entries.iter().map(|e| (e.key.as_str(), e.bytes)).collect();
    let wanted = [
        ("lists/a", 2),
        ("lists/b/c/y", 3),
        ("lists/b/x", 1),
        ("lists/bb", 4),
    ];
    must(
        found == wanted,
        &format!("a listing has keys and lengths in order: {found:?}"),
    )?;
    // 2020-01-01: seconds taken for milliseconds would be long before.
    must(
        entries.iter().all(|e| e.modified_unix_ms > 1_577_836_800_000),
        "times are in milliseconds",
    )?;
    let inside = store.list("lists/b").await.map_err(told)?;
    must(
        inside.len() == 2,
        "a folder isn't taken for another with a longer name",
    )?;
    let dirs = store.list_dirs("lists").await.map_err(told)?;
    must(
        dirs == ["b"],
        &format!("folders right inside are named: {dirs:?}"),
    )?;
    let top: BTreeSet<String> = store.list_dirs("").await.map_err(told)?.into_iter().collect();
    must(
        ["a", "races", "reads", "lists"].iter().all(|d| top.contains(*d)),
        "folders at the top are named",
    )
}

async fn names(store: &Arc<dyn Store>) -> Outcome {
    let part = "n".repeat(200);
    let long = format!("names/{part}/{part}/{part}/file.safetensors");
    store
        .put_new(&long, Bytes::from_static(b"x"))
        .await
        .map_err(told)?;
    must(
        store.get(&long, 1).await.map_err(told)? == "x",
        "long names are fine",
    )?;
    must(
        store.list("names").await.map_err(told)?[0].key == long,
        "long names are listed",
    )?;
    for bad in [
        "",
        "..",
        "../x",
        "a/../../x",
        "/x",
        "a//b",
        ".x",
        "a/.rekindle-1",
        "a\\b",
        "a\0b",
    ] {
        let results = [
            store.put_new(bad, Bytes::new()).await,
            store.put(bad, Bytes::new()).await,
            store.get(bad, 9).await.map(|_| ()),
            store.read(bad, 0..1).await.map(|_| ()),
            store.delete(&[bad.to_owned()]).await,
            store.delete_dir(bad).await.map(|_| ()),
        ];
        let refused = results.iter().all(|result| is(result, StoreErrorKind::Invalid));
        must(refused, &format!("CK-8: the key {bad:?} is refused: {results:?}"))?;
    }
    Ok(())
}

/// Where there is an object store behind, large files go there in parts.
async fn uploads(store: &Arc<dyn Store>) -> Outcome {
    let Some((objects, prefix)) = store.objects() else {
        return must(
            store.local_path("x").is_some(),
            "a store is a folder or an object store",
        );
    };
    let path = |key: &str| prefix.clone().join("uploads").join(key);
    let mut upload = objects.put_multipart(&path("whole")).await.map_err(told)?;
    // Started in order, finished in any.
    let parts =
        [(PART, 1_u8), (PART, 2), (17, 3)].map(|(bytes, fill)| upload.put_part(vec![fill; bytes].into()));
    for part in join_all(parts).await {
        part.map_err(told)?;
    }
    must(
        is(&store.get("uploads/whole", 9).await, StoreErrorKind::NotFound),
        "an upload isn't seen before its end",
    )?;
    upload.complete().await.map_err(told)?;
    let around = store
        .read("uploads/whole", PART as u64 - 1..PART as u64 + 1)
        .await
        .map_err(told)?;
    must(
        around.as_ref() == [1, 2],
        "parts are in the order in which they were started",
    )?;
    let end = store
        .read("uploads/whole", 2 * PART as u64..2 * PART as u64 + 17)
        .await
        .map_err(told)?;
    must(end.as_ref() == [3; 17], "the last part may be small")?;
    let mut upload = objects.put_multipart(&path("given-up")).await.map_err(told)?;
    upload.put_part(vec![1; PART].into()).await.map_err(told)?;
    upload.abort().await.map_err(told)?;
    let keys: Vec<String> = store
        .list("uploads")
        .await
        .map_err(told)?
        .into_iter()
        .map(|e| e.key)
        .collect();
    must(
        keys == ["uploads/whole"],
        &format!("an upload that was given up leaves nothing: {keys:?}"),
    )
}

async fn deletions(store: &Arc<dyn Store>) -> Outcome {
    let keys: Vec<String> = (0..50).map(|n| format!("gone/{}/{n}", n % 3)).collect();
    for key in &keys {
        store.put(key, Bytes::from_static(b"x")).await.map_err(told)?;
    }
    store.put("gone-not", Bytes::new()).await.map_err(told)?;
    let mut some = keys[..10].to_vec();
    some.push("gone/never-there".to_owned());
    store.delete(&some).await.map_err(told)?;
    store.delete(&some).await.map_err(told)?;
    must(
        store.list("gone").await.map_err(told)?.len() == 40,
        "what was named is deleted, missing or not",
    )?;
    must(
        store.delete_dir("gone").await.map_err(told)? == 40,
        "a folder is deleted, and its files counted",
    )?;
    must(
        store.list("gone").await.map_err(told)?.is_empty(),
        "a deleted folder is empty",
    )?;
    must(
        !store
            .list_dirs("")
            .await
            .map_err(told)?
            .contains(&"gone".to_owned()),
        "a deleted folder is gone",
    )?;
    must(
        store.delete_dir("gone").await.map_err(told)? == 0,
        "a folder that isn't there can be deleted",
    )?;
    must(
        store.get("gone-not", 9).await.is_ok(),
        "a longer name is another file",
    )?;
    let swept = store.sweep_uploads(0).await.map_err(told)?;
    must(swept.removed == 0, "nothing is older than 1970")
}
