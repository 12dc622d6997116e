//! What the root keys sign: done at once where they are at hand, written into a proposal where they are not.
//!
//! Owns: the one way of every command to the next trust bundle and to a reset of a clock; `key submit`; the order of it: the
//! new keys' files, then the ledger, then the files' places.
//! Never: asks for a root key where none has to sign.
//! Read next: `../../../fleet/proposal.rs`; `sign.rs`.

use std::path::{Path, PathBuf};

use clap::Args;
use ed25519_dalek::SigningKey;
use serde_json::{json, Value};

use super::super::super::output::{show, tell};
use super::super::super::{Exit, Failure};
use super::super::serve::in_folder;
use super::super::{file_failure, now, operator, unread, Fleet, Session};
use super::role_of;
use crate::fleet::proposal::{self, changes, Hands, Standing};
use crate::fleet::rotate::{is_in_use, Cause, KeyRole, NewKey, Rotated};
use crate::fleet::FleetError;
use crate::ids::KeyId;
use crate::shell::files;
use crate::shell::fleet_keys::{is_encrypted, Role};
use crate::time::Timestamp;
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::proposal::{Opened, Proposal, Proposed, Subject, PROPOSAL_BYTES_MAX};

/// Where the root keys are, and where a proposal goes if they are not all here.
#[derive(Args, Debug)]
pub struct RootArgs {
    /// The file of a root key that is kept elsewhere, may be repeated; those in keys/ are used anyway
    #[arg(long = "root", value_name = "KEYFILE")]
    files: Vec<PathBuf>,
    /// Where the proposal goes if more root keys have to sign [default: a new file in the fleet's folder]
    #[arg(long, value_name = "FILE")]
    proposal: Option<PathBuf>,
}

impl RootArgs {
    /// Whether the files that were named are there, before new keys are made. No passphrase is asked for.
    pub(in super::super) fn check(&self) -> Result<(), Failure> {
        Ok(self.files.iter().try_for_each(|file| is_encrypted(file).map(drop))?)
    }

    /// Where the proposal goes, if somebody said.
    pub(in super::super) fn place(&self) -> Option<&Path> {
        self.proposal.as_deref()
    }
}

/// Arguments of `hardtack fleet key submit`.
#[derive(Args, Debug)]
pub struct SubmitArgs {
    /// The proposal, in one file or in several copies that different people signed
    #[arg(required = true, value_name = "PROPOSAL")]
    files: Vec<PathBuf>,
    /// Where the signed time goes, for the reset of a clock
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What became of it.
pub(in super::super) enum Outcome {
    /// It is in force.
    InForce(InForce),
    /// More root keys have to sign.
    Asked(Box<Asked>),
}

/// What a trust bundle that is in force brought with it.
pub(in super::super) struct InForce {
    /// What it did.
    pub(in super::super) rotated: Rotated,
    /// Files of keys that were replaced.
    pub(in super::super) kept: Vec<PathBuf>,
}

/// Who has to sign what.
pub(in super::super) struct Asked {
    file: PathBuf,
    opened: Opened,
    closed: Vec<PathBuf>,
}

/// Brings the next trust bundle into force, or asks for the signatures that it takes. Every command that changes the bundle
/// ends here.
pub(in super::super) fn put(
    fleet: &mut Fleet,
    next: &TrustBundle,
    cause: Cause,
    args: &RootArgs,
    at: Timestamp,
) -> Result<Outcome, Failure> {
    // The fleet's own passphrase is asked for first: root keys may have others.
    fleet.operator_key()?;
    let mut wanted = fleet.ledger.book().trust().roots.clone();
    wanted.extend(&next.roots);
    let ask = |fleet: &Fleet, roots: &[&SigningKey]| proposal::propose(fleet.ledger.book(), next, cause, roots);
    let (proposed, opened, closed) = gather(fleet, &wanted, args, ask)?;
    if opened.is_complete() {
        let in_force = bring_into_force(fleet, &proposed, &opened, at)?;
        return Ok(Outcome::InForce(in_force));
    }
    let name = format!("bundle-{}-{}.proposal", next.version, short(&proposed));
    write(fleet, &proposed, opened, closed, (args.place(), &name)).map(|asked| Outcome::Asked(Box::new(asked)))
}

/// A proposal with the signatures of the root keys that are at hand.
pub(in super::super) fn gather(
    fleet: &mut Fleet,
    wanted: &[PublicKey],
    args: &RootArgs,
    ask: impl FnOnce(&Fleet, &[&SigningKey]) -> Result<Proposal, FleetError>,
) -> Result<(Proposal, Opened, Vec<PathBuf>), Failure> {
    let roots = fleet.keys.roots(wanted, &args.files)?;
    let keys: Vec<&SigningKey> = roots.found.iter().map(|root| &root.key).collect();
    let proposed = ask(fleet, &keys)?;
    let opened = proposed.open().map_err(|refused| FleetError::Refused { what: "the proposal", refused })?;
    Ok((proposed, opened, roots.closed))
}

/// Writes a proposal for others to sign, to the place that was named or, under a name of its own, into the fleet's folder.
pub(in super::super) fn write(
    fleet: &Fleet,
    proposed: &Proposal,
    opened: Opened,
    closed: Vec<PathBuf>,
    (named, name): (Option<&Path>, &str),
) -> Result<Asked, Failure> {
    let file = named.map_or_else(|| fleet.dir.path().join(name), Path::to_owned);
    files::replace(&file, &proposed.to_bytes()).map_err(file_failure)?;
    Ok(Asked { file, opened, closed })
}

/// The first digits of what is signed: copies of one proposal have the same.
pub(in super::super) fn short(proposed: &Proposal) -> String {
    let digest = match &proposed.proposed {
        Proposed::Bundle { next, .. } => next.digest(),
        Proposed::Reset(reset) => reset.digest(),
    };
    digest.short().chars().take(8).collect()
}

impl Asked {
    /// Says who has to sign what, with which command.
    pub(in super::super) fn tell(&self, session: &Session) -> Result<Exit, Failure> {
        let words = proposal::words(&self.opened);
        let value = json!({
            "in_force": false,
            "proposal": self.file,
            "words": words,
            "quorums": quorums(&self.opened),
            "closed": self.closed,
        });
        show(session.format, &value, |_| {
            let file = self.file.display();
            let mut lines = vec!["nothing is in force yet: more root keys have to sign this".to_owned()];
            lines.extend(words.iter().map(|line| format!("  {line}")));
            lines.extend(self.opened.quorums().iter().map(ToString::to_string));
            let closed = self.closed.iter();
            lines.extend(
                closed.map(|path| format!("{} has a passphrase of its own: sign with it by itself", path.display())),
            );
            lines.push(format!("the proposal: {file}"));
            lines.push(format!(
                "whoever keeps one of these keys, on any machine: hardtack fleet key sign {file} --root KEYFILE"
            ));
            lines.push(format!(
                "then here: hardtack fleet key submit{} {file}, and the copies of it that others have signed",
                in_folder(session)
            ));
            lines.join("\n")
        })?;
        Ok(Exit::Partial)
    }
}

/// As the answer of a command tells who has signed.
pub(super) fn quorums(opened: &Opened) -> Value {
    let quorums = opened.quorums();
    let value = quorums.iter().map(|quorum| {
        let open = quorum.open.iter().map(|(number, id)| json!({"number": number, "key_id": id}));
        json!({
            "bundle": quorum.bundle,
            "threshold": quorum.threshold,
            "signed": quorum.signed,
            "missing": quorum.missing(),
            "open": open.collect::<Vec<_>>(),
        })
    });
    value.collect()
}

/// The ledger first, then the files. Whatever this is interrupted by, `key submit` of the same proposal ends it.
fn bring_into_force(
    fleet: &mut Fleet,
    proposed: &Proposal,
    opened: &Opened,
    at: Timestamp,
) -> Result<InForce, Failure> {
    let Subject::Bundle(next) = &opened.subject else {
        return Err(Failure::new(Exit::Failure, "the proposal is about a clock", "submit it with --out FILE"));
    };
    let (name, mut operator_key) = (fleet.operator.clone(), fleet.operator_key()?);
    let (mut feed, mut policy) = (None, None);
    for changed in changes(&opened.before, next, false) {
        let Some(id) = changed.key else { continue };
        let role = role_of(changed.role);
        let private = fleet.keys.waiting(role)?;
        let new = private.map(|private| NewKey::of(changed.role, &private));
        match (changed.role, new.filter(|new| KeyId::of(&new.public()) == id)) {
            (KeyRole::Feed, Some(NewKey::Signing(key))) => feed = Some(key),
            (KeyRole::Policy, Some(NewKey::Signing(key))) => policy = Some(key),
            // The key that answers for it has to be one that the new bundle names.
            (KeyRole::Operator, Some(NewKey::Signing(key))) => operator_key = key,
            (_, Some(_)) => {}
            (role, None) => {
                let what =
                    format!("the new {} key {id} does not wait in this folder, and nobody could use it", role.name());
                let advice = "submit the proposal where it was made, or propose again";
                return Err(Failure::new(Exit::Failure, what, advice));
            }
        }
    }
    let regrouped = opened.before.groups != next.groups || opened.before.feeds != next.feeds;
    if feed.is_none() && regrouped && fleet.keys.file(Role::Feed).exists() {
        feed = Some(fleet.keys.signing(Role::Feed)?);
    }
    let cadence = fleet.dir.toml().settings().cadence;
    let hands = Hands { feed: feed.as_ref(), policy: policy.as_ref() };
    let by = operator(&name, &operator_key);
    let rotated = fleet.act(|book, _, fx| proposal::submit_bundle(book, proposed, hands, cadence, by, at, fx))?;
    let mut kept = adopt(fleet)?;
    let still = |name: &str| next.emergency.iter().any(|known| known.operator == name);
    for gone in opened.before.emergency.iter().filter(|known| !still(&known.operator)) {
        kept.extend(fleet.keys.retire_emergency(&gone.operator, gone.id())?);
    }
    Ok(InForce { rotated, kept })
}

/// Every key that waits and is in use by the trust bundle in force takes its file's place. Gives the files of those before.
pub(in super::super) fn adopt(fleet: &mut Fleet) -> Result<Vec<PathBuf>, Failure> {
    let trust = fleet.ledger.book().trust().clone();
    let mut kept = Vec::new();
    for role in KeyRole::ALL {
        let Some(private) = fleet.keys.waiting(role_of(role))? else { continue };
        if is_in_use(&trust, role, &NewKey::of(role, &private).public()) {
            kept.extend(fleet.keys.adopt(role_of(role))?);
        }
    }
    kept.extend(fleet.keys.adopt_roots(&trust.roots)?);
    Ok(kept)
}

/// Reads a proposal that somebody brought.
pub(super) fn read(path: &Path) -> Result<Proposal, Failure> {
    let advice =
        "name the proposal that `hardtack fleet key rotate`, `key roots`, `group` or `feed` wrote, or a copy of it";
    let bytes = files::read_bounded(path, PROPOSAL_BYTES_MAX).map_err(|error| unread(error, advice))?;
    Proposal::from_bytes(&bytes).map_err(|refused| {
        Failure::new(Exit::Invalid, format!("{} is no proposal: {refused}", path.display()), "have it sent again")
    })
}

pub(super) fn submit(args: &SubmitArgs, session: &Session) -> Result<Exit, Failure> {
    let at = now()?;
    let read = args.files.iter().map(|file| read(file));
    let proposals: Vec<Proposal> = read.collect::<Result<_, _>>()?;
    let proposed = proposal::merge(proposals)?;
    let mut fleet = session.open()?;
    let opened = match proposal::standing(fleet.ledger.book(), &proposed)? {
        Standing::Open(opened) => opened,
        Standing::InForce => {
            let kept = adopt(&mut fleet)?;
            let version = fleet.ledger.book().trust().version;
            let value = json!({"in_force": true, "began_before": true, "bundle_version": version, "old_files": kept});
            show(session.format, &value, |_| {
                format!("trust bundle {version} was in force already; the new keys are in their places")
            })?;
            return Ok(Exit::Done);
        }
    };
    if let Subject::Reset(reset) = &opened.subject {
        let Some(out) = &args.out else {
            return Err(Failure::new(Exit::Usage, "the signed time has to go somewhere", "name a file: --out FILE"));
        };
        let (name, key) = (fleet.operator.clone(), fleet.operator_key()?);
        let by = operator(&name, &key);
        let file = fleet.act(|book, _, fx| proposal::submit_reset(book, &proposed, by, at, fx))?;
        let value = json!({"kind": "reset", "device": reset.device, "time": reset.time.to_string()});
        return super::super::time::hand_out(&file, out, value, session);
    }
    let InForce { rotated, kept } = bring_into_force(&mut fleet, &proposed, &opened, at)?;
    let words = proposal::words(&opened);
    let restart = super::serving(&fleet)?;
    let value = json!({
        "in_force": true,
        "began_before": false,
        "bundle_version": rotated.bundle,
        "words": words,
        "dropped": rotated.dropped,
        "withdrawn": rotated.withdrawn,
        "old_files": kept,
        "restart": restart,
    });
    show(session.format, &value, |_| {
        let mut lines = words.clone();
        lines.push("it is in force".into());
        lines.extend(kept.iter().map(|file| format!("a key that was replaced is kept as {}", file.display())));
        lines.extend(super::after(restart.as_deref(), rotated.withdrawn.len(), &in_folder(session)));
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}

/// Tells a person what he is about to sign.
pub(super) fn tell_words(opened: &Opened) {
    tell(proposal::text(opened).trim_end());
    opened.quorums().iter().for_each(|quorum| tell(&quorum.to_string()));
}

/// The roles of files and of trust bundles.
pub(super) const fn key_role(role: Role) -> Option<KeyRole> {
    match role {
        Role::Collector => Some(KeyRole::Collector),
        Role::Feed => Some(KeyRole::Feed),
        Role::Issuer => Some(KeyRole::Issuer),
        Role::Operator => Some(KeyRole::Operator),
        Role::Policy => Some(KeyRole::Policy),
        Role::Root | Role::Emergency => None,
        Role::Service => Some(KeyRole::Service),
    }
}
