//! Users and rules that are in Redis and in PostgreSQL, as EMQX's users have them: Debian's
//! servers, which are stopped, started, slow and wrong while the broker runs.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::access::{Directory, login, publish};
use crate::limits::{labelled, start};
use crate::output;
use crate::support::broker::run;
use crate::support::{Broker, Client, Connect, Publish, Subscribe, V5, eventually, unique};

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

/// A node of a Redis cluster.
struct Node {
    server: Option<Server>,
    port: u16,
    /// Where nodes talk to each other.
    bus: u16,
}

impl Node {
    fn start(&mut self, directory: &Directory) {
        let Node { port, bus, .. } = *self;
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--appendonly", "no", "--dir", &directory.file("")]);
        command.args(["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]);
        command.args(["--cluster-config-file", &format!("nodes-{port}.conf")]);
        // What the others have is served when one is gone.
        command.args(["--cluster-require-full-coverage", "no"]);
        let server = command.stdout(Stdio::null()).spawn().expect(INSTALL);
        self.server = Some(Server(server));
        eventually("redis answers", || cli(port, &["PING"]).trim() == "PONG");
    }

    fn id(&self) -> String {
        cli(self.port, &["CLUSTER", "MYID"]).trim().to_owned()
    }
}

/// Three nodes with a third of the slots each.
fn redis_cluster(directory: &Directory) -> [Node; 3] {
    let nodes = [(0, 5460), (5461, 10922), (10923, 16383)].map(|(first, last)| {
        let mut node = Node { server: None, port: free_port(), bus: free_port() };
        node.start(directory);
        let (first, last) = (format!("{first}"), format!("{last}"));
        cli(node.port, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
        node
    });
    for other in &nodes[1..] {
        let (port, bus) = (other.port.to_string(), other.bus.to_string());
        cli(nodes[0].port, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    let whole = |node: &Node| {
        let info = cli(node.port, &["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
    };
    eventually("the nodes are a cluster", || nodes.iter().all(whole));
    nodes
}

/// Commands go to the node that has the key, also while a slot moves from one to another, and when
/// the node that was asked first, or another one, is not there.
#[test]
fn users_in_a_redis_cluster() {
    let directory = Directory::new();
    let mut nodes = redis_cluster(&directory);
    let ports = [0, 1, 2].map(|at| nodes[at].port);
    let home = |user: &str| {
        let key = format!("mqtt_user:{user}");
        let slot = cli(ports[0], &["CLUSTER", "KEYSLOT", &key]);
        let slot: usize = slot.trim().parse().expect("a slot");
        (slot, usize::from(slot > 5460) + usize::from(slot > 10922))
    };
    let set = |port: u16, user: &str| {
        let key = format!("mqtt_user:{user}");
        let told = cli(port, &["HSET", &key, "password_hash", HASH, "salt", "salt"]);
        assert!(told.trim().parse::<u32>().is_ok(), "{told}");
    };
    // One of each node, and who is to be moved from the first to the second.
    let of = |wanted: usize, tag: &str| {
        let names = (0..).map(|n| format!("{tag}{n}"));
        names.into_iter().find(|name| home(name).1 == wanted).expect("there are many")
    };
    let users = [of(0, "a"), of(1, "b"), of(2, "c")];
    let mover = of(0, "m");
    (0..3).for_each(|at| set(ports[at], &users[at]));
    set(ports[0], &mover);
    let servers =
        format!("127.0.0.1:{}, 127.0.0.1:{}, 127.0.0.1:{}", free_port(), ports[0], ports[1]);
    let chain = format!("[{{redis: {{server: '{servers}', timeout: 1s, pool: 1}}}}]");
    let set_chain = format!("access.authentication={chain}");
    let broker = Broker::start(&[&set_chain, "access.authorization=[{rules: {list: []}}]"]);
    for user in users.iter().chain([&mover]) {
        assert_eq!(outcome(&broker, user, "secret"), "let in", "{user}");
        assert_eq!(outcome(&broker, user, "wrong"), "refused", "{user}");
    }
    assert_eq!(outcome(&broker, "nobody", "secret"), "refused");
    // ASK: the key is at the new node, and the slot still at the old one.
    let slot = home(&mover).0.to_string();
    let ids = [nodes[0].id(), nodes[1].id()];
    cli(ports[1], &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
    cli(ports[0], &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    let (to, moving) = (ports[1].to_string(), format!("mqtt_user:{mover}"));
    let moved = cli(ports[0], &["MIGRATE", "127.0.0.1", &to, &moving, "0", "2000"]);
    assert_eq!(moved.trim(), "OK");
    assert_eq!(outcome(&broker, &mover, "secret"), "let in", "it is being moved");
    // MOVED, after it was learned where the slot is.
    for port in [ports[1], ports[0], ports[2]] {
        cli(port, &["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]);
    }
    assert_eq!(outcome(&broker, &mover, "secret"), "let in", "it was moved");
    // A node goes, and comes back without what it had.
    drop(nodes[2].server.take());
    assert_eq!(outcome(&broker, &users[2], "secret"), "unavailable");
    assert_eq!(outcome(&broker, &users[0], "secret"), "let in");
    nodes[2].start(&directory);
    let key = format!("mqtt_user:{}", users[2]);
    eventually("it serves its slots", || cli(ports[2], &["TYPE", &key]).trim() == "none");
    set(ports[2], &users[2]);
    eventually("it is asked again", || outcome(&broker, &users[2], "secret") == "let in");
    // The node that was asked first goes: the next one is.
    drop(nodes[0].server.take());
    assert_eq!(outcome(&broker, &users[1], "secret"), "let in");
    assert_eq!(outcome(&broker, &mover, "secret"), "let in");
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

/// A client of this user, without a password.
fn client(broker: &Broker, user: &str) -> Client {
    Connect::new(V5, unique("c")).login(Some(user), None).open(broker)
}

/// What becomes of a message of QoS 1 of a client that has just come.
fn sends(broker: &Broker, user: &str, topic: &str) -> &'static str {
    let code = client(broker, user).publish_code(&Publish::new(topic, 1, "x"));
    if code == 0x87 { "denied" } else { "allowed" }
}

/// The SUBACK code.
fn asks(broker: &Broker, user: &str, filter: &str) -> u8 {
    client(broker, user).subscribe(Subscribe::to(filter, 1))[0]
}

/// What `ringmq access test` says, asking the database itself.
fn told(rules: &str, deed: &str, topic: &str) -> String {
    let set = ["access", "test", "--set", rules, "--client", "c1", "--user", "ann", deed, topic];
    run(&set).stdout.trim_end().to_owned()
}

fn failed(broker: &Broker) -> u64 {
    labelled(broker, "ringmq_authorization_answers_total{", "result=\"failed\"")
}

#[test]
fn rules_in_redis() {
    let (directory, port) = (Directory::new(), free_port());
    let mut server = Some(redis(port, &directory));
    let set = |words: &[&str]| _ = cli(port, words);
    let json = r#"{"action": "publish", "qos": [1], "retain": false}"#;
    let ann = ["HSET", "mqtt_acl:ann", "dev/${username}/#", "publish", "read/#", "subscribe"];
    let filled = || {
        set(&ann);
        set(&["HSET", "mqtt_acl:ann", "json", json]);
    };
    filled();
    let of = |more: &str| {
        let redis = format!("{{redis: {{server: '127.0.0.1:{port}', timeout: 500ms{more}}}}}");
        format!(
            "access.authorization=[{redis}, {{rules: {{list: [{{allow: all, topics: [n]}}]}}}}]"
        )
    };
    let rules = of("");
    let broker = start(&[&rules, "access.cache.ttl=0"]);
    for (user, topic, expected) in [
        ("ann", "dev/ann/1", "allowed"),
        ("ann", "dev/bob/1", "denied"),
        ("ann", "read/1", "denied"),
        ("ann", "json", "allowed"),
        ("bob", "dev/bob/1", "denied"),
        ("bob", "n", "allowed"),
    ] {
        assert_eq!(sends(&broker, user, topic), expected, "{user} {topic}");
    }
    assert_eq!((asks(&broker, "ann", "read/+"), asks(&broker, "ann", "dev/ann/#")), (1, 0x87));
    // A will is a message.
    let will = |topic: &str| {
        let connect = Connect::new(V5, unique("w")).login(Some("ann"), None);
        let connect = connect.will(Publish::new(topic, 1, "gone"));
        let mut client = Client::raw(&broker, V5);
        client.send(&connect.encode());
        client.connack().code
    };
    assert_eq!((will("dev/ann/w"), will("dev/bob/w")), (0, 0x87));
    let by = told(&rules, "subscribe", "read/1");
    let rule = by.starts_with("allowed by rule ");
    assert!(rule && by.ends_with(" of access.authorization.0.redis"), "{by}");
    assert_eq!(told(&rules, "publish", "read/1"), "denied: no rule matches");
    // Changed while running.
    set(&["HSET", "mqtt_acl:bob", "dev/bob/#", "all"]);
    assert_eq!(sends(&broker, "bob", "dev/bob/1"), "allowed");
    // What cannot be read, and what is no hash at all, allows nothing, not even what is behind.
    set(&["HSET", "mqtt_acl:odd", "a", "3"]);
    set(&["SET", "mqtt_acl:text", "x"]);
    assert_eq!((sends(&broker, "odd", "n"), sends(&broker, "text", "n")), ("denied", "denied"));
    assert_eq!(failed(&broker), 2);
    let reasons = ["neither an action nor a JSON object", "WRONGTYPE"];
    eventually("the log says why", || reasons.iter().any(|why| broker.log().contains(why)));
    // Slow; down; and there again.
    set(&["CLIENT", "PAUSE", "1500", "ALL"]);
    assert_eq!(sends(&broker, "ann", "dev/ann/1"), "denied");
    eventually("it goes on", || sends(&broker, "ann", "dev/ann/1") == "allowed");
    drop(server.take());
    assert_eq!(sends(&broker, "ann", "dev/ann/1"), "denied");
    assert_eq!(told(&rules, "publish", "n").split(": ").next(), Some("denied"));
    let lenient = start(&[&of(", on_failure: ignore")]);
    assert_eq!(sends(&lenient, "ann", "n"), "allowed", "the next source is asked");
    let _server = redis(port, &directory);
    filled();
    eventually("its rules hold again", || sends(&broker, "ann", "dev/ann/1") == "allowed");
}

/// How often Redis was asked for a hash.
fn asked(port: u16) -> u64 {
    let stats = cli(port, &["INFO", "commandstats"]);
    let calls = stats.split_once("cmdstat_hgetall:calls=");
    calls.map_or(0, |(_, rest)| rest.split(',').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

#[test]
fn what_a_database_said_is_remembered_for_each_client_and_topic() {
    let (directory, port) = (Directory::new(), free_port());
    let _server = redis(port, &directory);
    cli(port, &["HSET", "mqtt_acl:ann", "a/#", "all"]);
    let rules = format!("access.authorization=[{{redis: {{server: '127.0.0.1:{port}'}}}}]");
    let broker = start(&[&rules, "access.cache.ttl=1h"]);
    let mut ann = client(&broker, "ann");
    (0..50).for_each(|_| ann.publish(&Publish::new("a/1", 1, "x")));
    assert_eq!(asked(port), 1);
    ann.publish(&Publish::new("a/2", 1, "x"));
    assert_eq!(asked(port), 2);
    // The filters of one SUBSCRIBE are asked about together.
    let filters: Vec<String> = (0..16).map(|n| format!("a/f/{n}")).collect();
    let first = Subscribe::to(&filters[0], 0);
    let subscribe = filters[1..].iter().fold(first, |all, filter| all.and(filter, 0));
    assert_eq!(ann.subscribe(subscribe), vec![0; 16]);
    assert_eq!(asked(port), 3);
    let remembered = labelled(&broker, "ringmq_authorizations_total{", "result=\"remembered\"");
    assert!(remembered >= 49, "{remembered}");
}

#[test]
fn rules_in_postgres() {
    let (directory, port) = (Directory::new(), free_port());
    let mut server = Some(postgres(&directory, port));
    let sql = |text: &str| psql(port, text).expect("it is SQL");
    // As EMQX's manual has it, with columns of types that are no texts.
    sql("CREATE TYPE action AS ENUM ('publish', 'subscribe', 'all')");
    sql("CREATE TYPE permission AS ENUM ('allow', 'deny')");
    sql("CREATE TABLE mqtt_acl (id serial PRIMARY KEY, ipaddress inet, username varchar(255), \
         action action, permission permission, topic varchar(255), qos integer[], \
         retain smallint)");
    let rule = |user: &str, action: &str, permission: &str, topic: &str, more: &str| {
        sql(&format!(
            "INSERT INTO mqtt_acl (ipaddress, username, action, permission, topic, qos, retain) \
             VALUES ('127.0.0.1', '{user}', '{action}', '{permission}', '{topic}', {more})"
        ))
    };
    rule("ann", "all", "deny", "dev/${username}/secret", "NULL, NULL");
    rule("ann", "publish", "allow", "dev/${username}/#", "NULL, NULL");
    rule("ann", "subscribe", "allow", "eq read/+", "NULL, NULL");
    rule("ann", "publish", "allow", "levels", "'{1,2}', 0");
    rule("ann", "publish", "allow", "kept", "NULL, 1");
    let url = format!("postgres://mqtt:pw@127.0.0.1:{port}/postgres");
    let query = "SELECT permission, action, topic, qos, retain FROM mqtt_acl WHERE username = \
                 ${username} AND ipaddress = ${peerhost} ORDER BY id";
    let of = |query: &str, more: &str| {
        let postgres = format!("url: '{url}', query: '{query}', timeout: 500ms{more}");
        let next = "{rules: {list: [{allow: all, topics: [n]}]}}";
        format!("access.authorization=[{{postgres: {{{postgres}}}}}, {next}]")
    };
    let rules = of(query, "");
    let broker = start(&[&rules, "access.cache.ttl=0"]);
    for (user, topic, expected) in [
        ("ann", "dev/ann/1", "allowed"),
        ("ann", "dev/ann/secret", "denied"),
        ("ann", "dev/bob/1", "denied"),
        ("ann", "levels", "allowed"),
        ("ann", "kept", "denied"),
        ("bob", "dev/bob/1", "denied"),
        ("x' OR 'a'='a", "dev/ann/1", "denied"),
        ("bob", "n", "allowed"),
    ] {
        assert_eq!(sends(&broker, user, topic), expected, "{user} {topic}");
    }
    assert_eq!((asks(&broker, "ann", "read/+"), asks(&broker, "ann", "read/a")), (1, 0x87));
    let here = ["access", "test", "--set", &rules, "--address", "127.0.0.1", "--client", "c1"];
    let test = run(&[&here[..], &["--user", "ann", "publish", "dev/ann/1"]].concat());
    assert_eq!(test.stdout, "allowed by rule 2 of access.authorization.0.postgres\n");
    // Changed while running; wrong in two ways; slow.
    sql("UPDATE mqtt_acl SET topic = 'else' WHERE topic LIKE '%secret'");
    assert_eq!(sends(&broker, "ann", "dev/ann/secret"), "allowed");
    let wrong = start(&[&of("SELECT permission, action, topic FROM nowhere", "")]);
    assert_eq!(sends(&wrong, "ann", "n"), "denied");
    eventually("the log says why", || wrong.log().contains("nowhere"));
    let wrong = start(&[&of("SELECT permission, topic FROM mqtt_acl", "")]);
    assert_eq!((sends(&wrong, "ann", "n"), failed(&wrong)), ("denied", 1));
    eventually("the log says why", || wrong.log().contains("a rule has no action"));
    let slow = start(&[&of("SELECT permission, action, topic, pg_sleep(3) FROM mqtt_acl", "")]);
    assert_eq!(sends(&slow, "ann", "n"), "denied");
    drop((wrong, slow));
    // Down, and there again.
    drop(server.take());
    assert_eq!(sends(&broker, "ann", "dev/ann/1"), "denied");
    let lenient = start(&[&of(query, ", on_failure: ignore")]);
    assert_eq!(sends(&lenient, "ann", "n"), "allowed", "the next source is asked");
    let _server = postgres(&directory, port);
    eventually("its rules hold again", || sends(&broker, "ann", "dev/ann/1") == "allowed");
}
