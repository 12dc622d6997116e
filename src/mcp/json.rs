//! JSON that cannot be read in two ways.
//!
//! Owns: [`parse`]: bounded in depth, without doubled names, without anything behind the value; [`twins`].
//! Never: takes what another parser may take for something else.
//! Read next: `message.rs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::Deserializer;
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may lie in one another.
pub const DEPTH_MAX: usize = 64;

/// A value.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// Two names of one object that are the same to a reader for whom upper and lower case are, as they are to many decoders: such
/// a reader takes one of the two, and nobody else knows which.
pub fn twins(object: &Map<String, Value>) -> Option<(&str, &str)> {
    let mut seen = BTreeMap::new();
    object.keys().find_map(|name| seen.insert(folded(name), name.as_str()).map(|other| (other, name.as_str())))
}

/// The same, in all objects that lie in this one, too.
pub fn twins_within(object: &Map<String, Value>) -> Option<(&str, &str)> {
    fn of(value: &Value) -> Option<(&str, &str)> {
        match value {
            Value::Object(object) => twins_within(object),
            Value::Array(all) => all.iter().find_map(of),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }
    twins(object).or_else(|| object.values().find_map(of))
}

/// What all spellings have in common that differ in case alone. Up and down again, because the long s and the sharp s have
/// more than one way.
fn folded(name: &str) -> String {
    let small = name.chars().flat_map(char::to_lowercase);
    small.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("values lie more than {DEPTH_MAX} deep in one another")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let within = self.deeper()?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(within)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let within = self.deeper()?;
        let mut all = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(within)?;
            // Which of the two counts depends on who reads it.
            if all.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} is there twice in one object")));
            }
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_is_the_same_afterwards() {
        for text in [
            "null",
            "true",
            "-7",
            "18446744073709551615",
            "1.5",
            r#""a\"\u0000é""#,
            "[]",
            r#"{"a":[1,{"b":{}}],"c":null}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "{}{}",
            "{} x",
            "NaN",
            "Infinity",
            "1e999",
            "01",
            "'a'",
            "[1,]",
            "// c\n1",
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"b":2,"a":3}}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#""\ud800""#,
            "\u{feff}{}",
            "\"a\nb\"",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"\"\xff\"").is_err() && parse(b"\xff").is_err());
    }

    #[test]
    fn names_that_differ_in_case_alone_are_twins() {
        let object = |text: &str| match parse(text.as_bytes()) {
            Ok(Value::Object(object)) => object,
            other => panic!("{text}: {other:?}"),
        };
        for text in [
            r#"{"arguments":1,"Arguments":2}"#,
            r#"{"a":1,"b":2,"A":3}"#,
            r#"{"kind":1,"\u212aind":2}"#,
            r#"{"s":1,"\u017f":2}"#,
            r#"{"\u03c3":1,"\u03c2":2}"#,
            r#"{"stra\u00dfe":1,"STRASSE":2}"#,
            r#"{"\u1e9e":1,"ss":2}"#,
        ] {
            assert!(twins(&object(text)).is_some() && twins_within(&object(text)).is_some(), "{text}");
            let deep = format!(r#"{{"a":[1,{{"b":{text}}}]}}"#);
            assert!(twins(&object(&deep)).is_none() && twins_within(&object(&deep)).is_some(), "{deep}");
        }
        for text in ["{}", r#"{"a":1,"b":{"a":1,"A_":2}}"#, r#"{"name":1,"na me":2,"n\u00e4me":3}"#] {
            assert_eq!(twins_within(&object(text)), None, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        for deep in [DEPTH_MAX + 1, 100_000] {
            assert!(parse(nested(deep).as_bytes()).is_err(), "{deep}");
        }
        assert!(parse("{\"a\":".repeat(100_000).as_bytes()).is_err());
    }
}
