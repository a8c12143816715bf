//! Control mail from other shards and the cluster: what each kind makes this shard do.

use super::Shard;
use super::connection::Holds;
use crate::ids::{SessionRef, ShardId};
use crate::mesh::mail::{Control, CostReport};
use crate::mutant::Mutant;

impl Shard {
    /// Handles control mail, once all mail that has to come before it is taken in.
    pub(super) fn obey(&mut self, from: ShardId, control: Control) {
        match control {
            Control::Connect(arriving) => self.told_of(arriving),
            Control::Join(join) => self.join_group(*join),
            Control::Joined(session, ticket) => {
                self.subscriptions.rejoining.confirmed(ticket);
                self.suback_awaits_less(session, ticket);
            }
            Control::Leave(name, member) => self.leave_group(&name, member),
            Control::Presence(member, online) => {
                self.subscriptions.groups.set_online(member, online)
            }
            Control::Deliver(picked) => self.deliver_picked(*picked),
            Control::GiveBack(given) => self.pick_again(*given),
            Control::Replay(request) => self.answer_query(from, *request),
            Control::Replayed(slice) => self.replayed(*slice),
            Control::Park(publisher, at) => self.claimed(publisher, at),
            Control::Unpark(publisher, at, over) => self.unclaimed(publisher, at, over),
            Control::HoldPublisher(publisher) => self.hold_publisher(publisher),
            Control::ReleasePublisher(publisher) => self.release_publisher(publisher),
            Control::Counters(counters) => self.work.sys.keep(from, *counters),
            Control::Cost(report) => {
                let CostReport { cost, reserve, .. } = report;
                self.mail.outbox.to(from).ahead.reported(&report, cost, reserve, self.now);
            }
            Control::Safe(count) => {
                if let Some(storing) = &mut self.storing {
                    storing.safe_there(from, count);
                }
            }
            // These are addressed to the cluster only.
            Control::Want(..) | Control::ToCluster(_) => {}
            Control::ToShard(what) => self.obey_cluster(*what),
            Control::Unstorable(refuses) => self.refuses_there(from, refuses),
            Control::GivenOn(slot) => {
                if let Some(storing) = &mut self.storing {
                    storing.given_on(slot);
                }
            }
            Control::Kept(receipt) => {
                if let Some(storing) = &mut self.storing {
                    storing.close_receipt(receipt);
                }
            }
        }
    }

    /// One of the confirmations that a SUBACK waits for has come: the home shard of a group routes
    /// for the session now, or the other nodes do.
    pub(super) fn suback_awaits_less(&mut self, session: SessionRef, ticket: u64) {
        let index = session.index;
        let done = match self.subscriptions.joining.get_mut(&index) {
            Some(joining)
                if joining.session == session
                    && (joining.ticket == ticket || Mutant::JoinTicketIgnored.is_on()) =>
            {
                joining.left -= 1;
                joining.left == 0
            }
            _ => false,
        };
        if !done {
            return;
        }
        let Some(mut joining) = self.subscriptions.joining.remove(&index) else { return };
        let Some(known) = self.session_of(session) else { return };
        let (socket, version) = (known.socket(), known.version);
        if let Some(socket) = socket {
            if !self.is_announced(&mut joining) {
                self.put_joining(index, joining);
                return;
            }
            self.finish_subscribe(socket, index, version, joining);
            self.release(socket, Holds::JOINING);
        }
    }
}
