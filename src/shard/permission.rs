//! What clients may do with topics: one decision for a publish, a filter of SUBSCRIBE and a will,
//! remembered in a cache of fixed size. Changed rules are applied in [`super::revoke`].

use super::Shard;
use super::revoke::Revoking;
use crate::access::cache::Cache;
use crate::access::{self, Decision, Deed, Denied, Grant, NOT_ALLOWED, Who};
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{Publish, Qos, ReasonCode};
use crate::topic;

/// Rules that are looked at for one unit of a step's cost, which is about 100 ns.
const RULES_PER_UNIT: u32 = 4;

/// What the shard remembers of its decisions.
#[derive(Default)]
pub(super) struct Permissions {
    cache: Cache,
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
    /// Other rules are in force: what was decided is forgotten, and live clients are looked at.
    pub(super) fn change_rules(&mut self) {
        let restricts = self.settings.restricts;
        let entries = if restricts { self.settings.access.cache_entries } else { 0 };
        let fresh = Cache::new(entries);
        let same = self.access.permissions.cache.room() == fresh.room();
        if !(same && Mutant::DecisionsKept.is_on()) {
            self.access.permissions.cache = fresh;
        }
        if restricts && !Mutant::ReloadNotApplied.is_on() {
            self.access.permissions.revoking = Some(Revoking::at(0));
        }
    }

    /// Whether a client may publish a message, whose topic it calls `own`; `None` when it may. The
    /// broker's own rules have been asked.
    #[inline(never)]
    pub(super) fn refuses_publish(
        &mut self,
        index: u32,
        own: &str,
        publish: &Publish<'_>,
    ) -> Option<Denied> {
        let deed = Deed::Publish { qos: publish.qos as u8, retain: publish.retain };
        match self.decide_session(index, deed, own) {
            Decision::Deny(denied) if !Mutant::DeniedPublished.is_on() => Some(denied),
            _ => None,
        }
    }

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
            Decision::Deny(denied) if !Mutant::DeniedSubscribed.is_on() => {
                self.counters.subscriptions_denied += 1;
                if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket) {
                    self.log_denied(socket, index, "subscribe", filter);
                }
                Err(denied.reason)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn decide_session(&mut self, index: u32, deed: Deed, topic: &str) -> Decision {
        let Some(session) = self.sessions.get(index) else { return Decision::Deny(NOT_ALLOWED) };
        let serial = session.grant().map_or(0, |grant| grant.serial);
        let hash = self.topology.shared.seeds.secret(topic.as_bytes());
        if serial != 0
            && let Some(allowed) = self.access.permissions.cache.find(serial, hash, deed)
        {
            self.counters.decisions_remembered += 1;
            return if allowed { Decision::Allow } else { Decision::Deny(NOT_ALLOWED) };
        }
        // Who came while everybody might do everything is known by the ClientId only.
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let (allowed, looked_at) = self.settings.access.judge(&who, deed, topic);
        if serial != 0 {
            self.access.permissions.cache.put(serial, hash, deed, allowed);
        }
        self.ruled(allowed, looked_at)
    }

    /// The same for a client that has no session yet.
    pub(super) fn decide_for(
        &mut self,
        client_id: &str,
        grant: &Grant,
        deed: Deed,
        topic: &str,
    ) -> Decision {
        let who = Who { client_id, grant, listener: self.listener_name(grant.listener) };
        let (allowed, looked_at) = self.settings.access.judge(&who, deed, topic);
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
}

/// The filter that a subscription matches with: that of a share group is behind the group's name.
pub(super) fn inner(filter: &str) -> &str {
    match topic::parse_share(filter) {
        Some(Ok(share)) => share.filter,
        _ => filter,
    }
}
