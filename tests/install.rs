//! What gets RingMQ onto a host and into an image: `scripts/install` for real below a scratch root,
//! the systemd unit, the configuration files that come with it, and what the Dockerfile runs.

#[path = "support/root.rs"]
mod root;

use root::{Root, run, stdout};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const RINGMQ: &str = env!("CARGO_BIN_EXE_ringmq");
const CONFIG: &str = "etc/ringmq/ringmq.yaml";

impl Root {
    /// A host with one user.
    fn host() -> Root {
        // With a space: nothing may take the path for two words.
        let root = Root::empty("ringmq install");
        root.put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        root.put("etc/group", "root:x:0:\n");
        root
    }

    fn install(&self, words: &str, answer: &str) -> Output {
        let mut command = Command::new(project("scripts/install"));
        command.arg("--root").arg(&self.0).args(["--binary", RINGMQ]);
        run(command.args(words.split_whitespace()), answer)
    }

    /// Every file but the copies that useradd leaves (`passwd-`), with its length and text.
    fn files(&self) -> BTreeMap<PathBuf, (u64, String)> {
        let mut all = BTreeMap::new();
        collect(&self.0, &mut all);
        all
    }
}

fn collect(directory: &Path, all: &mut BTreeMap<PathBuf, (u64, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, all);
        } else if !path.to_string_lossy().ends_with('-') {
            let length = path.metadata().unwrap().len();
            all.insert(path.clone(), (length, fs::read_to_string(&path).unwrap_or_default()));
        }
    }
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A broker that is killed with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `ping` says of a broker started from this program and file, on a free port of loopback;
/// both get the same environment, which comes before the file.
fn serve_and_ping(program: &Path, file: &Path, environment: &[(&str, &str)]) -> String {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap();
    let started = |words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).arg("--config").arg(file).stderr(Stdio::null());
        command.env("RINGMQ_LISTENERS__0__BIND", free.to_string());
        command.envs(environment.iter().copied());
        command
    };
    let mut broker = Running(started(&[]).stdout(Stdio::null()).spawn().unwrap());
    let began = Instant::now();
    loop {
        let said = started(&["ping"]).output().unwrap();
        if said.status.success() {
            let pid = broker.0.id().to_string();
            assert!(Command::new("kill").arg(pid).status().unwrap().success());
            assert_eq!(broker.0.wait().unwrap().code(), Some(0), "it drains and stops");
            return stdout(&said).replace(&free.to_string(), "ADDRESS");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it does not answer");
        assert_eq!(broker.0.try_wait().unwrap(), None, "it has ended");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_dry_run_and_a_no_change_nothing() {
    let root = Root::host();
    let before = root.files();
    let place = root.0.display();
    let shown = format!(
        "{place}/usr/local/bin/ringmq: ringmq {}\n\
         {place}/etc/ringmq/ringmq.yaml: listens on 127.0.0.1:1883\n\
         {place}/etc/systemd/system/ringmq.service: the service (not enabled, not started)\n\
         user ringmq: no login, no home\n",
        env!("CARGO_PKG_VERSION")
    );
    let output = root.install("--dry-run", "");
    assert_eq!((stdout(&output), output.status.code()), (shown.clone(), Some(0)));
    for answer in ["", "n\n", "maybe\n"] {
        let output = root.install("", answer);
        assert_eq!(output.status.code(), Some(1), "{answer:?}");
        assert_eq!(stdout(&output), format!("{shown}Do this? [y/N] nothing changed\n"));
    }
    assert_eq!(root.files(), before);
}

#[test]
fn what_is_installed_serves_and_uninstalling_leaves_what_was_there() {
    let root = Root::host();
    let before = root.files();
    let output = root.install("", "y\n");
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("the configuration is valid\n"), "{output:?}");
    let user = root.text("etc/passwd");
    assert!(user.contains("\nringmq:") && user.contains(":/usr/sbin/nologin\n"), "{user}");
    let program = root.path("usr/local/bin/ringmq");
    assert_eq!(serve_and_ping(&program, &root.path(CONFIG), &[]), "ADDRESS answers and serves\n");

    assert_eq!(stdout(&root.install("--yes", "")), "nothing to do\n");
    let installed = root.files();
    let refused = root.install("--uninstall", "no\n");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(root.files(), installed);
    let output = root.install("--uninstall", "y\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(root.files(), before);
    assert_eq!(stdout(&root.install("--uninstall --yes", "")), "nothing to uninstall\n");
}

#[test]
fn a_root_and_a_program_are_meant_from_where_the_caller_is() {
    let root = Root::host();
    fs::create_dir(root.path("image")).unwrap();
    fs::copy(RINGMQ, root.path("program")).unwrap();
    let words = ["--root", "image/", "--binary", "program", "--yes"];
    let mut command = Command::new(project("scripts/install"));
    let output = run(command.args(words).current_dir(&root.0), "");
    assert!(output.status.success(), "{output:?}");
    // No passwd, no user: the unit does without.
    assert!(!stdout(&output).contains("user ringmq"), "{output:?}");
    assert!(root.path("image/usr/local/bin/ringmq").exists());
}

#[test]
fn another_program_of_that_name_comes_back_and_a_changed_configuration_stays() {
    let root = Root::host();
    root.put("usr/local/bin/ringmq", "an older one");
    let before = root.files();
    let shown = stdout(&root.install("--dry-run", ""));
    assert!(shown.contains(", in place of another\n"), "{shown}");
    assert!(root.install("--yes", "").status.success());
    let mine = "listeners: [{name: mine, bind: '127.0.0.1:1999'}]\n";
    root.put(CONFIG, mine);
    assert_eq!(stdout(&root.install("--yes", "")), "nothing to do\n");
    assert_eq!(root.text(CONFIG), mine, "a second run leaves it alone");
    let output = root.install("--uninstall --yes", "");
    assert!(stdout(&output).contains("it was changed after it was installed"), "{output:?}");
    assert_eq!(root.text(CONFIG), mine);
    fs::remove_file(root.path(CONFIG)).unwrap();
    assert_eq!(root.files(), before);
}

#[test]
fn a_configuration_that_was_there_is_kept_and_its_faults_are_named() {
    let root = Root::host();
    root.put(CONFIG, "listenres: []\n");
    let output = root.install("--yes", "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("ringmq.yaml: stays as it is\n"), "{output:?}");
    assert!(stderr(&output).contains("ringmq.yaml:1") && stderr(&output).contains("listeners"));
    assert!(root.install("--uninstall --yes", "").status.success());
    assert_eq!(root.text(CONFIG), "listenres: []\n");
}

#[test]
fn wrong_arguments_and_a_missing_program_are_named() {
    let root = Root::host();
    for (words, word) in [("--isntall", "'--isntall'"), ("--root", "--root needs a value")] {
        let output = root.install(words, "");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains(word), "{output:?}");
    }
    let output = root.install("--yes --binary /nonexistent", "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cargo build --release"), "{output:?}");
}

/// Lines `KEY=value` of the unit.
fn unit(key: &str) -> Vec<String> {
    let text = fs::read_to_string(project("tuning/ringmq.service")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{key}=")));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_unit_checks_the_file_that_it_runs_and_gives_up_on_a_faulty_one() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (check, start) = (words(&unit("ExecStartPre")[0]), words(&unit("ExecStart")[0]));
    assert_eq!(check[1], "--test-config");
    assert_eq!(check[2..], start[1..], "the same file");
    assert_eq!(
        (&*check[0], &*start[0], &*start[2]),
        ("ringmq", "ringmq", "/etc/ringmq/ringmq.yaml")
    );
    // What the program ends with is what the unit does not restart it for.
    let root = Root::host();
    root.put(CONFIG, "nonsense: 1\n");
    let ended = Command::new(RINGMQ).arg("--config").arg(root.path(CONFIG)).output().unwrap();
    assert_eq!(unit("RestartPreventExitStatus"), [ended.status.code().unwrap().to_string()]);
}

/// What `cargo deb` packs is there; building the package takes a release build and is done by hand.
#[test]
fn the_debian_package_finds_its_files() {
    let manifest = fs::read_to_string(project("Cargo.toml")).unwrap();
    let (_, assets) = manifest.split_once("\nassets = [\n").expect("a list of assets");
    let (assets, rest) = assets.split_once("]\nmaintainer-scripts = \"tuning/\"").expect("its end");
    assert!(rest.contains("unit-name = \"ringmq\""), "the unit and the user, by their names");
    let named = assets.lines().map(|line| line.split('"').nth(1).expect("a file"));
    let built = |file: &&str| *file == "target/release/ringmq";
    let files: Vec<&str> = named.filter(|file| !built(file)).collect();
    assert!(files.contains(&"tuning/ringmq.yaml"), "{files:?}");
    for file in files.into_iter().chain(["tuning/ringmq.service", "tuning/ringmq.sysusers"]) {
        assert!(project(file).exists(), "{file}");
    }
}

/// Needs `systemd-analyze`.
#[test]
fn systemd_understands_the_unit() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    let Ok(version) = version else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    let version = stdout(&version);
    let number = version.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok()).unwrap();
    let root = Root::host();
    // The program is not in its place here.
    let text = fs::read_to_string(project("tuning/ringmq.service")).unwrap();
    root.put("ringmq.service", &text.replace("=ringmq ", &format!("={RINGMQ} ")));
    let file = root.path("ringmq.service");
    let output = run(Command::new("systemd-analyze").arg("verify").arg(&file), "");
    let told = stderr(&output);
    // Introduced by version 253; older ones say so and take the line before it.
    let known = |line: &&str| number >= 253 || !line.ends_with("ignoring: notify-reload");
    let about_it = |line: &&str| line.contains("ringmq");
    let faults: Vec<&str> = told.lines().filter(about_it).filter(known).collect();
    assert_eq!(faults, [""; 0], "systemd {number}: {told}");
}

/// The words of a Dockerfile's instruction in JSON form.
fn instruction(name: &str) -> Vec<String> {
    let text = fs::read_to_string(project("Dockerfile")).unwrap().replace("\\\n", " ");
    let line = text.lines().rfind(|line| line.trim_start().starts_with(name)).expect(name);
    let (_, list) = line.rsplit_once('[').expect("the JSON form: there is no shell");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_image_refuses_clients_until_told_otherwise_and_its_health_check_follows_its_file() {
    let file = project("tuning/container.yaml");
    let checked = Command::new(RINGMQ).arg("--test-config").arg("--config").arg(&file).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(stderr(&checked).contains("REFUSES EVERY CLIENT"), "{checked:?}");
    let said = serve_and_ping(Path::new(RINGMQ), &file, &[]);
    assert_eq!(said, "ADDRESS answers, but refuses clients without an account (code 5)\n");
    let asked = [("RINGMQ_LISTENERS__0__ALLOW_ANONYMOUS", "true")];
    assert_eq!(serve_and_ping(Path::new(RINGMQ), &file, &asked), "ADDRESS answers and serves\n");

    let (entry, words, check) =
        (instruction("ENTRYPOINT"), instruction("CMD"), instruction("HEALTH"));
    assert_eq!(words, ["--config", "/etc/ringmq/ringmq.yaml"]);
    assert_eq!(check, [vec![entry[0].clone(), "ping".into()], words].concat());
    let text = fs::read_to_string(project("Dockerfile")).unwrap();
    assert!(text.contains("COPY tuning/container.yaml /etc/ringmq/ringmq.yaml\n"));
    let ignored = fs::read_to_string(project(".dockerignore")).unwrap();
    assert!(ignored.contains("\n!tuning/container.yaml\n"), "it does not get into the build");
}
