//! Single values: numbers, sizes, durations, words, cores and addresses, from text and back. Owns
//! their notation.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::problem::Wrong;
use super::spec::{DAY, Kind, SECOND, Spec};
use super::table::{Bind, Cores, MemoryBudget};
use super::tree::{self, Node, Value};
use crate::limits;

/// The highest core number that can be pinned to (the width of the kernel's `cpu_set_t`, less one).
const MAX_CORE: u16 = 1023;

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

/// Names of durations in microseconds, largest first; the first of each value is the one written.
const TIMES: [(&str, u64); 7] = [
    ("d", DAY),
    ("h", 3600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
    ("ms", 1000),
    ("us", 1),
    ("µs", 1),
];

/// A value without keys of its own.
pub(crate) trait Plain: Sized {
    /// Reads it, bounds included.
    fn from_node(node: &Node, spec: &Spec) -> Result<Self, Wrong>;

    /// Writes it as YAML that reads back the same.
    fn show(&self, spec: &Spec) -> String;

    /// Reads it from YAML text.
    fn from_text(text: &str, spec: &Spec) -> Result<Self, Wrong> {
        let built_in = |_| super::problem::Origin::built_in();
        let node = tree::read(text, &built_in, &mut Vec::new())
            .map_err(|problem| Wrong { what: problem.what, fix: problem.fix })?;
        Self::from_node(&node, spec)
    }
}

/// The text of a plain value, quoted or not.
pub(crate) fn text_of<'a>(node: &'a Node, spec: &Spec) -> Result<&'a str, Wrong> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        Value::Nothing => Err(Wrong::new("the key has no value", write_this(spec))),
        _ => Err(Wrong::new(format!("this is {}", node.kind()), write_this(spec))),
    }
}

/// The text of a value that quotes would turn into something else: numbers and `true`.
fn unquoted<'a>(node: &'a Node, spec: &Spec) -> Result<&'a str, Wrong> {
    let text = text_of(node, spec)?;
    match &node.value {
        Value::Scalar { quoted: true, .. } => {
            Err(Wrong::new(format!("\"{text}\" is quoted, so it is text"), write_this(spec)))
        }
        _ => Ok(text),
    }
}

fn write_this(spec: &Spec) -> String {
    format!("write {}", expected(spec))
}

/// What a key accepts, in words: "a size of 256B to 1MiB, or unlimited".
pub(crate) fn expected(spec: &Spec) -> String {
    let (min, max) = (spec.min, spec.max);
    let body = match spec.kind {
        Kind::Switch => "true or false".to_owned(),
        Kind::Count => {
            let power = if spec.power_of_two { ", a power of two" } else { "" };
            format!("a whole number of {min} to {max} ({}{power})", spec.unit)
        }
        Kind::Ratio => format!("a number of {min} to {max}"),
        Kind::Size => format!("a size of {} to {}", show_size(min), show_size(max)),
        Kind::Duration | Kind::ShortDuration => {
            let whole = if spec.whole_seconds { ", in whole seconds" } else { "" };
            format!("a time of {} to {}{whole}", show_micros(min), show_micros(max))
        }
        Kind::Choice(words) => format!("one of: {}", words.join(", ")),
        Kind::Text if min == 0 => format!("text of at most {max} bytes"),
        Kind::Text => format!("text of {min} to {max} bytes"),
        Kind::Cores => "a list of cores such as [0, 2, 4-7]".to_owned(),
        Kind::Bind => "address:port, \"[IPv6 address]:port\" or a path with a /".to_owned(),
        Kind::Address => "address:port or \"[IPv6 address]:port\"".to_owned(),
        Kind::Section => "keys below it".to_owned(),
        Kind::List => "a list of elements with keys".to_owned(),
    };
    match spec.word {
        Some(word) => format!("{body}, or {word}"),
        None => body,
    }
}

fn out_of_bounds(shown: &str, spec: &Spec) -> Wrong {
    Wrong::new(format!("{shown} is out of bounds"), write_this(spec))
}

impl Plain for bool {
    fn from_node(node: &Node, spec: &Spec) -> Result<bool, Wrong> {
        match unquoted(node, spec)? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => {
                Err(Wrong::new(format!("`{other}` is neither true nor false"), write_this(spec)))
            }
        }
    }

    fn show(&self, _: &Spec) -> String {
        self.to_string()
    }
}

macro_rules! whole_numbers {
    ($($ty:ty)*) => {$(
        impl Plain for $ty {
            fn from_node(node: &Node, spec: &Spec) -> Result<$ty, Wrong> {
                let number = number(node, spec)?;
                <$ty>::try_from(number).map_err(|_| out_of_bounds(&number.to_string(), spec))
            }

            fn show(&self, spec: &Spec) -> String {
                match spec.kind {
                    Kind::Size => show_size(u64::from(*self)),
                    _ => self.to_string(),
                }
            }
        }
    )*};
}
whole_numbers!(u8 u16 u32 u64);

fn number(node: &Node, spec: &Spec) -> Result<u64, Wrong> {
    let (number, text) = match spec.kind {
        Kind::Size => {
            let text = text_of(node, spec)?;
            (parse_size(text), text)
        }
        _ => {
            let text = unquoted(node, spec)?;
            (digits(text), text)
        }
    };
    let number = match number {
        Parsed::Value(number) => number,
        Parsed::TooLarge => return Err(out_of_bounds(text, spec)),
        Parsed::Unreadable => {
            let kind = if spec.kind == Kind::Size { "a size" } else { "a whole number" };
            return Err(Wrong::new(format!("`{text}` is not {kind}"), write_this(spec)));
        }
    };
    if number < spec.min || number > spec.max {
        return Err(out_of_bounds(text, spec));
    }
    if spec.power_of_two && !number.is_power_of_two() {
        let below = number.next_power_of_two() / 2;
        let near = format!("write {below} or {}", below * 2);
        return Err(Wrong::new(format!("{number} is not a power of two"), near));
    }
    Ok(number)
}

/// A number as far as its notation goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parsed {
    Value(u64),
    TooLarge,
    Unreadable,
}

fn digits(text: &str) -> Parsed {
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

fn parse_size(text: &str) -> Parsed {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = (&text[..split], text[split..].trim_start());
    match SIZES.iter().find(|(known, _)| *known == name) {
        Some((_, scale)) => scaled(number, *scale),
        None if name.is_empty() => scaled(number, 1),
        None => Parsed::Unreadable,
    }
}

fn show_size(bytes: u64) -> String {
    show_scaled(bytes, SIZES.iter().filter(|(name, _)| name.ends_with("iB")), "B")
}

fn show_micros(micros: u64) -> String {
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

/// `10s`, `1h30m`, or plain digits times `plain` microseconds.
fn parse_micros(text: &str, plain: Option<u64>) -> Parsed {
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

impl Plain for Duration {
    fn from_node(node: &Node, spec: &Spec) -> Result<Duration, Wrong> {
        let text = text_of(node, spec)?;
        let short = spec.kind == Kind::ShortDuration;
        match parse_micros(text, (!short).then_some(SECOND)) {
            Parsed::Value(micros) if micros < spec.min || micros > spec.max => {
                Err(out_of_bounds(text, spec))
            }
            Parsed::Value(micros) if spec.whole_seconds && !micros.is_multiple_of(SECOND) => {
                let what = format!("`{text}` is not whole seconds, and MQTT carries seconds");
                Err(Wrong::new(what, write_this(spec)))
            }
            Parsed::Value(micros) => Ok(Duration::from_micros(micros)),
            Parsed::TooLarge => Err(out_of_bounds(text, spec)),
            Parsed::Unreadable if short && matches!(digits(text), Parsed::Value(_)) => {
                let what = format!("`{text}` has no unit");
                Err(Wrong::new(what, format!("write {text}us, {text}ms or {text}s")))
            }
            Parsed::Unreadable => {
                let fix = format!("{} (units: us, ms, s, m, h, d)", write_this(spec));
                Err(Wrong::new(format!("`{text}` is not a time"), fix))
            }
        }
    }

    fn show(&self, _: &Spec) -> String {
        show_micros(u64::try_from(self.as_micros()).unwrap_or(u64::MAX))
    }
}

impl Plain for f64 {
    fn from_node(node: &Node, spec: &Spec) -> Result<f64, Wrong> {
        let text = unquoted(node, spec)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse::<f64>() {
            Ok(number) if plain && number >= spec.min as f64 && number <= spec.max as f64 => {
                Ok(number)
            }
            Ok(_) if plain => Err(out_of_bounds(text, spec)),
            _ => Err(Wrong::new(format!("`{text}` is not a number"), write_this(spec))),
        }
    }

    fn show(&self, _: &Spec) -> String {
        self.to_string()
    }
}

impl Plain for String {
    fn from_node(node: &Node, spec: &Spec) -> Result<String, Wrong> {
        let text = text_of(node, spec)?;
        if (text.len() as u64) < spec.min || text.len() as u64 > spec.max {
            return Err(Wrong::new(format!("the text has {} bytes", text.len()), write_this(spec)));
        }
        if text.chars().any(char::is_control) {
            return Err(Wrong::new("the text has a control character", "remove it"));
        }
        Ok(text.to_owned())
    }

    fn show(&self, _: &Spec) -> String {
        format!("\"{}\"", self.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

impl<T: Plain> Plain for Option<T> {
    fn from_node(node: &Node, spec: &Spec) -> Result<Option<T>, Wrong> {
        match &node.value {
            Value::Scalar { text, .. } if spec.word == Some(text) => Ok(None),
            _ => T::from_node(node, spec).map(Some),
        }
    }

    fn show(&self, spec: &Spec) -> String {
        match self {
            Some(value) => value.show(spec),
            None => spec.word.unwrap_or("null").to_owned(),
        }
    }
}

impl Plain for MemoryBudget {
    fn from_node(node: &Node, spec: &Spec) -> Result<MemoryBudget, Wrong> {
        match text_of(node, spec)? {
            "auto" => Ok(MemoryBudget::Auto),
            "unlimited" => Ok(MemoryBudget::Unlimited),
            _ => u64::from_node(node, spec).map(MemoryBudget::Bytes),
        }
    }

    fn show(&self, spec: &Spec) -> String {
        match self {
            MemoryBudget::Auto => "auto".to_owned(),
            MemoryBudget::Unlimited => "unlimited".to_owned(),
            MemoryBudget::Bytes(bytes) => bytes.show(spec),
        }
    }
}

impl Plain for Cores {
    fn from_node(node: &Node, spec: &Spec) -> Result<Cores, Wrong> {
        let items = match &node.value {
            Value::Scalar { text, .. } if spec.word == Some(text) => return Ok(Cores::Auto),
            Value::List(items) if !items.is_empty() => items,
            Value::Scalar { text, .. } => {
                let what = format!("`{text}` is neither auto nor a list");
                let fix = "write [4] for core 4, or [0-3] for four cores";
                return Err(Wrong::new(what, fix));
            }
            _ => return Err(Wrong::new("no core is listed", write_this(spec))),
        };
        let mut cores = Vec::new();
        let mut count = 0;
        for item in items {
            let (first, last) = core_range(unquoted(item, spec)?)?;
            count += usize::from(last - first) + 1;
            if count <= limits::MAX_SHARDS {
                cores.extend(first..=last);
            }
        }
        if count > limits::MAX_SHARDS {
            let what = format!("{count} cores are listed");
            return Err(Wrong::new(what, format!("list at most {}", limits::MAX_SHARDS)));
        }
        Ok(Cores::List(cores))
    }

    fn show(&self, _: &Spec) -> String {
        match self {
            Cores::Auto => "auto".to_owned(),
            Cores::List(cores) => {
                let cores: Vec<String> = cores.iter().map(u16::to_string).collect();
                format!("[{}]", cores.join(", "))
            }
        }
    }
}

fn core_range(text: &str) -> Result<(u16, u16), Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let fix = format!("write numbers of 0 to {MAX_CORE} and ranges such as 4-7");
    match (digits(first.trim()), digits(last.trim())) {
        (Parsed::Value(first), Parsed::Value(last)) if last <= u64::from(MAX_CORE) => {
            if first > last {
                let what = format!("the range `{text}` runs backwards");
                return Err(Wrong::new(what, format!("write {last}-{first}")));
            }
            Ok((first as u16, last as u16))
        }
        _ => Err(Wrong::new(format!("`{text}` is not a core or a range of cores"), fix)),
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => write!(f, "{address}"),
            Bind::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Plain for Bind {
    fn from_node(node: &Node, spec: &Spec) -> Result<Bind, Wrong> {
        let text = text_of(node, spec)?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Bind::Tcp(address));
        }
        if text.contains('/') && !text.contains('\0') {
            return Ok(Bind::Unix(PathBuf::from(text)));
        }
        Err(no_address(text, spec, 1883))
    }

    fn show(&self, spec: &Spec) -> String {
        match self {
            Bind::Tcp(address) => address.show(spec),
            Bind::Unix(path) => format!("\"{}\"", path.display()),
        }
    }
}

impl Plain for SocketAddr {
    fn from_node(node: &Node, spec: &Spec) -> Result<SocketAddr, Wrong> {
        let text = text_of(node, spec)?;
        text.parse().map_err(|_| no_address(text, spec, 18083))
    }

    fn show(&self, _: &Spec) -> String {
        match self {
            SocketAddr::V6(_) => format!("\"{self}\""),
            SocketAddr::V4(_) => self.to_string(),
        }
    }
}

fn no_address(text: &str, spec: &Spec, usual: u16) -> Wrong {
    let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
    let fix = match port {
        Some(port) => format!(
            "write 0.0.0.0:{port}, \"[::]:{port}\" or 127.0.0.1:{port} (host names are not \
             looked up)"
        ),
        None => format!("write {}, such as 127.0.0.1:{usual}", expected(spec)),
    };
    Wrong::new(format!("`{text}` is not an address with a port"), fix)
}
