//! `/banned`: who may not connect for a while.

use super::page::{Page, Paging};
use super::problem::{Details, Problem};
use super::{Answer, Body, Context, Path, Query, State, when};
use crate::shard::inquiry::BanTarget;
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The duration of a ban in seconds, unless the request says another.
const USUAL: u32 = 3600;
/// The longest ban in seconds: ten years.
const LONGEST: u32 = 10 * 365 * 24 * 3600;

/// What a ban is about.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A ClientId.
    Clientid,
    /// A user name.
    Username,
    /// An address.
    Peerhost,
}

/// A ban.
#[derive(Serialize, ToSchema)]
pub(super) struct Ban {
    /// What `who` is.
    r#as: Kind,
    /// The ClientId or user name; or the first address of the network that counts as one.
    who: String,
    /// When it is over.
    until: Option<String>,
}

/// A ban that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// What `who` is.
    r#as: Kind,
    /// Who may not connect.
    who: String,
    /// How long, in seconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315360000, default = 3600)]
    seconds: Option<u32>,
}

fn target(kind: Kind, who: &str) -> Result<BanTarget, Problem> {
    match kind {
        Kind::Clientid | Kind::Username if who.is_empty() => Err(Problem::bad("who: it is empty")),
        Kind::Clientid => Ok(BanTarget::Client(who.into())),
        Kind::Username => Ok(BanTarget::User(who.into())),
        Kind::Peerhost => who
            .parse()
            .map(BanTarget::Address)
            .map_err(|_| Problem::bad(format!("who: `{who}` is no address"))),
    }
}

fn shown(context: &Context, who: BanTarget, until: crate::time::Instant) -> Ban {
    let until = when::shown(context.api.zero, until);
    match who {
        BanTarget::Address(address) => {
            Ban { r#as: Kind::Peerhost, who: address.to_string(), until }
        }
        BanTarget::Client(name) => Ban { r#as: Kind::Clientid, who: name.into(), until },
        BanTarget::User(name) => Ban { r#as: Kind::Username, who: name.into(), until },
    }
}

/// Who may not connect for a while, in the order of names. What the ban file (`bans.file`) says is
/// not among them.
#[utoipa::path(get, path = "/banned", tag = "banned", params(Paging),
    responses((status = 200, body = Page<Ban>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): State,
    Query(paging): Query<Paging>,
) -> Answer<Page<Ban>> {
    let wanted = paging.checked::<u32>()?;
    let mut all = Vec::new();
    for part in 0.. {
        match context.ask(0, move |shard| shard.bans(part)).await? {
            Some(more) => all.extend(more),
            None => break,
        }
    }
    all.sort_unstable();
    let all = all.into_iter().map(|(who, until)| shown(&context, who, until)).collect();
    Ok(Json(wanted.page_of(all)))
}

/// Bans a ClientId, a user name or an address. Who is connected stays.
#[utoipa::path(post, path = "/banned", tag = "banned", request_body = Wanted,
    responses((status = 200, body = Ban), (status = 400, body = Details)))]
pub(super) async fn add(
    axum::extract::State(context): State,
    Body(wanted): Body<Wanted>,
) -> Answer<Ban> {
    let who = target(wanted.r#as, &wanted.who)?;
    let seconds = wanted.seconds.unwrap_or(USUAL);
    if seconds == 0 || seconds > LONGEST {
        return Err(Problem::bad(format!("seconds: it must be 1 to {LONGEST}")));
    }
    let asked = who.clone();
    let (added, now) =
        context.ask(0, move |shard| (shard.ban(&asked, seconds), shard.now())).await?;
    if !added {
        return Err(Problem::busy("there are too many bans"));
    }
    Ok(Json(shown(&context, who, now.plus_seconds(seconds))))
}

/// Ends a ban.
#[utoipa::path(delete, path = "/banned/{as}/{who}", tag = "banned",
    params(("as" = String, Path, description = "clientid, username or peerhost"),
        ("who" = String, Path, description = "ClientId, user name or address, percent-encoded")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn lift(
    axum::extract::State(context): State,
    Path((kind, name)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let kind = match kind.as_str() {
        "clientid" => Kind::Clientid,
        "username" => Kind::Username,
        "peerhost" => Kind::Peerhost,
        _ => {
            let what = format!("as: `{kind}` is not clientid, username or peerhost");
            return Err(Problem::bad(what));
        }
    };
    let who = target(kind, &name)?;
    match context.ask(0, move |shard| shard.lift_ban(&who)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::unknown(format!("`{name}` is not banned"))),
    }
}
