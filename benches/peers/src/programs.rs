//! The program on a gateway: it begins a task every few hours, and asks for a decision four times an hour.
//!
//! Owns: when it asks what, and how often it was answered.
//! Never: judges an answer.
//! Read next: `party.rs`.

use hardtack::agent::request::{Authorize, BeginTask, Evidence, Reply, Request, RequestId, Socket, Verdict};
use hardtack::agent::Input;
use hardtack::time::Millis;
use hardtack::wire::link::Right;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::party::HONEST;

/// The program's class of task, and what the kernel says who it is.
pub(crate) const CLASS: &str = "pump";
pub(crate) const SELECTOR: &str = "unix:uid:1001";
const UID: u32 = 1001;
/// A task begins this often and lives for three times as long,
const BEGIN_EVERY: u64 = 4 * 3_600_000;
/// and a decision is asked for this often.
const ASK_EVERY: u64 = 15 * 60_000;

/// What the program may do.
pub(crate) fn rights() -> [Right; 2] {
    let right = |resource: &str, action: &str| Right { resource: resource.into(), action: action.into() };
    [right("modbus/pump1/speed", "write"), right("modbus/*", "read")]
}

/// What came out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) decisions: u64,
    pub(crate) allowed: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.decisions += other.decisions;
        self.allowed += other.allowed;
    }
}

/// A program.
pub(crate) struct Program {
    rng: ChaCha8Rng,
    token: Option<String>,
    begins: u64,
    asks: u64,
    requests: u64,
    pub(crate) counts: Counts,
}

impl Program {
    pub(crate) fn new(number: u32) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(2000 + u64::from(number));
        // Within the first minutes, each at its own time.
        let begins = 60_000 + rng.next_u64() % 240_000;
        let asks = 300_000 + rng.next_u64() % ASK_EVERY;
        Self { rng, token: None, begins, asks, requests: 0, counts: Counts::default() }
    }

    /// When it does something next.
    pub(crate) fn due(&self) -> Millis {
        Millis(self.begins.min(self.asks))
    }

    /// What it asks by now.
    pub(crate) fn ask(&mut self, now: Millis) -> Vec<Input> {
        let mut asked = Vec::new();
        if self.begins <= now.0 {
            self.begins += BEGIN_EVERY;
            let begin = BeginTask {
                task: CLASS.parse().expect(HONEST),
                rights: rights().to_vec(),
                ttl_s: 3 * BEGIN_EVERY / 1000,
                uses: Some(1000),
                planner: false,
                reason: None,
                holder: None,
                lease: None,
                identity: None,
                key: None,
            };
            asked.push(self.request(Request::Begin(begin)));
        }
        if self.asks <= now.0 {
            self.asks += ASK_EVERY;
            if let Some(token) = self.token.clone() {
                // One in four asks for what it has no right to.
                let operation = if self.rng.next_u64() % 4 == 0 { "erase" } else { "read" };
                let ask = Authorize {
                    token,
                    operation: operation.into(),
                    resource: "modbus/meter4/value".into(),
                    destination: None,
                    risk: "low".parse().ok(),
                    task: None,
                    step: None,
                    arguments: None,
                };
                asked.push(self.request(Request::Authorize(ask)));
            }
        }
        asked
    }

    fn request(&mut self, request: Request) -> Input {
        self.requests += 1;
        let evidence = Evidence::of(Socket::Agent, UID, UID);
        Input::Request { id: RequestId(self.requests), evidence, request }
    }

    /// What it is answered.
    pub(crate) fn hear(&mut self, reply: Reply) {
        if let Reply::Decision(decision) = reply {
            self.counts.decisions += 1;
            self.counts.allowed += u64::from(decision.decision == Verdict::Allow);
        } else if let Reply::Task(task) = reply {
            self.token = Some(task.token);
        }
    }
}
