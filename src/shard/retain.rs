//! Retained messages, kept on the shard that the hash of the topic name selects. New subscriptions
//! get them through [`super::replays`].

use super::Shard;
use super::accounts::Accounted;
use super::memory::{Pressure, retained};
use super::spare::halve_queue;
use super::stamps::Stamps;
use crate::ids::SessionRef;
use crate::message::{Message, MessageRef, Retain};
use crate::mutant::Mutant;
use crate::topic::{self, Retained};
use hashbrown::HashSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many stored messages are looked at for expiry per round of upkeep.
const SWEEP: usize = 4096;

/// The retained messages of this shard's topics, and the sessions to which some are replayed.
pub(super) struct RetainedMessages {
    pub(super) messages: Retained<Message>,
    /// Sessions whose replay may go on; each is listed once.
    pub(super) replays: VecDeque<SessionRef>,
    /// The topic after which the sweep of expired messages goes on; `None`: at the first one.
    sweep_from: Option<Box<str>>,
    /// On a node of a cluster: the stamps that say which of two nodes' messages is newer.
    pub(super) stamps: Stamps,
    /// The messages that count for a bound of their publishers.
    pub(super) accounted: Accounted,
    /// How many of the messages are the broker's own, below `$SYS`.
    own: u64,
    /// Topics whose messages have changed, while they are noted.
    changed: Option<HashSet<Box<str>>>,
}

impl RetainedMessages {
    pub(super) fn new() -> Self {
        let messages = Retained::new();
        RetainedMessages {
            messages,
            replays: VecDeque::new(),
            sweep_from: None,
            stamps: Stamps::default(),
            accounted: Accounted::default(),
            own: 0,
            changed: None,
        }
    }

    /// How many messages are not the broker's own.
    pub(super) fn of_clients(&self) -> u64 {
        self.messages.len() as u64 - self.own
    }

    /// Calls `found` with those of up to `limit` messages after `cursor` that are not the broker's
    /// own, in order. What the broker itself retains below `$SYS` belongs to no client, and each
    /// process makes it anew; the states of bridges are below `$SYS` too, and any client may
    /// publish there.
    pub(super) fn walk_of_clients(
        &self,
        cursor: Option<&str>,
        limit: usize,
        found: &mut impl FnMut(&str, &Message),
    ) -> topic::Pass {
        self.messages.walk(cursor, limit, &mut |topic, message| {
            let lost = topic.starts_with('$') && Mutant::UpgradeRetainedSysLost.is_on();
            if !topic::is_servers_own(topic) && !lost {
                found(topic, message);
            }
        })
    }

    /// Begins to note the topics whose messages change, or ceases.
    pub(super) fn watch_changes(&mut self, watch: bool) {
        self.changed = watch.then(HashSet::default);
    }

    /// The topics whose messages have changed since the last call.
    pub(super) fn take_changed(&mut self) -> impl Iterator<Item = Box<str>> + use<> {
        self.changed.as_mut().map(std::mem::take).into_iter().flatten()
    }

    /// A message comes or goes.
    pub(super) fn changes(&mut self, topic: &str, comes: bool) {
        if topic::is_servers_own(topic) {
            self.own = if comes { self.own + 1 } else { self.own - 1 };
        } else if let Some(changed) = &mut self.changed
            && !changed.contains(topic)
        {
            changed.insert(topic.into());
        }
    }

    /// Gives half of the spare room of the list of replays back.
    pub(super) fn shrink(&mut self) {
        halve_queue(&mut self.replays);
    }
}

impl Shard {
    /// Sets or, with an empty payload, clears a topic's retained message [MQTT-3.3.1-5 to 7].
    /// `retain`: the accounts that the message counts for, and its stamp on a node of a cluster.
    pub(super) fn keep_retained(&mut self, message: &MessageRef<'_>, retain: Retain) {
        let kept = Mutant::RetainedNotReplaced.is_on()
            && self.retained.messages.get(message.topic).is_some();
        if kept && !message.payload.is_empty() {
            return;
        }
        if message.payload.is_empty() {
            if Mutant::RetainedNotCleared.is_on() {
                return;
            }
            if let Some(old) = self.retained.messages.remove(message.topic) {
                self.uncount_retained(&old);
                self.store_unretained(message.topic);
            }
            return;
        }
        let settings = Arc::clone(&self.settings);
        let expires = match (message.expires, settings.retained_expiry) {
            (None, millis) if millis > 0 => Some(self.now.plus_millis(millis)),
            (expires, _) => expires,
        };
        let kept = MessageRef { expires, retain: true, ..*message };
        // The old value is superseded even when the new one cannot be kept: no client may get a
        // value that is no longer true.
        let mut room = 0;
        if let Some(old) = self.retained.messages.remove(message.topic) {
            self.uncount_retained(&old);
            room = old.size();
            if self.storing.is_some() {
                // In the store, the new value is written after this record, if it is kept.
                self.store_unretained(message.topic);
            }
        }
        let size = kept.size() as u64;
        let short = self.memory.is_short(Pressure::Tight) && !Mutant::MemoryRetainedTaken.is_on();
        if (short || self.stores_nothing())
            && kept.size() > room
            && !topic::is_servers_own(message.topic)
        {
            let counters = &mut self.counters;
            let counter =
                if short { &mut counters.dropped_memory } else { &mut counters.dropped_overload };
            *counter += 1;
            return;
        }
        if !self.may_be_kept(&kept) {
            self.counters.dropped_retained_limit += 1;
            return;
        }
        if !self.charge_accounts(message.topic, retain.accounts, size) {
            self.topology.shared.retained_messages.give(1);
            self.topology.shared.retained_bytes.give(size);
            self.counters.dropped_retained_account += 1;
            return;
        }
        self.store_retained(&kept, retain.on(self.accounts_of_kept(message.topic)));
        let stored = Message::new(&kept, self.delivery.scratch.bytes());
        self.counters.retained_messages += 1;
        self.counters.retained_bytes += size;
        self.memory.tally.retained += retained(message.topic, kept.size());
        self.retained.changes(message.topic, true);
        self.retained.messages.set(message.topic, stored);
    }

    /// Whether a message may be kept within the limits of `retained`; if so, it is counted.
    fn may_be_kept(&self, kept: &MessageRef<'_>) -> bool {
        let (settings, shared) = (&self.settings, &self.topology.shared);
        if kept.payload.len() > settings.retained_max_payload
            || !shared.retained_messages.take(1, settings.retained_max_messages)
        {
            return false;
        }
        let fits = shared.retained_bytes.take(kept.size() as u64, settings.retained_max_bytes);
        if !fits {
            shared.retained_messages.give(1);
        }
        fits
    }

    /// Takes a message out of the counts. Returns its stamp, if it had one.
    pub(super) fn uncount_retained(&mut self, old: &Message) -> Option<u64> {
        let size = old.size() as u64;
        self.retained.changes(old.view().topic, false);
        self.counters.retained_messages -= 1;
        self.counters.retained_bytes -= size;
        self.memory.tally.retained -= retained(old.view().topic, old.size());
        self.topology.shared.retained_messages.give(1);
        self.topology.shared.retained_bytes.give(size);
        self.discharge_accounts(old.view().topic, size);
        self.retained.stamps.forget_kept(&self.topology, old)
    }

    /// Removes some expired retained messages. Repeated calls go round through all messages.
    pub(super) fn sweep_retained(&mut self) {
        self.retained.stamps.sweep(self.now);
        if self.retained.messages.is_empty() {
            return;
        }
        let now = self.now;
        let cursor = self.retained.sweep_from.take();
        let mut expired = Vec::new();
        let next = self.retained.messages.retain(cursor.as_deref(), SWEEP, |_, message| {
            let keep = message.view().seconds_left(now).is_ok();
            if !keep {
                expired.push(message.clone());
            }
            keep
        });
        for old in &expired {
            let stamp = self.uncount_retained(old);
            if let Some(stamp) = stamp {
                self.retained.stamps.note_cleared(old.view().topic, stamp, self.now);
            }
            self.store_unretained(old.view().topic);
        }
        if let topic::Pass::More(cursor) = next {
            self.retained.sweep_from = Some(cursor);
        }
    }

    /// Lists a session whose replay may go on.
    pub(super) fn wake_replay(&mut self, index: u32) {
        let flow = self.sessions.get_mut(index).and_then(|session| session.flow.as_mut());
        let Some(flow) = flow else { return };
        let ready = flow.replays.front().is_some_and(|replay| !replay.waiting);
        // Each session is listed once, because every acknowledgement of the client comes here.
        if ready && !std::mem::replace(&mut flow.replay_listed, true) {
            let session = self.session_ref(index);
            self.retained.replays.push_back(session);
        }
    }
}
