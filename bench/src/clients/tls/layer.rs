//! One connection's TLS. rustls makes the handshake and stays until the broker's first bytes of
//! MQTT have come, so that session tickets, which come before them, are its business; then its
//! secrets go to a record layer that keeps some 130 bytes.

use super::record_layer::key_log::{self, Heard};
use super::record_layer::{HEADER, KeyCache, Opened, Role, Tls};
use super::{Settings, complain};
use crate::mqtt::Malformed;
use rustls::{ClientConnection, ProtocolVersion};
use std::io::{ErrorKind, Read, Write};

/// TLS of one connection, if it has any.
#[derive(Default)]
pub enum Layer {
    /// None.
    #[default]
    Absent,
    /// rustls has it.
    Shaking(Box<Shaking>),
    /// The record layer has it.
    Settled(Tls),
}

const _: () = assert!(size_of::<Layer>() <= 16);

/// A handshake, and what rustls does after it.
pub struct Shaking {
    connection: ClientConnection,
    heard: Heard,
    /// A record that is not whole.
    input: Vec<u8>,
    /// MQTT has come.
    spoke: bool,
}

impl Layer {
    /// Of client number `client`, before the first byte to target number `target`.
    pub fn new(tls: &Settings, client: u32, target: usize) -> Result<Self, Malformed> {
        let connection = ClientConnection::new(tls.config(client), tls.name(target));
        let mut connection = connection.map_err(|error| complain(&error))?;
        // What is said before the handshake has ended waits inside.
        connection.set_buffer_limit(None);
        let (heard, input) = (Heard::default(), Vec::new());
        Ok(Layer::Shaking(Box::new(Shaking { connection, heard, input, spoke: false })))
    }

    /// True when there is one.
    pub fn is_present(&self) -> bool {
        !matches!(self, Layer::Absent)
    }

    /// Appends to `wire` what goes over the wire when the client says `plain`, the handshake
    /// included.
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
                // Without a limit everything is taken, and a Vec takes everything.
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

    /// Appends what the peer says in `bytes` to `plain`, and to `wire` what it is owed for that.
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

    /// The handshake has something to say.
    pub fn wants_to_say(&self) -> bool {
        matches!(self, Layer::Shaking(shaking) if shaking.connection.wants_write())
    }

    /// Takes over from rustls, if its part is over; returns what it has not looked at.
    fn settle(&mut self, keys: &mut KeyCache) -> Result<Vec<u8>, Malformed> {
        let Layer::Shaking(shaking) = self else { return Ok(Vec::new()) };
        if !shaking.is_over() {
            return Ok(Vec::new());
        }
        let Layer::Shaking(shaking) = std::mem::take(self) else { return Ok(Vec::new()) };
        let Shaking { connection, heard, input, .. } = *shaking;
        let version = connection.protocol_version().unwrap_or(ProtocolVersion::TLSv1_3);
        let secrets = connection.dangerous_extract_secrets().map_err(|error| complain(&error))?;
        let tls = Tls::take_over(version, secrets, heard, Role::Client, Default::default(), keys);
        *self = Layer::Settled(tls.map_err(|what| complain(&what))?);
        Ok(input)
    }
}

impl Shaking {
    /// TLS 1.3 has tickets after the handshake; TLS 1.2 within.
    fn is_over(&self) -> bool {
        let is_old = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        !self.connection.is_handshaking()
            && !self.connection.wants_write()
            && (is_old || self.spoke)
    }

    /// Gives rustls one record after the other: what it had read further would be lost with it.
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

/// The record at the start of `bytes`, if it is whole.
fn first_record(bytes: &[u8]) -> Option<&[u8]> {
    let &[_, _, _, high, low, ..] = bytes else { return None };
    bytes.get(..HEADER + usize::from(u16::from_be_bytes([high, low])))
}
