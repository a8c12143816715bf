//! The list of normative statements: none of the specifications' is missing, every test it names
//! exists, and its gaps only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many statements no test covers. Lower it when a gap is closed; never raise it.
const GAPS: usize = 0;

/// Statements that bind clients alone. What a server does when a client breaks one is tested all
/// the same, but is not what the statement says.
const CLIENTS: [(&str, usize); 2] = [("3.1.1", 13), ("5.0", 24)];

/// Sections with normative statements, with the first and last number of each: Appendix B.
type Sections = &'static [(&'static str, u8, u8)];

#[rustfmt::skip]
const SECTIONS_3: Sections = &[
    ("1.5.3", 1, 3), ("2.2.2", 1, 2), ("2.3.1", 1, 7), ("3.1.0", 1, 2), ("3.1.2", 1, 24),
    ("3.1.3", 1, 11), ("3.1.4", 1, 5), ("3.2.0", 1, 1), ("3.2.2", 1, 6), ("3.3.1", 1, 12),
    ("3.3.2", 1, 3), ("3.3.4", 1, 1), ("3.3.5", 1, 2), ("3.6.1", 1, 1), ("3.8.1", 1, 1),
    ("3.8.3", 1, 4), ("3.8.4", 1, 6), ("3.9.3", 1, 2), ("3.10.1", 1, 1), ("3.10.3", 1, 2),
    ("3.10.4", 1, 6), ("3.12.4", 1, 1), ("3.14.1", 1, 1), ("3.14.4", 1, 3), ("4.1.0", 1, 2),
    ("4.3.1", 1, 1), ("4.3.2", 1, 2), ("4.3.3", 1, 2), ("4.4.0", 1, 1), ("4.5.0", 1, 2),
    ("4.6.0", 1, 6), ("4.7.1", 1, 3), ("4.7.2", 1, 1), ("4.7.3", 1, 4), ("4.8.0", 1, 2),
    ("6.0.0", 1, 4), ("7.0.0", 1, 2), ("7.1.1", 1, 1), ("7.1.2", 1, 1),
];

#[rustfmt::skip]
const SECTIONS_5: Sections = &[
    ("1.5.4", 1, 3), ("1.5.5", 1, 1), ("1.5.7", 1, 1), ("2.1.3", 1, 1), ("2.2.1", 2, 6),
    ("2.2.2", 1, 1), ("3.1.0", 1, 2), ("3.1.2", 1, 30), ("3.1.3", 1, 12), ("3.1.4", 1, 6),
    ("3.2.0", 1, 2), ("3.2.2", 1, 22), ("3.3.1", 1, 13), ("3.3.2", 1, 20), ("3.3.4", 1, 10),
    ("3.4.2", 1, 3), ("3.5.2", 1, 3), ("3.6.1", 1, 1), ("3.6.2", 1, 3), ("3.7.2", 1, 3),
    ("3.8.1", 1, 1), ("3.8.3", 1, 5), ("3.8.4", 1, 8), ("3.9.2", 1, 2), ("3.9.3", 1, 2),
    ("3.10.1", 1, 1), ("3.10.3", 1, 2), ("3.10.4", 1, 6), ("3.11.2", 1, 2), ("3.11.3", 1, 2),
    ("3.12.4", 1, 1), ("3.14.0", 1, 1), ("3.14.1", 1, 1), ("3.14.2", 1, 4), ("3.14.4", 1, 3),
    ("3.15.1", 1, 1), ("3.15.2", 1, 3), ("4.1.0", 1, 2), ("4.2.0", 1, 1), ("4.3.1", 1, 1),
    ("4.3.2", 1, 5), ("4.3.3", 1, 13), ("4.4.0", 1, 2), ("4.5.0", 1, 2), ("4.6.0", 1, 6),
    ("4.7.0", 1, 1), ("4.7.1", 1, 2), ("4.7.2", 1, 1), ("4.7.3", 1, 4), ("4.8.2", 1, 6),
    ("4.9.0", 1, 3), ("4.12.0", 1, 7), ("4.12.1", 1, 2), ("4.13.1", 1, 1), ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

/// The tests of this directory as `module::name`, those of the simulation with its name before.
fn sources() -> BTreeSet<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut names = BTreeSet::new();
    for (directory, prefix) in [("conformance", ""), ("simulation", "simulation::")] {
        for entry in fs::read_dir(tests.join(directory)).expect("the tests can be listed") {
            let path = entry.expect("the tests can be listed").path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let module = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("it can be read");
            // Only what is marked as a test counts, not a helper of the same name.
            for part in text.split("#[test]\nfn ").skip(1) {
                let name = part.split('(').next().expect("a function has parentheses");
                names.insert(format!("{prefix}{module}::{name}"));
            }
        }
    }
    names
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
        .filter(|(.., names)| !["gap", "client"].contains(names))
        .flat_map(|(.., names)| names.split(' '))
        .filter(|name| !tests.contains(*name))
        .collect();
    assert!(missing.is_empty(), "statements.tsv names tests that do not exist: {missing:#?}");
}

#[test]
fn every_statement_of_the_specifications_is_listed_once_in_its_order() {
    let mut expected = Vec::new();
    for (specification, sections) in [("3.1.1", SECTIONS_3), ("5.0", SECTIONS_5)] {
        for (section, first, last) in sections {
            for number in *first..=*last {
                expected.push((specification, format!("MQTT-{section}-{number}")));
            }
        }
    }
    assert_eq!(expected.len(), 141 + 251);
    let listed: Vec<_> = statements()
        .into_iter()
        .map(|(specification, statement, _)| (specification, statement.to_string()))
        .collect();
    for (listed, expected) in listed.iter().zip(&expected) {
        assert_eq!(listed, expected, "listed, and expected in its place");
    }
    assert_eq!(listed.len(), expected.len());
}

#[test]
fn gaps_only_shrink() {
    let gaps: Vec<_> = statements().into_iter().filter(|(.., tests)| *tests == "gap").collect();
    assert_eq!(gaps.len(), GAPS, "gaps: {gaps:#?}");
}

#[test]
fn no_more_is_left_to_clients_than_binds_them_alone() {
    for (specification, count) in CLIENTS {
        let all = statements();
        let theirs: Vec<_> = all
            .iter()
            .filter(|(of, _, tests)| *of == specification && *tests == "client")
            .collect();
        assert_eq!(theirs.len(), count, "{theirs:#?}");
    }
}
