//! Reads YAML text as a tree. This is the only file that knows `serde_yaml`, which is archived.
//! Whatever replaces it has to be a serde deserializer for YAML and nothing more, because it is
//! only asked for lists, mappings and text, as the outline says.
//!
//! The meaning of a word is decided here, and not by YAML's rules: `true`, `false`, null and
//! decimal numbers are what they say, and everything else stays the text that was written. So a
//! name like `1.10` or `0x10` keeps its characters, and `no` is a word.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::outline::{NodeKind, OutlineNode, OutlineRefusal, outline};
use super::place::SourcePosition;
use super::problem::{Origin, Problem, Wrong};

/// Reads one YAML document; an empty one is null. `origin` returns the place of a line of `text`. A
/// key that is written twice is added to `problems`, and its last value is used.
///
/// # Errors
/// The first part that is not YAML, or that a configuration does not need.
pub(super) fn read(
    text: &str,
    origin: &dyn Fn(usize) -> Origin,
    problems: &mut Vec<Problem>,
) -> Result<(Value, SourcePosition), OutlineRefusal> {
    let outline = outline(text)?;
    if outline.is_empty() {
        return Ok((Value::Null, SourcePosition::at(&origin(1))));
    }
    let mut walk = Walk { nodes: outline.iter(), path: Vec::new(), origin, problems };
    let root = Seed { walk: &mut walk, key: None };
    root.deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        let what = format!("this is not YAML: {error}");
        (line, Wrong::new(what, "check indentation, colons and quotes"))
    })
}

/// The value of a word without quotes.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => match text.parse::<u64>() {
            Ok(number) if number.to_string() == text => Value::from(number),
            _ => Value::from(text),
        },
    }
}

/// The state of the walk through the document.
struct Walk<'a> {
    /// The nodes that have not been read yet.
    nodes: std::slice::Iter<'a, OutlineNode>,
    /// The keys and indices on the way to the node that is being read.
    path: Vec<String>,
    origin: &'a dyn Fn(usize) -> Origin,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn next<E: Error>(&mut self) -> Result<OutlineNode, E> {
        self.nodes.next().copied().ok_or_else(|| E::custom("the document has no outline"))
    }

    fn written_twice(&mut self, line: usize, first: usize) {
        let what = format!("this key is already set at {}", (self.origin)(first));
        let wrong = Wrong::new(what, "keep one of them");
        self.problems.push(wrong.at(&(self.origin)(line), &self.path.join(".")));
    }
}

/// Reads one node, whose kind is known from the outline.
struct Seed<'w, 'a> {
    walk: &'w mut Walk<'a>,
    /// Where the key of the node is, if the node is in a mapping.
    key: Option<Origin>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = (Value, SourcePosition);

    fn deserialize<D: Deserializer<'de>>(
        self,
        from: D,
    ) -> Result<(Value, SourcePosition), D::Error> {
        let node = self.walk.next::<D::Error>()?;
        let mut place = SourcePosition::at(&(self.walk.origin)(node.line));
        if let Some(key) = self.key {
            place.key = key;
        }
        let inside = Inside { walk: self.walk, place };
        match node.kind {
            NodeKind::Plain => Ok((plain(&String::deserialize(from)?), inside.place)),
            NodeKind::Quoted => Ok((Value::String(String::deserialize(from)?), inside.place)),
            NodeKind::List => from.deserialize_seq(inside),
            NodeKind::Map => from.deserialize_map(inside),
        }
    }
}

/// Reads the contents of a list or a mapping.
struct Inside<'w, 'a> {
    walk: &'w mut Walk<'a>,
    place: SourcePosition,
}

impl<'de> Visitor<'de> for Inside<'_, '_> {
    type Value = (Value, SourcePosition);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list or a mapping")
    }

    fn visit_seq<A: SeqAccess<'de>>(
        mut self,
        mut items: A,
    ) -> Result<(Value, SourcePosition), A::Error> {
        let mut list = Vec::new();
        loop {
            let index = list.len().to_string();
            self.walk.path.push(index.clone());
            let item = items.next_element_seed(Seed { walk: self.walk, key: None })?;
            self.walk.path.pop();
            let Some((item, place)) = item else {
                return Ok((Value::Array(list), self.place));
            };
            list.push(item);
            // An element on the same line as its list needs no place of its own, unless it has
            // keys.
            if place.value != self.place.value || place.has_parts() {
                self.place.put(index, place);
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(
        mut self,
        mut entries: A,
    ) -> Result<(Value, SourcePosition), A::Error> {
        let mut map = Map::new();
        let mut first_lines: HashMap<String, usize> = HashMap::new();
        while let Some(name) = entries.next_key::<String>()? {
            let line = self.walk.next::<A::Error>()?.line;
            self.walk.path.push(name.clone());
            match first_lines.entry(name.clone()) {
                Entry::Vacant(first) => _ = first.insert(line),
                Entry::Occupied(first) => self.walk.written_twice(line, *first.get()),
            }
            let key = Some((self.walk.origin)(line));
            let (value, place) = entries.next_value_seed(Seed { walk: self.walk, key })?;
            self.walk.path.pop();
            self.place.put(name.clone(), place);
            map.insert(name, value);
        }
        Ok((Value::Object(map), self.place))
    }
}
