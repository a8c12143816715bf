//! The engine: many TCP clients on one io_uring, in one thread.
//!
//! Owns sockets (direct descriptors: they cost no file descriptor), receive buffers and unsent
//! bytes. Knows nothing of MQTT; a [`Handler`] does. A client is a dense number chosen by the
//! scenario and is also its slot, so nothing is looked up. An idle client holds no buffer.
//!
//! One ring for now: a ring's table is limited to `RLIMIT_NOFILE` slots, see [`Net::new`].

mod buffers;
pub mod join;
pub mod socket;

pub use buffers::{Buffers, GROUP};

use crate::mqtt::Malformed;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;

const RECEIVE_BUFFERS: u16 = 512;
const RECEIVE_BUFFER_BYTES: usize = 8192;
const SUBMISSIONS: u32 = 2048;
const COMPLETIONS: u32 = 16_384;
/// A buffer that grew past this is freed instead of kept for the next client, in bytes.
const KEEP_BYTES: usize = 64 * 1024;
/// Spare buffers kept for clients that have something to send.
const KEEP_BUFFERS: usize = 4096;

/// What happened, told to the scenario. Called from [`Net::pass`]; it may queue more through `net`.
pub trait Handler {
    /// The TCP connection stands.
    fn connected(&mut self, net: &mut Net, client: u32);
    /// `bytes` begin at a packet boundary. Returns how many were used; the rest comes again with
    /// what follows it.
    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed>;
    /// Everything queued has been taken by the kernel.
    fn drained(&mut self, _net: &mut Net, _client: u32) {}
    /// The connection is gone. `errno` is 0 when the peer closed it and `EPROTO` when it sent
    /// something malformed.
    fn closed(&mut self, net: &mut Net, client: u32, errno: i32);
}

#[derive(Default)]
struct Client {
    out: Vec<u8>,
    sending: Vec<u8>,
    partial: Vec<u8>,
    sent: u32,
    open: bool,
    dirty: bool,
    in_flight: bool,
}

const _: () = assert!(size_of::<Client>() <= 80);

const CONNECT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;

/// All clients of one process.
pub struct Net {
    ring: IoUring,
    buffers: Buffers,
    clients: Vec<Client>,
    dirty: Vec<u32>,
    spare: Vec<Vec<u8>>,
    batch: Vec<(u64, i32, u32)>,
    target: SocketAddrV4,
    raw_target: Box<libc::sockaddr_in>,
    send_buffer: u32,
}

impl Net {
    /// A ring with room for `clients` clients of `target`. `send_buffer` bounds unsent bytes per
    /// socket; 0 leaves the system's default.
    pub fn new(target: SocketAddrV4, clients: u32, send_buffer: u32) -> Result<Self, String> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(SUBMISSIONS)
            .map_err(|e| {
                format!("io_uring is not usable here (kernel 6.1 or later needed): {e}")
            })?;
        ring.submitter().register_files_sparse(clients).map_err(|e| {
            format!("{clients} clients need as many ring slots; raise the nofile limit: {e}")
        })?;
        let buffers = Buffers::new(&ring, RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)
            .map_err(|e| format!("receive buffers could not be registered: {e}"))?;
        let mut all = Vec::new();
        all.resize_with(clients as usize, Client::default);
        Ok(Self {
            ring,
            buffers,
            clients: all,
            dirty: Vec::new(),
            spare: Vec::new(),
            batch: Vec::with_capacity(COMPLETIONS as usize),
            target,
            raw_target: Box::new(socket::raw(target)),
            send_buffer,
        })
    }

    /// Starts connecting `client`; [`Handler::connected`] or [`Handler::closed`] follows.
    pub fn connect(&mut self, client: u32) -> io::Result<()> {
        let socket = socket::open(self.target, client, self.send_buffer)?;
        // The slot takes its own reference; the descriptor is closed at once.
        self.ring.submitter().register_files_update(client, &[socket.as_raw_fd()])?;
        let connect = opcode::Connect::new(
            types::Fixed(client),
            (&raw const *self.raw_target).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        );
        self.push(&connect.build().user_data(CONNECT << 32 | u64::from(client)));
        Ok(())
    }

    /// Where to append bytes for `client`; they leave with the next pass, in one piece.
    #[inline]
    pub fn out(&mut self, client: u32) -> &mut Vec<u8> {
        let state = &mut self.clients[client as usize];
        if state.out.capacity() == 0 {
            state.out = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(2048));
        }
        if !state.dirty {
            state.dirty = true;
            self.dirty.push(client);
        }
        &mut state.out
    }

    /// Bytes queued and not yet handed to the kernel.
    #[inline]
    pub fn unsent(&self, client: u32) -> usize {
        let state = &self.clients[client as usize];
        state.out.len() + state.sending.len() - state.sent as usize
    }

    /// One turn: hands queued bytes to the kernel, waits up to `wait` nanoseconds for `want`
    /// completions (0 does not wait), and tells `handler` about all there are.
    pub fn pass(
        &mut self,
        handler: &mut impl Handler,
        wait: u64,
        want: usize,
    ) -> Result<(), String> {
        self.flush();
        self.enter(wait, want).map_err(|e| format!("io_uring_enter failed: {e}"))?;
        let mut batch = std::mem::take(&mut self.batch);
        batch.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
        for &(data, result, flags) in &batch {
            let client = data as u32;
            match data >> 32 {
                RECEIVE => self.on_receive(handler, client, result, flags),
                SEND => self.on_send(handler, client, result),
                _ => self.on_connect(handler, client, result),
            }
        }
        self.buffers.publish();
        batch.clear();
        self.batch = batch;
        Ok(())
    }

    fn enter(&mut self, wait: u64, want: usize) -> io::Result<()> {
        let result = if wait > 0 {
            let time = types::Timespec::new()
                .sec(wait / 1_000_000_000)
                .nsec((wait % 1_000_000_000) as u32);
            let args = types::SubmitArgs::new().timespec(&time);
            self.ring.submitter().submit_with_args(want, &args)
        } else {
            let queued = self.ring.submission().len() as u32;
            // GETEVENTS runs the deferred completions and flushes an overflow.
            // SAFETY: no argument is passed; queued entries own their memory until completed.
            #[allow(unsafe_code)]
            unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(
                    queued,
                    0,
                    EnterFlags::GETEVENTS.bits(),
                    None,
                )
            }
        };
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for client in dirty.drain(..) {
            let state = &mut self.clients[client as usize];
            state.dirty = false;
            if !state.in_flight {
                self.send_next(client);
            }
        }
        self.dirty = dirty;
    }

    fn send_next(&mut self, client: u32) {
        let state = &mut self.clients[client as usize];
        let drained = std::mem::replace(&mut state.sending, std::mem::take(&mut state.out));
        state.sent = 0;
        self.keep(drained);
        let state = &mut self.clients[client as usize];
        if state.open && !state.sending.is_empty() {
            state.in_flight = true;
            self.submit_send(client);
        }
    }

    fn submit_send(&mut self, client: u32) {
        let state = &self.clients[client as usize];
        let rest = &state.sending[state.sent as usize..];
        let send = opcode::Send::new(types::Fixed(client), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL);
        self.push(&send.build().user_data(SEND << 32 | u64::from(client)));
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size > 0 && size <= KEEP_BYTES && self.spare.len() < KEEP_BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what an entry points at (bytes in `sending`, the target address) stays in place
        // until its completion: `sending` is replaced only when no send is in flight.
        #[allow(unsafe_code)]
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    fn arm(&mut self, client: u32) {
        let receive = opcode::RecvMulti::new(types::Fixed(client), GROUP).build();
        self.push(&receive.user_data(RECEIVE << 32 | u64::from(client)));
    }

    fn on_connect(&mut self, handler: &mut impl Handler, client: u32, result: i32) {
        self.clients[client as usize].open = true;
        if result < 0 {
            self.end(handler, client, -result);
            return;
        }
        self.arm(client);
        handler.connected(self, client);
    }

    fn on_receive(&mut self, handler: &mut impl Handler, client: u32, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        if result > 0
            && let Some(id) = buffer
        {
            let bytes = self.buffers.bytes(id, result as usize);
            if self.clients[client as usize].open && self.digest(handler, client, bytes).is_err() {
                self.end(handler, client, libc::EPROTO);
            }
        } else if result != -libc::ENOBUFS && result != -libc::EINTR {
            self.end(handler, client, -result);
        }
        if let Some(id) = buffer {
            self.buffers.put(id);
        }
        if !cqueue::more(flags) && self.clients[client as usize].open {
            self.buffers.publish();
            self.arm(client);
        }
    }

    fn digest(
        &mut self,
        handler: &mut impl Handler,
        client: u32,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let mut joined = std::mem::take(&mut self.clients[client as usize].partial);
        if joined.is_empty() {
            let used = handler.received(self, client, bytes)?;
            if used < bytes.len() {
                let mut partial = self.spare.pop().unwrap_or_default();
                partial.extend_from_slice(&bytes[used..]);
                self.clients[client as usize].partial = partial;
            }
            return Ok(());
        }
        joined.extend_from_slice(bytes);
        let used = handler.received(self, client, &joined)?;
        joined.drain(..used);
        if joined.is_empty() {
            self.keep(joined);
        } else {
            self.clients[client as usize].partial = joined;
        }
        Ok(())
    }

    fn on_send(&mut self, handler: &mut impl Handler, client: u32, result: i32) {
        let state = &mut self.clients[client as usize];
        if result < 0 && result != -libc::EINTR && result != -libc::EAGAIN {
            state.in_flight = false;
            self.end(handler, client, -result);
            return;
        }
        state.sent += result.max(0) as u32;
        if !state.open {
            state.in_flight = false;
        } else if (state.sent as usize) < state.sending.len() {
            self.submit_send(client);
        } else {
            state.in_flight = false;
            let more = !state.out.is_empty();
            self.send_next(client);
            if !more {
                handler.drained(self, client);
            }
        }
    }

    fn end(&mut self, handler: &mut impl Handler, client: u32, errno: i32) {
        if std::mem::take(&mut self.clients[client as usize].open) {
            // Whatever was in flight keeps its own reference to the socket and completes.
            let _ = self.ring.submitter().register_files_update(client, &[-1]);
            handler.closed(self, client, errno);
        }
    }
}
