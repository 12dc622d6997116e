//! Forms and answers of OAuth.

use axum::http::HeaderValue;

use super::*;
use crate::agent::request::AttenuatedReply;
use crate::ids::BlockId;

fn headers() -> HeaderMap {
    let kind = HeaderValue::from_static("Application/X-WWW-Form-Urlencoded; charset=utf-8");
    [(header::CONTENT_TYPE, kind)].into_iter().collect()
}

const BASE: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=abc\
                    &subject_token_type=urn:ietf:params:oauth:token-type:access_token";

fn asked(more: &str) -> Result<Attenuate, OauthError> {
    exchange(&headers(), format!("{BASE}{more}").as_bytes())
}

#[track_caller]
fn check_refused(more: &str, error: &str) {
    let refused = asked(more).unwrap_err();
    assert_eq!((refused.error, refused.status), (error, StatusCode::BAD_REQUEST), "{more}: {}", refused.description);
}

#[test]
fn an_exchange_becomes_a_narrowing() {
    let plain = asked("").unwrap();
    assert_eq!((plain.token.as_str(), plain.ttl_s, plain.checks.len(), plain.scope.len()), ("abc", None, 0, 0));
    let full = "&scope=read%3Amodbus/*+write:modbus/a%20&ttl_s=60&audience=plc-3&resource=https://HMI.local:8443/a?b&resource=&x=";
    let full = asked(full).unwrap();
    assert_eq!(full.ttl_s, Some(60));
    let right = |action: &str, resource: &str| Right { resource: resource.into(), action: action.into() };
    assert_eq!(full.scope, [right("read", "modbus/*"), right("write", "modbus/a")]);
    let odd = asked("&scope=read:gr%25C3%25B6%25C3%259Fe/a%2520b").unwrap();
    assert_eq!(odd.scope, [right("read", "größe/a b")]);
    assert_eq!(full.checks, [r#"check if destination("plc-3") or destination("hmi.local:8443")"#]);
}

#[test]
fn what_is_no_narrowing_is_refused_as_oauth_has_it() {
    check_refused("&subject_token=other", "invalid_request");
    check_refused("&actor_token=x", "invalid_request");
    check_refused("&requested_token_type=urn:ietf:params:oauth:token-type:jwt", "invalid_request");
    check_refused("&ttl_s=-1", "invalid_request");
    check_refused("&ttl_s=60&ttl_s=60", "invalid_request");
    check_refused("&scope=admin", "invalid_scope");
    check_refused("&scope=read:", "invalid_scope");
    check_refused("&scope=read:a%22", "invalid_scope");
    check_refused("&scope=read:a%5C", "invalid_scope");
    // Encoded for the form alone, encoded where nothing has to be, in small letters.
    check_refused("&scope=read:gr%C3%B6%C3%9Fe", "invalid_scope");
    check_refused("&scope=read:a%252Fb", "invalid_scope");
    check_refused("&scope=read:gr%25c3%25b6%25c3%259fe", "invalid_scope");
    check_refused("&scope=read:a%09b", "invalid_scope");
    check_refused("&scope=read:a%7F", "invalid_scope");
    check_refused("&resource=hmi.local", "invalid_target");
    check_refused("&resource=https://hmi.local/%23x", "invalid_target");
    check_refused("&resource=https://user@hmi.local/", "invalid_target");
    check_refused("&audience=a%22)%20or%20true", "invalid_target");
    check_refused("&audience=a%00", "invalid_target");
    check_refused("&resource=https://hmi%20x/", "invalid_target");
    check_refused("&resource=://hmi/", "invalid_target");
    check_refused("&x=%", "invalid_request");
    check_refused("&x=%4", "invalid_request");
    check_refused("&x=%+1", "invalid_request");
    check_refused("&x=%FF", "invalid_request");
    check_refused(&"&x=1".repeat(PARAMETERS_MAX), "invalid_request");
    for (body, error) in [
        ("", "invalid_request"),
        ("grant_type=client_credentials", "unsupported_grant_type"),
        ("grant_type=urn:ietf:params:oauth:grant-type:token-exchange", "invalid_request"),
        ("{\"grant_type\":1}", "invalid_request"),
    ] {
        assert_eq!(exchange(&headers(), body.as_bytes()).unwrap_err().error, error, "{body}");
    }
    assert!(exchange(&HeaderMap::new(), BASE.as_bytes()).is_err(), "a form says that it is one");
    assert!(exchange(&headers(), b"\xff=1").is_err());
}

#[test]
fn an_introspection_names_one_token_and_may_say_where_the_effect_goes() {
    let asked = |body: &str| introspected(&headers(), body.as_bytes()).map_err(|refused| refused.error);
    let of =
        |destination: Option<&str>| Ok(Introspect { token: "a-b".into(), destination: destination.map(str::to_owned) });
    assert_eq!(asked("token=a%2Db&token_type_hint=access_token"), of(None));
    assert_eq!(asked("token=a-b&destination=plc-3%3A502"), of(Some("plc-3:502")));
    assert_eq!(asked("token=a-b&destination="), of(None));
    let twice = "token=a&destination=a&destination=b";
    for bad in ["", "token=", "token=a&token=a", "token_type_hint=x", "destination=x", twice] {
        assert_eq!(asked(bad), Err("invalid_request"), "{bad}");
    }
}

async fn body(response: Response<Body>) -> (u16, Value) {
    use http_body_util::BodyExt;
    let status = response.status().as_u16();
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn answers_have_the_names_of_their_documents() {
    let narrowed = AttenuatedReply {
        token: "abc".into(),
        revocation_id: BlockId([7; 32]),
        expires_in_s: 60,
        sealed: true,
        task_id: None,
        step_id: None,
    };
    let scope = [Right { resource: "modbus/*".into(), action: "read".into() }];
    let (status, exchanged) = body(answer_exchange(&scope, Reply::Attenuated(narrowed))).await;
    let expected = json!({
        "access_token": "abc", "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 60,
        "scope": "read:modbus/*",
    });
    assert_eq!((status, exchanged), (200, expected));
    let unclear = Right { resource: "größe".into(), action: "a:b".into() };
    assert_eq!(super::scope(&[unclear, scope[0].clone()]), "a%3Ab:gr%C3%B6%C3%9Fe read:modbus/*");
    for (code, status, error) in [
        (ProblemCode::Denied(Reason::NoRight), 400, "invalid_scope"),
        (ProblemCode::Denied(Reason::Expired), 400, "invalid_request"),
        (ProblemCode::Refused, 400, "invalid_request"),
        (ProblemCode::Throttled, 429, "temporarily_unavailable"),
        (ProblemCode::AuditUnavailable, 503, "temporarily_unavailable"),
    ] {
        let problem = Reply::Problem(Problem::new(code, "so \"it\" is"));
        let (got, problem) = body(answer_exchange(&[], problem)).await;
        assert_eq!((got, problem), (status, json!({"error": error, "error_description": "so 'it' is"})));
    }
    assert_eq!(body(answer_introspection(Reply::Introspected(None))).await, (200, json!({"active": false})));
}
