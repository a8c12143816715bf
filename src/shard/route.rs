//! Determines the shards and sessions that get a publication.

use super::Shard;
use super::ahead::{Shortage, TopicSubject};
use super::deliver::SendTerms;
use super::outbox::Turn;
use super::pace::{ReaderId, Receivers};
use super::storing::Speaker;
use crate::ids::{ShardId, ShardSet};
use crate::limits::cost;
use crate::message::{Accounts, MailPurpose, Message, MessageRef, Reserve, Retain};
use crate::mutant::Mutant;
use crate::packet::{Qos, SubscribeOptions};
use crate::topic::{Subscriber, TopicHash};

/// Bit of a packed options byte: the target is a share group, not a session.
pub(super) const GROUP: u8 = 0x80;
/// Bit of the options byte of a picked member: its group is the message's only receiver.
pub(super) const SOLE: u8 = 0x40;
pub(super) const NO_LOCAL: u8 = 0x04;
pub(super) const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Before a message is delivered, its subscribers may have to be caught up with all fan-outs that
/// are under way. The message is delivered in one go while its subscribers, times these fan-outs,
/// are at most this many times the subscribers that are served in one go without fan-outs: 4,096
/// deliveries, about a millisecond and a half.
const OWED: usize = 32;

/// Packs a subscription's options into one byte.
pub(super) fn pack(options: &SubscribeOptions) -> u8 {
    options.qos as u8
        | if options.no_local { NO_LOCAL } else { 0 }
        | if options.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
}

/// The QoS in a packed options byte.
pub(super) fn packed_qos(options: u8) -> Qos {
    Qos::from_u8(options & 3).unwrap_or(Qos::AtMostOnce)
}

/// The RETAIN flag of a live delivery [MQTT-3.3.1-12, MQTT-3.3.1-13].
pub(super) fn live_retain(options: u8, message: &MessageRef<'_>) -> bool {
    message.retain
        && (options & RETAIN_AS_PUBLISHED != 0 || Mutant::RetainAlwaysAsPublished.is_on())
}

/// Whether another shard has to report when a message is safe, because it may have to be stored
/// there.
fn counts(message: &MessageRef<'_>, purpose: MailPurpose) -> bool {
    message.qos > Qos::AtMostOnce || purpose.retain.is_kept()
}

/// Where a publication goes.
pub(super) struct Route {
    interested: ShardSet,
    retain_at: Option<ShardId>,
    /// The accounts that the message counts for where it is retained.
    accounts: Accounts,
}

impl Route {
    /// The shards that have matching subscriptions.
    pub(super) fn interested(&self) -> ShardSet {
        self.interested
    }

    /// The route to the shard that retains the message, and to no other.
    pub(super) fn without_subscribers(self) -> Self {
        Route { interested: ShardSet::default(), ..self }
    }

    /// The route with these accounts, for the shard that retains the message.
    #[inline]
    pub(super) fn on(self, accounts: Accounts) -> Self {
        Route { accounts, ..self }
    }

    /// The accounts that the message counts for where it is retained.
    pub(super) fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// The shard of this node that retains the message, if it is to be retained.
    pub(super) fn retain_at(&self) -> Option<ShardId> {
        self.retain_at
    }

    /// All shards that the message goes to.
    pub(super) fn all(&self) -> ShardSet {
        let mut all = self.interested;
        if let Some(home) = self.retain_at {
            all.insert(home);
        }
        all
    }
}

impl Shard {
    /// The route of a message, or a shard on it that cannot take the message now, and what is
    /// lacking.
    pub(super) fn find_route(
        &self,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
        turn: Turn,
    ) -> Result<Route, (ShardId, Shortage)> {
        // While the broker stops, no later publisher could have to wait behind this message.
        let interest = &self.topology.shared.interest;
        let topic = (!self.work.stopping.draining).then_some(TopicSubject { hash, interest });
        let retain_at = message.retain.then(|| self.topology.retained_home(hash));
        let accounts = Accounts::NONE;
        if self.topology.is_alone() {
            let interested = ShardSet::only(self.topology.id);
            return Ok(Route { interested, retain_at, accounts });
        }
        let interested = self.topology.shared.interest.shards(hash);
        let mut route = Route { interested, retain_at, accounts };
        if retain_at.is_some() {
            self.add_nodes(&mut route.interested, message.topic);
        }
        match self.mail.outbox.first_full(route.all(), route.interested, (topic, turn)) {
            Some(full) => Err(full),
            None => Ok(route),
        }
    }

    /// Accepts the message for every shard on the route, and delivers it here. True when some
    /// subscription matches; for other shards the interest table is trusted.
    pub(super) fn follow(
        &mut self,
        route: &Route,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
        stored: Option<&Message>,
    ) -> bool {
        self.delivery.current.begin(stored);
        let mut matched = false;
        if !self.subscriptions.links.is_empty() {
            matched |= self.give_to_links(hash, message);
        }
        if route.retain_at.is_some() {
            self.topology.shared.retained_ever.note(message.topic);
            if let Some(stamped) = self.follow_stamped(route, hash, message) {
                return matched | stamped;
            }
        }
        for shard in route.all().iter() {
            let deliver = route.interested.contains(shard);
            let kept = route.retain_at == Some(shard);
            if shard == self.topology.id {
                matched |= deliver && self.deliver_here(hash, message);
                if kept {
                    self.keep_retained(message, Retain::PLAIN.on(route.accounts));
                }
                continue;
            }
            let retain = if kept { Retain::PLAIN.on(route.accounts) } else { Retain::NONE };
            let purpose = MailPurpose { deliver, retain, reserve: Reserve::NONE };
            matched |= self.accept_for(shard, purpose, hash, message);
        }
        matched
    }

    /// Delivers and retains a message here, or accepts it for another shard or node. True when some
    /// subscription matches.
    pub(super) fn hand_to(
        &mut self,
        shard: ShardId,
        purpose: MailPurpose,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
    ) -> bool {
        if shard == self.topology.id {
            let matched = purpose.deliver && self.deliver_here(hash, message);
            if purpose.retain.is_kept() {
                self.keep_stamped(message, purpose.retain);
            }
            return matched;
        }
        self.accept_for(shard, purpose, hash, message)
    }

    /// Accepts a message for another shard or node; true when the message is to be delivered there.
    #[inline]
    fn accept_for(
        &mut self,
        shard: ShardId,
        purpose: MailPurpose,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
    ) -> bool {
        if let Some(storing) = &mut self.storing
            && counts(message, purpose)
        {
            storing.sent(shard, message.qos > Qos::AtMostOnce);
        }
        let interest = &self.topology.shared.interest;
        let topic = (!self.work.stopping.draining).then_some(TopicSubject { hash, interest });
        let fan = &mut self.delivery.current;
        let scratch = self.delivery.scratch.bytes();
        self.mail.outbox.publish(shard, message, topic, purpose, &mut fan.stored, scratch);
        purpose.deliver
    }

    /// Routes a message for which no connection waits (a will, `$SYS`). False when a mailbox is
    /// full now and nothing was done.
    pub(super) fn try_publish(
        &mut self,
        message: &MessageRef<'_>,
        accounts: Accounts,
        stored: Option<&Message>,
    ) -> bool {
        let hash = TopicHash::new(&self.topology.shared.seeds, message.topic);
        let Ok(route) = self.find_route(&hash, message, Turn::OfNobody) else { return false };
        self.subscriptions.links.asked = false;
        self.follow(&route.on(accounts), &hash, message, stored);
        self.subscriptions.links.asked = true;
        self.delivery.current.crowded.clear();
        true
    }

    /// Handles a message from that shard.
    pub(super) fn handle_mailed_from(
        &mut self,
        from: ShardId,
        message: &MessageRef<'_>,
        purpose: MailPurpose,
        stored: Option<&Message>,
    ) {
        let counts = self.storing.is_some() && counts(message, purpose);
        if let Some(storing) = self.storing.as_mut().filter(|_| counts) {
            storing.speaker = Speaker::Shard(from);
        }
        self.handle_mailed(message, purpose, stored);
        if let Some(storing) = self.storing.as_mut().filter(|_| counts) {
            storing.took(from);
        }
    }

    fn handle_mailed(
        &mut self,
        message: &MessageRef<'_>,
        purpose: MailPurpose,
        stored: Option<&Message>,
    ) {
        self.delivery.current.begin(stored);
        if purpose.deliver {
            let hash = TopicHash::new(&self.topology.shared.seeds, message.topic);
            self.deliver_here(&hash, message);
            self.regard(message.publisher, self.topology.id);
        }
        if purpose.retain.is_kept() {
            self.keep_stamped(message, purpose.retain);
        }
    }

    /// Delivers to the matching subscriptions of this shard; true when there is one.
    fn deliver_here(&mut self, hash: &TopicHash<'_>, message: &MessageRef<'_>) -> bool {
        let mut found = std::mem::take(&mut self.delivery.current.found);
        found.clear();
        let (mut subscribers, mut one) = (0, None);
        let visits = self.subscriptions.index.matching(hash, &mut |filter, list: &[Subscriber]| {
            subscribers += list.len();
            one = list.first().copied();
            found.push(filter);
        });
        self.meter.charge(cost::VISIT * (visits + found.len()) as u32);
        self.delivery.current.many = subscribers > 1;
        self.delivery.current.receivers =
            if found.is_empty() { Receivers::Nobody } else { Receivers::Several };
        if let (1, Some(sole)) = (subscribers, one) {
            let group = sole.options & GROUP != 0;
            self.delivery.current.receivers = Receivers::Sole(ReaderId::here(sole.target, group));
        }
        match found[..] {
            [] => {}
            _ if self.takes_more_than_one_go(subscribers) => {
                if let Some(storing) = &mut self.storing {
                    storing.fans_out();
                }
                self.begin_fanout(&found, message);
            }
            // Catching up changes the order of the list, so the last arm collects the subscribers
            // first.
            [filter] if self.delivery.fanouts.is_empty() => {
                for at in 0..subscribers {
                    let list = self.subscriptions.index.subscribers(filter);
                    let Some(&subscriber) = list.get(at) else { break };
                    self.deliver_one(subscriber, message);
                }
            }
            _ => self.deliver_overlapping(&found, message),
        }
        self.delivery.current.found = found;
        subscribers > 0
    }

    /// Whether a message for so many subscribers is delivered over several steps: there are many of
    /// them, or each may first have to be caught up with many fan-outs that are under way.
    #[inline]
    fn takes_more_than_one_go(&self, subscribers: usize) -> bool {
        let most = self.settings.budget.subscribers_at_once;
        subscribers > most || subscribers * self.delivery.fanouts.len() > OWED * most
    }

    /// Delivers older messages that are still on their way to a subscriber.
    #[inline]
    fn catch_up_subscriber(&mut self, subscriber: Subscriber) {
        if self.delivery.fanouts.is_empty() || Mutant::FanoutOvertaken.is_on() {
            return;
        }
        if subscriber.options & GROUP != 0 {
            self.catch_up_group(subscriber.target);
        } else {
            self.catch_up(subscriber.target);
        }
    }

    /// Delivers to one subscriber to whom no older message is on its way.
    #[inline(always)]
    pub(super) fn deliver_one(&mut self, subscriber: Subscriber, message: &MessageRef<'_>) {
        let Subscriber { target, options, subscription_id } = subscriber;
        if options & GROUP != 0 {
            self.deliver_to_group(target, message);
            return;
        }
        if options & NO_LOCAL != 0 && self.is_publisher(target, message) {
            return; // [MQTT-3.8.3-3]
        }
        let ids = [subscription_id];
        let terms = SendTerms {
            qos: packed_qos(options),
            retain: live_retain(options, message),
            subscription_ids: if subscription_id == 0 { &[] } else { &ids },
            replay: false,
            share: None,
        };
        self.deliver_now(target, message, &terms);
    }

    /// Delivers a message that several filters match. A client gets the message once, at the
    /// highest QoS of its matching subscriptions [MQTT-3.3.5-1], with all their identifiers
    /// [MQTT-3.3.4-3]. Share groups are separate subscriptions, and get the message in addition.
    /// All is done in one go, for as many entries as [`Shard::takes_more_than_one_go`] lets
    /// through.
    fn deliver_overlapping(&mut self, found: &[crate::topic::FilterId], message: &MessageRef<'_>) {
        let mut all = std::mem::take(&mut self.delivery.current.overlapping);
        all.clear();
        for &filter in found {
            for subscriber in self.subscriptions.index.subscribers(filter) {
                all.push((subscriber.target, subscriber.options, subscriber.subscription_id));
            }
        }
        // Groups (by their bit) come first, then all entries of each session side by side.
        all.sort_unstable_by_key(|&(target, options, id)| (options & GROUP == 0, target, id));
        if let (Some(&(target, options, _)), Some(&(last, others, _))) = (all.first(), all.last())
            && target == last
            && (options ^ others) & GROUP == 0
        {
            let sole = ReaderId::here(target, options & GROUP != 0);
            self.delivery.current.receivers = Receivers::Sole(sole);
        }
        let mut rest = &all[..];
        let mut mine = std::mem::take(&mut self.delivery.current.mine);
        while let Some(&(target, options, id)) = rest.first() {
            let subscriber = Subscriber { target, options, subscription_id: id };
            self.catch_up_subscriber(subscriber);
            if options & GROUP != 0 {
                self.deliver_to_group(target, message);
                rest = &rest[1..];
                continue;
            }
            let count = rest.iter().take_while(|&&(other, ..)| other == target).count();
            let (own, others) = rest.split_at(count);
            rest = others;
            mine.clear();
            mine.extend(own.iter().map(|&(_, options, id)| (options, id)));
            self.deliver_combined(target, &mut mine, message);
        }
        self.delivery.current.mine = mine;
        self.delivery.current.overlapping = all;
    }

    /// Delivers once to a session with several matching subscriptions, which are given by their
    /// options and identifiers (0 for none). Sorts them by identifier.
    pub(super) fn deliver_combined(
        &mut self,
        target: u32,
        mine: &mut [(u8, u32)],
        message: &MessageRef<'_>,
    ) {
        mine.sort_unstable_by_key(|&(_, id)| id);
        self.meter.charge(cost::VISIT * mine.len() as u32);
        let local = !self.is_publisher(target, message) || Mutant::NoLocalInOverlap.is_on();
        let mut ids = std::mem::take(&mut self.delivery.current.ids);
        ids.clear();
        let (mut qos, mut retain, mut any) = (Qos::AtMostOnce, false, false);
        for &(options, id) in mine.iter().filter(|own| local || own.0 & NO_LOCAL == 0) {
            any = true;
            qos = qos.max(packed_qos(options));
            if Mutant::OverlapLastQos.is_on() {
                qos = packed_qos(options);
            }
            retain |= live_retain(options, message);
            if id != 0 && !(Mutant::OverlapLosesIdentifier.is_on() && ids.len() == 1) {
                ids.push(id);
            }
        }
        if any {
            let subscription_ids = &ids[..];
            let terms = SendTerms { qos, retain, subscription_ids, replay: false, share: None };
            self.deliver_now(target, message, &terms);
        }
        self.delivery.current.ids = ids;
    }
}
