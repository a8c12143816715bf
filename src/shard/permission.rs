//! What clients may do with topics: one decision for a PUBLISH, a filter of a SUBSCRIBE, or a will,
//! remembered in a cache of fixed size. [`super::revoke`] applies changed rules to existing
//! subscriptions.

use super::Shard;
use super::drops::DropReason;
use super::revoke::Revoking;
use crate::access::cache::{Cache, NO_END};
use crate::access::{self, Decider, Decision, Deed, Denied, Grant, NOT_ALLOWED, Who};
use crate::ids::{Peer, SocketId};
use crate::limits::cost;
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{Qos, ReasonCode};
use crate::session::Session;
use crate::telemetry::Counters;
use crate::topic;

/// How many rules can be looked at for one unit of a step's cost, which is about 100 ns.
const RULES_PER_UNIT: u32 = 4;

/// The counters of what somebody decides: allowed, denied.
fn tallies(counters: &mut Counters, decider: Decider) -> [&mut u64; 2] {
    match decider {
        Decider::Client => [&mut counters.allowed_by_client, &mut counters.denied_by_client],
        Decider::Rules => [&mut counters.allowed_by_rules, &mut counters.denied_by_rules],
        Decider::Http => [&mut counters.allowed_by_http, &mut counters.denied_by_http],
        Decider::Redis => [&mut counters.allowed_by_redis, &mut counters.denied_by_redis],
        Decider::Postgres => [&mut counters.allowed_by_postgres, &mut counters.denied_by_postgres],
        Decider::Nobody => [&mut counters.allowed_by_nobody, &mut counters.denied_by_nobody],
    }
}

/// The access decisions that the shard remembers.
#[derive(Default)]
pub(super) struct Permissions {
    pub(super) cache: Cache,
    /// The search for what a reload has taken away, while it goes on.
    pub(super) revoking: Option<Revoking>,
}

impl Permissions {
    /// True while a reload has not been applied to all clients.
    pub(super) fn is_revoking(&self) -> bool {
        self.revoking.is_some()
    }
}

impl Shard {
    /// Whether a client may subscribe; `filter` is the one in its packet.
    pub(super) fn may_subscribe(
        &mut self,
        index: u32,
        filter: &str,
        qos: Qos,
    ) -> Result<(), ReasonCode> {
        let inner = inner(filter);
        let decision = if !self.may_see_sys(index, inner) {
            Decision::Deny(NOT_ALLOWED)
        } else if !self.settings.restricts || self.settings.access.at_delivery {
            return Ok(());
        } else {
            self.decide_session(index, Deed::Subscribe { qos: qos as u8 }, inner)
        };
        match decision {
            Decision::Later => {
                // The packet has more filters than a service is asked about.
                self.counters.subscriptions_denied += 1;
                Err(ReasonCode::QuotaExceeded)
            }
            Decision::Deny(denied) if !Mutant::DeniedSubscribed.is_on() => {
                self.counters.subscriptions_denied += 1;
                if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket())
                {
                    self.log_denied(socket, index, "subscribe", filter);
                    self.observe_denied(index, "subscribe", filter);
                }
                Err(denied.reason)
            }
            _ => Ok(()),
        }
    }

    /// Whether a message may be sent to a client that has a mountpoint or a grant. A share group
    /// asks a member that may not get the message only when no other member has room.
    #[inline(never)]
    pub(super) fn may_be_sent(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        of_share: bool,
    ) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let Some(own) = session.unmounted(message.topic) else {
            // The topic is outside the client's mountpoint, whatever its filter matches.
            self.count_drops(DropReason::ShareFull, u64::from(of_share));
            return false;
        };
        if !self.settings.access.at_delivery || Mutant::DeniedDelivered.is_on() {
            return true;
        }
        let deed = Deed::Subscribe { qos: message.qos as u8 };
        if self.decide_session(index, deed, own) == Decision::Allow {
            return true;
        }
        self.drop_message(index, message, DropReason::ReadDenied);
        false
    }

    /// Whether a client may subscribe to what the server publishes about itself, where the rules do
    /// not decide that.
    fn may_see_sys(&self, index: u32, filter: &str) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        if !topic::is_servers_own(filter) || !session.mountpoint().is_empty() {
            return true;
        }
        let decided = |grant: &Grant| grant.superuser || grant.rules.is_some();
        if self.settings.sys_for_all
            || self.settings.access.authorizes
            || session.grant().is_some_and(decided)
        {
            return true;
        }
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        connection.is_some_and(|connection| match connection.peer {
            Peer::Tcp(ip, _) => ip.is_loopback(),
            Peer::Unix => true,
        })
    }

    /// Whether a message with that topic could be sent to the session's client. Nothing is
    /// remembered or counted.
    pub(super) fn could_be_sent(&self, session: &Session, topic: &str) -> bool {
        let Some(own) = session.unmounted(topic) else { return false };
        let access = &self.settings.access;
        let Some(grant) = session.grant().filter(|_| access.at_delivery) else { return true };
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let (ruled, _) = access.explain(&who, Deed::Subscribe { qos: 0 }, own, |_| None);
        access.allows(grant, ruled).unwrap_or(false)
    }

    pub(super) fn decide_session(&mut self, index: u32, deed: Deed, topic: &str) -> Decision {
        self.known_decision(index, deed, topic).unwrap_or(Decision::Later)
    }

    /// Decides for a client that has no session yet.
    pub(super) fn decide_for(
        &mut self,
        socket: SocketId,
        client_id: &str,
        grant: &Grant,
        deed: Deed,
        topic: &str,
    ) -> Decision {
        let who = Who { client_id, grant, listener: self.listener_name(grant.listener) };
        let hash = self.topology.shared.seeds.secret(topic.as_bytes());
        let said = |at| self.access.asking.said(socket, at, deed, hash);
        let access = &self.settings.access;
        let (ruled, looked_at) = access.explain(&who, deed, topic, said);
        // The service has been asked about this before.
        let allowed = access.allows(grant, ruled).unwrap_or(false);
        let decider = access.decider(grant, ruled);
        self.ruled(decider, allowed, looked_at)
    }

    fn ruled(&mut self, decider: Decider, allowed: bool, looked_at: u32) -> Decision {
        self.meter.charge(cost::VISIT + looked_at / RULES_PER_UNIT);
        let [allows, denies] = tallies(&mut self.counters, decider);
        if allowed {
            *allows += 1;
            return Decision::Allow;
        }
        *denies += 1;
        Decision::Deny(NOT_ALLOWED)
    }

    /// Whether the topic is closed to all publishers; counted if so.
    #[inline]
    pub(super) fn refuses_everybody(&mut self, topic: &str, own: &str) -> Option<Denied> {
        match access::own::publish(topic, own) {
            Decision::Deny(denied) => {
                let counters = &mut self.counters;
                match denied.reason {
                    ReasonCode::NotAuthorized => counters.dropped_not_authorized += 1,
                    _ => counters.dropped_not_encodable += 1,
                }
                Some(denied)
            }
            Decision::Allow | Decision::Later => None,
        }
    }

    /// The decision about a client's deed.
    ///
    /// # Errors
    /// The position of the service that has to be asked.
    pub(super) fn known_decision(
        &mut self,
        index: u32,
        deed: Deed,
        topic: &str,
    ) -> Result<Decision, usize> {
        let Some(session) = self.sessions.get(index) else {
            return Ok(Decision::Deny(NOT_ALLOWED));
        };
        let serial = session.grant().map_or(0, |grant| grant.serial);
        let hash = self.topology.shared.seeds.secret(topic.as_bytes());
        let second = (self.now.0 / 1000) as u32;
        if serial != 0
            && let Some(allowed) = self.access.permissions.cache.find(serial, hash, deed, second)
        {
            self.counters.decisions_remembered += 1;
            return Ok(if allowed { Decision::Allow } else { Decision::Deny(NOT_ALLOWED) });
        }
        // A client that connected while no rules were in force has no grant: only its ClientId is
        // known.
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let said = |at| self.access.asking.said(session.socket()?, at, deed, hash);
        let access = &self.settings.access;
        let (ruled, looked_at) = access.explain(&who, deed, topic, said);
        // A decision that depends on a service holds only for a while.
        let until = match access.asks() {
            true => second.saturating_add(access.cache_ttl),
            false => NO_END,
        };
        let (allowed, decider) = (access.allows(grant, ruled), access.decider(grant, ruled));
        if serial != 0
            && let Ok(allowed) = allowed
        {
            self.access.permissions.cache.put(serial, hash, deed, allowed, until);
        }
        match allowed {
            Ok(allowed) => Ok(self.ruled(decider, allowed, looked_at)),
            Err(source) => {
                self.meter.charge(cost::VISIT + looked_at / RULES_PER_UNIT);
                Err(source)
            }
        }
    }
}

/// The filter that a subscription matches with: for a share group, the part behind the group's
/// name.
pub(super) fn inner(filter: &str) -> &str {
    match topic::parse_share(filter) {
        Some(Ok(share)) => share.filter,
        _ => filter,
    }
}
