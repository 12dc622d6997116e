//! A fleet's folder: `fleet.toml keys/ fleet.db devices/ broker/`.
//!
//! Owns: where each thing lies, what `fleet.toml` may say, making a new folder.
//! Never: decides. Reads no key.
//! Read next: `ledger.rs`, `fleet_keys.rs`, `broker/mod.rs`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::broker::BrokerFolder;
use super::files::{self, FileError};
use super::mqtt::BrokerUrl;
use super::sources::read_text;
use crate::fleet::book::TASK_LIFE_MAX;
use crate::fleet::hello::Terms;
use crate::fleet::publish::Cadence;
use crate::fleet::Settings;
use crate::ids::{DeviceId, FleetId};
use crate::time::Millis;

/// Why a folder cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FleetDirError {
    /// It is no fleet's.
    #[error("{} is no fleet's folder ({why}): make one with `hardtack fleet init`, or name it with --dir", path.display())]
    NoFleet {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// `fleet.toml` says something that it may not.
    #[error("{}: {why}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What, and what it may say.
        why: String,
    },
    /// A file or the folder itself.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What `fleet.toml` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetToml {
    /// The fleet.
    pub name: FleetId,
    /// Brokers that `fleet serve` tries, in order, unless the command line names one.
    #[serde(default)]
    pub brokers: Vec<String>,
    /// A head is signed anew after so many seconds.
    #[serde(default = "default_head_interval_s")]
    pub head_interval_s: u64,
    /// A device that has heard no newer head for so many seconds denies what is of the highest class of risk.
    #[serde(default = "default_hard_stale_s")]
    pub hard_stale_s: u64,
    /// How far this machine's clock may be off, in milliseconds.
    #[serde(default = "default_clock_error_ms")]
    pub clock_error_ms: u64,
    /// Segments of audit that a device may have in flight.
    #[serde(default = "default_window")]
    pub window: u16,
    /// No task token that is minted here lives longer, in seconds.
    #[serde(default = "default_task_ttl_max_s")]
    pub task_ttl_max_s: u64,
}

fn default_head_interval_s() -> u64 {
    Settings::default().cadence.interval.secs()
}

fn default_hard_stale_s() -> u64 {
    Settings::default().cadence.hard_stale.secs()
}

fn default_clock_error_ms() -> u64 {
    Settings::default().terms.clock_error.0
}

fn default_window() -> u16 {
    Settings::default().terms.window
}

fn default_task_ttl_max_s() -> u64 {
    Settings::default().task_ttl_max.secs()
}

impl FleetToml {
    /// What a new fleet's file says.
    pub fn new(name: FleetId, brokers: &[BrokerUrl]) -> Self {
        Self {
            name,
            brokers: brokers.iter().map(BrokerUrl::to_string).collect(),
            head_interval_s: default_head_interval_s(),
            hard_stale_s: default_hard_stale_s(),
            clock_error_ms: default_clock_error_ms(),
            window: default_window(),
            task_ttl_max_s: default_task_ttl_max_s(),
        }
    }

    /// As the service takes it.
    pub fn settings(&self) -> Settings {
        Settings {
            cadence: Cadence {
                interval: Millis::from_secs(self.head_interval_s),
                hard_stale: Millis::from_secs(self.hard_stale_s),
            },
            terms: Terms { window: self.window, clock_error: Millis(self.clock_error_ms) },
            task_ttl_max: Millis::from_secs(self.task_ttl_max_s),
        }
    }

    fn check(&self) -> Result<(), String> {
        check_range("head_interval_s", self.head_interval_s, 1, 86_400)?;
        // Sooner than the next head but one, every device would be hard stale at each delay.
        check_range("hard_stale_s", self.hard_stale_s, 3 * self.head_interval_s, 10 * 365 * 86_400)?;
        // Tokens are dated back far enough for this much.
        check_range("clock_error_ms", self.clock_error_ms, 0, 2000)?;
        check_range("window", u64::from(self.window), 0, 1024)?;
        check_range("task_ttl_max_s", self.task_ttl_max_s, 1, TASK_LIFE_MAX.secs())?;
        self.brokers.iter().try_for_each(|url| url.parse::<BrokerUrl>().map(drop).map_err(|error| error.to_string()))
    }

    fn text(&self) -> String {
        let brokers: Vec<String> = self.brokers.iter().map(|url| format!("{url:?}")).collect();
        format!(
            "name = \"{}\"\n\
             # Brokers that `fleet serve` tries, in order.\n\
             brokers = [{}]\n\
             # A revocation head is signed anew after so many seconds: what devices measure staleness by.\n\
             head_interval_s = {}\n\
             # After so many seconds without a newer head a device denies what is of the highest class of risk, whatever the\n\
             # policy says.\n\
             hard_stale_s = {}\n\
             # How far this machine's clock may be off.\n\
             clock_error_ms = {}\n\
             # Segments of audit that a device may have in flight. 0: pause.\n\
             window = {}\n\
             # No task token that is minted here lives longer.\n\
             task_ttl_max_s = {}\n",
            self.name,
            brokers.join(", "),
            self.head_interval_s,
            self.hard_stale_s,
            self.clock_error_ms,
            self.window,
            self.task_ttl_max_s,
        )
    }
}

fn check_range(name: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(format!("{name} = {value}: use {least} to {most}"))
    }
}

/// A fleet's folder.
#[derive(Clone, Debug)]
pub struct FleetDir {
    path: PathBuf,
    toml: FleetToml,
}

impl FleetDir {
    /// Makes an empty folder with `fleet.toml` in it. What is in the folder already stays, but no fleet may be.
    ///
    /// # Errors
    /// [`FleetDirError`].
    pub fn create(path: &Path, toml: FleetToml) -> Result<Self, FleetDirError> {
        let file = path.join("fleet.toml");
        if file.exists() {
            return Err(FileError::Exists { path: file }.into());
        }
        files::create_dir(path)?;
        files::make_private(path)?;
        files::create_dir(&path.join("devices"))?;
        files::write_private(&file, toml.text().as_bytes())?;
        Ok(Self { path: path.to_owned(), toml })
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// [`FleetDirError`].
    pub fn open(path: &Path) -> Result<Self, FleetDirError> {
        let file = path.join("fleet.toml");
        let text = read_text(&file)
            .map_err(|error| FleetDirError::NoFleet { path: path.to_owned(), why: format!("fleet.toml: {error}") })?;
        files::check_private_dir(path)?;
        let settings = |why: String| FleetDirError::Settings { path: file.clone(), why };
        let toml: FleetToml = toml::from_str(&text).map_err(|error| settings(error.to_string()))?;
        toml.check().map_err(settings)?;
        Ok(Self { path: path.to_owned(), toml })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `fleet.toml` says.
    pub fn toml(&self) -> &FleetToml {
        &self.toml
    }

    /// The ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.path.join("fleet.db")
    }

    /// The broker's folder.
    pub fn broker(&self) -> BrokerFolder {
        BrokerFolder::of(&self.path, &self.toml.name)
    }

    /// Keeps the request that was approved for a device: `devices/<id>.request`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep_request(&self, device: &DeviceId, request: &[u8]) -> Result<(), FileError> {
        let folder = self.path.join("devices");
        files::create_dir(&folder)?;
        files::replace(&folder.join(format!("{device}.request")), request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path) -> Result<FleetDir, FleetDirError> {
        FleetDir::create(path, FleetToml::new("acme".parse().unwrap(), &["mqtts://b:1".parse().unwrap()]))
    }

    #[test]
    fn what_is_made_can_be_opened_and_is_not_made_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet");
        let made = create(&path).unwrap();
        assert_eq!(FleetDir::open(&path).unwrap().toml(), made.toml());
        assert!(create(&path).is_err());
        assert!(matches!(FleetDir::open(folder.path()), Err(FleetDirError::NoFleet { .. })));
    }

    #[test]
    fn settings_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path()).unwrap();
        for (line, fine) in [
            ("window = 0", true),
            ("window = 5000", false),
            ("head_interval_s = 0", false),
            ("colour = 1", false),
            ("brokers = [\"http://x\"]", false),
        ] {
            std::fs::write(folder.path().join("fleet.toml"), format!("name = \"acme\"\n{line}\n")).unwrap();
            assert_eq!(FleetDir::open(folder.path()).is_ok(), fine, "{line}");
        }
    }
}
