//! Stored will messages that are no more their node's to publish: others have published them while
//! it was down, or their clients have connected elsewhere. The node is told them when it is back
//! ([`super::wills`]).

use crate::time::Instant;
use crate::upgrade::cluster::MovedSettled;
use std::collections::{BTreeSet, VecDeque};

/// Milliseconds after a claim during which the claimed client's node may turn out to be down. A
/// node that is heard after that has heard of the claim itself.
const UNSURE: u64 = 10_000;

/// A node, the incarnation of a run of it, and a ClientId.
type StoredWillKey = (Box<str>, u64, Box<str>);

/// Stored will messages that are settled.
#[derive(Default)]
pub struct SettledWills {
    all: BTreeSet<StoredWillKey>,
    /// Those of clients that were claimed while their node seemed to be there, and since when.
    unsure: VecDeque<(Instant, StoredWillKey)>,
    /// Of the entries of both.
    bytes: usize,
}

/// Bytes of an entry.
fn size(node: &str, client: &str) -> usize {
    node.len() + client.len() + 80
}

impl SettledWills {
    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them, for the process that takes this one's place.
    pub fn pack(&self) -> Vec<MovedSettled> {
        let moved = |key: &StoredWillKey, unsure| MovedSettled {
            node: key.0.clone(),
            incarnation: key.1,
            client: key.2.clone(),
            unsure,
        };
        let unsure = self.unsure.iter().filter(|(_, key)| self.all.contains(key));
        let unsure = unsure.map(|(since, key)| moved(key, Some(*since)));
        self.all.iter().map(|key| moved(key, None)).chain(unsure).collect()
    }

    /// Whether nothing is forgotten as time goes on.
    pub fn is_sure(&self) -> bool {
        self.unsure.is_empty()
    }

    /// Notes the will message of a client in a run of a node, if there is room: at most `most`
    /// bytes. `up` is the present time when the node seems to be there.
    pub fn note(&mut self, run: (&str, u64), client: &str, up: Option<Instant>, most: usize) {
        let (node, incarnation) = run;
        let size = size(node, client);
        if self.bytes + 2 * size > most {
            return;
        }
        let key: StoredWillKey = (node.into(), incarnation, client.into());
        if let Some(now) = up {
            self.unsure.push_back((now, key.clone()));
            self.bytes += size;
        }
        if self.all.insert(key) {
            self.bytes += size;
        }
    }

    /// The node has told a will message of the client in that run, so it has the client.
    pub fn remove(&mut self, run: (&str, u64), client: &str) {
        if self.all.is_empty() {
            return;
        }
        let (node, incarnation) = run;
        if self.all.remove(&(node.into(), incarnation, client.into())) {
            self.bytes -= size(node, client);
        }
    }

    /// Takes out the next ClientId of a run of that node before `incarnation`, with that run's
    /// incarnation.
    pub fn next(&mut self, node: &str, incarnation: u64) -> Option<(u64, Box<str>)> {
        if self.all.is_empty() {
            return None;
        }
        let first = self.all.range((node.into(), 0, "".into())..).next()?;
        if *first.0 != *node || first.1 >= incarnation {
            return None;
        }
        let first = first.clone();
        self.all.remove(&first);
        self.bytes -= size(node, &first.2);
        Some((first.1, first.2))
    }

    /// Forgets those of one run: its node is back as it was.
    pub fn forget(&mut self, node: &str, incarnation: u64) {
        while let Some(first) = self.all.range((node.into(), incarnation, "".into())..).next()
            && *first.0 == *node
            && first.1 == incarnation
        {
            let first = first.clone();
            self.remove((node, incarnation), &first.2);
        }
    }

    /// Forgets claims of a while ago, as far as the run of the claimed client `is_up`.
    pub fn run(&mut self, now: Instant, is_up: impl Fn(&str, u64) -> bool) {
        while let Some((_, (node, incarnation, client))) =
            self.unsure.pop_front_if(|entry| entry.0.plus_millis(UNSURE) <= now)
        {
            self.bytes -= size(&node, &client);
            if is_up(&node, incarnation) {
                self.remove((&*node, incarnation), &client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_those_of_its_earlier_runs() {
        let mut settled = SettledWills::default();
        for (node, run, client) in [("a", 2, "x"), ("a", 1, "y"), ("b", 1, "z"), ("a", 3, "w")] {
            settled.note((node, run), client, None, 1 << 20);
        }
        settled.remove(("a", 2), "y");
        assert_eq!(settled.next("a", 1), None);
        assert_eq!(settled.next("a", 3), Some((1, "y".into())));
        assert_eq!(settled.next("a", 3), Some((2, "x".into())));
        assert_eq!(settled.next("a", 3), None);
        assert_eq!(settled.next("c", 3), None);
        settled.forget("a", 3);
        assert_eq!(settled.next("a", 4), None);
        settled.note(("b", 1), "beyond", None, settled.bytes());
        assert_eq!(settled.next("b", 2), Some((1, "z".into())));
        assert_eq!((settled.next("b", 2), settled.bytes()), (None, 0));
    }

    #[test]
    fn what_was_claimed_of_a_node_that_is_there_is_forgotten_after_a_while() {
        let mut settled = SettledWills::default();
        settled.note(("a", 1), "x", Some(Instant(5)), 1 << 20);
        settled.note(("b", 1), "y", Some(Instant(6)), 1 << 20);
        settled.run(Instant(UNSURE + 4), |_, _| true);
        assert!(settled.bytes() > 0);
        settled.run(Instant(UNSURE + 6), |node, _| node == "a");
        assert_eq!(settled.next("a", 2), None);
        assert_eq!(settled.next("b", 2), Some((1, "y".into())));
        assert_eq!(settled.bytes(), 0);
    }
}
