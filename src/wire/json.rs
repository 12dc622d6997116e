//! JSON of strangers: bounded, and each name once.
//!
//! Owns: [`Json`], an object that was read, and its bounds.
//! Never: takes the first, or the last, of two members of one name: who signed it may have meant the other.
//! Read next: `identity.rs`, which looks into it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::Deserializer;

/// How deep lists and objects may be nested.
const DEPTH_MAX: usize = 8;
/// How many values there may be, all together.
const VALUES_MAX: usize = 512;

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Json {
    /// `true`, `false` or `null`: none of them says anything that is looked for.
    Other,
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, its members in their order.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// A member of an object.
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            Self::Other | Self::Number(_) | Self::Text(_) | Self::List(_) => None,
        }
    }
}

/// Reads an object, and nothing after it.
///
/// # Errors
/// What is wrong, for people.
pub fn object(bytes: &[u8]) -> Result<Json, String> {
    let values = Cell::new(VALUES_MAX);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Bounded { depth: DEPTH_MAX, values: &values }.deserialize(&mut reader);
    let value = read.and_then(|value| reader.end().map(|()| value)).map_err(|error| error.to_string())?;
    match value {
        Json::Object(_) => Ok(value),
        Json::Other | Json::Number(_) | Json::Text(_) | Json::List(_) => Err("it is no JSON object".into()),
    }
}

/// What is left of the bounds.
#[derive(Clone, Copy)]
struct Bounded<'b> {
    depth: usize,
    values: &'b Cell<usize>,
}

impl Bounded<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom(format!("it is nested more than {DEPTH_MAX} deep")))?;
        Ok(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Json;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let left = self.values.get().checked_sub(1);
        self.values.set(left.ok_or_else(|| D::Error::custom(format!("it has more than {VALUES_MAX} values")))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let (inner, mut list) = (self.deeper()?, Vec::new());
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let (inner, mut object) = (self.deeper()?, Vec::<(String, Json)>::new());
        while let Some(name) = members.next_key::<String>()? {
            if object.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom("a name stands in it twice"));
            }
            object.push((name, members.next_value_seed(inner)?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_within_bounds_and_each_name_once() {
        let read = object(br#"{"a": [1, -2.5, "x", null, true], "b": {"c": "d"}}"#).unwrap();
        let list = vec![Json::Number(1.0), Json::Number(-2.5), Json::Text("x".into()), Json::Other, Json::Other];
        assert_eq!(read.get("a"), Some(&Json::List(list)));
        assert_eq!(read.get("b").and_then(|inner| inner.get("c")), Some(&Json::Text("d".into())));
        assert_eq!((read.get("c"), Json::Other.get("a")), (None, None));
        let nested = |depth: usize| format!("{}{}", "{\"a\":".repeat(depth), "1") + &"}".repeat(depth);
        assert!(object(nested(DEPTH_MAX).as_bytes()).is_ok());
        let many = |values: usize| format!("{{\"a\":[{}]}}", vec!["1"; values].join(","));
        assert!(object(many(VALUES_MAX - 2).as_bytes()).is_ok());
        for (text, what) in [
            (nested(DEPTH_MAX + 1), "nested"),
            (nested(5000), "nested"),
            (many(VALUES_MAX - 1), "values"),
            (r#"{"a":1,"a":2}"#.into(), "twice"),
            (r#"{"a":{"b":1,"\u0062":2}}"#.into(), "twice"),
            ("[]".into(), "no JSON object"),
            ("{} {}".into(), "trailing"),
            ("{\"a\":\"\u{1}\"}".into(), "control character"),
            ("{\"a\":1e999}".into(), "number"),
            (String::new(), "EOF"),
        ] {
            let why = object(text.as_bytes()).unwrap_err();
            assert!(why.contains(what), "{text:.40}: {why}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }
}
