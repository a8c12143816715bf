//! Whether a broker answers: sends CONNECT, PINGREQ and DISCONNECT over plain TCP. Meant for health
//! checks of containers, which have no other client at hand. It blocks, with a limit on every wait.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::config::{Bind, Config};

/// The longest time of each step.
const PATIENCE: Duration = Duration::from_secs(3);

/// A sign that the broker lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pong {
    /// The broker answered the PINGREQ.
    Answered,
    /// The broker refused this client with a CONNACK return code (3.1.1, section 3.2.2.3), which
    /// only a living broker does. Codes 4 and 5 ask for credentials, which a health check does not
    /// have.
    Refused(u8),
}

/// The reason why a broker counts as not answering.
#[derive(Debug)]
pub struct PingFailure {
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for PingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

impl std::error::Error for PingFailure {}

/// The address at which a broker with this configuration is pinged: that of its first TCP listener,
/// or loopback if the listener is bound to all addresses. `None` when there is no TCP listener.
pub fn target(config: &Config) -> Option<String> {
    let mut addresses = config.listeners.iter().filter_map(|listener| match &listener.bind {
        Bind::Tcp(address) => Some(*address),
        Bind::Unix(_) => None,
    });
    let mut address: SocketAddr = addresses.next()?;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        address.set_ip(loopback.parse().ok()?);
    }
    Some(address.to_string())
}

/// Pings the broker at `HOST:PORT`.
///
/// # Errors
/// The broker cannot be reached, or does not speak MQTT in time.
pub fn ping(target: &str) -> Result<Pong, PingFailure> {
    let at = |step| move |error| PingFailure { step, error };
    let mut stream = connect(target).map_err(at("cannot connect"))?;
    stream.write_all(&connect_packet()).map_err(at("cannot send CONNECT"))?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).map_err(at("no answer to CONNECT"))?;
    let [kind, length, _, code] = answer;
    match (kind, length, code) {
        (0x20, 2, 0) => {}
        (0x20, 2, 4 | 5) => return Ok(Pong::Refused(code)),
        (0x20, 2, code) => {
            let what = format!("the broker refused it with code {code}");
            return Err(at("CONNECT")(io::Error::other(what)));
        }
        _ => return Err(at("CONNECT")(io::Error::other("the answer is no MQTT"))),
    }
    stream.write_all(&[0xC0, 0]).map_err(at("cannot send PINGREQ"))?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).map_err(at("no answer to PINGREQ"))?;
    if answer != [0xD0, 0] {
        return Err(at("PINGREQ")(io::Error::other("the answer is no PINGRESP")));
    }
    // The broker has answered. Whether it reads the DISCONNECT does not matter.
    let _ = stream.write_all(&[0xE0, 0]);
    Ok(Pong::Answered)
}

fn connect(target: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in target.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A CONNECT of MQTT 3.1.1 with a clean session. No other ping on this host uses the ClientId at
/// the same time: a second connection with the same ClientId would take over the first.
fn connect_packet() -> Vec<u8> {
    let client_id = format!("ringmq-ping-{}", std::process::id());
    let mut packet = vec![0x10, (12 + client_id.len()) as u8];
    packet.extend(b"\0\x04MQTT\x04\x02\0\x0A");
    packet.extend((client_id.len() as u16).to_be_bytes());
    packet.extend(client_id.as_bytes());
    packet
}
