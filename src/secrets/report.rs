//! Who still needs which secret, by what devices recorded.
//!
//! Owns: [`Needs`]: decisions on `secret/NAME…`, by secret, device, class of task, workload, owner and grant; what becomes of
//! a secret that nobody used for long.
//! Never: checks a record: whoever feeds it has done so.
//! Read next: `../cli/fleet/secrets.rs`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ids::{DeviceId, TaskId};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, Named, Record};

/// Where all resources of secrets begin.
const PREFIX: &str = "secret/";
/// The most rows: what devices name is bounded by their grants, and this bounds what a hostile one could name.
const ROWS_MAX: usize = 10_000;

/// Who needs a secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Need {
    /// The secret, as its resource names it.
    pub secret: String,
    /// On which device.
    pub device: String,
    /// In tasks of this class; none where no task of the wallet was behind it.
    pub class: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// By this grant.
    pub grant: Option<String>,
    /// The workload, by its selectors.
    pub workload: Vec<String>,
}

/// How much it was used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Needed {
    /// Who.
    #[serde(flatten)]
    pub need: Need,
    /// When it was let in first.
    pub first: Option<Timestamp>,
    /// When last.
    pub last: Option<Timestamp>,
    /// How often.
    pub allowed: u64,
    /// How often it was refused.
    pub denied: u64,
}

/// How a secret stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Somebody used it within the time that was asked about.
    InUse,
    /// Nobody did: it may be removed.
    MayBeRemoved,
}

/// A secret, all its uses together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    /// The secret.
    pub secret: String,
    /// How it stands.
    pub standing: Standing,
    /// When it was let in last, on whichever device.
    pub last: Option<Timestamp>,
    /// How often, in all.
    pub allowed: u64,
    /// On how many devices.
    pub devices: usize,
}

#[derive(Clone, Copy, Default, Debug)]
struct Count {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    allowed: u64,
    denied: u64,
}

/// Who needs which.
#[derive(Default, Debug)]
pub struct Needs {
    rows: BTreeMap<Need, Count>,
    classes: BTreeMap<(DeviceId, TaskId), String>,
    left_out: u64,
}

impl Needs {
    /// Takes in a record of a device that checks out, in the order in which it was written.
    pub fn add(&mut self, device: &DeviceId, record: &Record, named: Option<&Named>) {
        match &record.event {
            Event::Task(event) => {
                if let Some(task) = &event.task {
                    self.classes.insert((device.clone(), task.clone()), event.class.as_str().to_owned());
                }
            }
            Event::Decision(decision) => {
                let Some(below) = decision.resource.strip_prefix(PREFIX) else { return };
                let task = named.and_then(|named| named.task.as_ref());
                let class = task.and_then(|task| self.classes.get(&(device.clone(), task.clone())));
                let need = Need {
                    secret: below.split('/').next().unwrap_or_default().to_owned(),
                    device: device.as_str().to_owned(),
                    class: class.cloned(),
                    owner: named.map(|named| named.owner.clone()),
                    grant: named.map(|named| named.grant.to_string()),
                    workload: decision.workload.clone(),
                };
                self.count(need, |count| match decision.allow {
                    true => {
                        // The powered-on clock: what time it would be had the device never been off.
                        count.first = Some(count.first.map_or(record.powered, |first| first.min(record.powered)));
                        count.last = count.last.max(Some(record.powered));
                        count.allowed += 1;
                    }
                    false => count.denied += 1,
                });
            }
            Event::Alive(_)
            | Event::Ended(_)
            | Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Repeated(_)
            | Event::Start(_)
            | Event::Trust(_) => {}
        }
    }

    fn count(&mut self, need: Need, change: impl FnOnce(&mut Count)) {
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&need) {
            self.left_out += 1;
            return;
        }
        change(self.rows.entry(need).or_default());
    }

    /// Decisions that are in no row, because there were too many rows.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Who needed what, by secret.
    pub fn rows(&self) -> Vec<Needed> {
        let row = |(need, count): (&Need, &Count)| {
            let Count { first, last, allowed, denied } = *count;
            Needed { need: need.clone(), first, last, allowed, denied }
        };
        self.rows.iter().map(row).collect()
    }

    /// How each secret stands at a time: in use, if it was let in no longer ago than `idle`.
    pub fn summary(&self, now: Timestamp, idle: Millis) -> Vec<Summary> {
        let mut secrets: BTreeMap<&str, (Summary, std::collections::BTreeSet<&str>)> = BTreeMap::new();
        for (need, count) in &self.rows {
            let fresh = || {
                let (secret, standing) = (need.secret.clone(), Standing::MayBeRemoved);
                (Summary { secret, standing, last: None, allowed: 0, devices: 0 }, Default::default())
            };
            let (summary, devices) = secrets.entry(&need.secret).or_insert_with(fresh);
            summary.allowed += count.allowed;
            summary.last = summary.last.max(count.last);
            if count.allowed > 0 {
                devices.insert(&need.device);
            }
        }
        let told = |(mut summary, devices): (Summary, std::collections::BTreeSet<&str>)| {
            summary.devices = devices.len();
            if summary.last.is_some_and(|last| now.since(last) <= idle) {
                summary.standing = Standing::InUse;
            }
            summary
        };
        secrets.into_values().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GrantId;
    use crate::wire::audit::{Credential, Decision, Known, TaskEvent, TaskStep};

    fn decision(resource: &str, allow: bool, at: u64) -> Record {
        let decision = Decision {
            allow,
            reason: if allow { "allowed" } else { "no_right" }.into(),
            operation: "read".into(),
            resource: resource.into(),
            destination: Some("crm.example".into()),
            risk: None,
            arguments: None,
            credential: Credential::Nothing,
            workload: vec!["unix:uid:1001".into()],
            enforcer: vec!["unix:uid:990".into()],
            known: Known::default(),
        };
        let event = Event::Decision(Box::new(decision));
        Record { index: at, floor: Timestamp(0), powered: Timestamp(at), event }
    }

    fn named() -> Named {
        let (owner, grant) = ("ops@acme".to_owned(), GrantId([1; 16]));
        Named { owner, grant, task: Some("t-1".parse().unwrap()), chain: Vec::new(), step: None, initiator: None }
    }

    #[test]
    fn a_secret_is_in_use_while_somebody_is_let_in() {
        let device: DeviceId = "gw-07".parse().unwrap();
        let mut needs = Needs::default();
        let begun = TaskEvent {
            task: Some("t-1".parse().unwrap()),
            class: "orders".parse().unwrap(),
            step: TaskStep::BegunFallback,
            owner: None,
            grant: None,
            workload: Vec::new(),
            reason: String::new(),
            chain: Vec::new(),
            of_step: None,
            initiator: None,
        };
        let event = Event::Task(Box::new(begun));
        needs.add(&device, &Record { index: 0, floor: Timestamp(0), powered: Timestamp(0), event }, None);
        for record in [
            decision("secret/crm/v1/orders", true, 1000),
            decision("secret/crm/v1/orders/7", true, 3000),
            decision("secret/crm", false, 4000),
            decision("secrets/crm", true, 9000),
            decision("modbus/secret/crm", true, 9000),
        ] {
            needs.add(&device, &record, Some(&named()));
        }
        needs.add(&device, &decision("secret/old/a", false, 5000), None);
        let rows = needs.rows();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].first, rows[0].last), (Some(Timestamp(1000)), Some(Timestamp(3000))));
        assert_eq!((rows[0].allowed, rows[0].denied, rows[0].need.secret.as_str()), (2, 1, "crm"));
        assert_eq!((rows[0].need.class.as_deref(), rows[0].need.owner.as_deref()), (Some("orders"), Some("ops@acme")));
        assert_eq!((rows[1].last, rows[1].need.class.clone()), (None, None));

        let standing =
            |now, idle| needs.summary(Timestamp(now), Millis(idle)).iter().map(|s| s.standing).collect::<Vec<_>>();
        assert_eq!(standing(4000, 1000), [Standing::InUse, Standing::MayBeRemoved]);
        assert_eq!(standing(4001, 1000), [Standing::MayBeRemoved, Standing::MayBeRemoved]);
        // A device's clock may run ahead of the operator's.
        assert_eq!(standing(0, 0)[0], Standing::InUse);
        let summary = &needs.summary(Timestamp(4000), Millis(1000))[0];
        assert_eq!((summary.allowed, summary.devices), (2, 1));
    }

    #[test]
    fn rows_are_bounded() {
        let device: DeviceId = "gw-07".parse().unwrap();
        let mut needs = Needs::default();
        for number in 0..ROWS_MAX + 3 {
            needs.add(&device, &decision(&format!("secret/s{number}"), true, 1), None);
        }
        assert_eq!((needs.rows().len(), needs.left_out()), (ROWS_MAX, 3));
    }
}
