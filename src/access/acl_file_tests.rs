use super::super::rule::RuleSet;
use super::super::{Deed, Grant, Who};
use super::*;

const SEND: Deed = Deed::Publish { qos: 0, retain: false };
const HEAR: Deed = Deed::Subscribe { qos: 0 };

fn set(text: &str) -> RuleSet {
    let mut set = RuleSet::default();
    let source = set.add_source("acl");
    parse(text, source).expect("it can be read").into_iter().for_each(|rule| set.push(rule));
    set
}

fn may(set: &RuleSet, name: Option<&str>, deed: Deed, topic: &str) -> bool {
    let grant = Grant::named(name);
    let who = Who { client_id: "c1", grant: &grant, listener: "main" };
    set.judge(&who, deed, topic).0.is_some_and(|ruling| ruling.allow)
}

/// The example of mosquitto's manual page, and what its text says of it.
#[test]
fn lines_mean_what_mosquitto_says() {
    let set = set("
# anonymous
topic read public/#
topic write in box/+

user ann
topic ann/#
topic deny ann/secret
topic\tread  news

user bob
topic write bob/in

pattern readwrite dev/%c/#
pattern deny dev/%c/locked
pattern read users/%u/+
");
    assert!(may(&set, None, HEAR, "public/x") && !may(&set, None, SEND, "public/x"));
    assert!(may(&set, None, SEND, "in box/1"));
    assert!(!may(&set, Some("ann"), HEAR, "public/x"), "lines before a user are anonymous ones'");
    assert!(may(&set, Some("ann"), SEND, "ann/x") && may(&set, Some("ann"), HEAR, "ann/a/#"));
    assert!(!may(&set, Some("ann"), SEND, "ann/secret"), "deny comes first");
    assert!(!may(&set, Some("ann"), HEAR, "ann/#"), "it would bring what is denied");
    assert!(may(&set, Some("ann"), HEAR, "news") && !may(&set, Some("ann"), SEND, "news"));
    assert!(may(&set, Some("bob"), SEND, "bob/in") && !may(&set, Some("bob"), HEAR, "bob/in"));
    for name in [None, Some("ann"), Some("bob")] {
        assert!(may(&set, name, SEND, "dev/c1/x") && !may(&set, name, SEND, "dev/c2/x"));
        assert!(!may(&set, name, SEND, "dev/c1/locked"));
    }
    assert!(may(&set, Some("bob"), HEAR, "users/bob/+"));
    assert!(!may(&set, None, HEAR, "users//+"));
}

#[test]
fn a_user_is_compared_and_not_matched() {
    let set = set("user *\ntopic a");
    assert!(may(&set, Some("*"), SEND, "a") && !may(&set, Some("ann"), SEND, "a"));
}

#[test]
fn every_wrong_line_is_named() {
    let wrong = "user\ntopics a\ntopic read\ntopic a/#/b\n\npattern write\ntopic ok";
    let lines: Vec<usize> =
        parse(wrong, 0).expect_err("it is wrong").iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 4]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z /#+%cu\t\n]{0,200}") {
        let _ = parse(&text, 0);
        let lines = format!("topic {text}\npattern deny {text}");
        let _ = parse(&lines, 0);
    }
}
