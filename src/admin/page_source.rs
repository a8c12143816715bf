//! The data of the pages: the figures of each shard ([`ShardFigures`]), and the last page, for as
//! long as it is up to date. Lives on the admin thread.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::watch;

use super::figures::{FiguresAnswer, ShardFigures};
use super::guard::Guard;
use super::pages::can_serve;
use super::{AdminSources, BrokerStage, BrokerState, Placement, process};
use crate::contained;
use crate::ids::ShardId;
use crate::telemetry::alarms::AlarmKind;
use crate::telemetry::prometheus::{PageFormat, Process, Snapshot, page};

/// A page, and the data it was made from.
struct CachedPage {
    from: Vec<Option<Arc<Snapshot>>>,
    state: BrokerState,
    format: PageFormat,
    text: Bytes,
}

/// The source of the pages' data.
pub(super) struct PageSource {
    figures: Arc<ShardFigures>,
    sources: Arc<AdminSources>,
    started: Duration,
    state: watch::Receiver<BrokerState>,
    last: RefCell<Option<CachedPage>>,
    /// The guard, whose figures are on the page too where there is an API.
    guard: Option<Arc<Guard>>,
}

impl PageSource {
    /// The same source, with the figures of the API.
    pub(super) fn with_api(self, guard: Arc<Guard>) -> PageSource {
        PageSource { guard: Some(guard), ..self }
    }

    /// Must be called within the server's loop: each shard gets a task that asks it.
    pub(super) fn open(
        sources: Arc<AdminSources>,
        state: watch::Receiver<BrokerState>,
    ) -> PageSource {
        let started = sources.started.duration_since(SystemTime::UNIX_EPOCH);
        PageSource {
            figures: Arc::new(ShardFigures::open(sources.shards.clone())),
            sources,
            // A clock before 1970 is not worth a failure.
            started: started.unwrap_or_default(),
            state,
            last: RefCell::new(None),
            guard: None,
        }
    }

    /// The home shard of a ClientId.
    pub(super) fn home(&self, client_id: &str) -> u8 {
        (self.sources.placement)(client_id)
    }

    /// How far the broker has come.
    pub(super) fn stage(&self) -> BrokerStage {
        self.state.borrow().stage
    }

    /// The shards that are late, by number, and for how long.
    pub(super) fn late(&self) -> Vec<(ShardId, Duration)> {
        let late = self.state.borrow().late.clone();
        late.into_iter().map(|(shard, since)| (shard, since.elapsed())).collect()
    }

    /// What is to be said of threads beside the shards: the alarm about those that have failed,
    /// while it is raised, and which servers pause.
    pub(super) fn failed_threads(&self) -> Vec<String> {
        let state = self.state.borrow();
        let name = AlarmKind::ThreadFailed.name();
        let alarm = state.alarms.active.iter().find(|alarm| alarm.name == name);
        let paused = state.paused.iter().map(|key| format!("{key} does not answer for a while"));
        alarm.map(|alarm| alarm.message.clone()).into_iter().chain(paused).collect()
    }

    /// The source of the shards' figures, for others who ask.
    pub(super) fn figures(&self) -> Arc<ShardFigures> {
        Arc::clone(&self.figures)
    }

    /// What the broker reports about itself, for others who look.
    pub(super) fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    /// Returns the function that says where a client lives, for others who ask.
    pub(super) fn placement(&self) -> Placement {
        Arc::clone(&self.sources.placement)
    }

    /// Asks every shard, after this call, and waits at most `patience` in all.
    pub(super) async fn ask(&self, patience: Duration) -> Vec<FiguresAnswer> {
        self.figures.ask(patience).await
    }

    /// The page of these answers. Requests that share the answers share the page.
    pub(super) async fn page(&self, answers: &[FiguresAnswer], format: PageFormat) -> Full<Bytes> {
        let from: Vec<_> = answers.iter().map(|answer| answer.figures().cloned()).collect();
        let state = self.state.borrow().clone();
        if let Some(page) = &*self.last.borrow()
            && page.state == state
            && page.format == format
            && same(&page.from, &from)
        {
            return Full::new(page.text.clone());
        }
        // Not of shards that have just kept a scrape waiting.
        let all = from.iter().all(Option::is_some);
        let sources = &*self.sources;
        let top = if all { sources.top.rows().await } else { Vec::new() };
        let late = self.late();
        // As /readyz says.
        let ready = state.stage == BrokerStage::Ready && late.is_empty() && can_serve(answers);
        let process = Process {
            interest: (sources.interest)(),
            bridges: (sources.bridges)(),
            cluster: (sources.cluster)(),
            spans: (sources.spans)(),
            listeners: (sources.listeners)(),
            memory_limit: (sources.memory_limit)(),
            ready,
            late,
            lost_lines: state.lost_lines,
            api: self.guard.as_ref().map_or_else(Vec::new, |guard| guard.counts.shown()),
            certificates: state.certificates.clone(),
            accounts: state.accounts.clone(),
            top,
            alarms: state.alarms.active.iter().map(|alarm| alarm.name).collect(),
            panics: contained::panics().to_vec(),
            started: self.started,
            ..process::measure()
        };
        let figures: Vec<Option<&Snapshot>> = from.iter().map(Option::as_deref).collect();
        let text = Bytes::from(page(format, env!("CARGO_PKG_VERSION"), &process, &figures));
        *self.last.borrow_mut() = Some(CachedPage { from, state, format, text: text.clone() });
        Full::new(text)
    }
}

/// Whether both lists have the very same copies. Without any copy, pages cannot be told apart, so
/// they count as different.
fn same(one: &[Option<Arc<Snapshot>>], other: &[Option<Arc<Snapshot>>]) -> bool {
    one.iter().any(Option::is_some)
        && one.iter().zip(other).all(|pair| match pair {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        })
}

#[cfg(test)]
#[path = "page_source_tests.rs"]
mod tests;
