use super::*;
use crate::access::{Deed, Grant, Who};
use serde_json::json;

fn allows(set: &RuleSet, deed: Deed, topic: &str) -> Option<bool> {
    let grant = Grant::named(Some("ann"));
    let who = Who { client_id: "c1", grant: &grant, listener: "main" };
    set.judge(&who, deed, topic).0.map(|ruling| ruling.allow)
}

const SEND: Deed = Deed::Publish { qos: 1, retain: false };
const KEEP: Deed = Deed::Publish { qos: 1, retain: true };
const HEAR: Deed = Deed::Subscribe { qos: 0 };

#[test]
fn both_forms_of_an_acl_are_read() {
    let old = json!({"pub": ["up/${clientid}"], "sub": ["eq +/x"], "all": ["all/#"]});
    let old = rules(&old).expect("it can be read");
    assert_eq!(allows(&old, SEND, "up/c1"), Some(true));
    assert_eq!(allows(&old, SEND, "up/c2"), None);
    assert_eq!(allows(&old, HEAR, "up/c1"), None);
    assert_eq!(allows(&old, HEAR, "+/x"), Some(true));
    assert_eq!(allows(&old, HEAR, "a/x"), None);
    assert_eq!(allows(&old, HEAR, "all/+/b"), Some(true));
    let new = json!([
        {"permission": "deny", "action": "publish", "topic": "t", "retain": true},
        {"permission": "allow", "action": "all", "topics": ["t", "u/${username}"], "qos": [0, 1]},
    ]);
    let new = rules(&new).expect("it can be read");
    assert_eq!(allows(&new, KEEP, "t"), Some(false));
    assert_eq!(allows(&new, SEND, "t"), Some(true));
    assert_eq!(allows(&new, Deed::Publish { qos: 2, retain: false }, "t"), None);
    assert_eq!(allows(&new, HEAR, "u/ann"), Some(true));
}

#[test]
fn what_cannot_be_read_is_refused_and_not_left_out() {
    for wrong in [
        json!("all"),
        json!([{"action": "all", "topic": "t"}]),
        json!([{"permission": "allow", "topic": "a/#/b"}]),
        json!([{"permission": "deny"}]),
        json!([{"permission": "deny", "topic": []}]),
        json!([{"permission": "allow", "topic": "t", "qos": 3}]),
        json!([{"permission": "allow", "topic": "t", "action": "fly"}]),
        json!([{"permission": "allow", "topic": "t", "retain": 7}]),
        json!({"pub": ["t"], "publish": ["u"]}),
        json!({"pub": [7]}),
        json!(vec![json!({"permission": "allow", "topic": "t"}); 1001]),
    ] {
        assert!(rules(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn attributes_are_words_within_bounds() {
    let value = json!({"role": "admin", "n": 7, "list": [1], "long": "x".repeat(2000)});
    let found = attributes(Some(&value));
    let found: Vec<_> = found.iter().map(|(name, text)| (&**name, &**text)).collect();
    assert_eq!(found, [("role", "admin"), ("n", "7")]);
}

/// Rules of a token hold even if the configuration has none.
#[test]
fn a_clients_own_rules_are_asked_where_there_are_no_others() {
    let mut grant = Grant::named(Some("ann"));
    grant.rules = rules(&json!({"pub": ["mine"]})).ok().map(Box::new);
    let access = crate::access::Access::open();
    let judge = |grant: &Grant, topic: &str| {
        let who = Who { client_id: "c1", grant, listener: "main" };
        access.allows(grant, access.explain(&who, SEND, topic, |_| None).0) == Ok(true)
    };
    assert!(judge(&grant, "mine") && !judge(&grant, "other"));
    grant.superuser = true;
    assert!(judge(&grant, "other"));
    assert!(judge(&Grant::named(None), "other"));
}
