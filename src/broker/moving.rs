//! A core's part in an upgrade: its clients are packed for another process, or taken in from one.
//! While a core packs it does nothing else but obey.

use super::around::take_event;
use super::store::StoredShard;
use crate::ids::{ListenerId, ShardId, SocketId};
use crate::limits::MOVE_BATCH;
use crate::mesh::ListenerState;
use crate::ring::{Driver, Event};
use crate::shard::{
    ClientOffence, ComingRetained, DueCopies, Inventory, NetworkOffence, PackCursor, Packed, Shard,
};
use crate::upgrade::UpgradeFrame;
use crate::upgrade::client::{Early, MovedClient, Remainder};
use crate::upgrade::frame::{Ban, UpgradeTotals};
use crossbeam_channel::{Sender, TrySendError};
use hashbrown::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroize;

/// Bytes of clients without a socket that make a parcel.
const PARCEL: usize = 256 * 1024;
/// How long a core that cannot give its parcel away waits before it tries again.
const NAP: Duration = Duration::from_micros(100);
/// Clients that are copied beside one step, at most.
const COPIES: usize = 32;
const TOO_LONG: &str = "a client has more waiting than can be moved";
/// How long the kernel may take to withdraw sends, export sockets or take them in: it does so while
/// it is told.
const KERNEL: Duration = Duration::from_secs(5);

/// What a core is told.
pub(super) enum MoveOrder {
    /// Say what there is.
    Inventory(Sender<(ShardId, Inventory)>),
    /// Read nothing, accept nobody, let no timer fire.
    Suspend,
    /// Say whether all has come to rest.
    AskRest(Sender<SuspendedCore>),
    /// Give second descriptors of the listening sockets.
    Listening(Sender<std::io::Result<Vec<(ListenerId, OwnedFd)>>>),
    /// Copy clients that are still served; the channel is closed behind the last parcel.
    Copy(Sender<Parcel>),
    /// Copy those again that have changed since.
    CopyChanged(Sender<Parcel>),
    /// The copies are of no use.
    ForgetCopies,
    /// Pack everything; the channel is closed behind the last parcel.
    Pack(Sender<Parcel>),
    /// Serve again.
    GoOn,
    /// Connections of that listener may be taken in.
    Enroll(ListenerId, Arc<ListenerState>),
    /// Go on with the files of a store that is handed over, and answer.
    Store(Box<StoredShard>, Sender<Result<(), String>>),
    /// Take these clients in.
    TakeIn(Box<ArrivedClients>),
    /// All have come who will: copies of which it is not known that they are right are of no use.
    /// These shards of the old process have said what has changed, of so many.
    EndStale(Arc<[ShardId]>, u8),
    /// Say what has been taken in.
    CountHeld(Sender<UpgradeTotals>),
    /// Say whether every session of the store has come.
    CheckStored(Sender<Result<(), String>>),
    /// Serve those that were taken in.
    Serve,
}

/// How far a suspended core has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SuspendedCore {
    /// Whose answer it is.
    pub shard: ShardId,
    /// What is still under way.
    pub under_way: Option<&'static str>,
    /// Mails it has put into and taken from mailboxes, ever.
    pub mails: [u64; 2],
}

/// Some clients, packed: frames, and the sockets that belong to them, in the order of the frames.
/// The frames have secrets of TLS in them: they are wiped.
#[derive(Default)]
pub(super) struct Parcel {
    pub files: Vec<OwnedFd>,
    pub frames: Vec<u8>,
    pub totals: UpgradeTotals,
    /// It could not be packed, and why.
    pub failed: Option<String>,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.frames.zeroize();
    }
}

/// Something of a client, with the listener of its connection here.
pub(super) enum IncomingClient {
    /// What it is as a whole; its socket is the next one, if it has a listener.
    Whole(Box<MovedClient>, Option<ListenerId>),
    /// The copy that was made while the old process serves it; its socket is the next one, if it
    /// has a listener.
    Early(Box<Early>, Option<ListenerId>),
    /// What has changed since it was copied.
    Rest(Box<Remainder>, ListenerId),
    /// It was copied by that shard under that number, and comes again.
    Again(ShardId, u32, Box<MovedClient>, Option<ListenerId>),
    /// What was copied by that shard under that number is of no use any more.
    Gone(ShardId, u32),
    /// What has changed of it follows.
    Stale(ShardId, u32),
}

/// Clients that came from another process.
pub(super) struct ArrivedClients {
    pub clients: Vec<IncomingClient>,
    pub files: Vec<OwnedFd>,
    /// Retained messages, in the order in which they came.
    pub retained: Vec<ComingRetained>,
    /// Who may not connect for a while; common to all shards.
    pub bans: Vec<Ban>,
    /// What may lead to bans.
    pub offences: (Vec<ClientOffence>, Vec<NetworkOffence>),
    /// What shards of the other process have counted.
    pub counted: Vec<(Box<str>, u64)>,
    /// Told how many clients were taken in, or why they could not be.
    pub taken: Sender<Result<u32, String>>,
}

/// What a core knows of an upgrade.
#[derive(Default)]
pub(super) struct CoreUpgrade {
    packing: Option<Packing>,
    copying: Option<Copying>,
    /// Clients are not listened to, and what bridges and the API want to publish waits.
    pub(super) suspended: bool,
}

struct Packing {
    to: Sender<Parcel>,
    cursor: PackProgress,
    /// A parcel that found no room yet.
    ready: Option<Parcel>,
    /// The last one is ready or gone.
    done: bool,
}

/// How far the packing has come.
#[derive(Default)]
struct PackProgress {
    cursor: PackCursor,
    /// The copies were counted: everything was packed.
    counted: bool,
}

/// Clients are copied, some in each step.
struct Copying {
    to: Sender<Parcel>,
    /// Sockets whose other descriptors are awaited.
    awaited: usize,
    parcel: Parcel,
}

/// What copying asks of its core.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyPace {
    /// There are none to be made.
    Nothing,
    /// More can be made at once.
    More,
    /// The other process has to take some in first.
    Wait,
}

impl CoreUpgrade {
    /// Does what it is told. `mail`: there is some in its mailboxes.
    pub(super) fn obey(
        &mut self,
        order: MoveOrder,
        shard: &mut Shard,
        driver: &mut Driver,
        mail: bool,
    ) {
        // Who asked may have gone: the upgrade is over for it.
        match order {
            MoveOrder::Inventory(to) => drop(to.send((shard.id(), shard.inventory()))),
            MoveOrder::Suspend => {
                self.suspended = true;
                shard.suspend();
                driver.suspend();
            }
            MoveOrder::AskRest(to) => {
                let mail = mail.then_some("mail between shards");
                let driver = (!driver.rests()).then_some("reads that are being cancelled");
                let under_way = mail.or(driver).or_else(|| shard.under_way());
                let mails = [shard.counters.mail_sent, shard.counters.mail_received];
                let _ = to.send(SuspendedCore { shard: shard.id(), under_way, mails });
            }
            MoveOrder::Listening(to) => drop(to.send(driver.listening())),
            MoveOrder::Copy(to) => {
                driver.share_core(true);
                shard.begin_copies();
                self.copying = Some(Copying { to, awaited: 0, parcel: Parcel::default() });
            }
            MoveOrder::CopyChanged(to) => {
                shard.look_for_changes();
                self.copying = Some(Copying { to, awaited: 0, parcel: Parcel::default() });
            }
            MoveOrder::ForgetCopies => self.forget_copies(shard, driver),
            MoveOrder::Pack(to) => {
                driver.withdraw_sends();
                let cursor = PackProgress::default();
                self.packing = Some(Packing { to, cursor, ready: None, done: false });
            }
            MoveOrder::GoOn => {
                (self.packing, self.suspended) = (None, false);
                self.forget_copies(shard, driver);
                shard.go_on_after_suspension();
                driver.go_on();
            }
            MoveOrder::Enroll(listener, state) => {
                driver.share_core(true);
                shard.open_listener(listener, state);
            }
            MoveOrder::TakeIn(arrived) => {
                let ArrivedClients { clients, files, retained, bans, offences, counted, taken } =
                    *arrived;
                shard.adopt_bans(bans);
                shard.adopt_offences(offences.0, offences.1);
                shard.adopt_counters(counted);
                let _ = taken.send(take_in(clients, files, retained, shard, driver));
            }
            MoveOrder::EndStale(told, shards) => _ = shard.end_stale(&told, shards),
            MoveOrder::CountHeld(to) => drop(to.send(shard.taken_in())),
            // The core does that itself.
            MoveOrder::Store(..) => {}
            MoveOrder::CheckStored(to) => drop(to.send(shard.check_stored())),
            MoveOrder::Serve => {
                self.suspended = false;
                driver.go_on();
                driver.share_core(false);
                shard.serve_adopted();
            }
        }
    }

    fn forget_copies(&mut self, shard: &mut Shard, driver: &mut Driver) {
        self.copying = None;
        shard.forget_all_early();
        driver.forget_copies();
        driver.share_core(false);
    }

    /// Copies some clients, beside a step.
    pub(super) fn copy(&mut self, shard: &mut Shard, driver: &mut Driver) -> CopyPace {
        let Some(copying) = &mut self.copying else {
            driver.drop_copies();
            return CopyPace::Nothing;
        };
        let asks = copying.go_on(shard, driver);
        if asks == CopyPace::Nothing {
            // The receiver sees the end of it.
            self.copying = None;
        }
        asks
    }

    /// Packs a parcel while that is asked for; true then.
    pub(super) fn pack(&mut self, shard: &mut Shard, driver: &mut Driver) -> bool {
        let Some(packing) = &mut self.packing else { return false };
        if packing.ready.is_none() && !packing.done {
            let parcel = pack(&mut packing.cursor, shard, driver);
            packing.ready = Some(parcel.unwrap_or_else(|| {
                packing.done = true;
                Parcel::default()
            }));
        }
        let Some(parcel) = packing.ready.take() else {
            // All is packed; what becomes of it is told.
            driver.nap(NAP, || false);
            return true;
        };
        let failed = parcel.failed.is_some();
        match packing.to.try_send(parcel) {
            Ok(()) => {
                packing.done |= failed;
                if packing.done {
                    // The receiver sees the end of it.
                    packing.to = crossbeam_channel::bounded(0).0;
                }
            }
            Err(TrySendError::Full(parcel)) => {
                packing.ready = Some(parcel);
                driver.nap(NAP, || false);
            }
            Err(TrySendError::Disconnected(_)) => packing.done = true,
        }
        true
    }
}

impl Copying {
    /// [`CopyPace::Nothing`] when it is over.
    fn go_on(&mut self, shard: &mut Shard, driver: &mut Driver) -> CopyPace {
        for (socket, file) in driver.take_copies() {
            self.awaited = self.awaited.saturating_sub(1);
            match file {
                Ok(None) => {}
                Ok(Some(file)) => {
                    let Some(early) = shard.pack_early(socket) else { continue };
                    self.put(&UpgradeFrame::Early(Box::new(early)));
                    self.parcel.files.push(file);
                    driver.watch(socket);
                }
                Err(errno) => self.parcel.failed = Some(not_exported(errno)),
            }
        }
        if self.awaited > 0 {
            return CopyPace::More;
        }
        let failed = self.parcel.failed.is_some();
        if failed || !self.parcel.frames.is_empty() {
            match self.to.try_send(std::mem::take(&mut self.parcel)) {
                Ok(()) if failed => return CopyPace::Nothing,
                Ok(()) => {}
                Err(TrySendError::Full(parcel)) => {
                    self.parcel = parcel;
                    return CopyPace::Wait;
                }
                Err(TrySendError::Disconnected(_)) => return CopyPace::Nothing,
            }
        }
        let Some(DueCopies { sockets, packed, again }) = shard.next_copies(COPIES) else {
            return CopyPace::Nothing;
        };
        for packed in packed {
            let (known, frame) = framed(packed);
            known.iter().chain([&frame]).for_each(|frame| self.put(frame));
        }
        again.into_iter().for_each(|socket| driver.watch(socket));
        self.awaited = sockets.into_iter().filter(|&socket| driver.copy(socket)).count();
        CopyPace::More
    }

    fn put(&mut self, frame: &UpgradeFrame) {
        self.parcel.totals.sessions += 1;
        if frame.encode(&mut self.parcel.frames).is_err() {
            self.parcel.failed = Some(TOO_LONG.to_owned());
        }
    }
}

/// The frames of something that is packed, in their order.
fn framed(packed: Packed) -> (Option<UpgradeFrame>, UpgradeFrame) {
    let frame = match packed {
        Packed::Online(_, client) | Packed::Offline(client) => UpgradeFrame::Client(client),
        Packed::Known(from, number, client) => {
            return (Some(UpgradeFrame::Known(from, number)), UpgradeFrame::Client(client));
        }
        Packed::Rest(rest) => UpgradeFrame::Rest(rest),
        Packed::Early(early) => UpgradeFrame::Early(early),
        Packed::Gone(from, numbers) => UpgradeFrame::Gone(from, numbers),
        Packed::Stale(from, numbers, retained) => UpgradeFrame::Stale(from, numbers, retained),
        Packed::Retained(messages) => UpgradeFrame::Retained(messages),
        Packed::Unretained(topics) => UpgradeFrame::Unretained(topics),
        Packed::Counters(from, counted) => UpgradeFrame::Counters(from, counted),
        Packed::Offences(clients, networks) => UpgradeFrame::Offences(clients, networks),
        Packed::Bans(bans) => UpgradeFrame::Bans(bans),
    };
    (None, frame)
}

/// The next parcel; `None` when all was packed.
fn pack(progress: &mut PackProgress, shard: &mut Shard, driver: &mut Driver) -> Option<Parcel> {
    let totals = UpgradeTotals::default();
    let until = Instant::now() + KERNEL;
    while driver.is_withdrawing() {
        driver.pass(MOVE_BATCH, &mut |_, event| take_event(shard, event));
        if Instant::now() > until {
            let failed = Some("sends that cannot be withdrawn".to_owned());
            return Some(Parcel { files: Vec::new(), frames: Vec::new(), totals, failed });
        }
    }
    let mut parcel = Parcel::default();
    let mut sockets = Vec::new();
    let mut all = true;
    while let Some(packed) = shard.pack_next(&mut progress.cursor) {
        parcel.totals.add(&packed.adds());
        if let Packed::Online(socket, _) = &packed {
            sockets.push(*socket);
        }
        let (known, frame) = framed(packed);
        let put = |frame: &UpgradeFrame| frame.encode(&mut parcel.frames).is_err();
        if known.iter().chain([&frame]).any(put) {
            parcel.failed = Some(TOO_LONG.to_owned());
            return Some(parcel);
        }
        if sockets.len() == MOVE_BATCH || parcel.frames.len() > PARCEL {
            all = false;
            break;
        }
    }
    if all {
        if std::mem::replace(&mut progress.counted, true) {
            return None;
        }
        parcel.totals.add(&shard.copies());
    }
    match export(&sockets, shard, driver) {
        Ok(files) => parcel.files = files,
        Err(failed) => parcel.failed = Some(failed),
    }
    Some(parcel)
}

/// Ordinary descriptors of the sockets, in their order.
fn export(
    sockets: &[SocketId],
    shard: &mut Shard,
    driver: &mut Driver,
) -> Result<Vec<OwnedFd>, String> {
    sockets.iter().for_each(|&socket| driver.export(socket));
    let mut files: Vec<(SocketId, Result<OwnedFd, i32>)> = Vec::with_capacity(sockets.len());
    let until = Instant::now() + KERNEL;
    while files.len() < sockets.len() {
        driver.pass(MOVE_BATCH, &mut |_, event| match event {
            Event::Exported { socket, file } => files.push((socket, file)),
            event => take_event(shard, event),
        });
        if Instant::now() > until {
            return Err("the kernel does not export sockets".to_owned());
        }
    }
    sort_like(sockets, &mut files);
    files.into_iter().map(|(_, file)| file.map_err(not_exported)).collect()
}

/// Puts what came of the sockets into the order of the sockets. The kernel completes operations in
/// the order in which they began, but does not promise it.
fn sort_like<T>(sockets: &[SocketId], results: &mut [(SocketId, T)]) {
    let places = sockets.iter().enumerate().map(|(place, &socket)| (socket, place));
    let places: HashMap<SocketId, usize> = places.collect();
    results.sort_by_key(|(socket, _)| places.get(socket));
}

fn not_exported(errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    format!("a socket cannot be given a descriptor ({error}); Linux 6.8 or newer is needed")
}

/// Puts sockets into the rings, and clients into the shard.
fn take_in(
    clients: Vec<IncomingClient>,
    files: Vec<OwnedFd>,
    retained: Vec<ComingRetained>,
    shard: &mut Shard,
    driver: &mut Driver,
) -> Result<u32, String> {
    let count = clients.len() as u32;
    let mut sockets = take_sockets(files, shard, driver)?.into_iter();
    let mut next = || sockets.next().ok_or_else(|| "a socket is missing".to_owned());
    for coming in clients {
        match coming {
            IncomingClient::Early(early, listener) => {
                let socket = listener.map(|_| next()).transpose()?;
                socket.into_iter().for_each(|socket| driver.watch(socket));
                shard.adopt_early(*early, socket.zip(listener))?;
            }
            IncomingClient::Rest(rest, listener) => shard.adopt_rest(*rest, listener)?,
            IncomingClient::Again(from, number, client, listener) => {
                shard.adopt_again(from, number, *client, listener)?;
            }
            IncomingClient::Gone(from, number) => shard.end_early(from, number)?,
            IncomingClient::Stale(from, number) => shard.mark_stale(from, number)?,
            IncomingClient::Whole(client, listener) => {
                let socket = listener.map(|_| next()).transpose()?;
                shard.adopt(*client, socket.zip(listener))?;
            }
        }
    }
    retained.into_iter().for_each(|retained| shard.adopt_retained(retained));
    Ok(count)
}

fn take_sockets(
    files: Vec<OwnedFd>,
    shard: &mut Shard,
    driver: &mut Driver,
) -> Result<Vec<SocketId>, String> {
    let count = files.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    driver.take_over(files, 0).map_err(|count| format!("no ring has room for {count} sockets"))?;
    let mut sockets: Vec<Option<SocketId>> = vec![None; count];
    let (mut answered, mut failed) = (0, None);
    let until = Instant::now() + KERNEL;
    while answered < count {
        driver.pass(MOVE_BATCH, &mut |_, event| match event {
            Event::TakenOver { socket, cookie } => {
                answered += 1;
                match (socket, sockets.get_mut(cookie as usize)) {
                    (Ok(socket), Some(place)) => *place = Some(socket),
                    (Err(errno), _) => failed = Some(errno),
                    (Ok(_), None) => {}
                }
            }
            event => take_event(shard, event),
        });
        if Instant::now() > until {
            return Err("the kernel does not take sockets in".to_owned());
        }
    }
    if let Some(errno) = failed {
        let error = std::io::Error::from_raw_os_error(errno);
        return Err(format!("a ring cannot take a socket: {error}"));
    }
    Ok(sockets.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise clients get each other's sockets.
    #[test]
    fn sockets_are_exported_in_the_order_of_their_clients() {
        let orders = [[1, 5, 9, 700], [700, 9, 5, 1], [9, 1, 700, 5]];
        for (clients, completed) in orders.iter().flat_map(|a| orders.iter().map(move |b| (a, b))) {
            let clients = clients.map(SocketId);
            let mut results = completed.map(|socket| (SocketId(socket), socket));
            sort_like(&clients, &mut results);
            assert_eq!(results.map(|(socket, _)| socket), clients);
        }
    }
}
