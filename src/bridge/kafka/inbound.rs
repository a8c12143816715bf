//! Messages made from Kafka records, and how far each partition has been settled. Pure.

use crate::bridge::mqtt::session::Incoming;
use crate::bridge::template::{MessageTemplate, Values};
use crate::config::{Get, KafkaBridgeConfig};
use crate::link_record::LinkRecord;
use crate::packet::{Qos, append_user_property};
use crate::topic;
use std::collections::{HashMap, VecDeque};

/// A Kafka record.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// Milliseconds since 1970.
    pub timestamp: u64,
}

/// What records of one topic become.
struct InboundTopic {
    topic: MessageTemplate,
    qos: Qos,
    retain: bool,
    headers: bool,
}

/// The rules by which records become messages.
pub struct InboundPlan {
    entries: HashMap<String, InboundTopic>,
    /// The most bytes of a message.
    most: usize,
}

/// Why a record becomes no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoMessage {
    /// It lacks a value for its topic name, or that name is not valid.
    Topic,
    /// It is larger than messages may be here.
    TooLarge,
}

impl InboundPlan {
    /// Compiles the configuration; a message has at most `most` bytes.
    ///
    /// # Errors
    /// What is wrong with a template. `config` has checked the templates already.
    pub fn new(kafka: &KafkaBridgeConfig, most: usize) -> Result<InboundPlan, String> {
        let mut entries = HashMap::new();
        for entry in &kafka.topics {
            let made = InboundTopic {
                topic: MessageTemplate::of_record(&entry.to)?,
                qos: Qos::from_u8(entry.qos.get()).unwrap_or(Qos::AtLeastOnce),
                retain: entry.retain,
                headers: entry.headers,
            };
            entries.insert(entry.topic.to_string(), made);
        }
        Ok(InboundPlan { entries, most })
    }

    /// The message for a record with these headers.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn message<'a>(
        &self,
        record: &Brought<'_>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        ticket: u64,
    ) -> Result<Incoming, NoMessage> {
        let entry = self.entries.get(record.topic).ok_or(NoMessage::Topic)?;
        let mut properties = Vec::new();
        for (name, value) in headers {
            let value = str::from_utf8(value).ok().filter(|value| !value.contains('\0'));
            if let Some(value) = value.filter(|_| !name.contains('\0')) {
                // A header that is too long for a user property is left out.
                let _ = append_user_property(&mut properties, name, value);
            }
        }
        if record.value.len() + properties.len() > self.most {
            return Err(NoMessage::TooLarge);
        }
        // The placeholders of a record are filled in from these fields.
        let filled_from = LinkRecord {
            topic: record.topic,
            properties: &properties,
            payload: record.value,
            client_id: str::from_utf8(record.key).unwrap_or_default(),
            username: "",
            certificate: "",
            filter: 0,
            accepted: record.timestamp,
            expires: None,
            qos: entry.qos,
            retain: entry.retain,
            waiter: None,
        };
        let mut name = Vec::new();
        let whole = entry.topic.fill(&Values::new(filled_from), &mut name);
        let name = String::from_utf8(name).unwrap_or_default();
        if !whole || !topic::valid_name(&name) {
            return Err(NoMessage::Topic);
        }
        if !entry.headers {
            properties.clear();
        }
        Ok(Incoming {
            topic: name,
            properties,
            payload: record.value.to_vec(),
            qos: entry.qos,
            retain: entry.retain,
            expiry: None,
            ticket,
        })
    }
}

/// The unsettled records of one partition, in order: ticket, offset, and whether it is settled.
#[derive(Default, Debug)]
struct Position {
    records: VecDeque<(u64, i64, bool)>,
}

/// Records that were taken and are not settled, by topic and partition.
#[derive(Default, Debug)]
pub struct Positions {
    all: HashMap<(String, i32), Position>,
    /// The partition of each ticket.
    tickets: HashMap<u64, (String, i32)>,
}

impl Positions {
    /// Notes that a record was taken, with this ticket.
    pub fn take(&mut self, topic: &str, partition: i32, offset: i64, ticket: u64) {
        let key = (topic.to_owned(), partition);
        let position = self.all.entry(key.clone()).or_default();
        // The partition was with another consumer meanwhile, and is read again from an earlier
        // offset.
        if position.records.back().is_some_and(|&(_, last, _)| last >= offset) {
            for (ticket, ..) in position.records.drain(..) {
                self.tickets.remove(&ticket);
            }
        }
        position.records.push_back((ticket, offset, false));
        self.tickets.insert(ticket, key);
    }

    /// Notes that the record with this ticket is settled. Returns topic, partition and the offset
    /// up to which all records are settled, if that has changed.
    pub fn settle(&mut self, ticket: u64) -> Option<(String, i32, i64)> {
        let (topic, partition) = self.tickets.remove(&ticket)?;
        let position = self.all.get_mut(&(topic.clone(), partition))?;
        let at = position.records.binary_search_by_key(&ticket, |&(ticket, ..)| ticket).ok()?;
        position.records.get_mut(at)?.2 = true;
        let mut reached = None;
        while let Some(&(_, offset, true)) = position.records.front() {
            position.records.pop_front();
            reached = Some(offset);
        }
        reached.map(|offset| (topic, partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_that_of_the_last_record_before_which_all_are_settled() {
        let mut positions = Positions::default();
        for (offset, ticket) in [(5, 1), (6, 2), (9, 3)] {
            positions.take("t", 0, offset, ticket);
        }
        positions.take("t", 1, 5, 4);
        let at = |partition, offset| Some(("t".to_owned(), partition, offset));
        assert_eq!(positions.settle(2), None);
        assert_eq!(positions.settle(4), at(1, 5));
        assert_eq!(positions.settle(1), at(0, 6));
        assert_eq!(positions.settle(1), None);
        assert_eq!(positions.settle(3), at(0, 9));
        assert!(positions.tickets.is_empty());
    }

    #[test]
    fn a_partition_that_begins_again_forgets_what_was_taken() {
        let mut positions = Positions::default();
        positions.take("t", 0, 5, 1);
        positions.take("t", 0, 6, 2);
        positions.take("t", 0, 5, 3);
        assert_eq!(positions.settle(1), None);
        assert_eq!(positions.settle(2), None);
        assert_eq!(positions.settle(3), Some(("t".to_owned(), 0, 5)));
    }
}

#[cfg(all(test, feature = "kafka"))]
#[path = "inbound_tests.rs"]
mod with_configuration;
