//! What comes from the running broker is sorted by the cores that are its homes.

use super::{CLOSED, Taking};
use crate::broker::Broker;
use crate::broker::moving::IncomingClient;
use crate::ids::ShardId;
use crate::shard::{ComingRetained, home_of, retained_home};
use crate::topic::TopicHash;
use crate::upgrade::UpgradeFrame;
use crate::upgrade::client::{Early, MovedClient};

impl Taking {
    /// Notes what a frame says for the cores that it concerns.
    ///
    /// # Errors
    /// When there is no core for it, or the frame is none of those that come now.
    pub(super) fn sort(&mut self, frame: UpgradeFrame, broker: &Broker) -> Result<(), String> {
        match frame {
            UpgradeFrame::Client(client) => self.take_client(client, broker)?,
            UpgradeFrame::Early(early) => self.take_early(early, broker)?,
            UpgradeFrame::Known(from, number) => {
                let (home, number) = self.copy(from, number)?;
                self.known = Some((home, from, number));
            }
            UpgradeFrame::Rest(mut rest) => {
                let (home, number) = self.copy(rest.from, rest.number)?;
                rest.number = number;
                let listener = self.listener(rest.connection.listener)?;
                if let Some(batch) = self.batches.get_mut(home) {
                    batch.clients.push(IncomingClient::Rest(rest, listener));
                }
            }
            UpgradeFrame::Gone(from, numbers) => {
                self.tell_homes(from, &numbers, |number| IncomingClient::Gone(from, number))?;
            }
            UpgradeFrame::Stale(from, numbers, retained) => {
                self.told.push(from);
                self.retained += retained;
                self.tell_homes(from, &numbers, |number| IncomingClient::Stale(from, number))?;
            }
            UpgradeFrame::Retained(messages) => {
                for (counts, message) in messages {
                    let topic: Box<str> = message.view().topic.into();
                    self.put_retained(&topic, ComingRetained::Set(counts, message), broker);
                }
            }
            UpgradeFrame::Unretained(topics) => {
                for topic in topics {
                    self.put_retained(&topic.clone(), ComingRetained::Gone(topic), broker);
                }
            }
            UpgradeFrame::Offences(clients, networks) => {
                // The keys do not tell which shard has the clients.
                for batch in &mut self.batches {
                    batch.offences.0.extend(&clients);
                }
                if let Some(batch) = self.batches.first_mut() {
                    batch.offences.1.extend(networks);
                }
            }
            UpgradeFrame::Counters(from, counted) => {
                let home = usize::from(from.0) % self.batches.len();
                if let Some(batch) = self.batches.get_mut(home) {
                    batch.counted.extend(counted);
                }
            }
            UpgradeFrame::Bans(bans) => {
                if let Some(batch) = self.batches.first_mut() {
                    batch.bans.extend(bans);
                }
            }
            _ => return Err("the running broker does not keep to the protocol".to_owned()),
        }
        Ok(())
    }

    fn put_retained(&mut self, topic: &str, coming: ComingRetained, broker: &Broker) {
        let hash = TopicHash::new(&broker.shared.seeds, topic);
        let home = usize::from(retained_home(&hash, broker.homes.len() as u8).0);
        if let Some(batch) = self.batches.get_mut(home) {
            batch.retained.push(coming);
        }
    }

    fn take_client(&mut self, mut client: Box<MovedClient>, broker: &Broker) -> Result<(), String> {
        let shards = broker.homes.len() as u8;
        if let Some(grant) = client.session.as_mut().and_then(|s| s.grant.as_mut()) {
            // Of a session without a connection it may be closed by now.
            grant.listener = self.listener(grant.listener).unwrap_or(CLOSED);
        }
        let known = self.known.take();
        let home = match (&client.session, known) {
            (_, Some((home, ..))) => home,
            (Some(session), None) => {
                usize::from(home_of(&broker.shared.seeds, &session.client_id, shards).0)
            }
            (None, None) => {
                self.count += 1;
                (self.count % u64::from(shards)) as usize
            }
        };
        let listener = match &client.connection {
            None => None,
            Some(connection) => Some(self.listener(connection.listener)?),
        };
        let Some(batch) = self.batches.get_mut(home) else { return Ok(()) };
        batch.clients.push(match known {
            Some((_, from, number)) => IncomingClient::Again(from, number, client, listener),
            None => {
                if listener.is_some() {
                    batch.files.push(self.channel.take_file().ok_or("a socket is missing")?);
                }
                IncomingClient::Whole(client, listener)
            }
        });
        Ok(())
    }

    /// The core that has a copy, and the number of the copy there.
    fn copy(&self, from: ShardId, number: u32) -> Result<(usize, u32), String> {
        let found = self.copies.find(from, number);
        let (home, number) = found.ok_or("a client that is said to be copied has not come")?;
        Ok((usize::from(home.0), number))
    }

    /// Gives each core what is said of its copies.
    fn tell_homes(
        &mut self,
        from: ShardId,
        numbers: &[u32],
        what: impl Fn(u32) -> IncomingClient,
    ) -> Result<(), String> {
        for &number in numbers {
            let (home, number) = self.copy(from, number)?;
            if let Some(batch) = self.batches.get_mut(home) {
                batch.clients.push(what(number));
            }
        }
        Ok(())
    }

    fn take_early(&mut self, mut early: Box<Early>, broker: &Broker) -> Result<(), String> {
        if let Some(grant) = early.session.as_mut().and_then(|s| s.grant.as_mut()) {
            // Of a session without a connection it may be closed by now.
            grant.listener = self.listener(grant.listener).unwrap_or(CLOSED);
        }
        let shards = broker.homes.len() as u8;
        let home = home_of(&broker.shared.seeds, &early.client_id, shards);
        let number = self.copies.add(early.from, early.number, home);
        early.number = number.ok_or("copies of clients come in another order")?;
        let listener = early.listener.map(|listener| self.listener(listener)).transpose()?;
        if let Some(batch) = self.batches.get_mut(usize::from(home.0)) {
            if listener.is_some() {
                batch.files.push(self.channel.take_file().ok_or("a socket is missing")?);
            }
            batch.clients.push(IncomingClient::Early(early, listener));
        }
        Ok(())
    }
}
