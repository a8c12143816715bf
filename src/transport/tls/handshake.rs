//! The handshake: rustls, one record at a time.
//!
//! rustls gets a connection's records until the handshake is over; then its secrets are extracted
//! and its connection is dropped. Anything that rustls had read beyond the handshake would be lost
//! with it, even a KeyUpdate that it has already answered. Therefore rustls gets one record only
//! after the previous one was processed. Until a whole first record has arrived, a connection has
//! no state of rustls.

use super::alert::{Alert, FATAL, TlsFailure, TlsFailureKind};
use super::established::TlsSide;
use super::identity::PeerCertificate;
use super::key_log;
use super::keys::KeyCache;
use super::records::{HEADER, PLAIN, content};
use super::server::Server;
use super::{Tls, refused};
use rustls::server::{Acceptor, ServerConnection};
use rustls::{HandshakeKind, ProtocolVersion};
use std::io::{Read, Write};
use std::sync::Arc;
use zeroize::Zeroize;

/// Bytes that a record may add to its content before its key is known (RFC 5246 section 6.2.3).
const GROWTH: usize = 2048;
/// Records of one handshake; one more ends it. The bound is high because a large ClientHello may
/// come in small records.
const RECORDS: u16 = 2048;

/// A handshake under way.
pub struct Handshake {
    stage: HandshakeStage,
    /// Bytes that have arrived and were not given to rustls yet.
    input: Vec<u8>,
    records: u16,
}

enum HandshakeStage {
    /// No whole record has arrived.
    Waiting,
    /// The ClientHello is not complete.
    Hello(Box<Acceptor>),
    /// The ClientHello is answered.
    Agreeing(Box<Agreeing>),
}

struct Agreeing {
    connection: ServerConnection,
    /// The listener's settings when the handshake began: a reload does not change a handshake under
    /// way.
    server: Arc<Server>,
    /// Traffic secrets of TLS 1.3, client's and server's.
    secrets: key_log::HandshakeSecrets,
}

/// The outcome of one step.
pub enum Advanced {
    /// More bytes have to arrive.
    Wait,
    /// Another whole record is here.
    Again,
    /// The handshake is over.
    Done(Box<Established>),
}

/// A handshake that is over.
pub struct Established {
    /// The record layer that takes over.
    pub tls: Tls,
    /// The names in the client's certificate, if it has shown one.
    pub identity: Option<Box<PeerCertificate>>,
    /// Bytes that arrived behind the handshake, still sealed.
    pub rest: Vec<u8>,
    /// True for TLS 1.3.
    pub tls13: bool,
    /// True when it resumed the session of an earlier connection.
    pub resumed: bool,
}

/// The state of the first record in some bytes.
enum First {
    /// It is not complete.
    Part,
    /// It is complete and has this many bytes.
    Whole(usize),
    /// The bytes do not begin with a valid record.
    Bad,
}

fn first_record(bytes: &[u8]) -> First {
    let known = bytes
        .first()
        .is_none_or(|kind| (content::CHANGE_CIPHER_SPEC..=content::DATA).contains(kind))
        && bytes.get(1).is_none_or(|&major| major == 3);
    if !known {
        return First::Bad;
    }
    let &[_, _, _, high, low, ..] = bytes else { return First::Part };
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length > PLAIN + GROWTH => First::Bad,
        length if bytes.len() < HEADER + length => First::Part,
        length => First::Whole(HEADER + length),
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Handshake { stage: HandshakeStage::Waiting, input: Vec::new(), records: 0 }
    }
}

impl Handshake {
    /// Adds bytes that have arrived.
    pub fn add(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// True when [`Handshake::advance`] has something to do.
    pub fn is_ready(&self) -> bool {
        !matches!(first_record(&self.input), First::Part)
    }

    /// True when no byte has arrived.
    pub fn is_untouched(&self) -> bool {
        self.records == 0 && self.input.is_empty()
    }

    /// True while rustls was given no record: no whole one has arrived.
    pub fn is_waiting(&self) -> bool {
        matches!(self.stage, HandshakeStage::Waiting)
    }

    /// Bytes of memory. The part that rustls holds is an estimate, since rustls does not tell it.
    pub fn held(&self) -> usize {
        let rustls = match self.stage {
            HandshakeStage::Waiting => 0,
            HandshakeStage::Hello(_) => 4 << 10,
            HandshakeStage::Agreeing(_) => 10 << 10,
        };
        self.input.capacity() + rustls
    }

    /// True when the next record will be costly: keys are exchanged, signatures made or checked.
    pub fn is_dear(&self) -> bool {
        self.input.first() != Some(&content::CHANGE_CIPHER_SPEC)
    }

    /// Processes the next record, if it is complete. Bytes for the client go to `out`, also on
    /// failure.
    pub fn advance(
        &mut self,
        server: &Arc<Server>,
        cache: &mut KeyCache,
        out: &mut Vec<u8>,
    ) -> Result<Advanced, TlsFailure> {
        let length = match first_record(&self.input) {
            First::Part => return Ok(Advanced::Wait),
            First::Whole(length) => length,
            First::Bad if self.is_waiting() => {
                let speaks_tls = matches!(self.input[..], [content::HANDSHAKE, 3, ..]);
                let alert = match speaks_tls {
                    true => Alert::RECORD_OVERFLOW,
                    false => Alert::DECODE_ERROR,
                };
                out.extend_from_slice(&[content::ALERT, 3, 3, 0, 2, FATAL, alert.0]);
                return Err(not_tls(&self.input));
            }
            // rustls gets the bytes to find out what is wrong with them, and writes the alert.
            First::Bad => self.input.len(),
        };
        self.records += 1;
        if self.records > RECORDS {
            return Err(TlsFailure::protocol("a handshake of too many records"));
        }
        let mut record: Vec<u8> = self.input.drain(..length).collect();
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        let result = self.take(&record, server, out);
        record.zeroize();
        result?;
        match std::mem::replace(&mut self.stage, HandshakeStage::Waiting) {
            HandshakeStage::Agreeing(agreeing) if !agreeing.connection.is_handshaking() => {
                let rest = std::mem::take(&mut self.input);
                agreeing.establish(rest, cache, out).map(Box::new).map(Advanced::Done)
            }
            stage => {
                self.stage = stage;
                Ok(if self.is_ready() { Advanced::Again } else { Advanced::Wait })
            }
        }
    }

    /// Gives one record to rustls.
    fn take(
        &mut self,
        record: &[u8],
        server: &Arc<Server>,
        out: &mut Vec<u8>,
    ) -> Result<(), TlsFailure> {
        let acceptor = match &mut self.stage {
            HandshakeStage::Agreeing(agreeing) => return agreeing.take(record, out),
            HandshakeStage::Hello(acceptor) => acceptor,
            HandshakeStage::Waiting => {
                self.stage = HandshakeStage::Hello(Box::default());
                let HandshakeStage::Hello(acceptor) = &mut self.stage else { return Ok(()) };
                acceptor
            }
        };
        feed(record, |bytes| acceptor.read_tls(bytes))?;
        let accepted = match acceptor.accept() {
            Ok(None) => return Ok(()),
            Ok(Some(accepted)) => accepted,
            Err((error, mut alert)) => {
                let before = out.len();
                // A Vec takes everything.
                let _ = alert.write_all(out);
                if out.len() == before {
                    // For a first message other than a ClientHello, rustls writes no alert here.
                    let alert = Alert::for_error(&error);
                    out.extend_from_slice(&[content::ALERT, 3, 3, 0, 2, FATAL, alert.0]);
                }
                return Err(refused(&error));
            }
        };
        let config = server.config().clone();
        let (made, secrets) = key_log::listen(|| accepted.into_connection(config));
        let connection = made.map_err(|(error, mut alert)| {
            let _ = alert.write_all(out);
            refused(&error)
        })?;
        let mut agreeing = Agreeing { connection, server: server.clone(), secrets };
        agreeing.say(out);
        self.stage = HandshakeStage::Agreeing(Box::new(agreeing));
        Ok(())
    }
}

/// Has rustls read a whole record.
fn feed(
    mut record: &[u8],
    mut read: impl FnMut(&mut dyn Read) -> std::io::Result<usize>,
) -> Result<(), TlsFailure> {
    while !record.is_empty() {
        match read(&mut record) {
            Ok(count) if count > 0 => {}
            _ => return Err(TlsFailure::protocol("a handshake that is too large")),
        }
    }
    Ok(())
}

impl Agreeing {
    /// Has rustls write what it has to say.
    fn say(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // A Vec takes everything.
            if self.connection.write_tls(out as &mut dyn Write).is_err() {
                break;
            }
        }
    }

    fn take(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFailure> {
        feed(record, |bytes| self.connection.read_tls(bytes))?;
        let (result, heard) = key_log::listen(|| self.connection.process_new_packets());
        self.secrets.client = heard.client.or(self.secrets.client.take());
        self.secrets.server = heard.server.or(self.secrets.server.take());
        let before = out.len();
        self.say(out);
        if result.is_err() && out.len() == before {
            // For a message that is too long, rustls writes no alert, and offers no way to choose
            // one. The client is at least told that the connection ends.
            self.connection.send_close_notify();
            self.say(out);
        }
        result.map(|_| ()).map_err(|error| refused(&error))
    }

    /// Moves the secrets of rustls into a record layer.
    fn establish(
        self: Box<Self>,
        rest: Vec<u8>,
        cache: &mut KeyCache,
        out: &mut Vec<u8>,
    ) -> Result<Established, TlsFailure> {
        let Agreeing { connection, server, secrets } = *self;
        let internal = |what: &'static str| TlsFailure::new(TlsFailureKind::Internal, what);
        let version = connection.protocol_version().ok_or_else(|| internal("no version"))?;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let mut identity = match certificate.map(PeerCertificate::of) {
            Some(None) => {
                return Err(TlsFailure::new(
                    TlsFailureKind::BadCertificate,
                    "a certificate that is unreadable",
                ));
            }
            found => found.flatten().map(Box::new),
        };
        let verdict = identity.as_mut().map_or(Ok(()), |identity| server.check(identity));
        let extracted = connection
            .dangerous_extract_secrets()
            .map_err(|_| internal("rustls has not given out the secrets"))?;
        let certificate = identity.as_ref().map_or_else(Default::default, |one| one.mark());
        let mut tls =
            Tls::take_over(version, extracted, secrets, TlsSide::Server, certificate, cache)
                .map_err(internal)?;
        // rustls does not check expiry and revocation again when a session is resumed.
        if let Err((alert, failure)) = verdict {
            tls.layer().fail(cache, alert, out);
            return Err(failure);
        }
        let tls13 = version == ProtocolVersion::TLSv1_3;
        Ok(Established { tls, identity, rest, tls13, resumed })
    }
}

/// The failure for bytes that are not a first record.
fn not_tls(bytes: &[u8]) -> TlsFailure {
    let what = match bytes {
        [0x10, ..] => "MQTT without TLS on a listener for TLS",
        [b'A'..=b'Z', b'A'..=b'Z', ..] => "HTTP without TLS on a listener for TLS",
        [0x16, 3, ..] => "a handshake record that is too long",
        _ => "what came is not TLS",
    };
    TlsFailure::new(TlsFailureKind::NotTls, what)
}

/// The alert for a client whose certificate has expired since its session began.
pub fn expired() -> (Alert, TlsFailure) {
    let what = "the certificate has expired since the session was begun";
    (Alert::CERTIFICATE_EXPIRED, TlsFailure::new(TlsFailureKind::CertificateExpired, what))
}

/// The alert for a client whose certificate lacks what the listener takes as its user name.
pub fn nameless() -> (Alert, TlsFailure) {
    let what = "the certificate has no name of the kind that is the user name here";
    (Alert::BAD_CERTIFICATE, TlsFailure::new(TlsFailureKind::BadCertificate, what))
}

/// The alert for a client whose certificate was revoked since its session began.
pub fn revoked() -> (Alert, TlsFailure) {
    let what = "the certificate was revoked since the session was begun";
    (Alert::CERTIFICATE_REVOKED, TlsFailure::new(TlsFailureKind::CertificateRevoked, what))
}
