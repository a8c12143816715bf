//! The rules that relate the keys of `access:`. Owns nothing.

use super::access::{Authentication, Authorization, Http, HttpMethod, JwtConfig, ReadCheck};
use super::check::Findings;
use super::sections::Config;

/// One of the kinds that an element of a list can have: its key, and whether the key is written.
type Variant = (&'static str, bool);

/// Checks the elements of `access.authentication` and `access.authorization`.
pub(super) fn check(config: &Config, report: &mut Findings<'_>) {
    for (position, method) in config.access.authentication.iter().enumerate() {
        let key = format!("access.authentication.{position}");
        exactly_one(&key, &variants_of(method), report);
        authentication(&key, method, report);
    }
    for (position, source) in config.access.authorization.iter().enumerate() {
        let key = format!("access.authorization.{position}");
        let variants = [
            ("acl_file", source.acl_file.is_some()),
            ("rules", source.rules.is_some()),
            ("http", source.http.is_some()),
            ("redis", source.redis.is_some()),
            ("postgres", source.postgres.is_some()),
        ];
        exactly_one(&key, &variants, report);
        authorization(&key, source, report);
        if source.asks() && config.access.read_check == ReadCheck::Delivery {
            let fix = "write subscribe, or keep the rules in acl_file or rules";
            report.add("access.read_check", "a service cannot be asked at each delivery", fix);
        }
    }
}

fn variants_of(method: &Authentication) -> [Variant; 7] {
    [
        ("password_file", method.password_file.is_some()),
        ("certificate", method.certificate.is_some()),
        ("jwt", method.jwt.is_some()),
        ("http", method.http.is_some()),
        ("scram", method.scram.is_some()),
        ("redis", method.redis.is_some()),
        ("postgres", method.postgres.is_some()),
    ]
}

fn exactly_one(key: &str, variants: &[Variant], report: &mut Findings<'_>) {
    let names: Vec<&str> = variants.iter().map(|(name, _)| *name).collect();
    match variants.iter().filter(|(_, written)| *written).count() {
        1 => {}
        0 => {
            let fix = format!("write one of: {}", names.join(", "));
            report.add(key, "the element does not say what it is", fix);
        }
        _ => {
            let fix = "make an element of each, in the order in which they are to be asked";
            report.add(key, "the element has several kinds at once", fix);
        }
    }
}

fn needs_path(key: &str, path: &str, report: &mut Findings<'_>) {
    if path.is_empty() {
        report.add(&format!("{key}.path"), "the file is not named", "write its path");
    }
}

fn authentication(key: &str, method: &Authentication, report: &mut Findings<'_>) {
    if let Some(file) = &*method.password_file {
        needs_path(&format!("{key}.password_file"), &file.path, report);
    }
    if let Some(file) = &*method.scram {
        needs_path(&format!("{key}.scram"), &file.path, report);
    }
    if let Some(jwt) = &*method.jwt {
        token(&format!("{key}.jwt"), jwt, report);
    }
    if let Some(http) = &*method.http {
        service(&format!("{key}.http"), http, report);
    }
    databases(key, method.redis.is_some(), method.postgres.as_ref().map(|it| &*it.url), report);
}

/// Checks that this program was built with the databases that are named, and that PostgreSQL has a
/// URL.
fn databases(key: &str, redis: bool, postgres: Option<&str>, report: &mut Findings<'_>) {
    if redis && !cfg!(feature = "redis") {
        report.add(&format!("{key}.redis"), "this program was built without redis", BUILD);
    }
    let Some(url) = postgres else { return };
    let key = format!("{key}.postgres");
    if !cfg!(feature = "postgres") {
        report.add(&key, "this program was built without postgres", BUILD);
    }
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        let fix = "write one such as postgres://mqtt:secret@db.example/mqtt";
        report.add(&format!("{key}.url"), "this is no URL of a PostgreSQL server", fix);
    }
}

const BUILD: &str = "build it with that feature, or remove the element";

fn token(key: &str, jwt: &JwtConfig, report: &mut Findings<'_>) {
    if !jwt.jwks.is_empty() && !is_url(&jwt.jwks) {
        report.add(&format!("{key}.jwks"), NO_URL, URL);
    }
    for name in ["refresh", "ca"] {
        if jwt.jwks.is_empty() && report.is_written(&format!("{key}.{name}")) {
            let fix = "write jwks, or leave it out";
            report.add(&format!("{key}.{name}"), "there is no key set", fix);
        }
    }
    let keys = [&jwt.secret, &jwt.public_key, &jwt.jwks];
    match keys.iter().filter(|key| !key.is_empty()).count() {
        1 => {}
        0 => report.add(
            key,
            "there is nothing to check tokens with",
            "write one of: secret, public_key, jwks",
        ),
        _ => report.add(
            key,
            "there are several keys to check tokens with",
            "keep one of: secret, public_key, jwks; or make an element of each",
        ),
    }
}

fn service(key: &str, http: &Http, report: &mut Findings<'_>) {
    if !is_url(&http.url) {
        report.add(&format!("{key}.url"), NO_URL, URL);
    }
    let plain = http.url.split(['?', '/']).nth(2).unwrap_or_default();
    if plain.contains("${") {
        let fix = "keep placeholders in the path and the query";
        report.add(&format!("{key}.url"), "a client would choose which host is asked", fix);
    }
    let json = http.format == super::access::BodyFormat::Json;
    if http.method == HttpMethod::Get && json && report.is_written(&format!("{key}.format")) {
        let fix = "use method: post, or leave format out";
        report.add(&format!("{key}.format"), "a GET request has no JSON body", fix);
    }
}

const NO_URL: &str = "this is no http or https URL";
const URL: &str = "write one such as https://auth.example/mqtt";

pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

fn authorization(key: &str, source: &Authorization, report: &mut Findings<'_>) {
    if let Some(file) = &*source.acl_file {
        needs_path(&format!("{key}.acl_file"), &file.path, report);
    }
    if let Some(http) = &*source.http {
        service(&format!("{key}.http"), http, report);
        if report.is_written(&format!("{key}.http.remember")) {
            let fix = "use access.cache.ttl for what services say of topics";
            report.add(&format!("{key}.http.remember"), "it is about authentication", fix);
        }
    }
    databases(key, source.redis.is_some(), source.postgres.as_ref().map(|it| &*it.url), report);
    if let Some(rules) = &*source.rules
        && !rules.path.is_empty()
        && !rules.list.is_empty()
    {
        let fix = "keep the file, or the list";
        report.add(&format!("{key}.rules.list"), "there is a file of rules too", fix);
    }
    for (position, rule) in source.rules.iter().flat_map(|rules| rules.list.iter()).enumerate() {
        if let Err((field, what, fix)) = rule.check() {
            report.add(&format!("{key}.rules.list.{position}{field}"), what, fix);
        }
    }
}

#[cfg(test)]
#[path = "access_check_tests.rs"]
mod tests;
