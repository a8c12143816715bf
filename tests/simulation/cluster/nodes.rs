//! Nodes without shards: what their brokers are told, and what has become of each message.

use super::engine::{Faults, Network, Wire};
use crate::rng::Rng;
use ringmq::cluster::claims::Whom;
use ringmq::cluster::frame::Abilities;
use ringmq::cluster::node::{Node, NodePlan, PeerStatus, Unsent, WhenCutOff};
use ringmq::cluster::peer::LocalBroker;
use ringmq::cluster::record::PassedRef;
use ringmq::ids::ShardId;
use ringmq::mesh::moves::{Retell, Retold, ToCluster, ToShard};
use ringmq::message::{MailPurpose, MessageRef, Reserve, Retain};
use ringmq::packet::Qos;
use ringmq::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Topics, which are the filters too.
const TOPICS: usize = 40;
const WINDOW: usize = 64 * 1024;
const GIVE_UP: u64 = 10_000;
/// Milliseconds that the clock of the first node is ahead.
const AHEAD: u64 = 7000;
/// Payload bytes at most.
const PAYLOAD: usize = 40_000;

/// What a publication is sent for.
const LIVE: MailPurpose =
    MailPurpose { deliver: true, retain: Retain::NONE, reserve: Reserve::NONE };

/// What a node's broker knows.
#[derive(Default)]
struct Told {
    /// Filters of other nodes, by their numbers here, and how often each is wanted: the same text
    /// may stand under two numbers for a moment.
    wanted: BTreeMap<(u8, String), u32>,
    /// The last message of each publisher, and the messages that came.
    last: BTreeMap<u64, u64>,
    came: Vec<(u64, u64)>,
    /// How many messages it takes now.
    room: usize,
    /// What its only shard was asked.
    asked: Vec<ToShard>,
}

impl LocalBroker for Told {
    fn want(&mut self, node: u8, filter: &str, wanted: bool) {
        let entry = (node, filter.to_owned());
        let count = self.wanted.entry(entry.clone()).or_default();
        *count = if wanted { *count + 1 } else { count.checked_sub(1).expect("it was wanted") };
        if *count == 0 {
            self.wanted.remove(&entry);
        }
    }

    fn publish(&mut self, message: &MessageRef<'_>, _: MailPurpose) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        let word = |at: usize| u64::from_le_bytes(message.payload[at..at + 8].try_into().unwrap());
        let (publisher, number) = (word(0), word(8));
        assert_eq!(message.payload.len(), word(16) as usize, "the length of a payload");
        let last = self.last.insert(publisher, number);
        assert!(last.is_none_or(|last| last < number), "{number} came after {last:?}");
        self.came.push((publisher, number));
        true
    }

    fn pass(&mut self, _: u8, _: &PassedRef<'_>) -> bool {
        unreachable!("nobody is in a share group");
    }

    fn tell(&mut self, _: Whom, what: ToShard) {
        self.asked.push(what);
    }

    fn ask_for_fences(&mut self) {
        self.asked.push(ToShard::Fence);
    }
}

struct Site {
    node: Node,
    told: Told,
    filters: BTreeSet<usize>,
    /// Messages that wait for another node, by its number.
    waiting: VecDeque<(u8, u64, usize)>,
}

struct Run {
    rng: Rng,
    now: u64,
    network: Network,
    sites: Vec<Site>,
    /// The number of the last message, and the place of its publisher.
    messages: u64,
    quiet: bool,
    incarnation: u64,
}

pub fn simulate(seed: u64) {
    let mut rng = Rng::new(seed ^ 0xc105);
    let count = rng.range(2, 4);
    let names: Vec<String> = (0..count).map(|at| format!("node-{at}")).collect();
    let mild = seed.is_multiple_of(4);
    let faults = Faults {
        lost: if mild { 0 } else { rng.below(150) },
        doubled: if mild { 0 } else { rng.below(100) },
        delayed: if mild { 0 } else { rng.below(400) },
        delay: rng.range(1, 60),
        usual: 1,
        changed: 0,
    };
    let network = Network::new(seed, names.clone(), faults);
    // The first one's clock is ahead.
    let started = |at: usize| if at == 0 { AHEAD * 1000 } else { 1 };
    let sites = names.iter().enumerate().map(|(at, name)| site(name, started(at), 0)).collect();
    let incarnation = AHEAD * 1000;
    let mut run = Run { rng, now: 1000, network, sites, messages: 0, quiet: false, incarnation };
    run.go(1500);
    match seed % 3 {
        0 => run.restart(),
        1 => run.divide(),
        _ => run.hang(),
    }
    // Late, so that few of them are put right by chance.
    run.network.faults.changed = if seed % 5 == 1 { 6 } else { 0 };
    run.go(800);
    run.heal();
    run.check(seed.is_multiple_of(3), seed % 5 == 1);
}

/// The answer of a shard that has no clients and keeps nothing.
fn answer(node: &mut Node, asked: ToShard, now: Instant) {
    let told = match asked {
        ToShard::Fence => ToCluster::Fenced,
        ToShard::Retell(Retell { node, ticket, .. }) => {
            let nothing = Retold { node, ticket, messages: Vec::new(), next: None };
            ToCluster::Retold(Box::new(nothing))
        }
        _ => return,
    };
    node.told(ShardId(0), told, now);
}

/// What a run of a node can do: one in four is of the release before formats and levels.
fn abilities(incarnation: u64) -> Abilities {
    if incarnation.is_multiple_of(4) { Abilities::LEAST } else { Abilities::OWN }
}

fn site(name: &str, incarnation: u64, now: u64) -> Site {
    let plan = NodePlan {
        name: name.to_owned(),
        incarnation,
        shards: 1,
        window: WINDOW,
        give_up: GIVE_UP,
        when_cut_off: WhenCutOff::Park,
        wills: 1 << 20,
        durable: false,
        abilities: abilities(incarnation),
    };
    Site {
        node: Node::new(plan, Instant(now)),
        told: Told::default(),
        filters: BTreeSet::new(),
        waiting: VecDeque::new(),
    }
}

impl Run {
    /// Lets everybody act for so long.
    fn go(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            for (at, frame) in self.network.arrived(self.now) {
                self.sites[at].node.received(&frame, Instant(self.now));
            }
            for at in 0..self.sites.len() {
                self.act(at);
                self.step(at);
            }
            let deadlines = self.sites.iter().map(|s| s.node.deadline(Instant(self.now)).0);
            let next = deadlines.chain(self.network.next()).min().unwrap_or(until);
            let busy = if self.quiet { 100 } else { self.rng.range(1, 20) as u64 };
            self.now = next.clamp(self.now + 1, self.now + busy);
        }
    }

    /// Clients come, go and publish.
    fn act(&mut self, at: usize) {
        let slow = !self.quiet && self.rng.chance(300);
        self.sites[at].told.room = if slow { 0 } else { 50 };
        if self.quiet {
            return;
        }
        if self.rng.chance(200) {
            let topic = self.rng.below(TOPICS);
            let site = &mut self.sites[at];
            let wanted = !site.filters.remove(&topic);
            if wanted {
                site.filters.insert(topic);
            }
            site.node.want(&format!("t/{topic}"), wanted);
        }
        for _ in 0..self.rng.below(4) {
            self.publish(at);
        }
    }

    fn publish(&mut self, at: usize) {
        let topic = self.rng.below(TOPICS);
        let name = format!("t/{topic}");
        let large = self.rng.chance(30);
        let length = 24 + if large { self.rng.below(PAYLOAD) } else { self.rng.below(600) };
        self.messages += 1;
        let wanting: Vec<u8> = {
            let wanted = self.sites[at].told.wanted.keys();
            wanted.filter(|(_, filter)| *filter == name).map(|&(node, _)| node).collect()
        };
        let number = self.messages;
        for node in wanting {
            self.sites[at].waiting.push_back((node, number, length));
        }
    }

    fn step(&mut self, at: usize) {
        let now = Instant(self.now);
        let site = &mut self.sites[at];
        let mut full = BTreeSet::new();
        let mut rest = VecDeque::new();
        while let Some((node, number, length)) = site.waiting.pop_front() {
            let mut payload = vec![0; length];
            payload[..8].copy_from_slice(&(at as u64).to_le_bytes());
            payload[8..16].copy_from_slice(&number.to_le_bytes());
            payload[16..24].copy_from_slice(&(length as u64).to_le_bytes());
            let message = MessageRef {
                topic: "t",
                properties: &[],
                payload: &payload,
                qos: Qos::AtLeastOnce,
                retain: false,
                expires: None,
                publisher: None,
            };
            if full.contains(&node) || !site.node.send(node, &message, LIVE, now) {
                full.insert(node);
                rest.push_back((node, number, length));
            }
        }
        site.waiting = rest;
        for _ in 0..20 {
            let wire = &mut Wire { network: &mut self.network, from: at, now: self.now };
            let more = site.node.run(now, &mut site.told, wire);
            for asked in std::mem::take(&mut site.told.asked) {
                answer(&mut site.node, asked, now);
            }
            if !more {
                break;
            }
        }
        for peer in site.node.status(now).1 {
            assert!(peer.window < WINDOW + PAYLOAD + 1024, "a window of {} bytes", peer.window);
        }
    }

    /// A node is killed, and started anew.
    fn restart(&mut self) {
        let at = self.rng.below(self.sites.len());
        self.incarnation += 1;
        if self.rng.chance(500) {
            let wait = self.rng.range(1, 5000) as u64;
            let apart = std::mem::replace(&mut self.network.apart[at], true);
            self.go(wait);
            self.network.apart[at] = apart;
        }
        let name = self.network.names[at].clone();
        self.sites[at] = site(&name, self.incarnation, self.now);
    }

    /// Some nodes do not hear the others for a while.
    fn divide(&mut self) {
        for at in 0..self.sites.len() {
            self.network.apart[at] = self.rng.chance(500);
        }
        let wait = [1000, 4000, 20_000][self.rng.below(3)];
        self.go(wait);
        self.network.apart.fill(false);
    }

    /// The engine carries nothing for a while.
    fn hang(&mut self) {
        self.network.hangs = true;
        let wait = [1000, 8000][self.rng.below(2)];
        self.go(wait);
        self.network.hangs = false;
    }

    /// The network is good, and nothing new happens.
    fn heal(&mut self) {
        self.quiet = true;
        self.network.faults = Faults::default();
        self.go(12_000);
    }

    fn check(&self, restarted: bool, changed: bool) {
        for (at, site) in self.sites.iter().enumerate() {
            let (counts, peers) = site.node.status(Instant(self.now));
            assert_eq!(peers.len(), self.sites.len() - 1, "nodes that node {at} knows");
            assert!(site.waiting.is_empty(), "{} messages wait for ever", site.waiting.len());
            for peer in &peers {
                assert!(peer.up && peer.settled, "{peer:?} as node {at} sees it");
                assert_eq!(peer.window, 0);
            }
            assert_eq!(counts.peers.malformed + counts.refused, 0);
            assert_eq!(site.node.filters(), site.filters.len());
            assert!(site.told.wanted.values().all(|&count| count == 1), "wanted more than once");
            if !restarted && !changed {
                assert_eq!(counts.peers.disagreements, 0, "node {at}: filters were not right");
            }
            if !restarted {
                self.check_clocks(at, &peers);
            }
            self.check_filters(at);
        }
        if !restarted {
            self.check_messages();
        }
    }

    /// Each node knows how far the clocks of the others are from its own.
    fn check_clocks(&self, at: usize, peers: &[PeerStatus]) {
        let ahead = |name: &str| if name == self.network.names[0] { AHEAD as i64 } else { 0 };
        let own = ahead(&self.network.names[at]);
        for PeerStatus { name, ahead: known, .. } in peers {
            let way = known - (own - ahead(name));
            assert!((0..=100).contains(&way), "{known} ms ahead of {name} at node {at}");
        }
    }

    /// Each node wants what its clients want.
    fn check_filters(&self, at: usize) {
        let site = &self.sites[at];
        let mut expected = BTreeSet::new();
        let mut found = BTreeSet::new();
        for (other, there) in self.sites.iter().enumerate().filter(|&(other, _)| other != at) {
            expected.extend(there.filters.iter().map(|topic| format!("{other}: t/{topic}")));
        }
        // Which number another node has here is not told: by what it wants.
        let numbers: BTreeSet<u8> = site.told.wanted.keys().map(|entry| entry.0).collect();
        for number in numbers {
            let of = |entry: &&(u8, String)| entry.0 == number;
            let wants: BTreeSet<&String> =
                site.told.wanted.keys().filter(of).map(|entry| &entry.1).collect();
            let same = |there: &Site| {
                let texts: BTreeSet<String> =
                    there.filters.iter().map(|topic| format!("t/{topic}")).collect();
                texts.iter().eq(wants.iter().copied())
            };
            let owner =
                (0..self.sites.len()).find(|&other| other != at && same(&self.sites[other]));
            let owner = owner.unwrap_or_else(|| panic!("nobody wants {wants:?}, as {at} was told"));
            found.extend(wants.iter().map(|filter| format!("{owner}: {filter}")));
        }
        assert_eq!(found, expected, "filters of other nodes at node {at}");
    }

    /// What was sent has come, or is counted.
    fn check_messages(&self) {
        let (mut sent, mut lost, mut came) = (0, 0, 0);
        for site in &self.sites {
            let counts = site.node.status(Instant(self.now)).0;
            sent += counts.peers.sent;
            lost += counts.peers.lost;
            assert_eq!(counts.unsent[Unsent::Full as usize], 0, "the policy is to wait");
            came += site.told.came.len() as u64;
        }
        // Of what counts as lost, some may have come: its acknowledgement was lost.
        assert!(came <= sent && came + lost >= sent, "{sent} sent, {came} came, {lost} lost");
        assert!(sent > 50, "only {sent} messages were sent");
    }
}
