//! The CPU time of the io_uring driver per message, compared with epoll, recv and send as a C
//! program would use them: closed-loop clients on one thread, an echo on another.
#![allow(unsafe_code)]

use crate::timing::cpu_time;
use glommio::{LocalExecutorBuilder, Placement};
use ringmq::ids::{ListenerId, SocketId};
use ringmq::ring::{Driver, Event, Outgoing, Receive, SocketRingConfig};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub fn run() {
    through_the_driver_in_glommio();
    through_plain_epoll();
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a TCP option");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a TCP option");
    stream
}

const CLIENTS: usize = 200;
const SIZE: usize = 20;
const TIME: Duration = Duration::from_secs(4);

/// Closed-loop clients on one thread: each sends its next message when the last one has returned.
fn load(address: SocketAddr, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut streams: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(address)).collect();
        let mut back = [0; SIZE];
        while !stop.load(Ordering::Relaxed) {
            for stream in &mut streams {
                stream.write_all(&[1; SIZE]).expect("the echo lives");
            }
            for stream in &mut streams {
                stream.read_exact(&mut back).expect("the echo lives");
            }
        }
    })
}

fn report(what: &str, messages: u64, cpu: Duration, wall: Duration) {
    println!(
        "  {what}: {:.2} us of CPU per message, {:.0} messages/s, {:.0} % of a core",
        cpu.as_secs_f64() * 1e6 / messages as f64,
        messages as f64 / wall.as_secs_f64(),
        100.0 * cpu.as_secs_f64() / wall.as_secs_f64()
    );
}

/// Echoes without allocations: the buffer of the last send is filled again. A single `Vec` indexed
/// by socket number is the only table.
#[derive(Default)]
struct FlatEcho {
    spare: Vec<Option<Vec<u8>>>,
    messages: u64,
    closed: usize,
}

impl FlatEcho {
    fn handle(&mut self, ring: &mut Driver, event: Event<'_>) {
        match event {
            Event::Accepted { socket: SocketId(index), .. } => {
                if self.spare.len() <= index as usize {
                    self.spare.resize_with(index as usize + 1, || None);
                }
                self.spare[index as usize] = Some(Vec::with_capacity(64));
                ring.receive(SocketId(index), Receive::Stream);
            }
            Event::Received { socket, bytes } => {
                self.messages += 1;
                let mut out = self.spare[socket.0 as usize].take().expect("one send at a time");
                out.clear();
                out.extend_from_slice(bytes);
                ring.send(socket, Outgoing::One(out));
            }
            Event::Sent { socket, outgoing: Outgoing::One(bytes), .. } => {
                self.spare[socket.0 as usize] = Some(bytes);
            }
            Event::EndOfStream { socket } | Event::Failed { socket, .. } => ring.close(socket),
            Event::Closed { .. } => self.closed += 1,
            _ => {}
        }
    }
}

fn through_the_driver_in_glommio() {
    let stop = Arc::new(AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let stopping = stop.clone();
    let clients = thread::spawn(move || {
        let running = load(receive.recv().expect("the address comes"), stopping);
        running.join().expect("no client failed");
    });
    let executor =
        LocalExecutorBuilder::new(Placement::Unbound).make().expect("io_uring is allowed");
    executor.run(async {
        let settings = SocketRingConfig { spin: Duration::from_micros(20), ..Default::default() };
        let mut ring = Driver::new(settings).expect("io_uring is allowed");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        ring.listen(ListenerId(0), listener.into(), false);
        send.send(address).expect("the clients wait for it");
        let mut echo = FlatEcho::default();
        let (mut start, mut before) = ((cpu_time(), Instant::now()), None);
        while echo.closed < CLIENTS {
            let visited = ring.pass(1024, &mut |ring, event| echo.handle(ring, event));
            if before.is_none() && echo.messages > 20_000 {
                before = Some((echo.messages, ring.counts()));
                start = (cpu_time(), Instant::now());
            }
            if let Some((messages, counts)) = before
                && start.1.elapsed() > TIME
                && !stop.load(Ordering::Relaxed)
            {
                let done = echo.messages - messages;
                report("driver", done, cpu_time() - start.0, start.1.elapsed());
                let now = ring.counts();
                println!(
                    "  enters {} completions {} dozes {} parks {} enobufs {} per 1000 messages",
                    (now.enters - counts.enters) * 1000 / done,
                    (now.completions - counts.completions) * 1000 / done,
                    (now.dozes - counts.dozes) * 1000 / done,
                    (now.parks - counts.parks) * 1000 / done,
                    (now.enobufs - counts.enobufs) * 1000 / done,
                );
                stop.store(true, Ordering::Relaxed);
            }
            match visited {
                0 => ring.idle(Some(Duration::from_millis(50)), || false).await,
                _ => futures_lite::future::yield_now().await,
            }
        }
    });
    clients.join().expect("no client failed");
}

/// The reference: epoll, recv and send, as a C program would use them.
fn through_plain_epoll() {
    let stop = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let clients = load(listener.local_addr().expect("it is bound"), stop.clone());
    let streams: Vec<_> =
        (0..CLIENTS).map(|_| listener.accept().expect("a client comes").0).collect();
    // SAFETY: plain system calls on descriptors and buffers that live until the measurement ends.
    unsafe {
        let epoll = libc::epoll_create1(0);
        for stream in &streams {
            stream.set_nodelay(true).expect("a TCP option");
            let fd = stream.as_raw_fd();
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
            assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event), 0);
        }
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        let mut buffer = [0u8; 2048];
        let (mut messages, mut ended) = (0u64, 0);
        let (mut start, mut warm) = ((cpu_time(), Instant::now()), false);
        while ended < CLIENTS {
            let ready = libc::epoll_wait(epoll, events.as_mut_ptr(), 256, -1);
            for event in &events[..ready as usize] {
                let fd = event.u64 as i32;
                let got = libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0);
                if got <= 0 {
                    ended += 1;
                    libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut());
                    continue;
                }
                messages += 1;
                libc::send(fd, buffer.as_ptr().cast(), got as usize, libc::MSG_NOSIGNAL);
            }
            if !warm && messages > 20_000 {
                (warm, messages) = (true, 0);
                start = (cpu_time(), Instant::now());
            }
            if warm && start.1.elapsed() > TIME && !stop.swap(true, Ordering::Relaxed) {
                report("epoll", messages, cpu_time() - start.0, start.1.elapsed());
            }
        }
        libc::close(epoll);
    }
    clients.join().expect("no client failed");
}
