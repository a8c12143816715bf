//! Rules and attributes of one client in JSON, from its token or from a service, in EMQX's form.

use super::pattern::{Notation, TopicPattern};
use super::rule::{ANY_QOS, Rule, RuleOrigin, RuleSet};
use serde_json::Value;

/// Most rules of one client.
const MOST_RULES: usize = 1000;
/// Most attributes of one client, and bytes of one.
const MOST_ATTRIBUTES: usize = 64;
const LONGEST_ATTRIBUTE: usize = 1024;

/// The rules of one client: a list of `{permission, action, topic, qos, retain}`, or an object with
/// lists of topics under `pub`, `sub` and `all`.
///
/// # Errors
/// What cannot be read: a client must not be accepted with fewer denials than were meant.
pub fn rules(value: &Value) -> Result<RuleSet, &'static str> {
    let mut set = RuleSet::default();
    let source = set.add_source("acl");
    match value {
        Value::Array(list) if list.len() <= MOST_RULES => {
            for (at, item) in list.iter().enumerate() {
                set.push(rule(item, RuleOrigin { source, line: at as u32 + 1 })?);
            }
        }
        Value::Object(lists) => {
            for (name, topics) in lists {
                let (publish, subscribe) = match name.as_str() {
                    "pub" => (true, false),
                    "sub" => (false, true),
                    "all" => (true, true),
                    _ => return Err("the acl has something besides pub, sub and all"),
                };
                let topics = patterns(topics)?;
                let written = RuleOrigin { source, line: 1 };
                if !topics.is_empty() {
                    set.push(Rule { publish, subscribe, topics, ..allowing(written) });
                }
            }
        }
        _ => return Err("the acl is neither a list of rules nor lists of topics"),
    }
    set.file();
    Ok(set)
}

fn allowing(written: RuleOrigin) -> Rule {
    Rule {
        allow: true,
        publish: true,
        subscribe: true,
        who: Vec::new(),
        qos: ANY_QOS,
        retain: None,
        topics: Vec::new(),
        written,
    }
}

/// Reads one rule, with EMQX's keys. All values may be texts.
///
/// # Errors
/// What cannot be read.
pub(super) fn rule(item: &Value, written: RuleOrigin) -> Result<Rule, &'static str> {
    let word = |name: &str| item.get(name).and_then(Value::as_str);
    let allow = match word("permission") {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err("a rule of the acl neither allows nor denies"),
    };
    let (publish, subscribe) = match word("action") {
        Some("publish" | "pub") => (true, false),
        Some("subscribe" | "sub") => (false, true),
        Some("all") | None => (true, true),
        Some(_) => return Err("a rule of the acl has an unknown action"),
    };
    let topics = item.get("topic").or_else(|| item.get("topics"));
    let topics = patterns(topics.ok_or("a rule of the acl has no topic")?)?;
    if topics.is_empty() {
        return Err("a rule of the acl has no topic");
    }
    let retain = match item.get("retain") {
        None | Some(Value::Null) => None,
        Some(retain) => flag(retain).ok_or("a rule of the acl has an unknown retain")?,
    };
    let qos = match item.get("qos") {
        None | Some(Value::Null) => ANY_QOS,
        Some(qos) => levels(qos).ok_or("a rule of the acl has an unknown qos")?,
    };
    Ok(Rule { allow, publish, subscribe, retain, qos, topics, ..allowing(written) })
}

/// The RETAIN flag that a rule is about; `Some(None)` for any, `None` when it cannot be read.
fn flag(value: &Value) -> Option<Option<bool>> {
    match text(value)?.as_str() {
        "all" => Some(None),
        "true" | "1" => Some(Some(true)),
        "false" | "0" => Some(Some(false)),
        _ => None,
    }
}

/// A bit for each QoS level in a number, in a text such as `0,1`, or in a list of either.
fn levels(value: &Value) -> Option<u8> {
    let bit = |value: &str| value.parse::<u8>().ok().filter(|qos| *qos <= 2).map(|qos| 1 << qos);
    let bits = |text: &str| text.split(',').try_fold(0, |all, one| Some(all | bit(one.trim())?));
    match value {
        Value::Array(list) => list.iter().try_fold(0, |all, one| Some(all | bits(&text(one)?)?)),
        one => bits(&text(one)?),
    }
}

fn patterns(value: &Value) -> Result<Vec<TopicPattern>, &'static str> {
    let one = |value: &Value| {
        let text = value.as_str().ok_or("a topic of the acl is no text")?;
        TopicPattern::new(text, Notation::Braces).map_err(|_| "a topic of the acl is no filter")
    };
    match value {
        Value::Array(list) if list.len() <= MOST_RULES => list.iter().map(one).collect(),
        Value::Array(_) => Err("the acl has too many topics"),
        value => Ok(vec![one(value)?]),
    }
}

/// The attributes of a client, from an object: texts, numbers and booleans. Others are left out, as
/// are those that are too long or too many.
pub fn attributes(value: Option<&Value>) -> Box<[(Box<str>, Box<str>)]> {
    let all = value.and_then(Value::as_object).into_iter().flatten();
    let texts = all.filter_map(|(name, value)| Some((name, text(value)?)));
    let short = |(name, text): &(&String, String)| name.len() + text.len() <= LONGEST_ATTRIBUTE;
    let short = texts.filter(short).take(MOST_ATTRIBUTES);
    short.map(|(name, text)| (name.as_str().into(), text.into())).collect()
}

/// A string, number or boolean as text; `None` for anything else.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(switch) => Some(switch.to_string()),
        _ => None,
    }
}

/// Whether a value means yes: `true`, 1, or one of these as text.
pub fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(switch)) => *switch,
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        Some(Value::String(word)) => word == "true" || word == "1",
        _ => false,
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
