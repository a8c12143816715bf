//! What a core's shard finds around it: the ring, the doorbells of the others, the clock.

use super::clock::Clock;
use super::core::COMPLETIONS;
use super::questions::Helpers;
use crate::ids::{Peer, ShardId};
use crate::ring::{Doorbell, Driver, Event, Receive, RemoteAddress, RingPort};
use crate::shard::inquiry::Submissions;
use crate::shard::step::Surroundings;
use crate::shard::{Action, Shard};
use tokio::sync::Notify;

/// What is around the shard of a core.
pub(super) struct ShardEnvironment<'a> {
    pub(super) driver: &'a mut Driver,
    pub(super) peers: &'a [(RingPort, Doorbell)],
    pub(super) cluster: Option<&'a Notify>,
    pub(super) clock: Clock,
    pub(super) helpers: &'a Helpers,
    pub(super) id: ShardId,
    /// None while they wait.
    pub(super) submissions: Option<&'a mut Submissions>,
}

impl Surroundings for ShardEnvironment<'_> {
    fn harvest(&mut self) {
        self.driver.harvest(COMPLETIONS);
    }

    fn visit(&mut self, shard: &mut Shard, limit: usize) -> usize {
        self.driver.visit(limit, &mut |_, event| take_event(shard, event))
    }

    fn submit(&mut self, shard: &mut Shard) -> bool {
        self.submissions.as_mut().is_some_and(|submissions| submissions.run(shard))
    }

    fn has_more(&mut self) -> bool {
        self.driver.anything_ready()
    }

    fn has_heard_everyone(&mut self) -> bool {
        self.driver.has_heard_everyone()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask(question) => self.helpers.ask(self.id, question),
            action => act(self.driver, self.peers, action),
        }
    }

    fn hasten(&mut self) {
        self.driver.submit();
    }

    fn stamp(&mut self) -> u64 {
        self.clock.nanos()
    }

    fn ring(&mut self, shard: ShardId) {
        if let Some((_, doorbell)) = self.peers.get(usize::from(shard.0)) {
            doorbell.ring();
        } else if let Some(cluster) = self.cluster {
            cluster.notify_one();
        }
    }
}

pub(super) fn take_event(shard: &mut Shard, event: Event<'_>) {
    match event {
        Event::Received { socket, bytes } => shard.received(socket, bytes),
        Event::Sent { socket, outgoing, result } => shard.sent(socket, outgoing, result.is_ok()),
        Event::Accepted { socket, listener, peer } => {
            let peer = match peer {
                RemoteAddress::Tcp(address) => Peer::from(address),
                RemoteAddress::Unix => Peer::Unix,
            };
            shard.accepted(socket, listener, peer);
        }
        Event::AcceptFailed { listener, errno } => {
            shard.counters.accept_errors += 1;
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::debug!(listener = listener.0, %error, "accept failed");
        }
        Event::EndOfStream { socket } => shard.end_of_stream(socket),
        Event::Failed { socket, errno } => shard.failed(socket, errno),
        Event::Closed { socket } => shard.closed(socket),
        Event::Arrived { socket, cookie } => shard.arrived(socket, cookie),
        Event::HandedOver { socket, cookie, result } => {
            shard.handed_over(socket, cookie, result.is_ok());
        }
        Event::Withdrawn { socket, outgoing, rest } => shard.withdrawn(socket, outgoing, rest),
        // Reported where it is asked for: `moving`.
        Event::Exported { .. } | Event::TakenOver { .. } | Event::Doorbell => {}
    }
}

fn act(driver: &mut Driver, peers: &[(RingPort, Doorbell)], action: Action) {
    match action {
        Action::Send(socket, outgoing) => driver.send(socket, outgoing),
        Action::ReceiveOnce(socket) => driver.receive(socket, Receive::Once),
        Action::ReceiveStream(socket) => driver.receive(socket, Receive::Stream),
        Action::Pause(socket) => driver.pause(socket),
        Action::Resume(socket) => driver.resume(socket),
        Action::Finish(socket) => driver.shutdown_then_close(socket),
        Action::Close(socket) => driver.close(socket),
        Action::HoldAccepts(held) => driver.hold_accepts(held),
        Action::HandOver(socket, home, cookie) => {
            // Peers are known before the first listener opens.
            let (port, _) = &peers[usize::from(home.0)];
            driver.hand_over(socket, port, cookie);
        }
        // Not the driver's.
        Action::Ask(_) => {}
    }
}
