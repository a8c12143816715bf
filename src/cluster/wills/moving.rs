//! Will messages of other nodes' clients go to the process that takes this one's place in an
//! upgrade. Those of this node's own clients go with the clients.

use super::{FarWills, KeptWill, NodeRun, size};
use crate::mesh::moves::{FarWill, WillDue};
use crate::upgrade::cluster::{MovedFarWill, MovedRun, MovedSettled};

impl NodeRun {
    fn pack(&self) -> MovedRun {
        let wills = self.wills.iter().map(|(client, kept)| {
            let FarWill { message, due, message_expiry, stored } = &kept.will;
            MovedFarWill {
                client: client.clone(),
                stamp: kept.stamp,
                message: message.clone(),
                after: if let WillDue::After(seconds) = due { *seconds } else { 0 },
                at: if let WillDue::At(at) = due { Some(*at) } else { None },
                message_expiry: *message_expiry,
                stored: *stored,
            }
        });
        MovedRun {
            node: self.node.clone(),
            incarnation: self.incarnation,
            over: self.over.as_ref().map(|over| over.since),
            wills: wills.collect(),
        }
    }

    fn unpack(moved: MovedRun) -> NodeRun {
        let mut run = NodeRun::new(&moved.node, moved.incarnation);
        for will in moved.wills {
            let MovedFarWill { client, stamp, message, after, at, message_expiry, stored } = will;
            let due = at.map_or(WillDue::After(after), WillDue::At);
            let will = FarWill { message, due, message_expiry, stored };
            run.wills.insert(client, KeptWill { stamp, will });
        }
        if let Some(since) = moved.over {
            run.end(since);
        }
        run
    }

    fn bytes(&self) -> usize {
        self.wills.iter().map(|(client, kept)| size(client, &kept.will)).sum()
    }
}

impl FarWills {
    /// The present run of a node.
    pub fn pack(&self, number: u8) -> Option<MovedRun> {
        self.runs.get(usize::from(number))?.as_ref().map(NodeRun::pack)
    }

    /// Runs that are over, of nodes that were given up or have restarted.
    pub fn pack_ended(&self) -> Vec<MovedRun> {
        self.ended.iter().map(NodeRun::pack).collect()
    }

    /// Stored will messages that are no more their node's to publish.
    pub fn pack_settled(&self) -> Vec<MovedSettled> {
        self.settled.pack()
    }

    /// Takes in what is no more its node's to publish.
    pub fn unpack_settled(&mut self, settled: Vec<MovedSettled>) {
        for MovedSettled { node, incarnation, client, unsure } in settled {
            self.settled.note((&*node, incarnation), &client, unsure, self.most);
        }
    }

    /// Takes in the present run of a node.
    pub fn unpack(&mut self, number: u8, run: MovedRun) {
        let Some(place) = self.runs.get_mut(usize::from(number)) else { return };
        let run = NodeRun::unpack(run);
        self.bytes += run.bytes();
        *place = Some(run);
    }

    /// Takes in runs that are over.
    pub fn unpack_ended(&mut self, ended: Vec<MovedRun>) {
        for run in ended.into_iter().map(NodeRun::unpack) {
            self.bytes += run.bytes();
            self.ended.push(run);
        }
    }
}
