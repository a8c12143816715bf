use proptest::prelude::*;

use super::*;
use crate::topic::testing;

#[test]
fn the_specifications_examples_match_as_written() {
    for (filter, name, expected) in [
        // 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("#", "sport/tennis", true),
        ("#", "/", true),
        // 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player2", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+", "sport", true),
        ("+/tennis/#", "sport/tennis", true),
        ("sport/+/player1", "sport/tennis/player1", true),
        ("/finance", "/finance", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        // 4.7.2
        ("#", "$SYS/x", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/monitor/Clients", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("+/#", "$SYS", false),
        ("+/+", "$/a", false),
        ("$/+", "$/a", true),
        // 4.7.3
        ("ACCOUNTS", "Accounts", false),
        ("accounts", "/accounts", false),
        ("a/+/+/b", "a///b", true),
        ("a/+/b", "a//b", true),
        ("a/b", "a/b/", false),
        ("a/b/", "a/b", false),
        ("a/b/#", "a/b/", true),
        ("a/b/+/#", "a/b", false),
        ("a/#", "ab", false),
    ] {
        assert_eq!(matches(filter, name), expected, "{filter} {name}");
        assert_eq!(testing::naive_matches(filter, name), expected, "{filter} {name}");
    }
}

#[test]
fn a_topic_name_is_not_empty_and_has_no_wildcard_and_no_null() {
    for name in ["a", "/", "//", " ", "a/b", "$SYS/a", "a b/ö/语", &"x".repeat(65_535)] {
        assert!(valid_name(name), "{name}");
    }
    for name in ["", "+", "#", "a/+", "a+b", "a/#", "a#", "a\0", "\0", &"x".repeat(65_536)] {
        assert!(!valid_name(name), "{name}");
    }
}

#[test]
fn wildcards_in_a_filter_fill_their_level_and_only_the_last_is_a_hash() {
    for filter in
        ["a", "/", "#", "+", "+/#", "a/#", "/#", "+/+", "/+/", "a/+/b", "a/+/#", "$share", "a b"]
    {
        assert!(valid_filter(filter), "{filter}");
    }
    for filter in
        ["", "a#", "#/", "#/a", "a/#/b", "a+", "+a", "a/+b/c", "a/b+", "++", "##", "+#", "a/\0"]
    {
        assert!(!valid_filter(filter), "{filter}");
    }
    assert!(valid_filter(&"/".repeat(65_535)));
    assert!(!valid_filter(&"/".repeat(65_536)));
}

#[test]
fn levels_are_counted_with_the_empty_ones() {
    for (topic, count) in [("a", 1), ("/", 2), ("a/b", 2), ("//", 3), ("a/#", 2), ("/a/", 3)] {
        assert_eq!(levels(topic), count, "{topic}");
    }
}

#[test]
fn a_shared_subscription_has_a_plain_group_and_a_valid_filter() {
    for (filter, group, rest) in [
        ("$share/g/a", "g", "a"),
        ("$share/g//", "g", "/"),
        ("$share/g//finance", "g", "/finance"),
        ("$share/consumer 1/sport/+/#", "consumer 1", "sport/+/#"),
        ("$share/$share/$SYS/#", "$share", "$SYS/#"),
    ] {
        assert_eq!(parse_share(filter), Some(Ok(SharedFilter { group, filter: rest })), "{filter}");
    }
    for filter in [
        "$share/",
        "$share//",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/+/a",
        "$share/a#/a",
        "$share/#",
        "$share/g/a#",
        "$share/g/#/a",
        "$share/g\0/a",
    ] {
        assert_eq!(parse_share(filter), Some(Err(())), "{filter}");
    }
    for filter in ["$share", "a", "$SHARE/g/a", "/$share/g/a", "$shared/g/a", "#"] {
        assert_eq!(parse_share(filter), None, "{filter}");
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_the_naive_rules(
        filter in testing::filter(), name in testing::name(),
    ) {
        prop_assert!(valid_filter(&filter) && valid_name(&name));
        prop_assert_eq!(matches(&filter, &name), testing::naive_matches(&filter, &name));
    }
}

#[test]
fn the_servers_own_topics_are_below_sys_but_for_the_states_of_bridges() {
    for name in ["$SYS/broker/uptime", "$SYS/", "$SYS/broker/connection/a/b/state"] {
        assert!(is_servers_own(name), "{name}");
    }
    for name in ["$SYS/broker/connection/host.uplink/state", "$SYS", "$SYSTEM/a", "a/$SYS/b"] {
        assert!(!is_servers_own(name), "{name}");
    }
}
