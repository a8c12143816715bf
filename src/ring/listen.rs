//! Accepts connections with a pool of single-shot accept operations per listener. A multishot
//! accept would not report the address of the peer.
#![allow(unsafe_code)]
use super::driver::Driver;
use super::event::{Event, RemoteAddress};
use super::tag::{self, OperationKind};
use crate::ids::ListenerId;
use hashbrown::HashSet;
use io_uring::{opcode, squeue, types};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long accepting pauses when the machine lacks resources.
const REST: Duration = Duration::from_millis(100);

struct ListeningSocket {
    id: ListenerId,
    fd: OwnedFd,
    unix: bool,
    stopping: bool,
    in_flight: u32,
}

/// The memory that one accept in flight refers to. It is boxed because the kernel writes the peer's
/// address into it.
struct Accept {
    address: libc::sockaddr_storage,
    length: libc::socklen_t,
    listener: usize,
    ring: usize,
}

pub(super) struct Listeners {
    all: Vec<Option<ListeningSocket>>,
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses while the list grows")]
    accepts: Vec<Box<Accept>>,
    free: Vec<u32>,
    /// Set when a listener has fewer accepts in flight than it should: more are started at this
    /// time.
    pub(super) retry_at: Option<Instant>,
    /// True while no further accepts are started (overload).
    held: bool,
    /// True when the reason is that no ring has room, so that the next close of a socket helps.
    pub(super) want_room: bool,
}

impl Listeners {
    pub(super) fn new() -> Self {
        Listeners {
            all: Vec::new(),
            accepts: Vec::new(),
            free: Vec::new(),
            retry_at: None,
            held: false,
            want_room: false,
        }
    }
}

impl Driver {
    /// Starts accepting on a socket that is bound and listening. Accepted sockets inherit the
    /// options that are set on it.
    pub fn listen(&mut self, listener: ListenerId, fd: OwnedFd, unix: bool) {
        make_blocking(&fd);
        let new = ListeningSocket { id: listener, fd, unix, stopping: false, in_flight: 0 };
        match self.listeners.all.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(new),
            None => self.listeners.all.push(Some(new)),
        }
        self.top_up_accepts();
    }

    /// Stops accepting. A connection that is being accepted at this moment may still be reported.
    /// The listening socket is closed once its last accept has been cancelled, which does not take
    /// long.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        // A broker that has taken over from one with more shards has several of a listener.
        while let Some(index) = self.listeners.all.iter().position(|place| {
            place.as_ref().is_some_and(|known| known.id == listener && !known.stopping)
        }) {
            self.stop_accepting(index);
        }
    }

    fn stop_accepting(&mut self, index: usize) {
        let Some(stopped) = &mut self.listeners.all[index] else { return };
        stopped.stopping = true;
        if stopped.in_flight == 0 {
            self.listeners.all[index] = None;
            return;
        }
        let cancel = cancel_accepts_of(stopped);
        for ring in self.rings.iter_mut().filter(|ring| ring.accepts > 0) {
            ring.push(cancel.clone());
        }
    }

    /// Second descriptors of all listening sockets, for another process.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn listening(&self) -> std::io::Result<Vec<(ListenerId, OwnedFd)>> {
        let open = self.listeners.all.iter().flatten().filter(|listener| !listener.stopping);
        open.map(|listener| Ok((listener.id, listener.fd.try_clone()?))).collect()
    }

    /// Cancels the accepts in flight on `ring`. Others replace them, on the ring that accepts use
    /// now.
    pub(super) fn cancel_accepts(&mut self, ring: usize) {
        if self.rings[ring].accepts == 0 {
            return;
        }
        for listener in self.listeners.all.iter().flatten() {
            self.rings[ring].push(cancel_accepts_of(listener));
        }
    }

    /// Frees the records of all accepts on `ring` that are still open. The kernel has finished
    /// them, but their completions were lost.
    pub(super) fn forget_accepts(&mut self, ring: usize) {
        let free: HashSet<u32> = self.listeners.free.iter().copied().collect();
        for record in 0..self.listeners.accepts.len() as u32 {
            let accept = &self.listeners.accepts[record as usize];
            if accept.ring != ring || free.contains(&record) {
                continue;
            }
            let index = accept.listener;
            self.listeners.free.push(record);
            let Some(listener) = &mut self.listeners.all[index] else { continue };
            listener.in_flight -= 1;
            if listener.stopping && listener.in_flight == 0 {
                self.listeners.all[index] = None;
            }
        }
        self.rings[ring].accepts = 0;
    }

    /// Starts accepts until every listener has its number of them in flight, as far as there is
    /// room.
    pub(super) fn top_up_accepts(&mut self) {
        self.listeners.retry_at = None;
        self.listeners.want_room = false;
        for index in 0..self.listeners.all.len() {
            while self.wants_accept(index) {
                match self.ring_with_room() {
                    Some(ring) => self.start_accept(index, ring),
                    None => return self.wait_for_room(),
                }
            }
        }
    }

    /// Accepts no more for now, or goes on. Those in flight may be reported all the same; who
    /// connects meanwhile waits in the kernel's backlog.
    pub fn hold_accepts(&mut self, held: bool) {
        self.listeners.held = held;
        if !held {
            self.top_up_accepts();
        }
    }

    fn wants_accept(&self, index: usize) -> bool {
        !(self.listeners.held || self.moving.suspended)
            && self.listeners.all[index].as_ref().is_some_and(|listener| {
                !listener.stopping && listener.in_flight < self.config.accepts_in_flight
            })
    }

    fn start_accept(&mut self, index: usize, ring: usize) {
        let Some(listener) = &mut self.listeners.all[index] else { return };
        listener.in_flight += 1;
        let record = self.listeners.free.pop().unwrap_or_else(|| {
            self.listeners.accepts.push(Accept::new());
            self.listeners.accepts.len() as u32 - 1
        });
        let accept = &mut self.listeners.accepts[record as usize];
        accept.listener = index;
        accept.ring = ring;
        accept.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let address = (&raw mut accept.address).cast();
        let fd = types::Fd(listener.fd.as_raw_fd());
        let entry = opcode::Accept::new(fd, address, &raw mut accept.length)
            .file_index(Some(types::DestinationSlot::auto_target()))
            .build()
            .user_data(tag::tag(OperationKind::Accept, 0, record));
        self.rings[ring].accepts += 1;
        self.rings[ring].push(entry);
    }

    pub(super) fn accept_completed(
        &mut self,
        record: u32,
        result: i32,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let accept = &self.listeners.accepts[record as usize];
        let (index, ring) = (accept.listener, accept.ring);
        let address = peer(&accept.address);
        self.listeners.free.push(record);
        self.rings[ring].accepts -= 1;
        let Some(listener) = &mut self.listeners.all[index] else { return };
        listener.in_flight -= 1;
        let (id, unix) = (listener.id, listener.unix);
        if listener.stopping && listener.in_flight == 0 {
            self.listeners.all[index] = None;
        }
        if result >= 0 {
            self.rings[ring].used += 1;
            self.rings[ring].sockets += 1;
            self.counts.accepted += 1;
            let socket = self.slots.open(ring, result as u32);
            self.replace_accept(index);
            let peer = if unix { RemoteAddress::Unix } else { address };
            handler(self, Event::Accepted { socket, listener: id, peer });
            return;
        }
        match -result {
            libc::ECANCELED if !self.wants_accept(index) => {}
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.replace_accept(index),
            errno => {
                self.counts.accept_errors += 1;
                match connection_failed(errno) {
                    true => self.replace_accept(index),
                    false => {
                        let later = Instant::now() + REST;
                        self.listeners.retry_at.get_or_insert(later);
                    }
                }
                handler(self, Event::AcceptFailed { listener: id, errno });
            }
        }
    }

    /// Replaces an accept that has completed, unless accepting is paused.
    fn replace_accept(&mut self, index: usize) {
        if !self.wants_accept(index) || self.listeners.retry_at.is_some() {
            return;
        }
        match self.ring_with_room() {
            Some(ring) => self.start_accept(index, ring),
            None => self.wait_for_room(),
        }
    }

    fn wait_for_room(&mut self) {
        self.listeners.retry_at = Some(Instant::now() + REST);
        self.listeners.want_room = true;
    }
}

/// The cancel operation for all accepts of a listener. The kernel resolves the descriptor when the
/// operation is submitted. If the stopping listener is closed before that, because its accepts
/// ended by themselves, and another listener has got the same descriptor number, then the accepts
/// of the other one are cancelled. They are replaced, because that listener is not stopping.
fn cancel_accepts_of(listener: &ListeningSocket) -> squeue::Entry {
    let fd = types::Fd(listener.fd.as_raw_fd());
    opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd).all())
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(tag::tag(OperationKind::Ignored, 0, 0))
}

impl Accept {
    fn new() -> Box<Accept> {
        // SAFETY: all zeroes is a valid sockaddr_storage (family "unspecified").
        let address = unsafe { std::mem::zeroed() };
        Box::new(Accept { address, length: 0, listener: 0, ring: 0 })
    }
}

/// True for errors that concern only the connection that was being accepted (accept(2)). All other
/// errors concern the machine.
fn connection_failed(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::EPERM
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::ETIMEDOUT
    )
}

fn peer(address: &libc::sockaddr_storage) -> RemoteAddress {
    let unknown = RemoteAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in; the storage is larger.
            let v4 = unsafe { &*(address as *const _ as *const libc::sockaddr_in) };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            RemoteAddress::Tcp(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in6; the storage is larger.
            let v6 = unsafe { &*(address as *const _ as *const libc::sockaddr_in6) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // An IPv4 client of a dual-stack listener is shown with its IPv4 address.
            RemoteAddress::Tcp(SocketAddr::new(
                IpAddr::V6(ip).to_canonical(),
                u16::from_be(v6.sin6_port),
            ))
        }
        libc::AF_UNIX => RemoteAddress::Unix,
        _ => unknown,
    }
}

/// Clears O_NONBLOCK, because io_uring does not wait on a non-blocking listener but fails with
/// EAGAIN.
fn make_blocking(fd: &OwnedFd) {
    // SAFETY: reading and writing the status flags of a descriptor that we own.
    unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags >= 0 && flags & libc::O_NONBLOCK != 0 {
            libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
    }
}
