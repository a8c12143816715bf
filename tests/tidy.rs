//! The rules of the source tree that no compiler lint checks. Each says what to do instead.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

const LINES: usize = 600;
const FUNCTION: usize = 70;
const COLUMNS: usize = 100;

/// Names that say nothing: a module is named after what it owns.
const FORBIDDEN: [&str; 7] = ["common", "utils", "util", "types", "manager", "handler", "helpers"];

/// Where `unsafe` may be written: the io_uring driver, the tables that readers keep alive, a
/// call to the allocator, and the load generator's sockets and clocks.
const UNSAFE: [&str; 4] = ["src/ring/", "src/mesh/map.rs", "src/broker/memory.rs", "bench/"];

/// Where something is reference-counted across threads: rooms and files. What may be written
/// through such a handle is judged by clippy (.clippy.toml); a message, a setting or a table is
/// only read.
const ARCS: [&str; 30] = [
    "bench/",
    "src/access/",
    "src/admin/",
    "src/bridge/",
    "src/broker/",
    "src/client_tls.rs",
    "src/cluster/",
    "src/config/",
    "src/contained.rs",
    "src/mesh/",
    "src/message.rs",
    "src/overload/",
    "src/ring/idle.rs",
    "src/ring/port.rs",
    "src/session/share.rs",
    "src/shard/admission.rs",
    "src/shard/answered.rs",
    "src/shard/asking.rs",
    "src/shard/client_limits.rs",
    "src/shard/connect.rs",
    "src/shard/entrance.rs",
    "src/shard/exchange.rs",
    "src/shard/handshakes.rs",
    "src/shard/layered.rs",
    "src/shard/mod.rs",
    "src/shard/reauthenticate.rs",
    "src/shard/retain.rs",
    "src/shard/settings.rs",
    "src/shard/topology.rs",
    "src/transport/",
];

/// One source file: its path from the root, its text, and its text without inline tests.
struct Source {
    path: String,
    text: String,
    test: bool,
}

impl Source {
    fn name(&self) -> &str {
        let file = self.path.rsplit('/').next().expect("a path has a last part");
        file.strip_suffix(".rs").expect("only .rs files are read")
    }

    /// True for files that only exist for tests: `tests.rs`, `…_tests.rs`, `testing.rs`, and
    /// anything in `tests/`.
    fn is_test(path: &str) -> bool {
        ["/tests.rs", "_tests.rs", "/testing.rs"].iter().any(|end| path.ends_with(end))
            || path.contains("tests/")
    }

    /// The lines before an inline test module, numbered from one.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let inline = self.text.match_indices("#[cfg(test)]\nmod ").find(|(at, text)| {
            let rest = &self.text[at + text.len()..];
            rest.lines().next().is_some_and(|line| line.ends_with('{'))
        });
        let end = inline.map_or(self.text.len(), |(at, _)| at);
        self.text[..end].lines().enumerate().map(|(n, line)| (n + 1, line))
    }

    /// The same without comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn collect(root: &Path, directory: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() && !path.ends_with("target") {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file is UTF-8");
            let path = path.strip_prefix(root).expect("it is below the root").display().to_string();
            sources.push(Source { test: Source::is_test(&path), path, text });
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for directory in ["src", "tests", "bench", "fuzz", "benches"] {
        collect(root, &root.join(directory), &mut sources);
    }
    assert!(sources.len() > 10, "the sources were not found");
    sources
}

/// Fails with every finding on its own line, as `file:line`.
#[track_caller]
fn none(findings: &[String], advice: &str) {
    assert!(findings.is_empty(), "{advice}\n  {}\n", findings.join("\n  "));
}

#[test]
fn files_are_short() {
    let long: Vec<_> = sources()
        .iter()
        .filter(|source| !source.test)
        .map(|source| (&source.path, source.code().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    none(&long, "Split these files by what they own; 600 lines is the most.");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for source in sources().iter().filter(|source| !source.test) {
        let lines: Vec<_> =
            source.statements().filter(|(_, line)| !line.trim().is_empty()).collect();
        for (at, (n, line)) in lines.iter().enumerate() {
            let depth = line.len() - line.trim_start().len();
            let signature = line.trim_start().split("fn ").next().unwrap_or_default();
            let words = ["pub", "pub(super)", "pub(crate)", "const", "async", "unsafe"];
            if !line.contains("fn ")
                || line.trim_end().ends_with(';')
                || !signature.split_whitespace().all(|word| words.contains(&word))
            {
                continue;
            }
            let closes = |line: &str| line.trim_end() == format!("{}}}", " ".repeat(depth));
            let length =
                lines[at..].iter().position(|(_, line)| closes(line)).map_or(0, |end| end + 1);
            if length > FUNCTION {
                long.push(format!("{}:{n}: {length} lines", source.path));
            }
        }
    }
    none(&long, "Give a part of these functions a name; 70 lines without comments is the most.");
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for source in sources() {
        for (n, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            // A row of a table in documentation cannot be broken.
            let row = ["//! |", "/// |"].iter().any(|start| line.trim_start().starts_with(start));
            if columns > COLUMNS && !row {
                long.push(format!("{}:{}: {columns} columns", source.path, n + 1));
            }
        }
    }
    none(&long, "Break these lines; rustfmt leaves strings and comments alone.");
}

#[test]
fn modules_are_named_after_what_they_own() {
    let mut findings = Vec::new();
    for source in sources() {
        let mut parts = source.path.strip_suffix(".rs").expect("only .rs files").split('/');
        if let Some(part) = parts.find(|part| FORBIDDEN.contains(part)) {
            findings.push(format!("{}: `{part}`", source.path));
        }
        for (n, line) in source.code() {
            let line =
                line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let name = line.strip_prefix("mod ").map(|rest| rest.trim_end_matches([';', '{', ' ']));
            if name.is_some_and(|name| FORBIDDEN.contains(&name)) {
                findings.push(format!("{}:{n}: {line}", source.path));
            }
        }
    }
    none(&findings, "These names say nothing; name the module after what it owns.");
}

#[test]
fn nothing_is_unwrapped() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| !source.test) {
        for (n, line) in source.statements() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                findings.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "Use `?`, or `expect` with the reason why it holds.");
}

#[test]
fn handles_are_shared_only_where_it_is_named() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| !source.test) {
        if ARCS.iter().any(|prefix| source.path.starts_with(prefix)) {
            continue;
        }
        for (n, line) in source.statements() {
            if ["Arc<", "Arc::"].iter().any(|word| line.contains(word)) {
                findings.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "Lend it, or move it; a new place for an `Arc` needs its line in src/lib.rs.");
}

/// Clippy knows these as macros only, whose lint no file can be excepted from.
#[test]
fn threads_hide_no_state() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/") && !source.test)
    {
        // rustls hands the secrets of a handshake to no other place, and a panic's hook is told of
        // nothing but the panic.
        if ["src/transport/tls/key_log.rs", "src/contained.rs"].contains(&&*source.path) {
            continue;
        }
        for (n, line) in source.statements() {
            if ["thread_local!", "static mut "].iter().any(|word| line.contains(word)) {
                findings.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "Pass it in: a reader of a signature must see what a function works on.");
}

#[test]
fn unsafe_stays_where_it_belongs() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| !source.test) {
        if UNSAFE.iter().any(|prefix| source.path.starts_with(prefix)) {
            continue;
        }
        for (n, line) in source.statements() {
            if ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"]
                .iter()
                .any(|word| line.contains(word))
            {
                findings.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    none(&findings, "Unsafe code lives in src/ring; add a file to the list only with its reason.");
}

#[test]
fn unsafe_blocks_say_why_they_are_sound() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/") && !source.test)
    {
        let lines: Vec<_> = source.code().collect();
        for (at, (n, line)) in lines.iter().enumerate() {
            let code = line.split("//").next().expect("split yields one part at least");
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            // A statement may begin a few lines above its block, and a comment may be long.
            let above = &lines[at.saturating_sub(10)..=at];
            if !above.iter().any(|(_, line)| line.contains("SAFETY:")) {
                findings.push(format!("{}:{n}", source.path));
            }
        }
    }
    none(&findings, "Say in a `SAFETY:` comment why each of these blocks is sound.");
}

#[test]
fn modules_say_what_they_own() {
    let findings: Vec<_> = sources()
        .iter()
        .filter(|source| !source.test || source.path.starts_with("tests/"))
        .filter(|source| !source.text.starts_with("//!") && !source.text.trim().is_empty())
        .map(|source| format!("{} ({})", source.path, source.name()))
        .collect();
    none(&findings, "Open each file with `//!`: what it owns, and what it leaves to others.");
}

/// The table "Where to look" of src/lib.rs names files that are there.
#[test]
fn the_map_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("src/lib.rs")).expect("it is there");
    let rows: Vec<&str> = map.lines().filter(|line| line.starts_with("//! |")).collect();
    let named = rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2));
    let files: Vec<&str> = named.filter(|name| name.ends_with(".rs")).collect();
    assert!(files.len() > 30, "the table was not found");
    let missing: Vec<String> = files
        .iter()
        .filter(|file| !root.join("src").join(file).exists())
        .map(|file| format!("src/{file}"))
        .collect();
    none(&missing, "These files are gone; say in src/lib.rs where to look now.");
}

const DOCUMENTS: [&str; 10] = [
    "README.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    ".github/SECURITY.md",
    "bench/README.md",
    "tests/README.md",
    "tuning/README.md",
    "tuning/ecs.md",
    "tuning/operating.md",
    "tuning/seccomp.md",
];

/// The documents name scripts, tests and files of the tree that are there.
#[test]
fn documents_name_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("the document is there");
        for word in text.split(['`', ' ', '\n', '(', ')', '[', ']', '#']) {
            let word = word.trim_end_matches(['.', ',', ':', ';']);
            let rooms = ["scripts/", "tests/", "src/", "tuning/", "bench/micro", ".github/"];
            let named = rooms.iter().any(|room| word.starts_with(room));
            let pattern = word.contains(['*', '…', '<', '$', '=']);
            if named && !pattern && !root.join(word).exists() {
                missing.push(format!("{document}: {word}"));
            }
        }
    }
    none(&missing, "These are not there; say what is.");
}

/// The anchors of a document: its headings in small letters, words joined by `-`.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-'].contains(c);
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-"))
        .collect()
}

/// Links inside the tree lead to a file, and to a heading in it.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut broken, mut links) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("the document is there");
        for rest in text.split("](").skip(1) {
            let (link, _) = rest.split_once(')').expect("a link ends");
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = root.join(document).parent().expect("a file is in a folder").join(path);
            let target = if path.is_empty() { root.join(document) } else { folder };
            let found = fs::read_to_string(&target);
            let leads = found
                .is_ok_and(|text| anchor.is_empty() || anchors(&text).contains(&anchor.to_owned()));
            if !leads {
                broken.push(format!("{document}: {link}"));
            }
        }
    }
    assert!(links > 10, "the links were not found");
    none(&broken, "These links lead nowhere.");
}

/// Fields of `Shard`: more of them, and nobody sees what a method touches.
const SHARD_FIELDS: usize = 20;
/// Files of the shard that may call each other in a circle.
const CIRCLE: usize = 4;

/// The text of `source` between the first line that begins with `begin` and the next `}` at the
/// margin, for each such line; without comments.
fn blocks(source: &Source, begin: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for (_, line) in source.statements() {
        match &mut open {
            None if line.starts_with(begin) => open = Some(String::new()),
            None => {}
            Some(_) if line == "}" => found.extend(open.take()),
            Some(block) => {
                block.push_str(line.split(" //").next().unwrap_or(line));
                block.push('\n');
            }
        }
    }
    found
}

/// The names of methods that begin in this text of an `impl` block.
fn methods(block: &str) -> impl Iterator<Item = &str> {
    block.lines().filter_map(|line| {
        let item = line.strip_prefix("    ")?.split_once("fn ")?;
        let plain = ["", "pub ", "pub(super) ", "const ", "pub const ", "pub(super) const "];
        plain.contains(&item.0).then(|| name_at(item.1))
    })
}

/// What of `text` is a name, from its beginning.
fn name_at(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The names that are called on a shard: `self.name(`, `shard.name(`, `Shard::name`.
fn calls(block: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for start in ["self", "shard"] {
        for (at, _) in block.match_indices(start) {
            let rest = block[at + start.len()..].trim_start();
            let Some(rest) = rest.strip_prefix('.') else { continue };
            let name = name_at(rest.trim_start());
            let behind = &rest.trim_start()[name.len()..];
            if behind.starts_with('(') || behind.starts_with("::<") {
                found.push(name);
            }
        }
    }
    found.extend(
        block.match_indices("Shard::").map(|(at, text)| name_at(&block[at + text.len()..])),
    );
    found
}

#[test]
fn the_shard_has_few_fields() {
    let sources = sources();
    let root = sources.iter().find(|source| source.path == "src/shard/mod.rs").expect("it exists");
    let shard = blocks(root, "pub struct Shard {").pop().expect("Shard is declared there");
    let fields = shard.lines().filter(|line| line.contains(": ")).count();
    assert!(
        (10..=SHARD_FIELDS).contains(&fields),
        "Shard has {fields} fields: what belongs together is a struct with methods of its own"
    );
}

#[test]
fn files_of_the_shard_call_each_other_in_small_circles_at_most() {
    let sources = sources();
    let files: Vec<(&str, Vec<String>)> = sources
        .iter()
        .filter(|source| source.path.starts_with("src/shard/") && !source.test)
        .map(|source| (source.name(), blocks(source, "impl Shard {")))
        .collect();
    let mut home = HashMap::new();
    for (file, (_, blocks)) in files.iter().enumerate() {
        home.extend(blocks.iter().flat_map(|block| methods(block)).map(|method| (method, file)));
    }
    assert!(home.len() > 300, "the shard's methods were not found: {}", home.len());
    let mut reaches = vec![vec![false; files.len()]; files.len()];
    for (file, (_, blocks)) in files.iter().enumerate() {
        for target in blocks.iter().flat_map(|block| calls(block)).filter_map(|name| home.get(name))
        {
            reaches[file][*target] = true;
        }
    }
    for through in 0..files.len() {
        let onward = reaches[through].clone();
        for from in reaches.iter_mut().filter(|from| from[through]) {
            from.iter_mut().zip(&onward).for_each(|(reached, &next)| *reached |= next);
        }
    }
    let circle = |from: usize| {
        let both = |to: &usize| reaches[from][*to] && reaches[*to][from];
        (0..files.len()).filter(both).map(|file| files[file].0).collect::<Vec<_>>()
    };
    let large: Vec<String> = (0..files.len())
        .map(circle)
        .filter(|circle| circle.len() > CIRCLE)
        .map(|circle| circle.join(", "))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    none(
        &large,
        "These files of src/shard call each other's methods in a circle: move methods \
        that call nobody down, or what decides up.",
    );
}

/// The types that a file declares, with the numbers of their lines: by a keyword, and by the macros
/// of the configuration (`section!`, `choice!` and `markers!`). An indented `type` belongs to a
/// trait or an `impl`, and its name is the trait's.
fn declared<'a>(source: &'a Source) -> Vec<(usize, &'a str)> {
    let word = |text: &'a str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    };
    let is_name = |text: &str| text.starts_with(char::is_uppercase);
    let mut found = Vec::new();
    let mut within = "";
    for (n, line) in source.statements() {
        let text = line.trim_start();
        if let Some((name, _)) = line.split_once("! {") {
            within = if ["section", "choice", "markers"].contains(&name) { name } else { "" };
        }
        if within == "markers" {
            let names =
                text.split('"').step_by(2).filter_map(|part| part.split_whitespace().last());
            let names = names.filter(|name| is_name(name) && !name.ends_with(':'));
            found.extend(names.map(|name| (n, name)));
        } else if !within.is_empty() && line.len() - text.len() == 4 && line.ends_with(" {") {
            found.push((n, word(text)));
        }
        if line.ends_with('}') {
            within = "";
        }
        let seen = match text.strip_prefix("pub(") {
            Some(rest) => rest.split_once(") ").map_or(text, |(_, rest)| rest),
            None => text.strip_prefix("pub ").unwrap_or(text),
        };
        let seen = seen.strip_prefix("unsafe ").unwrap_or(seen);
        let Some((keyword, rest)) = seen.split_once(' ') else { continue };
        let declares = ["struct", "enum", "trait", "union"].contains(&keyword)
            || keyword == "type" && line.len() == text.len();
        if declares && is_name(rest) {
            found.push((n, word(rest)));
        }
    }
    found
}

#[test]
fn no_two_types_have_the_same_name() {
    let sources = sources();
    // Some names that must be found, so that the test fails when types are declared otherwise.
    let known = ["Shard", "Config", "OnFull", "Unlimited", "MovedSession"];
    for (root, known) in [("src/", &known[..]), ("bench/src/", &["Scenario"])] {
        let mut places: HashMap<&str, Vec<String>> = HashMap::new();
        for source in sources.iter().filter(|s| s.path.starts_with(root) && !s.test) {
            for (n, name) in declared(source) {
                places.entry(name).or_default().push(format!("{}:{n}", source.path));
            }
        }
        for name in known {
            assert!(places.contains_key(name), "{name} was not found in {root}");
        }
        let same: BTreeSet<String> = places
            .iter()
            .filter(|(_, places)| places.len() > 1)
            .map(|(name, places)| format!("{name}: {}", places.join(", ")))
            .collect();
        none(
            &same.into_iter().collect::<Vec<_>>(),
            "Types with the same name: the most central one keeps it, and the others get a word \
            that says what they are.",
        );
    }
}
