//! The admin servers: the one at `admin.bind` with the API, and the one at `admin.pages_bind` with
//! the pages alone. Owns them, the files of users and certificates that they are opened with, and
//! what they are told of listeners.

#![allow(clippy::disallowed_types, reason = "shared with the admin thread, and with no shard")]

use super::Failure;
use super::core::CoreCommand;
use super::questions::Home;
use super::secure;
use crate::admin::api::{Api, Inquiry, ListenerRow, Ordered, Submit, Tell};
use crate::admin::otlp::{self, Exporter, SpanFigures};
use crate::admin::users::{LONGEST_FILE, Users};
use crate::admin::{
    Admin, AdminEndpoint, AdminSources, AskShard, BrokerStage, FiguresRequest, ServerTerms,
    TopClients,
};
use crate::bridge::figures::AllBridgeFigures;
use crate::bridge::inward::Shards;
use crate::bridge::set::TellCore;
use crate::cluster::serve::View;
use crate::config::{self, Config, Get, ListenerConfig};
use crate::contained::{Replacements, ThreadCare};
use crate::ids::{ListenerId, ShardId};
use crate::mesh::{ListenerState, Shared};
use crate::shard::home_of;
use crate::shard::inquiry::Submission;
use crate::telemetry::alarms::AlarmList;
use crate::telemetry::{AccountRow, BridgeRow, ClusterRow, SpanRow};
use crate::transport::tls::{certified, provider};
use crossbeam_channel::Sender;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

fn ask(home: &Home) -> AskShard {
    let Home { commands, doorbell } = home.clone();
    Arc::new(move |question: FiguresRequest| {
        // A core that has ended drops the question, which says so.
        let _ = commands.send(CoreCommand::Figures(question));
        doorbell.ring();
    })
}

pub(super) fn tell(home: &Home) -> Tell {
    let Home { commands, doorbell } = home.clone();
    Arc::new(move |inquiry: Inquiry| {
        let _ = commands.send(CoreCommand::Inquire(inquiry));
        doorbell.ring();
    })
}

pub(super) fn submit(home: &Home) -> Submit {
    let Home { commands, doorbell } = home.clone();
    Arc::new(move |submission: Submission| {
        let _ = commands.send(CoreCommand::Submit(submission));
        doorbell.ring();
    })
}

/// The shards as bridges see them.
pub(super) fn shards(homes: &[Home], shared: &Shared) -> Shards {
    let (seeds, shards) = (shared.seeds.clone(), homes.len() as u8);
    let home = move |topic: &str| usize::from(home_of(&seeds, topic, shards).0);
    Shards {
        submit: homes.iter().map(submit).collect(),
        tell: homes.iter().map(tell).collect(),
        home: Arc::new(home),
    }
}

pub(super) fn feed(home: &Home) -> TellCore {
    let Home { commands, doorbell } = home.clone();
    Arc::new(move |command| {
        // A core that has ended drops the command, which says so.
        let _ = commands.send(CoreCommand::Feed(command));
        doorbell.ring();
    })
}

/// The listeners that are open, as the API shows them.
#[derive(Clone, Default)]
struct ListenerList(Arc<Mutex<Vec<ListedListener>>>);

type ListedListener = (ListenerId, ListenerRow, Arc<ListenerState>);

impl ListenerList {
    fn change(&self, change: impl FnOnce(&mut Vec<ListedListener>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn rows(&self) -> Vec<ListenerRow> {
        let mut rows = Vec::new();
        self.change(|all| {
            let shown = |(_, row, state): &ListedListener| ListenerRow {
                connections: state.connections.used(),
                accepted: state.accepted.get(),
                refused: state.refused.get(),
                ..row.clone()
            };
            rows.extend(all.iter().map(shown));
        });
        rows
    }
}

/// The servers that run.
pub(super) struct AdminServers {
    cores: Vec<Home>,
    bridges: AllBridgeFigures,
    cluster: Option<Arc<View>>,
    shared: Arc<Shared>,
    started: SystemTime,
    /// The wall clock at the zero of the shards' clock.
    zero: SystemTime,
    orders: Sender<Ordered>,
    listening: ListenerList,
    main: ServerSlot,
    pages: ServerSlot,
    spans: SpanExport,
    /// Clients that are named in /metrics, of each measure.
    top: Arc<AtomicUsize>,
    /// Until when the certificate of the server with the API is valid, seconds since 1970.
    until: Option<u64>,
}

/// The exporter of spans, and what it was started with.
#[derive(Default)]
struct SpanExport {
    wanted: config::Otlp,
    exporter: Option<Exporter>,
    replacements: Replacements,
    /// Its figures, for the pages of servers that were opened before it.
    shown: Arc<Mutex<Option<Arc<SpanFigures>>>>,
}

/// A server, or the lack of one.
#[derive(Default)]
struct ServerSlot {
    /// The address that the configuration said when this server was opened. The server's own may
    /// have a port that the kernel chose.
    bind: Option<SocketAddr>,
    admin: Option<Admin>,
}

impl AdminServers {
    pub(super) fn new(
        shared: Arc<Shared>,
        started: SystemTime,
        zero: SystemTime,
        orders: Sender<Ordered>,
    ) -> AdminServers {
        AdminServers {
            cores: Vec::new(),
            bridges: AllBridgeFigures::default(),
            cluster: None,
            shared,
            started,
            zero,
            orders,
            listening: ListenerList::default(),
            main: ServerSlot::default(),
            pages: ServerSlot::default(),
            spans: SpanExport::default(),
            top: Arc::default(),
            until: None,
        }
    }

    /// These are the cores.
    pub(super) fn introduce(&mut self, cores: Vec<Home>) {
        self.cores = cores;
    }

    /// These are the bridges.
    pub(super) fn show_bridges(&mut self, bridges: &AllBridgeFigures) {
        self.bridges = bridges.clone();
    }

    /// This is the cluster.
    pub(super) fn show_cluster(&mut self, view: Arc<View>) {
        self.cluster = Some(view);
    }

    fn row_of_cluster(&self) -> Box<dyn Fn() -> Option<ClusterRow> + Send + Sync> {
        let view = self.cluster.clone();
        Box::new(move || view.as_ref().map(|view| view.row()))
    }

    fn rows_of_bridges(&self) -> Box<dyn Fn() -> Vec<BridgeRow> + Send + Sync> {
        let bridges = self.bridges.clone();
        Box::new(move || bridges.rows())
    }

    /// Opens what is to be open at the start.
    pub(super) fn open(&mut self, config: &Config) -> Result<(), Failure> {
        self.export_spans(&config.telemetry.otlp).map_err(Failure::new)?;
        self.top.store(config.telemetry.top_clients.get() as usize, Ordering::Relaxed);
        let config = &config.admin;
        let (terms, until) = terms(config).map_err(Failure::new)?;
        self.until = until;
        self.main = self.opened_at(config.bind.get(), Some(terms))?;
        self.pages = self.opened_at(config.pages_bind.get(), None)?;
        Ok(())
    }

    /// Sends spans as the configuration says from now on.
    fn export_spans(&mut self, wanted: &config::Otlp) -> Result<(), String> {
        let tell = self.cores.iter().map(tell).collect();
        let exporter = Exporter::start(wanted, tell, node_name(), self.zero)?;
        let figures = exporter.as_ref().map(Exporter::figures);
        *self.spans.shown.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        (self.spans.exporter, self.spans.wanted) = (exporter, wanted.clone());
        Ok(())
    }

    /// What waits to be sent is sent, for at most a second.
    pub(super) fn flush_spans(&mut self) {
        self.spans.exporter = None;
    }

    fn opened_at(
        &self,
        bind: Option<SocketAddr>,
        terms: Option<ServerTerms>,
    ) -> Result<ServerSlot, Failure> {
        let admin = bind.map(|bind| self.start(bind, terms, BrokerStage::Starting)).transpose()?;
        Ok(ServerSlot { bind, admin })
    }

    /// With terms it is the server with the API.
    fn start(
        &self,
        bind: SocketAddr,
        terms: Option<ServerTerms>,
        stage: BrokerStage,
    ) -> Result<Admin, Failure> {
        let api = terms.is_some().then(|| Arc::new(self.api()));
        let door = match terms {
            Some(terms) => AdminEndpoint { bind, key: "admin.bind", name: "admin", terms },
            None => {
                let (key, name) = ("admin.pages_bind", "admin-pages");
                AdminEndpoint { bind, key, name, terms: ServerTerms::of_pages() }
            }
        };
        Admin::start(door, stage, self.sources(api)).map_err(Failure::new)
    }

    fn sources(&self, api: Option<Arc<Api>>) -> AdminSources {
        let (shared, limits) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let listening = self.listening.clone();
        let (seeds, count) = (shared.seeds.clone(), self.cores.len() as u8);
        AdminSources {
            shards: self.cores.iter().map(ask).collect(),
            interest: Box::new(move || shared.interest.len() as u64),
            bridges: self.rows_of_bridges(),
            cluster: self.row_of_cluster(),
            spans: self.row_of_spans(),
            listeners: Box::new(move || listening.rows()),
            memory_limit: Box::new(move || Some(limits.memory_limit.used()).filter(|&l| l > 0)),
            top: TopClients {
                shards: self.cores.iter().map(tell).collect(),
                most: Arc::clone(&self.top),
            },
            placement: Arc::new(move |client_id| home_of(&seeds, client_id, count).0),
            started: self.started,
            api,
        }
    }

    fn row_of_spans(&self) -> Box<dyn Fn() -> Option<SpanRow> + Send + Sync> {
        let shown = Arc::clone(&self.spans.shown);
        Box::new(move || {
            shown.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|f| f.row())
        })
    }

    fn api(&self) -> Api {
        let (orders, listening) = (self.orders.clone(), self.listening.clone());
        Api {
            tell: self.cores.iter().map(tell).collect(),
            submit: self.cores.iter().map(submit).collect(),
            zero: self.zero,
            node: node_name(),
            // Whoever ordered learns from the dropped answer that nobody takes orders any more.
            order: Box::new(move |order| drop(orders.send(order))),
            bridges: self.rows_of_bridges(),
            cluster: self.row_of_cluster(),
            listeners: Box::new(move || listening.rows()),
        }
    }

    /// Until when the certificate of the server with the API is valid, by the key that names it.
    pub(super) fn certificate(&self) -> Option<(String, u64)> {
        self.main.admin.as_ref()?;
        Some(("admin.tls".to_owned(), self.until?))
    }

    /// The address of the server with the API, and that of the pages.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let main = self.main.admin.as_ref().map(|admin| ("admin", admin.address()));
        let pages = self.pages.admin.as_ref().map(|admin| ("admin_pages", admin.address()));
        main.into_iter().chain(pages)
    }

    /// New settings: servers move where their addresses have changed, users and certificates are
    /// read again. What cannot be had leaves the old in force.
    pub(super) fn reload(&mut self, wanted: &Config) {
        self.top.store(wanted.telemetry.top_clients.get() as usize, Ordering::Relaxed);
        if self.spans.wanted != wanted.telemetry.otlp
            && let Err(what) = self.export_spans(&wanted.telemetry.otlp)
        {
            tracing::error!("{what}; spans go where they went before");
        }
        let wanted = &wanted.admin;
        let terms = match terms(wanted) {
            Ok((terms, until)) => {
                self.until = until;
                terms
            }
            Err(what) => {
                tracing::error!("{what}; the admin server stays as it is");
                return;
            }
        };
        if self.main.bind != wanted.bind.get() {
            let old = std::mem::take(&mut self.main);
            self.main = self.moved(old, wanted.bind.get(), Some(terms));
        } else if let Some(admin) = &mut self.main.admin {
            admin.renew(terms);
        }
        if self.pages.bind != wanted.pages_bind.get() {
            let old = std::mem::take(&mut self.pages);
            self.pages = self.moved(old, wanted.pages_bind.get(), None);
        }
    }

    /// A server at its new address. When that cannot be had, the old one goes on, and the next
    /// reload tries again.
    fn moved(
        &self,
        old: ServerSlot,
        bind: Option<SocketAddr>,
        terms: Option<ServerTerms>,
    ) -> ServerSlot {
        // Closed first: the new address may contain the old one (0.0.0.0).
        let before = old.admin.map(|admin| admin.address());
        let Some(wanted) = bind else {
            tracing::info!("admin server closed");
            return ServerSlot::default();
        };
        match self.start(wanted, terms.clone(), BrokerStage::Ready) {
            Ok(admin) => {
                tracing::info!(bound = %admin.address(), "admin server moved");
                ServerSlot { bind, admin: Some(admin) }
            }
            Err(failure) => {
                tracing::error!("{failure}");
                let again = before.map(|before| self.start(before, terms, BrokerStage::Ready));
                let again = again.transpose().inspect_err(|failure| tracing::error!("{failure}"));
                ServerSlot { bind: old.bind, admin: again.ok().flatten() }
            }
        }
    }

    fn each(&self) -> impl Iterator<Item = &Admin> {
        self.main.admin.iter().chain(&self.pages.admin)
    }

    /// Replaces threads that have panicked, when it is time, and says which servers do not answer.
    pub(super) fn look_after(&mut self, now: Instant) {
        let all = self.main.admin.iter_mut().chain(&mut self.pages.admin);
        all.for_each(|admin| admin.look_after(now));
        let paused: Vec<_> = self.each().filter_map(Admin::paused).collect();
        self.each().for_each(|admin| admin.others_paused(&paused));
        let is_dead = self.spans.exporter.as_ref().is_some_and(Exporter::is_dead);
        match self.spans.replacements.look(is_dead, now) {
            ThreadCare::Works | ThreadCare::Waits => {}
            ThreadCare::Died(pause) => {
                let seconds = pause.map(|pause| pause.as_secs());
                tracing::error!(seconds, "the exporter of spans has failed; it begins again");
            }
            ThreadCare::Replace => {
                let wanted = self.spans.wanted.clone();
                if let Err(what) = self.export_spans(&wanted) {
                    tracing::error!("{what}; no spans are sent");
                }
            }
        }
    }

    /// Says how far the broker is.
    pub(super) fn enter(&self, stage: BrokerStage) {
        self.each().for_each(|admin| admin.enter(stage));
    }

    /// Says which shards are late, and since when.
    pub(super) fn late(&self, late: &[(ShardId, Instant)]) {
        self.each().for_each(|admin| admin.late(late.to_vec()));
    }

    /// Says how many lines the log has lost.
    pub(super) fn lost_lines(&self, count: u64) {
        self.each().for_each(|admin| admin.lost_lines(count));
    }

    /// Says which alarms are raised, and which were.
    pub(super) fn alarms(&self, list: &AlarmList) {
        let list = Arc::new(list.clone());
        self.each().for_each(|admin| admin.alarms(Arc::clone(&list)));
    }

    /// Says until when the certificates of listeners are valid, seconds since 1970.
    pub(super) fn certificates(&self, until: &[(String, u64)]) {
        self.each().for_each(|admin| admin.certificates(until.to_vec()));
    }

    /// Says how much is kept on each account.
    pub(super) fn accounts(&self, rows: &[AccountRow]) {
        self.each().for_each(|admin| admin.accounts(rows.to_vec()));
    }

    /// A listener was opened.
    pub(super) fn opened(
        &self,
        id: ListenerId,
        listener: &ListenerConfig,
        bound: &str,
        state: &Arc<ListenerState>,
    ) {
        let row = ListenerRow {
            name: listener.name.to_string(),
            kind: listener.kind.word().to_owned(),
            bind: bound.to_owned(),
            running: true,
            connections: 0,
            max_connections: listener.max_connections.get().map(u64::from),
            accepted: 0,
            refused: 0,
        };
        self.listening.change(|all| {
            // It may have been stopped.
            all.retain(|(_, known, _)| known.running || known.name != row.name);
            all.push((id, row, Arc::clone(state)));
        });
    }

    /// A listener was closed for a while.
    pub(super) fn stopped(&self, id: ListenerId) {
        self.listening.change(|all| {
            for (_, row, _) in all.iter_mut().filter(|(known, ..)| *known == id) {
                row.running = false;
            }
        });
    }

    /// A listener was closed.
    pub(super) fn closed(&self, id: ListenerId) {
        self.listening.change(|all| all.retain(|(known, ..)| *known != id));
    }
}

/// The name of this node: that of the host.
pub(super) fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "ringmq".to_owned() } else { name.to_owned() }
}

/// Users and TLS, from their files; and until when the certificate is valid.
fn terms(config: &config::AdminConfig) -> Result<(ServerTerms, Option<u64>), String> {
    let users = match &*config.users {
        "" => None,
        path => {
            let read = secure::read(Path::new(path), LONGEST_FILE);
            let bytes = read.map_err(|error| format!("admin.users: {path}: {error}"))?;
            let text = String::from_utf8(bytes)
                .map_err(|_| format!("admin.users: {path} is not UTF-8"))?;
            let parsed = Users::parse(&text).map_err(|problems| {
                let lines: Vec<String> =
                    problems.iter().map(|(at, what)| format!("{path}:{at}: {what}")).collect();
                format!("admin.users: {}", lines.join("; "))
            })?;
            if parsed.is_empty() {
                return Err(format!("admin.users: {path} has no user; `ringmq admin user add`"));
            }
            Some(parsed)
        }
    };
    let tls = match &*config.tls.certificate {
        "" => None,
        _ => Some(tls(&config.tls)?),
    };
    let (tls, until) = tls.unzip();
    let (session, open) = (config.session.get(), config.open.0.clone());
    Ok((ServerTerms { tls, users, session, open }, until))
}

/// What connections are secured with, and until when its certificate is valid.
fn tls(tls: &config::AdminTls) -> Result<(Arc<ServerConfig>, u64), String> {
    let read = |path: &Path| secure::read(path, LONGEST_FILE);
    let (certified, until) = certified(&tls.certificate, &tls.private_key, &read, secure::now())
        .map_err(|unusable| format!("admin.{unusable}"))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("admin.tls: {error}"))?;
    let resolver = Arc::new(SingleCertAndKey::from((*certified).clone()));
    let mut made = builder.with_no_client_auth().with_cert_resolver(resolver);
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(made), until))
}

/// What is wrong with the files that the admin server is to use, if anything is.
pub(super) fn problem(config: &Config) -> Option<String> {
    terms(&config.admin).err().or_else(|| otlp::problem(&config.telemetry.otlp))
}
