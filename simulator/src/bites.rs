//! For each kind of fault a weakness that it alone reveals, in a world that is as small as can be.
//!
//! Owns: the table in `bites.toml`, and the worlds that it says: with the fault, without it, with another in its place.
//! Never: is in a build that is shipped.
//! Read next: `simulator/bites.toml`; `tests/bites.rs`, which judges them.

use hardtack::mutant::Mutant;
use serde::Deserialize;
use toml::{Table, Value};

use crate::Level;

/// The table, part of the program.
const TABLE: &str = include_str!("../bites.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// What all worlds begin with.
    world: Table,
    bite: Vec<Bite>,
}

/// A fault, a planted bug that it reveals, and the property that then breaks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bite {
    /// Its name, and that of its world.
    pub name: String,
    /// The planted bug.
    #[serde(deserialize_with = "mutant")]
    pub weakness: Mutant,
    /// The property that it breaks.
    pub breaks: String,
    /// At which level it does: what befalls bytes only the wire level has.
    #[serde(default)]
    pub level: Level,
    /// The fault, as a scenario file has it.
    pub fault: Table,
    /// Other faults that the story needs, and that reveal nothing by themselves.
    #[serde(default)]
    beside: Vec<Table>,
    /// Faults that reveal nothing in its place: the other direction, the other gateway.
    #[serde(default)]
    pub instead: Vec<Table>,
    /// What is otherwise in its world than in all.
    #[serde(default)]
    world: Table,
}

fn mutant<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Mutant, D::Error> {
    let name = String::deserialize(deserializer)?;
    let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    found.ok_or_else(|| serde::de::Error::custom(format!("no planted bug is called {name}")))
}

/// The whole table.
///
/// # Panics
/// Never: a test reads it.
pub fn all() -> Vec<Bite> {
    read().bite
}

fn read() -> Text {
    toml::from_str(TABLE).unwrap_or_else(|error| panic!("bites.toml: {error}"))
}

/// The world of a row by its name, with its fault, as the text of a scenario, and its level.
pub fn world(name: &str) -> Option<(String, Level)> {
    all().into_iter().find(|bite| bite.name == name).map(|bite| (bite.with(), bite.level))
}

impl Bite {
    /// The world with the fault.
    pub fn with(&self) -> String {
        self.text(Some(&self.fault))
    }

    /// The same without it.
    pub fn without(&self) -> String {
        self.text(None)
    }

    /// The same with others in its place, one in each.
    pub fn with_others(&self) -> Vec<String> {
        self.instead.iter().map(|other| self.text(Some(other))).collect()
    }

    fn text(&self, fault: Option<&Table>) -> String {
        let mut world = read().world;
        merge(&mut world, &self.world);
        let faults = fault.into_iter().chain(&self.beside).cloned().map(Value::Table);
        world.insert("fault".into(), Value::Array(faults.collect()));
        world.to_string()
    }
}

/// What is said anew takes the place of what was said.
fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (Some(_) | None, value) => drop(into.insert(key.clone(), value.clone())),
        }
    }
}
