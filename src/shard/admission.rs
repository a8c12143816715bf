//! Authentication of clients, between their CONNECT and their session.
//!
//! The chain of methods is evaluated on the home shard. What a method cannot decide at once is sent
//! to a helper thread as an [`AccessQuestion`]. Meanwhile the client is in [`Stage::Proving`]: this
//! module keeps its CONNECT and a [`PendingAdmission`], and the client is refused after
//! `mqtt.connect_timeout`. Its connection is read only for the next message of an enhanced
//! authentication, or to notice that the client gives up. The number of waiting clients is bounded;
//! further clients are told that the server is busy.

use super::close::Cause;
use super::connection::{Input, Parting, Stage};
use super::refuse::{Denial, Refused};
use super::{Action, Shard};
use crate::access::chain::Accepted;
use crate::access::scram::ScramExchange;
use crate::access::{
    Access, Answered, Decision, Deed, Grant, MethodKind, Proof, Verdict, WorkPlace,
};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{Connect, ReasonCode};
use crate::telemetry::Counters;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a helper thread is to find out.
#[derive(Debug)]
pub struct AccessQuestion {
    /// The connection of the client. [`Shard::answered`] takes it together with `ticket`.
    pub socket: SocketId,
    /// Tells this question from other questions of the shard: by the time of the answer, the socket
    /// may be another client's.
    pub ticket: u64,
    /// The access rules that were in force when the question was asked.
    pub access: Arc<Access>,
    /// Position of the method in the chain; for a question about `deeds`, position of the source of
    /// rules.
    pub method: usize,
    /// What the client wants to do, each with its topic; empty when the question is who the client
    /// is.
    pub deeds: Vec<(Deed, Box<str>)>,
    /// What kind of helper thread the question is for.
    pub work: WorkPlace,
    /// What the client shows to prove who it is.
    pub proof: Proof,
}

/// A client whose proof is being checked. Its CONNECT is the connection's input.
struct PendingAdmission {
    ticket: u64,
    /// The chain that decides about the client, and the position of the method that is asked now.
    access: Arc<Access>,
    method: usize,
    /// The ClientId that the broker has assigned to the client, if it has.
    assigned: Option<Box<str>>,
    /// The client's enhanced authentication, when the client is to send its next message.
    exchange: Option<Box<ScramExchange>>,
    until: Instant,
}

// Bounds the memory that each waiting client takes besides its CONNECT.
const _: () = assert!(size_of::<PendingAdmission>() + size_of::<SocketId>() <= 64);

/// What is left of a [`PendingAdmission`] when its client goes on.
pub(super) struct ResumedAdmission {
    pub access: Arc<Access>,
    pub method: usize,
    pub assigned: Option<Box<str>>,
    pub exchange: Option<Box<ScramExchange>>,
}

/// The clients whose admission is under way, and the connections whose admission will expire.
#[derive(Default)]
pub(super) struct Admissions {
    waiting: HashMap<SocketId, PendingAdmission, foldhash::fast::FixedState>,
    /// Enhanced authentication of clients that are connected and prove themselves again.
    again: HashMap<SocketId, Box<ScramExchange>, foldhash::fast::FixedState>,
    /// Connections whose client has to prove itself again, and when at the latest; the earliest
    /// first.
    pub(super) ends: BTreeSet<(Instant, SocketId)>,
    serial: u64,
}

impl Admissions {
    /// How many clients wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the next admission ends.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Whether that connection waits under that ticket.
    pub(super) fn is_waiting(&self, socket: SocketId, ticket: u64) -> bool {
        self.waiting.get(&socket).is_some_and(|waiting| waiting.ticket == ticket)
    }

    /// A connected client begins to prove itself again.
    pub(super) fn begin_again(&mut self, socket: SocketId, exchange: Box<ScramExchange>) {
        self.again.insert(socket, exchange);
    }

    /// Takes out the re-authentication of a connected client, to go on with it.
    pub(super) fn go_on_again(&mut self, socket: SocketId) -> Option<Box<ScramExchange>> {
        self.again.remove(&socket)
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, socket: SocketId) {
        self.waiting.remove(&socket);
        self.again.remove(&socket);
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            self.waiting = HashMap::default();
        }
    }

    /// A number that no other grant of the shard has; not 0.
    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// What the chain has decided about a client.
enum Admission {
    Accepted(Box<Accepted>),
    Refused(Refused, &'static str),
    Failed(&'static str),
}

const BAD_CREDENTIALS: Refused =
    Refused(ReasonCode::BadUserNameOrPassword, "bad user name or password");
const NO_ANONYMOUS: Refused =
    Refused(ReasonCode::NotAuthorized, "anonymous clients are not allowed");

/// The counters of a method: accepted, refused, unknown, failed.
fn tallies(counters: &mut Counters, kind: MethodKind) -> [&mut u64; 4] {
    match kind {
        MethodKind::PasswordFile => [
            &mut counters.password_accepted,
            &mut counters.password_refused,
            &mut counters.password_unknown,
            &mut counters.password_failed,
        ],
        MethodKind::Jwt => [
            &mut counters.jwt_accepted,
            &mut counters.jwt_refused,
            &mut counters.jwt_unknown,
            &mut counters.jwt_failed,
        ],
        MethodKind::Http => [
            &mut counters.http_accepted,
            &mut counters.http_refused,
            &mut counters.http_unknown,
            &mut counters.http_failed,
        ],
        MethodKind::Scram => [
            &mut counters.scram_accepted,
            &mut counters.scram_refused,
            &mut counters.scram_unknown,
            &mut counters.scram_failed,
        ],
        MethodKind::Redis => [
            &mut counters.redis_accepted,
            &mut counters.redis_refused,
            &mut counters.redis_unknown,
            &mut counters.redis_failed,
        ],
        MethodKind::Postgres => [
            &mut counters.postgres_accepted,
            &mut counters.postgres_refused,
            &mut counters.postgres_unknown,
            &mut counters.postgres_failed,
        ],
        MethodKind::Certificate => [
            &mut counters.certificate_accepted,
            &mut counters.certificate_refused,
            &mut counters.certificate_unknown,
            &mut counters.certificate_failed,
        ],
    }
}

impl Shard {
    /// Has the chain decide about a client whose CONNECT is the beginning of `bytes` and could be
    /// accepted.
    pub(super) fn prove(
        &mut self,
        socket: SocketId,
        assigned: Option<Box<str>>,
        connect: &Connect<'_>,
        bytes: &[u8],
    ) {
        let access = Arc::clone(&self.settings.access);
        if self.access.admissions.len() >= self.settings.admissions
            && !Mutant::AdmissionsUnbounded.is_on()
        {
            self.deny_connect(socket, connect, Denial::Proving);
            return;
        }
        if connect.properties.authentication_method.is_some() {
            self.begin_exchange(socket, access, assigned, connect, bytes);
            return;
        }
        let proof = self.proof(socket, assigned.as_deref(), connect);
        self.go_through(socket, access, 0, assigned, &proof, bytes);
    }

    fn proof(&self, socket: SocketId, assigned: Option<&str>, connect: &Connect<'_>) -> Proof {
        let connection = self.connections.get(socket.0);
        let listener = connection.map_or("", |c| self.listener_name(c.listener));
        Proof {
            client_id: assigned.unwrap_or(connect.client_id).into(),
            username: connect.username.map(Into::into),
            password: connect.password.map(Into::into),
            peer: connection.map_or(crate::ids::Peer::Unix, |c| c.peer),
            listener: listener.into(),
            identity: self.layered.certificate(socket),
            attributes: Box::default(),
        }
    }

    /// Asks the methods from `method` on, until one decides or needs a helper thread to decide.
    fn go_through(
        &mut self,
        socket: SocketId,
        access: Arc<Access>,
        mut method: usize,
        assigned: Option<Box<str>>,
        proof: &Proof,
        bytes: &[u8],
    ) {
        self.meter.charge(cost::PACKET);
        let outcome = loop {
            let Some(answered) = access.begin(method, proof) else {
                break self.nobody_knows(socket, proof);
            };
            match answered {
                Answered::Now(verdict) => {
                    if let Some(outcome) = self.heard(&access, method, verdict) {
                        break outcome;
                    }
                    method += 1;
                }
                Answered::Later(work) => {
                    if let Some(accepted) = self.remembered(&access, method, proof) {
                        break Admission::Accepted(accepted);
                    }
                    self.wait_for(socket, access, method, assigned, work, proof, bytes);
                    return;
                }
            }
        };
        self.decide(socket, assigned, bytes, outcome);
    }

    /// Counts a method's verdict and returns what follows from it; `None` when the next method is
    /// to be asked.
    fn heard(&mut self, access: &Access, method: usize, verdict: Verdict) -> Option<Admission> {
        let kind = access.methods.get(method)?.kind();
        let [accepted, refused, unknown, failed] = tallies(&mut self.counters, kind);
        match verdict {
            Verdict::Accept(with) => {
                *accepted += 1;
                Some(Admission::Accepted(with))
            }
            Verdict::Refuse(why) => {
                *refused += 1;
                Some(Admission::Refused(BAD_CREDENTIALS, why))
            }
            Verdict::Failed(why) => {
                *failed += 1;
                Some(Admission::Failed(why))
            }
            Verdict::Unknown => {
                *unknown += 1;
                None
            }
        }
    }

    /// No method of the chain knows the client.
    fn nobody_knows(&self, socket: SocketId, proof: &Proof) -> Admission {
        let connection = self.connections.get(socket.0);
        let listener_state = connection.and_then(|c| self.entrance.listener(c.listener));
        match (&proof.username, listener_state) {
            (None, Some(listener_state)) if listener_state.allow_anonymous => {
                Admission::Accepted(Box::default())
            }
            (None, _) => Admission::Refused(NO_ANONYMOUS, NO_ANONYMOUS.1),
            (Some(_), _) => Admission::Refused(BAD_CREDENTIALS, "nobody knows this user"),
        }
    }

    #[allow(clippy::too_many_arguments)] // one place, and each is another thing
    fn wait_for(
        &mut self,
        socket: SocketId,
        access: Arc<Access>,
        method: usize,
        assigned: Option<Box<str>>,
        work: WorkPlace,
        proof: &Proof,
        bytes: &[u8],
    ) {
        let ticket = self.wait(socket, Arc::clone(&access), method, assigned, None, bytes);
        let proof = proof.clone();
        let deeds = Vec::new();
        let question = AccessQuestion { socket, ticket, access, method, deeds, work, proof };
        self.outputs.actions.push(Action::Ask(Box::new(question)));
        self.watch_proving(socket);
    }

    /// A helper thread's answer to an [`AccessQuestion`].
    pub fn answered(&mut self, socket: SocketId, ticket: u64, verdict: Verdict) {
        let known = self.access.admissions.waiting.get(&socket);
        let any = Mutant::StaleVerdictTaken.is_on();
        if !known.is_some_and(|waiting| waiting.ticket == ticket || any) {
            return; // the client gave up, and the socket may be another's by now
        }
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        let ResumedAdmission { access, method, assigned, .. } = waited;
        if let Verdict::Accept(accepted) = &verdict {
            self.remember(socket, &access, method, assigned.as_deref(), &bytes, accepted);
        }
        match self.heard(&access, method, verdict) {
            Some(outcome) => self.decide(socket, assigned, &bytes, outcome),
            None => {
                let Some((connect, _)) = super::connect::first_packet(&bytes) else {
                    self.disconnect(socket, Cause::Broken);
                    return;
                };
                let proof = self.proof(socket, assigned.as_deref(), &connect);
                self.go_through(socket, access, method + 1, assigned, &proof, &bytes);
            }
        }
    }

    /// What a client is admitted with that has shown the same proof to the same rules lately.
    fn remembered(
        &mut self,
        access: &Arc<Access>,
        at: usize,
        proof: &Proof,
    ) -> Option<Box<Accepted>> {
        let method = access.methods.get(at).filter(|method| !method.remember().is_zero())?;
        if !Arc::ptr_eq(access, &self.settings.access) {
            return None;
        }
        let key = self.topology.shared.seeds.secret(&method.shown(at, proof));
        let accepted = self.access.logins.find(key, self.now)?;
        *match method.kind() {
            MethodKind::PasswordFile => &mut self.counters.password_remembered,
            MethodKind::Http => &mut self.counters.http_remembered,
            MethodKind::Redis => &mut self.counters.redis_remembered,
            MethodKind::Postgres => &mut self.counters.postgres_remembered,
            MethodKind::Certificate | MethodKind::Jwt | MethodKind::Scram => return None,
        } += 1;
        Some(accepted)
    }

    /// Remembers that a client was admitted, unless the rules have changed since it was asked
    /// about.
    fn remember(
        &mut self,
        socket: SocketId,
        access: &Arc<Access>,
        at: usize,
        assigned: Option<&str>,
        bytes: &[u8],
        accepted: &Accepted,
    ) {
        let millis = access.methods.get(at).map_or(0, |m| m.remember().as_millis() as u64);
        if millis == 0 || !Arc::ptr_eq(access, &self.settings.access) {
            return;
        }
        let Some((connect, _)) = super::connect::first_packet(bytes) else { return };
        let proof = self.proof(socket, assigned, &connect);
        let Some(method) = access.methods.get(at) else { return };
        let key = self.topology.shared.seeds.secret(&method.shown(at, &proof));
        self.access.logins.put(key, accepted, self.now, millis);
    }

    /// Keeps a client in [`Stage::Proving`], with what it has sent, which begins with its CONNECT.
    /// Returns its ticket.
    pub(super) fn wait(
        &mut self,
        socket: SocketId,
        access: Arc<Access>,
        method: usize,
        assigned: Option<Box<str>>,
        exchange: Option<Box<ScramExchange>>,
        bytes: &[u8],
    ) -> u64 {
        let ticket = self.topology.ticket();
        let until = self.now.plus_millis(self.settings.connect_timeout);
        if let Some(connection) = self.connections.get_mut(socket.0) {
            connection.stage = Stage::Proving;
            connection.keep_input(Input::of(bytes), &mut self.memory.tally.input);
            self.arm_connection(socket, until);
            let waiting = PendingAdmission { ticket, access, method, assigned, exchange, until };
            self.access.admissions.waiting.insert(socket, waiting);
            self.counters.proving = self.access.admissions.len() as u64;
        }
        ticket
    }

    /// Ends the wait of a client. Returns what was kept of the client, and what it has sent.
    pub(super) fn end_wait(&mut self, socket: SocketId) -> Option<(ResumedAdmission, Vec<u8>)> {
        let waiting = self.access.admissions.waiting.remove(&socket)?;
        self.counters.proving = self.access.admissions.len() as u64;
        let connection = self.connections.get_mut(socket.0)?;
        connection.stage = Stage::Entry;
        let input = connection.take_input(&mut self.memory.tally.input)?;
        let PendingAdmission { access, method, assigned, exchange, .. } = waiting;
        Some((ResumedAdmission { access, method, assigned, exchange }, input.into_bytes()))
    }

    /// Reads a waiting client, to notice when it gives up. Once more than its CONNECT has come,
    /// nothing more is read: the rest stays in the kernel.
    pub(super) fn watch_proving(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        if connection.parting == Parting::No && !self.has_sent_more(socket) {
            self.outputs.actions.push(Action::ReceiveOnce(socket));
        }
    }

    /// Whether a waiting client has sent anything behind its CONNECT.
    fn has_sent_more(&self, socket: SocketId) -> bool {
        let input = self.connections.get(socket.0).and_then(|c| c.input.as_ref());
        let behind = input.and_then(|input| super::connect::first_packet(input.rest()));
        behind.is_some_and(|(_, rest)| !rest.is_empty())
    }

    /// A waiting client has closed its side, or its connection broke; true when that ends the
    /// connection. Unless the connection broke, what the client has sent behind its CONNECT still
    /// counts: it may have published a message before it closed.
    pub(super) fn proving_parted(&mut self, socket: SocketId) -> bool {
        let broken = |c: &super::connection::Connection| c.parting == Parting::Broken;
        let broken = self.connections.get(socket.0).is_some_and(broken);
        if !broken && self.has_sent_more(socket) {
            return false;
        }
        self.disconnect(socket, if broken { Cause::Broken } else { Cause::EndOfStream });
        true
    }

    /// A waiting client has sent more: the bytes are kept with the rest of its input.
    pub(super) fn receive_proving(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(mut input) = connection.take_input(&mut self.memory.tally.input) else { return };
        input.extend(bytes);
        connection.keep_input(input, &mut self.memory.tally.input);
        if self.access.admissions.waiting.get(&socket).is_some_and(|w| w.exchange.is_some()) {
            self.go_on_exchanging(socket);
        }
    }

    fn decide(
        &mut self,
        socket: SocketId,
        assigned: Option<Box<str>>,
        bytes: &[u8],
        outcome: Admission,
    ) {
        if let Admission::Accepted(accepted) = outcome {
            self.let_in(socket, assigned, bytes, *accepted);
            return;
        }
        let Some((connect, _)) = super::connect::first_packet(bytes) else {
            self.disconnect(socket, Cause::Broken);
            return;
        };
        match outcome {
            Admission::Accepted(_) => {}
            Admission::Failed(why) => {
                let told = Refused(ReasonCode::ServerUnavailable, "users cannot be looked up now");
                self.refuse_because(socket, &connect, told, why);
            }
            Admission::Refused(told, why) => {
                // A client that shows no credentials has not shown wrong ones.
                if connect.username.is_some() || connect.password.is_some() {
                    self.note_bad_credentials(socket);
                }
                self.refuse_because(socket, &connect, told, why);
            }
        }
    }

    /// A waiting client's time for an answer may be over.
    pub(super) fn admission_due(&mut self, socket: SocketId) {
        let Some(waiting) = self.access.admissions.waiting.get(&socket) else { return };
        if waiting.until > self.now {
            let until = waiting.until;
            self.arm_connection(socket, until);
            return;
        }
        if Mutant::AdmissionForever.is_on() {
            return;
        }
        let Some((_, bytes)) = self.end_wait(socket) else { return };
        match super::connect::first_packet(&bytes) {
            Some((connect, _)) => self.deny_connect(socket, &connect, Denial::ProofLate),
            None => self.disconnect(socket, Cause::Broken),
        }
    }

    /// The grant of a client that is admitted; `None` when there is neither a method nor a rule
    /// that would need one.
    pub(super) fn grant_of(
        &mut self,
        socket: SocketId,
        connect: &Connect<'_>,
        accepted: Accepted,
    ) -> Option<Box<Grant>> {
        let access = &self.settings.access;
        if access.methods.is_empty() && !self.settings.restricts {
            return None;
        }
        let connection = self.connections.get(socket.0)?;
        let (peer, listener) = (connection.peer, connection.listener);
        let certificate = self.layered.certificate(socket);
        Some(Box::new(Grant {
            username: connect.username.map(Into::into),
            superuser: accepted.superuser,
            rules: accepted.rules,
            attributes: accepted.attributes,
            mechanism: accepted.exchanged.map(|exchanged| exchanged.0),
            certificate: certificate.map_or_else(Box::default, |known| known.common_name.clone()),
            ends: accepted.lasts.map_or(Instant::END, |millis| self.now.plus_millis(millis)),
            credential: accepted.credential,
            serial: self.access.admissions.serial(),
            peer,
            listener,
        }))
    }

    /// Whether the rules allow the client the will message that its CONNECT asks for.
    pub(super) fn check_will(
        &mut self,
        socket: SocketId,
        name: &str,
        connect: &Connect<'_>,
        grant: Option<&Grant>,
    ) -> Result<(), Refused> {
        let (Some(will), Some(grant)) = (&connect.will, grant) else { return Ok(()) };
        let deed = Deed::Publish { qos: will.qos as u8, retain: will.retain };
        match self.decide_for(socket, name, grant, deed, will.topic) {
            Decision::Deny(denied) if !Mutant::WillUnchecked.is_on() => {
                Err(Refused(denied.reason, "the rules do not allow the will"))
            }
            _ => Ok(()),
        }
    }

    /// Notes that the client of a connection has to prove itself again by `ends`.
    pub(super) fn note_end(&mut self, socket: SocketId, ends: Instant) {
        if ends != Instant::END {
            self.access.admissions.ends.insert((ends, socket));
        }
    }

    /// Disconnects clients whose admission has expired.
    pub(super) fn end_admissions(&mut self) {
        while let Some(&(at, socket)) = self.access.admissions.ends.first() {
            if at > self.now {
                return;
            }
            self.access.admissions.ends.pop_first();
            self.meter.charge(cost::VISIT);
            let Some(Stage::Open(index)) = self.connections.get(socket.0).map(|c| c.stage) else {
                continue;
            };
            let ends = self.sessions.get(index).and_then(|s| s.grant()).map(|grant| grant.ends);
            // The socket may be another client's by now, or the client may have proved itself
            // again.
            if ends == Some(at) && !Mutant::ExpiryIgnored.is_on() {
                self.counters.admissions_expired += 1;
                self.disconnect(socket, Cause::Expired);
            }
        }
    }

    /// A helper thread has fetched a key set, or could not.
    pub fn count_key_set(&mut self, fetched: bool) {
        match fetched {
            true => self.counters.key_sets_fetched += 1,
            false => self.counters.key_sets_failed += 1,
        }
    }
}
