//! Which shard owns a ClientId.

use crate::ids::ShardId;

/// The home shard of a ClientId among `shards`. The hash is fixed (FNV-1a, 64 bits, with a final
/// mix), so that a ClientId keeps its home across restarts and load tools can tell it.
pub fn home_of(client_id: &str, shards: u8) -> ShardId {
    if shards == 1 {
        return ShardId(0);
    }
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in client_id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    ShardId((hash % u64::from(shards)) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_is_even_and_fixed() {
        let mut counts = [0u32; 16];
        for client in 0..16_000 {
            counts[usize::from(home_of(&format!("device-{client}"), 16).0)] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(home_of("device-1", 16), home_of("device-1", 16));
        assert_eq!(home_of("anything", 1), ShardId(0));
    }
}
