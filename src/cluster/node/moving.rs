//! A node's place is taken by another process in an upgrade ([`crate::upgrade`]).
//!
//! The other nodes do not notice. The new process has the node's name and incarnation, and goes on
//! with every stream where the old one stops: what was sent and not acknowledged goes over and is
//! sent again, and so does what has come and was not taken in. What arrives in between is lost like
//! any frame, and the other nodes send it again. So nothing is lost or doubled, no session moves,
//! no will message is published, and publications stay in order.
//!
//! 1. The old node *rests* with its shards: it ends the claims that are under way and the questions
//!    to its shards, and otherwise takes in nothing. What the shards have written down goes into
//!    the windows, even beyond their bound.
//! 2. It is *packed*: from then on it only says hello, twice a second, so that no node counts it as
//!    down however long the rest takes.
//! 3. The new node, which has heard of its shards' filters only and has sent nothing, takes that in
//!    ([`Node::unpack`]). It gives the filters the numbers that the other nodes know.
//! 4. The new node serves; or the old one goes on ([`Node::go_on`]), as if frames had been lost.

use super::retelling::Retelling;
use super::{Engine, Node};
use crate::cluster::frame::{Abilities, FrameContent, NodeFrame};
use crate::cluster::peer::{LocalBroker, PeerNode, Presence};
use crate::limits::CLUSTER_FILTERS;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::upgrade::cluster::MovedNode;
use crate::upgrade::code::ByteString;

impl Node {
    /// Begins to rest, or goes on.
    pub fn rest(&mut self, resting: bool) {
        self.resting = resting;
        self.claims.rest(resting);
        if let Some(adoption) = &mut self.adoption {
            adoption.rest(resting);
        }
    }

    /// With `durable`: what adoptions and the journals of the shards have under way.
    pub fn keeps_busy(&self) -> Option<&'static str> {
        let adoption = self.adoption.as_ref()?;
        let looks = (self.looking > 0).then_some("sessions that another node has adopted");
        let asks = !self.requests.is_empty();
        looks
            .or_else(|| adoption.under_way())
            .or_else(|| asks.then_some("what the cluster's stream was asked"))
    }

    /// Whether claims, SUBACKs or questions to the shards are under way.
    fn is_busy(&self) -> bool {
        let asking = self.retellings.iter().any(Retelling::is_asking);
        asking || self.claims.is_busy() || self.announced.is_waiting()
    }

    /// Whether the node rests and has nothing to end first.
    pub(super) fn is_still(&self) -> bool {
        self.resting && !self.is_busy()
    }

    /// Whether the node may be packed.
    pub fn is_quiet(&self) -> bool {
        self.is_still() && self.claims.is_quiet() && self.keeps_busy().is_none()
    }

    /// What of another process would stand against this one's taking its place: the engine does
    /// not carry frames.
    pub fn stands_alone(&self) -> bool {
        self.cut_off.is_some()
    }

    /// Everything that the other process needs. `retained_stamp`: the last stamp of retained
    /// messages.
    pub fn pack(&self, retained_stamp: u64) -> MovedNode {
        let mut moved = MovedNode {
            name: self.plan.name.as_str().into(),
            incarnation: self.plan.incarnation,
            streams: self.streams,
            retained_stamp,
            asked: self.announced.last(),
            newest: self.plan.abilities.newest,
            level: self.plan.abilities.level,
            filters: self.filters.texts(),
            ended: self.wills.far.pack_ended(),
            settled: self.wills.far.pack_settled(),
            adoption: self.adoption.as_ref().map(|known| known.pack(self.claims.lost())),
            counted: self.pack_counts(),
            ..MovedNode::default()
        };
        let unpassed = self.unpassed.iter();
        moved.unpassed =
            unpassed.map(|(node, record)| (*node, ByteString(record.clone()))).collect();
        self.claims.pack(&mut moved);
        for (number, (peer, retelling)) in self.peers.iter().zip(&self.retellings).enumerate() {
            let Some(peer) = peer else { continue };
            let number = number as u8;
            let wills = self.wills.far.pack(number);
            moved.peers.push(peer.pack(number, wills, !retelling.is_done()));
        }
        moved
    }

    /// Takes the place of a node that was packed.
    ///
    /// # Errors
    /// What cannot be.
    pub fn unpack(
        &mut self,
        mut moved: MovedNode,
        broker: &mut impl LocalBroker,
        now: Instant,
    ) -> Result<(), String> {
        if *moved.name != *self.plan.name {
            return Err(format!("this is node {}, and not {}", self.plan.name, moved.name));
        }
        let Abilities { newest, level } = self.plan.abilities;
        if newest < moved.newest || level < moved.level {
            // The other nodes go by what they were told.
            return Err(format!(
                "the other nodes know this one by format {} of frames and level {}, and this \
                 release has format {newest} and level {level}",
                moved.newest, moved.level
            ));
        }
        if moved.filters.len() > CLUSTER_FILTERS {
            return Err("the node has too many filters".to_owned());
        }
        if !Mutant::ClusterUpgradeAnew.is_on() {
            self.plan.incarnation = moved.incarnation;
        }
        self.streams = moved.streams;
        self.announced.go_on_behind(moved.asked);
        let mut changed = Vec::new();
        if !Mutant::ClusterUpgradeRenumbers.is_on() {
            changed = self.filters.renumber(&moved.filters);
        }
        for peer in std::mem::take(&mut moved.peers) {
            let number = usize::from(peer.number);
            let Some(place) = self.peers.get_mut(number).filter(|place| place.is_none()) else {
                return Err(format!("there is no place for node {}", peer.name));
            };
            let mut peer = peer;
            match peer.wills.take() {
                Some(run) => self.wills.far.unpack(number as u8, run),
                None => self.wills.far.joined(number as u8, &peer.name, peer.incarnation),
            }
            self.claims.joined(number as u8, &peer.name);
            let mut peer = PeerNode::unpack(peer, (self.plan.abilities, moved.level), broker, now)?;
            peer.renumbered(&changed);
            *place = Some(peer);
        }
        self.claims.unpack(&mut moved)?;
        match (&mut self.adoption, moved.adoption.take()) {
            (Some(adoption), Some(moved)) => {
                self.claims.has_lost(moved.lost);
                adoption.unpack(moved, now);
            }
            (None, None) => {}
            _ => return Err("an upgrade keeps cluster.durable as it is".to_owned()),
        }
        self.wills.far.unpack_ended(moved.ended);
        self.wills.far.unpack_settled(moved.settled);
        self.unpack_counts(&moved.counted);
        self.unpassed = moved.unpassed.into_iter().map(|(node, bytes)| (node, bytes.0)).collect();
        Ok(())
    }

    /// Says hello if it is time, and nothing else.
    pub fn keep_up(&mut self, now: Instant, engine: &mut impl Engine) {
        self.greet(now, engine);
    }

    /// Notes who has sent a frame that cannot be taken in now.
    pub fn overhear(&mut self, bytes: &[u8], now: Instant) {
        let Ok(frame) = NodeFrame::read(bytes) else { return };
        if frame.sender.name == self.plan.name {
            if frame.sender.incarnation == self.plan.incarnation {
                self.echoed = now;
            }
            return;
        }
        let known = |peer: &&mut PeerNode| {
            *peer.name == *frame.sender.name && peer.incarnation == frame.sender.incarnation
        };
        if frame.said != FrameContent::Goodbye
            && let Some(peer) = self.peers.iter_mut().flatten().find(known)
        {
            peer.heard = peer.heard.max(now);
        }
    }

    /// Goes on with all nodes after a pause in which frames were lost.
    pub fn go_on(&mut self, now: Instant) {
        self.rest(false);
        (self.echoed, self.next_hello) = (now, now);
        for peer in self.peers.iter_mut().flatten() {
            if peer.presence == Presence::Up {
                peer.heard = now;
                peer.begin_again(now);
            }
        }
    }
}
