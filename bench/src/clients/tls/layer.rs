//! TLS of one connection. rustls makes the handshake and stays until the broker's first bytes of
//! MQTT have come; session tickets come before those bytes, so rustls processes them. Then rustls's
//! secrets go to a record layer that takes some 130 bytes.

use super::record_layer::key_log::{self, HandshakeSecrets};
use super::record_layer::{HEADER, KeyCache, Opened, Tls, TlsSide};
use super::{TlsSettings, complain};
use crate::mqtt::Malformed;
use rustls::{ClientConnection, ProtocolVersion};
use std::io::{ErrorKind, Read, Write};

/// TLS of one connection.
#[derive(Default)]
pub enum Layer {
    /// The connection has no TLS.
    #[default]
    Absent,
    /// rustls handles the connection.
    Shaking(Box<Shaking>),
    /// The record layer handles the connection.
    Settled(Tls),
}

const _: () = assert!(size_of::<Layer>() <= 16);

/// The state of a connection that rustls handles.
pub struct Shaking {
    connection: ClientConnection,
    heard: HandshakeSecrets,
    /// The start of a record that has not come whole, or records that rustls has not read.
    input: Vec<u8>,
    /// Whether bytes of MQTT have come.
    spoke: bool,
}

impl Layer {
    /// TLS of client number `client`, before the first byte to target number `target`.
    pub fn new(tls: &TlsSettings, client: u32, target: usize) -> Result<Self, Malformed> {
        let connection = ClientConnection::new(tls.config(client), tls.name(target));
        let mut connection = connection.map_err(|error| complain(&error))?;
        // rustls keeps bytes that are sent during the handshake; a limit would drop some of them.
        connection.set_buffer_limit(None);
        let (heard, input) = (HandshakeSecrets::default(), Vec::new());
        Ok(Layer::Shaking(Box::new(Shaking { connection, heard, input, spoke: false })))
    }

    /// Whether the connection has TLS.
    pub fn is_present(&self) -> bool {
        !matches!(self, Layer::Absent)
    }

    /// Appends to `wire` the records for the client's bytes `plain`, and those of the handshake
    /// that are due.
    pub fn seal(
        &mut self,
        keys: &mut KeyCache,
        plain: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        match self {
            Layer::Absent => wire.extend_from_slice(plain),
            Layer::Settled(tls) => {
                let _ = tls.layer().seal(keys, plain, wire);
            }
            Layer::Shaking(shaking) => {
                // Without a limit rustls takes all bytes, and writing to a Vec does not fail.
                let _ = shaking.connection.writer().write_all(plain);
                while shaking.connection.wants_write() {
                    let _ = shaking.connection.write_tls(wire);
                }
                let rest = self.settle(keys)?;
                self.open_records(keys, &rest, &mut Vec::new(), wire)?;
            }
        }
        Ok(())
    }

    /// Decrypts `bytes` of the peer and appends the result to `plain`; appends records that answer
    /// them to `wire`.
    pub fn open(
        &mut self,
        keys: &mut KeyCache,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        if let Layer::Shaking(shaking) = self {
            shaking.open(bytes, plain)?;
            let rest = self.settle(keys)?;
            return self.open_records(keys, &rest, plain, wire);
        }
        self.open_records(keys, bytes, plain, wire)
    }

    fn open_records(
        &mut self,
        keys: &mut KeyCache,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let Layer::Settled(tls) = self else { return Ok(()) };
        match tls.layer().open(keys, bytes, plain, wire) {
            Opened::All | Opened::Closed => Ok(()),
            Opened::Failed(failure) => Err(complain(&failure.what)),
        }
    }

    /// Whether rustls has records to send.
    pub fn wants_to_say(&self) -> bool {
        matches!(self, Layer::Shaking(shaking) if shaking.connection.wants_write())
    }

    /// Moves the connection from rustls to the record layer, if rustls's part is over. Returns the
    /// bytes that rustls has not read.
    fn settle(&mut self, keys: &mut KeyCache) -> Result<Vec<u8>, Malformed> {
        let Layer::Shaking(shaking) = self else { return Ok(Vec::new()) };
        if !shaking.is_over() {
            return Ok(Vec::new());
        }
        let Layer::Shaking(shaking) = std::mem::take(self) else { return Ok(Vec::new()) };
        let Shaking { connection, heard, input, .. } = *shaking;
        let version = connection.protocol_version().unwrap_or(ProtocolVersion::TLSv1_3);
        let secrets = connection.dangerous_extract_secrets().map_err(|error| complain(&error))?;
        let tls =
            Tls::take_over(version, secrets, heard, TlsSide::Client, Default::default(), keys);
        *self = Layer::Settled(tls.map_err(|what| complain(&what))?);
        Ok(input)
    }
}

impl Shaking {
    /// Whether rustls has nothing left to do. Tickets of TLS 1.3 come after the handshake, so
    /// rustls stays until the first data has come; those of TLS 1.2 come within the handshake.
    fn is_over(&self) -> bool {
        let is_old = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        !self.connection.is_handshaking()
            && !self.connection.wants_write()
            && (is_old || self.spoke)
    }

    /// Gives rustls one record at a time: bytes that rustls has read beyond its part cannot be
    /// taken out of it.
    fn open(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), Malformed> {
        self.input.extend_from_slice(bytes);
        let (start, mut at) = (plain.len(), 0);
        while !self.is_over()
            && let Some(record) = self.input.get(at..).and_then(first_record)
        {
            at += record.len();
            let mut record = record;
            while !record.is_empty() {
                self.connection.read_tls(&mut record).map_err(|_| Malformed)?;
            }
            let (done, heard) = key_log::listen(|| self.connection.process_new_packets());
            self.heard.client = heard.client.or(self.heard.client.take());
            self.heard.server = heard.server.or(self.heard.server.take());
            done.map_err(|error| complain(&error))?;
            match self.connection.reader().read_to_end(plain) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(Malformed),
            }
            self.spoke |= plain.len() > start;
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// The record at the start of `bytes`; `None` when it is not whole.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let &[_, _, _, high, low, ..] = bytes else { return None };
    bytes.get(..HEADER + usize::from(u16::from_be_bytes([high, low])))
}
