//! The keys as text: the commented default file, the reference, and the values that apply. Owns the
//! layout only.

use std::fmt::Write;

use serde_json::{Value, json};

use super::schema::{self, KeyKind, SchemaKey};
use super::sections::Config;
use super::yaml;

/// The width of the texts, in characters.
const WIDTH: usize = 96;

/// The text that is shown in place of a secret.
const HIDDEN: &str = "\"***\"";

/// A configuration file that has every key at its default, each with a comment. Reading it gives
/// [`Config::default`].
pub fn default_file() -> String {
    let mut out = String::from(
        "# RingMQ: every key with its default. Keys that are left out keep their default.\n\
         # Times: 20us 5ms 10s 5m 2h 1d, or plain seconds. Sizes: 64KiB 1MiB 1GB, or plain bytes.\n\
         # The environment wins over this file (RINGMQ_MQTT__MAX_QOS=1), and --set over both.\n\
         # `ringmq --test-config --config FILE` checks a file.\n",
    );
    let comment = |key: SchemaKey<'_>, _: &str, indent: &str| {
        let mut lines = if indent.is_empty() { vec![String::new()] } else { Vec::new() };
        let bounds = match key.shape() {
            KeyKind::Section | KeyKind::List(_) => String::new(),
            // A switch without a word for "no value" needs no sentence, because its value says
            // enough.
            KeyKind::Switch if key.accepts() == SWITCH => String::new(),
            _ => sentence(key),
        };
        for text in [key.meaning(), &bounds] {
            let wrapped = wrap(text, WIDTH - indent.len() - 2);
            lines.extend(wrapped.into_iter().map(|line| format!("{indent}# {line}")));
        }
        (lines, None)
    };
    let schema = schema::root();
    Layout { out: &mut out, comment: &comment }.section(
        SchemaKey(&schema),
        &values(&Config::default()),
        "",
        "",
    );
    out
}

/// The reference: type, unit, default, bounds and meaning of every key.
pub fn reference() -> String {
    let mut out = String::from(
        "Keys of the configuration. N is the position of a listener, counted from 0.\n\
         Times: 20us 5ms 10s 5m 2h 1d (and sums such as 1h30m), or plain seconds.\n\
         Sizes: 1KiB = 1024 bytes, 1KB = 1000 bytes; also Mi, Gi, Ti; or plain bytes.\n\
         Environment: RINGMQ_MQTT__MAX_QOS is mqtt.max_qos, RINGMQ_LISTENERS__0__BIND is\n\
         listeners.0.bind. Precedence: default, file, environment, --set.\n",
    );
    for (name, key) in SchemaKey(&schema::root()).everything() {
        let _ = writeln!(out, "\n{name}");
        let mut lines = wrap(key.meaning(), WIDTH - 4);
        if !matches!(key.shape(), KeyKind::Section | KeyKind::List(_)) {
            lines.extend(wrap(&sentence(key), WIDTH - 4));
            let (later, _) = key.later();
            if !later.is_empty() {
                lines.push(format!("Not in this build: {}.", later.join(", ")));
            }
            let default = &key.0["default"];
            let shown = if default.is_null() { "left out".to_owned() } else { scalar(default) };
            lines.push(format!("Default: {shown}"));
        }
        if key.needs_restart() {
            lines.push("A change needs a restart.".to_owned());
        }
        for line in lines {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}

/// The JSON Schema of the file, for editors and deployment tools.
pub fn json_schema() -> String {
    format!("{:#}\n", schema::root())
}

/// A configuration file with the values of `config`, each with its origin.
pub(super) fn effective(config: &Config, origin: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    let schema = schema::root();
    let comment = |key: SchemaKey<'_>, pointer: &str, _: &str| match key.shape() {
        KeyKind::Section | KeyKind::List(_) => (Vec::new(), None),
        _ => (Vec::new(), Some(origin(pointer))),
    };
    Layout { out: &mut out, comment: &comment }.section(
        SchemaKey(&schema),
        &values(config),
        "",
        "",
    );
    out
}

/// The values as a tree.
pub(super) fn values(config: &Config) -> Value {
    serde_json::to_value(config).expect("every key is text, and no number is infinite")
}

/// Returns the lines above a key, and the comment after its value.
type Comment<'a> = &'a dyn Fn(SchemaKey<'_>, &str, &str) -> (Vec<String>, Option<String>);

/// Writes values as a configuration file.
struct Layout<'a> {
    out: &'a mut String,
    comment: Comment<'a>,
}

impl Layout<'_> {
    /// Writes the keys of a section.
    fn section(&mut self, section: SchemaKey<'_>, values: &Value, pointer: &str, indent: &str) {
        for (name, key) in section.keys() {
            let (value, pointer) = (&values[name], format!("{pointer}/{name}"));
            if value.is_null() {
                continue; // absent, and without a default
            }
            let (above, behind) = (self.comment)(key, &pointer, indent);
            for line in above {
                let _ = writeln!(self.out, "{line}");
            }
            let _ = write!(self.out, "{indent}{name}:");
            let inner = format!("{indent}  ");
            match key.shape() {
                KeyKind::Section => {
                    self.out.push('\n');
                    self.section(key, value, &pointer, &inner);
                }
                KeyKind::List(_) if value.as_array().is_none_or(Vec::is_empty) => {
                    self.out.push_str(" []\n");
                }
                KeyKind::List(items) => {
                    self.out.push('\n');
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.element(items, item, &format!("{pointer}/{index}"), &inner);
                    }
                }
                _ => {
                    let empty = *value == "" || *value == json!({});
                    let hidden = key.is_secret() && !empty;
                    let written = if hidden { HIDDEN.to_owned() } else { scalar(value) };
                    let _ = match behind {
                        Some(behind) => writeln!(self.out, " {written}  # {behind}"),
                        None => writeln!(self.out, " {written}"),
                    };
                }
            }
        }
    }

    /// Writes an element of a list: its first key follows a dash, two columns to the left.
    fn element(&mut self, items: SchemaKey<'_>, item: &Value, pointer: &str, indent: &str) {
        let begin = self.out.len();
        self.section(items, item, pointer, &format!("{indent}  "));
        let written = self.out.split_off(begin);
        let mut dash = true;
        for line in written.lines() {
            let rest = line.trim_start();
            if dash && !rest.starts_with('#') && !rest.is_empty() {
                let _ = writeln!(self.out, "{indent}- {rest}");
                dash = false;
            } else {
                let _ = writeln!(self.out, "{line}");
            }
        }
    }
}

/// A plain value in the form in which it would be written.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// True for text that needs no quotes in a file.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '/');
    let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_./:-".contains(&byte));
    let is_text = matches!(yaml::plain(text), Value::String(_)) && text.parse::<f64>().is_err();
    begins && letters && is_text && !text.ends_with(':')
}

/// The values that a switch accepts, in words.
const SWITCH: &str = "true or false";

fn sentence(key: SchemaKey<'_>) -> String {
    let text = key.accepts();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    let first = if text.starts_with("true") { Some('t') } else { first };
    first.into_iter().chain(letters).chain(['.']).collect()
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
