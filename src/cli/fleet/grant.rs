//! `hardtack fleet grant` and `hardtack fleet issue`: what devices may do.
//!
//! Owns: the arguments and their forms: SELECTOR=CLASS, CLASS:ACTION:RESOURCE, RISK=DURATION.
//! Never: prints a grant's token: only its device gets it, sealed.
//! Read next: `../../fleet/grant.rs`.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use clap::{value_parser, Args, Subcommand};
use rand_core::RngCore;
use serde_json::{json, Value};

use super::super::output::{show, tell};
use super::super::{Exit, Failure};
use super::{lasting, millis, now, operator, worded, Session};
use crate::fleet::book::{Book, Grant, Renewal};
use crate::fleet::covered;
use crate::fleet::grant::{self as core, NewGrant};
use crate::fleet::issue::{self, Minting, Order};
use crate::ids::{hex, DeviceId, GrantId, GroupId, RiskClass, TaskClass, TaskId};
use crate::shell::entropy;
use crate::time::{Millis, Timestamp};
use crate::wire::link::{Right, TaskAsk};
use crate::wire::policy::TimeClass;
use crate::wire::token::{to_text, Bearer, ClassRight};

/// `hardtack fleet grant …`.
#[derive(Subcommand, Debug)]
pub enum GrantCommand {
    /// Mint a fallback grant; its device takes it when it is next in touch
    Create(Box<CreateArgs>),
    /// List grants
    List {
        /// Of this device only
        #[arg(long)]
        device: Option<DeviceId>,
        /// Ended and withdrawn ones too
        #[arg(long)]
        all: bool,
    },
    /// Take a grant out of its device's wallet, when it is next in touch
    Withdraw {
        /// The grant
        grant: GrantId,
        /// Why
        #[arg(long, default_value = "withdrawn", value_parser = worded)]
        reason: String,
    },
}

/// Arguments of `hardtack fleet grant create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// The device
    #[arg(long)]
    device: DeviceId,
    /// Who may begin which class of task, for example unix:uid:1001=pump. May be repeated
    #[arg(long, value_name = "SELECTOR=CLASS", required = true)]
    may_begin: Vec<MayBegin>,
    /// For whom planners of a class of task may take steps, for example unix:uid:2002=pump; for whoever may begin it, they may
    /// anyway. May be repeated
    #[arg(long, value_name = "SELECTOR=CLASS")]
    may_step: Vec<MayBegin>,
    /// What tasks of a class may do, for example pump:write:modbus/pump1/speed; a resource that ends in /* is a prefix. May be repeated
    #[arg(long, value_name = "CLASS:ACTION:RESOURCE", required = true)]
    right: Vec<OfClass>,
    /// Longest powered-on time without contact
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    offline_max: Duration,
    /// Uses, all tasks together
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    uses_max: u64,
    /// Boots without contact
    #[arg(long, value_name = "N")]
    boots_max: u32,
    /// Longest life of a task
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    task_ttl_max: Duration,
    /// How long the grant lives
    #[arg(long, value_name = "DURATION", value_parser = lasting, default_value = "30d")]
    expires: Duration,
    /// Who answers for it [default: the operator, at the fleet]
    #[arg(long, value_name = "TEXT", value_parser = worded)]
    owner: Option<String>,
    /// Oldest revocation list for a class of risk, for example high=1h. May be repeated
    #[arg(long, value_name = "RISK=DURATION")]
    staleness_max: Vec<Staleness>,
    /// Judge it at least as strictly: floor, bounded or strict
    #[arg(long, value_name = "CLASS")]
    min_time_class: Option<TimeClass>,
    /// Let it end when it ends; without this the device gets a successor once half of its life or uses is gone
    #[arg(long)]
    once: bool,
}

/// Arguments of `hardtack fleet issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    #[command(flatten)]
    bearer: BearerArgs,
    /// For which audience it is: `fleet revoke audience` covers those that name one
    #[arg(long, value_name = "NAME", value_parser = worded)]
    audience: Option<String>,
    /// The class of the task
    #[arg(long)]
    class: TaskClass,
    /// Selector of the workload, for example unix:uid:1001. May be repeated
    #[arg(long, value_name = "SELECTOR", required = true)]
    selector: Vec<String>,
    /// What it may do. May be repeated
    #[arg(long, value_name = "ACTION:RESOURCE", required = true)]
    right: Vec<Plain>,
    /// How long it lives
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    ttl: Duration,
    /// How often it may be used: counted on one device, so not with --group
    #[arg(long, conflicts_with = "group", value_name = "N", value_parser = value_parser!(u64).range(1..))]
    uses: Option<u64>,
    /// The task's id [default: a random one]
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
}

/// For whom a task token is: one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct BearerArgs {
    /// The device, whose grants have to allow it
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// Every device of this group, now and as long as the token lives. The grants of each device that is in it now have to
    /// allow it, and to have one owner; the shortest and strictest of them bound its life, its time class and the age of
    /// revocations. Its uses are not counted. It is issued under none of them: revoke the group, the task or the token
    #[arg(long, value_name = "ID")]
    group: Option<GroupId>,
}

impl BearerArgs {
    /// None only where clap let through what it must not.
    fn bearer(self) -> Option<Bearer> {
        self.device.map(Bearer::Device).or(self.group.map(Bearer::Group))
    }
}

/// `SELECTOR=CLASS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MayBegin(String, TaskClass);

impl FromStr for MayBegin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (selector, class) = text
            .rsplit_once('=')
            .filter(|(selector, _)| {
                selector.split_once(':').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
            })
            .ok_or_else(|| {
                format!(
                    "{text:?} is not SELECTOR=CLASS, for example unix:uid:1001=pump; `hardtack whoami` shows selectors"
                )
            })?;
        Ok(Self(selector.to_owned(), class.parse().map_err(|error: crate::ids::InvalidId| error.to_string())?))
    }
}

/// `CLASS:ACTION:RESOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OfClass(ClassRight);

impl FromStr for OfClass {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (class, right) = text
            .split_once(':')
            .ok_or_else(|| format!("{text:?} is not CLASS:ACTION:RESOURCE, for example pump:read:modbus/*"))?;
        let class = class.parse().map_err(|error: crate::ids::InvalidId| error.to_string())?;
        Ok(Self(ClassRight { class, right: right.parse::<Plain>()?.0 }))
    }
}

/// `ACTION:RESOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plain(Right);

impl FromStr for Plain {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((action, resource)) if !action.is_empty() && !resource.is_empty() => {
                Ok(Self(Right { resource: resource.to_owned(), action: action.to_owned() }))
            }
            Some(_) | None => Err(format!("{text:?} is not ACTION:RESOURCE, for example write:modbus/pump1/speed")),
        }
    }
}

/// `RISK=DURATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Staleness(RiskClass, Millis);

impl FromStr for Staleness {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (risk, bound) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is not RISK=DURATION, for example high=1h"))?;
        let risk = risk.parse().map_err(|error: crate::ids::InvalidId| error.to_string())?;
        Ok(Self(risk, millis(humantime::parse_duration(bound).map_err(|error| format!("{bound:?}: {error}"))?)))
    }
}

pub(super) fn run(command: GrantCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        GrantCommand::Create(args) => create(*args, session),
        GrantCommand::List { device, all } => list(device.as_ref(), all, session),
        GrantCommand::Withdraw { grant, reason } => withdraw(&grant, &reason, session),
    }
}

fn create(args: CreateArgs, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
    let issuer = fleet.keys.issuer()?;
    let new = NewGrant {
        device: args.device,
        owner: args.owner.unwrap_or_else(|| format!("{name}@{}", fleet.ledger.book().fleet())),
        life: millis(args.expires),
        may_begin: args.may_begin.into_iter().map(|MayBegin(selector, class)| (selector, class)).collect(),
        may_step: args.may_step.into_iter().map(|MayBegin(selector, class)| (selector, class)).collect(),
        rights: args.right.into_iter().map(|right| right.0).collect(),
        offline_max: millis(args.offline_max),
        uses_max: args.uses_max,
        boots_max: args.boots_max,
        task_ttl_max: millis(args.task_ttl_max),
        staleness_max: args.staleness_max.into_iter().map(|Staleness(risk, bound)| (risk, bound)).collect(),
        min_time_class: args.min_time_class,
        renewal: if args.once { Renewal::Never } else { Renewal::Automatic },
    };
    let rng = &mut entropy::rng();
    let id = fleet.act(|book, _, fx| core::create(book, new, &issuer, operator(&name, &key), at, rng, fx))?;
    let grant = fleet.ledger.book().grant(&id).map(|grant| row(fleet.ledger.book(), grant, at)).unwrap_or_default();
    show(session.format, &grant, |grant| {
        format!("grant {id}\n{}it is taken when the device is next in touch", super::device::lines(grant))
    })?;
    Ok(Exit::Done)
}

fn row(book: &Book, grant: &Grant, at: Timestamp) -> Value {
    let spec = &grant.spec;
    let revoked = covered::grant(book, grant, at);
    let state = match (grant.withdrawn, &revoked) {
        (Some(_), _) => "withdrawn",
        (None, _) if spec.expires <= at => "ended",
        (None, Some(_)) => "revoked",
        (None, None) => "live",
    };
    let right = |class: &ClassRight| format!("{}:{}:{}", class.class, class.right.action, class.right.resource);
    json!({
        "id": spec.grant,
        "device": spec.device,
        "state": state,
        // The revocation in force that covers it, in words.
        "revoked": revoked.map(|revoked| revoked.to_string()),
        "owner": spec.owner,
        "issued": spec.issued.to_string(),
        "expires": spec.expires.to_string(),
        "may_begin": spec.may_begin.iter().map(|(selector, class)| format!("{selector}={class}")).collect::<Vec<_>>(),
        "may_step": spec.may_step.iter().map(|(selector, class)| format!("{selector}={class}")).collect::<Vec<_>>(),
        "rights": spec.rights.iter().map(right).collect::<Vec<_>>(),
        "offline_max_s": spec.offline_max.secs(),
        "uses_max": spec.uses_max,
        "boots_max": spec.boots_max,
        "task_ttl_max_s": spec.task_ttl_max.secs(),
        "block": grant.block,
        "root_key_id": grant.root_key_id,
    })
}

fn list(device: Option<&DeviceId>, all: bool, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let (book, at) = (fleet.ledger.book(), now()?);
    let grants: Vec<Value> = book
        .grants()
        .filter(|grant| device.is_none_or(|device| grant.spec.device == *device))
        .filter(|grant| all || (grant.withdrawn.is_none() && grant.spec.expires > at))
        .map(|grant| row(book, grant, at))
        .collect();
    show(session.format, &json!({ "grants": grants }), |_| {
        let mut text = format!("{:32} {:24} {:9} {:20} owner\n", "grant", "device", "state", "expires");
        for grant in &grants {
            let word = |name: &str| grant[name].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:32} {:24} {:9} {:20} {}",
                word("id"),
                word("device"),
                word("state"),
                word("expires"),
                word("owner")
            );
        }
        text
    })?;
    Ok(Exit::Done)
}

fn withdraw(grant: &GrantId, reason: &str, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
    fleet.act(|book, _, fx| core::withdraw(book, grant, reason, operator(&name, &key), at, fx))?;
    show(session.format, &json!({"grant": grant, "state": "withdrawn"}), |_| {
        format!(
            "grant {grant} is withdrawn: it leaves the wallet when the device is next in touch\n\
             to stop what was begun under it too: hardtack fleet revoke grant {grant}"
        )
    })?;
    Ok(Exit::Done)
}

pub(super) fn issue(args: IssueArgs, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
    let issuer = fleet.keys.issuer()?;
    let rng = &mut entropy::rng();
    let ask = TaskAsk {
        task: args.task.map_or_else(|| random_task(rng), Ok)?,
        class: args.class,
        selectors: args.selector,
        rights: args.right.into_iter().map(|right| right.0).collect(),
        ttl_ms: millis(args.ttl),
        uses: args.uses,
    };
    let minting = Minting { issuer: &issuer, ttl_max: fleet.dir.toml().settings().task_ttl_max, at };
    let by = operator(&name, &key);
    let bearer = args.bearer.bearer();
    let bearer =
        bearer.ok_or_else(|| Failure::new(Exit::Usage, "nobody is named", "pass --device ID or --group ID"))?;
    let order = Order { bearer: &bearer, audience: args.audience.as_deref(), ask: &ask };
    let (token, issued) = fleet.act(|book, _, fx| issue::issue(book, order, minting, by, rng, fx))?;
    let token = to_text(&token);
    let cut = issued.expires < at + ask.ttl_ms;
    if cut {
        tell(&format!(
            "the token ends at {}, sooner than --ttl asks: no task token outlives its grant, that grant's --task-ttl-max or \
             the fleet's longest life of a task",
            issued.expires
        ));
    }
    let value = json!({
        "token": token,
        "task": issued.task,
        "device": if let Bearer::Device(device) = &issued.bearer { Some(device) } else { None },
        "group": if let Bearer::Group(group) = &issued.bearer { Some(group) } else { None },
        "audience": args.audience,
        // The one that it is issued under. A token for a group is issued under none.
        "grant": if let Bearer::Device(_) = &issued.bearer { Some(issued.grant) } else { None },
        "expires": issued.expires.to_string(),
        // Whether that is sooner than was asked.
        "cut": cut,
        "block": issued.block,
    });
    // The token alone is the data: it can be piped on.
    show(session.format, &value, |_| token.clone())?;
    Ok(Exit::Done)
}

fn random_task(rng: &mut impl RngCore) -> Result<TaskId, Failure> {
    let mut bytes = [0; 8];
    rng.fill_bytes(&mut bytes);
    format!("t-{}", hex(&bytes)).parse().map_err(|error| Failure::new(Exit::Failure, error, ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}";

    /// The text of what cannot be read names the form that it should have, or what is wrong with a part of it.
    fn refusal<T: FromStr<Err = String>>(text: &str, form: &str) -> Result<(), TestCaseError> {
        if let Err(why) = text.parse::<T>() {
            let reasons = [form, "is not valid: use", "time unit", "number", "invalid character", "value was empty"];
            prop_assert!(reasons.iter().any(|reason| why.contains(reason)), "{}", why);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_in_an_arguments_form_is_read(
            (selector, resource) in ("\\PC{1,40}", "\\PC{1,40}"),
            action in "[^:]{1,10}",
            (class, risk) in (NAME, NAME),
            ms in any::<u64>(),
        ) {
            let selector = format!("unix:{selector}");
            let expected = MayBegin(selector.clone(), class.parse().unwrap());
            prop_assert_eq!(format!("{selector}={class}").parse(), Ok(expected));
            let right = Right { resource: resource.clone(), action: action.clone() };
            prop_assert_eq!(format!("{action}:{resource}").parse(), Ok(Plain(right.clone())));
            let expected = OfClass(ClassRight { class: class.parse().unwrap(), right });
            prop_assert_eq!(format!("{class}:{action}:{resource}").parse(), Ok(expected));
            let expected = Staleness(risk.parse().unwrap(), Millis(ms));
            let bound = humantime::format_duration(Duration::from_millis(ms));
            prop_assert_eq!(format!("{risk}={bound}").parse(), Ok(expected));
        }

        #[test]
        fn what_is_written_in_another_form_is_refused_with_the_right_one(text in "([a-z0-9.]{0,4}|\\PC)[=:]?([a-z0-9]{0,4}|\\PC)[=:]?\\PC{0,4}") {
            refusal::<MayBegin>(&text, "SELECTOR=CLASS")?;
            refusal::<OfClass>(&text, "ACTION:RESOURCE")?;
            refusal::<Plain>(&text, "ACTION:RESOURCE")?;
            refusal::<Staleness>(&text, "RISK=DURATION")?;
        }
    }

    #[test]
    fn arguments_are_read_with_their_colons_and_equals_signs() {
        let begin: MayBegin = "unix:path:/opt/a=b/pump=pump".parse().unwrap();
        assert_eq!(begin, MayBegin("unix:path:/opt/a=b/pump".into(), "pump".parse().unwrap()));
        let right = "pump:write:opc/ns=2:s=x".parse::<OfClass>().unwrap().0;
        assert_eq!((right.right.action.as_str(), right.right.resource.as_str()), ("write", "opc/ns=2:s=x"));
        assert!("high=90m".parse::<Staleness>().is_ok());
        for bad in ["", "=pump", "unix:uid:1", "unix:uid:1=", "unix:uid:1=a b"] {
            assert!(bad.parse::<MayBegin>().is_err(), "{bad}");
        }
        for bad in ["", "pump", "pump:write", "pump::x", "pump:write:", ":write:x"] {
            assert!(bad.parse::<OfClass>().is_err(), "{bad}");
        }
        for bad in ["", "high", "high=", "high=soon", "=1h"] {
            assert!(bad.parse::<Staleness>().is_err(), "{bad}");
        }
    }
}
