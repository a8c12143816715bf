//! The topics that cross a bridge to another MQTT broker, and their names on both sides:
//! Mosquitto's `topic` lines. Pure.

use crate::config::{BridgeTopic, Get};
use crate::packet::Qos;
use crate::topic;

/// One entry of the configuration.
#[derive(Clone, Debug)]
struct BridgedTopic {
    local: String,
    remote: String,
    local_prefix: String,
    remote_prefix: String,
    qos: Qos,
    out: bool,
    inward: bool,
}

/// All entries of a bridge, in the order of the configuration.
#[derive(Clone, Debug)]
pub struct Topics(Vec<BridgedTopic>);

impl Topics {
    /// Compiles the entries, which `config` has checked.
    pub fn new(entries: &[BridgeTopic]) -> Topics {
        let entry = |entry: &BridgeTopic| BridgedTopic {
            local: entry.local(),
            remote: entry.remote(),
            local_prefix: entry.local_prefix.to_string(),
            remote_prefix: entry.remote_prefix.to_string(),
            qos: Qos::from_u8(entry.qos.get()).unwrap_or_default(),
            out: entry.goes_out(),
            inward: entry.comes_in(),
        };
        Topics(entries.iter().map(entry).collect())
    }

    /// The same entries for a connection that brings no messages.
    pub fn only_outward(mut self) -> Topics {
        self.0.iter_mut().for_each(|entry| entry.inward = false);
        self
    }

    /// For each filter of outgoing messages: whether the same entry also brings messages.
    pub fn both(&self) -> Vec<bool> {
        self.0.iter().filter(|entry| entry.out).map(|entry| entry.inward).collect()
    }

    /// The filters at this broker of outgoing messages.
    pub fn outward(&self) -> Vec<Box<str>> {
        self.0.iter().filter(|entry| entry.out).map(|entry| entry.local.as_str().into()).collect()
    }

    /// Whether messages may be sent with QoS 2.
    pub fn send_exactly_once(&self) -> bool {
        self.0.iter().any(|entry| entry.out && entry.qos == Qos::ExactlyOnce)
    }

    /// The filters at the other broker of incoming messages, with their QoS.
    pub fn inward(&self) -> impl Iterator<Item = (&str, Qos)> {
        self.0.iter().filter(|entry| entry.inward).map(|entry| (entry.remote.as_str(), entry.qos))
    }

    /// Writes the name of an outgoing message at the other broker, by the first entry that takes
    /// it, and returns its maximum QoS there. `None` when no entry takes the message any more; one
    /// did when the message came.
    pub fn remote_name(&self, name: &str, out: &mut String) -> Option<Qos> {
        let mut outward = self.0.iter().filter(|entry| entry.out);
        let entry = outward.find(|entry| topic::matches(&entry.local, name))?;
        out.clear();
        out.push_str(&entry.remote_prefix);
        out.push_str(name.strip_prefix(&entry.local_prefix)?);
        Some(entry.qos)
    }

    /// The name at this broker of a message from the other broker, and its maximum QoS here. `None`
    /// when there is no entry for it.
    pub fn local_name(&self, name: &str) -> Option<(String, Qos)> {
        let mut inward = self.0.iter().filter(|entry| entry.inward);
        let entry = inward.find(|entry| topic::matches(&entry.remote, name))?;
        let own = name.strip_prefix(&entry.remote_prefix)?;
        Some((format!("{}{own}", entry.local_prefix), entry.qos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    fn topics(lines: &str) -> Topics {
        let text =
            format!("bridges: [{{name: b, mqtt: {{addresses: [\"h:1883\"], topics: [{lines}]}}}}]");
        let config: Config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
        Topics::new(&config.bridges[0].mqtt.as_ref().unwrap().topics)
    }

    fn out(topics: &Topics, name: &str) -> Option<(String, Qos)> {
        let mut remote = String::new();
        let qos = topics.remote_name(name, &mut remote)?;
        Some((remote, qos))
    }

    #[test]
    fn names_are_changed_as_mosquitto_does() {
        let topics = topics(
            "{filter: 'a/#', direction: both, qos: 1, local_prefix: l/, remote_prefix: r/}, \
             {filter: '', local_prefix: one, remote_prefix: two, direction: in}, \
             {filter: '+/x', direction: out}",
        );
        assert_eq!(topics.outward(), ["l/a/#".into(), Box::from("+/x")]);
        let inward: Vec<_> = topics.inward().collect();
        assert_eq!(inward, [("r/a/#", Qos::AtLeastOnce), ("two", Qos::AtMostOnce)]);
        let both = |name: &str| Some((name.to_owned(), Qos::AtLeastOnce));
        assert_eq!(out(&topics, "l/a/b"), both("r/a/b"));
        assert_eq!(out(&topics, "c/x"), Some(("c/x".to_owned(), Qos::AtMostOnce)));
        assert_eq!(topics.local_name("r/a"), both("l/a"));
        assert_eq!(topics.local_name("two"), Some(("one".to_owned(), Qos::AtMostOnce)));
        assert_eq!(topics.local_name("three"), None);
    }

    #[test]
    fn a_message_of_several_entries_goes_by_the_first() {
        let topics = topics("{filter: 'a/#', remote_prefix: x/}, {filter: 'a/+', qos: 2}");
        assert_eq!(out(&topics, "a/b"), Some(("x/a/b".to_owned(), Qos::AtMostOnce)));
        assert_eq!(out(&topics, "b/b"), None);
    }
}
