//! Rules about topics, compiled: who, what, which topics. The first that matches decides.
//!
//! Rules about one user or one ClientId are filed under that name, so that looking for a client's
//! rule visits those of everybody and its own. A subscription is allowed when a rule allows all
//! that its filter matches and no earlier one denies any of it.

use super::pattern::{Glob, TopicPattern};
use super::{Deed, Who};
use crate::ids::Peer;
use crate::transport::network::Networks;
use hashbrown::HashMap;

/// Where a rule was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Position in the names of the set's sources.
    pub source: u16,
    /// Line, or position in a list; counted from 1.
    pub line: u32,
}

/// What a rule demands of the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// One of these user names.
    User(Vec<Glob>),
    /// No user name.
    Anonymous,
    /// One of these ClientIds.
    ClientId(Vec<Glob>),
    /// An address in one of these networks.
    Address(Networks),
    /// One of these listeners.
    Listener(Vec<Box<str>>),
    /// A certificate with one of these common names.
    Certificate(Vec<Glob>),
    /// An attribute with this value.
    Attribute(Box<str>, Glob),
}

impl Condition {
    fn holds(&self, who: &Who<'_>) -> bool {
        let any = |globs: &[Glob], text: &str| globs.iter().any(|glob| glob.matches(text));
        match self {
            Condition::User(globs) => {
                who.grant.username.as_ref().is_some_and(|name| any(globs, name))
            }
            Condition::Anonymous => who.grant.username.is_none(),
            Condition::ClientId(globs) => any(globs, who.client_id),
            Condition::Address(networks) => match who.grant.peer {
                Peer::Tcp(ip, _) => networks.contains(ip),
                Peer::Unix => false,
            },
            Condition::Listener(names) => names.iter().any(|name| **name == *who.listener),
            Condition::Certificate(globs) => {
                !who.grant.certificate.is_empty() && any(globs, &who.grant.certificate)
            }
            Condition::Attribute(name, glob) => {
                let mut attributes = who.grant.attributes.iter();
                attributes.any(|(known, value)| known == name && glob.matches(value))
            }
        }
    }
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// It allows; otherwise it denies.
    pub allow: bool,
    /// It is about publishing.
    pub publish: bool,
    /// It is about subscribing.
    pub subscribe: bool,
    /// All of these must hold.
    pub who: Vec<Condition>,
    /// Bit per QoS level that it is about.
    pub qos: u8,
    /// Only about messages with this RETAIN flag.
    pub retain: Option<bool>,
    /// One of these must match; none: any topic.
    pub topics: Vec<TopicPattern>,
    /// Where it stands.
    pub written: Written,
}

/// Every QoS level.
pub const ANY_QOS: u8 = 0b111;

impl Rule {
    fn applies(&self, who: &Who<'_>, deed: Deed, topic: &str) -> bool {
        let (wanted, qos) = match deed {
            Deed::Publish { qos, retain } => {
                (self.publish && self.retain.is_none_or(|only| only == retain), qos)
            }
            Deed::Subscribe { qos } => (self.subscribe, qos),
        };
        if !wanted || self.qos & (1 << qos) == 0 {
            return false;
        }
        let matches = |pattern: &TopicPattern| match deed {
            Deed::Publish { .. } => pattern.matches(topic, who),
            Deed::Subscribe { .. } if self.allow => pattern.covers(topic, who),
            Deed::Subscribe { .. } => pattern.overlaps(topic, who),
        };
        let about = self.topics.is_empty() || self.topics.iter().any(matches);
        about && self.who.iter().all(|condition| condition.holds(who))
    }

    /// The one user or ClientId that it is about.
    fn key(&self) -> Option<(bool, &str)> {
        self.who.iter().find_map(|condition| match condition {
            Condition::User(globs) => single(globs).map(|name| (true, name)),
            Condition::ClientId(globs) => single(globs).map(|name| (false, name)),
            _ => None,
        })
    }
}

fn single(globs: &[Glob]) -> Option<&str> {
    match globs {
        [one] => one.exact(),
        _ => None,
    }
}

fn slice(list: Option<&Vec<u32>>) -> &[u32] {
    list.map_or(&[], Vec::as_slice)
}

/// The rule that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// It allows.
    pub allow: bool,
    /// Where it stands.
    pub written: Written,
}

/// Rules in order.
#[derive(Clone, Default, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// Names of the files they are from, or of the keys.
    sources: Vec<Box<str>>,
    /// Rules of one user, in order; of one ClientId; and of others.
    by_user: HashMap<Box<str>, Vec<u32>, foldhash::fast::RandomState>,
    by_client: HashMap<Box<str>, Vec<u32>, foldhash::fast::RandomState>,
    others: Vec<u32>,
}

impl RuleSet {
    /// A further source; the number is for [`Written`].
    pub fn add_source(&mut self, name: &str) -> u16 {
        self.sources.push(name.into());
        (self.sources.len() - 1) as u16
    }

    /// Adds a rule behind the others.
    pub fn push(&mut self, rule: Rule) {
        let number = self.rules.len() as u32;
        match rule.key() {
            Some((true, user)) => self.by_user.entry(user.into()).or_default().push(number),
            Some((false, client)) => self.by_client.entry(client.into()).or_default().push(number),
            None => self.others.push(number),
        }
        self.rules.push(rule);
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        let topics = self.rules.iter().flat_map(|rule| &rule.topics).map(TopicPattern::size);
        self.rules.len() * (size_of::<Rule>() + 8) + topics.sum::<usize>()
    }

    /// Where a rule stands: file and line, or key.
    pub fn place(&self, written: Written) -> String {
        let source = self.sources.get(usize::from(written.source)).map_or("?", |name| name);
        match source.strip_suffix(".list") {
            Some(_) => format!("{source}.{}", written.line - 1),
            None => format!("{source}:{}", written.line),
        }
    }

    /// The first rule that applies, and how many were looked at.
    pub fn judge(&self, who: &Who<'_>, deed: Deed, topic: &str) -> (Option<Ruling>, u32) {
        let of_user = who.grant.username.as_ref().and_then(|name| self.by_user.get(name));
        let of_client = self.by_client.get(who.client_id);
        // Each list is in order; the lowest number of the three comes first.
        let mut lists = [slice(of_user), slice(of_client), self.others.as_slice()];
        let mut looked_at = 0;
        while let Some(next) = lists
            .iter_mut()
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list.first().copied())
        {
            let Some((&number, rest)) = next.split_first() else { break };
            *next = rest;
            looked_at += 1;
            let Some(rule) = self.rules.get(number as usize) else { break };
            if rule.applies(who, deed, topic) {
                let ruling = Ruling { allow: rule.allow, written: rule.written };
                return (Some(ruling), looked_at);
            }
        }
        (None, looked_at)
    }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
