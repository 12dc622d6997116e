//! Faults of storage: damage, syncs that are none, writes that are refused, copies.
//!
//! Owns: what befalls a disk, and which part of it.
//! Never: makes anything happen.
//! Read next: `disk.rs` of the world, which does it.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{whats, Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("anchor.copied_back", &[], |text| text.disk(Damage::SlotsCopiedBack)),
    ("anchor.deleted", &[], |text| text.disk(Damage::SlotDeleted)),
    ("anchor.gone", &[], |text| text.disk(Damage::SlotsGone)),
    ("anchor.rotten", &[], |text| text.disk(Damage::SlotRotten)),
    ("anchor.torn", &[], |text| text.disk(Damage::SlotTorn)),
    ("disk.full", &[], |text| text.refusal(Refusal::NoRoom)),
    ("disk.lies", &whats(&Part::ALL), |text| text.sync(Sync::Lies)),
    ("disk.readonly", &[], |text| text.refusal(Refusal::ReadOnly)),
    ("disk.sync", &whats(&Part::ALL), |text| text.sync(Sync::Fails)),
    ("era.rotten", &[], |text| text.disk(Damage::RowRotten)),
    ("file.rotten", &whats(&Damage::FILES), |text| {
        let damage = text.one_of(&Damage::FILES)?;
        text.disk(damage)
    }),
    ("image.clone", &[], |text| Ok(Kind::DiskClone { age: text.age("of the copy that runs")? })),
    ("image.rollback", &[], |text| text.disk(Damage::ImageRolledBack)),
    ("tail.forged", &[], |text| text.disk(Damage::TailForged)),
];

/// What befalls a disk that was written honestly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A bit of the key that signs the audit flipped,
    AuditKeyRotten,
    /// of the trust bundle,
    BundleRotten,
    /// of what an emergency key revoked,
    EmergencyRotten,
    /// of what is revoked,
    FeedRotten,
    /// of the policy,
    PolicyRotten,
    /// or of a grant or a task.
    WalletRotten,
    /// The whole state folder is what it was a while ago.
    ImageRolledBack,
    /// A bit of a row of the audit flipped.
    RowRotten,
    /// The newest slot of the anchor is deleted.
    SlotDeleted,
    /// A bit of the newest slot flipped.
    SlotRotten,
    /// The newest slot is half written.
    SlotTorn,
    /// Both slots are what they were a while ago.
    SlotsCopiedBack,
    /// Both slots are gone.
    SlotsGone,
    /// Somebody wrote another resource into a decision that no signature covers yet, and that the anchor has seen.
    TailForged,
}

impl Damage {
    /// Those of one state file, by the names in scenario files, as `what`.
    pub const FILES: [(&'static str, Self); 6] = [
        ("audit_key", Self::AuditKeyRotten),
        ("bundle", Self::BundleRotten),
        ("emergency", Self::EmergencyRotten),
        ("feed", Self::FeedRotten),
        ("policy", Self::PolicyRotten),
        ("wallet", Self::WalletRotten),
    ];

    /// The name in scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuditKeyRotten => "file.rotten audit_key",
            Self::BundleRotten => "file.rotten bundle",
            Self::EmergencyRotten => "file.rotten emergency",
            Self::FeedRotten => "file.rotten feed",
            Self::PolicyRotten => "file.rotten policy",
            Self::WalletRotten => "file.rotten wallet",
            Self::ImageRolledBack => "image.rollback",
            Self::RowRotten => "era.rotten",
            Self::SlotDeleted => "anchor.deleted",
            Self::SlotRotten => "anchor.rotten",
            Self::SlotTorn => "anchor.torn",
            Self::SlotsCopiedBack => "anchor.copied_back",
            Self::SlotsGone => "anchor.gone",
            Self::TailForged => "tail.forged",
        }
    }

    /// Whether something older is put back, for which a copy must be made in time.
    pub const fn puts_back(self) -> bool {
        matches!(self, Self::ImageRolledBack | Self::SlotsCopiedBack)
    }
}

/// A part of the state folder that is synced by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The slots of the anchor.
    Anchor,
    /// The era that is written.
    Era,
    /// Trust bundle, policy, revocation lists, grants, tasks.
    Files,
}

impl Part {
    /// The names in scenario files, as `what`.
    pub const ALL: [(&'static str, Self); 3] = [("anchor", Self::Anchor), ("era", Self::Era), ("files", Self::Files)];
}

/// What a file system does not let anybody do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// To write what needs room: there is none left. What is there can be written over, renamed and deleted.
    NoRoom,
    /// To change anything: it was mounted read-only because of an error, until somebody or a reboot mounts it anew.
    ReadOnly,
}

impl Refusal {
    /// The name in scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoom => "disk.full",
            Self::ReadOnly => "disk.readonly",
        }
    }
}

/// What a sync does that does not do what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// It fails, and says so.
    Fails,
    /// It says that all is well, and what was written stays in the drive's memory: when power fails, a beginning of it is on the
    /// medium.
    Lies,
}

impl Sync {
    /// The name under which its effects are counted.
    pub const fn name(self, part: Part) -> &'static str {
        match (self, part) {
            (Self::Fails, Part::Anchor) => "disk.sync anchor",
            (Self::Fails, Part::Era) => "disk.sync era",
            (Self::Fails, Part::Files) => "disk.sync files",
            (Self::Lies, Part::Anchor) => "disk.lies anchor",
            (Self::Lies, Part::Era) => "disk.lies era",
            (Self::Lies, Part::Files) => "disk.lies files",
        }
    }
}

impl FaultText {
    fn disk(&mut self, damage: Damage) -> Result<Kind, String> {
        let age = match (damage.puts_back(), self.age.take()) {
            (true, Some(age)) => age.0,
            (true, None) => return Err("needs `age`, of the copy that is put back".into()),
            (false, Some(_)) => return Err("puts nothing back and has no `age`".into()),
            (false, None) => 0,
        };
        Ok(Kind::Disk { lasts: self.lasts()?, damage, age })
    }

    fn refusal(&mut self, how: Refusal) -> Result<Kind, String> {
        Ok(Kind::DiskRefuses { lasts: self.lasts()?, how })
    }

    fn sync(&mut self, how: Sync) -> Result<Kind, String> {
        Ok(Kind::DiskSync { lasts: self.lasts()?, part: self.one_of(&Part::ALL)?, how })
    }
}
