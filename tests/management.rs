//! The management API of a running broker: what it says of clients that are there, what it has them
//! do, whom it lets in, and what callers that misbehave cannot do to it.

#[path = "management/observing.rs"]
mod observing;
#[path = "support/mod.rs"]
mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::http::{Http, Page, admin};
use support::{Broker, Client, Connect, Publish, Temporary, V5, V311, eventually, unique};

struct Api {
    http: Http,
    headers: String,
}

impl Api {
    fn of(broker: &Broker) -> Api {
        Api { http: Http::open(admin(broker)), headers: String::new() }
    }

    #[track_caller]
    fn ask(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let page = self.http.request(method, &format!("/api/v1{path}"), &self.headers, &body);
        (page.status, serde_json::from_str(&page.body).unwrap_or_default())
    }

    /// A GET that succeeds.
    #[track_caller]
    fn get(&mut self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    #[track_caller]
    fn status(&mut self, method: &str, path: &str) -> u16 {
        self.ask(method, path, &Value::Null).0
    }
}

fn start(settings: &[&str]) -> Broker {
    Broker::start(&[&["admin.bind=127.0.0.1:0"], settings].concat())
}

#[test]
fn a_client_is_shown_as_it_is() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let id = unique("meter");
    assert_eq!(api.status("GET", &format!("/clients/{id}")), 404);
    let mut client = Connect::durable(V5, &id).keep_alive(40).open(&broker);
    client.granted("plant/#", 1);
    client.granted("$share/crew/plant/+", 0);
    let shown = api.get(&format!("/clients/{id}"));
    for (name, value) in [
        ("clientid", json!(id)),
        ("connected", json!(true)),
        ("proto_ver", json!(5)),
        ("ip_address", json!("127.0.0.1")),
        ("port", json!(client.local_address().port())),
        ("subscriptions_cnt", json!(2)),
        ("clean_start", json!(false)),
        ("silence_allowed", json!(60_000)),
        ("mqueue_len", json!(0)),
        ("has_will", json!(false)),
    ] {
        assert_eq!(shown[name], value, "{name} in {shown}");
    }
    assert!(shown["connected_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{shown}");
    let list = api.get(&format!("/clients/{id}/subscriptions"));
    let filters: Vec<&str> =
        list.as_array().unwrap().iter().map(|s| s["topic"].as_str().unwrap()).collect();
    assert_eq!(filters, ["plant/#", "$share/crew/plant/+"]);
    let group = api.get("/share_groups/%24share%2Fcrew%2Fplant%2F%2B/members");
    assert_eq!(group, json!([{"clientid": id, "connected": true, "full": false}]));
    // Away, with a queue.
    client.disconnect();
    eventually("it is away", || api.get(&format!("/clients/{id}"))["connected"] == json!(false));
    let mut publisher = Client::connect(&broker, V311, &unique("p"));
    for _ in 0..3 {
        publisher.publish(&Publish::new("plant/deep/1", 1, "12345"));
    }
    publisher.ping();
    eventually("three wait", || api.get(&format!("/clients/{id}"))["mqueue_len"] == json!(3));
    let shown = api.get(&format!("/clients/{id}"));
    let last = &shown["last_disconnect"];
    assert_eq!(last["reason"], json!("the client said goodbye"), "{shown}");
    assert_eq!(last["reason_code"], json!(0));
    assert!(last["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{shown}");
    let busy = api.get("/clients?busy=true");
    assert_eq!(busy["data"].as_array().unwrap().len(), 1, "{busy}");
    assert_eq!(busy["data"][0]["clientid"], json!(id));
}

#[test]
fn what_a_client_sent_and_got_and_how_its_connection_ended_is_told() {
    let broker = start(&["mqtt.pending.max_messages=2"]);
    let mut api = Api::of(&broker);
    let (id, other) = (unique("reader"), unique("writer"));
    let mut reader = Client::subscriber(&broker, V311, &id, "plant/#", 1);
    let mut writer = Client::connect(&broker, V5, &other);
    for _ in 0..10 {
        writer.publish(&Publish::new("plant/1", 1, "12345"));
        reader.expect("12345");
    }
    let shown = api.get(&format!("/clients/{other}"));
    let traffic = &shown["recent_traffic"];
    assert_eq!((&traffic["recv_msg"], &traffic["send_msg"]), (&json!(10), &json!(0)), "{shown}");
    assert!(traffic["recv_oct"].as_u64().unwrap() >= 10 * 18, "{shown}");
    let shown = api.get(&format!("/clients/{id}"));
    let traffic = &shown["recent_traffic"];
    assert_eq!((&traffic["recv_msg"], &traffic["send_msg"]), (&json!(0), &json!(10)), "{shown}");
    assert_eq!(traffic["send_oct"], json!(10 * 18), "PUBLISH of 18 bytes: {shown}");
    assert_eq!(shown["last_disconnect"], Value::Null);
    // Its session ends with its connection, and why that ended is still known.
    reader.cut();
    eventually("it is gone", || api.status("GET", &format!("/clients/{id}")) == 404);
    let (_, problem) = api.ask("GET", &format!("/clients/{id}"), &Value::Null);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("its last connection ended at 20"), "{detail}");
    let again = Client::connect(&broker, V5, &id);
    let last = &api.get(&format!("/clients/{id}"))["last_disconnect"];
    assert!(last["reason"].as_str().unwrap().contains("connection"), "{last}");
    again.disconnect();
    // What was dropped for a client that is away.
    let away = unique("away");
    let mut client = Connect::durable(V5, &away).open(&broker);
    client.granted("plant/#", 1);
    client.disconnect();
    for _ in 0..5 {
        writer.publish(&Publish::new("plant/1", 1, "12345"));
    }
    let mut dropped = || api.get(&format!("/clients/{away}"))["drops"]["by_reason"].clone();
    eventually("its drops are told", || dropped() == json!({"queue_full": 3}));
}

#[test]
fn lists_are_complete_in_pages_by_number_and_by_cursor() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let ids: Vec<String> = (0..25).map(|n| format!("c-{n:02}")).collect();
    let mut clients: Vec<Client> =
        ids.iter().map(|id| Client::connect(&broker, V311, id)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.granted(&format!("t/{n}"), 1);
        client.granted("all/+", 0);
        client.publish(&Publish::new(format!("kept/{n}"), 1, "x").retain());
    }
    for (path, field, mut wanted) in [
        ("/clients?limit=7", "clientid", ids.clone()),
        ("/clients?limit=1&prefix_clientid=c-1", "clientid", ids[10..20].to_vec()),
        (
            "/mqtt/retainer/messages?limit=4&topic=kept/%23",
            "topic",
            (0..25).map(|n| format!("kept/{n}")).collect(),
        ),
        ("/subscriptions?limit=6&qos=1", "topic", (0..25).map(|n| format!("t/{n}")).collect()),
        ("/subscriptions?limit=6&match_topic=all/x", "clientid", ids.clone()),
        ("/subscriptions?limit=1&clientid=c-07", "topic", vec!["all/+".into(), "t/7".into()]),
    ] {
        wanted.sort();
        for by_cursor in [true, false] {
            let (mut found, mut page, mut cursor) = (Vec::new(), 1, String::new());
            loop {
                let at = match (by_cursor, cursor.is_empty()) {
                    (true, true) => String::new(),
                    (true, false) => format!("&cursor={cursor}"),
                    (false, _) => format!("&page={page}"),
                };
                let part = api.get(&format!("{path}{at}"));
                found.extend(
                    part["data"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|row| row[field].as_str().unwrap().to_owned()),
                );
                if part["meta"]["hasnext"] == json!(false) {
                    break;
                }
                cursor = part["meta"]["cursor"].as_str().unwrap().replace('/', "%2F");
                page += 1;
            }
            found.sort();
            assert_eq!(found, wanted, "{path} by_cursor={by_cursor}");
        }
    }
    assert_eq!(api.get("/clients?limit=2")["meta"]["count"], json!(25));
    let exact = api.get("/clients?clientid=c-03");
    assert_eq!(exact["data"][0]["clientid"], json!("c-03"));
    assert_eq!(api.get("/clients?clientid=c-03&conn_state=disconnected")["data"], json!([]));
    assert_eq!(
        api.get("/clients?conn_state=connected&ip_address=127.0.0.1&proto_ver=4")["data"]
            .as_array()
            .unwrap()
            .len(),
        25
    );
    let topics = api.get("/topics?limit=1000");
    let all: u64 = topics["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["topic"] == json!("all/+"))
        .map(|row| row["subscribers"].as_u64().unwrap())
        .sum();
    assert_eq!(all, 25);
}

#[test]
fn clients_are_disconnected_and_sessions_ended() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let (stays, goes) = (unique("stays"), unique("goes"));
    let mut one = Connect::durable(V5, &stays).open(&broker);
    let mut other = Connect::durable(V5, &goes).open(&broker);
    assert_eq!(api.status("POST", &format!("/clients/{stays}/disconnect")), 204);
    one.expect_disconnect(&[0x98]);
    assert_eq!(api.get(&format!("/clients/{stays}"))["connected"], json!(false));
    assert_eq!(api.status("POST", &format!("/clients/{stays}/disconnect")), 404);
    assert_eq!(api.status("DELETE", &format!("/clients/{goes}")), 204);
    other.expect_disconnect(&[0x98]);
    assert_eq!(api.status("GET", &format!("/clients/{goes}")), 404);
    assert_eq!(api.status("DELETE", &format!("/clients/{goes}")), 404);
    // A session without a connection ends too.
    assert_eq!(api.ask("POST", "/clients/kickout/bulk", &json!([stays, "nobody"])).0, 204);
    assert_eq!(api.status("GET", &format!("/clients/{stays}")), 404);
    let (_, connack) = Connect::durable(V5, &stays).clean(false).open_with(&broker);
    assert!(!connack.session_present);
}

#[test]
fn bans_are_made_listed_and_lifted() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    assert_eq!(api.get("/banned")["data"], json!([]));
    let id = unique("banned");
    let ban = json!({"as": "clientid", "who": id, "seconds": 100});
    let (status, made) = api.ask("POST", "/banned", &ban);
    assert_eq!((status, &made["who"]), (200, &json!(id)));
    let listed = api.get("/banned");
    assert_eq!((&listed["data"][0]["who"], &listed["meta"]["count"]), (&json!(id), &json!(1)));
    Connect::new(V5, &id).refused(&broker, 0x8A);
    assert_eq!(api.status("DELETE", &format!("/banned/clientid/{id}")), 204);
    assert_eq!(api.status("DELETE", &format!("/banned/clientid/{id}")), 404);
    Client::connect(&broker, V5, &id).disconnect();
    let user = json!({"as": "username", "who": "mallory"});
    assert_eq!(api.ask("POST", "/banned", &user).0, 200);
    assert_eq!(api.get("/banned")["data"][0]["as"], json!("username"));
    Connect::new(V5, &id).login(Some("mallory"), None).refused(&broker, 0x8A);
    Connect::new(V5, "mallory").open(&broker).disconnect();
    assert_eq!(api.status("DELETE", "/banned/username/mallory"), 204);
    Connect::new(V5, &id).login(Some("mallory"), None).open(&broker).disconnect();
    let other = json!({"as": "peerhost", "who": "192.0.2.7"});
    assert_eq!(api.ask("POST", "/banned", &other).0, 200);
    assert_eq!(api.get("/banned")["data"][0]["who"], json!("192.0.2.7"));
    assert_eq!(api.status("DELETE", "/banned/peerhost/192.0.2.7"), 204);
    for (ban, named) in [
        (json!({"as": "peerhost", "who": "x"}), "who"),
        (json!({"as": "certificate", "who": "x"}), "as"),
        (json!({"as": "username", "who": ""}), "who"),
        (json!({"as": "clientid", "who": "x", "seconds": 0}), "seconds"),
    ] {
        let (status, problem) = api.ask("POST", "/banned", &ban);
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
}

#[test]
fn messages_are_published_retained_and_cleared() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let topic = unique("t");
    let message = json!({"topic": topic, "payload": "nobody", "qos": 1});
    assert_eq!(api.ask("POST", "/publish", &message).0, 202);
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 2);
    let message = json!({
        "topic": topic, "payload": "AAEC", "payload_encoding": "base64", "qos": 2, "retain": true,
        "properties": {"content_type": "raw", "user_properties": {"a": "b"},
            "message_expiry_interval": 100},
    });
    let (status, said) = api.ask("POST", "/publish", &message);
    assert_eq!((status, &said["matched"]), (200, &json!(true)));
    let got = sub.message();
    assert_eq!((got.qos, &got.payload[..]), (2, &[0, 1, 2][..]));
    assert!(format!("{got:?}").contains("raw"), "{got:?}");
    let path = format!("/mqtt/retainer/message/{topic}");
    let kept = api.get(&path);
    assert_eq!(kept["payload"], json!("AAEC"));
    assert_eq!(kept["properties"]["user_properties"], json!({"a": "b"}));
    assert!(kept["expires_in"].as_u64().is_some_and(|left| (90..=100).contains(&left)), "{kept}");
    assert_eq!(api.status("DELETE", &path), 204);
    assert_eq!(api.status("GET", &path), 404);
    assert_eq!(api.status("DELETE", &path), 404);
    // In their order, and none when one is wrong.
    let many: Vec<Value> =
        (0..50).map(|n| json!({"topic": topic, "payload": n.to_string()})).collect();
    assert_eq!(api.ask("POST", "/publish/bulk", &json!(many)).0, 200);
    for n in 0..50 {
        sub.expect(&n.to_string());
    }
    for wrong in ["a/#", "$SYS/x", &"a/".repeat(300)] {
        let wrong = json!([{"topic": topic, "payload": "x"}, {"topic": wrong}]);
        assert_eq!(api.ask("POST", "/publish/bulk", &wrong).0, 400);
        sub.expect_nothing();
    }
    for (body, named) in [
        (json!({"topic": "a/+"}), "topic"),
        (json!({"topic": "$SYS/x"}), "topic"),
        (json!({"topic": "a", "qos": 3}), "qos"),
        (json!({"topic": "a", "payload": "*", "payload_encoding": "base64"}), "payload"),
        (json!({"topic": "a", "properties": {"response_topic": "#"}}), "properties"),
        (json!({"topic": "a", "color": "red"}), "color"),
        (json!({}), "topic"),
    ] {
        let (status, problem) = api.ask("POST", "/publish", &body);
        assert_eq!(status, 400, "{body}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(named), "{body}: {detail}");
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    let broker = start(&["mqtt.pending.max_messages=2", "mqtt.pending.on_full=drop_new"]);
    let mut api = Api::of(&broker);
    let name = unique("e");
    let mut online =
        Client::subscriber(&broker, V5, &format!("{name}-on"), &format!("{name}/+"), 1);
    let mut away = Connect::durable(V5, format!("{name}-off")).open(&broker);
    away.granted(&format!("{name}/#"), 2);
    away.disconnect();
    let mut own = Client::connect(&broker, V5, &format!("{name}-own"));
    own.granted(&format!("{name}/x"), 1 | 4);
    let mut member = Client::connect(&broker, V5, &format!("{name}-m"));
    member.granted(&format!("$share/g/{name}/#"), 1);
    eventually("it is away", || {
        api.get(&format!("/clients/{name}-off"))["connected"] == json!(false)
    });
    let fate = |api: &mut Api, who: &str, qos: u8| {
        let path = format!("/explain?topic={name}/x&qos={qos}&publisher={name}-own&payload_size=9");
        let answer = api.get(&path);
        let all = answer["subscribers"].as_array().unwrap().clone();
        let one = all.into_iter().find(|one| one["clientid"] == json!(format!("{name}-{who}")));
        let one = one.unwrap_or_else(|| panic!("no {who} in {answer}"));
        (one["fate"].as_str().unwrap().to_owned(), one["reason"].clone())
    };
    let is = |fate: &str, reason: Value| (fate.to_owned(), reason);
    for _ in 0..2 {
        assert_eq!(fate(&mut api, "on", 1), is("sent", Value::Null));
        assert_eq!(fate(&mut api, "own", 1), is("dropped", json!("no_local")));
        assert_eq!(fate(&mut api, "off", 0), is("dropped", json!("offline_qos0")));
        assert_eq!(fate(&mut api, "off", 1), is("queued", Value::Null));
        own.publish(&Publish::new(format!("{name}/x"), 1, "123456789"));
        online.expect("123456789");
        member.expect("123456789");
        own.expect_nothing();
    }
    assert_eq!(api.get(&format!("/clients/{name}-off"))["mqueue_len"], json!(2));
    assert_eq!(fate(&mut api, "off", 1), is("dropped", json!("queue_full")));
    let answer = api.get(&format!("/explain?topic={name}/x"));
    let groups: Vec<&Value> = answer["subscribers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["fate"] == json!("one_member"))
        .collect();
    assert_eq!(groups.len(), 1, "{answer}");
    // Of one client, with its own groups, wherever they are at home.
    for number in 0..8 {
        member.granted(&format!("$share/g{number}/{name}/+"), 1);
    }
    let groups = |api: &mut Api, who: &str| {
        let answer = api.get(&format!("/explain?topic={name}/x&client={name}-{who}"));
        let all = answer["subscribers"].as_array().unwrap().clone();
        let groups = all.iter().filter(|one| one["fate"] == json!("one_member"));
        assert!(groups.clone().all(|one| one["members"] == json!(1)), "{answer}");
        (groups.count(), all.len())
    };
    assert_eq!((groups(&mut api, "m"), groups(&mut api, "on")), ((9, 9), (0, 1)));
    // The command says the same, also on a host without certificates of authorities.
    let out = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .envs([("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")])
        .args(["explain", &format!("{name}/x"), "--qos", "1", "--api"])
        .arg(format!("http://{}", admin(&broker)))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text} {}", String::from_utf8_lossy(&out.stderr));
    assert!(
        text.contains(&format!("{name}-on, shard")) && text.contains("sent at QoS 1"),
        "{text}"
    );
    assert!(text.contains("dropped at QoS 1 (queue_full)"), "{text}");
    assert_eq!(api.status("GET", "/explain?topic=a/%23"), 400);
    assert_eq!(api.status("GET", "/explain?topic=a&publisher=nobody"), 400);
}

/// A file with one user of each role; their passwords are their names.
fn users() -> Temporary {
    let file = Temporary::named("users");
    for role in ["viewer", "operator", "admin"] {
        let out = Command::new(env!("CARGO_BIN_EXE_ringmq"))
            .args(["admin", "user", "add", role, "--role", role, "--batch", role, "--file"])
            .arg(&*file)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    file
}

fn basic(name: &str, password: &str) -> String {
    use base64::Engine;
    let both = base64::prelude::BASE64_STANDARD.encode(format!("{name}:{password}"));
    format!("Authorization: Basic {both}\r\n")
}

#[test]
fn each_role_may_do_its_own() {
    let file = users();
    let broker = start(&[&format!("admin.users={}", file.display())]);
    let mut api = Api::of(&broker);
    let publish = json!({"topic": "a", "payload": "x"});
    for (role, may) in [
        ("nobody", [401, 401, 401]),
        ("viewer", [200, 403, 403]),
        ("operator", [200, 202, 403]),
        ("admin", [200, 202, 204]),
    ] {
        api.headers = if role == "nobody" { String::new() } else { basic(role, role) };
        let got = [
            api.status("GET", "/clients"),
            api.ask("POST", "/publish", &publish).0,
            api.status("POST", "/configs/reload"),
        ];
        assert_eq!(got, may, "{role}");
    }
    let log = broker.log();
    assert!(log.contains("operator action") && log.contains("path=/api/v1/publish"), "{log}");
    // A token of a lesser role, until it is given back.
    api.headers = String::new();
    let login = json!({"username": "admin", "password": "admin", "role": "viewer"});
    let (status, token) = api.ask("POST", "/login", &login);
    assert_eq!((status, &token["role"]), (200, &json!("viewer")));
    api.headers = format!("Authorization: Bearer {}\r\n", token["token"].as_str().unwrap());
    assert_eq!(api.get("/whoami"), json!({"username": "admin", "role": "viewer"}));
    assert_eq!(api.ask("POST", "/publish", &publish).0, 403);
    // A reload ends no token of a user who stays as it is, least of all that of the caller.
    api.headers = String::new();
    let login = json!({"username": "admin", "password": "admin"});
    let own = api.ask("POST", "/login", &login).1["token"].as_str().unwrap().to_owned();
    api.headers = format!("Authorization: bearer {own}\r\n");
    assert_eq!(api.status("POST", "/configs/reload"), 204);
    assert_eq!(api.get("/whoami"), json!({"username": "admin", "role": "admin"}));
    api.headers = format!("Authorization: BEARER {}\r\n", token["token"].as_str().unwrap());
    assert_eq!(api.status("POST", "/logout"), 204);
    assert_eq!(api.status("GET", "/clients"), 401);
    let raised = json!({"username": "viewer", "password": "viewer", "role": "admin"});
    api.headers = String::new();
    assert_eq!(api.ask("POST", "/login", &raised).0, 403);
    // The pages are open, unless the configuration says otherwise.
    let metrics = api.http.request("GET", "/metrics", "", "");
    assert_eq!(metrics.status, 200);
    // Two messages and two reloads are changes. What was refused, or changes nothing, is not.
    for (outcome, least, most) in
        [("let_in", 8.0, f64::MAX), ("change", 4.0, 4.0), ("unproven", 1.0, f64::MAX)]
    {
        let label = format!("outcome=\"{outcome}\"");
        let count = metrics.sum("ringmq_admin_requests_total", &[&label]);
        assert!((least..=most).contains(&count), "{outcome} {count}");
    }
}

#[test]
fn wrong_passwords_are_few() {
    let file = users();
    let broker = start(&[&format!("admin.users={}", file.display())]);
    let mut api = Api::of(&broker);
    let wrong = json!({"username": "viewer", "password": "guess"});
    // A name of any length is read up to a bound only.
    let long = json!({"username": "x".repeat(200 << 10), "password": "guess"});
    assert_eq!(Api::of(&broker).ask("POST", "/login", &long).0, 413);
    let tries: Vec<u16> = (0..8).map(|_| api.ask("POST", "/login", &wrong).0).collect();
    assert_eq!(tries, [401, 401, 401, 401, 401, 429, 429, 429]);
    // The right one has to wait now, from this address; and an unknown user is told the same.
    let right = json!({"username": "viewer", "password": "viewer"});
    assert_eq!(api.ask("POST", "/login", &right).0, 429);
    assert!(broker.log().contains("admin login failed"));
}

#[test]
fn without_users_only_this_host_itself_may_call() {
    let broker = start(&[]);
    let at = admin(&broker);
    let mut http = Http::open(at);
    for (headers, status) in [
        ("Host: evil.example\r\n", 403),
        ("Host: localhost:1\r\n", 200),
        ("Host: [::1]\r\n", 200),
        ("Host: localhost\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: localhost\r\nOrigin: null\r\n", 403),
        ("Host: localhost\r\nOrigin: http://localhost\r\n", 200),
        // A proxy on this host passes on what others ask.
        ("Host: localhost\r\nX-Forwarded-For: 198.51.100.7\r\n", 403),
        ("Host: localhost\r\nForwarded: for=198.51.100.7\r\n", 403),
    ] {
        http.send(format!("GET /api/v1/nodes HTTP/1.1\r\n{headers}\r\n").as_bytes());
        assert_eq!(http.answer(true).status, status, "{headers}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["--test-config", "--set", "admin.bind=0.0.0.0:18083"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("admin.bind") && said.contains("admin.users and admin.tls"), "{said}");
}

#[test]
fn wrong_requests_are_named_and_harm_nobody() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    for (path, named) in [
        ("/clients?limit=0", "limit"),
        ("/clients?limit=10001", "limit"),
        ("/clients?limit=-1", "limit"),
        ("/clients?page=0", "page"),
        ("/clients?page=99999999", "page"),
        ("/clients?cursor=x", "cursor"),
        ("/clients?cursor=0.1&page=2", "page"),
        ("/clients?proto_ver=7", "proto_ver"),
        ("/clients?ip_address=300.1.1.1", "ip_address"),
        ("/clients?gte_connected_at=never", "gte_connected_at"),
        ("/clients?color=red", "color"),
        ("/mqtt/retainer/messages?topic=a%23", "topic"),
        ("/subscriptions?match_topic=a/%2B", "match_topic"),
        ("/subscriptions?qos=3", "qos"),
        ("/monitor?since=x", "since"),
    ] {
        let (status, problem) = api.ask("GET", path, &Value::Null);
        assert_eq!(status, 400, "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{path}: {problem}");
        assert_eq!(problem["type"], json!("about:blank"));
    }
    assert_eq!(api.status("GET", "/nothing"), 404);
    assert_eq!(api.status("DELETE", "/nodes"), 405);
    let page: Page = api.http.request("POST", "/api/v1/publish", "", &"x".repeat(100));
    assert_eq!(page.status, 400);
    assert_eq!(page.header("content-type"), Some("application/problem+json"));
    let mut http = Http::open(admin(&broker));
    http.send(b"POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(http.answer(true).status, 415);
    let mut http = Http::open(admin(&broker));
    http.send(
        b"POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Content-Length: 99999999\r\n\r\n",
    );
    assert_eq!(http.answer(true).status, 413);
    // A caller that never sends its body delays nobody.
    let mut slow = Http::open(admin(&broker));
    slow.send(
        b"POST /api/v1/publish HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Content-Length: 50\r\n\r\n{",
    );
    let mut http = Http::open(admin(&broker));
    assert_eq!(http.get("/metrics").status, 200);
    assert_eq!(api.get("/nodes")[0]["node_status"], json!("running"));
}

#[test]
fn the_broker_shows_itself_and_its_configuration() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let _client = Client::connect(&broker, V5, &unique("c"));
    let node = &api.get("/nodes")[0];
    assert_eq!(node["version"], json!(env!("CARGO_PKG_VERSION")));
    assert_eq!(node["live_connections"], json!(1));
    let name = node["node"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("/nodes/{name}"))["node"], json!(name));
    assert_eq!(api.status("GET", "/nodes/other"), 404);
    assert_eq!(api.get("/stats")[0]["live_connections.count"], json!(1));
    assert_eq!(api.get("/metrics")[0]["ringmq_connections"], json!(1));
    let listener = &api.get("/listeners")[0];
    assert_eq!(listener["bind"], json!(broker.address().to_string()));
    assert_eq!(listener["current_connections"], json!(1));
    let shown = api.http.request("GET", "/api/v1/configs", "", "");
    assert!(shown.body.contains("max_qos: 2"), "{}", shown.body);
    assert_eq!(api.ask("PUT", "/log", &json!({"level": "debug"})).0, 200);
    assert_eq!(api.ask("PUT", "/log", &json!({"level": "loud"})).0, 400);
    assert_eq!(api.status("POST", "/configs/reload"), 204);
    let report = api.get("/doctor");
    assert!(report["clients"].as_u64().is_some(), "{report}");
    eventually("a second has passed", || !api.get("/monitor").as_array().unwrap().is_empty());
    let sample = &api.get("/monitor")[0];
    assert_eq!(sample["live_connections"], json!(1));
    let shard = &sample["shards"][0];
    assert!(shard["memory"].is_u64() && shard["cpu"].is_number(), "{sample}");
    let document = api.get("/openapi.json");
    assert_eq!(document["openapi"], json!("3.1.0"));
    assert!(document["paths"]["/api/v1/clients/{clientid}"]["delete"].is_object());
}

#[test]
fn the_dashboard_is_whole() {
    let broker = start(&[]);
    let mut http = Http::open(admin(&broker));
    let page = http.get("/");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap().to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    // Everything that a file names is there, and nothing is from elsewhere.
    let (mut open, mut seen, mut bytes) = (vec![page.body], vec![String::from("/")], 0);
    while let Some(text) = open.pop() {
        bytes += text.len();
        let named = text.split(['"', '\'']).filter_map(|part| match part.strip_prefix("./") {
            Some(name) if name.ends_with(".js") => Some(format!("/assets/{name}")),
            _ => part.starts_with("/assets/").then(|| part.to_owned()),
        });
        for path in named.collect::<Vec<_>>() {
            if !seen.contains(&path) {
                let file = http.get(&path);
                assert_eq!(file.status, 200, "{path}");
                seen.push(path);
                open.push(file.body);
            }
        }
        assert!(!text.contains("https://"), "something from elsewhere");
    }
    assert!(seen.len() >= 10 && bytes < 300_000, "{seen:?} {bytes}");
}
