//! The retained messages of one shard: those whose topic names are placed on it.
//!
//! Owned by one shard. A B-tree in the order of *levels*: `/` sorts before every other byte, so a
//! topic is followed at once by everything below it, and a filter's matches lie in few runs. A
//! replay seeks from run to run, so it visits about what it delivers, also behind a `+`; and as a
//! position is just a topic name, it resumes wherever topics have come and gone in the meantime.
//! Nothing is truncated: bounded slices until [`Pass::Done`].
//!
//! Memory per message, besides the name: its address and length and the handle, in nodes filled to
//! between 55 % (names that arrive in order) and 70 %, so 34 to 46 bytes for an 8-byte handle.
//! Nodes that are made of many messages at once are full. A trie needs a node and an edge per
//! distinct prefix, so more than one for each message.
//!
//! Not here: expiry (the shard asks through [`Retained::retain`]), limits, the messages themselves.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::mutant::Mutant;

use super::scan::{common_prefix, level_length};

/// Entries stepped over one by one before seeking: nearer than a walk from the root.
const NEAR: usize = 6;

/// Whether a bounded pass over the retained messages has seen everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Everything has been visited.
    Done,
    /// Continue after this topic name, whether or not it is still retained by then.
    More(Box<str>),
}

/// The retained messages of one shard. `M` is a message's handle.
pub struct Retained<M> {
    messages: BTreeMap<TopicKey, M>,
}

impl<M> Retained<M> {
    /// Empty.
    pub fn new() -> Self {
        Retained { messages: BTreeMap::new() }
    }

    /// Stores a message and returns the one it replaces.
    pub fn set(&mut self, topic: &str, message: M) -> Option<M> {
        if let Some(place) = self.messages.get_mut(by(&topic)) {
            return Some(std::mem::replace(place, message));
        }
        self.messages.insert(TopicKey(topic.into()), message)
    }

    /// Stores many messages. When there are none yet, this takes much less time than one after the
    /// other: the names are sorted, and the nodes are made in order.
    pub fn set_all(&mut self, messages: impl Iterator<Item = (Box<str>, M)>) {
        let mut sorted = messages.map(|(topic, message)| (TopicKey(topic), message)).collect();
        self.messages.append(&mut sorted);
    }

    /// Removes and returns a message.
    pub fn remove(&mut self, topic: &str) -> Option<M> {
        self.messages.remove(by(&topic))
    }

    /// The message of a topic name.
    pub fn get(&self, topic: &str) -> Option<&M> {
        self.messages.get(by(&topic))
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Calls `found` with the messages whose names match a valid filter and come after `cursor`, in
    /// order. Delivers at most `limit` messages and looks at no more than `visits` entries (at
    /// least one of each), and leaves in `visits` how many of them were not needed. Every message
    /// that exists from the first call to the last is found exactly once.
    pub fn replay(
        &self,
        filter: &str,
        cursor: Option<&str>,
        limit: usize,
        visits: &mut usize,
        found: &mut impl FnMut(&str, &M),
    ) -> Pass {
        let seeker = Seeker::new(filter);
        let start = match (cursor, seeker.prefix) {
            (Some(cursor), Some(prefix)) if order(cursor, prefix).is_lt() => PassStart::At(prefix),
            (Some(cursor), _) if Mutant::ReplayRepeatsCursor.is_on() => PassStart::At(cursor),
            (Some(cursor), _) => PassStart::After(cursor),
            (None, Some(prefix)) => PassStart::At(prefix),
            (None, None) => PassStart::First,
        };
        let mut matched = 0;
        *visits = (*visits).max(1);
        let (mut skip_to, mut skipping, mut skipped) = (String::new(), false, 0);
        let mut entries = self.from(start);
        while let Some((TopicKey(name), message)) = entries.next() {
            *visits -= 1;
            skipping &= order(name, &skip_to).is_lt();
            if skipping {
                skipped += 1;
                if skipped == NEAR {
                    skipped = 0;
                    entries = self.from(PassStart::At(&skip_to));
                }
            } else {
                match seeker.judge(name, &mut skip_to) {
                    WalkVerdict::Matches => {
                        found(name, message);
                        matched += 1;
                    }
                    WalkVerdict::Next => {}
                    WalkVerdict::Skip => (skipping, skipped) = (true, 0),
                    WalkVerdict::Stop => return Pass::Done,
                }
            }
            if *visits == 0 || matched >= limit.max(1) {
                return Pass::More(name.clone());
            }
        }
        Pass::Done
    }

    /// Calls `found` with up to `limit` messages after `cursor` (at least one), in order, whatever
    /// their names begin with: `#` passes over `$` names.
    pub fn walk(
        &self,
        cursor: Option<&str>,
        limit: usize,
        found: &mut impl FnMut(&str, &M),
    ) -> Pass {
        let mut last = None;
        let mut entries = self.from(cursor.map_or(PassStart::First, PassStart::After));
        for (TopicKey(name), message) in entries.by_ref().take(limit.max(1)) {
            found(name, message);
            last = Some(name);
        }
        match (entries.next(), last) {
            (Some(_), Some(last)) => Pass::More(last.clone()),
            _ => Pass::Done,
        }
    }

    /// Visits up to `limit` messages after `cursor` (at least one), in order, and removes those
    /// that `keep` refuses.
    pub fn retain(
        &mut self,
        cursor: Option<&str>,
        limit: usize,
        mut keep: impl FnMut(&str, &M) -> bool,
    ) -> Pass {
        let mut refused: Vec<Box<str>> = Vec::new();
        let outcome = self.walk(cursor, limit, &mut |name, message| {
            if !keep(name, message) {
                refused.push(name.into());
            }
        });
        for name in refused {
            self.messages.remove(by(&&*name));
        }
        outcome
    }

    fn from(&self, start: PassStart<'_>) -> std::collections::btree_map::Range<'_, TopicKey, M> {
        let start = match &start {
            PassStart::First => Bound::Unbounded,
            PassStart::At(name) => Bound::Included(by(name)),
            PassStart::After(name) => Bound::Excluded(by(name)),
        };
        self.messages.range::<dyn TopicLookup, _>((start, Bound::Unbounded))
    }
}

impl<M> Default for Retained<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a pass begins.
enum PassStart<'a> {
    First,
    At(&'a str),
    After(&'a str),
}

enum WalkVerdict {
    Matches,
    /// No match, and the next entry may be one.
    Next,
    /// No match before the name that was written to `skip_to`.
    Skip,
    /// No match from here on.
    Stop,
}

/// A filter taken apart, to judge names in order.
struct Seeker<'a> {
    levels: Vec<&'a str>,
    /// The literal levels before the first wildcard, when there are any.
    prefix: Option<&'a str>,
}

impl<'a> Seeker<'a> {
    fn new(filter: &'a str) -> Self {
        let prefix = match filter.find(['+', '#']) {
            None => Some(filter),
            // A wildcard is a whole level: a slash precedes it.
            Some(wildcard) => filter.get(..wildcard).and_then(|before| before.strip_suffix('/')),
        };
        Seeker { levels: filter.split('/').collect(), prefix }
    }

    /// Whether `name` matches, and where the next name that may match is.
    fn judge(&self, name: &str, skip_to: &mut String) -> WalkVerdict {
        skip_to.clear();
        // Filters that begin with a wildcard pass over `$` names, all at once [MQTT-4.7.2-1].
        if self.prefix.is_none() && name.starts_with('$') {
            skip_to.push('%');
            return WalkVerdict::Skip;
        }
        // Where the last level that matched a `+` ends.
        let mut plus = None;
        let mut at = 0;
        for &level in &self.levels {
            if level == "#" {
                return WalkVerdict::Matches;
            }
            let Some(rest) = name.get(at..) else {
                if level == "+" {
                    return WalkVerdict::Next;
                }
                skip_to.extend([name, "/", level]);
                return WalkVerdict::Skip;
            };
            let here = &rest[..level_length(rest.as_bytes())];
            let end = at + here.len();
            if level == "+" {
                plus = Some(end);
            } else if here < level {
                skip_to.extend([&name[..at], level]);
                return WalkVerdict::Skip;
            } else if here > level {
                return past(name, plus, skip_to);
            }
            at = end + 1;
        }
        if at > name.len() { WalkVerdict::Matches } else { past(name, plus, skip_to) }
    }
}

/// Nothing else can match below the level that ends at `plus`, so the search continues at its next
/// sibling.
fn past(name: &str, plus: Option<usize>, skip_to: &mut String) -> WalkVerdict {
    let Some(end) = plus else { return WalkVerdict::Stop };
    // U+0000 is in no topic name and sorts after `/` and before all else.
    skip_to.extend([&name[..end], "\0"]);
    WalkVerdict::Skip
}

/// A topic name as a key, in the order of levels.
struct TopicKey(Box<str>);

/// What stands for a [`TopicKey`] in a lookup, so that none has to be made.
trait TopicLookup {
    fn name(&self) -> &str;
}

impl TopicLookup for TopicKey {
    fn name(&self) -> &str {
        &self.0
    }
}

impl TopicLookup for &str {
    fn name(&self) -> &str {
        self
    }
}

fn by<'a>(name: &'a &'a str) -> &'a (dyn TopicLookup + 'a) {
    name
}

impl<'a> Borrow<dyn TopicLookup + 'a> for TopicKey {
    fn borrow(&self) -> &(dyn TopicLookup + 'a) {
        self
    }
}

impl Ord for dyn TopicLookup + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.name(), other.name())
    }
}

impl PartialOrd for dyn TopicLookup + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn TopicLookup + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn TopicLookup + '_ {}

impl Ord for TopicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
    }
}

impl PartialOrd for TopicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for TopicKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for TopicKey {}

/// Compares bytewise with `/` as the lowest byte: level by level, a level before what is below it.
fn order(one: &str, two: &str) -> Ordering {
    let (one, two) = (one.as_bytes(), two.as_bytes());
    let at = common_prefix(one, two);
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    // A text that ends is lowest of all: `None` sorts first.
    one.get(at).map(rank).cmp(&two.get(at).map(rank))
}

#[cfg(test)]
#[path = "retained_tests.rs"]
mod tests;
