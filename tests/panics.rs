//! What could end the process, where a peer's input is handled: each assertion, `expect`, index,
//! slice and division has a row in `panics.tsv` that says why it holds. The rows of a file name
//! expressions, not lines, so that they move with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// file, expression, why it holds.
const TABLE: &str = include_str!("panics.tsv");

/// Where input is handled: files, and directories with all that is below them.
const ROOMS: [&str; 13] = [
    "src/access",
    "src/cluster",
    "src/packet",
    "src/session",
    "src/shard",
    "src/topic",
    "src/transport",
    "src/mesh",
    "src/overload",
    "src/arena.rs",
    "src/message.rs",
    "src/time.rs",
    "src/slab.rs",
];

/// Calls that panic when they are given what they do not expect.
const CALLS: [&str; 19] = [
    "unreachable!(",
    "panic!(",
    "todo!(",
    "assert!(",
    "assert_eq!(",
    "assert_ne!(",
    ".expect(",
    ".expect_err(",
    ".split_at(",
    ".split_at_mut(",
    ".copy_from_slice(",
    ".copy_within(",
    ".swap_remove(",
    ".split_off(",
    ".splice(",
    ".swap(",
    ".drain(",
    ".remove(at)",
    ".rotate_right(",
];

fn sources(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let mut inside: Vec<_> = fs::read_dir(path)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
            .collect();
        inside.sort();
        inside.iter().for_each(|path| sources(path, files));
    } else if !path.to_string_lossy().contains("test") {
        files.push(path.to_owned());
    }
}

/// The statements of a file without its inline tests, comments and constant assertions.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().map(str::trim).filter(|line| {
        !line.starts_with("//") && !line.starts_with("#[") && !line.starts_with("const _: () = ")
    })
}

/// From an opening bracket to the one that closes it, or to the end of the line.
fn bracketed(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at + c.len_utf8()];
        }
    }
    text
}

/// What is indexed: names, dots, calls and indices before the bracket at `at`.
fn receiver(line: &str, at: usize) -> usize {
    let (mut start, mut depth) = (at, 0);
    for (before, c) in line[..at].char_indices().rev() {
        match c {
            ')' | ']' => depth += 1,
            '(' | '[' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            c if c.is_alphanumeric() || matches!(c, '_' | '.' | '?') => {}
            _ => break,
        }
        start = before;
    }
    start
}

/// What may panic in one statement.
fn perilous(line: &str) -> Vec<String> {
    let code = line.split(" // ").next().expect("split yields one part at least");
    let mut found = Vec::new();
    for (at, _) in code.match_indices('[') {
        let indexes = code[..at].ends_with(|c: char| c.is_alphanumeric() || "_)]?".contains(c));
        let index = bracketed(&code[at..]);
        if indexes && index != "[..]" {
            found.push(code[receiver(code, at)..at + index.len()].to_owned());
        }
    }
    for call in CALLS {
        for (at, _) in code.match_indices(call) {
            let debug = code[..at].ends_with("debug_");
            let other = call == "assert!(" && code[..at].ends_with(|c: char| c.is_alphanumeric());
            let whole = call == ".drain(" && code[at..].starts_with(".drain(..)");
            if debug || other || whole {
                continue;
            }
            let open = at + call.find('(').expect("each is a call");
            found.push(code[at..open + bracketed(&code[open..]).len()].to_owned());
        }
    }
    for operator in [" % ", " / "] {
        for (at, _) in code.match_indices(operator) {
            let divisor = &code[at + operator.len()..];
            if divisor.starts_with(|c: char| c.is_ascii_lowercase() || c == '(') {
                let end = divisor
                    .find(|c: char| !(c.is_alphanumeric() || "_.:()".contains(c)))
                    .unwrap_or(divisor.len());
                let surplus = |c: char| divisor[..end].matches(c).count();
                let end = end - surplus(')').saturating_sub(surplus('('));
                found.push(format!("{}{}", operator.trim_start(), &divisor[..end]));
            }
        }
    }
    found
}

#[test]
fn what_may_panic_where_input_is_handled_says_why_it_does_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ROOMS.iter().for_each(|room| sources(&root.join(room), &mut files));
    let mut found = BTreeSet::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a source file is UTF-8");
        let name = file.strip_prefix(root).expect("below the root").display().to_string();
        let all = statements(&text).flat_map(perilous);
        found.extend(all.map(|what| (name.clone(), what)));
    }
    assert!(found.len() > 50, "{} were found: the search does not work", found.len());
    let rows: BTreeMap<(String, String), &str> = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            let [file, what, why] = cells[..] else { panic!("three cells: {line}") };
            ((file.to_owned(), what.to_owned()), why)
        })
        .collect();
    let row = |(file, what): &(String, String)| format!("{file}\t{what}\t");
    let missing: Vec<_> = found.iter().filter(|at| !rows.contains_key(at)).map(row).collect();
    assert!(
        missing.is_empty(),
        "Rewrite these so that nothing can panic, or say in tests/panics.tsv why each holds:\n{}\n",
        missing.join("\n")
    );
    let stale: Vec<_> = rows.keys().filter(|at| !found.contains(at)).map(row).collect();
    assert!(stale.is_empty(), "Take these out of tests/panics.tsv:\n{}\n", stale.join("\n"));
    let silent: Vec<_> =
        rows.iter().filter(|(_, why)| why.len() < 10).map(|(at, _)| row(at)).collect();
    assert!(silent.is_empty(), "Say why these hold:\n{}\n", silent.join("\n"));
}

#[test]
fn what_may_panic_is_found() {
    for (line, expected) in [
        ("let rest = &bytes[used..];", &["bytes[used..]"][..]),
        ("self.slots[level * SLOTS + slot].push(entry);", &["self.slots[level * SLOTS + slot]"]),
        ("let x: [u8; 4] = [0; 4]; let all = &v[..];", &[]),
        ("ends[source].to[target] = 1;", &["ends[source]", "ends[source].to[target]"]),
        ("debug_assert!(x); assert!(y, \"why\");", &["assert!(y, \"why\")"]),
        (".expect(\"1 to 65,535\")", &[".expect(\"1 to 65,535\")"]),
        ("let at = hash % count + 1;", &["% count"]),
        ("vec![0; 3]; a / 4", &[]),
    ] {
        assert_eq!(perilous(line), expected, "{line}");
    }
}
