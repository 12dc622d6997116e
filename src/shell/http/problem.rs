//! Errors of the local API as RFC 9457 tells them.
//!
//! Owns: [`HttpProblem`]: a status, a stable code, and a sentence with what to do.
//! Never: carries a denial of `/v1/authorize`: that is an answer.
//! Read next: `routes.rs`.

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use super::limits::Refusal;
use crate::agent::request::{DecidedBy, Problem, ProblemCode};

/// Why a request got no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpProblem {
    /// The status.
    pub status: StatusCode,
    /// The stable code.
    pub code: &'static str,
    /// What happened and what to do.
    pub detail: String,
    /// Who asked, as the kernel tells it, where the refusal is about that.
    pub seen: Vec<String>,
    /// Which grant or selector is missing.
    pub hint: Option<String>,
    /// The clause that decided, where a denial is of one.
    pub decided_by: Option<Box<DecidedBy>>,
    /// Whether the rest of the connection can be made sense of.
    pub connection: Connection,
}

/// What happens to the connection after the problem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// It is closed: part of the request was not read.
    Close,
    /// The next request may follow.
    Keep,
}

impl HttpProblem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let (seen, hint, decided_by, connection) = (Vec::new(), None, None, Connection::Keep);
        Self { status, code, detail: detail.into(), seen, hint, decided_by, connection }
    }

    fn closing(self) -> Self {
        Self { connection: Connection::Close, ..self }
    }

    /// 400: the request is not of the documented form.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Problem::new(ProblemCode::InvalidRequest, detail).into()
    }

    /// 400: the request could be read in more than one way.
    pub fn ambiguous(detail: impl Into<String>) -> Self {
        Self::invalid(detail).closing()
    }

    /// 404: there is no such path here.
    pub fn no_such_path(detail: impl Into<String>) -> Self {
        Problem::new(ProblemCode::NotFound, detail).into()
    }

    /// 405: the path is there, the method is not.
    pub fn wrong_method() -> Self {
        let detail = "this path does not have that method: see GET /openapi.json";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// 408: the body did not arrive in time.
    pub fn too_slow() -> Self {
        let detail = "the body did not arrive in time: send the request at once, then wait";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).closing()
    }

    /// 403: the request names another host than the listener that it reached.
    pub fn wrong_host(own: SocketAddr) -> Self {
        let detail = format!("the Host header must be {own} or localhost:{}: ask by that address", own.port());
        Self::new(StatusCode::FORBIDDEN, "wrong_host", detail)
    }

    /// 403: a page in a browser asks.
    pub fn from_a_page() -> Self {
        let detail = "pages in browsers are not served here: ask from a program, without an Origin header";
        Self::new(StatusCode::FORBIDDEN, "cross_origin", detail)
    }

    /// 403: the user at the other end of a loopback connection is none that the configuration names.
    pub fn not_an_enforcer(uid: Option<u32>) -> Self {
        let who =
            uid.map_or("the kernel names no user for this connection".into(), |uid| format!("this is user {uid}"));
        let detail = format!("{who}: name the user of an enforcement point in [pep] users of agent.toml");
        Self::new(StatusCode::FORBIDDEN, "not_an_enforcer", detail).closing()
    }

    /// 413: the body is larger than the profile admits.
    pub fn body_too_large(bytes_max: usize) -> Self {
        let detail = format!("the body has more than {bytes_max} bytes, the most that this device's profile admits");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).closing()
    }

    /// 431: the headers are larger than the profile admits.
    pub fn headers_too_large(bytes_max: usize) -> Self {
        let detail =
            format!("the headers have more than {bytes_max} bytes, the most that this device's profile admits");
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail).closing()
    }

    /// 429: the queue to the agent is full.
    pub fn queue_full() -> Self {
        Problem::new(ProblemCode::Throttled, "more requests wait than this device can hold: try again").into()
    }

    /// 503: nothing was decided, because nothing can be recorded.
    pub fn audit_unavailable() -> Self {
        let detail =
            "the decision could not be recorded, so none was made: free space or repair the disk of the state \
                      folder, the agent goes on by itself";
        Problem::new(ProblemCode::AuditUnavailable, detail).into()
    }

    /// The body.
    pub fn to_json(&self) -> String {
        let mut body = serde_json::json!({
            "type": format!("urn:hardtack:problem:{}", self.code),
            "title": self.code.replace('_', " "),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if !self.seen.is_empty() {
            body["selectors_seen"] = self.seen.as_slice().into();
        }
        if let Some(hint) = &self.hint {
            body["hint"] = hint.as_str().into();
        }
        if let Some(clause) = &self.decided_by {
            body["decided_by"] = serde_json::json!(clause);
        }
        body.to_string()
    }
}

impl From<Problem> for HttpProblem {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let Problem { code, detail, seen, hint, decided_by } = problem;
        Self { seen, hint, decided_by, ..Self::new(status, code.name(), detail) }
    }
}

impl From<Refusal> for HttpProblem {
    fn from(refusal: Refusal) -> Self {
        Problem::new(ProblemCode::Throttled, refusal.to_string()).into()
    }
}

impl IntoResponse for HttpProblem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.connection == Connection::Close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
