//! The result of a conversion on its way to YAML: keys with values, and lines that are not carried
//! over.

use super::SourceFormat;
use serde_json::{Map, Value, json};

/// A line that is not carried over.
struct SkippedLine {
    line: usize,
    text: String,
    why: String,
}

/// A configuration while it is converted.
#[derive(Default)]
pub(super) struct Conversion {
    /// The tree of our keys.
    pub keys: Map<String, Value>,
    /// The keys of each listener.
    pub listeners: Vec<Map<String, Value>>,
    /// Sentences about the whole configuration.
    pub remarks: Vec<String>,
    left: Vec<SkippedLine>,
}

impl Conversion {
    /// Sets a key, which is written with dots.
    pub(super) fn set(&mut self, key: &str, value: Value) {
        set(&mut self.keys, key, value);
    }

    /// Notes that a line is not carried over.
    pub(super) fn leave(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.left.push(SkippedLine { line, text: hidden(text), why: why.into() });
    }

    /// The number of lines that are not carried over.
    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// Writes the file.
    pub(super) fn render(mut self, name: &str, from: SourceFormat) -> String {
        let name = name.replace(char::is_control, " ");
        let mut out = format!("# Converted from {name}, a configuration of {from}.\n");
        for remark in &self.remarks {
            comment(&mut out, remark);
        }
        let web = |keys: &Map<String, Value>| {
            keys.get("type").is_some_and(|kind| kind == "ws" || kind == "wss")
        };
        if self.listeners.iter().any(web) {
            let text = "WebSocket clients have to use the path /mqtt, or what `path` of their \
                        listener says, whatever path they used before.";
            comment(&mut out, text);
        }
        if !self.left.is_empty() {
            out.push_str("#\n# Lines that were not carried over:\n");
        }
        self.left.sort_by_key(|left| left.line);
        for left in &self.left {
            comment(&mut out, &format!("{}: {}", left.line, left.text));
            comment(&mut out, &format!("    {}", left.why));
        }
        if !self.listeners.is_empty() {
            let listeners = self.listeners.drain(..).map(Value::Object).collect();
            self.keys.insert("listeners".to_owned(), Value::Array(listeners));
        }
        for (key, value) in &self.keys {
            write(&mut out, key, value, 0);
        }
        out
    }
}

/// The type of a listener with these properties.
pub(super) fn kind(unix: bool, web: bool, secure: bool) -> &'static str {
    match (unix, web, secure) {
        (true, ..) => "unix",
        (_, false, false) => "tcp",
        (_, false, true) => "tls",
        (_, true, false) => "ws",
        (_, true, true) => "wss",
    }
}

/// Sets a key, which is written with dots, in a tree.
pub(super) fn set(tree: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => _ = tree.insert(key.to_owned(), value),
        Some((first, rest)) => {
            let below = tree.entry(first).or_insert_with(|| json!({}));
            if let Some(below) = below.as_object_mut() {
                set(below, rest, value);
            }
        }
    }
}

/// A line without a secret, which must not be copied to another file. Options of plugins have
/// names of their own, so that none of their values can be known to be harmless.
fn hidden(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    let name = word.to_ascii_lowercase();
    let words = ["pass", "psk", "secret", "token", "credential", "_opt_"];
    let secret = words.iter().any(|part| name.contains(part)) && !name.ends_with("_file");
    let shown: String = if secret { option_of(text) } else { text.to_owned() };
    shown.replace(char::is_control, " ")
}

/// The option of a line, with a sign in place of its value. For an option that nobody knows, it is
/// all that may be shown: it may be the misspelt name of one with a secret.
pub(super) fn option_of(text: &str) -> String {
    let word = text.split_whitespace().next().unwrap_or_default();
    if word.len() == text.trim().len() { word.to_owned() } else { format!("{word} …") }
}

fn comment(out: &mut String, text: &str) {
    out.push_str("# ");
    text.chars().for_each(|c| push_printable(out, c));
    out.push('\n');
}

/// Writes a key with its value. Texts are written as in JSON, which YAML can read.
fn write(out: &mut String, key: &str, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push_str(&format!("{indent}{key}:\n"));
            for (key, value) in map {
                write(out, key, value, depth + 1);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            out.push_str(&format!("{indent}{key}:\n"));
            for item in list.iter().filter_map(Value::as_object) {
                let mut inner = String::new();
                for (key, value) in item {
                    write(&mut inner, key, value, depth + 2);
                }
                // The first key follows the dash on the same line.
                let at = 2 * depth + 2;
                let rest = inner.get(at + 2..).unwrap_or_default();
                out.push_str(&format!("{indent}  - {rest}"));
            }
        }
        other => {
            out.push_str(&format!("{indent}{key}: "));
            other.to_string().chars().for_each(|c| push_printable(out, c));
            out.push('\n');
        }
    }
}

/// Writes a character of a text in JSON form. Some characters may stand unescaped in JSON but not
/// in YAML; these are escaped.
fn push_printable(out: &mut String, c: char) {
    match c {
        '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}'..='\u{ffff}' => {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
        c => out.push(c),
    }
}
