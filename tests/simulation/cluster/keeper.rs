//! What the simulated engine keeps for nodes: entries, in order. Requests are carried out late, are
//! lost, or their answers are.

use crate::rng::Rng;
use ringmq::cluster::keeping::{KeepAsker, KeepReply, KeepRequest, KeptAt};
use std::collections::BTreeMap;

/// Entries that are handed out at a time.
const SOME: usize = 5;

pub struct Keeper {
    kept: BTreeMap<KeptAt, Vec<(u64, Vec<u8>)>>,
    sequence: u64,
    /// When each is carried out, whose it is, and what it is.
    asked: Vec<(u64, usize, KeepAsker, KeptAt, KeepRequest)>,
    /// How many in a thousand fail: before they are carried out, or after.
    pub failing: usize,
    /// The longest time until a request is carried out.
    pub delay: usize,
    /// Nothing is answered.
    pub hangs: bool,
    /// Nodes that do not reach it.
    pub unreached: Vec<usize>,
    rng: Rng,
}

impl Keeper {
    pub fn new(seed: u64) -> Keeper {
        Keeper {
            kept: BTreeMap::new(),
            sequence: 0,
            asked: Vec::new(),
            failing: 0,
            delay: 3,
            hangs: false,
            unreached: Vec::new(),
            rng: Rng::new(seed ^ 0xee9),
        }
    }

    pub fn ask(&mut self, from: usize, asker: KeepAsker, at: KeptAt, what: KeepRequest, now: u64) {
        let due = now + self.rng.range(1, self.delay) as u64;
        self.asked.push((due, from, asker, at, what));
    }

    /// The answers that arrive by then.
    pub fn answers(&mut self, now: u64) -> Vec<(usize, KeepAsker, KeepReply)> {
        if self.hangs {
            return Vec::new();
        }
        let due: Vec<_> = self.asked.extract_if(.., |asked| asked.0 <= now).collect();
        let mut answers = Vec::new();
        for (_, from, asker, at, what) in due {
            if self.unreached.contains(&from) {
                // What waited for the connection is lost, as the library gives it up.
                answers.push((from, asker, KeepReply::Failed));
                continue;
            }
            let (before, after) = (self.rng.chance(self.failing), self.rng.chance(self.failing));
            let reply = if before { KeepReply::Failed } else { self.obey(at, what) };
            answers.push((from, asker, if after { KeepReply::Failed } else { reply }));
        }
        answers
    }

    fn obey(&mut self, at: KeptAt, what: KeepRequest) -> KeepReply {
        let is_key = matches!(at, KeptAt::Key(_));
        let entries = self.kept.entry(at).or_default();
        match what {
            KeepRequest::Last => KeepReply::Last(entries.last().cloned()),
            KeepRequest::Store(behind, entry) => {
                let last = entries.last().map_or(0, |entry| entry.0);
                if behind.is_some_and(|behind| behind != last) {
                    return KeepReply::Refused;
                }
                self.sequence += 1;
                if is_key {
                    entries.clear();
                }
                entries.push((self.sequence, entry));
                KeepReply::Stored(self.sequence)
            }
            KeepRequest::Read(from) => {
                let some = entries.iter().filter(|entry| entry.0 >= from).take(SOME);
                KeepReply::Entries(some.cloned().collect())
            }
            KeepRequest::Trim(before) => {
                entries.retain(|entry| entry.0 >= before);
                KeepReply::Trimmed
            }
        }
    }

    /// Bytes that are kept for the journals of that node.
    pub fn bytes(&self, node: &str) -> usize {
        let of = |at: &KeptAt| matches!(at, KeptAt::Journal(name, _) if **name == *node);
        let kept = self.kept.iter().filter(|(at, _)| of(at));
        kept.flat_map(|(_, entries)| entries).map(|(_, entry)| entry.len()).sum()
    }

    /// What a key holds.
    pub fn key(&self, key: &str) -> String {
        let last = self.kept.get(&KeptAt::Key(key.into())).and_then(|entries| entries.last());
        last.map_or(String::new(), |(_, text)| String::from_utf8_lossy(text).into_owned())
    }
}
