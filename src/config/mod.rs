//! The configuration: YAML, environment and arguments in, one checked [`Config`] out.
//!
//! One table ([`table`]) names every key with its type, unit, default, bounds and meaning. Parsing,
//! bounds, the default file, the reference and the structs themselves are made from it. Reading
//! reports every problem at once, each with its place. Pure: it reads one file and opens nothing
//! else; whether a core exists or a port is free is the broker's affair.

pub mod arguments;
mod check;
mod problem;
mod section;
mod sources;
mod spec;
mod table;
mod text;
mod tree;
mod value;

pub use problem::{Origin, Problem, Problems};
pub use sources::Sources;
pub use table::{
    Admin, Bind, Config, Cores, Format, KeepAlive, Level, Limits, Listener, ListenerType, Log,
    MemoryBudget, Mqtt, OnFull, Pending, ProxyProtocol, ReceiveBuffers, Retained, Runtime,
    SessionExpiry, SharedStrategy, Shutdown, Sys,
};
pub use text::{default_file, reference};

impl Config {
    /// The dotted keys whose values differ, in the table's order. Elements of `listeners` are
    /// compared by position.
    pub fn changed_keys(&self, other: &Config) -> Vec<String> {
        use section::Section;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        self.key_values("", &mut ours);
        other.key_values("", &mut theirs);
        let differs = |(key, value): &&(String, String), all: &[(String, String)]| {
            !all.iter().any(|(known, other)| known == key && other == value)
        };
        let mut keys: Vec<String> = Vec::new();
        let changed = ours.iter().filter(|pair| differs(pair, &theirs));
        let appeared = theirs.iter().filter(|pair| differs(pair, &ours));
        for (key, _) in changed.chain(appeared) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }
}

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod tests;
