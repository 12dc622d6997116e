//! The arguments of an operation: what a tool is called with, as facts that checks and policies can be about.
//!
//! Owns: [`Arguments`] as a request has them, their bounds, [`Stated`]: the facts that they are told as, and the digest that
//! stands for them in a record.
//! Never: cuts or rounds: what does not fit, or cannot be told exactly, is refused. Never shows a value: it may be a secret.
//! Read next: `token.rs` for the other facts, `agent/evaluate.rs`, which states these.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::ids::Hash;

/// The most facts that the arguments of one request are told as.
pub const ARGUMENTS_MAX: usize = 64;
/// The most bytes of an argument's name, its path included.
pub const ARGUMENT_NAME_BYTES_MAX: usize = 128;
/// The most bytes of a text.
pub const ARGUMENT_TEXT_BYTES_MAX: usize = 1024;
/// How deep objects and lists may lie in one another.
pub const ARGUMENTS_DEPTH_MAX: usize = 8;
/// The most bytes of all names and values together.
pub const ARGUMENTS_BYTES_MAX: usize = 16 * 1024;

/// What the digest of a request's arguments begins with.
const DIGEST: &[u8] = b"hardtack/arguments/v1\0";

/// From here on a double leaves out whole numbers: nobody can say which was meant.
const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// The arguments of a request: a JSON object.
#[derive(Clone, PartialEq, Default)]
pub struct Arguments(Vec<(String, Node)>);

/// A JSON value that keeps what a map would hide: a name that is there twice.
#[derive(Clone, PartialEq)]
enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    /// With a fraction or an exponent, or past what an integer holds: as it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// One fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Argument {
    /// The path to it: `a/b`, `list/0`. A `/` in a name is written `~1`, a `~` is written `~0`.
    pub name: String,
    /// What it says.
    pub value: Value,
}

/// What a fact says of an argument.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `argument(name, bool)`.
    Bool(bool),
    /// `argument(name, text)`: a number with a fraction, as decimal digits without an exponent, the fewest that mean the same
    /// double. To compare it with an integer is an error, and an error denies.
    Decimal(String),
    /// `argument(name, integer)`.
    Integer(i64),
    /// `argument_null(name)`.
    Null,
    /// `argument_size(name, integer)`: of a list or an object, which has facts of its own for what is in it.
    Size(u64),
    /// `argument(name, text)`.
    Text(String),
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The facts of a request's arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stated {
    /// The facts, by name in the order of its bytes; no name twice.
    pub facts: Vec<Argument>,
    /// What stands for them in the record.
    pub digest: Hash,
}

/// Why arguments are refused. Says nothing of their values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Defect {
    /// They cannot be told exactly.
    #[error("{0}")]
    Malformed(String),
    /// They are past a bound.
    #[error("{0}")]
    TooLarge(String),
}

impl Arguments {
    /// Adds an argument that is a text.
    pub fn push_text(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.0.push((name.into(), Node::Text(text.into())));
    }

    /// Adds an argument whose value is written in JSON.
    ///
    /// # Errors
    /// What is wrong there.
    pub fn push_json(&mut self, name: impl Into<String>, json: &str) -> Result<(), serde_json::Error> {
        let value: &RawValue = serde_json::from_str(json)?;
        self.0.push((name.into(), written(value, 1)?));
        Ok(())
    }

    /// Reads what is not JSON, of which nobody tells how a number was written.
    ///
    /// # Errors
    /// What is wrong there.
    pub fn read_other<'de, D: Deserializer<'de>>(other: D) -> Result<Option<Self>, D::Error> {
        let node = Option::<Node>::deserialize(other)?;
        node.map(|node| match node {
            Node::Object(fields) => Ok(Self(fields)),
            Node::Null | Node::Bool(_) | Node::Integer(_) | Node::Number(_) | Node::Text(_) | Node::List(_) => {
                Err(D::Error::custom(NO_OBJECT))
            }
        })
        .transpose()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The facts, none of no arguments.
    ///
    /// # Errors
    /// What does not fit, or cannot be told exactly.
    pub fn state(&self) -> Result<Option<Stated>, Defect> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut flat = Flat::default();
        flat.object("", &self.0, 1)?;
        let mut facts = flat.facts;
        facts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let digest = digest(&facts);
        Ok(Some(Stated { facts, digest }))
    }
}

/// Facts being made.
#[derive(Default)]
struct Flat {
    facts: Vec<Argument>,
    bytes: usize,
}

impl Flat {
    fn object(&mut self, path: &str, fields: &[(String, Node)], depth: usize) -> Result<(), Defect> {
        let mut seen = BTreeSet::new();
        for (field, node) in fields {
            if !seen.insert(field.as_str()) {
                return Err(Defect::Malformed("an argument's name is there twice in one object".into()));
            }
            if field.is_empty() || field.chars().any(char::is_control) {
                let what = "an argument's name has at least one character, and no control character";
                return Err(Defect::Malformed(what.into()));
            }
            self.node(&below(path, field)?, node, depth)?;
        }
        Ok(())
    }

    fn node(&mut self, name: &str, node: &Node, depth: usize) -> Result<(), Defect> {
        match node {
            Node::Null => self.add(name, Value::Null),
            Node::Bool(bool) => self.add(name, Value::Bool(*bool)),
            Node::Integer(integer) => self.add(name, Value::Integer(*integer)),
            Node::Number(number) => self.add(name, exactly(name, number)?),
            Node::Text(text) if text.len() > ARGUMENT_TEXT_BYTES_MAX => Err(Defect::TooLarge(format!(
                "argument {name:?} has {} bytes, the limit is {ARGUMENT_TEXT_BYTES_MAX}",
                text.len()
            ))),
            Node::Text(text) => self.add(name, Value::Text(text.clone())),
            Node::List(_) | Node::Object(_) if depth >= ARGUMENTS_DEPTH_MAX => {
                Err(Defect::TooLarge(format!("arguments are nested deeper than {ARGUMENTS_DEPTH_MAX}")))
            }
            Node::List(list) => {
                self.add(name, Value::Size(list.len() as u64))?;
                list.iter()
                    .enumerate()
                    .try_for_each(|(place, node)| self.node(&below(name, &place.to_string())?, node, depth + 1))
            }
            Node::Object(fields) => {
                self.add(name, Value::Size(fields.len() as u64))?;
                self.object(name, fields, depth + 1)
            }
        }
    }

    fn add(&mut self, name: &str, value: Value) -> Result<(), Defect> {
        if self.facts.len() >= ARGUMENTS_MAX {
            return Err(Defect::TooLarge(format!(
                "more than {ARGUMENTS_MAX} arguments, lists and objects with all that is in them"
            )));
        }
        let bytes = match &value {
            Value::Decimal(text) | Value::Text(text) => text.len(),
            Value::Bool(_) | Value::Integer(_) | Value::Null | Value::Size(_) => 8,
        };
        self.bytes += name.len() + bytes;
        if self.bytes > ARGUMENTS_BYTES_MAX {
            return Err(Defect::TooLarge(format!("arguments of more than {ARGUMENTS_BYTES_MAX} bytes")));
        }
        self.facts.push(Argument { name: name.to_owned(), value });
        Ok(())
    }
}

/// The path of what is called `field` in `path`.
fn below(path: &str, field: &str) -> Result<String, Defect> {
    let field = field.replace('~', "~0").replace('/', "~1");
    let name = if path.is_empty() { field } else { format!("{path}/{field}") };
    if name.len() > ARGUMENT_NAME_BYTES_MAX {
        let what = format!("an argument's name and path have more than {ARGUMENT_NAME_BYTES_MAX} bytes");
        return Err(Defect::TooLarge(what));
    }
    Ok(name)
}

/// A number, if what is told is what is written: others may read a double, which rounds.
fn exactly(name: &str, written: &str) -> Result<Value, Defect> {
    let inexact = || {
        let what = format!("argument {name:?} is a number that cannot be told exactly; send it as a text");
        Defect::Malformed(what)
    };
    let number: f64 = written.parse().map_err(|_| inexact())?;
    // The fewest digits that mean this double. Not a number compares with nothing.
    let told = number.to_string();
    let same = digits(written).is_some_and(|written| digits(&told) == Some(written));
    let is_exact = same && number.abs() < EXACT_BELOW;
    if !is_exact {
        return Err(inexact());
    }
    Ok(if number.fract() == 0.0 { Value::Integer(number as i64) } else { Value::Decimal(told) })
}

/// Sign, digits without zeros at their ends, and the power of ten behind them: the same of the same number.
fn digits(written: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let all = format!("{whole}{fraction}");
    let all = all.trim_start_matches('0');
    let significant = all.trim_end_matches('0');
    if significant.is_empty() {
        return Some((false, String::new(), 0));
    }
    let power = exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let power = power.checked_add(i64::try_from(all.len() - significant.len()).ok()?)?;
    Some((unsigned.len() < mantissa.len(), significant.to_owned(), power))
}

/// SHA-256 over all facts: their number, then each by name with a byte for its kind. Numbers are LEB128, integers zigzag,
/// as in an audit segment.
fn digest(facts: &[Argument]) -> Hash {
    let mut bytes = DIGEST.to_vec();
    number(&mut bytes, facts.len() as u64);
    for Argument { name, value } in facts {
        text(&mut bytes, name);
        match value {
            Value::Text(value) => {
                bytes.push(0);
                text(&mut bytes, value);
            }
            Value::Integer(value) => {
                bytes.push(1);
                number(&mut bytes, ((value << 1) ^ (value >> 63)) as u64);
            }
            Value::Bool(value) => bytes.extend([2, u8::from(*value)]),
            Value::Decimal(value) => {
                bytes.push(3);
                text(&mut bytes, value);
            }
            Value::Null => bytes.push(4),
            Value::Size(size) => {
                bytes.push(5);
                number(&mut bytes, *size);
            }
        }
    }
    Hash(Sha256::digest(&bytes).into())
}

fn number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    number(bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
}

impl FromIterator<Arguments> for Arguments {
    /// All together. A name that is there twice is refused when they are stated.
    fn from_iter<I: IntoIterator<Item = Self>>(all: I) -> Self {
        Self(all.into_iter().flat_map(|arguments| arguments.0).collect())
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arguments({})", self.0.len())
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        object(&self.0, serializer)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(bool) => serializer.serialize_bool(*bool),
            Self::Integer(integer) => serializer.serialize_i64(*integer),
            Self::Number(number) => {
                RawValue::from_string(number.clone()).map_err(S::Error::custom)?.serialize(serializer)
            }
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => {
                let mut all = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|node| all.serialize_element(node))?;
                all.end()
            }
            Self::Object(fields) => object(fields, serializer),
        }
    }
}

fn object<S: Serializer>(fields: &[(String, Node)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut all = serializer.serialize_map(Some(fields.len()))?;
    fields.iter().try_for_each(|(name, node)| all.serialize_entry(name, node))?;
    all.end()
}

impl<'de> Deserialize<'de> for Arguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As it is written: whoever reads a number as a double has rounded it.
        let value = Box::<RawValue>::deserialize(deserializer)?;
        match written(&value, 0).map_err(D::Error::custom)? {
            Node::Object(fields) => Ok(Self(fields)),
            Node::Null | Node::Bool(_) | Node::Integer(_) | Node::Number(_) | Node::Text(_) | Node::List(_) => {
                Err(D::Error::custom(NO_OBJECT))
            }
        }
    }
}

/// What arguments are.
const NO_OBJECT: &str = "arguments are an object, by name";

/// Reads a value in JSON. Below the depth that is refused it is not looked at.
fn written(value: &RawValue, depth: usize) -> Result<Node, serde_json::Error> {
    let json = value.get();
    let below = |value: &RawValue| written(value, depth + 1);
    Ok(match json.as_bytes().first() {
        Some(b'{' | b'[') if depth >= ARGUMENTS_DEPTH_MAX => Node::List(Vec::new()),
        Some(b'{') => {
            let Members(members) = serde_json::from_str(json)?;
            let fields = members.into_iter().map(|(name, value)| Ok((name, below(value)?)));
            Node::Object(fields.collect::<Result<_, serde_json::Error>>()?)
        }
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(json)?;
            Node::List(values.into_iter().map(below).collect::<Result<_, _>>()?)
        }
        Some(b'-' | b'0'..=b'9') => match json.parse() {
            Ok(integer) => Node::Integer(integer),
            Err(_) => Node::Number(json.to_owned()),
        },
        Some(_) | None => serde_json::from_str(json)?,
    })
}

/// The members of an object, each as often as it stands there.
struct Members<'j>(Vec<(String, &'j RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

/// Reads a value.
struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an argument's value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Node, E> {
        Ok(Node::Bool(bool))
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Node, E> {
        Ok(Node::Integer(integer))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Node, E> {
        Ok(i64::try_from(integer).map_or_else(|_| Node::Number(integer.to_string()), Node::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Number(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Arguments {
        serde_json::from_str(json).unwrap()
    }

    /// Name and value of each fact, or why there are none.
    fn told(json: &str) -> Result<Vec<(String, Value)>, Defect> {
        let facts = read(json).state()?.map(|stated| stated.facts).unwrap_or_default();
        Ok(facts.into_iter().map(|fact| (fact.name, fact.value)).collect())
    }

    #[track_caller]
    fn check(json: &str, expected: &[(&str, Value)]) {
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let found = told(json).unwrap();
        // Values are not printed: that is what is tested last.
        assert!(found == expected, "{json}: {:?}", found.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }

    #[test]
    fn nested_values_are_told_by_their_paths_and_nothing_is_left_out() {
        let text = |text: &str| Value::Text(text.into());
        check("{}", &[]);
        check(
            r#"{"path":"/srv/a","n":-3,"on":true}"#,
            &[("n", Value::Integer(-3)), ("on", Value::Bool(true)), ("path", text("/srv/a"))],
        );
        check(
            r#"{"a":{"b":1,"c":[]},"l":["x",{"y":null}]}"#,
            &[
                ("a", Value::Size(2)),
                ("a/b", Value::Integer(1)),
                ("a/c", Value::Size(0)),
                ("l", Value::Size(2)),
                ("l/0", text("x")),
                ("l/1", Value::Size(1)),
                ("l/1/y", Value::Null),
            ],
        );
        // No two arguments get one name.
        check(
            r#"{"a/b":1,"a":{"b":2},"a~1b":3}"#,
            &[
                ("a", Value::Size(1)),
                ("a/b", Value::Integer(2)),
                ("a~01b", Value::Integer(3)),
                ("a~1b", Value::Integer(1)),
            ],
        );
    }

    #[test]
    fn a_number_is_told_exactly_or_not_at_all() {
        for (json, expected) in [
            ("1000", Some(Value::Integer(1000))),
            ("1e3", Some(Value::Integer(1000))),
            ("1000.0", Some(Value::Integer(1000))),
            ("-0.0", Some(Value::Integer(0))),
            ("21.50", Some(Value::Decimal("21.5".into()))),
            ("-1e-7", Some(Value::Decimal("-0.0000001".into()))),
            ("9223372036854775807", Some(Value::Integer(i64::MAX))),
            ("-9223372036854775808", Some(Value::Integer(i64::MIN))),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("-9223372036854775809", None),
            ("9007199254740993.0", None),
            ("1e300", None),
            ("-0", Some(Value::Integer(0))),
            ("0e999", Some(Value::Integer(0))),
            ("15E-1", Some(Value::Decimal("1.5".into()))),
            ("0.1", Some(Value::Decimal("0.1".into()))),
            ("1500.00000000000000000", Some(Value::Integer(1500))),
            ("1500.00000000000001", None),
            ("0.1000000000000000055511151231257827", None),
            ("1e-400", None),
            ("-1e-400", None),
            ("1e400", None),
            ("1e99999999999999999999", None),
            // A parser that is off by one unit in the last place reads another of the two.
            ("7.120236347223045e-307", Some(Value::Decimal(format!("0.{}7120236347223045", "0".repeat(306))))),
            ("7.1202363472230444e-307", None),
            ("0.3000000000000000444", None),
            ("9007199254740991.5", None),
        ] {
            let found = told(&format!("{{\"n\":{json}}}"));
            match expected {
                Some(value) => assert!(found == Ok(vec![("n".into(), value)]), "{json}"),
                None => assert!(matches!(found, Err(Defect::Malformed(_))), "{json}"),
            }
        }
    }

    #[test]
    fn what_is_past_a_bound_is_refused_and_never_cut() {
        let long = |bytes: usize| "x".repeat(bytes);
        let many = |count: usize| (0..count).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(",");
        let deep = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        let wide =
            |texts: usize| (0..texts).map(|n| format!("\"k{n}\":\"{}\"", long(1024))).collect::<Vec<_>>().join(",");
        for fine in [
            format!("{{\"a\":\"{}\"}}", long(ARGUMENT_TEXT_BYTES_MAX)),
            format!("{{\"{}\":1}}", long(ARGUMENT_NAME_BYTES_MAX)),
            format!("{{{}}}", many(ARGUMENTS_MAX)),
            deep(ARGUMENTS_DEPTH_MAX),
            format!("{{{}}}", wide(15)),
        ] {
            assert!(told(&fine).is_ok(), "{fine:.60}");
        }
        for large in [
            format!("{{\"a\":\"{}\"}}", long(ARGUMENT_TEXT_BYTES_MAX + 1)),
            format!("{{\"{}\":1}}", long(ARGUMENT_NAME_BYTES_MAX + 1)),
            format!("{{\"{}/\":1}}", long(ARGUMENT_NAME_BYTES_MAX - 1)),
            format!("{{{}}}", many(ARGUMENTS_MAX + 1)),
            deep(ARGUMENTS_DEPTH_MAX + 1),
            format!("{{{}}}", wide(16)),
        ] {
            assert!(matches!(told(&large), Err(Defect::TooLarge(_))), "{large:.60}");
        }
        for odd in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":1,"b":1}}"#, r#"{"":1}"#, r#"{"a\u0000":1}"#] {
            assert!(matches!(told(odd), Err(Defect::Malformed(_))), "{odd}");
        }
        for none in ["[]", "1", "\"a\"", "true"] {
            assert!(serde_json::from_str::<Arguments>(none).is_err(), "{none}");
        }
    }

    #[test]
    fn the_digest_is_of_what_is_said_and_not_of_how() {
        let digest = |json: &str| read(json).state().unwrap().unwrap().digest;
        assert_eq!(digest(r#"{"a":1,"b":"x"}"#), digest("{ \"b\" : \"\\u0078\", \"a\" : 1e0 }"));
        let different =
            [r#"{"a":1}"#, r#"{"a":"1"}"#, r#"{"a":1.5}"#, r#"{"a":"1.5"}"#, r#"{"a":true}"#, r#"{"a":null}"#];
        let more = [r#"{"a":[]}"#, r#"{"a":[1]}"#, r#"{"a/0":1}"#, r#"{"a":-1}"#, r#"{"a":""}"#, r#"{"b":1}"#];
        let all: BTreeSet<Hash> = different.iter().chain(&more).map(|json| digest(json)).collect();
        assert_eq!(all.len(), different.len() + more.len());
        let json = r#"{"path":"/srv/a","n":-3,"on":true,"t":21.5,"none":null,"list":[1]}"#;
        assert_eq!(digest(json).to_string(), DIGEST_OF_ALL_KINDS);
    }

    /// As `tests/interop/arguments.py` makes it of the same arguments.
    const DIGEST_OF_ALL_KINDS: &str = "ae3ad8c3562b42c1b84b80530f8b664505b4a68041b972d6bf03af4fa5f96ba2";

    #[test]
    fn values_are_not_shown() {
        let arguments = read(r#"{"pin":"s3cret","deep":{"pin":"s3cret"}}"#);
        assert!(!format!("{arguments:?} {:?}", arguments.state()).contains("s3cret"));
        let long = read(&format!("{{\"pin\":\"{}\"}}", "s3cret".repeat(200)));
        assert!(!long.state().unwrap_err().to_string().contains("s3cret"));
        let back = serde_json::to_string(&arguments).unwrap();
        assert_eq!(read(&back), arguments);
        let numbers = r#"{"a":[1500.00000000000001,1e-400,1e2]}"#;
        assert_eq!(serde_json::to_string(&read(numbers)).unwrap(), numbers, "who hands them on rounds nothing either");
        let mut pushed = Arguments::default();
        pushed.push_json("a", " [1500.00000000000001, 1e-400, 1e2] ").unwrap();
        assert_eq!(pushed, read(numbers));
        assert!(pushed.push_json("b", "1 2").is_err() && pushed.push_json("b", "").is_err());
    }
}
