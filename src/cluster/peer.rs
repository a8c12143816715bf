//! One other node as this node sees it: whether it is there, the lanes to it and from it, and the
//! filters of its clients. What the other node says of ClientIds and sessions goes to
//! [`super::claims`].
//!
//! A stream is everything that one node has sent another since they know each other: all lanes,
//! each with its own segment numbers. The sender gives each stream a number. When one of two nodes
//! has lost its state of the other (because it restarted or gave the other up), it begins a stream
//! with a new number. The other node then begins a new stream as well, unless none of its own
//! segments has been acknowledged, so that all of them can be sent again. What is lost by this is
//! counted.

mod moving;
mod sending;

use super::claims::{NodeClaims, Whom};
use super::clock::{Apart, Offset};
use super::filters::{FilterTelling, LocalFilters, RemoteFilters, is_group};
use super::frame::{Abilities, FrameContent, FrameSender, FrameState, NodeFrame};
use super::handing_on::{pass, publish};
use super::lane::{Lane, LaneReceiver, LaneSender, Malformed};
use super::record::{NodeRecord, PassedRef, message_of, put_message};
use super::wills::{FarWills, LocalWills, WillTelling};
use crate::mesh::mail::Passed;
use crate::mesh::moves::ToShard;
use crate::message::{MailPurpose, MessageRef, Retain};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;

/// Records of one node that are taken in at a time, before other nodes have their turn.
const RECORDS: usize = 1024;
/// Filters of a node that is gone that are removed at a time.
const SWEPT: usize = 1024;

/// What a node needs of its broker.
pub trait LocalBroker {
    /// The node with that number wants the filter from now on (true), or wants it no more (false).
    fn want(&mut self, node: u8, filter: &str, wanted: bool);
    /// Takes in a publication, or a retained message, of another node. Returns false when there is
    /// no room now.
    fn publish(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) -> bool;
    /// Whether so much mail for the shards is waiting that no more filters should be taken in now.
    fn is_congested(&mut self) -> bool {
        false
    }
    /// Takes in a message of a share group that comes from the node with that number, or comes back
    /// from it. Returns false when there is no room now.
    fn pass(&mut self, node: u8, passed: &PassedRef<'_>) -> bool;
    /// A message of the node with that name has been taken in.
    fn arrived(&mut self, _node: &str, _message: &MessageRef<'_>) {
        // Only a broker that records spans wants to know.
    }
    /// Sends a shard mail about ClientIds and sessions, behind everything that was published.
    fn tell(&mut self, whom: Whom, what: ToShard);
    /// Asks each shard for a fence, behind everything that was published.
    fn ask_for_fences(&mut self);
}

/// Whether another node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// The node is heard.
    Up,
    /// The node has not been heard for a while; holds since when.
    Down(Instant),
}

/// Counts about records to and from another node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PeerCounts {
    /// Messages that were put into the window to the node.
    pub sent: u64,
    /// Messages of the node that were taken in.
    pub received: u64,
    /// Messages that were lost with a window.
    pub lost: u64,
    /// How often segments were sent again, in windows that are gone.
    pub resends: u64,
    /// How often the node's filters did not match the node's digest.
    pub disagreements: u64,
    /// Streams that contained something that no node may send.
    pub malformed: u64,
}

/// Another node.
pub struct PeerNode {
    /// Its name.
    pub name: Box<str>,
    /// Its incarnation.
    pub incarnation: u64,
    /// What this node can do, and what the other one can as far as it has told.
    own: Abilities,
    told: Abilities,
    /// Whether it is there.
    pub presence: Presence,
    /// When it was last heard.
    pub heard: Instant,
    /// What has become of records.
    pub counts: PeerCounts,
    /// The numbers of the stream to the node, and of the stream from it (0: none yet).
    stream: u32,
    back: u32,
    windows: [LaneSender; Lane::ALL.len()],
    arrivals: [LaneReceiver; Lane::ALL.len()],
    telling: FilterTelling,
    /// The numbers of the segments behind everything that the node is told when it joins or comes
    /// back (filters, retained messages), once that is in the windows.
    told_by: Option<[(Lane, u64); 2]>,
    filters: RemoteFilters,
    /// The snapshot of filters that is wanted of the node, and whether it has arrived.
    snapshot: u32,
    is_whole: bool,
    offset: Offset,
    /// How far the node's time is from this node's time.
    pub apart: Apart,
    /// Whether the state is to be sent even if no data is.
    state_due: bool,
    /// Whether the node may lack some of this node's retained messages.
    pub lacks_retained: bool,
    /// The digest of the node's retained messages, if it has told one.
    pub retained: Option<u64>,
    /// The digest of this node's retained messages, which the node is told.
    pub retained_here: u64,
    /// Whether the node has told share groups since it last asked whether its filters are known.
    groups_told: bool,
    /// Messages of share groups that the node had not acknowledged when a window was given up.
    unpassed: Vec<Vec<u8>>,
    /// How far the node has been told the will messages.
    wills: WillTelling,
    /// Whether the node is down because it has ended, as its goodbye told.
    pub has_ended: bool,
}

impl PeerNode {
    /// A node that was not known before; `stream` is the number of this node's stream to it, and
    /// `own` is what this node can do.
    pub fn new(sender: &FrameSender<'_>, stream: u32, own: Abilities, now: Instant) -> PeerNode {
        PeerNode { stream, ..PeerNode::named(sender.name.into(), sender.incarnation, own, now) }
    }

    fn named(name: Box<str>, incarnation: u64, own: Abilities, now: Instant) -> PeerNode {
        PeerNode {
            name,
            incarnation,
            own,
            told: Abilities::LEAST,
            presence: Presence::Up,
            heard: now,
            counts: PeerCounts::default(),
            stream: 0,
            back: 0,
            windows: Default::default(),
            arrivals: Default::default(),
            telling: FilterTelling::default(),
            told_by: None,
            filters: RemoteFilters::default(),
            snapshot: 0,
            is_whole: false,
            offset: Offset::default(),
            apart: Apart::default(),
            state_due: true,
            lacks_retained: false,
            retained: None,
            retained_here: 0,
            groups_told: false,
            unpassed: Vec::new(),
            wills: WillTelling::default(),
            has_ended: false,
        }
    }

    /// What both nodes can do, as far as the other one has told.
    pub fn can(&self) -> Abilities {
        if Mutant::ClusterLevelIgnored.is_on() {
            return self.own;
        }
        self.own.common(self.told)
    }

    /// Notes what the node can do, of which an earlier format says less. It may not have been told
    /// what it can be told now.
    fn note_abilities(&mut self, told: Abilities) {
        let before = self.can();
        self.told = Abilities {
            newest: self.told.newest.max(told.newest),
            level: self.told.level.max(told.level),
        };
        if self.can().level > before.level {
            self.wills.begin();
        }
    }

    /// The numbers of the streams to the node and from it.
    pub fn streams(&self) -> (u32, u32) {
        (self.stream, self.back)
    }

    /// The number of filters of the node's clients.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// Whether the node's filters are known here, and the node has acknowledged those of this node
    /// and its retained messages, as they were when it joined or came back. What has changed since
    /// may be under way: under load, something always is.
    pub fn is_settled(&self) -> bool {
        let reached = |&(lane, end): &(Lane, u64)| self.windows[lane as usize].is_past(end);
        self.presence == Presence::Up
            && self.is_whole
            && self.told_by.as_ref().is_some_and(|ends| ends.iter().all(reached))
    }

    /// Notes where in the windows everything ends that the node is to be told, once it is there;
    /// `retained` tells whether the retained messages are.
    pub fn note_told(&mut self, retained: bool) {
        if !retained || !self.telling.has_ended() {
            self.told_by = None;
        } else if self.told_by.is_none() {
            let end = |lane| (lane, self.windows[lane as usize].close());
            self.told_by = Some([Lane::Control, Lane::Bulk].map(end));
        }
    }

    /// Bytes of messages that the node has not acknowledged.
    pub fn window(&self) -> usize {
        self.windows[Lane::Messages as usize].bytes()
    }

    /// Bytes of the node's messages that wait for this broker.
    pub fn waiting(&self) -> usize {
        self.arrivals[Lane::Messages as usize].waiting()
    }

    /// How often segments were sent again.
    pub fn resends(&self) -> u64 {
        self.counts.resends + self.windows.iter().map(LaneSender::resends).sum::<u64>()
    }

    /// Whether every complete record of the node has been taken in.
    pub fn is_drained(&self) -> bool {
        self.arrivals.iter().all(|lane| !matches!(lane.record(), Ok(Some(_))))
    }

    /// The node has restarted. `stream` is the number of this node's new stream to it.
    pub fn restarted(&mut self, incarnation: u64, stream: u32) {
        self.incarnation = incarnation;
        self.told = Abilities::LEAST;
        self.back = 0;
        self.arrivals = Default::default();
        self.offset = Offset::default();
        self.apart = Apart::default();
        self.want_snapshot();
        self.begin_stream(stream);
    }

    /// Begins a new stream; what was sent to the node and not acknowledged is lost.
    fn begin_stream(&mut self, stream: u32) {
        self.counts.resends = self.resends();
        self.lose_messages();
        self.windows = Default::default();
        self.stream = stream;
        self.tell_anew(self.telling.snapshot());
        self.state_due = true;
    }

    /// Tells the node everything again, as the snapshot with this number.
    fn tell_anew(&mut self, snapshot: u32) {
        self.telling.begin(snapshot);
        self.told_by = None;
        self.wills.begin();
        self.lacks_retained = true;
    }

    fn want_snapshot(&mut self) {
        self.snapshot = self.snapshot.wrapping_add(1);
        self.is_whole = false;
        self.retained = None;
        self.state_due = true;
    }

    /// Takes in a frame of this incarnation. `next_stream` gives the number of this node's next
    /// stream.
    pub fn take(
        &mut self,
        frame: &NodeFrame<'_>,
        now: Instant,
        next_stream: &mut dyn FnMut() -> u32,
    ) {
        self.heard = self.heard.max(now);
        (self.presence, self.has_ended) = (Presence::Up, false);
        self.offset.see(frame.sender.clock, now);
        let state = match frame.said {
            FrameContent::Hello(abilities) => return self.note_abilities(abilities),
            FrameContent::Goodbye => return,
            FrameContent::State(state) | FrameContent::Data(state, ..) => state,
        };
        if state.stream < self.back || state.stream == 0 {
            return; // a frame of a stream that has ended
        }
        let knows_another = state.back != 0 && state.back != self.stream;
        if self.back == 0 && knows_another && !Mutant::ClusterUnknownStreamTaken.is_on() {
            // This node has forgotten the other one, which does not know that yet: its windows go
            // on where they were. It begins a stream when it hears of this one.
            return;
        }
        if state.stream > self.back {
            if !self.is_drained() {
                return; // earlier records come first; the node will send this frame again
            }
            self.back = state.stream;
            self.arrivals = Default::default();
            self.want_snapshot();
            let gone = state.back != self.stream;
            if gone && !self.windows.iter().all(LaneSender::is_whole) {
                self.begin_stream(next_stream());
            }
        }
        if state.back == self.stream {
            for (window, &by) in self.windows.iter_mut().zip(&state.acknowledged) {
                window.acknowledged(by, now);
            }
            if state.snapshot != self.telling.snapshot() {
                self.tell_anew(state.snapshot);
            }
            self.retained = Some(state.retained);
        }
        if let FrameContent::Data(_, lane, number, segment) = frame.said {
            self.arrivals[lane as usize].take(number, segment);
        }
        self.compare(&state);
    }

    /// Compares the node's filters with the digest that the node has told.
    fn compare(&mut self, state: &FrameState) {
        let Some(told) = state.told.filter(|_| self.is_whole) else { return };
        let here = self.arrivals[Lane::Control as usize].all_taken();
        if here == Some(told.at) && !self.filters.agrees(&told) {
            self.counts.disagreements += 1;
            self.want_snapshot();
        }
    }

    /// The node has not been heard for a while: its filters are to be swept.
    pub fn silent(&mut self, now: Instant) {
        self.presence = Presence::Down(now);
        self.want_snapshot();
    }

    /// Removes the node's filters, some at a time. Returns true when none is left.
    pub fn sweep(&mut self, node: u8, broker: &mut impl LocalBroker) -> bool {
        if broker.is_congested() {
            return false;
        }
        let change = &mut |filter: &str, wanted: bool| broker.want(node, filter, wanted);
        self.filters.sweep(0, SWEPT, change)
    }

    /// Gives the node up. Returns the number of lost messages.
    pub fn give_up(&mut self) -> u64 {
        let lost = self.lose_messages();
        self.windows = Default::default();
        lost
    }

    /// Counts unacknowledged messages as lost, except those of share groups with QoS 1: another
    /// member may get these, even though they may have arrived. Returns the number of lost
    /// messages.
    fn lose_messages(&mut self) -> u64 {
        let window = &self.windows[Lane::Messages as usize];
        let (all, kept) = (window.records(), self.unpassed.len());
        window.unacknowledged(&mut |bytes| {
            if let Ok(NodeRecord::Passed(passed)) = NodeRecord::read(bytes)
                && passed.message.qos == Qos::AtLeastOnce
                && !Mutant::ClusterGroupUnsentLost.is_on()
            {
                self.unpassed.push(bytes.to_vec());
            }
        });
        let lost = all - (self.unpassed.len() - kept) as u64;
        self.counts.lost += lost;
        lost
    }

    /// Takes out the messages of share groups that are to go to another member.
    pub fn take_unpassed(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.unpassed)
    }

    /// The filter of this node with this number has changed.
    pub fn changed(&mut self, number: u32) {
        self.telling.changed(number);
    }

    /// Puts a message into the window.
    ///
    /// Who wants one that is retained is looked up at the node itself, with all that has come to it
    /// by then: so a client that subscribes or comes there meanwhile gets it with the others, or
    /// finds it retained.
    pub fn send(&mut self, message: &MessageRef<'_>, retain: Retain) {
        self.counts.sent += 1;
        match retain.stamp() {
            // Most records by far.
            None => self.windows[Lane::Messages as usize].push(|out| put_message(message, out)),
            Some(stamp) => self.push_record(&NodeRecord::Stamped(stamp, *message)),
        }
    }

    /// Puts a message for a share group into the window.
    pub fn pass(&mut self, passed: &Passed) {
        let Passed { name, asks, hops, message, .. } = passed;
        let (name, message) = (name.as_str(), message.view());
        self.counts.sent += 1;
        self.push_record(&NodeRecord::Passed(PassedRef {
            asks: *asks,
            hops: *hops,
            name,
            message,
        }));
    }

    /// Puts a record into the window of its lane, unless the node does not read such records.
    pub fn push_record(&mut self, record: &NodeRecord<'_>) {
        if record.level() > self.can().level {
            return;
        }
        self.windows[record.lane() as usize].push(|out| record.write(out));
    }

    /// Puts an encoded record into the window of `lane`, unless the node does not read such
    /// records.
    pub fn push(&mut self, lane: Lane, record: &[u8]) {
        if NodeRecord::level_of(record) > self.can().level {
            return;
        }
        self.windows[lane as usize].push(|out| out.extend_from_slice(record));
    }

    /// Bytes in the bulk lane that the node has not acknowledged.
    pub fn bulk(&self) -> usize {
        self.windows[Lane::Bulk as usize].bytes()
    }

    /// Whether all filters have been put into the window to the node.
    pub fn knows_filters(&self) -> bool {
        self.telling.is_done()
    }

    /// Puts records about filters into the window, up to `most` bytes. Returns true if there were
    /// any.
    pub fn tell(&mut self, filters: &LocalFilters, most: usize) -> bool {
        let window = &mut self.windows[Lane::Control as usize];
        let mut any = false;
        while window.bytes() < most
            && let Some(record) = self.telling.next(filters)
        {
            window.push(|out| record.write(out));
            any = true;
        }
        any
    }

    /// The will message of a client of this node has changed.
    pub fn will_changed(&mut self, client: &str) {
        self.wills.changed(client);
    }

    /// Whether the node has been told all will messages and has acknowledged that.
    pub fn knows_wills(&self) -> bool {
        self.wills.is_done() && self.windows[Lane::Bulk as usize].is_empty()
    }

    /// Puts records about will messages into the window, up to `most` bytes. Returns true if there
    /// were any.
    pub fn tell_wills(&mut self, wills: &LocalWills, most: usize) -> bool {
        let level = self.can().level;
        let window = &mut self.windows[Lane::Bulk as usize];
        let mut any = false;
        while window.bytes() < most
            && self.wills.next(wills, level, &mut |record| window.push(|out| record.write(out)))
        {
            any = true;
        }
        any
    }

    /// Takes in records, a bounded number at a time. Returns true when more could be taken in.
    ///
    /// # Errors
    /// Fails when the node has sent what no node may send; its stream is over then.
    pub fn take_in(
        &mut self,
        node: u8,
        broker: &mut impl LocalBroker,
        known: (&mut NodeClaims, &mut FarWills),
        now: Instant,
    ) -> Result<bool, Malformed> {
        let (claims, wills) = known;
        let mut more = false;
        for lane in Lane::ALL {
            more |= self.take_lane(lane, node, broker, (&mut *claims, &mut *wills), now)?;
        }
        Ok(more)
    }

    fn take_lane(
        &mut self,
        lane: Lane,
        node: u8,
        broker: &mut impl LocalBroker,
        (claims, wills): (&mut NodeClaims, &mut FarWills),
        now: Instant,
    ) -> Result<bool, Malformed> {
        let from = (&*self.name, &self.offset);
        for _ in 0..RECORDS {
            let arrivals = &mut self.arrivals[lane as usize];
            let Some(bytes) = arrivals.record()? else { return Ok(false) };
            if lane == Lane::Messages
                && let Some(message) = message_of(bytes)?
            {
                // Most records by far.
                if !publish(broker, from, &message, true, Retain::NONE) {
                    return Ok(false);
                }
                self.counts.received += 1;
                arrivals.taken();
                continue;
            }
            if NodeRecord::level_of(bytes) > self.own.level {
                return Err(Malformed);
            }
            if lane == Lane::Control && broker.is_congested() {
                return Ok(false);
            }
            let change = &mut |filter: &str, wanted: bool| broker.want(node, filter, wanted);
            match (NodeRecord::read(bytes)?, lane) {
                (NodeRecord::Stamped(stamp, message), Lane::Messages)
                | (NodeRecord::Retained(stamp, message), Lane::Bulk) => {
                    let is_live = lane == Lane::Messages;
                    if !publish(broker, from, &message, is_live, Retain::stamped(stamp)) {
                        return Ok(false);
                    }
                    self.counts.received += u64::from(is_live);
                }
                (NodeRecord::Passed(passed), Lane::Messages) => {
                    if !pass(broker, (node, from), &passed) {
                        return Ok(false);
                    }
                    self.counts.received += 1;
                }
                (NodeRecord::Filter(number, filter), Lane::Control) => {
                    self.groups_told |= is_group(filter);
                    self.filters.set(number, Some(filter), change);
                }
                (NodeRecord::NoFilter(number), Lane::Control) => {
                    self.filters.set(number, None, change);
                }
                (NodeRecord::AllFilters(end, snapshot), Lane::Control) => {
                    if !self.filters.sweep(end, SWEPT, change) {
                        return Ok(true);
                    }
                    self.is_whole |= snapshot == self.snapshot;
                }
                (NodeRecord::Ask(number), Lane::Control) => {
                    claims.asked(node, number, std::mem::take(&mut self.groups_told));
                }
                (record, lane) if record.lane() == lane => {
                    wills.heard(node, &record, &self.offset, claims, now);
                    claims.heard(node, &record, now);
                }
                _ => return Err(Malformed),
            }
            arrivals.taken();
        }
        Ok(true)
    }

    /// The node has sent what no node may send: its stream is over, and it has to begin another
    /// one. `stream` is the number of this node's new stream to it.
    pub fn refuse(&mut self, stream: u32) {
        self.counts.malformed += 1;
        self.arrivals = Default::default();
        self.back = 0;
        self.want_snapshot();
        self.begin_stream(stream);
    }

    /// Sends all unacknowledged segments again, as they may be lost.
    pub fn begin_again(&mut self, now: Instant) {
        self.windows.iter_mut().for_each(|window| window.begin_again(now));
    }

    /// When segments are to be sent again, or to be acknowledged.
    pub fn deadline(&self) -> Option<Instant> {
        let resends = self.windows.iter().filter_map(LaneSender::deadline);
        let answers = self.arrivals.iter().filter_map(LaneReceiver::deadline);
        resends.chain(answers).min()
    }
}
