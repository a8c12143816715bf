//! The trial: opens a ring as a shard does, and asks the kernel for each operation. Nothing of it
//! remains.

use crate::ring::{Driver, SocketRingConfig, operations};

use super::judge_process::RingTrial;

/// Opens and closes a small ring with everything that the driver needs.
pub(super) fn open_ring() -> RingTrial {
    let refused = |operation, errno| RingTrial::Refused { operation, errno };
    match operations() {
        Err(failure) => return refused(failure.operation, failure.errno),
        Ok(operations) => {
            let missing: Vec<&'static str> =
                operations.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
            if !missing.is_empty() {
                return RingTrial::Missing(missing);
            }
        }
    }
    let config = SocketRingConfig {
        sockets_per_ring: 4,
        max_rings: 1,
        buffer_count: 1,
        buffers_posted: 1,
        submissions: 4,
        completions: 8,
        ..SocketRingConfig::default()
    };
    match Driver::new(config) {
        Ok(_) => RingTrial::Works,
        Err(failure) => refused(failure.operation, failure.errno),
    }
}
