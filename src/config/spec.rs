//! What a key of the configuration accepts: its kind, unit, bounds and special word. Owns the
//! vocabulary of the table in [`super::table`]; knows no key by name.

/// Microseconds in a second: the unit of duration bounds.
pub(crate) const SECOND: u64 = 1_000_000;
/// Microseconds in a day.
pub(crate) const DAY: u64 = 86_400 * SECOND;
/// Bytes in a KiB.
pub(crate) const KIB: u64 = 1 << 10;
/// Bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes in a TiB: no size in this file is larger.
pub(crate) const TIB: u64 = 1 << 40;

/// The shape of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Count,
    /// A number with a fraction.
    Ratio,
    /// Bytes: `64KiB`, `1MB` or a plain number of bytes.
    Size,
    /// A time: `10s`, `1h30m`, or a plain number of seconds.
    Duration,
    /// A time so short that a plain number would be misread: a unit is required, except for 0.
    ShortDuration,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// `auto` or a list of core numbers and ranges.
    Cores,
    /// `address:port`, `[address]:port` or a path.
    Bind,
    /// `address:port` or `[address]:port`.
    Address,
    /// Keys of its own.
    Section,
    /// A list of sections.
    List,
}

/// Words that belong to a later capability: refused by name, never read and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Later {
    /// What the words are, for the message: "listener type".
    pub noun: &'static str,
    /// The words.
    pub words: &'static [&'static str],
}

/// Kind, unit, bounds and special word of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spec {
    /// The shape of the value.
    pub kind: Kind,
    /// Lowest value; bytes for sizes, microseconds for durations.
    pub min: u64,
    /// Highest value, in the same unit.
    pub max: u64,
    /// What a count counts; empty for other kinds.
    pub unit: &'static str,
    /// The word for "no value" (`unlimited`, `never`, `off`, `auto`).
    pub word: Option<&'static str>,
    /// Words of later capabilities.
    pub later: Later,
    /// A duration must be whole seconds, because the protocol carries seconds.
    pub whole_seconds: bool,
    /// A count must be a power of two, because the kernel's buffer rings are.
    pub power_of_two: bool,
}

const fn plain(kind: Kind, min: u64, max: u64, unit: &'static str) -> Spec {
    let later = Later { noun: "", words: &[] };
    Spec { kind, min, max, unit, word: None, later, whole_seconds: false, power_of_two: false }
}

/// `true` or `false`.
pub(crate) const fn switch() -> Spec {
    plain(Kind::Switch, 0, 0, "")
}

/// A whole number of `unit`s in `min..=max`.
pub(crate) const fn count(min: u64, max: u64, unit: &'static str) -> Spec {
    plain(Kind::Count, min, max, unit)
}

/// A number with a fraction in `min..=max`.
pub(crate) const fn ratio(min: u64, max: u64) -> Spec {
    plain(Kind::Ratio, min, max, "")
}

/// Bytes in `min..=max`.
pub(crate) const fn size(min: u64, max: u64) -> Spec {
    plain(Kind::Size, min, max, "")
}

/// Microseconds in `min..=max`; plain numbers in the file are seconds.
pub(crate) const fn duration(min: u64, max: u64) -> Spec {
    plain(Kind::Duration, min, max, "")
}

/// Microseconds in `min..=max`; a unit is required in the file.
pub(crate) const fn short_duration(min: u64, max: u64) -> Spec {
    plain(Kind::ShortDuration, min, max, "")
}

/// One of `words`.
pub(crate) const fn choice(words: &'static [&'static str]) -> Spec {
    plain(Kind::Choice(words), 0, 0, "")
}

/// Text of `min..=max` bytes.
pub(crate) const fn text(min: u64, max: u64) -> Spec {
    plain(Kind::Text, min, max, "")
}

/// `auto` or a list of cores.
pub(crate) const fn cores() -> Spec {
    plain(Kind::Cores, 0, 0, "").or("auto")
}

/// An address or a path.
pub(crate) const fn bind() -> Spec {
    plain(Kind::Bind, 0, 0, "")
}

/// An address.
pub(crate) const fn address() -> Spec {
    plain(Kind::Address, 0, 0, "")
}

/// Keys of its own.
pub(crate) const fn section() -> Spec {
    plain(Kind::Section, 0, 0, "")
}

/// A list of sections.
pub(crate) const fn list() -> Spec {
    plain(Kind::List, 0, 0, "")
}

impl Spec {
    /// Adds the word that stands for "no value".
    pub(crate) const fn or(mut self, word: &'static str) -> Spec {
        self.word = Some(word);
        self
    }

    /// Requires whole seconds.
    pub(crate) const fn whole_seconds(mut self) -> Spec {
        self.whole_seconds = true;
        self
    }

    /// Requires a power of two.
    pub(crate) const fn power_of_two(mut self) -> Spec {
        self.power_of_two = true;
        self
    }

    /// Refuses words of a later capability by name.
    pub(crate) const fn later(
        mut self,
        noun: &'static str,
        words: &'static [&'static str],
    ) -> Spec {
        self.later = Later { noun, words };
        self
    }
}

/// One line of the table: a key within its section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// The key.
    pub name: &'static str,
    /// What it accepts.
    pub spec: Spec,
    /// The default, as it would be written in the file; empty for sections and lists.
    pub default: &'static str,
    /// What it means, in a sentence or two.
    pub meaning: &'static str,
}
