//! The paths of the local API: which there are, on which socket, and what each asks the agent.
//!
//! Owns: [`ROUTES`], the way from a path and a body to a [`Request`] and from a [`Reply`] to a response.
//! Never: answers what the agent must answer.
//! Read next: `agent/request.rs` for bodies, `openapi.json` for their description.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::RawPathParams;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, on, MethodFilter};
use axum::Router;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::enforce::{Evaluation, Form};
use super::problem::HttpProblem;
use super::{body, enforce, oauth};
use crate::agent::request::preview::Preview;
use crate::agent::request::revocations::{CheckRevoked, ImportRevocations};
use crate::agent::request::trail::TrailAsk;
use crate::agent::request::{
    Attenuate, Authorize, BeginTask, Evidence, ReadyCheck, ReadyReply, Reply, Request, Socket, TakeStep,
};
use crate::ids::{FeedId, TaskId};
use crate::profile::ApiLimits;
use crate::shell::inbox::{Call, Inbox};
use crate::shell::metrics;
use crate::shell::peer::{Attested, Attestor};
use crate::wire::arguments::ARGUMENTS_BYTES_MAX;
use crate::wire::revocation::carry::CARRIED_BYTES_MAX;
use crate::wire::time::TIME_FILE_BYTES_MAX;
use crate::wire::token::from_text;

/// How long an answer is waited for. Only a disk that hangs in a write takes longer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Names a begin, so that asking again begins no other task.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

const OPENAPI: &str = include_str!("openapi.json");

/// What a path is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `POST /v1/attenuate`.
    Attenuate,
    /// `GET /v1/audit`.
    Audit,
    /// `POST /v1/authorize`.
    Authorize,
    /// `POST /v1/tasks`.
    Begin,
    /// `POST /v1/time/challenge`.
    Challenge,
    /// `POST /v1/revocations/check`.
    CheckRevoked,
    /// `POST /access/v1/evaluation`.
    Evaluate,
    /// `GET /v1/revocations/export`.
    ExportRevocations,
    /// `POST /token`.
    Exchange,
    /// `POST /v1/tasks/{id}/finish`.
    Finish,
    /// `GET /healthz`.
    Healthz,
    /// `POST /v1/revocations/import`.
    ImportRevocations,
    /// `POST /v1/time`.
    ImportTime,
    /// `POST /introspect`.
    Introspect,
    /// `GET /metrics`.
    Metrics,
    /// `GET /openapi.json`.
    Openapi,
    /// `POST /v1/preview`.
    Preview,
    /// `GET /readyz`.
    Readyz,
    /// `POST /v1/tasks/{id}/renew`.
    Renew,
    /// `GET /v1/revocations`.
    Revocations,
    /// `GET /v1/status`.
    Status,
    /// `POST /v1/tasks/{id}/steps`.
    Step,
    /// `GET /v1/tasks`.
    Tasks,
    /// `GET /v1/tasks/{id}/wait`.
    Wait,
    /// `GET /v1/whoami`.
    Whoami,
}

/// A path with its method and the sockets that serve it.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `GET` or `POST`.
    pub method: Method,
    /// The path, parameters in braces.
    pub path: &'static str,
    /// What it is for.
    pub endpoint: Endpoint,
    /// Where it is served.
    pub sockets: &'static [Socket],
}

/// The methods that the API uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Asks.
    Get,
    /// Does.
    Post,
}

const EVERYWHERE: &[Socket] = &[Socket::Admin, Socket::Agent, Socket::Pep];
const WORKLOADS: &[Socket] = &[Socket::Admin, Socket::Agent];
const OPERATORS: &[Socket] = &[Socket::Admin];
const ENFORCERS: &[Socket] = &[Socket::Pep];

/// Every path there is.
pub const ROUTES: &[Route] = &[
    route(Method::Post, enforce::EVALUATION, Endpoint::Evaluate, ENFORCERS),
    route(Method::Get, "/healthz", Endpoint::Healthz, EVERYWHERE),
    route(Method::Post, "/introspect", Endpoint::Introspect, ENFORCERS),
    route(Method::Get, "/metrics", Endpoint::Metrics, WORKLOADS),
    route(Method::Get, "/openapi.json", Endpoint::Openapi, EVERYWHERE),
    route(Method::Get, "/readyz", Endpoint::Readyz, EVERYWHERE),
    route(Method::Post, "/token", Endpoint::Exchange, WORKLOADS),
    route(Method::Post, "/v1/attenuate", Endpoint::Attenuate, WORKLOADS),
    route(Method::Get, "/v1/audit", Endpoint::Audit, OPERATORS),
    route(Method::Post, "/v1/authorize", Endpoint::Authorize, EVERYWHERE),
    route(Method::Post, "/v1/preview", Endpoint::Preview, EVERYWHERE),
    route(Method::Get, "/v1/revocations", Endpoint::Revocations, OPERATORS),
    route(Method::Post, "/v1/revocations/check", Endpoint::CheckRevoked, OPERATORS),
    route(Method::Get, "/v1/revocations/export", Endpoint::ExportRevocations, OPERATORS),
    route(Method::Post, "/v1/revocations/import", Endpoint::ImportRevocations, OPERATORS),
    route(Method::Get, "/v1/status", Endpoint::Status, WORKLOADS),
    route(Method::Get, "/v1/tasks", Endpoint::Tasks, WORKLOADS),
    route(Method::Post, "/v1/tasks", Endpoint::Begin, WORKLOADS),
    route(Method::Post, "/v1/tasks/{id}/finish", Endpoint::Finish, WORKLOADS),
    route(Method::Post, "/v1/tasks/{id}/renew", Endpoint::Renew, WORKLOADS),
    route(Method::Post, "/v1/tasks/{id}/steps", Endpoint::Step, WORKLOADS),
    route(Method::Get, "/v1/tasks/{id}/wait", Endpoint::Wait, WORKLOADS),
    route(Method::Post, "/v1/time", Endpoint::ImportTime, OPERATORS),
    route(Method::Post, "/v1/time/challenge", Endpoint::Challenge, OPERATORS),
    route(Method::Get, "/v1/whoami", Endpoint::Whoami, EVERYWHERE),
];

const fn route(method: Method, path: &'static str, endpoint: Endpoint, sockets: &'static [Socket]) -> Route {
    Route { method, path, endpoint, sockets }
}

/// A file with signed time in base64url, and the JSON around it.
const TIME_BODY_BYTES_MAX: usize = TIME_FILE_BYTES_MAX * 4 / 3 + 64;

/// A file with revocations in base64url, and the JSON around it.
const REVOCATIONS_BODY_BYTES_MAX: usize = CARRIED_BYTES_MAX / 3 * 4 + 1024;

/// Body of `POST /v1/revocations/import`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationsBody {
    file: String,
    #[serde(default)]
    name: String,
}

/// Body of `POST /v1/time`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeBody {
    file: String,
}

/// What every handler needs.
#[derive(Debug)]
pub struct Api {
    /// To the loop.
    pub inbox: Arc<Inbox>,
    /// Reads of processes that callers name.
    pub attestor: Arc<Attestor>,
    /// Limits of the profile.
    pub limits: ApiLimits,
}

/// The router of one socket. Each request must carry who opened its connection, [`Attested`], as an extension.
pub fn router(socket: Socket, api: &Arc<Api>) -> Router {
    let served = |route: &Route| route.sockets.contains(&socket);
    let router = ROUTES.iter().filter(|route| served(route)).fold(Router::new(), |router, route| {
        let (api, endpoint) = (api.clone(), route.endpoint);
        let filter = match route.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        };
        type Params = Result<RawPathParams, RawPathParamsRejection>;
        let handler = move |params: Params, request: axum::extract::Request| async move {
            let answered = match params {
                Ok(params) => answer(&api, endpoint, &params, request).await,
                Err(_) => Err(HttpProblem::invalid("the path is no UTF-8: an id is what the agent answered")),
            };
            answered.unwrap_or_else(IntoResponse::into_response)
        };
        router.route(route.path, on(filter, handler))
    });
    let proxys: &[(&str, Form)] = match socket {
        Socket::Admin | Socket::Agent => &[],
        Socket::Pep => &enforce::PATHS,
    };
    // A proxy may ask with the method of the request that it asks about.
    let router = proxys.iter().fold(router, |router, (path, form)| {
        let (api, form) = (api.clone(), *form);
        router.route(path, any(move |request| async move { ask_for_proxy(&api, form, request).await }))
    });
    let nowhere = move |request: axum::extract::Request| async move {
        let detail = "no such path on this socket: GET /openapi.json lists what there is and where";
        let problem = HttpProblem::no_such_path(detail);
        match socket {
            Socket::Pep if enforce::is_proxys(request.uri().path()) => enforce::unanswered(&problem),
            Socket::Admin | Socket::Agent | Socket::Pep => problem.into_response(),
        }
    };
    router.method_not_allowed_fallback(|| async { HttpProblem::wrong_method() }).fallback(nowhere)
}

async fn answer(
    api: &Api,
    endpoint: Endpoint,
    params: &RawPathParams,
    request: axum::extract::Request,
) -> Result<Response<Body>, HttpProblem> {
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<Arc<Attested>>().cloned().ok_or_else(nobody)?;
    let asked = match endpoint {
        Endpoint::Audit => {
            let ask = TrailAsk::parse(head.uri.query());
            let what =
                || HttpProblem::invalid("the query is after=ERA.SALT.SEGMENT and pieces=1 to 8, each at most once");
            Request::Audit(ask.ok_or_else(what)?)
        }
        Endpoint::Attenuate => Request::Attenuate(body::parse::<Attenuate>(&body::read(body, &api.limits).await?)?),
        Endpoint::Step => {
            let task = task_id(params)?;
            Request::Step(task, body::parse::<TakeStep>(&body::read(body, &api.limits).await?)?)
        }
        Endpoint::Authorize => {
            enforce::presents_none(&head.headers)?;
            Request::Authorize(body::parse::<Authorize>(&body::read(body, &with_arguments(&api.limits)).await?)?)
        }
        Endpoint::Begin => {
            let begin = body::parse::<BeginTask>(&body::read(body, &api.limits).await?)?;
            Request::Begin(BeginTask { key: idempotency_key(&head.headers)?, ..begin })
        }
        Endpoint::Challenge => {
            no_fields(&body::read(body, &api.limits).await?)?;
            Request::Challenge
        }
        Endpoint::CheckRevoked => {
            Request::CheckRevoked(body::parse::<CheckRevoked>(&body::read(body, &api.limits).await?)?)
        }
        Endpoint::Evaluate => {
            let evaluation = body::parse::<Evaluation>(&body::read(body, &with_arguments(&api.limits)).await?)?;
            Request::Authorize(evaluation.asked(&head.headers)?)
        }
        Endpoint::Exchange => {
            let asked = match oauth::exchange(&head.headers, &body::read(body, &api.limits).await?) {
                Ok(asked) => asked,
                Err(error) => return Ok(error.into_response()),
            };
            let scope = asked.scope.clone();
            let answered = ask(api, peer, Request::Attenuate(asked)).await;
            return Ok(answered.map_or_else(oauth::unanswered, |reply| oauth::answer_exchange(&scope, reply)));
        }
        Endpoint::Introspect => {
            let asked = match oauth::introspected(&head.headers, &body::read(body, &api.limits).await?) {
                Ok(asked) => Request::Introspect(asked),
                Err(error) => return Ok(error.into_response()),
            };
            return Ok(ask(api, peer, asked).await.map_or_else(oauth::unanswered, oauth::answer_introspection));
        }
        Endpoint::ExportRevocations => Request::ExportRevocations(feed_asked(head.uri.query())?),
        Endpoint::ImportRevocations => {
            let limits = ApiLimits { body_bytes_max: REVOCATIONS_BODY_BYTES_MAX, ..api.limits.clone() };
            let RevocationsBody { file, name } = body::parse::<RevocationsBody>(&body::read(body, &limits).await?)?;
            let bytes = from_text(&file, CARRIED_BYTES_MAX);
            let file = bytes.map_err(|refused| HttpProblem::invalid(format!("the file: {refused}")))?;
            Request::ImportRevocations(ImportRevocations { file, name })
        }
        Endpoint::Preview => Request::Preview(body::parse::<Preview>(&body::read(body, &api.limits).await?)?),
        Endpoint::Revocations => Request::Revocations,
        Endpoint::Wait => Request::Wait(task_id(params)?),
        Endpoint::ImportTime => {
            let limits = ApiLimits { body_bytes_max: TIME_BODY_BYTES_MAX, ..api.limits.clone() };
            let TimeBody { file } = body::parse::<TimeBody>(&body::read(body, &limits).await?)?;
            let bytes = from_text(&file, TIME_FILE_BYTES_MAX);
            Request::ImportTime(bytes.map_err(|refused| HttpProblem::invalid(format!("the file: {refused}")))?)
        }
        Endpoint::Finish => {
            no_fields(&body::read(body, &api.limits).await?)?;
            Request::Finish(task_id(params)?)
        }
        Endpoint::Healthz => return Ok(json(StatusCode::OK, &serde_json::json!({"status": "ok"}))),
        Endpoint::Metrics | Endpoint::Status => Request::Status,
        Endpoint::Openapi => return Ok(text("application/json", OPENAPI.into())),
        Endpoint::Readyz => Request::Ready,
        Endpoint::Renew => {
            no_fields(&body::read(body, &api.limits).await?)?;
            Request::Renew(task_id(params)?)
        }
        Endpoint::Tasks => Request::Tasks,
        Endpoint::Whoami => Request::Whoami,
    };
    match ask(api, peer, asked).await {
        Ok(reply) => respond(endpoint, reply),
        // The process is up, the store is not: readiness says which.
        Err(problem) if endpoint == Endpoint::Readyz => Ok(not_ready(&problem)),
        Err(problem) => Err(problem),
    }
}

/// What a proxy asks is answered in one of three statuses, whatever happens.
async fn ask_for_proxy(api: &Api, form: Form, request: axum::extract::Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let (peer, asked) = match (head.extensions.get::<Arc<Attested>>(), enforce::asked(form, &head)) {
        (Some(peer), Ok(asked)) => (peer.clone(), asked),
        (None, _) => return enforce::unanswered(&nobody()),
        (_, Err(turned)) => return enforce::turned(&turned),
    };
    let reply = ask(api, peer, Request::Authorize(asked.authorize.clone())).await;
    enforce::answer(&asked, reply)
}

/// A request with arguments may be longer by these.
fn with_arguments(limits: &ApiLimits) -> ApiLimits {
    ApiLimits { body_bytes_max: limits.body_bytes_max.saturating_add(ARGUMENTS_BYTES_MAX), ..limits.clone() }
}

fn nobody() -> HttpProblem {
    HttpProblem::invalid("the kernel did not say who is asking")
}

/// Who asks, as it is now that its request is whole.
async fn evidence(api: &Api, peer: Arc<Attested>, request: &Request) -> Result<Evidence, HttpProblem> {
    let holder = if let Request::Begin(begin) = request { begin.holder } else { None };
    if holder.is_none() && !peer.runs_another() {
        return Ok(peer.evidence());
    }
    let attestor = api.attestor.clone();
    let looking = tokio::task::spawn_blocking(move || attestor.look_again(&peer, holder));
    looking.await.map_err(|_| nobody())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, HttpProblem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key.to_str().ok().filter(|_| keys.next().is_none());
    let once = || HttpProblem::invalid("Idempotency-Key stands in a request once, in visible ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(once)
}

async fn ask(api: &Api, peer: Arc<Attested>, request: Request) -> Result<Reply, HttpProblem> {
    let evidence = evidence(api, peer, &request).await?;
    let (answer, waiting) = oneshot::channel();
    api.inbox.call(Call { evidence, request, answer }).map_err(|_| HttpProblem::queue_full())?;
    match tokio::time::timeout(ANSWER_WAIT, waiting).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) | Err(_) => Err(HttpProblem::audit_unavailable()),
    }
}

fn respond(endpoint: Endpoint, reply: Reply) -> Result<Response<Body>, HttpProblem> {
    Ok(match reply {
        Reply::Attenuated(attenuated) => json(StatusCode::CREATED, &attenuated),
        Reply::Step(step) => json(StatusCode::CREATED, &step),
        Reply::Audit(page) => json(StatusCode::OK, &*page),
        Reply::Challenge(challenge) => json(StatusCode::OK, &challenge),
        Reply::Checked(checked) => json(StatusCode::OK, &checked),
        Reply::Ended(ended) => json(StatusCode::OK, &ended),
        Reply::Exported(exported) => json(StatusCode::OK, &exported),
        told @ Reply::Introspected(_) => oauth::answer_introspection(told),
        Reply::Imported(imported) => json(StatusCode::OK, &imported),
        Reply::Previewed(previewed) => json(StatusCode::OK, &previewed),
        Reply::Revocations(revocations) => json(StatusCode::OK, &*revocations),
        Reply::Decision(decision) if endpoint == Endpoint::Evaluate => {
            json(StatusCode::OK, &enforce::evaluated(&decision))
        }
        Reply::Decision(decision) => json(StatusCode::OK, &decision),
        Reply::Finished(finished) => json(StatusCode::OK, &finished),
        Reply::Problem(problem) => return Err(problem.into()),
        Reply::Ready(ready) if ready.ready => json(StatusCode::OK, &ready),
        Reply::Ready(ready) => json(StatusCode::SERVICE_UNAVAILABLE, &ready),
        Reply::Status(status) if endpoint == Endpoint::Metrics => text(metrics::CONTENT_TYPE, metrics::render(&status)),
        Reply::Status(status) => json(StatusCode::OK, &*status),
        Reply::Task(task) if endpoint == Endpoint::Begin => {
            let mut response = json(StatusCode::CREATED, &task);
            if let Ok(location) = HeaderValue::from_str(&format!("/v1/tasks/{}", task.task_id)) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        Reply::Task(task) => json(StatusCode::OK, &task),
        Reply::Tasks(tasks) => json(StatusCode::OK, &serde_json::json!({"tasks": tasks})),
        Reply::Time(time) => json(StatusCode::OK, &time),
        Reply::Whoami(whoami) => json(StatusCode::OK, &whoami),
    })
}

fn not_ready(problem: &HttpProblem) -> Response<Body> {
    let check = ReadyCheck { name: "audit_store".into(), ok: false, detail: problem.detail.clone() };
    json(StatusCode::SERVICE_UNAVAILABLE, &ReadyReply { ready: false, checks: vec![check] })
}

pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Body> {
    match serde_json::to_string(body) {
        Ok(body) => {
            let mut response = text("application/json", body);
            *response.status_mut() = status;
            response
        }
        // Our own types serialise; the arm is here because the signature says they might not.
        Err(error) => HttpProblem::invalid(format!("the answer could not be written: {error}")).into_response(),
    }
}

pub(super) fn text(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Answers hold credentials, and what was decided a moment ago may not hold now.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn task_id(params: &RawPathParams) -> Result<TaskId, HttpProblem> {
    let id = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, value)| value);
    id.parse().map_err(|error| HttpProblem::invalid(format!("{error}")))
}

/// The feed that `?feed=` names, if one is named.
fn feed_asked(query: Option<&str>) -> Result<Option<FeedId>, HttpProblem> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let feed = query.strip_prefix("feed=").and_then(|feed| feed.parse().ok());
    feed.map(Some).ok_or_else(|| HttpProblem::invalid("the query is feed=NAME, or none"))
}

/// A body that has nothing to say may be empty.
fn no_fields(bytes: &[u8]) -> Result<(), HttpProblem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    body::parse::<Nothing>(bytes).map(|Nothing {}| ())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{json, Value};

    use super::*;
    use crate::agent::request::{ClauseKind, DecidedBy, Problem, ProblemCode, Reason, TimeClass};

    #[test]
    fn the_description_names_every_route_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described: Vec<(String, String, Value)> = Vec::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                described.push((path.clone(), method.clone(), operation["x-sockets"].clone()));
            }
        }
        let name = |socket: &Socket| match socket {
            Socket::Admin => "admin",
            Socket::Agent => "agent",
            Socket::Pep => "pep",
        };
        let method = |route: &Route| match route.method {
            Method::Get => "get",
            Method::Post => "post",
        };
        let mut served: Vec<(String, String, Value)> = ROUTES
            .iter()
            .map(|route| {
                let sockets: Vec<_> = route.sockets.iter().map(name).collect();
                (route.path.to_owned(), method(route).to_owned(), Value::from(sockets))
            })
            // One method stands for all in the description.
            .chain(enforce::PATHS.iter().map(|(path, _)| (path.replace("{*", "{"), "get".into(), json!(["pep"]))))
            .collect();
        described.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        served.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        assert_eq!(described, served);
    }

    #[test]
    fn the_description_lists_every_reason() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let listed = &description["components"]["schemas"]["Reason"]["enum"];
        let reasons: Vec<_> = crate::agent::request::Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(*listed, Value::from(reasons));
    }

    #[test]
    fn the_description_lists_every_field_of_the_status_and_every_time_class() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let schemas = &description["components"]["schemas"];
        let status = serde_json::to_value(metrics::tests::status()).unwrap();
        for (schema, object) in [
            ("Status", &status),
            ("Clock", &status["clock"]),
            ("SignedTime", &status["clock"]["source"]),
            ("AuditRoom", &status["audit"]),
            ("ClassRoom", &status["audit"]["classes"][0]),
        ] {
            check_fields(schema, &schemas[schema], object);
        }
        check_fields("grants", &schemas["Status"]["properties"]["grants"]["items"], &status["grants"][0]);
        check_fields("autonomy", &schemas["Status"]["properties"]["autonomy"]["items"], &status["autonomy"][0]);
        let classes = crate::agent::room::Class::ALL.map(crate::agent::room::Class::name);
        assert_eq!(schemas["AuditClass"]["enum"], Value::from(classes.to_vec()));
        let classes = [TimeClass::Floor, TimeClass::Bounded, TimeClass::Strict].map(TimeClass::name);
        assert_eq!(schemas["TimeClass"]["enum"], Value::from(classes.to_vec()));
    }

    #[test]
    fn the_description_lists_every_field_of_a_problem() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let text = "check if operation(\"read\")".into();
        let clause = DecidedBy { clause: ClauseKind::TokenCheck, block: Some(2), number: 0, name: None, text };
        let told = Problem {
            seen: vec!["unix:uid:1001".into()],
            hint: Some("a grant".into()),
            decided_by: Some(clause.clone().into()),
            ..Problem::new(ProblemCode::Denied(Reason::CheckFailed), "no")
        };
        let told: Value = serde_json::from_str(&HttpProblem::from(told).to_json()).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let schemas = &description["components"]["schemas"];
        assert_eq!(names(&schemas["Problem"]["properties"]), names(&told));
        assert_eq!(told["decided_by"], serde_json::to_value(clause).unwrap());
        check_fields("DecidedBy", &schemas["DecidedBy"], &told["decided_by"]);
    }

    #[track_caller]
    fn check_fields(name: &str, schema: &Value, object: &Value) {
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let required: BTreeSet<_> =
            schema["required"].as_array().unwrap().iter().map(|field| field.as_str().unwrap().to_owned()).collect();
        assert_eq!((names(&schema["properties"]), required), (names(object), names(object)), "{name}");
    }

    #[test]
    fn a_body_without_fields_may_be_empty_and_nothing_else() {
        for fine in ["", " \n", "{}"] {
            assert!(no_fields(fine.as_bytes()).is_ok(), "{fine:?}");
        }
        for bad in ["[]x", "{\"outcome\":\"ok\"}", "1", "null"] {
            assert!(no_fields(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
