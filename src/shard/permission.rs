//! What clients may do with topics: one decision for a publish, a filter of SUBSCRIBE and a will,
//! remembered in a cache of fixed size; and what a reload takes away from live clients.

use super::Shard;
use super::close::Cause;
use super::receive::Handled;
use crate::access::cache::{Cache, NO_END};
use crate::access::{self, Decision, Deed, Denied, Grant, NOT_ALLOWED, Who};
use crate::config::{OnDeny, OnUserChanged};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{Publish, Qos, ReasonCode, Version};
use crate::session::ShareName;
use crate::topic::{self, FilterId};

/// Rules that are looked at for one unit of a step's cost, which is about 100 ns.
const RULES_PER_UNIT: u32 = 4;

/// What the shard remembers of its decisions.
#[derive(Default)]
pub(super) struct Permissions {
    cache: Cache,
    /// While what a reload took away is looked for.
    revoking: Option<Revoking>,
}

/// How far the search has come.
struct Revoking {
    /// The session.
    session: u32,
    /// Its subscriptions that are still to be looked at; `None` at first.
    left: Option<usize>,
    /// Its share groups that are.
    shares: Vec<ShareName>,
}

impl Revoking {
    fn at(session: u32) -> Self {
        Revoking { session, left: None, shares: Vec::new() }
    }
}

/// Subscriptions that are looked at before the step's work is.
const SLICE: usize = 64;

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
        let same = self.permissions.cache.room() == fresh.room();
        if !(same && Mutant::DecisionsKept.is_on()) {
            self.permissions.cache = fresh;
        }
        self.ask_again();
        let users = !self.settings.access.methods.is_empty();
        if (restricts || users) && !Mutant::ReloadNotApplied.is_on() {
            self.permissions.revoking = Some(Revoking::at(0));
        }
    }

    /// Whether a client may publish a message, whose topic it calls `own`; `None` when it may. The
    /// broker's own rules have been asked.
    ///
    /// # Errors
    /// A service is asked, and the packet is to be held.
    #[inline(never)]
    pub(super) fn refuses_publish(
        &mut self,
        socket: SocketId,
        index: u32,
        own: &str,
        publish: &Publish<'_>,
    ) -> Result<Option<Denied>, Handled> {
        let deed = Deed::Publish { qos: publish.qos as u8, retain: publish.retain };
        let decided = self.known_decision(index, deed, own);
        match decided {
            Err(_) if Mutant::UnansweredPublished.is_on() => Ok(None),
            Err(source) => Err(self.ask_about(socket, index, source, vec![(deed, own.into())])),
            Ok(decision) => {
                self.asking.handled(socket);
                match decision {
                    Decision::Deny(denied) if !Mutant::DeniedPublished.is_on() => Ok(Some(denied)),
                    _ => Ok(None),
                }
            }
        }
    }

    /// A message that may not be published: counted, and said in the log. True when the connection
    /// has ended: the policy for versions that have no other way to tell the client.
    pub(super) fn denied_publish(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        own: &str,
    ) -> bool {
        self.counters.dropped_not_authorized += 1;
        self.log_denied(socket, index, "publish", own);
        let ends = !version.is_v5() && self.settings.access.on_deny == OnDeny::Disconnect;
        if ends {
            self.disconnect(socket, Cause::NotAllowed);
        }
        ends
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
            Decision::Later => {
                // More filters than are asked about.
                self.counters.subscriptions_denied += 1;
                Err(ReasonCode::QuotaExceeded)
            }
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

    fn decide_session(&mut self, index: u32, deed: Deed, topic: &str) -> Decision {
        self.known_decision(index, deed, topic).unwrap_or(Decision::Later)
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
        let hash = self.shared.seeds.secret(topic.as_bytes());
        let second = (self.now.0 / 1000) as u32;
        if serial != 0
            && let Some(allowed) = self.permissions.cache.find(serial, hash, deed, second)
        {
            self.counters.decisions_remembered += 1;
            return Ok(if allowed { Decision::Allow } else { Decision::Deny(NOT_ALLOWED) });
        }
        // Who came while everybody might do everything is known by the ClientId only.
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let said = |at| self.asking.said(session.socket?, at, deed, hash);
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
            self.permissions.cache.put(serial, hash, deed, allowed, until);
        }
        match allowed {
            Ok(allowed) => Ok(self.ruled(allowed, looked_at)),
            Err(source) => {
                self.meter.charge(cost::VISIT + looked_at / RULES_PER_UNIT);
                Err(source)
            }
        }
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
        let hash = self.shared.seeds.secret(topic.as_bytes());
        let said = |at| self.asking.said(socket, at, deed, hash);
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

    /// Takes away what a reload does not allow any more, until the step's work comes to `limit`;
    /// true when some clients have not been looked at.
    pub(super) fn run_revoking(&mut self, limit: u32) -> bool {
        let Some(mut revoking) = self.permissions.revoking.take() else { return false };
        while revoking.session < self.sessions.bound() {
            if self.is_spent(limit) {
                self.permissions.revoking = Some(revoking);
                return true;
            }
            self.meter.charge(cost::VISIT);
            self.revoke_some(&mut revoking);
        }
        false
    }

    /// Ends those of the next subscriptions of a session that it may not have.
    fn revoke_some(&mut self, revoking: &mut Revoking) {
        let index = revoking.session;
        let session = self.sessions.get(index).filter(|session| !session.is_ending());
        if session.is_none() {
            *revoking = Revoking::at(index + 1);
            return;
        }
        if revoking.left.is_none() && self.revokes_user(index) {
            *revoking = Revoking::at(index + 1);
            return;
        }
        if !self.settings.restricts {
            *revoking = Revoking::at(index + 1);
            return;
        }
        let Some(session) = self.sessions.get(index) else { return };
        if revoking.left.is_none() {
            let shares = session.shares().into_iter().flat_map(|shares| shares.list.iter());
            revoking.shares = shares.map(|share| share.name.clone()).collect();
        }
        // From the last to the first: one that is taken out gives its place to the last, which has
        // been looked at.
        let places = session.subscriptions.all();
        let end = revoking.left.unwrap_or(places.len()).min(places.len());
        let begin = end.saturating_sub(SLICE);
        let filters: Vec<FilterId> =
            places.get(begin..end).into_iter().flatten().map(|place| place.filter).collect();
        self.meter.charge(cost::bytes(size_of_val(&*places)));
        for filter in filters.into_iter().rev() {
            let full = self.index.filter(filter).to_owned();
            self.revoke_filter(index, Some(filter), &full);
        }
        revoking.left = Some(begin);
        if begin > 0 {
            return;
        }
        for _ in 0..SLICE {
            let Some(name) = revoking.shares.pop() else { break };
            self.revoke_filter(index, None, name.as_str());
        }
        if revoking.shares.is_empty() {
            *revoking = Revoking::at(index + 1);
        }
    }

    /// Ends a connection whose user has another password by now, or is no user any more; true when
    /// it did.
    fn revokes_user(&mut self, index: u32) -> bool {
        let access = &self.settings.access;
        let Some(session) = self.sessions.get(index) else { return false };
        let (Some(socket), Some(grant)) = (session.socket, session.grant()) else { return false };
        let known = access.still_knows(grant.username.as_deref(), grant.credential);
        if known || access.on_user_changed == OnUserChanged::Keep {
            return false;
        }
        if Mutant::ChangedUserStays.is_on() {
            return false;
        }
        self.counters.users_revoked += 1;
        self.disconnect(socket, Cause::Expired);
        true
    }

    fn revoke_filter(&mut self, index: u32, place: Option<FilterId>, full: &str) {
        let Some(session) = self.sessions.get(index) else { return };
        let plain = inner(full);
        let own = plain.strip_prefix(session.mountpoint()).unwrap_or(plain).to_owned();
        let qos = place.and_then(|filter| {
            let position = session.subscriptions.position(filter)?;
            Some(self.index.subscribers(filter).get(position as usize)?.options & 3)
        });
        let deed = Deed::Subscribe { qos: qos.unwrap_or(0) };
        // What a service allowed stays until the client asks again: a reload is no reason to ask
        // about all subscriptions at once.
        if matches!(self.decide_session(index, deed, &own), Decision::Allow | Decision::Later) {
            return;
        }
        self.counters.subscriptions_revoked += 1;
        self.log_revoked(index, full);
        match place {
            Some(filter) => _ = self.remove_subscription(index, filter),
            None => _ = self.leave_named(index, &ShareName::new(full)),
        }
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
