//! Where RingMQ places a ClientId: the public rule, written again so that a test can say which
//! clients share a shard. FNV-1a with 64 bits, a final mix, modulo the number of shards.

/// The home shard of `client_id` among `shards`, which must be at least 1.
pub fn home_of(client_id: &str, shards: u8) -> u8 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in client_id.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    (hash % u64::from(shards)) as u8
}

/// A ClientId that begins with `prefix` and is placed on `home`, which must be less than `shards`.
pub fn named(prefix: &str, home: u8, shards: u8) -> String {
    let mut number = 0u32;
    loop {
        let name = format!("{prefix}-{number}");
        if home_of(&name, shards) == home {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Computed apart from this code.
        assert_eq!(home_of("", 251), MIXED_EMPTY);
        assert_eq!(home_of("anything", 1), 0);
    }

    const MIXED_EMPTY: u8 = {
        let offset: u64 = 14_695_981_039_346_656_037;
        let mixed = (offset ^ (offset >> 33)).wrapping_mul(18_397_679_294_719_823_053);
        ((mixed ^ (mixed >> 33)) % 251) as u8
    };

    #[test]
    fn names_live_where_they_are_wanted() {
        for shards in 1..=16 {
            for home in 0..shards {
                assert_eq!(home_of(&named("x", home, shards), shards), home);
            }
        }
    }

    #[test]
    fn placement_is_even() {
        let mut counts = [0u32; 2];
        for client in 0..10_000 {
            counts[usize::from(home_of(&format!("device-{client}"), 2))] += 1;
        }
        assert!(counts.iter().all(|&count| (4800..5200).contains(&count)), "{counts:?}");
    }
}
