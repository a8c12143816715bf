//! Copies clients for the hand-over to another process: everything that belongs to one. The shard
//! keeps the originals, and goes on serving them if the other process fails.

use super::Shard;
use super::bans::{ClientOffence, NetworkOffence};
use super::changes::level;
use super::connection::{Connection, Stage};
use super::early::is_offline;
use super::route::GROUP;
use crate::access::Grant;
use crate::access::scram::Mechanism;
use crate::ids::{ShardId, SocketId};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::outgoing::Segment;
use crate::session::{Flow, Session};
use crate::upgrade::client::{self, Early, MovedClient, MovedSubscription, Remainder};
use crate::upgrade::code::ByteString;
use crate::upgrade::frame::{Ban, UpgradeTotals};

/// How far the packing of a shard has come.
#[derive(Clone, Default, Debug)]
pub struct PackCursor {
    /// Which clients are to be packed is known.
    begun: bool,
    /// It was told which copies are not what they should be.
    told: bool,
    /// How many parts of the table of bans were packed.
    bans: usize,
    /// What counts towards bans was packed.
    offences: bool,
    /// The counters were packed.
    counted: bool,
    /// The topic up to which those that were cleared were packed; empty at the end.
    cleared: Option<Box<str>>,
}

/// One packed piece.
pub enum Packed {
    /// A client with that socket.
    Online(SocketId, Box<MovedClient>),
    /// A client whose socket was copied before, by that shard under that number.
    Known(ShardId, u32, Box<MovedClient>),
    /// What has changed of a client that was copied before.
    Rest(Box<Remainder>),
    /// A copy of a session without a connection, made while the shard is served.
    Early(Box<Early>),
    /// The copies of that shard with these numbers are of no use any more.
    Gone(ShardId, Vec<u32>),
    /// Of the copies of that shard only those with these numbers are not what they should be. The
    /// shard has so many retained messages.
    Stale(ShardId, Vec<u32>, u64),
    /// A session without a connection.
    Offline(Box<MovedClient>),
    /// Some retained messages, each with the accounts that it counts for and its stamp; or topics
    /// that were cleared, with their stamps.
    Retained(Vec<((u64, u64), Message)>),
    /// What was sent of the retained messages of these topics holds no more.
    Unretained(Vec<Box<str>>),
    /// What that shard has counted.
    Counters(ShardId, Vec<(Box<str>, u64)>),
    /// What was counted that may lead to bans.
    Offences(Vec<ClientOffence>, Vec<NetworkOffence>),
    /// The temporary bans. They are shared by all shards, so only the first shard packs them.
    Bans(Vec<Ban>),
}

impl Packed {
    /// What the other process has more when this has come: of a client that was not copied before.
    /// What has of copies is counted in the end ([`Shard::copies`]).
    pub fn adds(&self) -> UpgradeTotals {
        let (sessions, connections) = match self {
            Packed::Online(_, client) => (u64::from(client.session.is_some()), 1),
            Packed::Offline(_) => (1, 0),
            _ => (0, 0),
        };
        UpgradeTotals { sessions, connections, retained: 0 }
    }
}

impl Shard {
    /// The next piece; `None` when everything was packed. The shard must be suspended and have no
    /// send in flight.
    pub fn pack_next(&mut self, cursor: &mut PackCursor) -> Option<Packed> {
        if !std::mem::replace(&mut cursor.begun, true) {
            self.look_at_rest();
            let topics = self.due_topics();
            if !topics.is_empty() {
                return Some(Packed::Unretained(topics));
            }
        }
        // When this has come, the other process knows what of the copies holds no more.
        if !std::mem::replace(&mut cursor.told, true) {
            let retained = self.retained.of_clients();
            return Some(Packed::Stale(self.topology.id, self.due_numbers(), retained));
        }
        while self.topology.id == ShardId(0) {
            let Some(bans) = self.packed_bans(cursor.bans) else { break };
            cursor.bans += 1;
            if !bans.is_empty() && !Mutant::UpgradeBansLost.is_on() {
                return Some(Packed::Bans(bans));
            }
        }
        while let Some(socket) = self.next_due_socket() {
            match self.pack_connection(socket) {
                Some(client) => return Some(self.packed_online(socket, client)),
                // A connection that is ending ends with this process.
                None => self.forget_early(socket),
            }
        }
        while let Some(index) = self.next_due_session() {
            if let Some(packed) = self.pack_offline(index) {
                return Some(packed);
            }
        }
        let gone = self.take_gone();
        if !gone.is_empty() {
            return Some(Packed::Gone(self.topology.id, gone));
        }
        if !std::mem::replace(&mut cursor.offences, true) {
            let (clients, networks) = self.packed_offences();
            if !clients.is_empty() || !networks.is_empty() {
                return Some(Packed::Offences(clients, networks));
            }
        }
        if !std::mem::replace(&mut cursor.counted, true) {
            return Some(Packed::Counters(self.topology.id, self.packed_counters()));
        }
        if cursor.cleared.as_deref() != Some("") {
            let topics = self.pack_cleared(cursor.cleared.as_deref());
            let last = topics.last().map_or("", |(_, message)| message.view().topic);
            cursor.cleared = Some(last.into());
            if !topics.is_empty() && !Mutant::ClusterUpgradeStampsLost.is_on() {
                return Some(Packed::Retained(topics));
            }
        }
        self.next_retained()
    }

    fn pack_offline(&mut self, index: u32) -> Option<Packed> {
        let session = self.sessions.get(index).filter(|session| is_offline(session));
        if session.is_none() || Mutant::UpgradeOfflineLost.is_on() {
            self.offline_copy(index);
            return None;
        }
        let session = session.map(|session| self.pack_session(index, session));
        Some(self.packed_offline(index, MovedClient { session, connection: None }))
    }

    pub(super) fn pack_connection(&self, socket: SocketId) -> Option<MovedClient> {
        let connection = self.connections.get(socket.0)?;
        let session = match connection.stage {
            Stage::Open(index) => Some(self.pack_session(index, self.sessions.get(index)?)),
            Stage::Entry if !connection.layered => None,
            _ => return None,
        };
        let mut packed = packed_connection(connection);
        if connection.layered {
            packed.layers = Some(self.layered.all.get(socket.0)?.moved()?);
        }
        Some(MovedClient { session, connection: Some(packed) })
    }

    pub(super) fn pack_session(&self, index: u32, session: &Session) -> client::MovedSession {
        client::MovedSession {
            flow: session.flow.as_deref().map(|flow| self.pack_flow(index, flow)),
            stored: session.stored.number().map(|number| {
                let slot = session.stored.slot();
                client::StoredAs { number, slot }
            }),
            ..self.pack_quiet(session)
        }
    }

    /// Packs a session without its window, its queue, and its place in the store.
    pub(super) fn pack_quiet(&self, session: &Session) -> client::MovedSession {
        let mut subscriptions = Vec::with_capacity(session.subscriptions.len() + session.shared());
        session.subscriptions.each(|place| {
            let entries = self.subscriptions.index.subscribers(place.filter);
            let Some(entry) = entries.get(place.position as usize) else { return };
            let filter = self.subscriptions.index.filter(place.filter).into();
            let options = entry.options & !GROUP;
            subscriptions.push(MovedSubscription { filter, options, id: entry.subscription_id });
        });
        for share in session.shares().iter().flat_map(|shares| shares.list.iter()) {
            let (options, id) = (share.options, share.subscription_id);
            subscriptions.push(MovedSubscription {
                filter: share.name.as_str().into(),
                options,
                id,
            });
        }
        client::MovedSession {
            client_id: session.client_id.boxed(),
            mountpoint: session.mountpoint().into(),
            level: level(session.version),
            problem_information: session.problem_information,
            bridge: session.bridge,
            expiry: session.expiry,
            ends: session.ends(),
            maximum_packet_size: session.maximum_packet_size,
            window_limit: session.window_limit,
            connected: session.connected.instant(),
            subscriptions,
            will: session.will.as_ref().map(|will| client::MovedWill {
                message: will.message.clone(),
                delay: will.delay,
                message_expiry: will.message_expiry,
                due: will.due,
            }),
            grant: session.grant().map(packed_grant),
            flow: None,
            stored: None,
        }
    }

    /// Packs a session's window and queue.
    pub(super) fn pack_flow(&self, index: u32, flow: &Flow) -> client::MovedFlow {
        let mut pending = Vec::with_capacity(flow.pending.here());
        flow.pending.each(|queued| {
            let kept = self.packed_kept(index, queued.stored);
            pending.push(client::MovedPending { queued: queued.clone(), kept });
        });
        if Mutant::UpgradePendingLost.is_on() {
            pending.clear();
        }
        let (first, places) = flow.window.places();
        let sent = places.map(|(awaits, again, queued, stored)| {
            let kept = self.packed_kept(index, stored);
            let body = kept.filter(|_| queued.is_none()).and_then(|kept| {
                let storing = self.storing.as_ref()?;
                storing.bodies.get(kept.number).cloned()
            });
            client::MovedInFlight { awaits, again, queued: queued.cloned(), kept, body }
        });
        let [current, earlier] = flow.inbound.by_connection();
        let numbers = |ids: Vec<crate::packet::PacketId>| ids.iter().map(|id| id.get()).collect();
        client::MovedFlow {
            first,
            sent: sent.filter(|_| !Mutant::UpgradeWindowLost.is_on()).collect(),
            pending,
            away: self.packed_away(flow),
            inbound: if Mutant::UpgradeInboundLost.is_on() { Vec::new() } else { numbers(current) },
            inbound_earlier: numbers(earlier),
            retry: flow.retry,
        }
    }
}

fn packed_connection(connection: &Connection) -> client::MovedConnection {
    let mut output = Vec::new();
    let mut wire = Vec::new();
    let kept = connection.output.as_ref().filter(|_| !Mutant::UpgradeOutputLost.is_on());
    if let Some(waiting) = kept {
        wire.extend_from_slice(waiting.wire());
        for segment in &waiting.sealed {
            match segment {
                Segment::Bytes(bytes) => output.extend_from_slice(bytes),
                Segment::Shared(message, range) => {
                    let bytes: &[u8] = message.as_ref();
                    output.extend_from_slice(bytes.get(range.clone()).unwrap_or_default());
                }
            }
        }
        output.extend_from_slice(&waiting.tail);
    }
    let aliases = connection.aliases.as_ref();
    let input = connection.input.as_ref().filter(|_| !Mutant::UpgradeInputLost.is_on());
    client::MovedConnection {
        listener: connection.listener,
        peer: connection.peer,
        last_seen: connection.last_seen,
        patience: connection.patience,
        input: ByteString(input.map_or_else(Vec::new, |input| input.rest().to_vec())),
        output: ByteString(output),
        wire: ByteString(wire),
        layers: None,
        aliases_in: aliases.map_or_else(Vec::new, |aliases| aliases.inbound.clone()),
        aliases_out: aliases.map_or_else(Vec::new, |aliases| {
            aliases.outbound.iter().map(|(name, &alias)| (name.clone(), alias)).collect()
        }),
        alias_limit: aliases.map_or(0, |aliases| aliases.outbound_limit),
    }
}

fn packed_grant(grant: &Grant) -> client::MovedGrant {
    client::MovedGrant {
        username: grant.username.clone(),
        superuser: grant.superuser,
        rules: grant.rules.as_deref().filter(|_| !Mutant::UpgradeRulesLost.is_on()).cloned(),
        attributes: grant.attributes.to_vec(),
        certificate: grant.certificate.clone(),
        mechanism: match grant.mechanism {
            None => 0,
            Some(Mechanism::Sha256) => 1,
            Some(Mechanism::Sha512) => 2,
        },
        ends: grant.ends,
        credential: grant.credential,
        peer: grant.peer,
        listener: grant.listener,
    }
}
