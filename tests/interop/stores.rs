//! Users who are in Redis and in PostgreSQL, as EMQX's users have them: Debian's servers, which are
//! stopped, started, slow and wrong while the broker runs.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::access::{Directory, login, publish};
use crate::output;
use crate::support::{Broker, eventually};

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.expect("a free port").port()
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const INSTALL: &str = "run scripts/test, or apt install redis-server postgresql";

/// What mosquitto_pub says of a login whose message goes to a topic nobody subscribes to.
fn outcome(broker: &Broker, user: &str, password: &str) -> &'static str {
    let text = publish(broker, &login(user, password, "a")).1;
    match () {
        () if text.contains("RC:16") => "published",
        () if text.contains("RC:135") => "let in",
        () if text.contains("Bad User Name or Password") => "refused",
        () if text.contains("unavailable") => "unavailable",
        () => panic!("{text}"),
    }
}

/// SHA-256 of `salt` and `secret`.
const HASH: &str = "bede90386d450cea8b77b822f8887065e4e5abf132c2f9dccfcc7fbd4cba5e35";
/// SHA-256 of `salt` and `apple`.
const OTHER: &str = "d392ec05b99fa75a283a9aca2a2dc9e8ef71b98eb40fc1bed1ed2f06bb52b80f";

fn redis(port: u16, directory: &Directory) -> Server {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--appendonly", "no", "--dir", &directory.file("")]);
    let server = command.stdout(Stdio::null()).spawn().expect(INSTALL);
    let server = Server(server);
    eventually("redis answers", || cli(port, &["PING"]).trim() == "PONG");
    server
}

fn cli(port: u16, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.args(["-p", &port.to_string()]).args(words).output().expect(INSTALL);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn users_in_redis() {
    let (directory, port) = (Directory::new(), free_port());
    let mut server = Some(redis(port, &directory));
    let set = |words: &[&str]| _ = cli(port, words);
    let ann = ["HSET", "mqtt_user:ann", "password_hash", HASH, "salt", "salt"];
    set(&ann);
    set(&[&ann[..1], &["mqtt_user:root"], &ann[2..], &["is_superuser", "1"]].concat());
    let chain = format!(
        "access.authentication=[{{redis: {{server: '127.0.0.1:{port}', timeout: 500ms, pool: 2}}}}]"
    );
    // Nothing is allowed to anybody but a superuser.
    let broker = Broker::start(&[&chain, "access.authorization=[{rules: {list: []}}]"]);
    assert_eq!(outcome(&broker, "ann", "secret"), "let in");
    assert_eq!(outcome(&broker, "root", "secret"), "published");
    assert_eq!(outcome(&broker, "ann", "wrong"), "refused");
    assert_eq!(outcome(&broker, "eve", "secret"), "refused");
    assert_eq!(outcome(&broker, "ann\" salt x", "secret"), "refused");
    // Changed while running: no cache says otherwise.
    set(&["HSET", "mqtt_user:ann", "password_hash", OTHER]);
    assert_eq!(outcome(&broker, "ann", "secret"), "refused");
    set(&ann);
    assert_eq!(outcome(&broker, "ann", "secret"), "let in");
    // A wrong answer: no hash is there.
    set(&["SET", "mqtt_user:odd", "x"]);
    assert_eq!(outcome(&broker, "odd", "secret"), "unavailable");
    eventually("the log says why", || broker.log().contains("WRONGTYPE"));
    // Slow.
    set(&["CLIENT", "PAUSE", "1500", "ALL"]);
    let began = Instant::now();
    assert_eq!(outcome(&broker, "ann", "secret"), "unavailable");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("it goes on", || outcome(&broker, "ann", "secret") == "let in");
    // Down, and there again without its old connections.
    drop(server.take());
    assert_eq!(outcome(&broker, "ann", "secret"), "unavailable");
    let _server = redis(port, &directory);
    set(&ann);
    assert_eq!(outcome(&broker, "ann", "secret"), "let in");
}

/// A cluster of its own, with a user `mqtt` who has a password.
fn postgres(directory: &Directory, port: u16) -> Server {
    let data = directory.file("data");
    if !Path::new(&data).exists() {
        let password = directory.file("password");
        fs::write(&password, "pw\n").expect("a file");
        for path in [directory.file(""), password.clone()] {
            // Nobody may be root who runs it.
            let _ = Command::new("chown").args(["postgres", &path]).status();
        }
        let mut init = as_postgres("initdb");
        init.args(["-D", &data, "-U", "mqtt", "-A", "scram-sha-256", "--no-sync"]);
        output(init.args(["--pwfile", &password]));
    }
    let mut command = as_postgres("postgres");
    command.args(["-D", &data, "-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]);
    command.args(["-c", "fsync=off"]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server(command.spawn().expect(INSTALL));
    eventually("postgres answers", || psql(port, "SELECT 1").is_some());
    server
}

/// A program of PostgreSQL, run by somebody who may run it.
fn as_postgres(name: &str) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql").expect(INSTALL).filter_map(Result::ok);
    let newest = versions.map(|version| version.path()).max().expect(INSTALL);
    let program = newest.join("bin").join(name);
    let root = output(Command::new("id").arg("-u")).trim() == "0";
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

fn psql(port: u16, text: &str) -> Option<String> {
    let mut command = Command::new("psql");
    command.env("PGPASSWORD", "pw").args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    let output = command.args(["-U", "mqtt", "-d", "postgres", "-tAc", text]).output();
    let output = output.expect(INSTALL);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn users_in_postgres() {
    let (directory, port) = (Directory::new(), free_port());
    let mut server = Some(postgres(&directory, port));
    let sql = |text: &str| psql(port, text).expect("it is SQL");
    sql("CREATE TABLE mqtt_user (username varchar(100), password_hash varchar(100), \
         salt varchar(40), is_superuser boolean)");
    sql(&format!("INSERT INTO mqtt_user VALUES ('ann', '{HASH}', 'salt', false)"));
    sql(&format!("INSERT INTO mqtt_user VALUES ('root', '{HASH}', 'salt', true)"));
    let url = format!("postgres://mqtt:pw@127.0.0.1:{port}/postgres");
    let of = |more: &str| {
        let chain = format!(
            "access.authentication=[{{postgres: {{url: '{url}', timeout: 500ms, pool: 2{more}}}}}]"
        );
        Broker::start(&[&chain, "access.authorization=[{rules: {list: []}}]"])
    };
    let broker = of("");
    assert_eq!(outcome(&broker, "ann", "secret"), "let in");
    assert_eq!(outcome(&broker, "root", "secret"), "published");
    assert_eq!(outcome(&broker, "ann", "wrong"), "refused");
    assert_eq!(outcome(&broker, "x' OR 'a'='a", "secret"), "refused");
    sql("UPDATE mqtt_user SET salt = 'other'");
    assert_eq!(outcome(&broker, "ann", "secret"), "refused");
    sql("UPDATE mqtt_user SET salt = 'salt'");
    // A wrong answer, and a slow one.
    let wrong = of(", query: 'SELECT password_hash FROM nowhere WHERE n = ${username}'");
    assert_eq!(outcome(&wrong, "ann", "secret"), "unavailable");
    eventually("the log says why", || wrong.log().contains("nowhere"));
    drop(wrong);
    let slow = of(", query: 'SELECT password_hash, salt, pg_sleep(3) FROM mqtt_user \
                   WHERE username = ${username}'");
    assert_eq!(outcome(&slow, "ann", "secret"), "unavailable");
    drop(slow);
    // Down, and there again.
    drop(server.take());
    assert_eq!(outcome(&broker, "ann", "secret"), "unavailable");
    let _server = postgres(&directory, port);
    eventually("its users are known again", || outcome(&broker, "ann", "secret") == "let in");
}
