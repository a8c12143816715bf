//! Will messages of clients whose node dies: one of the other nodes publishes them.
//!
//! Each node tells all others the will messages of its clients ([`LocalWills`], [`WillTelling`]),
//! and takes one back when it is deleted, sent, or its client connects elsewhere. The others keep
//! them ([`FarWills`]) within a bound in bytes. A run of a node is over when the node is down, has
//! ended or has restarted. Then each of its will messages is published when it is due: after its
//! delay, counted from the moment when the end of the run was noticed, or from the end of the
//! connection if that was told.
//!
//! # Which node publishes
//! The nodes that are there are ordered by their names. The first one publishes what is due and
//! tells the others each will message ([`NodeRecord::WillSent`]), which they then forget. The next
//! node waits: when it has not been told any for [`TURN`] milliseconds, it publishes what it still
//! keeps, and so on. So a will message is published once, and is not lost when the first node did
//! not know it or has died as well. It is published twice if a node dies after publishing it and
//! before telling the others.
//!
//! A node does not publish while it is cut off from the engine or has just been, or while it sees
//! less than half of the nodes that it knows: then more nodes are on the other side of a partition,
//! with their clients. When a node in that position gives the others up, it forgets and counts
//! their will messages.
//!
//! # Clients that return
//! A client that has connected to another node meanwhile is not gone. Its claim ([`super::claims`])
//! removes its older will messages at whichever node they were told [MQTT-3.1.3-9]. A node that was
//! only partitioned from the others tells all its will messages again.
//!
//! # Stored sessions
//! A node that has stored its sessions has their will messages when it returns. So the others know
//! of each will message whether it is stored ([`FarWill::stored`]), and remember which of a dead
//! node's stored will messages were published or taken back by a claim. When the node is back, it
//! is told these ([`NodeRecord::WillSent`]), and the others leave the rest to it. It waits for that
//! before it publishes any. With `durable`, stored will messages are not told: the node that adopts
//! the sessions publishes them ([`super::adoption`]).

mod local;

mod moving;

use super::claims::NodeClaims;
use super::clock::Offset;
use super::record::{NodeRecord, WillRef};
use super::settled::SettledWills;
use crate::limits::CLUSTER_PEERS;
use crate::mesh::moves::{FarWill, WillDue};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;
use std::ops::Bound;

pub use local::{LocalWills, WillTelling};

/// Milliseconds without news of the nodes before it, after which a node publishes.
const TURN: u64 = 3000;
/// Will messages that are sorted by due time, or forgotten, at a time.
const SLICE: usize = 1024;
/// Bytes of a will message's entries here, besides its ClientId and its message.
const PLACE: usize = size_of::<KeptWill>() + size_of::<Box<str>>() + 64;

/// A will message of another node's client.
struct KeptWill {
    stamp: u64,
    will: FarWill,
}

/// The state of a node's run that is over.
struct RunOver {
    since: Instant,
    /// The ClientId up to which the will messages are in `due`.
    sorted: Option<Box<str>>,
    is_sorted: bool,
    /// When each will message is due. Some may have been removed since.
    due: BTreeSet<(Instant, Box<str>)>,
    /// When another node last told that it has published one.
    heard: Instant,
}

/// A run of another node, with the will messages of its clients.
struct NodeRun {
    node: Box<str>,
    incarnation: u64,
    wills: BTreeMap<Box<str>, KeptWill>,
    over: Option<RunOver>,
}

impl NodeRun {
    fn new(node: &str, incarnation: u64) -> NodeRun {
        NodeRun { node: node.into(), incarnation, wills: BTreeMap::new(), over: None }
    }

    fn end(&mut self, now: Instant) {
        self.over.get_or_insert(RunOver {
            since: now,
            sorted: None,
            is_sorted: false,
            due: BTreeSet::new(),
            heard: now,
        });
    }

    /// Sorts some will messages by due time. Returns true when there are more to sort.
    fn sort(&mut self) -> bool {
        let Some(over) = self.over.as_mut().filter(|over| !over.is_sorted) else { return false };
        let from = over.sorted.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.wills.range::<str, _>((from, Bound::Unbounded)).take(SLICE);
        let mut last = None;
        for (client, kept) in some {
            over.due.insert((due_at(&kept.will, over.since), client.clone()));
            last = Some(client);
        }
        match last {
            Some(client) => over.sorted = Some(client.clone()),
            None => over.is_sorted = true,
        }
        !over.is_sorted
    }

    /// Takes out a will message that this node is to publish now. `before` is the number of nodes
    /// before this one in the order.
    fn next_due(&mut self, before: u64, now: Instant) -> Option<(Box<str>, KeptWill)> {
        let over = self.over.as_mut()?;
        while let Some((due, client)) = over.due.first() {
            let turn = if before == 0 { *due } else { (*due).max(over.heard) };
            if turn.plus_millis(before * TURN) > now {
                return None;
            }
            let client = client.clone();
            over.due.pop_first();
            if let Some(kept) = self.wills.remove(&client) {
                return Some((client, kept));
            }
        }
        None
    }
}

/// When a will message is due whose client's connection ended at `ended`, as far as is known.
fn due_at(will: &FarWill, ended: Instant) -> Instant {
    match will.due {
        WillDue::After(_) if Mutant::ClusterWillDelayIgnored.is_on() => ended,
        WillDue::After(seconds) => ended.plus_seconds(seconds),
        WillDue::At(at) => at,
    }
}

fn size(client: &str, will: &FarWill) -> usize {
    client.len() + will.message.size() + PLACE
}

/// Counts about other nodes' will messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WillCounts {
    /// Will messages of other nodes' clients that this node has published.
    pub published: u64,
    /// Will messages for which there was no room here.
    pub no_room: u64,
    /// Will messages that were forgotten because less than half of the nodes were left here.
    pub no_majority: u64,
}

/// The nodes that are there when a will message is to be published.
pub struct Survivors<'a> {
    /// This node's name.
    pub name: &'a str,
    /// The names of the other nodes.
    pub others: Vec<&'a str>,
    /// Whether this node publishes other nodes' will messages at all.
    pub may_publish: bool,
    /// How many will messages may be published now.
    pub room: usize,
}

impl Survivors<'_> {
    /// The number of nodes before this one in the order. A node that has restarted does not count
    /// for its own will messages, because it has forgotten them.
    fn before(&self, node: &str) -> u64 {
        if Mutant::ClusterWillTwice.is_on() {
            return 0;
        }
        self.others.iter().filter(|&&other| other != node && other < self.name).count() as u64
    }
}

/// A will message that is to be published now.
pub struct DueWill {
    /// The name of the client's node.
    pub node: Box<str>,
    /// The incarnation of that node.
    pub incarnation: u64,
    /// The ClientId.
    pub client: Box<str>,
    /// The will message.
    pub will: FarWill,
}

/// The will messages of other nodes' clients.
pub struct FarWills {
    /// The present runs, by the nodes' numbers.
    runs: Vec<Option<NodeRun>>,
    /// Runs of nodes that were given up or have restarted.
    ended: Vec<NodeRun>,
    /// Will messages that are being released, some at a time; they still count in `bytes`.
    forgotten: Vec<BTreeMap<Box<str>, KeptWill>>,
    own: Box<str>,
    /// ClientIds of this node whose stored will messages others have settled.
    pub own_settled: Vec<Box<str>>,
    /// What became of stored will messages of runs that are over, for their nodes.
    settled: SettledWills,
    bytes: usize,
    most: usize,
    /// Counts about them.
    pub counts: WillCounts,
}

impl FarWills {
    /// Takes in what a node's record says of will messages, and what a claim means for them.
    pub fn heard(
        &mut self,
        node: u8,
        record: &NodeRecord<'_>,
        offset: &Offset,
        claims: &mut NodeClaims,
        now: Instant,
    ) {
        match *record {
            NodeRecord::Will(will) => {
                claims.see_stamp(will.stamp);
                self.set(node, &will, false, offset);
            }
            NodeRecord::StoredWill(will) => {
                claims.see_stamp(will.stamp);
                self.set(node, &will, true, offset);
            }
            NodeRecord::NoWill(client) => self.remove(node, client),
            NodeRecord::NoWills => self.told_anew(node),
            NodeRecord::WillSent(_, name, client) if *name == *self.own => {
                self.own_settled.push(client.into());
            }
            NodeRecord::WillSent(incarnation, name, client) => {
                self.sent(name, incarnation, client, now);
            }
            NodeRecord::Claim(_, stamp, _, client) => self.claimed(Some(node), client, stamp, now),
            _ => {}
        }
    }

    /// Those that the node `own` keeps, at most `most` bytes.
    pub fn new(own: &str, most: usize) -> FarWills {
        FarWills {
            own: own.into(),
            own_settled: Vec::new(),
            runs: (0..CLUSTER_PEERS).map(|_| None).collect(),
            ended: Vec::new(),
            forgotten: Vec::new(),
            settled: SettledWills::default(),
            bytes: 0,
            most,
            counts: WillCounts::default(),
        }
    }

    /// The number of will messages that are kept.
    pub fn len(&self) -> usize {
        self.runs.iter().flatten().chain(&self.ended).map(|run| run.wills.len()).sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the will messages, including those that are being released.
    pub fn bytes(&self) -> usize {
        self.bytes + self.settled.bytes()
    }

    fn run_of(&mut self, number: u8) -> Option<&mut NodeRun> {
        self.runs.get_mut(usize::from(number))?.as_mut()
    }

    /// A node has joined under this number.
    pub fn joined(&mut self, number: u8, node: &str, incarnation: u64) {
        // A run that was given up and returns unchanged still has its clients.
        let same = |run: &mut NodeRun| *run.node == *node && run.incarnation == incarnation;
        let back: Vec<NodeRun> = self.ended.extract_if(.., same).collect();
        back.into_iter().for_each(|run| self.forget(run.wills));
        self.leave_stored(node, incarnation);
        if let Some(place) = self.runs.get_mut(usize::from(number)) {
            *place = Some(NodeRun::new(node, incarnation));
        }
    }

    /// A node has restarted: its former run is over.
    pub fn restarted(&mut self, number: u8, incarnation: u64, now: Instant) {
        let Some(run) = self.run_of(number) else { return };
        let next = NodeRun::new(&run.node, incarnation);
        let mut last = std::mem::replace(run, next);
        last.end(now);
        let node = last.node.clone();
        if !last.wills.is_empty() {
            self.ended.push(last);
        }
        self.leave_stored(&node, incarnation);
    }

    /// A node is back with what it has stored: its stored will messages of runs before
    /// `incarnation` are its own again.
    fn leave_stored(&mut self, node: &str, incarnation: u64) {
        if Mutant::ClusterWillStoredTwice.is_on() {
            return;
        }
        let of = |run: &&mut NodeRun| *run.node == *node && run.incarnation < incarnation;
        for run in self.ended.iter_mut().filter(of) {
            let (stored, left) = std::mem::take(&mut run.wills)
                .into_iter()
                .partition(|(_, kept): &(Box<str>, KeptWill)| kept.will.stored);
            run.wills = left;
            self.forgotten.push(stored);
        }
    }

    /// A ClientId whose stored will message is no more the node's to publish, for that node of that
    /// incarnation, with the incarnation of the run that it was of. `None` when there is none.
    pub fn next_settled(&mut self, node: &str, incarnation: u64) -> Option<(u64, Box<str>)> {
        self.settled.next(node, incarnation)
    }

    /// A node is down: its run is over, unless it returns.
    pub fn silent(&mut self, number: u8, now: Instant) {
        if let Some(run) = self.run_of(number) {
            run.end(now);
        }
    }

    /// A node that was down has returned, with its clients.
    pub fn back(&mut self, number: u8) {
        if let Some(run) = self.run_of(number) {
            run.over = None;
            let (node, incarnation) = (run.node.clone(), run.incarnation);
            // Its clients are connected, or their sessions are there.
            self.settled.forget(&node, incarnation);
        }
    }

    /// A node is given up. With `forget`, its will messages are forgotten, as this node is in a
    /// minority.
    pub fn given_up(&mut self, number: u8, forget: bool, now: Instant) {
        let run = self.runs.get_mut(usize::from(number)).and_then(Option::take);
        let Some(mut run) = run.filter(|run| !run.wills.is_empty()) else { return };
        run.end(now);
        if forget {
            self.counts.no_majority += run.wills.len() as u64;
            self.forget(run.wills);
        } else {
            self.ended.push(run);
        }
    }

    /// All will messages of this node are told again from here on.
    pub fn told_anew(&mut self, number: u8) {
        let Some(run) = self.run_of(number) else { return };
        let before = std::mem::take(&mut run.wills);
        self.forget(before);
    }

    /// Keeps the will message of a client of that node; `offset` converts the node's times.
    pub fn set(&mut self, number: u8, told: &WillRef<'_>, stored: bool, offset: &Offset) {
        self.remove(number, told.client);
        let due = match told.due {
            WillDue::At(at) => WillDue::At(offset.ours(at)),
            after => after,
        };
        let message = Message::new(&told.message, &mut Vec::new());
        let will = FarWill { message, due, message_expiry: told.message_expiry, stored };
        let size = size(told.client, &will);
        // When a node tells all its will messages again, the former ones must not take their room.
        while self.bytes() + size > self.most && self.forget_one() {}
        if self.bytes() + size > self.most {
            self.counts.no_room += 1;
            return;
        }
        let Some(run) = self.runs.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return;
        };
        self.settled.remove((&*run.node, run.incarnation), told.client);
        if let Some(over) = &mut run.over {
            over.due.insert((due_at(&will, over.since), told.client.into()));
        }
        run.wills.insert(told.client.into(), KeptWill { stamp: told.stamp, will });
        self.bytes += size;
    }

    /// A client of that node has no will message any more.
    pub fn remove(&mut self, number: u8, client: &str) {
        let gone = self.run_of(number).and_then(|run| run.wills.remove(client));
        self.bytes -= gone.map_or(0, |kept| size(client, &kept.will));
    }

    /// Another node has published a will message.
    pub fn sent(&mut self, node: &str, incarnation: u64, client: &str, now: Instant) {
        let of = |run: &&mut NodeRun| *run.node == *node && run.incarnation == incarnation;
        for run in self.runs.iter_mut().flatten().chain(&mut self.ended).filter(of) {
            if let Some(over) = &mut run.over {
                over.heard = over.heard.max(now);
            }
            let Some(kept) = run.wills.remove(client) else { continue };
            self.bytes -= size(client, &kept.will);
            if kept.will.stored {
                self.settled.note((&*run.node, run.incarnation), client, None, self.most);
            }
        }
    }

    /// A client has connected to the node with that number (`None` for this node): its will
    /// messages that were told before are void.
    pub fn claimed(&mut self, by: Option<u8>, client: &str, stamp: u64, now: Instant) {
        if Mutant::ClusterWillClaimIgnored.is_on() {
            return;
        }
        let runs = self.runs.iter_mut().enumerate();
        // The node of the connection tells itself what happens to its own will messages.
        let others = runs.filter(|(number, _)| by != Some(*number as u8));
        for run in others.filter_map(|(_, run)| run.as_mut()).chain(&mut self.ended) {
            if run.wills.get(client).is_some_and(|kept| kept.stamp < stamp)
                && let Some(kept) = run.wills.remove(client)
            {
                self.bytes -= size(client, &kept.will);
                if kept.will.stored {
                    let up = Some(now).filter(|_| run.over.is_none());
                    self.settled.note((&*run.node, run.incarnation), client, up, self.most);
                }
            }
        }
    }

    /// Hands out the will messages that this node is to publish now. Returns true when there is
    /// more to do at once.
    pub fn run(
        &mut self,
        now: Instant,
        survivors: &Survivors<'_>,
        publish: &mut dyn FnMut(DueWill),
    ) -> bool {
        let mut more = self.forget_some();
        self.run_settled(now);
        let mut room = if survivors.may_publish { survivors.room } else { 0 };
        for run in self.runs.iter_mut().flatten().chain(&mut self.ended) {
            if run.over.is_none() {
                continue;
            }
            more |= run.sort();
            let before = survivors.before(&run.node);
            while room > 0
                && let Some((client, kept)) = run.next_due(before, now)
            {
                room -= 1;
                self.bytes -= size(&client, &kept.will);
                self.counts.published += 1;
                let (node, incarnation) = (run.node.clone(), run.incarnation);
                if kept.will.stored {
                    self.settled.note((&*node, incarnation), &client, None, self.most);
                }
                publish(DueWill { node, incarnation, client, will: kept.will });
            }
        }
        self.ended.retain(|run| !run.wills.is_empty());
        more || (survivors.may_publish && room == 0 && survivors.room > 0)
    }

    /// Forgets claims that nodes have heard of themselves.
    fn run_settled(&mut self, now: Instant) {
        let runs = &self.runs;
        self.settled.run(now, |node, incarnation| {
            let of = |run: &&NodeRun| *run.node == *node && run.incarnation == incarnation;
            runs.iter().flatten().find(of).is_some_and(|run| run.over.is_none())
        });
    }

    fn forget(&mut self, wills: BTreeMap<Box<str>, KeptWill>) {
        if !wills.is_empty() {
            self.forgotten.push(wills);
        }
    }

    /// Whether some run is over, or will messages are to be released.
    pub fn has_work(&self) -> bool {
        let is_over = |run: &NodeRun| run.over.is_some() && !run.wills.is_empty();
        !self.forgotten.is_empty()
            || !self.settled.is_sure()
            || !self.ended.is_empty()
            || self.runs.iter().flatten().any(is_over)
    }

    /// Releases some will messages. Returns true when there are more.
    fn forget_some(&mut self) -> bool {
        (0..SLICE).all(|_| self.forget_one()) && !self.forgotten.is_empty()
    }

    /// Releases one will message. Returns false when there is none to release.
    fn forget_one(&mut self) -> bool {
        while let Some(some) = self.forgotten.last_mut() {
            if let Some((client, kept)) = some.pop_first() {
                self.bytes -= size(&client, &kept.will);
                return true;
            }
            self.forgotten.pop();
        }
        false
    }
}

#[cfg(test)]
#[path = "wills_tests.rs"]
mod tests;
