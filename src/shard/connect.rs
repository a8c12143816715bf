//! CONNECT on the home shard: admission, takeover, resumption of a session, and CONNACK.

use super::close::Cause;
use super::connection::{Parting, Stage, TopicAliases};
use super::memory::named;
use super::refuse::{Denial, Refused};
use super::{Action, Shard};
use crate::access::chain::Accepted;
use crate::access::scram::Mechanism;
use crate::access::{Decision, Grant, own};
use crate::ids::SocketId;
use crate::limits::{MAX_TOPIC_LENGTH, cost};
use crate::link_record::{PATH, path_name};
use crate::mesh::ListenerState;
use crate::mutant::Mutant;
use crate::packet::{
    self, ConnAck, ConnAckProperties, Connect, Encoded, Framing, Qos, ReasonCode, UserProperties,
    Version,
};
use crate::session::{Session, Since};
use crate::time::Instant;
use std::sync::Arc;

/// A client that connects: its CONNECT, what it has sent behind its CONNECT, and its listener.
struct ConnectingClient<'a> {
    connect: Connect<'a>,
    rest: &'a [u8],
    listener: Arc<ListenerState>,
}

impl Shard {
    /// Takes `bytes`, which begin with a whole CONNECT, from a connection that is already in the
    /// table. What can be refused at once is refused; otherwise the client has to prove who it is.
    pub(super) fn open_session(
        &mut self,
        socket: SocketId,
        assigned: Option<Box<str>>,
        bytes: &[u8],
    ) {
        let Some(mut coming) = self.welcomes(socket, bytes) else { return };
        let username = self.verified_username(socket);
        let verified = username.is_some();
        let connect = &mut coming.connect;
        connect.username = username.as_deref().or(connect.username);
        let known = assigned.as_deref();
        if self.is_banned(known.unwrap_or(connect.client_id), connect.username) {
            self.deny_connect(socket, &coming.connect, Denial::Banned);
            return;
        }
        let accepted = self
            .check_connect(connect, known, &coming.listener, verified)
            .and_then(|()| self.check_connack(known.unwrap_or(connect.client_id), connect, known));
        match accepted {
            // Without methods, `check_connect` has decided about anonymous clients already.
            Ok(()) if self.settings.access.methods.is_empty() => {
                self.come_nearer(socket, known, &coming, Accepted::default(), bytes);
            }
            Ok(()) => self.prove(socket, assigned, &coming.connect, bytes),
            Err(refused) => self.refuse(socket, &coming.connect, refused),
        }
    }

    /// The client whose CONNECT is at the start of `bytes`; `None` when no client may be admitted
    /// now, in which case this one has been refused.
    fn welcomes<'a>(&mut self, socket: SocketId, bytes: &'a [u8]) -> Option<ConnectingClient<'a>> {
        let Some((connect, rest)) = first_packet(bytes) else {
            // The entry shard framed and decoded the same bytes.
            self.disconnect(socket, Cause::Broken);
            return None;
        };
        let listener = self
            .connections
            .get(socket.0)
            .and_then(|connection| self.entrance.listener(connection.listener).cloned());
        let Some(listener) = listener else {
            // The listener was removed while the client was on its way.
            self.deny_connect(socket, &connect, Denial::ListenerClosed);
            return None;
        };
        if let Some(why) = self.work.stopping.turns_away() {
            self.deny_connect(socket, &connect, why);
            return None;
        }
        Some(ConnectingClient { connect, rest, listener })
    }

    /// Goes on with a client that has proved who it is; `bytes` begin with its CONNECT.
    pub(super) fn let_in(
        &mut self,
        socket: SocketId,
        assigned: Option<Box<str>>,
        bytes: &[u8],
        mut accepted: Accepted,
    ) {
        let Some(mut coming) = self.welcomes(socket, bytes) else { return };
        let username = accepted.username.take().or_else(|| self.verified_username(socket));
        coming.connect.username = username.as_deref().or(coming.connect.username);
        if username.is_some() {
            accepted.username = username.clone();
            // A service, a token or a certificate has named the user, who may be banned.
            let client_id = assigned.as_deref().unwrap_or(coming.connect.client_id);
            if self.is_banned(client_id, username.as_deref()) {
                self.deny_connect(socket, &coming.connect, Denial::Banned);
                return;
            }
        }
        self.come_nearer(socket, assigned.as_deref(), &coming, accepted, bytes);
    }

    /// Goes on with a client whose identity is known: before it enters, a service may have to be
    /// asked about its will message, and the other nodes for its ClientId.
    fn come_nearer(
        &mut self,
        socket: SocketId,
        assigned: Option<&str>,
        coming: &ConnectingClient<'_>,
        accepted: Accepted,
        bytes: &[u8],
    ) {
        let connect = &coming.connect;
        if !self.work.claims.is_granted(socket) {
            if self.asks_about_will(socket, assigned, connect, &accepted, bytes) {
                return;
            }
            if self.has_to_claim() {
                self.claim(socket, assigned, connect, accepted, bytes);
                return;
            }
        }
        self.enter(socket, assigned, coming, accepted);
    }

    /// Admits a client whose identity is known, and whose user name is in its CONNECT by now:
    /// takeover, session, CONNACK, and what it sent behind its CONNECT.
    fn enter(
        &mut self,
        socket: SocketId,
        assigned: Option<&str>,
        coming: &ConnectingClient<'_>,
        accepted: Accepted,
    ) {
        let ConnectingClient { connect, rest, listener } = coming;
        let name: Box<str> = assigned.unwrap_or(connect.client_id).into();
        let exchanged = accepted.exchanged.clone();
        let grant = self.grant_of(socket, connect, accepted);
        let mountpoint = self
            .check_will(socket, &name, connect, grant.as_deref())
            .and_then(|()| mount(&listener.mountpoint, &name, connect));
        let mountpoint = match mountpoint {
            Ok(mountpoint) => mountpoint,
            Err(refused) => {
                self.refuse(socket, connect, refused);
                return;
            }
        };
        if self.storing.is_some()
            && self.is_unstorable_session(self.find_session(&name), self.granted_expiry(connect))
        {
            let what = "the session cannot be stored now: storage fails or has no room";
            self.refuse(socket, connect, Refused(ReasonCode::ServerUnavailable, what));
            return;
        }
        let limits = match self.limits_of(&name, connect, listener) {
            Ok(limits) => limits,
            Err(denial) => {
                self.deny_connect(socket, connect, denial);
                return;
            }
        };
        self.counters.connects += 1;
        self.note_connect(&name);
        self.meter.charge(cost::SESSION);
        if let Some(grant) = &grant {
            self.note_end(socket, grant.ends);
        }
        let (index, present) = self.attach(socket, &name, connect, mountpoint, grant);
        self.put_limits(index, limits);
        self.set_up_connection(socket, index, connect);
        let mut connack = self.delivery.scratch.take_bytes();
        let exchanged = exchanged.as_deref();
        let encoded =
            self.encode_connack(&mut connack, &name, connect, assigned, present, exchanged);
        self.answer(socket, |out| {
            out.extend_from_slice(&connack);
            encoded
        });
        self.delivery.scratch.keep_bytes(connack);
        self.outputs.actions.push(Action::ReceiveStream(socket));
        self.resume_deliveries(index);
        self.log_connected(socket, &name, connect, present);
        self.observe_connected(index, connect, present);
        if self.connections.get(socket.0).is_some_and(|connection| connection.layered) {
            self.settle_layers(socket);
        }
        if !rest.is_empty() {
            self.receive_open(socket, index, rest);
        }
        if self.connections.get(socket.0).is_some_and(|c| c.parting != Parting::No) {
            // The client closed its side while it proved itself; the driver does not report that
            // again.
            self.work.endings.part_later(socket);
        }
    }

    /// The user name from the client's certificate, where its listener takes user names from there.
    fn verified_username(&self, socket: SocketId) -> Option<Box<str>> {
        let connection = self.connections.get(socket.0).filter(|connection| connection.layered)?;
        debug_assert!(connection.stage != Stage::Closed);
        let listener_state = self.entrance.listener(connection.listener)?;
        self.layered.username(socket, &listener_state.stack)
    }

    /// Whether the CONNACK of success can be encoded and is not too large for the client.
    fn check_connack(
        &self,
        name: &str,
        connect: &Connect<'_>,
        assigned: Option<&str>,
    ) -> Result<(), Refused> {
        let properties = &connect.properties;
        if properties.maximum_packet_size.is_none() && !properties.request_response_information {
            return Ok(()); // nothing in it is long
        }
        let mut connack = Vec::new();
        if self.encode_connack(&mut connack, name, connect, assigned, false, None).is_err() {
            let what = "the Response Information is too long with this ClientId";
            return Err(Refused(ReasonCode::ClientIdentifierNotValid, what));
        }
        if properties.maximum_packet_size.is_some_and(|room| connack.len() > room as usize) {
            let what = "the Maximum Packet Size has no room for CONNACK";
            return Err(Refused(ReasonCode::PacketTooLarge, what));
        }
        Ok(())
    }

    fn check_connect(
        &self,
        connect: &Connect<'_>,
        assigned: Option<&str>,
        listener_state: &ListenerState,
        verified: bool,
    ) -> Result<(), Refused> {
        if let Some(method) = connect.properties.authentication_method
            && (Mechanism::of_name(method).is_none() || self.settings.access.scram().is_none())
        {
            // [MQTT-4.12.0-1]
            return Err(Refused(
                ReasonCode::BadAuthenticationMethod,
                "the authentication method is not offered",
            ));
        }
        if connect.client_id.is_empty() && assigned.is_none() {
            return Err(Refused(ReasonCode::ClientIdentifierNotValid, "a ClientId is required"));
        }
        if connect.client_id.is_empty() && !connect.version.is_v5() && !connect.clean_start {
            // [MQTT-3.1.3-8] of 3.1.1.
            return Err(Refused(
                ReasonCode::ClientIdentifierNotValid,
                "a zero-length ClientId needs a clean session",
            ));
        }
        if connect.client_id.len() > self.settings.max_client_id_length {
            return Err(Refused(ReasonCode::ClientIdentifierNotValid, "the ClientId is too long"));
        }
        // With a chain of methods, the chain decides about anonymous clients and about user names.
        let unchecked = self.settings.access.methods.is_empty() && !listener_state.allow_anonymous;
        if connect.username.is_none() && unchecked {
            return Err(Refused(ReasonCode::NotAuthorized, "anonymous clients are not allowed"));
        }
        if connect.username.is_some() && unchecked && !verified {
            return Err(Refused(
                ReasonCode::BadUserNameOrPassword,
                "no users are configured for this listener",
            ));
        }
        let Some(will) = &connect.will else { return Ok(()) };
        if will.qos as u8 > self.settings.max_qos {
            // [MQTT-3.2.2-12]
            return Err(Refused(ReasonCode::QosNotSupported, "the will's QoS is not supported"));
        }
        if will.retain && !self.settings.retain {
            // [MQTT-3.2.2-13]
            return Err(Refused(ReasonCode::RetainNotSupported, "retain is not supported"));
        }
        if crate::topic::levels(will.topic) > self.settings.max_topic_levels {
            return Err(Refused(
                ReasonCode::TopicNameInvalid,
                "the will's topic has too many levels",
            ));
        }
        match own::publish(will.topic, will.topic) {
            Decision::Deny(denied) => Err(Refused(denied.reason, denied.what)),
            Decision::Allow | Decision::Later => Ok(()),
        }
    }

    /// Finds, resumes, replaces or creates the session, and ties it to the socket. Returns the
    /// session's index and Session Present.
    fn attach(
        &mut self,
        socket: SocketId,
        name: &str,
        connect: &Connect<'_>,
        mountpoint: String,
        grant: Option<Box<Grant>>,
    ) -> (u32, bool) {
        let mut known = self.resumable(name);
        let mut inherited = None;
        // Subscriptions and queued messages carry the mountpoint under which they were made, so a
        // session is not resumed under another one.
        let foreign = |&index: &u32| {
            self.sessions.get(index).is_some_and(|session| session.mountpoint() != mountpoint)
        };
        let clean = connect.clean_start && !Mutant::CleanStartResumes.is_on();
        if let Some(index) = known.filter(|index| clean || foreign(index)) {
            let armed = self.sessions.get(index).map(|session| session.armed());
            self.counters.sessions_persistent -= 1;
            self.end_session(index);
            known = None;
            inherited = armed.map(|armed| (index, armed));
        }
        let present = known.is_some();
        let index = known.unwrap_or_else(|| self.new_session(name));
        if let (Some((old, armed)), Some(session)) = (inherited, self.sessions.get_mut(index))
            && old == index
        {
            // The wheel's entry names the index, which the new session has again, so the entry
            // serves the new session too. Otherwise a client that always starts clean would leave
            // one entry per connection on the wheel, each for the whole session expiry.
            session.set_armed(armed);
        }
        let expiry = self.granted_expiry(connect);
        let settings = Arc::clone(&self.settings);
        let will = connect.will.as_ref().map(|will| self.make_will(index, will, &mountpoint));
        let Some(session) = self.sessions.get_mut(index) else { return (index, present) };
        self.memory.tally.names -= named(session);
        session.set_ends(Instant::END);
        if present {
            self.counters.sessions_persistent -= 1;
        }
        session.set_socket(Some(socket));
        session.connected = Since::at(self.now);
        session.version = connect.version;
        session.expiry = expiry;
        session.problem_information = connect.properties.request_problem_information;
        session.bridge = connect.bridge;
        let theirs = connect.properties.receive_maximum.unwrap_or(u16::MAX);
        let theirs = if Mutant::ReceiveMaximumIgnored.is_on() { u16::MAX } else { theirs };
        session.window_limit = settings.max_inflight.min(theirs);
        session.maximum_packet_size = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        let had_will = session.will.is_some();
        if will.is_some() || !Mutant::WillNotCancelled.is_on() {
            session.will = will;
        }
        if !mountpoint.is_empty() || grant.is_some() || session.extras.is_some() {
            let extras = session.extras();
            (extras.mountpoint, extras.grant) = (mountpoint.into(), grant);
        }
        self.memory.tally.names += named(session);
        self.store_session(index);
        self.note_new_will(index, had_will);
        if inherited.is_some() {
            // The client is told that its old session is gone, so that session must not come back
            // after a crash.
            self.wait_for_stored(socket);
        }
        self.tell_presence(index, true);
        (index, present)
    }

    /// The session of that ClientId, without a connection and not expired. If it has a connection,
    /// the connection is taken over.
    pub(super) fn resumable(&mut self, name: &str) -> Option<u32> {
        let mut known = self.find_session(name);
        if let Some(index) = known
            && self.sessions.get(index).is_some_and(|session| session.socket().is_some())
        {
            self.counters.takeovers += 1;
            // [MQTT-3.1.4-3]: one live connection per ClientId. The takeover sends or delays the
            // will message, and ends a session without expiry, exactly as any other loss of the
            // connection does.
            self.take_over(index);
            known = self.find_session(name);
        }
        if let Some(index) = known {
            // The session or the Will Delay Interval may have expired while the timer has not run
            // yet: after a jump of the clock, input comes before timers [MQTT-3.1.2-23,
            // MQTT-3.1.3-9].
            self.session_due(index);
            known = self.find_session(name);
        }
        known
    }

    pub(super) fn new_session(&mut self, name: &str) -> u32 {
        let key = self.topology.client_key(name);
        let index = self.sessions.insert(Session::new(name, key));
        self.counters.sessions += 1;
        self.memory.tally.names += name.len();
        index
    }

    /// The index of the session of a ClientId.
    pub(super) fn find_session(&self, name: &str) -> Option<u32> {
        self.sessions.find(self.topology.client_key(name), name)
    }

    /// Session Expiry Interval in force, seconds [MQTT-3.2.2-21].
    fn granted_expiry(&self, connect: &Connect<'_>) -> u32 {
        let asked = match connect.version {
            Version::V5 => connect.properties.session_expiry.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => self.settings.session_expiry_default,
        };
        asked.min(self.settings.session_expiry_max)
    }

    fn set_up_connection(&mut self, socket: SocketId, index: u32, connect: &Connect<'_>) {
        let keep_alive = self.keep_alive(connect);
        let multiplier = self.settings.keep_alive_multiplier;
        let multiplier = if Mutant::KeepAliveHasty.is_on() { 1.0 } else { multiplier };
        let multiplier = if Mutant::KeepAliveIgnored.is_on() { 0.0 } else { multiplier };
        let patience = f64::from(keep_alive) * 1000.0 * multiplier;
        let alias_limit = connect
            .properties
            .topic_alias_maximum
            .unwrap_or(0)
            .min(self.settings.topic_alias_outbound);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.stage = Stage::Open(index);
        connection.take_input(&mut self.memory.tally.input);
        connection.last_seen = now;
        connection.patience = patience as u32;
        if alias_limit > 0 {
            let aliases = TopicAliases::within(alias_limit);
            connection.aliases = Some(Box::new(aliases));
        }
        self.counters.connections_open += 1;
        if keep_alive > 0 {
            self.arm_connection(socket, now.plus_millis(patience as u64));
        }
    }

    /// Keep Alive in force, seconds. A v5 client that asks for more than the maximum, or for none
    /// while there is a maximum, is told the maximum [MQTT-3.2.2-22]; a v3 client cannot be told
    /// and keeps what it asks for.
    fn keep_alive(&self, connect: &Connect<'_>) -> u16 {
        let max = self.settings.keep_alive_max;
        match connect.keep_alive {
            0 if connect.version.is_v5() && max < u16::MAX => max,
            asked if connect.version.is_v5() => asked.min(max),
            asked => asked,
        }
    }

    /// Encodes the CONNACK of success.
    fn encode_connack(
        &self,
        out: &mut Vec<u8>,
        name: &str,
        connect: &Connect<'_>,
        assigned: Option<&str>,
        present: bool,
        exchanged: Option<&(Mechanism, String)>,
    ) -> Encoded {
        let keep_alive = self.keep_alive(connect);
        let settings = &self.settings;
        let expiry = self.granted_expiry(connect);
        let asked_expiry = connect.properties.session_expiry.unwrap_or(0);
        let response = (connect.properties.request_response_information
            && !settings.response_information.is_empty())
        .then(|| format!("{}{name}/", settings.response_information));
        let own_name = self.name_for_bridges(connect);
        let mut properties = ConnAckProperties {
            user: UserProperties::within(&own_name),
            // The properties that the client cannot do without, because they change what it may
            // send.
            session_expiry: (expiry != asked_expiry).then_some(expiry),
            receive_maximum: (settings.receive_maximum < u16::MAX)
                .then_some(settings.receive_maximum),
            maximum_qos: Qos::from_u8(settings.max_qos),
            retain_available: (!settings.retain).then_some(false),
            maximum_packet_size: Some(self.packet_size_for(name)),
            assigned_client_id: assigned,
            topic_alias_maximum: (settings.max_topic_alias > 0).then_some(settings.max_topic_alias),
            wildcard_subscription_available: (!settings.wildcard_subscriptions).then_some(false),
            subscription_identifiers_available: (!settings.subscription_identifiers)
                .then_some(false),
            shared_subscription_available: (!settings.shared_subscriptions).then_some(false),
            authentication_method: exchanged.map(|(mechanism, _)| mechanism.name()),
            authentication_data: exchanged.map(|(_, last)| last.as_bytes()),
            server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
            ..Default::default()
        };
        if settings.connack_properties {
            properties.response_information = response.as_deref();
        } else {
            properties.maximum_packet_size = None;
        }
        let connack = ConnAck { session_present: present, reason: ReasonCode::Success, properties };
        let version = connect.version;
        // MQTT 3.1 has no Session Present flag.
        let connack = ConnAck { session_present: present && version != Version::V31, ..connack };
        packet::encode_connack(out, version, &connack)
    }

    /// This broker's name on the paths of messages, as a User Property, when the bridge of another
    /// broker asks for it; otherwise nothing.
    fn name_for_bridges(&self, connect: &Connect<'_>) -> Vec<u8> {
        let (mut name, instance) = (Vec::new(), self.topology.shared.instance.used());
        if instance != 0 && connect.properties.user.iter().any(|(name, _)| name == PATH) {
            // The name has a bounded length, so it can always be encoded.
            let _ = packet::append_user_property(&mut name, PATH, &path_name(instance));
        }
        name
    }

    /// Another connection claims the ClientId [MQTT-3.1.4-3]: the session's connection ends.
    fn take_over(&mut self, index: u32) {
        if Mutant::TakeoverKeepsOld.is_on() {
            return;
        }
        if Mutant::PendingLostOnTakeover.is_on()
            && let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.take())
        {
            self.forget_flow(&flow);
        }
        if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket()) {
            self.disconnect(socket, Cause::TakenOver);
        }
    }
}

/// The CONNECT at the start of `bytes`, and what follows it.
pub(super) fn first_packet(bytes: &[u8]) -> Option<(Connect<'_>, &[u8])> {
    let Ok(Framing::Complete { total, .. }) = packet::frame(bytes, u32::MAX) else { return None };
    let (packet, rest) = bytes.split_at_checked(total)?;
    Some((packet::decode_connect(packet).ok()?, rest))
}

/// The mountpoint of one client, when it leaves room for a topic and for the topic of the client's
/// will message.
fn mount(template: &str, client_id: &str, connect: &Connect<'_>) -> Result<String, Refused> {
    let mountpoint = mountpoint_of(template, client_id, connect.username);
    if mountpoint.len() >= MAX_TOPIC_LENGTH {
        let what = "the mountpoint is too long with this ClientId or user name";
        return Err(Refused(ReasonCode::ClientIdentifierNotValid, what));
    }
    let will = connect.will.as_ref().map_or(0, |will| will.topic.len());
    if mountpoint.len() + will > MAX_TOPIC_LENGTH {
        let what = "the will's topic is too long below the mountpoint";
        return Err(Refused(ReasonCode::TopicNameInvalid, what));
    }
    Ok(mountpoint)
}

/// A listener's mountpoint for one client, with `${client_id}` and `${username}` filled in.
/// Characters of these that would change the structure of topics are replaced, and so is a `$` at
/// the beginning of the mountpoint: topics that begin with `$` are the server's.
fn mountpoint_of(template: &str, client_id: &str, username: Option<&str>) -> String {
    if template.is_empty() {
        return String::new();
    }
    let clean = |text: &str| text.replace(['/', '+', '#', '\0'], "_");
    let username = username.unwrap_or("");
    let mut mountpoint = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        mountpoint.push_str(before);
        mountpoint.push_str(&clean(if name == "client_id" { client_id } else { username }));
        rest = after;
    }
    mountpoint.push_str(rest);
    match mountpoint.strip_prefix('$') {
        Some(rest) => format!("_{rest}"),
        None => mountpoint,
    }
}
