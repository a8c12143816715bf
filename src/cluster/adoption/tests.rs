//! Several nodes with what an engine keeps for them, and nodes that die.

use super::*;
use crate::storage::journal::JournalPart;
use crate::storage::record::{Record, StoredMessage, StoredSession};

/// What the engine keeps.
#[derive(Default)]
struct Kept {
    places: BTreeMap<KeptAt, Vec<(u64, Vec<u8>)>>,
    sequence: u64,
}

fn member(name: &str, incarnation: u64, level: u8) -> DurableMember {
    DurableMember { name: name.into(), incarnation, shards: 2, level }
}

impl Kept {
    fn obey(&mut self, place: KeptAt, request: KeepRequest) -> KeepReply {
        let is_key = matches!(place, KeptAt::Key(_));
        let entries = self.places.entry(place).or_default();
        match request {
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
                let some = entries.iter().filter(|entry| entry.0 >= from).take(3);
                KeepReply::Entries(some.cloned().collect())
            }
            KeepRequest::Trim(before) => {
                entries.retain(|entry| entry.0 >= before);
                KeepReply::Trimmed
            }
        }
    }

    fn journal(&mut self, node: &str, shard: u8) -> &mut Vec<(u64, Vec<u8>)> {
        self.places.entry(KeptAt::Journal(node.into(), shard)).or_default()
    }

    fn text(&self, key: &str) -> String {
        let last = self.places.get(&KeptAt::Key(key.into())).and_then(|entries| entries.last());
        last.map_or(String::new(), |(_, text)| String::from_utf8_lossy(text).into_owned())
    }
}

/// The nodes, by their numbers; the dead ones have none.
struct Fleet {
    nodes: Vec<Option<Adoption>>,
    kept: Kept,
    now: Instant,
    /// Who has adopted which ClientId.
    adopted: Vec<(usize, String)>,
    /// Nodes whose adoption is over, by who says so.
    over: Vec<(usize, String)>,
    requests: u64,
}

fn name(at: usize) -> String {
    format!("node-{at}")
}

/// The records of a session with one message that waits.
fn batch(session: u64, client_id: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let stored = StoredSession {
        session,
        client_id,
        mountpoint: "",
        expiry: 60,
        ends: 0,
        level: 5,
        bridge: false,
    };
    Record::Session(stored).encode(&mut bytes);
    let body = StoredMessage {
        topic: "t",
        properties: b"",
        payload: b"x",
        expires: u64::MAX,
        flags: 1,
        accounts: 0,
        stamp: 0,
    };
    Record::Put { message: session, body }.encode(&mut bytes);
    let message = session;
    Record::Fan { session, slot: 1, message, flags: 1, ids: b"", share: "" }.encode(&mut bytes);
    bytes
}

impl Fleet {
    /// Nodes of two shards, each with eight sessions in its journals.
    fn new(count: usize) -> Fleet {
        let mut fleet = Fleet {
            nodes: Vec::new(),
            kept: Kept::default(),
            now: Instant(1000),
            adopted: Vec::new(),
            over: Vec::new(),
            requests: 0,
        };
        for at in 0..count {
            fleet.nodes.push(None);
            fleet.start(at);
            for number in 1..9u64 {
                let client = format!("client-{at}-{number}");
                fleet.store(at, (number % 2) as u8, number.div_ceil(2), &batch(number, &client));
            }
        }
        fleet.go(5000);
        fleet
    }

    fn start(&mut self, at: usize) {
        self.start_of(at, 1);
    }

    fn start_of(&mut self, at: usize, level: u8) {
        let member = member(&name(at), self.now.0, level);
        self.nodes[at] = Some(Adoption::new(member, self.now));
    }

    fn store(&mut self, at: usize, shard: u8, batch: u64, bytes: &[u8]) {
        let total = bytes.len() as u32;
        let (log, epoch, until, needed, offset) = (1, 5, 1, 1, 0);
        let part = JournalPart { log, epoch, until, needed, batch, offset, total, bytes };
        let place = KeptAt::Journal(name(at).into(), shard);
        self.kept.obey(place, KeepRequest::Store(None, JournalEntry::Part(part).write()));
    }

    /// Everybody goes on for so long, or until so many requests were made.
    fn go_until(&mut self, millis: u64, requests: u64) {
        let until = self.now.plus_millis(millis);
        while self.now < until && self.requests < requests {
            self.now = self.now.plus_millis(50);
            for at in 0..self.nodes.len() {
                self.turn(at);
            }
        }
    }

    fn go(&mut self, millis: u64) {
        self.go_until(millis, u64::MAX);
    }

    fn turn(&mut self, at: usize) {
        let there = |&other: &usize| other != at && self.nodes[other].is_some();
        let names: Vec<String> = (0..self.nodes.len()).filter(there).map(name).collect();
        let present: Vec<&str> = names.iter().map(|name| &**name).collect();
        let Some(node) = &mut self.nodes[at] else { return };
        for _ in 0..2 {
            node.run(&present, true, 0, self.now);
            for (asker, place, request) in std::mem::take(&mut node.requests) {
                self.requests += 1;
                let reply = self.kept.obey(place, request);
                if let KeepAsker::Adoption(step) = asker {
                    node.heard(step, reply, &present, self.now);
                }
            }
            for orphan in std::mem::take(&mut node.orphans) {
                assert_eq!(orphan.waiting.len(), 1);
                self.adopted.push((at, orphan.client_id.to_string()));
                node.stored(orphan.bytes() as u64);
            }
            for (lost, by) in std::mem::take(&mut node.over) {
                let by = by.map_or(at, |by| by[5..].parse().unwrap());
                self.over.push((by, lost.to_string()));
            }
        }
    }

    /// Each session of that node was adopted by that one; how often.
    fn check(&self, lost: usize, by: usize) {
        for number in 1..9 {
            let client = format!("client-{lost}-{number}");
            let mut of = self.adopted.iter().filter(|(_, adopted)| *adopted == client);
            let last = of.next_back().map(|(by, _)| *by);
            assert_eq!(last, Some(by), "{client} of {:?}", self.adopted);
        }
    }
}

#[test]
fn the_first_of_those_that_are_left_adopts_every_session_once() {
    let mut fleet = Fleet::new(3);
    assert!(fleet.kept.text("members").contains("node-2 "));
    fleet.nodes[1] = None;
    fleet.go(10_000);
    assert_eq!(fleet.adopted.len(), 8, "{:?}", fleet.adopted);
    fleet.check(1, 0);
    assert!(fleet.kept.text("adopt.node-1").ends_with("done"));
    assert!(fleet.over.contains(&(0, "node-1".into())));
    for shard in 0..2 {
        let left = fleet.kept.journal("node-1", shard);
        assert_eq!(left.len(), 1, "the fence is left");
        assert!(matches!(JournalEntry::read(&left[0].1), Some(JournalEntry::Fence(_))));
    }
    fleet.go(30_000);
    assert_eq!(fleet.adopted.len(), 8, "{:?}", fleet.adopted);
}

#[test]
fn a_lost_node_cannot_store_anything_behind_what_it_knew() {
    let mut fleet = Fleet::new(2);
    let before = fleet.kept.journal("node-1", 0).last().map(|last| last.0);
    fleet.nodes[1] = None;
    fleet.go(10_000);
    let place = KeptAt::Journal("node-1".into(), 0);
    let reply = fleet.kept.obey(place, KeepRequest::Store(before, vec![1]));
    assert_eq!(reply, KeepReply::Refused);
}

#[test]
fn an_adopter_may_die_at_any_point() {
    for requests in 1..60 {
        let mut fleet = Fleet::new(3);
        fleet.nodes[2] = None;
        fleet.requests = 0;
        fleet.go_until(20_000, requests);
        fleet.nodes[0] = None;
        fleet.go(30_000);
        let done = fleet.over.iter().any(|over| *over == (0, "node-2".into()));
        // What the first adopter had stored is in its own journals, which the second one adopts.
        if !done {
            fleet.check(2, 1);
        }
        fleet.check(0, 1);
    }
}

#[test]
fn a_node_that_is_back_goes_on_with_what_its_adopter_left() {
    let mut fleet = Fleet::new(2);
    fleet.nodes[1] = None;
    fleet.requests = 0;
    // Up to where both journals are fenced.
    while fleet
        .kept
        .journal("node-1", 1)
        .iter()
        .all(|entry| !matches!(JournalEntry::read(&entry.1), Some(JournalEntry::Fence(_))))
    {
        fleet.go(50);
    }
    fleet.adopted.clear();
    fleet.nodes[0] = None;
    fleet.start(1);
    // It has ended its sessions, and stores others.
    let place = || KeptAt::Journal("node-1".into(), 0);
    let bytes = batch(40, "new");
    let total = bytes.len() as u32;
    let part = JournalPart {
        log: 1,
        epoch: 9,
        until: 1,
        needed: 1,
        batch: 1,
        offset: 0,
        total,
        bytes: &bytes,
    };
    fleet.kept.obey(place(), KeepRequest::Store(None, JournalEntry::Part(part).write()));
    fleet.go(10_000);
    fleet.check(1, 1);
    assert!(fleet.adopted.iter().all(|(_, client)| client != "new"), "{:?}", fleet.adopted);
    let last = fleet.kept.journal("node-1", 0).last().cloned().unwrap();
    assert!(matches!(JournalEntry::read(&last.1), Some(JournalEntry::Part(_))), "it is trimmed");
}

#[test]
fn journals_of_a_later_release_are_left_to_nodes_that_read_them() {
    let mut fleet = Fleet::new(3);
    fleet.start_of(1, 2);
    fleet.start_of(2, 2);
    fleet.go(5000);
    fleet.nodes[2] = None;
    fleet.go(15_000);
    fleet.check(2, 1);
    assert!(fleet.adopted.iter().all(|(by, _)| *by == 1), "{:?}", fleet.adopted);
}

#[test]
fn what_began_anew_and_what_is_damaged_is_not_adopted() {
    let mut fleet = Fleet::new(2);
    let now = fleet.now;
    fleet.nodes[0].as_mut().unwrap().recent.note("client-1-3", "node-0", true, now);
    fleet.nodes[0].as_mut().unwrap().recent.note("client-1-4", "node-1", true, now);
    fleet.kept.journal("node-1", 0).remove(1);
    fleet.nodes[1] = None;
    fleet.go(10_000);
    assert_eq!(fleet.adopted, [], "the first journal is damaged");
    let counts = fleet.nodes[0].as_ref().unwrap().counts;
    assert_eq!((counts.damaged, counts.done), (1, 0));
    let mut fleet = Fleet::new(2);
    fleet.nodes[0].as_mut().unwrap().recent.note("client-1-3", "node-0", true, now);
    fleet.nodes[0].as_mut().unwrap().recent.note("client-1-4", "node-1", true, now);
    fleet.nodes[1] = None;
    fleet.go(10_000);
    assert_eq!(fleet.adopted.len(), 7);
    assert!(fleet.adopted.iter().all(|(_, client)| client != "client-1-3"));
}
