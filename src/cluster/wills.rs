//! Wills of clients whose node dies: one of the other nodes publishes them.
//!
//! Each node tells all others the wills of its clients ([`LocalWills`], [`WillTelling`]), and takes
//! one back when it is deleted, sent, or its client is elsewhere. The others keep them
//! ([`FarWills`]), up to so many bytes. A run of a node is over when the node is down, has ended or
//! was started anew. Then each of its wills is published when it is due: after its delay, counted
//! from when that was noticed, or from when the connection ended if that was told.
//!
//! # Who publishes
//! The nodes that are there have an order, by their names. The first one publishes what is due, and
//! tells the others of each will ([`Record::WillSent`]), which forget it. The next one waits: when
//! it has not heard of any for [`TURN`] milliseconds, it publishes what it still keeps, and so on.
//! So a will is published once, and is not lost when the first node did not know it, or has died as
//! well. It is published twice if a node dies after it has published one and before it could say
//! so.
//!
//! Nobody publishes that is or was just cut off from the engine, or that sees less than half of the
//! nodes that it knows: more are on the other side of a division then, with their clients. When a
//! node in that place gives the others up, it forgets their wills, and counts them.
//!
//! # Who is back
//! A client that has connected to some node since then is not gone: its claim ([`super::claims`])
//! takes its wills back that are older, wherever they were told [MQTT-3.1.3-9]. A node that was
//! only divided from the others tells all its wills again.
//!
//! Wills of sessions that their node stores are not told: it sends them when it comes back.

use super::clock::Offset;
use super::record::{Record, WillRef};
use crate::limits::CLUSTER_PEERS;
use crate::mesh::moves::{FarWill, WillDue};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::size_of;
use std::ops::Bound;

/// Milliseconds without news of the nodes before it, after which a node publishes.
const TURN: u64 = 3000;
/// Wills that are put in the order in which they are due, or forgotten, at once.
const SLICE: usize = 1024;
/// Changes that wait to be told to one node; with more of them it is told everything again.
const CHANGES: usize = 1 << 16;
/// Bytes of a will besides its client's name and its message: its places here.
const PLACE: usize = size_of::<KeptWill>() + size_of::<Box<str>>() + 64;

/// The wills of this node's clients, by ClientId, with the stamp of when each was told.
#[derive(Default)]
pub struct LocalWills {
    all: BTreeMap<Box<str>, (u64, FarWill)>,
    bytes: usize,
}

impl LocalWills {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Bytes of their places. The messages belong to the sessions.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The will of that client from now on. True when there is something to tell.
    pub fn set(&mut self, client: &str, stamp: u64, will: Option<FarWill>) -> bool {
        let Some(will) = will else {
            let had = self.all.remove(client).is_some();
            self.bytes -= if had { client.len() + PLACE } else { 0 };
            return had && !Mutant::ClusterWillKept.is_on();
        };
        if self.all.insert(client.into(), (stamp, will)).is_none() {
            self.bytes += client.len() + PLACE;
        }
        !Mutant::ClusterWillUntold.is_on()
    }

    fn after(&self, client: Option<&str>) -> Option<&str> {
        let from = client.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.all.range::<str, _>((from, Bound::Unbounded)).next();
        next.map(|(client, _)| &**client)
    }

    fn tell(&self, client: &str, tell: &mut dyn FnMut(&Record<'_>)) {
        match self.all.get(client) {
            None => tell(&Record::NoWill(client)),
            Some((stamp, will)) => {
                let FarWill { message, due, message_expiry } = will;
                tell(&Record::Will(WillRef {
                    stamp: *stamp,
                    due: *due,
                    message_expiry: *message_expiry,
                    client,
                    message: message.view(),
                }));
            }
        }
    }
}

/// How far wills have been told.
#[derive(Default)]
enum HowFar {
    /// Nothing has.
    #[default]
    Begin,
    /// Those of the ClientIds up to this one; `None`: of none yet.
    UpTo(Option<Box<str>>),
    /// All.
    Done,
}

/// How far another node has been told.
#[derive(Default)]
pub struct WillTelling {
    stage: HowFar,
    /// ClientIds before that, of whose wills it has to be told again.
    changes: VecDeque<Box<str>>,
}

impl WillTelling {
    /// Everything is told again.
    pub fn begin(&mut self) {
        *self = WillTelling::default();
    }

    /// True when all has been told.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, HowFar::Done) && self.changes.is_empty()
    }

    /// A client's will has changed.
    pub fn changed(&mut self, client: &str) {
        let known = match &self.stage {
            HowFar::Begin => false,
            HowFar::UpTo(last) => last.as_deref().is_some_and(|last| client <= last),
            HowFar::Done => true,
        };
        if !known {
            return;
        }
        if self.changes.len() >= CHANGES {
            return self.begin();
        }
        self.changes.push_back(client.into());
    }

    /// Tells one thing more; false when there is none.
    pub fn next(&mut self, wills: &LocalWills, tell: &mut dyn FnMut(&Record<'_>)) -> bool {
        if let Some(client) = self.changes.pop_front() {
            wills.tell(&client, tell);
            return true;
        }
        let last = match &self.stage {
            HowFar::Done => return false,
            HowFar::Begin => {
                tell(&Record::NoWills);
                self.stage = HowFar::UpTo(None);
                return true;
            }
            HowFar::UpTo(last) => last.as_deref(),
        };
        match wills.after(last) {
            None => {
                self.stage = HowFar::Done;
                false
            }
            Some(client) => {
                wills.tell(client, tell);
                self.stage = HowFar::UpTo(Some(client.into()));
                true
            }
        }
    }
}

/// A will of another node's client.
struct KeptWill {
    stamp: u64,
    will: FarWill,
}

/// What is known of a run of a node that is over.
struct RunOver {
    since: Instant,
    /// The ClientId up to which the wills are in `due`.
    sorted: Option<Box<str>>,
    is_sorted: bool,
    /// When each is due. Some may be gone by then.
    due: BTreeSet<(Instant, Box<str>)>,
    /// When another node said last that it has published one.
    heard: Instant,
}

/// A run of another node.
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

    /// Puts some wills in the order in which they are due; true when there are more.
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

    /// Takes out a will that this node is to publish now. `before`: how many nodes come before it.
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

/// When a will is due whose client's connection was over at `ended`, as far as is known.
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

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WillCounts {
    /// Wills of other nodes' clients that this node has published.
    pub published: u64,
    /// Wills that found no room here.
    pub no_room: u64,
    /// Wills that were forgotten, as less than half of the nodes were left here.
    pub no_majority: u64,
}

/// Who is there, when a will is to be published.
pub struct Survivors<'a> {
    /// This node.
    pub name: &'a str,
    /// The others.
    pub others: Vec<&'a str>,
    /// Whether this node publishes wills of others at all.
    pub may_publish: bool,
    /// How many may be published now.
    pub room: usize,
}

impl Survivors<'_> {
    /// How many nodes come before this one. A node that was started anew does not publish its own
    /// wills: it has forgotten them.
    fn before(&self, node: &str) -> u64 {
        if Mutant::ClusterWillTwice.is_on() {
            return 0;
        }
        self.others.iter().filter(|&&other| other != node && other < self.name).count() as u64
    }
}

/// A will that is to be published now.
pub struct DueWill {
    /// The client's node, and which run of it.
    pub node: Box<str>,
    /// The same.
    pub incarnation: u64,
    /// Whose it is.
    pub client: Box<str>,
    /// The will.
    pub will: FarWill,
}

/// The wills of other nodes' clients.
pub struct FarWills {
    /// By the numbers of the nodes.
    runs: Vec<Option<NodeRun>>,
    /// Runs of nodes that were given up, or were started anew.
    ended: Vec<NodeRun>,
    /// What is forgotten, some at a time.
    forgotten: Vec<BTreeMap<Box<str>, KeptWill>>,
    bytes: usize,
    most: usize,
    /// What is counted.
    pub counts: WillCounts,
}

impl FarWills {
    /// At most so many bytes are kept.
    pub fn new(most: usize) -> FarWills {
        FarWills {
            runs: (0..CLUSTER_PEERS).map(|_| None).collect(),
            ended: Vec::new(),
            forgotten: Vec::new(),
            bytes: 0,
            most,
            counts: WillCounts::default(),
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.runs.iter().flatten().chain(&self.ended).map(|run| run.wills.len()).sum()
    }

    /// True when none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of what is kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn run_of(&mut self, number: u8) -> Option<&mut NodeRun> {
        self.runs.get_mut(usize::from(number))?.as_mut()
    }

    /// A node has joined under that number.
    pub fn joined(&mut self, number: u8, node: &str, incarnation: u64) {
        // One that was given up and is the same has its clients still.
        let same = |run: &mut NodeRun| *run.node == *node && run.incarnation == incarnation;
        let back: Vec<NodeRun> = self.ended.extract_if(.., same).collect();
        back.into_iter().for_each(|run| self.forget(run.wills));
        if let Some(place) = self.runs.get_mut(usize::from(number)) {
            *place = Some(NodeRun::new(node, incarnation));
        }
    }

    /// A node was started anew: its last run is over.
    pub fn restarted(&mut self, number: u8, incarnation: u64, now: Instant) {
        let Some(run) = self.run_of(number) else { return };
        let next = NodeRun::new(&run.node, incarnation);
        let mut last = std::mem::replace(run, next);
        last.end(now);
        if !last.wills.is_empty() {
            self.ended.push(last);
        }
    }

    /// A node is down.
    pub fn silent(&mut self, number: u8, now: Instant) {
        if let Some(run) = self.run_of(number) {
            run.end(now);
        }
    }

    /// A node that was down is back, with its clients.
    pub fn back(&mut self, number: u8) {
        if let Some(run) = self.run_of(number) {
            run.over = None;
        }
    }

    /// A node is given up. `forget`: this node is one of the fewer that are left.
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

    /// All wills of that node are told from here on.
    pub fn told_anew(&mut self, number: u8) {
        let Some(run) = self.run_of(number) else { return };
        let before = std::mem::take(&mut run.wills);
        self.forget(before);
    }

    /// The will of a client of that node, whose clock differs by `offset`.
    pub fn set(&mut self, number: u8, told: &WillRef<'_>, offset: &Offset) {
        self.remove(number, told.client);
        let due = match told.due {
            WillDue::At(at) => WillDue::At(offset.ours(at)),
            after => after,
        };
        let message = Message::new(&told.message, &mut Vec::new());
        let will = FarWill { message, due, message_expiry: told.message_expiry };
        let size = size(told.client, &will);
        if self.bytes + size > self.most {
            self.counts.no_room += 1;
            return;
        }
        let Some(run) = self.run_of(number) else { return };
        if let Some(over) = &mut run.over {
            over.due.insert((due_at(&will, over.since), told.client.into()));
        }
        run.wills.insert(told.client.into(), KeptWill { stamp: told.stamp, will });
        self.bytes += size;
    }

    /// A client of that node has no will any more.
    pub fn remove(&mut self, number: u8, client: &str) {
        let gone = self.run_of(number).and_then(|run| run.wills.remove(client));
        self.bytes -= gone.map_or(0, |kept| size(client, &kept.will));
    }

    /// Another node has published a will.
    pub fn sent(&mut self, node: &str, incarnation: u64, client: &str, now: Instant) {
        let of = |run: &&mut NodeRun| *run.node == *node && run.incarnation == incarnation;
        for run in self.runs.iter_mut().flatten().chain(&mut self.ended).filter(of) {
            if let Some(over) = &mut run.over {
                over.heard = over.heard.max(now);
            }
            let gone = run.wills.remove(client);
            self.bytes -= gone.map_or(0, |kept| size(client, &kept.will));
        }
    }

    /// A client has connected to the node with that number (`None`: this one): what it was told to
    /// leave before is not wanted any more.
    pub fn claimed(&mut self, by: Option<u8>, client: &str, stamp: u64) {
        if Mutant::ClusterWillClaimIgnored.is_on() {
            return;
        }
        let runs = self.runs.iter_mut().enumerate();
        // That node says itself what has become of its own.
        let others = runs.filter(|(number, _)| by != Some(*number as u8));
        for run in others.filter_map(|(_, run)| run.as_mut()).chain(&mut self.ended) {
            if run.wills.get(client).is_some_and(|kept| kept.stamp < stamp)
                && let Some(kept) = run.wills.remove(client)
            {
                self.bytes -= size(client, &kept.will);
            }
        }
    }

    /// Hands out what this node is to publish now. True when there is more to do at once.
    pub fn run(
        &mut self,
        now: Instant,
        survivors: &Survivors<'_>,
        publish: &mut dyn FnMut(DueWill),
    ) -> bool {
        let mut more = self.forget_some();
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
                publish(DueWill { node, incarnation, client, will: kept.will });
            }
        }
        self.ended.retain(|run| !run.wills.is_empty());
        more || (survivors.may_publish && room == 0 && survivors.room > 0)
    }

    fn forget(&mut self, wills: BTreeMap<Box<str>, KeptWill>) {
        if !wills.is_empty() {
            self.forgotten.push(wills);
        }
    }

    /// Whether some run is over, or something is to be forgotten.
    pub fn has_work(&self) -> bool {
        let is_over = |run: &NodeRun| run.over.is_some() && !run.wills.is_empty();
        !self.forgotten.is_empty()
            || !self.ended.is_empty()
            || self.runs.iter().flatten().any(is_over)
    }

    /// Releases some of what is forgotten; true when there is more.
    fn forget_some(&mut self) -> bool {
        let Some(some) = self.forgotten.last_mut() else { return false };
        for _ in 0..SLICE {
            let Some((client, kept)) = some.pop_first() else {
                self.forgotten.pop();
                break;
            };
            self.bytes -= size(&client, &kept.will);
        }
        !self.forgotten.is_empty()
    }
}

#[cfg(test)]
#[path = "wills_tests.rs"]
mod tests;
