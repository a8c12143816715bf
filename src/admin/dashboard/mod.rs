//! The dashboard: files for a browser, which are part of the binary.

use axum::body::Body;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};

/// What a browser may load and connect to: this server, and the WebSocket listeners of the broker.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// A file of the dashboard.
struct DashboardFile {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: &[DashboardFile] = &[
    DashboardFile { path: "/", kind: "text/html; charset=utf-8", text: include_str!("index.html") },
    DashboardFile {
        path: "/assets/icon.svg",
        kind: "image/svg+xml",
        text: include_str!("icon.svg"),
    },
    DashboardFile {
        path: "/assets/style.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("style.css"),
    },
    DashboardFile { path: "/assets/app.js", kind: SCRIPT, text: include_str!("app.js") },
    DashboardFile { path: "/assets/api.js", kind: SCRIPT, text: include_str!("api.js") },
    DashboardFile { path: "/assets/ui.js", kind: SCRIPT, text: include_str!("ui.js") },
    DashboardFile { path: "/assets/mqtt.js", kind: SCRIPT, text: include_str!("mqtt.js") },
    DashboardFile { path: "/assets/overview.js", kind: SCRIPT, text: include_str!("overview.js") },
    DashboardFile { path: "/assets/clients.js", kind: SCRIPT, text: include_str!("clients.js") },
    DashboardFile { path: "/assets/lists.js", kind: SCRIPT, text: include_str!("lists.js") },
    DashboardFile { path: "/assets/tools.js", kind: SCRIPT, text: include_str!("tools.js") },
    DashboardFile { path: "/assets/watch.js", kind: SCRIPT, text: include_str!("watch.js") },
];

/// All files together must be smaller than this many bytes.
const LARGEST: usize = 300_000;

const _: () = {
    let (mut at, mut sum) = (0, 0);
    while at < FILES.len() {
        sum += FILES[at].text.len();
        at += 1;
    }
    assert!(sum < LARGEST);
};

/// The file that a request asks for, if it is one of the dashboard's.
pub(super) fn answer<B>(request: &Request<B>) -> Option<Response<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let path = request.uri().path();
    let file = FILES.iter().find(|file| file.path == path)?;
    let mut answer = Response::new(Body::from(file.text));
    let headers = answer.headers_mut();
    super::secure_headers(headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    // Another version of the broker has other files, so a browser has to ask each time.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(answer)
}
