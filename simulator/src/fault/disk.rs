//! Faults of storage: damage, syncs that are none, writes that are refused, copies.
//!
//! Owns: what befalls a disk, and which part of it.
//! Never: makes anything happen.
//! Read next: `disk.rs` of the world, which does it.

use serde::{Deserialize, Serialize};

use super::text::FaultText;
use super::{Kind, Named};

/// The faults of this family.
pub(super) const NAMES: &[Named] = &[
    ("anchor.copied_back", &["for", "age"], Damage::SAYS, |text| text.disk(Damage::SlotsCopiedBack)),
    ("anchor.deleted", &["for"], Damage::SAYS, |text| text.disk(Damage::SlotDeleted)),
    ("anchor.gone", &["for"], Damage::SAYS, |text| text.disk(Damage::SlotsGone)),
    ("anchor.rotten", &["for"], Damage::SAYS, |text| text.disk(Damage::SlotRotten)),
    ("anchor.torn", &["for"], Damage::SAYS, |text| text.disk(Damage::SlotTorn)),
    ("disk.full", &["for"], Refusal::SAYS, |text| text.refusal(Refusal::NoRoom)),
    ("disk.lies", &["for", "what"], Part::SAYS, |text| text.sync(Sync::Lies)),
    ("disk.readonly", &["for"], Refusal::SAYS, |text| text.refusal(Refusal::ReadOnly)),
    ("disk.sync", &["for", "what"], Part::SAYS, |text| text.sync(Sync::Fails)),
    ("era.rotten", &["for"], Damage::SAYS, |text| text.disk(Damage::RowRotten)),
    ("file.rotten", &["for", "what"], Damage::SAYS, |text| {
        let damage = text.one_of(Damage::ALL)?;
        text.disk(damage)
    }),
    ("image.clone", &["age"], &[], |text| Ok(Kind::DiskClone { age: text.age("of the copy that runs")? })),
    ("image.rollback", &["for", "age"], Damage::SAYS, |text| text.disk(Damage::ImageRolledBack)),
    ("tail.forged", &["for"], Damage::SAYS, |text| text.disk(Damage::TailForged)),
];

named! {
    /// What befalls a disk that was written honestly.
    pub enum Damage {
        /// A bit of the key that signs the audit flipped.
        "file.rotten audit_key" => AuditKeyRotten,
        /// A bit of the trust bundle flipped.
        "file.rotten bundle" => BundleRotten,
        /// A bit of what an emergency key revoked flipped.
        "file.rotten emergency" => EmergencyRotten,
        /// A bit of what is revoked flipped.
        "file.rotten feed" => FeedRotten,
        /// A bit of the policy flipped.
        "file.rotten policy" => PolicyRotten,
        /// A bit of a grant or a task flipped.
        "file.rotten wallet" => WalletRotten,
        /// The whole state folder is what it was a while ago.
        "image.rollback" => ImageRolledBack,
        /// A bit of a row of the audit flipped.
        "era.rotten" => RowRotten,
        /// The newest slot of the anchor is deleted.
        "anchor.deleted" => SlotDeleted,
        /// A bit of the newest slot of the anchor flipped.
        "anchor.rotten" => SlotRotten,
        /// The newest slot of the anchor is half written.
        "anchor.torn" => SlotTorn,
        /// Both slots of the anchor are what they were a while ago.
        "anchor.copied_back" => SlotsCopiedBack,
        /// Both slots of the anchor are gone.
        "anchor.gone" => SlotsGone,
        /// Somebody wrote another resource into a decision that no signature covers yet, and that the anchor has seen.
        "tail.forged" => TailForged,
    }
}

impl Damage {
    /// Whether something older is put back, for which a copy must be made in time.
    pub const fn puts_back(self) -> bool {
        matches!(self, Self::ImageRolledBack | Self::SlotsCopiedBack)
    }
}

named! {
    /// A part of the state folder that is synced by itself.
    pub enum Part {
        /// The slots of the anchor.
        "anchor" => Anchor,
        /// The era that is written.
        "era" => Era,
        /// Trust bundle, policy, revocation lists, grants, tasks.
        "files" => Files,
    }
}

named! {
    /// What a file system does not let anybody do.
    pub enum Refusal {
        /// To write what needs room: there is none left. What is there can be written over, renamed and deleted.
        "disk.full" => NoRoom,
        /// To change anything: it was mounted read-only because of an error, until somebody or a reboot mounts it anew.
        "disk.readonly" => ReadOnly,
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
        Ok(Kind::DiskSync { lasts: self.lasts()?, part: self.one_of(Part::ALL)?, how })
    }
}
