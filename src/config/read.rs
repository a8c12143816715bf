//! Reads the structs from a document. serde does so several times: each round takes out what was
//! wrong, so that every problem is found in one run and the last round succeeds. Owns the messages
//! about a value or key that serde refuses.

use serde_json::Value;

use super::document::{Document, kind};
use super::pointer;
use super::problem::{Origin, Problem, Wrong, nearest};
use super::schema::{self, KeyKind, SchemaKey};
use super::sections::Config;

/// The similar key is looked for only up to this number of problems, because that compares every
/// key there is.
pub(super) const SUGGESTED: usize = 100;
/// After this many rounds the remaining problems are not reported until these are corrected.
const ROUNDS: usize = 1000;

/// Reads the structs. Every problem is added to `problems`, its value is taken out of the document,
/// and the structs have the default in its place.
pub(super) fn read(document: &mut Document, problems: &mut Vec<Problem>) -> Config {
    let mut schema = None;
    for _ in 0..ROUNDS {
        let mut unknown = Vec::new();
        let mut note = |path: serde_ignored::Path<'_>| unknown.push(pointer::of_ignored(&path));
        let reader = serde_ignored::Deserializer::new(&document.tree, &mut note);
        let outcome = match serde_path_to_error::deserialize::<_, Config>(reader) {
            Ok(config) if unknown.is_empty() => return config,
            outcome => outcome,
        };
        let schema = SchemaKey(schema.get_or_insert_with(schema::root));
        for pointer in unknown {
            problems.push(unknown_key(schema, document, &pointer, problems.len()));
            pointer::take_out(&mut document.tree, &pointer);
        }
        match outcome {
            Ok(config) => return config,
            Err(error) => {
                let pointer = pointer::of_refused(error.path());
                refused(schema, document, &pointer, &error.inner().to_string(), problems);
            }
        }
    }
    let wrong = Wrong::new("there are more problems", "correct these first");
    problems.push(wrong.at(&Origin::built_in(), ""));
    Config::default()
}

/// Reports the value at `pointer`, or the closest part around it that has a key of its own, and
/// takes it out.
fn refused(
    schema: SchemaKey<'_>,
    document: &mut Document,
    pointer: &str,
    said: &str,
    problems: &mut Vec<Problem>,
) {
    let (pointer, key) = known(schema, pointer);
    let Some(value) = document.tree.pointer(pointer) else { return };
    let dotted = pointer::dotted(pointer);
    let wrong = wrong_value(value, key, pointer, said);
    problems.push(wrong.of_value(&document.value_origin(pointer), &dotted, &key.accepts()));
    pointer::take_out(&mut document.tree, pointer);
}

/// The longest part of `pointer` that names a key of the schema, or an element of a list of
/// sections.
fn known<'p, 's>(schema: SchemaKey<'s>, pointer: &'p str) -> (&'p str, SchemaKey<'s>) {
    let (mut end, mut key) = (0, schema);
    for step in pointer.split('/').skip(1) {
        match key.below(step) {
            Some(below) => (end, key) = (end + 1 + step.len(), below),
            None => break,
        }
    }
    (&pointer[..end], key)
}

/// The problem with `value`, about which serde has `said` something.
fn wrong_value(value: &Value, key: SchemaKey<'_>, pointer: &str, said: &str) -> Wrong {
    let name = pointer::split(pointer).map_or_else(String::new, |(_, step)| step);
    let first = |key: SchemaKey<'_>| key.keys().next().map_or("key", |(name, _)| name).to_owned();
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match key.shape() {
        KeyKind::Section => {
            let what = format!("keys are expected here, not {}", kind(value));
            Wrong::new(what, format!("write keys below it, such as `{}: ...`", first(key)))
        }
        KeyKind::List(items) if !value.is_array() => {
            let what = format!("a list is expected here, not {}", kind(value));
            Wrong::new(what, format!("write `{name}:` and below it `- {}: ...`", first(items)))
        }
        KeyKind::List(_) => Wrong::said(said),
        _ if value.is_null() => Wrong::value("the key has no value"),
        KeyKind::Value { lists } if !value.is_object() && (lists || !value.is_array()) => {
            Wrong::said(said)
        }
        _ if value.is_array() || value.is_object() => {
            Wrong::value(format!("this is {}", kind(value)))
        }
        KeyKind::Choice(words) => unknown_word(&text, &words, key),
        _ if matches!(text.as_str(), "true" | "false") => {
            Wrong::value(format!("\"{text}\" is quoted, so it is text"))
        }
        _ => Wrong::value(format!("`{text}` is neither true nor false")),
    }
}

/// Says that `word` belongs to a later capability if that is so; otherwise names the valid words.
fn unknown_word(word: &str, words: &[&str], key: SchemaKey<'_>) -> Wrong {
    let choices = words.join(", ");
    let (later, noun) = key.later();
    if later.contains(&word) {
        let fix = match words {
            [only] => format!("use {only}, or remove it"),
            _ => format!("use one of: {choices}"),
        };
        return Wrong::new(format!("{noun} {word} is not in this build"), fix);
    }
    let fix = match nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? (one of: {choices})"),
        None => format!("use one of: {choices}"),
    };
    Wrong::new(format!("`{word}` is not a choice"), fix)
}

/// The problem of a key that its section does not have.
fn unknown_key(
    schema: SchemaKey<'_>,
    document: &Document,
    pointer: &str,
    before: usize,
) -> Problem {
    let (around, name) = pointer::split(pointer).unwrap_or(("", String::new()));
    let (_, section) = known(schema, around);
    let names = || section.keys().map(|(name, _)| name);
    let wrong = if section.later().0.contains(&name.as_str()) {
        Wrong::new(format!("`{name}` is not in this build"), "remove it")
    } else if before >= SUGGESTED {
        Wrong::new("unknown key", "see `ringmq config reference`")
    } else if let Some(near) = nearest(&name, names()) {
        Wrong::new("unknown key", format!("did you mean `{near}`?"))
    } else if let Some(fix) = elsewhere(schema, &name) {
        Wrong::new("unknown key here", fix)
    } else {
        let names: Vec<&str> = names().collect();
        Wrong::new("unknown key", format!("keys here: {}", names.join(", ")))
    };
    wrong.at(&document.key_origin(pointer), &pointer::dotted(pointer))
}

/// The key that was probably meant, if the name is that of a key in another section, or of an
/// environment variable with one underscore.
pub(super) fn elsewhere(schema: SchemaKey<'_>, name: &str) -> Option<String> {
    let meant = |key: &str| key.rsplit('.').next() == Some(name) || key.replace('.', "_") == name;
    let (key, _) = schema.everything().into_iter().find(|(key, _)| meant(key))?;
    let variable = key.to_uppercase().replace('.', "__");
    Some(format!("did you mean `{key}` (RINGMQ_{variable} in the environment)?"))
}
