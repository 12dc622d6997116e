//! Exit codes and the way every command ends.
//!
//! Owns: [`Exit`], [`Failure`].
//! Never: changes the meaning of a number: scripts rely on them.
//! Read next: `mod.rs`.

use std::fmt;

use crate::agent::request::Reason;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Allowed, or done.
    Done = 0,
    /// It failed for a reason that has no number of its own.
    Failure = 1,
    /// The arguments are wrong, or the command is not in this version.
    Usage = 2,
    /// Denied for a reason that has no number of its own.
    Denied = 3,
    /// Expired.
    Expired = 4,
    /// Revoked.
    Revoked = 5,
    /// This device is not enrolled.
    NotEnrolled = 6,
    /// No agent answers on the socket.
    Unreachable = 7,
    /// The clock is not trusted enough.
    TimeUntrusted = 8,
    /// The audit is full, not available, or has a gap.
    Audit = 9,
    /// What is known of revocations is too old.
    Stale = 10,
    /// Some of the devices did not take part, or more root keys have to sign.
    Partial = 11,
    /// Malformed, badly signed, an unknown root or algorithm, or a broken chain.
    Invalid = 12,
    /// Try again.
    TryAgain = 75,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}

impl From<Reason> for Exit {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Allowed => Self::Done,
            Reason::Expired => Self::Expired,
            Reason::Revoked => Self::Revoked,
            Reason::TimeUntrusted => Self::TimeUntrusted,
            Reason::AuditFull => Self::Audit,
            Reason::Stale => Self::Stale,
            Reason::Malformed | Reason::BadSignature | Reason::UnknownRoot | Reason::WrongAlgorithm => Self::Invalid,
            Reason::TooLarge
            | Reason::TooComplex
            | Reason::WrongFleet
            | Reason::WrongDevice
            | Reason::FeedUnknown
            | Reason::NotYetValid
            | Reason::OfflineSpent
            | Reason::BootsSpent
            | Reason::UsesSpent
            | Reason::WrongWorkload
            | Reason::CheckFailed
            | Reason::NoRight
            | Reason::DeniedByPolicy
            | Reason::Locked
            | Reason::EngineTimeout
            | Reason::Throttled => Self::Denied,
        }
    }
}

/// A command that did not do what it was asked: a number for scripts, what happened and what to do for people.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl Failure {
    /// A failure.
    pub fn new(exit: Exit, what: impl fmt::Display, advice: impl fmt::Display) -> Self {
        Self { exit, what: what.to_string(), advice: advice.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.advice.is_empty() {
            write!(f, "\n  do: {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
