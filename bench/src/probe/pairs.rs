//! The thread of the probes: its sockets, its schedule and the kernel's arrival times. Its sockets
//! are polled directly and do not use the engine in `clients`, which belongs to the other thread.
#![allow(unsafe_code)]

use super::{Event, LAST_ANSWERS, ProbePlan};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::mqtt::{self, Version, first};
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Bytes of a probe: due time, sending time, phase and `MARK`.
const PROBE: usize = 32;
/// Distinguishes a probe from other messages.
const MARK: u64 = 0x7072_6f62_6500_0001;
/// The longest time for each step of a handshake, which happens while the broker is idle.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest time between two looks at the flags of [`Thread`], in nanoseconds.
const LOOK: u64 = 20 * MILLISECOND;

struct Subscriber {
    socket: TcpStream,
    partial: Vec<u8>,
    open: bool,
}

struct ProbePublisher {
    socket: TcpStream,
    topic: Vec<u8>,
    /// The packet identifier of the last message, with QoS 1.
    id: u16,
    open: bool,
}

/// Connected pairs of a subscriber and a publisher.
pub struct Pairs {
    version: Version,
    qos: u8,
    every: u64,
    subscribers: Vec<Subscriber>,
    publishers: Vec<ProbePublisher>,
}

impl Pairs {
    /// Connects all pairs and subscribes, one pair after the other.
    pub fn connect(
        target: SocketAddrV4,
        version: Version,
        salt: &str,
        plan: ProbePlan,
    ) -> Result<Self, String> {
        let name = |what: &str, n: u32| format!("{salt}-probe-{what}{n}");
        let mut pairs = Self {
            version,
            qos: plan.qos,
            every: SECOND / u64::from(plan.pairs * plan.rate).max(1),
            subscribers: Vec::new(),
            publishers: Vec::new(),
        };
        for n in 0..plan.pairs {
            let topic = format!("{salt}/probe/{n}");
            let fail = |e: io::Error| format!("probe {n} could not come in: {e}");
            let mut socket = handshake(target, version, &name("s", n)).map_err(fail)?;
            subscribe(&mut socket, version, &topic, plan.qos).map_err(fail)?;
            stamp_arrivals(&socket).map_err(fail)?;
            socket.set_nonblocking(true).map_err(fail)?;
            pairs.subscribers.push(Subscriber { socket, partial: Vec::new(), open: true });
            let socket = handshake(target, version, &name("p", n)).map_err(fail)?;
            socket.set_nonblocking(true).map_err(fail)?;
            pairs.publishers.push(ProbePublisher {
                socket,
                topic: topic.into_bytes(),
                id: 0,
                open: true,
            });
        }
        Ok(pairs)
    }
}

fn handshake(target: SocketAddrV4, version: Version, id: &str) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&target.into(), HANDSHAKE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(HANDSHAKE))?;
    let mut out = Vec::new();
    let connect = mqtt::Connect {
        version,
        client_id: id,
        keep_alive: 0,
        session: mqtt::Session::Clean,
        username: None,
        password: None,
        auth: None,
    };
    mqtt::put_connect(&mut out, &connect);
    socket.write_all(&out)?;
    answer(&mut socket, |packet| {
        packet.first == first::CONNACK
            && mqtt::connack_of(version, packet).is_ok_and(|c| c.code == 0)
    })?;
    Ok(socket)
}

fn subscribe(socket: &mut TcpStream, version: Version, topic: &str, qos: u8) -> io::Result<()> {
    let mut out = Vec::new();
    mqtt::put_subscribe(&mut out, version, 1, &[(topic.to_string(), qos)]);
    socket.write_all(&out)?;
    answer(socket, |packet| {
        packet.first == first::SUBACK && mqtt::ack_of(version, packet) == Ok((1, false))
    })
}

/// Reads one packet and fails unless `wanted` accepts it.
fn answer(socket: &mut TcpStream, wanted: impl Fn(&mqtt::Packet<'_>) -> bool) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        // Single bytes are read so that no byte after the packet is taken; this happens a few times
        // per run.
        socket.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        match mqtt::split(&bytes) {
            Ok(None) => {}
            Ok(Some(packet)) if wanted(&packet) => return Ok(()),
            _ => return Err(io::Error::other("the broker refused it")),
        }
    }
}

/// Asks the kernel to report when received bytes arrived.
fn stamp_arrivals(socket: &TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: passes the address and the size of a live int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this thread precedence over the crowd's thread: a real-time priority if permitted, else a
/// better nice value. Returns which, for the report.
pub fn rise() -> &'static str {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: plain system calls about the calling thread.
    unsafe {
        if libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) == 0 {
            return "real-time priority";
        }
        let own = libc::syscall(libc::SYS_gettid) as libc::id_t;
        if libc::setpriority(libc::PRIO_PROCESS, own, -15) == 0 {
            return "nice -15";
        }
    }
    "no precedence (neither SCHED_FIFO nor a negative nice value is allowed)"
}

/// What the thread of the probes works with.
pub struct Thread {
    /// The pairs that it drives.
    pub pairs: Pairs,
    /// The way back to the generator's thread.
    pub events: Sender<Event>,
    /// The index of the current phase, set by the generator's thread.
    pub phase: Arc<AtomicUsize>,
    /// Set by the generator's thread when the probes shall end.
    pub stop: Arc<AtomicBool>,
}

impl Thread {
    /// Drives the pairs until `stop` is set, then waits for messages under way.
    pub fn run(mut self) {
        let count = self.pairs.publishers.len();
        let begin = clock::now();
        let (mut said, mut under_way) = (0u64, 0i64);
        let mut end = u64::MAX;
        let mut polled: Vec<libc::pollfd> = Vec::new();
        loop {
            let now = clock::now();
            if end == u64::MAX && self.stop.load(Ordering::Relaxed) {
                end = now + LAST_ANSWERS;
            }
            if now >= end || end < u64::MAX && under_way <= 0 {
                return;
            }
            let due = begin + said * self.pairs.every;
            if end == u64::MAX && due <= now {
                if self.speak((said % count as u64) as usize, due) {
                    under_way += 1;
                }
                said += 1;
                continue;
            }
            let until = if end == u64::MAX { due.min(now + LOOK) } else { now + LOOK };
            self.wait(&mut polled, until - now);
            for (n, entry) in polled.iter().enumerate() {
                if entry.revents == 0 {
                    continue;
                }
                match n.checked_sub(count) {
                    None => under_way -= self.hear(n),
                    Some(n) => self.look_at_publisher(n),
                }
            }
        }
    }

    fn wait(&self, polled: &mut Vec<libc::pollfd>, nanos: u64) {
        let entry = |socket: &TcpStream, open: bool| libc::pollfd {
            fd: if open { socket.as_raw_fd() } else { -1 },
            events: libc::POLLIN,
            revents: 0,
        };
        polled.clear();
        polled.extend(self.pairs.subscribers.iter().map(|s| entry(&s.socket, s.open)));
        polled.extend(self.pairs.publishers.iter().map(|p| entry(&p.socket, p.open)));
        let time = libc::timespec {
            tv_sec: (nanos / SECOND) as libc::time_t,
            tv_nsec: (nanos % SECOND) as libc::c_long,
        };
        let length = polled.len() as libc::nfds_t;
        // SAFETY: the entries and the time live during the call; there is no signal mask. An error
        // leaves every `revents` at 0, and the next turn polls again.
        unsafe { libc::ppoll(polled.as_mut_ptr(), length, &time, std::ptr::null()) };
    }

    /// Sends the probe that was due at `due`. Returns whether a delivery can be expected.
    fn speak(&mut self, pair: usize, due: u64) -> bool {
        let phase = self.phase.load(Ordering::Relaxed);
        let publisher = &mut self.pairs.publishers[pair];
        let mut payload = [0; PROBE];
        payload[..8].copy_from_slice(&due.to_le_bytes());
        payload[16..24].copy_from_slice(&(phase as u64).to_le_bytes());
        payload[24..].copy_from_slice(&MARK.to_le_bytes());
        payload[8..16].copy_from_slice(&clock::now().to_le_bytes());
        let mut out = Vec::with_capacity(128);
        let qos = self.pairs.qos;
        // Identifiers of QoS 1 return long after their acknowledgement; 0 is no identifier.
        publisher.id = publisher.id % 60_000 + 1;
        let (version, id) = (self.pairs.version, publisher.id);
        mqtt::put_publish(&mut out, version, qos, &publisher.topic, id, &payload);
        // A probe that cannot be written counts as sent, and therefore as lost.
        let _ = self.events.send(Event::Sent { phase });
        if !publisher.open {
            return false;
        }
        match publisher.socket.write(&out) {
            Ok(written) if written == out.len() => true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                publisher.open = false;
                let _ = self.events.send(Event::Ended);
                false
            }
        }
    }

    /// Reads what came for a publisher: nothing with QoS 0, PUBACK with QoS 1, or the end of its
    /// connection.
    fn look_at_publisher(&mut self, pair: usize) {
        let publisher = &mut self.pairs.publishers[pair];
        let mut bytes = [0; 256];
        match publisher.socket.read(&mut bytes) {
            Ok(length) if length > 0 => {
                if self.pairs.qos == 0 {
                    let _ = self.events.send(Event::Strange);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            _ => {
                publisher.open = false;
                let _ = self.events.send(Event::Ended);
            }
        }
    }

    /// Reads what came for one subscriber. Returns the number of probes among it.
    fn hear(&mut self, pair: usize) -> i64 {
        let mut bytes = [0; 4096];
        let subscriber = &mut self.pairs.subscribers[pair];
        let (length, arrived) = match receive(&subscriber.socket, &mut bytes) {
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return 0,
            Err(_) => (0, None),
        };
        let read = clock::now();
        if length == 0 {
            subscriber.open = false;
            let _ = self.events.send(Event::Ended);
            return 0;
        }
        subscriber.partial.extend_from_slice(&bytes[..length]);
        let (mut used, mut probes) = (0, 0);
        loop {
            let packet = match mqtt::split(&subscriber.partial[used..]) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(_) => {
                    subscriber.open = false;
                    let _ = self.events.send(Event::Ended);
                    return probes;
                }
            };
            let event = match probe(self.pairs.version, &packet) {
                Some((id, due, sent, phase)) => {
                    if id > 0 {
                        let mut out = Vec::with_capacity(4);
                        mqtt::put_ack(&mut out, first::PUBACK, id);
                        // An acknowledgement is lost only with the connection, whose end the next
                        // read tells.
                        let _ = subscriber.socket.write(&out);
                    }
                    probes += 1;
                    // Bytes that were read together carry the arrival time of the last ones.
                    // Without an arrival time the whole interval counts as the broker's.
                    let arrived = arrived.unwrap_or(read).clamp(sent, read.max(sent));
                    Event::Heard { phase, due, sent, arrived, read }
                }
                None => Event::Strange,
            };
            let _ = self.events.send(event);
            used += packet.total;
        }
        subscriber.partial.drain(..used);
        probes
    }
}

/// Packet identifier (0 with QoS 0), due time, sending time and phase of a probe; `None` for
/// another packet.
fn probe(version: Version, packet: &mqtt::Packet<'_>) -> Option<(u16, u64, u64, usize)> {
    if packet.first & 0xf0 != first::PUBLISH {
        return None;
    }
    let publish = mqtt::publish_of(version, packet).ok()?;
    let payload: &[u8; PROBE] = publish.payload.try_into().ok()?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&payload[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    (word(24) == MARK).then(|| (publish.id, word(0), word(8), word(16) as usize))
}

/// Reads bytes. Also returns when the kernel received the last of them, on the monotonic clock.
fn receive(socket: &TcpStream, bytes: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 16];
    // SAFETY: all zeros is an empty message. Vector, buffer and control area outlive the call, and
    // the control area is aligned for a header. The kernel's headers are read only where the kernel
    // says they are.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut arrived = None;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_TIMESTAMPNS
            {
                let time = libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned();
                let wall = time.tv_sec as u64 * SECOND + time.tv_nsec as u64;
                arrived = Some(wall.saturating_sub(clock::wall_ahead()));
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok((length as usize, arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn the_kernel_says_when_bytes_arrived() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let receiver = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stamp_arrivals(&receiver).unwrap();
        let (mut sender, _) = listener.accept().unwrap();
        // The first socket of a host that asks for stamps waits a little until they begin.
        for _ in 0..40 {
            let before = clock::now();
            sender.write_all(b"now").unwrap();
            let after = clock::now();
            std::thread::sleep(Duration::from_millis(50));
            let (length, arrived) = receive(&receiver, &mut [0; 16]).unwrap();
            assert_eq!(length, 3);
            if let Some(arrived) = arrived {
                // Two clocks are read one after the other, and one of them may be slewed.
                assert!(arrived + MILLISECOND > before && arrived < after + 20 * MILLISECOND);
                return;
            }
        }
        panic!("the kernel does not stamp what it receives");
    }

    #[test]
    fn a_probe_reads_back() {
        let mut payload = [0; PROBE];
        for (at, word) in [(0, 5), (8, 6), (16, 2), (24, MARK)] {
            payload[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
        }
        let mut out = Vec::new();
        mqtt::put_publish(&mut out, Version::V5, 0, b"t", 0, &payload);
        let packet = mqtt::split(&out).unwrap().unwrap();
        assert_eq!(probe(Version::V5, &packet), Some((0, 5, 6, 2)));
        out.truncate(out.len() - 1);
        out.push(9);
        assert_eq!(probe(Version::V5, &mqtt::split(&out).unwrap().unwrap()), None);
    }
}
