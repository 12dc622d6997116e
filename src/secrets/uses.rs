//! What was used when, as the proxy itself counts it.
//!
//! Owns: [`Uses`], a small table with its text form.
//! Never: says who: the agent's records do, and `report.rs` reads those. Counts for a decision.
//! Read next: `entry.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::entry::SecretName;
use crate::time::Timestamp;

/// The form of the file that this program writes.
const FORMAT: u32 = 1;

/// Uses of one secret.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Use {
    /// The first, none if there was none.
    pub first: Option<Timestamp>,
    /// The last.
    pub last: Option<Timestamp>,
    /// How often it went into a request.
    pub count: u64,
    /// How often it was asked for, and not given.
    pub refused: u64,
    /// How often an answer held it.
    pub echoes: u64,
}

/// Uses of all secrets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Uses(BTreeMap<String, Use>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    #[serde(default)]
    uses: BTreeMap<String, Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    first: Option<u64>,
    last: Option<u64>,
    count: u64,
    refused: u64,
    echoes: u64,
}

impl Uses {
    /// Uses of one.
    pub fn of(&self, name: &SecretName) -> Use {
        self.0.get(name.as_str()).copied().unwrap_or_default()
    }

    /// It went into a request.
    pub fn used(&mut self, name: &SecretName, at: Option<Timestamp>) {
        let of = self.0.entry(name.as_str().to_owned()).or_default();
        of.count += 1;
        of.first = of.first.or(at);
        of.last = of.last.max(at);
    }

    /// It was asked for, and not given.
    pub fn refused(&mut self, name: &SecretName) {
        self.0.entry(name.as_str().to_owned()).or_default().refused += 1;
    }

    /// An answer held it so often.
    pub fn echoed(&mut self, name: &SecretName, count: u64) {
        self.0.entry(name.as_str().to_owned()).or_default().echoes += count;
    }

    /// Forgets what is no entry any more. So the table is no longer than there are entries.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_there(name));
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        let date = |name: &str, at: Option<Timestamp>| at.map_or(String::new(), |at| format!("{name} = {}\n", at.0));
        let rows = self.0.iter().map(|(name, of)| {
            let Use { first, last, count, refused, echoes } = of;
            let dates = date("first", *first) + &date("last", *last);
            format!("\n[uses.{name}]\n{dates}count = {count}\nrefused = {refused}\nechoes = {echoes}\n")
        });
        format!("format = {FORMAT}\n{}", rows.collect::<String>())
    }

    /// The table of a file's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let told: Text = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if told.format != FORMAT {
            return Err(format!("it has format {}, this program reads format {FORMAT}", told.format));
        }
        let row = |(name, row): (String, Row)| {
            let name: SecretName = name.parse().map_err(|error| format!("{error}"))?;
            let Row { first, last, count, refused, echoes } = row;
            let of = Use { first: first.map(Timestamp), last: last.map(Timestamp), count, refused, echoes };
            Ok((name.as_str().to_owned(), of))
        };
        told.uses.into_iter().map(row).collect::<Result<_, String>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_and_come_back() {
        let (crm, scada): (SecretName, SecretName) = ("crm".parse().unwrap(), "scada".parse().unwrap());
        let mut uses = Uses::default();
        uses.used(&crm, Some(Timestamp(5000)));
        uses.used(&crm, None);
        // A clock that went back.
        uses.used(&crm, Some(Timestamp(4000)));
        uses.refused(&scada);
        uses.echoed(&crm, 2);
        let expected =
            Use { first: Some(Timestamp(5000)), last: Some(Timestamp(5000)), count: 3, refused: 0, echoes: 2 };
        assert_eq!(uses.of(&crm), expected);
        assert_eq!(Uses::parse(&uses.text()).unwrap(), uses);
        uses.keep(|name| name == "scada");
        assert_eq!((uses.of(&crm), uses.of(&scada).refused), (Use::default(), 1));
        assert_eq!(Uses::parse(&Uses::default().text()).unwrap(), Uses::default());
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        for (text, why) in [
            ("", "missing field"),
            ("format = 2\n", "format 2"),
            ("format = 1\nmore = 1\n", "unknown field"),
            ("format = 1\n[uses.\"../a\"]\ncount = 1\nrefused = 0\nechoes = 0\n", "no name of a secret"),
            ("format = 1\n[uses.a]\ncount = -1\nrefused = 0\nechoes = 0\n", "invalid value"),
            ("format = 1\n[uses.a]\ncount = 1\n", "missing field"),
        ] {
            let error = Uses::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
