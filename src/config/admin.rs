//! The keys of the admin server: the section `admin`. Like `sections`, of which it is a part, this
//! file has declarations and no behaviour.

use super::super::host::Address;
use super::super::notation::{DAY, HOUR, SECOND};
use super::super::quantity::Time;
use super::super::value::{self, Or, Section, Several, Text};
use super::{FilePath, Off};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

choice! {
    /// A page of the admin server.
    OpenPage {
        /// /metrics
        Metrics,
        /// /healthz
        Healthz,
        /// /readyz
        Readyz,
    }
}

impl OpenPage {
    /// All pages.
    pub const ALL: [OpenPage; 3] = [OpenPage::Metrics, OpenPage::Healthz, OpenPage::Readyz];

    /// The page with this path.
    pub fn of_path(path: &str) -> Option<OpenPage> {
        match path {
            "/metrics" => Some(OpenPage::Metrics),
            "/healthz" => Some(OpenPage::Healthz),
            "/readyz" => Some(OpenPage::Readyz),
            _ => None,
        }
    }
}

section! {
    /// The admin HTTP server: the dashboard, the management API below /api/v1, and the pages
    /// /metrics, /healthz and /readyz.
    AdminConfig {
        /// Address and port, usually 127.0.0.1:18083 (port 0 lets the kernel choose). Off loopback
        /// it needs users and tls. Without users, programs on this host may do everything. off:
        /// none.
        bind: Or<Off, Address> = Or::NONE,
        /// A second address, where there are only the pages /metrics, /healthz and /readyz, for
        /// everybody who reaches it. off: none.
        pages_bind: Or<Off, Address> = Or::NONE,
        /// File of users, which `ringmq admin user add` makes. Empty: only this host itself may
        /// use the API.
        users: FilePath = Text::of(""),
        /// How long a token that a login gave holds.
        session: Time<{ 60 * SECOND }, { 30 * DAY }> = Time::of(8 * HOUR),
        /// Pages at `bind` that need no credential when there are users.
        open: Several<OpenPage, 3> = Several(OpenPage::ALL.to_vec()),
        /// TLS of the server.
        tls: AdminTls = AdminTls::default(),
    }
}

section! {
    /// TLS of the admin server, versions 1.2 and 1.3. The files are read at the start and on
    /// SIGHUP.
    AdminTls {
        /// Certificate chain, PEM: the server's own certificate first. Empty: no TLS.
        certificate: FilePath = Text::of(""),
        /// Private key of the certificate, PEM, not encrypted.
        private_key: FilePath = Text::of(""),
    }
}
