//! What the kernel alone takes for what a broker asks of it: a wake-up, a receive, a send, an
//! accept with its close; a large send with and without a copy (`SEND_ZC`); and busy polling of a
//! network device (`IORING_REGISTER_NAPI`). All of it through bare rings, on the loopback device
//! and, as root, over a pair of veth devices between two network namespaces, which are made for it.
#![allow(unsafe_code)]

use crate::timing::cpu_time;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(700);
/// `IORING_SEND_ZC_REPORT_USAGE`, and what the notification then says when the kernel copied.
const REPORT_USAGE: u16 = 8;
const COPIED: i32 = i32::MIN;

/// A way from this thread to another one.
#[derive(Clone)]
struct Path {
    name: &'static str,
    address: &'static str,
    /// The network namespace of the far end.
    namespace: Option<String>,
}

impl Path {
    /// Runs `work` at the far end, with a listener there.
    fn far<T: Send + 'static>(
        &self,
        work: impl FnOnce(TcpListener) -> T + Send + 'static,
    ) -> (String, thread::JoinHandle<T>) {
        let (path, (send, receive)) = (self.clone(), mpsc::channel());
        let running = thread::spawn(move || {
            if let Some(namespace) = &path.namespace {
                let file = File::open(format!("/run/netns/{namespace}")).expect("it was made");
                // SAFETY: changes the namespace of this thread only.
                assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            }
            let listener = TcpListener::bind((path.address, 0)).expect("a free port");
            send.send(listener.local_addr().expect("it is bound").to_string()).expect("awaited");
            work(listener)
        });
        (receive.recv().expect("the far end listens"), running)
    }
}

/// Two network namespaces' worth of wire, taken away when dropped.
struct Wire(String);

impl Wire {
    fn new() -> Option<(Wire, Path)> {
        let number = std::process::id();
        let name = format!("ringmq-{number}");
        let (near, far) = (format!("rm{number}a"), format!("rm{number}b"));
        let ip = |words: &str| {
            let mut ip = Command::new("ip");
            ip.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
            ip.status().is_ok_and(|status| status.success())
        };
        let made = ip(&format!("netns add {name}"));
        let wire = made.then(|| Wire(name.clone()))?;
        let all = [
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("addr add 10.213.77.1/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} addr add 10.213.77.2/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ];
        let path = Path { name: "veth", address: "10.213.77.2", namespace: Some(name) };
        all.iter().all(|words| ip(words)).then_some((wire, path))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ring() -> IoUring {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_cqsize(4096);
    builder.build(256).expect("io_uring is allowed")
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: every buffer named by an entry outlives its completion: all are awaited.
    unsafe { ring.submission().push(entry) }.expect("there is room");
}

/// Submits, waits for `wanted` completions, and hands them out.
fn complete(ring: &mut IoUring, wanted: usize, mut take: impl FnMut(cqueue::Entry)) {
    ring.submit_and_wait(wanted).expect("a bare ring works");
    ring.completion().for_each(&mut take);
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn paths() -> (Option<Wire>, Vec<Path>) {
    let mut paths = vec![Path { name: "loopback", address: "127.0.0.1", namespace: None }];
    let wire = Wire::new().map(|(wire, path)| {
        paths.push(path);
        wire
    });
    if wire.is_none() {
        println!("  (no veth pair: not root, or no `ip`)");
    }
    (wire, paths)
}

/// A send that copies beside one that need not.
pub fn large_sends() {
    let (_wire, paths) = paths();
    for path in paths {
        for size in [1, 4, 16, 64, 256, 1024] {
            let (address, reader) = path.far(|listener| {
                let (stream, _) = listener.accept().expect("the sender comes");
                let mut buffer = vec![0u8; 1 << 20];
                // SAFETY: with MSG_TRUNC the kernel drops the bytes and writes none.
                let read = |buffer: &mut Vec<u8>| unsafe {
                    let (to, room) = (buffer.as_mut_ptr().cast(), buffer.len());
                    libc::recv(stream.as_raw_fd(), to, room, libc::MSG_TRUNC)
                };
                while read(&mut buffer) > 0 {}
            });
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("a TCP option");
            let payload = vec![7u8; size << 10];
            let mut turns = [(0.0, 0.0); 2];
            let mut copied = 0;
            for _ in 0..2 {
                for (zero_copy, turn) in turns.iter_mut().enumerate() {
                    let (cpu, rate, by_copy) = send_all(&stream, &payload, zero_copy == 1);
                    turn.0 += cpu / 2.0;
                    turn.1 += rate / 2.0;
                    copied = by_copy.max(copied);
                }
            }
            drop(stream);
            reader.join().expect("it reads to the end");
            let [(copy, rate), (without, rate_without)] = turns;
            println!(
                "  {}, {size:>4} KiB: SEND {copy:.1} us of CPU, {rate:.2} GB/s; SEND_ZC \
                 {without:.1} us ({:.2} times), {rate_without:.2} GB/s, {copied} % copied",
                path.name,
                without / copy
            );
        }
    }
}

/// CPU of this thread per send in microseconds, bytes per nanosecond, and how many percent of the
/// sends the kernel copied although it was asked not to.
fn send_all(stream: &TcpStream, payload: &[u8], zero_copy: bool) -> (f64, f64, u64) {
    let mut ring = ring();
    let fd = types::Fd(stream.as_raw_fd());
    let (mut sends, mut bytes, mut copied, mut notices) = (0u64, 0u64, 0u64, 0u64);
    let (begin, cpu) = (Instant::now(), cpu_time());
    while begin.elapsed() < TIME {
        let (from, size) = (payload.as_ptr(), payload.len() as u32);
        let entry = if zero_copy {
            let send = opcode::SendZc::new(fd, from, size).flags(libc::MSG_WAITALL);
            send.zc_flags(REPORT_USAGE).build()
        } else {
            opcode::Send::new(fd, from, size).flags(libc::MSG_WAITALL).build()
        };
        push(&mut ring, &entry);
        let mut awaited = true;
        while awaited {
            complete(&mut ring, 1, |done| {
                if cqueue::notif(done.flags()) {
                    notices += 1;
                    copied += u64::from(done.result() & COPIED != 0);
                    awaited = false;
                } else {
                    bytes += done.result().max(0) as u64;
                    awaited = cqueue::more(done.flags());
                }
            });
        }
        sends += 1;
    }
    let took = begin.elapsed();
    let percent = copied * 100 / notices.max(1);
    (micros(cpu_time() - cpu, sends), bytes as f64 / took.as_nanos() as f64, percent)
}

/// Twenty bytes there and back, with the answering ring polling its device or not.
pub fn busy_polling() {
    let (_wire, paths) = paths();
    for path in paths {
        let has_device = path.namespace.is_some();
        if has_device {
            set_offload('a', ETHTOOL_STSO, false);
        }
        for poll in [0, 50] {
            let (address, answering) = path.far(move |listener| {
                if has_device {
                    set_offload('b', ETHTOOL_SGRO, true);
                }
                answer(&listener, poll)
            });
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("a TCP option");
            let (mut back, mut trips) = ([0; 20], Vec::new());
            let begin = Instant::now();
            while begin.elapsed() < 2 * TIME {
                let sent = Instant::now();
                stream.write_all(&[1; 20]).expect("the far end answers");
                stream.read_exact(&mut back).expect("the far end answers");
                trips.push(sent.elapsed());
                thread::sleep(Duration::from_micros(200));
            }
            drop(stream);
            let (cpu, messages, queue) = answering.join().expect("it ends");
            trips.sort();
            println!(
                "  {}, {}: p50 {:.0} us, p99 {:.0} us, {:.1} us of the answering thread's CPU per \
                 message; device queue {queue}",
                path.name,
                if poll == 0 { "waiting".into() } else { format!("polling for {poll} us") },
                micros(trips[trips.len() / 2], 1),
                micros(trips[trips.len() * 99 / 100], 1),
                micros(cpu, messages)
            );
        }
    }
}

/// Answers one client until it leaves; CPU time, messages, and the device queue that they came by.
fn answer(listener: &TcpListener, poll: u32) -> (Duration, u64, u32) {
    let (stream, _) = listener.accept().expect("the client comes");
    stream.set_nodelay(true).expect("a TCP option");
    let mut ring = ring();
    if poll > 0 {
        let mut napi = types::Napi::new().set_busy_poll_timeout(poll).set_prefer_busy_poll(true);
        ring.submitter().register_napi(&mut napi).expect("Linux 6.9 has it");
    }
    let (fd, mut buffer) = (types::Fd(stream.as_raw_fd()), [0u8; 64]);
    let (cpu, mut messages, mut queue) = (cpu_time(), 0, 0u32);
    loop {
        let mut got = 0;
        push(&mut ring, &opcode::Recv::new(fd, buffer.as_mut_ptr(), 64).build());
        complete(&mut ring, 1, |done| got = done.result());
        if got <= 0 {
            return (cpu_time() - cpu, messages, queue);
        }
        messages += 1;
        push(&mut ring, &opcode::Send::new(fd, buffer.as_ptr(), got as u32).build());
        complete(&mut ring, 1, |_| ());
        let mut size = 4;
        let value = (&raw mut queue).cast();
        // SAFETY: writes the four bytes of `queue`.
        unsafe {
            libc::getsockopt(fd.0, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID, value, &mut size)
        };
    }
}

const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Sets an offload of one of our devices, which is in the caller's namespace. A veth device has a
/// queue that can be polled (NAPI) only with GRO on, and TCP goes through that queue only with the
/// peer's TSO off. What `ethtool -K DEVICE gro on` and `tso off` do.
fn set_offload(end: char, command: u32, on: bool) {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut value = [command, u32::from(on)];
    // SAFETY: all zeros is a valid request; the call reads it and `value`, which live until then.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        let name = format!("rm{}{end}", std::process::id());
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        assert_eq!(libc::ioctl(socket, SIOCETHTOOL, &request), 0, "veth has this");
        libc::close(socket);
    }
}

/// What a small message, a wake-up and a connection cost at least.
pub fn bare() {
    let loopback = Path { name: "loopback", address: "127.0.0.1", namespace: None };
    let one = receive_paced(&loopback, 1);
    let many = receive_paced(&loopback, 64);
    println!("  receive, one message per wait: {one:.2} us of CPU each, the wake-up included");
    println!("  receive, 64 messages per wait: {many:.2} us of CPU each");
    println!("  so a wake-up: {:.2} us", one - many);
    println!("  send of 20 bytes, nobody woken: {:.2} us of CPU each", send_small(&loopback));
    let (alone, closed) = (connections(&loopback, false), connections(&loopback, true));
    println!("  accept and close by the server: {alone:.2} us of CPU each");
    println!("  the same where the client has closed before: {closed:.2} us");
}

/// CPU per message of a thread that waits in its ring for messages of 64 clients, of which `group`
/// send at once, 10,000 messages a second in all.
fn receive_paced(path: &Path, group: usize) -> f64 {
    const CLIENTS: usize = 64;
    let ready = Arc::new(Barrier::new(2));
    let waits = Arc::clone(&ready);
    let (address, receiving) = path.far(move |listener| {
        let accept = |_| listener.accept().expect("it comes").0;
        let streams: Vec<_> = (0..CLIENTS).map(accept).collect();
        let mut ring = ring();
        let mut buffers = vec![[0u8; 64]; CLIENTS];
        let receive = |ring: &mut IoUring, buffers: &mut [[u8; 64]], at: usize| {
            let fd = types::Fd(streams[at].as_raw_fd());
            let entry = opcode::Recv::new(fd, buffers[at].as_mut_ptr(), 64).build();
            push(ring, &entry.user_data(at as u64));
        };
        (0..CLIENTS).for_each(|at| receive(&mut ring, &mut buffers, at));
        ring.submit().expect("a bare ring works");
        waits.wait();
        let (cpu, mut messages, mut gone) = (cpu_time(), 0, 0);
        while gone < CLIENTS {
            let mut got = Vec::with_capacity(CLIENTS);
            complete(&mut ring, 1, |done| got.push((done.user_data() as usize, done.result())));
            for (at, bytes) in got {
                if bytes > 0 {
                    messages += 1;
                    receive(&mut ring, &mut buffers, at);
                } else {
                    gone += 1;
                }
            }
        }
        micros(cpu_time() - cpu, messages)
    });
    let connect = |_| TcpStream::connect(&address).expect("it listens");
    let mut streams: Vec<TcpStream> = (0..CLIENTS).map(connect).collect();
    ready.wait();
    let (begin, pause) = (Instant::now(), Duration::from_micros(100 * group as u64));
    let (mut due, mut at) = (begin, 0);
    while begin.elapsed() < 2 * TIME {
        for _ in 0..group {
            streams[at % CLIENTS].write_all(&[1; 20]).expect("it is read");
            at += 1;
        }
        due += pause;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    drop(streams);
    receiving.join().expect("it ends")
}

/// CPU per send of 20 bytes, in batches of 64 to different clients that read later.
fn send_small(path: &Path) -> f64 {
    const CLIENTS: usize = 64;
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let (address, reading) = path.far(move |listener| {
        let accept = |_| listener.accept().expect("it comes").0;
        let streams: Vec<_> = (0..CLIENTS).map(accept).collect();
        let mut buffer = [0; 65536];
        while !stopping.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
            for mut stream in &streams {
                stream.set_nonblocking(true).expect("a descriptor's flag");
                let _ = stream.read(&mut buffer);
            }
        }
    });
    let connect = |_| TcpStream::connect(&address).expect("it listens");
    let streams: Vec<TcpStream> = (0..CLIENTS).map(connect).collect();
    streams.iter().for_each(|stream| stream.set_nodelay(true).expect("a TCP option"));
    let (mut ring, payload) = (ring(), [1u8; 20]);
    let (begin, cpu, mut sends) = (Instant::now(), cpu_time(), 0);
    while begin.elapsed() < TIME {
        for stream in &streams {
            let fd = types::Fd(stream.as_raw_fd());
            push(&mut ring, &opcode::Send::new(fd, payload.as_ptr(), 20).build());
        }
        complete(&mut ring, CLIENTS, |_| sends += 1);
    }
    let cost = micros(cpu_time() - cpu, sends);
    stop.store(true, Ordering::Relaxed);
    reading.join().expect("it ends");
    cost
}

/// CPU per connection of a server that accepts 32 and closes them, or waits for their clients to
/// have closed first.
fn connections(path: &Path, client_first: bool) -> f64 {
    const GROUP: usize = 32;
    let (address, serving) = path.far(move |listener| {
        let (mut ring, mut accepted, mut cpu) = (ring(), 0u64, Duration::ZERO);
        let fd = types::Fd(listener.as_raw_fd());
        let begin = Instant::now();
        while begin.elapsed() < 2 * TIME {
            let before = cpu_time();
            let mut sockets = Vec::with_capacity(GROUP);
            for _ in 0..GROUP {
                let none = std::ptr::null_mut();
                push(&mut ring, &opcode::Accept::new(fd, none, std::ptr::null_mut()).build());
            }
            while sockets.len() < GROUP {
                complete(&mut ring, 1, |done| sockets.push(done.result()));
            }
            cpu += cpu_time() - before;
            if client_first {
                thread::sleep(Duration::from_millis(5));
            }
            let before = cpu_time();
            for socket in &sockets {
                push(&mut ring, &opcode::Close::new(types::Fd(*socket)).build());
            }
            complete(&mut ring, GROUP, |_| ());
            cpu += cpu_time() - before;
            accepted += GROUP as u64;
        }
        micros(cpu, accepted)
    });
    while !serving.is_finished() {
        let connect = |_| TcpStream::connect(&address);
        let streams: Vec<_> = (0..GROUP).map_while(|at| connect(at).ok()).collect();
        if !client_first {
            for mut stream in &streams {
                let _ = stream.read(&mut [0]);
            }
        }
    }
    serving.join().expect("it ends")
}
