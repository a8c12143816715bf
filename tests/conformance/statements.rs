//! The list of normative statements: every test it names exists, and its gaps only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many statements no test covers. Lower it when a gap is closed; never raise it.
const GAPS: usize = 31;

fn sources() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut tests = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("the tests can be listed") {
        let path = entry.expect("the tests can be listed").path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let module = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("it can be read");
        // Only what is marked as a test counts, not a helper of the same name.
        for part in text.split("#[test]\nfn ").skip(1) {
            let name = part.split('(').next().expect("a function has parentheses");
            tests.insert(format!("{module}::{name}"));
        }
    }
    tests
}

/// Specification, statement and tests of each line.
fn statements() -> Vec<(&'static str, &'static str, &'static str)> {
    let lines = include_str!("statements.tsv").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [specification, statement, tests] = fields[..] else {
                panic!("not three fields: {line}")
            };
            (specification, statement, tests)
        })
        .collect()
}

#[test]
fn every_named_test_exists() {
    let tests = sources();
    assert!(tests.len() > 100, "the tests were not found");
    let missing: Vec<_> = statements()
        .iter()
        .flat_map(|(.., names)| names.split(' '))
        .filter(|name| *name != "gap" && !tests.contains(*name))
        .collect();
    assert!(missing.is_empty(), "statements.tsv names tests that do not exist: {missing:#?}");
}

#[test]
fn every_statement_is_listed_once() {
    let mut seen = BTreeSet::new();
    for (specification, statement, tests) in statements() {
        assert!(["3.1.1", "5.0"].contains(&specification), "{specification}");
        assert!(statement.starts_with("MQTT-"), "{statement}");
        assert!(!tests.is_empty(), "{statement}: a test or `gap`");
        assert!(seen.insert((specification, statement)), "{statement} is there twice");
    }
    let count =
        |version| seen.iter().filter(|(specification, _)| *specification == version).count();
    assert!(count("3.1.1") >= 110 && count("5.0") >= 200, "statements were lost");
}

#[test]
fn gaps_only_shrink() {
    let gaps: Vec<_> = statements().into_iter().filter(|(.., tests)| *tests == "gap").collect();
    assert_eq!(gaps.len(), GAPS, "gaps: {gaps:#?}");
}
