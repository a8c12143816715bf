//! Back-pressure: how connections that are held for a reason continue ([`super::hold`] holds them).
//!
//! Which publisher waits for which subscriber is decided in `pace`. A connection whose next packet
//! needs a mailbox that is full waits in the queue of that mailbox. In each step only as many of
//! these connections are tried again as the mailbox has room for, in turn, so that thousands of
//! waiting connections cost the others nothing. Publishers whose messages cost the other shard
//! much, or an unknown amount ([`super::ahead`]), wait in lines of their own. Each of these lines
//! has a share of what may be under way to that shard, and its first publisher keeps its place
//! until there is enough for its message.
//!
//! A suspended shard ([`super::suspend`]) lets nobody on: what they publish would come to another
//! shard, or to the cluster's thread, after that was packed. They wait in the other process.
//!
//! The publishers that wait for a full link of a bridge have one line for each link. Messages
//! without a publisher that could wait (wills, `$SYS`, events) do not come here: the last eighth of
//! a link's bound is for them.

use super::ahead::Shortage;
use super::connection::{Holds, Parting, Stage};
use super::link::LinkId;
use super::outbox::Turn;
use super::pace::Pace;
use super::turn_queues::TurnQueues;
use super::{Action, Shard};
use crate::ids::{ShardId, SocketId};
use crate::limits::Budget;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// The lines of [`Parked::work`]: of connections that have had no turn lately, and of the others.
pub(super) const FRESH: usize = 0;
pub(super) const SERVED: usize = 1;
/// Lines of the publishers whose messages cost another shard an unknown amount, or much. Each
/// stands for two lines: of those that have had no turn lately ([`FRESH`]), and of the others
/// ([`SERVED`]).
pub(super) const UNKNOWN: usize = 2;
pub(super) const COSTLY: usize = 4;
/// How many lines each shard has.
const LINES: usize = 6;
/// The order in which the lines have their turns to reserve work at a shard.
const ROUND: [usize; 6] = [
    UNKNOWN + FRESH,
    COSTLY + FRESH,
    UNKNOWN + FRESH,
    UNKNOWN + SERVED,
    UNKNOWN + FRESH,
    COSTLY + SERVED,
];

/// The turn of a connection that waits for a mailbox.
pub(super) struct MailTurn {
    pub(super) socket: SocketId,
    /// True when the connection comes from a line of [`FRESH`].
    pub(super) fresh: bool,
    /// The line, if the connection waits for a part of what may be reserved.
    pub(super) reserves: Option<usize>,
    /// How many messages had been received when the turn began.
    pub(super) before: u64,
}

/// Which line has its turn to reserve work at a shard.
#[derive(Clone, Copy, Default)]
struct ParkRound {
    /// The position of the line in [`ROUND`].
    at: usize,
    /// The work that the line has reserved since its turn began.
    had: u64,
}

/// All connections that wait, by what they wait for.
#[derive(Default)]
pub struct Parked {
    /// Publishers and the subscribers that they wait for.
    pub(super) pace: Pace,
    /// Connections that wait for room in a mailbox: six lines for each shard ([`mail_line`]), and
    /// one more for the connections that wait because control mail has piled up.
    pub(super) mail: TurnQueues,
    /// Publishers that wait for memory; one line.
    pub(super) memory: TurnQueues,
    /// Publishers of messages that have to be stored and cannot be now; one line.
    pub(super) storage: TurnQueues,
    /// Publishers that wait for room in a link; one line for each link, by its number.
    pub(super) links: TurnQueues,
    /// The link that has no room for the packet which is being handled.
    pub(super) full_link: Option<LinkId>,
    /// The shard whose lines of `mail` are served first in this step. The number after the last
    /// receiver stands for the line of control mail.
    first_line: usize,
    /// The shard that cannot take the packet that is being handled, and what it lacks.
    pub(super) lacking: Option<(ShardId, Shortage)>,
    /// The turn of the connection that is being tried again for a mailbox.
    pub(super) mail_turn: Option<MailTurn>,
    /// The round of each shard, by its number.
    rounds: Vec<ParkRound>,
    /// Connections that wait for their turn in the step's work. Those in the line [`FRESH`] have
    /// had no turn for `LATELY` (see [`super::hold`]).
    pub(super) work: TurnQueues,
    /// Counts steps. In every other step the line [`SERVED`] comes first.
    turn: u8,
    /// Connections that nothing holds any longer. They go on at the end of the step.
    pub(super) freed: VecDeque<SocketId>,
    /// Held connections in whose input acknowledgements are to be looked for at the end of the
    /// step.
    pub(super) heard: Vec<SocketId>,
}

impl Parked {
    /// Zero when no connection waits.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let held = self.work.len() | self.mail.len() | self.memory.len() | self.storage.len();
        held | self.links.len() | self.freed.len() | self.heard.len() | self.pace.len()
    }

    /// When a session that publishers wait for is to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.pace.deadline()
    }

    /// Removes a closed socket, whose identifier may name another connection within this step.
    pub(super) fn forget(&mut self, socket: SocketId, holds: Holds) {
        if holds.has(Holds::MAIL) {
            self.mail.remove(socket);
        }
        if holds.has(Holds::MEMORY) {
            self.memory.remove(socket);
        }
        if holds.has(Holds::STORAGE) {
            self.storage.remove(socket);
        }
        if holds.has(Holds::LINK) {
            self.links.remove(socket);
        }
        if holds.has(Holds::WORK) {
            self.work.remove(socket);
        }
    }

    /// [`FRESH`] and [`SERVED`], in the order of this step.
    fn by_freshness(&self) -> [usize; 2] {
        if self.turn & 1 == 0 { [FRESH, SERVED] } else { [SERVED, FRESH] }
    }

    /// The round of that shard.
    fn round(&mut self, shard: ShardId) -> &mut ParkRound {
        let at = usize::from(shard.0);
        if self.rounds.len() <= at {
            self.rounds.resize_with(at + 1, ParkRound::default);
        }
        &mut self.rounds[at]
    }

    /// How many connections wait for room in a mailbox.
    pub(super) fn mail_waiters(&self) -> usize {
        self.mail.len()
    }

    /// True when connections wait for their share of the step's work.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// True when something was put off to the end of a step that is already over.
    pub(super) fn has_put_off(&self) -> bool {
        !self.freed.is_empty() || !self.heard.is_empty() || self.pace.has_leaving()
    }

    /// True when the connection is to go on at the end of the step. For checks.
    pub(super) fn is_freed(&self, socket: SocketId) -> bool {
        self.freed.contains(&socket)
    }
}

impl Shard {
    /// Goes on with the connections that nothing holds any longer.
    fn go_on_freed(&mut self) {
        while let Some(socket) = self.parked.freed.pop_front() {
            self.go_on(socket);
        }
    }

    /// Removes a reason for holding the connection. When none is left, the held input is processed
    /// and reading goes on.
    pub(super) fn release(&mut self, socket: SocketId, hold: Holds) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if !connection.holds.has(hold) {
            return;
        }
        connection.holds.clear(hold);
        self.go_on(socket);
    }

    /// Processes the held input and goes on reading, if nothing holds the connection any longer.
    fn go_on(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        if !connection.holds.is_free() {
            return;
        }
        self.process_held(socket);
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let open = matches!(connection.stage, Stage::Open(_));
        if open && connection.holds.is_free() && connection.is_paused() {
            connection.set_paused(false);
            connection.last_seen = self.now; // until now the silence was ours
            self.outputs.actions.push(Action::Resume(socket));
        }
        if open && connection.holds.is_free() && connection.parting != Parting::No {
            self.work.endings.part_later(socket);
        }
    }

    /// Gives each of the two lines a share of the step before anything else, in alternating order,
    /// so that neither can starve the other.
    pub(super) fn resume_first(&mut self) {
        self.hear_noted();
        self.parked.turn = self.parked.turn.wrapping_add(1);
        let next = self.parked.first_line + 1;
        self.parked.first_line = next % (usize::from(self.topology.receivers) + 1);
        for line in self.parked.by_freshness() {
            if line == SERVED && Mutant::ServedStarve.is_on() {
                continue;
            }
            let Budget { step, .. } = self.settings.budget;
            self.resume_line(line, step.min(self.meter.work() + self.settings.budget.share()));
        }
    }

    /// Goes on with connections that wait for their turn, until the step's work comes to `limit`.
    pub(super) fn resume_work(&mut self, limit: u32) {
        self.hear_noted();
        self.resume_line(FRESH, limit);
        self.resume_line(SERVED, limit);
    }

    fn resume_line(&mut self, line: usize, limit: u32) {
        while !self.is_spent(limit) {
            let Some(socket) = self.parked.work.pop(line) else { return };
            self.release(socket, Holds::WORK);
        }
    }

    /// Whether those that wait for room, or until some time, go on waiting whatever comes: the
    /// shard is suspended.
    pub(super) fn all_wait(&self) -> bool {
        self.work.stopping.suspended && !Mutant::ClusterUpgradeHeldGoOn.is_on()
    }

    /// Goes on with everything that has waited long enough or has room now.
    pub(super) fn retry_parked(&mut self) {
        let all_wait = self.all_wait();
        if !all_wait {
            self.look_at_waited();
        }
        self.let_leaving_go();
        self.hear_noted();
        self.go_on_freed();
        if all_wait {
            return;
        }
        self.retry_memory();
        self.retry_storage();
        self.retry_links(self.settings.budget.step);
        self.retry_mail(self.settings.budget.step);
    }

    /// Goes on with connections that wait for room in a link or a mailbox. Comes after other shards
    /// have reported how far they are, and before newly received packets are looked at, so that
    /// later packets do not take the room. Each kind has a share of the step.
    #[inline]
    pub(super) fn retry_first(&mut self) {
        if self.parked.mail.len() | self.parked.links.len() != 0 && !self.all_wait() {
            self.retry_waiters_first();
        }
    }

    #[inline(never)]
    fn retry_waiters_first(&mut self) {
        let Budget { step, .. } = self.settings.budget;
        let share = |shard: &Shard| step.min(shard.meter.work() + shard.settings.budget.share());
        self.retry_links(share(self));
        self.retry_mail(share(self));
    }

    /// Goes on with connections that wait for room in a mailbox, as long as there is room and the
    /// step's work is below `limit`.
    fn retry_mail(&mut self, limit: u32) {
        if self.parked.mail.is_empty() || self.mail.outbox.is_congested() {
            return;
        }
        let first = self.parked.first_line;
        let fresh = self.parked.by_freshness();
        for shard in (first..=usize::from(self.topology.receivers)).chain(0..first) {
            let shard = ShardId(shard as u8);
            for line in fresh {
                self.retry_mail_line(shard, line, limit);
            }
            self.retry_reserving(shard, limit);
        }
    }

    /// Does the same for one line of the connections that wait for room at a shard.
    fn retry_mail_line(&mut self, shard: ShardId, kind: usize, limit: u32) {
        let line = mail_line(shard, kind);
        // A connection that comes back to the line has had its turn.
        for turn in 0..self.parked.mail.bound(line) {
            let room = shard.0 == self.topology.receivers
                || self.mail.outbox.has_room(shard, Shortage::Room);
            // The rest keep their places: in the next step they come before what is received then.
            if !room || self.is_spent(limit) {
                return;
            }
            let Some(socket) = self.parked.mail.pop(line) else { return };
            if turn > 0 && Mutant::MailWaitersForgotten.is_on() {
                continue;
            }
            self.take_mail_turn(socket, kind == FRESH, None);
        }
    }

    /// Goes on with publishers that wait for a part of what may be reserved at a shard. Each line
    /// has its turn until it has had half of all that may be reserved. The first publisher of the
    /// line keeps its place until there is enough for its message, and no other publisher reserves
    /// anything meanwhile, so that a publisher that needs much waits no longer than one that needs
    /// little.
    fn retry_reserving(&mut self, shard: ShardId, limit: u32) {
        let enough = u64::from(self.settings.budget.ahead) / 2;
        let mut passed = 0;
        while passed <= ROUND.len() {
            let round = *self.parked.round(shard);
            let kind = ROUND[round.at];
            let line = mail_line(shard, kind);
            if round.had >= enough || self.parked.mail.bound(line) == 0 {
                *self.parked.round(shard) = ParkRound { at: (round.at + 1) % ROUND.len(), had: 0 };
                passed += 1;
                continue;
            }
            if !self.mail.outbox.has_room(shard, Shortage::Costly) || self.is_spent(limit) {
                return;
            }
            let Some(socket) = self.parked.mail.pop(line) else { continue };
            let before = self.mail.outbox.reserved(shard);
            let used = self.take_mail_turn(socket, kind % 2 == FRESH, Some(line));
            if !used && self.parked.mail.is_at(socket, line) {
                return; // less is left than the message needs
            }
            let taken = self.mail.outbox.reserved(shard).saturating_sub(before);
            self.parked.round(shard).had += taken.max(1);
            passed = 0;
        }
        self.mail.outbox.queue_for(shard, false);
    }

    /// Gives a connection its turn for a mailbox; true when a message of the connection was
    /// accepted.
    fn take_mail_turn(&mut self, socket: SocketId, fresh: bool, reserves: Option<usize>) -> bool {
        let before = self.counters.messages_received();
        self.parked.mail_turn = Some(MailTurn { socket, fresh, reserves, before });
        self.release(socket, Holds::MAIL);
        self.parked.mail_turn = None;
        self.counters.messages_received() != before
    }

    /// Whose turn it is, for the client's message that is being checked.
    #[inline]
    pub(super) fn turn(&self) -> Turn {
        match &self.parked.mail_turn {
            Some(MailTurn { reserves: Some(line), before, .. })
                if *before == self.counters.messages_received() =>
            {
                Turn::With(ShardId((line / LINES) as u8))
            }
            _ => Turn::NotYet,
        }
    }

    /// Goes on with publishers that wait for links, as long as there is room and the step's work is
    /// below `limit`.
    pub(super) fn retry_links(&mut self, limit: u32) {
        for line in 0..self.parked.links.lines() {
            let link = LinkId(line as u32);
            // A publisher that comes back to the line has had its turn.
            for turn in 0..self.parked.links.bound(line) {
                if self.is_spent(limit) || !self.subscriptions.links.lets_one_on(link) {
                    break;
                }
                let Some(socket) = self.parked.links.pop(line) else { break };
                if turn == 0 || !Mutant::LinkWaitersForgotten.is_on() {
                    self.release(socket, Holds::LINK);
                }
            }
        }
    }

    /// Whether some publisher that waits for a link could go on.
    pub(super) fn link_waiters_have_room(&self) -> bool {
        !self.parked.links.is_empty()
            && (0..self.parked.links.lines()).any(|line| {
                let room = self.subscriptions.links.may_let_one_on(LinkId(line as u32));
                room && self.parked.links.bound(line) > 0
            })
    }

    /// Goes on with publishers that wait for memory, when there is some again or they have waited
    /// long enough.
    fn retry_memory(&mut self) {
        if self.waits_until_memory() {
            return;
        }
        let all = self.parked.memory.bound(0);
        for turn in 0..all {
            if turn > 0 && self.is_spent(self.settings.budget.step) {
                break;
            }
            let Some(socket) = self.parked.memory.pop(0) else { break };
            if !Mutant::MemoryWaitersForgotten.is_on() {
                self.release(socket, Holds::MEMORY);
            }
        }
    }

    /// Goes on with connections that have come down to their rate.
    pub(super) fn retry_rates(&mut self) {
        if self.all_wait() {
            return;
        }
        while let Some(&(at, socket)) = self.sessions.limiting.waiting.first() {
            if at > self.now || self.is_spent(self.settings.budget.step) {
                return;
            }
            self.sessions.limiting.stop_waiting(socket);
            if !Mutant::RateWaitersForgotten.is_on() {
                self.release(socket, Holds::RATE);
            }
        }
    }
}

/// The line of connections that wait for room in that shard's mailbox. The line after those of the
/// last receiver is for connections that wait until there is less control mail.
pub(super) fn mail_line(shard: ShardId, kind: usize) -> usize {
    usize::from(shard.0) * LINES + kind
}
