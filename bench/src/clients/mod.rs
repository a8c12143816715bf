//! The engine of the generator: many TCP clients in one thread.
//!
//! The engine owns sockets (as direct descriptors, which take no file descriptor), receive buffers
//! and unsent bytes. The engine knows nothing of MQTT; a [`Handler`] does. The scenario numbers its
//! clients from 0 on. That number is also the index of the client's state and decides its ring and
//! slot, so nothing is looked up. An idle client holds no buffer.
//!
//! `RLIMIT_NOFILE` bounds a ring's table of direct descriptors, so there are as many rings as the
//! clients need. The thread sleeps in the first ring; the others wake it through an eventfd.

mod buffers;
pub mod join;
mod ring;
pub mod scram;
pub mod socket;
pub mod tls;
mod web;

pub use buffers::{Buffers, GROUP};

use crate::machine;
use crate::mqtt::Malformed;
use io_uring::{cqueue, opcode, squeue, types};
use ring::{Bell, Ring, Sizes};
use socket::{Port, Raw, SocketOptions};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use tls::{KeyCache, Layer};
use web::{Framed, Web};

/// `FEW` is for one ring, whose clients may send much; `MANY` is for each of several rings.
const FEW: Sizes =
    Sizes { slots: 0, submissions: 2048, completions: 16_384, buffers: 512, buffer_bytes: 8192 };
const MANY: Sizes =
    Sizes { slots: 0, submissions: 1024, completions: 16_384, buffers: 256, buffer_bytes: 2048 };
/// Most slots of one ring; a power of two, so that a client's ring is found by a shift.
const SLOTS: u32 = 16_384;
/// A larger buffer is freed instead of kept for the next client, in bytes.
const KEEP_BYTES: usize = 64 * 1024;
/// The most spare buffers that are kept for clients that have something to send.
const KEEP_BUFFERS: usize = 4096;

/// The scenario's reaction to events of its clients. [`Net::pass`] calls these functions, which may
/// queue more bytes through `net`.
pub trait Handler {
    /// The TCP connection is established.
    fn connected(&mut self, net: &mut Net, client: u32);
    /// `bytes` begin at a packet boundary. Returns how many bytes were used; the rest is given
    /// again together with the bytes that follow.
    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed>;
    /// The kernel has taken everything that was queued for `client`.
    fn drained(&mut self, net: &mut Net, client: u32) {
        let _ = (net, client);
    }
    /// The connection has ended. `errno` is 0 when the peer closed the connection and `EPROTO` when
    /// the peer sent something malformed.
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
    /// The client's own port was in use, so the kernel chooses one.
    any_port: bool,
}

const _: () = assert!(size_of::<Client>() <= 80);

const CONNECT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const WATCH: u64 = 4;
const IGNORED: u64 = 5;

/// All clients of one process.
pub struct Net {
    rings: Vec<Ring>,
    bell: Bell,
    /// Whether a poll of `bell` waits in the first ring.
    listening: bool,
    /// The base-2 logarithm of the slots per ring.
    shift: u32,
    clients: Vec<Client>,
    /// TLS of each client; empty without TLS.
    layers: Vec<Layer>,
    /// The WebSocket of each client; empty without WebSockets.
    webs: Vec<Web>,
    /// WebSocket frames that answer the broker's pings, per client; they go out before queued
    /// bytes.
    pongs: HashMap<u32, Vec<u8>>,
    /// Expanded keys of the clients that received or sent last.
    keys: KeyCache,
    /// Records that TLS itself sends, per client; they go out before queued bytes.
    wire: HashMap<u32, Vec<u8>>,
    /// Scratch memory for decrypted bytes.
    plain: Vec<u8>,
    dirty: Vec<u32>,
    spare: Vec<Vec<u8>>,
    batch: Vec<(u64, i32, u32)>,
    /// Brokers, of which clients use the next one in turn. Never changed, as the kernel reads the
    /// addresses.
    targets: Vec<(SocketAddr, Raw)>,
    options: SocketOptions,
}

impl Net {
    /// Rings with room for `clients` clients, which connect to `targets` in turn.
    pub fn new(
        targets: &[SocketAddr],
        clients: u32,
        options: SocketOptions,
    ) -> Result<Self, String> {
        if targets.is_empty() {
            return Err("there is no broker to connect to".into());
        }
        let slots = SLOTS.min(u32::try_from(machine::nofile()).unwrap_or(SLOTS)).max(2);
        let shift = slots.ilog2();
        let slots = 1 << shift;
        let rings = clients.div_ceil(slots).max(1);
        let rings = (0..rings).map(|index| {
            let sizes = if rings == 1 { FEW } else { MANY };
            Ring::new(Sizes { slots: (clients - index * slots).clamp(1, slots), ..sizes })
        });
        let mut rings = rings.collect::<Result<Vec<_>, _>>()?;
        let bell = Bell::new().map_err(|e| format!("eventfd: {e}"))?;
        rings.iter_mut().skip(1).try_for_each(|ring| ring.ring_with(&bell))?;
        let mut all = Vec::new();
        all.resize_with(clients as usize, Client::default);
        let mut layers = Vec::new();
        if options.tls.is_some() {
            layers.resize_with(clients as usize, Layer::default);
        }
        let mut webs = Vec::new();
        if options.web.is_some() {
            webs.resize_with(clients as usize, Web::default);
        }
        Ok(Self {
            rings,
            bell,
            listening: false,
            shift,
            clients: all,
            layers,
            webs,
            pongs: HashMap::new(),
            keys: KeyCache::default(),
            wire: HashMap::new(),
            plain: Vec::new(),
            dirty: Vec::new(),
            spare: Vec::new(),
            batch: Vec::new(),
            targets: targets.iter().map(|target| (*target, Raw::of(*target))).collect(),
            options,
        })
    }

    /// Starts connecting `client`; [`Handler::connected`] or [`Handler::closed`] follows. Fails
    /// with `EBUSY` while a send of the client's former connection is still in flight.
    pub fn connect(&mut self, client: u32) -> io::Result<()> {
        if self.clients[client as usize].in_flight {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let index = client as usize % self.targets.len();
        let (target, raw) = &self.targets[index];
        let connect = (raw.pointer(), raw.length());
        // Clients of each target are numbered on their own, so that every target sees all sources.
        let turn = client / self.targets.len() as u32;
        let port = if self.clients[client as usize].any_port { Port::Any } else { Port::Own };
        let socket = socket::open(*target, turn, &self.options, port)?;
        // The slot takes a reference of its own; `socket` is closed when this function returns.
        let slot = self.slot(client);
        self.ring(client).adopt(slot, &socket)?;
        let connect = opcode::Connect::new(types::Fixed(slot), connect.0, connect.1);
        self.push(client, connect.build(), CONNECT);
        Ok(())
    }

    /// Ends the connection of `client` without DISCONNECT and without [`Handler::closed`].
    pub fn hang_up(&mut self, client: u32) {
        if std::mem::take(&mut self.clients[client as usize].open) {
            self.release(client);
        }
    }

    /// Whether the connection of `client` is established.
    pub fn is_open(&self, client: u32) -> bool {
        self.clients[client as usize].open
    }

    /// The buffer for bytes to `client`; the next pass sends them together.
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

    /// Bytes for `client` that the kernel has not taken yet.
    #[inline]
    pub fn unsent(&self, client: u32) -> usize {
        let state = &self.clients[client as usize];
        state.out.len() + state.sending.len() - state.sent as usize
    }

    /// One turn: hands queued bytes to the kernel, waits up to `wait` nanoseconds for `want`
    /// completions (0 does not wait), and passes all completions to `handler`.
    pub fn pass(
        &mut self,
        handler: &mut impl Handler,
        wait: u64,
        want: usize,
    ) -> Result<(), String> {
        self.flush();
        self.turn(wait, want).map_err(|e| format!("io_uring_enter failed: {e}"))?;
        let mut batch = std::mem::take(&mut self.batch);
        for ring in &mut self.rings {
            ring.collect(&mut batch);
        }
        for &(data, result, flags) in &batch {
            let client = data as u32;
            match data >> 32 {
                RECEIVE => self.on_receive(handler, client, result, flags),
                SEND => self.on_send(handler, client, result),
                CONNECT => self.on_connect(handler, client, result),
                WATCH => self.listening = false,
                _ => {}
            }
        }
        for ring in &self.rings {
            ring.buffers.publish();
        }
        batch.clear();
        self.batch = batch;
        Ok(())
    }

    /// Submits in all rings, waits in the first, and runs the deferred work of rings that have
    /// some.
    fn turn(&mut self, mut wait: u64, want: usize) -> io::Result<()> {
        let Some((first, others)) = self.rings.split_first_mut() else { return Ok(()) };
        if !others.is_empty() && !self.listening {
            // The reset precedes the look at the other rings: a completion after it ends the wait.
            self.bell.reset();
            first.watch(&self.bell, WATCH << 32);
            self.listening = true;
        }
        for ring in others.iter_mut() {
            if ring.has_entries() {
                ring.enter(0, 0)?;
            }
            if ring.has_news() {
                wait = 0;
            }
        }
        first.enter(wait, want)?;
        for ring in others {
            if ring.has_news() {
                ring.enter(0, 0)?;
            }
        }
        Ok(())
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
        if let Some(path) = &self.options.web
            && let Some(web) = self.webs.get_mut(client as usize)
        {
            let mut framed = self.pongs.remove(&client).or_else(|| self.spare.pop());
            let framed = framed.get_or_insert_default();
            let outcome = web.seal(path, &state.sending, framed);
            let plain = std::mem::replace(&mut state.sending, std::mem::take(framed));
            match outcome {
                Framed::Waits => state.out = plain,
                Framed::All => self.keep(plain),
            }
        }
        let state = &mut self.clients[client as usize];
        if let Some(layer) = self.layers.get_mut(client as usize)
            && layer.is_present()
        {
            let mut wire = self.wire.remove(&client).or_else(|| self.spare.pop());
            let wire = wire.get_or_insert_default();
            // `seal` has printed its failure; the broker misses what is not sent and ends the
            // connection.
            let _ = layer.seal(&mut self.keys, &state.sending, wire);
            let plain = std::mem::replace(&mut state.sending, std::mem::take(wire));
            self.keep(plain);
        }
        let state = &mut self.clients[client as usize];
        if state.sending.is_empty() {
            // An idle client holds no buffer.
            let unused = std::mem::take(&mut state.sending);
            self.keep(unused);
            return;
        }
        let state = &mut self.clients[client as usize];
        if state.open {
            state.in_flight = true;
            self.submit_send(client);
        }
    }

    fn submit_send(&mut self, client: u32) {
        let slot = self.slot(client);
        let state = &self.clients[client as usize];
        let rest = &state.sending[state.sent as usize..];
        let send = opcode::Send::new(types::Fixed(slot), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL);
        self.push(client, send.build(), SEND);
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        let size = buffer.capacity();
        if size > 0 && size <= KEEP_BYTES && self.spare.len() < KEEP_BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    #[inline]
    fn ring(&mut self, client: u32) -> &mut Ring {
        &mut self.rings[(client >> self.shift) as usize]
    }

    #[inline]
    fn slot(&self, client: u32) -> u32 {
        client & ((1 << self.shift) - 1)
    }

    /// The memory that an entry points at (bytes in `sending`, the target's address) stays in place
    /// until its completion: `sending` is replaced only when no send is in flight.
    fn push(&mut self, client: u32, entry: squeue::Entry, operation: u64) {
        let entry = entry.user_data(operation << 32 | u64::from(client));
        self.ring(client).push(&entry);
    }

    fn arm(&mut self, client: u32) {
        let slot = self.slot(client);
        self.ring(client).receive(slot, RECEIVE << 32 | u64::from(client));
    }

    fn on_connect(&mut self, handler: &mut impl Handler, client: u32, result: i32) {
        let state = &mut self.clients[client as usize];
        if result == -libc::EADDRNOTAVAIL && self.options.ports.is_some() && !state.any_port {
            state.any_port = true;
            self.release(client);
            if self.connect(client).is_ok() {
                return;
            }
        }
        self.clients[client as usize].open = true;
        if result < 0 {
            self.end(handler, client, -result);
            return;
        }
        if let Some(tls) = &self.options.tls {
            match Layer::new(tls, client, client as usize % self.targets.len()) {
                Ok(layer) => self.layers[client as usize] = layer,
                Err(Malformed) => {
                    self.end(handler, client, libc::EPROTO);
                    return;
                }
            }
        }
        if let Some(web) = self.webs.get_mut(client as usize) {
            *web = Web::Silent;
        }
        self.arm(client);
        handler.connected(self, client);
    }

    fn on_receive(&mut self, handler: &mut impl Handler, client: u32, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        if result == -libc::ECANCELED {
            // The cancelled receive belongs to a connection that this program ended; the client may
            // already have its next connection.
            return;
        }
        if result > 0
            && let Some(id) = buffer
        {
            let bytes = self.ring(client).buffers.bytes(id, result as usize);
            if self.clients[client as usize].open && self.hear(handler, client, bytes).is_err() {
                self.end(handler, client, libc::EPROTO);
            }
        } else if result != -libc::ENOBUFS && result != -libc::EINTR {
            self.end(handler, client, -result);
        }
        if let Some(id) = buffer {
            self.ring(client).buffers.put(id);
        }
        if !cqueue::more(flags) && self.clients[client as usize].open {
            self.arm(client);
        }
    }

    /// Decrypts received bytes, if the client has TLS, and passes them on.
    fn hear(
        &mut self,
        handler: &mut impl Handler,
        client: u32,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let layer = self.layers.get_mut(client as usize).filter(|layer| layer.is_present());
        let Some(layer) = layer else { return self.unframe(handler, client, bytes) };
        let (mut plain, mut wire) = (std::mem::take(&mut self.plain), Vec::new());
        layer.open(&mut self.keys, bytes, &mut plain, &mut wire)?;
        if layer.wants_to_say() || !wire.is_empty() {
            if !wire.is_empty() {
                self.wire.entry(client).or_default().append(&mut wire);
            }
            self.out(client);
        }
        let digested =
            if plain.is_empty() { Ok(()) } else { self.unframe(handler, client, &plain) };
        plain.clear();
        self.plain = plain;
        digested
    }

    /// Takes received bytes out of WebSocket frames, if the client has any, and passes them on.
    fn unframe(
        &mut self,
        handler: &mut impl Handler,
        client: u32,
        bytes: &[u8],
    ) -> Result<(), Malformed> {
        let web = self.webs.get_mut(client as usize).filter(|web| web.is_present());
        let Some(web) = web else { return self.digest(handler, client, bytes) };
        let (mut plain, mut answers) = (self.spare.pop().unwrap_or_default(), Vec::new());
        let granted = web.open(bytes, &mut plain, &mut answers)?;
        if granted || !answers.is_empty() {
            if !answers.is_empty() {
                self.pongs.entry(client).or_default().append(&mut answers);
            }
            self.out(client);
        }
        let digested = if plain.is_empty() { Ok(()) } else { self.digest(handler, client, &plain) };
        self.keep(plain);
        digested
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
            self.release(client);
            handler.closed(self, client, errno);
        }
    }

    /// Requests in flight hold a reference to the socket, so they are cancelled before the slot is
    /// emptied.
    fn release(&mut self, client: u32) {
        let slot = self.slot(client);
        let state = &mut self.clients[client as usize];
        state.out = Vec::new();
        state.partial = Vec::new();
        let in_flight = state.in_flight;
        if let Some(layer) = self.layers.get_mut(client as usize) {
            *layer = Layer::Absent;
            self.wire.remove(&client);
        }
        if let Some(web) = self.webs.get_mut(client as usize) {
            *web = Web::Absent;
            self.pongs.remove(&client);
        }
        let requests = [RECEIVE << 32 | u64::from(client), SEND << 32 | u64::from(client)];
        let requests = &requests[..1 + usize::from(in_flight)];
        self.ring(client).close(slot, requests, IGNORED << 32);
    }
}
