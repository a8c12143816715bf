//! What clients may do with topics: one decision for a publish, a filter of SUBSCRIBE and a will,
//! remembered in a cache of fixed size. Changed rules are applied in [`super::revoke`].

use super::Shard;
use super::revoke::Revoking;
use crate::access::cache::{Cache, NO_END};
use crate::access::{self, Decision, Deed, Denied, Grant, NOT_ALLOWED, Who};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{Qos, ReasonCode};
use crate::topic;

/// Rules that are looked at for one unit of a step's cost, which is about 100 ns.
const RULES_PER_UNIT: u32 = 4;

/// What the shard remembers of its decisions.
#[derive(Default)]
pub(super) struct Permissions {
    pub(super) cache: Cache,
    /// While what a reload took away is looked for.
    pub(super) revoking: Option<Revoking>,
}

impl Permissions {
    /// True while a reload is not applied to everybody yet.
    pub(super) fn is_revoking(&self) -> bool {
        self.revoking.is_some()
    }
}

impl Shard {
    /// Whether a client may subscribe; `filter` is what it asked for.
    pub(super) fn may_subscribe(
        &mut self,
        index: u32,
        filter: &str,
        qos: Qos,
    ) -> Result<(), ReasonCode> {
        if !self.settings.restricts {
            return Ok(());
        }
        let inner = inner(filter);
        match self.decide_session(index, Deed::Subscribe { qos: qos as u8 }, inner) {
            Decision::Later => {
                // More filters than are asked about.
                self.counters.subscriptions_denied += 1;
                Err(ReasonCode::QuotaExceeded)
            }
            Decision::Deny(denied) if !Mutant::DeniedSubscribed.is_on() => {
                self.counters.subscriptions_denied += 1;
                if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket) {
                    self.log_denied(socket, index, "subscribe", filter);
                    self.observe_denied(index, "subscribe", filter);
                }
                Err(denied.reason)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn decide_session(&mut self, index: u32, deed: Deed, topic: &str) -> Decision {
        self.known_decision(index, deed, topic).unwrap_or(Decision::Later)
    }

    /// The same for a client that has no session yet.
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
        // It has been asked about before.
        let allowed = access.allows(grant, ruled).unwrap_or(false);
        self.ruled(allowed, looked_at)
    }

    fn ruled(&mut self, allowed: bool, looked_at: u32) -> Decision {
        self.meter.charge(cost::VISIT + looked_at / RULES_PER_UNIT);
        if allowed {
            self.counters.decisions_allowed += 1;
            return Decision::Allow;
        }
        self.counters.decisions_denied += 1;
        Decision::Deny(NOT_ALLOWED)
    }

    /// Whether anybody may publish there; counted when not.
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

    /// What is decided about a client's deed.
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
        // Who came while everybody might do everything is known by the ClientId only.
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let said = |at| self.access.asking.said(session.socket?, at, deed, hash);
        let access = &self.settings.access;
        let (ruled, looked_at) = access.explain(&who, deed, topic, said);
        // What depends on a service holds for a while only.
        let until = match access.asks() {
            true => second.saturating_add(access.cache_ttl),
            false => NO_END,
        };
        let allowed = access.allows(grant, ruled);
        if serial != 0
            && let Ok(allowed) = allowed
        {
            self.access.permissions.cache.put(serial, hash, deed, allowed, until);
        }
        match allowed {
            Ok(allowed) => Ok(self.ruled(allowed, looked_at)),
            Err(source) => {
                self.meter.charge(cost::VISIT + looked_at / RULES_PER_UNIT);
                Err(source)
            }
        }
    }
}

/// The filter that a subscription matches with: that of a share group is behind the group's name.
pub(super) fn inner(filter: &str) -> &str {
    match topic::parse_share(filter) {
        Some(Ok(share)) => share.filter,
        _ => filter,
    }
}
