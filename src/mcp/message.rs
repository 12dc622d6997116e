//! Messages of JSON-RPC 2.0 as the Model Context Protocol uses them.
//!
//! Owns: [`Message`], what is no message and how that is told.
//! Never: keeps a field that it does not know: what was not looked at is not passed on.
//! Read next: `guard.rs`.

use serde_json::{json, Map, Value};

use super::json::{parse, twins};

/// No JSON.
pub const PARSE_ERROR: i64 = -32700;
/// No message.
pub const INVALID_REQUEST: i64 = -32600;
/// A method that does not pass.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Parameters that say not clearly what is asked for.
pub const INVALID_PARAMS: i64 = -32602;
/// Denied, of the numbers that implementations may give a meaning.
pub const DENIED: i64 = -32003;

/// The longest method and the longest textual id, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// A message.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// Nobody answers it.
    Notification {
        /// What happened.
        method: String,
        /// How.
        params: Option<Map<String, Value>>,
    },
    /// It is answered.
    Request {
        /// A whole number or a text.
        id: Value,
        /// What is asked for.
        method: String,
        /// How.
        params: Option<Map<String, Value>>,
    },
    /// The answer.
    Response {
        /// That of the request; null where none could be read.
        id: Value,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It failed.
    Error(Map<String, Value>),
    /// It did not.
    Result(Map<String, Value>),
}

/// What is no message, and the error that says so.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    /// The request's id, where it could be read.
    pub id: Value,
    /// The error's number.
    pub code: i64,
    /// What is wrong and what to do.
    pub text: String,
}

impl Fault {
    fn new(code: i64, text: impl Into<String>) -> Self {
        Self { id: Value::Null, code, text: text.into() }
    }

    /// The answer.
    pub fn answer(&self) -> Message {
        error(self.id.clone(), self.code, &self.text, None)
    }
}

/// An answer that says what is wrong.
pub fn error(id: Value, code: i64, text: &str, data: Option<Value>) -> Message {
    let mut error = Map::new();
    error.insert("code".into(), code.into());
    error.insert("message".into(), text.into());
    error.extend(data.map(|data| ("data".to_owned(), data)));
    Message::Response { id, outcome: Outcome::Error(error) }
}

/// What some bytes say.
///
/// # Errors
/// A [`Fault`] with the answer.
pub fn read(bytes: &[u8]) -> Result<Message, Fault> {
    let value = parse(bytes)
        .map_err(|why| Fault::new(PARSE_ERROR, format!("this is not JSON that can be relied on: {why}")))?;
    let mut fields = match value {
        Value::Object(fields) => fields,
        Value::Array(_) => {
            return Err(Fault::new(INVALID_REQUEST, "batches are not taken: send each message by itself"));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(Fault::new(INVALID_REQUEST, "a message is an object"));
        }
    };
    if let Some((one, other)) = twins(&fields) {
        return Err(Fault::new(
            INVALID_REQUEST,
            format!("{one:?} and {other:?} are one name to some readers: send one"),
        ));
    }
    let invalid = |id: &Option<Value>, text: &str| Fault {
        id: id.clone().filter(is_id).unwrap_or_default(),
        ..Fault::new(INVALID_REQUEST, text)
    };
    let id = fields.remove("id");
    if fields.remove("jsonrpc") != Some("2.0".into()) {
        return Err(invalid(&id, "a message says \"jsonrpc\": \"2.0\""));
    }
    let method = match fields.remove("method") {
        Some(Value::String(method)) if (1..=NAME_BYTES_MAX).contains(&method.len()) => Some(method),
        Some(_) => return Err(invalid(&id, "a method is a text of 1 to 256 bytes")),
        None => None,
    };
    let params = match fields.remove("params") {
        Some(Value::Object(params)) => Some(params),
        None => None,
        Some(_) => return Err(invalid(&id, "params are an object")),
    };
    let (result, failed) = (fields.remove("result"), fields.remove("error"));
    match (method, id, result, failed) {
        (Some(method), Some(id), None, None) if is_id(&id) => Ok(Message::Request { id, method, params }),
        (Some(_), Some(_), None, None) => {
            Err(Fault::new(INVALID_REQUEST, "an id is a whole number, or a text of at most 256 bytes"))
        }
        (Some(method), None, None, None) => Ok(Message::Notification { method, params }),
        (None, Some(id), Some(Value::Object(result)), None) if is_id(&id) => {
            Ok(Message::Response { id, outcome: Outcome::Result(result) })
        }
        (None, Some(id), None, Some(Value::Object(failed))) if is_id(&id) || id.is_null() => {
            Ok(Message::Response { id, outcome: Outcome::Error(failed) })
        }
        (_, id, _, _) => Err(invalid(&id, "this is neither a request, a notification nor an answer")),
    }
}

fn is_id(id: &Value) -> bool {
    match id {
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::String(text) => text.len() <= NAME_BYTES_MAX,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

impl Message {
    /// The text, in one line.
    pub fn to_bytes(&self) -> Vec<u8> {
        let value = match self {
            Self::Notification { method, params: None } => json!({"jsonrpc": "2.0", "method": method}),
            Self::Notification { method, params } => json!({"jsonrpc": "2.0", "method": method, "params": params}),
            Self::Request { id, method, params: None } => json!({"jsonrpc": "2.0", "id": id, "method": method}),
            Self::Request { id, method, params } => {
                json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
            }
            Self::Response { id, outcome: Outcome::Error(error) } => {
                json!({"jsonrpc": "2.0", "id": id, "error": error})
            }
            Self::Response { id, outcome: Outcome::Result(result) } => {
                json!({"jsonrpc": "2.0", "id": id, "result": result})
            }
        };
        value.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_written_again_without_what_is_not_known() {
        for (text, same) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, true),
            (r#"{"id":"a","jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}"#, true),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, true),
            (r#"{"id":7,"jsonrpc":"2.0","result":{}}"#, true),
            (r#"{"error":{"code":-1,"message":"m"},"id":null,"jsonrpc":"2.0"}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","meth":"tools/call","x":1}"#, false),
        ] {
            let message = read(text.as_bytes()).unwrap_or_else(|fault| panic!("{fault:?}: {text}"));
            let written: Value = serde_json::from_slice(&message.to_bytes()).unwrap();
            assert_eq!(written == serde_json::from_str::<Value>(text).unwrap(), same, "{text}");
            assert_eq!(read(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_answered_with_what_is_wrong() {
        for (text, code, id) in [
            ("x", PARSE_ERROR, Value::Null),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, PARSE_ERROR, Value::Null),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#, INVALID_REQUEST, Value::Null),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, INVALID_REQUEST, Value::Null),
            ("1", INVALID_REQUEST, Value::Null),
            (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST, json!(1)),
            (r#"{"jsonrpc":"1.0","id":"x","method":"ping"}"#, INVALID_REQUEST, json!("x")),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST, Value::Null),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, INVALID_REQUEST, Value::Null),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, INVALID_REQUEST, Value::Null),
            (r#"{"jsonrpc":"2.0","id":2,"method":7}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":2,"method":"a","params":[1]}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":2,"method":"a","result":{}}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":2,"result":{},"error":{}}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":2}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":2,"result":1}"#, INVALID_REQUEST, json!(2)),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, INVALID_REQUEST, Value::Null),
        ] {
            let fault = read(text.as_bytes()).expect_err(text);
            assert_eq!((fault.code, &fault.id), (code, &id), "{text}: {}", fault.text);
            let Message::Response { id: told, outcome: Outcome::Error(error) } = fault.answer() else {
                panic!("{text}")
            };
            assert_eq!((told, &error["code"]), (id, &json!(code)));
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(257));
        assert_eq!(read(long.as_bytes()).unwrap_err().id, Value::Null);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_a_message_or_a_fault(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            text in "\\{(\"(jsonrpc|id|method|params|result|error|x)\":(\"2.0\"|1|null|\\{\\}|\\[\\]|\"a\"),?){0,6}\\}",
        ) {
            for input in [bytes.as_slice(), text.as_bytes()] {
                match read(input) {
                    Ok(message) => assert_eq!(read(&message.to_bytes()), Ok(message)),
                    Err(fault) => assert!(read(&fault.answer().to_bytes()).is_ok(), "{fault:?}"),
                }
            }
        }
    }
}
