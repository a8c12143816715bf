//! How numbers, sizes and times are written, and what is said of those that cannot be read. Owns
//! notation only: which bounds a key has is in its type ([`super::bounded`]).

/// Microseconds in a second: the unit of times and their bounds.
pub(crate) const SECOND: u64 = 1_000_000;
/// Microseconds in an hour.
pub(crate) const HOUR: u64 = 3600 * SECOND;
/// Microseconds in a day.
pub(crate) const DAY: u64 = 24 * HOUR;
/// Bytes in a KiB.
pub(crate) const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes in a TiB: no size in this file is larger.
pub(crate) const TIB: u64 = 1 << 40;

/// Names of sizes, largest first; the first of each value is the one written.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Names of times in microseconds, largest first; the first of each value is the one written.
const TIMES: [(&str, u64); 7] = [
    ("d", DAY),
    ("h", HOUR),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1000),
    ("us", 1),
    ("µs", 1),
];

/// A number as far as its notation goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The number.
    Value(u64),
    /// It is a number, but of more than 64 bits.
    TooLarge,
    /// It is none.
    Unreadable,
}

/// A whole number in decimal digits.
pub(super) fn digits(text: &str) -> Parsed {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Parsed::Unreadable;
    }
    text.parse().map_or(Parsed::TooLarge, Parsed::Value)
}

fn scaled(number: &str, scale: u64) -> Parsed {
    match digits(number) {
        Parsed::Value(number) => number.checked_mul(scale).map_or(Parsed::TooLarge, Parsed::Value),
        other => other,
    }
}

/// Bytes: `64KiB`, `1MB` or plain digits.
pub(super) fn size(text: &str) -> Parsed {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(split);
    match SIZES.iter().find(|(known, _)| *known == name.trim_start()) {
        Some((_, scale)) => scaled(number, *scale),
        None if name.trim_start().is_empty() => scaled(number, 1),
        None => Parsed::Unreadable,
    }
}

/// Microseconds: `10s`, `1h30m`, or plain digits times `plain`; 0 needs no unit.
pub(super) fn micros(text: &str, plain: Option<u64>) -> Parsed {
    if let Some(scale) = plain.or((text == "0").then_some(1))
        && let parsed @ (Parsed::Value(_) | Parsed::TooLarge) = scaled(text, scale)
    {
        return parsed;
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let letters = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(letters);
        let end = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(end);
        let Some((_, scale)) = TIMES.iter().find(|(known, _)| *known == name.trim()) else {
            return Parsed::Unreadable;
        };
        match scaled(number, *scale) {
            Parsed::Value(part) => match total.checked_add(part) {
                Some(sum) => total = sum,
                None => return Parsed::TooLarge,
            },
            other => return other,
        }
        rest = tail;
    }
    if text.is_empty() { Parsed::Unreadable } else { Parsed::Value(total) }
}

/// Bytes, so that they read back the same.
pub(super) fn show_size(bytes: u64) -> String {
    show_scaled(bytes, SIZES.iter().filter(|(name, _)| name.ends_with("iB")), "B")
}

/// Microseconds, so that they read back the same.
pub(super) fn show_micros(micros: u64) -> String {
    show_scaled(micros, TIMES.iter(), "us")
}

fn show_scaled<'a>(
    number: u64,
    mut names: impl Iterator<Item = &'a (&'a str, u64)>,
    smallest: &str,
) -> String {
    match names.find(|(_, scale)| number >= *scale && number.is_multiple_of(*scale)) {
        _ if number == 0 => "0".to_owned(),
        Some((name, scale)) => format!("{}{name}", number / scale),
        None => format!("{number}{smallest}"),
    }
}
