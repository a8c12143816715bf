//! Alerts (RFC 8446 section 6), and why a connection is refused or ended.

use rustls::Error;
use std::borrow::Cow;

/// An alert's description. The constants are those that the record layer sends or recognizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender will send nothing more.
    pub const CLOSE_NOTIFY: Alert = Alert(0);
    /// A message came where it must not.
    pub const UNEXPECTED_MESSAGE: Alert = Alert(10);
    /// A record is not genuine.
    pub const BAD_RECORD_MAC: Alert = Alert(20);
    /// A record is too long.
    pub const RECORD_OVERFLOW: Alert = Alert(22);
    /// A certificate cannot be used.
    pub const BAD_CERTIFICATE: Alert = Alert(42);
    /// A certificate was revoked.
    pub const CERTIFICATE_REVOKED: Alert = Alert(44);
    /// A certificate has expired.
    pub const CERTIFICATE_EXPIRED: Alert = Alert(45);
    /// A field has a value that it must not have.
    pub const ILLEGAL_PARAMETER: Alert = Alert(47);
    /// A message cannot be read.
    pub const DECODE_ERROR: Alert = Alert(50);
    /// This end has failed.
    pub const INTERNAL_ERROR: Alert = Alert(80);
    /// The sender gives up for a reason outside the protocol.
    pub const USER_CANCELED: Alert = Alert(90);
    /// No second handshake on a connection (TLS 1.2).
    pub const NO_RENEGOTIATION: Alert = Alert(100);

    /// The alert for an error of rustls for which rustls itself has written no alert.
    pub fn for_error(error: &Error) -> Alert {
        match error {
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                Alert::UNEXPECTED_MESSAGE
            }
            Error::InvalidMessage(_) => Alert::DECODE_ERROR,
            Error::PeerMisbehaved(_) => Alert::ILLEGAL_PARAMETER,
            _ => Alert::INTERNAL_ERROR,
        }
    }
}

/// The level of a warning.
pub const WARNING: u8 = 1;
/// The level of an alert that ends the connection.
pub const FATAL: u8 = 2;

/// Kinds of failures, each with a label of `ringmq_tls_handshakes_failed_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFailureKind {
    /// What came is not TLS.
    NotTls,
    /// Client and server have no version, suite, group or name in common.
    NothingInCommon,
    /// No certificate, where one is required.
    NoCertificate,
    /// The certificate has expired, or is not yet valid.
    CertificateExpired,
    /// The certificate leads to none of the authorities that are trusted here.
    UnknownAuthority,
    /// The certificate was revoked, or no CRL says whether it was.
    CertificateRevoked,
    /// Anything else that is wrong with the certificate or its use.
    BadCertificate,
    /// The client sent an alert.
    ClientAlert,
    /// The client broke a rule of the protocol.
    Protocol,
    /// The handshake was not over in time.
    TimedOut,
    /// The handshake made no progress while others waited for its place.
    Shed,
    /// The client left.
    Left,
    /// The broker failed.
    Internal,
}

/// Why a connection is refused or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFailure {
    /// The kind, for the counters.
    pub kind: TlsFailureKind,
    /// The description, for the log.
    pub what: Cow<'static, str>,
}

impl TlsFailure {
    /// A failure of this kind with this description.
    pub fn new(kind: TlsFailureKind, what: impl Into<Cow<'static, str>>) -> Self {
        TlsFailure { kind, what: what.into() }
    }

    /// The failure of a client that broke a rule of the protocol.
    pub fn protocol(what: &'static str) -> Self {
        TlsFailure::new(TlsFailureKind::Protocol, what)
    }
}
