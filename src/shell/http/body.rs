//! Request bodies: bounded in bytes and time, parsed strictly.
//!
//! Owns: reading a body and making it a request.
//! Never: keeps more of a body than the profile admits.
//! Read next: `routes.rs`.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::problem::HttpProblem;
use crate::profile::ApiLimits;

/// How much of a body that is too large is read and thrown away. A client that is still writing when the connection
/// closes sees a broken pipe instead of the answer.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;

/// The bytes of a body.
///
/// # Errors
/// 413, 408, or 400 when the framing is broken.
pub async fn read(body: Body, limits: &ApiLimits) -> Result<Vec<u8>, HttpProblem> {
    let most = limits.body_bytes_max.saturating_add(DRAIN_BYTES_MAX);
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > most) {
        return Err(HttpProblem::body_too_large(limits.body_bytes_max));
    }
    let reading = gather(body, limits.body_bytes_max);
    let in_time = tokio::time::timeout(Duration::from_millis(limits.read_ms), reading).await;
    in_time.unwrap_or_else(|_| Err(HttpProblem::too_slow()))
}

async fn gather(mut body: Body, bytes_max: usize) -> Result<Vec<u8>, HttpProblem> {
    let (mut bytes, mut seen) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| HttpProblem::invalid("the body is cut off, or its framing is broken"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= bytes_max {
            bytes.extend_from_slice(&data);
        } else if seen > bytes_max.saturating_add(DRAIN_BYTES_MAX) {
            break;
        }
    }
    if seen > bytes_max {
        return Err(HttpProblem::body_too_large(bytes_max));
    }
    Ok(bytes)
}

/// What a body says. A `Content-Type` is not asked for: a body is JSON or refused.
///
/// # Errors
/// 400 with what is wrong.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HttpProblem> {
    // serde would take an array for an object whose fields come without their names.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(HttpProblem::invalid("the body is not valid: it must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| HttpProblem::invalid(format!("the body is not valid: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::request::Authorize;

    #[test]
    fn wrong_json_is_refused_with_what_is_wrong() {
        check_refused("", "JSON object");
        check_refused(r#"["token","operation","resource",null,null,null,null]"#, "JSON object");
        check_refused("{", "EOF");
        check_refused(r#"{"token":"t","operation":"o"}"#, "missing field `resource`");
        check_refused(r#"{"token":1,"operation":"o","resource":"r"}"#, "expected a string");
        check_refused(r#"{"token":"t","operation":"o","resource":"r","x":1}"#, "unknown field `x`");
        check_refused(r#"{"token":"t","token":"u","operation":"o","resource":"r"}"#, "duplicate field `token`");
        check_refused(r#"{"token":"t","operation":"o","resource":"r"} {}"#, "trailing");
        check_refused(r#"{"token":"t","operation":"o","resource":"r","risk":"a b"}"#, "risk class");
        check_refused("{\"token\":\"\u{1}\",\"operation\":\"o\",\"resource\":\"r\"}", "control character");
        check_refused(&"[".repeat(10_000), "JSON object");
        check_refused(&format!("{{\"x\":{}", "[".repeat(10_000)), "unknown field");
    }

    #[track_caller]
    fn check_refused(text: &str, needle: &str) {
        let problem = parse::<Authorize>(text.as_bytes()).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (400, "invalid_request"));
        assert!(problem.detail.contains(needle), "{text:.80}: {}", problem.detail);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert!(parse::<Authorize>(&[0xff, 0xfe, 0x00]).is_err());
        assert!(parse::<Authorize>(b"{\"token\":\"\xff\",\"operation\":\"o\",\"resource\":\"r\"}").is_err());
    }
}
