//! Takes mail in, and holds back what has to wait for it.
//!
//! What was acknowledged to one client must come before whatever any client sends after that, on
//! every shard. A shard sends an acknowledgement only once its mail is in the mailboxes, so the
//! kernel reports a packet that was sent after the acknowledgement later than that. In each step
//! the driver first lets the kernel report what there is. Then the mailboxes are looked at, and
//! what is in them by then is taken in before those packets ([`super::step`]). Usually all of it is
//! taken in within the step. If it is more than a step's share of work, packets whose effect
//! depends on it wait ([`Holds::BEHIND`]): PUBLISH, SUBSCRIBE and UNSUBSCRIBE. So does control mail
//! that asks for, or brings, something that data mail may still change. Everything else proceeds,
//! such as acknowledgements and PINGREQ.
//!
//! A packet waits only for the mail that was there when it arrived, not for mail that arrives
//! meanwhile. The older packets wait for one position in the mailboxes, and all later ones for a
//! second position, which is noted when the first is reached. So nobody waits for more than two
//! such rounds, however much mail keeps arriving.

use super::Shard;
use super::ahead;
use super::connection::Holds;
use super::outbox::Outbox;
use super::topology::Topology;
use crate::ids::{ShardId, SocketId};
use crate::limits::{Budget, MAIL_MICROS, cost};
use crate::mesh::mail::{Control, CostReport, Data, Stamped};
use crate::mesh::mailbox::{MailEnds, Progress};
use crate::mesh::moves::ToShard;
use crate::mesh::reading::{MailPosition, Reading};
use crate::message::{MailPurpose, Message, MessageRef, Reserve};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::TopicHash;
use std::collections::VecDeque;

/// How far the mail has been taken in, and who waits for it.
pub(super) struct Intake {
    reading: Reading,
    /// A mail that was too much for the step.
    open: Option<Open>,
    /// Some data mail that was there at the last look has not been taken in.
    pub(super) behind: bool,
    /// What is processed now waited long enough.
    granted: bool,
    /// The older waiters and the later ones: by parity, `older` is the older ones'.
    waiting: [Waiting; 2],
    older: usize,
    /// What the older ones wait for.
    position: MailPosition,
    /// Control mail that has waited long enough.
    ready: VecDeque<(ShardId, Control)>,
    /// Whose control mail is first in this step.
    first_peer: u8,
    /// Control mails of each peer at the last look.
    control: Vec<usize>,
    /// What data and control mail have cost in this step.
    work: [u32; 2],
    /// When mail was last looked at, where there is a clock: nothing that was taken in was put
    /// there later. The step may have begun much earlier, if the process was stopped in between.
    looked_at: Instant,
}

/// Data mail and control mail have shares of their own.
#[derive(Clone, Copy)]
enum Share {
    Data,
    Control,
}

/// Data mail of which the part before `at` has been taken in.
struct Open {
    from: ShardId,
    data: Data,
    at: usize,
}

#[derive(Default)]
struct Waiting {
    pub(super) connections: Vec<SocketId>,
    control: Vec<(ShardId, Control)>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.control.is_empty()
    }
}

impl Intake {
    pub(super) fn new(senders: usize) -> Self {
        let reading = Reading::new(senders);
        Intake {
            position: reading.noted(),
            reading,
            open: None,
            behind: false,
            granted: false,
            waiting: Default::default(),
            older: 0,
            ready: VecDeque::new(),
            first_peer: 0,
            control: vec![0; senders],
            work: [0; 2],
            looked_at: Instant(0),
        }
    }

    /// The shares of a step are whole again.
    #[inline]
    pub(super) fn begin_step(&mut self) {
        self.work = [0; 2];
    }

    pub(super) fn work(&self) -> u32 {
        self.work.iter().sum()
    }

    /// Whether a packet that begins like this has to wait for mail that was there before it.
    #[inline]
    pub(super) fn holds(&self, first: u8) -> bool {
        self.behind && !self.granted && is_ordered(first)
    }

    /// True when taking in mail goes on in the next step, as far as mailboxes have room.
    pub(super) fn has_more(&self) -> bool {
        self.behind || !self.ready.is_empty()
    }

    /// Up to where there was data mail at the last look.
    pub(super) fn noted(&self) -> MailPosition {
        self.reading.noted()
    }

    /// True when the data mail before `position` has been taken in.
    pub(super) fn is_past(&self, position: &MailPosition) -> bool {
        self.reading.is_past(position)
    }

    /// When the mail that is taken in had come at the latest.
    #[inline]
    pub(super) fn looked_at(&self) -> Instant {
        self.looked_at
    }

    /// True when nothing is left of earlier steps.
    #[inline]
    fn is_idle(&self) -> bool {
        !self.behind
            && self.ready.is_empty()
            && self.open.is_none()
            && self.waiting.iter().all(Waiting::is_empty)
    }

    /// Connections and mails that wait.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |one: &Waiting| one.connections.len() + one.control.len();
        self.waiting.iter().map(waiting).sum::<usize>()
            + self.ready.len()
            + usize::from(self.open.is_some())
    }

    /// True when there is control mail to take in.
    fn has_control(&self) -> bool {
        !self.ready.is_empty() || self.control.iter().any(|&waiting| waiting > 0)
    }

    /// A connection goes on with those of that parity.
    pub(super) fn wait(&mut self, parity: usize, socket: SocketId) {
        self.waiting[parity].connections.push(socket);
    }

    /// Those who wait for all that was there at the last look; which of the two they are.
    pub(super) fn join_waiting(&mut self) -> usize {
        if self.waiting[self.older].is_empty() {
            self.position = self.reading.noted();
        }
        let same = self.position == self.reading.noted();
        if same { self.older } else { 1 - self.older }
    }
}

/// PUBLISH, SUBSCRIBE and UNSUBSCRIBE, by a packet's first byte.
fn is_ordered(first: u8) -> bool {
    match first >> 4 {
        3 | 10 => true,
        8 => !Mutant::SubscribeOvertakesMail.is_on(),
        _ => false,
    }
}

/// Control mail that must not overtake data mail: what its sender was sent before may stand there.
fn waits_for_data(control: &Control) -> bool {
    match control {
        Control::Replay(_) => !Mutant::ReplayOvertakesMail.is_on(),
        Control::Replayed(_) | Control::Join(_) | Control::Leave(..) | Control::Presence(..) => {
            true
        }
        // In line with those: what a member says of itself keeps its order.
        Control::GiveBack(_) => true,
        // What was published before it belongs to the session, or is to be told.
        Control::ToShard(what) => matches!(**what, ToShard::Pack(_) | ToShard::Retell(_)),
        _ => false,
    }
}

/// The shard's mail: what it has for others, and what is taken in.
pub(super) struct Mail {
    pub(super) outbox: Outbox,
    pub(super) intake: Intake,
}

impl Mail {
    /// Of the shard with that place.
    pub(super) fn new(topology: &Topology, budget: &Budget) -> Self {
        let [receivers, senders] = [topology.receivers, topology.senders()].map(usize::from);
        let outbox = Outbox::new(topology.id, receivers, senders.saturating_sub(1), budget);
        Mail { outbox, intake: Intake::new(senders) }
    }
}

impl Shard {
    /// Takes mail out of this shard's mailboxes; true when there was some. Comes after the kernel
    /// has reported what clients have sent and before that is looked at. Has shares of work of its
    /// own: at most about `share` for data mail and as much for control mail.
    pub fn take_mail(&mut self, ends: &mut MailEnds<Stamped, Control>, share: u32) -> bool {
        if self.topology.is_alone() || self.mail.intake.is_idle() && !ends.has_mail() {
            return false;
        }
        if Mutant::ReplayOvertakesMail.is_on() {
            self.note_control(ends);
            self.take_control(ends, share);
        }
        // Control mail first: the data mail that was there before it is then seen too.
        self.note_control(ends);
        let open = self.mail.intake.open.as_ref().map(|open| open.from);
        self.mail.intake.reading.note(ends, open);
        self.mail.intake.behind = !self.mail.intake.reading.is_done();
        if let Some(micros) = self.meter.time() {
            self.mail.intake.looked_at = Instant(micros / 1000);
        }
        let mut data = self.mail.intake.behind && self.takes_data();
        if data {
            data = self.with_share(Share::Data, |shard| shard.take_data(ends, share));
        }
        self.end_waiting();
        let mut control = self.mail.intake.has_control();
        if control {
            control = self.with_share(Share::Control, |shard| shard.take_control(ends, share));
        }
        data || control
    }

    /// Does something on the account of a kind of mail, in the time of that kind.
    fn with_share<T>(&mut self, share: Share, work: impl FnOnce(&mut Self) -> T) -> T {
        let spent = self.mail.intake.work[share as usize];
        // What is left of the share, however many looks at mail the step has had.
        let begin = if Mutant::MailShareFresh.is_on() { 0 } else { spent };
        let clients = self.meter.begin_account(begin, MAIL_MICROS);
        let done = work(self);
        let charged = self.meter.end_account(clients) - begin;
        self.mail.intake.work[share as usize] = spent + charged;
        done
    }

    /// True when some was taken in.
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
                self.mail.intake.open = Some(Open { from, data, at: 0 });
                continue;
            };
            any = true;
            let from = open.from;
            let mut done = Progress::default();
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
            let mut done = Progress::default();
            self.read_on(open, u32::MAX, &mut done);
            ends.tell_progress(from, done);
            self.mail.intake.reading.took(from);
        }
        any
    }

    /// Goes on with a mail; gives it back when the share of work is used up before its end. Adds
    /// what was done to `done`.
    fn read_on(&mut self, open: Open, share: u32, done: &mut Progress) -> Option<Open> {
        let Open { from, data, mut at } = open;
        match data {
            Data::Batch(batch) => {
                while let Some((message, purpose, next)) = batch.read(at) {
                    if self.is_spent(share) || !self.takes_data() {
                        return Some(Open { from, data: Data::Batch(batch), at });
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

    /// Lets those go on who have waited for what has been taken in by now.
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
            let Waiting { connections, control } = std::mem::take(&mut intake.waiting[parity]);
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
        for (peer, waiting) in self.mail.intake.control.iter_mut().enumerate() {
            *waiting = ends.control_waiting(ShardId(peer as u8));
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
        let (first, senders) =
            (u16::from(self.mail.intake.first_peer), u16::from(self.topology.senders()));
        for step in 0..senders {
            let peer = ShardId(((first + step) % senders) as u8);
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

    /// What control mail says: at once, or when the data mail before it has been taken in. Comes
    /// after all that is ready, so what one shard says of its members keeps its order.
    fn accept_control(&mut self, from: ShardId, control: Control) {
        let intake = &mut self.mail.intake;
        if intake.behind && waits_for_data(&control) {
            let parity = intake.join_waiting();
            intake.waiting[parity].control.push((from, control));
        } else {
            self.obey(from, control);
        }
    }

    /// Takes in a message. When something is reserved for it, or it costs much, its sender is told
    /// the cost ([`super::ahead`]).
    #[inline]
    fn take_message(
        &mut self,
        from: ShardId,
        message: &MessageRef<'_>,
        purpose: MailPurpose,
        stored: Option<&Message>,
        done: &mut Progress,
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

    /// Tells the sender what a message has cost: at once, or when the rest of its fan-out is done.
    #[inline(never)]
    fn report_cost(&mut self, from: ShardId, report: Control, fans_out: bool) {
        match self.delivery.fanouts.newest().filter(|_| fans_out) {
            Some(fanout) => fanout.report = Some((from, report)),
            None => self.tell(from, report),
        }
    }
}
