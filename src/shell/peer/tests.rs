//! Real processes at the other end: this test program again, which plays a part that a variable names.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::agent::attest::selectors;
use crate::complete::{cannot_run, check_needs_a_tool};

/// The part that this program plays: the other end of what a test does.
const PART: &str = "HARDTACK_TEST_PEER_PART";

/// Not a test of its own: what the program does where it was started with a part.
#[test]
fn play_a_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let (what, socket) = part.split_once(' ').unwrap();
    if what == "starve" {
        return starve();
    }
    let stream = StdStream::connect(socket).unwrap();
    match what {
        // The connection lives on in a child, which nobody attested.
        "leave" => drop(Command::new("cat").stdin(Stdio::from(OwnedFd::from(stream))).spawn().unwrap()),
        "stay" => {
            let mut end = Vec::new();
            std::io::stdin().read_to_end(&mut end).unwrap();
        }
        // The same process becomes another program, which answers over the connection.
        "run-another" | "run-as-another" => {
            std::io::stdin().read_line(&mut String::new()).unwrap();
            let program: &[&str] = match what {
                "run-another" => &["cat"],
                _ => &["setpriv", "--reuid", "1001", "--regid", "1002", "--clear-groups", "cat"],
            };
            let same = OwnedFd::from(stream.try_clone().unwrap());
            let mut command = Command::new(program[0]);
            panic!("{}", command.args(&program[1..]).stdin(OwnedFd::from(stream)).stdout(same).exec());
        }
        other => panic!("no such part: {other}"),
    }
}

/// Takes every descriptor that there is, and looks for the control groups of this process.
fn starve() {
    let own = rustix::process::getpid();
    assert!(proc::cgroup(own).is_ok());
    let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert_eq!(proc::cgroup(own).unwrap_err().raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    drop(taken);
    println!("starved");
}

struct Stage {
    folder: tempfile::TempDir,
    listener: UnixListener,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, mode) in [(folder.path().to_owned(), 0o755), (folder.path().join("socket"), 0o777)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        Self { folder, listener }
    }

    fn play(&self, what: &str, by: &[&str]) -> Child {
        let own = std::env::current_exe().unwrap();
        let mut command = by.first().map_or_else(|| Command::new(&own), Command::new);
        if !by.is_empty() {
            command.args(&by[1..]).arg(&own);
        }
        command.args(["--exact", "shell::peer::tests::play_a_part", "--nocapture"]);
        command.env(PART, format!("{what} {}", self.folder.path().join("socket").display()));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn accept(&self) -> UnixStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }
}

fn attest(stream: &UnixStream) -> Attested {
    Attestor::new(Hashing::Off).attest(Caller::of(stream, Socket::Agent).unwrap(), 5)
}

/// As a kernel without SO_PEERPIDFD would have it.
fn attest_old(stream: &UnixStream) -> Attested {
    Attestor::new(Hashing::Off).attest(Caller::without_pidfd(stream, Socket::Agent).unwrap(), 5)
}

/// What is found of the process that a peer names as the holder of its task.
fn holder(attested: &Attested, named: u32) -> Result<Box<Process>, NotHolder> {
    Attestor::new(Hashing::Off).look_again(attested, Some(named)).holder.unwrap()
}

#[track_caller]
fn known(attested: &Attested) -> Process {
    match attested.evidence().process {
        Peer::Known(process) => *process,
        other @ (Peer::Gone | Peer::Unknown) => panic!("{other:?}"),
    }
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn the_kernel_names_this_very_process() {
    let (one, _other) = UnixStream::pair().unwrap();
    let attested = attest(&one);
    let (evidence, process) = (attested.evidence(), known(&attested));
    assert_eq!(evidence.uid, rustix::process::getuid().as_raw());
    assert_eq!(evidence.gid, Some(rustix::process::getgid().as_raw()));
    assert_eq!((process.id.pid, evidence.connection), (std::process::id(), Some(5)));
    assert_eq!(process.path.map(PathBuf::from), std::env::current_exe().ok());
    assert_eq!(process.cgroup, std::fs::read_to_string("/proc/self/cgroup").ok());
    assert_eq!(process.sha256, None, "nobody asked for it");
}

#[tokio::test]
async fn whose_control_groups_cannot_be_read_has_no_selector_but_its_user_and_group() {
    let (one, _other) = UnixStream::pair().unwrap();
    let with = |cgroup| {
        let attestor = Attestor { cgroup, ..Attestor::new(Hashing::Sha256) };
        attestor.attest(Caller::of(&one, Socket::Agent).unwrap(), 5).evidence()
    };
    let has_program = |seen: &[String]| seen.iter().any(|selector| selector.starts_with("unix:path:"));
    // A kernel without control groups has nobody in one.
    let nowhere = with(|_| Ok(None));
    assert!(matches!(nowhere.process, Peer::Known(_)) && has_program(&selectors(&nowhere)), "{nowhere:?}");
    // For want of a descriptor nobody knows whether it is in a container, where another program may have its path.
    let unread = with(|_| Err(rustix::io::Errno::MFILE.into()));
    assert_eq!(unread.process, Peer::Unknown);
    let kinds = ["unix:uid:", "unix:gid:", "unix:user:", "unix:group:"];
    let seen = selectors(&unread);
    assert!(seen.iter().all(|selector| kinds.iter().any(|kind| selector.starts_with(kind))), "{seen:?}");
    assert_eq!(seen[0], format!("unix:uid:{}", rustix::process::getuid().as_raw()));
}

/// All that is read needs a descriptor, and without one a process is unknown, not nowhere.
#[test]
fn without_a_descriptor_nobody_knows_where_a_process_is() {
    let output = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 16 && exec \"$0\" --exact shell::peer::tests::play_a_part --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(PART, "starve -")
        .output()
        .unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("starved"), "{output:?}");
}

#[tokio::test]
async fn without_a_pidfd_the_socket_itself_tells_whose_it_is() {
    let (one, other) = UnixStream::pair().unwrap();
    let inode = rustix::fs::fstat(&one).unwrap().st_ino;
    if let Err(error) = diag::peer_of(inode) {
        return cannot_run(&format!("this kernel has no socket diagnosis for unix sockets: {error}"));
    }
    assert_eq!(known(&attest_old(&one)), known(&attest(&one)));
    // Nobody has the other end open: then nobody is the peer.
    drop(other);
    assert_eq!(attest_old(&one).evidence().process, Peer::Unknown);
}

#[tokio::test]
async fn whoever_has_ended_is_gone_though_its_connection_lives_on() {
    let stage = Stage::new();
    let left = stage.play("leave", &[]);
    end(left);
    let stream = stage.accept();
    assert_eq!(attest(&stream).evidence().process, Peer::Gone);
    assert_eq!(attest_old(&stream).evidence().process, Peer::Unknown, "and no other is taken for it");
    assert_eq!(selectors(&attest(&stream).evidence()), Vec::<String>::new());

    let staying = stage.play("stay", &[]);
    let stream = stage.accept();
    let attested = attest(&stream);
    assert_eq!(known(&attested).id.pid, staying.id());
    end(staying);
    assert_eq!(attested.evidence().process, Peer::Gone, "asked again, on the same connection");
}

#[tokio::test]
async fn whoever_becomes_another_program_is_read_again_and_whoever_becomes_another_user_is_nobody() {
    let stage = Stage::new();
    for (part, needs_root) in [("run-another", false), ("run-as-another", true)] {
        if needs_root && !rustix::process::getuid().is_root() {
            cannot_run("only root can become another user");
            continue;
        }
        let mut child = stage.play(part, &[]);
        let mut stream = stage.accept();
        let attested = attest(&stream);
        let before = known(&attested);
        assert!(!attested.runs_another());
        child.stdin.as_mut().unwrap().write_all(b"now\n").unwrap();
        // What answers is the other program.
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let seen = Attestor::new(Hashing::Off).look_again(&attested, None);
        assert!(attested.runs_another(), "{part}");
        match seen.process {
            Peer::Known(process) if !needs_root => {
                assert_eq!(process.id, before.id);
                let path = process.path.unwrap();
                assert!(path.ends_with("cat") && before.path != Some(path), "{before:?}");
            }
            Peer::Gone if needs_root => assert_eq!(attested.evidence().process, Peer::Gone),
            other @ (Peer::Gone | Peer::Known(_) | Peer::Unknown) => panic!("{part}: {other:?}"),
        }
        drop(stream);
        end(child);
    }
}

#[tokio::test]
async fn a_number_that_is_used_again_is_another_process() {
    let stage = Stage::new();
    let left = stage.play("leave", &[]);
    let number = left.id();
    let raw = super::number(number).unwrap();
    let started = proc::stat(raw).unwrap().started;
    end(left);
    let stream = stage.accept();
    let Some(other) = with_number(number) else {
        return cannot_run("no process can be given a number: that needs root, and /proc/sys/kernel/ns_last_pid");
    };
    // It runs as the same user, and all that tells it from the one before is that it is not it.
    assert_eq!(attest(&stream).evidence().process, Peer::Gone);
    assert_eq!(attest_old(&stream).evidence().process, Peer::Unknown);
    let boot = clock::boot_id().unwrap();
    let taken = proc::stat(raw).unwrap().started;
    let before = ProcessId { boot, pid: number, started };
    // Both may have begun within one tick of the clock, which is why a pidfd is better than a time.
    if taken != started {
        assert!(hold(before).unwrap().is_none());
    }
    assert!(hold(ProcessId { started: taken, ..before }).unwrap().is_some());
    end(other);
}

/// A process with this number, if one can be had.
fn with_number(number: u32) -> Option<Child> {
    for _ in 0..200 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (number - 1).to_string()).ok()?;
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        if child.id() == number {
            return Some(child);
        }
        end(child);
    }
    None
}

#[tokio::test]
async fn another_user_with_its_groups() {
    let stage = Stage::new();
    let by = ["setpriv", "--reuid", "1001", "--regid", "1002", "--groups", "20,44,7001"];
    let can = |program: &[&str]| {
        let mut run = Command::new(program[0]);
        run.args(&program[1..]).arg(std::env::current_exe().unwrap()).arg("--list");
        let status = run.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !can(&by) {
        return cannot_run("nobody may run this program as another user: that needs root and setpriv");
    }
    let child = stage.play("stay", &by);
    let stream = stage.accept();
    let attested = attest(&stream);
    let process = known(&attested);
    let groups: Vec<u32> = process.groups.iter().map(|(gid, _)| *gid).collect();
    assert_eq!(((attested.evidence().uid, attested.evidence().gid), groups), ((1001, Some(1002)), vec![20, 44, 7001]));
    let seen = selectors(&attested.evidence());
    for expected in ["unix:uid:1001", "unix:gid:1002", "unix:supplementary_gid:20", "unix:supplementary_gid:7001"] {
        assert!(seen.iter().any(|selector| selector == expected), "{expected} in {seen:?}");
    }
    // This process is its parent, and somebody else.
    assert_eq!(holder(&attested, std::process::id()), Err(NotHolder::OtherUser));
    end(child);
}

#[test]
fn a_complete_run_fails_where_a_tool_is_missing() {
    check_needs_a_tool("shell::peer::tests::another_user_with_its_groups");
}

#[tokio::test]
async fn a_holder_is_an_ancestor_and_nobody_else() {
    let stage = Stage::new();
    let (child, stranger) = (stage.play("stay", &[]), stage.play("stay", &[]));
    let (one, other) = (attest(&stage.accept()), attest(&stage.accept()));
    let attested = if known(&one).id.pid == child.id() { one } else { other };
    let own = holder(&attested, child.id()).unwrap();
    assert_eq!(*own, known(&attested));
    let parent = holder(&attested, std::process::id()).unwrap();
    assert_eq!(parent.id.pid, std::process::id());
    assert_eq!(parent.id.started, proc::stat(super::number(std::process::id()).unwrap()).unwrap().started);
    for pid in [stranger.id(), u32::MAX, 0] {
        assert!(matches!(holder(&attested, pid), Err(NotHolder::NotAncestor | NotHolder::Gone)), "{pid}");
    }
    end(child);
    assert_eq!(holder(&attested, std::process::id()), Err(NotHolder::Gone));
    end(stranger);
}

/// A copy of a program. Were it written by this process, one that another test starts meanwhile could have it open, and nobody
/// could run it.
fn copy(name: &str, to: &Path) {
    let folders = ["/usr/bin", "/bin"].into_iter();
    let original = folders.map(|folder| Path::new(folder).join(name)).find(|path| path.exists()).unwrap();
    assert!(Command::new("cp").args([&original, to]).status().unwrap().success());
}

#[test]
fn who_runs_another_file_of_the_same_name_runs_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let (path, next) = (folder.path().join("meter"), folder.path().join("next"));
    copy("sh", &path);
    copy("cat", &next);
    let mut child = Command::new(&path)
        .args(["-c", r#"echo ready; read line; exec "$0""#])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = super::number(child.id()).unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let before = proc::runs(pid).unwrap();
    std::fs::rename(&next, &path).unwrap();
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(b"now\n").unwrap();
    // What answers is the other one.
    stdin.write_all(b"x\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "x");
    let after = proc::runs(pid).unwrap();
    assert_ne!(before, after);
    assert_eq!(proc::program(pid).map(PathBuf::from), Some(path));
    end(child);
}

#[test]
fn a_path_counts_only_while_it_names_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meter");
    copy("cat", &path);
    let child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = super::number(child.id()).unwrap();
    let digests = Digests::default();
    let before = digests.of(pid);
    assert_eq!(proc::program(pid).map(PathBuf::from), Some(path.clone()));
    // Another program takes its place: the path names that one now, and what runs is hashed, not what is named.
    let next = folder.path().join("next");
    std::fs::write(&next, "another").unwrap();
    std::fs::rename(&next, &path).unwrap();
    assert_eq!(proc::program(pid), None);
    assert!(before.is_some());
    assert_eq!(Digests::default().of(pid), before);
    end(child);
}
