//! The echo server of `floor`: the least work that a server of the broker's shape can do. The
//! server has one ring with multishot receives into provided buffers, direct descriptors and
//! deferred task work. It sends back what it receives and copies the bytes once, because the
//! receive buffer returns to the kernel at once, as in the broker. A CONNECT and a SUBSCRIBE that
//! come in one piece get the shortest answer that a client accepts, so that the cost of connecting
//! has a floor as well.
#![allow(unsafe_code)]

use crate::clients::{Buffers, GROUP, socket};
use crate::stop;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

const SLOTS: u32 = 16_384;
const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const CLOSE: u64 = 4;

#[derive(Default)]
struct Connection {
    out: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    in_flight: bool,
    ended: bool,
    closed: bool,
    /// Whether MQTT 5 is spoken, after a CONNECT.
    v5: Option<bool>,
}

impl Connection {
    /// Appends the answer to `bytes`.
    fn answer(&mut self, bytes: &[u8]) {
        match (bytes, self.v5) {
            ([0x10, _, 0, 4, b'M', b'Q', b'T', b'T', level, ..], None) => {
                self.v5 = Some(*level == 5);
                let accepted: &[u8] =
                    if *level == 5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
                self.out.extend_from_slice(accepted);
            }
            ([0x82, _, high, low, ..], Some(true)) => {
                self.out.extend_from_slice(&[0x90, 4, *high, *low, 0, 0]);
            }
            ([0x82, _, high, low, ..], Some(false)) => {
                self.out.extend_from_slice(&[0x90, 3, *high, *low, 0]);
            }
            _ => self.out.extend_from_slice(bytes),
        }
    }
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    dirty: Vec<u32>,
    listener: i32,
}

/// Serves on 127.0.0.1:`port` until this process is told to stop.
pub fn run(port: u16) -> Result<(), String> {
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        .map_err(|e| format!("port {port}: {e}"))?;
    let listener = OwnedFd::from(listener);
    socket::set(&listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).map_err(|e| e.to_string())?;
    let mut server = Server::new(listener.as_raw_fd()).map_err(|e| format!("io_uring: {e}"))?;
    server.accept();
    let mut batch = Vec::new();
    while !stop::requested() {
        server.flush();
        match server.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(e) => return Err(format!("io_uring_enter: {e}")),
        }
        batch.extend(server.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
        for (data, result, flags) in batch.drain(..) {
            server.handle(data >> 32, data as u32, result, flags);
        }
        server.buffers.publish();
    }
    Ok(())
}

impl Server {
    fn new(listener: i32) -> std::io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(SLOTS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(2048)?;
        ring.submitter().register_files_sparse(SLOTS)?;
        let buffers = Buffers::new(&ring, 1024, 2048)?;
        let mut connections = Vec::new();
        connections.resize_with(SLOTS as usize, Connection::default);
        Ok(Self { ring, buffers, connections, dirty: Vec::new(), listener })
    }

    fn push(&mut self, entry: squeue::Entry, operation: u64, slot: u32) {
        let entry = entry.user_data(operation << 32 | u64::from(slot));
        // SAFETY: `sending` stays in place while a send is in flight.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }

    fn accept(&mut self) {
        let accept = opcode::AcceptMulti::new(types::Fd(self.listener)).allocate_file_index(true);
        self.push(accept.build(), ACCEPT, 0);
    }

    fn arm(&mut self, slot: u32) {
        self.push(opcode::RecvMulti::new(types::Fixed(slot), GROUP).build(), RECEIVE, slot);
    }

    fn handle(&mut self, operation: u64, slot: u32, result: i32, flags: u32) {
        match operation {
            ACCEPT => {
                if result >= 0 {
                    self.connections[result as usize] = Connection::default();
                    self.arm(result as u32);
                }
                if !cqueue::more(flags) {
                    self.accept();
                }
            }
            RECEIVE => self.received(slot, result, flags),
            SEND => self.sent(slot, result),
            _ => {}
        }
    }

    fn received(&mut self, slot: u32, result: i32, flags: u32) {
        let connection = &mut self.connections[slot as usize];
        if let Some(id) = cqueue::buffer_select(flags) {
            let bytes = self.buffers.bytes(id, result.max(0) as usize);
            if connection.out.is_empty() {
                self.dirty.push(slot);
            }
            connection.answer(bytes);
            self.buffers.put(id);
        }
        if cqueue::more(flags) {
            return;
        }
        if result > 0 || result == -libc::ENOBUFS {
            self.buffers.publish();
            self.arm(slot);
        } else {
            connection.ended = true;
            self.close_if_done(slot);
        }
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let connection = &mut self.connections[slot as usize];
        connection.in_flight = false;
        connection.sent += result.max(0) as usize;
        if result < 0 || connection.ended {
            connection.ended = true;
            self.close_if_done(slot);
        } else if connection.sent < connection.sending.len() {
            self.submit(slot);
        } else if !connection.out.is_empty() {
            self.next(slot);
        }
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            let connection = &self.connections[slot as usize];
            if !connection.in_flight && !connection.ended {
                self.next(slot);
            }
        }
        self.dirty = dirty;
    }

    fn next(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.sending.clear();
        std::mem::swap(&mut connection.sending, &mut connection.out);
        connection.sent = 0;
        if !connection.sending.is_empty() {
            self.submit(slot);
        }
    }

    fn submit(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        connection.in_flight = true;
        let rest = &connection.sending[connection.sent..];
        let send = opcode::Send::new(types::Fixed(slot), rest.as_ptr(), rest.len() as u32);
        self.push(send.flags(libc::MSG_NOSIGNAL).build(), SEND, slot);
    }

    fn close_if_done(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if !connection.in_flight && !std::mem::replace(&mut connection.closed, true) {
            self.push(opcode::Close::new(types::Fixed(slot)).build(), CLOSE, slot);
        }
    }
}
