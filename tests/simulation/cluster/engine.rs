//! The simulated engine: frames under way, each with when it arrives, if it does.

use super::keeper::Keeper;
use crate::rng::Rng;
use bytes::Bytes;
use ringmq::cluster::frame::{FrameContent, NodeFrame};
use ringmq::cluster::keeping::{KeepAsker, KeepRequest, KeptAt};
use ringmq::cluster::lane::Lane;
use ringmq::cluster::node::{Engine, To};

/// What the engine does to frames, in a thousand each.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub lost: usize,
    pub doubled: usize,
    pub delayed: usize,
    /// Longest delay in milliseconds.
    pub delay: usize,
    /// Milliseconds that every other frame takes, at least one. These arrive in order.
    pub usual: usize,
    /// Filters and topics of retained messages that are told with another text, at most so many.
    pub changed: usize,
}

/// A frame under way: when it arrives, the order of sending, whose it is, whose it becomes.
type UnderWay = (u64, u64, usize, usize, Vec<u8>);

pub struct Network {
    pub names: Vec<String>,
    pub faults: Faults,
    /// Nodes on this side hear only each other, and the others only each other.
    pub apart: Vec<bool>,
    /// Nothing arrives at all.
    pub hangs: bool,
    under_way: Vec<UnderWay>,
    sent: u64,
    rng: Rng,
    pub keeper: Keeper,
}

/// The engine as one node sees it.
pub struct Wire<'a> {
    pub network: &'a mut Network,
    pub from: usize,
    pub now: u64,
}

impl Engine for Wire<'_> {
    fn ask(&mut self, asker: KeepAsker, place: KeptAt, request: KeepRequest) {
        self.network.keeper.ask(self.from, asker, place, request, self.now);
    }

    fn send(&mut self, to: To<'_>, frame: Bytes) {
        for target in 0..self.network.names.len() {
            let wanted = match to {
                To::All => true,
                To::Node(name) => self.network.names[target] == name,
            };
            if wanted {
                self.network.carry(self.from, target, frame.to_vec(), self.now);
            }
        }
    }
}

impl Network {
    pub fn new(seed: u64, names: Vec<String>, faults: Faults) -> Network {
        let apart = vec![false; names.len()];
        let rng = Rng::new(seed);
        let keeper = Keeper::new(seed);
        Network { names, faults, apart, hangs: false, under_way: Vec::new(), sent: 0, rng, keeper }
    }

    fn carry(&mut self, from: usize, to: usize, frame: Vec<u8>, now: u64) {
        if self.hangs || self.apart[from] != self.apart[to] || self.rng.chance(self.faults.lost) {
            return;
        }
        let frame = self.change(frame);
        let times = 1 + usize::from(self.rng.chance(self.faults.doubled));
        for _ in 0..times {
            let late = self.rng.chance(self.faults.delayed);
            let delay = match late {
                true => self.rng.range(1, self.faults.delay.max(1)),
                false => self.faults.usual.max(1),
            };
            self.sent += 1;
            self.under_way.push((now + delay as u64, self.sent, from, to, frame.clone()));
        }
    }

    /// Changes the text of a filter or of a topic, now and then: no node does, and it has to be
    /// found out.
    fn change(&mut self, frame: Vec<u8>) -> Vec<u8> {
        let Ok(read) = NodeFrame::read(&frame) else { return frame };
        let FrameContent::Data(state, lane, number, segment) = read.said else { return frame };
        let text: &[u8] = match lane {
            Lane::Control => b"t/",
            Lane::Messages => b"retained/of/",
            Lane::Bulk => return frame,
        };
        let Some(at) = segment.windows(text.len()).position(|part| part == text) else {
            return frame;
        };
        if self.faults.changed == 0 || !self.rng.chance(500) {
            return frame;
        }
        self.faults.changed -= 1;
        let mut segment = segment.to_vec();
        segment[at + text.len()] ^= 1;
        NodeFrame { said: FrameContent::Data(state, lane, number, &segment), ..read }.write()
    }

    /// When the next frame arrives.
    pub fn next(&self) -> Option<u64> {
        self.under_way.iter().map(|frame| frame.0).min()
    }

    /// The frames that have arrived by then, in order.
    pub fn arrived(&mut self, now: u64) -> Vec<(usize, Vec<u8>)> {
        let mut due: Vec<UnderWay> =
            self.under_way.extract_if(.., |frame| frame.0 <= now).collect();
        due.sort_by_key(|frame| (frame.0, frame.1));
        let heard = |frame: &UnderWay| self.apart[frame.2] == self.apart[frame.3] && !self.hangs;
        due.into_iter().filter(heard).map(|frame| (frame.3, frame.4)).collect()
    }
}
