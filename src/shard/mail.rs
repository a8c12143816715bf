//! Takes in the mail of the other shards, and holds back packets and control mail that have to wait
//! until earlier data mail has been taken in.
//!
//! Whatever was acknowledged to one client must take effect before anything that any client sends
//! after that, on every shard. A shard sends an acknowledgement only once its mail is in the
//! mailboxes. The kernel therefore reports a packet that was sent after the acknowledgement later
//! than that mail. In each step the driver first lets the kernel report what has arrived. Then the
//! shard looks at its mailboxes, and takes in what they hold by then before those packets
//! ([`super::step`]). Usually it takes in all of that mail within the step. If the mail is more
//! than a step's share of work, packets whose effect depends on the mail wait ([`Holds::BEHIND`]):
//! PUBLISH, SUBSCRIBE and UNSUBSCRIBE. So does control mail that asks for, or brings, something
//! that data mail may still change. Everything else proceeds, such as acknowledgements and PINGREQ.
//!
//! A packet waits only for the mail that was there when the packet arrived, not for mail that
//! arrives meanwhile. The older packets wait for one position in the mailboxes, and all later ones
//! for a second position, which is noted when the first is reached. So no packet waits for more
//! than two such rounds, however much mail keeps arriving.

use super::Shard;
use super::ahead;
use super::connection::Holds;
use super::outbox::Outbox;
use super::topology::Topology;
use crate::ids::{ShardId, ShardSet, SocketId};
use crate::limits::{Budget, MAIL_MICROS, cost};
use crate::mesh::mail::{Control, CostReport, Data, OpenMail, Stamped};
use crate::mesh::mailbox::{MailEnds, MailProgress};
use crate::mesh::moves::ToShard;
use crate::mesh::reading::{MailPosition, Reading};
use crate::message::{MailPurpose, Message, MessageRef, Reserve};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::TopicHash;
use std::collections::VecDeque;

/// How far the shard has taken in its mail, and which connections and control mails wait for that.
pub(super) struct MailIntake {
    reading: Reading,
    /// A data mail that the step could not finish.
    open: Option<OpenMail>,
    /// Some data mail that was there at the last look has not been taken in yet.
    pub(super) behind: bool,
    /// True while connections are released that have waited long enough: their packets are not held
    /// again.
    granted: bool,
    /// Those that wait for `position`, at the index `older`, and those that came later, at the
    /// other index.
    waiting: [WaitingMail; 2],
    older: usize,
    /// The position that the older ones wait for.
    position: MailPosition,
    /// Control mail that has waited long enough.
    ready: VecDeque<(ShardId, Control)>,
    /// The shard whose control mail comes first in this step; it changes with each step.
    first_peer: u8,
    /// The senders of which there was control mail at the last look, and how many from each of
    /// these.
    control_from: ShardSet,
    control: Vec<usize>,
    /// What data mail and control mail have cost in this step, by [`MailClass`].
    work: [u32; 2],
    /// When the mailboxes were last looked at, if there is a clock: no mail that was taken in since
    /// was put there later. The step may have begun much earlier, if the process was stopped in
    /// between.
    looked_at: Instant,
}

/// Data mail and control mail each have a share of the step's work of their own.
#[derive(Clone, Copy)]
enum MailClass {
    Data,
    Control,
}

#[derive(Default)]
struct WaitingMail {
    pub(super) connections: Vec<SocketId>,
    control: Vec<(ShardId, Control)>,
}

impl WaitingMail {
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.control.is_empty()
    }
}

impl MailIntake {
    pub(super) fn new(senders: usize) -> Self {
        let reading = Reading::new(senders);
        MailIntake {
            position: reading.noted(),
            reading,
            open: None,
            behind: false,
            granted: false,
            waiting: Default::default(),
            older: 0,
            ready: VecDeque::new(),
            first_peer: 0,
            control_from: ShardSet::EMPTY,
            control: vec![0; senders],
            work: [0; 2],
            looked_at: Instant(0),
        }
    }

    /// Gives the new step its whole shares of work.
    #[inline]
    pub(super) fn begin_step(&mut self) {
        self.work = [0; 2];
    }

    pub(super) fn work(&self) -> u32 {
        self.work.iter().sum()
    }

    /// Whether a packet with this first byte has to wait for mail that was there before it.
    #[inline]
    pub(super) fn holds(&self, first: u8) -> bool {
        self.behind && !self.granted && is_ordered(first)
    }

    /// True when the next step has mail to go on with, as far as other mailboxes have room for what
    /// that mail causes.
    pub(super) fn has_more(&self) -> bool {
        self.behind || !self.ready.is_empty()
    }

    /// The end of the data mail at the last look.
    pub(super) fn noted(&self) -> MailPosition {
        self.reading.noted()
    }

    /// True when the data mail before `position` has been taken in.
    pub(super) fn is_past(&self, position: &MailPosition) -> bool {
        self.reading.is_past(position)
    }

    /// The latest time at which the mail that is being taken in can have been put into the
    /// mailboxes.
    #[inline]
    pub(super) fn looked_at(&self) -> Instant {
        self.looked_at
    }

    /// True when earlier steps have left nothing to go on with.
    #[inline]
    fn is_idle(&self) -> bool {
        !self.behind
            && self.ready.is_empty()
            && self.open.is_none()
            && self.waiting.iter().all(WaitingMail::is_empty)
    }

    /// How many connections and mails wait.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |one: &WaitingMail| one.connections.len() + one.control.len();
        self.waiting.iter().map(waiting).sum::<usize>()
            + self.ready.len()
            + usize::from(self.open.is_some())
    }

    /// True when there is control mail to take in.
    fn has_control(&self) -> bool {
        !self.ready.is_empty() || !self.control_from.is_empty()
    }

    /// Makes a connection wait with those at index `parity` of `waiting`.
    pub(super) fn wait(&mut self, parity: usize, socket: SocketId) {
        self.waiting[parity].connections.push(socket);
    }

    /// The index of `waiting` for whatever has to wait for all data mail that was there at the last
    /// look.
    pub(super) fn join_waiting(&mut self) -> usize {
        if self.waiting[self.older].is_empty() {
            self.position = self.reading.noted();
        }
        let same = self.position == self.reading.noted();
        if same { self.older } else { 1 - self.older }
    }
}

/// True for PUBLISH, SUBSCRIBE and UNSUBSCRIBE, by the first byte of the packet.
fn is_ordered(first: u8) -> bool {
    match first >> 4 {
        3 | 10 => true,
        8 => !Mutant::SubscribeOvertakesMail.is_on(),
        _ => false,
    }
}

/// True for control mail that must not overtake data mail: its sender may have relied on data mail
/// that is still in a mailbox here.
fn waits_for_data(control: &Control) -> bool {
    match control {
        Control::Replay(_) => !Mutant::ReplayOvertakesMail.is_on(),
        Control::Replayed(_) | Control::Join(_) | Control::Leave(..) | Control::Presence(..) => {
            true
        }
        // In line with those above: what a shard says about one member of a group must keep its
        // order.
        Control::GiveBack(_) => true,
        // Messages that were published before this mail belong to the session that is packed, or
        // are among those to be told again.
        Control::ToShard(what) => matches!(**what, ToShard::Pack(_) | ToShard::Retell(_)),
        _ => false,
    }
}

/// The mail of a shard: what is staged for the others, and what is taken in from them.
pub(super) struct Mail {
    pub(super) outbox: Outbox,
    pub(super) intake: MailIntake,
}

impl Mail {
    /// The mail of the shard at that place in the topology.
    pub(super) fn new(topology: &Topology, budget: &Budget) -> Self {
        let [receivers, senders] = [topology.receivers, topology.senders()].map(usize::from);
        let outbox = Outbox::new(topology.id, receivers, senders.saturating_sub(1), budget);
        Mail { outbox, intake: MailIntake::new(senders) }
    }
}

impl Shard {
    /// Takes mail out of this shard's mailboxes; true when there was some. Comes after the kernel
    /// has reported what clients have sent, and before those packets are looked at. Data mail and
    /// control mail cost at most about `share` each, in units of [`crate::limits::cost`].
    pub fn take_mail(&mut self, ends: &mut MailEnds<Stamped, Control>, share: u32) -> bool {
        if self.topology.is_alone() || !ends.look() && self.mail.intake.is_idle() {
            return false;
        }
        if Mutant::ReplayOvertakesMail.is_on() {
            self.note_control(ends);
            self.take_control(ends, share);
        }
        // Look at the control mail first: data mail that was pushed before it is then seen, too.
        self.note_control(ends);
        let open = self.mail.intake.open.as_ref().map(|open| open.from);
        self.mail.intake.reading.note(ends, open);
        self.mail.intake.behind = !self.mail.intake.reading.is_done();
        if let Some(micros) = self.meter.time() {
            self.mail.intake.looked_at = Instant(micros / 1000);
        }
        let mut data = self.mail.intake.behind && self.takes_data();
        if data {
            data = self.with_share(MailClass::Data, |shard| shard.take_data(ends, share));
        }
        self.end_waiting();
        let mut control = self.mail.intake.has_control();
        if control {
            control = self.with_share(MailClass::Control, |shard| shard.take_control(ends, share));
        }
        data || control
    }

    /// Does `work` on the account of one kind of mail, which also has time of its own.
    fn with_share<T>(&mut self, share: MailClass, work: impl FnOnce(&mut Self) -> T) -> T {
        let spent = self.mail.intake.work[share as usize];
        // Only the rest of the share is left, however many looks at the mail this step has had.
        let begin = if Mutant::MailShareFresh.is_on() { 0 } else { spent };
        let clients = self.meter.begin_account(begin, MAIL_MICROS);
        let done = work(self);
        let charged = self.meter.end_account(clients) - begin;
        self.mail.intake.work[share as usize] = spent + charged;
        done
    }

    /// Takes in data mail until `share` is used up; true when there was any.
    fn take_data(&mut self, ends: &mut MailEnds<Stamped, Control>, share: u32) -> bool {
        let (mut put_off, mut any) = (None, false);
        if Mutant::ResumedOutOfOrder.is_on() {
            put_off = self.mail.intake.open.take();
        }
        while !self.is_spent(share) && self.takes_data() {
            let Some(open) = self.mail.intake.open.take() else {
                let Some(from) = self.mail.intake.reading.next(ends, |mail| mail.at) else { break };
                let Some(Stamped { data, .. }) = ends.pop_data(from) else { break };
                self.counters.mail_received += 1;
                self.mail.intake.open = Some(OpenMail { from, data, at: 0 });
                continue;
            };
            any = true;
            let from = open.from;
            let mut done = MailProgress::default();
            self.delivery.only_sessions = self.topology.cluster() == Some(from);
            self.mail.intake.open = self.read_on(open, share, &mut done);
            self.delivery.only_sessions = false;
            ends.tell_progress(from, done);
            if self.mail.intake.open.is_none() {
                self.mail.intake.reading.took(from);
            }
        }
        if let Some(open) = put_off {
            let from = open.from;
            let mut done = MailProgress::default();
            self.read_on(open, u32::MAX, &mut done);
            ends.tell_progress(from, done);
            self.mail.intake.reading.took(from);
        }
        any
    }

    /// Goes on with a data mail, and counts in `done` what was taken in. Returns the mail when the
    /// share of work is used up before its end.
    fn read_on(&mut self, open: OpenMail, share: u32, done: &mut MailProgress) -> Option<OpenMail> {
        let OpenMail { from, data, mut at } = open;
        match data {
            Data::Batch(batch) => {
                while let Some((message, purpose, next)) = batch.read(at) {
                    if self.is_spent(share) || !self.takes_data() {
                        return Some(OpenMail { from, data: Data::Batch(batch), at });
                    }
                    self.take_message(from, &message, purpose, None, done);
                    at = next;
                }
                self.mail.outbox.recycle(batch);
            }
            Data::One(message, purpose) => {
                self.take_message(from, &message.view(), purpose, Some(&message), done);
            }
            Data::Passed(passed) => {
                self.meter.charge(cost::PACKET + cost::bytes(passed.message.size()));
                self.take_passed(*passed);
                done.messages += 1;
            }
        }
        None
    }

    /// Releases the connections and the control mail whose position has been reached.
    fn end_waiting(&mut self) {
        let intake = &mut self.mail.intake;
        intake.behind = !intake.reading.is_done();
        for _ in 0..2 {
            let intake = &mut self.mail.intake;
            if intake.waiting[intake.older].is_empty() || !intake.reading.is_past(&intake.position)
            {
                return;
            }
            let parity = intake.older;
            let WaitingMail { connections, control } = std::mem::take(&mut intake.waiting[parity]);
            intake.older = 1 - parity;
            intake.position = intake.reading.noted();
            intake.ready.extend(control);
            intake.granted = true;
            for socket in connections {
                self.release(socket, Holds::BEHIND[parity]);
            }
            self.mail.intake.granted = false;
        }
    }

    fn note_control(&mut self, ends: &MailEnds<Stamped, Control>) {
        let intake = &mut self.mail.intake;
        intake.control_from = ShardSet::EMPTY;
        for peer in ends.pending().iter() {
            let waiting = ends.control_waiting(peer);
            if waiting > 0
                && let Some(noted) = intake.control.get_mut(usize::from(peer.0))
            {
                *noted = waiting;
                intake.control_from.insert(peer);
            }
        }
    }

    /// Takes in the control mail that was there at the last look; true when there was any.
    fn take_control(&mut self, ends: &mut MailEnds<Stamped, Control>, share: u32) -> bool {
        let mut any = !self.mail.intake.ready.is_empty();
        while !self.is_spent(share)
            && let Some((from, control)) = self.mail.intake.ready.pop_front()
        {
            self.meter.charge(cost::MAIL);
            self.obey(from, control);
        }
        self.mail.intake.first_peer = (self.mail.intake.first_peer + 1) % self.topology.senders();
        let senders = self.mail.intake.control_from;
        for peer in senders.iter_from(self.mail.intake.first_peer) {
            for _ in 0..self.mail.intake.control[usize::from(peer.0)] {
                if self.is_spent(share) {
                    return true;
                }
                let Some(control) = ends.pop_control(peer) else { break };
                any = true;
                self.meter.charge(cost::MAIL);
                self.counters.mail_received += 1;
                self.accept_control(peer, control);
            }
        }
        any
    }

    /// Obeys control mail at once, or makes it wait until the data mail before it has been taken
    /// in. Control mail that is ready comes first, so that what one shard says about its members
    /// keeps its order.
    fn accept_control(&mut self, from: ShardId, control: Control) {
        let intake = &mut self.mail.intake;
        if intake.behind && waits_for_data(&control) {
            let parity = intake.join_waiting();
            intake.waiting[parity].control.push((from, control));
        } else {
            self.obey(from, control);
        }
    }

    /// Takes in a message. When something was reserved for the message, or it costs much, its
    /// sender is told the cost ([`super::ahead`]).
    #[inline]
    fn take_message(
        &mut self,
        from: ShardId,
        message: &MessageRef<'_>,
        purpose: MailPurpose,
        stored: Option<&Message>,
        done: &mut MailProgress,
    ) {
        self.delivery.fanouts.owed = 0;
        let before = self.meter.charged();
        self.meter.charge(cost::PACKET + cost::bytes(message.size()));
        self.handle_mailed_from(from, message, purpose, stored);
        let cost = self.meter.charged().wrapping_sub(before);
        let costly = ahead::costly(&self.settings.budget);
        if purpose.reserve == Reserve::NONE {
            done.messages += 1;
            done.work += u64::from(cost.min(costly));
        }
        let owed = std::mem::take(&mut self.delivery.fanouts.owed);
        if purpose.reserve != Reserve::NONE || cost + owed >= costly {
            let shared = &self.topology.shared;
            let hash = TopicHash::new(&shared.seeds, message.topic);
            let matched = shared.interest.matched(&hash, self.topology.id);
            let (topic, cost, reserve) = (hash.exact(), cost + owed, purpose.reserve);
            let report = Control::Cost(CostReport { topic, matched, cost, reserve });
            self.report_cost(from, report, owed > 0);
        }
    }

    /// Tells the sender what a message has cost: at once, or when the message's fan-out is over.
    #[inline(never)]
    fn report_cost(&mut self, from: ShardId, report: Control, fans_out: bool) {
        match self.delivery.fanouts.newest().filter(|_| fans_out) {
            Some(fanout) => fanout.report = Some((from, report)),
            None => self.tell(from, report),
        }
    }
}
