//! Lists of texts, and tables of names with texts, both bounded: [`Texts`] and [`TextTable`]. Owns
//! how they are read, written and described. Knows no key.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::problem::Wrong;
use super::value::{Scalar, WrittenValue, described, scalar};

/// The largest number of texts of one key, or of entries of a table.
const MAX_TEXTS: usize = 1024;
/// The longest text of a list or table, in bytes.
const MAX_TEXT: usize = 65_535;

fn checked_text<E: Error>(text: String) -> Result<Box<str>, E> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let what = format!("a text has control characters or more than {MAX_TEXT} bytes");
        return Err(E::custom(Wrong::new(what, "shorten it, or remove them")));
    }
    Ok(text.into())
}

/// A word of the document, read as text.
struct OneWord(Box<str>);

impl Scalar for OneWord {
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong> {
        Ok(OneWord(written.text().into()))
    }

    fn written(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> (Value, String) {
        (json!({"type": "string"}), "text".to_owned())
    }
}
scalar! { [] OneWord OneWord }

/// A text or a list of texts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Texts(pub Vec<Box<str>>);

impl Deref for Texts {
    type Target = Vec<Box<str>>;

    fn deref(&self) -> &Vec<Box<str>> {
        &self.0
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a list of texts")
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Texts, E> {
        Ok(Texts(vec![switch.to_string().into()]))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Texts, E> {
        Ok(Texts(vec![number.to_string().into()]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts(vec![checked_text(text.to_owned())?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Texts, A::Error> {
        let mut texts = Vec::new();
        while let Some(OneWord(text)) = items.next_element()? {
            if texts.len() == MAX_TEXTS {
                let what = format!("the list has more than {MAX_TEXTS} texts");
                return Err(Error::custom(Wrong::new(what, "split it")));
            }
            texts.push(checked_text(text.into())?);
        }
        Ok(Texts(texts))
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextsVisitor)
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": ["string", "integer", "boolean"]});
        let list = json!({"type": "array", "items": text});
        described(json!({"anyOf": [text, list]}), "text or a list of texts".to_owned())
    }
}

/// Names with texts, in the order in which they are written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextTable(pub Vec<(Box<str>, Box<str>)>);

impl Deref for TextTable {
    type Target = Vec<(Box<str>, Box<str>)>;

    fn deref(&self) -> &Vec<(Box<str>, Box<str>)> {
        &self.0
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = TextTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with texts")
    }

    fn visit_unit<E: Error>(self) -> Result<TextTable, E> {
        Ok(TextTable::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<TextTable, A::Error> {
        let mut table = Vec::new();
        while let Some((name, OneWord(text))) = entries.next_entry::<String, OneWord>()? {
            if table.len() == MAX_TEXTS {
                let what = format!("there are more than {MAX_TEXTS} names");
                return Err(Error::custom(Wrong::new(what, "keep fewer")));
            }
            table.push((name.into(), checked_text(text.into())?));
        }
        Ok(TextTable(table))
    }
}

impl<'de> Deserialize<'de> for TextTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TableVisitor)
    }
}

impl Serialize for TextTable {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, text)| (name, text)))
    }
}

impl JsonSchema for TextTable {
    fn schema_name() -> Cow<'static, str> {
        "Table".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = json!({"type": ["string", "integer", "boolean"]});
        let schema = json!({"type": "object", "additionalProperties": text});
        described(schema, "names with texts, such as {name: text}".to_owned())
    }
}
