//! `/banned`: who may not connect for a while.

use super::page::{Page, Paging};
use super::problem::{ApiProblem, Details};
use super::{ApiContext, ApiState, JsonBody, JsonResult, Path, Query, when};
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
enum BanKind {
    /// A ClientId.
    Clientid,
    /// A user name.
    Username,
    /// An address.
    Peerhost,
}

/// A ban.
#[derive(Serialize, ToSchema)]
#[schema(as = Ban)]
pub(super) struct BanInfo {
    /// What `who` is.
    r#as: BanKind,
    /// The ClientId or user name; or the first address of the network that counts as one.
    who: String,
    /// When it is over.
    until: Option<String>,
}

/// A ban that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Wanted)]
pub(super) struct BanRequest {
    /// What `who` is.
    r#as: BanKind,
    /// Who may not connect.
    who: String,
    /// How long, in seconds.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 315360000, default = 3600)]
    seconds: Option<u32>,
}

fn target(kind: BanKind, who: &str) -> Result<BanTarget, ApiProblem> {
    match kind {
        BanKind::Clientid | BanKind::Username if who.is_empty() => {
            Err(ApiProblem::bad("who: it is empty"))
        }
        BanKind::Clientid => Ok(BanTarget::Client(who.into())),
        BanKind::Username => Ok(BanTarget::User(who.into())),
        BanKind::Peerhost => who
            .parse()
            .map(BanTarget::Address)
            .map_err(|_| ApiProblem::bad(format!("who: `{who}` is no address"))),
    }
}

fn shown(context: &ApiContext, who: BanTarget, until: crate::time::Instant) -> BanInfo {
    let until = when::shown(context.api.zero, until);
    match who {
        BanTarget::Address(address) => {
            BanInfo { r#as: BanKind::Peerhost, who: address.to_string(), until }
        }
        BanTarget::Client(name) => BanInfo { r#as: BanKind::Clientid, who: name.into(), until },
        BanTarget::User(name) => BanInfo { r#as: BanKind::Username, who: name.into(), until },
    }
}

/// Who may not connect for a while, in the order of names. What the ban file (`bans.file`) says is
/// not among them.
#[utoipa::path(get, path = "/banned", tag = "banned", params(Paging),
    responses((status = 200, body = Page<BanInfo>), (status = 400, body = Details)))]
pub(super) async fn list(
    axum::extract::State(context): ApiState,
    Query(paging): Query<Paging>,
) -> JsonResult<Page<BanInfo>> {
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
#[utoipa::path(post, path = "/banned", tag = "banned", request_body = BanRequest,
    responses((status = 200, body = BanInfo), (status = 400, body = Details)))]
pub(super) async fn add(
    axum::extract::State(context): ApiState,
    JsonBody(wanted): JsonBody<BanRequest>,
) -> JsonResult<BanInfo> {
    let who = target(wanted.r#as, &wanted.who)?;
    let seconds = wanted.seconds.unwrap_or(USUAL);
    if seconds == 0 || seconds > LONGEST {
        return Err(ApiProblem::bad(format!("seconds: it must be 1 to {LONGEST}")));
    }
    let asked = who.clone();
    let (added, now) =
        context.ask(0, move |shard| (shard.ban(&asked, seconds), shard.now())).await?;
    if !added {
        return Err(ApiProblem::busy("there are too many bans"));
    }
    Ok(Json(shown(&context, who, now.plus_seconds(seconds))))
}

/// Ends a ban.
#[utoipa::path(delete, path = "/banned/{as}/{who}", tag = "banned",
    params(("as" = String, Path, description = "clientid, username or peerhost"),
        ("who" = String, Path, description = "ClientId, user name or address, percent-encoded")),
    responses((status = 204, description = "Done"), (status = 404, body = Details)))]
pub(super) async fn lift(
    axum::extract::State(context): ApiState,
    Path((kind, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiProblem> {
    let kind = match kind.as_str() {
        "clientid" => BanKind::Clientid,
        "username" => BanKind::Username,
        "peerhost" => BanKind::Peerhost,
        _ => {
            let what = format!("as: `{kind}` is not clientid, username or peerhost");
            return Err(ApiProblem::bad(what));
        }
    };
    let who = target(kind, &name)?;
    match context.ask(0, move |shard| shard.lift_ban(&who)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiProblem::unknown(format!("`{name}` is not banned"))),
    }
}
