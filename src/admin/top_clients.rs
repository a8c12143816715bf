//! The heaviest clients on the page of metrics: a few for each measure, named, where
//! `telemetry.top_clients` wants them.

use super::api::Tell;
use super::asking;
use crate::shard::Measure;
use crate::telemetry::TopRow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are shown, and who is asked. The control thread changes the number at a reload.
#[derive(Clone, Default)]
pub struct TopClients {
    /// Each shard.
    pub shards: Vec<Tell>,
    /// Clients of each measure; 0: nobody is asked.
    pub most: Arc<AtomicUsize>,
}

impl TopClients {
    /// Of all shards that answer: the heaviest first, measure by measure.
    pub(super) async fn rows(&self) -> Vec<TopRow> {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return Vec::new();
        }
        let question = |shard: &mut crate::shard::Shard| Measure::ALL.map(|by| shard.heaviest(by));
        let answers = asking::ask_all(&self.shards, question).await;
        let mut rows = Vec::new();
        for (at, by) in Measure::ALL.into_iter().enumerate() {
            let found = answers.iter().flatten().filter_map(|all| all.get(at));
            let mut of_measure: Vec<TopRow> = found
                .flat_map(|heaviest| {
                    let seconds = (heaviest.millis as f64 / 1000.0).max(1.0);
                    heaviest.rows.iter().map(move |(client_id, total, _)| TopRow {
                        by: by.word(),
                        client_id: client_id.to_string(),
                        per_second: *total as f64 / seconds,
                    })
                })
                .collect();
            of_measure.sort_by(|one, other| {
                other
                    .per_second
                    .total_cmp(&one.per_second)
                    .then(one.client_id.cmp(&other.client_id))
            });
            of_measure.truncate(most);
            rows.append(&mut of_measure);
        }
        rows
    }
}
