//! The messages of a peer other than data, once the handshake is over: alerts, KeyUpdates of TLS
//! 1.3, and attempts to renegotiate in TLS 1.2. A part of `records`, under the same rules.

use super::alert::{Alert, FATAL, TlsFailure, TlsFailureKind, WARNING};
use super::keys::KeyCache;
use super::mutant::Mutant;
use super::records::{KEY_UPDATE, NOT_NOW, RecordEffect, RecordRefusal, Records, broken, refuse};

/// KeyUpdates without data between them; one more ends the connection.
const UPDATES: u8 = 32;
/// KeyUpdates that are answered at once while no data is sent. A further request is answered by a
/// single KeyUpdate in front of the next data, where one must come at the latest (RFC 8446 section
/// 4.6.3). Without this bound a peer that asks and does not read would have answers pile up in
/// memory.
const ANSWERS: u8 = 16;
/// Warnings in the whole life of a connection; one more ends it.
const WARNINGS: u8 = 4;
/// First byte of a ClientHello message.
const CLIENT_HELLO: u8 = 1;

impl<const N: usize> Records<N> {
    /// Handles an alert (RFC 8446 section 6).
    pub(super) fn hear_alert(&mut self, said: &[u8]) -> Result<RecordEffect, RecordRefusal> {
        let &[level, description] = said else {
            return refuse(Alert::DECODE_ERROR, "an alert that cannot be read");
        };
        let alert = Alert(description);
        if level != WARNING && level != FATAL {
            return refuse(Alert::ILLEGAL_PARAMETER, "an alert of an unknown level");
        }
        if alert == Alert::CLOSE_NOTIFY {
            return Ok(RecordEffect::Closed);
        }
        if level == FATAL {
            let what = format!("the client sent the alert {description}");
            return Err((None, TlsFailure::new(TlsFailureKind::ClientAlert, what)));
        }
        self.tally.warnings += 1;
        if self.tally.warnings > WARNINGS {
            return refuse(Alert::UNEXPECTED_MESSAGE, "too many warnings");
        }
        // TLS 1.3 has no other warnings (RFC 8446 section 6).
        if self.suite.is_tls13() && alert != Alert::USER_CANCELED {
            return refuse(Alert::DECODE_ERROR, "a warning that TLS 1.3 does not have");
        }
        Ok(RecordEffect::None)
    }

    /// Handles a KeyUpdate of TLS 1.3, or a part of one (RFC 8446 section 4.6.3). It has to end
    /// with its record, because the next record has another key.
    pub(super) fn hear_key_update(
        &mut self,
        cache: &mut KeyCache,
        said: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RecordEffect, RecordRefusal> {
        if said.is_empty() {
            return refuse(Alert::UNEXPECTED_MESSAGE, "an empty handshake record");
        }
        let begun = usize::from(self.tally.begun);
        let expected = KEY_UPDATE.get(begun..).unwrap_or_default();
        let (head, rest) = said.split_at(said.len().min(expected.len()));
        if !expected.starts_with(head) {
            let is_update = begun > 0 || head.first() == KEY_UPDATE.first();
            return match is_update {
                true => refuse(Alert::DECODE_ERROR, "a KeyUpdate of another length than one byte"),
                false => refuse(Alert::UNEXPECTED_MESSAGE, NOT_NOW),
            };
        }
        let wanted = match *rest {
            [] => {
                self.tally.begun += u8::try_from(head.len()).unwrap_or(0);
                return Ok(RecordEffect::None);
            }
            [0] => false,
            [1] => true,
            [_] => return refuse(Alert::ILLEGAL_PARAMETER, "a KeyUpdate of an unknown kind"),
            _ => return refuse(Alert::UNEXPECTED_MESSAGE, "more after a KeyUpdate in its record"),
        };
        self.tally.begun = 0;
        self.tally.updates += 1;
        if self.tally.updates > UPDATES {
            return refuse(Alert::UNEXPECTED_MESSAGE, "too many KeyUpdates without data");
        }
        if wanted && !self.tally.said_close {
            if self.tally.answers < ANSWERS {
                self.tally.answers += 1;
                self.update_send(cache, out).ok_or_else(broken)?;
            } else {
                self.tally.owes_update = true;
            }
        }
        if !Mutant::TlsUpdateIgnored.is_on() {
            self.receive.update(self.suite, cache).ok_or_else(broken)?;
        }
        Ok(RecordEffect::None)
    }

    /// Handles a handshake message of TLS 1.2. There is no second handshake on a connection: the
    /// first attempt is declined (RFC 5246 section 7.2.2), the second one ends the connection.
    pub(super) fn hear_hello(
        &mut self,
        cache: &mut KeyCache,
        said: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<RecordEffect, RecordRefusal> {
        let whole = match *said {
            [CLIENT_HELLO, a, b, c, ref rest @ ..] => {
                rest.len() == usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
            }
            _ => false,
        };
        if !whole {
            return refuse(Alert::UNEXPECTED_MESSAGE, NOT_NOW);
        }
        if self.tally.renegotiated {
            return refuse(Alert::NO_RENEGOTIATION, "a second attempt to renegotiate");
        }
        self.tally.renegotiated = true;
        self.say(cache, WARNING, Alert::NO_RENEGOTIATION, out);
        Ok(RecordEffect::None)
    }
}
