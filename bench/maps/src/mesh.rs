//! The module that `src/mesh/map.rs` expects around it, and access to its map for this program.

#[path = "../../../src/mesh/map.rs"]
#[allow(dead_code)]
mod map;

use crate::Interest;

/// The interest table's map.
pub struct Ours(map::Map);

impl Ours {
    pub fn new() -> Self {
        Ours(map::Map::new())
    }
}

impl Interest for Ours {
    fn get(&self, keys: [u64; 4]) -> u64 {
        let guard = self.0.enter();
        keys.iter().fold(0, |all, &key| all | self.0.get(key, &guard) as u64)
    }
    fn add(&self, key: u64, bit: u64) {
        self.0.set(key, u128::from(bit));
    }
    fn remove(&self, key: u64, bit: u64) {
        self.0.clear(key, u128::from(bit));
    }
}
