//! `ringmq doctor` on the machine that runs the tests: as it is, and with one thing taken away that
//! a process may take from itself (descriptors, locked memory, io_uring).
#![allow(unsafe_code)]

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn ringmq(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(words.split_whitespace());
    command
}

/// What is taken from the process before it starts.
#[derive(Clone, Copy)]
enum Taken {
    Descriptors(u64),
    LockedMemory,
    AllCpusBut(u16),
    IoUring { errno: u32 },
}

fn without(taken: Taken, words: &str) -> Output {
    let mut command = ringmq(words);
    let take = move || match taken {
        Taken::Descriptors(left) => limit(libc::RLIMIT_NOFILE, left),
        Taken::LockedMemory => limit(libc::RLIMIT_MEMLOCK, 0),
        Taken::AllCpusBut(cpu) => run_only_on(cpu),
        Taken::IoUring { errno } => forbid_io_uring(errno),
    };
    // SAFETY: only setrlimit and prctl run between fork and exec; neither allocates nor locks.
    unsafe { command.pre_exec(take) };
    command.output().expect("it starts")
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: reads one rlimit.
    match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn run_only_on(cpu: u16) -> io::Result<()> {
    // SAFETY: zeroes are an empty set; the calls read and write that set only.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::from(cpu), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The last CPU that this process may run on.
fn last_cpu() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it is readable");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = line.and_then(|list| list.trim().rsplit([',', '-']).next());
    last.and_then(|cpu| cpu.parse().ok()).expect("a list of numbers")
}

/// Answers the three io_uring calls with an error, as container engines do.
fn forbid_io_uring(errno: u32) -> io::Result<()> {
    const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let first = libc::SYS_io_uring_setup as u32;
    let last = libc::SYS_io_uring_register as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD, 0, 0, 0),
        step(JUMP, 0, 2, first),
        step(JUMP, 1, 0, last + 1),
        step(RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives during the calls, which copy it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of one check in the table: its own, and those below it.
fn lines_of(table: &str, check: &str) -> String {
    let mut lines = table.lines().skip_while(|line| line.split_whitespace().nth(1) != Some(check));
    let own = lines.next().unwrap_or_else(|| panic!("{check} is not in\n{table}")).to_owned();
    lines.take_while(|line| line.starts_with("   ")).fold(own, |all, line| all + "\n" + line)
}

#[test]
fn this_machine_holds_a_thousand_clients() {
    let output = ringmq("doctor --connections 1000").output().expect("it starts");
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}\n{}", text(&output.stderr));
    assert!(lines_of(&table, "io_uring").starts_with("ok"), "{table}");
    assert!(table.contains("1,000 clients") && table.ends_with("Ready.\n"), "{table}");
    assert!(table.contains("clients that each limit allows"), "{table}");
}

#[test]
fn the_answer_for_scripts_is_one_object_with_the_same_verdict() {
    let ready = ringmq("doctor --json --connections 1000").output().expect("it starts");
    let too_many = ringmq("doctor --json --connections=100_000_000_000").output().expect("starts");
    assert_eq!((ready.status.code(), too_many.status.code()), (Some(0), Some(1)));
    assert!(text(&ready.stdout).starts_with(r#"{"ready":true,"asked":1000,"clients":"#));
    assert!(text(&too_many.stdout).starts_with(r#"{"ready":false,"asked":100000000000,"#));
    let count = |output: &Output, c| text(&output.stdout).matches(c).count();
    assert_eq!(count(&ready, '{'), count(&ready, '}'));
}

#[test]
fn the_configuration_is_read_and_its_problems_are_misuse() {
    let output = ringmq("doctor --set runtime.max_connections=10 --connections 20").output();
    let output = output.expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(lines_of(&text(&output.stdout), "max_connections").starts_with("BLOCKER"));
    let output = ringmq("doctor --config /nowhere/ringmq.yaml").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let help = text(&ringmq("doctor --help").output().expect("it starts").stdout);
    assert!(help.contains("--connections <N>") && help.contains("--json"), "{help}");
}

#[test]
fn too_few_descriptors_are_named() {
    let output = without(Taken::Descriptors(256), "doctor --connections 10000000");
    let table = text(&output.stdout);
    let lines = lines_of(&table, "nofile");
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(lines.starts_with("BLOCKER") && lines.contains("nofile=1048576"), "{table}");
    // It holds fewer, says how many, and is ready for those.
    let output = without(Taken::Descriptors(256), "doctor --connections 5000");
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("rings of 256 sockets"), "{table}");
}

#[test]
fn no_locked_memory_is_named() {
    let output = without(Taken::LockedMemory, "doctor");
    let table = text(&output.stdout);
    let lines = lines_of(&table, "memlock");
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(lines.starts_with("BLOCKER") && lines.contains("512 KiB"), "{table}");
    assert!(table.contains("Not ready: memlock."), "{table}");
}

#[test]
fn one_cpu_runs_one_shard_and_a_core_it_may_not_use_is_named() {
    let cpu = last_cpu();
    let table = text(&without(Taken::AllCpusBut(cpu), "doctor --connections 1000").stdout);
    assert!(table.contains(", 1 shard, 1,000 clients"), "{table}");
    assert!(lines_of(&table, "cpuset").ends_with(&format!("CPUs {cpu}")), "{table}");
    let other = cpu + 1;
    let words = format!("doctor --connections 1000 --set cores=[{other}]");
    let output = without(Taken::AllCpusBut(cpu), &words);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}");
    let lines = lines_of(&table, "cpuset");
    assert!(lines.starts_with("BLOCKER") && lines.contains(&format!("core {other}")), "{table}");
}

/// A control group of version 1 or 2 that is gone with the value.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Group {
    /// With so little memory, where this process may make one.
    fn with_memory(bytes: u64) -> Option<Group> {
        let name = format!("ringmq-doctor-{}", std::process::id());
        let places = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
            .into_iter()
            .chain([("/sys/fs/cgroup", "memory.max")]);
        places.into_iter().find_map(|(mount, limit)| {
            let path = Path::new(mount).join(&name);
            std::fs::create_dir(&path).ok()?;
            let group = Group(path);
            // Where it is no control group, or the controller is off, there is no such file.
            let file = group.0.join(limit);
            (file.exists() && std::fs::write(file, bytes.to_string()).is_ok()).then_some(group)
        })
    }
}

#[test]
fn a_small_control_group_is_named() {
    let Some(group) = Group::with_memory(96 << 20) else {
        eprintln!("skipped: no control group can be made here (src/doctor/tests.rs judges such)");
        return;
    };
    let procs = std::ffi::CString::new(group.0.join("cgroup.procs").into_os_string().into_vec());
    let procs = procs.expect("a path has no zeros");
    let mut command = ringmq("doctor --connections 100000");
    // SAFETY: only system calls on memory made before the fork.
    unsafe {
        command.pre_exec(move || {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY);
            match libc::write(file, c"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let output = command.output().expect("it starts");
    let table = text(&output.stdout);
    let lines = lines_of(&table, "memory");
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(lines.starts_with("BLOCKER") && lines.contains("96 MiB"), "{table}");
    assert!(table.contains("Not ready: memory."), "{table}");
    assert!(table.contains("the first limit is memory"), "{table}");
}

/// In a mount namespace of its own, where the file systems at these places are empty.
fn hidden(places: &[&std::ffi::CStr], words: &str) -> Option<Output> {
    let places: Vec<std::ffi::CString> = places.iter().map(|place| (*place).to_owned()).collect();
    let mut command = ringmq(words);
    // SAFETY: only system calls on memory made before the fork.
    unsafe {
        command.pre_exec(move || {
            let (none, empty) = (c"none".as_ptr(), std::ptr::null());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let mut done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, private, empty) == 0;
            for place in &places {
                let kind = c"tmpfs".as_ptr();
                done = done && libc::mount(none, place.as_ptr(), kind, 0, empty) == 0;
            }
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
    command.output().ok()
}

#[test]
fn without_proc_or_sys_nothing_is_promised_that_cannot_be_seen() {
    let Some(output) = hidden(&[c"/proc"], "doctor --connections 1000") else {
        eprintln!("skipped: no mount namespace here (src/doctor/tests.rs judges such a tree)");
        return;
    };
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(lines_of(&table, "proc").contains("mount -t proc"), "{table}");
    assert!(table.contains("cannot be told") && table.contains("Not ready: proc."), "{table}");
    let output = hidden(&[c"/sys"], "doctor --connections 1000").expect("as before");
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(lines_of(&table, "network").starts_with("note"), "{table}");
}

#[test]
fn a_filter_on_io_uring_is_named() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let output = without(Taken::IoUring { errno: errno as u32 }, "doctor");
        let table = text(&output.stdout);
        let lines = lines_of(&table, "io_uring");
        assert_eq!(output.status.code(), Some(1), "{table}");
        assert!(lines.starts_with("BLOCKER") && lines.contains("seccomp filter"), "{table}");
        assert!(table.contains("Not ready: io_uring."), "{table}");
        assert!(table.contains("holds 0 idle clients"), "{table}");
    }
}

#[test]
fn the_broker_refuses_at_once_what_would_fail_and_says_why() {
    let set = "--set listeners.0.bind=127.0.0.1:0 --set cores=[0]";
    for (taken, words) in [
        (Taken::IoUring { errno: libc::EPERM as u32 }, ["io_uring: found", "seccomp filter"]),
        (Taken::LockedMemory, ["memlock: found 0 B", "512 KiB"]),
    ] {
        let start = Instant::now();
        let output = without(taken, set);
        let log = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("ERROR") && last.contains("this host cannot run it; "), "{log}");
        assert!(words.iter().all(|word| last.contains(word)) && !log.contains("panicked"), "{log}");
    }
}

#[test]
fn the_broker_warns_at_start_of_what_it_can_live_with() {
    let output = without(
        Taken::Descriptors(256),
        "--set listeners.0.bind=192.0.2.1:1883 --set cores=[0] \
         --set runtime.max_connections=1000000",
    );
    let log = text(&output.stderr);
    // It goes on to listen, which that address does not allow.
    assert!(log.contains("192.0.2.1"), "{log}");
    let warning = log.lines().find(|line| line.contains("WARN") && line.contains("nofile: found"));
    assert!(warning.is_some_and(|line| line.contains("rings of 256 sockets")), "{log}");
}

#[test]
fn a_ping_finds_a_broker_and_misses_none() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("it is bound").to_string();
    drop(port);
    let ping = || ringmq(&format!("ping {address}")).output().expect("it starts");
    assert_eq!(ping().status.code(), Some(1));
    let mut broker = ringmq(&format!("--set listeners.0.bind={address} --set cores=[0]"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    let until = Instant::now() + Duration::from_secs(30);
    while ping().status.code() != Some(0) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (by_address, by_configuration) =
        (ping(), ringmq(&format!("ping --set listeners.0.bind={address}")).output());
    broker.kill().expect("it runs");
    broker.wait().expect("it ended");
    assert_eq!(by_address.status.code(), Some(0), "{}", text(&by_address.stderr));
    assert_eq!(by_configuration.expect("it starts").status.code(), Some(0));
    assert_eq!(text(&by_address.stdout), format!("{address} answers and serves\n"));
}

/// As the health check of an image, whose configuration may have any listeners.
#[test]
fn a_ping_speaks_what_the_listener_speaks() {
    let directory = std::env::temp_dir().join(format!("ringmq-ping-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params =
        rcgen::CertificateParams::new(vec!["host.example".to_owned()]).expect("a name");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let certificate = file("own.crt", &certificate);
    let key = file("own.key", &key.serialize_pem());
    let tls = format!("tls: {{certificate: {certificate}, private_key: {key}");
    let ports: Vec<_> =
        (0..6).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let [a, b, c, d, e, admin] =
        [0, 1, 2, 3, 4, 5].map(|n| ports[n].local_addr().expect("it is bound"));
    drop(ports);
    let socket = directory.join("mqtt.sock").display().to_string();
    let listeners = [
        (format!("{{name: a, bind: {a}, type: tls, {tls}}}}}"), "(tls) answers and serves"),
        (format!("{{name: b, bind: {b}, type: ws}}"), "(ws) answers and serves"),
        (format!("{{name: c, bind: {c}, type: wss, {tls}}}}}"), "(wss) answers and serves"),
        (
            format!("{{name: d, bind: {d}, type: tls, proxy_protocol: any, {tls}}}}}"),
            "(tls, as a proxy) answers and serves",
        ),
        (
            format!("{{name: e, bind: {e}, type: tls, {tls}, client_ca: {certificate}}}}}"),
            "(tls) answers, but asks for a certificate",
        ),
        (format!("{{name: f, bind: {socket}, type: unix}}"), "mqtt.sock answers and serves"),
    ];
    let common = format!("cores: [0]\nadmin: {{bind: {admin}}}\n");
    let of = |listeners: &str, trusted: &str| {
        format!("{common}trusted_proxies: [{trusted}]\nlisteners:\n{listeners}")
    };
    let lines = |of: &[(String, &str)]| -> String {
        let open = |line: &str| {
            let inner = line.strip_suffix('}').expect("a mapping");
            format!("- {inner}, allow_anonymous: true}}\n")
        };
        of.iter().map(|(line, _)| open(line)).collect()
    };
    let whole = file("all.yaml", &of(&lines(&listeners), "127.0.0.1"));
    let log = directory.join("log");
    let mut broker = ringmq(&format!("--config {whole}"))
        .stderr(std::fs::File::create(&log).expect("a file"))
        .spawn()
        .expect("it starts");
    let ping = |name: &str, text: &str| {
        let output = ringmq(&format!("ping --config {}", file(name, text))).output();
        let output = output.expect("it starts");
        (output.status.code(), text_of(&output))
    };
    let until = Instant::now() + Duration::from_secs(30);
    let mut told = Vec::new();
    for (at, listener) in listeners.iter().enumerate() {
        let one = of(&lines(std::slice::from_ref(listener)), "127.0.0.1");
        let name = format!("{at}.yaml");
        let mut said = ping(&name, &one);
        while said.0 != Some(0) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            said = ping(&name, &one);
        }
        told.push((said, listener.1));
    }
    // Where only proxies elsewhere may connect, the admin server is asked.
    let foreign = of(&lines(&listeners[3..4]), "10.0.0.1");
    told.push((ping("foreign.yaml", &foreign), "(admin server) answers"));
    broker.kill().expect("it runs");
    broker.wait().expect("it ended");
    let log = std::fs::read_to_string(log).expect("a file");
    std::fs::remove_dir_all(&directory).expect("it is there");
    for ((code, said), expected) in told {
        assert!(code == Some(0) && said.contains(expected), "{code:?} {said} {expected}\n{log}");
    }
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
