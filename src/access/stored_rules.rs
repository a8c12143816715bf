//! Rules in Redis or PostgreSQL, in the forms of databases made for EMQX. Owns what an answer of
//! their [`Database`] means for what a client wants to do.
//!
//! - Redis: a hash for each client. A field is a topic filter; its value is `publish`, `subscribe`
//!   or `all`, or a JSON object with `action`, `qos`, `retain` and `permission` (`allow` if left
//!   out). A hash has no order, so rules that deny come first.
//! - PostgreSQL: a row for each rule, in the order of the query: `permission`, `action`, `topic`,
//!   and `qos` and `retain` where they are not null.
//!
//! If a rule cannot be read, the whole answer counts as none: a client must not be allowed what the
//! rule was meant to deny.

use super::chain::Proof;
use super::database::{Columns, Database, DatabaseQuery};
use super::rule::{RuleOrigin, RuleSet};
use super::{Deed, Grant, Said, Who, claims};
use crate::config;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Most rules that one client may have.
pub const MOST_RULES: usize = 1000;
/// Most bytes that the rules of one client may have.
pub const MOST_BYTES: usize = 256 << 10;

/// The reason for refusing more than [`MOST_RULES`] rules or [`MOST_BYTES`] bytes.
pub const TOO_MANY: &str = "the client has too many rules";

/// Columns that would restrict a rule to some clients. They are refused, because the query has to
/// select the rules of one client.
const WHOM: [&str; 5] = ["username_re", "clientid_re", "ipaddr", "listener", "zone"];

/// A database of rules.
#[derive(Debug)]
pub struct StoredRules {
    /// The database, which is asked for all rules of a client.
    pub database: Arc<Database>,
}

/// The answer about a deed, and the number of the rule that decides, counted from 1.
pub type RuleAnswer = (Said, Option<u32>);

impl StoredRules {
    /// Reads the section of a Redis server.
    ///
    /// # Errors
    /// What its command has that cannot be obeyed.
    pub fn redis(section: &config::RedisRules, ca: Option<&str>) -> Result<StoredRules, String> {
        Database::redis_rules(section, ca).map(|it| StoredRules { database: Arc::new(it) })
    }

    /// Reads the section of a PostgreSQL server.
    ///
    /// # Errors
    /// What its query has that cannot be obeyed.
    pub fn postgres(
        section: &config::PostgresRules,
        ca: Option<&str>,
    ) -> Result<StoredRules, String> {
        Database::postgres_rules(section, ca).map(|it| StoredRules { database: Arc::new(it) })
    }

    /// Reads the rules in an answer.
    ///
    /// # Errors
    /// Why the rules cannot be used.
    pub fn rules(&self, rows: Vec<Columns>) -> Result<RuleSet, &'static str> {
        match self.database.ask {
            DatabaseQuery::Redis(_) => of_hash(rows.into_iter().next().unwrap_or_default()),
            DatabaseQuery::Postgres(..) => of_rows(rows),
        }
    }

    /// The answer of the rules about a deed.
    pub fn judge(rules: &RuleSet, proof: &Proof, deed: Deed, topic: &str) -> RuleAnswer {
        let mut grant = Grant::named(proof.username.as_deref());
        grant.attributes.clone_from(&proof.attributes);
        grant.peer = proof.peer;
        if let Some(identity) = &proof.identity {
            grant.certificate.clone_from(&identity.common_name);
        }
        let who = Who { client_id: &proof.client_id, grant: &grant, listener: &proof.listener };
        match rules.judge(&who, deed, topic).0 {
            Some(ruling) => {
                let said = if ruling.allow { Said::Allow } else { Said::Deny };
                (said, Some(ruling.written.line))
            }
            None => (Said::Nothing, None),
        }
    }
}

fn of_hash(fields: Columns) -> Result<RuleSet, &'static str> {
    let mut rules = Vec::new();
    for (topic, value) in fields {
        // HMGET answers null for a field that does not exist.
        let Some(value) = value else { continue };
        let mut item = match value.as_str() {
            "publish" | "subscribe" | "all" | "pub" | "sub" => {
                Map::from_iter([("action".to_owned(), Value::String(value))])
            }
            text => match serde_json::from_str(text) {
                Ok(Value::Object(item)) if item.contains_key("action") => item,
                _ => return Err("a rule is neither an action nor a JSON object with one"),
            },
        };
        item.insert("topic".to_owned(), Value::String(topic));
        item.entry("permission").or_insert_with(|| Value::String("allow".to_owned()));
        rules.push(Value::Object(item));
    }
    rules.sort_by_key(|rule| rule.get("permission").and_then(Value::as_str) != Some("deny"));
    set(&rules)
}

fn of_rows(rows: Vec<Columns>) -> Result<RuleSet, &'static str> {
    let mut rules = Vec::with_capacity(rows.len());
    for row in rows {
        let known = row.into_iter().filter_map(|(name, text)| Some((name, Value::String(text?))));
        let item: Map<String, Value> = known.collect();
        if WHOM.iter().any(|name| item.contains_key(*name)) {
            return Err("a rule has a column that says whom it is about: ask for it in the query");
        }
        if !item.contains_key("action") {
            return Err("a rule has no action");
        }
        rules.push(Value::Object(item));
    }
    set(&rules)
}

fn set(rules: &[Value]) -> Result<RuleSet, &'static str> {
    if rules.len() > MOST_RULES {
        return Err(TOO_MANY);
    }
    let mut set = RuleSet::default();
    let source = set.add_source("rules");
    for (at, rule) in rules.iter().enumerate() {
        set.push(claims::rule(rule, RuleOrigin { source, line: at as u32 + 1 })?);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Peer;

    fn proof() -> Proof {
        Proof {
            client_id: "c1".into(),
            username: Some("ann".into()),
            password: None,
            peer: Peer::Unix,
            listener: "main".into(),
            identity: None,
            attributes: [("site".into(), "7".into())].into(),
        }
    }

    fn columns(all: &[(&str, &str)]) -> Columns {
        all.iter().map(|(name, text)| ((*name).to_owned(), Some((*text).to_owned()))).collect()
    }

    fn said(set: &RuleSet, deed: Deed, topic: &str) -> Said {
        StoredRules::judge(set, &proof(), deed, topic).0
    }

    const SEND: Deed = Deed::Publish { qos: 1, retain: false };
    const KEPT: Deed = Deed::Publish { qos: 1, retain: true };
    const READ: Deed = Deed::Subscribe { qos: 0 };

    #[test]
    fn a_hash_has_topics_and_what_may_be_done_with_them() {
        let set = of_hash(columns(&[
            ("a/#", "subscribe"),
            ("dev/${username}/${clientid}", "publish"),
            ("site/${client_attrs.site}", "all"),
            ("eq x/+", "subscribe"),
            ("r", r#"{"action": "publish", "qos": [1, 2], "retain": true}"#),
            ("a/b", r#"{"action": "all", "permission": "deny"}"#),
        ]));
        let set = set.expect("all can be read");
        for (deed, topic, expected) in [
            (READ, "a/c", Said::Allow),
            (READ, "a/b", Said::Deny),
            (READ, "a/#", Said::Deny),
            (SEND, "a/c", Said::Nothing),
            (SEND, "dev/ann/c1", Said::Allow),
            (SEND, "dev/ann/c2", Said::Nothing),
            (SEND, "site/7", Said::Allow),
            (READ, "x/+", Said::Allow),
            (READ, "x/y", Said::Nothing),
            (KEPT, "r", Said::Allow),
            (SEND, "r", Said::Nothing),
            (Deed::Publish { qos: 0, retain: true }, "r", Said::Nothing),
        ] {
            assert_eq!(said(&set, deed, topic), expected, "{deed:?} {topic}");
        }
    }

    #[test]
    fn rows_are_asked_in_their_order() {
        let row = |permission, action, topic| {
            columns(&[("permission", permission), ("action", action), ("topic", topic)])
        };
        let mut levels = row("allow", "publish", "q");
        levels.extend(columns(&[("qos", "0,1"), ("retain", "0")]));
        let mut nulls = row("allow", "publish", "n");
        nulls.extend([("qos".to_owned(), None), ("retain".to_owned(), None)]);
        let rows = vec![row("deny", "all", "a/b"), row("allow", "all", "a/+"), levels, nulls];
        let set = of_rows(rows).expect("all can be read");
        assert_eq!(said(&set, SEND, "a/b"), Said::Deny);
        assert_eq!(
            StoredRules::judge(&set, &proof(), SEND, "a/c"),
            (Said::Allow, Some(2)),
            "the second rule decides"
        );
        assert_eq!(said(&set, SEND, "q"), Said::Allow);
        assert_eq!(said(&set, KEPT, "q"), Said::Nothing);
        assert_eq!(said(&set, Deed::Publish { qos: 2, retain: false }, "q"), Said::Nothing);
        assert_eq!(said(&set, KEPT, "n"), Said::Allow);
    }

    #[test]
    fn what_cannot_be_read_allows_nothing() {
        for (topic, value) in [
            ("a", "3"),
            ("a", "deny"),
            ("a", "{}"),
            ("a", "[1]"),
            ("a/#/b", "all"),
            ("${x}", "all"),
        ] {
            assert!(of_hash(columns(&[(topic, value)])).is_err(), "{topic} {value}");
        }
        for (name, value) in [
            ("permission", "permit"),
            ("action", "write"),
            ("topic", "#/a"),
            ("qos", "0,3"),
            ("retain", "maybe"),
            ("ipaddr", "10.0.0.1"),
        ] {
            let mut row = columns(&[("permission", "allow"), ("action", "all"), ("topic", "a")]);
            row.retain(|(known, _)| known != name);
            assert!(
                name == "topic"
                    || name == "permission"
                    || name == "action"
                    || of_rows(vec![row.clone()]).is_ok()
            );
            row.push((name.to_owned(), Some(value.to_owned())));
            assert!(of_rows(vec![row]).is_err(), "{name} {value}");
        }
        assert!(of_rows(vec![columns(&[("permission", "allow"), ("topic", "a")])]).is_err());
        let many = (0..=MOST_RULES).map(|at| (format!("t/{at}"), Some("all".to_owned())));
        assert_eq!(of_hash(many.collect()).err(), Some(TOO_MANY));
    }
}
