//! Files of `/proc/<pid>`, read and taken apart.
//!
//! Owns: how much of them is read, and what in them counts.
//! Never: says whose they are: whoever asks holds the process while they are read.
//! Read next: `peer.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::Pid;

/// The most steps from a process to an ancestor that is looked for.
pub const ANCESTORS_MAX: usize = 64;
/// The most bytes of one file. A process with more groups than fit has none that counts.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The longest program path that is taken over.
const PATH_BYTES_MAX: usize = 1024;
/// The most open files of a process that are looked through for a socket.
const OPEN_FILES_MAX: usize = 4096;

/// What `stat` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// The process that it descends from, none for the first.
    pub parent: Option<Pid>,
    /// The leader of its group of processes.
    pub group: Option<Pid>,
    /// When it began, in clock ticks since the kernel did.
    pub started: u64,
}

/// What `status` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    uids: [u32; 4],
    gids: [u32; 4],
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its numbers: in the pid namespace of this `/proc`, and in each one below that it is in, down to its own.
    pub numbers: Vec<u32>,
}

impl Status {
    /// Whether it runs as this user and group, in every way that the kernel tells apart.
    pub fn is_all(&self, uid: u32, gid: u32) -> bool {
        self.uids == [uid; 4] && self.gids == [gid; 4]
    }
}

/// The whole of a file, unless it is too long or no text.
fn read(pid: Pid, name: &str) -> io::Result<String> {
    let file = File::open(format!("/proc/{pid}/{name}"))?;
    let mut text = String::new();
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    let whole = u64::try_from(bytes).is_ok_and(|bytes| bytes <= FILE_BYTES_MAX);
    whole.then_some(text).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

/// What `stat` says of a process.
pub fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&read(pid, "stat").ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name of the program may hold anything, spaces and brackets too.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let pid = |field: &&str| field.parse::<i32>().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw);
    // Counted from the third, which is the first behind the name.
    let (parent, group) = (fields.get(1)?, fields.get(2)?);
    Some(Stat { parent: pid(parent), group: pid(group), started: fields.get(19)?.parse().ok()? })
}

/// What `status` says of a process.
pub fn status(pid: Pid) -> Option<Status> {
    parse_status(&read(pid, "status").ok()?)
}

fn parse_status(text: &str) -> Option<Status> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let numbers = |name| {
        let parsed: Result<Vec<u32>, _> = line(name)?.split_ascii_whitespace().map(str::parse).collect();
        parsed.ok()
    };
    let four = |name| numbers(name)?.try_into().ok();
    // A kernel without pid namespaces has one number for it.
    let own = numbers("NSpid").or_else(|| numbers("Pid"))?;
    Some(Status { uids: four("Uid")?, gids: four("Gid")?, groups: numbers("Groups")?, numbers: own })
}

/// The user and group that a process runs as, in the way that counts when it opens a file.
pub fn owner(pid: Pid) -> Option<(u32, u32)> {
    let found = std::fs::metadata(format!("/proc/{pid}")).ok()?;
    Some((found.uid(), found.gid()))
}

/// The file that a process runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// What the kernel calls it, whatever that is called where this looks.
    path: PathBuf,
    /// Device and number: another file that has taken the name is another program.
    file: (u64, u64),
}

/// What a process runs.
pub fn runs(pid: Pid) -> Option<Program> {
    let exe = format!("/proc/{pid}/exe");
    let (path, found) = (std::fs::read_link(&exe).ok()?, std::fs::metadata(&exe).ok()?);
    Some(Program { path, file: (found.dev(), found.ino()) })
}

/// Which control groups a process is in; none where the kernel has none.
///
/// # Errors
/// When that cannot be read now, for want of a descriptor perhaps: then nobody knows.
pub fn cgroup(pid: Pid) -> io::Result<Option<String>> {
    match read(pid, "cgroup") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The path of a process's program, if it names here the very file that runs: in a container, or after an update, it is
/// another.
pub fn program(pid: Pid) -> Option<String> {
    let Program { path, file } = runs(pid)?;
    let named = std::fs::metadata(&path).ok()?;
    let text = path.into_os_string().into_string().ok()?;
    (file == (named.dev(), named.ino()) && text.len() <= PATH_BYTES_MAX).then_some(text)
}

/// Whether a process has a socket open.
pub fn has_socket(pid: Pid, inode: u64) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let wanted = format!("socket:[{inode}]");
    let is_it =
        |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == &*wanted);
    open.take(OPEN_FILES_MAX).filter_map(Result::ok).any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_program_is_called() {
        let fields = "S 41 40 40 34816 41 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0 18446744073709551615";
        let expected = Stat { parent: Pid::from_raw(41), group: Pid::from_raw(40), started: 987_654 };
        for name in ["meter", "a b", "a) S 1 (b", "((", "\u{1F980}) "] {
            assert_eq!(parse_stat(&format!("42 ({name}) {fields}\n")), Some(expected), "{name:?}");
        }
        for broken in ["", "42 (meter)", "42 (meter) S", "42 (meter) S 1 1 1 x"] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
        let first = parse_stat(&format!("1 (init) {}", fields.replace("S 41 40", "S 0 0"))).unwrap();
        assert_eq!((first.parent, first.group), (None, None));
    }

    #[test]
    fn a_user_counts_only_if_it_is_the_same_in_every_way() {
        let text = |uids: &str, groups: &str| {
            format!("Name:\tx\nPid:\t70\nUid:\t{uids}\nGid:\t100\t100\t100\t100\nGroups:\t{groups}\n")
        };
        let plain = parse_status(&text("1001\t1001\t1001\t1001", "20 44 ")).unwrap();
        assert_eq!(plain.groups, [20, 44]);
        assert_eq!(plain.numbers, [70], "a kernel without pid namespaces");
        let below = parse_status(&format!("{}NSpid:\t70\t12\t1\n", text("1\t1\t1\t1", ""))).unwrap();
        assert_eq!(below.numbers, [70, 12, 1]);
        assert!(plain.is_all(1001, 100));
        assert!(!plain.is_all(1001, 101) && !plain.is_all(1002, 100));
        for uids in ["1001\t0\t0\t0", "1001\t1001\t0\t1001", "0\t1001\t1001\t1001"] {
            assert!(!parse_status(&text(uids, "")).unwrap().is_all(1001, 100), "{uids}");
        }
        for broken in [text("1001", ""), text("1\t2\t3\tx", ""), text("1\t1\t1\t1", "x"), String::new()] {
            assert_eq!(parse_status(&broken), None, "{broken:?}");
        }
    }
}
