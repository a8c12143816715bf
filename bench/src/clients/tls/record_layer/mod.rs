//! The broker's own record layer, compiled from the broker's sources, in the role of the client.
//! After the handshake a client here therefore costs as much as a connection in the broker. No
//! other code of the broker is in this program. Two ends with the same code cannot prove that they
//! agree with other programs; the broker's tests and runs against other brokers show that.
#![allow(dead_code)] // Some of it is used by the broker only.

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

pub use established::{Tls, TlsSide};
pub use keys::KeyCache;
pub use records::{HEADER, Opened};

/// Replaces the broker's deliberate mistakes of mutation tests: none of them is ever on.
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
