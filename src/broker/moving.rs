//! A core's part in an upgrade: its clients are packed for another process, or taken in from one.
//! While a core packs it does nothing else but obey.

use super::around::take_event;
use super::store::StoredShard;
use crate::ids::{ListenerId, ShardId, SocketId};
use crate::limits::MOVE_BATCH;
use crate::mesh::ListenerState;
use crate::message::Message;
use crate::ring::{Driver, Event};
use crate::shard::{Inventory, PackCursor, Packed, Shard};
use crate::upgrade::UpgradeFrame;
use crate::upgrade::client::{Early, MovedClient, Remainder};
use crate::upgrade::frame::{Ban, UpgradeTotals};
use crossbeam_channel::{Sender, TrySendError};
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
/// How often those are copied who have come since.
const ROUNDS: u32 = 4;
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
    /// Copy what can be copied of clients that are still served; the channel is closed behind the
    /// last parcel.
    Copy(Sender<Parcel>),
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
    /// All have come who will.
    EndUnclaimed,
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
    /// What it is as a whole.
    Whole(Box<MovedClient>, Option<(SocketSource, ListenerId)>),
    /// What was copied of it while the old process serves it; its socket is the next one.
    Early(Box<Early>),
    /// What was not copied before.
    Rest(Box<Remainder>, ListenerId),
}

/// Where a client's socket is.
pub(super) enum SocketSource {
    /// It is the next of those that came with them.
    Next,
    /// It was copied before, by that shard under that number.
    Copied(ShardId, u32),
}

/// Clients that came from another process.
pub(super) struct ArrivedClients {
    pub clients: Vec<IncomingClient>,
    pub files: Vec<OwnedFd>,
    /// With the accounts that each is on.
    pub retained: Vec<(u64, Message)>,
    /// Who may not connect for a while; common to all shards.
    pub bans: Vec<Ban>,
    /// Told how many clients were taken in, or why they could not be.
    pub taken: Sender<Result<UpgradeTotals, String>>,
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
    cursor: PackCursor,
    /// A parcel that found no room yet.
    ready: Option<Parcel>,
    /// The last one is ready or gone.
    done: bool,
}

/// Clients are copied, some in each step.
struct Copying {
    to: Sender<Parcel>,
    /// The next socket to look at.
    cursor: u32,
    /// Times that all were looked at.
    rounds: u32,
    /// Copied in this round.
    copied: usize,
    /// Sockets whose copies are awaited.
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
                let parcel = Parcel::default();
                let (cursor, rounds, copied, awaited) = (0, 0, 0, 0);
                let copying = Copying { to, cursor, rounds, copied, awaited, parcel };
                self.copying = Some(copying);
            }
            MoveOrder::ForgetCopies => self.forget_copies(shard, driver),
            MoveOrder::Pack(to) => {
                driver.withdraw_sends();
                let cursor = PackCursor::default();
                self.packing = Some(Packing { to, cursor, ready: None, done: false });
            }
            MoveOrder::GoOn => {
                (self.packing, self.suspended) = (None, false);
                self.forget_copies(shard, driver);
                shard.go_on_after_suspension();
                driver.go_on();
            }
            MoveOrder::Enroll(listener, state) => shard.open_listener(listener, state),
            MoveOrder::TakeIn(arrived) => {
                let ArrivedClients { clients, files, retained, bans, taken } = *arrived;
                shard.adopt_bans(bans);
                let _ = taken.send(take_in(clients, files, retained, shard, driver));
            }
            MoveOrder::EndUnclaimed => shard.end_unclaimed(),
            // The core does that itself.
            MoveOrder::Store(..) => {}
            MoveOrder::CheckStored(to) => drop(to.send(shard.check_stored())),
            MoveOrder::Serve => {
                self.suspended = false;
                driver.go_on();
                shard.serve_adopted();
            }
        }
    }

    fn forget_copies(&mut self, shard: &mut Shard, driver: &mut Driver) {
        self.copying = None;
        shard.forget_all_early();
        driver.forget_copies();
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
                    let frame = UpgradeFrame::Early(Box::new(early));
                    match frame.encode(&mut self.parcel.frames) {
                        Ok(()) => self.parcel.files.push(file),
                        Err(_) => self.parcel.failed = Some(TOO_LONG.to_owned()),
                    }
                }
                Err(errno) => self.parcel.failed = Some(not_exported(errno)),
            }
        }
        if self.awaited > 0 {
            return CopyPace::More;
        }
        let failed = self.parcel.failed.is_some();
        if failed || !self.parcel.files.is_empty() {
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
        match shard.next_early(&mut self.cursor, COPIES) {
            Some(sockets) => {
                self.awaited = sockets.into_iter().filter(|&socket| driver.copy(socket)).count();
                self.copied += self.awaited;
                CopyPace::More
            }
            // Who has come meanwhile is copied in another round.
            None if self.copied > COPIES && self.rounds < ROUNDS => {
                (self.cursor, self.copied) = (0, 0);
                self.rounds += 1;
                CopyPace::More
            }
            None => CopyPace::Nothing,
        }
    }
}

/// The next parcel; `None` when all was packed.
fn pack(cursor: &mut PackCursor, shard: &mut Shard, driver: &mut Driver) -> Option<Parcel> {
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
    while let Some(packed) = shard.pack_next(cursor) {
        let totals = &mut parcel.totals;
        let frame = match packed {
            Packed::Online(socket, client) => {
                sockets.push(socket);
                totals.connections += 1;
                totals.sessions += u64::from(client.session.is_some());
                UpgradeFrame::Client(client)
            }
            Packed::Known(from, number, client) => {
                totals.connections += 1;
                totals.sessions += u64::from(client.session.is_some());
                // It is short.
                let _ = UpgradeFrame::Known(from, number).encode(&mut parcel.frames);
                UpgradeFrame::Client(client)
            }
            Packed::Rest(rest) => {
                totals.connections += 1;
                totals.sessions += 1;
                UpgradeFrame::Rest(rest)
            }
            Packed::Offline(client) => {
                totals.sessions += 1;
                UpgradeFrame::Client(client)
            }
            Packed::Retained(messages) => {
                totals.retained += messages.len() as u64;
                UpgradeFrame::Retained(messages)
            }
            Packed::Bans(bans) => UpgradeFrame::Bans(bans),
        };
        if frame.encode(&mut parcel.frames).is_err() {
            parcel.failed = Some(TOO_LONG.to_owned());
            return Some(parcel);
        }
        if sockets.len() == MOVE_BATCH || parcel.frames.len() > PARCEL {
            all = false;
            break;
        }
    }
    if all && parcel.frames.is_empty() {
        return None;
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
    // The kernel completes them in their order, but does not promise it.
    files.sort_by_key(|(socket, _)| *socket);
    files.into_iter().map(|(_, file)| file.map_err(not_exported)).collect()
}

fn not_exported(errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    format!("a socket cannot be given a descriptor ({error}); Linux 6.8 or newer is needed")
}

/// Puts sockets into the rings, and clients into the shard.
fn take_in(
    clients: Vec<IncomingClient>,
    files: Vec<OwnedFd>,
    retained: Vec<(u64, Message)>,
    shard: &mut Shard,
    driver: &mut Driver,
) -> Result<UpgradeTotals, String> {
    let mut totals = UpgradeTotals::default();
    let mut sockets = take_sockets(files, shard, driver)?.into_iter();
    let mut next = || sockets.next().ok_or_else(|| "a socket is missing".to_owned());
    for coming in clients {
        match coming {
            IncomingClient::Early(early) => shard.adopt_early(*early, next()?)?,
            IncomingClient::Rest(rest, listener) => {
                totals.sessions += 1;
                totals.connections += 1;
                shard.adopt_rest(*rest, listener)?;
            }
            IncomingClient::Whole(client, connection) => {
                totals.sessions += u64::from(client.session.is_some());
                totals.connections += u64::from(connection.is_some());
                let connection = match connection {
                    None => None,
                    Some((SocketSource::Next, listener)) => Some((next()?, listener)),
                    Some((SocketSource::Copied(from, number), listener)) => {
                        Some((shard.take_early_socket(from, number)?, listener))
                    }
                };
                shard.adopt(*client, connection)?;
            }
        }
    }
    totals.retained = retained.len() as u64;
    retained.into_iter().for_each(|(accounts, message)| shard.adopt_retained(message, accounts));
    Ok(totals)
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
