//! Pages of clients and of their subscriptions, the details of one client, and how one is kicked.

use super::{Slice, SliceBudget};
use crate::ids::Peer;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::Version;
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::close::Cause;
use crate::shard::observe::{Departure, Measure};
use crate::shard::route::{self, NO_LOCAL};
use crate::time::Instant;
use std::net::IpAddr;

/// Which clients are wanted. A field that is empty or `None` does not restrict them.
#[derive(Clone, Default, Debug)]
pub struct ClientQuery {
    /// The ClientId begins with this text.
    pub prefix: Box<str>,
    /// The ClientId contains this text.
    pub contains: Box<str>,
    /// The user name is this one.
    pub username: Option<Box<str>>,
    /// The user name contains this text.
    pub username_contains: Box<str>,
    /// The address of the connection, without the port.
    pub address: Option<IpAddr>,
    /// The name of the listener of the connection.
    pub listener: Option<Box<str>>,
    /// The protocol version of the last connection.
    pub version: Option<Version>,
    /// Whether the client is connected.
    pub connected: Option<bool>,
    /// Whether messages wait for the client, or what the client sends is held back.
    pub busy: Option<bool>,
    /// Connected at this time or later.
    pub connected_from: Option<Instant>,
    /// Connected at this time or earlier.
    pub connected_to: Option<Instant>,
}

/// One session, as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientDetails {
    /// The ClientId.
    pub client_id: Box<str>,
    /// The user name, if user names are checked.
    pub username: Option<Box<str>>,
    /// The common name of the client's certificate, if one was verified and the access rules use
    /// it.
    pub common_name: Option<Box<str>>,
    /// Whether the client is connected.
    pub connected: bool,
    /// The address that the client is connected from.
    pub peer: Option<Peer>,
    /// The name of the listener that the client is connected to.
    pub listener: Option<Box<str>>,
    /// The protocol version of the last connection.
    pub version: Version,
    /// When the last connection began, to within four seconds.
    pub since: Option<Instant>,
    /// Milliseconds of silence after which the client is disconnected; 0 for no limit.
    pub patience: u32,
    /// Session Expiry Interval in seconds; `u32::MAX` for never.
    pub expiry: u32,
    /// While the client is offline: when the session ends, if ever.
    pub ends: Option<Instant>,
    /// The prefix of the client's topics.
    pub mountpoint: Box<str>,
    /// Whether the client is a superuser, for whom the access rules do not count.
    pub superuser: bool,
    /// Whether the client is a bridge.
    pub bridge: bool,
    /// Whether the session has a will.
    pub has_will: bool,
    /// The number of subscriptions, those in share groups included.
    pub subscriptions: usize,
    /// Messages of QoS 1 and 2 that the client has not acknowledged.
    pub inflight: u16,
    /// Most messages of QoS 1 and 2 that may be unacknowledged.
    pub inflight_max: u16,
    /// Messages that wait in the session's queue.
    pub pending: usize,
    /// Bytes of these messages.
    pub pending_bytes: usize,
    /// Most messages that may wait in a session's queue.
    pub pending_max: usize,
    /// QoS 2 messages from the client that await PUBREL.
    pub unreleased: usize,
    /// Bytes for the client that its host has not accepted yet.
    pub unsent: usize,
    /// Whether what the client sends is held at present, for back-pressure.
    pub held: bool,
    /// The home shard of the session.
    pub shard: u8,
}

/// The traffic of one client in the last one to two minutes, estimated from samples: what is surely
/// this client's, and nothing if it has less than about 1/128 of its shard's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientTraffic {
    /// How many milliseconds it covers.
    pub millis: u64,
    /// PUBLISH packets from the client, and bytes of packets from it.
    pub received: (u64, u64),
    /// PUBLISH packets to the client, and their bytes.
    pub sent: (u64, u64),
}

/// Where a list of subscriptions goes on: the session, and how many of its subscriptions have been
/// listed already.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SubscriptionCursor {
    /// The place of the session.
    pub session: u32,
    /// How many of its subscriptions have been listed.
    pub listed: u32,
}

impl std::fmt::Display for SubscriptionCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.session, self.listed)
    }
}

impl std::str::FromStr for SubscriptionCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (session, listed) = text.split_once('-').unwrap_or((text, "0"));
        Ok(SubscriptionCursor { session: session.parse()?, listed: listed.parse()? })
    }
}

/// One subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionRow {
    /// The ClientId of the subscriber.
    pub client_id: Box<str>,
    /// The filter, mountpoint included; for a share group, `$share/group/filter`.
    pub filter: Box<str>,
    /// The granted QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier; 0 for none.
    pub subscription_id: u32,
}

impl ClientQuery {
    fn fits_session(&self, session: &Session) -> bool {
        let username = || session.grant().and_then(|grant| grant.username.as_deref());
        session.client_id.starts_with(&*self.prefix)
            && (self.contains.is_empty() || session.client_id.contains(&*self.contains))
            && self.connected.is_none_or(|wanted| wanted == session.socket().is_some())
            && self.version.is_none_or(|wanted| wanted == session.version)
            && self.username.as_deref().is_none_or(|wanted| username() == Some(wanted))
            && (self.username_contains.is_empty()
                || username().is_some_and(|name| name.contains(&*self.username_contains)))
            && self.fits_since(session)
    }

    fn fits_since(&self, session: &Session) -> bool {
        if self.connected_from.is_none() && self.connected_to.is_none() {
            return true;
        }
        let Some(since) = session.connected.instant() else { return false };
        self.connected_from.is_none_or(|from| since >= from)
            && self.connected_to.is_none_or(|to| since <= to)
    }
}

impl Shard {
    /// The clients that fit `query`, at most `most`, from the place `from` on.
    pub fn clients(
        &mut self,
        from: u32,
        query: &ClientQuery,
        most: usize,
    ) -> Slice<ClientDetails, u32> {
        let mut patience = SliceBudget::for_rows(most);
        let mut slice = Slice::new();
        for index in from..self.sessions.bound() {
            if !patience.lasts(slice.rows.len()) {
                slice.next = Some(index + u32::from(Mutant::InquirySliceSkips.is_on()));
                break;
            }
            let Some(session) = self.sessions.get(index) else { continue };
            if session.is_ending() || !query.fits_session(session) {
                continue;
            }
            if !self.fits_connection(session, query) {
                continue;
            }
            slice.rows.push(self.details(index, session));
        }
        self.meter.charge(cost::VISIT * patience.used());
        self.meter.charge(cost::FILTER * slice.rows.len() as u32);
        slice
    }

    fn fits_connection(&self, session: &Session, query: &ClientQuery) -> bool {
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let waits = session.flow.as_ref().is_some_and(|flow| !flow.pending.is_empty());
        let held = connection.is_some_and(|connection| !connection.holds.is_free());
        if query.busy.is_some_and(|wanted| wanted != (waits || held)) {
            return false;
        }
        if query.address.is_none() && query.listener.is_none() {
            return true;
        }
        let Some(connection) = connection else { return false };
        let address = match connection.peer {
            Peer::Tcp(address, _) => Some(address),
            Peer::Unix => None,
        };
        let listener = self.listener_name(connection.listener);
        query.address.is_none_or(|wanted| address == Some(wanted.to_canonical()))
            && query.listener.as_deref().is_none_or(|wanted| wanted == listener)
    }

    /// The client with that ClientId.
    pub fn client(&mut self, client_id: &str) -> Option<ClientDetails> {
        self.meter.charge(cost::SESSION);
        let index = self.find_session(client_id)?;
        Some(self.details(index, self.sessions.get(index)?))
    }

    /// What is known by sampling of the traffic of a client whose home is this shard; `None` when
    /// it has no session.
    pub fn traffic_of(&mut self, client_id: &str) -> Option<ClientTraffic> {
        let reference = self.session_ref(self.find_session(client_id)?);
        let session = (reference.index, reference.generation);
        let mut millis = 0;
        let mut of = |measure| {
            let (weighed, covered) = self.work.observers.heavy.heaviest(measure, self.now);
            millis = covered;
            self.meter.charge(cost::VISIT * weighed.len() as u32);
            let found = weighed.into_iter().find(|one| one.session == session);
            found.map_or(0, |one| one.weight - one.error)
        };
        let [messages_received, bytes_received, messages_sent, bytes_sent] = [
            Measure::MessagesReceived,
            Measure::BytesReceived,
            Measure::MessagesSent,
            Measure::BytesSent,
        ]
        .map(&mut of);
        let received = (messages_received, bytes_received);
        Some(ClientTraffic { millis, received, sent: (messages_sent, bytes_sent) })
    }

    /// How the last connection of a client ended whose home is this shard, if that is remembered.
    pub fn departure_of(&mut self, client_id: &str) -> Option<Departure> {
        self.meter.charge(cost::SESSION);
        self.work.observers.departures.last(self.topology.client_key(client_id))
    }

    /// The client with that ClientId, if it fits `query`.
    pub fn client_that_fits(
        &mut self,
        client_id: &str,
        query: &ClientQuery,
    ) -> Option<ClientDetails> {
        self.meter.charge(cost::SESSION);
        let index = self.find_session(client_id)?;
        let session = self.sessions.get(index)?;
        let fits = query.fits_session(session) && self.fits_connection(session, query);
        fits.then(|| self.details(index, session))
    }

    fn details(&self, index: u32, session: &Session) -> ClientDetails {
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let flow = session.flow.as_deref();
        let grant = session.grant();
        let common_name = grant.map(|grant| &grant.certificate).filter(|name| !name.is_empty());
        ClientDetails {
            client_id: session.client_id.boxed(),
            username: grant.and_then(|grant| grant.username.clone()),
            common_name: common_name.cloned(),
            connected: connection.is_some(),
            peer: connection.map(|connection| connection.peer),
            listener: connection.map(|c| self.listener_name(c.listener).into()),
            version: session.version,
            since: session.connected.instant(),
            patience: connection.map_or(0, |connection| connection.patience),
            expiry: session.expiry,
            ends: (connection.is_none() && session.ends() != Instant::END)
                .then_some(session.ends()),
            mountpoint: session.mountpoint().into(),
            superuser: grant.is_some_and(|grant| grant.superuser),
            bridge: session.bridge,
            has_will: session.will.is_some(),
            subscriptions: session.subscriptions.len() + session.shared(),
            inflight: flow.map_or(0, |flow| flow.window.open()),
            inflight_max: session.window_limit,
            pending: flow.map_or(0, |flow| flow.pending.len()),
            pending_bytes: flow.map_or(0, |flow| flow.pending.bytes()),
            pending_max: self.pending_bounds_of(index).messages,
            unreleased: flow.map_or(0, |flow| flow.inbound.len()),
            unsent: connection.and_then(|c| c.output.as_ref()).map_or(0, |out| out.unsent()),
            held: connection.is_some_and(|connection| !connection.holds.is_free()),
            shard: self.topology.id.0,
        }
    }

    /// Disconnects a client (reason 0x98, administrative action). With `and_session`, also ends the
    /// session, whether it is connected or not; its will is sent as section 3.1.2.5 says. False
    /// when there is no such session, or it is not connected and is to stay.
    pub fn kick(&mut self, client_id: &str, and_session: bool) -> bool {
        let Some(index) = self.find_session(client_id) else { return false };
        let socket = self.sessions.get(index).and_then(|session| session.socket());
        if let Some(socket) = socket {
            self.counters.kicked += 1;
            self.disconnect(socket, Cause::Administrative);
        }
        if !and_session || Mutant::KickKeepsSession.is_on() {
            return socket.is_some();
        }
        // The session is gone with its connection, unless it has an expiry.
        if let Some(index) = self.find_session(client_id) {
            self.counters.sessions_persistent -= 1;
            self.counters.sessions_dropped += 1;
            self.end_session(index);
        }
        true
    }

    /// The subscriptions of all clients that `wanted` accepts, at most `most`.
    pub fn client_subscriptions(
        &mut self,
        from: SubscriptionCursor,
        most: usize,
        wanted: impl Fn(&SubscriptionRow) -> bool,
    ) -> Slice<SubscriptionRow, SubscriptionCursor> {
        let mut patience = SliceBudget::for_rows(most);
        let mut slice = Slice::new();
        let mut listed = from.listed;
        for index in from.session..self.sessions.bound() {
            let skipped = std::mem::take(&mut listed);
            if let Some(session) = self.sessions.get(index).filter(|session| !session.is_ending())
                && let Some(listed) =
                    self.list_subscriptions(session, skipped, &mut patience, &mut slice, &wanted)
            {
                slice.next = Some(SubscriptionCursor { session: index, listed });
                break;
            }
            if !patience.lasts(slice.rows.len()) {
                slice.next = Some(SubscriptionCursor { session: index + 1, listed: 0 });
                break;
            }
        }
        self.meter.charge(cost::VISIT * patience.used());
        self.meter.charge(cost::FILTER * slice.rows.len() as u32);
        slice
    }

    /// The subscriptions of one client, after the first `listed`; `None` when there is no such
    /// client.
    pub fn subscriptions_of_client(
        &mut self,
        client_id: &str,
        listed: u32,
        most: usize,
    ) -> Option<Slice<SubscriptionRow, u32>> {
        let session = self.sessions.get(self.find_session(client_id)?)?;
        let mut patience = SliceBudget::for_rows(most);
        let mut slice: Slice<SubscriptionRow, u32> = Slice::new();
        slice.next = self.list_subscriptions(session, listed, &mut patience, &mut slice, &|_| true);
        self.meter.charge(cost::VISIT * patience.used());
        self.meter.charge(cost::FILTER * slice.rows.len() as u32);
        Some(slice)
    }

    /// Adds subscriptions of a session, after the first `listed`, to the slice. Returns how many
    /// have been listed when more are left.
    fn list_subscriptions<C>(
        &self,
        session: &Session,
        listed: u32,
        patience: &mut SliceBudget,
        slice: &mut Slice<SubscriptionRow, C>,
        wanted: &impl Fn(&SubscriptionRow) -> bool,
    ) -> Option<u32> {
        let own = session.subscriptions.len();
        let index = &self.subscriptions.index;
        let mut take = |filter: &str, options: u8, subscription_id: u32| {
            let row = SubscriptionRow {
                client_id: session.client_id.boxed(),
                filter: filter.into(),
                qos: route::packed_qos(options) as u8,
                no_local: options & NO_LOCAL != 0,
                retain_as_published: options & route::RETAIN_AS_PUBLISHED != 0,
                subscription_id,
            };
            if wanted(&row) {
                slice.rows.push(row);
            }
            slice.rows.len()
        };
        let mut found = 0;
        for at in listed as usize..own {
            if !patience.lasts(found) {
                return Some(at as u32);
            }
            let Some(place) = session.subscriptions.nth(at) else { break };
            let entry = index.subscribers(place.filter).get(place.position as usize);
            if let Some(entry) = entry {
                found = take(index.filter(place.filter), entry.options, entry.subscription_id);
            }
        }
        let shares = session.shares().into_iter().flat_map(|shares| shares.list.iter());
        let skipped = (listed as usize).saturating_sub(own);
        for (at, share) in shares.enumerate().skip(skipped) {
            if !patience.lasts(found) {
                return Some((own + at) as u32);
            }
            found = take(share.name.as_str(), share.options, share.subscription_id);
        }
        None
    }
}
