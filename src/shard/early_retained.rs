//! Retained messages that are copied to another process while this one serves, like its clients
//! ([`super::early`]), and such that come from another process.

use super::Shard;
use super::pack::Packed;
use super::placement::retained_home;
use crate::ids::ShardId;
use crate::message::{Accounts, Message};
use crate::mutant::Mutant;
use crate::topic::{self, TopicHash};

/// How many retained messages are packed at a time.
const RETAINED: usize = 64;

/// Something of the retained messages of another process.
pub enum ComingRetained {
    /// This message is retained, and counts for the accounts of the first number. The second one is
    /// its stamp on a node of a cluster; without a payload, its topic was cleared there.
    Set((u64, u64), Message),
    /// What came before for this topic holds no more.
    Gone(Box<str>),
}

impl Shard {
    /// Begins to note the topics whose retained messages change.
    pub(super) fn begin_retained_copies(&mut self) {
        self.retained.watch_changes(true);
        if let Some(early) = &mut self.work.early {
            early.due_topics.clear();
            (early.retained_from, early.retained_done) = (None, false);
        }
    }

    /// The topics whose retained messages have changed since they were copied.
    pub(super) fn due_topics(&self) -> Vec<Box<str>> {
        self.work.early.as_ref().map_or_else(Vec::new, |early| early.due_topics.clone())
    }

    /// The next piece of the retained messages: first that those of some topics have changed, then
    /// some messages.
    pub(super) fn next_retained(&mut self) -> Option<Packed> {
        let early = self.work.early.as_mut()?;
        if let Some(messages) = early.changed_messages.take() {
            return Some(Packed::Retained(messages));
        }
        if !early.due_topics.is_empty() {
            let topics = (0..RETAINED).map_while(|_| early.due_topics.pop());
            let topics: Vec<Box<str>> = topics.collect();
            let changed = topics.iter().filter_map(|topic| {
                let message = self.retained.messages.get(topic)?.clone();
                let accounts = self.accounts_of_kept(topic).packed();
                Some(((accounts, self.stamp_of_kept(topic)), message))
            });
            let changed: Vec<((u64, u64), Message)> = changed.collect();
            if let Some(early) = self.work.early.as_mut().filter(|_| !changed.is_empty()) {
                early.changed_messages = Some(changed);
            }
            return Some(Packed::Unretained(topics));
        }
        if early.retained_done {
            return None;
        }
        let from = early.retained_from.take();
        let mut messages = Vec::new();
        let found = &mut |topic: &str, message: &Message| {
            let accounts = match Mutant::UpgradeAccountsLost.is_on() {
                true => 0,
                false => self.accounts_of_kept(topic).packed(),
            };
            messages.push(((accounts, self.stamp_of_kept(topic)), message.clone()));
        };
        let pass = self.retained.walk_of_clients(from.as_deref(), RETAINED, found);
        let early = self.work.early.as_mut()?;
        match pass {
            topic::Pass::More(next) => early.retained_from = Some(next),
            topic::Pass::Done => early.retained_done = true,
        }
        if Mutant::UpgradeRetainedLost.is_on() {
            messages.clear();
        }
        Some(Packed::Retained(messages))
    }

    /// Takes away the messages whose home in the old process, which has so many `shards`, is not
    /// among those that have said what has changed.
    pub(super) fn end_stale_retained(&mut self, told: &[ShardId], shards: u8) {
        let mut wrong = Vec::new();
        let seeds = &self.topology.shared.seeds;
        let found = &mut |topic: &str, _: &Message| {
            if !told.contains(&retained_home(&TopicHash::new(seeds, topic), shards)) {
                wrong.push(topic.into());
            }
        };
        self.retained.walk_of_clients(None, usize::MAX, found);
        wrong.into_iter().for_each(|topic| self.adopt_retained(ComingRetained::Gone(topic)));
    }

    /// Takes in something of the retained messages of another process whose topic has its home
    /// here. A message that is retained here already stays.
    pub fn adopt_retained(&mut self, coming: ComingRetained) {
        match coming {
            ComingRetained::Set((_, stamp), message) if message.view().payload.is_empty() => {
                self.retained.stamps.note_cleared(message.view().topic, stamp, self.now);
                self.topology.shared.stamps.raise(stamp);
            }
            ComingRetained::Set((accounts, stamp), message) => {
                let topic: Box<str> = message.view().topic.into();
                if self.retained.messages.get(&topic).is_none() {
                    self.put_retained(&topic, message, (Accounts::unpacked(accounts), stamp));
                }
            }
            ComingRetained::Gone(topic) => {
                if Mutant::UpgradeRetainedStays.is_on() {
                    return;
                }
                if let Some(old) = self.retained.messages.remove(&topic) {
                    self.uncount_retained(&old);
                }
            }
        }
    }
}
