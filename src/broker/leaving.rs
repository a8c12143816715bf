//! A node that leaves its cluster: nobody new is let in, the clients are sent away at a pace, and
//! the broker stops when their sessions are at other nodes, or after a while. The pace is kept
//! here: shards are told how many clients they may send away, ten times a second.

use super::ControlThread;
use crate::admin::BrokerStage;
use crate::broker::core::CoreCommand;
use std::time::{Duration, Instant};

/// How often shards are told how many clients they may send away.
const TICK: Duration = Duration::from_millis(100);

/// A node on its way out.
pub(super) struct Leaving {
    /// Clients of each shard at a time.
    clients: u32,
    next: Instant,
    /// Since when no connection is left.
    empty: Option<Instant>,
    /// Then it stops, whatever is left.
    until: Instant,
}

impl ControlThread<'_> {
    /// Begins, or says why not. Clients are sent away at that pace; after them, sessions may take
    /// so long to be claimed.
    pub(super) fn begin_leaving(
        &mut self,
        per_second: u32,
        patience: Duration,
    ) -> Result<String, Vec<String>> {
        let no = |why: &str| Err(vec![why.to_owned()]);
        let Some(cluster) = &self.broker.cluster else { return no("this broker is alone") };
        if self.leaving.is_some() {
            return no("this node leaves its cluster already");
        }
        if !cluster.view().row().nodes.iter().any(|node| node.up) {
            return no("no other node is there that clients could go to");
        }
        self.not_while_upgrading()?;
        self.close_listeners()?;
        let (now, clients) = (Instant::now(), self.broker.shared.connections.used());
        let per_second = per_second.max(1);
        let shards = self.broker.shards().count() as u32;
        let each = per_second.div_ceil(shards * (1000 / TICK.as_millis() as u32));
        let told = Duration::from_secs(clients / u64::from(per_second));
        let until = now + told + patience;
        self.leaving = Some(Leaving { clients: each, next: now, empty: None, until });
        tracing::warn!(clients, per_second, "this node leaves its cluster");
        Ok(serde_json::json!({"clients": clients}).to_string())
    }

    /// Nobody new is let in, and `/readyz` says so.
    pub(super) fn close_listeners(&mut self) -> Result<String, Vec<String>> {
        let all: Vec<String> =
            self.broker.open.iter().map(|open| open.config.name.to_string()).collect();
        self.broker.admin.enter(BrokerStage::Draining);
        all.iter().try_fold(String::new(), |_, name| self.stop_listener(name))
    }

    /// What cannot be done while this node leaves.
    pub(super) fn not_while_leaving(&self) -> Result<(), Vec<String>> {
        match &self.leaving {
            Some(_) => Err(vec!["this node leaves its cluster".to_owned()]),
            None => Ok(()),
        }
    }

    /// How long control may rest.
    pub(super) fn rest_of_leaving(&self) -> Duration {
        let due = |leaving: &Leaving| leaving.next.saturating_duration_since(Instant::now());
        self.leaving.as_ref().map_or(Duration::MAX, due)
    }

    /// Sends some more clients away. True when the broker is to stop.
    pub(super) fn go_on_leaving(&mut self) -> bool {
        let now = Instant::now();
        let connections = self.broker.shared.connections.used();
        let Some(leaving) = &mut self.leaving else { return false };
        if now < leaving.next {
            return false;
        }
        leaving.next = now + TICK;
        if connections > 0 {
            leaving.empty = None;
        }
        let empty = *leaving.empty.get_or_insert(now);
        let (clients, over) = (leaving.clients, now >= leaving.until);
        let sessions = self.figures.sessions_since(empty);
        if connections == 0 && sessions == Some(0) || over {
            let left = self.figures.total().sessions;
            if left > 0 {
                tracing::warn!(sessions = left, "nobody has claimed sessions of this node");
            }
            return true;
        }
        if connections > 0 {
            self.broker.send_all(|| CoreCommand::Refer(clients));
        } else {
            self.broker.tell_all(|| CoreCommand::Ping(now));
        }
        false
    }
}
