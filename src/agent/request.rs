//! What programs on the gateway ask, and what they are answered.
//!
//! Owns: the requests and replies of the local API with their JSON names, the closed list of reasons, problems with
//! their stable codes.
//! Never: decides an answer.
//! Read next: `attest.rs`, then `decide.rs`.

pub mod object;
pub mod preview;
pub mod revocations;
pub mod trail;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::holder::ProcessId;
use super::room::Class;
use crate::ids::{BlockId, DeviceId, FeedId, GrantId, Hash, RiskClass, StepId, TaskClass, TaskId};
use crate::wire::arguments::Arguments;
use crate::wire::audit::Initiator;
use crate::wire::identity::{DocumentType, FaultKind};
use crate::wire::link::Right;
pub use crate::wire::policy::TimeClass;
use preview::{Preview, PreviewReply};
use revocations::{CheckRevoked, CheckedReply, ExportedReply, ImportRevocations, ImportedReply, RevocationsReply};
use trail::{TrailAsk, TrailReply};

/// Names one waiting caller in the shell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Which socket a request came in on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    /// Operators of this gateway.
    Admin,
    /// Workloads.
    Agent,
    /// Enforcement points.
    Pep,
}

/// What the kernel says about the peer of a socket. Nothing that the peer says about itself is in here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// The socket.
    pub socket: Socket,
    /// User id, as it was when the peer connected.
    pub uid: u32,
    /// Group id, as it was then; none where the kernel does not say.
    pub gid: Option<u32>,
    /// The user's name, where this system has one for it.
    pub user: Option<String>,
    /// The group's name, likewise.
    pub group: Option<String>,
    /// The process that connected.
    pub process: Peer,
    /// The process that the caller names as the holder of its task, or why that is none; none if it names none.
    pub holder: Option<Result<Box<Process>, NotHolder>>,
    /// The connection, for a task that is to end with it.
    pub connection: Option<u64>,
}

impl Evidence {
    /// A peer of whom the kernel says no more than user and group.
    pub const fn of(socket: Socket, uid: u32, gid: u32) -> Self {
        let process = Peer::Unknown;
        Self { socket, uid, gid: Some(gid), user: None, group: None, process, holder: None, connection: None }
    }
}

/// The process that connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// It has ended, and its socket lives on in another, of which nothing is known; or it runs as somebody else by now.
    Gone,
    /// It lives, and what is here was read of it and of no other.
    Known(Box<Process>),
    /// The kernel does not say: it is too old, the process is in another pid namespace, or `/proc` hides it.
    Unknown,
}

/// What was read of a process while it certainly lived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Which.
    pub id: ProcessId,
    /// Its supplementary groups, with their names where this system has some.
    pub groups: Vec<(u32, Option<String>)>,
    /// The text of its `cgroup` file.
    pub cgroup: Option<String>,
    /// What systemd says which invocation of its unit this is.
    pub invocation: Option<String>,
    /// The program's path, if it names here the very file that runs.
    pub path: Option<String>,
    /// The SHA-256 of that file, where it is asked for.
    pub sha256: Option<Hash>,
}

impl Process {
    /// A process of which only its identity is known.
    pub const fn of(id: ProcessId) -> Self {
        Self { id, groups: Vec::new(), cgroup: None, invocation: None, path: None, sha256: None }
    }
}

/// Why a process cannot be the holder of a caller's task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotHolder {
    /// There is none with that number, or it has ended.
    #[error("has ended, or never was")]
    Gone,
    /// It is neither the caller nor one of those that the caller descends from.
    #[error("is neither the process that asks nor an ancestor of it")]
    NotAncestor,
    /// It runs as somebody else.
    #[error("runs as another user or group")]
    OtherUser,
    /// `/proc` does not say.
    #[error("cannot be looked at: this agent does not see the process that asks")]
    Unknown,
}

/// A request of the local API.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// `POST /v1/attenuate`.
    Attenuate(Attenuate),
    /// `GET /v1/audit`.
    Audit(TrailAsk),
    /// `POST /v1/authorize`.
    Authorize(Authorize),
    /// `POST /v1/tasks`.
    Begin(BeginTask),
    /// `POST /v1/time/challenge`.
    Challenge,
    /// `POST /v1/revocations/check`.
    CheckRevoked(CheckRevoked),
    /// `GET /v1/revocations/export`: of one feed, or of all.
    ExportRevocations(Option<FeedId>),
    /// `POST /v1/tasks/{id}/finish`.
    Finish(TaskId),
    /// `POST /introspect`.
    Introspect(Introspect),
    /// `POST /v1/revocations/import`.
    ImportRevocations(ImportRevocations),
    /// `POST /v1/time`: the bytes of a file with signed time.
    ImportTime(Vec<u8>),
    /// `POST /v1/preview`.
    Preview(Preview),
    /// `GET /readyz`.
    Ready,
    /// `GET /v1/revocations`.
    Revocations,
    /// `POST /v1/tasks/{id}/renew`.
    Renew(TaskId),
    /// `GET /v1/status`, and what `/metrics` is made of.
    Status,
    /// `POST /v1/tasks/{id}/steps`.
    Step(TaskId, TakeStep),
    /// `GET /v1/tasks`: the caller's live tasks.
    Tasks,
    /// `GET /v1/tasks/{id}/wait`.
    Wait(TaskId),
    /// `GET /v1/whoami`.
    Whoami,
}

/// Body of `POST /v1/tasks`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginTask {
    /// The class of the task.
    pub task: TaskClass,
    /// The rights that it needs.
    #[serde(deserialize_with = "object::each")]
    pub rights: Vec<Right>,
    /// How long, in seconds.
    pub ttl_s: u64,
    /// How many uses at the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// Whether the caller only hands out steps.
    #[serde(default)]
    pub planner: bool,
    /// What it is for, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The process with which it ends, by its number in the caller's pid namespace: the caller or an ancestor of it, of the same
    /// user. The caller where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<u32>,
    /// What it ends with besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Who initiates it, in the words of somebody whom the trust bundle names.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "object::perhaps")]
    pub identity: Option<IdentityDocument>,
    /// The header `Idempotency-Key`: who asks again with the same gets the same answer.
    #[serde(skip)]
    pub key: Option<String>,
}

/// An identity document, as its issuer signed it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityDocument {
    /// Its form.
    #[serde(rename = "type")]
    pub form: DocumentType,
    /// HEADER.CLAIMS.SIGNATURE.
    pub token: String,
}

/// What a task ends with, besides its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    /// The connection on which it was begun.
    Connection,
    /// Nothing else.
    Process,
}

/// Body of `POST /v1/tasks/{id}/steps`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeStep {
    /// The planner's credential, base64url without padding.
    pub token: String,
    /// The selector of the workload that is to use the step, for example `unix:uid:2002`.
    pub executor: String,
    /// What it may do: nothing that the task may not.
    #[serde(deserialize_with = "object::each")]
    pub rights: Vec<Right>,
    /// How long, in seconds; at the longest as long as the task's credential.
    pub ttl_s: u64,
    /// How many uses: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// The class of risk that the exchange is judged by, raised to the policy's where that is higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskClass>,
    /// Under one key a task gives one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What it is for, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `POST /v1/attenuate`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attenuate {
    /// The token, base64url without padding.
    pub token: String,
    /// How long it may be used from now on, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// Checks in Datalog, for example `check if operation("read")`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// What is left of its rights, of `POST /token`.
    #[serde(skip)]
    pub scope: Vec<Right>,
}

/// Form of `POST /introspect`.
#[derive(Clone, PartialEq, Debug)]
pub struct Introspect {
    /// The token, base64url without padding.
    pub token: String,
    /// Where the effect of what is let through goes.
    pub destination: Option<String>,
}

/// Body of `POST /v1/authorize`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorize {
    /// The token, base64url without padding.
    pub token: String,
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: String,
    /// Where the effect goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The class of risk, raised to the policy's where that is higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskClass>,
    /// Only compared with the wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Only compared with the wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What the operation is done with, for checks and policies to judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
}

/// A reply of the local API.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// To [`Request::Attenuate`].
    Attenuated(AttenuatedReply),
    /// To [`Request::Audit`].
    Audit(Box<TrailReply>),
    /// To [`Request::Challenge`].
    Challenge(ChallengeReply),
    /// To [`Request::CheckRevoked`].
    Checked(CheckedReply),
    /// To [`Request::Authorize`].
    Decision(DecisionReply),
    /// To [`Request::Wait`].
    Ended(EndedReply),
    /// To [`Request::ExportRevocations`].
    Exported(ExportedReply),
    /// To [`Request::Finish`].
    Finished(FinishedReply),
    /// To [`Request::Introspect`]; none of a token that is good for nothing.
    Introspected(Option<Box<IntrospectedReply>>),
    /// To [`Request::ImportRevocations`].
    Imported(ImportedReply),
    /// To [`Request::Preview`].
    Previewed(PreviewReply),
    /// No answer was possible.
    Problem(Problem),
    /// To [`Request::Ready`].
    Ready(ReadyReply),
    /// To [`Request::Revocations`].
    Revocations(Box<RevocationsReply>),
    /// To [`Request::Status`].
    Status(Box<StatusReply>),
    /// To [`Request::Step`].
    Step(StepReply),
    /// To [`Request::Begin`] and [`Request::Renew`].
    Task(TaskReply),
    /// To [`Request::ImportTime`].
    Time(TimeReply),
    /// To [`Request::Tasks`].
    Tasks(Vec<TaskSummary>),
    /// To [`Request::Whoami`].
    Whoami(WhoamiReply),
}

/// Why a decision came out as it did: the closed list, in the order of the pipeline. The first that applies is given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No token of the required form.
    Malformed,
    /// More bytes or blocks than the profile admits.
    TooLarge,
    /// A structure that could cost too much to evaluate.
    TooComplex,
    /// A key or signature that is not Ed25519.
    WrongAlgorithm,
    /// A signature does not fit.
    BadSignature,
    /// Signed by a root that the trust bundle does not name.
    UnknownRoot,
    /// For another fleet.
    WrongFleet,
    /// For another device or group.
    WrongDevice,
    /// Names a revocation feed that this device does not hold.
    FeedUnknown,
    /// Revoked, or its task has ended.
    Revoked,
    /// Not valid yet as far as anyone can prove.
    NotYetValid,
    /// Past its end as far as this device can rule out.
    Expired,
    /// Would pass if the device knew the time better.
    TimeUntrusted,
    /// What is known of revocations is too old for this class of risk.
    Stale,
    /// The grant's time offline is spent.
    OfflineSpent,
    /// The grant's boots are spent.
    BootsSpent,
    /// A budget of uses is spent.
    UsesSpent,
    /// For another workload.
    WrongWorkload,
    /// A check of the token's holder failed.
    CheckFailed,
    /// No right covers this.
    NoRight,
    /// A policy denies this.
    DeniedByPolicy,
    /// There is no room to record an allow.
    AuditFull,
    /// The device is locked.
    Locked,
    /// Evaluation did not end in time, twice.
    EngineTimeout,
    /// Too many requests, or a limit of this device is reached.
    Throttled,
    /// Allowed.
    Allowed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 26] = [
        Self::Malformed,
        Self::TooLarge,
        Self::TooComplex,
        Self::WrongAlgorithm,
        Self::BadSignature,
        Self::UnknownRoot,
        Self::WrongFleet,
        Self::WrongDevice,
        Self::FeedUnknown,
        Self::Revoked,
        Self::NotYetValid,
        Self::Expired,
        Self::TimeUntrusted,
        Self::Stale,
        Self::OfflineSpent,
        Self::BootsSpent,
        Self::UsesSpent,
        Self::WrongWorkload,
        Self::CheckFailed,
        Self::NoRight,
        Self::DeniedByPolicy,
        Self::AuditFull,
        Self::Locked,
        Self::EngineTimeout,
        Self::Throttled,
        Self::Allowed,
    ];

    /// The name in JSON, records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooComplex => "too_complex",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::BadSignature => "bad_signature",
            Self::UnknownRoot => "unknown_root",
            Self::WrongFleet => "wrong_fleet",
            Self::WrongDevice => "wrong_device",
            Self::FeedUnknown => "feed_unknown",
            Self::Revoked => "revoked",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::TimeUntrusted => "time_untrusted",
            Self::Stale => "stale",
            Self::OfflineSpent => "offline_spent",
            Self::BootsSpent => "boots_spent",
            Self::UsesSpent => "uses_spent",
            Self::WrongWorkload => "wrong_workload",
            Self::CheckFailed => "check_failed",
            Self::NoRight => "no_right",
            Self::DeniedByPolicy => "denied_by_policy",
            Self::AuditFull => "audit_full",
            Self::Locked => "locked",
            Self::EngineTimeout => "engine_timeout",
            Self::Throttled => "throttled",
            Self::Allowed => "allowed",
        }
    }
}

/// Body of the answer to `POST /v1/authorize`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DecisionReply {
    /// `allow` or `deny`.
    pub decision: Verdict,
    /// Why, from the closed list.
    pub reason: Reason,
    /// Why, in a sentence, with what to do.
    pub explain: String,
    /// The clause that decided; none where it was no clause of token or policy.
    pub decided_by: Option<DecidedBy>,
    /// device/era/index of the record.
    pub decision_id: String,
    /// The mode.
    pub mode: Mode,
    /// How far the revocation list can be trusted to be new.
    pub freshness: Freshness,
    /// Age of the newest complete revocation head by the powered-on clock, in seconds.
    pub staleness_s: u64,
    /// The time class that the decision was made under.
    pub time_class: TimeClass,
    /// Seconds until the token ends, none if it is not known to be valid.
    pub expires_in_s: Option<u64>,
    /// Where the record is.
    pub audit: AuditRef,
}

/// A clause that decided. As text it is what an explanation calls it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecidedBy {
    /// What it is.
    pub clause: ClauseKind,
    /// The block that has it, if it is a token's: 0 is the issuer's.
    pub block: Option<usize>,
    /// Its place among its like: in a block from 0, as every Biscuit library counts, in a policy from 1.
    pub number: usize,
    /// What the comment right before it calls it, in a policy.
    pub name: Option<String>,
    /// Its text, shortened; of a limit on time, the limit in words.
    pub text: String,
}

/// What a clause is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClauseKind {
    /// `check if …` of the fleet's policy.
    Check,
    /// `allow if …` or `deny if …` of the fleet's policy.
    Policy,
    /// A check in a block of the token.
    TokenCheck,
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.clause {
            ClauseKind::Check | ClauseKind::TokenCheck => "check",
            ClauseKind::Policy => "policy",
        };
        write!(f, "{what} {}", self.number)?;
        if let Some(block) = self.block {
            write!(f, " of block {block}")?;
        }
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Allow or deny.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go ahead.
    Allow,
    /// Do not.
    Deny,
}

/// How new the revocation list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Proven within its due time.
    Fresh,
    /// Past its due time.
    Stale,
    /// No round trip in this boot: nobody can say.
    Unknown,
}

impl Freshness {
    /// The name in JSON, records and facts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }
}

/// Where the device stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In touch, everything newest applied.
    Online,
    /// No proof of freshness, all within bounds.
    #[default]
    Offline,
    /// A class of risk has lost its freshness.
    Stale,
    /// Nothing is allowed.
    Locked,
}

impl Mode {
    /// The name in JSON, records and facts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Stale => "stale",
            Self::Locked => "locked",
        }
    }
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRef {
    /// The era's number.
    pub era: u64,
    /// The segment that will hold it.
    pub segment: u64,
    /// Its index in the era.
    pub index: u64,
}

/// Body of the answer to `POST /v1/tasks`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskReply {
    /// The task.
    pub task_id: TaskId,
    /// The workload's credential, base64url without padding.
    pub token: String,
    /// Seconds until it ends.
    pub expires_in_s: u64,
    /// Uses that it has, none if unbounded.
    pub uses: Option<u64>,
    /// Where it comes from.
    pub origin: Origin,
    /// The grant behind it.
    pub grant_id: GrantId,
    /// The mode.
    pub mode: Mode,
}

/// Body of the answer to `POST /v1/tasks/{id}/steps`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepReply {
    /// The task.
    pub task_id: TaskId,
    /// The step.
    pub step_id: StepId,
    /// The executor's credential, base64url without padding. It is handed out once.
    pub token: String,
    /// The selector of the workload that may use it.
    pub executor: String,
    /// Seconds until it ends.
    pub expires_in_s: u64,
    /// Always 1.
    pub uses: u64,
    /// Where the task's credential comes from.
    pub origin: Origin,
    /// The grant behind it.
    pub grant_id: GrantId,
    /// The mode.
    pub mode: Mode,
    /// device/era/index of the record of the exchange.
    pub decision_id: String,
}

/// Body of the answer to `POST /v1/attenuate`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AttenuatedReply {
    /// The narrowed token, base64url without padding.
    pub token: String,
    /// What revoking its last block names.
    pub revocation_id: BlockId,
    /// Seconds until it ends.
    pub expires_in_s: u64,
    /// Whether nobody can narrow it but this agent.
    pub sealed: bool,
    /// The task, of a credential of this agent's.
    pub task_id: Option<TaskId>,
    /// The step, of one of a step: the token that was shown has no use any more.
    pub step_id: Option<StepId>,
}

/// What is told of a token that is good for something. `active`, `token_type` and `scope` are added where it is written.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct IntrospectedReply {
    /// What it would be allowed for now.
    #[serde(skip)]
    pub scope: Vec<Right>,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// When it was issued, likewise.
    pub iat: u64,
    /// Who answers for it.
    pub sub: String,
    /// The workload that it was handed to, by its most general selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// For whom it is, if its issuer says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// The revocation id of its last block.
    pub jti: String,
    /// This device.
    pub device: DeviceId,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_id: Option<StepId>,
    /// Who initiated the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// device/era/index of the record of this answer.
    pub decision_id: String,
    /// How far the revocation list can be trusted to be new.
    pub freshness: Freshness,
}

/// Where a task credential comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Narrowed here from the fallback grant.
    Fallback,
    /// Minted by the issuer for this task.
    Issued,
}

impl Origin {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Issued => "issued",
        }
    }
}

/// One live task.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskSummary {
    /// The task.
    pub task_id: TaskId,
    /// Its class.
    pub task: TaskClass,
    /// Where its credential comes from.
    pub origin: Origin,
    /// The grant behind it.
    pub grant_id: GrantId,
    /// Selectors of its workload.
    pub selectors: Vec<String>,
    /// Those that its credential is bound to.
    pub bound_to: Vec<String>,
    /// Whether its credential is good for nothing but to be exchanged for steps.
    pub planner: bool,
    /// Its steps that can be used still.
    pub steps: Vec<StepSummary>,
    /// Seconds until it ends.
    pub expires_in_s: u64,
    /// Uses left, none if unbounded.
    pub uses_left: Option<u64>,
    /// The process that it ends with, by its number in the agent's pid namespace; none where the kernel did not say.
    pub holder: Option<u32>,
    /// Who initiated it, by the identity document that was shown when it began.
    pub initiator: Option<Initiator>,
}

/// A step in the list of tasks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepSummary {
    /// The step.
    pub step_id: StepId,
    /// The selector of the workload that may use it.
    pub executor: String,
    /// Seconds until it ends.
    pub expires_in_s: u64,
    /// device/era/index of the record of its exchange.
    pub decision_id: String,
}

/// Body of the answer to a finish: the same however often it is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FinishedReply {
    /// The task.
    pub task_id: TaskId,
    /// Always true: its credentials are refused from now on.
    pub finished: bool,
}

/// Body of the answer to `GET /v1/tasks/{id}/wait`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndedReply {
    /// The task.
    pub task_id: TaskId,
    /// How it ended; none if it lives still, and is to be asked for again.
    pub ended: Option<Ended>,
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its time was over.
    Expired,
    /// Its workload, or an operator of this gateway, finished it.
    Finished,
    /// The process or the connection that held it has ended.
    Gone,
    /// This device lost track of what was counted, or its clock was reset.
    Lost,
    /// The fleet revoked it, or what it rests on.
    Revoked,
    /// Its uses are spent.
    UsesSpent,
}

impl Ended {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Finished => "finished",
            Self::Gone => "gone",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::UsesSpent => "uses_spent",
        }
    }
}

/// Body of `GET /v1/whoami`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhoamiReply {
    /// This device.
    pub device: String,
    /// Its fleet.
    pub fleet: String,
    /// Selectors that the kernel attests for the caller.
    pub selectors: Vec<String>,
    /// Task classes that the fallback grants let the caller begin.
    pub may_begin: Vec<TaskClass>,
}

/// Body of `GET /readyz`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReadyReply {
    /// Whether decisions can be made and credentials be handed out.
    pub ready: bool,
    /// What is checked, and whether it holds.
    pub checks: Vec<ReadyCheck>,
}

/// One line of readiness.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReadyCheck {
    /// What.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// How, in words.
    pub detail: String,
}

/// Body of `GET /v1/status` and of `hardtack status -o json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReply {
    /// This device.
    pub device: String,
    /// Its fleet.
    pub fleet: String,
    /// The program's version.
    pub version: String,
    /// The profile in force.
    pub profile: String,
    /// The mode.
    pub mode: Mode,
    /// Why it is that.
    pub reasons: Vec<String>,
    /// Sequence number of the device's revocation feed.
    pub feed_seq: u64,
    /// What emergency keys have revoked and is in force.
    pub emergency: Vec<revocations::EmergencyRule>,
    /// Trust bundle in force.
    pub bundle_version: u64,
    /// Policy in force.
    pub policy_version: u64,
    /// The floor E, RFC 3339.
    pub floor: String,
    /// The powered-on clock P, RFC 3339.
    pub powered: String,
    /// The ceiling L, RFC 3339; none while it is infinite.
    pub ceiling: Option<String>,
    /// What else is known of the time.
    pub clock: ClockStatus,
    /// How far the revocation list can be trusted to be new.
    pub freshness: Freshness,
    /// Its age in seconds.
    pub staleness_s: u64,
    /// Seconds of powered-on time since the last acknowledged round trip.
    pub offline_for_s: u64,
    /// Kernel boots since then.
    pub boots: u32,
    /// Seconds until the policy locks a device that hears nothing; none if it never does.
    pub dead_man_left_s: Option<u64>,
    /// Records that the collector has not acknowledged.
    pub pending: u64,
    /// The era being written.
    pub era: u64,
    /// How much room the audit has.
    pub audit: AuditRoom,
    /// Whether the broker is connected, and what the link is waiting for.
    pub link: String,
    /// Fallback grants.
    pub grants: Vec<GrantStatus>,
    /// Live tasks.
    pub tasks: u64,
    /// Per class of risk how long the device could go on alone.
    pub autonomy: Vec<Autonomy>,
    /// Counters since the process started.
    pub counters: Counters,
}

/// What the trusted clock knows, beside its three numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClockStatus {
    /// The floor E in seconds since 1970.
    pub floor_s: u64,
    /// By how much P is ahead of E, in seconds.
    pub powered_ahead_s: u64,
    /// By how much the last round trip since the start proved E to be ahead, in seconds; none if it was not.
    pub floor_ahead_s: Option<u64>,
    /// From E to L, in seconds: true time lies in between. None while L is infinite.
    pub width_s: Option<u64>,
    /// The most that the oscillator is off, in parts per million.
    pub drift_ppm: u32,
    /// The last signed statement that was taken since the agent started.
    pub source: Option<SignedTime>,
    /// A jump that waits for a second role.
    pub waiting: Option<SignedTime>,
    /// How far signed time of one role alone may still move E, in seconds.
    pub jump_left_s: u64,
    /// What the system clock shows, RFC 3339. It is a hint and never believed.
    pub hint: Option<String>,
    /// How that stands to what is proven: `behind`, `none`, `past` or `possible`.
    pub hint_standing: String,
}

/// A time that somebody signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignedTime {
    /// In which role: `feed`, `policy`, `root` or `service`.
    pub role: String,
    /// The time, RFC 3339.
    pub time: String,
}

/// How much room the audit has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRoom {
    /// Bytes that all eras take on disk.
    pub used_bytes: u64,
    /// The most that they may take.
    pub quota_bytes: u64,
    /// The classes of which another record fits.
    pub fits: Vec<Class>,
    /// Each class, the most important first.
    pub classes: Vec<ClassRoom>,
}

/// How much room one class of records has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassRoom {
    /// The class.
    pub class: Class,
    /// Its share of the bytes that are used.
    pub used_bytes: u64,
    /// What is kept for it.
    pub reserve_bytes: u64,
    /// The most that it may use as things are.
    pub max_bytes: u64,
}

/// One fallback grant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GrantStatus {
    /// The grant.
    pub id: GrantId,
    /// Who answers for it.
    pub owner: String,
    /// When it expires, RFC 3339.
    pub expires: String,
    /// Seconds until then, by the clock that judges it.
    pub expires_in_s: u64,
    /// Uses left, none if unbounded.
    pub uses_left: Option<u64>,
    /// Seconds offline left.
    pub offline_left_s: Option<u64>,
    /// Boots left.
    pub boots_left: Option<u32>,
}

/// How long the device could go on alone for one class of risk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Autonomy {
    /// The class.
    pub risk: RiskClass,
    /// Hours left, none if nothing bounds them.
    pub hours: Option<f64>,
    /// What stops first.
    pub stops: String,
    /// Uses left under the grant that lasts longest: they can stop earlier than the hours say.
    pub uses_left: Option<u64>,
    /// Boots left under that grant: so can they.
    pub boots_left: Option<u32>,
}

/// Counters since the process started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Decisions by reason.
    pub decisions: std::collections::BTreeMap<Reason, u64>,
    /// Denials among them that have no record of their own: they were as one before them, and are counted in one.
    pub repeated: u64,
    /// Messages and files refused.
    pub refused: u64,
    /// Records written.
    pub records: u64,
    /// Segments acknowledged by the collector.
    pub segments_released: u64,
    /// Tokens found in the cache of verified ones.
    pub cache_hits: u64,
    /// Tokens verified.
    pub cache_misses: u64,
}

/// Body of the answer to `POST /v1/time/challenge`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ChallengeReply {
    /// This device.
    pub device: String,
    /// What a reset of its clock must answer, in hexadecimal.
    pub nonce: String,
    /// How long it is good for, in this boot.
    pub expires_in_s: u64,
}

/// Body of the answer to `POST /v1/time`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TimeReply {
    /// The floor E before, RFC 3339.
    pub floor_before: String,
    /// The floor E now.
    pub floor: String,
    /// The powered-on clock P now.
    pub powered: String,
    /// A jump that waits for a second role, in words.
    pub waiting: Option<String>,
}

/// Why a request got no answer, as RFC 9457 tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The stable code.
    pub code: ProblemCode,
    /// What happened and what to do.
    pub detail: String,
    /// Who asked, as the kernel tells it, where the refusal is about that.
    pub seen: Vec<String>,
    /// Which grant or selector is missing.
    pub hint: Option<String>,
    /// The clause that decided, where a denial is of one.
    pub decided_by: Option<Box<DecidedBy>>,
}

/// Stable codes of problems.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProblemCode {
    /// The audit store cannot take a record, so nothing is decided.
    AuditUnavailable,
    /// The request is understood and refused, with the reason as its own code.
    Denied(Reason),
    /// The identity document that was brought does not count.
    Identity(FaultKind),
    /// The issuer said no.
    IssuerRefused,
    /// The request is not of the documented form.
    InvalidRequest,
    /// What was asked for before under the same idempotency key was something else.
    KeyReused,
    /// No such task of this caller.
    NotFound,
    /// What was brought is not signed as it must be, or says what cannot be.
    Refused,
    /// A limit of this device is reached.
    Throttled,
}

impl Problem {
    /// A problem.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), seen: Vec::new(), hint: None, decided_by: None }
    }
}

impl ProblemCode {
    /// The code of a refusal for this reason.
    pub fn of(reason: Reason) -> Self {
        if reason == Reason::Throttled {
            Self::Throttled
        } else {
            Self::Denied(reason)
        }
    }

    /// The code's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuditUnavailable => "audit_unavailable",
            Self::Denied(reason) => reason.name(),
            Self::Identity(kind) => kind.name(),
            Self::InvalidRequest => "invalid_request",
            Self::IssuerRefused => "issuer_refused",
            Self::KeyReused => "idempotency_key_reused",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::AuditUnavailable => 503,
            Self::Denied(_) | Self::Identity(_) | Self::IssuerRefused => 403,
            Self::InvalidRequest => 400,
            Self::NotFound => 404,
            Self::KeyReused => 409,
            Self::Refused => 422,
            Self::Throttled => 429,
        }
    }
}
