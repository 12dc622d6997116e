//! What the kernel says about whoever is at the other end of a unix socket.
//!
//! Owns: credentials and the pidfd of a peer; reading what `/proc` says of its process, all of it between two looks at the
//! pidfd, so that nothing is read of another process that got its number; whether it still is what was read when it asks.
//! Never: believes what the peer says about itself, or decides what a selector is worth. `agent/attest.rs` does.
//! Read next: `proc.rs`, `peer/diag.rs` for kernels before 6.5, `agent/attest.rs`.
//!
//! What is read depends on what the agent may see. Without CAP_SYS_PTRACE the kernel lets nobody read which program another
//! user's process runs; with `hidepid`, or in another pid namespace, nothing of the process is seen at all. Whatever is not
//! seen attests nothing.

mod diag;
mod digest;
pub(super) mod names;

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use tokio::net::UnixStream;

use self::digest::Digests;
use self::names::Names;
use super::{clock, proc};
use crate::agent::attest::cgroup;
use crate::agent::holder::ProcessId;
use crate::agent::request::{Evidence, NotHolder, Peer, Process, Socket};
use crate::ids::BootId;

/// Where systemd says which invocation of a unit runs.
const INVOCATIONS: &str = "/run/systemd/units";

/// Whether programs are told by what they are, byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hashing {
    /// They are not.
    #[default]
    Off,
    /// By the SHA-256 of the file that runs.
    Sha256,
}

/// A peer as the kernel names it at once, before anything is read.
#[derive(Debug)]
pub struct Caller {
    socket: Socket,
    /// The user.
    pub uid: u32,
    gid: Option<u32>,
    pid: Option<Pid>,
    handle: Handle,
}

/// What a peer's process is held by.
#[derive(Debug)]
enum Handle {
    /// It has ended.
    Gone,
    /// The kernel gives none: the number of this end's socket.
    None(u64),
    /// Its pidfd.
    Pidfd(OwnedFd),
}

impl Caller {
    /// Who connected.
    ///
    /// # Errors
    /// Those of `SO_PEERCRED`.
    pub fn of(stream: &UnixStream, socket: Socket) -> io::Result<Self> {
        let mut caller = Self::without_pidfd(stream, socket)?;
        match nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerPidfd) {
            Ok(pidfd) => caller.handle = Handle::Pidfd(pidfd),
            // Kernels before 6.5 do not know it.
            Err(nix::errno::Errno::ENOPROTOOPT) => {}
            // Those before 6.16 have none for a process that was waited for. Where there is no descriptor left for it, nobody
            // knows either whether it lives: it is to connect again.
            Err(_) => caller.handle = Handle::Gone,
        }
        Ok(caller)
    }

    /// As a kernel before 6.5 says it.
    fn without_pidfd(stream: &UnixStream, socket: Socket) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let inode = rustix::fs::fstat(stream)?.st_ino;
        let gid = Some(credentials.gid());
        Ok(Self { socket, uid: credentials.uid(), gid, pid, handle: Handle::None(inode) })
    }

    /// Somebody of whom the kernel says which user it is, and no more.
    pub fn user(uid: u32, socket: Socket) -> Self {
        Self { socket, uid, gid: None, pid: None, handle: Handle::None(0) }
    }
}

/// A peer of whom everything was read that could be.
#[derive(Debug)]
pub struct Attested {
    evidence: Evidence,
    pidfd: Option<OwnedFd>,
    /// What it ran before anything else was read of it.
    ran: Option<proc::Program>,
}

impl Attested {
    /// The user who connected.
    pub fn uid(&self) -> u32 {
        self.evidence.uid
    }

    /// What was read of it, while it is what it was: of one that has ended since, or runs as somebody else, that.
    pub fn evidence(&self) -> Evidence {
        let Evidence { uid, gid, .. } = self.evidence;
        // The pidfd last: what was looked at before it was this process's, if that lives still.
        let other = self.pid().is_some_and(|pid| proc::owner(pid) != gid.map(|gid| (uid, gid)));
        let gone = other || self.pidfd.as_ref().is_some_and(has_ended);
        let process = if gone { Peer::Gone } else { self.evidence.process.clone() };
        Evidence { process, ..self.evidence.clone() }
    }

    /// Whether its process runs another program now than the one that was read.
    pub fn runs_another(&self) -> bool {
        self.pid().is_some_and(|pid| proc::runs(pid) != self.ran)
    }

    fn pid(&self) -> Option<Pid> {
        match &self.evidence.process {
            Peer::Known(process) => number(process.id.pid),
            Peer::Gone | Peer::Unknown => None,
        }
    }
}

/// Reads what there is to read of processes.
#[derive(Debug)]
pub struct Attestor {
    /// None where the kernel does not say: then no process is told from others.
    boot: Option<BootId>,
    names: Names,
    digests: Option<Digests>,
    /// Which control groups a process is in.
    cgroup: fn(Pid) -> io::Result<Option<String>>,
}

impl Attestor {
    /// One for this boot of the kernel.
    pub fn new(hashing: Hashing) -> Self {
        let digests = match hashing {
            Hashing::Off => None,
            Hashing::Sha256 => Some(Digests::default()),
        };
        Self { boot: clock::boot_of_processes(), names: Names::default(), digests, cgroup: proc::cgroup }
    }

    /// Reads who a caller is. It may wait for a disk: not for a thread that others wait for.
    pub fn attest(&self, caller: Caller, connection: u64) -> Attested {
        let Caller { socket, uid, gid, pid, handle } = caller;
        let ran = pid.and_then(proc::runs);
        let (process, pidfd) = match (handle, pid.zip(gid)) {
            (Handle::Gone, _) => (Peer::Gone, None),
            (Handle::Pidfd(pidfd), Some((pid, gid))) => (self.read(pid, &pidfd, uid, gid), Some(pidfd)),
            (Handle::None(inode), Some((pid, gid))) => match self.find(pid, inode, uid, gid) {
                Some((process, pidfd)) => (process, Some(pidfd)),
                None => (Peer::Unknown, None),
            },
            // It is in a pid namespace that is not below ours.
            (Handle::Pidfd(pidfd), None) => (Peer::Unknown, Some(pidfd)),
            (Handle::None(_), None) => (Peer::Unknown, None),
        };
        let (user, group) = (self.names.user(uid), gid.and_then(|gid| self.names.group(gid)));
        let connection = Some(connection);
        let evidence = Evidence { gid, user, group, process, connection, ..Evidence::of(socket, uid, 0) };
        Attested { evidence, pidfd, ran }
    }

    /// What is known of a peer now: where it runs another program, all is read again. With the process that it names as the
    /// holder of its task, if it names one. It may wait for a disk, as [`Self::attest`] may.
    pub fn look_again(&self, peer: &Attested, holder: Option<u32>) -> Evidence {
        let mut evidence = peer.evidence();
        let known = peer.pid().zip(peer.pidfd.as_ref()).zip(evidence.gid);
        if let Some(((pid, pidfd), gid)) = known.filter(|_| peer.runs_another() && evidence.process != Peer::Gone) {
            evidence.process = self.read(pid, pidfd, evidence.uid, gid);
        }
        evidence.holder = holder.map(|pid| self.holder(peer, &evidence, pid));
        evidence
    }

    /// The process of a peer on a kernel that gives no pidfd for it. Its number may be another's by now, so it counts only if
    /// it has the other end of the socket open, which only who has it by descent or as a gift can.
    fn find(&self, pid: Pid, inode: u64, uid: u32, gid: u32) -> Option<(Peer, OwnedFd)> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let other_end = diag::peer_of(inode).ok()?;
        if !proc::has_socket(pid, other_end) {
            return None;
        }
        match self.read(pid, &pidfd, uid, gid) {
            known @ Peer::Known(_) => Some((known, pidfd)),
            Peer::Gone | Peer::Unknown => None,
        }
    }

    /// What is read here was of the pidfd's process and of no other, for that lives still when all is read.
    fn read(&self, pid: Pid, pidfd: &OwnedFd, uid: u32, gid: u32) -> Peer {
        let process = self.process(pid, uid, gid);
        match (has_ended(pidfd), process) {
            (true, _) => Peer::Gone,
            (false, Some(process)) => Peer::Known(Box::new(process)),
            (false, None) => Peer::Unknown,
        }
    }

    fn process(&self, pid: Pid, uid: u32, gid: u32) -> Option<Process> {
        let stat = proc::stat(pid)?;
        let id = ProcessId { boot: self.boot?, pid: pid.as_raw_nonzero().get().unsigned_abs(), started: stat.started };
        // Whoever is not seen in its container must not pass for one that is in none.
        let cgroup = (self.cgroup)(pid).ok()?;
        let program = proc::program(pid);
        let sha256 = self.digests.as_ref().and_then(|digests| digests.of(pid));
        // Last: a program that has gained or dropped rights since it connected is not the one that did.
        let status = proc::status(pid)?;
        if !status.is_all(uid, gid) {
            return Some(Process::of(id));
        }
        let unit = cgroup.as_deref().and_then(|text| cgroup::place_of(text).unit);
        let groups = status.groups.into_iter().filter(|group| *group != gid);
        Some(Process {
            groups: groups.map(|group| (group, self.names.group(group))).collect(),
            invocation: unit.and_then(|unit| invocation(&unit)),
            cgroup,
            path: program,
            sha256,
            id,
        })
    }

    /// The process that a caller names as the holder of its task, by the number that it has in the caller's own pid namespace:
    /// who is in a container knows no other.
    fn holder(&self, peer: &Attested, evidence: &Evidence, named: u32) -> Result<Box<Process>, NotHolder> {
        let Evidence { uid, gid, .. } = *evidence;
        let gid = gid.ok_or(NotHolder::Unknown)?;
        let own = match &evidence.process {
            Peer::Known(own) => own,
            Peer::Gone => return Err(NotHolder::Gone),
            Peer::Unknown => return Err(NotHolder::Unknown),
        };
        let first = number(own.id.pid).zip(peer.pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok()));
        let (mut child, mut held) = first.ok_or(NotHolder::Unknown)?;
        let numbers = proc::status(child).ok_or(NotHolder::Unknown)?.numbers;
        // They were the caller's, for that lives still.
        if has_ended(&held) {
            return Err(NotHolder::Gone);
        }
        if numbers.last() == Some(&named) {
            return Ok(own.clone());
        }
        for _ in 0..proc::ANCESTORS_MAX {
            let parent = proc::stat(child).ok_or(NotHolder::Unknown)?.parent.ok_or(NotHolder::NotAncestor)?;
            let pidfd = pidfd_open(parent, PidfdFlags::empty()).map_err(|_| NotHolder::Unknown)?;
            // Still the parent after it was taken hold of, of a child that lives still: then this is it, and not who got its
            // number.
            let again = proc::stat(child).and_then(|stat| stat.parent);
            if again != Some(parent) || has_ended(&held) {
                return Err(NotHolder::Gone);
            }
            let status = proc::status(parent).ok_or(NotHolder::Unknown)?;
            // Whoever is further up is in no namespace of the caller's, and has no number there.
            let number = status.numbers.get(numbers.len().saturating_sub(1)).ok_or(NotHolder::NotAncestor)?;
            if *number == named {
                if !status.is_all(uid, gid) {
                    return Err(NotHolder::OtherUser);
                }
                return match self.read(parent, &pidfd, uid, gid) {
                    Peer::Known(process) => Ok(process),
                    Peer::Gone => Err(NotHolder::Gone),
                    Peer::Unknown => Err(NotHolder::Unknown),
                };
            }
            (child, held) = (parent, pidfd);
        }
        Err(NotHolder::NotAncestor)
    }
}

/// Whether a pidfd's process has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    // Where the kernel does not say, it counts as ended.
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_or(true, |ready| ready > 0)
}

/// Takes hold of a process for as long as it lives. None once it has ended.
///
/// # Errors
/// When the kernel gives no pidfd, and it is not known to have ended.
pub fn hold(process: ProcessId) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = number(process.pid) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        // For want of descriptors or memory nobody has ended.
        Err(error @ (rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM)) => {
            return Err(error.into())
        }
        Err(error) if proc::stat(pid).is_some_and(|stat| stat.started == process.started) => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let began = proc::stat(pid).map(|stat| stat.started);
    if has_ended(&pidfd) {
        return Ok(None);
    }
    match began {
        // One that began at another time has only the number.
        Some(began) => Ok((began == process.started).then_some(pidfd)),
        None => Err(io::Error::other("when it began cannot be read")),
    }
}

fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

/// The invocation of a unit, as systemd leaves it for the journal.
fn invocation(unit: &str) -> Option<String> {
    let link = std::fs::read_link(format!("{INVOCATIONS}/invocation:{unit}")).ok()?;
    link.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests;
