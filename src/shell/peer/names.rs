//! Names of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Owns: reading them again when they have changed.
//! Never: asks a directory service: it may be as far away as the uplink.
//! Read next: `../peer.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The most bytes of either file. Of a longer one there are no names.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Both tables.
#[derive(Debug)]
pub(super) struct Names {
    users: Table,
    groups: Table,
}

impl Default for Names {
    fn default() -> Self {
        Self { users: Table::of("/etc/passwd"), groups: Table::of("/etc/group") }
    }
}

impl Names {
    pub(super) fn user(&self, uid: u32) -> Option<String> {
        self.users.name(uid)
    }

    pub(super) fn group(&self, gid: u32) -> Option<String> {
        self.groups.name(gid)
    }
}

/// The number of a group, of its name or its number as text.
pub(in crate::shell) fn group_number(group: &str) -> Option<u32> {
    let named =
        || numbers(Path::new("/etc/group")).ok()?.into_iter().find_map(|(gid, name)| (name == group).then_some(gid));
    group.parse().ok().or_else(named)
}

/// One file: lines of `name:x:number:…`.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    read: Mutex<(Option<Seen>, BTreeMap<u32, String>)>,
}

/// The state of a file that was read.
type Seen = (u64, u64, u64, (i64, i64), (i64, i64));

impl Table {
    fn of(path: &str) -> Self {
        Self { path: path.into(), read: Mutex::default() }
    }

    fn name(&self, number: u32) -> Option<String> {
        // The tables are whole between any two statements.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::fs::metadata(&self.path).ok().map(|meta| {
            (meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
        });
        if read.0 != now {
            match numbers(&self.path) {
                Ok(numbers) => *read = (now, numbers),
                // It is looked at again for the next caller, and nobody has a name meanwhile that may be another's by now.
                Err(_) => *read = (None, BTreeMap::new()),
            }
        }
        read.1.get(&number).cloned()
    }
}

fn numbers(path: &Path) -> io::Result<BTreeMap<u32, String>> {
    let mut text = String::new();
    let bytes = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(bytes).map_or(true, |bytes| bytes > FILE_BYTES_MAX) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut named = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, number) = (fields.next(), fields.nth(1).and_then(|number| number.parse().ok()));
        if let (Some(name), Some(number)) = (name, number) {
            // The first one counts, as it does for everybody else who reads this file.
            named.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        std::fs::write(&path, "root:x:0:0::/:/bin/sh\nmeter:x:1001:100::/:/bin/sh\nalias:x:1001:1::/:\n+\nbad:x:y:\n")
            .unwrap();
        let table = Table::of(path.to_str().unwrap());
        assert_eq!(table.name(1001).as_deref(), Some("meter"));
        assert_eq!(table.name(0).as_deref(), Some("root"));
        assert_eq!(table.name(7), None);
        std::fs::write(&path, "pump:x:1001:100::/:/bin/sh\nlonger:x:7:100::/:/bin/sh\n").unwrap();
        assert_eq!((table.name(1001).as_deref(), table.name(7).as_deref()), (Some("pump"), Some("longer")));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(table.name(1001), None);
        // What cannot be read now is looked at again.
        let folder_of_it = path.with_extension("d");
        std::fs::create_dir(&folder_of_it).unwrap();
        std::fs::rename(&folder_of_it, &path).unwrap();
        assert_eq!(table.name(1001), None);
        assert!(table.read.lock().unwrap().0.is_none());
    }
}
