//! What the rings of a core may use, from the configuration.

use crate::config::{self, Get};
use crate::ring::{Coalesce, SocketRingConfig};

/// The driver's part of the configuration.
pub(super) fn ring_config(config: &config::Config, nofile: u64) -> SocketRingConfig {
    let runtime = &config.runtime;
    let auto = nofile.clamp(64, 1 << 20) as u32;
    SocketRingConfig {
        sockets_per_ring: runtime.sockets_per_ring.get().unwrap_or(auto).min(auto),
        buffer_count: runtime.receive_buffers.count.get(),
        buffer_size: runtime.receive_buffers.size.get(),
        spin: runtime.spin.get(),
        coalesce: match runtime.coalesce.get() {
            None => Coalesce::Auto,
            Some(None) => Coalesce::Off,
            Some(Some(wait)) => Coalesce::For(wait),
        },
        ..SocketRingConfig::default()
    }
}
