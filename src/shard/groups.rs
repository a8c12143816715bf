//! The share groups that one shard is home to, their members, and the choice of the member that
//! gets a message.
//!
//! This module owns which sessions are members of which groups, and what is known of each member:
//! whether it is connected, and whether it refused a message because it had no room. It knows
//! neither sessions nor messages: members live on their own home shards, which tell this shard when
//! something changes. The costs of joining, leaving, choosing and applying a member's change grow
//! neither with the members of a group nor with the groups of a member.

mod nodes;

use crate::config::SharedStrategy;
use crate::ids::SessionRef;
use crate::keyed::{Keyed, KeyedList};
use crate::mutant::Mutant;
use crate::session::ShareName;
use crate::slab::{Slab, trim};
use crate::split::SplitMap;
use crate::topic::FilterId;
use nodes::GroupNodes;
use std::collections::VecDeque;

/// A change of a member that is in no more groups than this is applied to all of its groups at
/// once.
const AT_ONCE: usize = 16;
/// Members tried for a topic or publisher whose own member cannot take the message.
const REHASHES: u64 = 8;

/// A member's readiness: members of one kind stand side by side in their group's `order`. The first
/// two kinds are both ready: members that have had a message in this round, and members that have
/// not.
const SERVED: usize = 0;
const FRESH: usize = 1;
/// Connected, and without room when last asked.
const BUSY: usize = 2;
/// Not connected; as far as is known its queue has room.
const AWAY: usize = 3;
/// Not connected, and its queue was full when last asked.
const FULL: usize = 4;

/// A member as the home of its group knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// The session.
    pub session: SessionRef,
    /// Granted options, packed as in the index.
    pub options: u8,
    /// Subscription Identifier; 0 for none.
    pub subscription_id: u32,
}

/// The member that gets a message, and what is known of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The member.
    pub member: Member,
    /// No other member is ready: the publisher is held up if this one is behind.
    pub only: bool,
    /// The member is connected and had room when last asked.
    pub ready: bool,
    /// The member is not connected: the message waits for it.
    pub waits: bool,
    /// No member has room as far as is known: the policy of this member's queue decides.
    pub last_resort: bool,
}

/// What decides the choice, besides the members.
#[derive(Clone, Copy, Debug)]
pub struct PickInput {
    /// `mqtt.shared_strategy`.
    pub strategy: SharedStrategy,
    /// Hash of the topic or the publisher, for the strategies that use one.
    pub key: u64,
    /// A member that is not connected may get the message: by the message's QoS, or because QoS 0
    /// is queued.
    pub may_wait: bool,
    /// How many members have refused this message.
    pub tries: u32,
}

/// All groups of one shard.
#[derive(Default)]
pub struct Groups {
    groups: Slab<Group>,
    by_name: SplitMap<ShareName, u32>,
    /// How many groups each filter has.
    by_filter: SplitMap<FilterId, u32>,
    members: SplitMap<SessionRef, KnownMember>,
    /// Members whose last change has not been applied to all of their groups yet.
    untold: VecDeque<SessionRef>,
    random: u64,
}

/// One group.
struct Group {
    name: ShareName,
    place: (FilterId, u32),
    /// Members by number. A number changes only when a member leaves: the last one gets it.
    members: Vec<(Member, u32)>,
    /// The members' numbers, by readiness. `members` has each member's position in this list.
    order: Vec<u32>,
    /// Where in `order` each kind of readiness ends.
    ends: [u32; 5],
    /// Whose turn it is among the members that are not ready.
    turn: u32,
    /// The member that a sticky group stays with.
    sticky: Option<SessionRef>,
    /// What is known of the other nodes of a cluster that have members.
    nodes: GroupNodes,
}

/// What is known of one member, and the groups that it is in.
struct KnownMember {
    online: bool,
    full: bool,
    groups: KeyedList<Belongs>,
    /// The member's last change has not been applied to the first so many of `groups` yet.
    untold: usize,
}

/// A group that a member is in, and the member's number there.
struct Belongs {
    group: u32,
    number: u32,
}

impl Keyed for Belongs {
    type Key = u32;
    fn key(&self) -> &u32 {
        &self.group
    }
}

impl KnownMember {
    /// The member's kind in a group in which its kind has been `now`: a ready member that has been
    /// served in this round stays so.
    fn kind(&self, now: usize) -> usize {
        match (self.online, self.full) {
            (true, false) if now == SERVED => SERVED,
            (true, false) => FRESH,
            (true, true) => BUSY,
            (false, false) => AWAY,
            (false, true) => FULL,
        }
    }
}

impl Group {
    fn kind(&self, number: u32) -> usize {
        let position = self.members[number as usize].1;
        self.ends.iter().position(|&end| position < end).unwrap_or(FULL)
    }

    fn swap(&mut self, a: u32, b: u32) {
        self.order.swap(a as usize, b as usize);
        for at in [a, b] {
            self.members[self.order[at as usize] as usize].1 = at;
        }
    }

    /// Moves a member to another kind: one swap for each kind in between.
    fn set_kind(&mut self, number: u32, to: usize) {
        let mut kind = self.kind(number);
        while kind < to {
            self.ends[kind] -= 1;
            self.swap(self.members[number as usize].1, self.ends[kind]);
            kind += 1;
        }
        while kind > to {
            self.swap(self.members[number as usize].1, self.ends[kind - 1]);
            self.ends[kind - 1] += 1;
            kind -= 1;
        }
    }

    fn add(&mut self, member: Member) -> u32 {
        let number = self.members.len() as u32;
        self.members.push((member, self.order.len() as u32));
        self.order.push(number);
        self.ends[FULL] += 1;
        number
    }

    /// Takes a member out; returns the session of the member that has its number now, if one has.
    fn remove(&mut self, number: u32) -> Option<SessionRef> {
        self.set_kind(number, FULL);
        self.swap(self.members[number as usize].1, self.order.len() as u32 - 1);
        self.order.pop();
        self.ends[FULL] -= 1;
        let (gone, _) = self.members.swap_remove(number as usize);
        if self.sticky == Some(gone.session) {
            self.sticky = None;
        }
        let moved = self.members.get(number as usize).copied();
        if let Some((_, position)) = moved {
            self.order[position as usize] = number;
        }
        trim(&mut self.members);
        trim(&mut self.order);
        moved.map(|(member, _)| member.session)
    }

    /// The next ready member in turn: each one gets a message before any gets a second.
    fn next_in_turn(&mut self) -> u32 {
        if self.ends[SERVED] == self.ends[FRESH] {
            self.ends[SERVED] = 0;
        }
        let number = self.order[self.ends[SERVED] as usize];
        self.ends[SERVED] += 1;
        number
    }

    /// The member that a hash selects, if its position is from `from` to before `to`; otherwise
    /// another one there. When members leave or come, few topics go to another member; when one
    /// cannot take a message, only its own topics do.
    fn hashed(&self, key: u64, tries: u32, from: u32, to: u32) -> u32 {
        let members = self.members.len() as u32;
        for attempt in u64::from(tries)..u64::from(tries) + REHASHES {
            let number = jump(mix(key, attempt), members);
            let position = self.members[number as usize].1;
            if (from..to).contains(&position) {
                return number;
            }
        }
        self.order[(from + jump(mix(key, 0), to - from)) as usize]
    }
}

/// A bucket for a key: with one bucket more, only those keys change that go to the new bucket
/// (Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm").
fn jump(mut key: u64, buckets: u32) -> u32 {
    let (mut bucket, mut next) = (0, 0i64);
    while next < i64::from(buckets) {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1u64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as u32
}

fn mix(key: u64, attempt: u64) -> u64 {
    let mixed =
        (key ^ attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 32
}

impl Groups {
    /// How many groups there are, and how many members they have together.
    pub fn count(&self) -> (usize, usize) {
        let groups = self.by_name.values().filter_map(|&group| self.groups.get(group));
        (self.by_name.len(), groups.map(|group| group.members.len()).sum())
    }

    /// Every group's place in the index.
    pub fn places(&self) -> impl Iterator<Item = (u32, (FilterId, u32))> + '_ {
        let places = |&group: &u32| Some((group, self.groups.get(group)?.place));
        self.by_name.values().filter_map(places)
    }

    /// A group's entry in the index.
    pub fn place(&self, group: u32) -> Option<(FilterId, u32)> {
        self.groups.get(group).map(|group| group.place)
    }

    /// The group of that name.
    pub fn find(&self, name: &ShareName) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The name of a group.
    pub fn name(&self, group: u32) -> Option<ShareName> {
        self.groups.get(group).map(|group| group.name.clone())
    }

    /// All numbers of groups are below this.
    pub fn bound(&self) -> u32 {
        self.groups.bound()
    }

    /// How many members a group has.
    pub fn len(&self, group: u32) -> usize {
        self.groups.get(group).map_or(0, |group| group.members.len())
    }

    /// Members of a group after the first `from`: the session, whether it is connected, and whether
    /// it had no room when last asked.
    pub fn members(
        &self,
        group: u32,
        from: usize,
    ) -> impl Iterator<Item = (SessionRef, bool, bool)> + '_ {
        let members = self.groups.get(group).map_or(&[][..], |group| &group.members);
        members.iter().skip(from).map(|(member, _)| {
            let known = self.members.get(&member.session);
            let (online, full) = known.map_or((false, false), |known| (known.online, known.full));
            (member.session, online, full)
        })
    }

    /// The group's entry in the index moved.
    pub fn moved(&mut self, group: u32, position: u32) {
        if let Some(group) = self.groups.get_mut(group) {
            group.place.1 = position;
        }
    }

    /// Creates a group without members, for this filter. Its position in the index follows, by
    /// [`Self::moved`].
    pub fn create(&mut self, name: ShareName, filter: FilterId) -> u32 {
        let group = self.groups.insert(Group {
            name: name.clone(),
            place: (filter, 0),
            members: Vec::with_capacity(1),
            order: Vec::with_capacity(1),
            ends: [0; 5],
            turn: 0,
            sticky: None,
            nodes: GroupNodes::default(),
        });
        self.by_name.insert(name, group);
        *self.by_filter.or_insert_with(filter, || 0) += 1;
        group
    }

    /// How many groups have that filter.
    pub fn with_filter(&self, filter: FilterId) -> usize {
        self.by_filter.get(&filter).map_or(0, |&count| count as usize)
    }

    /// Removes a group that has no members any more, neither here nor at another node. Returns its
    /// place in the index.
    fn remove_unused(&mut self, group: u32) -> Option<(FilterId, u32)> {
        let of = self.groups.get(group)?;
        if !of.members.is_empty() || !of.nodes.is_empty() {
            return None;
        }
        let gone = self.groups.remove(group)?;
        self.by_name.remove(&gone.name);
        let filter = gone.place.0;
        if let Some(count) = self.by_filter.get_mut(&filter) {
            *count -= 1;
            if *count == 0 {
                self.by_filter.remove(&filter);
            }
        }
        Some(gone.place)
    }

    /// Makes the session a member, or replaces its options. A session that was not known counts as
    /// connected: it has just subscribed.
    pub fn join(&mut self, group: u32, member: Member) {
        let Some(of) = self.groups.get_mut(group) else { return };
        let known = self.members.or_insert_with(member.session, || KnownMember {
            online: true,
            full: false,
            groups: KeyedList::default(),
            untold: 0,
        });
        if let Some(belongs) = known.groups.get(&group) {
            of.members[belongs.number as usize].0 = member;
            return;
        }
        let number = of.add(member);
        of.set_kind(number, known.kind(FULL));
        known.groups.push(Belongs { group, number });
    }

    /// Ends a membership. When that was the last one of the group, the group is gone, and its place
    /// in the index is returned.
    pub fn leave(&mut self, group: u32, session: SessionRef) -> Option<(FilterId, u32)> {
        let known = self.members.get_mut(&session)?;
        let belongs = known.groups.remove(&group)?;
        known.untold = known.untold.min(known.groups.len());
        if known.groups.is_empty() {
            self.members.remove(&session);
        }
        let of = self.groups.get_mut(group)?;
        if let Some(moved) = of.remove(belongs.number)
            && let Some(known) = self.members.get_mut(&moved)
            && let Some(other) = known.groups.get_mut(&group)
        {
            other.number = belongs.number;
        }
        self.remove_unused(group)
    }

    /// The session has connected, has room again, or has disconnected.
    pub fn set_online(&mut self, session: SessionRef, online: bool) {
        if Mutant::PresenceStale.is_on() && online {
            return;
        }
        let Some(known) = self.members.get_mut(&session) else { return };
        (known.online, known.full) = (online, false);
        self.tell(session);
    }

    /// The member had no room for a message of that group.
    pub fn set_full(&mut self, group: u32, session: SessionRef) {
        let Some(known) = self.members.get_mut(&session) else { return };
        known.full = true;
        self.tell_one(group, session);
        self.tell(session);
    }

    /// The session has left that group, or has ended. The group is told so soon, and until then
    /// asks this session last. For the session's other groups this means nothing.
    pub fn set_gone(&mut self, group: u32, session: SessionRef) {
        let Some(known) = self.members.get(&session) else { return };
        if let (Some(of), Some(belongs)) = (self.groups.get_mut(group), known.groups.get(&group)) {
            of.set_kind(belongs.number, FULL);
        }
    }

    /// Applies a member's state to one of its groups at once.
    pub fn tell_one(&mut self, group: u32, session: SessionRef) {
        let Some(known) = self.members.get(&session) else { return };
        if let (Some(of), Some(belongs)) = (self.groups.get_mut(group), known.groups.get(&group)) {
            of.set_kind(belongs.number, known.kind(of.kind(belongs.number)));
        }
    }

    /// Applies a change of the session to all of its groups: at once when they are few, otherwise
    /// in later steps.
    fn tell(&mut self, session: SessionRef) {
        let Some(known) = self.members.get_mut(&session) else { return };
        let listed = known.untold > 0;
        known.untold = known.groups.len();
        if known.untold <= AT_ONCE {
            self.tell_some(session, AT_ONCE);
        } else if !listed {
            self.untold.push_back(session);
        }
    }

    /// Applies a session's change to at most `most` of its groups, from the last to the first;
    /// returns to how many. From the last, because an entry that takes the place of a removed one
    /// is then always one that is done.
    fn tell_some(&mut self, session: SessionRef, most: usize) -> usize {
        let Some(known) = self.members.get_mut(&session) else { return 0 };
        let count = most.min(known.untold);
        for _ in 0..count {
            known.untold -= 1;
            let Some(belongs) = known.groups.at(known.untold) else { continue };
            if let Some(group) = self.groups.get_mut(belongs.group) {
                group.set_kind(belongs.number, known.kind(group.kind(belongs.number)));
            }
        }
        count
    }

    /// Goes on with applying the changes of members that are in many groups; returns to how many
    /// groups they were applied, `most` at most.
    pub fn tell_on(&mut self, most: usize) -> usize {
        let mut told = 0;
        while told < most {
            let Some(&session) = self.untold.front() else { break };
            told += self.tell_some(session, most - told).max(1);
            if self.members.get(&session).is_none_or(|known| known.untold == 0) {
                self.untold.pop_front();
            }
        }
        if self.untold.is_empty() {
            self.untold.shrink_to(64);
        }
        told
    }

    /// True when the change of some member has not been applied to all of its groups.
    pub fn is_telling(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Chooses the member that gets a message: one that is ready, by the strategy; otherwise one
    /// that is not connected and has room, if the message may wait; otherwise the policy of the
    /// member that refused last decides. `None` when no member can get the message at all.
    pub fn choose(&mut self, group: u32, input: PickInput) -> Option<Choice> {
        let random = if input.strategy == SharedStrategy::Random { self.random() } else { 0 };
        let of = self.groups.get_mut(group)?;
        let all = 4 + 2 * of.members.len() as u32;
        let [_, ready, busy, away, full] = of.ends;
        let (from, to, last_resort) = match (input.may_wait, input.tries > all) {
            (true, true) if full > 0 => (0, full, true),
            (false, true) if busy > 0 => (0, busy, true),
            _ if ready > 0 => (0, ready, false),
            (true, _) if away > busy => (busy, away, false),
            _ if busy > 0 => (0, busy, true),
            (true, _) if full > 0 => (away, full, true),
            _ => return None,
        };
        let span = to - from;
        let number = match input.strategy {
            // The member that refused last: one that still reads has room again and refuses again,
            // while one that is stuck refuses only once.
            _ if last_resort => of.order[from as usize],
            SharedStrategy::RoundRobin if to == ready => of.next_in_turn(),
            SharedStrategy::Random => of.order[(from + random % span) as usize],
            SharedStrategy::HashTopic | SharedStrategy::HashClient => {
                of.hashed(input.key, input.tries, from, to)
            }
            SharedStrategy::RoundRobin => in_turn(of, from, span),
            SharedStrategy::Sticky => {
                let known = of.sticky.filter(|_| input.tries == 0);
                let same = known.and_then(|session| self.members.get(&session)?.groups.get(&group));
                let same = same.map(|belongs| belongs.number);
                match same.filter(|&n| (from..to).contains(&of.members[n as usize].1)) {
                    Some(number) => number,
                    None => in_turn(of, from, span),
                }
            }
        };
        let member = of.members[number as usize].0;
        if input.strategy == SharedStrategy::Sticky && !last_resort {
            of.sticky = Some(member.session);
        }
        let waits = from == busy && !last_resort && ready == 0;
        let is_ready = to == ready && !last_resort;
        // With no other member or node to ask, this member's queue and policy decide at once: a
        // message that came back for another choice would be behind later messages.
        let last_resort =
            last_resort || of.members.len() == 1 && (of.nodes.is_empty() || !is_ready);
        Some(Choice { member, only: ready < 2, ready: is_ready, waits, last_resort })
    }

    fn random(&mut self) -> u32 {
        // xorshift is good enough to spread load.
        if self.random == 0 {
            self.random = 0x9e37_79b9_7f4a_7c15;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }

    /// Every session that is a member here, and whether it counts as connected. For checks.
    pub fn presences(&self) -> impl Iterator<Item = (SessionRef, bool)> + '_ {
        self.members.iter().map(|(&session, known)| (session, known.online))
    }

    /// For checks: contradictions.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut memberships = 0;
        for (name, &index) in self.by_name.iter() {
            let Some(group) = self.groups.get(index) else {
                problems.push(format!("{name:?} leads to no group"));
                continue;
            };
            memberships += group.members.len();
            if !group.ends.is_sorted() || group.ends[FULL] as usize != group.order.len() {
                problems.push(format!("{name:?}: kinds end at {:?}", group.ends));
            }
            for (number, (member, position)) in (0u32..).zip(&group.members) {
                let known = self.members.get(&member.session);
                let belongs = known.and_then(|known| known.groups.get(&index));
                if group.order.get(*position as usize) != Some(&number)
                    || belongs.is_none_or(|belongs| belongs.number != number)
                {
                    problems.push(format!("{name:?}: member {number} is not where it is said"));
                } else if let Some(known) = known
                    && known.untold == 0
                    && known.kind(group.kind(number)) != group.kind(number)
                {
                    problems.push(format!("{name:?}: {number} is of kind {}", group.kind(number)));
                }
            }
        }
        let known: usize = self.members.values().map(|known| known.groups.len()).sum();
        if known != memberships {
            problems.push(format!("{known} memberships of members, {memberships} of groups"));
        }
        problems
    }
}

/// The next member in turn of those that are not ready.
fn in_turn(of: &mut Group, from: u32, span: u32) -> u32 {
    of.turn = of.turn.wrapping_add(1);
    of.order[(from + of.turn % span) as usize]
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
