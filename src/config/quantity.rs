//! Numbers whose bounds are part of the type: [`Count`], [`Size`], [`Time`] and [`Ratio`]. Owns
//! what each of them accepts. How numbers are written is in [`super::notation`].

use std::borrow::Cow;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::notation::{self, Parsed, SECOND, digits, show_micros, show_size};
use super::problem::Wrong;
use super::value::{Get, Scalar, WrittenValue, scalar};

/// A number in `MIN..=MAX`. `Q` is the quantity: what is counted, and how it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounded<Q, const MIN: u64, const MAX: u64>(u64, PhantomData<Q>);

/// What a number counts, and how it is written.
pub trait Quantity {
    /// The type with which the broker computes.
    type Plain;
    /// The quantity in words, for messages.
    const WHAT: &'static str;
    /// The largest number that [`Self::Plain`] can hold.
    const MOST: u64 = u64::MAX;

    /// The number in the type with which the broker computes.
    fn plain(number: u64) -> Self::Plain;

    /// Reads the number, as far as its notation can be read.
    ///
    /// # Errors
    /// A problem that is more specific than "this is not a number".
    fn parse(written: &WrittenValue<'_>) -> Result<Parsed, Wrong>;

    /// Refuses numbers within the bounds that are not valid all the same.
    ///
    /// # Errors
    /// What is wrong with the number.
    fn check(_number: u64) -> Result<(), Wrong> {
        Ok(())
    }

    /// Writes the number so that it reads back the same.
    fn show(number: u64) -> Value;

    /// The same as [`Scalar::schema`].
    fn schema(min: u64, max: u64) -> (Value, String);
}

impl<Q: Quantity, const MIN: u64, const MAX: u64> Bounded<Q, MIN, MAX> {
    /// A number (of bytes, microseconds or units) within the bounds. Panics when it is not, which
    /// would be a mistake of the broker itself.
    pub fn of(number: u64) -> Self {
        const { assert!(MIN <= MAX && MAX <= Q::MOST, "the type holds what is within the bounds") };
        assert!((MIN..=MAX).contains(&number), "a default is within the bounds");
        Bounded(number, PhantomData)
    }
}

impl<Q: Quantity, const MIN: u64, const MAX: u64> Get for Bounded<Q, MIN, MAX> {
    type Plain = Q::Plain;

    fn get(&self) -> Q::Plain {
        Q::plain(self.0)
    }
}

impl<Q: Quantity, const MIN: u64, const MAX: u64> Scalar for Bounded<Q, MIN, MAX> {
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong> {
        let text = written.text();
        match Q::parse(written)? {
            Parsed::Value(number) if (MIN..=MAX).contains(&number) => {
                Q::check(number)?;
                Ok(Self::of(number))
            }
            Parsed::Unreadable => Err(Wrong::value(format!("`{text}` is not {}", Q::WHAT))),
            _ => Err(Wrong::value(format!("{text} is out of bounds"))),
        }
    }

    fn written(&self) -> Value {
        Q::show(self.0)
    }

    fn schema() -> (Value, String) {
        Q::schema(MIN, MAX)
    }
}
scalar! { [Q: Quantity, const MIN: u64, const MAX: u64] Bounded Bounded<Q, MIN, MAX> }

/// A type of whole numbers with which the broker computes.
pub trait WholeNumber {
    /// The largest number of the type.
    const MOST: u64;

    /// The number in this type. It is not larger than [`Self::MOST`].
    fn of(number: u64) -> Self;
}

macro_rules! whole {
    ($($ty:ty)*) => {$(
        impl WholeNumber for $ty {
            const MOST: u64 = <$ty>::MAX as u64;

            fn of(number: u64) -> $ty {
                number as $ty
            }
        }
    )*};
}
whole! { u8 u16 u32 u64 }

/// What a count counts.
pub trait Unit {
    /// The name of what is counted, in the plural.
    const NAME: &'static str;
    /// True when only powers of two are valid.
    const POWER_OF_TWO: bool = false;
}

/// A whole number of `U`s in `MIN..=MAX`.
pub type Count<T, U, const MIN: u64, const MAX: u64> = Bounded<CountQuantity<T, U>, MIN, MAX>;

/// The quantity of a [`Count`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CountQuantity<T, U>(PhantomData<(T, U)>);

impl<T: WholeNumber, U: Unit> Quantity for CountQuantity<T, U> {
    type Plain = T;
    const WHAT: &'static str = "a whole number";
    const MOST: u64 = T::MOST;

    fn plain(number: u64) -> T {
        T::of(number)
    }

    fn parse(written: &WrittenValue<'_>) -> Result<Parsed, Wrong> {
        Ok(digits(&written.unquoted()?))
    }

    fn check(number: u64) -> Result<(), Wrong> {
        if !U::POWER_OF_TWO || number.is_power_of_two() {
            return Ok(());
        }
        let below = number.next_power_of_two() / 2;
        let near = format!("write {below} or {}", below * 2);
        Err(Wrong::new(format!("{number} is not a power of two"), near))
    }

    fn show(number: u64) -> Value {
        json!(number)
    }

    fn schema(min: u64, max: u64) -> (Value, String) {
        let power = if U::POWER_OF_TWO { ", a power of two" } else { "" };
        let accepts = format!("a whole number of {min} to {max} ({}{power})", U::NAME);
        (whole_number(min, max), accepts)
    }
}

/// Bytes in `MIN..=MAX`: `64KiB`, `1MB` or a plain number.
pub type Size<T, const MIN: u64, const MAX: u64> = Bounded<InBytes<T>, MIN, MAX>;

/// The quantity of a [`Size`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InBytes<T>(PhantomData<T>);

impl<T: WholeNumber> Quantity for InBytes<T> {
    type Plain = T;
    const WHAT: &'static str = "a size";
    const MOST: u64 = T::MOST;

    fn plain(bytes: u64) -> T {
        T::of(bytes)
    }

    fn parse(written: &WrittenValue<'_>) -> Result<Parsed, Wrong> {
        Ok(notation::size(&written.text()))
    }

    fn show(bytes: u64) -> Value {
        if bytes == 0 { json!(0) } else { json!(show_size(bytes)) }
    }

    fn schema(min: u64, max: u64) -> (Value, String) {
        let accepts = format!("a size of {} to {}", show_size(min), show_size(max));
        let named = json!({"type": "string", "pattern": "^[0-9]+ ?([KMGT]i?B|kB|B)?$"});
        (json!({"anyOf": [named, whole_number(min, max)]}), accepts)
    }
}

/// A time in `MIN..=MAX` microseconds: `10s`, `1h30m`; a plain number is seconds.
pub type Time<const MIN: u64, const MAX: u64> = Bounded<InTime<false, false>, MIN, MAX>;
/// Like [`Time`], but in whole seconds, because the protocol carries seconds.
pub type Seconds<const MIN: u64, const MAX: u64> = Bounded<InTime<true, false>, MIN, MAX>;
/// A time so short that a plain number would be misread: a unit is required, except for 0.
pub type ShortTime<const MIN: u64, const MAX: u64> = Bounded<InTime<false, true>, MIN, MAX>;

/// The quantity of a [`Time`], [`Seconds`] or [`ShortTime`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InTime<const WHOLE_SECONDS: bool, const UNIT_REQUIRED: bool>;

impl<const WHOLE_SECONDS: bool, const UNIT_REQUIRED: bool> Quantity
    for InTime<WHOLE_SECONDS, UNIT_REQUIRED>
{
    type Plain = Duration;
    const WHAT: &'static str = "a time (units: us, ms, s, m, h, d)";

    fn plain(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn parse(written: &WrittenValue<'_>) -> Result<Parsed, Wrong> {
        let text = written.text();
        let parsed = notation::micros(&text, (!UNIT_REQUIRED).then_some(SECOND));
        if parsed == Parsed::Unreadable && matches!(digits(&text), Parsed::Value(_)) {
            let fix = format!("write {text}us, {text}ms or {text}s");
            return Err(Wrong::new(format!("`{text}` has no unit"), fix));
        }
        Ok(parsed)
    }

    fn check(micros: u64) -> Result<(), Wrong> {
        if !WHOLE_SECONDS || micros.is_multiple_of(SECOND) {
            return Ok(());
        }
        let time = show_micros(micros);
        Err(Wrong::value(format!("`{time}` is not whole seconds, and MQTT carries seconds")))
    }

    fn show(micros: u64) -> Value {
        if micros == 0 { json!(0) } else { json!(show_micros(micros)) }
    }

    fn schema(min: u64, max: u64) -> (Value, String) {
        let how = match (WHOLE_SECONDS, UNIT_REQUIRED) {
            (true, _) => ", in whole seconds",
            (_, true) => ", with its unit",
            _ => "",
        };
        let accepts = format!("a time of {} to {}{how}", show_micros(min), show_micros(max));
        let units = json!({"type": "string", "pattern": "^([0-9]+ *(us|µs|ms|s|m|h|d))+$"});
        let plain = if UNIT_REQUIRED { (0, 0) } else { (min.div_ceil(SECOND), max / SECOND) };
        (json!({"anyOf": [units, whole_number(plain.0, plain.1)]}), accepts)
    }
}

fn whole_number(min: u64, max: u64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

/// A number with a fraction, in `MIN..=MAX`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio<const MIN: u64, const MAX: u64>(f64);

impl<const MIN: u64, const MAX: u64> Ratio<MIN, MAX> {
    /// A number within the bounds. Panics when it is not, which would be a mistake of the broker
    /// itself.
    pub fn of(number: f64) -> Self {
        assert!(Self::within(number), "a default is within the bounds");
        Ratio(number)
    }

    fn within(number: f64) -> bool {
        number >= MIN as f64 && number <= MAX as f64
    }
}

impl<const MIN: u64, const MAX: u64> Get for Ratio<MIN, MAX> {
    type Plain = f64;

    fn get(&self) -> f64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Scalar for Ratio<MIN, MAX> {
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong> {
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

/// A share of something, which is written in percent: `85%`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Percentage(f64);

impl Percentage {
    /// A share of 1% to 100%. Panics when it is not, which would be a mistake of the broker itself.
    pub fn of(share: f64) -> Self {
        assert!((0.01..=1.0).contains(&share), "a default is within the bounds");
        Percentage(share)
    }
}

impl Get for Percentage {
    type Plain = f64;

    /// The share as a fraction of one.
    fn get(&self) -> f64 {
        self.0
    }
}

impl Scalar for Percentage {
    fn read(written: &WrittenValue<'_>) -> Result<Self, Wrong> {
        let text = written.text();
        let number = text.strip_suffix('%').map(str::trim).filter(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        match number.and_then(|digits| digits.parse::<u32>().ok()) {
            Some(percent @ 1..=100) => Ok(Percentage(f64::from(percent) / 100.0)),
            Some(_) => Err(Wrong::value(format!("{text} is out of bounds"))),
            None => Err(Wrong::value(format!("`{text}` is no share such as 85%"))),
        }
    }

    fn written(&self) -> Value {
        json!(format!("{}%", (self.0 * 100.0).round()))
    }

    fn schema() -> (Value, String) {
        let accepts = "a share of 1% to 100%".to_owned();
        (json!({"type": "string", "pattern": "^[0-9]+ *%$"}), accepts)
    }
}
scalar! { [] Percentage Percentage }
