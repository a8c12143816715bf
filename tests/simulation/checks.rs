//! What must hold: after each step, when the broker is at rest, and when everybody has left.

use crate::client::{Client, Fate, plain_sub};
use crate::model::{matches, plain};
use crate::plan::WATCHERS;
use crate::random::{LARGEST, Sim};
use ringmq::limits::{Budget, MAX_TOPIC_LENGTH, cost};
use ringmq::packet::Version;
use ringmq::shard::Subscribed;
use ringmq::shard::inquiry::{ClientQuery, Slice, SubscriptionRow};
use ringmq::topic::TopicHash;
use std::collections::BTreeMap;

/// A slice of retained messages may come on top of a full queue.
const SLICE_BYTES: usize = 16 * 1024;
/// What a shard may take in beyond the limit on memory: messages of 20,000 bytes to several.
const STEP_BYTES: u64 = 64 * 1024;
/// What a client is owed beyond the limit on memory: a buffer with acknowledgements, which may have
/// doubled once.
const CLIENT_BYTES: u64 = 2048;
/// What answers and one large message may add to a full output.
const SLACK: usize = 256 * 1024;

/// What may come on top of a step's shares, whatever they are: a packet, a batch's message, a
/// session caught up with fan-outs and such, which are begun when there is room for their
/// beginning. In 1,400 seeds the most were 604: wills that are due together, each for many.
const ITEM: u32 = 640;

/// The largest item: a slice of a replay. What it looks at, fetches, and mails or sends.
const SLICE: u32 =
    2048 * cost::VISIT + 8 * cost::FILTER + 64 * (cost::MAIL + cost::DELIVERY) + cost::SEND;

/// A connection that begins or ends, and what it is told.
const COMPLETION: u32 = cost::SESSION + cost::SEND;

/// What one step may cost: what is for clients, a share for each kind of work that goes on over
/// several steps, and on top of these the largest item of a kind that is done in one go. In all a
/// multiple of the budget, and a constant; never a multiple of what a client has sent.
fn most_work(budget: &Budget) -> u32 {
    let shares = 2 * budget.step + 6 * budget.share();
    let subscribers = budget.subscribers_at_once as u32 * (cost::DELIVERY + cost::SEND);
    let filters = budget.filters_at_once as u32 * cost::FILTER;
    // One at the end of what clients ask for, and one of a kind that goes on over several steps.
    shares + subscribers + filters + 2 * ITEM
}

impl Sim {
    /// After every step of a shard: sessions and connections belong to each other one to one, so a
    /// ClientId has one live connection at most, and no queue is longer than its bound.
    pub fn check_step(&self, node: usize) {
        if self.world.is_mid_step(node) {
            return;
        }
        let node = &self.world.nodes[node];
        // Each completion of a step may be a connection that begins or ends.
        // With two events each: the end of the connection and of the session.
        let events = if self.settings.events == 0 { 0 } else { 2 * cost::PACKET };
        let completions = (self.world.limit as u32 + 1) * (COMPLETION + events);
        let mut most = most_work(&self.settings.budget) + completions;
        if self.replays_crowded || node.replayed {
            most += SLICE;
        }
        assert!(node.work <= most, "a step of {} units of work, {most} at most", node.work);
        let most = 2 * self.world.mail + ITEM + SLICE;
        let mail = node.mail_work;
        assert!(mail <= most, "mail of {mail} units of work in a step, {most} at most");
        let audit = node.shard.glance();
        assert_eq!(audit.problems, Vec::<String>::new());
        let bounds = self.settings.pending;
        let (messages, bytes) = audit.most_pending;
        let most = bounds.messages + (bounds.messages / 4).max(1);
        assert!(messages <= most, "{messages} messages in a queue of {}", bounds.messages);
        let most = bounds.bytes + SLICE_BYTES;
        assert!(bytes <= most, "{bytes} bytes in a queue of {}", bounds.bytes);
        let outgoing = match self.features.reloads {
            true => 1 << 20,
            false => self.settings.outgoing_max_bytes,
        };
        let unsent = audit.most_unsent;
        assert!(unsent <= 8 * outgoing + SLACK, "{unsent} bytes unsent");
        let used = self.world.shared.memory.used();
        // A client is not ended for the parts of a packet that is not large.
        let input: u64 = self.world.nodes.iter().map(|node| node.shard.held()[0]).sum();
        let most = self.settings.memory.saturating_add(self.memory_overshoot() + input);
        assert!(used <= most, "{used} bytes held, {most} at most");
        let staged = 4096 * self.world.nodes.len() + 1024;
        assert!(audit.staged <= staged, "{} mails staged", audit.staged);
    }

    /// What may be held above the limit: what each shard takes in before it looks; the largest
    /// message, which counts in full in every client's queue; and for each client what it is owed
    /// in any case, such as acknowledgements and what its window holds by then.
    fn memory_overshoot(&self) -> u64 {
        let (shards, clients) = (self.world.nodes.len() as u64, self.clients.len() as u64);
        shards * STEP_BYTES + clients * (CLIENT_BYTES + LARGEST as u64)
    }

    pub fn check_quiet(&mut self) {
        self.check_lists();
        assert_eq!(self.world.problems(), Vec::<String>::new());
        let retained = self.world.nodes.iter().flat_map(|node| node.shard.retained_topics());
        let longest = retained.map(|topic| topic.len()).max().unwrap_or(0);
        assert!(longest <= MAX_TOPIC_LENGTH, "a retained topic of {longest} bytes");
        let mut open = 0;
        for node in &self.world.nodes {
            let audit = node.shard.audit();
            open += audit.connections;
            let open_here = audit.connections;
            assert_eq!(audit.connections, node.driver.open(), "sockets and connections");
            let left = [
                ("held", audit.held.len()),
                // A session without a connection may be owed one.
                ("replaying", if audit.sessions > open_here { 0 } else { audit.replaying }),
                ("joining", audit.joining),
                ("returning", audit.returning),
                ("wills", audit.wills),
                ("arrivals", audit.arrivals),
                ("departing", audit.departing.0 + audit.departing.1),
                ("staged", audit.staged),
                ("waiting_for_mail", audit.waiting_for_mail),
                ("behind", audit.behind),
                ("parked", audit.parked.iter().sum()),
                ("most_unsent", audit.most_unsent),
                ("inbound", if self.features.hostile { 0 } else { audit.inbound }),
            ];
            for (name, count) in left {
                assert_eq!(count, 0, "{name} on {:?} at rest: {audit:?}", node.shard.id());
            }
        }
        self.check_presences();
        let total = self.world.counters();
        assert_eq!(open, self.clients.len(), "connections");
        assert_eq!(total.connections_open, self.clients.len() as u64);
        assert_eq!(self.world.shared.connections.used(), self.clients.len() as u64);
        if !self.features.hostile {
            let waiting = (total.inflight, total.pending_messages, total.pending_bytes);
            assert_eq!(waiting, (0, 0, 0), "in flight, pending");
        }
    }

    /// What operators are told is what there is, in slices of any size.
    fn check_lists(&mut self) {
        for node in &mut self.world.nodes {
            let shard = &mut node.shard;
            let audit = shard.audit();
            let mut held = shard.subscribed();
            held.sort_unstable();
            let mut kept = shard.retained_topics();
            kept.retain(|topic| !topic.starts_with('$'));
            kept.sort_unstable();
            for most in [1, 7, 1000] {
                let all = ClientQuery::default();
                let clients = in_slices(|from| shard.clients(from, &all, most));
                assert_eq!(clients.len(), audit.sessions, "clients in slices of {most}");
                let rows = in_slices(|from| shard.client_subscriptions(from, most, |_| true));
                let mut listed: Vec<Subscribed> = rows.into_iter().map(subscribed).collect();
                listed.sort_unstable();
                assert_eq!(listed, held, "subscriptions in slices of {most}");
                let filters = in_slices(|from| shard.topics(from, most, |_| true));
                let entries: usize = filters.iter().map(|row| row.subscribers).sum();
                assert_eq!(entries, audit.subscribers, "topics in slices of {most}");
                let groups = in_slices(|from| shard.share_groups(from, most));
                let members: usize = groups.iter().map(|group| group.members).sum();
                assert_eq!((groups.len(), members), (audit.groups, audit.members));
                let rows = in_slices(|from: Box<str>| {
                    let from = Some(&*from).filter(|from| !from.is_empty());
                    shard.retained(from, "#", most)
                });
                let mut listed: Vec<String> =
                    rows.iter().map(|row| row.message.view().topic.to_owned()).collect();
                listed.sort_unstable();
                // Those that have expired wait for their sweep.
                listed.iter().for_each(|topic| assert!(kept.contains(topic), "{topic}"));
                assert!(audit.retained >= listed.len());
            }
        }
    }

    /// The homes of share groups know who is there and who is connected.
    fn check_presences(&self) {
        for node in &self.world.nodes {
            for (session, online) in node.shard.presences() {
                let home = &self.world.nodes[usize::from(session.shard.0)].shard;
                assert_eq!(home.presence(session), Some(online), "a member, {session:?}");
            }
        }
    }

    /// The broker has the subscriptions that the clients have, and the interest table is their
    /// union: neither less nor more.
    pub fn check_subscriptions(&self) {
        let prefix = self.features.mountpoint;
        let mut known: BTreeMap<String, BTreeMap<String, u8>> = BTreeMap::new();
        let mut wanted = Vec::new();
        for node in &self.world.nodes {
            wanted.push(node.shard.wanted());
            for one in node.shard.subscribed() {
                let shared =
                    one.filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
                let own = |filter: &str| filter.strip_prefix(prefix).unwrap_or(filter).to_owned();
                let filter = match shared {
                    Some((group, filter)) => format!("$share/{group}/{}", own(filter)),
                    None => own(&one.filter),
                };
                known.entry(one.client_id).or_default().insert(filter, one.qos);
            }
        }
        for client in self.clients.iter().filter(|client| !client.client_id.is_empty()) {
            let theirs = known.remove(&client.client_id).unwrap_or_default();
            for (filter, sub) in &client.subs {
                let qos = theirs.get(filter);
                assert_eq!(qos, Some(&sub.qos), "{}: {filter}", client.name);
            }
            for filter in theirs.keys() {
                let explained = client.subs.contains_key(filter) || client.unsure.contains(filter);
                assert!(explained, "{}: {filter} is left", client.name);
            }
        }
        if self.world.nodes.len() == 1 {
            return;
        }
        let mut topics: Vec<String> = (0..16).map(|n| format!("t/{}/{}", n / 4, n % 4)).collect();
        topics.extend((0..12).map(|n| format!("s/{}/{}", n / 4, n % 4)));
        topics.extend((0..60).map(|n| format!("r/{n}/{}", n % 3)));
        topics.extend(
            ["r/all/1", "w/1", "t", "t/9/9", "nobody/wants/this", "$SYS/x"].map(Into::into),
        );
        for topic in topics {
            let name = format!("{prefix}{topic}");
            let hash = TopicHash::new(&self.world.shared.seeds, &name);
            let shards = self.world.shared.interest.shards(&hash);
            for (at, node) in self.world.nodes.iter().enumerate() {
                let wants = wanted[at].iter().any(|filter| matches(plain(filter), &name));
                let told = shards.contains(node.shard.id());
                // Filters of too many shapes are registered by a part of them.
                let fine = told == wants || told && self.shapes_crowded;
                assert!(fine, "interest of shard {at} in {name}: {told}, {wants}");
            }
        }
    }

    /// What was accepted while a subscription was there has reached its client.
    pub fn check_delivered(&self) {
        let (mut missing, mut expired, mut zeros) = (Vec::new(), 0, 0);
        for client in &self.clients {
            let mut terms: BTreeMap<&str, (u64, u64, u8)> = BTreeMap::new();
            for (id, message) in self.run.messages.iter().enumerate() {
                let own = message.publisher == client.at;
                if message.accepted.is_none()
                    || !message.topic.starts_with("t/")
                    || own && client.no_local
                {
                    continue;
                }
                let &mut (acknowledged, any, granted) =
                    terms.entry(&message.topic).or_insert_with_key(|topic| {
                        let covered = |acknowledged| client.covered_since(topic, acknowledged);
                        (covered(true), covered(false), client.granted(topic))
                    });
                let due = message.qos > 0 && message.sent_at > acknowledged;
                // QoS 0 is for those who are connected.
                let zero = message.qos.min(granted) == 0
                    && any != u64::MAX
                    && message.sent_at > any.max(client.up_since);
                if !due && !zero || client.got.contains_key(&id) {
                    continue;
                }
                match (due, message.expiry) {
                    (false, _) => zeros += 1,
                    (true, Some(_)) => expired += 1,
                    (true, None) => missing.push((client.name.clone(), id)),
                }
            }
        }
        let total = self.world.counters();
        // A group may push others out of a queue when none of its members has room.
        // One that is not taken is lost for all.
        let all = total.memory_refused_message * self.clients.len() as u64;
        let full = total.dropped_queue_full + total.dropped_share_full + total.dropped_memory + all;
        let excused = full + total.dropped_packet_too_large;
        assert!(
            missing.len() as u64 <= excused,
            "{} lost, {excused} dropped by policy: {:?}",
            missing.len(),
            &missing[..missing.len().min(10)]
        );
        let excused = excused + total.dropped_expired - missing.len() as u64;
        assert!(expired <= excused, "{expired} with an expiry lost, {excused} dropped");
        let excused = excused + total.dropped_outgoing_full - expired;
        assert!(zeros <= excused, "{zeros} of QoS 0 lost, {excused} dropped");
    }

    /// What was acknowledged while a group had a member has reached some member, unless nobody had
    /// room for it. With QoS 2 it may have gone with the session of the member that it was sent to.
    pub fn check_shared(&self) {
        let (mut missing, mut begun) = (0, 0);
        for group in 0..self.groups {
            let filter = format!("$share/g{group}/s/{group}/#");
            let since = self.clients.iter().filter_map(|c| Some(c.subs.get(&filter)?.since)).min();
            let Some(since) = since else { continue };
            for (id, message) in self.run.messages.iter().enumerate() {
                let reached = self.run.shared.contains_key(&(filter.clone(), id));
                let due = message.accepted.is_some() && message.qos > 0 && message.sent_at > since;
                if due && message.topic.starts_with(&format!("s/{group}/")) && !reached {
                    missing += u64::from(message.qos == 1);
                    begun += u64::from(message.qos == 2);
                }
            }
        }
        let total = self.world.counters();
        let excused = total.dropped_memory
            + total.dropped_share_full
            + total.dropped_share_empty
            + total.dropped_packet_too_large
            + total.dropped_expired;
        assert!(missing <= excused, "{missing} lost by groups, {excused} dropped by policy");
        let excused = excused + total.dropped_session_gone - missing;
        assert!(begun <= excused, "{begun} of QoS 2 lost by groups, {excused} dropped");
    }

    /// Counters of drops that nothing in this run can cause have not moved.
    pub fn check_drops(&self) {
        let total = self.world.counters();
        let features = &self.features;
        let small = self.clients.iter().any(|client| client.packet_maximum < u32::MAX);
        let short = self.settings.pending.messages < 10_000;
        for (name, dropped, possible) in [
            ("queue_full", total.dropped_queue_full, short),
            ("packet_too_large", total.dropped_packet_too_large, small || features.hostile),
            ("not_encodable", total.dropped_not_encodable, features.hostile),
            ("expired", total.dropped_expired, features.expiring),
            ("not_authorized", total.dropped_not_authorized, features.hostile),
            ("retained_limit", total.dropped_retained_limit, features.retained_limit),
            ("memory", total.dropped_memory, features.memory),
        ] {
            assert!(possible || dropped == 0, "{dropped} dropped for {name}");
        }
        assert!(features.hostile || total.violations == 0, "{} violations", total.violations);
    }

    /// A new subscriber gets, of every topic, the message that was accepted last.
    pub fn check_retained(&mut self) {
        let at = self.clients.len();
        let mut probe = Client::new(at, "probe".into(), Version::V5);
        probe.connect(&mut self.world, &mut self.run, true, None, 1 << 20);
        self.clients.push(probe);
        self.rest(50);
        let asked_at = self.world.now;
        self.clients[at].subscribe(&mut self.run, "r/#", plain_sub(1));
        self.clients[at].subscribe(&mut self.run, "$SYS/broker/clients/#", plain_sub(1));
        self.rest(500 + 2 * self.settings.sys_interval);
        let mut topics: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (id, message) in self.run.messages.iter().enumerate() {
            if message.topic.starts_with("r/") {
                topics.entry(message.topic.clone()).or_default().push(id);
            }
        }
        let total = self.world.counters();
        let limited = total.dropped_retained_limit + total.dropped_memory > 0;
        let probe = &self.clients[at];
        for (name, ids) in &topics {
            let of = |id: &usize| &self.run.messages[*id];
            // Only what one publisher sends is in an order that everybody agrees on.
            let superseded = |id: &usize| {
                ids.iter().any(|other| {
                    of(other).accepted.is_some()
                        && of(other).publisher == of(id).publisher
                        && of(other).line == of(id).line
                        && of(other).sent_at > of(id).last_at
                })
            };
            let possible: Vec<_> = ids.iter().filter(|id| !superseded(id)).collect();
            let empty = limited
                || possible.iter().any(|id| of(id).empty || of(id).expiry.is_some())
                || !ids.iter().any(|id| of(id).accepted.is_some());
            let got: Vec<_> = ids.iter().filter(|id| probe.got.contains_key(id)).collect();
            match got[..] {
                [] => assert!(empty, "{name}: no retained message, possible {possible:?}"),
                [one] => {
                    assert!(possible.contains(&one), "{name}: {one} of {possible:?}");
                    let end = of(one).accepted.zip(of(one).expiry);
                    let over = end.is_some_and(|(at, s)| at + u64::from(s) * 1000 < asked_at);
                    assert!(!over, "{name}: {one} has expired");
                }
                _ => panic!("{name}: several retained messages {got:?}"),
            }
        }
        let kept = self.retained().filter(|topic| topic.starts_with("r/")).count();
        let got = probe.got.len();
        // What has expired may not have been swept yet, or has been swept since.
        assert!(got == kept || self.features.expiring, "{got} of {kept} retained");
        if self.settings.sys_interval > 0 && self.features.mountpoint.is_empty() {
            let told = probe.sys.get("$SYS/broker/clients/connected").map(String::as_str);
            assert_eq!(told, Some(&*self.clients.len().to_string()), "clients/connected");
        }
        let limits = self.settings.retained_max_messages;
        let used = self.world.shared.retained_messages.used();
        assert!(used <= limits, "{used} retained messages, {limits} allowed");
        for name in topics.keys() {
            self.clients[at].publish(&mut self.run, name.clone(), 0, true, 0);
        }
        self.rest(500);
    }

    /// Topics of retained messages, as clients call them.
    pub fn retained(&self) -> impl Iterator<Item = String> {
        let prefix = self.features.mountpoint;
        let all = self.world.nodes.iter().flat_map(|node| node.shard.retained_topics());
        all.map(move |topic| topic.strip_prefix(prefix).unwrap_or(&topic).to_owned())
    }

    pub fn check_wills(&self) {
        let total = self.world.counters();
        if self.run.verbose {
            eprintln!("{total:#?}");
            for node in &self.world.nodes {
                eprintln!("{:?}", node.shard.audit());
            }
        }
        // Nothing else may stop a message to the watcher, which reads all the time; unless the
        // broker stops while its window is full.
        let waiting = total.pending_messages + total.dropped_session_gone;
        let pending = if self.run.draining { waiting } else { 0 };
        let dropped = total.dropped_queue_full + total.dropped_outgoing_full + pending;
        let dropped = dropped + total.dropped_memory;
        // Where full queues end connections, the watcher's may be one of them.
        let blind = self.run.harsh && self.clients[0].losses > 0;
        assert!(blind || self.clients[0].losses == 0, "the watcher was disconnected");
        let (mut missing, mut due) = (0, Vec::new());
        for client in &self.clients {
            for will in &client.wills {
                // With QoS 1 the watcher may get it again, marked as a repetition.
                let got = self.clients[0].got.get(&will.message);
                let seen = got.map_or(0, |count| count.fresh.max(count.app.min(1)));
                let most = match will.fate {
                    Fate::Pending => panic!("everybody has left"),
                    Fate::Never => 0,
                    _ => 1,
                };
                assert!(seen <= most, "{}: will {will:?} seen {seen} times", client.name);
                if seen == 0 && matches!(will.fate, Fate::Once | Fate::Delayed(_)) {
                    missing += 1;
                    due.push((&client.name, will));
                }
            }
        }
        assert!(blind || missing <= dropped, "wills {due:?} not seen, {dropped} dropped");
    }

    pub fn check_empty(&mut self) {
        assert_eq!(WATCHERS, 3);
        self.part(0);
        self.rest(1000);
        for _ in 0..200 {
            self.world.advance(1000);
            self.pass();
        }
        assert_eq!(self.world.problems(), Vec::<String>::new());
        let kept: Vec<String> = self.retained().collect();
        let ours = |topic: &&String| ["t/", "s/", "r/", "w/"].iter().any(|p| topic.starts_with(p));
        assert_eq!(kept.iter().find(ours), None, "a retained message is left");
        assert!(self.features.hostile || kept.iter().all(|topic| topic.starts_with("$SYS/")));
        assert_eq!(self.world.leftovers(), Vec::<String>::new());
        for node in &self.world.nodes {
            // Housekeeping, $SYS.
            let timers = node.shard.audit().timers;
            assert!(timers <= 3, "{timers} timers on shard {:?} at the end", node.shard.id());
        }
        let (total, shared) = (self.world.counters(), &self.world.shared);
        assert_eq!(total.retained_messages, kept.len() as u64, "retained messages");
        assert_eq!(shared.retained_messages.used(), total.retained_messages);
        assert_eq!(shared.retained_bytes.used(), total.retained_bytes);
    }
}

/// A whole list, slice by slice.
fn in_slices<T, C: Default>(mut ask: impl FnMut(C) -> Slice<T, C>) -> Vec<T> {
    let (mut rows, mut from) = (Vec::new(), C::default());
    for _ in 0..100_000 {
        let slice = ask(from);
        rows.extend(slice.rows);
        match slice.next {
            Some(next) => from = next,
            None => return rows,
        }
    }
    panic!("a list without an end")
}

fn subscribed(row: SubscriptionRow) -> Subscribed {
    let SubscriptionRow { client_id, filter, qos, .. } = row;
    Subscribed { client_id: client_id.into(), filter: filter.into(), qos }
}
