//! Target `access`: any bytes as a file of users or rules, a token, a key set, a service's answer,
//! or another broker's configuration. No panic; rules that are filed by topic decide as a list
//! does; what is converted can be read as far as its form goes.

use crate::input::Input;
use ringmq::access::chain::{Proof, Verdict};
use ringmq::access::database::Columns;
use ringmq::access::http::{HttpAuthService, Purpose};
use ringmq::access::jwt::Jwt;
use ringmq::access::keys::KeySet;
use ringmq::access::password::PasswordFile;
use ringmq::access::rule::RuleSet;
use ringmq::access::scram::ScramFile;
use ringmq::access::stored_rules::{MOST_RULES, StoredRules};
use ringmq::access::{Deed, Grant, Who, acl_file, claims};
use ringmq::config::{self, Sources, convert};
use ringmq::ids::Peer;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.below(8);
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    match kind {
        0 => acl(&text),
        1 => rules_file(&text),
        2 => token(&text),
        3 => converted(&text),
        4 => answer(&text),
        5 => key_set(&text),
        6 => _ = PasswordFile::parse(&text),
        _ => _ = ScramFile::parse(&text),
    }
}

const TOPICS: [&str; 6] = ["", "a", "a/b", "a/ann/c1", "$SYS/x", "/a//b/"];

/// A set says the same filed and unfiled, of every deed.
fn same(plain: &RuleSet) {
    let mut filed = plain.clone();
    filed.file();
    let grant = Grant::named(Some("ann"));
    let who = Who { client_id: "c1", grant: &grant, listener: "main" };
    for topic in TOPICS {
        for deed in [Deed::Publish { qos: 1, retain: false }, Deed::Subscribe { qos: 0 }] {
            let said = |set: &RuleSet| set.judge(&who, deed, topic).0;
            assert_eq!(said(&filed), said(plain), "{topic} {deed:?}");
        }
    }
}

fn acl(text: &str) {
    let mut set = RuleSet::default();
    let source = set.add_source("acl");
    match acl_file::parse(text, source) {
        Ok(rules) => {
            rules.into_iter().for_each(|rule| set.push(rule));
            same(&set);
        }
        Err(lines) => {
            let count = text.lines().count();
            assert!(lines.iter().all(|(line, _)| (1..=count).contains(line)));
        }
    }
}

fn rules_file(text: &str) {
    _ = config::rules_file("rules.yaml", text.to_owned());
}

fn proof(text: &str) -> Proof {
    Proof {
        client_id: "c1".into(),
        username: Some("ann".into()),
        password: Some(text.as_bytes().into()),
        peer: Peer::Unix,
        listener: "main".into(),
        identity: None,
        attributes: Box::default(),
    }
}

/// Nobody signs with a key that he does not have.
fn token(text: &str) {
    let section =
        config::JwtConfig { secret: config::Text::of("not in the corpus"), ..Default::default() };
    let jwt = Jwt::new(&section, None, None).expect("a secret");
    let verdict = jwt.verify(&proof(text), None, 0);
    assert!(!matches!(verdict, Verdict::Accept(_)), "{text}");
}

fn converted(text: &str) {
    let Ok(converted) = convert::convert("old.conf", text) else { return };
    assert!(converted.left <= text.lines().count() + 1);
    let read = Sources::default().load_from("new.yaml", converted.yaml.as_bytes());
    if let Err(problems) = read {
        // A value may be out of bounds; the form is ours.
        for problem in &problems.0 {
            assert!(!problem.key.is_empty(), "{problem}\n{}", converted.yaml);
        }
    }
    assert_eq!(convert::recognize(&converted.yaml), None, "{}", converted.yaml);
}

fn answer(text: &str) {
    let of =
        |purpose| HttpAuthService::new(&config::Http::default(), None, purpose).expect("no names");
    for status in [200, 204, 302, 404, 500] {
        let verdict = of(Purpose::Authentication).judge(status, text.as_bytes(), 1_000);
        if let Verdict::Accept(accepted) = verdict
            && let Some(rules) = accepted.rules
        {
            same(&rules);
        }
        _ = of(Purpose::Authorization).judge_deed(status, text.as_bytes());
    }
    stored(text);
    if let Ok(value) = serde_json::from_str(text) {
        _ = claims::rules(&value).map(|rules| same(&rules));
    }
}

/// A database's answer: each line is a topic and what may be done with it, or a row of columns.
fn stored(text: &str) {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), (value != "null").then(|| value.to_owned())))
    };
    let hash: Columns = text.lines().filter_map(pair).collect();
    let row = |line: &str| line.split(';').filter_map(pair).collect::<Columns>();
    let rows: Vec<Columns> = text.lines().map(row).collect();
    let section = config::RedisRules::default();
    let redis = StoredRules::redis(&section, None).expect("the default");
    let section = config::PostgresRules::default();
    let postgres = StoredRules::postgres(&section, None).expect("the default");
    for set in [redis.rules(vec![hash]), postgres.rules(rows)].into_iter().flatten() {
        assert!(set.len() <= MOST_RULES);
        same(&set);
    }
}

fn key_set(text: &str) {
    if let Ok(set) = KeySet::parse(text.as_bytes()) {
        assert!(!set.is_empty() && set.len() <= 256);
    }
}
