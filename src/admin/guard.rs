//! Who calls the management API, and what the caller may do.
//!
//! With a file of users (`admin.users`) a request carries a name and password (Basic) or a token
//! (Bearer) that `POST /login` has returned. There are no cookies, so that no page of another site
//! can act for a user. Without such a file only this host itself may call, and the `Host` header
//! has to be a name of this host: with another name in `Host` or `Origin`, the request comes from a
//! page of another site that a browser on this host shows. A request with a header in which a proxy
//! tells of its client comes from elsewhere, and is refused.
//!
//! Owns tokens, verified passwords and failed attempts, each of which is bounded in number.
//! Passwords are hashed on threads of the runtime, one at a time for each server.

use super::ServerTerms;
use super::api::{ApiContext, ApiProblem, JsonBody};
pub use super::users::{ROLES, Role, Users};
use crate::access::password::Hash;
use crate::config::OpenPage;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use axum::Json;
use axum::extract::{Extension, OriginalUri, Request};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;
use utoipa::ToSchema;

/// The largest number of tokens. A further one replaces the token that ends first.
const TOKENS: usize = 1024;
/// How long a password that was verified is not hashed again.
const VERIFIED: Duration = Duration::from_secs(60);
/// With this many failed attempts of one address or one user within [`WINDOW`], further attempts
/// are refused until the window is over.
const FAILURES: u32 = 5;
/// How long failed attempts are counted. Each failed attempt begins the window anew.
const WINDOW: Duration = Duration::from_secs(60);
/// The largest number of addresses and users whose failures are remembered. A further one replaces
/// the oldest.
const REMEMBERED: usize = 1024;
/// The largest body of a login in bytes. Whoever sends it has not proved anything yet.
pub(super) const LOGIN_BODY: usize = 128 << 10;
/// The number of characters of a user name that are logged if it is not that of a user.
const NAME_SHOWN: usize = 64;

/// The origin of a request.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The address of the peer.
    pub peer: SocketAddr,
}

impl From {
    fn is_local(&self) -> bool {
        self.peer.ip().to_canonical().is_loopback()
    }
}

/// The caller of the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The name of the user; `local` where there are no users.
    pub name: Box<str>,
    /// What the caller may do.
    pub role: Role,
}

/// The terms, and what callers have proved or failed to prove.
#[derive(Default)]
struct GuardState {
    users: Option<Arc<Users>>,
    /// The longest time for which a token is valid.
    session: Duration,
    /// The pages that need no credential.
    open: Vec<OpenPage>,
    tls: Option<Arc<ServerConfig>>,
    tokens: HashMap<[u8; 32], (Caller, Instant)>,
    verified: HashMap<[u8; 32], (Caller, Instant)>,
    /// By the digest of an address or a user, because a name may be long.
    failures: HashMap<[u8; 32], (u32, Instant)>,
}

/// The figures of the guard.
#[derive(Default, Debug)]
pub struct GuardCounts {
    /// The number of requests to the API that were let in.
    pub requests: AtomicU64,
    /// The number of requests that have changed something, or had it done.
    pub changes: AtomicU64,
    /// The number of failed attempts to prove who the caller is.
    pub failed: AtomicU64,
    /// The number of attempts that were refused because too many had failed before.
    pub limited: AtomicU64,
}

impl GuardCounts {
    /// The counts, by the name of the outcome in the metrics.
    pub(super) fn shown(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("let_in", &self.requests),
            ("change", &self.changes),
            ("unproven", &self.failed),
            ("limited", &self.limited),
        ];
        all.into_iter().map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed))).collect()
    }
}

/// Decides which callers are let in.
pub struct Guard {
    known: Mutex<GuardState>,
    hashing: Semaphore,
    /// The figures.
    pub counts: GuardCounts,
}

impl Guard {
    /// A guard with these terms.
    pub fn new(terms: ServerTerms) -> Guard {
        let guard = Guard {
            known: Mutex::default(),
            hashing: Semaphore::new(1),
            counts: GuardCounts::default(),
        };
        guard.renew(terms);
        guard
    }

    /// Replaces the terms. Tokens and verified passwords of users whose role or password has
    /// changed, or who have been removed, end. The others end no later than the new terms say.
    pub fn renew(&self, terms: ServerTerms) {
        let ServerTerms { tls, users, session, open } = terms;
        let mut known = self.known();
        let old = std::mem::take(&mut *known);
        let GuardState { users: before, mut tokens, mut verified, failures, .. } = old;
        let entry = |users: Option<&Users>, name: &str| users?.get(name).cloned();
        let keeps = |caller: &Caller| {
            let now = entry(users.as_ref(), &caller.name);
            now.is_some() && now == entry(before.as_deref(), &caller.name)
        };
        let longest = Instant::now() + session;
        tokens.retain(|_, (caller, until)| {
            *until = longest.min(*until);
            keeps(caller)
        });
        verified.retain(|_, (caller, _)| keeps(caller));
        let users = users.map(Arc::new);
        *known = GuardState { users, session, open, tls, tokens, verified, failures };
    }

    /// The TLS settings of connections, if there are any.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.known().tls.clone()
    }

    /// Whether a page needs no credential.
    pub(super) fn opens(&self, page: OpenPage) -> bool {
        let known = self.known();
        known.users.is_none() || known.open.contains(&page)
    }

    fn known(&self) -> MutexGuard<'_, GuardState> {
        // No code panics while it holds the lock, and the contents would be consistent in any case.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether callers have to prove who they are.
    pub fn asks(&self) -> bool {
        self.known().users.is_some()
    }

    /// Finds out who sends a request.
    ///
    /// # Errors
    /// The request does not prove who sends it, too many such attempts have failed, or, where there
    /// are no users, it does not come from this host.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        from: From,
    ) -> Result<Caller, ApiProblem> {
        if !self.asks() {
            return local(headers, from);
        }
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, rest)) = value.and_then(|value| value.split_once(' ')) else {
            return Err(ApiProblem::unproven("say who you are: Authorization: Bearer or Basic"));
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.by_token(rest.trim());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(ApiProblem::unproven("only Bearer and Basic are known"));
        }
        let key = hashed(rest.trim());
        let now = Instant::now();
        let verified = self.known().verified.get(&key).filter(|(_, until)| *until > now).cloned();
        if let Some((caller, _)) = verified {
            return Ok(caller);
        }
        let text = BASE64_STANDARD.decode(rest.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        let Some((name, password)) = text.as_deref().and_then(|text| text.split_once(':')) else {
            return Err(ApiProblem::unproven(
                "the Basic credentials are not base64 of name:password",
            ));
        };
        let caller = self.verify(name, password, from).await?;
        let mut known = self.known();
        known.verified.retain(|_, (_, until)| *until > now);
        if known.verified.len() < TOKENS {
            known.verified.insert(key, (caller.clone(), now + VERIFIED));
        }
        Ok(caller)
    }

    fn by_token(&self, token: &str) -> Result<Caller, ApiProblem> {
        let found = self.known().tokens.get(&hashed(token)).cloned();
        match found {
            Some((caller, until)) if until > Instant::now() => Ok(caller),
            _ => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                Err(ApiProblem::unproven("the token is not known, or its time is over"))
            }
        }
    }

    /// Checks the password of a user.
    async fn verify(&self, name: &str, password: &str, from: From) -> Result<Caller, ApiProblem> {
        let keys = [format!("address {}", from.peer.ip()), format!("user {name}")];
        let keys = keys.map(|key| hashed(&key));
        self.check_failures(&keys)?;
        // At most as many requests wait here as there are connections.
        let _turn = self.hashing.acquire().await;
        // Other attempts from the same address may have failed while this one waited.
        self.check_failures(&keys)?;
        let users = self.known().users.clone();
        let found = users.as_ref().and_then(|users| users.get(name)).cloned();
        let (role, hash) = match found {
            Some((role, hash)) => (Some(role), Some(hash)),
            // This takes as long as for an existing user, so that the time does not tell which
            // users exist.
            None => (None, users.and_then(|users| users.any_hash())),
        };
        let password = password.as_bytes().to_vec();
        let is_theirs = move || hash.is_some_and(|hash: Hash| hash.is_of(&password));
        let right = tokio::task::spawn_blocking(is_theirs).await.unwrap_or(false);
        match role.filter(|_| right) {
            Some(role) => Ok(Caller { name: name.into(), role }),
            None => {
                self.note_failure(keys);
                let user: String = name.chars().take(NAME_SHOWN).collect();
                tracing::warn!(user, peer = %from.peer, "admin login failed");
                Err(ApiProblem::unproven("the name or the password is wrong"))
            }
        }
    }

    fn check_failures(&self, keys: &[[u8; 32]; 2]) -> Result<(), ApiProblem> {
        let (known, now) = (self.known(), Instant::now());
        let wait = keys.iter().filter_map(|key| {
            let (count, until) = known.failures.get(key)?;
            (*count >= FAILURES).then(|| until.saturating_duration_since(now))
        });
        match wait.max().filter(|wait| !wait.is_zero()) {
            None => Ok(()),
            Some(wait) => {
                self.counts.limited.fetch_add(1, Ordering::Relaxed);
                Err(ApiProblem::too_many(wait.as_secs() + 1))
            }
        }
    }

    fn note_failure(&self, keys: [[u8; 32]; 2]) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let (mut known, now) = (self.known(), Instant::now());
        known.failures.retain(|_, (_, until)| *until > now);
        for key in keys {
            if known.failures.len() >= REMEMBERED {
                let first = known.failures.iter().min_by_key(|(_, (_, until))| *until);
                if let Some(first) = first.map(|(key, _)| *key) {
                    known.failures.remove(&first);
                }
            }
            let (count, until) = known.failures.entry(key).or_insert((0, now));
            (*count, *until) = (*count + 1, now + WINDOW);
        }
    }

    fn give_token(&self, caller: &Caller, holds: Duration) -> Result<String, ApiProblem> {
        let mut bytes = [0; 32];
        if rand::fill(&mut bytes).is_err() {
            return Err(ApiProblem::busy("the system gives no random bytes"));
        }
        let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (mut known, now) = (self.known(), Instant::now());
        known.tokens.retain(|_, (_, until)| *until > now);
        if known.tokens.len() >= TOKENS {
            let first = known.tokens.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(first) = first.map(|(key, _)| *key) {
                known.tokens.remove(&first);
            }
        }
        known.tokens.insert(hashed(&token), (caller.clone(), now + holds));
        Ok(token)
    }
}

fn hashed(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    out
}

/// Admits a caller where there are no users: a program on this host, or a page of this server.
fn local(headers: &HeaderMap, from: From) -> Result<Caller, ApiProblem> {
    if !from.is_local() {
        return Err(ApiProblem::forbidden(
            "only for this host itself: set admin.users and admin.tls",
        ));
    }
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_own_name(host) {
        return Err(ApiProblem::forbidden(format!("Host: `{host}` is no name of this host")));
    }
    let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    if origin.is_some_and(|origin| origin.split_once("://").is_none_or(|(_, at)| at != host)) {
        return Err(ApiProblem::forbidden("Origin: pages of other servers may not call"));
    }
    // A proxy on this host that passes requests on may write any Host.
    let told = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "via")
    };
    if let Some(name) = headers.keys().find(told) {
        let what = format!("{name}: a proxy passes on requests of others: set admin.users");
        return Err(ApiProblem::forbidden(what));
    }
    Ok(Caller { name: "local".into(), role: Role::Admin })
}

/// Whether `host`, perhaps with a port, can only mean the host on which it is used.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

/// The paths of requests that have nothing of the broker changed, although they are no GET.
const CHANGE_NOTHING: [&str; 2] = ["/api/v1/configs/validate", "/api/v1/logout"];

/// Lets a request pass to a handler that needs at least the role `least`, and logs changes.
pub(super) async fn pass(
    axum::extract::State((context, least)): axum::extract::State<(Arc<ApiContext>, Role)>,
    Extension(from): Extension<From>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match context.guard.admit(request.headers(), from).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    if caller.role < least {
        let what = format!("{} is {}; this needs the role {least}", caller.name, caller.role);
        return ApiProblem::forbidden(what).into_response();
    }
    context.guard.counts.requests.fetch_add(1, Ordering::Relaxed);
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let whole = request.extensions().get::<OriginalUri>().map(|uri| uri.0.path().to_owned());
    let (method, path) = (request.method().clone(), whole.unwrap_or_default());
    request.extensions_mut().insert(caller.clone());
    let answer = next.run(request).await;
    if changes {
        let done = answer.status().is_success() && !CHANGE_NOTHING.contains(&&*path);
        context.guard.counts.changes.fetch_add(u64::from(done), Ordering::Relaxed);
        let (user, role, status) = (&*caller.name, caller.role, answer.status().as_u16());
        tracing::info!(user, %role, peer = %from.peer, %method, %path, status, "operator action");
    }
    answer
}

/// Who wants a token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    /// The user.
    username: String,
    /// The password.
    password: String,
    /// A lesser role than the user's, for a program that needs no more.
    #[serde(default)]
    role: Option<Role>,
    /// Seconds that the token holds, at most `admin.session`.
    #[serde(default)]
    lifetime: Option<u64>,
}

/// A token.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    /// For `Authorization: Bearer`.
    token: String,
    /// What it allows.
    role: Role,
    /// Seconds that it holds.
    expires_in: u64,
    /// The version of the broker.
    version: &'static str,
}

/// Gives a token for a name and a password.
#[utoipa::path(post, path = "/login", tag = "login", request_body = Login,
    responses((status = 200, body = Token), (status = 401, description = "Wrong"),
        (status = 429, description = "Too many failed attempts: see Retry-After")))]
pub(super) async fn login(
    axum::extract::State(context): axum::extract::State<Arc<ApiContext>>,
    Extension(from): Extension<From>,
    JsonBody(wanted): JsonBody<Login>,
) -> Result<Json<Token>, ApiProblem> {
    let guard = &context.guard;
    if !guard.asks() {
        return Err(ApiProblem::bad("there are no users: admin.users is not set"));
    }
    let caller = guard.verify(&wanted.username, &wanted.password, from).await?;
    let role = wanted.role.unwrap_or(caller.role);
    if role > caller.role {
        return Err(ApiProblem::forbidden(format!("{} is {} only", caller.name, caller.role)));
    }
    let most = guard.known().session.as_secs().max(1);
    let expires_in = wanted.lifetime.unwrap_or(most).clamp(1, most);
    let token = guard.give_token(&Caller { role, ..caller }, Duration::from_secs(expires_in))?;
    tracing::info!(user = wanted.username, %role, peer = %from.peer, "operator logged in");
    Ok(Json(Token { token, role, expires_in, version: env!("CARGO_PKG_VERSION") }))
}

/// Who calls.
#[derive(Serialize, ToSchema)]
pub(super) struct Whoami {
    /// The user; `local` where there are no users.
    username: String,
    /// What it may do.
    role: Role,
}

/// Says who calls.
#[utoipa::path(get, path = "/whoami", tag = "login", responses((status = 200, body = Whoami)))]
pub(super) async fn whoami(Extension(caller): Extension<Caller>) -> Json<Whoami> {
    Json(Whoami { username: caller.name.into(), role: caller.role })
}

/// Ends the token of this request.
#[utoipa::path(post, path = "/logout", tag = "login",
    responses((status = 204, description = "Done")))]
pub(super) async fn logout(
    axum::extract::State(context): axum::extract::State<Arc<ApiContext>>,
    headers: HeaderMap,
) -> axum::http::StatusCode {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = value.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        context.guard.known().tokens.remove(&hashed(token.trim()));
    }
    axum::http::StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::password::Scheme;
    use std::net::Ipv4Addr;

    const FROM: From = From { peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1) };

    /// The terms with these users: name, role and hash.
    fn terms(users: &[(&str, &str, &String)], session: u64) -> ServerTerms {
        let lines: Vec<String> =
            users.iter().map(|(name, role, hash)| format!("{name}:{role}:{hash}")).collect();
        let users = Some(Users::parse(&lines.join("\n")).unwrap());
        ServerTerms { tls: None, users, session: Duration::from_secs(session), open: Vec::new() }
    }

    #[test]
    fn tokens_of_users_who_stay_as_they_are_survive_new_terms() {
        let hash = |text: &[u8]| Hash::make(text, Scheme::Argon2id).unwrap();
        let (one, other) = (hash(b"one"), hash(b"other"));
        let all = ["stays", "role", "password", "gone"];
        let rows: Vec<_> = all.iter().map(|name| (*name, "operator", &one)).collect();
        let guard = Guard::new(terms(&rows, 1000));
        let tokens = all.map(|name| {
            // A token may have a lesser role than the user.
            let caller = Caller { name: name.into(), role: Role::Viewer };
            guard.give_token(&caller, Duration::from_secs(1000)).unwrap_or_else(|_| panic!())
        });
        let known = |guard: &Guard| {
            tokens
                .each_ref()
                .map(|token| guard.by_token(token).is_ok_and(|c| c.role == Role::Viewer))
        };
        assert_eq!(known(&guard), [true; 4]);
        let rows = [
            ("stays", "operator", &one),
            ("role", "viewer", &one),
            ("password", "operator", &other),
            ("new", "operator", &one),
        ];
        guard.renew(terms(&rows, 1000));
        assert_eq!(known(&guard), [true, false, false, false]);
        guard.renew(terms(&rows, 0));
        assert_eq!(known(&guard), [false; 4], "they end as soon as the new terms have it");
        guard.renew(ServerTerms { users: None, ..terms(&rows, 1000) });
        guard.renew(terms(&rows, 1000));
        assert_eq!(known(&guard), [false; 4]);
    }

    /// Nobody needs an account for this.
    #[test]
    fn names_of_those_who_fail_take_no_room() {
        let hash = Hash::make(b"secret", Scheme::Argon2id).unwrap();
        let guard = Guard::new(terms(&[("ann", "admin", &hash)], 1000));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let name = "x".repeat(LOGIN_BODY);
        let refused = runtime.block_on(guard.verify(&name, "wrong", FROM));
        assert!(refused.is_err());
        let known = guard.known();
        let room: usize = known.failures.keys().map(|key| size_of_val(&key[..])).sum();
        assert_eq!((known.failures.len(), room), (2, 64));
    }

    #[test]
    fn a_proxy_on_this_host_makes_nobody_an_operator() {
        let asked = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "localhost:18083".parse().unwrap());
            if !name.is_empty() {
                headers.insert(name, "198.51.100.7".parse().unwrap());
            }
            local(&headers, FROM).is_ok()
        };
        assert!(asked("") && asked("x-requested-with"));
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "via"] {
            assert!(!asked(name), "{name}");
        }
    }

    #[test]
    fn only_names_that_mean_this_host_are_its_own() {
        for own in ["localhost", "localhost:18083", "127.0.0.1:1", "[::1]:18083", "127.9.9.9"] {
            assert!(is_own_name(own), "{own}");
        }
        for foreign in ["", "evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.x"]
        {
            assert!(!is_own_name(foreign), "{foreign}");
        }
    }
}
