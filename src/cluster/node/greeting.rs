//! What a node says to all others, and hears of itself: hellos, and a goodbye.

use super::{Engine, GRACE, Node, NodePlan, To};
use crate::cluster::frame::{Abilities, FrameContent, FrameSender, NodeFrame, OLDEST};
use crate::mutant::Mutant;
use crate::time::Instant;

/// Says hello in each format in which hellos differ. Returns the number of frames.
pub(super) fn greet(own: &FrameSender<'_>, abilities: Abilities, engine: &mut impl Engine) -> u64 {
    let one = abilities.newest == OLDEST || Mutant::ClusterHelloNewestOnly.is_on();
    let formats = if one { 1 } else { 2 };
    // The newest first, as the other one says less.
    for format in [abilities.newest, OLDEST].into_iter().take(formats) {
        let said = FrameContent::Hello(abilities);
        engine.send(To::All, NodeFrame { format, sender: *own, said }.write());
    }
    formats as u64
}

impl Node {
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
        engine.send(To::All, goodbye.write());
    }
}
