//! Frames to another node.

use super::PeerNode;
use crate::cluster::filters::LocalFilters;
use crate::cluster::frame::{FrameContent, FrameSender, FrameState, NodeFrame};
use crate::cluster::lane::Lane;
use crate::time::Instant;
use bytes::Bytes;

impl PeerNode {
    /// The state that the node is told in each frame.
    fn state(&mut self, filters: &LocalFilters, now: Instant) -> FrameState {
        let control = &mut self.windows[Lane::Control as usize];
        let told = self.telling.told(filters, control.close());
        self.state_due = false;
        FrameState {
            to: self.incarnation,
            stream: self.stream,
            back: self.back,
            acknowledged: self.arrivals.each_mut().map(|lane| lane.acknowledgement(now)),
            snapshot: self.snapshot,
            told,
            retained: self.retained_here,
        }
    }

    /// Sends everything that can be sent now, as frames.
    pub fn emit(
        &mut self,
        own: &FrameSender<'_>,
        filters: &LocalFilters,
        now: Instant,
        send: &mut dyn FnMut(&str, Bytes),
    ) {
        for lane in Lane::ALL {
            self.windows[lane as usize].tick(now);
            while self.windows[lane as usize].next(now).is_some() {
                let state = self.state(filters, now);
                let format = self.can().newest;
                let frame = self.windows[lane as usize].frame(|number| {
                    let said = FrameContent::Data(state, lane, number, &[]);
                    NodeFrame { format, sender: *own, said }.head(0)
                });
                let Some(frame) = frame else { break };
                send(&self.name, frame);
            }
        }
        let is_due = |lane: &Lane| self.arrivals[*lane as usize].is_due(*lane, now);
        if self.state_due || Lane::ALL.iter().any(is_due) {
            self.emit_state(own, filters, now, send);
        }
    }

    /// Sends a frame with the state alone.
    pub fn emit_state(
        &mut self,
        own: &FrameSender<'_>,
        filters: &LocalFilters,
        now: Instant,
        send: &mut dyn FnMut(&str, Bytes),
    ) {
        let said = FrameContent::State(self.state(filters, now));
        let frame = NodeFrame { format: self.can().newest, sender: *own, said }.write();
        send(&self.name, frame.into());
    }
}
