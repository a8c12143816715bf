//! The order of work within a step, the same for the cores' loops and for the simulation.
//!
//! 1. *Harvest*: the kernel reports what has arrived so far. Nothing of it is processed yet.
//! 2. *Mail*: what is in the mailboxes by then is taken in. A packet that was sent after another
//!    shard's acknowledgement is harvested after that shard's mail has arrived here: see
//!    [`super::mail`]. Then connections that wait for room in a mailbox go on, before those whose
//!    packets have just come: see [`super::park`]. So does what bridges and the API have the shard
//!    publish: see [`super::inquiry::Submissions`].
//! 3. *Input*: what was harvested is processed. The first three are repeated while there is more to
//!    do and work and time are left; a harvest is work of the kernel, and may take longer than all
//!    of ours. Once the work is used up, what a harvest finds could only be stored: it is better
//!    left in the kernel, whose window then tells the sender to wait.
//! 4. *Finish*: timers, postponed work, and one send for each connection with output.
//! 5. *Carry*: mail is put into the mailboxes of the other shards.
//! 6. *Act*: the driver gets the sends, and with them every acknowledgement.
//!
//! When the work that goes on over several steps took a good part of the last one, what clients
//! have just been answered does not wait for the next part of it: before *Finish* there is an
//! *Answer*, one send for each connection with output so far, with a *Carry* and an *Act* of its
//! own.

use super::{Action, Shard};
use crate::ids::ShardId;
use crate::mesh::mail::{Control, Stamped};
use crate::mesh::mailbox::MailEnds;
use crate::mutant::Mutant;

/// What a step needs from around the shard.
pub trait Surroundings {
    /// Has the kernel report all that it can. [`Surroundings::visit`] hands out what was reported
    /// by then, and nothing that is reported later.
    fn harvest(&mut self);
    /// Hands at most about `limit` of what was harvested to the shard; returns how much.
    fn visit(&mut self, shard: &mut Shard, limit: usize) -> usize;
    /// Has the shard publish what it was given from outside; true when it did something.
    fn submit(&mut self, shard: &mut Shard) -> bool;
    /// Whether another harvest would find something.
    fn has_more(&mut self) -> bool;
    /// After a step that visited all it harvested: whether that was all that clients had sent.
    fn has_heard_everyone(&mut self) -> bool;
    /// Carries out what the shard wants.
    fn act(&mut self, action: Action);
    /// Begins what was carried out so far, in the middle of a step; at its end that happens by
    /// itself.
    fn hasten(&mut self);
    /// The time in nanoseconds: one clock for all shards, which each reading finds later.
    fn stamp(&mut self) -> u64;
    /// That shard has mail.
    fn ring(&mut self, shard: ShardId);
}

/// A part of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Harvest,
    Mail,
    Input,
    Answer,
    Finish,
    Carry,
    Act,
}

/// Parts of a step.
const PARTS: usize = 9;

/// How much one step may do.
#[derive(Clone, Copy, Debug)]
pub struct StepBounds {
    /// Completions visited.
    pub completions: usize,
    /// Work for data mail, and as much for control mail; in the units of `limits::cost`.
    pub mail: u32,
}

/// A step under way. Between its parts other shards, clients and the kernel go on.
pub struct Step {
    next: usize,
    visited: usize,
    busy: bool,
    bounds: StepBounds,
}

impl Step {
    /// Begins a step; comes after [`Shard::begin`].
    pub fn new(bounds: StepBounds) -> Self {
        Step { next: 0, visited: 0, busy: false, bounds }
    }

    /// All parts of the step. True when there may be more to do at once.
    pub fn run(
        mut self,
        shard: &mut Shard,
        ends: &mut MailEnds<Stamped, Control>,
        around: &mut impl Surroundings,
    ) -> bool {
        while !self.advance(shard, ends, around) {}
        self.busy
    }

    /// The next part of the step; true when that was the last.
    pub fn advance(
        &mut self,
        shard: &mut Shard,
        ends: &mut MailEnds<Stamped, Control>,
        around: &mut impl Surroundings,
    ) -> bool {
        let order = order();
        let part = order[self.next];
        self.next += 1;
        match part {
            Part::Harvest => {
                shard.see_room(ends);
                around.harvest();
                if Mutant::SubmissionOvertakesMail.is_on() {
                    around.submit(shard);
                }
            }
            Part::Mail => {
                self.busy |= shard.take_mail(ends, self.bounds.mail);
                shard.retry_first();
                self.busy |= around.submit(shard);
            }
            Part::Input => {
                let left = self.bounds.completions - self.visited;
                let visited = around.visit(shard, left).min(left);
                self.visited += visited;
                if self.visited < self.bounds.completions {
                    let goes_on = shard.has_work_left() && !shard.meter.is_late();
                    if visited > 0 && goes_on && around.has_more() {
                        self.next = 0;
                    } else if shard.asks_who_was_heard() && around.has_heard_everyone() {
                        shard.heard_everyone();
                    }
                }
                // Most steps have nothing that answers would have to wait for: no Answer, and not
                // its Carry and Act.
                if self.next > 0 && !shard.answers_first() {
                    self.next += 3;
                }
            }
            Part::Answer => {
                self.busy = true;
                shard.answer_now();
            }
            Part::Finish => {
                self.busy |= self.visited > 0;
                self.busy |= shard.finish();
                self.busy |= !shard.outputs.actions.is_empty();
            }
            Part::Carry => self.busy |= shard.carry(ends, around),
            Part::Act => {
                shard.outputs.actions.drain(..).for_each(|action| around.act(action));
                if self.next < order.len() {
                    around.hasten();
                }
            }
        }
        self.next == order.len()
    }

    /// Whether the step, which is over, found something to do: there may be more at once.
    pub fn is_busy(&self) -> bool {
        self.busy
    }
}

/// Answer with its Carry and Act follows Input.
#[inline]
fn order() -> &'static [Part; PARTS] {
    use Part::{Act, Answer, Carry, Finish, Harvest, Input, Mail};
    if Mutant::MailAfterInput.is_on() {
        return &[Harvest, Input, Answer, Carry, Act, Mail, Finish, Carry, Act];
    }
    if Mutant::MailBeforeHarvest.is_on() {
        return &[Mail, Harvest, Input, Answer, Carry, Act, Finish, Carry, Act];
    }
    if Mutant::ActsBeforeCarry.is_on() {
        return &[Harvest, Mail, Input, Answer, Act, Carry, Finish, Act, Carry];
    }
    &[Harvest, Mail, Input, Answer, Carry, Act, Finish, Carry, Act]
}

impl Shard {
    /// Whether what clients have sent could still be processed in this step.
    pub(super) fn has_work_left(&self) -> bool {
        self.meter.work() < self.settings.budget.step
    }

    /// How much the mailboxes of the others take by now.
    fn see_room(&mut self, ends: &MailEnds<Stamped, Control>) {
        for peer in self.mail.outbox.watched().iter() {
            let room = (ends.data_room(peer), ends.data_capacity());
            self.mail.outbox.see(peer, room, (ends.progress_of(peer), self.now));
        }
    }

    /// Puts staged mail into the mailboxes, as far as they have room; true when some was put.
    fn carry(
        &mut self,
        ends: &mut MailEnds<Stamped, Control>,
        around: &mut impl Surroundings,
    ) -> bool {
        let mut any = false;
        let mut now = None;
        for peer in self.mail.outbox.shards_with_mail().iter() {
            let mut stamp = || *now.get_or_insert_with(|| around.stamp());
            let sent = self.mail.outbox.carry(peer, ends, &mut stamp);
            if sent > 0 {
                any = true;
                self.counters.mail_sent += sent;
                self.counters.doorbells += 1;
                around.ring(peer);
            }
        }
        any | self.answer_fences()
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
