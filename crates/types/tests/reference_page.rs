//! `docs/job-file.md` lists every key of the job file, in order, with the default that the code has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on panics")]

mod common;

use common::{JOB, spec, with};
use rekindle_types::JobFile;
use rekindle_types::spec::keys::{KEYS, sections};

const PAGE: &str = include_str!("../../../docs/job-file.md");

struct Row {
    section: String,
    key: String,
    default: String,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut section = String::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("## [") {
            section = heading.trim_end_matches(']').to_owned();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", key, default, what, ""] = cells[..]
            && let Some(key) = key.strip_prefix('`').and_then(|k| k.strip_suffix('`'))
        {
            assert!(!what.is_empty(), "{section}.{key} is not described");
            rows.push(Row {
                section: section.clone(),
                key: key.to_owned(),
                default: default.to_owned(),
            });
        }
    }
    rows
}

/// The TOML value of a default that is written wholly as code.
fn literal(default: &str) -> Option<toml::Value> {
    let code = default.strip_prefix('`')?.strip_suffix('`')?;
    let table: toml::Table = toml::from_str(&format!("x = {code}")).ok()?;
    table.get("x").cloned()
}

#[test]
fn the_page_lists_every_key_in_order() {
    let page: Vec<_> = rows().into_iter().map(|r| (r.section, r.key)).collect();
    let code: Vec<_> = KEYS
        .iter()
        .map(|(s, k, _)| ((*s).to_owned(), (*k).to_owned()))
        .collect();
    assert_eq!(page, code);
    for section in sections() {
        assert!(
            PAGE.contains(&format!("## [{section}]")),
            "{section} has no heading"
        );
    }
}

#[test]
fn defaults_on_the_page_are_those_of_the_code() {
    let spec = serde_json::to_value(spec(JOB).unwrap()).unwrap();
    let mut compared = 0;
    for row in rows() {
        let Some(documented) = literal(&row.default) else {
            continue;
        };
        let documented = serde_json::to_value(documented).unwrap();
        let section = row.section.split('.').fold(&spec, |outer, inner| &outer[inner]);
        let actual = &section[&row.key];
        assert_eq!(*actual, documented, "{}.{}", row.section, row.key);
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} defaults were understood");
}

#[test]
fn required_keys_are_required_and_others_are_not() {
    for row in rows() {
        let error = spec(&with(&row.section, &row.key, "")).err();
        match (&error, row.default.as_str()) {
            (Some(error), "required") => assert!(error.to_string().contains(&row.key), "{error}"),
            (None, "required") => panic!("{}.{} is not required", row.section, row.key),
            (Some(error), _) => panic!("{}.{} is required: {error}", row.section, row.key),
            (None, _) => {}
        }
    }
}

#[test]
fn the_page_names_every_choice() {
    for choice in [
        "auto",
        "text",
        "jsonl",
        "parquet",
        "tokens-u16",
        "tokens-u32",
        "exact",
        "fast",
        "block",
        "constant",
        "cosine",
        "wsd",
    ] {
        assert!(PAGE.contains(&format!("`{choice}`")), "{choice}");
    }
}

#[test]
fn the_example_is_a_valid_job() {
    let example = PAGE
        .split("```toml")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let spec = JobFile::parse(example).unwrap().into_spec(None).unwrap();
    assert_eq!(spec.job.name, "tiny-books");
}
