//! A configuration as it was written: one tree, and where each part of it comes from. Owns the
//! layering: the file comes first, and the environment and the arguments are laid over it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::outline::MAX_DEPTH;
use super::place::SourcePosition;
use super::pointer;
use super::problem::{Origin, Problem, Wrong};
use super::yaml;

/// Everything that was written in any layer.
pub(super) struct Document {
    pub tree: Value,
    place: SourcePosition,
}

impl Document {
    /// A document in which nothing is written.
    pub(super) fn empty() -> Document {
        Document { tree: Value::Null, place: SourcePosition::at(&Origin::built_in()) }
    }

    /// Reads a file. The document is empty when the file cannot be read as YAML.
    pub(super) fn of_file(name: &str, bytes: Vec<u8>, problems: &mut Vec<Problem>) -> Document {
        let Ok(text) = String::from_utf8(bytes) else {
            let wrong = Wrong::new("the file is not UTF-8 text", "save it as UTF-8");
            problems.push(wrong.at(&Origin::named(name), ""));
            return Document::empty();
        };
        let file: Arc<str> = name.into();
        match yaml::read(&text, &|line| Origin::line(&file, line), problems) {
            Ok((tree, place)) => Document { tree, place },
            Err((line, mut wrong)) => {
                let written = line.checked_sub(1).and_then(|line| text.lines().nth(line));
                // To YAML, `bind: [::1]:1883` begins a list. This is an easy mistake, so the
                // message says how to write the address.
                let address = written.and_then(|text| text.split_once(": ["));
                if let Some((_, address)) = address.filter(|(_, tail)| tail.contains("]:")) {
                    wrong.fix = Some(format!("quote the address: \"[{}\"", address.trim()));
                }
                problems.push(wrong.at(&Origin::line(&file, line), ""));
                Document::empty()
            }
        }
    }

    /// Lays the text of an environment variable or an argument over the tree, at the dotted `key`.
    pub(super) fn lay(
        &mut self,
        key: &str,
        text: &str,
        origin: &Origin,
        problems: &mut Vec<Problem>,
    ) {
        if key.split('.').any(str::is_empty) {
            let fix = "write keys as mqtt.max_qos (in the environment: RINGMQ_MQTT__MAX_QOS)";
            return problems.push(Wrong::new("the key has an empty part", fix).at(origin, key));
        }
        if key.split('.').count() > MAX_DEPTH {
            let wrong = Wrong::new("the key has too many parts", "no key has more than 5");
            return problems.push(wrong.at(origin, ""));
        }
        // Text that is not YAML is taken literally, so that an IPv6 address needs no quotes inside
        // the shell's.
        let read = yaml::read(text, &|_| origin.clone(), problems);
        let read = read.unwrap_or_else(|_| (Value::from(text), SourcePosition::at(origin)));
        if let Err(wrong) = self.put(key, read, origin) {
            problems.push(wrong.at(origin, key));
        }
    }

    /// Puts what was `read` at the dotted `key`, and makes the mappings and lists on the way to it.
    /// A list that was not written has one element, all defaults, because that is the default of
    /// `listeners`.
    fn put(
        &mut self,
        key: &str,
        read: (Value, SourcePosition),
        origin: &Origin,
    ) -> Result<(), Wrong> {
        let (mut node, mut place) = (&mut self.tree, &mut self.place);
        for step in key.split('.') {
            let index = step.parse::<usize>().ok();
            if node.is_null() {
                *node = if index.is_some() { json!([{}]) } else { json!({}) };
            }
            node = match (node, index) {
                (Value::Object(map), None) => map.entry(step).or_insert(Value::Null),
                (Value::Array(list), Some(index)) => element(list, index)?,
                (Value::Array(_), None) => {
                    let what = format!("`{step}` is not an index, but the value here is a list");
                    return Err(Wrong::new(what, "name the element by its number, counted from 0"));
                }
                (other, _) => {
                    let kind = kind(other);
                    let what = format!("there is no `{step}` here, because the value is {kind}");
                    return Err(Wrong::new(what, "check the key with `ringmq config reference`"));
                }
            };
            place = place.enter(step, origin);
        }
        merge((node, place), read);
        Ok(())
    }

    /// Moves everything that was written below `pointer`. The caller has moved the tree.
    pub(super) fn move_below(&mut self, pointer: &str) {
        let steps: Vec<String> = pointer::steps(pointer).collect();
        for step in steps.into_iter().rev() {
            let mut around = SourcePosition::at(&self.place.value);
            around.put(
                step,
                std::mem::replace(&mut self.place, SourcePosition::at(&Origin::built_in())),
            );
            self.place = around;
        }
    }

    /// True when the dotted `key` was written and its value was not taken out since.
    pub(super) fn has(&self, key: &str) -> bool {
        self.tree.pointer(&pointer::of_key(key)).is_some()
    }

    /// Where the key at `pointer` was written, or the closest part around it.
    pub(super) fn key_origin(&self, pointer: &str) -> Origin {
        self.place.find(pointer).key.clone()
    }

    /// Where the value at `pointer` comes from: the place where it is written, or the built-in
    /// default.
    pub(super) fn origin_of_value(&self, pointer: &str) -> Origin {
        match self.tree.pointer(pointer) {
            Some(_) => self.key_origin(pointer),
            None => Origin::built_in(),
        }
    }

    /// Where the value at `pointer` begins, or the closest part around it.
    pub(super) fn value_origin(&self, pointer: &str) -> Origin {
        self.place.find(pointer).value.clone()
    }
}

/// The element with this index, which may be a new one after the last.
fn element(list: &mut Vec<Value>, index: usize) -> Result<&mut Value, Wrong> {
    let count = list.len();
    if index > count {
        let what = format!("element {index} does not follow the {count} elements of the list");
        return Err(Wrong::new(what, format!("use an index of at most {count}")));
    }
    if index == count {
        list.push(Value::Null);
    }
    Ok(&mut list[index])
}

/// Lays `over` on `base`: mappings are merged key by key, and everything else is replaced.
fn merge(
    (base, place): (&mut Value, &mut SourcePosition),
    (over, mut over_place): (Value, SourcePosition),
) {
    match (base, over) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                let from =
                    over_place.take(&key).unwrap_or_else(|| SourcePosition::at(&over_place.value));
                let place = place.enter(&key, &from.key);
                merge((below.entry(key).or_insert(Value::Null), place), (value, from));
            }
            (place.key, place.value) = (over_place.key, over_place.value);
        }
        (base, over) => (*base, *place) = (over, over_place),
    }
}

/// The kind of a value in words, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
        _ => "a plain value",
    }
}
