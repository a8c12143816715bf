//! Upgrades: the running broker starts another binary and hands its clients over, or takes clients
//! over from the broker that has started it. What is said is [`crate::upgrade`]'s matter.

mod channel;
pub(super) mod new;
pub(super) mod old;
pub mod requests;

use super::core::CoreCommand;
use super::moving::{MoveOrder, SuspendedCore};
use super::questions::Home;
use crate::cluster::junction::RestingJunction;
use crate::cluster::serve::NodeMove;
use crate::cluster::start::NodeHandle;
use std::time::{Duration, Instant};

/// How often shards are asked whether they have come to rest.
const LOOK: Duration = Duration::from_millis(1);
/// Parcels that the new process may have in hand without having said that they are taken in: while
/// its cores take those, it reads the next one.
const IN_HAND: usize = 4;
/// How long cores may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How far the cores have come that are to rest, and the cluster's thread.
#[derive(PartialEq, Eq)]
struct AtRest {
    cores: Vec<SuspendedCore>,
    node: Option<RestingJunction>,
}

impl AtRest {
    /// `None` when one does not answer.
    fn of(homes: &[Home], node: Option<&NodeHandle>) -> Option<AtRest> {
        let mut cores = ask(homes, MoveOrder::AskRest);
        cores.sort_by_key(|rest| rest.shard);
        let node = match node {
            None => None,
            Some(node) => Some(node.ask(NodeMove::AskRest)?),
        };
        Some(AtRest { cores, node }).filter(|all| all.cores.len() == homes.len())
    }

    /// What is still under way.
    fn under_way(&self) -> Option<&'static str> {
        let node = self.node.as_ref().and_then(|node| node.under_way);
        self.cores.iter().find_map(|core| core.under_way).or(node)
    }

    /// How many mails were ever put into mailboxes (0), and taken out (1).
    fn mails(&self, which: usize) -> u64 {
        let node = self.node.as_ref().map_or(0, |node| node.mails[which]);
        self.cores.iter().map(|rest| rest.mails[which]).sum::<u64>() + node
    }
}

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
