//! Types of values whose bounds are part of the type: [`Count`], [`Size`], [`Time`], [`Ratio`],
//! [`Text`], the word for "no value" in [`Or`], and [`List`]. Owns how each is read, written and
//! described; knows no key.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::notation::{self, Parsed, SECOND, digits, show_micros, show_size};
use super::problem::Wrong;
use super::schema::{ACCEPTS, Key};

/// A value that is written as one word, number or text.
pub trait Scalar: Sized {
    /// What the broker computes with.
    type Plain;

    /// The value to compute with.
    fn get(&self) -> Self::Plain;
}

/// How a [`Scalar`] is read and written; [`scalar!`] makes serde's and schemars' traits of it.
pub(super) trait Notation: Sized {
    /// Reads it, bounds included.
    fn read(written: &Written<'_>) -> Result<Self, Wrong>;

    /// Writes it so that it reads back the same.
    fn written(&self) -> Value;

    /// The JSON Schema, and what is accepted in words: "a size of 256B to 1MiB".
    fn schema() -> (Value, String);
}

/// A scalar of the document.
pub(super) enum Written<'a> {
    /// `true` or `false`.
    Switch(bool),
    /// A number.
    Number(String),
    /// Any other word, and whatever stands in quotes.
    Text(&'a str),
}

impl Written<'_> {
    /// As it was written, without quotes.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Written::Switch(switch) => Cow::Owned(switch.to_string()),
            Written::Number(number) => Cow::Borrowed(number),
            Written::Text(text) => Cow::Borrowed(text),
        }
    }

    /// The same for values that quotes turn into text.
    pub(super) fn unquoted(&self) -> Result<Cow<'_, str>, Wrong> {
        match self {
            Written::Text(text) if !matches!(super::yaml::plain(text), Value::String(_)) => {
                Err(Wrong::value(format!("\"{text}\" is quoted, so it is text")))
            }
            _ => Ok(self.text()),
        }
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Notation> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::schema().1)
    }

    fn visit_bool<E: Error>(self, switch: bool) -> Result<T, E> {
        T::read(&Written::Switch(switch)).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::read(&Written::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::read(&Written::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        T::read(&Written::Number(number.to_string())).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::read(&Written::Text(text)).map_err(E::custom)
    }
}

/// [`Deserialize`] of a scalar.
pub(super) fn read<'de, T: Notation, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_any(ScalarVisitor(PhantomData))
}

/// [`JsonSchema`] of a value that accepts this, in words.
pub(super) fn described(mut schema: Value, accepts: String) -> Schema {
    schema[ACCEPTS] = Value::String(accepts);
    schema.try_into().expect("each schema here is an object")
}

/// serde's and schemars' traits for a type with [`Notation`].
macro_rules! scalar {
    ([$($generics:tt)*] $name:ident $arguments:ty) => {
        impl<'de, $($generics)*> Deserialize<'de> for $arguments {
            fn deserialize<From: Deserializer<'de>>(from: From) -> Result<Self, From::Error> {
                $crate::config::bounded::read(from)
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
                $crate::config::bounded::described(schema, accepts)
            }
        }
    };
}
pub(super) use scalar;

/// A whole number that fits the type.
pub trait Whole: Copy + TryFrom<u64> + Into<u64> + 'static {}
impl Whole for u8 {}
impl Whole for u16 {}
impl Whole for u32 {}
impl Whole for u64 {}

/// What a count counts.
pub trait Unit {
    /// In words, plural.
    const NAME: &'static str;
    /// Only powers of two.
    const POWER_OF_TWO: bool = false;
}

/// A whole number of `U`s in `MIN..=MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count<T, U, const MIN: u64, const MAX: u64>(T, PhantomData<U>);

impl<T: Whole, U: Unit, const MIN: u64, const MAX: u64> Count<T, U, MIN, MAX> {
    /// A number within the bounds: another is a mistake in the broker itself.
    pub fn of(number: T) -> Self {
        let within = (MIN..=MAX).contains(&number.into());
        assert!(within, "a default is within the bounds");
        Count(number, PhantomData)
    }
}

impl<T: Whole, U: Unit, const MIN: u64, const MAX: u64> Scalar for Count<T, U, MIN, MAX> {
    type Plain = T;

    fn get(&self) -> T {
        self.0
    }
}

impl<T: Whole, U: Unit, const MIN: u64, const MAX: u64> Notation for Count<T, U, MIN, MAX> {
    fn read(written: &Written<'_>) -> Result<Self, Wrong> {
        let text = written.unquoted()?;
        let number = digits(&text).within((MIN, MAX), &text, "a whole number")?;
        if U::POWER_OF_TWO && !number.is_power_of_two() {
            let below = number.next_power_of_two() / 2;
            let near = format!("write {below} or {}", below * 2);
            return Err(Wrong::new(format!("{number} is not a power of two"), near));
        }
        let fits = T::try_from(number).ok();
        let number = fits.ok_or_else(|| Wrong::value(format!("{text} is out of bounds")))?;
        Ok(Count(number, PhantomData))
    }

    fn written(&self) -> Value {
        json!(self.0.into())
    }

    fn schema() -> (Value, String) {
        let power = if U::POWER_OF_TWO { ", a power of two" } else { "" };
        let accepts = format!("a whole number of {MIN} to {MAX} ({}{power})", U::NAME);
        (json!({"type": "integer", "minimum": MIN, "maximum": MAX}), accepts)
    }
}
scalar! { [T: Whole, U: Unit, const MIN: u64, const MAX: u64] Count Count<T, U, MIN, MAX> }

/// Bytes in `MIN..=MAX`: `64KiB`, `1MB` or a plain number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size<T, const MIN: u64, const MAX: u64>(T);

impl<T: Whole, const MIN: u64, const MAX: u64> Size<T, MIN, MAX> {
    /// Bytes within the bounds: others are a mistake in the broker itself.
    pub fn of(bytes: T) -> Self {
        let within = (MIN..=MAX).contains(&bytes.into());
        assert!(within, "a default is within the bounds");
        Size(bytes)
    }
}

impl<T: Whole, const MIN: u64, const MAX: u64> Scalar for Size<T, MIN, MAX> {
    type Plain = T;

    fn get(&self) -> T {
        self.0
    }
}

impl<T: Whole, const MIN: u64, const MAX: u64> Notation for Size<T, MIN, MAX> {
    fn read(written: &Written<'_>) -> Result<Self, Wrong> {
        let text = written.text();
        let bytes = notation::size(&text).within((MIN, MAX), &text, "a size")?;
        let fits = T::try_from(bytes).ok();
        fits.map(Size).ok_or_else(|| Wrong::value(format!("{text} is out of bounds")))
    }

    fn written(&self) -> Value {
        match self.0.into() {
            0 => json!(0),
            bytes => json!(show_size(bytes)),
        }
    }

    fn schema() -> (Value, String) {
        let accepts = format!("a size of {} to {}", show_size(MIN), show_size(MAX));
        let plain = json!({"type": "integer", "minimum": MIN, "maximum": MAX});
        let named = json!({"type": "string", "pattern": "^[0-9]+ ?([KMGT]i?B|kB|B)?$"});
        (json!({"anyOf": [named, plain]}), accepts)
    }
}
scalar! { [T: Whole, const MIN: u64, const MAX: u64] Size Size<T, MIN, MAX> }

/// How a time is written.
pub trait TimeStyle {
    /// A plain number would be misread: a unit is required, except for 0.
    const UNIT_REQUIRED: bool = false;
    /// The protocol carries whole seconds.
    const WHOLE_SECONDS: bool = false;
}

/// A time in `MIN..=MAX` microseconds: `10s`, `1h30m`; a plain number is seconds.
pub type Time<const MIN: u64, const MAX: u64> = Interval<Any, MIN, MAX>;
/// The same in whole seconds, because the protocol carries seconds.
pub type Seconds<const MIN: u64, const MAX: u64> = Interval<InSeconds, MIN, MAX>;
/// A time so short that a plain number would be misread: a unit is required.
pub type ShortTime<const MIN: u64, const MAX: u64> = Interval<WithUnit, MIN, MAX>;

/// Any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Any {}
impl TimeStyle for Any {}

/// Whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InSeconds {}
impl TimeStyle for InSeconds {
    const WHOLE_SECONDS: bool = true;
}

/// The unit is required.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithUnit {}
impl TimeStyle for WithUnit {
    const UNIT_REQUIRED: bool = true;
}

/// A time in `MIN..=MAX` microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval<S, const MIN: u64, const MAX: u64>(u64, PhantomData<S>);

impl<S: TimeStyle, const MIN: u64, const MAX: u64> Interval<S, MIN, MAX> {
    /// Microseconds within the bounds: others are a mistake in the broker itself.
    pub fn of(micros: u64) -> Self {
        assert!((MIN..=MAX).contains(&micros), "a default is within the bounds");
        Interval(micros, PhantomData)
    }
}

impl<S: TimeStyle, const MIN: u64, const MAX: u64> Scalar for Interval<S, MIN, MAX> {
    type Plain = Duration;

    fn get(&self) -> Duration {
        Duration::from_micros(self.0)
    }
}

impl<S: TimeStyle, const MIN: u64, const MAX: u64> Notation for Interval<S, MIN, MAX> {
    fn read(written: &Written<'_>) -> Result<Self, Wrong> {
        let text = written.text();
        let parsed = notation::micros(&text, (!S::UNIT_REQUIRED).then_some(SECOND));
        if parsed == Parsed::Unreadable {
            if matches!(digits(&text), Parsed::Value(_)) {
                let fix = format!("write {text}us, {text}ms or {text}s");
                return Err(Wrong::new(format!("`{text}` has no unit"), fix));
            }
            let what = format!("`{text}` is not a time (units: us, ms, s, m, h, d)");
            return Err(Wrong::value(what));
        }
        let micros = parsed.within((MIN, MAX), &text, "a time")?;
        if S::WHOLE_SECONDS && !micros.is_multiple_of(SECOND) {
            let what = format!("`{text}` is not whole seconds, and MQTT carries seconds");
            return Err(Wrong::value(what));
        }
        Ok(Interval(micros, PhantomData))
    }

    fn written(&self) -> Value {
        match self.0 {
            0 => json!(0),
            micros => json!(show_micros(micros)),
        }
    }

    fn schema() -> (Value, String) {
        let how = match (S::WHOLE_SECONDS, S::UNIT_REQUIRED) {
            (true, _) => ", in whole seconds",
            (_, true) => ", with its unit",
            _ => "",
        };
        let accepts = format!("a time of {} to {}{how}", show_micros(MIN), show_micros(MAX));
        let pattern = "^(([0-9]+ ?(us|µs|ms|s|m|h|d))+|[0-9]+)$";
        let named = json!({"type": "string", "pattern": pattern});
        if S::UNIT_REQUIRED {
            return (json!({"anyOf": [named, {"const": 0}]}), accepts);
        }
        let (least, most) = (MIN.div_ceil(SECOND), MAX / SECOND);
        let plain = json!({"type": "integer", "minimum": least, "maximum": most});
        (json!({"anyOf": [named, plain]}), accepts)
    }
}
scalar! { [S: TimeStyle, const MIN: u64, const MAX: u64] Interval Interval<S, MIN, MAX> }

/// A number with a fraction in `MIN..=MAX`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio<const MIN: u64, const MAX: u64>(f64);

impl<const MIN: u64, const MAX: u64> Ratio<MIN, MAX> {
    /// A number within the bounds: another is a mistake in the broker itself.
    pub fn of(number: f64) -> Self {
        assert!(Self::within(number), "a default is within the bounds");
        Ratio(number)
    }

    fn within(number: f64) -> bool {
        number >= MIN as f64 && number <= MAX as f64
    }
}

impl<const MIN: u64, const MAX: u64> Scalar for Ratio<MIN, MAX> {
    type Plain = f64;

    fn get(&self) -> f64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Notation for Ratio<MIN, MAX> {
    fn read(written: &Written<'_>) -> Result<Self, Wrong> {
        let text = written.unquoted()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse::<f64>() {
            Ok(number) if plain && Self::within(number) => Ok(Ratio(number)),
            Ok(_) if plain => Err(Wrong::value(format!("{text} is out of bounds"))),
            _ => Err(Wrong::value(format!("`{text}` is not a number"))),
        }
    }

    fn written(&self) -> Value {
        json!(self.0)
    }

    fn schema() -> (Value, String) {
        let accepts = format!("a number of {MIN} to {MAX}");
        (json!({"type": "number", "minimum": MIN, "maximum": MAX}), accepts)
    }
}
scalar! { [const MIN: u64, const MAX: u64] Ratio Ratio<MIN, MAX> }

/// Text of `MIN..=MAX` bytes without control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    /// Text within the bounds: another is a mistake in the broker itself.
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

impl<const MIN: usize, const MAX: usize> Notation for Text<MIN, MAX> {
    fn read(written: &Written<'_>) -> Result<Self, Wrong> {
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
    /// As it is written.
    const NAME: &'static str;
}

/// A value, or the word `W` for none.
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

impl<W, T: Scalar> Or<W, T> {
    /// The value to compute with; `None` for the word.
    pub fn get(&self) -> Option<T::Plain> {
        self.0.as_ref().map(Scalar::get)
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
        let accepts = format!("{}, or {}", Key(&inner).accepts(), W::NAME);
        described(json!({"anyOf": [{"const": W::NAME}, inner]}), accepts)
    }
}

/// At most `MAX` sections.
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
