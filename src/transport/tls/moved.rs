//! The record layer of a connection that moves to another process: its secrets, its sequence
//! numbers and its counters. This process seals no record afterwards: a second record with the same
//! number under the same secret would give the key away.

use super::established::Tls;
use super::records::{CertificateMark, Partial, RecordDirection, RecordTally, Records};
use super::suite::Suite;
use crate::mutant::Mutant;
use crate::upgrade::code::{BodyReader, ByteString, Code, SecretBytes, record};

record! {
    /// See [`Records`].
    pub struct MovedTls {
        /// Its place in [`SUITES`].
        pub suite: u8,
        /// Secret and sequence number of what the client sends.
        pub receive: (SecretBytes, u64),
        /// Secret and sequence number of what the broker sends.
        pub send: (SecretBytes, u64),
        /// The part of an unfinished record that has arrived.
        pub partial: Option<ByteString>,
        /// See [`Records`].
        pub certificate: u64,
        /// See [`Records`].
        pub not_after: u32,
        /// See [`RecordTally`], as all that follow.
        pub empty: u8,
        pub updates: u8,
        pub warnings: u8,
        pub begun: u8,
        pub answers: u8,
        pub owes_update: bool,
        pub renegotiated: bool,
        pub said_close: bool,
    }
}

const SUITES: [Suite; 6] = [
    Suite::Tls13Aes128,
    Suite::Tls13Aes256,
    Suite::Tls13ChaCha20,
    Suite::Tls12Aes128,
    Suite::Tls12Aes256,
    Suite::Tls12ChaCha20,
];

impl Tls {
    /// Writes what [`Tls::get`] reads.
    pub fn put_records<const N: usize>(records: &Records<N>, out: &mut Vec<u8>) {
        moved(records).put(out);
    }
}

fn moved<const N: usize>(records: &Records<N>) -> MovedTls {
    let Records { receive, send, suite, tally, .. } = records;
    let direction = |of: &RecordDirection<N>| {
        let sequence = if Mutant::UpgradeSequenceLost.is_on() { 0 } else { of.sequence };
        (SecretBytes(of.secret(*suite).to_vec()), sequence)
    };
    MovedTls {
        suite: SUITES.iter().position(|known| known == suite).unwrap_or_default() as u8,
        receive: direction(receive),
        send: direction(send),
        partial: records.partial.as_ref().map(|partial| ByteString(partial.0.clone())),
        certificate: records.certificate,
        not_after: records.not_after,
        empty: tally.empty,
        updates: tally.updates,
        warnings: tally.warnings,
        begun: tally.begun,
        answers: tally.answers,
        owes_update: tally.owes_update,
        renegotiated: tally.renegotiated,
        said_close: tally.said_close,
    }
}

fn restore<const N: usize>(records: &mut Records<N>, moved: MovedTls) {
    records.partial = moved.partial.map(|partial| Box::new(Partial(partial.0)));
    records.tally = RecordTally {
        empty: moved.empty,
        updates: moved.updates,
        warnings: moved.warnings,
        begun: moved.begun,
        answers: moved.answers,
        owes_update: moved.owes_update,
        renegotiated: moved.renegotiated,
        said_close: moved.said_close,
        ..RecordTally::default()
    };
}

impl Tls {
    /// Writes what [`Tls::get`] reads.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Tls::Short(records) => Tls::put_records(records, out),
            Tls::Long(records) => Tls::put_records(records, out),
        }
    }

    /// Restores what [`Tls::put`] has written; `None` when the bytes were not written by it.
    pub fn get(from: &mut BodyReader<'_>) -> Option<Tls> {
        let moved = MovedTls::get(from)?;
        let suite = *SUITES.get(usize::from(moved.suite))?;
        let fits = |secret: &SecretBytes| secret.0.len() == suite.secret();
        (fits(&moved.receive.0) && fits(&moved.send.0)).then_some(())?;
        let (receive, send) = (&moved.receive, &moved.send);
        let (receive, send) = ((&*receive.0.0, receive.1), (&*send.0.0, send.1));
        let certificate =
            CertificateMark { fingerprint: moved.certificate, not_after: moved.not_after };
        let mut tls = Tls::new(suite, receive, send, certificate)?;
        match &mut tls {
            Tls::Short(records) => restore(records, moved),
            Tls::Long(records) => restore(records, moved),
        }
        Some(tls)
    }
}
