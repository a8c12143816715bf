//! The time as a node tells it.

use super::Node;
use crate::time::Instant;

impl Node {
    /// The time in microseconds since 1970 from which stamps count, at the zero of the shards'
    /// clock.
    pub fn stamp_origin(&self) -> u64 {
        self.claims.origin()
    }

    /// Notes that the host's clock says `micros` microseconds since 1970.
    pub fn see_time(&mut self, micros: u64, now: Instant) {
        self.claims.see_time(micros, now);
    }
}
