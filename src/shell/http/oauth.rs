//! OAuth's forms: token introspection (RFC 7662) and token exchange (RFC 8693).
//!
//! Owns: form-encoded bodies, what of an exchange can be a narrowing and what cannot, answers and errors as RFC 6749 has them.
//! Never: decides; widens a token; says why one is inactive.
//! Read next: `routes.rs`; `agent/introspect.rs` and `agent/attenuate.rs`, which answer.

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use serde_json::{json, Map, Value};

use super::enforce;
use super::problem::HttpProblem;
use super::routes::json;
use crate::agent::request::{Attenuate, DecidedBy, Introspect, IntrospectedReply, Problem, ProblemCode, Reason, Reply};
use crate::wire::link::Right;
use crate::wire::percent;

/// What is asked of an exchange.
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// What a credential is called here.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The same, for who wants to say that it is a Biscuit.
const BISCUIT: &str = "urn:hardtack:params:oauth:token-type:biscuit";
/// More parameters than these no form has.
const PARAMETERS_MAX: usize = 32;

/// An error of RFC 6749, section 5.2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OauthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// The clause that decided, where a denial is of one.
    decided_by: Option<Box<DecidedBy>>,
}

impl OauthError {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description: description.into(), decided_by: None }
    }

    fn invalid(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        // The RFC admits so much of ASCII.
        let plain = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let description: String = self.description.chars().map(|c| if plain(c) { c } else { '\'' }).collect();
        let mut body = json!({"error": self.error, "error_description": description});
        if let Some(clause) = &self.decided_by {
            body["decided_by"] = json!(clause);
        }
        uncached(self.status, &body)
    }
}

/// The parameters of a form, each as often as it stands there.
#[derive(Debug)]
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, OauthError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OauthError::invalid("the body must be application/x-www-form-urlencoded, and say so"));
        }
        let text = std::str::from_utf8(body).map_err(|_| OauthError::invalid("the body is no text"))?;
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let mut form = Vec::new();
        for pair in pairs {
            if form.len() >= PARAMETERS_MAX {
                return Err(OauthError::invalid(format!("a form has at most {PARAMETERS_MAX} parameters")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            form.push((decode(name)?, decode(value)?));
        }
        Ok(Self(form))
    }

    /// A parameter that may stand there once. One without a value counts as left out (RFC 6749, section 3.2).
    fn once(&self, name: &str) -> Result<Option<&str>, OauthError> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(OauthError::invalid(format!("{name} is there twice"))),
            (one, _) => Ok(one.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())),
        }
    }

    fn required(&self, name: &str) -> Result<&str, OauthError> {
        self.once(name)?.ok_or_else(|| OauthError::invalid(format!("{name} is missing")))
    }

    fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> Result<String, OauthError> {
    let bad = || OauthError::invalid("the body is not form-encoded: a percent sign without two digits, or no UTF-8");
    percent::decoded(&text.replace('+', " ")).ok_or_else(bad)
}

/// What an introspection is about. The RFC lets a form say more of what the token is shown for.
///
/// # Errors
/// What the form lacks.
pub fn introspected(headers: &HeaderMap, body: &[u8]) -> Result<Introspect, OauthError> {
    enforce::presents_none(headers).map_err(|problem| OauthError::invalid(problem.detail))?;
    let form = Form::parse(headers, body)?;
    // Of which kind it is, the token itself says.
    form.once("token_type_hint")?;
    let destination = form.once("destination")?.map(str::to_owned);
    Ok(Introspect { token: form.required("token")?.to_owned(), destination })
}

/// What an exchange asks for, as a narrowing.
///
/// # Errors
/// What it lacks, or asks for beside a narrowing.
pub fn exchange(headers: &HeaderMap, body: &[u8]) -> Result<Attenuate, OauthError> {
    let form = Form::parse(headers, body)?;
    if form.required("grant_type")? != EXCHANGE {
        let description = format!("the only grant_type here is {EXCHANGE}; tasks begin with POST /v1/tasks");
        return Err(OauthError::new("unsupported_grant_type", description));
    }
    let ours = |kind: &str| [ACCESS_TOKEN, BISCUIT].contains(&kind);
    if !ours(form.required("subject_token_type")?) || !form.once("requested_token_type")?.is_none_or(ours) {
        return Err(OauthError::invalid(format!("tokens here are of type {ACCESS_TOKEN} or {BISCUIT}")));
    }
    if form.once("actor_token")?.is_some() || form.once("actor_token_type")?.is_some() {
        let description = "nobody acts for another by an exchange: a planner takes steps, POST /v1/tasks/{id}/steps";
        return Err(OauthError::invalid(description));
    }
    let ttl_s =
        form.once("ttl_s")?.map(|ttl| ttl.parse().map_err(|_| OauthError::invalid("ttl_s is a number of seconds")));
    let scope = form.once("scope")?.unwrap_or_default().split(' ').filter(|token| !token.is_empty());
    let scope = scope.map(right).collect::<Result<Vec<_>, _>>()?;
    let mut targets: Vec<String> = form.all("audience").map(str::to_owned).collect();
    for resource in form.all("resource") {
        targets.push(host(resource)?);
    }
    let targets: Vec<String> = targets.iter().map(|name| target(name)).collect::<Result<_, _>>()?;
    let checks = (!targets.is_empty()).then(|| format!("check if {}", targets.join(" or "))).into_iter().collect();
    let token = form.required("subject_token")?.to_owned();
    Ok(Attenuate { token, ttl_s: ttl_s.transpose()?, checks, scope })
}

/// ACTION:RESOURCE, as `hardtack task begin --right` has it, but percent-encoded.
fn right(token: &str) -> Result<Right, OauthError> {
    Right::of_scope_token(token).ok_or_else(|| {
        let description = "a scope is ACTION:RESOURCE, for example read:modbus/*; spaces, quotes, backslashes, percent signs, what is \
                           not ASCII, and colons of the action are percent-encoded in capital letters, and nothing else is: \
                           read:modbus/gr%C3%B6%C3%9Fe";
        OauthError::new("invalid_scope", description)
    })
}

/// The host of a target's address (RFC 8707): where an effect goes, as an enforcement point in front of it says.
fn host(resource: &str) -> Result<String, OauthError> {
    let bad = || {
        OauthError::new(
            "invalid_target",
            "a resource is an absolute URI without a fragment, for example https://hmi.local/",
        )
    };
    let (scheme, rest) = resource.split_once("://").ok_or_else(bad)?;
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let fine = !scheme.is_empty() && !resource.contains('#');
    enforce::host(host).ok().filter(|_| fine).ok_or_else(bad)
}

fn target(name: &str) -> Result<String, OauthError> {
    if name.len() > 256 || name.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        let description =
            "an audience or the host of a resource has 1 to 256 bytes, no quote, backslash or control character";
        return Err(OauthError::new("invalid_target", description));
    }
    Ok(format!("destination(\"{name}\")"))
}

/// The answer to an introspection.
pub fn answer_introspection(reply: Reply) -> Response<Body> {
    let Reply::Introspected(told) = reply else { return unexpected(reply) };
    uncached(StatusCode::OK, &told.map_or_else(|| json!({"active": false}), |told| active(&told)))
}

/// Kept by nobody, in the words of old caches too (RFC 6749, section 5.1).
fn uncached(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = json(status, body);
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn active(told: &IntrospectedReply) -> Value {
    let mut members = match serde_json::to_value(told) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    };
    members.insert("active".into(), true.into());
    members.insert("token_type".into(), "Bearer".into());
    members.insert("scope".into(), scope(&told.scope).into());
    Value::Object(members)
}

/// Scope tokens, with a space between them.
fn scope(rights: &[Right]) -> String {
    rights.iter().map(Right::scope_token).collect::<Vec<_>>().join(" ")
}

/// The answer to an exchange of what was asked for.
pub fn answer_exchange(asked: &[Right], reply: Reply) -> Response<Body> {
    let Reply::Attenuated(narrowed) = reply else { return unexpected(reply) };
    let mut body = json!({
        "access_token": narrowed.token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": narrowed.expires_in_s,
    });
    if !asked.is_empty() {
        body["scope"] = scope(asked).into();
    }
    uncached(StatusCode::OK, &body)
}

fn unexpected(reply: Reply) -> Response<Body> {
    let Reply::Problem(problem) = reply else {
        return OauthError::invalid("the agent answered something else").into_response();
    };
    of_problem(problem).into_response()
}

fn of_problem(Problem { code, detail, decided_by, .. }: Problem) -> OauthError {
    let (status, error) = match code {
        ProblemCode::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        ProblemCode::Throttled => (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable"),
        // More than the token has, or than its checks let pass.
        ProblemCode::Denied(Reason::CheckFailed | Reason::NoRight) => (StatusCode::BAD_REQUEST, "invalid_scope"),
        // RFC 8693, section 2.2.2: a subject token that is not good makes the request invalid.
        ProblemCode::Denied(_)
        | ProblemCode::Identity(_)
        | ProblemCode::IssuerRefused
        | ProblemCode::InvalidRequest
        | ProblemCode::KeyReused
        | ProblemCode::NotFound
        | ProblemCode::Refused => (StatusCode::BAD_REQUEST, "invalid_request"),
    };
    OauthError { status, error, description: detail, decided_by }
}

/// What could not be brought to the agent, in the form that an OAuth client reads.
pub fn unanswered(problem: HttpProblem) -> Response<Body> {
    let (status, description) = (problem.status, problem.detail);
    OauthError { status, ..OauthError::new("temporarily_unavailable", description) }.into_response()
}

#[cfg(test)]
mod tests;
