//! The record layer after the handshake: the state that an idle client keeps, and the opening and
//! sealing of records.
//!
//! rustls makes the handshake and then gives its secrets out. From there on a connection is two
//! secrets, two sequence numbers and a few flags, for every suite of TLS 1.2 and 1.3. A record is
//! decrypted from the buffer it was received in straight into the buffer that the next layer reads.
//! A record is encrypted when a send is made, never before, so a message for many clients is not
//! stored once per key.
//!
//! The bounds on messages of a peer that carry no data are those of rustls: 32 empty records in a
//! row, 32 KeyUpdates without data between them, 4 warnings, one attempt to renegotiate.

use super::alert::{Alert, FATAL, TlsFailure, TlsFailureKind, WARNING};
use super::keys::{self, KeyCache};
use super::mutant::Mutant;
use super::suite::{EXPLICIT, NONCE, Suite, TAG};
use zeroize::Zeroize;

/// Bytes of a record's header: type, version, length.
pub const HEADER: usize = 5;
/// Bytes of content that a record carries at most (RFC 8446 section 5.1).
pub const PLAIN: usize = 16 * 1024;
/// Bytes that a record of TLS 1.3 may have beyond [`PLAIN`] (RFC 8446 section 5.2).
const GROWTH_13: usize = 256;
/// Bytes that a record of TLS 1.2 may have beyond [`PLAIN`] (RFC 5246 section 6.2.3).
const GROWTH_12: usize = 2048;
/// Empty records in a row; one more ends the connection.
const EMPTY: u8 = 32;
/// A KeyUpdate message without its last byte (RFC 8446 section 4.6.3).
pub(super) const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// Types of records.
pub mod content {
    /// A change of keys; only in handshakes.
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    /// An alert.
    pub const ALERT: u8 = 21;
    /// A part of the handshake, or a KeyUpdate after it.
    pub const HANDSHAKE: u8 = 22;
    /// Data of the layer above.
    pub const DATA: u8 = 23;
}

/// One direction: its secret ([`Suite::secret`]) and the number of records it has protected. It
/// cannot be copied, so that no two records have the same number under the same secret.
pub(super) struct RecordDirection<const N: usize> {
    secret: [u8; N],
    pub(super) sequence: u64,
}

impl<const N: usize> Drop for RecordDirection<N> {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl<const N: usize> RecordDirection<N> {
    fn new(secret: &[u8], sequence: u64) -> Option<Self> {
        let mut kept = [0; N];
        kept.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(RecordDirection { secret: kept, sequence })
    }

    pub(super) fn secret(&self, suite: Suite) -> &[u8] {
        self.secret.get(..suite.secret()).unwrap_or_default()
    }

    /// Replaces the secret by the next one (RFC 8446 section 7.2), and removes its key from
    /// `cache`.
    pub(super) fn update(&mut self, suite: Suite, cache: &mut KeyCache) -> Option<()> {
        cache.remove(suite, self.secret(suite));
        keys::update(suite, self.secret.get_mut(..suite.secret())?)?;
        self.sequence = 0;
        Some(())
    }
}

/// Counters of what a peer may do only once, or only a few times.
#[derive(Clone, Copy, Default)]
pub(super) struct RecordTally {
    /// Empty records in a row.
    pub(super) empty: u8,
    /// KeyUpdates since the last data.
    pub(super) updates: u8,
    /// Warnings since the handshake.
    pub(super) warnings: u8,
    /// Bytes of a KeyUpdate that have come in records of their own; at most all but the last.
    pub(super) begun: u8,
    /// KeyUpdates that the peer has asked for and that were sent to it since data was last sent.
    pub(super) answers: u8,
    /// The peer has asked for one more KeyUpdate, which is sent before the next data.
    pub(super) owes_update: bool,
    /// The peer has tried to renegotiate.
    pub(super) renegotiated: bool,
    /// Nothing more may be sent: the peer was told of the end, or the connection has failed.
    pub(super) said_close: bool,
    /// The peer can receive nothing more, so no close_notify is owed.
    pub(super) cut: bool,
}

/// The part of an unfinished record that has arrived.
pub(super) struct Partial(pub(super) Vec<u8>);

/// What is known of a client's certificate for as long as the client is connected, so that a live
/// client can be ended when it is revoked or has expired.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CertificateMark {
    /// Identifies the certificate among those that are revoked; 0 when the client showed none.
    pub fingerprint: u64,
    /// Last second of its validity, counted from 1970; 0 for no end.
    pub not_after: u32,
}

/// A connection's record layer; `N` is room for its secrets.
pub struct Records<const N: usize> {
    pub(super) receive: RecordDirection<N>,
    pub(super) send: RecordDirection<N>,
    /// The part of an unfinished record that has arrived.
    pub(super) partial: Option<Box<Partial>>,
    /// Identifies the client's certificate among those that are revoked; 0 for none.
    pub(super) certificate: u64,
    /// Last second of the certificate's validity, counted from 1970; 0 for no end.
    pub(super) not_after: u32,
    pub(super) suite: Suite,
    pub(super) tally: RecordTally,
}

// A million clients have a million of these; each bound is a size class of the allocator.
const _: () = assert!(size_of::<Records<32>>() <= 112);
const _: () = assert!(size_of::<Records<48>>() <= 160);

/// The outcome of opening received bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// All whole records in the bytes were opened.
    All,
    /// The peer has said that it sends nothing more.
    Closed,
    /// The connection has to end. The alert for the peer, if one is due, is in the output.
    Failed(TlsFailure),
}

/// The outcome of sealing bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sealed {
    /// All bytes are in the output.
    All,
    /// Not all bytes are in the output, because the key is worn out and TLS 1.2 has no other, or
    /// because sealing has ended before. The connection has to end; what the peer is told of that
    /// is in the output.
    Exhausted,
}

/// The effect of the record that was opened last on the connection.
pub(super) enum RecordEffect {
    None,
    Closed,
}

/// An alert that is owed, if any, and the failure.
pub(super) type RecordRefusal = (Option<Alert>, TlsFailure);

const TOO_LONG: &str = "a record that is too long";
const NOT_GENUINE: &str = "a record that is not genuine";
pub(super) const NOT_NOW: &str = "a message that may not come after the handshake";

pub(super) fn refuse<T>(alert: Alert, what: &'static str) -> Result<T, RecordRefusal> {
    Err((Some(alert), TlsFailure::protocol(what)))
}

pub(super) fn broken() -> RecordRefusal {
    (
        Some(Alert::INTERNAL_ERROR),
        TlsFailure::new(TlsFailureKind::Internal, "a key could not be made"),
    )
}

/// The record layer after a handshake, whatever room its secrets need.
pub trait RecordLayer {
    /// Opens the records in `bytes`, which continue the bytes of the previous call. Content goes to
    /// `plain`, answers for the peer to `out`. The part of an unfinished record is kept.
    fn open(
        &mut self,
        cache: &mut KeyCache,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Opened;
    /// Appends `plain` to `out`, sealed, in as few records as possible. Appends nothing once the
    /// end was announced to the peer.
    fn seal(&mut self, cache: &mut KeyCache, plain: &[u8], out: &mut Vec<u8>) -> Sealed;
    /// Appends a close_notify, unless the end was announced before.
    fn close(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>);
    /// Appends a fatal alert, unless the end was announced before.
    fn fail(&mut self, cache: &mut KeyCache, alert: Alert, out: &mut Vec<u8>);
    /// Notes that the peer can receive nothing more: no close_notify is owed.
    fn cut(&mut self);
    /// Whether a close_notify is still to be sent.
    fn owes_close(&self) -> bool;
    /// Removes the connection's keys from the cache, because it is over or moves elsewhere.
    fn forget(&self, cache: &mut KeyCache);
    /// The client's certificate.
    fn certificate(&self) -> CertificateMark;
    /// Bytes of memory.
    fn heap(&self) -> usize;
    /// True for TLS 1.3.
    fn is_tls13(&self) -> bool;
}

impl<const N: usize> RecordLayer for Records<N> {
    fn open(
        &mut self,
        cache: &mut KeyCache,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Opened {
        while !bytes.is_empty() {
            let opened = match self.partial.take() {
                Some(partial) => self.open_partial(cache, partial, &mut bytes, plain, out),
                None => self.open_first(cache, &mut bytes, plain, out),
            };
            match opened {
                Ok(RecordEffect::None) => {}
                Ok(RecordEffect::Closed) => return Opened::Closed,
                Err((alert, failure)) => {
                    if let Some(alert) = alert {
                        self.say(cache, FATAL, alert, out);
                    }
                    self.tally.said_close = true;
                    return Opened::Failed(failure);
                }
            }
        }
        Opened::All
    }

    fn seal(&mut self, cache: &mut KeyCache, plain: &[u8], out: &mut Vec<u8>) -> Sealed {
        for part in plain.chunks(PLAIN) {
            if self.tally.said_close {
                return Sealed::Exhausted;
            }
            self.tally.answers = 0;
            if self.tally.owes_update {
                self.tally.owes_update = false;
                if self.update_send(cache, out).is_none() {
                    self.tally.said_close = true;
                    return Sealed::Exhausted;
                }
            }
            // The last record that the key may protect is kept for the KeyUpdate or the
            // close_notify.
            if self.send.sequence >= self.suite.limit() - 1 {
                let updated = self.suite.is_tls13() && self.update_send(cache, out).is_some();
                if !updated {
                    self.close(cache, out);
                    return Sealed::Exhausted;
                }
            }
            if self.encrypt(cache, content::DATA, part, out).is_none() {
                self.tally.said_close = true;
                return Sealed::Exhausted;
            }
        }
        Sealed::All
    }

    fn close(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>) {
        if !self.tally.said_close {
            if !Mutant::TlsCloseUnsaid.is_on() {
                self.say(cache, WARNING, Alert::CLOSE_NOTIFY, out);
            }
            self.tally.said_close = true;
        }
    }

    fn fail(&mut self, cache: &mut KeyCache, alert: Alert, out: &mut Vec<u8>) {
        if !self.tally.said_close {
            self.say(cache, FATAL, alert, out);
            self.tally.said_close = true;
        }
    }

    fn cut(&mut self) {
        self.tally.cut = true;
    }

    fn owes_close(&self) -> bool {
        !self.tally.said_close && !self.tally.cut
    }

    fn forget(&self, cache: &mut KeyCache) {
        cache.remove(self.suite, self.receive.secret(self.suite));
        cache.remove(self.suite, self.send.secret(self.suite));
    }

    fn certificate(&self) -> CertificateMark {
        CertificateMark { fingerprint: self.certificate, not_after: self.not_after }
    }

    fn heap(&self) -> usize {
        let partial =
            self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.0.capacity());
        size_of::<Self>() + partial
    }

    fn is_tls13(&self) -> bool {
        self.suite.is_tls13()
    }
}

impl<const N: usize> Records<N> {
    /// A record layer from the secret and the sequence number of each direction. `None` when a
    /// secret is longer than `N` bytes.
    pub fn new(
        suite: Suite,
        receive: (&[u8], u64),
        send: (&[u8], u64),
        certificate: CertificateMark,
    ) -> Option<Self> {
        Some(Records {
            receive: RecordDirection::new(receive.0, receive.1)?,
            send: RecordDirection::new(send.0, send.1)?,
            partial: None,
            certificate: certificate.fingerprint,
            not_after: certificate.not_after,
            suite,
            tally: RecordTally::default(),
        })
    }

    /// Opens the record at the start of `bytes`, or keeps all of `bytes` while it is incomplete.
    fn open_first(
        &mut self,
        cache: &mut KeyCache,
        bytes: &mut &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<RecordEffect, RecordRefusal> {
        let length = self.check_header(bytes)?;
        match length.and_then(|length| bytes.split_at_checked(HEADER + length)) {
            Some((record, rest)) => {
                *bytes = rest;
                self.open_record(cache, record, plain, out)
            }
            None => {
                let kept = if Mutant::TlsPartForgotten.is_on() { &[] } else { *bytes };
                self.partial = Some(Box::new(Partial(kept.to_vec())));
                *bytes = &[];
                Ok(RecordEffect::None)
            }
        }
    }

    /// Adds to an unfinished record what belongs to it, and opens it if that completes it.
    fn open_partial(
        &mut self,
        cache: &mut KeyCache,
        mut partial: Box<Partial>,
        bytes: &mut &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<RecordEffect, RecordRefusal> {
        loop {
            let length = self.check_header(&partial.0)?;
            let whole = HEADER + length.unwrap_or(0);
            if length.is_some() && partial.0.len() == whole {
                return self.open_record(cache, &partial.0, plain, out);
            }
            if bytes.is_empty() {
                self.partial = Some(partial);
                return Ok(RecordEffect::None);
            }
            let missing = whole - partial.0.len();
            let (mine, rest) = bytes.split_at(missing.min(bytes.len()));
            partial.0.extend_from_slice(mine);
            *bytes = rest;
        }
    }

    /// The length of the record whose header is at the start of `bytes`, without the header; `None`
    /// while the header is incomplete. A bad header is refused before the rest of the record
    /// arrives.
    fn check_header(&self, bytes: &[u8]) -> Result<Option<usize>, RecordRefusal> {
        let known = match bytes.first() {
            Some(&content::DATA) | None => true,
            Some(&(content::ALERT | content::HANDSHAKE)) => !self.suite.is_tls13(),
            _ => false,
        };
        if !known {
            return refuse(Alert::UNEXPECTED_MESSAGE, "a record of a type that may not come");
        }
        if bytes.get(1).is_some_and(|&major| major != 3) {
            return refuse(Alert::DECODE_ERROR, "a record of another protocol version");
        }
        let &[_, _, _, high, low, ..] = bytes else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let growth = if self.suite.is_tls13() { GROWTH_13 } else { GROWTH_12 };
        if length > PLAIN + growth {
            return refuse(Alert::RECORD_OVERFLOW, TOO_LONG);
        }
        Ok(Some(length))
    }

    /// Opens a whole record.
    fn open_record(
        &mut self,
        cache: &mut KeyCache,
        record: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<RecordEffect, RecordRefusal> {
        let start = plain.len();
        let opened = self.decrypt(cache, record, plain);
        let kind = opened.inspect_err(|_| plain.truncate(start))?;
        let length = plain.len() - start;
        if length == 0 && kind == content::DATA {
            self.tally.empty += 1;
            if self.tally.empty > EMPTY {
                return refuse(Alert::UNEXPECTED_MESSAGE, "too many empty records");
            }
        } else {
            self.tally.empty = 0;
        }
        if kind != content::HANDSHAKE && self.tally.begun > 0 {
            plain.truncate(start);
            return refuse(Alert::UNEXPECTED_MESSAGE, "a KeyUpdate that is not finished");
        }
        if kind == content::DATA {
            self.tally.updates = if length > 0 { 0 } else { self.tally.updates };
            return Ok(RecordEffect::None);
        }
        let said = plain.split_off(start);
        match (kind, self.suite.is_tls13()) {
            (content::ALERT, _) => self.hear_alert(&said),
            (content::HANDSHAKE, true) => self.hear_key_update(cache, &said, out),
            (content::HANDSHAKE, false) => self.hear_hello(cache, &said, out),
            _ => refuse(Alert::UNEXPECTED_MESSAGE, NOT_NOW),
        }
    }

    /// Appends the content of a record to `plain`; returns its type.
    fn decrypt(
        &mut self,
        cache: &mut KeyCache,
        record: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<u8, RecordRefusal> {
        let (suite, sequence) = (self.suite, self.receive.sequence);
        let Some(key) = cache.get(suite, self.receive.secret(suite)) else { return Err(broken()) };
        // The peer has to change its key before its numbers run out; there is no other bound on
        // received records.
        let Some(next) = sequence.checked_add(1) else {
            return refuse(Alert::INTERNAL_ERROR, "too many records with one key");
        };
        let Some((header, body)) = record.split_first_chunk::<HEADER>() else {
            return refuse(Alert::DECODE_ERROR, NOT_GENUINE);
        };
        let parts = body.split_at_checked(suite.explicit()).and_then(|(explicit, rest)| {
            let (sealed, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
            Some((explicit, sealed, tag))
        });
        let Some((explicit, sealed, tag)) = parts else {
            return refuse(Alert::BAD_RECORD_MAC, NOT_GENUINE);
        };
        let nonce = match explicit.first_chunk::<EXPLICIT>() {
            Some(explicit) => key.nonce_with(*explicit),
            None => key.nonce(sequence),
        };
        let start = plain.len();
        plain.resize(start + sealed.len(), 0);
        let to = plain.get_mut(start..).unwrap_or_default();
        let genuine = if suite.is_tls13() {
            key.open(nonce, header, sealed, tag, to)
        } else {
            let aad = aad_12(sequence, [header[0], header[1], header[2]], sealed.len());
            key.open(nonce, &aad, sealed, tag, to)
        };
        if !genuine {
            return refuse(Alert::BAD_RECORD_MAC, NOT_GENUINE);
        }
        self.receive.sequence = next;
        let mut kind = header[0];
        if suite.is_tls13() {
            if sealed.len() > PLAIN + 1 {
                return refuse(Alert::RECORD_OVERFLOW, TOO_LONG);
            }
            // Type and padding come after the content (RFC 8446 section 5.4).
            let inner = to.iter().rposition(|&byte| byte != 0);
            let Some((at, found)) = inner.and_then(|at| Some((at, *to.get(at)?))) else {
                return refuse(Alert::UNEXPECTED_MESSAGE, "a record without a type");
            };
            plain.truncate(start + at);
            kind = found;
        } else if sealed.len() > PLAIN {
            return refuse(Alert::RECORD_OVERFLOW, TOO_LONG);
        }
        Ok(kind)
    }

    pub(super) fn say(&mut self, cache: &mut KeyCache, level: u8, alert: Alert, out: &mut Vec<u8>) {
        if !self.tally.said_close {
            // If the key cannot seal, the peer gets no alert.
            let _ = self.encrypt(cache, content::ALERT, &[level, alert.0], out);
        }
    }

    /// Appends a KeyUpdate and changes the key of what is sent.
    pub(super) fn update_send(&mut self, cache: &mut KeyCache, out: &mut Vec<u8>) -> Option<()> {
        let [kind, a, b, c] = KEY_UPDATE;
        self.encrypt(cache, content::HANDSHAKE, &[kind, a, b, c, 0], out)?;
        self.send.update(self.suite, cache)
    }

    /// Appends one record. `None` when the key is worn out or cannot be made; then nothing is
    /// appended.
    fn encrypt(
        &mut self,
        cache: &mut KeyCache,
        kind: u8,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (suite, sequence) = (self.suite, self.send.sequence);
        if sequence >= suite.limit() {
            return None;
        }
        // The number is counted before it is used: whatever fails, it is never used again.
        if !Mutant::TlsSequenceKept.is_on() {
            self.send.sequence = sequence.checked_add(1)?;
        }
        let key = cache.get(suite, self.send.secret(suite))?;
        let nonce = key.nonce(sequence);
        let inner: &[u8] = if suite.is_tls13() { &[kind] } else { &[] };
        let outer = if suite.is_tls13() { content::DATA } else { kind };
        let length = suite.explicit() + plain.len() + inner.len() + TAG;
        let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
        let header = [outer, 3, 3, high, low];
        let start = out.len();
        out.extend_from_slice(&header);
        if suite.explicit() > 0 {
            out.extend_from_slice(&nonce[NONCE - EXPLICIT..]);
        }
        let at = out.len();
        out.resize(start + HEADER + length, 0);
        let to = out.get_mut(at..)?;
        let sealed = if suite.is_tls13() {
            key.seal(nonce, &header, plain, inner, to)
        } else {
            let aad = aad_12(sequence, [kind, 3, 3], plain.len());
            key.seal(nonce, &aad, plain, inner, to)
        };
        if !sealed {
            out.truncate(start);
            return None;
        }
        Some(())
    }
}

/// What TLS 1.2 authenticates besides the content: sequence number, type, version, length (RFC 5246
/// section 6.2.3.3).
fn aad_12(sequence: u64, [kind, major, minor]: [u8; 3], length: usize) -> [u8; 13] {
    let [a, b, c, d, e, f, g, h] = sequence.to_be_bytes();
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [a, b, c, d, e, f, g, h, kind, major, minor, high, low]
}
