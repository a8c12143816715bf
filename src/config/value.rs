//! The values of keys: what all of them have in common, [`Text`], the word for "no value" in
//! [`Or`], and [`List`]. Owns how each of them is read, written and described. Knows no key.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::problem::Wrong;
use super::schema::{ACCEPTS, OPTIONAL, SchemaKey};
use super::yaml;

/// A value with bounds, which wraps the value with which the broker computes.
pub trait Get {
    /// The type with which the broker computes.
    type Plain;

    /// The value in that type.
    fn get(&self) -> Self::Plain;
}

/// A value that is written as one word, number or text. [`scalar!`] implements the traits of serde
/// and schemars for it.
pub(super) trait Scalar: Sized {
    /// Reads the value, and checks its bounds.
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong>;

    /// Writes the value so that it reads back the same.
    fn written(&self) -> Value;

    /// The JSON Schema, and what is accepted in words, such as "a size of 256B to 1MiB".
    fn schema() -> (Value, String);
}

/// A scalar of the document.
pub enum WrittenValue<'a> {
    /// `true` or `false`.
    Switch(bool),
    /// A number.
    Number(String),
    /// Any other word, and whatever stands in quotes.
    Text(&'a str),
}

impl WrittenValue<'_> {
    /// The scalar as it was written, without quotes.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            WrittenValue::Switch(switch) => Cow::Owned(switch.to_string()),
            WrittenValue::Number(number) => Cow::Borrowed(number),
            WrittenValue::Text(text) => Cow::Borrowed(text),
        }
    }

    /// The scalar as it was written, for values that become text when they are quoted.
    pub(super) fn unquoted(&self) -> Result<Cow<'_, str>, Wrong> {
        match self {
            WrittenValue::Text(text) if !matches!(yaml::plain(text), Value::String(_)) => {
                Err(Wrong::value(format!("\"{text}\" is quoted, so it is text")))
            }
            _ => Ok(self.text()),
        }
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::schema().1)
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<T, E> {
        T::read(&WrittenValue::Switch(switch)).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::read(&WrittenValue::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::read(&WrittenValue::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        T::read(&WrittenValue::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::read(&WrittenValue::Text(text)).map_err(E::custom)
    }
}

/// Implements [`Deserialize`] for a scalar.
pub(super) fn read<'de, T: Scalar, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(ScalarVisitor(PhantomData))
}

/// The [`JsonSchema`] of a value. `accepts` says in words what the value accepts.
pub(super) fn described(mut schema: Value, accepts: String) -> Schema {
    schema[ACCEPTS] = Value::String(accepts);
    schema.try_into().expect("each schema here is an object")
}

/// Implements the traits of serde and schemars for a [`Scalar`].
macro_rules! scalar {
    ([$($generics:tt)*] $name:ident $arguments:ty) => {
        impl<'de, $($generics)*> Deserialize<'de> for $arguments {
            fn deserialize<From: Deserializer<'de>>(from: From) -> Result<Self, From::Error> {
                $crate::config::value::read(from)
            }
        }

        impl<$($generics)*> Serialize for $arguments {
            fn serialize<To: Serializer>(&self, to: To) -> Result<To::Ok, To::Error> {
                self.written().serialize(to)
            }
        }

        impl<$($generics)*> JsonSchema for $arguments {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let (schema, accepts) = Self::schema();
                $crate::config::value::described(schema, accepts)
            }
        }
    };
}
pub(super) use scalar;

/// Text of `MIN..=MAX` bytes without control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// Text within the bounds. Panics when it is not, which would be a mistake of the broker
    /// itself.
    pub fn of(text: &str) -> Self {
        assert!((MIN..=MAX).contains(&text.len()), "a default is within the bounds");
        Text(text.to_owned())
    }
}

impl<const MIN: usize, const MAX: usize> Deref for Text<MIN, MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Display for Text<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MIN: usize, const MAX: usize> Scalar for Text<MIN, MAX> {
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong> {
        let text = written.text();
        if text.len() < MIN || text.len() > MAX {
            return Err(Wrong::value(format!("the text has {} bytes", text.len())));
        }
        if text.chars().any(char::is_control) {
            return Err(Wrong::new("the text has a control character", "remove it"));
        }
        Ok(Text(text.into_owned()))
    }

    fn written(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> (Value, String) {
        let accepts = match MIN {
            0 => format!("text of at most {MAX} bytes"),
            _ => format!("text of {MIN} to {MAX} bytes"),
        };
        (json!({"type": "string", "minLength": MIN, "maxLength": MAX}), accepts)
    }
}
scalar! { [const MIN: usize, const MAX: usize] Text Text<MIN, MAX> }

/// A word that stands for "no value".
pub trait Word {
    /// The word as it is written.
    const NAME: &'static str;
}

/// A value, or the word `W`, which stands for no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Or<W, T>(pub Option<T>, PhantomData<W>);

impl<W, T> Or<W, T> {
    /// The word.
    pub const NONE: Self = Or(None, PhantomData);

    /// A value.
    pub fn of(value: T) -> Self {
        Or(Some(value), PhantomData)
    }
}

impl<W, T: Get> Get for Or<W, T> {
    type Plain = Option<T::Plain>;

    /// `None` for the word.
    fn get(&self) -> Option<T::Plain> {
        self.0.as_ref().map(Get::get)
    }
}

struct OrVisitor<W, T>(PhantomData<(W, T)>);

impl<'de, W: Word, T: Deserialize<'de>> Visitor<'de> for OrVisitor<W, T> {
    type Value = Or<W, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a value", W::NAME)
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<Or<W, T>, E> {
        T::deserialize(switch.into_deserializer()).map(Or::of)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Or<W, T>, E> {
        T::deserialize(number.into_deserializer()).map(Or::of)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Or<W, T>, E> {
        if text == W::NAME {
            return Ok(Or::NONE);
        }
        T::deserialize(text.into_deserializer()).map(Or::of)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Or<W, T>, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(items)).map(Or::of)
    }
}

impl<'de, W: Word, T: Deserialize<'de>> Deserialize<'de> for Or<W, T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OrVisitor(PhantomData))
    }
}

impl<W: Word, T: Serialize> Serialize for Or<W, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(to),
            None => W::NAME.serialize(to),
        }
    }
}

impl<W: Word, T: JsonSchema> JsonSchema for Or<W, T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", W::NAME, T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let inner = T::json_schema(generator).to_value();
        let accepts = format!("{}, or {}", SchemaKey(&inner).accepts(), W::NAME);
        described(json!({"anyOf": [{"const": W::NAME}, inner]}), accepts)
    }
}

/// A struct of keys. A key that is not written has its default.
pub(super) trait Section: Default {
    /// Reads the section from its keys.
    fn of_keys<'de, A: MapAccess<'de>>(keys: A) -> Result<Self, A::Error>;
}

struct SectionVisitor<T>(PhantomData<T>);

impl<'de, T: Section> Visitor<'de> for SectionVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<T, A::Error> {
        T::of_keys(keys)
    }

    /// `mqtt:` whose lines below are all commented out has all defaults.
    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

/// Implements [`Deserialize`] for a section.
pub(super) fn read_section<'de, T: Section, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(SectionVisitor(PhantomData))
}

/// A section or value that is absent unless it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maybe<T>(pub Option<T>);

impl<T> Deref for Maybe<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(|value| Maybe(Some(value)))
    }
}

impl<T: Serialize> Serialize for Maybe<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<T: JsonSchema> JsonSchema for Maybe<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Maybe{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert(OPTIONAL.to_owned(), Value::Bool(true));
        schema
    }
}

/// A list of at most `MAX` sections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T, const MAX: usize> DerefMut for List<T, MAX> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T, MAX>, A::Error> {
        let mut list = Vec::new();
        while list.len() < MAX {
            match items.next_element()? {
                Some(item) => list.push(item),
                None => return Ok(List(list)),
            }
        }
        match items.size_hint() {
            Some(0) => Ok(List(list)),
            more => {
                let what = format!("the list has {} elements", MAX + more.unwrap_or(1));
                Err(Error::custom(Wrong::new(what, format!("keep at most {MAX}"))))
            }
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ListVisitor(PhantomData))
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<T: JsonSchema, const MAX: usize> JsonSchema for List<T, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        schemars::json_schema!({"type": "array", "items": items, "maxItems": MAX})
    }
}

/// A list of at most `MAX` values of one kind, which counts as a single value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Several<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Several<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let List(values) = List::<T, MAX>::deserialize(from)?;
        Ok(Several(values))
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Several<T, MAX> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<T: JsonSchema, const MAX: usize> JsonSchema for Several<T, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("SeveralOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = T::json_schema(generator).to_value();
        let accepts = format!("a list of at most {MAX}, each {}", SchemaKey(&items).accepts());
        described(json!({"type": "array", "items": items, "maxItems": MAX}), accepts)
    }
}
