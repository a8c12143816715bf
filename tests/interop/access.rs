//! Users of mosquitto: their files, their clients, and a service over HTTP, which may be down,
//! slow or wrong.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::output;
use crate::support::broker::{program, run};
use crate::support::{Broker, Client, Connect, Publish, Subscribe, V5, eventually, unique};

/// A directory that is gone with the test.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        let path = std::env::temp_dir().join(unique("ringmq-access"));
        fs::create_dir_all(&path).expect("a temporary directory");
        Directory(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `mosquitto_pub` with these arguments: its exit code, and what it complained of.
pub fn publish(broker: &Broker, arguments: &[&str]) -> (i32, String) {
    let address = broker.address();
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    let output = command.args(arguments).output().expect("mosquitto_pub is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

pub fn login<'a>(user: &'a str, password: &'a str, topic: &'a str) -> Vec<&'a str> {
    vec!["-V", "5", "-u", user, "-P", password, "-t", topic, "-m", "x", "-q", "1", "-d"]
}

/// The worked example of the README: what a mosquitto user has, and two keys.
#[test]
fn files_of_mosquitto_are_taken_as_they_are() {
    let directory = Directory::new();
    let (users, rules) = (directory.file("passwd"), directory.file("acl"));
    output(Command::new("mosquitto_passwd").args(["-c", "-b", &users, "ann", "apple"]));
    output(Command::new("mosquitto_passwd").args(["-b", "-H", "sha512", &users, "bob", "pear"]));
    output(program().args(["passwd", "-b", "plum", "-H", "argon2id", &users, "cat"]));
    fs::write(&rules, "user ann\ntopic a/#\n\npattern write dev/%u/%c/state\n").expect("a file");
    let rules_key = format!("access.authorization=[{{acl_file: {{path: {rules}}}}}]");
    let broker = Broker::start(&[
        &format!("access.authentication=[{{password_file: {{path: {users}}}}}]"),
        &rules_key,
    ]);
    for (user, password) in [("ann", "apple"), ("bob", "pear"), ("cat", "plum")] {
        let topic = format!("dev/{user}/c1/state");
        let mut arguments = login(user, password, &topic);
        arguments.extend(["-i", "c1"]);
        let (code, text) = publish(&broker, &arguments);
        assert_eq!(code, 0, "{user}: {text}");
        assert!(text.contains("RC:16") || text.contains("RC:0"), "{user}: {text}");
        let (_, text) = publish(&broker, &login(user, password, "elsewhere"));
        assert!(text.contains("RC:135"), "{user}: {text}");
        let (code, text) = publish(&broker, &login(user, "wrong", &topic));
        assert!(code != 0 && text.contains("Bad User Name or Password"), "{user}: {text}");
    }
    // The same question on the command line.
    let test = |user: &str, deed: &str, topic: &str| {
        run(&["access", "test", "--set", &rules_key, "--client", "c1", "--user", user, deed, topic])
    };
    let allowed = test("ann", "subscribe", "a/+");
    assert_eq!((allowed.code, allowed.stdout), (Some(0), format!("allowed by {rules}:2\n")));
    let denied = test("bob", "publish", "a/b");
    assert_eq!((denied.code, denied.stdout), (Some(1), "denied: no rule matches\n".to_owned()));
    // A user that is deleted is not let in after a reload.
    output(Command::new("mosquitto_passwd").args(["-D", &users, "bob"]));
    broker.signal("-HUP");
    eventually("the reload is done", || broker.log().contains("configuration reloaded"));
    let (code, _) = publish(&broker, &login("bob", "pear", "dev/bob/c1/state"));
    assert_ne!(code, 0);
}

/// A service: how it answers, and what it was asked.
pub struct Service {
    pub address: SocketAddr,
    pub answer: Arc<Mutex<String>>,
    pub asked: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicUsize>,
}

/// Never answers.
pub const HANG: &str = "hang";

impl Service {
    pub fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let service = Service {
            address: listener.local_addr().expect("it is bound"),
            answer: Arc::default(),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let (answer, asked) = (service.answer.clone(), service.asked.clone());
        let connections = service.connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let (answer, asked) = (answer.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &answer, &asked));
            }
        });
        service
    }

    pub fn says(&self, status: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
        *self.answer.lock().expect("no panic with it") = head + body;
    }
}

/// Answers requests on one connection until it ends.
fn serve(mut stream: TcpStream, answer: &Mutex<String>, asked: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut some = [0; 4096];
    while let Ok(count) = stream.read(&mut some) {
        if count == 0 {
            return;
        }
        bytes.extend(&some[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() < length.and_then(|text| text.parse().ok()).unwrap_or(0) {
            continue;
        }
        asked.lock().expect("no panic with it").push(text);
        bytes.clear();
        let answer = answer.lock().expect("no panic with it").clone();
        if answer == HANG {
            std::thread::sleep(Duration::from_secs(3));
        } else if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn asks(service: &Service, more: &str) -> String {
    let body = "body: {user: '${username}', pass: '${password}', id: '${clientid}'}";
    let url = format!("http://{}/auth", service.address);
    format!("access.authentication=[{{http: {{url: '{url}', {body}{more}}}}}]")
}

#[test]
fn a_service_decides() {
    let service = Service::start();
    let broker =
        Broker::start(&[&asks(&service, ", timeout: 500ms, retries: 0"), "log.level=info"]);
    let code = |user: &str| publish(&broker, &login(user, "pw", "a")).1;
    let refused = |text: &str| text.contains("Bad User Name or Password");
    let down = |text: &str| text.contains("Server unavailable") || text.contains("unavailable");
    service.says("200 OK", r#"{"result": "allow"}"#);
    assert!(code("ann").contains("RC:"), "{}", code("ann"));
    let asked = service.asked.lock().expect("no panic with it").last().cloned();
    let asked = asked.expect("it was asked");
    assert!(
        asked.starts_with("POST /auth HTTP/1.1") && asked.contains(r#""user":"ann""#),
        "{asked}"
    );
    service.says("200 OK", r#"{"result": "deny"}"#);
    assert!(refused(&code("ann")));
    service.says("403 Forbidden", "");
    assert!(refused(&code("ann")), "it knows nothing of the client, and nobody else is asked");
    let acl = r#"[{"permission": "allow", "action": "publish", "topic": "mine/${username}"}]"#;
    service.says("200 OK", &format!(r#"{{"result": "allow", "acl": {acl}}}"#));
    assert!(publish(&broker, &login("ann", "pw", "mine/ann")).1.contains("RC:16"));
    assert!(publish(&broker, &login("ann", "pw", "mine/bob")).1.contains("RC:135"));
    assert_eq!(service.connections.load(Ordering::SeqCst), 1, "the connection is kept");
    for (status, body) in [("500 Oops", ""), ("200 OK", "<html>"), ("200 OK", "{}")] {
        service.says(status, body);
        assert!(down(&code("ann")), "{status} {body}: {}", code("ann"));
    }
    *service.answer.lock().expect("no panic with it") = HANG.to_owned();
    let began = Instant::now();
    let text = code("ann");
    assert!(down(&text) && began.elapsed() < Duration::from_secs(3), "{text}");
    *service.answer.lock().expect("no panic with it") = "nonsense\r\n\r\n".to_owned();
    assert!(down(&code("ann")));
    let told = || broker.log().contains("the service does not answer in time");
    eventually("the log says why", told);
}

/// What a token or a service has said of a client is known to the process that takes over, too:
/// rules hold as before, and the service is not asked again.
#[test]
fn rules_of_a_client_of_its_own_hold_after_an_upgrade() {
    let service = Service::start();
    let url = format!("http://{}/auth", service.address);
    let chain = format!("[{{jwt: {{secret: s3cret}}}}, {{http: {{url: '{url}'}}}}]");
    let mut broker = Broker::start(&[&format!("access.authentication={chain}")]);
    let acl = r#"[{"permission": "allow", "action": "all", "topic": "mine/${username}/#"}]"#;
    service.says("200 OK", &format!(r#"{{"result": "allow", "acl": {acl}}}"#));
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let claims = format!(r#"{{"acl": {acl}}}"#);
    let claims: serde_json::Value = serde_json::from_str(&claims).expect("JSON");
    let key = jsonwebtoken::EncodingKey::from_secret(b"s3cret");
    let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
    let mut clients = [("ann", "pw"), ("tom", &*token)].map(|(user, password)| {
        let (username, password) = (Some(user.into()), Some(password.into()));
        let connect = Connect { username, password, ..Connect::new(V5, unique(user)) };
        (user, connect.open(&broker))
    });
    service.says("403 Forbidden", "");
    let code = |client: &mut Client, topic: &str| client.publish_code(&Publish::new(topic, 1, "x"));
    // Once from the one that has heard it, and once from the one that was told.
    for round in 0..3 {
        for (user, client) in &mut clients {
            assert_eq!(code(client, &format!("mine/{user}/{round}")), 0x10, "{user} {round}");
            assert_eq!(code(client, &format!("mine/bob/{round}")), 0x87, "{user} {round}");
            client.ping();
        }
        if round < 2 {
            let report = broker.ask_to_upgrade(&[]).expect("it is upgraded");
            broker.follow(&report);
        }
    }
    for (user, client) in &mut clients {
        client.granted(&format!("mine/{user}/#"), 1);
    }
    assert_eq!(service.asked.lock().expect("no panic with it").len(), 1, "it is asked once");
}

#[test]
fn a_service_that_is_down_lets_nobody_in_unless_it_is_told_to_be_ignored() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let url = format!("url: 'http://{address}/', retries: 1, timeout: 1s");
    let broker = Broker::start(&[&format!("access.authentication=[{{http: {{{url}}}}}]")]);
    let (code, _) = publish(&broker, &login("ann", "apple", "a"));
    assert_ne!(code, 0);
    eventually("the log says why", || broker.log().contains("the service cannot be reached"));
    let directory = Directory::new();
    let users = directory.file("passwd");
    output(program().args(["passwd", "-b", "apple", &users, "ann"]));
    let chain = format!(
        "access.authentication=[{{http: {{{url}, on_failure: ignore}}}}, \
         {{password_file: {{path: {users}}}}}]"
    );
    let broker = Broker::start(&[&chain]);
    let (code, text) = publish(&broker, &login("ann", "apple", "a"));
    assert_eq!(code, 0, "{text}");
}

/// Two thousand wrong passwords, each of some milliseconds, do not keep a client from its messages.
#[test]
fn a_flood_of_wrong_passwords_disturbs_nobody() {
    let directory = Directory::new();
    let users = directory.file("passwd");
    output(program().args(["passwd", "-b", "apple", "-I", "20000", &users, "ann"]));
    let chain = format!("access.authentication=[{{password_file: {{path: {users}}}}}]");
    let broker = Broker::start(&[&chain]);
    let connect =
        |name: &str, password| Connect::new(V5, unique(name)).login(Some("ann"), Some(password));
    let mut steady = connect("steady", "apple").open(&broker);
    steady.granted("a", 1);
    let wrong: Vec<Client> = (0..2000)
        .map(|_| {
            let mut client = Client::raw(&broker, V5);
            client.send(&connect("wrong", "pear").encode());
            client
        })
        .collect();
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let began = Instant::now();
        steady.publish(&Publish::new("a", 1, "x"));
        steady.expect("x");
        longest = longest.max(began.elapsed());
    }
    println!("the longest of 200 round trips: {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    for mut client in wrong {
        let code = client.connack().code;
        // Refused, told to come back, or not looked at in time.
        assert!([0x86, 0x88, 0x89].contains(&code), "{code:x}");
    }
}

/// They tell of other clients. Where no rule says anything, only clients of this host get them.
#[test]
fn what_the_server_says_of_itself_is_for_clients_of_its_host() {
    let open = "listeners.0.allow_anonymous=true";
    let settings = ["listeners.0.proxy_protocol=v1", "trusted_proxies=[127.0.0.1]", open];
    let behind = |more: &[&str]| Broker::start(&[&settings[..], more].concat());
    let from = |broker: &Broker, address: &str, filter: &str| {
        let mut client = Client::raw(broker, V5);
        client.send(format!("PROXY TCP4 {address} 192.0.2.1 51000 1883\r\n").as_bytes());
        client.send(&Connect::new(V5, unique("sys")).encode());
        assert_eq!(client.connack().code, 0);
        client.subscribe(Subscribe::to(filter, 0))[0]
    };
    let broker = behind(&[]);
    for filter in ["$SYS/#", "$SYS/broker/uptime", "$share/g/$SYS/broker/events/+/+"] {
        assert_eq!(from(&broker, "203.0.113.7", filter), 0x87, "{filter}");
        assert_eq!(from(&broker, "127.0.0.7", filter), 0, "{filter}");
    }
    assert_eq!(from(&broker, "203.0.113.7", "#"), 0, "a wildcard never matches them");
    assert_eq!(from(&behind(&["sys.visible=all"]), "203.0.113.7", "$SYS/#"), 0);
    let rules = "access.authorization=[{rules: {list: [{allow: subscribe, topics: ['$SYS/#']}]}}]";
    assert_eq!(from(&behind(&[rules]), "203.0.113.7", "$SYS/#"), 0);
}
