//! The keys as data: the JSON Schema that schemars makes of the structs. It is the source of the
//! reference, the default file and the messages about wrong values. Owns the names of our
//! extensions.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::sections::Config;

/// What a value accepts, in words.
pub(super) const ACCEPTS: &str = "x-accepts";
/// The keys or words of later capabilities.
const LATER: &str = "x-later";
/// What the words of a choice are, for messages about later ones.
const NOUN: &str = "x-noun";
/// The key is absent unless it is written.
pub(super) const OPTIONAL: &str = "x-optional";
/// The value of the key is not shown.
const SECRET: &str = "x-secret";
/// A reload does not change the value of the key.
const RESTART: &str = "x-restart";

/// The schema of the whole configuration, without references.
pub(super) fn root() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    close(&mut schema);
    schema
}

/// Says of each section that it has no other keys, so that editors report those.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(close);
        object.insert("additionalProperties".to_owned(), Value::Bool(false));
    } else if let Some(items) = object.get_mut("items") {
        close(items);
    }
}

/// A key, and what the schema says about it.
#[derive(Clone, Copy)]
pub(super) struct SchemaKey<'a>(pub &'a Value);

/// The kind of value that a key has.
pub(super) enum KeyKind<'a> {
    /// It has keys of its own.
    Section,
    /// It is a list of sections.
    List(SchemaKey<'a>),
    /// It is one of these words.
    Choice(Vec<&'a str>),
    /// It is `true` or `false`, or a word that stands for "no value".
    Switch,
    /// It is a value of one of our own types, which may be a list.
    Value { lists: bool },
}

impl<'a> SchemaKey<'a> {
    /// The key or element below this one.
    pub(super) fn below(self, step: &str) -> Option<SchemaKey<'a>> {
        match self.shape() {
            KeyKind::Section => self.0["properties"].get(step).map(SchemaKey),
            KeyKind::List(items) => step.parse::<usize>().ok().map(|_| items),
            _ => None,
        }
    }

    /// The keys of a section, in order.
    pub(super) fn keys(self) -> impl Iterator<Item = (&'a str, SchemaKey<'a>)> {
        let properties = self.0.get("properties").and_then(Value::as_object);
        properties.into_iter().flatten().map(|(name, key)| (name.as_str(), SchemaKey(key)))
    }

    pub(super) fn shape(self) -> KeyKind<'a> {
        let items = &self.0["items"];
        let one_of = self.0["oneOf"].as_array().into_iter().flatten();
        let words: Vec<&str> = one_of.filter_map(|word| word["const"].as_str()).collect();
        if self.0.get("properties").is_some() {
            KeyKind::Section
        } else if items.get("properties").is_some() {
            KeyKind::List(SchemaKey(items))
        } else if !words.is_empty() {
            KeyKind::Choice(words)
        } else if self.may_be("boolean") {
            KeyKind::Switch
        } else {
            KeyKind::Value { lists: self.may_be("array") }
        }
    }

    fn may_be(self, name: &str) -> bool {
        let any_of = self.0["anyOf"].as_array().into_iter().flatten();
        any_of.chain([self.0]).any(|schema| schema["type"] == name)
    }

    /// What the key accepts, in words: "a size of 256B to 1MiB, or unlimited".
    pub(super) fn accepts(self) -> String {
        match (self.0[ACCEPTS].as_str(), self.shape()) {
            (Some(accepts), _) => accepts.to_owned(),
            (None, KeyKind::Choice(words)) => format!("one of: {}", words.join(", ")),
            _ => "true or false".to_owned(),
        }
    }

    /// The meaning of the key, in sentences.
    pub(super) fn meaning(self) -> &'a str {
        self.0["description"].as_str().unwrap_or_default()
    }

    /// The keys or words of later capabilities, and what these words are.
    pub(super) fn later(self) -> (Vec<&'a str>, &'a str) {
        let words = self.0[LATER].as_array().into_iter().flatten().filter_map(Value::as_str);
        (words.collect(), self.0[NOUN].as_str().unwrap_or_default())
    }

    /// True when the value of the key must not be shown.
    pub(super) fn is_secret(self) -> bool {
        self.0[SECRET] == true
    }

    /// True when a reload does not change the value of the key.
    pub(super) fn needs_restart(self) -> bool {
        self.0[RESTART] == true
    }

    /// Every key in order, with its dotted name (`listeners.N.bind` for keys of list elements).
    pub(super) fn everything(self) -> Vec<(String, SchemaKey<'a>)> {
        let mut all = Vec::new();
        self.collect("", &mut all);
        all
    }

    fn collect(self, prefix: &str, all: &mut Vec<(String, SchemaKey<'a>)>) {
        for (name, key) in self.keys() {
            let dotted = format!("{prefix}{name}");
            all.push((dotted.clone(), key));
            match key.shape() {
                KeyKind::List(items) => items.collect(&format!("{dotted}.N."), all),
                _ => key.collect(&format!("{dotted}."), all),
            }
        }
    }
}
