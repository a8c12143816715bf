//! The junction between the cluster and the shards: mail of the shards for other nodes goes into
//! the windows to these nodes, messages from other nodes go into the shards' mailboxes, and filters
//! of other nodes go into the interest table. It lives on the cluster's thread.
//!
//! To the shards, whose numbers are `0..shards`, the cluster is one more shard, with the number
//! `shards`: it sends them publications, and they report their filters to it by control mail. Each
//! place for another node is one more receiver with a number after that
//! ([`crate::mesh::mailbox::clustered`]). When the mailbox of a place is full because its node is
//! slow, only the clients that publish to that node wait.
//!
//! Messages from another node go into the mailboxes of the shards that want them and into no other
//! node's: the result of the interest table is masked. Links of bridges do not get these messages,
//! since the node where they were published has given them to its own links.

mod moving;

use super::claims::Whom;
use super::filters::is_group;
use super::keeping::{KeepAsker, KeepReply};
use super::node::{Engine, Node, PassedTo};
use super::peer::LocalBroker;
use super::pending_asks::PendingAsks;
use super::record::PassedRef;
use crate::ids::{ShardId, ShardSet};
use crate::limits::{Budget, CLUSTER_PEERS};
use crate::mesh::Shared;
use crate::mesh::mail::{Control, CostReport, Data, OpenMail, Passed, Stamped};
use crate::mesh::mailbox::{MailEnds, MailProgress, NodeEnds};
use crate::mesh::moves::{SampledArrival, ToCluster, ToShard};
use crate::mesh::reading::{MailPosition, Reading};
use crate::message::{MailPurpose, Message, MessageRef, Reserve, Retain};
use crate::mutant::Mutant;
use crate::session::ShareName;
use crate::shard::{Outbox, TopicSubject, Turn, home_of, retained_home, sampled_context};
use crate::time::Instant;
use crate::topic::{FilterKey, TopicHash};
use moving::JunctionStage;
pub use moving::RestingJunction;
use std::collections::VecDeque;
use std::sync::Arc;

/// Mails for one node that are taken out of its mailboxes at a time.
const MAILS: usize = 64;
/// Control mails of one shard that are taken out at a time.
const CONTROL: usize = 4096;
/// The approximate cost of taking a message out, in the units of [`crate::limits::cost`].
const MESSAGE: u64 = 2;

/// The mailboxes of one place for another node.
struct NodeMailboxes {
    ends: MailEnds<Stamped, Control>,
    reading: Reading,
    open: Option<OpenMail>,
    /// Records that go behind the mail before a position.
    behind: VecDeque<(MailPosition, Vec<u8>)>,
}

/// The cluster's end of all mailboxes.
pub struct Junction {
    node: Node,
    shared: Arc<Shared>,
    shards: u8,
    ends: MailEnds<Stamped, Control>,
    asks: PendingAsks,
    doors: Vec<NodeMailboxes>,
    outbox: Outbox,
    scratch: Vec<u8>,
    /// Sampled messages of other nodes of which no shard was told.
    untold: u64,
    stage: JunctionStage,
    /// Mails that were put into the shards' mailboxes, and taken from the shards.
    mails: (u64, u64),
}

/// The clock by which mail is ordered, and the shards' doorbells.
pub trait JunctionEnvironment {
    /// The time in nanoseconds, by one clock for all shards; each reading is later than the one
    /// before.
    fn stamp(&mut self) -> u64;
    /// Wakes a shard that has mail.
    fn ring(&mut self, shard: ShardId);
}

impl Junction {
    /// Connects a node to the shards with the numbers below `shards`.
    pub fn new(
        node: Node,
        shared: Arc<Shared>,
        shards: u8,
        ends: NodeEnds<Stamped, Control>,
    ) -> Junction {
        let NodeEnds { cluster, nodes } = ends;
        let door = |ends| NodeMailboxes {
            ends,
            reading: Reading::new(usize::from(shards)),
            open: None,
            behind: VecDeque::new(),
        };
        shared.stamp_origin.set(node.stamp_origin());
        let outbox = Outbox::new(ShardId(shards), usize::from(shards), 1, &Budget::BROKER);
        Junction {
            node,
            shared,
            shards,
            ends: cluster,
            asks: PendingAsks::new(shards),
            doors: nodes.into_iter().map(door).collect(),
            outbox,
            scratch: Vec::new(),
            untold: 0,
            stage: JunctionStage::Serving,
            mails: (0, 0),
        }
    }

    /// The node of this junction.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Takes in a frame.
    pub fn received(&mut self, frame: &[u8], now: Instant) {
        match self.stage {
            JunctionStage::Serving | JunctionStage::Resting => self.node.received(frame, now),
            JunctionStage::Packed => self.node.overhear(frame, now),
            JunctionStage::Waiting => {}
        }
    }

    /// Takes in an answer of the engine about what it keeps.
    pub fn kept(&mut self, asker: KeepAsker, reply: KeepReply, now: Instant) {
        self.node.kept(asker, reply, now);
    }

    /// Notes that the host's clock says `micros` microseconds since 1970; stamps follow that clock.
    pub fn see_time(&mut self, micros: u64, now: Instant) {
        self.node.see_time(micros, now);
        self.shared.stamp_origin.set(self.node.stamp_origin());
    }

    /// When the junction has something to do even if nothing arrives.
    pub fn deadline(&self, now: Instant) -> Instant {
        match self.stage {
            JunctionStage::Serving | JunctionStage::Resting => self.node.deadline(now),
            JunctionStage::Packed | JunctionStage::Waiting => now.plus_millis(moving::LOOK),
        }
    }

    /// Does everything that can be done now. Returns true when there may be more to do at once.
    pub fn step(
        &mut self,
        now: Instant,
        engine: &mut impl Engine,
        around: &mut impl JunctionEnvironment,
    ) -> bool {
        match self.stage {
            JunctionStage::Serving | JunctionStage::Resting => {}
            JunctionStage::Packed => {
                self.node.keep_up(now, engine);
                return false;
            }
            JunctionStage::Waiting => return self.wait_for_place(now, around),
        }
        for shard in self.outbox.watched().iter() {
            let room = (self.ends.data_room(shard), self.ends.data_capacity());
            self.outbox.see(shard, room, (self.ends.progress_of(shard), now));
        }
        self.shared.nodes.set(u64::from(self.node.present()));
        self.node.see_retained(self.shared.retained_digest.used(), now);
        let mut more = self.take_control(now);
        self.note_fences();
        for number in 0..self.doors.len() {
            more |= self.take_data(number, now);
            self.send_fences(number);
        }
        let records = self.shared.recording.used() != 0;
        let records = records.then(|| around.stamp() / 1000);
        let (node, mut broker) = self.inward(records);
        more |= node.run(now, &mut broker, engine);
        let waits = broker.refused;
        self.tell_memory();
        self.outbox.close_batches();
        self.carry(around);
        more && !waits
    }

    /// The node, and the way of what it says to the shards; `records`: as in [`NodeInward`].
    fn inward(&mut self, records: Option<u64>) -> (&mut Node, NodeInward<'_>) {
        let inward = NodeInward {
            shared: &self.shared,
            shards: self.shards,
            outbox: &mut self.outbox,
            scratch: &mut self.scratch,
            refused: false,
            records,
            untold: &mut self.untold,
        };
        (&mut self.node, inward)
    }

    /// Counts memory for will messages like the memory of the shards.
    fn tell_memory(&self) {
        let (before, held) = (self.shared.cluster_memory.used(), self.node.held() as u64);
        if before != held {
            self.shared.cluster_memory.set(held);
            self.shared.memory.shift(before, held);
        }
    }

    /// Whether mail waits for room in a shard's mailbox. The caller has to look again by itself: no
    /// doorbell tells that there is room.
    pub fn awaits_room(&self) -> bool {
        !self.outbox.is_empty() || self.node.has_waiting()
    }

    /// Takes in control mail of the shards: changes of filters, and reports about the cost of
    /// messages.
    fn take_control(&mut self, now: Instant) -> bool {
        let mut more = self.take_some_control(now);
        if self.asks.is_waiting() {
            more |= self.take_some_control(now);
        }
        for (shard, session, ticket) in self.asks.due() {
            self.node.told(shard, ToCluster::Ask(session, ticket), now);
        }
        more || self.asks.is_waiting()
    }

    fn take_some_control(&mut self, now: Instant) -> bool {
        let mut more = false;
        self.ends.look();
        for shard in self.ends.pending().iter() {
            for _ in 0..CONTROL {
                let control = self.ends.pop_control(shard);
                if control.is_some() {
                    self.asks.took(shard);
                    self.mails.1 += 1;
                }
                match control {
                    Some(Control::Want(filter, wanted)) => self.node.want(&filter, wanted),
                    Some(Control::Cost(report)) => {
                        let CostReport { cost, reserve, .. } = report;
                        self.outbox.to(shard).ahead.reported(&report, cost, reserve, now);
                    }
                    Some(Control::ToCluster(told)) => match *told {
                        ToCluster::Ask(session, ticket) => {
                            self.asks.ask((shard, session, ticket));
                        }
                        told => self.node.told(shard, told, now),
                    },
                    Some(_) => debug_assert!(false, "no mail for the cluster"),
                    None => break,
                }
            }
            more |= self.ends.control_waiting(shard) > 0;
        }
        self.ends.look_again();
        self.asks.see(|shard| self.ends.control_waiting(shard));
        more
    }

    /// Puts mail for one node into its window while there is room. Returns true when there is more
    /// that has room.
    fn take_data(&mut self, number: usize, now: Instant) -> bool {
        let Some(NodeMailboxes { ends, reading, open, .. }) = self.doors.get_mut(number) else {
            return false;
        };
        if !ends.look() && open.is_none() {
            return false;
        }
        reading.note(ends, open.as_ref().map(|open| open.from));
        for _ in 0..MAILS {
            let begun = open.take().or_else(|| {
                let from = reading.next(ends, |mail| mail.at)?;
                let Stamped { data, .. } = ends.pop_data(from)?;
                self.mails.1 += 1;
                Some(OpenMail { from, data, at: 0 })
            });
            let Some(mut begun) = begun else { return false };
            let (sent, messages) = send_mail(&mut self.node, number as u8, &mut begun, now);
            ends.tell_progress(begun.from, MailProgress { messages, work: messages * MESSAGE });
            if sent == PassedTo::Waits {
                *open = Some(begun);
                return false;
            }
            reading.took(begun.from);
            if sent == PassedTo::Nobody
                && let Data::Passed(passed) = begun.data
            {
                let home = home_of(&self.shared.seeds, passed.name.as_str(), self.shards);
                self.outbox.tell(home, Control::ToShard(Box::new(ToShard::Unpassed(passed))));
            }
        }
        true
    }

    /// All shards have written down what they routed before a fence: notes that the fence goes
    /// behind that mail.
    fn note_fences(&mut self) {
        for (number, record) in self.node.behind_messages() {
            let Some(door) = self.doors.get_mut(usize::from(number)) else { continue };
            door.reading.note(&mut door.ends, door.open.as_ref().map(|open| open.from));
            door.behind.push_back((door.reading.noted(), record));
        }
    }

    /// Sends a node the fences whose preceding mail is in the window.
    fn send_fences(&mut self, number: usize) {
        let Some(NodeMailboxes { reading, behind, .. }) = self.doors.get_mut(number) else {
            return;
        };
        while let Some((_, record)) = behind.pop_front_if(|(position, _)| reading.is_past(position))
        {
            self.node.send_behind(number as u8, &record);
        }
    }

    /// Puts staged mail into the shards' mailboxes while they have room.
    fn carry(&mut self, around: &mut impl JunctionEnvironment) {
        for shard in self.outbox.shards_with_mail().iter() {
            let sent = self.outbox.carry(shard, &mut self.ends, &mut || around.stamp());
            if sent > 0 {
                self.mails.0 += sent;
                around.ring(shard);
            }
        }
    }
}

/// Continues with a mail. Returns whether all of it has gone, and how many messages were taken out.
fn send_mail(node: &mut Node, number: u8, open: &mut OpenMail, now: Instant) -> (PassedTo, u64) {
    let mut messages = 0;
    match &open.data {
        Data::Batch(batch) => {
            while let Some((message, purpose, next)) = batch.read(open.at) {
                if !node.send(number, &message, purpose, now) {
                    return (PassedTo::Waits, messages);
                }
                messages += 1;
                open.at = next;
            }
        }
        Data::One(message, purpose) => {
            if !node.send(number, &message.view(), *purpose, now) {
                return (PassedTo::Waits, 0);
            }
            messages = 1;
        }
        Data::Passed(passed) => {
            let sent = node.pass(passed, now);
            return (sent, u64::from(sent != PassedTo::Waits));
        }
    }
    (PassedTo::Node, messages)
}

/// The way of messages from other nodes to the shards.
struct NodeInward<'a> {
    shared: &'a Shared,
    shards: u8,
    outbox: &'a mut Outbox,
    scratch: &'a mut Vec<u8>,
    /// Whether a message found no room.
    refused: bool,
    /// While spans are recorded: the time in microseconds.
    records: Option<u64>,
    untold: &'a mut u64,
}

impl LocalBroker for NodeInward<'_> {
    fn is_congested(&mut self) -> bool {
        self.refused |= self.outbox.is_congested();
        self.outbox.is_congested()
    }

    fn want(&mut self, node: u8, filter: &str, wanted: bool) {
        if is_group(filter) {
            let home = home_of(&self.shared.seeds, filter, self.shards);
            let group = ToShard::Group(node, filter.into(), wanted);
            self.outbox.tell(home, Control::ToShard(Box::new(group)));
            return;
        }
        let place = place_of(self.shards, node);
        let key = FilterKey::new(&self.shared.seeds, filter);
        if wanted {
            self.shared.interest.add(place, key, filter);
        } else {
            self.shared.interest.remove(place, key, filter);
        }
    }

    fn publish(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) -> bool {
        let hash = TopicHash::new(&self.shared.seeds, message.topic);
        let mut wanted = ShardSet::EMPTY;
        if purpose.deliver {
            wanted = self.shared.interest.shards(&hash);
        }
        if !Mutant::ClusterSentOn.is_on() {
            wanted.0 &= ShardSet::below(self.shards).0;
        }
        let topic = Some(TopicSubject { hash: &hash, interest: &self.shared.interest });
        let (mut all, mut home) = (wanted, None);
        if let Some(stamp) = purpose.retain.stamp() {
            let kept_by = retained_home(&hash, self.shards);
            all.insert(kept_by);
            home = Some(kept_by);
            // The stamp is raised before the message can be seen: a message that answers it has a
            // newer stamp.
            self.shared.stamps.raise(stamp);
        }
        if self.outbox.first_full(all, wanted, (topic, Turn::OfNobody)).is_some() {
            self.refused = true;
            return false;
        }
        if home.is_some() {
            self.shared.retained_ever.note(message.topic);
        }
        let mut stored: Option<Message> = None;
        for shard in all.iter() {
            let retain = if home == Some(shard) { purpose.retain } else { Retain::NONE };
            let deliver = wanted.contains(shard);
            let purpose = MailPurpose { deliver, retain, reserve: Reserve::NONE };
            self.outbox.publish(shard, message, topic, purpose, &mut stored, self.scratch);
        }
        true
    }

    fn pass(&mut self, node: u8, passed: &PassedRef<'_>) -> bool {
        let PassedRef { asks, hops, name, message } = passed;
        let home = home_of(&self.shared.seeds, name, self.shards);
        let nobody = (None, Turn::OfNobody);
        if self.outbox.first_full(ShardSet::only(home), ShardSet::EMPTY, nobody).is_some() {
            self.refused = true;
            return false;
        }
        let (name, message) = (ShareName::new(name), Message::new(message, self.scratch));
        self.outbox.pass(home, Passed { name, node, asks: *asks, hops: *hops, message });
        true
    }

    fn arrived(&mut self, node: &str, message: &MessageRef<'_>) {
        let Some(began) = self.records else { return };
        let Some(context) = sampled_context(message) else { return };
        if Mutant::ClusterReceiptUntold.is_on() {
            return;
        }
        if self.outbox.is_congested() {
            *self.untold += 1;
            return;
        }
        let hash = TopicHash::new(&self.shared.seeds, message.topic);
        let arrived = SampledArrival {
            node: node.into(),
            trace: context.trace,
            routing: context.routing(message.topic, message.payload),
            began,
            topic: message.topic.into(),
            qos: message.qos as u8,
            payload: message.payload.len(),
            untold: std::mem::take(self.untold),
        };
        // Any shard keeps it as well: those of different topics, different ones.
        let shard = retained_home(&hash, self.shards);
        self.outbox.tell(shard, Control::ToShard(Box::new(ToShard::Arrived(arrived))));
    }

    fn tell(&mut self, whom: Whom, what: ToShard) {
        let whom = match whom {
            Whom::Shard(shard) => shard,
            Whom::Home(name) => home_of(&self.shared.seeds, &name, self.shards),
        };
        self.outbox.tell(whom, Control::ToShard(Box::new(what)));
    }

    fn ask_for_fences(&mut self) {
        for shard in (0..self.shards).map(ShardId) {
            self.outbox.tell(shard, Control::ToShard(Box::new(ToShard::Fence)));
        }
    }
}

/// The number of a place for another node among all receivers of mail.
pub fn place_of(shards: u8, node: u8) -> ShardId {
    debug_assert!(usize::from(node) < CLUSTER_PEERS);
    ShardId(shards + 1 + node)
}
