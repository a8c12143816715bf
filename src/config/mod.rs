//! The configuration: reads YAML, environment and arguments, and makes one checked [`Config`] of
//! them.
//!
//! `sections` has a struct for each section, with serde derive. The type of a field has its bounds
//! (`quantity`, `value`, `host`). A file is read in these steps:
//!
//! 1. `outline`: the events of saphyr-parser tell which kind of node is on which line. What a
//!    configuration does not need (anchors, tags, depth) is refused.
//! 2. `yaml`: serde_yaml reads the text. The result is a tree of values (`serde_json::Value`) and
//!    a tree of places.
//! 3. `document`: environment and arguments are laid over it.
//! 4. `read`: serde reads the structs from the tree. serde_ignored reports unknown keys, and
//!    serde_path_to_error reports the value that was refused. Each problem is taken out of the tree
//!    and the rest is read again, so that every problem is reported at once, each with its place.
//! 5. `check`: checks the rules that relate several keys.
//!
//! The JSON Schema of the structs (`schema`) is the source of the reference, the default file and
//! the messages (`text`, `read`). Pure: reading a configuration reads its file and opens nothing
//! else. Whether a core exists or a port is free is found out by the broker.

mod access;
mod access_check;
mod bridges_check;
mod check;
mod cluster_check;
pub mod convert;
mod document;
mod host;
mod notation;
mod outline;
mod place;
mod pointer;
mod problem;
mod quantity;
mod read;
mod rules_file;
mod schema;
mod sections;
mod sources;
mod text;
mod texts;
mod value;
mod yaml;

pub use access::*;
pub use check::Families;
pub use host::{Address, Bind, Cores, FileMode, Mountpoint, Proxy, TlsVersion, UrlPath, WebOrigin};
pub use problem::{Origin, Problem, Problems};
pub use quantity::{Count, Percentage, Ratio, Seconds, ShortTime, Size, Time};
pub use rules_file::rules_file;
pub use sections::*;
pub use sources::Sources;
pub use text::{default_file, json_schema, reference};
pub use texts::{TextTable, Texts};
pub use value::{Get, List, Maybe, Or, Several, Text};

use serde_json::{Map, Value, json};

impl Config {
    /// The dotted keys whose values differ, in the order of the reference. Elements of lists are
    /// compared by position.
    pub fn changed_keys(&self, other: &Config) -> Vec<String> {
        let mut changed = Vec::new();
        differences(&text::values(self), &text::values(other), "", &mut changed);
        changed
    }

    /// The changed keys that a reload does not apply.
    pub fn keys_that_need_a_restart(&self, other: &Config) -> Vec<String> {
        let schema = schema::root();
        let mut changed = self.changed_keys(other);
        changed.retain(|key| {
            let steps = key.split('.');
            let mut place = Some(schema::SchemaKey(&schema));
            steps.into_iter().any(|step| {
                place = place.and_then(|key| key.below(step));
                place.is_some_and(schema::SchemaKey::needs_restart)
            })
        });
        changed
    }
}

fn differences(ours: &Value, theirs: &Value, key: &str, changed: &mut Vec<String>) {
    let below = |step: &str| if key.is_empty() { step.to_owned() } else { format!("{key}.{step}") };
    let sections = |list: &[Value]| list.iter().all(Value::is_object);
    match (ours, theirs) {
        _ if ours == theirs => {}
        (Value::Array(ours), Value::Array(theirs)) if sections(ours) && sections(theirs) => {
            for at in 0..ours.len().max(theirs.len()) {
                let of = |list: &[Value]| list.get(at).cloned().unwrap_or_else(|| json!({}));
                differences(&of(ours), &of(theirs), &below(&at.to_string()), changed);
            }
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            let only_theirs = theirs.keys().filter(|step| !ours.contains_key(*step));
            for step in ours.keys().chain(only_theirs) {
                let of = |map: &Map<String, Value>| map.get(step).cloned().unwrap_or_default();
                differences(&of(ours), &of(theirs), &below(step), changed);
            }
        }
        _ => changed.push(key.to_owned()),
    }
}

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod tests;
