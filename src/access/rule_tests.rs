use super::super::pattern::Notation;
use super::*;
use crate::access::Grant;
use crate::transport::network::Network;
use proptest::prelude::*;

fn rule(allow: bool, who: Vec<Condition>, topic: &str, line: u32) -> Rule {
    Rule {
        allow,
        publish: true,
        subscribe: true,
        who,
        qos: ANY_QOS,
        retain: None,
        topics: vec![TopicPattern::new(topic, Notation::Braces).expect("a pattern")],
        written: RuleOrigin { source: 0, line },
    }
}

fn set(rules: Vec<Rule>) -> RuleSet {
    let mut set = RuleSet::default();
    set.add_source("rules.yaml");
    rules.into_iter().for_each(|rule| set.push(rule));
    set
}

fn user(name: &str) -> Condition {
    Condition::User(vec![Glob::new(name)])
}

const SEND: Deed = Deed::Publish { qos: 0, retain: false };
const HEAR: Deed = Deed::Subscribe { qos: 0 };

fn line(set: &RuleSet, name: Option<&str>, deed: Deed, topic: &str) -> Option<(bool, u32)> {
    let grant = Grant::named(name);
    let who = Who { client_id: "c1", grant: &grant, listener: "main" };
    set.judge(&who, deed, topic).0.map(|ruling| (ruling.allow, ruling.written.line))
}

#[test]
fn the_first_rule_that_applies_decides_wherever_it_is_filed() {
    let client = Condition::ClientId(vec![Glob::new("c1")]);
    let set = set(vec![
        rule(true, vec![user("ann")], "a/#", 1),
        rule(false, vec![client], "a/b", 2),
        rule(true, vec![], "a/b", 3),
        rule(false, vec![user("ann")], "a/b", 4),
        rule(false, vec![user("b*")], "x", 5),
    ]);
    assert_eq!(line(&set, Some("ann"), SEND, "a/b"), Some((true, 1)));
    assert_eq!(line(&set, Some("bob"), SEND, "a/b"), Some((false, 2)));
    assert_eq!(line(&set, Some("bob"), SEND, "x"), Some((false, 5)));
    assert_eq!(line(&set, Some("ann"), SEND, "x"), None);
    let ruling = RuleOrigin { source: 0, line: 4 };
    assert_eq!(set.place(ruling), "rules.yaml:4");
}

/// A subscription is denied if it would bring messages that an earlier rule denies.
#[test]
fn a_subscription_needs_all_that_it_matches() {
    let set = set(vec![rule(false, vec![], "a/secret", 1), rule(true, vec![], "a/#", 2)]);
    assert_eq!(line(&set, None, HEAR, "a/+"), Some((false, 1)));
    assert_eq!(line(&set, None, HEAR, "a/b/#"), Some((true, 2)));
    assert_eq!(line(&set, None, HEAR, "#"), Some((false, 1)));
    assert_eq!(line(&set, None, HEAR, "+/b"), None);
}

#[test]
fn conditions_are_about_what_is_known() {
    let network = |text: &str| Network::around(text).expect("a network");
    let v6 = "2001:db8::/32";
    assert!(network("10.0.0.0/8").contains([10, 9, 8, 7].into()));
    assert!(!network("10.0.0.0/8").contains([11, 0, 0, 1].into()));
    assert!(network("0.0.0.0/0").contains([11, 0, 0, 1].into()));
    assert!(network(v6).contains("2001:db8:1::1".parse().expect("an address")));
    assert!(!network(v6).contains("2001:db9::1".parse().expect("an address")));
    assert!(!network("::/0").contains([11, 0, 0, 1].into()));
    assert!(Network::around("10.0.0.0/33").is_err() && Network::around("x").is_err());
    let mut grant = Grant::named(None);
    grant.peer = Peer::Tcp([10, 0, 0, 1].into(), 1);
    grant.attributes = [("role".into(), "admin".into())].into();
    grant.certificate = "dev-7".into();
    let who = Who { client_id: "c1", grant: &grant, listener: "main" };
    let holds = |condition: Condition| condition.holds(&who);
    assert!(holds(Condition::Anonymous) && !holds(user("*")));
    assert!(holds(Condition::Address(Networks(vec![network("10.0.0.0/8")]))));
    assert!(holds(Condition::Listener(vec!["main".into()])));
    assert!(!holds(Condition::Listener(vec!["other".into()])));
    assert!(holds(Condition::Certificate(vec![Glob::new("dev-*")])));
    assert!(holds(Condition::Attribute("role".into(), Glob::new("admin"))));
    assert!(!holds(Condition::Attribute("role".into(), Glob::new("user"))));
}

#[test]
fn qos_retain_and_deed_narrow_a_rule() {
    let retained = Rule { retain: Some(true), ..rule(false, vec![], "t", 1) };
    let second = Rule { qos: 0b100, subscribe: false, ..rule(true, vec![], "t", 2) };
    let set = set(vec![retained, second]);
    let send = |qos, retain| line(&set, None, Deed::Publish { qos, retain }, "t");
    assert_eq!(send(2, true), Some((false, 1)));
    assert_eq!(send(2, false), Some((true, 2)));
    assert_eq!(send(1, false), None);
    assert_eq!(line(&set, None, Deed::Subscribe { qos: 2 }, "t"), Some((false, 1)));
}

proptest! {
    /// Filing by user and ClientId gives the same answers as asking each rule in turn.
    #[test]
    fn a_compiled_set_decides_as_the_list_does(
        rules in prop::collection::vec(
            (any::<bool>(), 0..4usize, prop::sample::select(vec!["a", "b", "+", "#"])),
            0..20,
        ),
        name in prop::option::of(prop::sample::select(vec!["ann", "bob"])),
        topic in prop::sample::select(vec!["a", "b", "c"]),
    ) {
        let list: Vec<Rule> = rules
            .iter()
            .enumerate()
            .map(|(at, (allow, kind, topic))| {
                let who = match kind {
                    0 => vec![],
                    1 => vec![user("ann")],
                    2 => vec![Condition::ClientId(vec![Glob::new("c1")])],
                    _ => vec![user("b*")],
                };
                rule(*allow, who, topic, at as u32)
            })
            .collect();
        let grant = Grant::named(name);
        let who = Who { client_id: "c1", grant: &grant, listener: "main" };
        let naive = list.iter().find(|rule| rule.applies(&who, SEND, topic));
        let naive = naive.map(|rule| (rule.allow, rule.written.line));
        let compiled = set(list.clone());
        prop_assert_eq!(line(&compiled, name, SEND, topic), naive);
    }
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "+", "${username}", "x${client_id}", "$d"])
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "ann", "xc1", "$d"])
}

fn topic_filter() -> impl Strategy<Value = String> {
    (prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(|(levels, hash)| {
        let end = if hash { "/#" } else { "" };
        levels.join("/") + end
    })
}

proptest! {
    /// Many rules that are filed by topic give the same answers as asking each rule in turn.
    #[test]
    fn filed_rules_decide_as_a_list_does(
        topics in prop::collection::vec((topic_filter(), any::<bool>(), 0..4u8), 20..60),
        wanted in prop::collection::vec(name(), 1..4),
        hears in any::<bool>(),
    ) {
        let rules = topics.iter().enumerate().filter_map(|(at, (topic, allow, who))| {
            let who = match who {
                0 => vec![user("ann")],
                1 => vec![Condition::ClientId(vec![Glob::new("c1")])],
                _ => vec![],
            };
            let topic = TopicPattern::new(topic, Notation::Braces).ok()?;
            Some(Rule { topics: vec![topic], ..rule(*allow, who, "x", at as u32 + 1) })
        });
        let plain = set(rules.collect());
        let mut filed = plain.clone();
        filed.file();
        let (deed, topic) = (if hears { HEAR } else { SEND }, wanted.join("/"));
        let said = line(&filed, Some("ann"), deed, &topic);
        prop_assert_eq!(said, line(&plain, Some("ann"), deed, &topic));
    }
}

/// Measures the cost of a decision that is not remembered, on the publish path.
#[test]
fn ten_thousand_rules_are_not_looked_at_one_by_one() {
    let of = |count: u32| {
        let rules =
            (0..count).map(|n| rule(true, vec![], &format!("plant/{n}/+/${{username}}"), n));
        let mut set = set(rules.collect());
        set.file();
        let grant = Grant::named(Some("ann"));
        let who = Who { client_id: "c1", grant: &grant, listener: "main" };
        let (ruling, looked_at) = set.judge(&who, SEND, &format!("plant/{}/x/ann", count - 1));
        assert!(ruling.is_some());
        looked_at
    };
    assert_eq!(of(10_000), of(20));
}
