//! Just-in-time task tokens, and what a device's requests are answered.
//!
//! Owns: whether live grants cover a task, the limits of what is minted, the sealed answer.
//! Never: mints what no live grant covers, and for a group what not every device of it may do; answers a device that is not
//! approved.
//! Read next: `service.rs`, which calls it.

use std::collections::BTreeMap;

use rand_core::{CryptoRng, RngCore};

use super::acts::{self, Deed};
use super::book::{Book, Device, Grant, Issued, Serials, Status, Write};
use super::grant::{self, first_block, LINES_MAX};
use super::keys::{Issuer, ISSUED_EARLIER};
use super::{covered, Effects, FleetError, FleetLog, Operator};
use crate::ids::{DeviceId, FeedId, GrantId, GroupId, RiskClass};
use crate::time::{Millis, Timestamp};
use crate::wire::link::{Ask, Reply, Request, Right, TaskAsk};
use crate::wire::policy::TimeClass;
use crate::wire::revocation::Target;
use crate::wire::token::{self, covered, Bearer, TaskSpec, RESERVED, RIGHTS_MAX};

/// The most selectors that a request may name.
const SELECTORS_MAX: usize = 32;

/// What the issuer adds of its own.
#[derive(Clone, Copy)]
pub struct Minting<'a> {
    /// The key.
    pub issuer: &'a Issuer,
    /// No task token lives longer.
    pub ttl_max: Millis,
    /// The present time.
    pub at: Timestamp,
}

/// What is to be minted, and for whom.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// For whom.
    pub bearer: &'a Bearer,
    /// For which audience, if for one. Devices ask for none.
    pub audience: Option<&'a str>,
    /// What.
    pub ask: &'a TaskAsk,
}

/// Answers a request whose signature was checked. A refusal is final and says what to do.
pub(super) fn answer(
    book: &mut Book,
    device: &Device,
    request: &Request,
    minting: Minting<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Reply {
    let id = &device.id;
    if device.status == Status::Retired {
        return Reply::Refused(format!("device {id} is retired: an operator has to approve it anew"));
    }
    match &request.ask {
        Ask::Grants | Ask::Renew(_) => {
            if let Ask::Renew(spent) = &request.ask {
                if let Err(error) = grant::renew(book, device, spent, minting.issuer, minting.at, rng, fx) {
                    // The old one is still good: it is what the device goes on with.
                    fx.log(FleetLog::GrantNotRenewed { device: id.clone(), reason: error.to_string() });
                }
            }
            let tokens: Vec<Vec<u8>> = book.live_grants(id, minting.at).map(|grant| grant.token.clone()).collect();
            fx.log(FleetLog::GrantsAnswered { device: id.clone(), count: tokens.len() as u64 });
            Reply::Grants(tokens)
        }
        Ask::Task(ask) => match mint(book, for_device(&Bearer::Device(id.clone()), ask), minting, rng, fx) {
            Ok((token, issued)) => {
                fx.log(FleetLog::TaskIssued { device: id.clone(), task: issued.task, grant: issued.grant });
                Reply::Task(token)
            }
            Err(reason) => {
                let reason = reason.to_string();
                fx.log(FleetLog::TaskRefused { device: id.clone(), task: ask.task.clone(), reason: reason.clone() });
                Reply::Refused(reason)
            }
        },
    }
}

fn for_device<'a>(bearer: &'a Bearer, ask: &'a TaskAsk) -> Order<'a> {
    Order { bearer, audience: None, ask }
}

/// Mints a task token for an operator. He is bound by the device's grants as the device itself is; for a group, by those of
/// every device in it.
///
/// # Errors
/// Why no grant covers it.
pub fn issue(
    book: &mut Book,
    order: Order<'_>,
    minting: Minting<'_>,
    operator: Operator<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(Vec<u8>, Issued), FleetError> {
    let audience = order.audience.map(|audience| acts::text("the audience", audience)).transpose()?;
    if let Bearer::Device(device) = order.bearer {
        match book.device(device) {
            None => return Err(FleetError::UnknownDevice(device.clone())),
            Some(known) if known.status == Status::Retired => return Err(FleetError::Retired(device.clone())),
            Some(_) => {}
        }
    }
    let (token, issued) = mint(book, Order { audience: audience.as_deref(), ..order }, minting, rng, fx)?;
    let Issued { task, bearer, grant, block, expires, .. } = issued.clone();
    acts::record(book, operator, Deed::Issued { task, bearer, audience, grant, block, expires }, minting.at, fx)?;
    Ok((token, issued))
}

fn mint(
    book: &mut Book,
    order: Order<'_>,
    minting: Minting<'_>,
    rng: &mut (impl RngCore + CryptoRng),
    fx: &mut Effects,
) -> Result<(Vec<u8>, Issued), FleetError> {
    let Order { bearer, audience, ask } = order;
    check(ask)?;
    minting.issuer.check(book.trust())?;
    let bounds = match bearer {
        Bearer::Device(device) => Bounds::of(book, device, covering(book, device, ask, minting.at)?),
        Bearer::Group(group) => of_group(book, group, ask, minting.at, rng)?,
    };
    if ask.rights.len() + bounds.staleness_max.len() > LINES_MAX {
        let message = format!(
            "{} rights, and {} bounds of the grants on the age of revocations, are more than the 48 that a token has room \
             for: ask for less at once",
            ask.rights.len(),
            bounds.staleness_max.len()
        );
        return Err(FleetError::Invalid(message));
    }
    let at = minting.at;
    let life = ask.ttl_ms.min(minting.ttl_max).min(bounds.task_ttl_max);
    let mut spec = TaskSpec {
        fleet: book.fleet().clone(),
        grant: bounds.grant,
        bearer: bearer.clone(),
        owner: bounds.owner.clone(),
        audience: audience.map(str::to_owned),
        feed: bounds.feed.clone(),
        task: ask.task.clone(),
        issued: at - ISSUED_EARLIER,
        expires: (at + life).min(bounds.expires),
        serial: None,
        rights: ask.rights.clone(),
        uses_max: ask.uses.map(|uses| uses.min(bounds.uses_max)),
        staleness_max: bounds.staleness_max.into_iter().collect(),
        min_time_class: bounds.min_time_class,
    };
    refuse_revoked(book, &spec, minting)?;
    let slot = TaskSpec::slot(spec.issued, spec.expires);
    spec.serial = book.next_serial(slot);
    let malformed = FleetError::refused("the task");
    let token = token::mint_task(&spec, &minting.issuer.key, minting.issuer.root_key_id, rng).map_err(malformed)?;
    let block = first_block(&token)?;
    let TaskSpec { task, bearer, grant, owner, audience, expires, serial, .. } = spec;
    let root_key_id = minting.issuer.root_key_id;
    let issued = Issued { task, bearer, grant, owner, audience, root_key_id, block, at, expires, serial };
    if let Some(serial) = serial {
        book.write(Write::Serials(Serials { slot, issued: serial + 1 }), fx);
    }
    book.write(Write::Issued(issued.clone()), fx);
    Ok((token, issued))
}

/// What the grants that cover a task leave of it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Bounds {
    grant: GrantId,
    owner: String,
    /// The feed that every device which is shown the token holds. None where they hold several.
    feed: Option<FeedId>,
    expires: Timestamp,
    task_ttl_max: Millis,
    uses_max: u64,
    staleness_max: BTreeMap<RiskClass, Millis>,
    min_time_class: Option<TimeClass>,
}

impl Bounds {
    fn of(book: &Book, device: &DeviceId, grant: &Grant) -> Self {
        Self {
            grant: grant.spec.grant,
            owner: grant.spec.owner.clone(),
            feed: Some(grant::feed_to_name(book, device)),
            expires: grant.spec.expires,
            task_ttl_max: grant.spec.task_ttl_max,
            uses_max: grant.spec.uses_max,
            staleness_max: strictest(grant.spec.staleness_max.iter().cloned()),
            min_time_class: grant.spec.min_time_class,
        }
    }

    /// What both leave.
    fn and(self, other: Self) -> Self {
        Self {
            grant: self.grant,
            feed: self.feed.filter(|feed| other.feed.as_ref() == Some(feed)),
            expires: self.expires.min(other.expires),
            task_ttl_max: self.task_ttl_max.min(other.task_ttl_max),
            uses_max: self.uses_max.min(other.uses_max),
            staleness_max: strictest(self.staleness_max.into_iter().chain(other.staleness_max)),
            // The stricter, and any is stricter than none.
            min_time_class: self.min_time_class.max(other.min_time_class),
            owner: self.owner,
        }
    }
}

/// The shortest of each class of risk. Any is stricter than none.
fn strictest(bounds: impl Iterator<Item = (RiskClass, Millis)>) -> BTreeMap<RiskClass, Millis> {
    let mut all = BTreeMap::new();
    for (risk, bound) in bounds {
        let least = all.entry(risk).or_insert(bound);
        *least = bound.min(*least);
    }
    all
}

/// A token for a group is good on every device that is in it, so each of them has to be allowed what it says, and somebody
/// has to answer for it on all of them. It is issued under no single grant, and its id is its own.
fn of_group(
    book: &Book,
    group: &GroupId,
    ask: &TaskAsk,
    at: Timestamp,
    rng: &mut impl RngCore,
) -> Result<Bounds, FleetError> {
    if ask.uses.is_some() {
        let message = "uses are counted on one device: a token for a group is not bounded by uses, leave them out";
        return Err(FleetError::Argument(message.into()));
    }
    let members = book.trust().groups.get(group).map_or(&[][..], Vec::as_slice);
    let each = members.iter().map(|device| match covering(book, device, ask, at) {
        Ok(grant) => Ok(Bounds::of(book, device, grant)),
        Err(error) => Err(FleetError::Invalid(format!(
            "not every device of group {group} may do that: {error}; or take {device} out of the group"
        ))),
    });
    let each: Vec<Bounds> = each.collect::<Result<_, _>>()?;
    let Some(all) = each.iter().cloned().reduce(Bounds::and) else {
        let message = format!("there is no device in group {group}: `hardtack fleet group add {group} DEVICE…`");
        return Err(FleetError::Invalid(message));
    };
    if let Some(other) = each.iter().find(|other| other.owner != all.owner) {
        let message = format!(
            "the grants of group {group} have several owners, {} and {} among them, and a token has one: give its devices \
             grants of one owner (--owner)",
            all.owner, other.owner
        );
        return Err(FleetError::Invalid(message));
    }
    let mut id = GrantId([0; 16]);
    rng.fill_bytes(&mut id.0);
    Ok(Bounds { grant: id, ..all })
}

fn check(ask: &TaskAsk) -> Result<(), FleetError> {
    let invalid = |text: &str| Err(FleetError::Argument(text.to_owned()));
    if ask.rights.is_empty() || ask.rights.len() > RIGHTS_MAX {
        return invalid("a task asks for 1 to 32 rights");
    }
    if ask.selectors.is_empty() || ask.selectors.len() > SELECTORS_MAX {
        return invalid("a task names 1 to 32 selectors of its workload");
    }
    if ask.rights.iter().any(|right| right.action.starts_with(RESERVED)) {
        return invalid("actions that begin with `hardtack:` are the agent's own");
    }
    if ask.ttl_ms.secs() == 0 || ask.uses == Some(0) {
        return invalid("a task lives for at least a second and has at least one use");
    }
    Ok(())
}

/// The live grant of the device that covers all that is asked, the longest-lived of several.
fn covering<'b>(book: &'b Book, device: &'b DeviceId, ask: &TaskAsk, at: Timestamp) -> Result<&'b Grant, FleetError> {
    let live: Vec<&Grant> =
        book.live_grants(device, at).filter(|grant| covered::grant(book, grant, at).is_none()).collect();
    let begins = |grant: &&Grant| {
        let may_begin = &grant.spec.may_begin;
        may_begin.iter().any(|(selector, class)| *class == ask.class && ask.selectors.contains(selector))
    };
    if live.is_empty() {
        // Where the device is revoked another grant is of no use, and where all that it has are, that is the reason.
        let held = || book.grants().filter(|grant| grant.spec.device == *device && grant.spec.expires > at);
        let held = || held().filter(|grant| grant.withdrawn.is_none());
        let revoked = covered::device(book, device, at);
        if let Some(revoked) = revoked.or_else(|| held().find_map(|grant| covered::grant(book, grant, at))) {
            return Err(FleetError::Revoked(revoked));
        }
        return Err(FleetError::Invalid(format!("device {device} has no live grant: an operator has to create one")));
    }
    if !live.iter().any(begins) {
        let message = format!("no live grant lets this workload begin a task of class {}: ask for another class, or have an operator grant it", ask.class);
        return Err(FleetError::Invalid(message));
    }
    let covers = |grant: &&Grant| ask.rights.iter().all(|right| covers_right(grant, ask, right));
    let longest = live.into_iter().filter(begins).filter(covers).max_by_key(|grant| grant.spec.expires);
    longest.ok_or_else(|| {
        let message = format!(
            "no live grant covers every right asked for in class {}: ask for less, or have an operator grant it",
            ask.class
        );
        FleetError::Invalid(message)
    })
}

fn covers_right(grant: &Grant, ask: &TaskAsk, right: &Right) -> bool {
    let held = grant.spec.rights.iter().filter(|held| held.class == ask.class).map(|held| &held.right);
    covered(right, held)
}

/// A token that a rule covers from birth is not minted: the refusal says more than a denial would. A rule on a group covers
/// what is for the group by name, and not what is for one device of it.
fn refuse_revoked(book: &Book, spec: &TaskSpec, minting: Minting<'_>) -> Result<(), FleetError> {
    let mut targets = vec![
        Target::All,
        match &spec.bearer {
            Bearer::Device(device) => Target::Device(device.clone()),
            Bearer::Group(group) => Target::Group(group.clone()),
        },
        Target::Grant(spec.grant),
        Target::Owner(spec.owner.clone()),
        Target::RootKey(minting.issuer.root_key_id),
        Target::Task(spec.task.clone()),
    ];
    targets.extend(spec.audience.clone().map(Target::Audience));
    let revoked = covered::covered(book, &targets, Some(spec.issued), minting.at);
    revoked.map_or(Ok(()), |revoked| Err(FleetError::Revoked(revoked)))
}

#[cfg(test)]
mod tests {
    use super::super::book::Restored;
    use super::super::covered::tests::declared;
    use super::super::groups::{change, Change, Signing};
    use super::super::revoke::{life_of, revoke, Revocation};
    use super::super::service::tests::{ask, at, new_grant, one_device, CADENCE};
    use super::*;
    use crate::agent::token::admit;
    use crate::fleet::grant;
    use crate::profile::Profile;
    use crate::wire::biscuit::decode;

    fn try_mint(edit: impl FnOnce(&mut TaskAsk), rule: Option<Target>) -> Result<Issued, FleetError> {
        try_mint_under(edit, rule, None)
    }

    fn try_mint_under(
        edit: impl FnOnce(&mut TaskAsk),
        rule: Option<Target>,
        emergency: Option<Target>,
    ) -> Result<Issued, FleetError> {
        let (keys, mut book, _, mut rng) = one_device();
        let mut fx = Effects::default();
        let ann = keys.operator("ann");
        grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, &mut fx)?;
        if let Some(target) = rule {
            let rule = Revocation { target, until: None, reason: "test".into(), life: None, device: None };
            revoke(&mut book, rule, ann, at(101), &mut fx)?;
        }
        if let Some(target) = emergency {
            declared(&mut book, &target, at(101));
        }
        let mut ask = ask();
        edit(&mut ask);
        let minting = Minting { issuer: &keys.issuer, ttl_max: Millis::from_secs(600), at: at(102) };
        let gw = Bearer::Device("gw-07".parse().unwrap());
        issue(&mut book, for_device(&gw, &ask), minting, ann, &mut rng, &mut fx).map(|(_, issued)| issued)
    }

    /// What becomes of an order for a group of these devices, of which gw-07 has a grant of ops@acme.
    fn try_group(
        members: &[&str],
        rule: Option<Target>,
        edit: impl FnOnce(&mut TaskAsk, &mut Option<String>),
        for_group: bool,
    ) -> Result<(Vec<u8>, Issued, Book), FleetError> {
        try_granted(new_grant(), members, rule, edit, for_group)
    }

    fn try_granted(
        grant: grant::NewGrant,
        members: &[&str],
        rule: Option<Target>,
        edit: impl FnOnce(&mut TaskAsk, &mut Option<String>),
        for_group: bool,
    ) -> Result<(Vec<u8>, Issued, Book), FleetError> {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        grant::create(&mut book, grant, &keys.issuer, ann, at(100), &mut rng, fx).unwrap();
        let group: GroupId = "north".parse().unwrap();
        let members = members.iter().map(|device| device.parse().unwrap()).collect();
        let signing = Signing { root: &keys.root, feed: &keys.feed, cadence: CADENCE };
        change(&mut book, &Change::Join(group.clone(), members), signing, ann, at(101), fx).unwrap();
        if let Some(target) = rule {
            let rule = Revocation { target, until: None, reason: "test".into(), life: None, device: None };
            revoke(&mut book, rule, ann, at(101), fx).unwrap();
        }
        let (mut ask, mut audience) = (ask(), None);
        ask.uses = None;
        edit(&mut ask, &mut audience);
        let bearer = if for_group { Bearer::Group(group) } else { Bearer::Device("gw-07".parse().unwrap()) };
        let minting = Minting { issuer: &keys.issuer, ttl_max: Millis::from_secs(600), at: at(102) };
        let order = Order { bearer: &bearer, audience: audience.as_deref(), ask: &ask };
        issue(&mut book, order, minting, ann, &mut rng, fx).map(|(token, issued)| (token, issued, book))
    }

    #[test]
    fn what_is_for_a_group_is_what_each_device_of_it_may_do() {
        let (token, issued, book) = try_group(&["gw-07"], None, |_, _| {}, true).unwrap();
        let verified = admit(&token, &Profile::default().verify, book.trust(), |_| false).unwrap();
        let claims = &verified.claims;
        assert_eq!((claims.group.as_deref(), &claims.device), (Some("north"), &None));
        assert_eq!((claims.owner.as_str(), &claims.audience, claims.uses.len()), ("ops@acme", &None, 0));
        assert!(book.grant(&issued.grant).is_none(), "no one grant covers it");
        let refused = |members: &[&str], edit: fn(&mut TaskAsk, &mut Option<String>)| {
            try_group(members, None, edit, true).unwrap_err().to_string()
        };
        let other = refused(&["gw-07", "gw-08"], |_, _| {});
        assert!(other.contains("gw-08 has no live grant") && other.contains("take gw-08 out"), "{other}");
        assert!(refused(&["gw-07"], |ask, _| ask.rights[0].action = "erase".into()).contains("no live grant covers"));
        assert!(refused(&["gw-07"], |ask, _| ask.uses = Some(3)).contains("leave them out"));
        assert!(refused(&["gw-07"], |_, audience| *audience = Some(" ".into())).contains("the audience must have"));
    }

    #[test]
    fn a_task_bears_no_older_revocations_than_the_grants_that_cover_it() {
        let said = |for_group: bool| {
            let (token, _, book) = try_group(&["gw-07"], None, |_, _| {}, for_group).unwrap();
            admit(&token, &Profile::default().verify, book.trust(), |_| false).unwrap().claims.staleness_max.clone()
        };
        let granted = new_grant().staleness_max;
        assert!(!granted.is_empty() && said(false) == granted && said(true) == granted);
        // As many as a token has room for, and one more.
        let many = |count: usize| {
            let classes = (0..40).map(|class| (format!("r-{class}").parse().unwrap(), Millis::from_secs(60)));
            let grant = grant::NewGrant { staleness_max: classes.collect(), ..new_grant() };
            let right = ask().rights[0].clone();
            try_granted(grant, &["gw-07"], None, |ask, _| ask.rights = vec![right; count], true)
        };
        let (token, _, book) = many(8).unwrap();
        assert!(admit(&token, &Profile::default().verify, book.trust(), |_| false).is_ok());
        assert!(many(9).unwrap_err().to_string().contains("ask for less at once"));
        let bounds = |all: &[(&str, u64)]| {
            strictest(all.iter().map(|(risk, secs)| (risk.parse().unwrap(), Millis::from_secs(*secs))))
        };
        let of = |all: &[(&str, u64)]| Bounds {
            grant: GrantId([1; 16]),
            owner: "ops".into(),
            feed: None,
            expires: at(0),
            task_ttl_max: Millis(1),
            uses_max: 1,
            staleness_max: bounds(all),
            min_time_class: None,
        };
        let both = of(&[("high", 3600), ("low", 60)]).and(of(&[("high", 1800), ("mid", 5)]));
        assert_eq!(both.staleness_max, bounds(&[("high", 1800), ("low", 60), ("mid", 5)]));
        assert_eq!(bounds(&[("high", 5), ("high", 3)]), bounds(&[("high", 3)]));
    }

    #[test]
    fn a_revoked_group_or_audience_ends_what_names_it_and_nothing_else() {
        let north = || Some(Target::Group("north".parse().unwrap()));
        let scada = || Some(Target::Audience("scada".into()));
        let named = |_: &mut TaskAsk, audience: &mut Option<String>| *audience = Some("scada".into());
        let unnamed = |_: &mut TaskAsk, _: &mut Option<String>| {};
        let is_revoked = |tried: Result<(Vec<u8>, Issued, Book), FleetError>| match tried {
            Ok(_) => false,
            Err(error) => {
                assert!(error.to_string().contains("is revoked until"), "{error}");
                true
            }
        };
        assert!(is_revoked(try_group(&["gw-07"], north(), unnamed, true)));
        assert!(!is_revoked(try_group(&["gw-07"], north(), unnamed, false)), "a token for one device names no group");
        assert!(!is_revoked(try_group(&["gw-07"], north(), named, false)));
        for for_group in [false, true] {
            assert!(is_revoked(try_group(&["gw-07"], scada(), named, for_group)));
            assert!(!is_revoked(try_group(&["gw-07"], scada(), unnamed, for_group)));
        }
    }

    #[track_caller]
    fn check_refused(edit: impl FnOnce(&mut TaskAsk)) {
        assert!(try_mint(edit, None).is_err());
    }

    #[test]
    fn what_no_grant_covers_is_not_minted() {
        assert!(try_mint(|_| {}, None).is_ok());
        check_refused(|ask| ask.class = "valve".parse().unwrap());
        check_refused(|ask| ask.selectors = vec!["unix:uid:0".into()]);
        check_refused(|ask| ask.selectors.clear());
        check_refused(|ask| ask.rights.clear());
        check_refused(|ask| ask.rights[0].resource = "modbus/pump2/speed".into());
        check_refused(|ask| ask.rights[0].resource = "modbus/*".into());
        check_refused(|ask| ask.rights[0].resource = "modbus/../x".into());
        check_refused(|ask| ask.rights[0].action = "erase".into());
        check_refused(|ask| ask.rights[0].action = "hardtack:exchange".into());
        check_refused(|ask| ask.ttl_ms = Millis(0));
        check_refused(|ask| ask.uses = Some(0));
    }

    #[test]
    fn what_is_asked_is_clipped_to_grant_and_issuer() {
        let long = try_mint(|ask| ask.ttl_ms = Millis(u64::MAX), None).unwrap();
        assert_eq!(long.expires, at(102 + 600), "the issuer's bound is the lowest here");
        let short = try_mint(|ask| ask.ttl_ms = Millis::from_secs(5), None).unwrap();
        assert_eq!(short.expires, at(107));
    }

    #[test]
    fn what_is_revoked_is_not_minted() {
        for target in [
            Target::All,
            Target::Device("gw-07".parse().unwrap()),
            Target::Owner("ops@acme".into()),
            Target::RootKey(1),
            Target::Task("t-1".parse().unwrap()),
            Target::IssuedBefore(at(101)),
        ] {
            let by_feed = try_mint(|_| {}, Some(target.clone())).unwrap_err().to_string();
            assert!(by_feed.contains(" is revoked until ") && !by_feed.contains("emergency"), "{by_feed}");
            let by_key = try_mint_under(|_| {}, None, Some(target)).unwrap_err().to_string();
            assert!(by_key.contains(" is revoked until ") && by_key.contains(" by emergency key "), "{by_key}");
        }
        for other in [Target::Task("t-2".parse().unwrap()), Target::Device("gw-08".parse().unwrap())] {
            assert!(try_mint(|_| {}, Some(other.clone())).is_ok());
            assert!(try_mint_under(|_| {}, None, Some(other)).is_ok());
        }
        assert!(try_mint(|_| {}, Some(Target::IssuedBefore(at(50)))).is_ok());
    }
    #[test]
    fn tokens_of_one_slot_are_numbered_without_a_hole() {
        let (keys, mut book, _, mut rng) = one_device();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        grant::create(&mut book, new_grant(), &keys.issuer, ann, at(100), &mut rng, fx).unwrap();
        let mut mint = |book: &mut Book, secs: u64| {
            let minting = Minting { issuer: &keys.issuer, ttl_max: Millis::from_secs(600), at: at(secs) };
            let gw = Bearer::Device("gw-07".parse().unwrap());
            let (token, issued) = mint(book, for_device(&gw, &ask()), minting, &mut rng, fx).unwrap();
            let token = decode(&token, &Profile::default().verify).unwrap();
            // The token itself says what the ledger has of it.
            assert_eq!(life_of(&token, &issued.block).map(|life| (life.slot(), life.serial)), {
                Some((issued.life().slot(), issued.serial))
            });
            (issued.life().slot(), issued.serial)
        };
        let first: Vec<_> = (0..3).map(|n| mint(&mut book, 102 + n)).collect();
        assert_eq!(first.iter().map(|(_, serial)| *serial).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
        let later = mint(&mut book, 3700);
        assert_eq!((later.0 == first[0].0, later.1), (false, Some(0)), "another hour, another slot");
        book.write(
            Write::Restored(Restored {
                feed: book.feed(),
                at: at(3701),
                least: (1, 1),
                settled: true,
                bundles_known: true,
            }),
            &mut Effects::default(),
        );
        assert_eq!(mint(&mut book, 3702).1, None, "the ledger that was lost may have given out any number");
    }
}
