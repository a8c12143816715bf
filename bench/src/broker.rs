//! Brokers under test: how each is started, found ready, and ended.
//!
//! Every broker is a child process that ends with this program: [`Broker::drop`] ends it, and the
//! kernel's parent-death signal does so when this program is killed.

use crate::certificates::TestCertificates;
use crate::clock::{self, MILLISECOND, SECOND};
use crate::process::Tree;
use crate::stop;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_LIMIT: u64 = 10 * SECOND;
const STOP_LIMIT: u64 = 4 * SECOND;

/// A broker that `compare` can start afresh for each scenario.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Column name in the report.
    pub name: String,
    /// How it is started.
    pub kind: BrokerKind,
}

/// The ways to start a broker.
#[derive(Clone, Debug)]
pub enum BrokerKind {
    /// The `ringmq` program on these cores.
    RingMq { program: PathBuf, cores: Vec<usize>, settings: Vec<String> },
    /// Mosquitto with a generated file.
    Mosquitto { program: PathBuf },
    /// A shell command that contains `{port}`.
    Shell { command: String },
    /// This program's own echo server.
    EchoFloor,
}

/// A running broker.
pub struct Broker {
    /// The process that was started; a shell command may have started others below it.
    pub pid: i32,
    /// The address of its plain TCP listener.
    pub target: SocketAddrV4,
    /// The address of its listener for TLS, WebSockets or both, if it has one.
    pub layered: Option<SocketAddrV4>,
    /// The command and configuration, for the report.
    pub started_as: String,
    child: Child,
    scratch: PathBuf,
}

/// The layers between TCP and MQTT at a broker's second listener.
#[derive(Clone, Copy)]
pub struct Below<'a> {
    /// TLS with these certificates; `None` without TLS.
    pub made: Option<&'a TestCertificates>,
    /// Whether MQTT is carried in WebSockets.
    pub web: bool,
}

impl Below<'_> {
    /// An entry of RingMQ's setting `listeners`.
    fn ringmq(&self, port: u16) -> String {
        let kind = match (self.made, self.web) {
            (Some(_), true) => "wss",
            (Some(_), false) => "tls",
            (None, _) => "ws",
        };
        let tls = self.made.map(|made| format!(", tls: {}", made.ringmq())).unwrap_or_default();
        format!("{{name: {kind}, type: {kind}, bind: 127.0.0.1:{port}{tls}}}")
    }

    /// The lines of a listener in Mosquitto's configuration file.
    fn mosquitto(&self, port: u16) -> String {
        let tls = self.made.map(TestCertificates::mosquitto).unwrap_or_default();
        let web = if self.web { "protocol websockets\n" } else { "" };
        format!("listener {port} 127.0.0.1\n{web}{tls}")
    }
}

impl Candidate {
    /// Starts the broker on a free port of 127.0.0.1 and waits until it accepts connections. With
    /// `queues`, RingMQ and Mosquitto get an in-flight window of 100 and pending queues that do not
    /// overflow; with `below`, the broker listens on a second port, too.
    pub fn start(
        &self,
        queues: bool,
        scratch: &Path,
        below: Option<Below<'_>>,
    ) -> Result<Broker, String> {
        let free = || free_port().map_err(|e| format!("no free port: {e}"));
        let port = free()?;
        let second = below.map(|below| free().map(|port| (port, below))).transpose()?;
        let scratch = scratch.join(format!("{}-{port}", self.name.replace('/', "_")));
        fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
        let (mut command, extra) = self.command(port, second, queues, &scratch)?;
        let log = fs::File::create(scratch.join("log")).map_err(|e| format!("log file: {e}"))?;
        let errors = log.try_clone().map_err(|e| format!("log file: {e}"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        let program = command.get_program().to_string_lossy().into_owned();
        let started_as = format!("{program} {}{extra}", words.join(" "));
        let child = spawn(&mut command).map_err(|e| format!("{program} did not start: {e}"))?;
        let pid = child.id() as i32;
        let target = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let layered = second.map(|(port, _)| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let mut broker = Broker { pid, target, layered, started_as, child, scratch };
        broker.wait_ready()?;
        Ok(broker)
    }

    fn command(
        &self,
        port: u16,
        second: Option<(u16, Below<'_>)>,
        queues: bool,
        scratch: &Path,
    ) -> Result<(Command, String), String> {
        match &self.kind {
            BrokerKind::RingMq { program, cores, settings } => {
                let mut command = Command::new(program);
                let mut set = |text: String| {
                    command.arg("--set").arg(text);
                };
                match second {
                    None => set(format!("listeners.0.bind=127.0.0.1:{port}")),
                    Some((second, below)) => set(format!(
                        "listeners=[{{bind: 127.0.0.1:{port}}}, {}]",
                        below.ringmq(second)
                    )),
                }
                let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
                set(format!("cores=[{}]", cores.join(",")));
                if queues {
                    set("mqtt.max_inflight=100".into());
                    set("mqtt.pending.max_messages=100000".into());
                    set("mqtt.pending.max_bytes=64MiB".into());
                }
                settings.iter().cloned().for_each(set);
                Ok((command, String::new()))
            }
            BrokerKind::Mosquitto { program } => {
                let text = mosquitto_config(port, second, queues);
                let path = scratch.join("mosquitto.conf");
                fs::write(&path, &text).map_err(|e| format!("{}: {e}", path.display()))?;
                let mut command = Command::new(program);
                command.arg("-c").arg(&path);
                Ok((command, format!(" [{}]", text.trim().replace('\n', "; "))))
            }
            BrokerKind::Shell { command: text } => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(text.replace("{port}", &port.to_string()));
                Ok((command, String::new()))
            }
            BrokerKind::EchoFloor => {
                let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
                let mut command = Command::new(own);
                command.arg("echo-server").arg("--port").arg(port.to_string());
                Ok((command, String::new()))
            }
        }
    }
}

/// Debian's defaults without statistics messages and files. Nagle's algorithm stays on, which is
/// Mosquitto's default: Mosquitto spends less CPU time with it, so ratios err in its favour.
fn mosquitto_config(port: u16, second: Option<(u16, Below<'_>)>, queues: bool) -> String {
    let mut text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nsys_interval 0\n\
         log_type error\nuser root\n"
    );
    if let Some((port, below)) = second {
        text.push_str(&below.mosquitto(port));
    }
    if queues {
        text.push_str("max_inflight_messages 100\nmax_queued_messages 100000\n");
    }
    text
}

/// Starts a child that the kernel kills when this program ends.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: prctl is async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    // The child gets a process group of its own: the terminal's Ctrl-C then reaches this program
    // only, and `stop` passes the signal on.
    let child = command.process_group(0).spawn()?;
    stop::with(child.id() as i32);
    Ok(child)
}

impl Broker {
    fn wait_ready(&mut self) -> Result<(), String> {
        let limit = clock::now() + START_LIMIT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended at once ({status}){}", self.last_words()));
            }
            let target = self.target.into();
            if TcpStream::connect_timeout(&target, Duration::from_millis(200)).is_ok() {
                // The broker needs time to notice that the probe is closed; otherwise the first
                // reading of its memory would include the probe's connection.
                std::thread::sleep(Duration::from_millis(200));
                return Ok(());
            }
            if clock::now() > limit || stop::requested() {
                return Err(format!("it does not accept connections{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last three lines of the broker's log, for an error message.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(self.scratch.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(3).collect();
        if lines.is_empty() {
            return String::new();
        }
        format!("; it said: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / "))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let pids = Tree::of(self.pid).pids().to_vec();
        end(&mut self.child, &pids);
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// Sends SIGTERM to `pids` and, after `STOP_LIMIT`, SIGKILL to those that still run; reaps `child`.
pub fn end(child: &mut Child, pids: &[i32]) {
    reap(child, pids);
    stop::without(child.id() as i32);
}

fn reap(child: &mut Child, pids: &[i32]) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    signal(pids, libc::SIGTERM);
    let limit = clock::now() + STOP_LIMIT;
    while clock::now() < limit {
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        if ended && pids.iter().skip(1).all(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            return;
        }
        std::thread::sleep(Duration::from_nanos(10 * MILLISECOND));
    }
    signal(pids, libc::SIGKILL);
    let _ = child.wait();
}

/// Sends `signal` to processes that this program has started.
pub fn signal(pids: &[i32], signal: i32) {
    for &pid in pids {
        // SAFETY: a plain system call without pointers, on a child of this process.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(pid, signal);
        }
    }
}

/// A port of 127.0.0.1 that is free at the moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The path of Mosquitto; installs Debian's package when it is missing and this user is root.
pub fn mosquitto() -> Result<PathBuf, String> {
    let find = || {
        let places = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"];
        places.iter().map(PathBuf::from).find(|path| path.exists())
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    // SAFETY: no arguments, no failure.
    #[allow(unsafe_code)]
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        return Err("mosquitto is not installed (apt-get install mosquitto)".into());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "--no-install-recommends", "mosquitto"]);
    install.stdin(Stdio::null()).stdout(Stdio::null());
    let _ = install.status();
    find().ok_or_else(|| "mosquitto is not installed and apt-get could not install it".into())
}
