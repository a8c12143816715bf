//! The mail from one shard to the others, as it is written during a step.

use super::ahead::{Ahead, Shortage};
use super::spare::{halve_queue, halve_spare};
use crate::ids::{ShardId, ShardSet};
use crate::limits::Budget;
use crate::mesh::mail::{Control, Data};
use crate::message::{Batch, MailPurpose, Message, MessageRef};
use crate::mutant::Mutant;
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
}

/// Mail to all shards.
pub struct Outbox {
    me: ShardId,
    boxes: Vec<PeerMail>,
    spare: Vec<Vec<u8>>,
    /// Fewest spare buffers there were since the last [`Outbox::shrink`].
    least: usize,
}

impl Outbox {
    /// For shard `me` of `shards`.
    pub fn new(me: ShardId, shards: usize, budget: &Budget) -> Self {
        let mail = |_| PeerMail {
            batch: Batch::default(),
            data: VecDeque::new(),
            control: VecDeque::new(),
            room: 0,
            ahead: Ahead::new(budget, shards.saturating_sub(1)),
        };
        let boxes = (0..shards).map(mail).collect();
        Outbox { me, boxes, spare: Vec::new(), least: 0 }
    }

    /// The mail to one shard, for whoever carries it to the mailbox.
    pub fn to(&mut self, shard: ShardId) -> &mut PeerMail {
        &mut self.boxes[shard.0 as usize]
    }

    /// The first of `shards` that a message cannot be accepted for, and what it lacks. A mailbox
    /// has to have room, and its shard must not have too much ahead of it. Those of `delivering`
    /// look for subscribers to the topic with the hash `topic`; without one, how much a shard has
    /// ahead of it does not count.
    #[inline]
    pub fn first_full(
        &self,
        shards: ShardSet,
        delivering: ShardSet,
        topic: Option<u64>,
    ) -> Option<(ShardId, Shortage)> {
        shards.iter().filter(|&shard| shard != self.me).find_map(|shard| {
            let to = &self.boxes[shard.0 as usize];
            let lacks = match topic {
                _ if !to.has_room() => Some(Shortage::Room),
                None => None,
                Some(_) => to.ahead.refuses(topic.filter(|_| delivering.contains(shard))),
            };
            lacks.map(|lacks| (shard, lacks))
        })
    }

    /// Whether those can go on who wait for that shard, as far as is known without their messages.
    pub fn has_room(&self, shard: ShardId, lacked: Shortage) -> bool {
        let to = &self.boxes[shard.0 as usize];
        to.has_room()
            && match lacked {
                Shortage::Room => to.ahead.refuses(None).is_none(),
                Shortage::Unknown | Shortage::Costly => to.ahead.takes_costly(),
            }
    }

    /// True when there is so much control mail to some shard that work which goes on over several
    /// steps and makes more of it waits: so it never makes other clients wait.
    pub fn is_filling(&self) -> bool {
        self.boxes.iter().any(|to| to.control.len() > STAGED / 4)
    }

    /// True when control mail to some shard has piled up, so that clients have to wait.
    pub fn is_congested(&self) -> bool {
        self.boxes.iter().any(|to| to.control.len() > STAGED)
    }

    /// Stages a message, whose topic has the hash `topic`. The caller has asked
    /// [`Self::first_full`].
    pub fn publish(
        &mut self,
        to: ShardId,
        message: &MessageRef<'_>,
        topic: Option<u64>,
        mut purpose: MailPurpose,
        stored: &mut Option<Message>,
        scratch: &mut Vec<u8>,
    ) {
        debug_assert!(to != self.me);
        let target = &mut self.boxes[to.0 as usize];
        purpose.reserve = match topic {
            None => target.ahead.send_anyway(),
            Some(_) => target.ahead.send(topic.filter(|_| purpose.deliver)),
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

    /// Stages control mail.
    pub fn tell(&mut self, to: ShardId, control: Control) {
        self.boxes[to.0 as usize].control.push_back(control);
    }

    /// Closes the batches of this step, so that they can be carried.
    pub fn close_batches(&mut self) {
        for target in &mut self.boxes {
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
        self.boxes
            .iter()
            .map(|to| to.data.len() + to.control.len() + usize::from(!to.batch.is_empty()))
            .sum()
    }

    /// True when nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.boxes
            .iter()
            .all(|to| to.data.is_empty() && to.control.is_empty() && to.batch.is_empty())
    }
}

fn close(target: &mut PeerMail, spare: &mut Vec<Vec<u8>>, least: &mut usize) {
    if !target.batch.is_empty() {
        let fresh = Batch::reuse(spare.pop().unwrap_or_default());
        *least = (*least).min(spare.len());
        target.data.push_back(Data::Batch(std::mem::replace(&mut target.batch, fresh)));
    }
}
