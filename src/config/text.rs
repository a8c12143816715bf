//! The table as text: the commented default file and the reference. Owns layout only.

use std::fmt::Write;

use super::section::{Described, Section};
use super::spec::{Kind, Spec};
use super::table::Config;
use super::value::expected;

/// Widest line of both texts, in characters.
const WIDTH: usize = 96;

/// A configuration file with every key at its default and a comment on each. Reading it gives
/// [`Config::default`].
pub fn default_file() -> String {
    let mut out = String::from(
        "# RingMQ: every key with its default. Keys that are left out keep their default.\n\
         # Times: 20us 5ms 10s 5m 2h 1d, or plain seconds. Sizes: 64KiB 1MiB 1GB, or plain bytes.\n\
         # The environment wins over this file (RINGMQ_MQTT__MAX_QOS=1), and --set over both.\n\
         # `ringmq --test-config --config FILE` checks a file.\n",
    );
    let mut element_begins = false;
    for described in rows() {
        let depth = described.key.matches('.').count();
        let row = &described.row;
        let indent = "  ".repeat(depth);
        if depth == 0 {
            out.push('\n');
        }
        for line in wrap(row.meaning, WIDTH - indent.len() - 2) {
            let _ = writeln!(out, "{indent}# {line}");
        }
        if row.spec.kind == Kind::Section || row.spec.kind == Kind::List {
            let _ = writeln!(out, "{indent}{}:", row.name);
            element_begins = row.spec.kind == Kind::List;
            continue;
        }
        // Of a switch the value says enough.
        let bounds = match row.spec {
            Spec { kind: Kind::Switch, word: None, .. } => String::new(),
            spec => sentence(&spec),
        };
        for line in wrap(&bounds, WIDTH - indent.len() - 2) {
            let _ = writeln!(out, "{indent}# {line}");
        }
        // The first key of a list element stands behind its dash, two columns to the left.
        let begin = if element_begins { format!("{}- ", &indent[2..]) } else { indent };
        element_begins = false;
        let _ = writeln!(out, "{begin}{}: {}", row.name, row.default);
    }
    out
}

/// Every key: type, unit, default, bounds and meaning.
pub fn reference() -> String {
    let mut out = String::from(
        "Keys of the configuration. N is the position of a listener, counted from 0.\n\
         Times: 20us 5ms 10s 5m 2h 1d (and sums such as 1h30m), or plain seconds.\n\
         Sizes: 1KiB = 1024 bytes, 1KB = 1000 bytes; also Mi, Gi, Ti; or plain bytes.\n\
         Environment: RINGMQ_MQTT__MAX_QOS is mqtt.max_qos, RINGMQ_LISTENERS__0__BIND is\n\
         listeners.0.bind. Precedence: default, file, environment, --set.\n",
    );
    for described in rows() {
        let row = &described.row;
        let _ = writeln!(out, "\n{}", described.key);
        for line in wrap(row.meaning, WIDTH - 4) {
            let _ = writeln!(out, "    {line}");
        }
        if row.spec.kind == Kind::Section || row.spec.kind == Kind::List {
            continue;
        }
        for line in wrap(&sentence(&row.spec), WIDTH - 4) {
            let _ = writeln!(out, "    {line}");
        }
        if !row.spec.later.words.is_empty() {
            let _ = writeln!(out, "    Not in this build: {}.", row.spec.later.words.join(", "));
        }
        let _ = writeln!(out, "    Default: {}", row.default);
    }
    out
}

fn rows() -> Vec<Described> {
    let mut rows = Vec::new();
    Config::describe_keys("", &mut rows);
    rows
}

fn sentence(spec: &Spec) -> String {
    let text = expected(spec);
    let plain = if spec.kind == Kind::ShortDuration { "; the unit is required" } else { "" };
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    let first = if text.starts_with("true") { Some('t') } else { first };
    first.into_iter().chain(letters).chain(plain.chars()).chain(['.']).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
