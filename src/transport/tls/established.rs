//! What goes on where a handshake is over: rustls gives its secrets out, and a record layer takes
//! them over. The load generator compiles this file, too, for the client's end.

use super::key_log::{Heard, Secret};
use super::keys::KeyCache;
use super::records::{CertificateMark, RecordLayer, Records};
use super::suite::{LONGEST_KEY, NONCE, Suite};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};
use zeroize::Zeroize;

/// What goes on where a handshake is over, by the room that its secrets need.
pub enum Tls {
    /// With a hash of 32 bytes, or AES-128 in TLS 1.2.
    Short(Box<Records<32>>),
    /// With longer secrets.
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

    /// The same, only to look at.
    pub fn peek(&self) -> &dyn RecordLayer {
        match self {
            Tls::Short(records) => &**records,
            Tls::Long(records) => &**records,
        }
    }

    /// Takes over from rustls, whose handshake is over: its secrets become a record layer's. In
    /// TLS 1.3 they are those that its key log has `heard`, and must lead to the keys that it gave
    /// out: both were learnt apart. The keys, which are needed at once, are in `cache` then.
    ///
    /// # Errors
    /// What does not fit.
    pub fn take_over(
        version: ProtocolVersion,
        extracted: ExtractedSecrets,
        heard: Heard,
        role: Role,
        certificate: CertificateMark,
        cache: &mut KeyCache,
    ) -> Result<Tls, &'static str> {
        let suite = Suite::of(version, &extracted.rx.1).ok_or("a new suite")?;
        let (receive, send) = (extracted.rx, extracted.tx);
        let tls = if suite.is_tls13() {
            let mut agreed = |secret: Option<Secret>, keys: &ConnectionTrafficSecrets| {
                let same = |secret: &Secret| cache.admit(suite, secret.bytes(), parts(keys));
                let secret = secret.filter(same);
                secret.ok_or("the secrets differ from the keys")
            };
            let (theirs, ours) = match role {
                Role::Server => (heard.client, heard.server),
                Role::Client => (heard.server, heard.client),
            };
            let (theirs, ours) = (agreed(theirs, &receive.1)?, agreed(ours, &send.1)?);
            Tls::new(suite, (theirs.bytes(), receive.0), (ours.bytes(), send.0), certificate)
        } else {
            let (theirs, ours) = (Bytes::of(&receive.1), Bytes::of(&send.1));
            Tls::new(suite, (theirs.bytes(), receive.0), (ours.bytes(), send.0), certificate)
        };
        tls.ok_or("no room for the secrets")
    }

    /// Of secrets and sequence numbers of both directions.
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
pub enum Role {
    /// It answered the ClientHello.
    Server,
    /// It sent the ClientHello. The load generator's end; the broker has none.
    Client,
}

/// Key and initialization vector of TLS 1.2 in a row.
struct Bytes([u8; LONGEST_KEY + NONCE], usize);

impl Bytes {
    fn of(secrets: &ConnectionTrafficSecrets) -> Bytes {
        let (key, iv) = parts(secrets);
        let mut bytes = Bytes([0; LONGEST_KEY + NONCE], key.len() + iv.len());
        for (to, from) in bytes.0.iter_mut().zip(key.iter().chain(iv)) {
            *to = *from;
        }
        bytes
    }

    fn bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

impl Drop for Bytes {
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
