//! `docs/error-codes.md` lists exactly the reasons and classes there are; every message, field and value of `proto/`
//! is explained.

use std::path::PathBuf;

use rekindle_proto::Reason;
use rekindle_types::FailureClass;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first two cells of each row of the tables.
fn rows(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let mut cells = line
            .strip_prefix("| ")?
            .split('|')
            .map(|cell| cell.trim().to_owned());
        Some((cells.next()?, cells.next()?))
    };
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    text.lines()
        .filter_map(row)
        .filter(|(name, _)| is_name(name))
        .collect()
}

#[test]
fn error_codes_are_those_of_the_code() {
    let text = std::fs::read_to_string(root().join("docs/error-codes.md")).unwrap();
    let (reasons, classes) = text.split_once("## Classes").unwrap();
    let upper = |code: tonic::Code| {
        let mut name = String::new();
        for c in format!("{code:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        name
    };
    let code = |r: &Reason| (r.to_string(), upper(r.code()));
    assert_eq!(rows(reasons), Reason::ALL.iter().map(code).collect::<Vec<_>>());
    let classes: Vec<_> = rows(classes).into_iter().map(|(name, _)| name).collect();
    let all: Vec<_> = FailureClass::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(classes, all);
}

#[test]
fn everything_in_the_proto_files_has_a_comment() {
    let mut files = 0;
    for folder in ["rekindle/v1", "rekindle/worker/v1", "rekindle/admin/v1"] {
        for entry in std::fs::read_dir(root().join("proto").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            files += 1;
            let mut before = "";
            for line in text.lines().map(str::trim) {
                let declares = ["message ", "enum ", "service ", "rpc ", "oneof "];
                let is_field = line.ends_with(';') && line.contains(" = ");
                let needs = declares.iter().any(|word| line.starts_with(word)) || is_field;
                let is_syntax = line.starts_with("syntax");
                assert!(
                    !needs || is_syntax || before.starts_with("//"),
                    "{}: {line}",
                    path.display()
                );
                before = line;
            }
        }
    }
    assert_eq!(files, 6);
}
