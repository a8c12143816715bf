//! What the specification says in its own words, as slowly as it likes: the naive model that the
//! broker's tables are compared with.

/// Whether a topic filter matches a topic name (section 4.7), level by level.
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    // [MQTT-4.7.2-1]
    if topic[0].starts_with('$') && ["#", "+"].contains(&filter[0]) {
        return false;
    }
    let mut at = 0;
    for &level in &filter {
        match level {
            "#" => return true,
            "+" if at < topic.len() => {}
            _ if topic.get(at) == Some(&level) => {}
            _ => return false,
        }
        at += 1;
    }
    at == topic.len()
}

/// The filter inside `$share/group/filter`, or the filter itself.
pub fn plain(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    }
}

#[test]
fn filters_match_as_the_specification_says() {
    for (filter, topic, expected) in [
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/+", "a/b", true),
        ("a/+", "a", false),
        ("a/+", "a/b/c", false),
        ("+/+", "/b", true),
        ("/+", "/b", true),
        ("+", "/b", false),
        ("#", "$SYS/x", false),
        ("+/x", "$SYS/x", false),
        ("$SYS/#", "$SYS/x", true),
        ("a", "a", true),
        ("a", "b", false),
        ("a/b", "a", false),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
    assert_eq!((plain("$share/g/a/+"), plain("a/+")), ("a/+", "a/+"));
}
