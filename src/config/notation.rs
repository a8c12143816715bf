//! How numbers, sizes and times are written, and what is reported about those that cannot be read.
//! Owns the notation only. The bounds of a key are in its type ([`super::quantity`]).

/// Microseconds per second. Times and their bounds are counted in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;
/// Microseconds per hour.
pub(crate) const HOUR: u64 = 3600 * SECOND;
/// Microseconds per day.
pub(crate) const DAY: u64 = 24 * HOUR;
/// Bytes per KiB.
pub(crate) const KIB: u64 = 1 << 10;
/// Bytes per MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes per TiB. No size in the configuration is larger.
pub(crate) const TIB: u64 = 1 << 40;

/// The names of sizes, largest first. Of several names for a size, the first one is written.
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

/// The names of times in microseconds, largest first. Of several names for a time, the first one is
/// written.
const TIMES: [(&str, u64); 7] = [
    ("d", DAY),
    ("h", HOUR),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1000),
    ("us", 1),
    ("µs", 1),
];

/// A number, as far as its notation can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// The number.
    Value(u64),
    /// The text is a number, but it needs more than 64 bits.
    TooLarge,
    /// The text is not a number.
    Unreadable,
}

/// Reads a whole number in decimal digits.
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

/// Reads a number of bytes: `64KiB`, `1MB` or plain digits.
pub(super) fn size(text: &str) -> Parsed {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(split);
    match SIZES.iter().find(|(known, _)| *known == name.trim_start()) {
        Some((_, scale)) => scaled(number, *scale),
        None if name.trim_start().is_empty() => scaled(number, 1),
        None => Parsed::Unreadable,
    }
}

/// Reads a time in microseconds: `10s`, `1h30m`, or plain digits, which are multiplied by `plain`.
/// 0 needs no unit.
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

/// Writes a number of bytes so that it reads back the same.
pub(super) fn show_size(bytes: u64) -> String {
    show_scaled(bytes, SIZES.iter().filter(|(name, _)| name.ends_with("iB")), "B")
}

/// Writes a number of microseconds so that it reads back the same.
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
