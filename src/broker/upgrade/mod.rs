//! Upgrades: the running broker starts another binary and hands its clients over, or takes clients
//! over from the broker that has started it. What is said is [`crate::upgrade`]'s matter.

mod channel;
pub(super) mod new;
pub(super) mod old;
pub mod requests;

use super::core::CoreCommand;
use super::moving::MoveOrder;
use super::questions::Home;
use std::time::Duration;

/// How often shards are asked whether they have come to rest.
const LOOK: Duration = Duration::from_millis(1);

fn tell(home: &Home, order: MoveOrder) {
    // A core that has ended is told nothing.
    let _ = home.commands.send(CoreCommand::Move(order));
    home.doorbell.ring();
}
