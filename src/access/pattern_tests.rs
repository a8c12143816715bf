use super::*;
use crate::access::Grant;
use crate::topic::matches;
use proptest::prelude::*;

fn with<T>(username: Option<&str>, look: impl FnOnce(&Who<'_>) -> T) -> T {
    let mut grant = Grant::named(username);
    grant.attributes = [("room".into(), "r1".into())].into();
    look(&Who { client_id: "c1", grant: &grant, listener: "main" })
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text, Notation::Braces).expect("a pattern")
}

#[test]
fn placeholders_are_whole_levels_or_parts_of_them() {
    let all = pattern("u/${username}/c-${client_id}-${attribute.room}/#");
    with(Some("ann"), |who| {
        assert!(all.matches("u/ann/c-c1-r1", who));
        assert!(all.matches("u/ann/c-c1-r1/x/y", who));
        assert!(!all.matches("u/bob/c-c1-r1", who));
        assert!(!all.matches("u/ann/c-c1-r12", who));
    });
    with(None, |who| assert!(!all.matches("u//c-c1-r1", who)));
    for wrong in ["a/${nobody}", "a/${username", "a/#/b", "", "a+/b"] {
        assert!(TopicPattern::new(wrong, Notation::Braces).is_err(), "{wrong}");
    }
}

/// A user called `+` or `a/b` must not get at other users' topics.
#[test]
fn a_name_that_would_change_the_topic_matches_nothing() {
    let mine = pattern("u/${username}/#");
    let theirs = TopicPattern::new("u/%u/#", Notation::Percent).expect("a pattern");
    for name in ["+", "#", "a/b", "", "a+"] {
        with(Some(name), |who| {
            for pattern in [&mine, &theirs] {
                assert!(!pattern.covers(&format!("u/{name}/#"), who), "{name}");
                assert!(!pattern.matches(&format!("u/{name}/x"), who), "{name}");
            }
        });
    }
}

#[test]
fn a_literal_pattern_means_the_filter_itself() {
    with(None, |who| {
        let literal = pattern("eq a/+");
        assert!(literal.covers("a/+", who));
        assert!(!literal.covers("a/b", who) && !literal.matches("a/b", who));
        assert!(literal.overlaps("a/+", who) && !literal.overlaps("a/#", who));
    });
}

#[test]
fn stars_stand_for_any_text() {
    for (glob, text, expected) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("*", "", true),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "a", false),
        ("ab*bc", "abc", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("*x*", "yxz", true),
    ] {
        assert_eq!(Glob::new(glob).matches(text), expected, "{glob} {text}");
    }
    assert!(Glob::literal("a*").matches("a*") && !Glob::literal("a*").matches("ab"));
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just(""), Just("$x")]
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic name has a letter", |name| !name.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+")];
    (prop::collection::vec(level, 1..5), any::<bool>())
        .prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("a filter has a letter", |filter| !filter.is_empty())
}

/// Every topic name of up to five of these levels, by which a test decides what a filter matches.
fn every_name() -> Vec<String> {
    let levels = ["a", "b", "", "$x", "other"];
    let mut all: Vec<Vec<&str>> = vec![Vec::new()];
    let mut names = Vec::new();
    for _ in 0..5 {
        all = all
            .iter()
            .flat_map(|name| levels.iter().map(move |level| [name.as_slice(), &[level]].concat()))
            .collect();
        names.extend(all.iter().map(|name| name.join("/")).filter(|name| !name.is_empty()));
    }
    names
}

proptest! {
    #[test]
    fn patterns_match_as_filters_do(filter in filter(), name in name()) {
        let same = with(None, |who| pattern(&filter).matches(&name, who));
        prop_assert_eq!(same, matches(&filter, &name));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compared with the naive way: every name that one filter matches is tested with the other.
    #[test]
    fn covering_and_overlapping_are_about_what_is_matched(rule in filter(), wanted in filter()) {
        let names: Vec<String> =
            every_name().into_iter().filter(|name| matches(&wanted, name)).collect();
        let (covers, overlaps) = with(None, |who| {
            (pattern(&rule).covers(&wanted, who), pattern(&rule).overlaps(&wanted, who))
        });
        let both = names.iter().filter(|name| matches(&rule, name)).count();
        if covers {
            prop_assert_eq!(both, names.len(), "allowed more than the rule has");
        }
        // `/#` and `+` have only the empty name in common, which no topic has, so it does no harm
        // when that counts as an overlap.
        let empty = matches(&rule, "") && matches(&wanted, "");
        prop_assert_eq!(overlaps, both > 0 || empty);
        if !covers && both == names.len() && !names.is_empty() {
            // Only where a `+` stands for a level whose every value the rule names, which needs
            // more than one pattern, may this be: never with these levels.
            prop_assert!(false, "refused what the rule has");
        }
    }
}
