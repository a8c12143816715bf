//! Compiled rules about topics: which clients, which deeds, which topics. The first rule that
//! applies decides.
//!
//! Rules about one user or one ClientId are filed under that name, so that a decision about a
//! client visits only those and the rules about all clients. When many rules are about the same
//! clients, they are filed by topic as well. A subscription is allowed when a rule allows
//! everything that its filter matches and no earlier rule denies any of it.

use super::pattern::{Glob, TopicPattern};
use super::topic_rules::TopicRules;
use super::{Deed, Who};
use crate::ids::Peer;
use crate::transport::network::Networks;
use hashbrown::HashMap;

/// The place where a rule is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleOrigin {
    /// Position in the list of the set's sources.
    pub source: u16,
    /// Line, or position in a list, counted from 1.
    pub line: u32,
}

/// A condition of a rule on the client.
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
    /// True when the rule allows, false when it denies.
    pub allow: bool,
    /// True when it is about publishing.
    pub publish: bool,
    /// True when it is about subscribing.
    pub subscribe: bool,
    /// Conditions on the client, all of which must hold.
    pub who: Vec<Condition>,
    /// A bit for each QoS level that the rule is about.
    pub qos: u8,
    /// The RETAIN flag of the messages that the rule is about; `None` for both.
    pub retain: Option<bool>,
    /// Topics, one of which must match; empty for any topic.
    pub topics: Vec<TopicPattern>,
    /// The place where the rule is written.
    pub written: RuleOrigin,
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

    /// The only user (`true`) or ClientId (`false`) that the rule is about.
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

/// Numbers of rules about the same clients, in order.
#[derive(Clone, Default, Debug)]
struct RuleNumbers {
    numbers: Vec<u32>,
    /// When there are many rules: the rules by topic, and those about any topic.
    topics: Option<Box<(TopicRules, Vec<u32>)>>,
}

/// The number of rules about the same clients from which on they are filed by topic.
const MANY: usize = 16;

impl RuleNumbers {
    /// Files the rules by topic, if there are many.
    fn file(&mut self, rules: &[Rule]) {
        if self.numbers.len() < MANY {
            return;
        }
        let (mut by_topic, mut any) = (TopicRules::default(), Vec::new());
        for &number in &self.numbers {
            let Some(rule) = rules.get(number as usize) else { continue };
            if rule.topics.is_empty() {
                any.push(number);
            }
            rule.topics.iter().for_each(|topic| by_topic.add(topic.steps(), number));
        }
        self.topics = Some(Box::new((by_topic, any)));
    }

    /// Adds the rules that can be about `topic`, which has no wildcard, to `found`. Returns how
    /// many nodes were looked at.
    fn find(&self, topic: &str, found: &mut Vec<u32>) -> u32 {
        match &self.topics {
            None => {
                found.extend(&self.numbers);
                0
            }
            Some(filed) => {
                found.extend(&filed.1);
                filed.0.find(topic, found)
            }
        }
    }

    fn size(&self) -> usize {
        4 * self.numbers.len() + self.topics.as_ref().map_or(0, |filed| filed.0.size())
    }
}

/// The rule that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// True when the rule allows.
    pub allow: bool,
    /// The place where the rule is written.
    pub written: RuleOrigin,
}

/// Rules in order.
#[derive(Clone, Default, Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// Names of the files, or of the configuration keys, that the rules are from.
    sources: Vec<Box<str>>,
    /// Rules about one user, rules about one ClientId, and all others.
    by_user: HashMap<Box<str>, RuleNumbers, foldhash::fast::RandomState>,
    by_client: HashMap<Box<str>, RuleNumbers, foldhash::fast::RandomState>,
    others: RuleNumbers,
}

impl RuleSet {
    /// Adds a source; returns its number, for [`RuleOrigin`].
    pub fn add_source(&mut self, name: &str) -> u16 {
        self.sources.push(name.into());
        (self.sources.len() - 1) as u16
    }

    /// Adds a rule behind the others.
    pub fn push(&mut self, rule: Rule) {
        let number = self.rules.len() as u32;
        match rule.key() {
            Some((true, user)) => self.by_user.entry(user.into()).or_default(),
            Some((false, client)) => self.by_client.entry(client.into()).or_default(),
            None => &mut self.others,
        }
        .numbers
        .push(number);
        self.rules.push(rule);
    }

    /// Files rules by topic where many are about the same clients. Called once all rules were
    /// added.
    pub fn file(&mut self) {
        let filed = self.by_user.values_mut().chain(self.by_client.values_mut());
        for rules in filed.chain([&mut self.others]) {
            rules.file(&self.rules);
        }
    }

    /// Names of the sources, and the rules in order.
    pub(super) fn parts(&self) -> (&Vec<Box<str>>, &Vec<Rule>) {
        (&self.sources, &self.rules)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Approximate bytes of memory.
    pub fn size(&self) -> usize {
        let topics = self.rules.iter().flat_map(|rule| &rule.topics).map(TopicPattern::size);
        let filed = self.by_user.values().chain(self.by_client.values()).chain([&self.others]);
        let filed: usize = filed.map(RuleNumbers::size).sum();
        self.rules.len() * size_of::<Rule>() + topics.sum::<usize>() + filed
    }

    /// The place of a rule as text: file and line, or key.
    pub fn place(&self, written: RuleOrigin) -> String {
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
        let all = [of_user, of_client, Some(&self.others)].into_iter().flatten();
        // Filing by topic cannot find the rules that a filter with wildcards is covered by or
        // overlaps.
        let is_name = !topic.contains(['+', '#']);
        let filed = is_name && all.clone().any(|rules| rules.topics.is_some());
        if !filed {
            return self.first(all.map(|rules| rules.numbers.as_slice()), who, deed, topic);
        }
        let mut found = Vec::new();
        let places: u32 = all.map(|rules| rules.find(topic, &mut found)).sum();
        found.sort_unstable();
        found.dedup();
        let (ruling, looked_at) = self.first([found.as_slice()].into_iter(), who, deed, topic);
        (ruling, places + looked_at)
    }

    /// The first rule in these lists (three at most, each in order) that applies, and how many were
    /// looked at.
    fn first<'a>(
        &self,
        lists: impl Iterator<Item = &'a [u32]>,
        who: &Who<'_>,
        deed: Deed,
        topic: &str,
    ) -> (Option<Ruling>, u32) {
        let mut open: [&[u32]; 3] = [&[]; 3];
        open.iter_mut().zip(lists).for_each(|(place, list)| *place = list);
        let mut looked_at = 0;
        // The rule with the lowest number at the head of the lists comes first.
        while let Some(next) =
            open.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())
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
