//! What a node says to all others, and hears of itself: hellos, and a goodbye; and nodes of which
//! nothing else can be read.

use super::{Engine, GRACE, Node, NodePlan, To};
use crate::cluster::frame::{
    FrameContent, FrameRefusal, FrameSender, NEWEST, NodeFrame, OLDEST, OPEN,
};
use crate::limits::CLUSTER_PEERS;
use crate::time::Instant;

/// Milliseconds between hellos.
const HELLO: u64 = 500;
/// Milliseconds of frames of unknown formats alone, after which a node is reported. A node that
/// speaks a known format as well has joined by then.
const STRANGE: u64 = 2000;

/// A node of whose frames none could be read so far.
struct StrangeNode {
    name: Box<str>,
    since: Instant,
    reported: bool,
}

/// Nodes of whose frames none could be read so far, a bounded number.
#[derive(Default)]
pub(super) struct StrangeNodes(Vec<StrangeNode>);

impl StrangeNodes {
    /// A frame of the node cannot be read. Returns true when that is to be reported.
    fn heard(&mut self, name: &str, now: Instant) -> bool {
        let Some(known) = self.0.iter_mut().find(|node| *node.name == *name) else {
            if self.0.len() < CLUSTER_PEERS {
                self.0.push(StrangeNode { name: name.into(), since: now, reported: false });
            }
            return false;
        };
        now.millis_since(known.since) >= STRANGE && !std::mem::replace(&mut known.reported, true)
    }

    /// A frame of the node could be read.
    pub(super) fn joined(&mut self, name: &str) {
        self.0.retain(|node| *node.name != *name);
    }
}

impl Node {
    /// Says hello, if it is time, in a format that all nodes read which can tell what they can do.
    /// Returns true if it did.
    pub(super) fn greet(&mut self, now: Instant, engine: &mut impl Engine) -> bool {
        if now < self.next_hello {
            return false;
        }
        self.next_hello = now.plus_millis(HELLO);
        let NodePlan { name, incarnation, abilities, .. } = &self.plan;
        let time = self.claims.time(now);
        let sender = FrameSender { name, incarnation: *incarnation, clock: now.0, time };
        let (format, said) = (abilities.newest.min(OPEN), FrameContent::Hello(*abilities));
        engine.send(To::All, NodeFrame { format, sender, said }.write().into());
        self.counts.frames_sent += 1;
        true
    }

    /// Refuses a frame.
    pub(super) fn refused(&mut self, why: FrameRefusal, frame: &[u8], now: Instant) {
        let bytes = frame.len();
        tracing::debug!(reason = why.word(), bytes, "cluster: a frame was refused");
        if why != FrameRefusal::Format {
            self.counts.refused += 1;
            return;
        }
        self.counts.formats += 1;
        let Some((format, node)) = NodeFrame::stranger(frame) else { return };
        if !self.knows(node) && self.strangers.heard(node, now) {
            let (oldest, newest) = (OLDEST, NEWEST);
            tracing::warn!(
                node,
                format,
                oldest,
                newest,
                "cluster: a node cannot join: this release reads none of the formats of frames \
                 that the node speaks, so one of the two needs another release"
            );
        }
    }

    /// Takes in a frame with this node's name: its own frame, or that of another node with the same
    /// name.
    pub(super) fn hear_itself(&mut self, frame: &NodeFrame<'_>, now: Instant) {
        if frame.sender.incarnation != self.plan.incarnation {
            self.counts.doubles += 1;
            // Frames of a run that has just ended may still be on their way; these cause one
            // warning.
            if self.counts.doubles.is_power_of_two() {
                let name = &*self.plan.name;
                tracing::warn!(node = name, "cluster: another node has this node's name");
            }
            return;
        }
        self.echoed = now;
        if let Some(since) = self.cut_off.take() {
            let millis = now.millis_since(since);
            tracing::info!(millis, "cluster: the engine carries frames again");
            self.heard_by = now.plus_millis(GRACE);
            for peer in self.peers.iter_mut().flatten() {
                // No node could be heard meanwhile, and others may take longer to reconnect.
                peer.heard = now.plus_millis(GRACE);
                peer.begin_again(now);
            }
        }
    }

    /// Tells the other nodes that this node ends.
    pub fn say_goodbye(&self, now: Instant, engine: &mut impl Engine) {
        let NodePlan { name, incarnation, .. } = &self.plan;
        let time = self.claims.time(now);
        let sender = FrameSender { name, incarnation: *incarnation, clock: now.0, time };
        let goodbye = NodeFrame { format: OLDEST, sender, said: FrameContent::Goodbye };
        engine.send(To::All, goodbye.write().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::frame::Abilities;
    use crate::cluster::node::WhenCutOff;

    fn node(name: &str) -> Node {
        let plan = NodePlan {
            name: name.to_owned(),
            incarnation: 1,
            shards: 1,
            window: 1 << 20,
            give_up: 4000,
            when_cut_off: WhenCutOff::Park,
            wills: 0,
            durable: false,
            abilities: Abilities::OWN,
        };
        Node::new(plan, Instant(0))
    }

    fn hello(name: &str, format: u8) -> Vec<u8> {
        let sender = FrameSender { name, incarnation: 1, clock: 1, time: 1 };
        let said = FrameContent::Hello(Abilities { newest: format, level: 9 });
        NodeFrame { format, sender, said }.write()
    }

    #[test]
    fn a_node_that_speaks_only_later_formats_is_refused_and_reported_once() {
        let mut here = node("here");
        for at in 0..10 {
            here.received(&hello("later", NEWEST + 1), Instant(at * 500));
        }
        assert_eq!((here.counts.formats, here.counts.refused, here.present()), (10, 0, 0));
        assert!(here.strangers.0.iter().all(|node| node.reported && *node.name == *"later"));
        // One that speaks a known format besides has joined before it would be reported.
        here.received(&hello("both", NEWEST + 1), Instant(5000));
        here.received(&hello("both", NEWEST), Instant(5000));
        here.received(&hello("both", NEWEST + 1), Instant(9000));
        assert_eq!(here.present(), 1);
        assert_eq!(here.strangers.0.len(), 1);
        for at in 0..100 {
            here.received(&hello(&format!("many-{at}"), NEWEST + 1), Instant(9000));
        }
        assert_eq!(here.strangers.0.len(), CLUSTER_PEERS);
        here.received(&[1, 2, 3], Instant(9000));
        assert_eq!(here.counts.refused, 1);
    }
}
