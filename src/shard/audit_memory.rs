//! The memory that a shard holds, added up from what exists and compared with the tally that is
//! kept as memory comes and goes. For the simulation; see [`super::audit`].

use super::Shard;
use super::connection::Stage;
use super::memory::{MemoryTally, named, retained};
use crate::message::Message;

impl Shard {
    /// The tally as it should be.
    fn count_memory(&self) -> MemoryTally {
        let mut tally =
            MemoryTally { returning: self.subscriptions.returns.bytes(), ..MemoryTally::default() };
        for at in 0..self.connections.bound() {
            let Some(connection) = self.connections.get(at) else { continue };
            // The input of a client on its way to its home is counted with the departures.
            if connection.stage != Stage::HandingOver {
                tally.input += connection.input.as_ref().map_or(0, |input| input.capacity());
            }
            tally.names += connection.aliases.as_ref().map_or(0, |aliases| aliases.count_bytes());
        }
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.get(index) else { continue };
            tally.names += named(session);
            if let Some(shares) = session.shares() {
                let names = shares.list.iter().map(|share| share.name.as_str().len());
                tally.shares += names.sum::<usize>();
            }
            let Some(flow) = &session.flow else { continue };
            tally.flows += 1;
            tally.kept += flow.window.count_kept();
            tally.inbound += flow.inbound.len();
        }
        tally.names += self.work.wills.bytes();
        tally.layers = self.layered.count_held().heap;
        for filter in ["#", "$SYS/#"] {
            let mut visits = usize::MAX;
            let found = &mut |topic: &str, message: &Message| {
                tally.retained += retained(topic, message.size());
            };
            self.retained.messages.replay(filter, None, usize::MAX, &mut visits, found);
        }
        tally.retained += self.retained.accounted.held();
        tally
    }

    /// Reports what was counted wrongly.
    pub(super) fn audit_memory(&self, problems: &mut Vec<String>) {
        let (counted, found) = (self.memory.tally, self.count_memory());
        if counted != found {
            problems.push(format!("memory: counted {counted:?}, there is {found:?}"));
        }
        let links = &self.subscriptions.links;
        if links.held() != links.bytes() {
            problems.push(format!("memory: {} of links, there is {}", links.held(), links.bytes()));
        }
        if !self.headers_add_up() {
            problems.push("unfinished headers are counted wrongly".to_owned());
        }
        let text = self.subscriptions.index.count_text();
        if self.subscriptions.index.text() != text {
            problems.push(format!(
                "text of filters: {}, there is {text}",
                self.subscriptions.index.text()
            ));
        }
    }

    /// Bytes of buffers with output, as the pool has counted them. `each` gets the capacity of
    /// every buffer, and every shared message, of all outputs, including those that the driver is
    /// sending.
    pub fn visit_output(&self, each: &mut impl FnMut(usize, Option<&Message>)) -> usize {
        for at in 0..self.connections.bound() {
            let output = self.connections.get(at).and_then(|c| c.output.as_ref());
            if let Some(output) = output {
                output.visit(each);
            }
        }
        self.outputs.pool.held()
    }
}
