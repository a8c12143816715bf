//! Brokers, generators and files for the tests: all of them are gone when a test has ended.

use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ringmq-bench"))
}

/// A directory of a test's own.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringmq-bench-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a directory of our own");
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).expect("it is our directory");
        self.path(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A broker, under a shell that kills it when its input ends, which comes with our own end.
pub struct Broker {
    pub name: &'static str,
    pub port: u16,
    shell: Child,
    input: Option<ChildStdin>,
    _scratch: Scratch,
}

impl Broker {
    pub fn ringmq() -> Broker {
        Broker::ringmq_with(|_, _| Vec::new())
    }

    /// With further settings, for which the program and a directory are given.
    pub fn ringmq_with(settings: impl FnOnce(&Path, &Scratch) -> Vec<String>) -> Broker {
        static BUILT: Once = Once::new();
        let program = program().with_file_name("ringmq");
        BUILT.call_once(|| {
            // The one that is there may be older than its source, unless `scripts/test` built it.
            if std::env::var_os("RINGMQ_TEST_BUILT").is_some() && program.exists() {
                return;
            }
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--package", "ringmq", "--bin", "ringmq"]);
            let status = build.current_dir(root).status().expect("cargo runs");
            assert!(status.success() && program.exists(), "the broker does not build");
        });
        let port = free_port();
        let bind = format!("listeners.0.bind=127.0.0.1:{port}");
        let scratch = Scratch::new("broker");
        let more = settings(&program, &scratch);
        let mut set = vec!["--set", &bind, "--set", "mqtt.pending.max_messages=100000"];
        set.extend(more.iter().flat_map(|setting| ["--set", setting.as_str()]));
        Broker::start("ringmq", port, &program, &set, scratch)
    }

    pub fn mosquitto() -> Broker {
        let program = Path::new("/usr/sbin/mosquitto");
        assert!(program.exists(), "no mosquitto: run scripts/test, or apt-get install mosquitto");
        let port = free_port();
        let scratch = Scratch::new("broker");
        let file = scratch.file(
            "mosquitto.conf",
            &format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
                 log_type error\nuser root\nmax_queued_messages 100000\n"
            ),
        );
        Broker::start("mosquitto", port, program, &["-c", &file], scratch)
    }

    fn start(
        name: &'static str,
        port: u16,
        program: &Path,
        words: &[&str],
        scratch: Scratch,
    ) -> Broker {
        let mut shell = Command::new("sh")
            .args(["-c", "\"$@\" & cat >/dev/null; kill -9 $!", "leash"])
            .arg(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let input = shell.stdin.take();
        let limit = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Broker { name, port, shell, input, _scratch: scratch }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.shell.wait();
    }
}

/// A generator that runs.
pub struct Generator {
    child: Option<Child>,
    words: String,
}

impl Generator {
    pub fn start(words: &str) -> Generator {
        let child = Command::new(program())
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the generator starts");
        Generator { child: Some(child), words: words.to_string() }
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it is only taken by `ended`")
    }

    pub fn until_there(&mut self, path: &str) {
        let limit = Instant::now() + PATIENCE;
        while !Path::new(path).exists() {
            let ended = self.child().try_wait().expect("it is ours");
            assert!(ended.is_none(), "{}: ended: {ended:?}", self.words);
            assert!(Instant::now() < limit, "{}: its clients are not in", self.words);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Processes that it has started.
    pub fn children(&self) -> Vec<String> {
        let pid = self.child.as_ref().expect("it runs").id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        text.unwrap_or_default().split_whitespace().map(str::to_string).collect()
    }

    /// Exit code, standard output and standard error.
    pub fn ended(mut self) -> (Option<i32>, String, String) {
        let limit = Instant::now() + PATIENCE;
        while self.child().try_wait().expect("it is ours").is_none() {
            if Instant::now() > limit {
                let _ = self.child().kill();
                panic!("{}: it does not end", self.words);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let child = self.child.take().expect("it was there a moment ago");
        let output = child.wait_with_output().expect("it has ended");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) {
        let words = self.words.clone();
        let (ended, out, said) = self.ended();
        assert_eq!(ended, Some(code), "{words}\n{out}{said}");
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process has ended and only waits for its parent.
pub fn is_dead(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// Runs the generator to its end: exit code, standard output and standard error.
pub fn bench(words: &str) -> (i32, String, String) {
    let (code, out, said) = Generator::start(words).ended();
    assert!(!out.contains("NaN") && !said.contains("NaN"), "{words}\n{out}{said}");
    (code.unwrap_or_else(|| panic!("{words}: killed\n{out}{said}")), out, said)
}

/// A result file.
#[track_caller]
pub fn file(path: &str) -> Value {
    let text = fs::read_to_string(path).expect("the generator wrote it");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The report in a result file.
#[track_caller]
pub fn result(path: &str) -> Value {
    file(path)["result"].clone()
}

/// A figure of a report; dots go into objects.
#[track_caller]
pub fn figure(report: &Value, path: &str) -> f64 {
    let value = path.split('.').fold(report, |value, key| &value[key]);
    value.as_f64().unwrap_or_else(|| panic!("{path} is {value} in {report}"))
}

/// A count of a report.
#[track_caller]
pub fn number(report: &Value, path: &str) -> u64 {
    figure(report, path) as u64
}

/// A port of 127.0.0.1 on which nobody listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
