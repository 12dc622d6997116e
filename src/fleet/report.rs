//! What the stored audit proves, checked from its bytes.
//!
//! Owns: [`Signers`], whose signatures count; [`Verifier`], which takes stored segments in order and checks each signature,
//! each chain and each hole; [`Report`], in which every record that ever was is collected, lost and counted in a gap record, or missing.
//! Never: trusts the collector that stored them, or a file: nothing but the devices' public keys.
//! Read next: `report/holes.rs`, which names each hole; `collect.rs`, which checked it all on arrival.

pub mod branch;
pub mod holes;
pub mod lineage;
pub mod problems;
pub mod twins;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use branch::{Limb, Point};
use holes::{list, Arrived, Counted, Holes, Marked, Missing, Salvaged, Unheard};
use problems::Problems;
use twins::{Begun, Twin};

use super::book::{Book, Device, Segment};
use crate::agent::salvage::Boundary;
use crate::ids::{DeviceId, EraId, FleetId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::fork::Contradiction;
use crate::wire::audit::segment::{SegmentHeader, Upload};
use crate::wire::audit::signer::{self, AuditKey, Mark, Signer};
use crate::wire::audit::{genesis, record_id, Alive, Credential, EraEnd, Event, Gap, GapCause, Named, Record};
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;

/// What is proved about one device.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DeviceReport {
    /// Answers to `authorize`, those that have no record of their own and were counted among them.
    pub decisions: u64,
    /// Those: denials that were as one before them.
    pub repeated: u64,
    /// Records of any kind.
    pub records: u64,
    /// Gap records: losses that the device counted and signed.
    pub gaps: u64,
    /// Records that they count, those that arrived all the same left out. Of what a torn end may have held, the most.
    pub lost: u64,
    /// Decisions of which the record that names their credential, or that they were as, is among the lost.
    pub unattributed: u64,
    /// Segments that a later start closed, with the audit key of then.
    pub recovered: u64,
    /// What was left of segments that a disk damaged: the chain goes on over what is lost by the device's word alone.
    pub salvaged: u64,
    /// Segments whose records the device gave up for want of room: denials and notices. Their signed headers are here.
    pub shed: u64,
    /// Eras that began with another audit key than the one before ended with.
    pub unannounced: u64,
    /// Proofs that its chain forked.
    pub forks: u64,
    /// Records of other branches of its eras than those that arrived first: they are set aside, and not among the records.
    pub aside: u64,
    /// The first record's name.
    pub first: Option<String>,
    /// The last record's name.
    pub last: Option<String>,
    /// The floor E of that record.
    pub heard: Option<Timestamp>,
    /// Within so much powered-on time after it the device records something more, whatever happens: past that it is switched
    /// off, cut off, or made silent. None where it ended in order, or began with nothing that says so.
    pub next_within: Option<Millis>,
    /// Eras of which there were as many denials as are counted, or more: those that have denials, or had some that were
    /// given up, and ended without a word, but for the last one, because what was being counted then is not counted; and
    /// those of which a damaged disk has lost a part, where counts may have been.
    pub cut_short: u64,
    /// Denials that were counted in records which were given up, by what gap records say: beside `decisions`.
    pub repeated_lost: u64,
    /// Numbers of eras below the highest one that is here of which nothing is here, and of which nothing says that they
    /// ended, were lost, or held nothing.
    pub unheard: u64,
    /// What does not check out.
    pub problems: Problems,
    /// Records that a later segment or a later era's start proves to exist, that have not arrived, and that no gap
    /// record counts. What was given up for want of room only a later gap record counts that says so.
    pub missing: u64,
    /// Of a device's own export: records of eras before the first that is here. It gave them back when they were
    /// acknowledged: the collector has them.
    pub given_back: u64,
    /// Of a device's own export: records that no signature covers yet. They prove nothing.
    pub unsigned: u64,
    /// The holes one by one.
    pub holes: Holes,
}

/// What is proved about all devices.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Per device.
    pub devices: BTreeMap<DeviceId, DeviceReport>,
}

impl Report {
    /// Whether every chain checks out from end to end, without a fork.
    pub fn is_sound(&self) -> bool {
        self.devices.values().all(|device| device.problems.is_empty() && device.forks == 0)
    }

    /// Whether all that is here is what was signed, on one branch of a trail or on several.
    pub fn is_signed(&self) -> bool {
        self.devices.values().all(|device| device.problems.is_empty())
    }

    /// Whether nothing is here of which anything could be proved.
    pub fn is_empty(&self) -> bool {
        self.devices.values().all(|device| (device.records, device.aside, device.shed, device.salvaged) == (0, 0, 0, 0))
    }

    /// Whether something is gone or has not arrived.
    pub fn has_gaps(&self) -> bool {
        self.devices.values().any(|device| device.gaps > 0 || device.missing > 0 || device.unheard > 0)
    }
}

struct Chain {
    device: DeviceId,
    era: EraId,
    next_segment: u64,
    next_index: u64,
    head: Hash,
    /// Who signs the next segment, as far as that is known.
    signer: Option<Signer>,
    /// Records that salvaged segments say are lost.
    lost: Vec<(u64, u64)>,
    /// Records that were given up.
    shed: Vec<(u64, u64)>,
    /// Whether it goes on by the device's word alone somewhere.
    made: Made,
    said: Said,
    /// Its beginning, and the end of each segment of it that is here: where another branch may part.
    points: Vec<Point>,
}

/// What records of an era say that later ones build on.
#[derive(Default)]
struct Said {
    /// Credentials by the record that names them in full.
    named: BTreeMap<u64, Arc<Named>>,
    /// The denials, in order.
    denials: Vec<u64>,
    /// Whether the last record says that it ends in order.
    over: bool,
}

/// The era that ended last.
struct Past {
    device: DeviceId,
    era: EraId,
    /// It has denials, or had some, and does not say that all of them were counted.
    open: bool,
    /// Counts may have been among what a damaged disk has lost of it.
    torn: bool,
}

/// A segment that is sound.
#[derive(Debug)]
pub struct Checked {
    /// Its header.
    pub header: SegmentHeader,
    /// Who signed it.
    pub signer: Signer,
    /// How that key follows the one before.
    pub mark: Mark,
    /// Its records, each with what its decision's credential names, as far as that is there.
    pub records: Vec<(Record, Option<Arc<Named>>)>,
}

/// What a chain is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Whole segments.
    Whole,
    /// What a damaged disk had left, too.
    Salvaged,
}

/// Where a segment has to stand.
struct Place {
    segment: u64,
    index: u64,
    head: Hash,
    /// Who signs there; of an era's first segment, who signed the era before.
    signer: Option<Signer>,
}

/// What is held of an era.
struct Held {
    end: u64,
    head: Hash,
    lost: Vec<(u64, u64)>,
    shed: Vec<(u64, u64)>,
    made: Made,
    /// Who vouches for the key that signed its last segment.
    identity: Option<PublicKey>,
}

/// A gap record, and where it stands.
struct ToldGap {
    /// Its era's number, and its index.
    place: (u64, u64),
    gap: Gap,
}

/// The fleet, and the identity keys of its devices, which vouch for what they sign their audit with: those in use and those that
/// they had before.
#[derive(Clone, Debug)]
pub struct Signers {
    /// The fleet.
    pub fleet: FleetId,
    /// Per device.
    pub keys: BTreeMap<DeviceId, Vec<PublicKey>>,
}

impl Signers {
    /// Those that a ledger knows.
    pub fn of(book: &Book) -> Self {
        let keys = book.devices().map(|device| (device.id.clone(), identities(device)));
        Self { fleet: book.fleet().clone(), keys: keys.collect() }
    }
}

/// The identity keys of a device, the one in use first.
pub fn identities(device: &Device) -> Vec<PublicKey> {
    std::iter::once(&device.keys).chain(device.past.iter().rev()).map(|keys| keys.identity).collect()
}

/// Checks stored segments. They come per device, per era, by number.
pub struct Verifier {
    signers: Signers,
    report: Report,
    chain: Option<Chain>,
    held: BTreeMap<(DeviceId, EraId), Held>,
    named: Vec<(DeviceId, EraEnd)>,
    /// Per device and number of the era that they speak of.
    gaps: BTreeMap<(DeviceId, u64), Vec<ToldGap>>,
    past: Option<Past>,
    holder: Holder,
    /// Branches of the era at hand beside its trail.
    beside: Vec<Limb>,
    /// Whether one has come, or was to: the trail is over.
    parted: bool,
    /// Whether the forks that were seen on arrival are known.
    forks_told: bool,
    /// Those of them at which an era begins.
    told: BTreeSet<(DeviceId, EraId)>,
    begun: Begun,
}

/// Who holds what is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A collector: all that was delivered.
    Collector,
    /// A device: what it has not given back.
    Device,
}

impl Verifier {
    /// A verifier that knows the devices of `book` and the forks that were seen on arrival.
    pub fn new(book: &Book) -> Self {
        let mut verifier = Self::by(Signers::of(book));
        for fork in book.forks() {
            verifier.report.devices.entry(fork.device.clone()).or_default().forks += 1;
            if fork.segment == 0 {
                verifier.told.insert((fork.device.clone(), fork.era));
            }
        }
        verifier.forks_told = true;
        verifier
    }

    /// A verifier that knows nothing but keys.
    pub fn by(signers: Signers) -> Self {
        let devices = signers.keys.keys().map(|device| (device.clone(), DeviceReport::default())).collect();
        let report = Report { devices };
        let (held, named, gaps, holder) = (BTreeMap::new(), Vec::new(), BTreeMap::new(), Holder::Collector);
        let (beside, parted, forks_told) = (Vec::new(), false, false);
        let (told, begun) = (BTreeSet::new(), Begun::default());
        Self {
            signers,
            report,
            chain: None,
            held,
            named,
            gaps,
            past: None,
            holder,
            beside,
            parted,
            forks_told,
            told,
            begun,
        }
    }

    /// A verifier of what a device itself still holds.
    pub fn of_device(signers: Signers) -> Self {
        Self { holder: Holder::Device, ..Self::by(signers) }
    }

    /// A device's disk has lost what comes before this place, by its unsigned word: what is lost is missing, unless a gap
    /// record counts it. `certificate` is of the key that signs there, where another than the last one does.
    pub fn hole(&mut self, device: &DeviceId, era: EraId, to: Boundary, certificate: Option<&Signed<AuditKey>>) {
        let place = self.place(device, era);
        let identities = self.signers.keys.get(device).map_or(&[][..], Vec::as_slice);
        let vouched = certificate.map(|one| Signer::of(one, &self.signers.fleet, device, identities)).transpose();
        let forward = to.index > place.index && to.segment >= place.segment;
        let signer = match vouched {
            Ok(vouched) if forward => vouched.or(place.signer),
            Ok(_) => return self.problem(device.clone(), format!("era {era}: a hole that leads back")),
            Err(refused) => return self.problem(device.clone(), format!("era {era}: a hole: {refused}")),
        };
        let before = self.chain.take().map(|chain| (chain.lost, chain.said, chain.shed, chain.points));
        let (mut lost, said, shed, points) = before.unwrap_or_default();
        lost.push((place.index, to.index));
        self.chain = Some(Chain {
            device: device.clone(),
            era,
            next_segment: to.segment,
            next_index: to.index,
            head: to.head,
            signer,
            lost,
            shed,
            made: Made::Salvaged,
            said,
            points,
        });
    }

    /// A record that no signature covers.
    pub fn unsigned(&mut self, device: DeviceId) {
        let report = self.report.devices.entry(device).or_default();
        report.unsigned = report.unsigned.saturating_add(1);
    }

    /// Checks one segment and returns it if it is sound.
    pub fn segment(&mut self, segment: Segment) -> Option<Checked> {
        let (device, era, number) = (segment.device.clone(), segment.era, segment.segment);
        let place = self.place(&device, era);
        if self.held.contains_key(&(device.clone(), era)) {
            self.problem(device, format!("era {era} segment {number}: its era has come before, in another piece"));
            return None;
        }
        if self.parted {
            self.problem(device, format!("era {era} segment {number}: its trail goes on after its other branches"));
            return None;
        }
        match check(&self.signers, segment, &place) {
            Ok(Sound { header, records, signer, mark, next, digest }) => {
                self.note(&device, &header, mark);
                self.begun.note(&header, digest, signer);
                self.look_back(&device, &records);
                self.count(&device, &header, &records);
                let point = Point::after(&header, digest, signer, next);
                self.go_on(device.clone(), &header, (&place, point), records.is_empty());
                let records = records.into_iter().map(|record| {
                    self.count_denials(&device, &record);
                    (self.attribute(&device, &record), record)
                });
                let records = records.map(|(named, record)| (record, named)).collect();
                Some(Checked { header, signer, mark, records })
            }
            Err(problem) => {
                self.problem(device, format!("era {era} segment {number}: {problem}"));
                None
            }
        }
    }

    /// Counts a segment by its mark, and lists it where that is not the usual one.
    fn note(&mut self, device: &DeviceId, header: &SegmentHeader, mark: Mark) {
        let report = self.report.devices.entry(device.clone()).or_default();
        let counted = match mark {
            Mark::Announced => return,
            Mark::Recovered => &mut report.recovered,
            Mark::Salvaged => &mut report.salvaged,
            Mark::Unannounced => &mut report.unannounced,
        };
        *counted += 1;
        let Holes { salvaged, marked, left_out, .. } = &mut report.holes;
        let (era, segment) = (header.era, header.segment);
        match &header.salvage {
            Some(left) => {
                let (next_segment, lost) = (left.next_segment, left.lost.clone());
                list(salvaged, left_out, Salvaged { era, segment, next_segment, lost });
            }
            None => list(marked, left_out, Marked { era, segment, mark }),
        }
    }

    fn problem(&mut self, device: DeviceId, problem: String) {
        self.report.devices.entry(device).or_default().problems.push(problem);
    }

    /// Who is accountable for a decision: what its own record names, or the one that it refers to.
    fn attribute(&mut self, device: &DeviceId, record: &Record) -> Option<Arc<Named>> {
        let Event::Decision(decision) = &record.event else { return None };
        let chain = self.chain.as_mut()?;
        let index = match &decision.credential {
            Credential::Nothing => return None,
            Credential::Named(named) => {
                let named = Arc::new(Named::clone(named));
                if decision.allow {
                    chain.said.named.insert(record.index, named.clone());
                }
                return Some(named);
            }
            Credential::Same(index) => *index,
        };
        let named = chain.said.named.get(&index).cloned();
        if named.is_none() {
            // What was given up names nobody: allows are not among it.
            let lost = chain.has_lost(index);
            let id = record_id(device, chain.era, record.index);
            if lost {
                let report = self.report.devices.entry(device.clone()).or_default();
                report.unattributed += 1;
                list(&mut report.holes.unattributed, &mut report.holes.left_out, id);
            } else {
                let what = format!("{id} refers to record {index} for its credential, which names none");
                self.problem(device.clone(), what);
            }
        }
        named
    }

    /// Whether the era before ended with denials that nobody counts: it says nothing of an end, and the next one does not
    /// say that it had grown long, before which all is counted. What was lost with a part of it nobody counts either.
    fn look_back(&mut self, device: &DeviceId, records: &[Record]) {
        let Some(past) = self.past.take().filter(|past| past.device == *device && (past.open || past.torn)) else {
            return;
        };
        let first = records.first().filter(|record| record.index == 0);
        let went_on = first.is_some_and(|record| matches!(record.event, Event::Ended(end) if end.era == past.era));
        if past.torn || !went_on {
            self.report.devices.entry(device.clone()).or_default().cut_short += 1;
        }
    }

    /// A denial that is counted in another record counts as one.
    fn count_denials(&mut self, device: &DeviceId, record: &Record) {
        let Some(chain) = self.chain.as_mut() else { return };
        chain.said.over = matches!(record.event, Event::Alive(Alive { next: None }));
        let repeated = match &record.event {
            Event::Decision(decision) if !decision.allow => return chain.said.denials.push(record.index),
            Event::Repeated(repeated) => *repeated,
            Event::Alive(_)
            | Event::Decision(_)
            | Event::Ended(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Trust(_) => return,
        };
        let known = chain.said.denials.binary_search(&repeated.of).is_ok();
        if !known && !chain.is_gone(repeated.of) {
            let id = record_id(device, chain.era, record.index);
            return self
                .problem(device.clone(), format!("{id} counts denials as record {}, which is none", repeated.of));
        }
        let report = self.report.devices.entry(device.clone()).or_default();
        report.decisions = report.decisions.saturating_add(repeated.count);
        report.repeated = report.repeated.saturating_add(repeated.count);
        if !known {
            report.unattributed = report.unattributed.saturating_add(repeated.count);
        }
    }

    /// Where the next segment of an era has to begin.
    fn place(&mut self, device: &DeviceId, era: EraId) -> Place {
        let own = self.chain.as_ref().filter(|chain| chain.device == *device);
        let signer = own.and_then(|chain| chain.signer);
        if let Some(chain) = own.filter(|chain| chain.era == era) {
            return Place { segment: chain.next_segment, index: chain.next_index, head: chain.head, signer };
        }
        self.end_chain();
        self.beside.clear();
        self.parted = false;
        Place { segment: 0, index: 0, head: genesis(&self.signers.fleet, device, era), signer }
    }

    /// From the place where a segment was to stand to the one after it.
    fn go_on(&mut self, device: DeviceId, header: &SegmentHeader, (from, to): (&Place, Point), empty: bool) {
        let before = self.chain.take().map(|chain| (chain.lost, chain.shed, chain.made, chain.said, chain.points));
        let begin = || (Vec::new(), Vec::new(), Made::Whole, Said::default(), vec![Point::beginning(from)]);
        let (mut lost, mut shed, mut made, said, mut points) = before.unwrap_or_else(begin);
        points.push(to);
        match &header.salvage {
            Some(salvage) => {
                lost.extend(&salvage.lost);
                made = Made::Salvaged;
            }
            None if empty => {
                shed.push((header.first_index, header.first_index.saturating_add(header.count.into())));
                self.report.devices.entry(device.clone()).or_default().shed += 1;
            }
            None => {}
        }
        self.chain = Some(Chain {
            device,
            era: header.era,
            next_segment: header.next_segment(),
            next_index: header.first_index.saturating_add(header.count.into()),
            head: header.head(),
            signer: to.signer(),
            lost,
            shed,
            made,
            said,
            points,
        });
    }

    fn end_chain(&mut self) {
        if let Some(Chain { device, era, next_index, head, lost, shed, made, said, signer, .. }) = self.chain.take() {
            let silent = said.denials.is_empty() && shed.is_empty();
            let open = !silent && !said.over;
            let torn = !lost.is_empty();
            self.past = Some(Past { device: device.clone(), era, open, torn });
            let identity = signer.map(|signer| signer.identity);
            self.held.insert((device, era), Held { end: next_index, head, lost, shed, made, identity });
        }
    }

    fn count(&mut self, device: &DeviceId, header: &SegmentHeader, records: &[Record]) {
        let report = self.report.devices.entry(device.clone()).or_default();
        for record in records {
            report.records += 1;
            match &record.event {
                Event::Decision(_) => report.decisions += 1,
                Event::Gap(gap) => {
                    report.gaps += 1;
                    let id = record_id(device, header.era, record.index);
                    let counted = Counted { id, floor: record.floor, gap: gap.clone() };
                    list(&mut report.holes.counted, &mut report.holes.left_out, counted);
                    let told = ToldGap { place: (header.era.number, record.index), gap: gap.clone() };
                    self.gaps.entry((device.clone(), gap.era.number)).or_default().push(told);
                }
                Event::Start(start) => {
                    report.next_within = Some(start.heartbeat);
                    self.named.extend(start.previous.map(|end| (device.clone(), end)));
                }
                Event::Ended(end) => self.named.push((device.clone(), *end)),
                Event::Alive(alive) => report.next_within = alive.next,
                // Counted once it is known of what.
                Event::Repeated(_) => {}
                Event::Grant(_) | Event::Mode(_) | Event::Refused(_) | Event::Task(_) | Event::Trust(_) => {}
            }
            report.heard = Some(record.floor);
            let id = record_id(device, header.era, record.index);
            report.first.get_or_insert_with(|| id.clone());
            report.last = Some(id);
        }
    }

    /// The report. What was said about where an era ended is compared with what is held of that era, and what is not
    /// held with what gap records count.
    pub fn finish(mut self) -> Report {
        self.end_chain();
        let mut reach: BTreeMap<(DeviceId, EraId), u64> =
            self.held.iter().map(|(place, held)| (place.clone(), held.end)).collect();
        self.find_unheard();
        for (device, end) in std::mem::take(&mut self.named) {
            let held =
                self.held.get(&(device.clone(), end.era)).filter(|held| held.made == Made::Whole && held.end > 0);
            if held.is_some_and(|held| held.end == end.next_index && held.head != end.head) {
                let what = format!("era {}: its end is not the one that the next era names", end.era);
                self.problem(device.clone(), what);
            }
            let reached = reach.entry((device, end.era)).or_default();
            *reached = end.next_index.max(*reached);
        }
        self.refuse_counts();
        for (device, twin) in std::mem::take(&mut self.begun).twins() {
            self.forked(device, twin);
        }
        for ((device, _), told) in &self.gaps {
            for ToldGap { gap, .. } in told {
                reach.entry((device.clone(), gap.era)).or_default();
            }
        }
        for ((device, era), end) in reach {
            let of_era = self.held.get(&(device.clone(), era));
            // Which era is delivered first is not a matter of age alone.
            let given_back = self.holder == Holder::Device && of_era.is_none();
            let held = of_era.map_or_else(Vec::new, Held::ranges);
            let shed = of_era.map_or(&[][..], |held| &held.shed);
            let told: Vec<(u64, u64)> = held.iter().copied().chain(self.gaps_of(&device, era, end, shed)).collect();
            let arrived = if held.is_empty() { Arrived::Nothing } else { Arrived::APart };
            let repeated = self.repeated_of(&device, era, &held);
            let report = self.report.devices.entry(device).or_default();
            // A device may sign what it likes.
            let lost = count_below(told.clone(), u64::MAX) - count_below(held, u64::MAX);
            report.lost = report.lost.saturating_add(lost);
            report.repeated_lost = report.repeated_lost.saturating_add(repeated);
            let missing = end - count_below(told.clone(), end);
            if given_back {
                report.given_back = report.given_back.saturating_add(missing);
                continue;
            }
            report.missing = report.missing.saturating_add(missing);
            for (first, end) in between(told, end) {
                let Holes { missing, left_out, .. } = &mut report.holes;
                list(missing, left_out, Missing { era, first, end, arrived });
            }
        }
        self.report
    }

    /// Counts and lists a fork at which an era begins, if it is not known from its arrival. Of two eras of one number that is
    /// the one which came second.
    fn forked(&mut self, device: DeviceId, twin: Twin) {
        let either = (twin.proves == Contradiction::Era).then_some(twin.other);
        if [twin.era].into_iter().chain(either).any(|era| self.told.remove(&(device.clone(), era))) {
            return;
        }
        let report = self.report.devices.entry(device).or_default();
        report.forks = report.forks.saturating_add(1);
        list(&mut report.holes.twins, &mut report.holes.left_out, twin);
    }

    /// Era numbers that a device must have given, for it numbers one after the other, and of which nothing is here or said.
    /// One that begins anew, because it was replaced, has another identity key. A device's own file says nothing of what
    /// it gave back.
    fn find_unheard(&mut self) {
        if self.holder == Holder::Device {
            return;
        }
        let mut held: BTreeMap<(&DeviceId, [u8; 32]), Vec<u64>> = BTreeMap::new();
        let mut keys: BTreeMap<&DeviceId, BTreeSet<[u8; 32]>> = BTreeMap::new();
        let mut known: BTreeMap<&DeviceId, Vec<(u64, u64)>> = BTreeMap::new();
        let one = |number: u64| (number, number.saturating_add(1));
        for ((device, era), held_era) in &self.held {
            let key = held_era.identity.map_or([0; 32], |identity| *identity.as_bytes());
            held.entry((device, key)).or_default().push(era.number);
            keys.entry(device).or_default().insert(key);
            known.entry(device).or_default().push(one(era.number));
        }
        let ends = self.named.iter().map(|(device, end)| (device, end.era.number));
        let told = self.gaps.keys().map(|(device, number)| (device, *number));
        for (device, number) in ends.chain(told) {
            known.entry(device).or_default().push(one(number));
        }
        for ((device, _), numbers) in held {
            let alone = keys.get(device).is_some_and(|keys| keys.len() == 1);
            let first = if alone { 1 } else { numbers.first().copied().unwrap_or(1) };
            let end = numbers.last().copied().unwrap_or(0);
            let before = [(0, first)].into_iter().chain(known.get(device).into_iter().flatten().copied());
            for (first, end) in between(before.collect(), end) {
                let Some(report) = self.report.devices.get_mut(device) else { continue };
                report.unheard = report.unheard.saturating_add(end - first);
                let Holes { unheard, left_out, .. } = &mut report.holes;
                list(unheard, left_out, Unheard { first, end });
            }
        }
    }

    /// Only what was given up for want of room had counts of which it is known how much they stood for.
    fn refuse_counts(&mut self) {
        let told = self.gaps.iter().flat_map(|((device, _), told)| told.iter().map(move |told| (device, told)));
        let wrong = told.filter(|(_, told)| told.gap.repeated > 0 && told.gap.cause != GapCause::Quota);
        let wrong: Vec<(DeviceId, String)> = wrong
            .map(|(device, told)| {
                let (era, index) = told.place;
                let what = "knows how many denials were counted in records that nobody gave up";
                (device.clone(), format!("{device}/{era}/{index} {what}"))
            })
            .collect();
        for (device, what) in wrong {
            self.problem(device, what);
        }
    }

    /// How many denials were counted in records of an era that were given up, those of one place once. Of records that are
    /// `held` all the same nothing is lost.
    fn repeated_of(&self, device: &DeviceId, era: EraId, held: &[(u64, u64)]) -> u64 {
        let mut places = BTreeMap::new();
        let told = self.gaps.get(&(device.clone(), era.number)).into_iter().flatten();
        for ToldGap { place, gap } in told.filter(|told| told.gap.era == era && told.gap.cause == GapCause::Quota) {
            let range = (gap.first, gap.end.unwrap_or(u64::MAX));
            if *place >= (era.number, range.1) && !without(range, held).is_empty() {
                places.entry(gap.first).or_insert(gap.repeated);
            }
        }
        places.values().fold(0, |sum, repeated| sum.saturating_add(*repeated))
    }

    /// What the device's gap records count of an era that reaches to `end` and has given up the records of `shed`: those
    /// only by a record that came after them and says why.
    fn gaps_of(&self, device: &DeviceId, era: EraId, end: u64, shed: &[(u64, u64)]) -> Vec<(u64, u64)> {
        // Of an era whose beginning is damaged, nobody knows the salt.
        let of = |gap: &Gap| gap.era == era || (gap.era.salt == 0 && gap.era.number == era.number);
        let mut counted = Vec::new();
        let told = self.gaps.get(&(device.clone(), era.number)).into_iter().flatten();
        for ToldGap { place, gap } in told.filter(|told| of(&told.gap)) {
            let range = (gap.first, gap.end.unwrap_or(end));
            match gap.cause == GapCause::Quota && *place >= (era.number, range.1) {
                true => counted.push(range),
                false => counted.extend(without(range, shed)),
            }
        }
        counted
    }
}

impl Chain {
    fn has_lost(&self, index: u64) -> bool {
        self.lost.iter().any(|(first, end)| (*first..*end).contains(&index))
    }

    fn is_gone(&self, index: u64) -> bool {
        self.has_lost(index) || self.shed.iter().any(|(first, end)| (*first..*end).contains(&index))
    }
}

/// What is left of a range without others, which are in order.
fn without((mut first, end): (u64, u64), others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (from, to) in others {
        left.push((first, (*from).min(end)));
        first = first.max(*to);
    }
    left.push((first, end));
    left.retain(|(first, end)| first < end);
    left
}

impl Held {
    /// The records that arrived.
    fn ranges(&self) -> Vec<(u64, u64)> {
        let mut gone: Vec<(u64, u64)> = self.lost.iter().chain(&self.shed).copied().collect();
        gone.sort_unstable();
        without((0, self.end), &gone)
    }
}

/// How many numbers below `end` lie in at least one of the ranges.
fn count_below(mut ranges: Vec<(u64, u64)>, end: u64) -> u64 {
    ranges.sort_unstable();
    let (mut count, mut next) = (0, 0);
    for (first, after) in ranges {
        let (first, after) = (first.max(next), after.min(end));
        if first < after {
            count += after - first;
            next = after;
        }
    }
    count
}

/// The numbers below `end` that lie in none of the ranges, as ranges in order.
fn between(mut ranges: Vec<(u64, u64)>, end: u64) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let (mut between, mut next) = (Vec::new(), 0);
    for (first, after) in ranges.into_iter().chain([(end, end)]) {
        let first = first.min(end);
        if next < first {
            between.push((next, first));
        }
        next = next.max(after);
    }
    between
}

/// A segment that is sound, and who signs what follows it.
struct Sound {
    header: SegmentHeader,
    records: Vec<Record>,
    signer: Signer,
    mark: Mark,
    next: Signer,
    digest: Hash,
}

fn check(signers: &Signers, segment: Segment, place: &Place) -> Result<Sound, String> {
    let words = |refused: crate::wire::Refused| refused.to_string();
    let signed = Signed::<SegmentHeader>::from_bytes(&segment.header).map_err(words)?;
    let identities = signers.keys.get(&segment.device).ok_or("from a device of which no key is known")?;
    let opened = signer::open(&signed, &signers.fleet, identities, place.signer).map_err(words)?;
    let header = &opened.header;
    let stored_as = (&segment.device, segment.era, segment.segment);
    if (&header.device, header.era, header.segment) != stored_as {
        return Err("stored under another name than its own".into());
    }
    if header.segment != place.segment || header.first_index != place.index {
        return Err(format!("segment {} with record {} was to be next", place.segment, place.index));
    }
    if header.previous != place.head {
        return Err("the chain before it ends otherwise".into());
    }
    let digest = signed.digest();
    let upload = Upload { header: signed, leaves: segment.leaves };
    // The headers that stand for what was given up are here; what says that it was are gap records.
    let shed = header.is_shed(&upload.leaves);
    let records = if shed { Vec::new() } else { upload.check(header).map_err(words)? };
    let next = opened.after(&records).map_err(words)?;
    Ok(Sound { records, signer: opened.signer, mark: opened.mark, next, header: opened.header, digest })
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, device_keys, one_device, salvaged, segment, told, told_all};
    use super::*;
    use crate::ids::BootId;
    use crate::wire::audit::{Decision, GapCause, Repeated, Start};

    const ERA: EraId = EraId { number: 1, salt: 77 };

    fn stored(upload: &Upload) -> Segment {
        let header = upload.header.claim().unwrap();
        Segment {
            device: header.device,
            era: header.era,
            segment: header.segment,
            first_index: header.first_index,
            digest: upload.header.digest(),
            header: upload.header.to_bytes(),
            leaves: upload.leaves.clone(),
            at: at(1),
            read: None,
        }
    }

    fn verify(edit: impl FnOnce(&mut Vec<Segment>)) -> DeviceReport {
        let (_, book, _, _) = one_device();
        let key = device_keys(1);
        let first = segment(&key, ERA, None, 2, "a");
        let second = segment(&key, ERA, Some(&first), 3, "b");
        let other = segment(&key, EraId { number: 2, salt: 1 }, None, 1, "c");
        let mut segments = vec![stored(&first), stored(&second), stored(&other)];
        edit(&mut segments);
        let mut verifier = Verifier::new(&book);
        for segment in segments {
            verifier.segment(segment);
        }
        verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_sound_chain_is_counted() {
        let report = verify(|_| {});
        assert_eq!((report.records, report.decisions, report.problems.count()), (6, 0, 0));
        assert_eq!(report.first.as_deref(), Some("gw-07/1/0"));
        assert_eq!(report.last.as_deref(), Some("gw-07/2/0"));
    }

    #[test]
    fn whatever_is_changed_in_the_store_shows() {
        check_shown("a record changed", |s| s[1].leaves[0][2] ^= 1);
        check_shown("a record dropped", |s| drop(s[1].leaves.pop()));
        check_shown("a segment dropped", |s| drop(s.remove(0)));
        check_shown("a header changed", |s| s[0].header[40] ^= 1);
        check_shown("two segments exchanged", |s| s.swap(0, 1));
        check_shown("another's name", |s| s[2].era.number = 3);
        check_shown("an era twice", |s| {
            let again = s[..2].to_vec();
            s.extend(again);
        });
        check_shown("another device", |s| s[0].device = "gw-08".parse().unwrap());
    }

    #[track_caller]
    fn check_shown(what: &str, edit: impl FnOnce(&mut Vec<Segment>)) {
        let report = verify(edit);
        assert!(!report.problems.is_empty() || report.records < 6, "{what}");
    }

    #[test]
    fn every_record_is_collected_lost_or_missing() {
        // Of 5 records of an era, record 3 is lost; another era has one record.
        let gap = |first, end| Event::Gap(Gap { era: ERA, first, end, cause: GapCause::Damaged, repeated: 0 });
        check_sums(&[], (5, 0, 1));
        check_sums(&[gap(3, Some(4))], (6, 1, 0));
        check_sums(&[gap(2, Some(5))], (6, 1, 0));
        check_sums(&[gap(3, Some(4)), gap(3, Some(4))], (7, 1, 0));
        check_sums(&[gap(3, Some(4)), gap(5, Some(7))], (7, 3, 0));
        check_sums(&[gap(0, None)], (6, 1, 0));
    }

    #[test]
    fn what_was_given_up_is_counted_by_a_later_gap_record_of_that_cause_alone() {
        // Of 5 records of an era, 2, 3 and 4 were given up; another era has one record.
        let gap = |first, end, cause| Event::Gap(Gap { era: ERA, first, end: Some(end), cause, repeated: 0 });
        check_shed(&[], (3, 0, 3));
        check_shed(&[gap(2, 5, GapCause::Quota)], (4, 3, 0));
        check_shed(&[gap(2, 4, GapCause::Quota)], (4, 2, 1));
        check_shed(&[gap(2, 5, GapCause::Damaged)], (4, 0, 3));
        check_shed(&[gap(0, 9, GapCause::Damaged)], (4, 4, 3));
        check_shed(&[gap(2, 3, GapCause::Quota), gap(3, 5, GapCause::Quota)], (5, 3, 0));
    }

    #[track_caller]
    fn check_shed(gaps: &[Event], expected: (u64, u64, u64)) {
        let key = device_keys(1);
        let report = verify(|segments| {
            segments[1].leaves.clear();
            for (number, gap) in (10..).zip(gaps) {
                segments.push(stored(&told(&key, EraId { number, salt: 1 }, gap.clone())));
            }
        });
        assert_eq!((report.problems, report.shed), (Problems::default(), 1));
        assert_eq!((report.records, report.lost, report.missing), expected, "{gaps:?}");
    }

    #[test]
    fn what_counts_had_stood_for_is_counted_once_and_only_of_what_is_gone() {
        let key = device_keys(1);
        let check = |gone: bool, gaps: &[(u64, u64, GapCause, u64)]| {
            let report = verify(|segments| {
                if gone {
                    segments[1].leaves.clear();
                }
                for (number, (first, end, cause, repeated)) in (10..).zip(gaps) {
                    let gap = Gap { era: ERA, first: *first, end: Some(*end), cause: *cause, repeated: *repeated };
                    segments.push(stored(&told(&key, EraId { number, salt: 1 }, Event::Gap(gap))));
                }
            });
            (report.repeated_lost, report.problems.count())
        };
        let quota = |first, end, repeated| (first, end, GapCause::Quota, repeated);
        for (gone, gaps, expected) in [
            (true, vec![quota(2, 5, 4)], 4),
            (true, vec![quota(2, 5, 4), quota(2, 5, 4)], 4),
            (true, vec![quota(2, 3, 4), quota(3, 5, 1)], 5),
            (true, vec![quota(0, 2, 7)], 0),
            (false, vec![quota(2, 5, 4)], 0),
            (false, vec![quota(7, 9, 4)], 4),
        ] {
            assert_eq!(check(gone, &gaps), (expected, 0), "{gaps:?}");
        }
        assert_eq!(check(true, &[quota(2, 5, u64::MAX), quota(3, 5, 2)]), (u64::MAX, 0));
        for cause in [GapCause::Damaged, GapCause::AnchorLost] {
            assert_eq!(check(true, &[(2, 5, cause, 1)]), (0, 1), "{cause:?}");
            assert_eq!(check(true, &[(2, 5, cause, 0)]), (0, 0), "{cause:?}");
        }
    }

    #[test]
    fn problems_with_what_eras_name_are_bounded_too() {
        let ended = |number| {
            let end = EraEnd { era: ERA, next_index: 5, head: Hash::ZERO };
            stored(&told(&device_keys(1), EraId { number, salt: 1 }, Event::Ended(end)))
        };
        let report = verify(|segments| segments.extend((10..10 + 2 * Problems::MAX as u64).map(ended)));
        assert_eq!(report.problems.count(), 2 * Problems::MAX as u64);
        let words = report.problems.words();
        let listed = words.iter().take(Problems::MAX);
        assert!(listed.into_iter().all(|problem| problem.contains("its end is not the one")), "{report:?}");
    }

    #[test]
    fn a_range_without_others() {
        assert_eq!(without((2, 9), &[]), [(2, 9)]);
        assert_eq!(without((2, 9), &[(0, 1), (2, 3), (5, 6), (8, 12), (20, 30)]), [(3, 5), (6, 8)]);
        assert_eq!(without((2, 9), &[(0, 30)]), []);
        assert_eq!(without((2, 9), &[(30, 40)]), [(2, 9)]);
    }

    #[track_caller]
    fn check_sums(gaps: &[Event], expected: (u64, u64, u64)) {
        let key = device_keys(1);
        let report = verify(|segments| {
            let second =
                Upload { header: Signed::from_bytes(&segments[1].header).unwrap(), leaves: segments[1].leaves.clone() };
            segments[1] = stored(&salvaged(&key, &second, 1..2));
            for (number, gap) in (10..).zip(gaps) {
                segments.push(stored(&told(&key, EraId { number, salt: 1 }, gap.clone())));
            }
        });
        assert_eq!(report.problems, Problems::default());
        assert_eq!((report.records, report.lost, report.missing), expected, "{gaps:?}");
        let holes = report.holes;
        let listed = holes.missing.iter().map(|missing| missing.end - missing.first).sum::<u64>();
        assert_eq!((holes.counted.len(), listed, holes.left_out), (gaps.len(), expected.2, 0), "{gaps:?}");
        let lost = Salvaged { era: ERA, segment: 1, next_segment: 2, lost: vec![(3, 4)] };
        assert_eq!((holes.salvaged, holes.marked), (vec![lost], Vec::new()));
    }

    #[test]
    fn an_era_that_a_later_start_names_and_that_never_came_is_listed() {
        let never = EraId { number: 3, salt: 9 };
        let start = |era, next_index| {
            let (boot, previous) = (BootId([0; 16]), Some(EraEnd { era, next_index, head: Hash::ZERO }));
            Event::Start(Box::new(Start { boot, boots: 0, previous, version: "1".into(), heartbeat: Millis(0) }))
        };
        let (_, book, _, _) = one_device();
        let key = device_keys(1);
        let mut verifier = Verifier::new(&book);
        for (number, event) in [(4, start(never, 7)), (5, start(ERA, 2)), (6, start(never, 5))] {
            verifier.segment(stored(&told(&key, EraId { number, salt: 1 }, event))).unwrap();
        }
        let report = verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap();
        let missing = |era, end| Missing { era, first: 0, end, arrived: Arrived::Nothing };
        assert_eq!(report.holes.missing, [missing(ERA, 2), missing(never, 7)]);
        assert_eq!(report.missing, 9);
    }

    #[test]
    fn what_lies_between_ranges_is_what_they_do_not_count() {
        check_between(&[], 0, &[]);
        check_between(&[], 3, &[(0, 3)]);
        check_between(&[(0, 3)], 3, &[]);
        check_between(&[(4, 6), (1, 2)], 8, &[(0, 1), (2, 4), (6, 8)]);
        check_between(&[(0, 5), (1, 2), (7, 20)], 9, &[(5, 7)]);
        check_between(&[(30, 40)], 9, &[(0, 9)]);
    }

    #[track_caller]
    fn check_between(ranges: &[(u64, u64)], end: u64, expected: &[(u64, u64)]) {
        assert_eq!(between(ranges.to_vec(), end), expected);
        let sum: u64 = expected.iter().map(|(first, after)| after - first).sum();
        assert_eq!(sum, end - count_below(ranges.to_vec(), end));
    }

    fn decision(allow: bool) -> Event {
        Event::Decision(Box::new(Decision {
            allow,
            reason: "no_right".into(),
            operation: "read".into(),
            resource: "a".into(),
            destination: None,
            risk: None,
            arguments: None,
            credential: Credential::Nothing,
            workload: Vec::new(),
            enforcer: Vec::new(),
            known: Default::default(),
        }))
    }

    fn repeated(of: u64, count: u64) -> Event {
        Event::Repeated(Repeated { of, count, since: at(1), until: at(1) })
    }

    fn start() -> Event {
        let (boot, version) = (BootId([1; 16]), "1".into());
        Event::Start(Box::new(Start { boot, boots: 1, previous: None, version, heartbeat: Millis(7000) }))
    }

    /// What comes of eras that tell these, by their numbers.
    fn report(eras: &[(u64, &[Event])]) -> DeviceReport {
        let (_, book, _, _) = one_device();
        let mut verifier = Verifier::new(&book);
        for (number, events) in eras {
            verifier.segment(stored(&told_all(&device_keys(1), EraId { number: *number, salt: 1 }, events.to_vec())));
        }
        verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap()
    }

    #[test]
    fn denials_that_are_counted_in_one_record_count_as_many() {
        let sums = |events: &[Event]| {
            let report = report(&[(1, events)]);
            (report.decisions, report.repeated, report.problems.count())
        };
        let denied = || decision(false);
        assert_eq!(sums(&[denied(), repeated(0, 5)]), (6, 5, 0));
        assert_eq!(sums(&[denied(), repeated(0, 5), denied(), repeated(2, 7), repeated(0, 1)]), (15, 13, 0));
        assert_eq!(sums(&[denied(), repeated(0, u64::MAX)]).0, u64::MAX);
        // An allow stands for itself alone, and nothing counts what comes later or is not there.
        assert_eq!(sums(&[decision(true), repeated(0, 5)]), (1, 0, 1));
        assert_eq!(sums(&[repeated(1, 5), denied()]), (1, 0, 1));
        assert_eq!(sums(&[denied(), repeated(0, 2), repeated(1, 5)]), (3, 2, 1));
        let eras = report(&[(1, &[denied()]), (2, &[decision(true), repeated(0, 5)])]);
        assert_eq!((eras.decisions, eras.problems.count()), (2, 1), "another era's denial");
    }

    #[test]
    fn counts_of_a_lost_denial_are_attributed_to_nobody() {
        let (_, book, _, _) = one_device();
        let whole = told_all(&device_keys(1), ERA, vec![start(), decision(false), repeated(1, 5)]);
        let left = salvaged(&device_keys(1), &whole, 1..2);
        let mut verifier = Verifier::new(&book);
        assert!(verifier.segment(stored(&left)).is_some());
        let report = verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap();
        assert_eq!((report.decisions, report.unattributed, report.problems.count()), (5, 5, 0));
    }

    #[test]
    fn an_era_that_ends_without_a_word_may_have_had_more_denials() {
        let over = || Event::Alive(Alive { next: None });
        let cut_short = |first: &[Event], then: &[Event]| report(&[(1, first), (2, then)]).cut_short;
        assert_eq!(cut_short(&[start(), decision(false)], &[start()]), 1, "killed");
        assert_eq!(cut_short(&[start(), decision(false), over()], &[start()]), 0, "in order");
        assert_eq!(cut_short(&[start(), decision(false)], &[ended(1, 2)]), 0, "it has grown long");
        assert_eq!(cut_short(&[start(), decision(false)], &[decision(true)]), 1, "nothing says that it has grown long");
        assert_eq!(cut_short(&[start(), decision(true)], &[start()]), 0, "no denials");
        assert_eq!(report(&[(1, &[start(), decision(false)])]).cut_short, 0, "it may go on");
        assert_eq!(report(&[(1, &[decision(false)]), (3, &[ended(2, 9)])]).cut_short, 1, "the one between is missing");
    }

    fn ended(number: u64, next_index: u64) -> Event {
        Event::Ended(EraEnd { era: EraId { number, salt: 1 }, next_index, head: Hash::ZERO })
    }

    #[test]
    fn of_an_era_that_gave_something_up_or_lost_it_the_end_is_as_open() {
        let of = |edit: &dyn Fn(&Upload) -> Upload, then: &[Event]| {
            let (_, book, _, _) = one_device();
            let whole = told_all(&device_keys(1), ERA, vec![start(), decision(true)]);
            let mut verifier = Verifier::new(&book);
            verifier.segment(stored(&edit(&whole))).unwrap();
            verifier.segment(stored(&told_all(&device_keys(1), EraId { number: 2, salt: 1 }, then.to_vec()))).unwrap();
            verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap().cut_short
        };
        let named = Event::Ended(EraEnd { era: ERA, next_index: 2, head: Hash::ZERO });
        let shed = |upload: &Upload| Upload { leaves: Vec::new(), ..upload.clone() };
        let torn = |upload: &Upload| salvaged(&device_keys(1), upload, 1..2);
        let named = [named];
        assert_eq!([of(&Upload::clone, &[start()]), of(&Upload::clone, &named)], [0, 0], "no denials");
        assert_eq!([of(&shed, &[start()]), of(&shed, &named)], [1, 0], "it may have had denials");
        assert_eq!([of(&torn, &[start()]), of(&torn, &named)], [1, 1], "counts may have been among what is lost");
    }

    #[test]
    fn an_era_that_the_one_after_it_names_or_whose_number_is_passed_over_does_not_go_unseen() {
        let holes = |eras: &[(u64, &[Event])]| {
            let report = report(eras);
            let unheard: Vec<_> = report.holes.unheard.iter().map(|unheard| (unheard.first, unheard.end)).collect();
            assert_eq!(unheard.iter().map(|(first, end)| end - first).sum::<u64>(), report.unheard);
            (report.missing, unheard)
        };
        let allow = || decision(true);
        assert_eq!(holes(&[(1, &[start()]), (2, &[ended(1, 1)])]), (0, vec![]));
        assert_eq!(holes(&[(1, &[start()]), (3, &[ended(2, 70)])]), (70, vec![]), "named");
        assert_eq!(holes(&[(1, &[start()]), (3, &[ended(2, 0)])]), (0, vec![]), "it held nothing");
        assert_eq!(
            holes(&[(1, &[start()]), (4, &[ended(3, 70)])]),
            (70, vec![(2, 3)]),
            "the one before is named by nobody"
        );
        assert_eq!(holes(&[(3, &[allow()]), (7, &[allow()])]), (0, vec![(1, 3), (4, 7)]));
        let era = EraId { number: 5, salt: 0 };
        let gap = Event::Gap(Gap { era, first: 0, end: Some(9), cause: GapCause::Damaged, repeated: 0 });
        assert_eq!(holes(&[(3, &[allow()]), (7, &[gap])]), (0, vec![(1, 3), (4, 5), (6, 7)]), "counted as lost");
    }

    #[test]
    fn when_a_device_is_to_be_heard_again_is_in_its_trail() {
        assert_eq!(report(&[(1, &[decision(true)])]).next_within, None);
        let said = |events: &[Event]| {
            let report = report(&[(1, events)]);
            (report.heard, report.next_within)
        };
        let alive = |next| Event::Alive(Alive { next });
        assert_eq!(said(&[start(), decision(true)]), (Some(at(1)), Some(Millis(7000))));
        assert_eq!(said(&[start(), alive(Some(Millis(9)))]).1, Some(Millis(9)));
        assert_eq!(said(&[start(), alive(None)]).1, None);
    }
}
