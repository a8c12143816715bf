//! Upgrades: the running broker starts another binary and hands its clients over, or takes clients
//! over from the broker that has started it. What is said is [`crate::upgrade`]'s matter.

mod channel;
pub(super) mod new;
pub(super) mod old;
pub mod requests;

use super::core::CoreCommand;
use super::moving::MoveOrder;
use super::questions::Home;
use crate::config::Config;
use std::time::Duration;

/// How often shards are asked whether they have come to rest.
const LOOK: Duration = Duration::from_millis(1);

/// The key of what cannot be handed over, or be begun with by the new broker, yet. Two nodes of one
/// name would be in a cluster at the same time.
pub(super) fn unmovable(config: &Config) -> Option<&'static str> {
    let keys = [
        ("storage.path", !config.storage.path.is_empty()),
        ("bridges", !config.bridges.is_empty()),
        ("cluster.name", !config.cluster.name.is_empty()),
    ];
    keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
}

fn tell(home: &Home, order: MoveOrder) {
    // A core that has ended is told nothing.
    let _ = home.commands.send(CoreCommand::Move(order));
    home.doorbell.ring();
}
