//! What does not check out, in sentences.
//!
//! Owns: [`Problems`]: how many are listed, and that those beyond are counted.
//! Never: drops one without a trace.
//! Read next: `../report.rs`.

/// What does not check out. A file that is wrong in every line makes no list that is as long.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    listed: Vec<String>,
    /// Those beyond [`Self::MAX`].
    unlisted: u64,
}

impl Problems {
    /// The most that are listed.
    pub const MAX: usize = 32;

    /// Adds one.
    pub fn push(&mut self, problem: String) {
        match self.listed.len() < Self::MAX {
            true => self.listed.push(problem),
            false => self.unlisted = self.unlisted.saturating_add(1),
        }
    }

    /// Adds those of a part, each named after it.
    pub fn join(&mut self, part: &str, problems: Self) {
        problems.listed.into_iter().for_each(|problem| self.push(format!("{part}: {problem}")));
        self.unlisted = self.unlisted.saturating_add(problems.unlisted);
    }

    /// Whether everything checks out.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// How many there are, listed or not.
    pub fn count(&self) -> u64 {
        (self.listed.len() as u64).saturating_add(self.unlisted)
    }

    /// One line each, and one that counts those that are not listed.
    pub fn words(&self) -> Vec<String> {
        let more = (self.unlisted > 0).then(|| format!("and {} things more", self.unlisted));
        self.listed.iter().cloned().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_counted() {
        let mut problems = Problems::default();
        assert_eq!((problems.is_empty(), problems.count(), problems.words()), (true, 0, vec![]));
        (0..Problems::MAX + 3).for_each(|number| problems.push(number.to_string()));
        assert_eq!((problems.count(), problems.words().len()), (35, Problems::MAX + 1));
        let mut whole = Problems::default();
        whole.push("first".into());
        whole.join("branch", problems);
        assert_eq!(whole.count(), 36);
        let words = whole.words();
        let ends = (words.get(1), words.last());
        assert_eq!(ends, (Some(&"branch: 0".to_owned()), Some(&"and 4 things more".to_owned())));
    }
}
