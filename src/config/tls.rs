//! The keys of a listener's TLS: the sections below `listeners.N.tls`. Like `sections`, of which it
//! is a part, this file has declarations and no behaviour.

use super::super::host::TlsVersion;
use super::super::notation::{DAY, HOUR, SECOND};
use super::super::quantity::{Count, Time, Unit};
use super::super::value::{self, List, Or, Section, Several, Text};
use super::{Auto, Off};
use crate::config::CertificateName;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

/// The path of a file.
pub type FilePath = Text<0, 4096>;

markers! { Unit: Handshakes "handshakes" }

choice! {
    /// Whether clients of a TLS listener show a certificate.
    ClientCertificate {
        /// They must, and it must be signed by one of client_ca.
        Required,
        /// They may; one that is shown must be signed by one of client_ca.
        Optional,
        /// They are not asked.
        Off,
    }
}

choice! {
    /// Which part of a client's certificate is its user name.
    UsernameFrom {
        /// None: CONNECT says it.
        Off,
        /// The Common Name of the subject.
        Cn,
        /// The first alternative name: of a host, a mailbox or a URI.
        San,
        /// The subject as RFC 4514 writes it, such as CN=meter-7,O=Example.
        Dn,
    }
}

impl UsernameFrom {
    /// The part of a certificate that is meant, if any.
    pub fn part(self) -> Option<CertificateName> {
        match self {
            UsernameFrom::Off => None,
            UsernameFrom::Cn => Some(CertificateName::Cn),
            UsernameFrom::San => Some(CertificateName::San),
            UsernameFrom::Dn => Some(CertificateName::Dn),
        }
    }
}

choice! {
    /// What happens to live clients whose certificate was revoked or has expired.
    OnRevoked {
        /// They stay until they leave.
        Keep,
        /// They are ended.
        Disconnect,
    }
}

section! {
    /// TLS of one listener, versions 1.2 and 1.3, with the suites AES-128-GCM, ChaCha20-Poly1305
    /// and AES-256-GCM, of which the first that the client has is used. There are no CBC suites, no
    /// RSA key exchange, no pre-shared keys, no compression, no early data, and no version below
    /// 1.2. AES-128 comes first. Files are read at the start and again on SIGHUP, relative to the
    /// working directory; a set that cannot be used leaves the old one in force.
    TlsConfig {
        /// Certificate chain, PEM: the server's own certificate first, then the one that signed it.
        certificate: FilePath = Text::of(""),
        /// Private key of the certificate, PEM, not encrypted.
        private_key: FilePath = Text::of(""),
        /// Certificates of the authorities that sign those of clients, PEM. Empty: clients are not
        /// asked for a certificate.
        client_ca: FilePath = Text::of(""),
        /// Whether clients show a certificate; only with client_ca.
        client_certificate: ClientCertificate = ClientCertificate::Required,
        /// Which part of the client's certificate is its user name, in place of what CONNECT says.
        username_from: UsernameFrom = UsernameFrom::Off,
        /// Versions of the protocol.
        versions: Several<TlsVersion, 2> =
            Several(vec![TlsVersion::Tls12, TlsVersion::Tls13]),
        /// Further certificates, for clients that ask for these host names.
        sni: List<Sni, 1000> = List(Vec::new()),
        /// CRLs, PEM. With any, a client's certificate needs one of its issuer that does not have
        /// it. A CRL that is out of date is used on, with a warning.
        crl: Several<FilePath, 1000> = Several(Vec::new()),
        /// ALPN protocols; a client that offers only others is refused. [] takes any. A listener
        /// of the type wss has [http/1.1] unless this is written.
        alpn: Several<Text<1, 255>, 16> = Several(vec![Text::of("mqtt")]),
        /// A handshake that takes longer is ended.
        handshake_timeout: Time<SECOND, { 600 * SECOND }> = Time::of(10 * SECOND),
        /// Handshakes under way per core; others wait. Each holds about 11 KB. auto: 1000.
        max_handshakes: Or<Auto, Count<u32, Handshakes, 1, 1_000_000>> = Or::NONE,
        /// Tickets, with which a client that comes back saves itself and the broker most of a
        /// handshake.
        tickets: Tickets = Tickets::default(),
        /// Look this often whether the files have changed, and read them then; off: on SIGHUP only.
        watch: Or<Off, Time<SECOND, DAY>> = Or::NONE,
        /// What happens to live clients whose certificate a new CRL revokes, or expires.
        on_revoked: OnRevoked = OnRevoked::Keep,
    }
}

section! {
    /// A certificate for certain host names.
    Sni {
        /// Host names; one that begins with *. is for all hosts of a domain.
        names: Several<Text<1, 253>, 100> = Several(Vec::new()),
        /// Certificate chain, PEM.
        certificate: FilePath = Text::of(""),
        /// Its private key, PEM.
        private_key: FilePath = Text::of(""),
    }
}

section! {
    /// Tickets of a TLS listener.
    Tickets {
        /// Send each client one. A ticket is good on this listener only, and only until its
        /// authorities or CRLs change.
        enabled: bool = true,
        /// The key they are sealed with is changed this often; a ticket lasts once to twice as
        /// long.
        rotate: Time<{ 60 * SECOND }, { 3 * DAY }> = Time::of(6 * HOUR),
    }
}
