use crate::config::{Config, Sources};

/// The problems of `access.…=…`, one line for each.
fn problems(set: &str) -> Vec<String> {
    match load(&[set]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    }
}

fn load(set: &[&str]) -> Result<Config, Vec<String>> {
    let set = set.iter().map(|text| (*text).to_owned()).collect();
    let loaded = Sources { set, ..Sources::default() }.load();
    loaded.map_err(|problems| problems.0.iter().map(ToString::to_string).collect())
}

#[test]
fn an_element_is_of_one_kind_and_has_what_it_needs() {
    for (set, expected) in [
        ("authentication=[{}]", "authentication.0: the element does not say what it is; write one"),
        (
            "authentication=[{password_file: {path: a}, certificate: {}}]",
            "authentication.0: the element has several kinds at once; make an element of each",
        ),
        (
            "authentication=[{password_file: {}}]",
            "authentication.0.password_file.path: the file is not named; write its path",
        ),
        (
            "authentication=[{jwt: {}}]",
            "authentication.0.jwt: there is nothing to check tokens with; write one of",
        ),
        (
            "authentication=[{jwt: {secret: a, public_key: b}}]",
            "authentication.0.jwt: there are several keys to check tokens with; keep one of",
        ),
        (
            "authentication=[{jwt: {jwks: 'ftp://a'}}]",
            "authentication.0.jwt.jwks: this is no http or https URL; write one such as",
        ),
        (
            "authentication=[{jwt: {secret: a, refresh: 1m}}]",
            "authentication.0.jwt.refresh: there is no key set; write jwks, or leave it out",
        ),
        (
            "authentication=[{http: {url: 'ftp://a'}}]",
            "authentication.0.http.url: this is no http or https URL; write one such as",
        ),
        (
            "authentication=[{http: {url: 'http://${username}.example/'}}]",
            "authentication.0.http.url: a client would choose which host is asked; keep",
        ),
        (
            "authentication=[{postgres: {url: 'http://a'}}]",
            "authentication.0.postgres.url: this is no URL of a PostgreSQL server; write one",
        ),
        ("authorization=[{http: {}}]", "authorization.0.http.url: this is no http or https URL"),
        (
            "authorization=[{postgres: {}}]",
            "authorization.0.postgres.url: this is no URL of a PostgreSQL server; write one",
        ),
        (
            "authorization=[{http: {url: 'http://a', remember: 1m}}]",
            "authorization.0.http.remember: it is about authentication; use access.cache.ttl",
        ),
        ("authorization=[{acl_file: {}}]", "authorization.0.acl_file.path: the file is not named"),
        (
            "authorization=[{rules: {list: [{user: a}]}}]",
            "authorization.0.rules.list.0: the rule neither allows nor denies; write one of them",
        ),
        (
            "authorization=[{rules: {list: [{allow: all, qos: [3]}]}}]",
            "authorization.0.rules.list.0.qos: `3` is no QoS level; write 0, 1 or 2",
        ),
        (
            "authorization=[{rules: {list: [{allow: all, address: 10.0.0.0/99}]}}]",
            "authorization.0.rules.list.0.address: `10.0.0.0/99` is no address or network; write",
        ),
        (
            "authorization=[{rules: {path: a, list: [{allow: all}]}}]",
            "authorization.0.rules.list: there is a file of rules too; keep",
        ),
        ("cache={ttl: x}", "cache.ttl: "),
    ] {
        let told = problems(&format!("access.{set}")).join("\n");
        assert!(told.contains(&format!("access.{expected}")), "{set}\n{told}");
    }
}

#[test]
fn what_is_read_is_not_asked_of_a_service_at_each_delivery() {
    let at_delivery = "access.read_check=delivery";
    assert!(load(&[at_delivery, "access.authorization=[{acl_file: {path: a}}]"]).is_ok());
    for source in ["http: {url: 'http://a'}", "redis: {}", "postgres: {url: 'postgres://a'}"] {
        let source = format!("access.authorization=[{{{source}}}]");
        let told = load(&[at_delivery, &source]).expect_err(&source).join("\n");
        assert!(told.contains("access.read_check: a service cannot be asked"), "{told}");
    }
}

#[test]
fn accounts_close_listeners_to_anonymous_clients_unless_they_are_told_otherwise() {
    let chain = "access.authentication=[{certificate: {}}]";
    let config = load(&[chain]).expect("it is valid");
    assert!(!config.listeners[0].allows_anonymous());
    assert!(!config.refuses_everybody(&config.listeners[0]));
    let config = load(&[chain, "listeners.0.allow_anonymous=true"]).expect("it is valid");
    assert!(config.listeners[0].allows_anonymous());
    let config = load(&["listeners.0.bind=0.0.0.0:1883"]).expect("it is valid");
    assert!(config.refuses_everybody(&config.listeners[0]));
    let remarks = config.remarks().join("\n");
    assert!(remarks.contains("LISTENER default REFUSES EVERY CLIENT"), "{remarks}");
}

#[test]
fn a_secret_is_not_shown() {
    let set = vec!["access.authentication=[{jwt: {secret: hush}}]".to_owned()];
    let shown = Sources { set, ..Sources::default() }.effective().expect("it is valid");
    assert!(shown.contains("secret: \"***\"") && !shown.contains("hush"), "{shown}");
    for element in ["redis: {server: 'redis://a:hush@h'}", "postgres: {url: 'postgres://a:hush@h'}"]
    {
        let set = vec![format!("access.authentication=[{{{element}}}]")];
        let shown = Sources { set, ..Sources::default() }.effective().expect("it is valid");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
