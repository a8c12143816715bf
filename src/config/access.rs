//! The sections of `access:`: how clients prove who they are, and what they may do. As in
//! `sections`, the doc comment of a field is its meaning in the reference. Owns no behaviour.
//!
//! Each element of the two lists has exactly one key, which says what it is; `check` says so when
//! it has none or several.

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

use super::notation::SECOND;
use super::quantity::{Count, Time, Unit};
use super::sections::{Auto, choice, section};
use super::texts::{TextTable, Texts};
use super::value::{self, List, Maybe, Or, Section, Text};
use crate::transport::network::Network;

/// The largest number of elements of a chain.
pub const MAX_CHAIN: usize = 8;
/// The largest number of rules in one list.
pub const MAX_RULES: usize = 100_000;
/// The longest path or URL in the file, in bytes.
const PATH: usize = 4096;

/// The unit of the sizes of caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decisions {}

impl Unit for Decisions {
    const NAME: &'static str = "decisions";
}

/// The unit of retries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempts {}

impl Unit for Attempts {
    const NAME: &'static str = "attempts";
}

/// The unit of the HTTP pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requests {}

impl Unit for Requests {
    const NAME: &'static str = "requests";
}

choice! {
    /// What a client without version 5 sees when it may not publish.
    OnDeny {
        /// The message is acknowledged, dropped and counted, as the protocol has no refusal.
        Ignore,
        /// The connection ends.
        Disconnect,
    }
}

choice! {
    /// What happens to connected users whose password a reload changes.
    OnUserChanged {
        /// Their connection ends.
        Disconnect,
        /// They stay until they leave.
        Keep,
    }
}

choice! {
    /// When it is decided what a client may read.
    ReadCheck {
        /// When it subscribes: a filter is refused unless all that it matches is allowed.
        Subscribe,
        /// When a message is delivered, as mosquitto does: any filter may be subscribed to.
        Delivery,
    }
}

choice! {
    /// What applies when no rule says anything.
    NoMatch {
        /// Nothing is allowed that no rule allows.
        Deny,
        /// All is allowed that no rule denies.
        Allow,
    }
}

choice! {
    /// Where in CONNECT a token stands.
    TokenFrom {
        /// In the password.
        Password,
        /// In the user name.
        Username,
    }
}

choice! {
    /// Which part of a client certificate is the user name.
    CertificateName {
        /// The subject's common name.
        Cn,
        /// The first subject alternative name.
        San,
        /// The whole subject.
        Dn,
    }
}

choice! {
    /// What happens when a service cannot be asked.
    OnFailure {
        /// The client is refused.
        Deny,
        /// The next element of the chain is asked.
        Ignore,
    }
}

choice! {
    /// How a service is asked.
    HttpMethod {
        /// Parameters in the URL.
        Get,
        /// Parameters in a body.
        Post,
    }
}

choice! {
    /// How parameters of a POST are written.
    BodyFormat {
        /// A JSON object.
        Json,
        /// As an HTML form.
        Form,
    }
}

choice! {
    /// How the hash of a password in a database is made.
    HashName {
        /// It is the password itself.
        Plain,
        /// MD5, in hexadecimal.
        Md5,
        /// SHA-1, in hexadecimal.
        Sha,
        /// SHA-256, in hexadecimal.
        Sha256,
        /// SHA-512, in hexadecimal.
        Sha512,
        /// bcrypt, with its own salt.
        Bcrypt,
        /// PBKDF2, in hexadecimal.
        Pbkdf2,
    }
}

choice! {
    /// Where the salt stands in what is hashed.
    SaltPosition {
        /// Nowhere.
        Disable,
        /// Before the password.
        Prefix,
        /// Behind the password.
        Suffix,
    }
}

choice! {
    /// The function of PBKDF2.
    MacFunction {
        /// SHA-1.
        Sha,
        /// SHA-256.
        Sha256,
        /// SHA-384.
        Sha384,
        /// SHA-512.
        Sha512,
    }
}

choice! {
    /// What a rule is about.
    Deeds {
        /// Publishing.
        Publish,
        /// Subscribing.
        Subscribe,
        /// Both.
        All,
    }
}

section! {
    /// Who may connect, publish and subscribe.
    AccessConfig {
        /// How clients prove who they are: each element is asked in turn, and the first one that
        /// knows the client decides. When none does, a client without user name is let in where
        /// its listener allows anonymous clients; everybody else is refused. Empty: user names are
        /// not checked, and only listeners that allow anonymous clients let anybody in.
        authentication: List<Authentication, MAX_CHAIN> = List(Vec::new()),
        /// What clients may do: each element is asked in turn, and the first rule that matches
        /// decides. Empty: all may do everything.
        authorization: List<Authorization, MAX_CHAIN> = List(Vec::new()),
        /// What applies when no rule matches, once authorization has an element.
        no_match: NoMatch = NoMatch::Deny,
        /// What an MQTT 3 client sees that publishes where it may not; an MQTT 5 client gets 0x87
        /// in the acknowledgement.
        on_deny: OnDeny = OnDeny::Ignore,
        /// When it is decided what a client may read. At delivery, rules about subscribing are
        /// asked about the topic of each message, and what they do not allow is left out and
        /// counted; that needs rules that are at hand, not services.
        read_check: ReadCheck = ReadCheck::Subscribe,
        /// What happens to connected users of a password file whose password a reload changes, or
        /// who are not in it any more. MQTT 5 clients get 0x87. Other methods: a token's and a
        /// service's word holds as long as they said, users of databases until they leave.
        on_user_changed: OnUserChanged = OnUserChanged::Disconnect,
        /// Decisions that are remembered.
        cache: AccessCache = AccessCache::default(),
    }
}

section! {
    /// Decisions that are remembered.
    AccessCache {
        /// Decisions about topics that each core remembers of its own clients, 32 bytes each,
        /// rounded up to a power of two: with four cores four times as many. auto: 16384. They are
        /// forgotten when the client connects again, and when rules change.
        entries: Or<Auto, Count<u32, Decisions, 64, { 1 << 24 }>> = Or::NONE,
        /// What a service said is asked again after this time; 0: each time.
        ttl: Time<0, { 24 * 3600 * SECOND }> = Time::of(60 * SECOND),
        /// Logins that each core remembers of its own clients (`remember` of a method), about 200
        /// bytes each, rounded up to a power of two. auto: 65536. A reload forgets them.
        logins: Or<Auto, Count<u32, Decisions, 0, { 1 << 24 }>> = Or::NONE,
    }
}

section! {
    /// One way to prove who one is; exactly one key.
    Authentication {
        /// Users and hashes of their passwords in a file, as mosquitto_passwd and `ringmq passwd`
        /// write it. Unknown users are left to the next element.
        password_file: Maybe<PasswordFileConfig> = Maybe(None),
        /// The client certificate that TLS has verified.
        certificate: Maybe<Certificate> = Maybe(None),
        /// A JSON Web Token. What is no token is left to the next element.
        jwt: Maybe<JwtConfig> = Maybe(None),
        /// A service that is asked over HTTP, with the requests and answers that EMQX's users know.
        http: Maybe<Http> = Maybe(None),
        /// MQTT 5 enhanced authentication with SCRAM-SHA-256 and SCRAM-SHA-512.
        scram: Maybe<Scram> = Maybe(None),
        /// Users in a Redis server, with the fields that EMQX's users have. Unknown users are left
        /// to the next element.
        redis: Maybe<Redis> = Maybe(None),
        /// Users in a PostgreSQL server, with the columns that EMQX's users have. Unknown users are
        /// left to the next element.
        postgres: Maybe<Postgres> = Maybe(None),
    }
}

section! {
    /// Users and hashes of their passwords in a file.
    PasswordFileConfig {
        /// Lines `user:hash`: $6$ (SHA-512), $7$ (PBKDF2) or $argon2id$. Read again on reload.
        path: Text<0, PATH> = Text::of(""),
        /// A right password is not hashed again for so long, or until a reload: a crowd that
        /// connects again is let in at once. 0: it is hashed each time.
        remember: Time<0, { 24 * 3600 * SECOND }> = Time::of(600 * SECOND),
    }
}

section! {
    /// The client certificate that TLS has verified.
    Certificate {
        /// What becomes the user name.
        username: CertificateName = CertificateName::Cn,
    }
}

section! {
    /// A JSON Web Token.
    JwtConfig {
        /// Where in CONNECT it stands.
        from: TokenFrom = TokenFrom::Password,
        /// Shared secret for HS256, HS384 and HS512.
        #[schemars(extend("x-secret" = true))]
        secret: Text<0, PATH> = Text::of(""),
        /// File of a public key in PEM: RS, PS, ES (ES512 too) and EdDSA.
        public_key: Text<0, PATH> = Text::of(""),
        /// URL of a key set (RFC 7517) with public keys: RS, PS, ES and EdDSA.
        jwks: Text<0, PATH> = Text::of(""),
        /// The key set is fetched again after this time; earlier, but at most every 10 s, when a
        /// token names a key that is not in it. While it cannot be fetched, the old one stays.
        refresh: Time<{ 10 * SECOND }, { 24 * 3600 * SECOND }> = Time::of(300 * SECOND),
        /// Longest time for fetching the key set.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// File with the authorities of the key set's server in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// Audience that the token must name; empty for any.
        audience: Text<0, 1024> = Text::of(""),
        /// Issuer that the token must name; empty for any.
        issuer: Text<0, 1024> = Text::of(""),
        /// Claims that the token must have, with their values, which may use ${client_id} and
        /// ${username}.
        claims: TextTable = TextTable::default(),
        /// Claim that becomes the user name; empty: that of CONNECT stays.
        username_claim: Text<0, 256> = Text::of(""),
        /// Claim with what the client may do, in EMQX's form; empty for none.
        acl_claim: Text<0, 256> = Text::of("acl"),
        /// Clocks may differ by so much.
        leeway: Time<0, { 3600 * SECOND }> = Time::of(0),
    }
}

section! {
    /// A service that is asked over HTTP.
    Http {
        /// How it is asked.
        method: HttpMethod = HttpMethod::Post,
        /// Where; may use ${client_id}, ${username}, ${password}, ${peer_host}, ${peer_port},
        /// ${listener}, ${cert_common_name}, ${cert_subject} and ${cert_alternative_name}.
        url: Text<0, PATH> = Text::of(""),
        /// Headers; their values may use placeholders.
        #[schemars(extend("x-secret" = true))]
        headers: TextTable = TextTable::default(),
        /// Parameters: placeholders in the values are filled in.
        body: TextTable = TextTable::default(),
        /// How they are written.
        format: BodyFormat = BodyFormat::Json,
        /// Longest time for an answer, all attempts together.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// Further attempts when the service cannot be reached or says 5xx.
        retries: Count<u32, Attempts, 0, 10> = Count::of(1),
        /// Requests under way at a time.
        pool: Count<u32, Requests, 1, 1024> = Count::of(64),
        /// File with the authorities of the service's certificate in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// What happens when there is no answer.
        on_failure: OnFailure = OnFailure::Deny,
        /// Authentication: a client that was let in is not asked about again for so long, while all
        /// but its port is the same, or until a reload; 0: each time.
        remember: Time<0, { 24 * 3600 * SECOND }> = Time::of(0),
    }
}

section! {
    /// Users in a Redis server.
    Redis {
        /// Its address, HOST:PORT, or an URL: redis://USER:PASSWORD@HOST:PORT/DATABASE; rediss://
        /// is TLS. Of a cluster: any nodes, with commas between (a comma in a password is %2C). The
        /// first that can be reached is asked, and then the one that it names for the key.
        #[schemars(extend("x-secret" = true))]
        server: Text<0, PATH> = Text::of("127.0.0.1:6379"),
        /// HMGET, HGET or HGETALL with the fields password_hash (or password), salt and
        /// is_superuser; may use the placeholders of http.
        command: Text<0, PATH> =
            Text::of("HMGET mqtt_user:${username} password_hash salt is_superuser"),
        /// How the hashes are made.
        password_hash_algorithm: PasswordHash = PasswordHash::default(),
        /// A client that was let in is not looked up again for so long, or until a reload; 0: each
        /// time.
        remember: Time<0, { 24 * 3600 * SECOND }> = Time::of(0),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// Connections.
        pool: Count<u32, Requests, 1, 64> = Count::of(8),
        /// File with the authorities of the server's certificate in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// What happens when there is no answer.
        on_failure: OnFailure = OnFailure::Deny,
    }
}

section! {
    /// Users in a PostgreSQL server.
    Postgres {
        /// postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=disable, prefer or require.
        #[schemars(extend("x-secret" = true))]
        url: Text<0, PATH> = Text::of(""),
        /// A query with the columns password_hash, salt and is_superuser. Its placeholders, those
        /// of http, become parameters.
        query: Text<0, PATH> = Text::of(
            "SELECT password_hash, salt, is_superuser FROM mqtt_user \
             WHERE username = ${username} LIMIT 1"
        ),
        /// How the hashes are made.
        password_hash_algorithm: PasswordHash = PasswordHash::default(),
        /// A client that was let in is not looked up again for so long, or until a reload; 0: each
        /// time.
        remember: Time<0, { 24 * 3600 * SECOND }> = Time::of(0),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// Connections.
        pool: Count<u32, Requests, 1, 64> = Count::of(8),
        /// File with the authorities of the server's certificate in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// What happens when there is no answer.
        on_failure: OnFailure = OnFailure::Deny,
    }
}

section! {
    /// How the hashes of passwords in a database are made.
    PasswordHash {
        /// The algorithm.
        name: HashName = HashName::Sha256,
        /// Where the salt stands; not for bcrypt and pbkdf2.
        salt_position: SaltPosition = SaltPosition::Prefix,
        /// The function of pbkdf2.
        mac_fun: MacFunction = MacFunction::Sha256,
        /// Rounds of pbkdf2.
        iterations: Count<u32, Attempts, 1, 10_000_000> = Count::of(4096),
        /// Bytes of a pbkdf2 hash; 0: as many as its function gives.
        dk_length: Count<u32, Attempts, 0, 1024> = Count::of(0),
    }
}

section! {
    /// Enhanced authentication with SCRAM.
    Scram {
        /// Lines `user:keys`, as `ringmq passwd -H scram` writes them. Read again on reload.
        path: Text<0, PATH> = Text::of(""),
    }
}

section! {
    /// One source of rules; exactly one key.
    Authorization {
        /// Mosquitto's acl_file.
        acl_file: Maybe<AclFile> = Maybe(None),
        /// Rules in YAML, here or in a file.
        rules: Maybe<Rules> = Maybe(None),
        /// A service that is asked over HTTP, with the requests and answers that EMQX's users know.
        /// Placeholders: those of authentication but ${password}, and ${action}, ${topic}, ${qos},
        /// ${retain} and ${client_attrs.NAME}. Until it answers, the client's next packets wait.
        http: Maybe<Http> = Maybe(None),
        /// Rules in a Redis server, as EMQX's users have them: a hash for each client. Until it
        /// answers, the client's next packets wait.
        redis: Maybe<RedisRules> = Maybe(None),
        /// Rules in a PostgreSQL server, as EMQX's users have them: a row for each. Until it
        /// answers, the client's next packets wait.
        postgres: Maybe<PostgresRules> = Maybe(None),
    }
}

impl Authorization {
    /// Whether a service or database is asked what clients may do. Otherwise the rules are at hand.
    pub fn asks(&self) -> bool {
        self.http.is_some() || self.redis.is_some() || self.postgres.is_some()
    }
}

section! {
    /// Rules in a Redis server.
    RedisRules {
        /// Its address, HOST:PORT, or an URL: redis://USER:PASSWORD@HOST:PORT/DATABASE; rediss://
        /// is TLS. Of a cluster: any nodes, with commas between (a comma in a password is %2C). The
        /// first that can be reached is asked, and then the one that it names for the key.
        #[schemars(extend("x-secret" = true))]
        server: Text<0, PATH> = Text::of("127.0.0.1:6379"),
        /// HGETALL (or HMGET) of a hash whose fields are topic filters, and their values publish,
        /// subscribe or all, or a JSON object with action, and qos, retain and permission if need
        /// be; may use the placeholders of http. Rules that deny come first.
        command: Text<0, PATH> = Text::of("HGETALL mqtt_acl:${username}"),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// Connections.
        pool: Count<u32, Requests, 1, 64> = Count::of(8),
        /// File with the authorities of the server's certificate in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// What happens when there is no answer, or a rule cannot be read.
        on_failure: OnFailure = OnFailure::Deny,
    }
}

section! {
    /// Rules in a PostgreSQL server.
    PostgresRules {
        /// postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=disable, prefer or require.
        #[schemars(extend("x-secret" = true))]
        url: Text<0, PATH> = Text::of(""),
        /// A query with the columns permission, action and topic, and qos and retain if need be: at
        /// most 1,000 rows, the first that matches decides. Its placeholders, those of http, become
        /// parameters.
        query: Text<0, PATH> =
            Text::of("SELECT permission, action, topic FROM mqtt_acl WHERE username = ${username}"),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 100 }, { 60 * SECOND }> = Time::of(5 * SECOND),
        /// Connections.
        pool: Count<u32, Requests, 1, 64> = Count::of(8),
        /// File with the authorities of the server's certificate in PEM; empty: those of the host.
        ca: Text<0, PATH> = Text::of(""),
        /// What happens when there is no answer, or a rule cannot be read.
        on_failure: OnFailure = OnFailure::Deny,
    }
}

section! {
    /// Mosquitto's acl_file: user, topic and pattern lines.
    AclFile {
        /// The file. Read again on reload.
        path: Text<0, PATH> = Text::of(""),
    }
}

section! {
    /// Rules; the first that matches decides.
    Rules {
        /// A file with the list; empty: the list is here. Read again on reload.
        path: Text<0, PATH> = Text::of(""),
        /// The rules.
        list: List<AccessRule, MAX_RULES> = List(Vec::new()),
    }
}

section! {
    /// One rule: allow or deny, who, and topics.
    AccessRule {
        /// It allows this.
        allow: Maybe<Deeds> = Maybe(None),
        /// It denies this.
        deny: Maybe<Deeds> = Maybe(None),
        /// User names it is about; * stands for any text. Left out: everybody.
        user: Texts = Texts::default(),
        /// ClientIds it is about; * stands for any text.
        client_id: Texts = Texts::default(),
        /// Addresses it is about, such as 10.0.0.0/8.
        address: Texts = Texts::default(),
        /// Names of listeners it is about.
        listener: Texts = Texts::default(),
        /// Subjects' common names of client certificates it is about; * stands for any text.
        certificate: Texts = Texts::default(),
        /// Attributes that authentication has given the client, with their values.
        attributes: TextTable = TextTable::default(),
        /// QoS levels it is about, such as [0, 1]; left out: any.
        qos: Texts = Texts::default(),
        /// It is about retained messages only, or about others only; left out: any.
        retain: Maybe<bool> = Maybe(None),
        /// Topic filters, which may use ${client_id}, ${username} and ${attribute.NAME} as whole
        /// levels or parts of them. "eq a/+" means the filter a/+ itself and nothing it matches.
        topics: Texts = Texts::default(),
    }
}

/// What is wrong with a rule: the key below it (with its dot, or empty), what is wrong, and what to
/// do.
pub type RuleProblem = (&'static str, String, &'static str);

impl AccessRule {
    /// Checks that the keys of the rule are consistent.
    ///
    /// # Errors
    /// The first problem.
    pub fn check(&self) -> Result<(), RuleProblem> {
        let fix = "write one of them: publish, subscribe or all";
        match (*self.allow, *self.deny) {
            (None, None) => {
                return Err(("", "the rule neither allows nor denies".to_owned(), fix));
            }
            (Some(_), Some(_)) => {
                return Err((".deny", "the rule allows and denies".to_owned(), fix));
            }
            _ => {}
        }
        if let Some(wrong) = self.qos.iter().find(|qos| !["0", "1", "2"].contains(&&***qos)) {
            return Err((".qos", format!("`{wrong}` is no QoS level"), "write 0, 1 or 2"));
        }
        if let Some(wrong) = self.address.iter().find(|text| Network::around(text).is_err()) {
            let fix = "write one such as 10.0.0.0/8 or ::1";
            return Err((".address", format!("`{wrong}` is no address or network"), fix));
        }
        Ok(())
    }
}
