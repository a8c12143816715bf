//! What a node has counted that only grows goes on to grow in the process that takes its place in
//! an upgrade: it goes over by names, so that another build may count something more, or less.

use crate::mutant::Mutant;

/// A count by its name.
pub type NamedCount<'a> = (&'static str, &'a mut u64);

/// What was counted, by name.
pub type PackedCounts = Vec<(Box<str>, u64)>;

/// Packs counts.
pub fn pack<'a>(named: impl IntoIterator<Item = NamedCount<'a>>) -> PackedCounts {
    if Mutant::ClusterUpgradeCountsLost.is_on() {
        return PackedCounts::new();
    }
    let counted = named.into_iter().map(|(name, count)| (name.into(), *count));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Adds what was packed.
pub fn add<'a>(named: impl IntoIterator<Item = NamedCount<'a>>, counted: &PackedCounts) {
    for (name, count) in named {
        let known = counted.iter().find(|(known, _)| **known == *name);
        *count += known.map_or(0, |(_, count)| *count);
    }
}
