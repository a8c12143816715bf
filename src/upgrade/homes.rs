//! Where the new process has put the copies of the old one's clients. Owned by whoever hands the
//! copies to new's shards; pure. There may be a million copies while both processes have everything
//! twice, so this takes about one byte for each.

use crate::ids::ShardId;

/// Copies of one chunk.
const CHUNK: usize = 1024;

/// The copies of all shards of the old process.
#[derive(Default)]
pub struct CopiedHomes {
    /// By the shards of the old process.
    shards: Vec<ShardCopies>,
}

/// The copies that one shard of the old process has made, by their numbers.
#[derive(Default)]
struct ShardCopies {
    chunks: Vec<HomesChunk>,
    /// How many of them each shard of the new process has.
    counts: Vec<u32>,
}

/// Copies with consecutive numbers.
struct HomesChunk {
    /// The shard of the new process that has the copy.
    homes: Vec<u8>,
    /// How many of the copies before these each shard has.
    before: Box<[u32]>,
}

impl CopiedHomes {
    /// Notes the next copy of shard `from`, which goes to `home`. Returns how many copies of `from`
    /// went there before: that is the number of the copy at `home`. `None` when `number` is not the
    /// next one of `from`.
    pub fn add(&mut self, from: ShardId, number: u32, home: ShardId) -> Option<u32> {
        let at = usize::from(from.0);
        if self.shards.len() <= at {
            self.shards.resize_with(at + 1, ShardCopies::default);
        }
        self.shards.get_mut(at)?.add(number, home)
    }

    /// Where copy `number` of shard `from` is, and its number there.
    pub fn find(&self, from: ShardId, number: u32) -> Option<(ShardId, u32)> {
        self.shards.get(usize::from(from.0))?.find(number as usize)
    }
}

impl ShardCopies {
    fn add(&mut self, number: u32, home: ShardId) -> Option<u32> {
        let next: u32 = self.counts.iter().sum();
        if next != number {
            return None;
        }
        if (next as usize).is_multiple_of(CHUNK) {
            let before = self.counts.as_slice().into();
            self.chunks.push(HomesChunk { homes: Vec::with_capacity(CHUNK), before });
        }
        self.chunks.last_mut()?.homes.push(home.0);
        let at = usize::from(home.0);
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        let count = self.counts.get_mut(at)?;
        *count += 1;
        Some(*count - 1)
    }

    fn find(&self, number: usize) -> Option<(ShardId, u32)> {
        let HomesChunk { homes, before } = self.chunks.get(number / CHUNK)?;
        let (earlier, rest) = homes.split_at_checked(number % CHUNK)?;
        let &home = rest.first()?;
        let before = before.get(usize::from(home)).copied().unwrap_or(0);
        let here = earlier.iter().filter(|&&other| other == home).count();
        Some((ShardId(home), before + here as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_number_that_it_was_given_when_it_came() {
        for shards in [1, 2, 7] {
            let mut homes = CopiedHomes::default();
            let mut known = Vec::new();
            for number in 0..5000u32 {
                for from in [ShardId(0), ShardId(3)] {
                    let mixed = (number + u32::from(from.0)).wrapping_mul(2_654_435_761) >> 16;
                    let home = ShardId((mixed % shards) as u8);
                    let place = homes.add(from, number, home).expect("it is the next one");
                    known.push((from, number, home, place));
                }
            }
            for &(from, number, home, place) in &known {
                assert_eq!(homes.find(from, number), Some((home, place)));
            }
            let mut places: Vec<_> =
                known.iter().map(|&(from, _, at, no)| (from, at, no)).collect();
            places.sort_unstable_by_key(|&(from, at, no)| (from.0, at.0, no));
            places.dedup();
            assert_eq!(places.len(), known.len(), "no two copies have one place");
            let dense = |&(from, at, no): &(ShardId, ShardId, u32)| {
                no == 0 || places.contains(&(from, at, no - 1))
            };
            assert!(places.iter().step_by(97).all(dense), "no number is left out");
        }
    }

    #[test]
    fn a_copy_that_comes_out_of_turn_or_never_came_has_no_place() {
        let mut homes = CopiedHomes::default();
        assert_eq!(homes.add(ShardId(0), 1, ShardId(0)), None);
        assert_eq!(homes.add(ShardId(0), 0, ShardId(1)), Some(0));
        assert_eq!(homes.add(ShardId(0), 0, ShardId(1)), None);
        assert_eq!(homes.find(ShardId(0), 1), None);
        assert_eq!(homes.find(ShardId(1), 0), None);
        assert_eq!(homes.find(ShardId(0), 0), Some((ShardId(1), 0)));
    }
}
