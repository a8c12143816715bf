//! What the tests of this module and of the interest table share: a matcher that is not the one
//! under test, and names and filters from an alphabet small enough for them to meet.

use proptest::prelude::*;

/// Section 4.7 by recursion over levels, kept apart from `matches` on purpose.
pub(crate) fn naive_matches(filter: &str, name: &str) -> bool {
    fn go(filter: &[&str], name: &[&str]) -> bool {
        match (filter, name) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", filter @ ..], [_, name @ ..]) => go(filter, name),
            ([level, filter @ ..], [same, name @ ..]) if level == same => go(filter, name),
            _ => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    let hidden = name[0].starts_with('$') && (filter[0] == "+" || filter[0] == "#");
    !hidden && go(&filter, &name)
}

fn first_level() -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => level(), 1 => Just("$SYS"), 1 => Just("$")]
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("a!"), 1 => Just("B")]
}

fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![12 => 0..5usize, 2 => 5..10usize, 1 => 30..36usize]
}

/// A valid topic name.
pub(crate) fn name() -> impl Strategy<Value = String> {
    let rest = depth().prop_flat_map(|depth| prop::collection::vec(level(), depth));
    let joined = (first_level(), rest)
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect::<Vec<_>>().join("/"));
    joined.prop_filter("not empty", |name| !name.is_empty())
}

/// A valid topic filter, mostly with wildcards.
pub(crate) fn filter() -> impl Strategy<Value = String> {
    (name(), any::<u64>(), prop::bool::weighted(0.4)).prop_map(|(name, plus, open)| {
        let mut levels: Vec<&str> = name.split('/').collect();
        for (at, level) in levels.iter_mut().enumerate() {
            // A quarter of the levels of two filters in three.
            let bits = plus >> (2 * at as u32 % 60);
            if plus % 3 != 0 && bits & 3 == 0 {
                *level = "+";
            }
        }
        if open && plus % 5 == 0 {
            *levels.last_mut().unwrap() = "#";
        } else if open {
            levels.push("#");
        }
        levels.join("/")
    })
}
