//! What was found out lately, under a SHA-256 of what it was found out of.
//!
//! Owns: [`Recent`]: two halves, the older of which goes when the newer is full.
//! Never: says of what it holds whether that is true still.

use std::collections::BTreeMap;

/// A bounded number of findings, the latest ones.
#[derive(Debug)]
pub(super) struct Recent<T> {
    half: usize,
    newer: BTreeMap<[u8; 32], T>,
    older: BTreeMap<[u8; 32], T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T> Recent<T> {
    /// At most `entries`, and two in any case.
    pub(super) fn new(entries: usize) -> Self {
        Self { half: (entries / 2).max(1), newer: BTreeMap::new(), older: BTreeMap::new() }
    }

    pub(super) fn clear(&mut self) {
        self.newer.clear();
        self.older.clear();
    }
}

impl<T: Clone> Recent<T> {
    /// What is known, or is found now. A failure is not kept.
    ///
    /// # Errors
    /// Those of `find`.
    pub(super) fn get<E>(&mut self, key: [u8; 32], find: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if let Some(found) = self.newer.get(&key) {
            return Ok(found.clone());
        }
        let found = match self.older.remove(&key) {
            Some(found) => found,
            None => find()?,
        };
        if self.newer.len() >= self.half {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_a_failure_is_not() {
        let mut recent = Recent::new(4);
        let mut found = |key: u8| {
            let mut is_new = false;
            let value = recent.get([key; 32], || {
                is_new = true;
                if key == 9 {
                    Err(())
                } else {
                    Ok(key)
                }
            });
            (value, is_new)
        };
        assert_eq!((found(1), found(1)), ((Ok(1), true), (Ok(1), false)));
        assert_eq!((found(9), found(9)), ((Err(()), true), (Err(()), true)));
        // What is asked for stays, whatever else comes.
        for other in 2..=8 {
            assert_eq!((found(other), found(1)), ((Ok(other), true), (Ok(1), false)));
        }
        assert_eq!(found(2), (Ok(2), true), "it is long gone");
        assert!(recent.newer.len() + recent.older.len() <= 4);
    }
}
