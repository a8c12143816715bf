//! Applies changed access rules to existing subscriptions: a share of each step takes away
//! subscriptions that the rules no longer allow.

use super::Shard;
use super::close::Cause;
use super::permission::inner;
use crate::access::cache::Cache;
use crate::access::logins::Logins;
use crate::access::{Decision, Deed, Grant};
use crate::config::OnUserChanged;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::session::ShareName;
use crate::topic::FilterId;

/// How many subscriptions are looked at before the work of the step is compared with its limit.
const SLICE: usize = 64;

/// How far the search for subscriptions to take away has come.
pub(super) struct Revoking {
    /// The place of the session that is looked at.
    pub(super) session: u32,
    /// How many of its subscriptions are still to be looked at; `None` before the first.
    left: Option<usize>,
    /// Its share groups that are still to be looked at.
    shares: Vec<ShareName>,
}

impl Revoking {
    pub(super) fn at(session: u32) -> Self {
        Revoking { session, left: None, shares: Vec::new() }
    }
}

impl Shard {
    /// Called when other rules are in force: earlier decisions are forgotten, and the search
    /// begins.
    pub(super) fn change_rules(&mut self) {
        let restricts = self.settings.restricts;
        let entries = if restricts { self.settings.access.cache_entries } else { 0 };
        let fresh = Cache::new(entries);
        let same = self.access.permissions.cache.room() == fresh.room();
        if !(same && Mutant::DecisionsKept.is_on()) {
            self.access.permissions.cache = fresh;
        }
        if !Mutant::LoginsKept.is_on() {
            self.access.logins = Logins::new(self.settings.access.cache_logins);
        }
        self.ask_again();
        let users = !self.settings.access.methods.is_empty();
        if (restricts || users) && !Mutant::ReloadNotApplied.is_on() {
            self.access.permissions.revoking = Some(Revoking::at(0));
        }
    }

    /// Takes away what the new rules do not allow, until the step's work comes to `limit`; true
    /// when some sessions have not been looked at.
    pub(super) fn run_revoking(&mut self, limit: u32) -> bool {
        let Some(mut revoking) = self.access.permissions.revoking.take() else { return false };
        while revoking.session < self.sessions.bound() {
            if self.is_spent(limit) {
                self.access.permissions.revoking = Some(revoking);
                return true;
            }
            self.meter.charge(cost::VISIT);
            self.revoke_some(&mut revoking);
        }
        false
    }

    /// Ends those of the session's next subscriptions that the rules do not allow.
    fn revoke_some(&mut self, revoking: &mut Revoking) {
        let index = revoking.session;
        let lives = self.sessions.get(index).is_some_and(|session| !session.is_ending());
        let gone = !lives || revoking.left.is_none() && self.revokes_user(index);
        if !gone && self.settings.restricts && self.settings.access.at_delivery {
            self.know_for_delivery(index);
        }
        if gone || !self.settings.restricts || self.settings.access.at_delivery {
            *revoking = Revoking::at(index + 1);
            return;
        }
        let Some(session) = self.sessions.get(index) else { return };
        if revoking.left.is_none() {
            let shares = session.shares().into_iter().flat_map(|shares| shares.list.iter());
            revoking.shares = shares.map(|share| share.name.clone()).collect();
        }
        // From the last to the first: a subscription that is taken out gives its place to the last
        // one, which has been looked at.
        let places = session.subscriptions.all();
        let end = revoking.left.unwrap_or(places.len()).min(places.len());
        let begin = end.saturating_sub(SLICE);
        let filters: Vec<FilterId> =
            places.get(begin..end).into_iter().flatten().map(|place| place.filter).collect();
        self.meter.charge(cost::bytes(size_of_val(&*places)));
        for filter in filters.into_iter().rev() {
            let full = self.subscriptions.index.filter(filter).to_owned();
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

    /// Gives a grant to a client that connected while no rules were in force, so that the rules are
    /// applied to what the client is sent.
    fn know_for_delivery(&mut self, index: u32) {
        if self.sessions.get(index).is_some_and(|session| session.grant().is_none()) {
            let grant = Grant { serial: self.access.admissions.serial(), ..Grant::named(None) };
            if let Some(session) = self.sessions.get_mut(index) {
                self.memory.tally.names += grant.size();
                session.extras().grant = Some(Box::new(grant));
            }
        }
    }

    /// Disconnects a client whose user has a different password by now, or no longer exists; true
    /// when it did.
    fn revokes_user(&mut self, index: u32) -> bool {
        let access = &self.settings.access;
        let Some(session) = self.sessions.get(index) else { return false };
        let (Some(socket), Some(grant)) = (session.socket(), session.grant()) else { return false };
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
            Some(self.subscriptions.index.subscribers(filter).get(position as usize)?.options & 3)
        });
        let deed = Deed::Subscribe { qos: qos.unwrap_or(0) };
        // A decision that a service has to make stays as it is until the client asks again: a
        // reload is no reason to ask the service about all subscriptions at once.
        if matches!(self.decide_session(index, deed, &own), Decision::Allow | Decision::Later) {
            return;
        }
        self.counters.subscriptions_revoked += 1;
        self.log_revoked(index, full);
        match place {
            Some(filter) => _ = self.remove_subscription(index, filter),
            None => _ = self.leave_named(index, &ShareName::new(full)),
        }
        self.store_unsubscribed(index, full);
    }
}
