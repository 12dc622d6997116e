//! Enforcement points: what reverse proxies and AuthZEN clients ask, each in its own form.
//!
//! Owns: where each form carries the request that is asked about and the token; the resource and the operation that an
//! HTTP request stands for; the three statuses that proxies understand.
//! Never: decides; believes a forwarded header that came twice; answers a proxy anything but 200, 401 or 403.
//! Read next: `routes.rs`, which serves these on `pep.sock` alone; `agent/decide.rs`.
//!
//! An HTTP request stands for an operation (`GET`, `HEAD`, `OPTIONS`: `read`; `POST`, `PUT`, `PATCH`: `write`; `DELETE`:
//! `delete`; others their own names) on the resource `http/HOST/PATH`: the host in lower case, with a port if it says one,
//! the path decoded once, without a slash at its end and without the query. Where the proxy's own configuration names a
//! resource behind the path that it asks, that takes the place of `http/HOST`.

use std::net::Ipv6Addr;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{json, Map, Value};

use super::problem::{Connection, HttpProblem};
use super::routes::text;
use crate::agent::request::{object, Authorize, DecisionReply, Reason, Reply, Verdict};
use crate::ids::RiskClass;
use crate::wire::arguments::Arguments;
use crate::wire::link::Right;
use crate::wire::percent;
use crate::wire::token::canonical;

/// Where the paths for proxies begin.
const PROXIES: &str = "/authz";

/// What Envoy puts before the path of the request that it asks about.
const EXT_AUTHZ: &str = "/authz/ext-authz";

/// The paths that proxies ask, with any method.
pub const PATHS: [(&str, Form); 7] = [
    ("/authz/auth-request", Form::AuthRequest),
    ("/authz/auth-request/{*base}", Form::AuthRequest),
    ("/authz/ext-authz", Form::ExtAuthz),
    ("/authz/ext-authz/", Form::ExtAuthz),
    ("/authz/ext-authz/{*path}", Form::ExtAuthz),
    ("/authz/forward-auth", Form::ForwardAuth),
    ("/authz/forward-auth/{*base}", Form::ForwardAuth),
];

/// What nginx asks.
const AUTH_REQUEST: &str = "/authz/auth-request";

/// What Traefik and Caddy ask.
const FORWARD_AUTH: &str = "/authz/forward-auth";

/// The longest host name that is looked at, by RFC 1035.
const HOST_BYTES_MAX: usize = 253;

const TWO_TOKENS: &str = "more than one token: present one, once";

/// Where evaluations of AuthZEN are asked for.
pub const EVALUATION: &str = "/access/v1/evaluation";

/// Names a request of AuthZEN (10.1.3), and stands in its answer.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name of a request that comes back.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// The form in which a proxy asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// nginx `auth_request`: `X-Original-Method`, and `X-Original-URL` or `X-Original-URI`.
    AuthRequest,
    /// Envoy's HTTP `ext_authz`: method, host and path are the request's own, behind `/authz/ext-authz`.
    ExtAuthz,
    /// Traefik `forwardAuth`, Caddy `forward_auth`: `X-Forwarded-Method`, `-Host` and `-Uri`.
    ForwardAuth,
}

/// What a proxy wants to know.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// For the agent.
    pub authorize: Authorize,
    /// Whether the resource has the form of one: if it has not, no token helps.
    pub canonical: bool,
}

/// Why a proxy is answered without a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turned {
    status: StatusCode,
    /// As RFC 6750 calls it; none where nobody presented anything.
    error: Option<&'static str>,
    code: &'static str,
    detail: String,
}

impl Turned {
    /// The proxy, or what passes through it, does not say clearly what is asked.
    fn unclear(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, error: None, code: "invalid_request", detail: detail.into() }
    }

    fn token(error: Option<&'static str>, code: &'static str, detail: &str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error, code, detail: detail.into() }
    }
}

/// Whether a path is one that a proxy asks, or would if it were there.
pub fn is_proxys(path: &str) -> bool {
    path.strip_prefix(PROXIES).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// What a proxy asks about.
///
/// # Errors
/// [`Turned`] where it is not clear, or nobody presents a token.
pub fn asked(form: Form, head: &Parts) -> Result<Asked, Turned> {
    let original = match form {
        Form::AuthRequest => Original::of_nginx(head)?,
        Form::ExtAuthz => Original::of_envoy(head)?,
        Form::ForwardAuth => Original::forwarded(head)?,
    };
    let token = presented(&head.headers)?;
    let token = token.ok_or_else(|| Turned::token(None, "no_token", "no token: send `Authorization: Bearer TOKEN`"))?;
    let host = host(original.host)?;
    let path = head.uri.path();
    let base = match form {
        // All behind it is the path that is asked about.
        Form::ExtAuthz => None,
        Form::AuthRequest => base(path, AUTH_REQUEST)?,
        Form::ForwardAuth => base(path, FORWARD_AUTH)?,
    };
    let base = base.unwrap_or_else(|| format!("http/{host}"));
    // A base that names a host names the destination: what the client calls it counts for nothing then.
    let named = base.strip_prefix("http/").and_then(|below| below.split('/').next());
    let destination = named.map_or(host, str::to_owned);
    let resource = resource(&base, original.path);
    Ok(Asked {
        canonical: canonical(&resource).is_ok(),
        authorize: Authorize {
            token: token.to_owned(),
            operation: operation(original.method)?,
            resource,
            destination: Some(destination),
            risk: None,
            task: None,
            step: None,
            arguments: None,
        },
    })
}

/// The request that is asked about.
struct Original<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
}

impl<'a> Original<'a> {
    fn of_nginx(head: &'a Parts) -> Result<Self, Turned> {
        let named = [header_once(&head.headers, "x-original-url")?, header_once(&head.headers, "x-original-uri")?];
        let target = match named {
            [Some(target), None] | [None, Some(target)] => target,
            [None, None] => {
                return Err(Turned::unclear(
                    "set X-Original-URL to $scheme://HOST$request_uri in nginx, HOST by its name",
                ))
            }
            [Some(_), Some(_)] => return Err(Turned::unclear("X-Original-URL and X-Original-URI are both there")),
        };
        let method = needed(head, "x-original-method")?;
        let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
            return Ok(Self { method, host: needed(head, "host")?, path: target });
        };
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        Ok(Self { method, host, path })
    }

    fn of_envoy(head: &'a Parts) -> Result<Self, Turned> {
        let path = head.uri.path().strip_prefix(EXT_AUTHZ).unwrap_or_default();
        Ok(Self { method: head.method.as_str(), host: needed(head, "host")?, path })
    }

    fn forwarded(head: &'a Parts) -> Result<Self, Turned> {
        let [method, host, path] = ["x-forwarded-method", "x-forwarded-host", "x-forwarded-uri"];
        Ok(Self { method: needed(head, method)?, host: needed(head, host)?, path: needed(head, path)? })
    }
}

/// A header that says one thing. One that is there twice may have come from a client.
fn header_once<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Turned> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Turned::unclear(format!(
            "{name} is there more than once: the proxy must replace what clients send"
        )));
    }
    let text = value.to_str().map_err(|_| Turned::unclear(format!("{name} is not plain ASCII")))?;
    Ok(Some(text))
}

fn needed<'a>(head: &'a Parts, name: &str) -> Result<&'a str, Turned> {
    let found = header_once(&head.headers, name)?.filter(|value| !value.is_empty());
    found.ok_or_else(|| Turned::unclear(format!("{name} is not there: the proxy must set it")))
}

/// The token, from the one place that has it.
fn presented(headers: &HeaderMap) -> Result<Option<&str>, Turned> {
    let twice = || Turned::token(Some("invalid_request"), "invalid_request", TWO_TOKENS);
    if headers.get_all(header::AUTHORIZATION).iter().count() > 1 {
        return Err(twice());
    }
    let bearer = header_once(headers, "authorization")?.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        let ours = ["bearer", "biscuit"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        ours.then_some(token.trim())
    });
    match (bearer, header_once(headers, "hardtack-token")?) {
        (Some(_), Some(_)) => Err(twice()),
        (token, other) => Ok(token.or(other).filter(|token| !token.is_empty())),
    }
}

/// Where the body has the token, no header presents one.
///
/// # Errors
/// 400 if one does.
pub fn presents_none(headers: &HeaderMap) -> Result<(), HttpProblem> {
    match presented(headers) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(HttpProblem::invalid(TWO_TOKENS)),
        Err(turned) => Err(HttpProblem::invalid(turned.detail)),
    }
}

/// The operation that a method stands for. Others keep their names, which no operation of a grant is called by chance.
fn operation(method: &str) -> Result<String, Turned> {
    let known = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if method.is_empty() || method.len() > 20 || !method.bytes().all(known) {
        return Err(Turned::unclear("the method has capital letters and dashes only, 20 at the most"));
    }
    Ok(match method {
        "GET" | "HEAD" | "OPTIONS" => "read".into(),
        "PATCH" | "POST" | "PUT" => "write".into(),
        "DELETE" => "delete".into(),
        other => other.into(),
    })
}

/// The host as a segment of a resource, and as a destination.
///
/// # Errors
/// It is none.
pub(super) fn host(host: &str) -> Result<String, Turned> {
    named(host)
        .ok_or_else(|| Turned::unclear("the host is a name or an address, with a port or none, and nothing else"))
}

/// The one spelling of a host.
fn named(host: &str) -> Option<String> {
    let (name, port) = match host.rsplit_once(':').filter(|_| !host.ends_with(']')) {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, format!(":{}", port.parse::<u16>().ok()?))
        }
        Some(_) => return None,
        None => (host, String::new()),
    };
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return Some(format!("[{}]{port}", address.parse::<Ipv6Addr>().ok()?));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let fits = !name.is_empty() && name.len() <= HOST_BYTES_MAX && !name.starts_with('.') && !name.ends_with('.');
    (fits && name.bytes().all(known)).then(|| format!("{}{port}", name.to_ascii_lowercase()))
}

/// The resource that the proxy's own configuration puts behind the path that it asks, if it does. Never from a query: some
/// proxies hand on that of their client.
fn base(path: &str, form: &str) -> Result<Option<String>, Turned> {
    let base = path.strip_prefix(form).unwrap_or_default();
    match base.strip_prefix('/').unwrap_or(base) {
        "" => Ok(None),
        base if canonical(base).is_ok() => Ok(Some(base.to_owned())),
        _ => Err(Turned::unclear(format!("what is behind {form}/ is a resource, or nothing"))),
    }
}

/// The resource that a path stands for. What somebody could read as another path stays as it is behind a percent sign: the
/// agent refuses it, and writes it down.
fn resource(base: &str, path: &str) -> String {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some(below) = path.strip_prefix('/') else {
        return if path.is_empty() { base.to_owned() } else { format!("{base}/%{path}") };
    };
    let decoded: Option<Vec<String>> = below.split('/').map(decoded).collect();
    match decoded {
        Some(segments) => format!("{base}/{}", segments.join("/")),
        None => format!("{base}/%{path}"),
    }
}

/// A segment of a path, decoded once. None if an upstream may take it for something else: a slash or a backslash, an escape
/// that is decoded once more, the begin of a fragment, or a name that is none without the parameters behind it.
fn decoded(segment: &str) -> Option<String> {
    let text = percent::decoded(segment).filter(|text| !text.contains(['/', '%', '\\', '#']))?;
    let name = text.split(';').next().unwrap_or_default();
    (!matches!(name, "" | "." | "..")).then_some(text)
}

/// What a proxy is answered to a decision, or to what came in place of one.
pub fn answer(asked: &Asked, reply: Result<Reply, HttpProblem>) -> Response<Body> {
    match reply {
        Ok(Reply::Decision(decision)) => decided(asked, &decision),
        Ok(Reply::Problem(problem)) => unanswered(&problem.into()),
        Err(problem) => unanswered(&problem),
        Ok(other) => unanswered(&HttpProblem::invalid(format!("{other:?} is no answer to this"))),
    }
}

fn decided(asked: &Asked, decision: &DecisionReply) -> Response<Body> {
    let mut response = match decision.decision {
        Verdict::Allow => empty(),
        Verdict::Deny => {
            let (status, error) = challenge(decision.reason, asked.canonical);
            let mut response = problem(status, decision.reason.name(), &decision.explain);
            let Authorize { operation, resource, .. } = &asked.authorize;
            let wider = || Right { resource: resource.clone(), action: operation.clone() };
            let scope = (error == Some("insufficient_scope")).then(wider);
            challenged(&mut response, error, decision.reason.name(), scope.as_ref());
            response
        }
    };
    let told = [
        ("hardtack-reason", decision.reason.name().to_owned()),
        ("hardtack-decision-id", decision.decision_id.clone()),
        ("hardtack-mode", decision.mode.name().to_owned()),
        ("hardtack-freshness", decision.freshness.name().to_owned()),
        ("hardtack-staleness", decision.staleness_s.to_string()),
        ("hardtack-expires-in", decision.expires_in_s.map(|seconds| seconds.to_string()).unwrap_or_default()),
    ];
    for (name, value) in told {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// What a proxy is answered where nothing was asked of the agent.
pub fn turned(turned: &Turned) -> Response<Body> {
    let mut response = problem(turned.status, turned.code, &turned.detail);
    reason(&mut response, turned.code);
    if turned.status == StatusCode::UNAUTHORIZED {
        challenged(&mut response, turned.error, turned.code, None);
    }
    response
}

/// What a proxy is answered where nothing could be decided: the status is 403, the code is the problem's.
pub fn unanswered(what: &HttpProblem) -> Response<Body> {
    let mut response = problem(StatusCode::FORBIDDEN, what.code, &what.detail);
    reason(&mut response, what.code);
    if what.connection == Connection::Close {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// 200: there is nothing more to say than the headers do.
fn empty() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn problem(status: StatusCode, code: &'static str, detail: &str) -> Response<Body> {
    let (number, title) = (status.as_u16(), code.replace('_', " "));
    let body = json!({"type": format!("urn:hardtack:problem:{code}"), "title": title, "status": number, "detail": detail, "code": code});
    let mut response = text("application/problem+json", body.to_string());
    *response.status_mut() = status;
    response
}

fn reason(response: &mut Response<Body>, code: &'static str) {
    response.headers_mut().insert(HeaderName::from_static("hardtack-reason"), HeaderValue::from_static(code));
}

/// The status of a denial, and the error as RFC 6750 (3.1) calls it: 401 where another token helps.
fn challenge(reason: Reason, canonical: bool) -> (StatusCode, Option<&'static str>) {
    match reason {
        Reason::Malformed if !canonical => (StatusCode::FORBIDDEN, None),
        Reason::Malformed
        | Reason::TooLarge
        | Reason::TooComplex
        | Reason::WrongAlgorithm
        | Reason::BadSignature
        | Reason::UnknownRoot
        | Reason::WrongFleet
        | Reason::WrongDevice
        | Reason::FeedUnknown
        | Reason::Revoked
        | Reason::NotYetValid
        | Reason::Expired
        | Reason::OfflineSpent
        | Reason::BootsSpent
        | Reason::UsesSpent => (StatusCode::UNAUTHORIZED, Some("invalid_token")),
        Reason::WrongWorkload | Reason::CheckFailed | Reason::NoRight | Reason::DeniedByPolicy => {
            (StatusCode::FORBIDDEN, Some("insufficient_scope"))
        }
        Reason::TimeUntrusted
        | Reason::Stale
        | Reason::AuditFull
        | Reason::Locked
        | Reason::EngineTimeout
        | Reason::Throttled
        | Reason::Allowed => (StatusCode::FORBIDDEN, None),
    }
}

/// Whether a denial is about the token, whatever is asked: another one helps.
pub fn is_about_token(reason: Reason) -> bool {
    challenge(reason, true).0 == StatusCode::UNAUTHORIZED
}

/// Says in `WWW-Authenticate` what would help (RFC 6750, 3).
fn challenged(response: &mut Response<Body>, error: Option<&str>, why: &str, scope: Option<&Right>) {
    if error.is_none() && response.status() != StatusCode::UNAUTHORIZED {
        return;
    }
    let mut value = String::from("Bearer realm=\"hardtack\"");
    if let Some(error) = error {
        value += &format!(", error=\"{error}\", error_description=\"{why}\"");
    }
    if let Some(scope) = scope {
        value += &format!(", scope=\"{}\"", scope.scope_token());
    }
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
}

/// Body of `POST /access/v1/evaluation` (OpenID AuthZEN Authorization API 1.0, 6). What else is in it does not count: the
/// token says who asks.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Evaluation {
    /// Who, as the enforcement point calls him: nothing hangs on it.
    #[serde(deserialize_with = "object::one")]
    pub subject: Entity,
    /// What he does.
    #[serde(deserialize_with = "object::one")]
    pub action: Action,
    /// To what.
    #[serde(deserialize_with = "object::one")]
    pub resource: Entity,
    /// What else is known.
    #[serde(default, deserialize_with = "object::perhaps")]
    pub context: Option<Context>,
}

/// A subject or a resource.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Entity {
    /// Of which kind: of a resource, its first segment.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub id: String,
}

/// An action.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Action {
    /// The operation.
    pub name: String,
    /// What it is done with: the arguments.
    #[serde(default)]
    pub properties: Option<Arguments>,
}

/// What of a context counts.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
pub struct Context {
    /// The token, where no header presents one.
    pub token: Option<String>,
    /// Where the effect goes.
    pub destination: Option<String>,
    /// The class of risk.
    pub risk: Option<RiskClass>,
}

impl Evaluation {
    /// For the agent. Without a token the decision is that of an empty one.
    ///
    /// # Errors
    /// 400 if there is more than one token.
    pub fn asked(self, headers: &HeaderMap) -> Result<Authorize, HttpProblem> {
        let header = presented(headers).map_err(|turned| HttpProblem::invalid(turned.detail))?;
        let Context { token, destination, risk } = self.context.unwrap_or_default();
        if header.is_some() && token.is_some() {
            return Err(HttpProblem::invalid(TWO_TOKENS));
        }
        let token = token.or(header.map(str::to_owned)).unwrap_or_default();
        let resource = format!("{}/{}", self.resource.kind, self.resource.id);
        let Action { name: operation, properties: arguments } = self.action;
        Ok(Authorize { token, operation, resource, destination, risk, task: None, step: None, arguments })
    }
}

/// What an evaluation is called by who asks for it, in one header of visible ASCII.
pub fn request_id(path: &str, headers: &HeaderMap) -> Option<HeaderValue> {
    let mut all = headers.get_all(REQUEST_ID).iter();
    let id = all.next().filter(|_| all.next().is_none() && path == EVALUATION)?;
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    fits.then(|| id.clone())
}

/// The answer, under the name of its request.
pub fn under_its_name(id: Option<HeaderValue>, mut response: Response<Body>) -> Response<Body> {
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The answer to an evaluation: `decision`, and all that the agent says in `context`.
pub fn evaluated(decision: &DecisionReply) -> Value {
    let context = serde_json::to_value(decision).unwrap_or_else(|_| Value::Object(Map::new()));
    json!({"decision": decision.decision == Verdict::Allow, "context": context})
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    const TOKEN: (&str, &str) = ("authorization", "Bearer En0K");

    /// Operation and resource, or the code of what is answered at once.
    fn told(form: Form, head: &Parts) -> String {
        match asked(form, head) {
            Ok(Asked { authorize, .. }) => format!("{} {}", authorize.operation, authorize.resource),
            Err(turned) => format!("{} {}", turned.status.as_u16(), turned.code),
        }
    }

    #[test]
    fn each_form_says_what_is_asked_about_in_its_own_headers() {
        let nginx = |headers: &[(&str, &str)]| {
            told(Form::AuthRequest, &head("GET", "/authz/auth-request", &[&[TOKEN], headers].concat()))
        };
        let (method, url) = (("x-original-method", "POST"), "x-original-url");
        assert_eq!(nginx(&[method, (url, "https://HMI.local:8443/a/b?c=d")]), "write http/hmi.local:8443/a/b");
        assert_eq!(nginx(&[method, (url, "http://hmi")]), "write http/hmi");
        assert_eq!(nginx(&[method, ("x-original-uri", "/a"), ("host", "hmi")]), "write http/hmi/a");
        assert_eq!(nginx(&[method, (url, "http://hmi/a"), ("x-original-uri", "/b")]), "403 invalid_request");
        assert_eq!(nginx(&[method, (url, "http://hmi/a"), (url, "http://hmi/b")]), "403 invalid_request");
        assert_eq!(nginx(&[(url, "http://hmi/a")]), "403 invalid_request");
        // What a client may have sent on counts for nothing here.
        assert_eq!(nginx(&[("x-forwarded-uri", "/a"), ("x-forwarded-host", "hmi")]), "403 invalid_request");

        let forwarded = |uri: &str, path: &str, more: &[(&str, &str)]| {
            let said =
                [TOKEN, ("x-forwarded-method", "DELETE"), ("x-forwarded-host", "hmi"), ("x-forwarded-uri", path)];
            told(Form::ForwardAuth, &head("GET", uri, &[&said[..], more].concat()))
        };
        let path = "/authz/forward-auth";
        assert_eq!(forwarded(path, "/a/?x", &[]), "delete http/hmi/a");
        assert_eq!(forwarded("/authz/forward-auth/modbus/plc1", "/pump", &[]), "delete modbus/plc1/pump");
        assert_eq!(forwarded("/authz/forward-auth/modbus/plc1?base=x", "/pump", &[]), "delete modbus/plc1/pump");
        // Caddy hands on its client's query.
        assert_eq!(forwarded("/authz/forward-auth?base=modbus/plc1", "/pump", &[]), "delete http/hmi/pump");
        assert_eq!(forwarded("/authz/forward-auth/", "/pump", &[]), "delete http/hmi/pump");
        for odd in ["/authz/forward-auth/a%2Fb", "/authz/forward-auth/a//b", "/authz/forward-auth/../b"] {
            assert_eq!(forwarded(odd, "/pump", &[]), "403 invalid_request", "{odd}");
        }
        assert_eq!(forwarded(path, "/a", &[("x-forwarded-method", "GET")]), "403 invalid_request");
        assert_eq!(forwarded(path, "/a", &[("x-original-url", "http://other/b")]), "delete http/hmi/a");

        let envoy = |method: &str, path: &str| {
            told(Form::ExtAuthz, &head(method, path, &[TOKEN, ("host", "hmi"), ("x-forwarded-uri", "/other")]))
        };
        assert_eq!(envoy("HEAD", "/authz/ext-authz/a/b?base=c"), "read http/hmi/a/b");
        assert_eq!(envoy("PURGE", "/authz/ext-authz"), "PURGE http/hmi");
        assert_eq!(envoy("READ", "/authz/ext-authz/a"), "READ http/hmi/a", "no operation of a grant");
        assert_eq!(envoy("read", "/authz/ext-authz/a"), "403 invalid_request");
    }

    #[test]
    fn a_path_is_decoded_once_and_what_may_mean_something_else_is_left_to_be_refused() {
        for (path, expected) in [
            ("", "b"),
            ("/", "b"),
            ("/a/", "b/a"),
            ("/a%20b/c%C3%A9", "b/a b/c\u{e9}"),
            ("/%61?x=/../y", "b/a"),
            ("/a;v=1", "b/a;v=1"),
        ] {
            assert_eq!(resource("b", path), expected);
            assert!(canonical(expected).is_ok());
        }
        for path in [
            "//",
            "/a//b",
            "/../a",
            "/a/..",
            "/%2e%2e/a",
            "/%2E./a",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/%252e",
            "/%",
            "/%4",
            "/%zz",
            "/%ff",
            "/%00",
            "/a%0ab",
            "/*",
            "*",
            "a",
            "http://other/a",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/%2e%2e;/b",
            "/a/.;/b",
            "/a/;x/b",
            "/a#/../../b",
            "/a%23b",
            "/a#",
        ] {
            assert!(canonical(&resource("b", path)).is_err(), "{path}: {}", resource("b", path));
        }
    }

    #[test]
    fn a_token_comes_from_one_place() {
        let found = |headers: &[(&str, &str)]| {
            let head = head("GET", "/", headers);
            presented(&head.headers).map(|token| token.map(str::to_owned)).map_err(|turned| turned.status.as_u16())
        };
        assert_eq!(found(&[]), Ok(None));
        assert_eq!(found(&[("authorization", "Bearer  a ")]), Ok(Some("a".into())));
        assert_eq!(found(&[("authorization", "biscuit a")]), Ok(Some("a".into())));
        assert_eq!(found(&[("hardtack-token", "a")]), Ok(Some("a".into())));
        assert_eq!(found(&[("authorization", "Basic eDp5"), ("hardtack-token", "a")]), Ok(Some("a".into())));
        for nothing in ["Basic eDp5", "Bearer", "Bearer ", "a"] {
            assert_eq!(found(&[("authorization", nothing)]), Ok(None), "{nothing}");
        }
        assert_eq!(found(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]), Err(401));
        assert_eq!(found(&[("authorization", "Bearer a"), ("hardtack-token", "a")]), Err(401));
        assert_eq!(found(&[("hardtack-token", "a"), ("hardtack-token", "b")]), Err(403));
    }

    #[test]
    fn hosts_that_could_be_more_than_a_name_are_refused() {
        for (name, expected) in [
            ("HMI.", "hmi"),
            ("hmi.local.:80", "hmi.local:80"),
            ("hmi.local:081", "hmi.local:81"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(host(name).unwrap(), expected);
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a@b",
            "a%2f",
            "caf\u{e9}",
            "a\\b",
            "hmi..",
            "hmi..:80",
            ":80",
            "hmi:",
            "hmi:+80",
            "hmi:80:80",
            "hmi:65536",
            "hmi:x",
            "::1",
            "[::1",
            "[hmi]",
            "[::1]x",
        ] {
            assert!(host(name).is_err(), "{name}");
        }
        assert!(host(&"a".repeat(254)).is_err());
    }

    #[test]
    fn a_base_that_names_a_host_names_the_destination() {
        let destination = |uri: &str| {
            let said = [("x-forwarded-method", "GET"), ("x-forwarded-host", "hmi.local:81"), ("x-forwarded-uri", "/a")];
            let asked = asked(Form::ForwardAuth, &head("GET", uri, &[&[TOKEN], &said[..]].concat())).unwrap().authorize;
            (asked.resource, asked.destination.unwrap())
        };
        let of = |resource: &str, host: &str| (resource.to_owned(), host.to_owned());
        assert_eq!(destination("/authz/forward-auth"), of("http/hmi.local:81/a", "hmi.local:81"));
        assert_eq!(destination("/authz/forward-auth/http/hmi.local"), of("http/hmi.local/a", "hmi.local"));
        assert_eq!(destination("/authz/forward-auth/http/hmi.local/app"), of("http/hmi.local/app/a", "hmi.local"));
        assert_eq!(destination("/authz/forward-auth/modbus/plc1"), of("modbus/plc1/a", "hmi.local:81"));
    }

    #[test]
    fn every_reason_has_one_of_three_statuses() {
        for reason in Reason::ALL {
            let (status, error) = challenge(reason, true);
            assert!([401, 403].contains(&status.as_u16()), "{reason:?}");
            assert_eq!(error == Some("invalid_token"), status == StatusCode::UNAUTHORIZED, "{reason:?}");
        }
        assert_eq!(challenge(Reason::Malformed, false).0, StatusCode::FORBIDDEN, "no token helps");
        assert_eq!(unanswered(&HttpProblem::audit_unavailable()).status(), StatusCode::FORBIDDEN);
        assert_eq!(unanswered(&HttpProblem::queue_full()).headers()["hardtack-reason"], "throttled");
    }

    #[test]
    fn a_scope_is_quoted_whatever_is_in_it() {
        let value = |resource: &str| {
            let scope = Right { resource: resource.into(), action: "read".into() };
            let mut response = problem(StatusCode::FORBIDDEN, "no_right", "");
            challenged(&mut response, Some("insufficient_scope"), "no_right", Some(&scope));
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        let plain = "Bearer realm=\"hardtack\", error=\"insufficient_scope\", error_description=\"no_right\"";
        for (resource, expected) in [
            ("a/b", "a/b"),
            ("a b", "a%20b"),
            ("\"", "%22"),
            ("caf\u{e9}", "caf%C3%A9"),
            ("a\r\nx: y", "a%0D%0Ax:%20y"),
        ] {
            assert_eq!(value(resource), format!("{plain}, scope=\"read:{expected}\""));
        }
    }

    #[test]
    fn an_evaluation_is_a_decision_by_the_token_alone() {
        let text = r#"{"subject":{"type":"user","id":"eve","properties":{}},"action":{"name":"read"},
            "resource":{"type":"modbus","id":"pump1/speed"},"context":{"token":"a","time":1}}"#;
        let asked = |text: &str, headers: &[(&str, &str)]| {
            let evaluation: Evaluation = serde_json::from_str(text).unwrap();
            evaluation.asked(&head("POST", "/", headers).headers).map_err(|problem| problem.status.as_u16())
        };
        let of = asked(text, &[]).unwrap();
        assert_eq!((&*of.token, &*of.operation, &*of.resource), ("a", "read", "modbus/pump1/speed"));
        assert_eq!(asked(text, &[TOKEN]), Err(400));
        assert_eq!(asked(&text.replace("\"token\":\"a\",", ""), &[TOKEN]).unwrap().token, "En0K");
        assert_eq!(asked(&text.replace("\"token\":\"a\",", ""), &[]).unwrap().token, "");
    }
}
