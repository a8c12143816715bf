//! Key sets of services (RFC 7517): fetched with the first token, again after a while, and early
//! when a token names a key that is not known, which nobody can make happen often. A set that
//! cannot be fetched leaves the old one in force.

use super::http::{HttpCaller, once};
use super::{ServiceContext, ServiceEvent};
use crate::access::http::HttpAuthRequest;
use crate::access::jwt::{Jwt, KeySource};
use crate::access::keys::KeySet;
use crate::access::{ServiceFinding, Verdict};
use crate::broker::questions::AccessJob;
use crate::client_tls::HttpClient;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between the beginnings of two fetches of a set that is old, and between two early ones.
const PAUSE: Duration = Duration::from_secs(10);
/// The same while there is none.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Sets that are kept; reloads may bring others.
const SETS: usize = 16;

/// Tells sets apart: URL and authorities.
pub(super) type KeySetId = (Box<str>, Option<Arc<str>>);

/// Every set that a token was shown for.
#[derive(Default)]
pub(super) struct KeySets(HashMap<KeySetId, KeySetState>);

struct KeySetState {
    source: Arc<KeySource>,
    set: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    attempted: Option<Instant>,
    /// The last fetch that a token with an unknown key has caused.
    early: Option<Instant>,
    under_way: bool,
    /// Who waits for the fetch that is under way. As many as shards let wait at all.
    waiting: Vec<AccessJob>,
}

impl KeySetState {
    fn new(source: &Arc<KeySource>) -> KeySetState {
        KeySetState {
            source: Arc::clone(source),
            set: None,
            fetched: None,
            attempted: None,
            early: None,
            under_way: false,
            waiting: Vec::new(),
        }
    }

    /// Whether a fetch is to begin now, for a token whose key is known or not.
    fn should_fetch(&mut self, known: bool) -> bool {
        let since = |at: Option<Instant>, pause| at.is_none_or(|at| at.elapsed() >= pause);
        if self.under_way {
            return false;
        }
        if self.set.is_none() {
            return since(self.attempted, FIRST_PAUSE);
        }
        if self.is_older(1) && since(self.attempted, PAUSE) {
            return true;
        }
        if known || !since(self.early, PAUSE) {
            return false;
        }
        self.early = Some(Instant::now());
        true
    }

    /// Whether the set is at least so many times its refresh interval old.
    fn is_older(&self, times: u32) -> bool {
        self.fetched.is_none_or(|at| at.elapsed() >= self.source.refresh * times)
    }

    /// Passes a question on with the keys that there are.
    fn hand_on(&self, job: AccessJob, around: &ServiceContext) {
        match &self.set {
            Some(set) => around.hand_on(job, ServiceFinding::Keys(Arc::clone(set))),
            None => around.verdict(job, Verdict::Failed("the key set cannot be fetched")),
        }
    }
}

impl KeySets {
    /// A token is to be checked.
    pub(super) fn ask(
        &mut self,
        jwt: &Jwt,
        job: AccessJob,
        http: &mut HttpCaller,
        around: &ServiceContext,
    ) {
        // Not asked of a service.
        let Some(source) = jwt.source() else { return around.verdict(job, Verdict::Unknown) };
        if self.0.len() > SETS {
            self.0.retain(|_, state| state.under_way || Arc::strong_count(&state.source) > 1);
        }
        let place = (source.url.clone(), source.ca.clone());
        let state = self.0.entry(place.clone()).or_insert_with(|| KeySetState::new(source));
        // A reload may have changed its times.
        state.source = Arc::clone(source);
        let id = jwt.key_id(&job.question.proof);
        let known = |set: &Arc<KeySet>| id.as_deref().is_none_or(|id| set.knows(id));
        let known = state.set.as_ref().is_some_and(known);
        if state.should_fetch(known) {
            state.under_way = true;
            state.attempted = Some(Instant::now());
            let client = http.client(source.ca.as_ref());
            let (source, events) = (Arc::clone(source), around.events.clone());
            tokio::task::spawn(async move {
                let fetched = fetch(&client, &source).await;
                // The loop ends only with the program.
                let _ = events.send(ServiceEvent::Fetched(place, fetched));
            });
        }
        // Who shows a known key does not wait, unless the set is from long ago.
        if state.under_way && (!known || state.is_older(2)) {
            state.waiting.push(job);
        } else {
            state.hand_on(job, around);
        }
    }

    /// A fetch is over.
    pub(super) fn fetched(
        &mut self,
        place: &KeySetId,
        fetched: Result<KeySet, &'static str>,
        around: &ServiceContext,
    ) {
        let Some(state) = self.0.get_mut(place) else { return };
        state.under_way = false;
        match fetched {
            Ok(set) => {
                tracing::info!(url = &*place.0, keys = set.len(), "key set fetched");
                state.set = Some(Arc::new(set));
                state.fetched = Some(Instant::now());
                around.count_key_set(true);
            }
            Err(why) => {
                let kept = state.set.is_some();
                tracing::warn!(url = &*place.0, why, old_one_stays = kept, "no key set");
                around.count_key_set(false);
            }
        }
        for job in std::mem::take(&mut state.waiting) {
            state.hand_on(job, around);
        }
    }
}

async fn fetch(client: &HttpClient, source: &KeySource) -> Result<KeySet, &'static str> {
    let request = HttpAuthRequest {
        method: "GET",
        url: source.url.to_string(),
        headers: vec![("accept".to_owned(), "application/json".to_owned())],
        body: Bytes::new(),
    };
    let answer = tokio::time::timeout(source.timeout, once(client, &request)).await;
    match answer.unwrap_or(Err("the service does not answer in time"))? {
        (200, body) => KeySet::parse(&body),
        _ => Err("the service answers with another status than 200"),
    }
}
