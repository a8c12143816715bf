//! The network between simulated clients and shards, and a driver that does to it what the real
//! one does to sockets: completions in a queue, partial sends, late cancels, hand-overs that fail.

use crate::rng::Rng;
use crate::secure::Secure;
use crate::web::Web;
use ringmq::ids::Peer;
use ringmq::ids::{ListenerId, ShardId, SocketId};
use ringmq::message::Message;
use ringmq::outgoing::{Outgoing, Segment};
use ringmq::packet::{self, Framing};
use ringmq::shard::{Action, Shard};
use ringmq::time::Instant;
use std::collections::VecDeque;

pub type ConnId = usize;

/// How one side has ended its half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Open,
    /// Sends no more.
    Fin,
    /// Gone without a word.
    Reset,
}

/// One TCP connection.
pub struct Conn {
    /// Client to server: the server's kernel buffer.
    pub up: VecDeque<u8>,
    pub up_limit: usize,
    /// Server to client: both kernel buffers.
    pub down: VecDeque<u8>,
    pub down_limit: usize,
    pub client: End,
    pub server: End,
    /// When the server ended its half.
    pub ended_at: Option<u64>,
    /// When the shard was last given the end of a packet from it.
    pub taken_at: u64,
    /// Bytes that shards were given from it.
    pub taken: usize,
    /// Bytes that the client has been sent.
    pub told: usize,
    /// What the shard was given of a packet that is not whole.
    partial: Vec<u8>,
    /// Carries what is said, if the bare stream does not.
    pub web: Option<Box<Web>>,
    /// Carries all that.
    pub secure: Option<Box<Secure>>,
    /// A proxy tells of the client before anything else.
    pub header: VecDeque<u8>,
    /// Bytes of it that the shard was not given yet.
    pub header_left: usize,
}

impl Conn {
    pub fn new(up_limit: usize, down_limit: usize, now: u64) -> Self {
        Conn {
            up: VecDeque::new(),
            up_limit,
            down: VecDeque::new(),
            down_limit,
            client: End::Open,
            server: End::Open,
            ended_at: None,
            taken_at: now,
            taken: 0,
            told: 0,
            partial: Vec::new(),
            web: None,
            secure: None,
            header: VecDeque::new(),
            header_left: 0,
        }
    }

    /// True when the client has said something that was not read.
    pub fn is_sent_more(&self) -> bool {
        let ended = self.client == End::Fin;
        let plain = match &self.web {
            Some(web) => web.has_more(self.up.len(), ended),
            None => !self.up.is_empty(),
        };
        !self.header.is_empty()
            || match &self.secure {
                Some(secure) => secure.has_more(plain, ended && !plain),
                None => plain,
            }
    }

    /// Takes at most so many bytes out of what is sent, more than none if there are any; `part`
    /// says how many of those that could be.
    fn take_up(&mut self, most: usize, part: impl FnOnce(usize) -> usize) -> Vec<u8> {
        let ended = self.client == End::Fin;
        let mut source = &mut self.up;
        if let Some(web) = &mut self.web {
            web.fill(source, ended);
            source = &mut web.up;
        }
        if let Some(secure) = &mut self.secure {
            secure.fill(source, ended);
            source = &mut secure.up;
        }
        let count = part((self.header.len() + source.len()).min(most));
        let first = count.min(self.header.len());
        self.header.drain(..first).chain(source.drain(..count - first)).collect()
    }

    /// What was not read is lost.
    pub fn clear_up(&mut self) {
        self.up.clear();
        self.header.clear();
        if let Some(web) = &mut self.web {
            web.up.clear();
        }
        if let Some(secure) = &mut self.secure {
            secure.clear_up();
        }
    }

    /// The client is sent these bytes; returns what there is to be said of them in a trace.
    fn give_down(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut trace = bytes.to_vec();
        let opened = self.secure.as_mut().map(|secure| secure.hear(bytes));
        if let Some(opened) = &opened {
            trace = bytes.len().to_le_bytes().to_vec();
            trace.extend(opened);
        }
        let bytes = opened.as_deref().unwrap_or(bytes);
        let plain = self.web.as_mut().filter(|_| !bytes.is_empty()).map(|web| web.hear(bytes));
        let bytes = plain.as_deref().unwrap_or(bytes);
        self.down.extend(bytes);
        self.told += bytes.len();
        trace
    }

    /// The shard was given these bytes; how many of MQTT they are, and whether a packet ends in
    /// them.
    pub fn completes(&mut self, bytes: &[u8]) -> (usize, bool) {
        let told = self.header_left.min(bytes.len());
        self.header_left -= told;
        let bytes = &bytes[told..];
        let opened = self.secure.as_mut().map(|secure| secure.see(bytes.len()));
        let bytes = opened.as_deref().unwrap_or(bytes);
        let plain = self.web.as_mut().map(|web| web.see(bytes));
        let bytes = plain.as_deref().unwrap_or(bytes);
        self.partial.extend(bytes);
        let mut whole = 0;
        while let Ok(Framing::Complete { total, .. }) =
            packet::frame(&self.partial[whole..], u32::MAX)
        {
            whole += total;
        }
        self.partial.drain(..whole);
        (bytes.len(), whole > 0)
    }

    pub fn end(&mut self, how: End, now: Instant) {
        self.server = how;
        self.ended_at.get_or_insert(now.0);
    }
}

/// What the driver reports.
#[derive(Debug)]
pub enum Event {
    /// By that listener.
    Accepted(ListenerId),
    Received(Vec<u8>),
    EndOfStream,
    Failed,
    Sent(Outgoing, bool),
    Closed,
    Arrived(u64),
    HandedOver(u64, bool),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Nothing,
    Once,
    Stream,
}

struct Slot {
    generation: u32,
    open: bool,
    conn: ConnId,
    want: Want,
    paused: bool,
    ended: bool,
    closing: bool,
    linger: Option<Instant>,
    shut: bool,
    send: Option<(Outgoing, Vec<u8>, usize)>,
    handing: Option<(ShardId, u64)>,
    /// It is at its home; what had been read before is still reported here.
    moved: bool,
}

/// What goes wrong, per mille.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub hand_over_fails: usize,
    /// A completion waits for a later pass.
    pub late: usize,
    /// A receive or a send takes only a part.
    pub split: usize,
    /// Most bytes per receive.
    pub receive: usize,
    /// Others go on between two parts of a step.
    pub torn: usize,
    /// A send is made at once, and not when the kernel is next entered.
    pub eager: usize,
}

/// One shard's driver.
pub struct Driver {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<(u32, u32, Event)>,
    /// So many of the queue are handed out before the next harvest.
    harvested: usize,
    pub accepts: VecDeque<(ConnId, ListenerId)>,
    /// Nothing is read and nobody accepted: an upgrade.
    pub suspended: bool,
    /// The shard wants no more accepts for now.
    pub accepts_held: bool,
    /// Hand-overs that succeed: to whom, which connection, which cookie.
    pub departures: Vec<(ShardId, ConnId, u64)>,
    pub faults: Faults,
    /// Hash of everything sent.
    pub trace: u64,
}

impl Driver {
    pub fn new(faults: Faults) -> Self {
        Driver {
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            harvested: 0,
            accepts: VecDeque::new(),
            suspended: false,
            accepts_held: false,
            departures: Vec::new(),
            faults,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Sockets open.
    pub fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.open).count()
    }

    fn new_slot(&mut self, conn: ConnId) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new(0, conn));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        *slot = Slot::new(slot.generation + 1, conn);
        index
    }

    fn push(&mut self, index: u32, event: Event) {
        let generation = self.slots[index as usize].generation;
        self.queue.push_back((index, generation, event));
    }

    /// A socket from another shard.
    pub fn arrive(&mut self, conn: ConnId, cookie: u64) {
        let index = self.new_slot(conn);
        self.push(index, Event::Arrived(cookie));
    }

    /// The kernel loses the sockets that have come from other shards and were not reported.
    pub fn lose_arrivals(&mut self) {
        let Driver { queue, slots, free, .. } = self;
        queue.retain(|(index, _, event)| {
            let is_lost = matches!(event, Event::Arrived(_));
            if is_lost {
                slots[*index as usize].open = false;
                free.push(*index);
            }
            !is_lost
        });
    }

    /// The listener is closed: who was not accepted yet is turned away.
    pub fn stop_listening(&mut self, conns: &mut [Conn], now: Instant) {
        for (conn, _) in self.accepts.drain(..) {
            conns[conn].end(End::Reset, now);
        }
    }

    /// Whether a suspended driver has nothing to report, but for sends that are not read.
    pub fn rests(&self) -> bool {
        self.queue.is_empty()
            && self.departures.is_empty()
            && self.slots.iter().all(|slot| !slot.open || slot.handing.is_none())
    }

    /// Takes back what is being sent, with the part of each that was not.
    pub fn withdraw(&mut self) -> Vec<(SocketId, Outgoing, Vec<u8>)> {
        let mut all = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.open
                && !slot.closing
                && slot.linger.is_none()
                && let Some((outgoing, bytes, at)) = slot.send.take()
            {
                all.push((SocketId(index as u32), outgoing, bytes[at..].to_vec()));
            }
        }
        all
    }

    /// The socket of a connection that another process had.
    pub fn adopt(&mut self, conn: ConnId) -> SocketId {
        SocketId(self.new_slot(conn))
    }

    /// A socket that another process has, too, is not this one's any more.
    pub fn discard(&mut self, socket: SocketId) {
        self.slot(socket).open = false;
        self.free.push(socket.0);
    }

    /// True when a pass would find something.
    pub fn is_ready(&self, conns: &[Conn], now: Instant) -> bool {
        if self.suspended {
            return !self.queue.is_empty();
        }
        !self.queue.is_empty()
            || !self.accepts.is_empty() && !self.accepts_held
            || self.slots.iter().any(|slot| slot.open && slot.is_ready(&conns[slot.conn], now))
    }

    /// True when nothing that a client has sent waits to be read, or to be reported.
    pub fn has_heard_everyone(&self, conns: &[Conn]) -> bool {
        let unread = |slot: &Slot| slot.open && !slot.closing && slot.is_sent_to(&conns[slot.conn]);
        self.queue.is_empty() && !self.slots.iter().any(unread)
    }

    /// The kernel's work: completions for everything that is possible now.
    pub fn harvest(&mut self, conns: &mut [Conn], now: Instant, rng: &mut Rng) {
        for index in 0..self.slots.len() {
            if self.slots[index].open && !rng.chance(self.faults.late) {
                self.poll_slot(index as u32, conns, now, rng);
            }
        }
        self.harvested = self.queue.len();
    }

    /// What is possible now for one socket.
    pub fn poll_slot(&mut self, index: u32, conns: &mut [Conn], now: Instant, rng: &mut Rng) {
        let (faults, suspended) = (self.faults, self.suspended);
        let slot = &mut self.slots[index as usize];
        let conn = &mut conns[slot.conn];
        if let Some((home, cookie)) = slot.handing.take() {
            if rng.chance(faults.hand_over_fails) {
                self.push(index, Event::HandedOver(cookie, false));
            } else {
                self.departures.push((home, slot.conn, cookie));
                (slot.closing, slot.moved) = (true, true);
                self.push(index, Event::HandedOver(cookie, true));
                self.push(index, Event::Closed);
            }
            return;
        }
        let mut completed = None;
        if let Some((_, bytes, at)) = &mut slot.send {
            let broken = conn.client == End::Reset;
            if !broken {
                let room = conn.down_limit.saturating_sub(conn.down.len());
                let most = (bytes.len() - *at).min(room);
                let part = if rng.chance(faults.split) { rng.range(0, most) } else { most };
                for byte in conn.give_down(&bytes[*at..*at + part]) {
                    self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
                *at += part;
            }
            if broken || *at == bytes.len() {
                completed = Some(!broken);
            }
        }
        if let Some(ok) = completed
            && let Some((outgoing, ..)) = slot.send.take()
        {
            if slot.linger.is_some() && !ok {
                slot.begin_close(conn, now);
            }
            let closing = slot.closing;
            self.push(index, Event::Sent(outgoing, ok));
            if closing {
                self.push(index, Event::Closed);
            }
        }
        let slot = &mut self.slots[index as usize];
        if slot.closing {
            return;
        }
        if let Some(deadline) = slot.linger {
            conn.clear_up();
            if slot.send.is_none() && !slot.shut {
                slot.shut = true;
                if conn.client == End::Open
                    && let Some(secure) = &conn.secure
                {
                    secure.check_end();
                }
                conn.end(End::Fin, now);
            }
            if deadline <= now || slot.shut && conn.client != End::Open {
                self.close_now(index, conns, now);
            }
            return;
        }
        if slot.want == Want::Nothing || slot.paused || slot.ended || suspended {
            return;
        }
        if conn.client == End::Reset {
            slot.ended = true;
            self.push(index, Event::Failed);
        } else if conn.is_sent_more() {
            let bytes = conn.take_up(faults.receive.max(1), |most| {
                if rng.chance(faults.split) { rng.range(1, most) } else { most }
            });
            if slot.want == Want::Once {
                slot.want = Want::Nothing;
            }
            self.push(index, Event::Received(bytes));
        } else if conn.client == End::Fin {
            slot.ended = true;
            self.push(index, Event::EndOfStream);
        }
    }

    fn close_now(&mut self, index: u32, conns: &mut [Conn], now: Instant) {
        let slot = &mut self.slots[index as usize];
        if slot.closing || !slot.open {
            return;
        }
        slot.begin_close(&mut conns[slot.conn], now);
        if let Some((outgoing, ..)) = slot.send.take() {
            self.push(index, Event::Sent(outgoing, false));
        }
        self.push(index, Event::Closed);
    }

    /// The connections of all sockets that are open.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.slots.iter().filter(|slot| slot.open && !slot.closing).map(|slot| slot.conn)
    }

    /// Whose socket that is.
    pub fn conn(&self, socket: SocketId) -> ConnId {
        self.slots[socket.0 as usize].conn
    }

    /// Calls `each` with the capacity of every buffer of a send, and with every shared message.
    pub fn visit_output(&self, each: &mut impl FnMut(usize, Option<&Message>)) {
        for (outgoing, ..) in self.slots.iter().filter_map(|slot| slot.send.as_ref()) {
            outgoing.visit(each);
        }
        for (.., event) in &self.queue {
            if let Event::Sent(outgoing, _) = event {
                outgoing.visit(each);
            }
        }
    }

    /// Completions that the shard has not been told yet.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether a send to that connection is under way.
    pub fn is_sending(&self, conn: ConnId) -> bool {
        self.slots.iter().any(|slot| slot.open && slot.conn == conn && slot.send.is_some())
    }

    /// The open socket of a connection, if it is here.
    pub fn socket(&self, conn: ConnId) -> Option<SocketId> {
        let at = self.slots.iter().position(|slot| slot.open && slot.conn == conn)?;
        Some(SocketId(at as u32))
    }

    /// Visits one completion; `None` when there is none.
    pub fn next(&mut self) -> Option<(SocketId, Event)> {
        loop {
            // Accepted last: so a place that was freed in this pass is taken again in it.
            let harvested = self.harvested > 0;
            let Some((index, generation, event)) =
                harvested.then(|| self.queue.pop_front()).flatten()
            else {
                if self.accepts_held || self.suspended {
                    return None;
                }
                let (conn, listener) = self.accepts.pop_front()?;
                return Some((SocketId(self.new_slot(conn)), Event::Accepted(listener)));
            };
            self.harvested -= 1;
            let slot = &mut self.slots[index as usize];
            if slot.generation != generation || !slot.open {
                continue;
            }
            match event {
                Event::Received(_) | Event::EndOfStream | Event::Failed
                    if slot.closing && !slot.moved || slot.linger.is_some() =>
                {
                    continue;
                }
                Event::Closed => {
                    slot.open = false;
                    self.free.push(index);
                }
                _ => {}
            }
            return Some((SocketId(index), event));
        }
    }

    /// Carries out what the shard wants.
    pub fn act(&mut self, action: Action, conns: &mut [Conn], now: Instant) {
        match action {
            Action::ReceiveOnce(socket) => self.receive(socket, Want::Once),
            Action::ReceiveStream(socket) => self.receive(socket, Want::Stream),
            Action::Pause(socket) => self.pause(socket, conns),
            Action::Resume(socket) => self.slot(socket).paused = false,
            Action::Send(socket, outgoing) => {
                let slot = self.slot(socket);
                assert!(slot.send.is_none(), "one send in flight per socket");
                assert!(slot.handing.is_none(), "no send on a socket that is handed over");
                if slot.closing || slot.linger.is_some() || !slot.open {
                    self.push(socket.0, Event::Sent(outgoing, false));
                    return;
                }
                let bytes = flatten(&outgoing);
                assert!(!bytes.is_empty(), "an empty send");
                slot.send = Some((outgoing, bytes, 0));
            }
            Action::Finish(socket) => {
                let slot = self.slot(socket);
                if !slot.closing && slot.linger.is_none() {
                    slot.linger = Some(now.plus_millis(2000));
                }
            }
            Action::Close(socket) => self.close_now(socket.0, conns, now),
            Action::HandOver(socket, home, cookie) => {
                let slot = self.slot(socket);
                assert!(slot.send.is_none() && slot.handing.is_none(), "nothing in flight");
                self.stop_receiving(socket, conns);
                let slot = self.slot(socket);
                slot.want = Want::Nothing;
                slot.handing = Some((home, cookie));
            }
            Action::HoldAccepts(held) => self.accepts_held = held,
            Action::Ask(_) => panic!("a question is for a helper thread"),
        }
    }

    fn pause(&mut self, socket: SocketId, conns: &mut [Conn]) {
        self.slot(socket).paused = true;
        self.stop_receiving(socket, conns);
    }

    /// Stops reading; with late completions, what had arrived before is still reported.
    fn stop_receiving(&mut self, socket: SocketId, conns: &mut [Conn]) {
        let Faults { late, receive, .. } = self.faults;
        let slot = self.slot(socket);
        let reading = slot.want != Want::Nothing && !slot.ended && slot.linger.is_none();
        if late == 0 || slot.closing || !reading {
            return;
        }
        let conn = &mut conns[slot.conn];
        if conn.is_sent_more() {
            let bytes = conn.take_up(receive.max(1), |most| most);
            self.push(socket.0, Event::Received(bytes));
        } else if conn.client == End::Fin {
            slot.ended = true;
            self.push(socket.0, Event::EndOfStream);
        }
    }

    fn receive(&mut self, socket: SocketId, want: Want) {
        let slot = self.slot(socket);
        slot.want = want;
        slot.paused = false;
    }

    fn slot(&mut self, socket: SocketId) -> &mut Slot {
        &mut self.slots[socket.0 as usize]
    }
}

impl Slot {
    fn new(generation: u32, conn: ConnId) -> Slot {
        Slot {
            generation,
            open: true,
            conn,
            want: Want::Nothing,
            paused: false,
            ended: false,
            closing: false,
            linger: None,
            shut: false,
            send: None,
            handing: None,
            moved: false,
        }
    }

    fn begin_close(&mut self, conn: &mut Conn, now: Instant) {
        self.closing = true;
        self.want = Want::Nothing;
        // What the client had sent and nobody read makes the kernel reset the connection.
        conn.end(if conn.is_sent_more() { End::Reset } else { End::Fin }, now);
        conn.clear_up();
    }

    /// A receive would find something.
    fn is_sent_to(&self, conn: &Conn) -> bool {
        self.want != Want::Nothing
            && !self.paused
            && !self.ended
            && (conn.is_sent_more() || conn.client != End::Open)
    }

    fn is_ready(&self, conn: &Conn, now: Instant) -> bool {
        if self.closing {
            return false;
        }
        let sending = self.send.as_ref().is_some_and(|(_, bytes, at)| {
            conn.client == End::Reset || *at == bytes.len() || conn.down.len() < conn.down_limit
        });
        let receiving = self.is_sent_to(conn);
        let lingering = self.linger.is_some_and(|deadline| {
            deadline <= now
                || self.send.is_none() && (!self.shut || conn.client != End::Open)
                || conn.is_sent_more()
        });
        self.handing.is_some() || sending || (receiving && self.linger.is_none()) || lingering
    }
}

fn flatten(outgoing: &Outgoing) -> Vec<u8> {
    match outgoing {
        Outgoing::One(bytes) => bytes.clone(),
        Outgoing::Many(segments) => segments
            .iter()
            .flat_map(|segment| match segment {
                Segment::Bytes(bytes) => bytes.clone(),
                Segment::Shared(message, range) => message.bytes()[range.clone()].to_vec(),
            })
            .collect(),
    }
}

/// Tells the shard, as the broker's core does.
pub fn tell(shard: &mut Shard, socket: SocketId, event: Event) {
    match event {
        Event::Accepted(listener) => {
            let address = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
            shard.accepted(socket, listener, Peer::Tcp(address, 1));
        }
        Event::Received(bytes) => shard.received(socket, &bytes),
        Event::EndOfStream => shard.end_of_stream(socket),
        Event::Failed => shard.failed(socket, 104),
        Event::Sent(outgoing, ok) => shard.sent(socket, outgoing, ok),
        Event::Closed => shard.closed(socket),
        Event::Arrived(cookie) => shard.arrived(socket, cookie),
        Event::HandedOver(cookie, ok) => shard.handed_over(socket, cookie, ok),
    }
}
