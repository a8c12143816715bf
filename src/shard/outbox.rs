//! The mail that a shard stages for the other shards and nodes during a step, until the mail is
//! carried to their mailboxes.

use super::ahead::{Ahead, Shortage, TopicSubject};
use super::spare::{halve_queue, halve_spare};
use crate::ids::{ShardId, ShardSet};
use crate::limits::Budget;
use crate::mesh::mail::{Control, Data, Passed, Stamped};
use crate::mesh::mailbox::{MailEnds, MailProgress};
use crate::message::{Batch, MailPurpose, Message, MessageRef};
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// A batch is closed past this many bytes.
const BATCH: usize = 32 * 1024;
/// A message larger than this many bytes travels as a shared allocation, not as a copy.
const COPY: usize = 8 * 1024;
/// How many buffers of batches are kept for reuse, and the largest capacity of these in bytes.
const SPARE: usize = 64;
const SPARE_MAX: usize = 2 * BATCH;
/// When more control mails than this are staged for one shard, clients of this shard wait.
const STAGED: usize = 4096;

/// Whose turn it is to have a part of another shard's reservable work, when a message is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The message has no publisher that could wait: a will, or what the API publishes.
    OfNobody,
    /// The publisher waits in a line for the shard, or would have to.
    NotYet,
    /// The publisher is the first of those that wait for that shard.
    With(ShardId),
}

/// The mail that is staged for one shard.
pub struct PeerMail {
    batch: Batch,
    /// Bytes of the last closed batch, for which the next one makes room at once.
    usual: usize,
    /// Data mails that were closed in this step or are left from earlier ones.
    pub data: VecDeque<Data>,
    /// Control mails that are not in the mailbox yet.
    pub control: VecDeque<Control>,
    /// How many data mails the mailbox had room for when it was last looked at.
    pub room: usize,
    /// The work that the shard still has ahead of it from earlier mail.
    pub ahead: Ahead,
}

impl PeerMail {
    /// Whether the mailbox has room for what is staged, one message, and one more batch.
    #[inline]
    fn has_room(&self) -> bool {
        self.data.len() + 2 < self.room || Mutant::RoomIgnored.is_on()
    }

    /// The number of mails staged: closed batches, large messages and control mail, and the open
    /// batch.
    fn staged(&self) -> usize {
        self.data.len() + self.control.len() + usize::from(!self.batch.is_empty())
    }
}

/// The mail that is staged for all shards. A shard that is sent nothing costs nothing in a step.
pub struct Outbox {
    me: ShardId,
    boxes: Vec<PeerMail>,
    /// The shards that mail is staged for.
    staged: ShardSet,
    /// The shards whose mailboxes may have changed since the last look: they were sent something,
    /// and have not taken in all of it.
    watched: ShardSet,
    spare: Vec<Vec<u8>>,
    /// The fewest spare buffers since the last [`Outbox::shrink`].
    least: usize,
}

impl Outbox {
    /// The outbox of shard `me`, for mail to `receivers`. Each receiver has so many `senders`, this
    /// shard included.
    pub fn new(me: ShardId, receivers: usize, senders: usize, budget: &Budget) -> Self {
        let mail = |_| PeerMail {
            batch: Batch::default(),
            usual: 0,
            data: VecDeque::new(),
            control: VecDeque::new(),
            room: 0,
            ahead: Ahead::new(budget, senders),
        };
        let boxes = (0..receivers).map(mail).collect();
        // How much room the mailboxes have is not known yet.
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

    /// Notes that a mailbox was looked at: it has room for `room` more data mails of `capacity`,
    /// and its shard has come `so_far`.
    pub fn see(
        &mut self,
        shard: ShardId,
        (room, capacity): (usize, usize),
        so_far: (MailProgress, Instant),
    ) {
        let to = &mut self.boxes[shard.0 as usize];
        to.room = room;
        to.ahead.see(so_far.0, so_far.1);
        if room == capacity && to.ahead.is_done() {
            self.watched.remove(shard);
        }
    }

    /// Notes that mail for that shard was put into its mailbox, as far as there was room.
    fn carried(&mut self, shard: ShardId) {
        if self.boxes[shard.0 as usize].staged() == 0 {
            self.staged.remove(shard);
        }
    }

    /// Puts what is staged for that shard into its mailbox, as far as there is room; returns the
    /// number of mails. `stamp` reads the time in nanoseconds, on one clock for all shards.
    pub fn carry(
        &mut self,
        shard: ShardId,
        ends: &mut MailEnds<Stamped, Control>,
        stamp: &mut impl FnMut() -> u64,
    ) -> u64 {
        let peer_mail = self.to(shard);
        let mut sent = 0;
        while let Some(data) = peer_mail.data.pop_front() {
            // Read here and not earlier, so that the time is after everything that may have caused
            // this mail.
            let at = stamp();
            if let Err(back) = ends.push_data(shard, Stamped { at, data }) {
                peer_mail.data.push_front(back.data);
                break;
            }
            sent += 1;
        }
        // After the data mail: a receiver looks at its control mail first, so a receiver that sees
        // a request also sees the messages that were accepted here before the request was made.
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

    /// Notes that something is staged for that shard.
    #[inline]
    fn stage(&mut self, shard: ShardId) {
        self.staged.insert(shard);
        self.watched.insert(shard);
    }

    /// The staged mail of the shards that have any.
    fn with_mail(&self) -> impl Iterator<Item = &PeerMail> {
        self.staged.iter().map(|shard| &self.boxes[shard.0 as usize])
    }

    /// The mail for one shard, which the caller may carry to the mailbox.
    pub fn to(&mut self, shard: ShardId) -> &mut PeerMail {
        self.watched.insert(shard);
        &mut self.boxes[shard.0 as usize]
    }

    /// The first of `shards` for which a message cannot be accepted, and what is lacking there. The
    /// mailbox must have room, and the shard must not have too much work ahead of it. The shards in
    /// `delivering` look for subscribers to `topic`. Without a `topic`, the work ahead does not
    /// count.
    #[inline]
    pub fn first_full(
        &self,
        shards: ShardSet,
        delivering: ShardSet,
        (topic, turn): (Option<TopicSubject<'_>>, Turn),
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

    /// Whether publishers that wait for that shard can go on, as far as is known without their
    /// messages.
    pub fn has_room(&self, shard: ShardId, lacked: Shortage) -> bool {
        let to = &self.boxes[shard.0 as usize];
        to.has_room()
            && match lacked {
                Shortage::Room => !to.ahead.is_full(),
                Shortage::Unknown | Shortage::Costly => to.ahead.takes_costly(),
            }
    }

    /// Notes whether publishers wait for a part of what may be reserved at that shard.
    pub fn queue_for(&mut self, shard: ShardId, queued: bool) {
        if let Some(to) = self.boxes.get_mut(shard.0 as usize) {
            to.ahead.queued = queued;
        }
    }

    /// The work that is reserved at that shard.
    pub fn reserved(&self, shard: ShardId) -> u64 {
        self.boxes.get(shard.0 as usize).map_or(0, |to| to.ahead.reserved())
    }

    /// True when so much control mail is staged for some shard that work which goes on over several
    /// steps has to wait before it makes more. That work therefore never makes clients wait.
    pub fn is_filling(&self) -> bool {
        self.with_mail().any(|to| to.control.len() > STAGED / 4)
    }

    /// True when control mail for some shard has piled up, so that clients have to wait.
    pub fn is_congested(&self) -> bool {
        self.with_mail().any(|to| to.control.len() > STAGED)
    }

    /// Stages a message. The caller has asked [`Self::first_full`].
    pub fn publish(
        &mut self,
        to: ShardId,
        message: &MessageRef<'_>,
        topic: Option<TopicSubject<'_>>,
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
        if target.batch.is_empty() {
            target.batch.make_room(target.usual);
        }
        target.batch.push(message, purpose);
        if target.batch.len() > BATCH {
            close(target, &mut self.spare, &mut self.least);
        }
    }

    /// Stages a message of a share group for another node, or one that came from another node. The
    /// caller has asked [`Self::first_full`].
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

    /// Keeps the buffer of a delivered batch for the next batch.
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

    /// The number of mails staged: closed batches, large messages and control mail, and open
    /// batches.
    pub fn staged(&self) -> usize {
        debug_assert!(self.boxes.iter().map(PeerMail::staged).eq(self.every_staged()));
        self.with_mail().map(PeerMail::staged).sum()
    }

    /// The number of mails staged for each shard, counting only shards that are in `staged`.
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
        target.usual = target.batch.len();
        let fresh = Batch::reuse(spare.pop().unwrap_or_default());
        *least = (*least).min(spare.len());
        target.data.push_back(Data::Batch(std::mem::replace(&mut target.batch, fresh)));
    }
}
