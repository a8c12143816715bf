//! Whether a broker answers: sends CONNECT, PINGREQ and DISCONNECT, over whatever its listener
//! speaks. Meant for health checks of containers, which have no other client at hand. It blocks,
//! with a limit on every wait.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client_tls::without_checks;
use crate::config::{
    Bind, ClientCertificate, Config, Get, ListenerConfig, ListenerType, ProxyProtocol,
};

/// The longest time of each step.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most bytes of the head of an HTTP answer.
const HEAD: usize = 8 << 10;
/// A PROXY header of version 2 that says that the proxy itself connects.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// A PROXY header of version 1 without addresses.
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A sign that the broker lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pong {
    /// The broker answered the PINGREQ.
    Answered,
    /// The broker refused this client with a CONNACK return code (3.1.1, section 3.2.2.3), which
    /// only a living broker does. Codes 4 and 5 ask for credentials, which a health check does not
    /// have.
    Refused(u8),
    /// The broker asked for a client certificate, which a health check does not have.
    WantsCertificate,
    /// The broker answered `/healthz` of its admin server.
    Healthy,
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

/// Where a broker is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum BrokerAddress {
    /// HOST:PORT.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What is said there.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Speech {
    Mqtt,
    /// MQTT over a WebSocket at this path.
    Web(String),
    /// HTTP, to the admin server.
    Health,
}

/// What is pinged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PingTarget {
    place: BrokerAddress,
    /// What comes before everything else, where proxies are expected.
    header: &'static [u8],
    secure: bool,
    /// Clients have to show a certificate.
    certificate: bool,
    speech: Speech,
}

impl fmt::Display for PingTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            BrokerAddress::Tcp(address) => f.write_str(address)?,
            BrokerAddress::Unix(path) => write!(f, "{}", path.display())?,
        }
        let how = match (&self.speech, self.secure) {
            (Speech::Mqtt, false) => "",
            (Speech::Mqtt, true) => "tls",
            (Speech::Web(_), false) => "ws",
            (Speech::Web(_), true) => "wss",
            (Speech::Health, _) => "admin server",
        };
        match (how.is_empty(), self.header.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => write!(f, " ({how})"),
            (true, false) => f.write_str(" (as a proxy)"),
            (false, false) => write!(f, " ({how}, as a proxy)"),
        }
    }
}

impl PingTarget {
    /// A listener for MQTT over plain TCP at `HOST:PORT`.
    pub fn plain(address: &str) -> PingTarget {
        PingTarget {
            place: BrokerAddress::Tcp(address.to_owned()),
            header: &[],
            secure: false,
            certificate: false,
            speech: Speech::Mqtt,
        }
    }

    fn of(listener: &ListenerConfig) -> PingTarget {
        let place = match &listener.bind {
            Bind::Tcp(address) => BrokerAddress::Tcp(reachable(*address).to_string()),
            Bind::Unix(path) => BrokerAddress::Unix(path.clone()),
        };
        let secure = matches!(listener.kind, ListenerType::Tls | ListenerType::Wss);
        let tls = &listener.tls;
        PingTarget {
            place,
            header: match listener.proxy_protocol {
                ProxyProtocol::Off => &[],
                ProxyProtocol::V1 => UNKNOWN,
                ProxyProtocol::V2 | ProxyProtocol::Any => LOCAL,
            },
            secure,
            certificate: secure
                && !tls.client_ca.is_empty()
                && tls.client_certificate == ClientCertificate::Required,
            speech: match listener.kind {
                ListenerType::Ws | ListenerType::Wss => Speech::Web(listener.path.to_string()),
                _ => Speech::Mqtt,
            },
        }
    }
}

/// The address at which a listener that is bound to `address` is reached from this host.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            SocketAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        });
    }
    address
}

/// What is pinged of a broker with this configuration: the listener that asks for the least, and
/// the first of these. A listener for proxies that does not trust this host cannot be pinged; then
/// it is the admin server. `None` when there is nothing.
pub fn target(config: &Config) -> Option<PingTarget> {
    let trusted = config.trusted_networks();
    let usable = |listener: &&ListenerConfig| match &listener.bind {
        Bind::Tcp(address) => {
            listener.proxy_protocol == ProxyProtocol::Off
                || trusted.contains(reachable(*address).ip())
        }
        Bind::Unix(_) => true,
    };
    let effort = |target: &PingTarget| {
        let web = matches!(target.speech, Speech::Web(_));
        let unix = matches!(target.place, BrokerAddress::Unix(_));
        (target.certificate, !target.header.is_empty(), web, target.secure, unix)
    };
    let listeners = config.listeners.iter().filter(usable).map(PingTarget::of);
    listeners.min_by_key(effort).or_else(|| {
        let admin =
            config.admin.bind.get().map(|at| (at, !config.admin.tls.certificate.is_empty()));
        let pages = config.admin.pages_bind.get().map(|at| (at, false));
        let (address, secure) = admin.or(pages)?;
        let plain = PingTarget::plain(&reachable(address).to_string());
        Some(PingTarget { secure, speech: Speech::Health, ..plain })
    })
}

/// Pings a broker.
///
/// # Errors
/// The broker cannot be reached, or does not speak MQTT in time.
pub fn ping(target: &PingTarget) -> Result<Pong, PingFailure> {
    let outcome = exchange(target);
    match outcome {
        // It has read what there was of the handshake, and wants more.
        Err(failure) if target.certificate && is_alert(&failure.error) => {
            Ok(Pong::WantsCertificate)
        }
        outcome => outcome,
    }
}

fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

fn exchange(target: &PingTarget) -> Result<Pong, PingFailure> {
    let at = |step| move |error| PingFailure { step, error };
    let mut stream = open(target).map_err(at("cannot connect"))?;
    if target.speech == Speech::Health {
        return health(&mut stream).map_err(at("/healthz"));
    }
    if target.certificate {
        // The answer is an alert. It would be lost if the broker closed the connection with a
        // CONNECT on the way.
        stream.read_exact(&mut [0]).map_err(at("no answer in the handshake"))?;
        return Err(at("handshake")(io::Error::other("the broker spoke first")));
    }
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

/// A stream of bytes in both directions.
trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// Connects, with everything that lies below MQTT.
fn open(target: &PingTarget) -> io::Result<Box<dyn Duplex>> {
    let (mut stream, name): (Box<dyn Duplex>, _) = match &target.place {
        BrokerAddress::Tcp(address) => {
            let stream = connect(address)?;
            let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
            (Box::new(stream), name)
        }
        BrokerAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            (Box::new(stream), ServerName::IpAddress(IpAddr::from([127, 0, 0, 1]).into()))
        }
    };
    stream.write_all(target.header)?;
    if target.secure {
        let tls = ClientConnection::new(without_checks().into(), name);
        stream = Box::new(StreamOwned::new(tls.map_err(io::Error::other)?, stream));
    }
    if let Speech::Web(path) = &target.speech {
        stream = Box::new(WebStream::begin(stream, path)?);
    }
    Ok(stream)
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

/// Reads the head of an HTTP answer. Returns its status.
fn status(stream: &mut impl Read) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Err(io::Error::other("the head of the answer does not end"));
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).ok_or(io::Error::other("the answer is no HTTP"))
}

fn health(stream: &mut impl Duplex) -> io::Result<Pong> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    match status(stream)? {
        // 401: the page is for users only. This is an answer too.
        200 | 401 => Ok(Pong::Healthy),
        status => Err(io::Error::other(format!("the answer is {status}"))),
    }
}

/// A WebSocket (RFC 6455) with one frame for each write.
struct WebStream {
    below: Box<dyn Duplex>,
    /// The bytes of the present frame that were not read yet.
    left: u8,
}

impl WebStream {
    fn begin(mut below: Box<dyn Duplex>, path: &str) -> io::Result<WebStream> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: cmluZ21xLXBpbmctMDAwMA==\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        below.write_all(request.as_bytes())?;
        match status(&mut below)? {
            101 => Ok(WebStream { below, left: 0 }),
            status => Err(io::Error::other(format!("no WebSocket: the answer is {status}"))),
        }
    }
}

impl Read for WebStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut head = [0; 2];
            self.below.read_exact(&mut head)?;
            match head {
                [0x82, length @ ..126] => self.left = length,
                // Whatever else comes, it is no answer to a ping.
                _ => return Err(io::Error::other("the frame is no small binary one")),
            }
        }
        let most = into.len().min(usize::from(self.left));
        let count = self.below.read(into.get_mut(..most).unwrap_or_default())?;
        self.left -= u8::try_from(count).unwrap_or(self.left);
        Ok(count)
    }
}

impl Write for WebStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(125);
        // A mask of zeros changes nothing. It protects from proxies that take one thing for
        // another, and there is no secret in a ping.
        let mut frame = vec![0x82, 0x80 | count as u8, 0, 0, 0, 0];
        frame.extend(bytes.iter().take(count));
        self.below.write_all(&frame)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.below.flush()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use std::net::TcpListener;

    fn pinged(file: &str) -> Option<String> {
        let config = Sources::default().load_from("f.yaml", file.as_bytes());
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        target(&config).map(|target| target.to_string())
    }

    #[test]
    fn the_listener_that_asks_for_the_least_is_pinged_as_it_speaks() {
        let tls = "tls: {certificate: c, private_key: k}";
        let asks = "tls: {certificate: c, private_key: k, client_ca: a}";
        let trusted = "trusted_proxies: [127.0.0.0/8]\n";
        for (file, expected) in [
            ("", "127.0.0.1:1883"),
            ("listeners: [{bind: '[::]:1'}]", "[::1]:1"),
            ("listeners: [{bind: 10.1.2.3:1}]", "10.1.2.3:1"),
            (
                &format!("listeners: [{{bind: 0.0.0.0:8883, type: tls, {tls}}}]"),
                "127.0.0.1:8883 (tls)",
            ),
            (&format!("listeners: [{{bind: 127.0.0.1:2, type: wss, {tls}}}]"), "127.0.0.1:2 (wss)"),
            ("listeners: [{bind: 127.0.0.1:2, type: ws}]", "127.0.0.1:2 (ws)"),
            ("listeners: [{bind: /s, type: unix}]", "/s"),
            (
                &format!(
                    "listeners: [{{name: a, bind: 127.0.0.1:2, type: tls, {asks}}}, \
                     {{name: b, bind: 127.0.0.1:3, type: tls, {tls}}}, \
                     {{name: c, bind: 127.0.0.1:4, type: ws}}]"
                ),
                "127.0.0.1:3 (tls)",
            ),
            (
                &format!("{trusted}listeners: [{{bind: 127.0.0.1:2, proxy_protocol: v1}}]"),
                "127.0.0.1:2 (as a proxy)",
            ),
            (
                "trusted_proxies: [10.0.0.1]\nadmin: {bind: 127.0.0.1:18083}\n\
                 listeners: [{bind: 127.0.0.1:2, proxy_protocol: any}]",
                "127.0.0.1:18083 (admin server)",
            ),
        ] {
            assert_eq!(pinged(file).as_deref(), Some(expected), "{file}");
        }
        let alone = "trusted_proxies: [10.0.0.1]\n\
                     listeners: [{bind: 127.0.0.1:2, proxy_protocol: any}]";
        assert_eq!(pinged(alone), None);
    }

    #[test]
    fn a_ping_tells_a_living_broker_from_what_is_none() {
        #[allow(clippy::type_complexity)]
        let answers: [(&[&[u8]], Result<Pong, &str>); 5] = [
            (&[&[0x20, 2, 0, 0], &[0xD0, 0]], Ok(Pong::Answered)),
            (&[&[0x20, 2, 0, 5]], Ok(Pong::Refused(5))),
            (&[&[0x20, 2, 0, 3]], Err("code 3")),
            (&[b"HTTP"], Err("no MQTT")),
            (&[], Err("no answer to CONNECT")),
        ];
        for (answers, expected) in answers {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in answers {
                    let mut request = [0; 256];
                    assert!(stream.read(&mut request).unwrap() >= 2);
                    stream.write_all(answer).unwrap();
                }
            });
            match (ping(&PingTarget::plain(&address)), expected) {
                (Ok(pong), Ok(expected)) => assert_eq!(pong, expected),
                (Err(failure), Err(words)) => {
                    assert!(failure.to_string().contains(words), "{failure}");
                }
                (result, expected) => panic!("{result:?} instead of {expected:?}"),
            }
            server.join().unwrap();
        }
    }
}
