//! What went wrong with a request, as problem details (RFC 9457) with the `code` and `message` that
//! scripts for EMQX expect.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// A request that was not carried out.
#[derive(Debug)]
pub(in crate::admin) struct ApiProblem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    problems: Vec<String>,
    wait: Option<u64>,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
pub(super) struct Details {
    /// Always about:blank: the status says what kind of problem it is.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What is wrong with this request, with the name of the parameter.
    detail: String,
    /// A word for programs.
    code: &'static str,
    /// The same as `detail`.
    message: String,
    /// Each problem, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl ApiProblem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> ApiProblem {
        ApiProblem { status, code, detail: detail.into(), problems: Vec::new(), wait: None }
    }

    /// A parameter is wrong.
    pub(in crate::admin) fn bad(detail: impl Into<String>) -> ApiProblem {
        ApiProblem::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", detail)
    }

    /// The body is wrong, or too large.
    pub(super) fn of_body(status: StatusCode, detail: &str) -> ApiProblem {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => ApiProblem::new(
                status,
                "BODY_TOO_LARGE",
                "the body is larger than 4 MiB, or than 128 KiB for /login",
            ),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ApiProblem::new(status, "NOT_JSON", "the body must be application/json")
            }
            _ => ApiProblem::bad(format!("body: {detail}")),
        }
    }

    /// There is nothing of that name.
    pub(super) fn unknown(detail: impl Into<String>) -> ApiProblem {
        ApiProblem::new(StatusCode::NOT_FOUND, "NOT_FOUND", detail)
    }

    /// There is something of that name already.
    pub(super) fn conflict(detail: impl Into<String>) -> ApiProblem {
        ApiProblem::new(StatusCode::CONFLICT, "ALREADY_EXISTS", detail)
    }

    /// The path does not have this method.
    pub(super) fn method() -> ApiProblem {
        let detail = "the path does not have this method; see /api/v1/openapi.json";
        ApiProblem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail)
    }

    /// A shard does not answer.
    pub(super) fn late(shard: usize) -> ApiProblem {
        ApiProblem::busy(&format!("shard {shard} does not answer"))
    }

    /// The request cannot be carried out now, but may be in a moment.
    pub(in crate::admin) fn busy(detail: &str) -> ApiProblem {
        let problem =
            ApiProblem::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", detail);
        ApiProblem { wait: Some(1), ..problem }
    }

    /// The same problem, with the number of messages that were published before it.
    pub(super) fn after(self, published: usize) -> ApiProblem {
        ApiProblem { detail: format!("{}; published before it: {published}", self.detail), ..self }
    }

    /// The broker refuses the request, for these reasons.
    pub(super) fn refused(problems: Vec<String>) -> ApiProblem {
        let detail = problems.first().cloned().unwrap_or_default();
        let problem = ApiProblem::new(StatusCode::UNPROCESSABLE_ENTITY, "REFUSED", detail);
        ApiProblem { problems, ..problem }
    }

    /// The caller has not proved who it is.
    pub(in crate::admin) fn unproven(detail: &str) -> ApiProblem {
        ApiProblem::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", detail)
    }

    /// The caller has proved who it is, and may not do this.
    pub(in crate::admin) fn forbidden(detail: impl Into<String>) -> ApiProblem {
        ApiProblem::new(StatusCode::FORBIDDEN, "FORBIDDEN", detail)
    }

    /// Too many attempts to log in have failed. The caller may try again after `wait` seconds.
    pub(in crate::admin) fn too_many(wait: u64) -> ApiProblem {
        let detail = "too many failed logins";
        let problem = ApiProblem::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", detail);
        ApiProblem { wait: Some(wait), ..problem }
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let ApiProblem { status, code, detail, problems, wait } = self;
        let title = status.canonical_reason().unwrap_or_default();
        let message = detail.clone();
        let (r#type, number) = ("about:blank", status.as_u16());
        let details = Details { r#type, title, status: number, detail, code, message, problems };
        let mut answer = (status, Json(details)).into_response();
        let headers = answer.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            // Not `Basic`, because browsers answer that with a window of their own.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        answer
    }
}
