//! What one operator needs for emergencies, in a folder of his own: his key, and nothing else of the fleet's.
//!
//! Owns: the files of a kit, `kit.json emergency.key counter bundles/ ca.pem client.pem client.key`; that a number is durable
//! before a statement of it leaves, and that two commands at once sign two; what a kit learns from the broker.
//! Never: holds another key than the operator's own; replaces a counter; believes a trust bundle that the one before does not
//! vouch for.
//! Read next: `../../fleet/emergency/progress.rs`, which numbers; `../fleet_keys/emergency.rs`, which hands the key over.

use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::SigningKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::{publish, NotTaken};
use crate::fleet::emergency::{messages, Heard, Order, Progress};
use crate::fleet::FleetError;
use crate::ids::{FleetId, KeyId};
use crate::shell::broker::BrokerError;
use crate::shell::files::{self, FileError};
use crate::shell::fleet_keys::{kit_key, KeyError};
use crate::shell::fleet_lock::{self, Lock};
use crate::shell::mqtt::probe::Probe;
use crate::shell::mqtt::{BrokerUrl, LinkConfig, TlsIdentity};
use crate::shell::x509::{emergency_name, pem};
use crate::time::Timestamp;
use crate::wire::bundle::{Fingerprint, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::revocation::emergency::Emergency;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

const LABEL: &str = "kit.json";
const KEY: &str = "emergency.key";
const COUNTER: &str = "counter";
const BUNDLES: &str = "bundles";
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "client.pem";
const CLIENT_KEY: &str = "client.key";
/// Whoever signs holds the first, whoever talks to the broker the second: there is one client id.
const LOCKS: [&str; 2] = ["counter.lock", "link.lock"];
/// The form of `kit.json`.
const FORMAT: u32 = 1;
/// How often another command is waited for, half a second each time.
const LOCK_TRIES: u32 = 120;
/// The most bytes of a counter's file, as it is read.
const COUNTER_BYTES_MAX: usize = 128 * 1024;

/// Why a kit cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The folder holds something else.
    #[error("{} holds {found}, which is no part of a kit: name a folder that is empty, or none yet", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// It is the kit of somebody else, or of a key that was taken away.
    #[error("{} is the kit of emergency key {key} of {operator} in fleet {fleet}: name another folder", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// Its key.
        key: KeyId,
        /// Who has it.
        operator: String,
        /// Of which fleet.
        fleet: FleetId,
    },
    /// It was never completed.
    #[error("{} is a kit that was begun and is not complete: run the same `hardtack fleet key add emergency … --kit` again, at the latest once its trust bundle is in force", .0.display())]
    Incomplete(PathBuf),
    /// A file of it is damaged or missing.
    #[error("{}: {why}: have the fleet take this key away (`hardtack fleet key remove emergency`) and give another", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer version made it.
    #[error("{} was made by a newer version of this program (format {found}): use that one", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another command has it.
    #[error("process {holder} uses the kit and does not come to an end: wait for it, or end it, and try again")]
    InUse {
        /// Its process.
        holder: String,
    },
    /// A file or the folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nothing was signed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The broker's authority did not sign who the kit is at the broker.
    #[error("the kit has no certificate for the broker yet, which the fleet's authority signs: {0}: have that key, broker/ca.key, in the fleet's folder for this command; no trust bundle was made, and the fleet's folder is as it was")]
    Broker(#[from] BrokerError),
    /// No broker could be asked.
    #[error("no broker answers: {0}")]
    NoBroker(String),
    /// It is signed, and the broker has it not.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

/// Whose kit it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    format: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// What devices compare when they are enrolled: it vouches for trust bundle 1.
    pub fingerprint: String,
    /// Who has the key.
    pub operator: String,
    /// The key.
    pub key: KeyId,
    /// Brokers that are tried if neither the command nor a trust bundle names one.
    pub brokers: Vec<String>,
}

/// A kit whose files are all made, but for its numbers and its label: nothing that is kept elsewhere is needed any more.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
}

/// What a kit is completed with.
pub struct Contents<'a> {
    /// The fleet's fingerprint.
    pub fingerprint: Fingerprint,
    /// Who has the key.
    pub operator: &'a str,
    /// The key.
    pub key: KeyId,
    /// Brokers that the fleet's own folder names.
    pub brokers: &'a [String],
    /// Every trust bundle, from version 1 on.
    pub bundles: &'a [Signed<TrustBundle>],
    /// How far the key has come.
    pub progress: Progress,
}

/// What was learnt from the broker.
#[derive(Debug, Default)]
pub struct Learnt {
    /// The version of each trust bundle that was new.
    pub bundles: Vec<u64>,
    /// Somebody signs with this key elsewhere.
    pub elsewhere: Vec<Heard>,
    /// What was not believed.
    pub refused: Vec<String>,
}

/// A kit.
#[derive(Debug)]
pub struct Kit {
    path: PathBuf,
    label: Label,
    bundles: Vec<Signed<TrustBundle>>,
    trust: TrustBundle,
}

impl Kit {
    /// Whether a folder is a kit, complete or not, and no fleet's.
    pub fn is_at(path: &Path) -> bool {
        path.join(LABEL).exists() || (path.join(KEY).exists() && !path.join("fleet.toml").exists())
    }

    /// Makes the folder of a kit, or goes on with one that was begun for the same operator. Gives where its key is.
    ///
    /// # Errors
    /// [`KitError`], among others for a folder that holds anything else, and for the kit of a key that `trust` does not name
    /// for this operator.
    pub fn begin(path: &Path, trust: &TrustBundle, operator: &str) -> Result<PathBuf, KitError> {
        files::create_dir(path)?;
        let unreadable = |error| FileError::io("read", path, error);
        let mut empty = true;
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
            let ours = [LABEL, KEY, COUNTER, BUNDLES, AUTHORITY, CERTIFICATE, CLIENT_KEY].contains(&name.as_str());
            if !ours && !LOCKS.contains(&name.as_str()) && !files::is_temporary(&name) {
                return Err(KitError::Foreign { path: path.to_owned(), found: name });
            }
            empty = false;
        }
        // An empty folder may be anybody's idea of a mode; what lies in one that others can enter is not secret any more.
        match empty {
            true => files::make_private(path)?,
            false => files::check_private_dir(path)?,
        }
        match label(path) {
            Ok(label) => {
                let named = trust.emergency_key(label.key).filter(|named| named.operator == operator);
                if label.fleet != trust.fleet || label.operator != operator || named.is_none() {
                    let Label { key, operator, fleet, .. } = label;
                    return Err(KitError::Other { path: path.to_owned(), key, operator, fleet });
                }
            }
            Err(KitError::Incomplete(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(path.join(KEY))
    }

    /// Puts into it what has to be there before a trust bundle names its key, so that no key is named that nobody can use. A
    /// certificate of its own that it has stays.
    ///
    /// # Errors
    /// [`KitError`].
    pub fn prepare(
        path: &Path,
        bundles: &[Signed<TrustBundle>],
        identity: impl FnOnce() -> Result<TlsIdentity, KitError>,
    ) -> Result<Prepared, KitError> {
        write_bundles(path, bundles)?;
        if !path.join(CERTIFICATE).exists() || !path.join(CLIENT_KEY).exists() {
            write_identity(path, &identity()?)?;
        }
        Ok(Prepared { path: path.to_owned() })
    }

    /// Opens a kit: every trust bundle follows from the fingerprint.
    ///
    /// # Errors
    /// [`KitError`].
    pub fn open(path: &Path) -> Result<Self, KitError> {
        files::check_private_dir(path)?;
        let label = label(path)?;
        let fingerprint: Fingerprint = label.fingerprint.parse().map_err(|why| damaged(&path.join(LABEL), why))?;
        let first = read_bundle(path, 1)?.ok_or_else(|| damaged(&bundle_file(path, 1), "it is missing"))?;
        let refused = |version| move |why: Refused| damaged(&bundle_file(path, version), why);
        let mut trust = TrustBundle::genesis(&first).map_err(refused(1))?;
        if trust.fingerprint() != fingerprint || trust.fleet != label.fleet {
            return Err(damaged(&bundle_file(path, 1), "it is of another fleet"));
        }
        let mut bundles = vec![first];
        while let Some(next) = read_bundle(path, trust.version + 1)? {
            trust = trust.successor(&next).map_err(refused(trust.version + 1))?;
            bundles.push(next);
        }
        Ok(Self { path: path.to_owned(), label, bundles, trust })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// The newest trust bundle that it knows.
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// Every trust bundle that it knows, from version 1 on.
    pub fn bundles(&self) -> &[Signed<TrustBundle>] {
        &self.bundles
    }

    /// Brokers, those of the newest trust bundle first.
    pub fn brokers(&self) -> Vec<BrokerUrl> {
        let mut urls: Vec<BrokerUrl> = Vec::new();
        let named = self.trust.broker.urls.iter().chain(&self.label.brokers);
        for url in named.filter_map(|text| text.parse().ok()) {
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        urls
    }

    /// The operator's key. A passphrase is asked for where it has one.
    ///
    /// # Errors
    /// [`KitError`].
    pub fn key(&self) -> Result<SigningKey, KitError> {
        let path = self.path.join(KEY);
        let key = kit_key(&path)?;
        match KeyId::of(key.verifying_key().as_bytes()) == self.label.key {
            true => Ok(key),
            false => Err(damaged(&path, "it holds another key than the kit's")),
        }
    }

    /// How far the key has come, as far as this kit knows.
    ///
    /// # Errors
    /// [`KitError`]. Without it nothing can be signed: nobody knows which numbers were.
    pub fn progress(&self) -> Result<Progress, KitError> {
        progress_of(&self.path, self.label.key)
    }

    /// Signs the next statement. Its number is on the disk when this returns.
    ///
    /// # Errors
    /// [`KitError`]; nothing left this machine then.
    pub fn sign(&self, key: &SigningKey, order: &Order, at: Timestamp) -> Result<Signed<Emergency>, KitError> {
        let _alone = self.hold(LOCKS[0])?;
        let mut progress = self.progress()?;
        let signed = progress.sign(&self.trust, key, order, at)?;
        self.keep(&progress)?;
        Ok(signed)
    }

    fn keep(&self, progress: &Progress) -> Result<(), KitError> {
        Ok(files::replace(&self.path.join(COUNTER), &progress.to_bytes())?)
    }

    fn hold(&self, name: &str) -> Result<Lock, KitError> {
        hold(&self.path, name)
    }

    /// This kit's place at the broker, which one command has at a time.
    ///
    /// # Errors
    /// [`KitError`].
    pub fn line(&self) -> Result<Lock, KitError> {
        self.hold(LOCKS[1])
    }

    /// How to reach a broker as whoever has this key.
    ///
    /// # Errors
    /// [`KitError`].
    pub fn link(&self, urls: Vec<BrokerUrl>) -> Result<LinkConfig, KitError> {
        let name = emergency_name(self.label.key);
        Ok(LinkConfig {
            fleet: self.label.fleet.clone(),
            client_id: name.clone(),
            user: name,
            urls,
            tls: Some(self.identity()?),
            keepalive: std::time::Duration::from_secs(30),
            connect: std::time::Duration::from_secs(10),
            packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
        })
    }

    /// Who it is at the broker. The authorities are those of the newest trust bundle, beside the one that it was made with.
    fn identity(&self) -> Result<TlsIdentity, KitError> {
        let certificate = |name: &str| -> Result<Vec<u8>, KitError> {
            let path = self.path.join(name);
            let text = files::read_private(&path)?;
            let read = CertificateDer::from_pem_slice(&text).map_err(|_| damaged(&path, "it holds no certificate"));
            Ok(read?.to_vec())
        };
        let path = self.path.join(CLIENT_KEY);
        let text = files::read_private(&path)?;
        let key = std::str::from_utf8(&text).ok().and_then(|text| SigningKey::from_pkcs8_pem(text).ok());
        let mut authorities = vec![certificate(AUTHORITY)?];
        for pinned in &self.trust.broker.authorities {
            if !authorities.contains(pinned) {
                authorities.push(pinned.clone());
            }
        }
        let key = key.ok_or_else(|| damaged(&path, "it holds no usable key"))?;
        Ok(TlsIdentity { authorities, certificate: certificate(CERTIFICATE)?, key })
    }

    /// Asks the first broker that answers what has happened since: later trust bundles, each of which the one before has to
    /// vouch for, as on a device; and what it keeps of this key. Gives which broker it was.
    ///
    /// # Errors
    /// [`KitError::NoBroker`], with what each one said; or that something cannot be kept.
    pub async fn learn(&mut self, config: &LinkConfig, at: Timestamp) -> Result<(BrokerUrl, Learnt), KitError> {
        let mut said = Vec::new();
        for url in &config.urls {
            let one = LinkConfig { urls: vec![url.clone()], ..config.clone() };
            match Probe::connect(&one, at, None).await {
                Ok(mut probe) => match self.ask(&mut probe, at).await? {
                    Ok(learnt) => {
                        probe.leave().await;
                        return Ok((url.clone(), learnt));
                    }
                    Err(reason) => said.push(format!("{url}: {reason}")),
                },
                Err(reason) => said.push(format!("{url}: {reason}")),
            }
        }
        Err(KitError::NoBroker(said.join("; ")))
    }

    /// `Err` inside: the broker's reason.
    async fn ask(&mut self, probe: &mut Probe, at: Timestamp) -> Result<Result<Learnt, String>, KitError> {
        let mut learnt = Learnt::default();
        loop {
            let next = Topic::Bundle(self.trust.version + 1).text(&self.label.fleet);
            let kept = match probe.retained(&next).await {
                Ok(kept) => kept,
                Err(reason) => return Ok(Err(reason)),
            };
            let Some(bundle) = kept.into_iter().find(|message| message.topic == next) else { break };
            if let Err(refused) = self.follow(&bundle.payload)? {
                learnt.refused.push(format!("{next}: {refused}"));
                break;
            }
            learnt.bundles.push(self.trust.version);
        }
        let feeds: Vec<_> = self.trust.feeds.iter().map(|feed| feed.id.clone()).collect();
        for feed in feeds {
            let place = Topic::FeedEmergency(feed, self.label.key).text(&self.label.fleet);
            let kept = match probe.retained(&place).await {
                Ok(kept) => kept,
                Err(reason) => return Ok(Err(reason)),
            };
            for message in kept.into_iter().filter(|message| message.topic == place) {
                match self.hear(&message.payload, at)? {
                    Ok(Heard::Known) => {}
                    Ok(heard) => learnt.elsewhere.push(heard),
                    Err(refused) => learnt.refused.push(format!("{place}: {refused}")),
                }
            }
        }
        Ok(Ok(learnt))
    }

    fn follow(&mut self, payload: &[u8]) -> Result<Result<(), Refused>, KitError> {
        let next = Signed::<TrustBundle>::from_bytes(payload);
        let (next, trust) = match next.and_then(|next| self.trust.successor(&next).map(|trust| (next, trust))) {
            Ok(next) => next,
            Err(refused) => return Ok(Err(refused)),
        };
        files::replace(&bundle_file(&self.path, trust.version), &next.to_bytes())?;
        self.trust = trust;
        self.bundles.push(next);
        Ok(Ok(()))
    }

    fn hear(&self, payload: &[u8], at: Timestamp) -> Result<Result<Heard, Refused>, KitError> {
        let _alone = self.hold(LOCKS[0])?;
        let before = self.progress()?;
        let mut progress = before.clone();
        let heard = progress.hear(payload, &self.trust, at);
        // Also what seems to have ended: this machine's clock may be wrong.
        if progress != before {
            self.keep(&progress)?;
        }
        Ok(heard)
    }

    /// Brings the newest statement to the first broker that takes it: newer than the one that a command has signed, if another
    /// command signed meanwhile. Gives which broker it was, and the statement's number.
    ///
    /// # Errors
    /// [`KitError::NotTaken`].
    pub async fn bring(&self, config: &LinkConfig, at: Timestamp) -> Result<(BrokerUrl, u64), KitError> {
        let progress = self.progress()?;
        let newest = progress.newest().ok_or_else(|| {
            FleetError::Invalid("this kit has signed nothing yet: there is nothing to bring to a broker".into())
        })?;
        let url = publish(config, at, &messages(&self.trust, self.label.key, newest)).await?;
        Ok((url, newest.claim().map_or(progress.counter(), |said| said.counter)))
    }
}

impl Prepared {
    /// Puts the rest into it. What is there of numbers stays: none is taken back. The label comes last; without it a kit is not
    /// complete, and signs nothing.
    ///
    /// # Errors
    /// [`KitError`], among others for a kit that was complete and has lost its numbers.
    pub fn complete(self, contents: &Contents<'_>) -> Result<Kit, KitError> {
        let path = self.path.as_path();
        let Contents { fingerprint, operator, key, brokers, bundles, progress } = contents;
        let newest = bundles.last().and_then(|bundle| bundle.claim().ok());
        let fleet = newest.map(|newest| newest.fleet).ok_or_else(|| damaged(path, "the fleet has no trust bundle"))?;
        write_bundles(path, bundles)?;
        {
            let _alone = hold(path, LOCKS[0])?;
            let counter = path.join(COUNTER);
            // A kit with a label was complete, and may have signed what the fleet never heard of.
            let progress = match counter.exists() || path.join(LABEL).exists() {
                true => progress_of(path, *key)?.with(progress.clone()),
                false => progress.clone(),
            };
            files::replace(&counter, &progress.to_bytes())?;
        }
        let label = Label {
            format: FORMAT,
            fleet,
            fingerprint: fingerprint.to_string(),
            operator: (*operator).to_owned(),
            key: *key,
            brokers: brokers.to_vec(),
        };
        // Of texts and numbers: there is nothing that could not be written.
        let text = serde_json::to_vec_pretty(&label).map_err(|error| damaged(path, error))?;
        files::replace(&path.join(LABEL), &text)?;
        Kit::open(path)
    }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> KitError {
    KitError::Damaged { path: path.to_owned(), why: why.to_string() }
}

fn hold(path: &Path, name: &str) -> Result<Lock, KitError> {
    let mut holder = String::new();
    for _ in 0..LOCK_TRIES {
        match fleet_lock::hold(&path.join(name))? {
            Ok(lock) => return Ok(lock),
            Err(other) => holder = other,
        }
    }
    Err(KitError::InUse { holder })
}

fn progress_of(path: &Path, key: KeyId) -> Result<Progress, KitError> {
    let file = path.join(COUNTER);
    let bytes = match files::read_bounded(&file, COUNTER_BYTES_MAX) {
        Err(error) if error.is_missing() => {
            return Err(damaged(&file, "it is missing, and nobody knows which numbers were signed"))
        }
        read => read?,
    };
    Progress::from_bytes(&bytes, key).map_err(|why| damaged(&file, why))
}

fn bundle_file(path: &Path, version: u64) -> PathBuf {
    path.join(BUNDLES).join(format!("{version:020}"))
}

fn write_bundles(path: &Path, bundles: &[Signed<TrustBundle>]) -> Result<(), KitError> {
    files::create_dir(&path.join(BUNDLES))?;
    for (version, bundle) in (1..).zip(bundles) {
        files::replace(&bundle_file(path, version), &bundle.to_bytes())?;
    }
    Ok(())
}

fn read_bundle(path: &Path, version: u64) -> Result<Option<Signed<TrustBundle>>, KitError> {
    let file = bundle_file(path, version);
    match files::read_bounded(&file, MESSAGE_BYTES_MAX) {
        Ok(bytes) => Signed::from_bytes(&bytes).map(Some).map_err(|why| damaged(&file, why)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn label(path: &Path) -> Result<Label, KitError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let file = path.join(LABEL);
    let text = match files::read_private(&file) {
        Err(error) if error.is_missing() => return Err(KitError::Incomplete(path.to_owned())),
        read => read?,
    };
    let Format { format } = serde_json::from_slice(&text).map_err(|why| damaged(&file, why))?;
    if format > FORMAT {
        return Err(KitError::Newer { path: file, found: format });
    }
    serde_json::from_slice(&text).map_err(|why| damaged(&file, why))
}

fn write_identity(path: &Path, identity: &TlsIdentity) -> Result<(), KitError> {
    let authority = identity.authorities.first().ok_or_else(|| damaged(path, "the broker has no authority"))?;
    let key = identity.key.to_pkcs8_pem(LineEnding::LF).map_err(|why| damaged(path, why))?;
    files::replace(&path.join(AUTHORITY), pem("CERTIFICATE", authority).as_bytes())?;
    files::replace(&path.join(CLIENT_KEY), key.as_bytes())?;
    Ok(files::replace(&path.join(CERTIFICATE), pem("CERTIFICATE", &identity.certificate).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::fleet::emergency::{draft_added, Before};
    use crate::fleet::enrol::{found, Founding};
    use crate::fleet::publish::Cadence;
    use crate::fleet::{Effects, FleetKeys};
    use crate::shell::broker::BrokerFolder;
    use crate::shell::entropy;
    use crate::shell::fleet_keys::KeyFolder;
    use crate::time::Millis;
    use crate::wire::bundle::{BrokerPins, PublicKey};
    use crate::wire::revocation::Target;

    const AT: Timestamp = Timestamp(1_790_000_000_000);

    fn order(task: &str) -> Order {
        let target = Target::Task(task.parse().unwrap());
        Order { target, life: Millis::from_secs(3600), reason: "stolen".into(), clock_is_right: false }
    }

    /// A fleet whose second trust bundle names ann's key, which lies in the folder `kit` as a kit that is complete.
    struct Made {
        dir: tempfile::TempDir,
        bundles: Vec<Signed<TrustBundle>>,
        trust: TrustBundle,
        fingerprint: Fingerprint,
        key: SigningKey,
    }

    impl Made {
        fn new() -> Self {
            let (dir, rng) = (tempfile::tempdir().unwrap(), &mut entropy::rng());
            let keys = FleetKeys::generate(rng);
            let fleet: FleetId = "acme".parse().unwrap();
            KeyFolder::of(dir.path()).create(&keys, &fleet, None).unwrap();
            BrokerFolder::of(dir.path(), &fleet).make_authority().unwrap();
            let founding = Founding {
                fleet: fleet.clone(),
                feed: "main".parse().unwrap(),
                broker: BrokerPins::default(),
                keys: &keys,
                operator: "ann",
                at: AT,
                cadence: Cadence::every(Millis::from_secs(60)),
            };
            let book = found(&founding, &mut Effects::default()).unwrap();
            let file = Kit::begin(&dir.path().join("kit"), book.trust(), "ann").unwrap();
            let mut folder = KeyFolder::of(dir.path());
            let key = folder.hand_emergency("ann", &file, rng).unwrap();
            assert_eq!(folder.hand_emergency("ann", &file, rng).unwrap(), key, "it is made once");
            let next = draft_added(&book, "ann", &PublicKey::from(key.verifying_key()), AT).unwrap();
            let bundles = vec![book.bundles()[0].clone(), Signed::sign(&next, &fleet, &[&keys.root])];
            let made = Self { dir, bundles, trust: next, fingerprint: book.trust().fingerprint(), key };
            made.complete(0).unwrap();
            made
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("kit")
        }

        fn id(&self) -> KeyId {
            KeyId::of(self.key.verifying_key().as_bytes())
        }

        fn complete(&self, counter: u64) -> Result<Kit, KitError> {
            let contents = Contents {
                fingerprint: self.fingerprint,
                operator: "ann",
                key: self.id(),
                brokers: &["mqtts://b:8883".to_owned()],
                bundles: &self.bundles,
                progress: Progress::new(self.id(), Before { counter, ..Before::default() }, None),
            };
            let broker = BrokerFolder::of(self.dir.path(), &self.trust.fleet);
            let identity = || Ok(broker.emergency_identity(self.id(), &mut entropy::rng())?);
            Kit::prepare(&self.path(), &self.bundles, identity)?.complete(&contents)
        }

        fn sign(&self, task: &str) -> Result<u64, KitError> {
            let kit = Kit::open(&self.path())?;
            let signed = kit.sign(&kit.key()?, &order(task), AT)?;
            kit.link(kit.brokers())?;
            Ok(signed.claim().unwrap().counter)
        }
    }

    #[test]
    fn a_kit_signs_alone_and_a_second_completion_takes_no_number_back() {
        let made = Made::new();
        assert_eq!((made.sign("t-1").unwrap(), made.sign("t-2").unwrap()), (1, 2));
        let client = std::fs::read(made.path().join(CERTIFICATE)).unwrap();
        made.complete(0).unwrap();
        assert_eq!(made.sign("t-3").unwrap(), 3);
        assert_eq!(
            std::fs::read(made.path().join(CERTIFICATE)).unwrap(),
            client,
            "its place at the broker is the same"
        );
        let kit = Kit::open(&made.path()).unwrap();
        assert_eq!((kit.trust(), kit.brokers().len()), (&made.trust, 1));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&made.path()), 0o700);
        for entry in std::fs::read_dir(made.path()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
        // The fleet has heard of more: a number that was signed is not signed again.
        made.complete(9).unwrap();
        assert_eq!(made.sign("t-4").unwrap(), 10);
        // Nothing of the fleet's is in it: no authority's key, no key of another role.
        assert!(!made.path().join("ca.key").exists() && !made.path().join("keys").exists());
    }

    /// It may have signed for files alone, which the fleet never heard of: the ledger's number is not the next one.
    #[test]
    fn a_kit_that_lost_its_numbers_is_not_completed_again() {
        let made = Made::new();
        assert_eq!((made.sign("t-1").unwrap(), made.sign("t-2").unwrap()), (1, 2));
        std::fs::remove_file(made.path().join(COUNTER)).unwrap();
        let error = made.complete(0).unwrap_err();
        assert!(matches!(&error, KitError::Damaged { path, .. } if *path == made.path().join(COUNTER)), "{error}");
        assert!(error.to_string().contains("fleet key remove emergency"), "{error}");
        assert!(!made.path().join(COUNTER).exists() && made.sign("t-3").is_err(), "nothing is signed either");
        // One that was never complete has signed nothing.
        std::fs::remove_file(made.path().join(LABEL)).unwrap();
        made.complete(4).unwrap();
        assert_eq!(made.sign("t-4").unwrap(), 5);
    }

    #[test]
    fn what_a_kit_hears_by_a_wrong_clock_is_in_its_file() {
        let made = Made::new();
        let kit = Kit::open(&made.path()).unwrap();
        let copy = kit.progress().unwrap();
        for task in ["t-1", "t-2"] {
            made.sign(task).unwrap();
        }
        let mut other = copy.clone();
        let heard = other.sign(&made.trust, &made.key, &order("t-3"), AT).unwrap();
        let years = Millis::from_secs(10 * 365 * 86_400);
        assert_eq!(kit.hear(&heard.to_bytes(), AT + years).unwrap(), Ok(Heard::Known), "it seems to have ended");
        assert_eq!(kit.progress().unwrap().in_force(AT).count(), 3);
    }

    #[test]
    fn the_fleets_copy_of_the_key_goes_once_the_kit_has_it() {
        let made = Made::new();
        let (mut folder, rng) = (KeyFolder::of(made.dir.path()), &mut entropy::rng());
        let other = folder.make_emergency("ann", rng).unwrap();
        assert!(!folder.give_away_emergency("ann", &made.key).unwrap(), "another key is kept");
        assert!(folder.give_away_emergency("ann", &other).unwrap());
        assert!(!folder.emergency_file("ann").exists());
        assert!(!folder.give_away_emergency("ann", &other).unwrap());
    }

    #[test]
    fn a_folder_that_is_something_else_is_refused() {
        let made = Made::new();
        let begin =
            |path: &Path, trust: &TrustBundle, who| Kit::begin(path, trust, who).map_err(|error| error.to_string());
        assert!(begin(&made.path(), &made.trust, "ann").is_ok());
        assert!(begin(&made.path(), &made.trust, "bob").unwrap_err().contains("of ann in fleet acme"));
        let gone = TrustBundle { emergency: Vec::new(), ..made.trust.clone() };
        assert!(begin(&made.path(), &gone, "ann").unwrap_err().contains("name another folder"));
        assert!(begin(made.dir.path(), &made.trust, "ann").unwrap_err().contains("no part of a kit"));
        let begun = made.dir.path().join("begun");
        begin(&begun, &made.trust, "bob").unwrap();
        assert!(matches!(Kit::open(&begun), Err(KitError::Incomplete(_))));
    }

    #[test]
    fn whatever_is_damaged_missing_or_open_to_others_is_told_and_nothing_is_signed() {
        type Harm = fn(&Path);
        fn remove(path: &Path) {
            std::fs::remove_file(path).unwrap();
        }
        fn junk(path: &Path) {
            std::fs::write(path, "junk").unwrap();
        }
        fn widen(path: &Path) {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
        }
        fn newer(path: &Path) {
            let text = std::fs::read_to_string(path).unwrap();
            std::fs::write(path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        }
        let (first, second) = (format!("{BUNDLES}/{:020}", 1), format!("{BUNDLES}/{:020}", 2));
        let cases: [(&str, Harm, &str); 16] = [
            (LABEL, remove, "not complete"),
            (LABEL, junk, "give another"),
            (LABEL, newer, "newer version"),
            (LABEL, widen, "chmod 600"),
            (KEY, remove, "emergency.key"),
            (KEY, junk, "holds no key of the role emergency"),
            (KEY, widen, "chmod 600"),
            (COUNTER, remove, "nobody knows which numbers were signed"),
            (COUNTER, junk, "give another"),
            (&first, remove, "it is missing"),
            (&first, junk, "give another"),
            (&second, junk, "give another"),
            // A kit that is behind names no such key, and no device would take what it says.
            (&second, remove, "none of trust bundle 1"),
            (CERTIFICATE, remove, "client.pem"),
            (CLIENT_KEY, junk, "no usable key"),
            (AUTHORITY, junk, "no certificate"),
        ];
        for (file, harm, says) in cases {
            let made = Made::new();
            harm(&made.path().join(file));
            let error = made.sign("t-1").unwrap_err().to_string();
            assert!(error.contains(says), "{file}: {error}");
        }
        let made = Made::new();
        std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(made.sign("t-1").unwrap_err().to_string().contains("chmod 700"));
    }
}
