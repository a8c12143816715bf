//! One other node, as this one sees it: whether it is there, the lanes to it and from it, and the
//! filters of its clients. What it says of ClientIds and sessions goes to [`super::claims`].
//!
//! A stream is what two nodes have said to each other since they know each other: both lanes, each
//! with its numbers. It has a number of its sender's own. When one of the two has lost it (it was
//! started anew, or has given the other up), it begins with a new number; the other one then begins
//! anew as well, unless nothing of its own has been acknowledged and so everything can be sent
//! again. What is lost by that is counted.

use super::claims::{Claims, Whom};
use super::clock::{Apart, Offset};
use super::filters::{LocalFilters, RemoteFilters, Telling, is_group};
use super::frame::{Frame, Said, Sender, State};
use super::lane::{Arrivals, Lane, Malformed, Window};
use super::record::{PassedRef, Record};
use super::wills::{FarWills, LocalWills, WillTelling};
use crate::mesh::mail::Passed;
use crate::mesh::moves::ToShard;
use crate::message::{MailPurpose, MessageRef, Reserve, Retain};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;

/// Records of one node that are taken in at once, before others have their turn.
const RECORDS: usize = 256;
/// Filters of a node that is gone that are taken out at once.
const SWEPT: usize = 1024;

/// What a node needs of its broker.
pub trait Broker {
    /// The node with that number wants the filter from now on (true), or does not any more.
    fn want(&mut self, node: u8, filter: &str, wanted: bool);
    /// Takes in a publication, or a retained message, of another node; false when there is no room
    /// now.
    fn publish(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) -> bool;
    /// Whether there is so much to be told to the shards that no more filters are taken in now.
    fn is_congested(&mut self) -> bool {
        false
    }
    /// Takes in a message of a share group that has come from the node with that number, or comes
    /// back; false when there is no room now.
    fn pass(&mut self, node: u8, passed: &PassedRef<'_>) -> bool;
    /// Tells shards about ClientIds and sessions, behind all that was published.
    fn tell(&mut self, whom: Whom, what: ToShard);
}

/// Whether a node is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It is heard.
    Up,
    /// It has not been heard for a while; since then.
    Down(Instant),
}

/// What has become of records.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PeerCounts {
    /// Messages sent to it: put into the window.
    pub sent: u64,
    /// Messages of it that were taken in.
    pub received: u64,
    /// Messages that were in the window when it was given up.
    pub lost: u64,
    /// Times that something was sent again, in windows that are gone.
    pub resends: u64,
    /// Times that its filters were not what it said.
    pub disagreements: u64,
    /// Streams that said what no node may say.
    pub malformed: u64,
}

/// Another node.
pub struct Peer {
    /// Its name.
    pub name: Box<str>,
    /// Its incarnation.
    pub incarnation: u64,
    /// Whether it is there.
    pub presence: Presence,
    /// When it was last heard.
    pub heard: Instant,
    /// What has become of records.
    pub counts: PeerCounts,
    /// The number of the stream to it, and of that from it (0: none yet).
    stream: u32,
    back: u32,
    windows: [Window; Lane::ALL.len()],
    arrivals: [Arrivals; Lane::ALL.len()],
    telling: Telling,
    filters: RemoteFilters,
    /// Which snapshot is wanted of it, and whether it has come.
    snapshot: u32,
    is_whole: bool,
    offset: Offset,
    /// How far its time is from this node's.
    pub apart: Apart,
    /// The state is to be sent, whether or not something else is.
    state_due: bool,
    /// It may lack some of this node's retained messages.
    pub lacks_retained: bool,
    /// What its retained messages add up to, as far as it has said.
    pub retained: Option<u64>,
    /// What it is told that those of this node add up to.
    pub retained_here: u64,
    /// It has told of share groups since it last asked whether its filters are known.
    groups_told: bool,
    /// Messages of share groups that it has not acknowledged and is not sent any more.
    unpassed: Vec<Vec<u8>>,
    /// How far it has been told of wills.
    wills: WillTelling,
    /// It is down because it has ended, as it said.
    pub has_ended: bool,
}

impl Peer {
    /// A node that was not known; `stream` is this node's next.
    pub fn new(sender: &Sender<'_>, stream: u32, now: Instant) -> Peer {
        Peer {
            name: sender.name.into(),
            incarnation: sender.incarnation,
            presence: Presence::Up,
            heard: now,
            counts: PeerCounts::default(),
            stream,
            back: 0,
            windows: Default::default(),
            arrivals: Default::default(),
            telling: Telling::default(),
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

    /// The numbers of the streams to it and from it.
    pub fn streams(&self) -> (u32, u32) {
        (self.stream, self.back)
    }

    /// Filters of its clients.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    /// True when its filters are known, and it has been told ours.
    pub fn is_settled(&self) -> bool {
        self.presence == Presence::Up
            && self.is_whole
            && self.telling.is_done()
            && self.windows.iter().all(Window::is_empty)
    }

    /// Bytes of messages that it has not acknowledged.
    pub fn window(&self) -> usize {
        self.windows[Lane::Messages as usize].bytes()
    }

    /// Bytes of its messages that wait for this broker.
    pub fn waiting(&self) -> usize {
        self.arrivals[Lane::Messages as usize].waiting()
    }

    /// Times that something was sent again.
    pub fn resends(&self) -> u64 {
        self.counts.resends + self.windows.iter().map(Window::resends).sum::<u64>()
    }

    /// Whether all that it has said has been taken in, as far as it is complete.
    pub fn is_drained(&self) -> bool {
        self.arrivals.iter().all(|lane| !matches!(lane.record(), Ok(Some(_))))
    }

    /// It was started anew. `stream` is this node's next.
    pub fn restarted(&mut self, incarnation: u64, stream: u32) {
        self.incarnation = incarnation;
        self.back = 0;
        self.arrivals = Default::default();
        self.offset = Offset::default();
        self.apart = Apart::default();
        self.want_snapshot();
        self.begin_stream(stream);
    }

    /// What was sent to it and not acknowledged is lost: a new stream begins.
    fn begin_stream(&mut self, stream: u32) {
        self.counts.resends = self.resends();
        self.lose_messages();
        self.windows = Default::default();
        self.stream = stream;
        self.tell_anew(self.telling.snapshot());
        self.state_due = true;
    }

    /// It is told everything again, as the snapshot of that number.
    fn tell_anew(&mut self, snapshot: u32) {
        self.telling.begin(snapshot);
        self.wills.begin();
        self.lacks_retained = true;
    }

    fn want_snapshot(&mut self) {
        self.snapshot = self.snapshot.wrapping_add(1);
        self.is_whole = false;
        self.retained = None;
        self.state_due = true;
    }

    /// What a frame of this incarnation of it says. `next_stream` gives this node's next one.
    pub fn take(&mut self, frame: &Frame<'_>, now: Instant, next_stream: &mut dyn FnMut() -> u32) {
        self.heard = self.heard.max(now);
        (self.presence, self.has_ended) = (Presence::Up, false);
        self.offset.see(frame.sender.clock, now);
        let state = match frame.said {
            Said::Hello | Said::Goodbye => return,
            Said::State(state) | Said::Data(state, ..) => state,
        };
        if state.stream < self.back || state.stream == 0 {
            return; // of a stream that is over
        }
        if state.stream > self.back {
            if !self.is_drained() {
                return; // what it has said before is taken in first; it will say this again
            }
            self.back = state.stream;
            self.arrivals = Default::default();
            self.want_snapshot();
            let gone = state.back != self.stream;
            if gone && !self.windows.iter().all(Window::is_whole) {
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
        if let Said::Data(_, lane, number, segment) = frame.said {
            self.arrivals[lane as usize].take(number, segment);
        }
        self.compare(&state);
    }

    /// Compares its filters with what it says that they add up to.
    fn compare(&mut self, state: &State) {
        let Some(told) = state.told.filter(|_| self.is_whole) else { return };
        let here = self.arrivals[Lane::Control as usize].all_taken();
        if here == Some(told.at) && !self.filters.agrees(&told) {
            self.counts.disagreements += 1;
            self.want_snapshot();
        }
    }

    /// It has not been heard for a while: its filters are swept.
    pub fn silent(&mut self, now: Instant) {
        self.presence = Presence::Down(now);
        self.want_snapshot();
    }

    /// Takes its filters out, some at a time; true when there is none left.
    pub fn sweep(&mut self, node: u8, broker: &mut impl Broker) -> bool {
        if broker.is_congested() {
            return false;
        }
        let change = &mut |filter: &str, wanted: bool| broker.want(node, filter, wanted);
        self.filters.sweep(0, SWEPT, change)
    }

    /// It is given up.
    pub fn give_up(&mut self) -> u64 {
        let lost = self.lose_messages();
        self.windows = Default::default();
        lost
    }

    /// What it has not acknowledged is lost, but for messages of share groups that another member
    /// may have: with QoS 1, since they may have arrived. How many are lost.
    fn lose_messages(&mut self) -> u64 {
        let window = &self.windows[Lane::Messages as usize];
        let (all, kept) = (window.records(), self.unpassed.len());
        window.unacknowledged(&mut |bytes| {
            if let Ok(Record::Passed(passed)) = Record::read(bytes)
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

    /// Messages of share groups that are to go to another member.
    pub fn take_unpassed(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.unpassed)
    }

    /// What is said of a filter of this node has changed.
    pub fn changed(&mut self, number: u32) {
        self.telling.changed(number);
    }

    /// Puts a message into the window.
    pub fn send(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) {
        self.counts.sent += 1;
        self.push_record(&match purpose.retain.stamp() {
            None => Record::Message(*message),
            Some(stamp) if purpose.deliver => Record::Stamped(stamp, *message),
            Some(stamp) => Record::Retained(stamp, *message),
        });
    }

    /// Puts a message of a share group into the window.
    pub fn pass(&mut self, passed: &Passed) {
        let Passed { name, asks, hops, message, .. } = passed;
        let (name, message) = (name.as_str(), message.view());
        self.counts.sent += 1;
        self.push_record(&Record::Passed(PassedRef { asks: *asks, hops: *hops, name, message }));
    }

    /// Puts a record into the window of its lane.
    pub fn push_record(&mut self, record: &Record<'_>) {
        self.windows[record.lane() as usize].push(|out| record.write(out));
    }

    /// Puts a record into the window of a lane.
    pub fn push(&mut self, lane: Lane, record: &[u8]) {
        self.windows[lane as usize].push(|out| out.extend_from_slice(record));
    }

    /// Bytes of sessions and retained messages that it has not acknowledged.
    pub fn bulk(&self) -> usize {
        self.windows[Lane::Bulk as usize].bytes()
    }

    /// Whether it has been told of all filters, as far as they are in the window.
    pub fn knows_filters(&self) -> bool {
        self.telling.is_done()
    }

    /// Puts what is to be told of filters into the window, up to `most` bytes; true when some was.
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

    /// A client's will has changed.
    pub fn will_changed(&mut self, client: &str) {
        self.wills.changed(client);
    }

    /// Whether it has been told of all wills, and has acknowledged that.
    pub fn knows_wills(&self) -> bool {
        self.wills.is_done() && self.windows[Lane::Bulk as usize].is_empty()
    }

    /// Puts what is to be told of wills into the window, up to `most` bytes; true when some was.
    pub fn tell_wills(&mut self, wills: &LocalWills, most: usize) -> bool {
        let window = &mut self.windows[Lane::Bulk as usize];
        let mut any = false;
        while window.bytes() < most
            && self.wills.next(wills, &mut |record| window.push(|out| record.write(out)))
        {
            any = true;
        }
        any
    }

    /// Takes records in, some at a time. True when there are more that could be taken.
    ///
    /// # Errors
    /// It said what no node may say; its stream is over.
    pub fn take_in(
        &mut self,
        node: u8,
        broker: &mut impl Broker,
        known: (&mut Claims, &mut FarWills),
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
        broker: &mut impl Broker,
        (claims, wills): (&mut Claims, &mut FarWills),
        now: Instant,
    ) -> Result<bool, Malformed> {
        for _ in 0..RECORDS {
            let arrivals = &mut self.arrivals[lane as usize];
            let Some(bytes) = arrivals.record()? else { return Ok(false) };
            if lane == Lane::Control && broker.is_congested() {
                return Ok(false);
            }
            let change = &mut |filter: &str, wanted: bool| broker.want(node, filter, wanted);
            match (Record::read(bytes)?, lane) {
                (Record::Message(message), Lane::Messages) => {
                    if !publish(broker, &self.offset, &message, true, Retain::NONE) {
                        return Ok(false);
                    }
                    self.counts.received += 1;
                }
                (Record::Stamped(stamp, message), Lane::Messages) => {
                    if !publish(broker, &self.offset, &message, true, Retain::stamped(stamp)) {
                        return Ok(false);
                    }
                    self.counts.received += 1;
                }
                (Record::Passed(passed), Lane::Messages) => {
                    let expires = passed.message.expires.map(|at| self.offset.ours(at));
                    let message = MessageRef { expires, ..passed.message };
                    if !broker.pass(node, &PassedRef { message, ..passed }) {
                        return Ok(false);
                    }
                    self.counts.received += 1;
                }
                (Record::Retained(stamp, message), Lane::Bulk) => {
                    if !publish(broker, &self.offset, &message, false, Retain::stamped(stamp)) {
                        return Ok(false);
                    }
                }
                (Record::Filter(number, filter), Lane::Control) => {
                    self.groups_told |= is_group(filter);
                    self.filters.set(number, Some(filter), change);
                }
                (Record::NoFilter(number), Lane::Control) => {
                    self.filters.set(number, None, change);
                }
                (Record::AllFilters(end, snapshot), Lane::Control) => {
                    if !self.filters.sweep(end, SWEPT, change) {
                        return Ok(true);
                    }
                    self.is_whole |= snapshot == self.snapshot;
                }
                (Record::Ask(number), Lane::Control) => {
                    claims.asked(node, number, std::mem::take(&mut self.groups_told));
                }
                (record, lane) if record.lane() == lane => {
                    take_will(node, &record, &self.offset, claims, wills, now);
                    claims.heard(node, &record, now);
                }
                _ => return Err(Malformed),
            }
            arrivals.taken();
        }
        Ok(true)
    }

    /// It has said what no node may say: its stream is over, and it has to begin another.
    /// `stream` is this node's next.
    pub fn refuse(&mut self, stream: u32) {
        self.counts.malformed += 1;
        self.arrivals = Default::default();
        self.back = 0;
        self.want_snapshot();
        self.begin_stream(stream);
    }

    /// What it is told of this node in each frame.
    fn state(&mut self, filters: &LocalFilters) -> State {
        let control = &mut self.windows[Lane::Control as usize];
        let told = self.telling.told(filters, control.close());
        self.state_due = false;
        State {
            to: self.incarnation,
            stream: self.stream,
            back: self.back,
            acknowledged: self.arrivals.each_mut().map(Arrivals::acknowledgement),
            snapshot: self.snapshot,
            told,
            retained: self.retained_here,
        }
    }

    /// Sends what there is to send, as frames.
    pub fn emit(
        &mut self,
        own: &Sender<'_>,
        filters: &LocalFilters,
        now: Instant,
        send: &mut dyn FnMut(&str, Vec<u8>),
    ) {
        for lane in Lane::ALL {
            self.windows[lane as usize].tick(now);
            while self.windows[lane as usize].next(now).is_some() {
                let state = self.state(filters);
                let window = &self.windows[lane as usize];
                let Some((number, segment)) = window.last_sent() else { break };
                let said = Said::Data(state, lane, number, segment);
                send(&self.name, Frame { sender: *own, said }.write());
            }
        }
        if self.state_due || self.arrivals.iter().any(Arrivals::is_due) {
            self.emit_state(own, filters, send);
        }
    }

    /// Sends the state.
    pub fn emit_state(
        &mut self,
        own: &Sender<'_>,
        filters: &LocalFilters,
        send: &mut dyn FnMut(&str, Vec<u8>),
    ) {
        let said = Said::State(self.state(filters));
        send(&self.name, Frame { sender: *own, said }.write());
    }

    /// What was sent may be lost.
    pub fn begin_again(&mut self, now: Instant) {
        self.windows.iter_mut().for_each(|window| window.begin_again(now));
    }

    /// When something is to be sent again.
    pub fn deadline(&self) -> Option<Instant> {
        self.windows.iter().filter_map(Window::deadline).min()
    }
}

/// Takes in what a node says of wills, and what a claim says of them.
fn take_will(
    node: u8,
    record: &Record<'_>,
    offset: &Offset,
    claims: &mut Claims,
    wills: &mut FarWills,
    now: Instant,
) {
    match *record {
        Record::Will(will) => {
            claims.see_stamp(will.stamp);
            wills.set(node, &will, offset);
        }
        Record::NoWill(client) => wills.remove(node, client),
        Record::NoWills => wills.told_anew(node),
        Record::WillSent(incarnation, name, client) => wills.sent(name, incarnation, client, now),
        Record::Claim(_, stamp, _, client) => wills.claimed(Some(node), client, stamp),
        _ => {}
    }
}

/// Hands on what came, with its expiry by this node's clock.
fn publish(
    broker: &mut impl Broker,
    offset: &Offset,
    message: &MessageRef<'_>,
    deliver: bool,
    retain: Retain,
) -> bool {
    let expires = message.expires.map(|at| offset.ours(at));
    let purpose = MailPurpose { deliver, retain, reserve: Reserve::NONE };
    broker.publish(&MessageRef { expires, ..*message }, purpose)
}
