//! Asks a live broker, as each role, whether it holds to the roles.
//!
//! Owns: the questions, and what each must come to.
//! Never: touches what devices of the fleet hear: its devices and emergency keys are throw-away ones, admitted at the beginning and dismissed
//! at the end, and it speaks on their topics only. Never takes the place of a running service.
//! Read next: `dynsec.rs`, which says who may do what.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use serde::Serialize;

use super::{dynsec, service_client_id, BrokerError, BrokerFolder};
use crate::fleet::readers::Reader;
use crate::ids::{DeviceId, FeedId, FleetId, KeyId};
use crate::shell::mqtt::probe::{Arrived, Probe, Verdict};
use crate::shell::mqtt::{BrokerUrl, LinkConfig, Security, TlsIdentity, CONTROL_RESPONSE_TOPIC, CONTROL_TOPIC};
use crate::shell::x509::{emergency_name, Authority, CertificateError, SERVICE_NAME};
use crate::time::Timestamp;

/// How long the broker may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What must come of an act.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It must work.
    Allowed,
    /// It must be refused, or have no effect.
    Denied,
}

/// One question and what came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// In which role.
    pub role: &'static str,
    /// What was tried.
    pub act: String,
    /// What must come of it.
    pub expected: Expected,
    /// Whether it did.
    pub ok: bool,
    /// What came of it.
    pub found: String,
}

/// Why a broker could not be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The fleet's folder is not usable.
    #[error(transparent)]
    Folder(#[from] BrokerError),
    /// The throw-away devices could not be admitted.
    #[error("the service cannot administer the roles of {url}: {reason}")]
    Administration {
        /// The broker.
        url: BrokerUrl,
        /// Why.
        reason: String,
    },
}

impl From<CertificateError> for CheckError {
    fn from(error: CertificateError) -> Self {
        Self::Folder(error.into())
    }
}

/// Asks the broker at `url`.
///
/// # Errors
/// [`CheckError`]: no answer could be had. A broker that answers wrongly is a finding.
pub async fn run(
    folder: &BrokerFolder,
    url: &BrokerUrl,
    now: Timestamp,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<Finding>, CheckError> {
    let mut check = Check::new(folder, url, now, rng)?;
    check.ask_about_two_services().await;
    check.administer(&dynsec::admit(&folder.fleet, &check.readers())).await?;
    check.administer(&dynsec::withdraw(&folder.fleet, &check.readers())).await?;
    check.administer(&[dynsec::admit_listener(&folder.fleet, &check.listener.0)]).await?;
    check.administer(&dynsec::admit_emergency(&folder.fleet, &check.emergency_keys())).await?;
    check.ask().await;
    let mut all = check.devices().to_vec();
    all.push(check.listener.0.clone());
    check.administer(&dynsec::dismiss(&all)).await?;
    check.administer(&dynsec::dismiss_emergency(&check.emergency_keys())).await?;
    check.ask_as_dismissed().await;
    Ok(check.findings)
}

struct Check<'a> {
    fleet: &'a FleetId,
    url: &'a BrokerUrl,
    now: Timestamp,
    service: TlsIdentity,
    /// Where the service comes in, and two client ids of it.
    service_url: BrokerUrl,
    service_ids: [String; 2],
    /// The device that asks.
    asking: (DeviceId, TlsIdentity),
    /// The device whose things are none of its business.
    other: (DeviceId, TlsIdentity),
    /// Stands in for the service, with its role and without its name.
    listener: (DeviceId, TlsIdentity),
    /// Whoever has an emergency key, and another such key.
    emergency: (KeyId, TlsIdentity),
    other_key: KeyId,
    /// A device that says it is `asking`, by the word of an authority that nobody knows.
    forged: TlsIdentity,
    findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    fn new(
        folder: &'a BrokerFolder,
        url: &'a BrokerUrl,
        now: Timestamp,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, CheckError> {
        let authority = folder.authority()?;
        let service = folder.service_identity(rng)?;
        let service_url = folder.service_url(url);
        let service_ids = [service_client_id(&folder.fleet, rng), service_client_id(&folder.fleet, rng)];
        let tag = rng.next_u32();
        let mut made = |role: &str, signed_by: &Authority| -> Result<(DeviceId, TlsIdentity), CheckError> {
            let id: DeviceId = format!("hardtack-check-{tag:08x}-{role}").parse().expect("the name is valid");
            let key = SigningKey::generate(rng);
            let certificate = signed_by.issue_device(&id, &key.verifying_key())?;
            let authorities = vec![authority.der().to_vec()];
            Ok((id, TlsIdentity { authorities, certificate, key }))
        };
        let (asking, other, listener) = (made("a", &authority)?, made("b", &authority)?, made("s", &authority)?);
        let forged = made("a", &Authority::make(&folder.fleet)?)?.1;
        let mut key = || {
            let mut id = [0; 8];
            rng.fill_bytes(&mut id);
            KeyId(id)
        };
        let (own_key, other_key) = (key(), key());
        let emergency = (own_key, folder.emergency_identity(own_key, rng)?);
        Ok(Self {
            fleet: &folder.fleet,
            url,
            now,
            service,
            service_url,
            service_ids,
            asking,
            other,
            listener,
            emergency,
            other_key,
            forged,
            findings: Vec::new(),
        })
    }

    fn devices(&self) -> [DeviceId; 2] {
        [self.asking.0.clone(), self.other.0.clone()]
    }

    /// Each of them reads a feed of its own name, which no device of the fleet has; the other one has read the first one's.
    fn readers(&self) -> [Reader; 2] {
        let feed = |device: &DeviceId| -> FeedId { device.as_str().parse().expect("the name is valid for a feed too") };
        let (asking, other) = (&self.asking.0, &self.other.0);
        [
            Reader { device: asking.clone(), feeds: [feed(asking)].into(), former: [feed(other)].into() },
            Reader { device: other.clone(), feeds: [feed(other)].into(), former: [].into() },
        ]
    }

    fn emergency_keys(&self) -> [KeyId; 2] {
        [self.emergency.0, self.other_key]
    }

    fn config(&self, client_id: &str, tls: Option<&TlsIdentity>) -> LinkConfig {
        LinkConfig {
            fleet: self.fleet.clone(),
            client_id: client_id.to_owned(),
            user: client_id.to_owned(),
            urls: vec![self.url.clone()],
            tls: tls.cloned(),
            keepalive: Duration::from_secs(30),
            connect: PATIENCE,
            packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
        }
    }

    async fn connect(&self, as_who: &(DeviceId, TlsIdentity)) -> Result<Probe, String> {
        Probe::connect(&self.config(as_who.0.as_str(), Some(&as_who.1)), self.now, None).await
    }

    async fn connect_emergency(&self) -> Result<Probe, String> {
        let (key, identity) = &self.emergency;
        Probe::connect(&self.config(&emergency_name(*key), Some(identity)), self.now, None).await
    }

    async fn connect_service(&self, client_id: &str) -> Result<Probe, String> {
        let urls = vec![self.service_url.clone()];
        let config = LinkConfig { user: SERVICE_NAME.into(), urls, ..self.config(client_id, Some(&self.service)) };
        Probe::connect(&config, self.now, None).await
    }

    /// Gives commands to the plugin as the service.
    async fn administer(&mut self, messages: &[Vec<u8>]) -> Result<(), CheckError> {
        let outcome = self.try_administer(messages).await;
        outcome.map_err(|reason| CheckError::Administration { url: self.service_url.clone(), reason })
    }

    async fn try_administer(&self, messages: &[Vec<u8>]) -> Result<(), String> {
        let mut service = self.connect_service(&self.service_ids[0]).await?;
        settle(service.subscribe(CONTROL_RESPONSE_TOPIC).await)?;
        for message in messages {
            settle(service.publish(CONTROL_TOPIC, message).await)?;
            let answer = service.next().await.ok_or("the dynamic-security plugin does not answer: is it loaded?")?;
            if let Some(complaint) = dynsec::complaints(&answer.payload).into_iter().next() {
                return Err(complaint);
            }
        }
        service.leave().await;
        Ok(())
    }

    fn topic(&self, rest: &str) -> String {
        format!("hardtack/1/{}/{rest}", self.fleet)
    }

    fn note(&mut self, role: &'static str, act: impl Into<String>, expected: Expected, verdict: &Verdict) {
        let (happened, found) = match verdict {
            Verdict::Accepted => (Expected::Allowed, "accepted".to_owned()),
            Verdict::Refused(reason) => (Expected::Denied, format!("refused: {reason}")),
        };
        self.findings.push(Finding { role, act: act.into(), expected, ok: happened == expected, found });
    }

    /// Whether a message came through, as a finding.
    fn note_delivery(&mut self, role: &'static str, act: &str, expected: Expected, arrived: bool) {
        let happened = if arrived { Expected::Allowed } else { Expected::Denied };
        let found = if arrived { "delivered" } else { "not delivered" };
        self.findings.push(Finding { role, act: act.into(), expected, ok: happened == expected, found: found.into() });
    }

    /// `fleet serve`, `fleet publish` and this run side by side: none throws another out.
    async fn ask_about_two_services(&mut self) {
        let first = self.connect_service(&self.service_ids[0]).await;
        let second = self.connect_service(&self.service_ids[1]).await;
        let verdict = match (first, second) {
            (Ok(mut first), Ok(second)) => {
                let verdict = first.subscribe(&self.topic("policy/+")).await;
                first.leave().await;
                second.leave().await;
                verdict
            }
            (Err(reason), _) | (_, Err(reason)) => Verdict::Refused(reason),
        };
        self.note("service", "stay connected while another service connects", Expected::Allowed, &verdict);
    }

    async fn ask(&mut self) {
        self.ask_at_the_door().await;
        self.ask_about_client_ids().await;
        let (asking, other, listener) =
            tokio::join!(self.connect(&self.asking), self.connect(&self.other), self.connect(&self.listener));
        let mut open = Vec::new();
        for (role, probe) in [("device", asking), ("other device", other), ("service", listener)] {
            let verdict = probe.as_ref().map_or_else(|why| Verdict::Refused(why.clone()), |_| Verdict::Accepted);
            self.note(role, "connect with its certificate", Expected::Allowed, &verdict);
            open.extend(probe);
        }
        // Without all three there is nobody to ask.
        let Ok([mut asking, mut other, mut listener]) = <[Probe; 3]>::try_from(open) else { return };
        self.ask_to_subscribe(&mut asking, &mut listener).await;
        self.ask_to_publish(&mut asking, &mut listener).await;
        self.ask_about_deliveries(&mut asking, &mut other, &mut listener).await;
        self.ask_as_emergency(&mut asking, &mut listener).await;
        self.ask_about_wills(asking, &mut listener).await;
    }

    /// Who gets in at all.
    async fn ask_at_the_door(&mut self) {
        let id = self.asking.0.as_str().to_owned();
        let plain = BrokerUrl { security: Security::Plain, ..self.url.clone() };
        let unencrypted = LinkConfig { urls: vec![plain], tls: None, ..self.config(&id, None) };
        let cases = [
            ("stranger", "connect without TLS", unencrypted),
            ("stranger", "connect with a certificate of another authority", self.config(&id, Some(&self.forged))),
        ];
        for (role, act, config) in cases {
            let verdict = match Probe::connect(&config, self.now, None).await {
                Ok(_) => Verdict::Accepted,
                Err(reason) => Verdict::Refused(reason),
            };
            self.note(role, act, Expected::Denied, &verdict);
        }
        let verdict = match Probe::connect_anonymously(&self.config(&id, Some(&self.asking.1)), self.now).await {
            Ok(_) => Verdict::Accepted,
            Err(reason) => Verdict::Refused(reason),
        };
        self.note("stranger", "connect without a certificate", Expected::Denied, &verdict);
        self.ask_at_the_services_door().await;
    }

    /// Where client ids are as claimed, no device may come in. A broker with one door has none for it.
    async fn ask_at_the_services_door(&mut self) {
        if self.service_url == *self.url {
            return;
        }
        let urls = vec![self.service_url.clone()];
        let config = LinkConfig { urls, ..self.config(self.other.0.as_str(), Some(&self.asking.1)) };
        let verdict = match Probe::connect(&config, self.now, None).await {
            Ok(_) => Verdict::Accepted,
            Err(reason) => Verdict::Refused(reason),
        };
        self.note(
            "device",
            "connect where the service does, by another device's client id",
            Expected::Denied,
            &verdict,
        );
    }

    /// A device must not take another's place by claiming its client id.
    async fn ask_about_client_ids(&mut self) {
        let Ok(mut other) = self.connect(&self.other).await else { return };
        let claimed = self.config(self.other.0.as_str(), Some(&self.asking.1));
        let claimant = Probe::connect(&claimed, self.now, None).await;
        let still_there = other.subscribe(&self.topic("bundle/+")).await == Verdict::Accepted;
        let verdict = match (claimant, still_there) {
            (_, false) => Verdict::Accepted,
            (Err(reason), true) => Verdict::Refused(reason),
            (Ok(_), true) => Verdict::Refused("the certificate's name counts, the other device stays connected".into()),
        };
        self.note("device", "take another device's place by its client id", Expected::Denied, &verdict);
    }

    async fn ask_to_subscribe(&mut self, asking: &mut Probe, listener: &mut Probe) {
        let (own, other) = (self.asking.0.clone(), self.other.0.clone());
        let allowed = [
            "bundle/+".to_owned(),
            "policy/+".to_owned(),
            format!("feed/{own}/+"),
            format!("feed/{own}/emergency/+"),
            format!("feed/{own}/delta/0"),
            format!("feed/{own}/skip/1/0"),
            format!("feed/{own}/snap/manifest/0"),
            format!("dev/{own}/down/ack"),
            format!("dev/{own}/down/answer"),
        ];
        for filter in allowed.map(|rest| self.topic(&rest)) {
            let verdict = asking.subscribe(&filter).await;
            self.note("device", format!("subscribe {filter}"), Expected::Allowed, &verdict);
        }
        let denied = [
            "#".to_owned(),
            self.topic("#"),
            self.topic("dev/+/down/+"),
            self.topic("dev/+/up/+"),
            self.topic("dev/+/state"),
            self.topic(&format!("dev/{other}/down/+")),
            self.topic(&format!("dev/{other}/up/audit")),
            self.topic("enrol/+/up"),
            self.topic("feed/#"),
            self.topic("feed/+/head"),
            self.topic("feed/+/emergency/+"),
            self.topic(&format!("feed/{other}/+")),
            self.topic(&format!("feed/{other}/delta/0")),
            self.topic(&format!("feed/{other}/emergency/+")),
            format!("$share/thief/{}", self.topic("dev/+/up/audit")),
            format!("$share/thief/{}", self.topic(&format!("dev/{other}/down/+"))),
            "$SYS/#".to_owned(),
            CONTROL_RESPONSE_TOPIC.to_owned(),
        ];
        for filter in denied {
            let verdict = asking.subscribe(&filter).await;
            self.note("device", format!("subscribe {filter}"), Expected::Denied, &verdict);
        }
        for filter in crate::wire::link::service_filters(self.fleet) {
            let verdict = listener.subscribe(&filter).await;
            self.note("service", format!("subscribe {filter}"), Expected::Allowed, &verdict);
        }
    }

    async fn ask_to_publish(&mut self, asking: &mut Probe, listener: &mut Probe) {
        let (own, other) = (self.asking.0.clone(), self.other.0.clone());
        for rest in ["up/hello", "up/audit", "up/request", "state"] {
            let topic = self.topic(&format!("dev/{own}/{rest}"));
            let verdict = asking.publish(&topic, rest.as_bytes()).await;
            self.note("device", format!("publish {topic}"), Expected::Allowed, &verdict);
            let arrived = listener.until(rest.as_bytes()).await;
            let delivered = arrived.and_then(|mut arrived| arrived.pop()).is_some_and(|last| last.topic == topic);
            self.note_delivery("service", &format!("receive {topic}"), Expected::Allowed, delivered);
        }
        let denied = [
            self.topic("bundle/hardtack-check"),
            self.topic("policy/hardtack-check"),
            self.topic(&format!("feed/{own}/head")),
            self.topic(&format!("feed/{own}/emergency/0000000000000000")),
            self.topic(&format!("dev/{own}/down/ack")),
            self.topic(&format!("dev/{other}/up/hello")),
            self.topic(&format!("dev/{other}/up/audit")),
            self.topic(&format!("dev/{other}/state")),
            self.topic(&format!("dev/{other}/down/ack")),
            self.topic(&format!("enrol/{own}/down")),
            "hardtack-check".to_owned(),
            CONTROL_TOPIC.to_owned(),
        ];
        for topic in denied {
            let verdict = asking.publish(&topic, b"{\"commands\":[]}").await;
            self.note("device", format!("publish {topic}"), Expected::Denied, &verdict);
        }
    }

    /// What others say on topics of their own must not arrive, what is for all must. A marker that the service sends last
    /// closes each count: the broker delivers in order.
    async fn ask_about_deliveries(&mut self, asking: &mut Probe, other: &mut Probe, listener: &mut Probe) {
        let (own, others) = (self.asking.0.clone(), self.other.0.clone());
        let foreign = self.topic(&format!("dev/{others}/up/hello"));
        let verdict = other.publish(&foreign, b"foreign").await;
        self.note("other device", format!("publish {foreign}"), Expected::Allowed, &verdict);
        let theirs = self.topic(&format!("dev/{others}/down/ack"));
        let (feed, others_feed) = (self.topic(&format!("feed/{own}/head")), self.topic(&format!("feed/{others}/head")));
        let marker = self.topic(&format!("dev/{own}/down/ack"));
        for topic in [&theirs, &others_feed, &feed, &marker] {
            let verdict = listener.publish(topic, topic.as_bytes()).await;
            self.note("service", format!("publish {topic}"), Expected::Allowed, &verdict);
        }
        let arrived = asking.until(marker.as_bytes()).await.unwrap_or_default();
        let has = |arrived: &[Arrived], topic: &str| arrived.iter().any(|message| message.topic == topic);
        for (topic, expected) in [
            (&marker, Expected::Allowed),
            (&feed, Expected::Allowed),
            (&others_feed, Expected::Denied),
            (&foreign, Expected::Denied),
            (&theirs, Expected::Denied),
        ] {
            self.note_delivery("device", &format!("receive {topic}"), expected, has(&arrived, topic));
        }
        let heard = listener.until(b"foreign").await.is_some();
        self.note_delivery("service", &format!("receive {foreign}"), Expected::Allowed, heard);
    }

    /// Whoever has an emergency key brings his own statements, sees them and the trust bundles, and does nothing else. The feed
    /// is one that no device has.
    async fn ask_as_emergency(&mut self, asking: &mut Probe, listener: &mut Probe) {
        const ROLE: &str = "emergency key";
        let mut holder = match self.connect_emergency().await {
            Ok(holder) => holder,
            Err(reason) => {
                return self.note(ROLE, "connect with its certificate", Expected::Allowed, &Verdict::Refused(reason))
            }
        };
        self.note(ROLE, "connect with its certificate", Expected::Allowed, &Verdict::Accepted);
        let (device, key, other) = (self.asking.0.clone(), self.emergency.0, self.other_key);
        let own = self.topic(&format!("feed/{device}/emergency/{key}"));
        for filter in [own.clone(), self.topic(&format!("feed/+/emergency/{key}")), self.topic("bundle/+")] {
            let verdict = holder.subscribe(&filter).await;
            self.note(ROLE, format!("subscribe {filter}"), Expected::Allowed, &verdict);
        }
        let denied = [
            "#".to_owned(),
            self.topic("#"),
            self.topic("feed/#"),
            self.topic(&format!("feed/{device}/head")),
            self.topic("feed/+/emergency/+"),
            self.topic(&format!("feed/{device}/emergency/{other}")),
            self.topic("policy/+"),
            self.topic("dev/+/up/+"),
            self.topic(&format!("dev/{device}/up/audit")),
            self.topic(&format!("dev/{device}/down/ack")),
            self.topic("dev/+/state"),
            self.topic("enrol/+/up"),
            format!("$share/thief/{}", self.topic("dev/+/up/audit")),
            CONTROL_RESPONSE_TOPIC.to_owned(),
        ];
        for filter in denied {
            let verdict = holder.subscribe(&filter).await;
            self.note(ROLE, format!("subscribe {filter}"), Expected::Denied, &verdict);
        }
        let denied = [
            self.topic("bundle/hardtack-check"),
            self.topic("policy/hardtack-check"),
            self.topic(&format!("feed/{device}/head")),
            self.topic(&format!("feed/{device}/rules")),
            self.topic(&format!("feed/{device}/emergency/{other}")),
            self.topic(&format!("feed/{device}/snap/rules/0")),
            self.topic(&format!("dev/{device}/up/audit")),
            self.topic(&format!("dev/{device}/state")),
            self.topic(&format!("dev/{device}/down/ack")),
            self.topic(&format!("enrol/{device}/down")),
            CONTROL_TOPIC.to_owned(),
        ];
        for topic in denied {
            let verdict = holder.publish(&topic, b"{\"commands\":[]}").await;
            self.note(ROLE, format!("publish {topic}"), Expected::Denied, &verdict);
        }
        let verdict = holder.publish(&own, b"statement").await;
        self.note(ROLE, format!("publish {own}"), Expected::Allowed, &verdict);
        for (role, probe) in [(ROLE, &mut holder), ("service", listener), ("device", asking)] {
            let arrived = probe.until(b"statement").await.and_then(|mut arrived| arrived.pop());
            let delivered = arrived.is_some_and(|last| last.topic == own);
            self.note_delivery(role, &format!("receive {own}"), Expected::Allowed, delivered);
        }
        holder.leave().await;
        if self.service_url != *self.url {
            let name = emergency_name(key);
            let urls = vec![self.service_url.clone()];
            let config = LinkConfig { urls, ..self.config(&name, Some(&self.emergency.1)) };
            let verdict = match Probe::connect(&config, self.now, None).await {
                Ok(_) => Verdict::Accepted,
                Err(reason) => Verdict::Refused(reason),
            };
            self.note(ROLE, "connect where the service does", Expected::Denied, &verdict);
        }
    }

    /// A last will is a message too.
    async fn ask_about_wills(&mut self, asking: Probe, listener: &mut Probe) {
        asking.leave().await;
        let topic = self.topic(&format!("dev/{}/state", self.other.0));
        let config = self.config(self.asking.0.as_str(), Some(&self.asking.1));
        if let Ok(probe) = Probe::connect(&config, self.now, Some((&topic, b"forged will"))).await {
            probe.drop_dead();
        }
        // The same without a foreign topic shows when the broker has dealt with the first.
        let own = self.topic(&format!("dev/{}/state", self.asking.0));
        match Probe::connect(&config, self.now, Some((&own, b"own will"))).await {
            Ok(probe) => probe.drop_dead(),
            Err(reason) => return self.note("device", "leave a will", Expected::Allowed, &Verdict::Refused(reason)),
        }
        let arrived = listener.until(b"own will").await;
        self.note_delivery("device", &format!("leave a will on {own}"), Expected::Allowed, arrived.is_some());
        let forged = arrived.unwrap_or_default().iter().any(|message| message.payload == b"forged will");
        self.note_delivery("device", &format!("leave a will on {topic}"), Expected::Denied, forged);
    }

    /// A device that was dismissed keeps its certificate and has no rights.
    async fn ask_as_dismissed(&mut self) {
        let Ok(mut probe) = self.connect(&self.asking).await else { return };
        let topic = self.topic(&format!("dev/{}/up/hello", self.asking.0));
        let verdict = probe.publish(&topic, b"after the end").await;
        self.note("retired device", format!("publish {topic}"), Expected::Denied, &verdict);
        let filter = self.topic("bundle/+");
        let verdict = probe.subscribe(&filter).await;
        self.note("retired device", format!("subscribe {filter}"), Expected::Denied, &verdict);
        let Ok(mut probe) = self.connect_emergency().await else { return };
        let topic = self.topic(&format!("feed/{}/emergency/{}", self.asking.0, self.emergency.0));
        let verdict = probe.publish(&topic, b"after the end").await;
        self.note("removed key", format!("publish {topic}"), Expected::Denied, &verdict);
    }
}

fn settle(verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Accepted => Ok(()),
        Verdict::Refused(reason) => Err(reason),
    }
}
