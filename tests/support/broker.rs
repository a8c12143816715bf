//! A broker as a process: started on a free port, watched, and gone when the test is.
//!
//! `RINGMQ_TEST_SHARDS` chooses the number of shards (default 2), `RINGMQ_TEST_NODES` of how many
//! nodes of a cluster a shared broker consists (default 1). `RINGMQ_TEST_BROKER=mosquitto`
//! runs the tests against Mosquitto instead, to check the tests themselves; what it cannot be
//! configured to do fails there. `RINGMQ_TEST_TRANSPORT` is tls, ws or wss. `RINGMQ_TEST_PROGRAM`
//! is another build of RingMQ to be tested. With `RINGMQ_TEST_UPGRADES=SECONDS` each broker that
//! tests share is upgraded again and again, so long after the last time; stderr tells of each.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::tunnel::Identity;
use super::{nodes, unique};

/// How long a broker may take to be ready on a busy machine.
const START: Duration = Duration::from_secs(30);
const LOG_LINES: usize = 2000;

/// How a broker ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Default)]
struct Log {
    lines: Mutex<VecDeque<String>>,
    grown: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        if std::env::var_os("RINGMQ_TEST_LOG").is_some() {
            eprintln!("broker: {line}");
        }
        let mut lines = self.lines.lock().expect("no thread panics with the log");
        if lines.len() == LOG_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
        self.grown.notify_all();
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().expect("no thread panics with the log");
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// How to start a broker, where more than settings matters.
pub struct Launch<'a> {
    pub settings: &'a [&'a str],
    pub shards: usize,
    /// Port 0: a free one.
    pub bind: SocketAddr,
    pub backlog: u32,
    /// Its limit of open descriptors.
    pub files: Option<u64>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
    /// Its configuration, instead of one with a listener.
    pub file: Option<PathBuf>,
    /// A program with arguments that becomes the broker, as nsenter does.
    pub by: Vec<String>,
}

impl<'a> Launch<'a> {
    pub fn new(settings: &'a [&'a str]) -> Launch<'a> {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        Launch {
            settings,
            shards: shards(),
            bind,
            backlog: 4096,
            files: None,
            environment: Vec::new(),
            file: None,
            by: Vec::new(),
        }
    }

    #[track_caller]
    pub fn start(&self) -> Broker {
        Broker::launch(self)
    }
}

pub struct Broker {
    address: SocketAddr,
    child: Mutex<Child>,
    log: Arc<Log>,
    held: Mutex<Held>,
    /// Set when a thread has begun to upgrade it again and again.
    upgrades: OnceLock<()>,
    directory: PathBuf,
    /// The other nodes of its cluster.
    others: Vec<Broker>,
}

/// What ends a broker with its test.
struct Held {
    /// Dropped, also when this process is killed, it ends the broker.
    leash: Option<Leash>,
    /// The process that has taken its clients over.
    successor: Option<(u32, Leash)>,
}

/// The variable in the environment of a broker, and of every process that it starts, with the
/// directory that this broker alone has.
const MARK: &str = "TEST_BROKER_OF";

/// Kills the processes with that directory in their environment, by their numbers: those that a
/// broker has started for an upgrade, and that may have outlived it.
fn kill_marked(directory: &Path) {
    let mark = format!("{MARK}={}", directory.display());
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes()) {
            // It may have ended meanwhile.
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

/// What [`kill_marked`] does, and before that `kill` of the first argument; the second one is the
/// directory, which is removed.
///
/// One `grep` looks through all processes: hundreds of leashes may come off at once.
const LEASH: &str = "cat >/dev/null; kill -9 $1 2>/dev/null
for file in $(grep -lszxF \"$3=$2\" /proc/[0-9]*/environ); do
    process=${file#/proc/}
    kill -9 ${process%/environ}
done
rm -rf \"$2\"";

/// A shell that waits for the end of its input, which comes with the end of this process, however
/// it ends, and then kills the broker, with the processes that it has started, and removes its
/// files: statics are not dropped, and a test binary can be killed.
pub struct Leash {
    shell: Child,
    _input: ChildStdin,
}

impl Leash {
    pub fn on(pid: u32, directory: &Path) -> Leash {
        let mut shell = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(pid.to_string())
            .arg(directory)
            .arg(MARK)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let input = shell.stdin.take().expect("its input is a pipe");
        Leash { shell, _input: input }
    }

    fn release(mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Whether a process is gone with all its threads, and with them what it had open; nobody may have
/// asked yet how it ended.
pub fn is_dead(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count());
    let ended = stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']));
    ended && threads <= 1
}

impl Broker {
    /// The broker with these settings that all tests in this process share.
    #[track_caller]
    pub fn shared(settings: &[&str]) -> &'static Broker {
        Broker::shared_of(nodes::count(), settings)
    }

    /// The same as one node, whatever `RINGMQ_TEST_NODES` says: for what several nodes do not
    /// promise together (README, "Several nodes").
    #[track_caller]
    pub fn single(settings: &[&str]) -> &'static Broker {
        Broker::shared_of(1, settings)
    }

    fn shared_of(count: usize, settings: &[&str]) -> &'static Broker {
        type Shared = HashMap<(usize, Vec<String>), &'static OnceLock<Broker>>;
        static BROKERS: Mutex<Option<Shared>> = Mutex::new(None);
        let key = (count, settings.iter().map(|setting| setting.to_string()).collect());
        let slot = {
            let mut brokers = BROKERS.lock().expect("no test panics with the list");
            *brokers
                .get_or_insert_default()
                .entry(key)
                .or_insert_with(|| Box::leak(Box::new(OnceLock::new())))
        };
        let broker = slot.get_or_init(|| match count {
            1 => Broker::start(settings),
            count => {
                let mut others = nodes::start(count, settings);
                let mut first = others.remove(0);
                first.others = others;
                first
            }
        });
        if let Some(every) = upgrades().filter(|_| count == 1) {
            let upgrade = move || broker.upgrade_every(every);
            broker.upgrades.get_or_init(|| drop(std::thread::spawn(upgrade)));
        }
        broker
    }

    /// Upgrades it so long after the last time, for ever. Says so beside what tests say, which is
    /// kept from who reads it.
    fn upgrade_every(&self, every: Duration) {
        loop {
            std::thread::sleep(every);
            let said = match self.ask_to_upgrade(&[]) {
                Ok(report) => {
                    self.walk_over(&report);
                    format!("upgraded: {report}")
                }
                Err(why) => format!("not upgraded: {why}"),
            };
            let _ = writeln!(std::io::stderr(), "{said}");
        }
    }

    /// The shared broker with the default settings.
    #[track_caller]
    pub fn plain() -> &'static Broker {
        Broker::shared(&[])
    }

    /// A broker of the test's own.
    #[track_caller]
    pub fn start(settings: &[&str]) -> Broker {
        Broker::start_with(settings, shards())
    }

    /// A broker of the test's own with this configuration file.
    #[track_caller]
    pub fn of_file(file: &str) -> Broker {
        Launch { file: Some(file.into()), ..Launch::new(&[]) }.start()
    }

    /// A broker of the test's own with this many shards.
    #[track_caller]
    pub fn start_with(settings: &[&str], shards: usize) -> Broker {
        Launch { shards, ..Launch::new(settings) }.start()
    }

    #[track_caller]
    fn launch(launch: &Launch<'_>) -> Broker {
        let directory = std::env::temp_dir().join(unique("ringmq-test"));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let identity = over_tls().then(|| Identity::write(&directory));
        let (mut command, known) = match mosquitto() {
            Some(program) => mosquitto_command(&program, launch.settings, &directory),
            None => (ringmq_command(launch, &directory), None),
        };
        let mut child = command
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .env(MARK, &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let leash = Some(Leash::on(child.id(), &directory));
        let log = Arc::new(Log::default());
        let (stderr, copy) = (child.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                copy.push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        let unspecified = SocketAddr::from(([127, 0, 0, 1], 0));
        let child = Mutex::new(child);
        let held = Mutex::new(Held { leash, successor: None });
        let (others, upgrades) = (Vec::new(), OnceLock::new());
        let address = unspecified;
        let mut broker = Broker { address, child, log, held, upgrades, directory, others };
        broker.address = broker.wait_until_ready(known);
        if let Some(identity) = identity {
            broker.address = identity.tunnel(broker.address);
        }
        broker
    }

    fn wait_until_ready(&self, known: Option<SocketAddr>) -> SocketAddr {
        let end = Instant::now() + START;
        loop {
            let lines = self.log.lines.lock().expect("no thread panics with the log");
            let ready = match known {
                Some(address) => {
                    lines.iter().any(|line| line.contains("running")).then_some(address)
                }
                None => lines
                    .iter()
                    .filter(|line| line.contains("ready"))
                    .find_map(|line| address_in(line)),
            };
            if let Some(address) = ready {
                return address;
            }
            let wait = self.log.grown.wait_timeout(lines, Duration::from_millis(50));
            drop(wait.expect("no thread panics with the log"));
            let ended = self.child.lock().expect("no test panics with it").try_wait();
            if let Some(status) = ended.expect("its status can be read") {
                panic!("the broker ended before it was ready ({status}):\n{}", self.log.text());
            }
            assert!(Instant::now() < end, "no `ready` in {START:?}:\n{}", self.log.text());
        }
    }

    /// Where it listens; of several nodes, any of them.
    pub fn address(&self) -> SocketAddr {
        match nodes::any(self.others.len() + 1).checked_sub(1) {
            None => self.address,
            Some(other) => self.others[other].address,
        }
    }

    /// Where the listener of that name is bound, or `admin`, as `ready` tells it.
    #[track_caller]
    pub fn bound(&self, name: &str) -> SocketAddr {
        let log = self.log();
        // The last: another process may have taken over.
        let ready = log.lines().rfind(|line| line.contains(" ready")).expect("it is ready");
        let (_, told) = ready.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{ready}"));
        let end = told.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        told[..end.unwrap_or(told.len())].parse().expect("an address")
    }

    /// The sum of a metric over all shards (`admin.bind=127.0.0.1:0`): of a line that begins with
    /// that name, and has these labels.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        self.find_metric(name, labels).unwrap_or_else(|page| panic!("no {name} in\n{page}"))
    }

    /// The same; the page when there is none.
    #[track_caller]
    pub fn find_metric(&self, name: &str, labels: &str) -> Result<f64, String> {
        let mut stream = TcpStream::connect(self.bound("admin")).expect("it listens");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("it answers");
        let lines = page.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
                && line.contains(labels)
        });
        let values: Vec<f64> =
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
        if values.is_empty() { Err(page) } else { Ok(values.iter().sum()) }
    }

    /// The process that has taken its clients over.
    fn successor(&self) -> Option<u32> {
        let held = self.held.lock().expect("no test panics with it");
        held.successor.as_ref().map(|(pid, _)| *pid)
    }

    pub fn pid(&self) -> u32 {
        if let Some(pid) = self.successor() {
            return pid;
        }
        self.child.lock().expect("no test panics with it").id()
    }

    /// The configuration file it was started with, to be changed before a reload.
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("ringmq.yaml")
    }

    /// The shard that a client lives on, from its admin server (`admin.bind=127.0.0.1:0`).
    #[track_caller]
    pub fn home_of(&self, client_id: &str) -> u8 {
        let mut stream = TcpStream::connect(self.bound("admin")).expect("it listens");
        let request = format!("GET /placement?client_id={client_id} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("it answers");
        let (_, body) = page.split_once("\r\n\r\n").expect("a page");
        body.trim().parse().unwrap_or_else(|_| panic!("{page}"))
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// The lines of its log that tell why it ended.
    pub fn complaints(&self) -> String {
        let log = self.log();
        let mut lines = log.lines().skip_while(|line| !line.contains("panicked"));
        let told: Vec<_> = lines.by_ref().take(3).collect();
        if told.is_empty() { log } else { told.join("\n") }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success(), "the broker is gone:\n{}", self.log());
    }

    /// Asks it to hand its clients over to a new process; what is answered.
    ///
    /// # Errors
    /// Why it was not upgraded.
    pub fn ask_to_upgrade(&self, arguments: &[&str]) -> Result<String, String> {
        let pid = self.pid().to_string();
        let exit = run(&[&["upgrade", "--pid", &pid], arguments].concat());
        let said = |text: &str| text.trim().trim_start_matches("ringmq: ").to_owned();
        if exit.code == Some(0) { Ok(said(&exit.stdout)) } else { Err(said(&exit.stderr)) }
    }

    /// Goes on with the process that has taken the clients over, as `report` tells.
    #[track_caller]
    pub fn follow(&mut self, report: &str) {
        self.walk_over(report);
    }

    #[track_caller]
    fn walk_over(&self, report: &str) {
        let pid = report.split(' ').nth(1).and_then(|pid| pid.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("no process in: {report}"));
        if self.successor().is_none() {
            let mut child = self.child.lock().expect("no test panics with it");
            let status = child.wait().expect("its status can be read");
            assert!(status.success(), "the old process ended with {status}:\n{}", self.log.text());
        }
        let mut held = self.held.lock().expect("no test panics with it");
        let before = held.successor.replace((pid, Leash::on(pid, &self.directory)));
        let first = held.leash.take();
        drop(held);
        if let Some((before, leash)) = before {
            leash.release();
            let end = Instant::now() + START;
            while !is_dead(before) {
                assert!(Instant::now() < end, "process {before} does not end:\n{}", self.log());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        first.into_iter().for_each(Leash::release);
        // It can be asked to upgrade itself.
        let name = format!("@ringmq-upgrade-{pid}");
        let asked = || fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let end = Instant::now() + START;
        while !asked().lines().any(|line| line.ends_with(&name)) {
            assert!(Instant::now() < end, "process {pid} does not get ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// True while the process runs. One that is upgraded again and again may just have ended: then
    /// the next one is soon known.
    pub fn alive(&self) -> bool {
        let end = Instant::now() + START;
        loop {
            if self.is_running() || self.upgrades.get().is_none() || Instant::now() > end {
                return self.is_running();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_running(&self) -> bool {
        if let Some(pid) = self.successor() {
            return Path::new(&format!("/proc/{pid}")).exists();
        }
        let mut child = self.child.lock().expect("no test panics with it");
        child.try_wait().expect("its status can be read").is_none()
    }

    /// Waits until it has been ended by a signal. A process that has taken over is not a child of
    /// this one.
    #[track_caller]
    pub fn wait_for_kill(&self, patience: Duration) {
        let Some(pid) = self.successor() else {
            assert_eq!(self.wait(patience), None, "ended by the signal");
            return;
        };
        let end = Instant::now() + patience;
        while !is_dead(pid) {
            assert!(Instant::now() < end, "process {pid} does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end and returns the exit code.
    #[track_caller]
    pub fn wait(&self, patience: Duration) -> Option<i32> {
        let end = Instant::now() + patience;
        loop {
            let mut child = self.child.lock().expect("no test panics with it");
            if let Some(status) = child.try_wait().expect("its status can be read") {
                return status.code();
            }
            drop(child);
            assert!(Instant::now() < end, "still running after {patience:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Open descriptors of the process.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        fs::read_dir(path).expect("the broker's descriptors can be listed").count()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log.text());
        }
        let child = self.child.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // It may have ended already; nobody else waits for it, so the pid is still its own.
        let _ = child.kill();
        let _ = child.wait();
        kill_marked(&self.directory);
        let held = self.held.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let leashes = held.leash.take().into_iter();
        leashes.chain(held.successor.take().map(|(_, leash)| leash)).for_each(Leash::release);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The other broker under test, if any.
pub fn mosquitto() -> Option<String> {
    let program = std::env::var("RINGMQ_TEST_BROKER").ok()?;
    let path =
        ["/usr/sbin", "/usr/local/sbin"].map(|directory| Path::new(directory).join(&program));
    let found = path.iter().find(|path| path.exists());
    Some(found.map_or(program, |path| path.display().to_string()))
}

/// True when the tests run against another broker, to check the tests.
pub fn other_broker() -> bool {
    mosquitto().is_some()
}

/// How long after one upgrade of a shared broker the next one comes, if any does.
fn upgrades() -> Option<Duration> {
    let text = std::env::var("RINGMQ_TEST_UPGRADES").ok()?;
    Some(Duration::from_secs_f64(text.parse().expect("RINGMQ_TEST_UPGRADES is in seconds")))
}

/// How many shards the suite runs with.
pub fn shards() -> usize {
    let text = std::env::var("RINGMQ_TEST_SHARDS").unwrap_or_else(|_| "2".into());
    text.parse().expect("RINGMQ_TEST_SHARDS is a number")
}

/// `cores=[…]` for so many shards on the cores this process may use: [0, 1, 0, 1, …].
pub fn cores(shards: usize) -> String {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut usable: Vec<usize> = Vec::new();
    for range in line.expect("the kernel names them").trim().split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        usable.extend(from.parse().unwrap_or(0)..=to.parse().unwrap_or(0));
    }
    let chosen: Vec<_> = usable.iter().cycle().take(shards).map(usize::to_string).collect();
    format!("cores=[{}]", chosen.join(","))
}

/// The broker's program without the variables of the tests, which it would take for settings.
pub fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_ringmq").into();
    let mut command = Command::new(std::env::var_os("RINGMQ_TEST_PROGRAM").unwrap_or_else(built));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGMQ_") {
            command.env_remove(name);
        }
    }
    command
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("its output can be read");
        bytes
    })
}

/// Runs the broker's program to its end.
#[track_caller]
pub fn run(arguments: &[&str]) -> Exit {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the broker's program runs");
    // Read meanwhile: a pipe holds 64 KiB, and then its writer waits.
    let stdout = read_all(child.stdout.take().expect("a pipe"));
    let stderr = read_all(child.stderr.take().expect("a pipe"));
    let end = Instant::now() + START;
    while child.try_wait().expect("its status can be read").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("ringmq {arguments:?} did not end in {START:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = child.wait().expect("its status can be read");
    let text = |output: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&output.join().expect("it only reads")).into_owned()
    };
    Exit { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn ringmq_command(launch: &Launch<'_>, directory: &Path) -> Command {
    let file = directory.join("ringmq.yaml");
    let Launch { bind, backlog, .. } = launch;
    let kind = match (super::web::is_on(), over_tls()) {
        (false, false) => "tcp",
        (false, true) => "tls",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    let mut listener = format!("name: default, type: {kind}, bind: '{bind}', backlog: {backlog}");
    if over_tls() {
        let file = |name: &str| directory.join(name).display().to_string();
        listener += &format!(", tls: {{certificate: '{}', ", file("server.crt"));
        listener += &format!("private_key: '{}'}}", file("server.key"));
    }
    fs::write(&file, format!("listeners: [{{{listener}}}]\n")).expect("it can be written");
    let mut command = program();
    if let Some(files) = launch.files {
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n $1 && shift && exec \"$@\"", "sh", &files.to_string()]);
        shell.arg(program);
        for (name, _) in command.get_envs() {
            shell.env_remove(name);
        }
        command = shell;
    }
    let file = launch.file.clone().unwrap_or(file);
    command.arg("--config").arg(file).args(["--set", &cores(launch.shards)]);
    for setting in launch.settings {
        command.args(["--set", setting]);
    }
    match launch.by.split_first() {
        Some((program, arguments)) => behind(program, arguments, &command),
        None => command,
    }
}

/// The same command, run by that program.
fn behind(program: &str, arguments: &[String], command: &Command) -> Command {
    let mut whole = Command::new(program);
    whole.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    whole
}

/// Whether the broker's listener speaks TLS; the tests still speak TCP, to a tunnel.
fn over_tls() -> bool {
    std::env::var_os("RINGMQ_TEST_TRANSPORT")
        .is_some_and(|transport| transport == "tls" || transport == "wss")
}

/// The first `127.0.0.1:PORT` in a line.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.match_indices("127.0.0.1:").find_map(|(at, _)| {
        let rest = &line[at..];
        let digits = rest["127.0.0.1:".len()..].bytes().take_while(u8::is_ascii_digit).count();
        let address: SocketAddr = rest[.."127.0.0.1:".len() + digits].parse().ok()?;
        (address.port() != 0).then_some(address)
    })
}

fn mosquitto_command(
    program: &str,
    settings: &[&str],
    directory: &Path,
) -> (Command, Option<SocketAddr>) {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = probe.local_addr().expect("it is bound");
    drop(probe);
    let mut lines = vec![
        format!("listener {} 127.0.0.1", address.port()),
        "allow_anonymous true".into(),
        "log_type all".into(),
        "set_tcp_nodelay true".into(),
    ];
    let (mut packet, mut sys, mut aliases) = ("1048576", "10", "16");
    for setting in settings {
        let (key, value) = setting.split_once('=').expect("KEY=VALUE");
        match key {
            "mqtt.max_packet_size" => packet = value,
            "mqtt.max_topic_alias" => aliases = value,
            "sys.interval" => sys = value.trim_end_matches('s'),
            "mqtt.max_inflight" => lines.push(format!("max_inflight_messages {value}")),
            "mqtt.pending.max_messages" => lines.push(format!("max_queued_messages {value}")),
            "mqtt.retain" => lines.push(format!("retain_available {value}")),
            "mqtt.max_qos" => lines.push(format!("max_qos {value}")),
            "mqtt.keep_alive.max" => lines.push(format!("max_keepalive {value}")),
            "mqtt.pending.max_bytes" if value == "1GiB" => {}
            "mqtt.pending.max_bytes" => lines.push(format!("max_queued_bytes {value}")),
            "mqtt.outgoing_max_bytes" if value == "1GiB" => {}
            "mqtt.pending.on_full" if value == "drop_new" => {}
            _ => panic!("Mosquitto cannot be set to {setting}"),
        }
    }
    let _ = aliases;
    lines.push(format!("max_packet_size {packet}"));
    lines.push(format!("sys_interval {sys}"));
    let file = directory.join("mosquitto.conf");
    fs::write(&file, lines.join("\n") + "\n").expect("the configuration can be written");
    let mut command = Command::new(program);
    command.arg("-c").arg(file).arg("-v");
    (command, Some(address))
}
