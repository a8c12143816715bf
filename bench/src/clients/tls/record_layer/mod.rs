//! The broker's own record layer, compiled in from its sources, for the other end of a connection:
//! what a client costs here after its handshake is what it costs there. Nothing else of the broker
//! is in this program. That both ends agree with other programs is for the broker's tests to show,
//! and for runs against other brokers.
#![allow(dead_code)] // The server's half has more uses for some of it.

#[path = "../../../../../src/transport/tls/alert.rs"]
mod alert;
#[path = "../../../../../src/transport/tls/established.rs"]
mod established;
#[path = "../../../../../src/transport/tls/key_log.rs"]
pub mod key_log;
#[path = "../../../../../src/transport/tls/keys.rs"]
mod keys;
#[path = "../../../../../src/transport/tls/messages.rs"]
mod messages;
#[path = "../../../../../src/transport/tls/records.rs"]
mod records;
#[path = "../../../../../src/transport/tls/suite.rs"]
mod suite;

pub use established::{Role, Tls};
pub use keys::KeyCache;
pub use records::{HEADER, Opened};

/// No deliberate mistakes here.
mod mutant {
    #[derive(Clone, Copy)]
    #[allow(clippy::enum_variant_names, reason = "the names are the broker's")]
    pub enum Mutant {
        TlsSequenceKept,
        TlsUpdateIgnored,
        TlsPartForgotten,
        TlsCloseUnsaid,
    }

    impl Mutant {
        pub const fn is_on(self) -> bool {
            false
        }
    }
}
