//! Which shard is the home of a ClientId, a share group or a retained message.

use crate::ids::ShardId;
use crate::topic::{Seeds, TopicHash};

/// The home shard of a ClientId or of a share group among `shards`. The hash is keyed with a secret
/// of this start of the process, so that nobody can work out beforehand which ClientIds meet on one
/// shard. Only `/placement` of the admin server tells that, and only to the host itself.
pub fn home_of(seeds: &Seeds, name: &str, shards: u8) -> ShardId {
    if shards == 1 {
        return ShardId(0);
    }
    ShardId((seeds.secret(name.as_bytes()) % u64::from(shards)) as u8)
}

/// The shard among `shards` that keeps a topic's retained message.
pub fn retained_home(hash: &TopicHash<'_>, shards: u8) -> ShardId {
    ShardId((hash.exact() % u64::from(shards)) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_is_even_and_stays_for_one_start() {
        let seeds = Seeds::fixed(1);
        let mut counts = [0u32; 16];
        for client in 0..16_000 {
            counts[usize::from(home_of(&seeds, &format!("device-{client}"), 16).0)] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(home_of(&seeds, "device-1", 16), home_of(&seeds.clone(), "device-1", 16));
        assert_eq!(home_of(&seeds, "anything", 1), ShardId(0));
    }

    /// Names that meet on one shard of one process are spread over the shards of another.
    #[test]
    fn what_meets_on_one_shard_is_spread_after_the_next_start() {
        let (before, after) = (Seeds::random(), Seeds::random());
        let names = (0..).map(|n| format!("device-{n}"));
        let aimed = names.filter(|name| home_of(&before, name, 4) == ShardId(2)).take(4000);
        let mut counts = [0u32; 4];
        aimed.for_each(|name| counts[usize::from(home_of(&after, &name, 4).0)] += 1);
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
