//! Which message passes, which is a question to the agent, and what is answered in place of what does not pass.
//!
//! Owns: the methods that pass, the question that each call is, lists without what may not be used, refusals that a model can
//! read.
//! Never: passes on a method or a capability that it does not know; lets a credential through to the server.
//! Read next: `message.rs`; `../shell/mcp/mod.rs`, which asks.
//!
//! A tool NAME of the server that is called SERVER here is the resource `mcp/SERVER/NAME` with the operation `call`, and the
//! arguments are facts; a prompt is `mcp/SERVER/prompts/NAME` with `get`; what a server calls a resource, by its URI, is
//! `mcp/SERVER/resources/SCHEME/AUTHORITY/PATH` with `read`: `file:///srv/a` is `…/file/-/srv/a`, and a URI without `//`,
//! `urn:x`, is `…/urn:/x`. Names that could be read in two ways the agent refuses, and records.
//!
//! Many servers read names without regard to case, and the last of two that are equal so. So what is asked about passes with the
//! names that were looked at and no other, and nothing passes with two names that differ in case alone. The names of arguments are
//! the server's own and are facts as they were sent: a rule that allows what it names is safe, one that denies is not.

use std::collections::BTreeSet;

use serde_json::{json, Map, Value};

use super::json::twins_within;
use super::message::{error, Message, Outcome, DENIED, INVALID_PARAMS, METHOD_NOT_FOUND};
use crate::wire::percent;

/// Where in `_meta` a call may bring a credential of its own: a step's, which is good for one use.
pub const TOKEN_FIELD: &str = "hardtack/token";

/// The longest name or URI that is asked about; the agent takes no longer resource.
const NAME_BYTES_MAX: usize = 256;

/// What a server may ask of its client, if the one who runs the proxy says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Permit {
    /// `elicitation/create`: ask the person.
    Elicitation,
    /// `roots/list`: learn the client's folders.
    Roots,
    /// `sampling/createMessage`: use the client's model.
    Sampling,
}

impl Permit {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Elicitation, "elicitation", "elicitation/create"),
        (Self::Roots, "roots", "roots/list"),
        (Self::Sampling, "sampling", "sampling/createMessage"),
    ];
}

/// What stands between a client and a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    server: String,
    permits: BTreeSet<Permit>,
}

/// What the agent is asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    /// The operation.
    pub operation: &'static str,
    /// The resource.
    pub resource: String,
    /// What the call brings with it.
    pub arguments: Option<Map<String, Value>>,
}

/// What the agent said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence, with what to do.
    pub explain: String,
    /// The record, where there is one.
    pub decision_id: Option<String>,
    /// Seconds until the credential ends, where that is known.
    pub expires_in_s: Option<u64>,
}

/// A message that hangs on a question.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    /// What passes if it is allowed.
    pub message: Message,
}

/// What is done with a message of the client.
#[derive(Clone, PartialEq, Debug)]
pub enum FromClient {
    /// It is answered in place of the server.
    Answer(Message),
    /// It passes if the agent allows it.
    Ask(Asked),
    /// It is no use to anybody.
    Drop,
    /// It passes.
    Pass(Message),
}

/// What is done with a message of the server.
#[derive(Clone, PartialEq, Debug)]
pub enum FromServer {
    /// It is no use to anybody.
    Drop,
    /// It passes, without what may not be used.
    List(Listing),
    /// It passes.
    Pass(Message),
    /// The server is answered in place of the client.
    Refuse(Message),
}

impl Guard {
    /// Before the server of that name, which is one segment of a resource.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(server: &str, permits: BTreeSet<Permit>) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if server.is_empty() || server.len() > 64 || !server.bytes().all(plain) || server.starts_with('.') {
            return Err(
                "a server's name has 1 to 64 letters, digits, dashes, dots and underscores, and begins with no dot"
                    .into(),
            );
        }
        Ok(Self { server: server.into(), permits })
    }

    /// What a caller's credential must be good for, if it is good for anything: nobody has to hold it.
    pub fn any(&self) -> Question {
        self.question("list", String::new(), None)
    }

    /// The credential that a message brings with it, taken out of it, and what is done with the rest.
    ///
    /// # Errors
    /// The answer, where what is there is no credential.
    pub fn from_client(&self, mut message: Message) -> (Option<String>, FromClient) {
        let token = match take_token(&mut message) {
            Ok(token) => token,
            Err(answer) => return (None, answer.map_or(FromClient::Drop, FromClient::Answer)),
        };
        (token, self.step(message))
    }

    fn step(&self, message: Message) -> FromClient {
        if let Message::Request { id, params: Some(params), .. } = &message {
            if let Some((one, other)) = twins_within(params) {
                let text = format!("{one:?} and {other:?} are one name to some readers: send one of them");
                return FromClient::Answer(error(id.clone(), INVALID_PARAMS, &text, None));
            }
        }
        match message {
            Message::Notification { ref method, .. } => match method.as_str() {
                "notifications/cancelled"
                | "notifications/initialized"
                | "notifications/progress"
                | "notifications/roots/list_changed" => FromClient::Pass(message),
                _ => FromClient::Drop,
            },
            Message::Response { .. } => FromClient::Pass(message),
            Message::Request { id, method, params } => match method.as_str() {
                "initialize" => {
                    let params = params.map(|params| self.without_capabilities(params));
                    FromClient::Pass(Message::Request { id, method, params })
                }
                "logging/setLevel"
                | "ping"
                | "prompts/list"
                | "resources/list"
                | "resources/templates/list"
                | "resources/unsubscribe"
                | "tools/list" => FromClient::Pass(Message::Request { id, method, params }),
                "tools/call" => self.ask("call", "name", (id, method, params)),
                "prompts/get" => self.ask("get", "name", (id, method, params)),
                "resources/read" | "resources/subscribe" => self.ask("read", "uri", (id, method, params)),
                _ => {
                    let text = format!("{method} does not pass: this proxy knows no decision for it");
                    FromClient::Answer(error(id, METHOD_NOT_FOUND, &text, None))
                }
            },
        }
    }

    /// Capabilities of the client that would have the server ask what does not pass.
    fn without_capabilities(&self, mut params: Map<String, Value>) -> Map<String, Value> {
        if let Some(Value::Object(capabilities)) = params.get_mut("capabilities") {
            capabilities.retain(|name, _| {
                let asks = Permit::ALL.iter().find(|(_, capability, _)| capability == name);
                asks.is_none_or(|(permit, _, _)| self.permits.contains(permit)) && name != "tasks"
            });
        }
        params
    }

    fn ask(
        &self,
        operation: &'static str,
        field: &str,
        (id, method, params): (Value, String, Option<Map<String, Value>>),
    ) -> FromClient {
        let mut params = params.unwrap_or_default();
        // Its answer would come by a method that does not pass.
        params.remove("task");
        let refused = |text: String| FromClient::Answer(error(id.clone(), INVALID_PARAMS, &text, None));
        let known = |name: &str| name == field || name == "_meta" || name == "arguments" && field == "name";
        if let Some(unknown) = params.keys().find(|name| !known(name)) {
            return refused(format!(
                "{method} has no {unknown:?}: what is not looked at does not pass, so leave it out"
            ));
        }
        let Some(name) = params.get(field).and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return refused(format!("{method} says in `{field}` what is asked for"));
        };
        let below = match field {
            "uri" => below_of_uri(name),
            _ if operation == "get" => format!("/prompts/{name}"),
            _ => format!("/{name}"),
        };
        let arguments = match params.get("arguments") {
            Some(Value::Object(arguments)) => Some(arguments.clone()),
            Some(Value::Null) | None => None,
            Some(_) => return refused("arguments are an object".into()),
        };
        let arguments = match field {
            "uri" => Some(Map::from_iter([("uri".to_owned(), name.into())])),
            _ => arguments,
        };
        let question = self.question(operation, below, arguments);
        FromClient::Ask(Asked { question, message: Message::Request { id, method, params: Some(params) } })
    }

    fn question(&self, operation: &'static str, below: String, arguments: Option<Map<String, Value>>) -> Question {
        Question { operation, resource: format!("mcp/{}{below}", self.server), arguments }
    }

    /// What is done with a message of the server.
    pub fn from_server(&self, message: Message) -> FromServer {
        match message {
            Message::Notification { ref method, .. } if method.starts_with("notifications/") => {
                FromServer::Pass(message)
            }
            Message::Notification { .. } => FromServer::Drop,
            Message::Request { ref id, ref method, .. } => {
                let asks = Permit::ALL.iter().find(|(_, _, known)| known == method);
                if method == "ping" || asks.is_some_and(|(permit, _, _)| self.permits.contains(permit)) {
                    return FromServer::Pass(message);
                }
                let text =
                    format!("{method} does not pass: the proxy in between was not told to let it (--from-server)");
                FromServer::Refuse(error(id.clone(), METHOD_NOT_FOUND, &text, None))
            }
            Message::Response { outcome: Outcome::Error(_), .. } => FromServer::Pass(message),
            Message::Response { id, outcome: Outcome::Result(mut result) } => {
                if let Some(Value::Object(capabilities)) = result.get_mut("capabilities") {
                    for unknown in ["completions", "tasks"] {
                        capabilities.remove(unknown);
                    }
                }
                let items = self.items(&mut result);
                match items.is_empty() {
                    true => FromServer::Pass(Message::Response { id, outcome: Outcome::Result(result) }),
                    false => FromServer::List(Listing { id, result, items }),
                }
            }
        }
    }

    /// What a result lists, taken out of it. It is told by its form: the same list may come on another stream than the one
    /// on which it was asked for.
    fn items(&self, result: &mut Map<String, Value>) -> Vec<Item> {
        let mut items = Vec::new();
        for (list, operation) in LISTS {
            let Some(found) = result.get_mut(list) else { continue };
            let Value::Array(all) = std::mem::replace(found, Value::Array(Vec::new())) else { continue };
            items.extend(all.into_iter().map(|value| {
                let text = |field: &str| value.get(field).and_then(Value::as_str);
                let below = match list {
                    "resources" => text("uri").map(below_of_uri),
                    "prompts" => text("name").map(|name| format!("/prompts/{name}")),
                    _ => text("name").map(|name| format!("/{name}")),
                };
                let question = below.map(|below| self.question(operation, below, None));
                let question = question.filter(|question| question.resource.len() <= NAME_BYTES_MAX);
                Item { list, value, question }
            }));
        }
        items
    }
}

/// The lists of a server, and what is done with what stands in them.
const LISTS: [(&str, &str); 3] = [("prompts", "get"), ("resources", "read"), ("tools", "call")];

/// A list, before what may not be used is taken out of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Listing {
    id: Value,
    result: Map<String, Value>,
    items: Vec<Item>,
}

#[derive(Clone, PartialEq, Debug)]
struct Item {
    list: &'static str,
    value: Value,
    /// None for what nobody could ask for.
    question: Option<Question>,
}

impl Listing {
    /// What is to be previewed.
    pub fn questions(&self) -> Vec<&Question> {
        self.items.iter().filter_map(|item| item.question.as_ref()).collect()
    }

    /// The list with what is allowed, in the order of the questions.
    pub fn keep(mut self, allowed: &[bool]) -> Message {
        let mut allowed = allowed.iter();
        for item in self.items {
            let keep = item.question.is_some() && allowed.next() == Some(&true);
            if let Some(Value::Array(list)) = self.result.get_mut(item.list).filter(|_| keep) {
                list.push(item.value);
            }
        }
        Message::Response { id: self.id, outcome: Outcome::Result(self.result) }
    }

    /// The answer where nobody could say what is allowed.
    pub fn unknown(self, why: &str) -> Message {
        let text = format!("what may be used cannot be told, so nothing is listed: {why}");
        error(self.id, DENIED, &text, None)
    }
}

impl Asked {
    /// What is answered where it is not allowed. A model reads the result of a tool, and nothing else.
    pub fn refused(self, ruling: &Ruling) -> Option<Message> {
        let Message::Request { id, method, .. } = self.message else { return None };
        let text = format!("denied ({}): {}", ruling.reason, ruling.explain);
        let told = json!({"hardtack/reason": ruling.reason, "hardtack/decision": ruling.decision_id});
        if method != "tools/call" {
            return Some(error(id, DENIED, &text, Some(told)));
        }
        let content = json!([{"type": "text", "text": text}]);
        let result = [("content", content), ("isError", true.into()), ("_meta", told)];
        let result = result.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Message::Response { id, outcome: Outcome::Result(result) })
    }
}

/// Takes the credential out of a message.
///
/// # Errors
/// What to answer, if anybody waits for an answer.
fn take_token(message: &mut Message) -> Result<Option<String>, Option<Message>> {
    let (id, params) = match message {
        Message::Request { id, params, .. } => (Some(id.clone()), params.as_mut()),
        Message::Notification { params, .. } => (None, params.as_mut()),
        Message::Response { .. } => return Ok(None),
    };
    let meta = params.and_then(|params| params.get_mut("_meta")).and_then(Value::as_object_mut);
    match meta.and_then(|meta| meta.remove(TOKEN_FIELD)) {
        None => Ok(None),
        Some(Value::String(token)) if !token.is_empty() => Ok(Some(token)),
        Some(_) => {
            let text = format!("`{TOKEN_FIELD}` in `_meta` is a credential's text");
            Err(id.map(|id| error(id, INVALID_PARAMS, &text, None)))
        }
    }
}

/// The resource's part that a URI stands for. What has no form of one stays behind a percent sign: the agent refuses it.
fn below_of_uri(uri: &str) -> String {
    form_of_uri(uri).map_or_else(|| format!("/resources/%{uri}"), |form| format!("/resources/{form}"))
}

fn form_of_uri(uri: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let (scheme, rest) = uri.split_once(':').filter(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(fits))?;
    let Some(rest) = rest.strip_prefix("//") else { return Some(format!("{scheme}:/{}", decoded(rest)?)) };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = decoded(path)?;
    match authority {
        "" => Some(format!("{scheme}/-{path}")),
        "-" => None,
        named => Some(format!("{scheme}/{named}{path}")),
    }
}

/// A path, decoded once. None where a server may take it for another, since something that divides it was escaped. (What would be
/// decoded once more is no resource.)
fn decoded(path: &str) -> Option<String> {
    let count = |text: &str| text.matches(['/', '\\', '#', '?']).count();
    percent::decoded(path).filter(|text| count(text) == count(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::message::read;
    use crate::wire::token::canonical;

    fn guard(permits: &[Permit]) -> Guard {
        Guard::new("fs", permits.iter().copied().collect()).unwrap()
    }

    fn client(text: &str) -> (Option<String>, FromClient) {
        guard(&[]).from_client(read(text.as_bytes()).unwrap())
    }

    fn request(method: &str, params: Value) -> String {
        json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
    }

    /// What the agent is asked, or what happens without.
    fn told(text: &str) -> String {
        match client(text).1 {
            FromClient::Answer(Message::Response { outcome: Outcome::Error(error), .. }) => {
                format!("error {}", error["code"])
            }
            FromClient::Answer(other) => panic!("{other:?}"),
            FromClient::Ask(Asked { question, .. }) => format!("{} {}", question.operation, question.resource),
            FromClient::Drop => "drop".into(),
            FromClient::Pass(_) => "pass".into(),
        }
    }

    #[test]
    fn each_method_passes_is_asked_about_or_does_not_pass() {
        for (method, params, expected) in [
            ("tools/call", json!({"name": "read_file", "arguments": {"path": "/a"}}), "call mcp/fs/read_file"),
            ("tools/call", json!({"name": "read_file", "arguments": null}), "call mcp/fs/read_file"),
            ("tools/call", json!({"name": "../x"}), "call mcp/fs/../x"),
            ("tools/call", json!({"name": ""}), "error -32602"),
            ("tools/call", json!({"name": 1}), "error -32602"),
            ("tools/call", json!({"name": "x", "arguments": [1]}), "error -32602"),
            ("tools/call", json!({}), "error -32602"),
            ("tools/call", json!({"name": "x", "Arguments": {"path": "/b"}}), "error -32602"),
            ("tools/call", json!({"name": "x", "arguments": {}, "Arguments": {"path": "/b"}}), "error -32602"),
            ("tools/call", json!({"name": "x", "Name": "y"}), "error -32602"),
            ("tools/call", json!({"name": "x", "uri": "file:///a"}), "error -32602"),
            ("tools/call", json!({"name": "x", "arguments": {"path": "/a", "Path": "/b"}}), "error -32602"),
            ("tools/call", json!({"name": "x", "arguments": {"all": [{"a": 1, "A": 2}]}}), "error -32602"),
            ("tools/call", json!({"name": "x", "arguments": {"Path": "/a"}}), "call mcp/fs/x"),
            ("prompts/get", json!({"name": "x", "arguments": {}, "ARGUMENTS": {}}), "error -32602"),
            ("resources/read", json!({"uri": "a:b", "Uri": "c:d"}), "error -32602"),
            ("resources/read", json!({"uri": "a:b", "arguments": {"uri": "c:d"}}), "error -32602"),
            ("initialize", json!({"capabilities": {}, "Capabilities": {"sampling": {}}}), "error -32602"),
            ("Tools/Call", json!({"name": "x"}), "error -32601"),
            ("tools/call ", json!({"name": "x"}), "error -32601"),
            ("prompts/get", json!({"name": "hello"}), "get mcp/fs/prompts/hello"),
            ("resources/read", json!({"uri": "file:///srv/a"}), "read mcp/fs/resources/file/-/srv/a"),
            ("resources/subscribe", json!({"uri": "note://box/1"}), "read mcp/fs/resources/note/box/1"),
            ("resources/read", json!({"name": "file:///srv/a"}), "error -32602"),
            ("initialize", json!({"capabilities": {}}), "pass"),
            ("tools/list", json!({"cursor": "x"}), "pass"),
            ("resources/templates/list", json!({}), "pass"),
            ("ping", json!({}), "pass"),
            ("completion/complete", json!({}), "error -32601"),
            ("tasks/result", json!({"taskId": "x"}), "error -32601"),
            ("server/discover", json!({}), "error -32601"),
            ("sampling/createMessage", json!({}), "error -32601"),
        ] {
            assert_eq!(told(&request(method, params.clone())), expected, "{method} {params}");
        }
        let notification = |method: &str| json!({"jsonrpc": "2.0", "method": method}).to_string();
        assert_eq!(told(&notification("notifications/cancelled")), "pass");
        for dropped in ["tools/call", "notifications/tools/call", "notifications/message"] {
            assert_eq!(told(&notification(dropped)), "drop", "{dropped}");
        }
        assert_eq!(told(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), "pass");
    }

    #[test]
    fn uris_stand_for_resources_one_each() {
        for (uri, expected) in [
            ("file:///srv/a", "/resources/file/-/srv/a"),
            ("file://srv/a", "/resources/file/srv/a"),
            ("file:/srv/a", "/resources/file://srv/a"),
            ("urn:isbn:1", "/resources/urn:/isbn:1"),
            ("db://h", "/resources/db/h"),
            ("file:///srv/my%20file.txt", "/resources/file/-/srv/my file.txt"),
            ("file:///caf%C3%A9", "/resources/file/-/café"),
            ("db://h/t?x=a%20b", "/resources/db/h/t?x=a b"),
        ] {
            assert_eq!(below_of_uri(uri), expected, "{uri}");
        }
        for odd in [
            "x",
            "",
            ":x",
            "a b:c",
            "file://-/srv",
            "file:///a/../b",
            "file:///a//b",
            "file:///%2e",
            "file:///a/%2e%2e/b",
            "file:///a%2fb",
            "file:///a%5cb",
            "file:///100%25",
            "file:///a%252e",
            "file:///a%3fb",
            "file:///a%00b",
            "file:///a%ff",
            "file:///a%2",
            "file://h%2fx/b",
            "file:///a/",
            "a:\\b",
        ] {
            let resource = format!("mcp/fs{}", below_of_uri(odd));
            assert!(canonical(&resource).is_err(), "{odd}: {resource}");
        }
    }

    #[test]
    fn a_credential_is_taken_out_before_anything_passes() {
        let call = |meta: Value| request("tools/call", json!({"name": "x", "_meta": meta, "task": {"ttl": 1}}));
        let (token, FromClient::Ask(asked)) = client(&call(json!({TOKEN_FIELD: "En0K", "progressToken": 3}))) else {
            panic!()
        };
        assert_eq!(token.as_deref(), Some("En0K"));
        let Message::Request { params: Some(params), .. } = &asked.message else { panic!() };
        assert_eq!(Value::Object(params.clone()), json!({"name": "x", "_meta": {"progressToken": 3}}));
        for odd in [json!({TOKEN_FIELD: 1}), json!({TOKEN_FIELD: ""}), json!({TOKEN_FIELD: ["a"]})] {
            assert_eq!(told(&call(odd.clone())), "error -32602", "{odd}");
        }
        let passing = request("tools/list", json!({"_meta": {TOKEN_FIELD: "En0K"}}));
        let (token, FromClient::Pass(message)) = client(&passing) else { panic!() };
        assert_eq!(token.as_deref(), Some("En0K"));
        assert!(!String::from_utf8(message.to_bytes()).unwrap().contains("En0K"));
    }

    #[test]
    fn arguments_are_facts_and_a_uri_is_one() {
        let asked = |text: &str| match client(text).1 {
            FromClient::Ask(Asked { question, .. }) => question.arguments.map(Value::Object),
            other => panic!("{other:?}"),
        };
        let arguments = json!({"path": "/a", "n": 1, "deep": {"er": true}});
        let call = request("tools/call", json!({"name": "x", "arguments": arguments}));
        assert_eq!(asked(&call), Some(arguments));
        assert_eq!(asked(&request("tools/call", json!({"name": "x"}))), None);
        let read = request("resources/read", json!({"uri": "a:b", "_meta": {"progressToken": 1}}));
        assert_eq!(asked(&read), Some(json!({"uri": "a:b"})));
    }

    #[test]
    fn what_a_server_may_ask_is_what_was_permitted() {
        for (method, permits, passes) in [
            ("ping", &[][..], true),
            ("sampling/createMessage", &[], false),
            ("sampling/createMessage", &[Permit::Sampling], true),
            ("elicitation/create", &[Permit::Sampling], false),
            ("roots/list", &[Permit::Roots], true),
            ("tools/call", &[Permit::Roots], false),
        ] {
            let message = read(request(method, json!({})).as_bytes()).unwrap();
            match guard(permits).from_server(message.clone()) {
                FromServer::Pass(passed) => assert!(passes && passed == message, "{method}"),
                FromServer::Refuse(Message::Response { id, .. }) => assert!(!passes && id == json!(7), "{method}"),
                other => panic!("{method}: {other:?}"),
            }
        }
        let hello = json!({"capabilities": {"sampling": {}, "roots": {}, "tasks": {}, "experimental": {}}});
        for (permits, kept) in [(&[][..], vec!["experimental"]), (&[Permit::Roots], vec!["experimental", "roots"])] {
            let message = read(request("initialize", hello.clone()).as_bytes()).unwrap();
            let (_, FromClient::Pass(Message::Request { params: Some(params), .. })) =
                guard(permits).from_client(message)
            else {
                panic!()
            };
            let left: Vec<&String> = params["capabilities"].as_object().unwrap().keys().collect();
            assert_eq!(left, kept);
        }
    }

    #[test]
    fn a_list_has_what_may_be_used_and_keeps_the_rest_of_the_answer() {
        let answer = json!({"jsonrpc": "2.0", "id": 3, "result": {
            "tools": [{"name": "a"}, {"name": "b"}, {"title": "nameless"}, {"name": "x".repeat(300)}, {"name": "c"}],
            "resources": [{"uri": "file:///a"}], "prompts": [{"name": "p"}], "nextCursor": "n",
        }});
        let FromServer::List(listing) = guard(&[]).from_server(read(answer.to_string().as_bytes()).unwrap()) else {
            panic!()
        };
        let asked: Vec<String> = listing
            .questions()
            .iter()
            .map(|question| format!("{} {}", question.operation, question.resource))
            .collect();
        let all = [
            "get mcp/fs/prompts/p",
            "read mcp/fs/resources/file/-/a",
            "call mcp/fs/a",
            "call mcp/fs/b",
            "call mcp/fs/c",
        ];
        assert_eq!(asked, all);
        let result = |message: Message| match message {
            Message::Response { outcome: Outcome::Result(result), .. } => Value::Object(result),
            other => panic!("{other:?}"),
        };
        let kept = result(listing.clone().keep(&[false, true, true, false, true]));
        let expected = json!({"tools": [{"name": "a"}, {"name": "c"}], "resources": [{"uri": "file:///a"}],
            "prompts": [], "nextCursor": "n"});
        assert_eq!(kept, expected);
        let none = result(listing.clone().keep(&[]));
        assert_eq!(
            (&none["tools"], &none["resources"]),
            (&json!([]), &json!([])),
            "what was not answered is not shown"
        );
        let Message::Response { outcome: Outcome::Error(error), .. } = listing.unknown("no agent") else { panic!() };
        assert_eq!(error["code"], DENIED);
    }

    #[test]
    fn a_refusal_is_what_a_model_can_read() {
        let ruling = Ruling {
            allowed: false,
            reason: "no_right".into(),
            explain: "begin a task that asks for it".into(),
            decision_id: Some("gw-07/1/2".into()),
            expires_in_s: None,
        };
        let refused = |method: &str, params: Value| match client(&request(method, params)).1 {
            FromClient::Ask(asked) => asked.refused(&ruling).unwrap(),
            other => panic!("{other:?}"),
        };
        let Message::Response { outcome: Outcome::Result(result), .. } = refused("tools/call", json!({"name": "x"}))
        else {
            panic!()
        };
        assert_eq!(result["isError"], true);
        assert_eq!(result["content"][0]["text"], "denied (no_right): begin a task that asks for it");
        assert_eq!(result["_meta"]["hardtack/decision"], "gw-07/1/2");
        let Message::Response { outcome: Outcome::Error(error), .. } = refused("resources/read", json!({"uri": "a:b"}))
        else {
            panic!()
        };
        assert_eq!((&error["code"], &error["data"]["hardtack/reason"]), (&json!(DENIED), &json!("no_right")));
    }

    #[test]
    fn a_servers_name_is_one_segment() {
        for name in ["", ".", "..", ".a", "a/b", "a b", "a%", "\u{e9}", &"a".repeat(65)] {
            assert!(Guard::new(name, BTreeSet::new()).is_err(), "{name:?}");
        }
        assert!(Guard::new("fs-1.local_x", BTreeSet::new()).is_ok());
    }
}
