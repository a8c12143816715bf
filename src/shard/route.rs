//! From a publication to the shards and sessions that get it.

use super::Shard;
use super::deliver::Terms;
use crate::ids::{ShardId, ShardSet};
use crate::message::{Errand, Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{Qos, SubscribeOptions};
use crate::topic::{Subscriber, TopicHash};

/// In a packed options byte: the target is a share group, not a session.
pub(super) const GROUP: u8 = 0x80;
pub(super) const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;

/// A subscription's options in one byte.
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

/// Where a publication goes.
pub(super) struct Route {
    interested: ShardSet,
    retain_at: Option<ShardId>,
}

impl Route {
    fn all(&self) -> ShardSet {
        let mut all = self.interested;
        if let Some(home) = self.retain_at {
            all.insert(home);
        }
        all
    }
}

impl Shard {
    /// The shard that keeps a topic's retained message.
    pub(super) fn retained_home(&self, hash: &TopicHash<'_>) -> ShardId {
        ShardId((hash.exact() % u64::from(self.shards)) as u8)
    }

    /// Where the message goes; `None` when a mailbox on the way is full now.
    pub(super) fn find_route(
        &self,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
    ) -> Option<Route> {
        let retain_at = message.retain.then(|| self.retained_home(hash));
        if self.shards == 1 {
            return Some(Route { interested: ShardSet::only(self.id), retain_at });
        }
        let route = Route { interested: self.shared.interest.shards(hash), retain_at };
        self.outbox.has_room(route.all()).then_some(route)
    }

    /// Accepts the message for every shard on the route, delivers what is local. True when some
    /// subscription matches; for other shards the interest table is taken at its word.
    pub(super) fn follow(
        &mut self,
        route: &Route,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
        stored: Option<&Message>,
    ) -> bool {
        self.fan.begin(stored);
        if route.retain_at.is_some() && self.shared.retained_ever.used() == 0 {
            self.shared.retained_ever.take(1, 1);
        }
        let mut matched = false;
        for shard in route.all().iter() {
            let errand = Errand {
                deliver: route.interested.contains(shard),
                retain: route.retain_at == Some(shard),
            };
            if shard == self.id {
                if errand.deliver {
                    matched |= self.deliver_here(hash, message);
                }
                if errand.retain {
                    self.keep_retained(message);
                }
            } else {
                matched |= errand.deliver;
                let fan = &mut self.fan;
                self.outbox.publish(shard, message, errand, &mut fan.stored, &mut self.scratch);
            }
        }
        matched
    }

    /// Routes a message that no connection is waiting on (a will, `$SYS`); false when a mailbox is
    /// full now and nothing was done.
    pub(super) fn try_publish(
        &mut self,
        message: &MessageRef<'_>,
        stored: Option<&Message>,
    ) -> bool {
        let hash = TopicHash::new(&self.shared.seeds, message.topic);
        let Some(route) = self.find_route(&hash, message) else { return false };
        self.follow(&route, &hash, message, stored);
        self.fan.crowded.clear();
        true
    }

    /// A message from another shard.
    pub(super) fn run_errand(
        &mut self,
        message: &MessageRef<'_>,
        errand: Errand,
        stored: Option<&Message>,
    ) {
        self.fan.begin(stored);
        if errand.deliver {
            let hash = TopicHash::new(&self.shared.seeds, message.topic);
            self.deliver_here(&hash, message);
        }
        if errand.retain {
            self.keep_retained(message);
        }
    }

    /// Delivers to the matching subscriptions of this shard; true when there is one.
    fn deliver_here(&mut self, hash: &TopicHash<'_>, message: &MessageRef<'_>) -> bool {
        let mut found = std::mem::take(&mut self.fan.found);
        found.clear();
        let mut subscribers = 0;
        self.index.matching(hash, &mut |filter, list: &[Subscriber]| {
            subscribers += list.len();
            found.push(filter);
        });
        self.fan.many = subscribers > 1;
        match found[..] {
            [] => {}
            [filter] => {
                for at in 0..subscribers {
                    let subscriber = self.index.subscribers(filter)[at];
                    self.deliver_one(subscriber, message);
                }
            }
            _ => self.deliver_overlapping(&found, message),
        }
        self.fan.found = found;
        self.park_publisher_of(message);
        subscribers > 0
    }

    pub(super) fn park_publisher_of(&mut self, message: &MessageRef<'_>) {
        if self.fan.crowded.is_empty() {
            return;
        }
        let mut crowded = std::mem::take(&mut self.fan.crowded);
        for index in crowded.drain(..) {
            if let Some(publisher) = message.publisher {
                self.park_for(publisher, index);
            }
        }
        self.fan.crowded = crowded;
    }

    fn deliver_one(&mut self, subscriber: Subscriber, message: &MessageRef<'_>) {
        let Subscriber { target, options, subscription_id } = subscriber;
        if options & GROUP != 0 {
            self.deliver_to_group(target, message);
            return;
        }
        if options & NO_LOCAL != 0 && self.is_publisher(target, message) {
            return; // [MQTT-3.8.3-3]
        }
        let ids = [subscription_id];
        let terms = Terms {
            qos: packed_qos(options),
            retain: live_retain(options, message),
            subscription_ids: if subscription_id == 0 { &[] } else { &ids },
            replay: false,
            share: None,
        };
        self.deliver(target, message, terms);
    }

    /// True when the client of the session at `index` published the message, be it in an earlier
    /// session.
    pub(super) fn is_publisher(&self, index: u32, message: &MessageRef<'_>) -> bool {
        message.publisher.is_some() && message.publisher == self.publisher(index)
    }

    /// Several filters match: a client gets the message once, at the highest QoS of its matching
    /// subscriptions [MQTT-3.3.5-1], with all their identifiers [MQTT-3.3.4-3]. Share groups are
    /// subscriptions of their own and get it beside.
    fn deliver_overlapping(&mut self, found: &[crate::topic::FilterId], message: &MessageRef<'_>) {
        let mut all = std::mem::take(&mut self.fan.overlapping);
        all.clear();
        for &filter in found {
            for subscriber in self.index.subscribers(filter) {
                all.push((subscriber.target, subscriber.options, subscriber.subscription_id));
            }
        }
        // Groups (by their bit) first, then sessions side by side.
        all.sort_unstable_by_key(|&(target, options, id)| (options & GROUP == 0, target, id));
        let mut rest = &all[..];
        let mut ids = Vec::new();
        while let Some(&(target, options, _)) = rest.first() {
            if options & GROUP != 0 {
                self.deliver_to_group(target, message);
                rest = &rest[1..];
                continue;
            }
            let count = rest.iter().take_while(|&&(other, ..)| other == target).count();
            let (mine, others) = rest.split_at(count);
            rest = others;
            let own = self.is_publisher(target, message);
            ids.clear();
            let (mut qos, mut retain, mut any) = (Qos::AtMostOnce, false, false);
            let local = !own || Mutant::NoLocalInOverlap.is_on();
            for &(_, options, id) in mine.iter().filter(|m| local || m.1 & NO_LOCAL == 0) {
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
                let terms = Terms { qos, retain, subscription_ids, replay: false, share: None };
                self.deliver(target, message, terms);
            }
        }
        self.fan.overlapping = all;
    }
}
