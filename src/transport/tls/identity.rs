//! The names in a client's certificate. They are read when the handshake is over, and kept in place
//! of the chain.

use super::records::CertificateMark;
use crate::access::Identity;
use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use x509_parser::nom::Parser;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::{
    FromDer, GeneralName, SubjectAlternativeName, X509CertificateParser, X509Name,
};

/// What is kept of a client's certificate until its CONNECT has been answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// The last Common Name of the subject, which is the most specific one; the first alternative
    /// name that is a host, a mailbox or a URI; the whole subject, the most specific part first.
    pub names: Identity,
    /// The serial number, hexadecimal.
    pub serial: Box<str>,
    /// Names the certificate by issuer and serial number, as [`fingerprint`] does. Never 0.
    pub fingerprint: u64,
    /// Last second of its validity, counted from 1970; 0 when that is later than 2106.
    pub not_after: u32,
    /// The user name that the listener takes from it, if it takes any.
    pub username: Option<Box<str>>,
}

impl PeerCertificate {
    /// Reads a certificate in DER; `None` when it cannot be parsed.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<PeerCertificate> {
        // webpki has checked the extensions; only one of them is read here.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (_, certificate) = parser.parse(certificate).ok()?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().last().and_then(|name| name.as_str().ok());
        let names = certificate.extensions().iter();
        let mut names = names.filter(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME);
        let names =
            names.next_back().map(|extension| SubjectAlternativeName::from_der(extension.value));
        let names = names.and_then(Result::ok).map(|(_, names)| names.general_names);
        let alternative_name = names.unwrap_or_default().into_iter().find_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                Some(text)
            }
            _ => None,
        });
        let not_after = certificate.validity().not_after.timestamp();
        let serial = certificate.raw_serial();
        Some(PeerCertificate {
            names: Identity {
                common_name: common_name.map_or_else(Box::default, user_name),
                alternative_name: alternative_name.map_or_else(Box::default, user_name),
                subject: distinguished_name(subject).into(),
            },
            serial: hex(serial).into(),
            fingerprint: fingerprint(certificate.issuer().as_raw(), serial),
            // A certificate that expired before 1970 is not accepted in the first place.
            not_after: u32::try_from(not_after.max(1)).unwrap_or(0),
            username: None,
        })
    }

    /// Bytes of memory.
    pub fn heap(&self) -> usize {
        let Identity { common_name, alternative_name, subject } = &self.names;
        let names = common_name.len() + alternative_name.len() + subject.len();
        let username = self.username.as_ref().map_or(0, |name| name.len());
        size_of::<PeerCertificate>() + names + username + self.serial.len()
    }

    /// The part that is kept after CONNECT.
    pub fn mark(&self) -> CertificateMark {
        CertificateMark { fingerprint: self.fingerprint, not_after: self.not_after }
    }

    /// Whether its validity was over at `now`, seconds since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.not_after != 0 && u64::from(self.not_after) < now
    }
}

/// A name that can be a user name; empty when it has what MQTT forbids [MQTT-1.5.4-2].
fn user_name(text: &str) -> Box<str> {
    if text.contains('\0') { Box::default() } else { text.into() }
}

/// Eight bytes that stand for an issuer and a serial number. Never 0. They are used only to end
/// connections. Two certificates with the same eight bytes could only be made on purpose, by an
/// authority that is trusted here.
pub fn fingerprint(issuer: &[u8], serial: &[u8]) -> u64 {
    let start = serial.iter().position(|&byte| byte != 0).unwrap_or(serial.len());
    let serial = serial.get(start..).unwrap_or_default();
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&(issuer.len() as u64).to_be_bytes());
    hash.update(issuer);
    hash.update(serial);
    let hash = hash.finish();
    hash.as_ref().first_chunk().map_or(1, |bytes| u64::from_be_bytes(*bytes).max(1))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The short names of RFC 4514 section 3, and those that certificates of devices have besides.
const SHORT: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// A name as RFC 4514 section 2 writes it.
pub fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for part in parts.iter().rev() {
        for (at, attribute) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if at == 0 { ',' } else { '+' });
            }
            let identifier = attribute.attr_type().to_id_string();
            let short = SHORT.iter().find(|(long, _)| *long == identifier);
            text.push_str(short.map_or(&identifier, |(_, short)| short));
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => _ = write!(text, "#{}", hex(attribute.as_slice())),
            }
        }
    }
    text
}

/// Escapes a value as RFC 4514 section 2.4 says.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        match letter {
            '\0' => text.push_str("\\00"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                text.push('\\');
                text.push(letter);
            }
            _ => text.push(letter),
        }
    }
}
