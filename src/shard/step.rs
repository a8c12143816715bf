//! The order of work within a step, the same for the cores' loops and for the simulation.
//!
//! 1. *Harvest*: the kernel reports what has arrived so far. Nothing of it is processed yet.
//! 2. *Mail*: the shard takes in what is in the mailboxes by then. A packet that was sent after
//!    another shard's acknowledgement is harvested after that shard's mail has arrived here: see
//!    [`super::mail`]. Then connections that wait for room in a mailbox go on, before those whose
//!    packets have just come: see [`super::park`]. After them, the shard publishes what bridges and
//!    the API have submitted: see [`super::inquiry::Submissions`].
//! 3. *Input*: the shard processes what was harvested. The first three parts are repeated while
//!    there is more to do and the step has work and time left. A harvest is work of the kernel, and
//!    may take longer than all of the shard's. Once the step's work is used up, the shard could
//!    only store what a harvest finds. That input is better left in the kernel, whose window then
//!    tells the sender to wait.
//! 4. *Finish*: timers, postponed work, and one send for each connection with output.
//! 5. *Carry*: mail is put into the mailboxes of the other shards.
//! 6. *Act*: the driver gets the sends, and with them every acknowledgement.
//!
//! When the work that goes on over several steps took a good part of the last step, the answers to
//! clients do not wait for the next part of that work: before *Finish* there is an *Answer*, which
//! makes one send for each connection with output so far, followed by a *Carry* and an *Act* of its
//! own.

use super::{Action, Shard};
use crate::ids::ShardId;
use crate::mesh::mail::{Control, Stamped};
use crate::mesh::mailbox::MailEnds;
use crate::mutant::Mutant;

/// What a step needs from around the shard.
pub trait Surroundings {
    /// Makes the kernel report all that it can. [`Surroundings::visit`] hands out what was reported
    /// by then, and nothing that is reported later.
    fn harvest(&mut self);
    /// Hands at most about `limit` completions of the harvest to the shard; returns how many.
    fn visit(&mut self, shard: &mut Shard, limit: usize) -> usize;
    /// Has the shard publish what bridges and the API have submitted; true when it published
    /// something.
    fn submit(&mut self, shard: &mut Shard) -> bool;
    /// Whether another harvest would find something.
    fn has_more(&mut self) -> bool;
    /// Asked after a step that visited its whole harvest: whether that was all that clients had
    /// sent.
    fn has_heard_everyone(&mut self) -> bool;
    /// Carries out what the shard wants.
    fn act(&mut self, action: Action);
    /// Starts what was carried out so far, in the middle of a step. At the end of a step this
    /// happens by itself.
    fn hasten(&mut self);
    /// The time in nanoseconds, on one clock for all shards. Each reading is later than the one
    /// before.
    fn stamp(&mut self) -> u64;
    /// Wakes that shard, which has mail.
    fn ring(&mut self, shard: ShardId);
}

/// A part of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StepPart {
    Harvest,
    Mail,
    Input,
    Answer,
    Finish,
    Carry,
    Act,
}

/// How many parts a step has.
const PARTS: usize = 9;

/// How much one step may do.
#[derive(Clone, Copy, Debug)]
pub struct StepBounds {
    /// Most completions that are visited.
    pub completions: usize,
    /// Most work for data mail, and for control mail; in the units of `limits::cost`.
    pub mail: u32,
}

/// A step under way. Other shards, clients and the kernel proceed between its parts.
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

    /// Does all parts of the step. True when there may be more to do at once.
    pub fn run(
        mut self,
        shard: &mut Shard,
        ends: &mut MailEnds<Stamped, Control>,
        around: &mut impl Surroundings,
    ) -> bool {
        while !self.advance(shard, ends, around) {}
        self.busy
    }

    /// Does the next part of the step; true when it was the last.
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
            StepPart::Harvest => {
                shard.see_room(ends);
                around.harvest();
                if Mutant::SubmissionOvertakesMail.is_on() {
                    around.submit(shard);
                }
            }
            StepPart::Mail => {
                self.busy |= shard.take_mail(ends, self.bounds.mail);
                shard.retry_first();
                self.busy |= around.submit(shard);
            }
            StepPart::Input => {
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
                // Most steps have no work that answers would have to wait for. They skip *Answer*,
                // with its *Carry* and *Act*.
                if self.next > 0 && !shard.answers_first() {
                    self.next += 3;
                }
            }
            StepPart::Answer => {
                self.busy = true;
                shard.answer_now();
            }
            StepPart::Finish => {
                self.busy |= self.visited > 0;
                self.busy |= shard.finish();
                self.busy |= !shard.outputs.actions.is_empty();
            }
            StepPart::Carry => self.busy |= shard.carry(ends, around),
            StepPart::Act => {
                shard.outputs.actions.drain(..).for_each(|action| around.act(action));
                if self.next < order.len() {
                    around.hasten();
                }
            }
        }
        self.next == order.len()
    }

    /// Whether the step found something to do, so that there may be more at once.
    pub fn is_busy(&self) -> bool {
        self.busy
    }
}

/// The order of the parts. *Answer*, with its *Carry* and *Act*, follows *Input*.
#[inline]
fn order() -> &'static [StepPart; PARTS] {
    use StepPart::{Act, Answer, Carry, Finish, Harvest, Input, Mail};
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
    /// Whether the step has work left for what clients have sent.
    pub(super) fn has_work_left(&self) -> bool {
        self.meter.work() < self.settings.budget.step
    }

    /// Notes how much room the mailboxes of the other shards have by now.
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
