//! The running broker's side of an upgrade, on a thread of its own: it starts the new process,
//! talks to it, and has the cores rest, pack and go on.

use super::super::moving::{MoveOrder, Parcel};
use super::super::questions::Home;
use super::channel::{Channel, ChannelInput};
use super::{ANSWER, AtRest, IN_HAND, LOOK, ask, tell};
use crate::cluster::serve::NodeMove;
use crate::cluster::start::NodeHandle;
use crate::ids::ListenerId;
use crate::limits::UPGRADE_KERNEL;
use crate::ring;
use crate::shard::Inventory;
use crate::upgrade::UpgradeFrame;
use crate::upgrade::code::SecretBytes;
use crate::upgrade::frame::{Hello, MovedListener, UpgradeTotals};
use crate::upgrade::sides::{Old, OldInput, OldOrder};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Parcels that wait between the cores and the socket.
const PARCELS: usize = 4;
/// Parcels that the new process has not taken in yet, at most: each holds descriptors.
const AHEAD: usize = 8;
/// How long a process that refuses may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// How long copying clients may take, which are served meanwhile.
const COPYING: Duration = Duration::from_secs(90);
/// How often clients are copied again that have changed since, at most.
const ROUNDS: usize = 8;
/// So few clients that have changed are not worth another round.
const FEW: u64 = 256;
/// How long sending all clients may take: they are silent meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// What an upgrade needs.
pub(in super::super) struct UpgradeJob {
    pub homes: Vec<Home>,
    /// Listeners by their numbers: name and configured address.
    pub listeners: Vec<(ListenerId, String, String)>,
    /// Keys for tickets of TLS.
    pub tickets: Vec<(ListenerId, SecretBytes)>,
    pub hello: Hello,
    /// The cluster's thread, if this is a node of one, and how many other nodes it knows.
    pub node: Option<NodeHandle>,
    pub others: usize,
    /// That of the store, if there is one.
    pub lock: Option<OwnedFd>,
    pub binary: PathBuf,
    pub arguments: Vec<OsString>,
    /// Only find out whether it could be.
    pub dry_run: bool,
}

/// The new process waits for the end of this before it takes what only one of them can have:
/// addresses of admin servers, what the other ends of bridges know, their files.
pub(in super::super) struct Farewell(#[expect(dead_code, reason = "it is closed")] Channel);

/// How it ended.
pub(in super::super) enum UpgradeOutcome {
    /// The new process serves; its number, what to say, and when that is to be over.
    Gone(u32, String, Farewell),
    /// This one serves on, and why.
    Stays(String),
    /// It was only to be found out; what to say.
    Possible(String),
    /// This one has to end, and why.
    Lost(String),
}

struct Upgrade {
    job: UpgradeJob,
    channel: Channel,
    child: Child,
    /// Clients are being copied, or were.
    copied: bool,
    /// Parcels that the new process has not taken in yet.
    ahead: usize,
    began: Instant,
    /// When each stage began: copying, resting, sending, settling, committing.
    stages: Vec<Instant>,
    suspended: Option<Instant>,
}

/// Carries it out.
pub(in super::super) fn run(job: UpgradeJob) -> UpgradeOutcome {
    match ring::can_export() {
        Ok(true) => {}
        Ok(false) => {
            let (major, minor) = UPGRADE_KERNEL;
            return UpgradeOutcome::Stays(format!(
                "this kernel cannot give a socket of a ring away: Linux {major}.{minor} or newer \
                 is needed"
            ));
        }
        Err(failure) => return UpgradeOutcome::Stays(failure.to_string()),
    }
    match Upgrade::begin(job) {
        Ok(upgrade) => upgrade.go(),
        Err(why) => UpgradeOutcome::Stays(why),
    }
}

impl Upgrade {
    fn begin(job: UpgradeJob) -> Result<Upgrade, String> {
        let failed = |error: std::io::Error| format!("cannot start {:?}: {error}", job.binary);
        let began = Instant::now();
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut channel = Channel::new(ours).map_err(failed)?;
        let child = Command::new(&job.binary)
            .args(&job.arguments)
            .arg("--take-over")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // The watchdog is meant for whoever is the main process.
            .env_remove("WATCHDOG_PID")
            .spawn()
            .map_err(failed)?;
        let _ = channel.say(&UpgradeFrame::Hello(job.hello.clone())); // its end is seen below
        Ok(Upgrade {
            job,
            channel,
            child,
            copied: false,
            ahead: 0,
            began,
            stages: Vec::new(),
            suspended: None,
        })
    }

    fn go(mut self) -> UpgradeOutcome {
        let mut old = Old::default();
        let mut until = Instant::now() + old.patience().unwrap_or_default();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let heard = self.channel.hear(left);
            let input = match &heard {
                ChannelInput::Frame(frame) => OldInput::Heard(frame),
                ChannelInput::Late => OldInput::Late,
                ChannelInput::Ended => OldInput::Ended,
                ChannelInput::Failed(why) => OldInput::Failed(why.clone()),
            };
            let mut orders = old.handle(input);
            while !orders.is_empty() {
                let mut next = None;
                for order in std::mem::take(&mut orders) {
                    match self.obey(order) {
                        UpgradeStep::Done => {}
                        UpgradeStep::Input(input) => next = Some(input),
                        UpgradeStep::Over(outcome) => return outcome,
                        UpgradeStep::Gone(pid, report) => {
                            return UpgradeOutcome::Gone(pid, report, Farewell(self.channel));
                        }
                    }
                }
                orders = next.map_or_else(Vec::new, |input| old.handle(input));
            }
            until = Instant::now() + old.patience().unwrap_or_default();
        }
    }

    fn obey(&mut self, order: OldOrder) -> UpgradeStep {
        let said = |said: Result<(), String>| match said {
            Ok(()) => UpgradeStep::Done,
            Err(why) => UpgradeStep::Input(OldInput::Failed(why)),
        };
        if order.begins_stage() {
            self.stages.push(Instant::now());
        }
        match order {
            OldOrder::Copy => {
                self.copied = true;
                match self.copy() {
                    // All that can fail before clients wait has been tried.
                    Ok(changed) if self.job.dry_run => {
                        let report = self.report(changed);
                        self.kill();
                        self.tell_all(|| MoveOrder::ForgetCopies);
                        UpgradeStep::Over(UpgradeOutcome::Possible(report))
                    }
                    Ok(_) => UpgradeStep::Input(OldInput::Copied),
                    Err(why) => UpgradeStep::Input(OldInput::Failed(self.reason(why))),
                }
            }
            OldOrder::Suspend => {
                self.suspended = Some(Instant::now());
                self.tell_all(|| MoveOrder::Suspend);
                self.tell_node(NodeMove::Rest);
                UpgradeStep::Input(self.wait_for_rest())
            }
            OldOrder::Send => UpgradeStep::Input(match self.send() {
                Ok(totals) => OldInput::Sent(totals),
                Err(why) => OldInput::Failed(self.reason(why)),
            }),
            OldOrder::SayAll(totals) => said(self.channel.say(&UpgradeFrame::All(totals))),
            OldOrder::SayCommit => said(self.channel.say(&UpgradeFrame::Commit)),
            OldOrder::Kill => {
                self.kill();
                UpgradeStep::Done
            }
            OldOrder::GoOn(why) => {
                if self.suspended.is_some() {
                    self.tell_node(NodeMove::Serve);
                    self.tell_all(|| MoveOrder::GoOn);
                } else if self.copied {
                    self.tell_all(|| MoveOrder::ForgetCopies);
                }
                UpgradeStep::Over(UpgradeOutcome::Stays(why))
            }
            OldOrder::End => {
                let paused = self.suspended.map_or(0, |since| since.elapsed().as_millis());
                let pid = self.child.id();
                let report = format!("process {pid} serves; clients waited for {paused} ms");
                self.log_stages();
                UpgradeStep::Gone(pid, report)
            }
            OldOrder::EndLost => UpgradeStep::Over(UpgradeOutcome::Lost(
                "the new process did not answer in time, and may have served before it was \
                 killed: its clients connect again"
                    .to_owned(),
            )),
        }
    }

    /// What took how long, for who wants it shorter.
    fn log_stages(&self) {
        let ends = self.stages.iter().skip(1).copied().chain([Instant::now()]);
        let took: Vec<u64> = self
            .stages
            .iter()
            .zip(ends)
            .map(|(&began, ended)| ended.duration_since(began).as_millis() as u64)
            .collect();
        if let [copy_ms, rest_ms, send_ms, settle_ms, commit_ms] = took[..] {
            tracing::info!(copy_ms, rest_ms, send_ms, settle_ms, commit_ms, "upgrade: the stages");
        }
    }

    fn tell_all(&self, order: impl Fn() -> MoveOrder) {
        self.job.homes.iter().for_each(|home| tell(home, order()));
    }

    fn tell_node(&self, what: NodeMove) {
        if let Some(node) = &self.job.node {
            node.tell(what);
        }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until nothing is under way on any shard and no mail between two of them: twice in a
    /// row all rest, and as many mails as were ever sent were received.
    fn wait_for_rest(&self) -> OldInput<'static> {
        let until = Instant::now() + Old::default().patience().unwrap_or_default().min(REST);
        let mut before: Option<AtRest> = None;
        loop {
            let Some(all) = AtRest::of(&self.job.homes, self.job.node.as_ref()) else {
                return OldInput::Failed("a shard does not answer".to_owned());
            };
            let busy = all.under_way();
            if busy.is_none() && all.mails(0) == all.mails(1) && before.as_ref() == Some(&all) {
                return OldInput::Quiet;
            }
            if Instant::now() > until {
                let what = busy.unwrap_or("mail between shards");
                return OldInput::Failed(format!("the shards do not come to rest: {what}"));
            }
            before = busy.is_none().then_some(all);
            std::thread::sleep(LOOK);
        }
    }

    /// Sends listening sockets, and what can be copied of clients that are still served. Returns
    /// how much had changed of it in the end.
    fn copy(&mut self) -> Result<u64, String> {
        self.send_listeners()?;
        for (listener, keys) in std::mem::take(&mut self.job.tickets) {
            self.channel.say(&UpgradeFrame::Tickets(listener, keys))?;
        }
        self.let_read_store()?;
        self.carry(MoveOrder::Copy, COPYING)?;
        // Those who have done something meanwhile are copied again, while they become fewer.
        let (mut before, mut changed) = (u64::MAX, 0);
        for _ in 0..ROUNDS {
            changed = self.carry(MoveOrder::CopyChanged, COPYING)?.sessions;
            self.wait_for_taken(IN_HAND, ANSWER)?;
            if changed <= FEW || changed > before / 4 * 3 {
                break;
            }
            before = changed;
        }
        self.let_read_store()?;
        Ok(changed)
    }

    /// Lets the new process read the store as far as it goes, so that little is left for the pause.
    fn let_read_store(&mut self) -> Result<(), String> {
        if self.job.hello.store.is_none() {
            return Ok(());
        }
        match self.job.lock.take() {
            Some(lock) => self.channel.say_with(&UpgradeFrame::Store, &[lock])?,
            None => self.channel.say(&UpgradeFrame::Store)?,
        }
        self.ahead += 1;
        // It takes in all that it has first.
        self.wait_for_taken(0, COPYING)
    }

    /// Sends clients and retained messages.
    fn send(&mut self) -> Result<UpgradeTotals, String> {
        if self.job.hello.store.is_some() {
            self.channel.say(&UpgradeFrame::Durable)?;
        }
        // Before any client: a process that serves clients of a node is that node.
        if let Some(node) = &self.job.node {
            let packed = node.ask(NodeMove::Pack).ok_or("the cluster's thread does not answer")?;
            self.channel.say(&UpgradeFrame::Node(packed))?;
        }
        self.carry(MoveOrder::Pack, LONGEST)
    }

    /// Sends what the cores give for that order.
    fn carry(
        &mut self,
        order: fn(Sender<Parcel>) -> MoveOrder,
        longest: Duration,
    ) -> Result<UpgradeTotals, String> {
        let (sender, parcels) = crossbeam_channel::bounded(PARCELS);
        self.tell_all(|| order(sender.clone()));
        drop(sender);
        let mut totals = UpgradeTotals::default();
        let until = Instant::now() + longest;
        while let Some(mut parcel) = next(&parcels)? {
            if let Some(why) = parcel.failed.take() {
                return Err(why);
            }
            if Instant::now() > until {
                return Err("the clients are too many to move in time".to_owned());
            }
            if !parcel.files.is_empty() {
                let count = parcel.files.len() as u16;
                self.channel.say_with(&UpgradeFrame::Files(count), &parcel.files)?;
            }
            self.channel.write(&parcel.frames)?;
            // It says how many clients it has after each parcel: of sockets on their way between
            // processes there is a bound.
            self.channel.say(&UpgradeFrame::Files(0))?;
            self.ahead += 1;
            self.wait_for_taken(AHEAD, ANSWER)?;
            totals.add(&parcel.totals);
        }
        Ok(totals)
    }

    /// What the new process has said about it, or else `why`.
    fn reason(&mut self, why: String) -> String {
        while let ChannelInput::Frame(frame) = self.channel.hear(LAST_WORDS) {
            if let UpgradeFrame::Refused(why) = frame {
                return format!("it refuses: {why}");
            }
        }
        why
    }

    /// Waits until the new process has taken in all parcels but so many.
    fn wait_for_taken(&mut self, most: usize, patience: Duration) -> Result<(), String> {
        while self.ahead > most {
            match self.channel.hear(patience) {
                ChannelInput::Frame(UpgradeFrame::Taken(_)) => self.ahead -= 1,
                ChannelInput::Frame(UpgradeFrame::Refused(why)) => {
                    return Err(format!("it refuses: {why}"));
                }
                ChannelInput::Frame(_) => {
                    return Err("it does not keep to the protocol".to_owned());
                }
                ChannelInput::Late => return Err("it does not take the clients in".to_owned()),
                ChannelInput::Ended => return Err("the new process has ended".to_owned()),
                ChannelInput::Failed(why) => return Err(why),
            }
        }
        Ok(())
    }

    fn send_listeners(&mut self) -> Result<(), String> {
        let mut all: Vec<(ListenerId, OwnedFd)> = Vec::new();
        for sockets in ask(&self.job.homes, MoveOrder::Listening) {
            all.extend(sockets.map_err(|error| format!("no descriptor for a listener: {error}"))?);
        }
        for (id, name, bind) in &self.job.listeners {
            let sockets = all.extract_if(.., |(of, _)| of == id).map(|(_, socket)| socket);
            let sockets: Vec<OwnedFd> = sockets.collect();
            let listener = UpgradeFrame::Listener(MovedListener {
                id: *id,
                name: name.as_str().into(),
                bind: bind.as_str().into(),
                sockets: sockets.len() as u16,
            });
            self.channel.say_with(&listener, &sockets)?;
        }
        Ok(())
    }

    /// What would move, after it was copied. So much of it had changed in the last round.
    fn report(&self, changed: u64) -> String {
        let all = ask(&self.job.homes, MoveOrder::Inventory);
        let sum = |of: fn(&Inventory) -> u64| all.iter().map(|(_, found)| of(found)).sum::<u64>();
        let (connections, sessions) = (sum(|i| i.connections), sum(|i| i.sessions));
        let (left, retained) = (sum(|i| i.left), sum(|i| i.retained));
        // On the machine that this was measured on, two cores take about 15 microseconds for each
        // client that has changed, and for each whose messages wait in the store. The others are
        // only looked at. The store is read, about a microsecond for each value.
        let (clients, in_store) = (connections.max(sessions), sum(|i| i.in_store));
        let millis =
            20 + clients / 10_000 + (changed + in_store) * 15 / 1000 + sum(|i| i.values) / 1000;
        let whole = self.began.elapsed().as_millis() as u64 + millis;
        let stays = match left {
            0 => "nothing would be lost".to_owned(),
            left => format!("{left} connections that are not let in yet would be lost"),
        };
        let links = match self.job.others {
            0 => String::new(),
            others => format!(", and what goes to and from {others} other nodes,"),
        };
        format!(
            "{connections} connections, {sessions} sessions and {retained} retained \
             messages{links} would move in about {whole} ms; clients would wait for about \
             {millis} ms; {stays}"
        )
    }
}

/// How long shards may take to finish what is under way.
const REST: Duration = Duration::from_secs(2);

enum UpgradeStep {
    Done,
    Input(OldInput<'static>),
    Over(UpgradeOutcome),
    /// The new process serves.
    Gone(u32, String),
}

/// The next parcel; `None` when the cores have sent all.
fn next(parcels: &Receiver<Parcel>) -> Result<Option<Parcel>, String> {
    match parcels.recv_timeout(ANSWER) {
        Ok(parcel) => Ok(Some(parcel)),
        Err(RecvTimeoutError::Disconnected) => Ok(None),
        Err(RecvTimeoutError::Timeout) => Err("a shard does not pack its clients".to_owned()),
    }
}
