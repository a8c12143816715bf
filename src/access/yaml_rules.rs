//! Compiles the rules of the configuration.

use super::pattern::{Glob, Notation, TopicPattern};
use super::rule::{ANY_QOS, Condition, Rule, RuleOrigin};
use crate::config::{AccessRule, Deeds};
use crate::transport::network::{Network, Networks};

/// Compiles one rule, which is written at `written`.
///
/// # Errors
/// What is wrong with the rule.
pub fn compile(rule: &AccessRule, written: RuleOrigin) -> Result<Rule, String> {
    if let Err((field, what, _)) = rule.check() {
        return Err(format!("{}{what}", field.trim_start_matches('.')));
    }
    let globs = |texts: &[Box<str>]| texts.iter().map(|text| Glob::new(text)).collect::<Vec<_>>();
    let mut who = Vec::new();
    if !rule.user.is_empty() {
        who.push(Condition::User(globs(&rule.user)));
    }
    if !rule.client_id.is_empty() {
        who.push(Condition::ClientId(globs(&rule.client_id)));
    }
    if !rule.address.is_empty() {
        let networks = rule.address.iter().filter_map(|text| Network::around(text).ok());
        who.push(Condition::Address(Networks(networks.collect())));
    }
    if !rule.listener.is_empty() {
        who.push(Condition::Listener(rule.listener.to_vec()));
    }
    if !rule.certificate.is_empty() {
        who.push(Condition::Certificate(globs(&rule.certificate)));
    }
    for (name, value) in rule.attributes.iter() {
        who.push(Condition::Attribute(name.clone(), Glob::new(value)));
    }
    let pattern = |text: &str| TopicPattern::new(text, Notation::Braces).map_err(|no| no.0);
    let topics: Result<Vec<_>, String> = rule.topics.iter().map(|text| pattern(text)).collect();
    let deeds = rule.allow.or(*rule.deny).unwrap_or(Deeds::All);
    let qos = rule.qos.iter().filter_map(|text| text.parse::<u8>().ok());
    Ok(Rule {
        allow: rule.allow.is_some(),
        publish: deeds != Deeds::Subscribe,
        subscribe: deeds != Deeds::Publish,
        who,
        qos: qos.map(|qos| 1 << qos).reduce(|all, bit| all | bit).unwrap_or(ANY_QOS),
        retain: *rule.retain,
        topics: topics?,
        written,
    })
}
