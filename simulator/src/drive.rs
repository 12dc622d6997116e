//! The memory of a drive that lies: it says that all is on the medium, and writes it there later, in the order in which it was
//! given.
//!
//! Owns: of what it was given since, moments that are spread evenly, so that a cut can leave any beginning of it.
//! Never: draws how much has reached the medium; whoever cuts the power says so.
//! Read next: `disk.rs`, whose parts are given to it.

/// The most moments that are kept, an even number.
const MOMENTS_MAX: usize = 16;

/// How much of something a cut finds on the medium: by its name, of so many moments of it, the number of the last one. By the
/// name, so that it is the same at each level, whatever else is drawn.
pub(crate) type Reaches<'a> = &'a dyn Fn(&str, u64) -> u64;

/// What was on the medium when the lie began, and what the drive was given since.
#[derive(Debug, Clone)]
pub(crate) struct Memory<T> {
    moments: Vec<T>,
    /// So many commits came since the first of them,
    commits: u64,
    /// of which each of so many is the next.
    every: u64,
}

impl<T> Memory<T> {
    /// The lie begins with this on the medium.
    pub(crate) fn since(medium: T) -> Self {
        Self { moments: vec![medium], commits: 0, every: 1 }
    }

    /// What was on the medium when it began.
    pub(crate) fn began(&self) -> &T {
        &self.moments[0]
    }

    /// Another commit, after which this is what it shows.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub(crate) fn takes<E>(&mut self, shown: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        self.commits += 1;
        if self.commits % self.every != 0 {
            return Ok(());
        }
        self.moments.push(shown()?);
        if self.moments.len() > MOMENTS_MAX {
            let mut number = 0;
            self.moments.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.every *= 2;
        }
        Ok(())
    }

    /// What a cut leaves. None: all that it was given had reached the medium.
    pub(crate) fn left(&self, name: &str, reaches: Reaches<'_>) -> Option<&T> {
        self.moments.get(reaches(name, self.moments.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn after(commits: u64) -> Memory<u64> {
        let mut memory = Memory::since(0);
        (1..=commits).for_each(|commit| memory.takes(|| Ok::<_, Infallible>(commit)).unwrap());
        memory
    }

    #[test]
    fn any_beginning_can_be_left_from_nothing_to_all() {
        let memory = after(3);
        let left = |last| memory.left("era", &|name, count| (name == "era" && count == 4).then_some(last).unwrap());
        assert_eq!([0, 1, 2, 3, 4].map(left), [Some(&0), Some(&1), Some(&2), Some(&3), None]);
        assert_eq!(memory.began(), &0);
    }

    #[test]
    fn of_many_commits_the_moments_are_spread_evenly() {
        for commits in [1, 15, 16, 17, 100, 1000] {
            let memory = after(commits);
            let every = memory.every;
            assert!(memory.moments.len() <= MOMENTS_MAX, "{commits}");
            assert!((0..).zip(&memory.moments).all(|(number, moment)| *moment == number * every), "{memory:?}");
            assert!(memory.moments.last().is_some_and(|last| commits - last < every), "{memory:?}");
            assert!(commits < 16 || memory.moments.len() > MOMENTS_MAX / 2, "{memory:?}");
        }
    }
}
