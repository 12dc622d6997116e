//! What of a request is let through, and what of an answer.
//!
//! Owns: which hosts a request may name, how its path names a secret, which headers travel in which direction.
//! Never: decides who may; takes a request for another one than the rules and the agent were asked about.
//! Read next: `serve.rs`.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Version};

use crate::secrets::echo::Echo;
use crate::secrets::entry::SecretName;
use crate::shell::http::problem::HttpProblem;

/// The names that a request may give this proxy; whatever else stands in `Host` was meant for somebody else, or comes from a
/// browser that was told a wrong address.
const OUR_NAMES: [&str; 4] = ["127.0.0.1", "[::1]", "localhost", "secrets.local"];

/// Headers that end at whoever gets them (RFC 9110, 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of a request that say it is another one than its first line says.
const OVERRIDES: [&str; 3] = ["x-method-override", "x-original-method", "x-rewrite-url"];

/// The same, by how their names begin.
const OVERRIDES_BEGIN: [&str; 2] = ["x-http-method", "x-original-"];

/// Parameters of a query by which frameworks take another method than the first line's; others begin as the headers do.
const METHOD_PARAMETER: &str = "_method";

/// Headers of a request that stay here: the credential, what this proxy says itself, and what a client could only lie about.
/// A part of an answer (`Range`) could be part of a secret that no part shows.
const KEPT_BACK: [&str; 14] = [
    "accept-encoding",
    "authorization",
    "content-length",
    "expect",
    "forwarded",
    "hardtack-token",
    "host",
    "if-range",
    "range",
    "remote-user",
    "true-client-ip",
    "via",
    "x-real-ip",
    "x-remote-user",
];

/// The same, by how their names begin.
const KEPT_BACK_BEGIN: [&str; 1] = ["x-forwarded-"];

/// Headers of an answer that stay here. A cookie of a session is a credential, and the workload is to have none of the
/// upstream's; `Alt-Svc` leads around this proxy.
const NOT_BACK: [&str; 4] = ["alt-svc", "content-length", "hardtack-decision-id", "set-cookie"];

/// Which secret a request is about, and what it asks of the upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The secret.
    pub name: SecretName,
    /// The path at the upstream, as it was sent, with the slash that it begins with.
    pub path: String,
    /// The query, as it was sent.
    pub query: Option<String>,
}

/// A problem of this proxy's own.
pub fn problem(status: StatusCode, code: &'static str, detail: impl Into<String>) -> HttpProblem {
    HttpProblem { status, code, ..HttpProblem::invalid(detail) }
}

/// What a request asks for, if it is one that can have only one meaning.
///
/// # Errors
/// 400 with what is wrong.
pub fn target(head: &Parts) -> Result<Target, HttpProblem> {
    host(head)?;
    if [Method::CONNECT, Method::TRACE].contains(&head.method) {
        return Err(HttpProblem::invalid("CONNECT and TRACE are never let through"));
    }
    headers(&head.headers)?;
    let path = head.uri.path();
    let unclear = "the path is /NAME/PATH, NAME a secret's name: `hardtack secrets list` tells which there are";
    let below = path.strip_prefix('/').ok_or_else(|| HttpProblem::invalid(unclear))?;
    let (name, rest) = below.split_at(below.find('/').unwrap_or(below.len()));
    let name = name.parse().map_err(|_| HttpProblem::invalid(unclear))?;
    let query = head.uri.query();
    if !is_plain(rest, "/") || !is_plain(query.unwrap_or_default(), "/?[]") {
        return Err(HttpProblem::invalid(
            "path and query hold only what RFC 3986 lets stand in them: percent-encode the rest",
        ));
    }
    if let Some(name) = query.and_then(overriding) {
        return Err(HttpProblem::invalid(format!(
            "`{name}` in the query would make another request of this one: leave it out"
        )));
    }
    let path = if rest.is_empty() { "/" } else { rest };
    Ok(Target { name, path: path.to_owned(), query: query.map(str::to_owned) })
}

/// Guards against pages in a browser, and against names that lead here by mistake.
fn host(head: &Parts) -> Result<(), HttpProblem> {
    let once = |name: HeaderName| {
        let mut all = head.headers.get_all(name).iter();
        (all.next().map(|value| value.to_str().unwrap_or_default().to_owned()), all.next().is_some())
    };
    let (host, is_twice) = once(header::HOST);
    let wrong = || {
        let names = OUR_NAMES.join(", ");
        HttpProblem::invalid(format!("`Host` names this proxy, once: {names}, with a port or none"))
    };
    let host = host.filter(|_| !is_twice && head.version == Version::HTTP_11).ok_or_else(wrong)?;
    let is_ours = |authority: &str| {
        let end = if authority.starts_with('[') { authority.find(']').map(|at| at + 1) } else { authority.find(':') };
        let (name, port) = authority.split_at(end.unwrap_or(authority.len()));
        let port = port.strip_prefix(':').map_or(port.is_empty(), |port| port.parse::<u16>().is_ok());
        port && OUR_NAMES.iter().any(|ours| name.eq_ignore_ascii_case(ours))
    };
    if !is_ours(&host) {
        return Err(wrong());
    }
    // The form in which a client asks that takes this for its proxy: both must say the same.
    if let Some(authority) = head.uri.authority() {
        if head.uri.scheme_str() != Some("http") || !authority.as_str().eq_ignore_ascii_case(&host) {
            return Err(HttpProblem::invalid(
                "a request with a whole URL is http://secrets.local/NAME/PATH, and `Host` says the same",
            ));
        }
    }
    let browsers = head.headers.keys().any(|name| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"));
    match browsers {
        true => Err(HttpProblem::invalid("this proxy is for programs, not for pages in a browser")),
        false => Ok(()),
    }
}

/// Refuses what two readers could take for two different requests.
fn headers(headers: &HeaderMap) -> Result<(), HttpProblem> {
    let count = |name: HeaderName| headers.get_all(name).iter().count();
    let (lengths, codings) = (count(header::CONTENT_LENGTH), count(header::TRANSFER_ENCODING));
    if lengths + codings > 1 {
        return Err(HttpProblem::invalid("`Content-Length` and `Transfer-Encoding`: one of them, once"));
    }
    if headers.get(header::TRANSFER_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(HttpProblem::invalid("`Transfer-Encoding` is `chunked` or not there"));
    }
    if headers.contains_key(header::UPGRADE) {
        return Err(HttpProblem::invalid("no other protocol is spoken here: leave out `Upgrade`"));
    }
    for name in headers.keys() {
        if OVERRIDES.contains(&name.as_str()) || begins(name.as_str(), &OVERRIDES_BEGIN) {
            return Err(HttpProblem::invalid(format!("`{name}` would make another request of this one: leave it out")));
        }
        // Some servers take a line below for a dash.
        if name.as_str().contains('_') {
            return Err(HttpProblem::invalid(format!(
                "`{name}` has an underscore, which some servers take for a dash"
            )));
        }
    }
    Ok(())
}

fn begins(name: &str, with: &[&str]) -> bool {
    with.iter().any(|with| name.starts_with(with))
}

/// The parameter of a query, if there is one, by which an upstream could take the request for one of another method.
fn overriding(query: &str) -> Option<String> {
    let names = query.split(['&', ';']).map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    names.map(|name| decoded(name).to_ascii_lowercase()).find(|name| {
        // Some readers let brackets, blanks and what follows them fall, and take a dot for a line below.
        let name = name.trim_matches(|c: char| c.is_ascii_whitespace() || c == '+');
        let plain = name.split('[').next().unwrap_or_default().replace(['_', '.', ' ', '+'], "-");
        plain == METHOD_PARAMETER.replace('_', "-") || plain == "x-method-override" || begins(&plain, &OVERRIDES_BEGIN)
    })
}

/// Percent-decoded. What is no text is none of the names that are looked for.
fn decoded(text: &str) -> String {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Whether a text holds nothing but what RFC 3986 (3.3) lets stand in a segment, and what `more` says.
fn is_plain(text: &str, more: &str) -> bool {
    let known = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) || more.as_bytes().contains(&byte)
    };
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
        let fine = if byte == b'%' { hex(bytes.next()) && hex(bytes.next()) } else { known(byte) };
        if !fine {
            return false;
        }
    }
    true
}

/// The headers of a request that go on.
pub fn onward(headers: &HeaderMap) -> HeaderMap {
    travelling(headers, &KEPT_BACK, &KEPT_BACK_BEGIN)
}

/// All but those that end here: the fixed ones, `kept`, those that begin so, and those that `Connection` names.
fn travelling(headers: &HeaderMap, kept: &[&str], kept_begin: &[&str]) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let ends = |name: &str| {
        let fixed = HOP_BY_HOP.contains(&name) || kept.contains(&name) || begins(name, kept_begin);
        fixed || named.iter().any(|other| other == name)
    };
    let pairs = headers.iter().filter(|(name, _)| !ends(name.as_str()));
    pairs.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>().into_iter().fold(
        HeaderMap::new(),
        |mut map, (name, value)| {
            map.append(name, value);
            map
        },
    )
}

/// The headers of an answer that go back, and how often they held the secret.
///
/// # Errors
/// 502 where what follows could not be looked through.
pub fn back(status: StatusCode, headers: &HeaderMap, secret: &[u8]) -> Result<(HeaderMap, u64), HttpProblem> {
    let refused = |what: &str| {
        let detail =
            format!("the upstream answered {what}, in which the secret could not be found: nothing of it is given");
        Err(problem(StatusCode::BAD_GATEWAY, "upstream_unreadable", detail))
    };
    let says = |name: HeaderName, plain: &str| {
        headers.get_all(name).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    if !says(header::CONTENT_ENCODING, "identity") {
        return refused("with an encoding that was not asked for");
    }
    if !says(header::TRANSFER_ENCODING, "chunked") {
        return refused("with a transfer coding that was not asked for");
    }
    if status == StatusCode::PARTIAL_CONTENT || headers.contains_key(header::CONTENT_RANGE) {
        return refused("with a part of something");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return refused("in another protocol");
    }
    let mut found = 0;
    let mut given = HeaderMap::new();
    let small = secret.to_ascii_lowercase();
    for (name, value) in &travelling(headers, &NOT_BACK, &[]) {
        if Echo::whole(&small, name.as_str().as_bytes()).1 > 0 {
            found += 1;
            continue;
        }
        let (text, echoes) = Echo::whole(secret, value.as_bytes());
        found += echoes;
        // Of the same length, stars for some of it: a value still.
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            given.append(name.clone(), value);
        }
    }
    Ok((given, found))
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

    const HOST: (&str, &str) = ("host", "secrets.local");

    #[test]
    fn a_path_names_a_secret_and_what_is_asked_of_its_upstream() {
        let told = |uri: &str| target(&head("GET", uri, &[HOST])).map(|t| (t.name.to_string(), t.path, t.query));
        let is =
            |name: &str, path: &str, query: Option<&str>| Some((name.into(), path.into(), query.map(str::to_owned)));
        assert_eq!(told("/crm/v1/orders?x=1").ok(), is("crm", "/v1/orders", Some("x=1")));
        assert_eq!(told("/crm").ok(), is("crm", "/", None));
        assert_eq!(told("/crm/").ok(), is("crm", "/", None));
        assert_eq!(told("/crm//a").ok(), is("crm", "//a", None), "refused by what is asked next");
        assert_eq!(told("/crm/a%2fb?c[]=%20").ok(), is("crm", "/a%2fb", Some("c[]=%20")));
        for bad in [
            "/",
            "//crm",
            "/CRM/a",
            "/c%72m/a",
            "/crm.x/a",
            "/../crm",
            "/crm/a%2",
            "/crm/a%zz",
            "/crm/a|b",
            "/crm/a\"b",
            "/crm/a?b^",
        ] {
            assert_eq!(told(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn only_programs_that_mean_this_proxy_are_heard() {
        let status = |method: &str, uri: &str, headers: &[(&str, &str)]| match target(&head(method, uri, headers)) {
            Ok(_) => 200,
            Err(problem) => problem.status.as_u16(),
        };
        for fine in ["secrets.local", "SECRETS.local:80", "localhost", "127.0.0.1:8111", "[::1]:8111", "[::1]"] {
            assert_eq!(status("GET", "/crm/a", &[("host", fine)]), 200, "{fine}");
        }
        for bad in [
            "",
            "evil.example",
            "secrets.local.evil.example",
            "secrets.local:x",
            "a@secrets.local",
            "127.0.0.1.",
            "[::1",
        ] {
            assert_eq!(status("GET", "/crm/a", &[("host", bad)]), 400, "{bad}");
        }
        assert_eq!(status("GET", "/crm/a", &[]), 400);
        assert_eq!(status("GET", "/crm/a", &[HOST, HOST]), 400);
        assert_eq!(status("GET", "http://secrets.local/crm/a", &[HOST]), 200);
        assert_eq!(status("GET", "https://secrets.local/crm/a", &[HOST]), 400);
        assert_eq!(status("GET", "http://evil.example/crm/a", &[HOST]), 400);
        assert_eq!(status("CONNECT", "secrets.local:80", &[HOST]), 400);
        assert_eq!(status("TRACE", "/crm/a", &[HOST]), 400);
        for odd in [
            ("origin", "http://secrets.local"),
            ("sec-fetch-site", "none"),
            ("transfer-encoding", "gzip, chunked"),
            ("upgrade", "websocket"),
            ("x-http-method-override", "DELETE"),
            ("x-http-method-overrides", "DELETE"),
            ("x-original-url", "/admin"),
            ("x-original-host", "evil.example"),
            ("x-original-method", "DELETE"),
            ("x_api_key", "mine"),
        ] {
            assert_eq!(status("GET", "/crm/a", &[HOST, odd]), 400, "{odd:?}");
        }
        let (length, coding) = (("content-length", "1"), ("transfer-encoding", "chunked"));
        assert_eq!(status("POST", "/crm/a", &[HOST, length, coding]), 400);
        assert_eq!(status("POST", "/crm/a", &[HOST, length, length]), 400);
        assert_eq!(status("POST", "/crm/a", &[HOST, coding]), 200);
    }

    #[test]
    fn a_query_does_not_make_another_method_of_it() {
        for (query, fine) in [
            ("_method=DELETE", false),
            ("a=1&_METHOD=DELETE", false),
            ("a=1;_method=DELETE", false),
            ("%5fmethod=DELETE", false),
            ("%5F%6dethod", false),
            ("_method[]=DELETE", false),
            ("+_method=DELETE", false),
            ("%20_method=DELETE", false),
            (".method=DELETE", false),
            ("%2emethod=DELETE", false),
            ("x.http.method=DELETE", false),
            ("x-http-method-override=DELETE", false),
            ("X_HTTP_Method=DELETE", false),
            ("x-method-override=DELETE", false),
            ("method=DELETE&a=_method", true),
            ("a_method=1&x-http=1", true),
            ("%ff=1", true),
            ("", true),
        ] {
            let told = target(&head("GET", &format!("/crm/a?{query}"), &[HOST])).map_err(|problem| problem.status);
            assert_eq!(told.is_ok(), fine, "{query}: {told:?}");
        }
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_is_for_this_proxy_ends_here() {
        let all = [
            ("accept", "*/*"),
            ("content-type", "text/plain"),
            ("x-tenant", "a"),
            ("x-tenant", "b"),
            ("authorization", "Bearer En0K"),
            ("hardtack-token", "En0K"),
            ("connection", "close, X-Secretly"),
            ("x-secretly", "1"),
            ("range", "bytes=0-3"),
            ("if-range", "x"),
            ("accept-encoding", "gzip"),
            ("content-length", "4"),
            ("expect", "100-continue"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-user", "root"),
            ("x-forwarded-prefix", "/admin"),
            ("x-remote-user", "root"),
            ("remote-user", "root"),
        ];
        let onward = onward(&head("GET", "/", &all).headers);
        assert_eq!(names(&onward), ["accept", "content-type", "x-tenant"]);
        assert_eq!(onward.get_all("x-tenant").iter().count(), 2);
    }

    #[test]
    fn an_answer_comes_back_without_the_secret() {
        let secret = b"s3cret-value";
        let answer = |status: u16, headers: &[(&str, &str)]| {
            back(StatusCode::from_u16(status).unwrap(), &head("GET", "/", headers).headers, secret)
        };
        let (given, found) = answer(
            302,
            &[
                ("location", "https://other/?key=s3cret%2Dvalue&a=1"),
                ("x-debug", "Basic dXNlcjpzM2NyZXQtdmFsdWU="),
                ("x-s3cret-value", "1"),
                ("set-cookie", "session=1"),
                ("content-type", "text/plain"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("alt-svc", "h3=\":443\""),
            ],
        )
        .unwrap();
        assert_eq!(names(&given), ["location", "x-debug", "content-type"]);
        assert_eq!(given["location"], "https://other/?key=**************&a=1");
        assert!(!given["x-debug"].to_str().unwrap().contains("NyZXQtdmFsdW"));
        assert_eq!(found, 3);
        for (status, headers) in [
            (200, ("content-encoding", "gzip")),
            (200, ("transfer-encoding", "gzip, chunked")),
            (206, ("x", "y")),
            (200, ("content-range", "bytes 0-3/100")),
            (101, ("x", "y")),
        ] {
            assert_eq!(answer(status, &[headers]).unwrap_err().code, "upstream_unreadable", "{headers:?}");
        }
        assert!(answer(200, &[("content-encoding", "identity")]).is_ok());
    }
}
