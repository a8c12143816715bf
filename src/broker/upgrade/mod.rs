//! Upgrades: the running broker starts another binary and hands its clients over, or takes clients
//! over from the broker that has started it. What is said is [`crate::upgrade`]'s matter.

mod channel;
pub(super) mod new;
pub(super) mod old;
pub mod requests;

use super::core::CoreCommand;
use super::moving::MoveOrder;
use super::questions::Home;
use std::time::{Duration, Instant};

/// How often shards are asked whether they have come to rest.
const LOOK: Duration = Duration::from_millis(1);
/// Parcels that the new process may have in hand without having said that they are taken in: while
/// its cores take those, it reads the next one.
const IN_HAND: usize = 4;
/// How long cores may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

fn tell(home: &Home, order: MoveOrder) {
    // A core that has ended is told nothing.
    let _ = home.commands.send(CoreCommand::Move(order));
    home.doorbell.ring();
}

/// The answers of all cores to an order that carries where to send them; fewer when some do not
/// answer in time.
fn ask<T>(homes: &[Home], order: impl Fn(crossbeam_channel::Sender<T>) -> MoveOrder) -> Vec<T> {
    let (sender, answers) = crossbeam_channel::bounded(homes.len());
    homes.iter().for_each(|home| tell(home, order(sender.clone())));
    drop(sender);
    let until = Instant::now() + ANSWER;
    let mut all = Vec::new();
    while let Ok(answer) = answers.recv_deadline(until) {
        all.push(answer);
    }
    all
}
