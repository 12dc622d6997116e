//! A trace of strace, read as what happened to the files of one folder, in order.
//!
//! Owns: which calls are traced and how, and their meaning.
//! Never: knows what a disk keeps of them: `disk.rs` does.
//!
//! A call that other threads' calls cut in two has two moments. A change may be on the disk from where its call began; a
//! sync promises what had ended when it began, and it promises that from where it ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of strace: every call that changes or syncs a file, and the markers, with all their bytes.
pub(crate) const OPTIONS: [&str; 7] = ["-f", "-y", "-xx", "-s", "16777216", "-e", TRACED];
const TRACED: &str =
    "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,\
                      symlink,symlinkat,lseek,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,\
                      copy_file_range,sendfile,fsync,fdatasync,sync_file_range,sendto";

/// What a call did. Paths are below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A file is opened, and made if there is none.
    Create(PathBuf),
    /// A folder is made.
    MakeDir(PathBuf),
    /// Something has another name now.
    Rename(PathBuf, PathBuf),
    /// A file or an empty folder loses its name.
    Remove(PathBuf),
    /// A file gets a length.
    Resize(PathBuf, u64),
    /// All of a file's data that was written before, or of a folder's names, is durable.
    Sync(PathBuf),
    /// A sync failed: what it was to make durable never will be, though later syncs succeed.
    SyncFailed(PathBuf),
    /// Somebody was told something.
    Told(Vec<u8>),
    /// Bytes are written at an offset.
    Write(PathBuf, u64, Vec<u8>),
}

impl Deed {
    /// In a few words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Create(path) => format!("create {}", path.display()),
            Self::MakeDir(path) => format!("mkdir {}", path.display()),
            Self::Remove(path) => format!("remove {}", path.display()),
            Self::Rename(from, to) => format!("rename {} to {}", from.display(), to.display()),
            Self::Resize(path, len) => format!("resize {} to {len}", path.display()),
            Self::Sync(path) => format!("sync {}", path.display()),
            Self::SyncFailed(path) => format!("fail to sync {}", path.display()),
            Self::Told(bytes) => format!("tell {}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)])),
            Self::Write(path, offset, bytes) => format!("write {} {offset}+{}", path.display(), bytes.len()),
        }
    }
}

/// A deed and the lines of the trace where its call began and ended; that is never for one that the process did not
/// live to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) began: usize,
    pub(crate) ended: usize,
    pub(crate) deed: Deed,
}

/// Everything that happened below `root`, in the order in which it may count.
pub(crate) fn read(trace: &str, root: &Path) -> Result<Vec<Seen>, String> {
    let mut positions = BTreeMap::new();
    let mut seen = Vec::new();
    for call in calls(trace) {
        let found = deed(&call, root, &mut positions).map_err(|why| format!("{why} in {}", shorten(&call.text)))?;
        seen.extend(found.map(|deed| Seen { began: call.began, ended: call.ended, deed }));
    }
    seen.sort_by_key(|seen| match seen.deed {
        Deed::Sync(_) | Deed::SyncFailed(_) => seen.ended,
        Deed::Create(_)
        | Deed::MakeDir(_)
        | Deed::Remove(_)
        | Deed::Rename(..)
        | Deed::Resize(..)
        | Deed::Told(_)
        | Deed::Write(..) => seen.began,
    });
    Ok(seen)
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

struct Call {
    began: usize,
    ended: usize,
    /// As strace shows it, on one line.
    text: String,
}

/// The calls of a trace in the order in which they began.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open = BTreeMap::<&str, usize>::new();
    for (line, text) in trace.lines().enumerate() {
        let Some((pid, text)) = text.split_once(' ') else { continue };
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            continue;
        }
        if let Some((_, rest)) = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>")) {
            let Some(call) = open.remove(pid).and_then(|call| calls.get_mut(call)) else { continue };
            call.text.push_str(rest);
            call.ended = line;
        } else if let Some(begin) = text.strip_suffix("<unfinished ...>") {
            open.insert(pid, calls.len());
            calls.push(Call { began: line, ended: usize::MAX, text: begin.to_owned() });
        } else {
            calls.push(Call { began: line, ended: line, text: text.to_owned() });
        }
    }
    calls
}

fn deed(call: &Call, root: &Path, positions: &mut BTreeMap<u64, u64>) -> Result<Option<Deed>, String> {
    let Some((name, rest)) = call.text.split_once('(') else { return Ok(None) };
    // One whose process was killed in the middle has no result: what it was to do may be done, and nothing is promised.
    let (args, result) = match rest.rsplit_once(" = ") {
        Some((args, "?")) => (args.trim_end().trim_end_matches(')').trim_end(), None),
        Some((args, result)) if call.ended != usize::MAX => {
            (args.trim_end().trim_end_matches(')').trim_end(), Some(result))
        }
        _ => (rest.trim_end(), None),
    };
    let args: Vec<&str> = args.split(", ").collect();
    let failed = result.is_some_and(|result| result.starts_with('-'));
    let arg = |at: usize| args.get(at).copied().ok_or_else(|| format!("no argument {at}"));
    let number = |at: usize| arg(at)?.parse::<u64>().map_err(|error| format!("argument {at}: {error}"));
    let below = |path: PathBuf| path.strip_prefix(root).ok().map(Path::to_path_buf);
    let at = |dir: Option<usize>, path: usize| -> Result<Option<PathBuf>, String> {
        let path = PathBuf::from(text(arg(path)?)?);
        let base = dir.map(|dir| arg(dir).and_then(descriptor)).transpose()?;
        Ok(below(base.map_or_else(|| path.clone(), |(_, base)| base.join(&path))))
    };
    let of_descriptor = || -> Result<(u64, Option<PathBuf>), String> {
        let (number, path) = descriptor(arg(0)?)?;
        Ok((number, below(path)))
    };
    let done = match name {
        "fsync" | "fdatasync" => {
            let (Some(path), Some(_)) = (of_descriptor()?.1, result) else { return Ok(None) };
            return Ok(Some(if failed { Deed::SyncFailed(path) } else { Deed::Sync(path) }));
        }
        _ if failed => return Ok(None),
        "sendto" => return Ok(Some(Deed::Told(bytes(arg(1)?)?))),
        "open" | "creat" | "openat" => {
            let dir = (name == "openat").then_some(0);
            let path = usize::from(name == "openat");
            let flags = if name == "creat" { "O_CREAT|O_TRUNC" } else { arg(path + 1)? };
            if let Some(Ok((number, _))) = result.map(descriptor) {
                positions.insert(number, 0);
            }
            let has = |flag: &str| flags.split('|').any(|set| set == flag);
            match at(dir, path)? {
                Some(_) if has("O_APPEND") => return Err("appending is not modelled".into()),
                Some(file) if has("O_TRUNC") => Some(Deed::Resize(file, 0)),
                Some(file) if has("O_CREAT") => Some(Deed::Create(file)),
                Some(_) | None => None,
            }
        }
        "mkdir" => at(None, 0)?.map(Deed::MakeDir),
        "mkdirat" => at(Some(0), 1)?.map(Deed::MakeDir),
        "unlink" | "rmdir" => at(None, 0)?.map(Deed::Remove),
        "unlinkat" => at(Some(0), 1)?.map(Deed::Remove),
        "rename" | "renameat" | "renameat2" => {
            let (from, to) = match name {
                "rename" => (at(None, 0)?, at(None, 1)?),
                _ => (at(Some(0), 1)?, at(Some(2), 3)?),
            };
            match (from, to) {
                (Some(from), Some(to)) => Some(Deed::Rename(from, to)),
                (None, None) => None,
                (Some(path), None) | (None, Some(path)) => {
                    return Err(format!("{} crosses the folder", path.display()))
                }
            }
        }
        "ftruncate" => of_descriptor()?.1.map(|path| number(1).map(|len| Deed::Resize(path, len))).transpose()?,
        "truncate" => at(None, 0)?.map(|path| number(1).map(|len| Deed::Resize(path, len))).transpose()?,
        "lseek" => {
            let position = result.and_then(|result| result.parse().ok()).unwrap_or(0);
            positions.insert(of_descriptor()?.0, position);
            None
        }
        "write" | "pwrite64" => {
            let (file, path) = of_descriptor()?;
            let mut content = bytes(arg(1)?)?;
            content.truncate(result.and_then(|result| result.parse().ok()).unwrap_or(content.len()));
            let offset = match name {
                "write" => {
                    let position = positions.entry(file).or_default();
                    *position += content.len() as u64;
                    *position - content.len() as u64
                }
                _ => number(3)?,
            };
            path.map(|path| Deed::Write(path, offset, content))
        }
        // It starts the writing of pages and promises nothing.
        "sync_file_range" => None,
        // None of ours makes these; if it ever does, this has to learn what they mean.
        _ => {
            let touched = args.iter().filter_map(|arg| descriptor(arg).ok()).any(|(_, path)| below(path).is_some());
            let named = args.iter().filter_map(|arg| text(arg).ok()).any(|text| below(text.into()).is_some());
            return if touched || named { Err("a call without a meaning".into()) } else { Ok(None) };
        }
    };
    Ok(done)
}

/// A file descriptor and what it stands for: `7<\x2f\x61>`.
fn descriptor(arg: &str) -> Result<(u64, PathBuf), String> {
    let (number, path) = arg.split_once('<').ok_or("no descriptor")?;
    let path = unescape(path.strip_suffix('>').ok_or("no descriptor")?)?;
    // The working folder has no number, and is named by its path only.
    Ok((number.parse().unwrap_or(u64::MAX), PathBuf::from(String::from_utf8(path).map_err(|_| "a strange path")?)))
}

fn text(arg: &str) -> Result<String, String> {
    String::from_utf8(bytes(arg)?).map_err(|error| error.to_string())
}

fn bytes(arg: &str) -> Result<Vec<u8>, String> {
    let inside = arg.strip_prefix('"').and_then(|arg| arg.strip_suffix('"')).ok_or("no whole string")?;
    unescape(inside)
}

/// The bytes of `\x2f\x61`.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| (byte as char).to_digit(16).ok_or("no hexadecimal digit");
    let byte = |quad: &[u8]| match quad {
        [b'\\', b'x', high, low] => Ok((digit(*high)? * 16 + digit(*low)?) as u8),
        _ => Err("no escaped byte"),
    };
    Ok(text.as_bytes().chunks(4).map(byte).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hexed(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// `'text'` stands for a string, `<text>` for a descriptor's path, as strace shows them.
    fn line(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['\'', '{']) {
            let (open, close) = if rest.as_bytes()[at] == b'{' { ('<', '>') } else { ('"', '"') };
            let end = at + 1 + rest[at + 1..].find(['\'', '}']).unwrap();
            out += &format!("{}{open}{}{close}", &rest[..at], hexed(&rest[at + 1..end]));
            rest = &rest[end + 1..];
        }
        out + rest
    }

    #[test]
    fn calls_are_read_as_deeds() {
        let file = || PathBuf::from("a");
        let cases: [(&str, Option<Deed>); 17] = [
            ("mkdir('/r/d', 0700) = 0", Some(Deed::MakeDir("d".into()))),
            ("mkdir('/r/d', 0700) = -1 EEXIST (File exists)", None),
            ("mkdir('/s/d', 0700) = 0", None),
            ("openat(AT_FDCWD{/}, '/r/a', O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3{/r/a}", Some(Deed::Create(file()))),
            ("openat(AT_FDCWD{/}, '/r/a', O_RDWR|O_CREAT|O_TRUNC, 0600) = 3{/r/a}", Some(Deed::Resize(file(), 0))),
            ("openat(AT_FDCWD{/}, '/r/a', O_RDONLY|O_CLOEXEC) = 3{/r/a}", None),
            ("write(3{/r/a}, 'xyz', 3) = 2", Some(Deed::Write(file(), 0, b"xy".to_vec()))),
            ("write(3{/r/a}, 'uv', 2) = 2", Some(Deed::Write(file(), 2, b"uv".to_vec()))),
            ("pwrite64(3{/r/a}, 'uv', 2, 512) = 2", Some(Deed::Write(file(), 512, b"uv".to_vec()))),
            ("ftruncate(3{/r/a}, 9) = 0", Some(Deed::Resize(file(), 9))),
            ("fdatasync(3{/r/a}) = 0", Some(Deed::Sync(file()))),
            ("fsync(3{/r/a}) = -1 EIO (Input/output error) (INJECTED)", Some(Deed::SyncFailed(file()))),
            ("sync_file_range(3{/r/a}, 0, 512, SYNC_FILE_RANGE_WRITE) = 0", None),
            ("rename('/r/a', '/r/b') = 0", Some(Deed::Rename(file(), "b".into()))),
            ("renameat2(AT_FDCWD{/r}, 'a', AT_FDCWD{/r}, 'b', RENAME_NOREPLACE) = 0", {
                Some(Deed::Rename(file(), "b".into()))
            }),
            ("unlinkat(5{/r/d}, 'a', AT_REMOVEDIR) = 0", Some(Deed::Remove("d/a".into()))),
            ("sendto(4{socket:[7]}, 'hi', 2, 0, NULL, 0) = 2", Some(Deed::Told(b"hi".to_vec()))),
        ];
        let trace: String = cases.iter().map(|(text, _)| format!("7 {}\n", line(text))).collect();
        let found: Vec<_> = read(&trace, Path::new("/r")).unwrap().into_iter().map(|seen| seen.deed).collect();
        assert_eq!(found, cases.into_iter().filter_map(|(_, deed)| deed).collect::<Vec<_>>());
        for unknown in ["fallocate(3{/r/a}, 0, 0, 9) = 0", "linkat(AT_FDCWD{/}, '/r/a', AT_FDCWD{/}, '/r/b', 0) = 0"] {
            assert!(read(&format!("7 {}\n", line(unknown)), Path::new("/r")).is_err(), "{unknown}");
        }
        assert!(read(&format!("7 {}\n", line("fallocate(3{/s/a}, 0, 0, 9) = 0")), Path::new("/r")).is_ok());
    }

    #[test]
    fn a_call_that_was_cut_in_two_begins_and_ends_where_it_did() {
        let lines = [
            ("1", "fdatasync(3{/r/a} <unfinished ...>"),
            ("2", "pwrite64(3{/r/a}, 'b', 1, 0 <unfinished ...>"),
            ("1", "<... fdatasync resumed>) = 0"),
            ("2", "<... pwrite64 resumed>) = 1"),
            ("2", "pwrite64(3{/r/a}, 'c', 1, 1 <unfinished ...>"),
            ("1", "fsync(3{/r/a} <unfinished ...>"),
            ("1", "<... fsync resumed>) = ?"),
            ("2", "<... pwrite64 resumed>) = ?"),
            ("1", "+++ killed by SIGKILL +++"),
        ];
        let trace: String = lines.iter().map(|(pid, text)| format!("{pid} {}\n", line(text))).collect();
        let found = read(&trace, Path::new("/r")).unwrap();
        let write = |offset, byte: u8| Deed::Write("a".into(), offset, vec![byte]);
        let seen = |began, ended, deed| Seen { began, ended, deed };
        assert_eq!(
            found,
            [seen(1, 3, write(0, b'b')), seen(0, 2, Deed::Sync("a".into())), seen(4, 7, write(1, b'c')),]
        );
    }
}
