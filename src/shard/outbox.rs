//! The mail from one shard to the others, as it is written during a step.

use super::ahead::{Ahead, Shortage, Topic};
use super::spare::{halve_queue, halve_spare};
use crate::ids::{ShardId, ShardSet};
use crate::limits::Budget;
use crate::mesh::mail::{Control, Data, Passed, Stamped};
use crate::mesh::mailbox::{MailEnds, Progress};
use crate::message::{Batch, MailPurpose, Message, MessageRef};
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// A batch is closed past this many bytes.
const BATCH: usize = 32 * 1024;
/// A message larger than this travels as a shared allocation, not as a copy.
const COPY: usize = 8 * 1024;
/// Buffers of batches that are kept, and the largest of them, bytes.
const SPARE: usize = 64;
const SPARE_MAX: usize = 2 * BATCH;
/// Staged control mails to one shard past which clients of this shard wait.
const STAGED: usize = 4096;

/// Whose turn it is to get a part of what may be reserved at a shard, for a message that is looked
/// at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Its publisher waits in no line, and nobody waits for it: a will, what the API publishes.
    OfNobody,
    /// Its publisher waits in a line, or would.
    NotYet,
    /// Its publisher is the first of those who wait for that shard.
    With(ShardId),
}

/// Mail to one shard.
pub struct PeerMail {
    batch: Batch,
    /// Data mails closed in this step or left from earlier ones.
    pub data: VecDeque<Data>,
    /// Control mails not yet in the mailbox.
    pub control: VecDeque<Control>,
    /// Data mails that the mailbox still takes, as of the start of the step.
    pub room: usize,
    /// What the shard has ahead of it of what was sent before.
    pub ahead: Ahead,
}

impl PeerMail {
    /// Whether the mailbox has room for what is staged, one message, and one more batch.
    #[inline]
    fn has_room(&self) -> bool {
        self.data.len() + 2 < self.room || Mutant::RoomIgnored.is_on()
    }

    /// Mails staged: closed batches, large messages and control mail.
    fn staged(&self) -> usize {
        self.data.len() + self.control.len() + usize::from(!self.batch.is_empty())
    }
}

/// Mail to all shards. A shard that nothing is sent to costs nothing in a step.
pub struct Outbox {
    me: ShardId,
    boxes: Vec<PeerMail>,
    /// The shards that mail is staged for.
    staged: ShardSet,
    /// Those whose mailbox may have changed since it was last looked at: they were sent something
    /// and have not come to all of it.
    watched: ShardSet,
    spare: Vec<Vec<u8>>,
    /// Fewest spare buffers there were since the last [`Outbox::shrink`].
    least: usize,
}

impl Outbox {
    /// For shard `me`: mail to `receivers`, to each of which so many send, this one included.
    pub fn new(me: ShardId, receivers: usize, senders: usize, budget: &Budget) -> Self {
        let mail = |_| PeerMail {
            batch: Batch::default(),
            data: VecDeque::new(),
            control: VecDeque::new(),
            room: 0,
            ahead: Ahead::new(budget, senders),
        };
        let boxes = (0..receivers).map(mail).collect();
        // How much their mailboxes hold is not known yet.
        let mut watched = ShardSet::EMPTY;
        (0..receivers as u8)
            .map(ShardId)
            .filter(|&peer| peer != me)
            .for_each(|p| watched.insert(p));
        let staged = ShardSet::EMPTY;
        Outbox { me, boxes, staged, watched, spare: Vec::new(), least: 0 }
    }

    /// The shards that mail is staged for.
    pub fn shards_with_mail(&self) -> ShardSet {
        self.staged
    }

    /// The shards whose mailbox may have changed.
    pub fn watched(&self) -> ShardSet {
        self.watched
    }

    /// A mailbox was looked at: it takes `room` more data mails of `capacity`, and its shard has
    /// come so far.
    pub fn see(
        &mut self,
        shard: ShardId,
        (room, capacity): (usize, usize),
        so_far: (Progress, Instant),
    ) {
        let to = &mut self.boxes[shard.0 as usize];
        to.room = room;
        to.ahead.see(so_far.0, so_far.1);
        if room == capacity && to.ahead.is_done() {
            self.watched.remove(shard);
        }
    }

    /// What was staged for that shard has been put into its mailbox, as far as there was room.
    fn carried(&mut self, shard: ShardId) {
        if self.boxes[shard.0 as usize].staged() == 0 {
            self.staged.remove(shard);
        }
    }

    /// Puts what is staged for that shard into its mailbox, as far as there is room; how many mails
    /// that were. `stamp`: the time in nanoseconds, of one clock for all shards.
    pub fn carry(
        &mut self,
        shard: ShardId,
        ends: &mut MailEnds<Stamped, Control>,
        stamp: &mut impl FnMut() -> u64,
    ) -> u64 {
        let peer_mail = self.to(shard);
        let mut sent = 0;
        while let Some(data) = peer_mail.data.pop_front() {
            // Read here and not earlier: after all that this mail can be a consequence of.
            let at = stamp();
            if let Err(back) = ends.push_data(shard, Stamped { at, data }) {
                peer_mail.data.push_front(back.data);
                break;
            }
            sent += 1;
        }
        // After the data mail, as it is looked at before: whoever sees a request also sees the
        // messages that were accepted here before it was made.
        while let Some(control) = peer_mail.control.pop_front() {
            if let Err(back) = ends.push_control(shard, control) {
                peer_mail.control.push_front(back);
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            peer_mail.room = ends.data_room(shard);
            self.carried(shard);
        }
        sent
    }

    /// Something is staged for that shard.
    #[inline]
    fn stage(&mut self, shard: ShardId) {
        self.staged.insert(shard);
        self.watched.insert(shard);
    }

    /// Of the shards that mail is staged for.
    fn with_mail(&self) -> impl Iterator<Item = &PeerMail> {
        self.staged.iter().map(|shard| &self.boxes[shard.0 as usize])
    }

    /// The mail to one shard, for whoever carries it to the mailbox.
    pub fn to(&mut self, shard: ShardId) -> &mut PeerMail {
        self.watched.insert(shard);
        &mut self.boxes[shard.0 as usize]
    }

    /// The first of `shards` that a message cannot be accepted for, and what it lacks. A mailbox
    /// has to have room, and its shard must not have too much ahead of it. Those of `delivering`
    /// look for subscribers to `topic`; without one, how much a shard has
    /// ahead of it does not count.
    #[inline]
    pub fn first_full(
        &self,
        shards: ShardSet,
        delivering: ShardSet,
        (topic, turn): (Option<Topic<'_>>, Turn),
    ) -> Option<(ShardId, Shortage)> {
        shards.iter().filter(|&shard| shard != self.me).find_map(|shard| {
            let to = &self.boxes[shard.0 as usize];
            let lacks = match topic {
                _ if !to.has_room() => Some(Shortage::Room),
                None => None,
                Some(topic) => {
                    let comes = turn != Turn::OfNobody && turn != Turn::With(shard);
                    let delivers = delivering.contains(shard);
                    to.ahead.refuses(delivers.then(|| topic.at(shard)), comes)
                }
            };
            lacks.map(|lacks| (shard, lacks))
        })
    }

    /// Whether those can go on who wait for that shard, as far as is known without their messages.
    pub fn has_room(&self, shard: ShardId, lacked: Shortage) -> bool {
        let to = &self.boxes[shard.0 as usize];
        to.has_room()
            && match lacked {
                Shortage::Room => !to.ahead.is_full(),
                Shortage::Unknown | Shortage::Costly => to.ahead.takes_costly(),
            }
    }

    /// Whether publishers wait for a part of what may be reserved at that shard.
    pub fn queue_for(&mut self, shard: ShardId, queued: bool) {
        if let Some(to) = self.boxes.get_mut(shard.0 as usize) {
            to.ahead.queued = queued;
        }
    }

    /// What is reserved at that shard.
    pub fn reserved(&self, shard: ShardId) -> u64 {
        self.boxes.get(shard.0 as usize).map_or(0, |to| to.ahead.reserved())
    }

    /// True when there is so much control mail to some shard that work which goes on over several
    /// steps and makes more of it waits: so it never makes other clients wait.
    pub fn is_filling(&self) -> bool {
        self.with_mail().any(|to| to.control.len() > STAGED / 4)
    }

    /// True when control mail to some shard has piled up, so that clients have to wait.
    pub fn is_congested(&self) -> bool {
        self.with_mail().any(|to| to.control.len() > STAGED)
    }

    /// Stages a message of that topic. The caller has asked [`Self::first_full`].
    pub fn publish(
        &mut self,
        to: ShardId,
        message: &MessageRef<'_>,
        topic: Option<Topic<'_>>,
        mut purpose: MailPurpose,
        stored: &mut Option<Message>,
        scratch: &mut Vec<u8>,
    ) {
        debug_assert!(to != self.me);
        self.stage(to);
        let target = &mut self.boxes[to.0 as usize];
        purpose.reserve = match topic {
            None => target.ahead.send_anyway(),
            Some(topic) => target.ahead.send(purpose.deliver.then(|| topic.at(to))),
        };
        if message.size() > COPY {
            if !Mutant::LargeOvertakesBatch.is_on() {
                close(target, &mut self.spare, &mut self.least);
            }
            let stored = stored.get_or_insert_with(|| Message::new(message, scratch));
            target.data.push_back(Data::One(stored.clone(), purpose));
            return;
        }
        target.batch.push(message, purpose);
        if target.batch.len() > BATCH {
            close(target, &mut self.spare, &mut self.least);
        }
    }

    /// Stages a message of a share group for another node, or from one. The caller has asked
    /// [`Self::first_full`].
    pub fn pass(&mut self, to: ShardId, passed: Passed) {
        self.stage(to);
        let target = &mut self.boxes[to.0 as usize];
        close(target, &mut self.spare, &mut self.least);
        target.ahead.send_anyway();
        target.data.push_back(Data::Passed(Box::new(passed)));
    }

    /// Stages control mail.
    pub fn tell(&mut self, to: ShardId, control: Control) {
        self.stage(to);
        self.boxes[to.0 as usize].control.push_back(control);
    }

    /// Closes the batches of this step, so that they can be carried.
    pub fn close_batches(&mut self) {
        for shard in self.staged.iter() {
            let target = &mut self.boxes[shard.0 as usize];
            close(target, &mut self.spare, &mut self.least);
        }
    }

    /// Takes a delivered batch's buffer for the next one.
    pub fn recycle(&mut self, batch: Batch) {
        let bytes = batch.into_bytes();
        if self.spare.len() < SPARE && bytes.capacity() <= SPARE_MAX {
            self.spare.push(bytes);
        }
    }

    /// Drops half of the buffers that were not needed since the last call.
    pub fn shrink(&mut self) {
        halve_spare(&mut self.spare, &mut self.least);
        for target in &mut self.boxes {
            halve_queue(&mut target.data);
            halve_queue(&mut target.control);
        }
    }

    /// Mails staged: closed batches, large messages and control mail.
    pub fn staged(&self) -> usize {
        debug_assert!(self.boxes.iter().map(PeerMail::staged).eq(self.every_staged()));
        self.with_mail().map(PeerMail::staged).sum()
    }

    /// Of each shard what is staged, as far as the shards that mail is staged for are known.
    fn every_staged(&self) -> impl Iterator<Item = usize> {
        let known = |at: usize| self.staged.contains(ShardId(at as u8));
        self.boxes.iter().enumerate().map(move |(at, to)| if known(at) { to.staged() } else { 0 })
    }

    /// True when some data mail is staged.
    pub fn has_data(&self) -> bool {
        self.with_mail().any(|to| !to.data.is_empty() || !to.batch.is_empty())
    }

    /// True when nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }
}

fn close(target: &mut PeerMail, spare: &mut Vec<Vec<u8>>, least: &mut usize) {
    if !target.batch.is_empty() {
        let fresh = Batch::reuse(spare.pop().unwrap_or_default());
        *least = (*least).min(spare.len());
        target.data.push_back(Data::Batch(std::mem::replace(&mut target.batch, fresh)));
    }
}
