//! Limits of a policy on what operations are done with, and what programs say of that.
//!
//! Owns: [`Limit`] as scenarios have it, its clauses, and what it says of what a program said.
//! Never: evaluates a clause: what the core makes of it is held against what is said here.
//! Read next: `check/authority.rs`, which compares.

use hardtack::wire::arguments::Arguments;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use crate::operator::HONEST;
use crate::random::below;

/// A limit of the fleet's policy on one argument of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The operation.
    pub operation: String,
    /// The argument's name.
    pub argument: String,
    /// It is a whole number, and this at the most.
    #[serde(default)]
    pub most: Option<i64>,
    /// It is one of these texts.
    #[serde(default)]
    pub only: Vec<String>,
    /// It must be said.
    #[serde(default)]
    pub needed: bool,
}

/// What a program says of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Flag,
    /// A number and a half.
    Half(i64),
    Nothing,
    Null,
    /// A whole number that is written with a point.
    Pointed(i64),
    Text(String),
    Whole(i64),
}

impl Said {
    /// The value in JSON, if anything is said.
    fn json(&self) -> Option<String> {
        match self {
            Self::Flag => Some("true".into()),
            Self::Half(number) => Some(format!("{number}.5")),
            Self::Nothing => None,
            Self::Null => Some("null".into()),
            Self::Pointed(number) => Some(format!("{number}.0")),
            Self::Text(text) => Some(format!("{text:?}")),
            Self::Whole(number) => Some(number.to_string()),
        }
    }
}

impl Limit {
    /// Whether a policy can have it.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub(crate) fn check(&self) -> Result<(), String> {
        let plain = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if ![&self.operation, &self.argument].into_iter().chain(&self.only).all(plain) {
            return Err("names and texts in `policy.limits` have letters and digits alone".into());
        }
        if self.most.is_some() != self.only.is_empty() {
            return Err(format!("the limit on {:?} needs either `most` or `only`", self.argument));
        }
        Ok(())
    }

    /// Its clauses in Datalog, to stand before what allows.
    pub(crate) fn clauses(&self) -> String {
        let Self { operation, argument, most, only, needed } = self;
        let past = most.map_or_else(|| format!("!{only:?}.contains($v)"), |most| format!("$v > {most}"));
        let mut clauses = format!("deny if operation({operation:?}), argument({argument:?}, $v), {past};\n");
        if *needed {
            clauses += &format!("check if operation($o), $o != {operation:?} or argument({argument:?}, $v);\n");
        }
        clauses
    }

    /// Whether it denies who says this. What cannot be compared is denied.
    fn denies(&self, said: &Said) -> bool {
        match (self.most, said) {
            (_, Said::Nothing | Said::Null) => self.needed,
            (Some(most), Said::Pointed(number) | Said::Whole(number)) => *number > most,
            (None, Said::Text(text)) => !self.only.contains(text),
            (Some(_), Said::Flag | Said::Half(_) | Said::Text(_))
            | (None, Said::Flag | Said::Half(_) | Said::Pointed(_) | Said::Whole(_)) => true,
        }
    }

    /// What a program says of it: mostly what it may.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Said {
        let near = self.most.unwrap_or(7);
        match below(rng, 20) {
            0 => Said::Flag,
            1 => Said::Half(near - 1),
            2 => Said::Nothing,
            3 => Said::Null,
            4 => Said::Pointed(near),
            5 => Said::Pointed(near.saturating_add(1)),
            6 => Said::Whole(near.saturating_add(1)),
            7 => Said::Text(near.to_string()),
            _ => match self.only.get(below(rng, self.only.len() as u64) as usize) {
                Some(text) => Said::Text(text.clone()),
                None => Said::Whole(near - below(rng, 100) as i64),
            },
        }
    }
}

/// What a program says of what an operation is done with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drawn(Vec<(Limit, Said)>);

impl Drawn {
    pub(crate) fn of(limits: &[Limit], operation: &str, mut rng: ChaCha8Rng) -> Self {
        let of_it = limits.iter().filter(|limit| limit.operation == operation);
        Self(of_it.map(|limit| (limit.clone(), limit.draw(&mut rng))).collect())
    }

    /// As a request has it.
    pub(crate) fn arguments(&self) -> Option<Arguments> {
        let mut arguments = Arguments::default();
        for (limit, said) in &self.0 {
            if let Some(json) = said.json() {
                arguments.push_json(&limit.argument, &json).expect(HONEST);
            }
        }
        (!arguments.is_empty()).then_some(arguments)
    }

    /// What a limit denies, if one does.
    pub(crate) fn denied(&self) -> Option<String> {
        let (limit, said) = self.0.iter().find(|(limit, said)| limit.denies(said))?;
        Some(format!(
            "{} is {said:?}, and the policy says: {}",
            limit.argument,
            limit.clauses().trim().replace('\n', " ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(most: Option<i64>, only: &[&str], needed: bool) -> Limit {
        let only = only.iter().map(|text| (*text).to_owned()).collect();
        Limit { operation: "write".into(), argument: "rpm".into(), most, only, needed }
    }

    #[test]
    fn a_limit_denies_what_is_past_it_and_what_cannot_be_compared() {
        let text = |text: &str| Said::Text(text.into());
        let (most, only) = (limit(Some(1500), &[], false), limit(None, &["bar"], false));
        for (said, by_most, by_only) in [
            (Said::Whole(1500), false, true),
            (Said::Whole(1501), true, true),
            (Said::Pointed(1500), false, true),
            (Said::Half(7), true, true),
            (Said::Flag, true, true),
            (text("1500"), true, true),
            (text("bar"), true, false),
            (Said::Null, false, false),
            (Said::Nothing, false, false),
        ] {
            assert_eq!((most.denies(&said), only.denies(&said)), (by_most, by_only), "{said:?}");
        }
        let needed = limit(Some(1500), &[], true);
        assert!(needed.denies(&Said::Nothing) && needed.denies(&Said::Null) && !needed.denies(&Said::Whole(3)));
    }

    #[test]
    fn a_limit_says_one_thing_in_plain_words() {
        let clauses = limit(Some(1500), &[], true).clauses();
        let expected = "deny if operation(\"write\"), argument(\"rpm\", $v), $v > 1500;\n\
                        check if operation($o), $o != \"write\" or argument(\"rpm\", $v);\n";
        assert_eq!(clauses, expected);
        let clauses = limit(None, &["bar", "psi"], false).clauses();
        assert!(clauses.ends_with("![\"bar\", \"psi\"].contains($v);\n"), "{clauses}");
        assert!(limit(None, &[], false).check().unwrap_err().contains("most"));
        assert!(limit(Some(1), &["a"], false).check().unwrap_err().contains("only"));
        assert!(limit(None, &["a\""], false).check().unwrap_err().contains("letters"));
    }
}
