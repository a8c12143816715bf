//! How the table becomes structs: the macros that declare a section or a choice, and what they
//! generate. Owns the walk over sections; single values are read in [`super::value`].

use super::problem::{Problem, Wrong, nearest};
use super::spec::{Later, Row};
use super::tree::{Node, Value, dotted};
use super::value::Plain;

/// Problems until which the nearest key is looked for: it takes a look at every key there is.
pub(crate) const SUGGESTED: usize = 100;

/// Something a key can hold: a plain value, a section or a list of sections.
pub(crate) trait Setting: Sized {
    /// What is used when the key is not written.
    fn by_default(row: &Row) -> Self;

    /// Reads the value; what is wrong is added to `problems` and replaced by the default.
    fn read(node: &Node, row: &Row, key: &str, problems: &mut Vec<Problem>) -> Self;

    /// Appends `row` and the rows below it, with their dotted keys, in the table's order.
    fn describe(row: &Row, key: &str, out: &mut Vec<Described>);

    /// Appends every plain value with its dotted key, written so that it reads back the same.
    fn values(&self, row: &Row, key: &str, out: &mut Vec<(String, String)>);
}

/// A line of the table with its dotted key (`listeners.N.bind` for the keys of list elements).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Described {
    pub key: String,
    pub row: Row,
}

impl<T: Plain> Setting for T {
    fn by_default(row: &Row) -> T {
        T::from_text(row.default, &row.spec).expect("the table's defaults parse: there is a test")
    }

    fn read(node: &Node, row: &Row, key: &str, problems: &mut Vec<Problem>) -> T {
        match T::from_node(node, &row.spec) {
            Ok(value) => value,
            Err(wrong) => {
                problems.push(wrong.at(&node.origin, key));
                T::by_default(row)
            }
        }
    }

    fn describe(row: &Row, key: &str, out: &mut Vec<Described>) {
        out.push(Described { key: key.to_owned(), row: *row });
    }

    fn values(&self, row: &Row, key: &str, out: &mut Vec<(String, String)>) {
        out.push((key.to_owned(), self.show(&row.spec)));
    }
}

/// What the macro generates for a section.
pub(crate) trait Section: Sized {
    /// The names of its keys.
    const NAMES: &'static [&'static str];
    /// Keys of later capabilities.
    const LATER: &'static [&'static str];

    /// All defaults.
    fn defaults() -> Self;

    /// Reads the keys that `node` has; the others keep their defaults.
    fn read_keys(node: &Node, key: &str, problems: &mut Vec<Problem>) -> Self;

    /// As [`Setting::describe`], for the keys.
    fn describe_keys(key: &str, out: &mut Vec<Described>);

    /// As [`Setting::values`], for the keys.
    fn key_values(&self, key: &str, out: &mut Vec<(String, String)>);

    /// Checks the shape and the names of the keys, then reads them.
    fn read_section(node: &Node, key: &str, problems: &mut Vec<Problem>) -> Self {
        match &node.value {
            Value::Map(entries) => {
                for entry in entries.iter().filter(|e| !Self::NAMES.contains(&e.key.as_str())) {
                    let later = Self::LATER.contains(&entry.key.as_str());
                    let wrong = if problems.len() < SUGGESTED || later {
                        unknown(&entry.key, Self::NAMES, Self::LATER)
                    } else {
                        Wrong::new("unknown key", "see `ringmq config reference`")
                    };
                    problems.push(wrong.at(&entry.origin, &dotted(key, &entry.key)));
                }
            }
            // `mqtt:` with every line below it commented out is all defaults.
            Value::Nothing => {}
            _ => {
                let example = Self::NAMES.first().copied().unwrap_or("key");
                let what = format!("keys are expected here, not {}", node.kind());
                let fix = format!("write keys below it, such as `{example}: ...`");
                problems.push(Wrong::new(what, fix).at(&node.origin, key));
            }
        }
        Self::read_keys(node, key, problems)
    }
}

impl<T: Section> Setting for Vec<T> {
    fn by_default(_: &Row) -> Vec<T> {
        vec![T::defaults()]
    }

    fn read(node: &Node, row: &Row, key: &str, problems: &mut Vec<Problem>) -> Vec<T> {
        let Value::List(items) = &node.value else {
            let what = format!("a list is expected here, not {}", node.kind());
            let fix = format!("write `{}:` and below it `- {}: ...`", row.name, T::NAMES[0]);
            problems.push(Wrong::new(what, fix).at(&node.origin, key));
            return Self::by_default(row);
        };
        if items.is_empty() {
            let what = "the list is empty, so nobody can connect";
            let fix = "add an element, or remove the key for the default";
            problems.push(Wrong::new(what, fix).at(&node.origin, key));
        }
        let read = |(position, item): (usize, &Node)| {
            T::read_section(item, &dotted(key, &position.to_string()), problems)
        };
        items.iter().enumerate().map(read).collect()
    }

    fn describe(row: &Row, key: &str, out: &mut Vec<Described>) {
        out.push(Described { key: key.to_owned(), row: *row });
        T::describe_keys(&dotted(key, "N"), out);
    }

    fn values(&self, _: &Row, key: &str, out: &mut Vec<(String, String)>) {
        for (position, item) in self.iter().enumerate() {
            item.key_values(&dotted(key, &position.to_string()), out);
        }
    }
}

fn unknown(key: &str, names: &[&'static str], later: &[&'static str]) -> Wrong {
    if later.contains(&key) {
        return Wrong::new(format!("`{key}` is not in this build"), "remove it");
    }
    match (nearest(key, names.iter().copied()), elsewhere(key)) {
        (Some(near), _) => Wrong::new("unknown key", format!("did you mean `{near}`?")),
        (None, Some(fix)) => Wrong::new("unknown key here", fix),
        (None, None) => Wrong::new("unknown key", format!("keys here: {}", names.join(", "))),
    }
}

/// The key may be right and only stand in the wrong section, or be an environment variable with one
/// underscore: which key is meant then.
pub(crate) fn elsewhere(key: &str) -> Option<String> {
    let mut everything = Vec::new();
    super::Config::describe_keys("", &mut everything);
    let meant = everything
        .iter()
        .find(|known| known.row.name == key || known.key.replace('.', "_") == key)?;
    let variable = meant.key.to_uppercase().replace('.', "__");
    Some(format!("did you mean `{}` (RINGMQ_{variable} in the environment)?", meant.key))
}

/// Refuses `word` when it belongs to a later capability; otherwise names the words there are.
pub(crate) fn unknown_word(word: &str, words: &[&'static str], later: &Later) -> Wrong {
    let choices = words.join(", ");
    if later.words.contains(&word) {
        let fix = match words {
            [only] => format!("use {only}, or remove it"),
            _ => format!("use one of: {choices}"),
        };
        return Wrong::new(format!("{} {word} is not in this build", later.noun), fix);
    }
    let fix = match nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? (one of: {choices})"),
        None => format!("use one of: {choices}"),
    };
    Wrong::new(format!("`{word}` is not a choice"), fix)
}

/// Declares a section: a struct with public fields and everything that is made from its rows.
macro_rules! section_struct {
    (
        $(#[$doc:meta])*
        pub struct $name:ident later [$($later:literal),*] {
            $($field:ident $key:literal: $ty:ty = $default:literal, $spec:expr, $meaning:literal;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug)]
        pub struct $name {
            $(#[doc = $meaning] pub $field: $ty,)*
        }

        impl $crate::config::section::Section for $name {
            const NAMES: &'static [&'static str] = &[$($key),*];
            const LATER: &'static [&'static str] = &[$($later),*];

            fn defaults() -> Self {
                use $crate::config::{section::Setting, spec::Row};
                Self {
                    $($field: {
                        const ROW: Row =
                            Row { name: $key, spec: $spec, default: $default, meaning: $meaning };
                        <$ty as Setting>::by_default(&ROW)
                    },)*
                }
            }

            fn read_keys(
                node: &$crate::config::tree::Node,
                key: &str,
                problems: &mut Vec<$crate::config::problem::Problem>,
            ) -> Self {
                use $crate::config::{section::Setting, spec::Row, tree::dotted};
                Self {
                    $($field: {
                        const ROW: Row =
                            Row { name: $key, spec: $spec, default: $default, meaning: $meaning };
                        match node.get($key) {
                            Some(entry) => {
                                let key = dotted(key, $key);
                                <$ty as Setting>::read(&entry.node, &ROW, &key, problems)
                            }
                            None => <$ty as Setting>::by_default(&ROW),
                        }
                    },)*
                }
            }

            fn describe_keys(key: &str, out: &mut Vec<$crate::config::section::Described>) {
                use $crate::config::{section::Setting, spec::Row, tree::dotted};
                $({
                    const ROW: Row =
                        Row { name: $key, spec: $spec, default: $default, meaning: $meaning };
                    <$ty as Setting>::describe(&ROW, &dotted(key, $key), out);
                })*
            }

            fn key_values(&self, key: &str, out: &mut Vec<(String, String)>) {
                use $crate::config::{section::Setting, spec::Row, tree::dotted};
                $({
                    const ROW: Row =
                        Row { name: $key, spec: $spec, default: $default, meaning: $meaning };
                    Setting::values(&self.$field, &ROW, &dotted(key, $key), out);
                })*
            }
        }

        impl $crate::config::section::Setting for $name {
            fn by_default(_: &$crate::config::spec::Row) -> Self {
                $crate::config::section::Section::defaults()
            }

            fn read(
                node: &$crate::config::tree::Node,
                _: &$crate::config::spec::Row,
                key: &str,
                problems: &mut Vec<$crate::config::problem::Problem>,
            ) -> Self {
                $crate::config::section::Section::read_section(node, key, problems)
            }

            fn describe(
                row: &$crate::config::spec::Row,
                key: &str,
                out: &mut Vec<$crate::config::section::Described>,
            ) {
                out.push($crate::config::section::Described { key: key.to_owned(), row: *row });
                <Self as $crate::config::section::Section>::describe_keys(key, out);
            }

            fn values(
                &self,
                _: &$crate::config::spec::Row,
                key: &str,
                out: &mut Vec<(String, String)>,
            ) {
                $crate::config::section::Section::key_values(self, key, out);
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $crate::config::section::Section::defaults()
            }
        }
    };
}
pub(crate) use section_struct;

/// Declares a choice: an enum with the word of each variant.
macro_rules! choice_enum {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The words of the configuration file, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word of the configuration file.
            pub fn word(self) -> &'static str {
                Self::WORDS[self as usize]
            }
        }

        impl $crate::config::value::Plain for $name {
            fn from_node(
                node: &$crate::config::tree::Node,
                spec: &$crate::config::spec::Spec,
            ) -> Result<Self, $crate::config::problem::Wrong> {
                match $crate::config::value::text_of(node, spec)? {
                    $($word => Ok(Self::$variant),)*
                    word => {
                        let later = &spec.later;
                        Err($crate::config::section::unknown_word(word, Self::WORDS, later))
                    }
                }
            }

            fn show(&self, _: &$crate::config::spec::Spec) -> String {
                self.word().to_owned()
            }
        }
    };
}
pub(crate) use choice_enum;
