//! The time of an authorization decision that is remembered and of one that is not, by the number
//! of rules.

use crate::timing::nanoseconds;
use ringmq::access::cache::{Cache, NO_END};
use ringmq::access::rule::RuleSet;
use ringmq::access::{Deed, Grant, Who, acl_file};

const DEED: Deed = Deed::Publish { qos: 0, retain: false };

/// An ACL file with `rules` lines about one user, and about others as many as Mosquitto's users
/// have; the last line of each user decides.
fn set(rules: usize) -> RuleSet {
    let mut text = String::from("user ann\n");
    for n in 1..rules {
        text += &format!("topic readwrite plant/{n}/+/state\n");
    }
    text += "pattern readwrite dev/%u/#\n";
    let mut set = RuleSet::default();
    let source = set.add_source("acl");
    let read = acl_file::parse(&text, source).expect("it is an acl file");
    read.into_iter().for_each(|rule| set.push(rule));
    set.file();
    set
}

pub fn run() {
    let grant = Grant::named(Some("ann"));
    let who = Who { client_id: "c1", grant: &grant, listener: "default" };
    for rules in [10, 1_000, 10_000] {
        let set = set(rules);
        let topics: Vec<String> = (0..4096)
            .map(|n| match n % 2 {
                0 => format!("plant/{}/m{n}/state", 1 + n % (rules - 1)),
                _ => format!("dev/ann/{n}/state"),
            })
            .collect();
        nanoseconds(&format!("{rules} rules, not remembered"), &topics, |topic| {
            usize::from(set.judge(&who, DEED, topic).0.is_some())
        });
    }
    let mut cache = Cache::new(16_384);
    let topics: Vec<u64> = (0..4096u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    topics.iter().for_each(|topic| cache.put(1, *topic, DEED, true, NO_END));
    nanoseconds("remembered, whatever the rules", &topics, |topic| {
        usize::from(cache.find(1, *topic, DEED, 0).is_some())
    });
}
