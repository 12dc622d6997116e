//! What the collector's segments prove, by their own bytes.
//!
//! Owns: [`Chains`], verified anew: signatures, heads, numbers without a hole.
//! Never: says what callers were told.
//! Read next: `hardtack::wire::audit`.

use std::collections::btree_map::Entry as Seen;
use std::collections::{BTreeMap, BTreeSet};

use hardtack::ids::{DeviceId, EraId, FleetId, Hash};
use hardtack::wire::audit::segment::{SegmentHeader, Upload};
use hardtack::wire::audit::signer::{self, Signer};
use hardtack::wire::audit::{
    genesis, Credential, Decision, Event, Gap, Named, NamedStep, Record, Repeated, TrustChange,
};
use hardtack::wire::bundle::PublicKey;
use hardtack::wire::Refused;

use super::{covers, Collected};

/// Who signs after a segment, its header, and its records: what is left of it, where a disk was damaged.
type Candidate = (Signer, SegmentHeader, Vec<Record>);

/// The gateway, its era, the number of the segment that comes next, and the chain's head before it.
type Between = (u32, EraId, u64, Hash);

/// What the collector's segments prove.
pub(super) struct Chains {
    pub(super) events: BTreeMap<(u32, u64, u64), Vec<Event>>,
    pub(super) gaps: Vec<(u32, Gap)>,
    /// Records of salvaged segments: that they are what was written nobody can tell.
    pub(super) by_word_alone: BTreeSet<(u32, u64, u64)>,
    /// Denials without a record of their own, by the record that they were as.
    pub(super) more: BTreeMap<(u32, u64, u64), u64>,
    /// Where each era that another one follows ends, but for what a damaged disk has left; each branch of it, where it forked.
    pub(super) ends: BTreeMap<(u32, EraId), BTreeSet<u64>>,
    /// The places between segments, by the head there: the next index, and who signs there.
    pub(super) places: BTreeMap<Between, (u64, Option<Signer>)>,
}

impl Chains {
    /// What was set aside: each segment goes on from the trail, or from another one of them. What the trail has is there
    /// already.
    pub(super) fn add<'a>(
        &mut self,
        fleet: &FleetId,
        devices: &[(DeviceId, PublicKey)],
        beside: impl Iterator<Item = &'a Collected>,
    ) -> Result<(), String> {
        let mut segments = Vec::new();
        for Collected { device, upload } in beside {
            let claim = upload.header.claim().map_err(|refused| invalid(&devices[*device as usize].0, &refused))?;
            segments.push(((*device, claim.era, claim.segment), claim, upload));
        }
        segments.sort_by_key(|(place, ..)| *place);
        let mut found: BTreeMap<(u32, u64, u64), Vec<Event>> = BTreeMap::new();
        for ((device, era, number), claim, upload) in segments {
            let (name, identity) = &devices[device as usize];
            let Some((next, before)) = self.places.get(&(device, era, number, claim.previous)).copied() else {
                return Err(format!("what {name} has beside era {era} begins in the air at segment {number}"));
            };
            let opened = signer::open(&upload.header, fleet, std::slice::from_ref(identity), before)
                .map_err(|refused| invalid(name, &refused))?;
            let header = &opened.header;
            let shed = header.is_shed(&upload.leaves);
            let records = if shed { Vec::new() } else { upload.check(header).map_err(|what| invalid(name, &what))? };
            let after = opened.after(&records).map_err(|refused| invalid(name, &refused))?;
            if header.device != *name || header.first_index != next {
                return Err(format!("what {name} has beside era {era} does not follow at segment {number}"));
            }
            let end = header.first_index + u64::from(header.count);
            self.places.insert((device, era, header.next_segment(), header.head()), (end, Some(after)));
            self.ends.entry((device, era)).or_default().insert(end);
            for record in records {
                let events = found.entry((device, era.number, record.index)).or_default();
                if !events.contains(&record.event) {
                    events.push(record.event);
                }
            }
        }
        for (place, events) in found {
            let Seen::Vacant(new) = self.events.entry(place) else { continue };
            for event in new.insert(events) {
                match event {
                    Event::Gap(gap) => self.gaps.push((place.0, gap.clone())),
                    Event::Repeated(repeated) => {
                        *self.more.entry((place.0, place.1, repeated.of)).or_default() += repeated.count;
                    }
                    Event::Alive(_)
                    | Event::Decision(_)
                    | Event::Ended(_)
                    | Event::Grant(_)
                    | Event::Mode(_)
                    | Event::Refused(_)
                    | Event::Start(_)
                    | Event::Task(_)
                    | Event::Trust(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Counts of denials, with where they stand.
    pub(super) fn repeated(&self) -> impl Iterator<Item = ((u32, u64, u64), Repeated)> + '_ {
        let of = |event: &Event| match event {
            Event::Repeated(repeated) => Some(*repeated),
            Event::Alive(_)
            | Event::Ended(_)
            | Event::Decision(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Trust(_) => None,
        };
        let all = self.events.iter().flat_map(|(place, events)| events.iter().map(move |event| (*place, event)));
        all.filter_map(move |(place, event)| Some((place, of(event)?)))
    }

    /// The first record of each era that has one, which era it says was before it, and how it fails to: a start may know of
    /// none, an era that begins for any other reason names the one that is over, and where that ended.
    pub(super) fn unnamed(&self) -> impl Iterator<Item = (u32, u64, Option<u64>, Option<String>)> + '_ {
        let firsts = self.events.iter().filter(|((.., index), _)| *index == 0);
        firsts.flat_map(|((device, era, _), events)| events.iter().map(move |event| (*device, *era, event))).map(
            |(device, era, event)| {
                let named = match event {
                    Event::Start(start) => start.previous,
                    Event::Ended(end) => Some(*end),
                    Event::Alive(_)
                    | Event::Decision(_)
                    | Event::Gap(_)
                    | Event::Grant(_)
                    | Event::Mode(_)
                    | Event::Refused(_)
                    | Event::Repeated(_)
                    | Event::Task(_)
                    | Event::Trust(_) => {
                        let problem = format!("{era} begins with {event:?}, which names no era before it");
                        return (device, era, None, Some(problem));
                    }
                };
                let before = named.map(|end| end.era.number);
                let otherwise = named
                    .filter(|end| self.ends.get(&(device, end.era)).is_some_and(|at| !at.contains(&end.next_index)));
                let problem =
                    otherwise.map(|end| format!("{era} says that era {} ended at {}", end.era, end.next_index));
                (device, era, before, problem)
            },
        )
    }

    /// Whether all that a gap covers is there: each record up to where its era ends.
    pub(super) fn has_all_of(&self, device: u32, gap: &Gap) -> bool {
        let end = self.ends.get(&(device, gap.era)).and_then(|ends| ends.last().copied());
        let known = |index| self.events.contains_key(&(device, gap.era.number, index));
        end.zip(gap.end).is_some_and(|(end, until)| (gap.first..end.min(until)).all(known))
    }

    /// How many answers a denial's record and the counts that name it come to.
    pub(super) fn counted(&self, device: u32, era: u64, index: u64) -> u64 {
        self.more.get(&(device, era, index)).map_or(1, |more| more.saturating_add(1))
    }

    /// How a decision says otherwise than expected who is accountable for it, if it does.
    pub(super) fn attribution(
        &self,
        (device, era, index): (u32, u64, u64),
        decision: &Decision,
        expected: &Named,
    ) -> Option<String> {
        let named = match &decision.credential {
            Credential::Nothing => return Some("names nobody".into()),
            Credential::Named(named) => named,
            Credential::Same(other) => {
                let found =
                    self.events.get(&(device, era, *other)).into_iter().flatten().find_map(|event| match event {
                        Event::Decision(decision) if *other < index => match &decision.credential {
                            Credential::Named(named) if decision.allow => Some(named),
                            Credential::Named(_) | Credential::Nothing | Credential::Same(_) => None,
                        },
                        Event::Decision(_)
                        | Event::Gap(_)
                        | Event::Grant(_)
                        | Event::Mode(_)
                        | Event::Refused(_)
                        | Event::Start(_)
                        | Event::Task(_)
                        | Event::Trust(_)
                        | Event::Repeated(_)
                        | Event::Alive(_)
                        | Event::Ended(_) => None,
                    });
                let lost = || self.gaps.iter().any(|(of, gap)| *of == device && covers(gap, era, *other));
                match found {
                    Some(named) => named,
                    None if lost() => return None,
                    None => return Some(format!("refers to record {other}, which names nobody")),
                }
            }
        };
        let same_step = |(named, expected): (&NamedStep, &NamedStep)| {
            // What else is attested of a planner no step hangs on.
            let planner = named.planner.starts_with(&expected.planner);
            planner && (&named.id, named.era, named.index) == (&expected.id, expected.era, expected.index)
        };
        let of_step = named.step.as_ref().zip(expected.step.as_ref()).is_none_or(same_step);
        // Whoever holds a credential may have narrowed it.
        let same = named.chain.starts_with(&expected.chain)
            && of_step
            && named.step.is_some() == expected.step.is_some()
            && named.initiator == expected.initiator
            && (&named.owner, named.grant, &named.task) == (&expected.owner, expected.grant, &expected.task);
        (!same).then(|| format!("names {named:?}, it was {expected:?}"))
    }
}

pub(super) fn invalid(name: &DeviceId, what: &dyn std::fmt::Display) -> String {
    format!("a segment of {name} at the collector is not valid: {what}")
}

/// Verifies every chain anew: signatures, heads, numbers without a hole.
pub(super) fn verify<'a>(
    fleet: &FleetId,
    devices: &[(DeviceId, PublicKey)],
    collected: impl Iterator<Item = &'a Collected>,
) -> Result<Chains, String> {
    let mut segments: BTreeMap<(u32, EraId), BTreeMap<u64, Vec<&Upload>>> = BTreeMap::new();
    for stored in collected {
        let name = &devices[stored.device as usize].0;
        let claim = stored.upload.header.claim().map_err(|refused| invalid(name, &refused))?;
        if claim.device != *name {
            return Err(invalid(name, &"it is of another device"));
        }
        segments.entry((stored.device, claim.era)).or_default().entry(claim.segment).or_default().push(&stored.upload);
    }
    let mut chains = Chains {
        events: BTreeMap::new(),
        gaps: Vec::new(),
        by_word_alone: BTreeSet::new(),
        more: BTreeMap::new(),
        ends: BTreeMap::new(),
        places: BTreeMap::new(),
    };
    let mut signers: BTreeMap<u32, Signer> = BTreeMap::new();
    for ((device, era), era_segments) in segments {
        let (name, identity) = &devices[device as usize];
        let (mut head, mut next, mut floor) = (genesis(fleet, name, era), 0, None);
        let (mut expected, mut salvaged) = (0, false);
        for (number, copies) in era_segments {
            let broken = |what: &str| format!("the chain of {name} breaks at era {era}, segment {number}: {what}");
            if number != expected {
                return Err(broken("a segment before it is missing"));
            }
            let before = signers.get(&device).copied();
            chains.places.insert((device, era, number, head), (next, before));
            let open = |upload: &&Upload| {
                let opened = signer::open(&upload.header, fleet, std::slice::from_ref(identity), before)?;
                let shed = opened.header.is_shed(&upload.leaves);
                let records = if shed { Vec::new() } else { upload.check(&opened.header)? };
                Ok((opened.after(&records)?, opened.header, records))
            };
            let copies: Result<Vec<Candidate>, Refused> = copies.iter().map(open).collect();
            let copies = copies.map_err(|refused| invalid(name, &refused))?;
            for (copy, (_, header, records)) in copies.iter().enumerate() {
                if header.previous != head || header.first_index != next {
                    return Err(broken("it does not follow the one before"));
                }
                if copy > 0 && *records != copies[0].2 {
                    return Err(broken("two segments of one number differ"));
                }
                for record in records {
                    let reset = matches!(record.event, Event::Trust(TrustChange::Reset { .. }));
                    if floor.is_some_and(|floor| record.floor < floor) && !reset {
                        return Err(broken("the floor of time goes back"));
                    }
                    if copy + 1 == copies.len() {
                        floor = Some(record.floor);
                    }
                    if let Event::Gap(gap) = &record.event {
                        chains.gaps.push((device, gap.clone()));
                    }
                    let place = (device, era.number, record.index);
                    chains.events.entry(place).or_default().push(record.event.clone());
                    if header.salvage.is_some() {
                        chains.by_word_alone.insert(place);
                    }
                }
            }
            let (signer, first, _) = &copies[0];
            signers.insert(device, *signer);
            salvaged |= first.salvage.is_some();
            (head, next, expected) = (first.head(), next + u64::from(first.count), first.next_segment());
        }
        chains.places.insert((device, era, expected, head), (next, signers.get(&device).copied()));
        if !salvaged {
            chains.ends.entry((device, era)).or_default().insert(next);
        }
    }
    let counts: Vec<_> = chains.repeated().collect();
    for ((device, era, _), repeated) in counts {
        *chains.more.entry((device, era, repeated.of)).or_default() += repeated.count;
    }
    Ok(chains)
}
