//! The handover after a handshake: rustls gives its secrets out and a record layer takes them over.
//! The load generator also compiles this file, for the client's end.

use super::key_log::{HandshakeSecrets, TrafficSecret};
use super::keys::KeyCache;
use super::records::{CertificateMark, RecordLayer, Records};
use super::suite::{LONGEST_KEY, NONCE, Suite};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};
use zeroize::Zeroize;

/// The record layer of a connection after its handshake, by the room that its secrets need.
pub enum Tls {
    /// Secrets of up to 32 bytes: TLS 1.3 with SHA-256, TLS 1.2 with AES-128.
    Short(Box<Records<32>>),
    /// Secrets of up to 48 bytes: every other suite.
    Long(Box<Records<48>>),
}

impl Tls {
    /// The record layer.
    pub fn layer(&mut self) -> &mut dyn RecordLayer {
        match self {
            Tls::Short(records) => &mut **records,
            Tls::Long(records) => &mut **records,
        }
    }

    /// The record layer, without write access.
    pub fn peek(&self) -> &dyn RecordLayer {
        match self {
            Tls::Short(records) => &**records,
            Tls::Long(records) => &**records,
        }
    }

    /// Takes over from rustls after its handshake. In TLS 1.3 the secrets are those that its key
    /// log has `heard`. They must lead to the keys in `extracted`, since the two were obtained
    /// separately. The keys are needed at once and are in `cache` afterwards.
    /// # Errors
    /// The suite is unknown, or the secrets do not lead to the keys, or are too long.
    pub fn take_over(
        version: ProtocolVersion,
        extracted: ExtractedSecrets,
        heard: HandshakeSecrets,
        role: TlsSide,
        certificate: CertificateMark,
        cache: &mut KeyCache,
    ) -> Result<Tls, &'static str> {
        let suite = Suite::of(version, &extracted.rx.1).ok_or("a new suite")?;
        let (receive, send) = (extracted.rx, extracted.tx);
        let tls = if suite.is_tls13() {
            let mut agreed = |secret: Option<TrafficSecret>, keys: &ConnectionTrafficSecrets| {
                let same = |secret: &TrafficSecret| cache.admit(suite, secret.bytes(), parts(keys));
                let secret = secret.filter(same);
                secret.ok_or("the secrets differ from the keys")
            };
            let (theirs, ours) = match role {
                TlsSide::Server => (heard.client, heard.server),
                TlsSide::Client => (heard.server, heard.client),
            };
            let (theirs, ours) = (agreed(theirs, &receive.1)?, agreed(ours, &send.1)?);
            Tls::new(suite, (theirs.bytes(), receive.0), (ours.bytes(), send.0), certificate)
        } else {
            let (theirs, ours) = (KeyAndIv::of(&receive.1), KeyAndIv::of(&send.1));
            Tls::new(suite, (theirs.bytes(), receive.0), (ours.bytes(), send.0), certificate)
        };
        tls.ok_or("no room for the secrets")
    }

    /// A record layer from the secret and the sequence number of each direction. `None` when a
    /// secret is too long.
    pub(super) fn new(
        suite: Suite,
        receive: (&[u8], u64),
        send: (&[u8], u64),
        certificate: CertificateMark,
    ) -> Option<Tls> {
        Some(match suite.secret() {
            0..=32 => Tls::Short(Box::new(Records::new(suite, receive, send, certificate)?)),
            _ => Tls::Long(Box::new(Records::new(suite, receive, send, certificate)?)),
        })
    }
}

/// Which end of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsSide {
    /// It answered the ClientHello.
    Server,
    /// It sent the ClientHello. Only the load generator has this end; the broker never does.
    Client,
}

/// Key and initialization vector of TLS 1.2 in a row.
struct KeyAndIv([u8; LONGEST_KEY + NONCE], usize);

impl KeyAndIv {
    fn of(secrets: &ConnectionTrafficSecrets) -> KeyAndIv {
        let (key, iv) = parts(secrets);
        let mut bytes = KeyAndIv([0; LONGEST_KEY + NONCE], key.len() + iv.len());
        for (to, from) in bytes.0.iter_mut().zip(key.iter().chain(iv)) {
            *to = *from;
        }
        bytes
    }

    fn bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

impl Drop for KeyAndIv {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn parts(secrets: &ConnectionTrafficSecrets) -> (&[u8], &[u8]) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => (&[], &[]),
    }
}
