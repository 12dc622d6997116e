//! Programs on a real gateway: they ask over its agent's socket what the plan says, with the credentials that the model chose.
//!
//! Owns: the requests, and what their answers are in a word.
//! Never: judges an answer.
//! Read next: `play.rs`, which runs them beside everything else.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use hardtack::agent::request::Reason;
use hardtack::shell::client::Client;
use hardtack::wire::link::Right;
use hardtack::wire::token::{from_text, Held};
use serde_json::{json, Value};

use super::compare::Heard;
use super::play::{Begun, Decided, Stage};
use super::site::{Shared, Thief};
use crate::event::Event;
use crate::script::{Did, Line, Script, Shown};

/// Longest token that a program keeps.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The programs of one gateway.
pub(crate) struct Programs<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) script: &'a Script,
    pub(crate) device: u32,
    pub(crate) client: Client,
    pub(crate) shared: Arc<Shared>,
    pub(crate) thief: Thief,
}

impl Programs<'_> {
    /// One request after the other.
    pub(crate) fn ask_all(&mut self, requests: &[(u64, usize)]) {
        for (due, act) in requests {
            if !self.stage.wait_until(*due) {
                return;
            }
            if let Some(Line { did, .. }) = self.script.lines.get(act) {
                self.ask(*due, *act, did);
            }
        }
    }

    fn ask(&mut self, due: u64, act: usize, did: &Did) {
        let (sent, applied) = (self.stage.now(), self.shared.applied.load(Ordering::Acquire));
        // Where nothing runs, nobody asks.
        let answer = match self.question(did) {
            Some((route, body)) if !self.shared.asleep.load(Ordering::Acquire) => ask(&self.client, &route, body),
            Some(_) | None => None,
        };
        let done = self.stage.now();
        let said = answer.as_ref().map(word);
        let mut seen = self.stage.seen();
        seen.heard.push(Heard { act, said: said.clone(), due, sent, done });
        let Some(body) = answer else { return };
        let begun_by = match did {
            Did::Authorize { token: Shown::Begun(begun), .. } => Some(*begun),
            Did::Authorize { token: Shown::Made(_) | Shown::Carried, .. }
            | Did::Begin { .. }
            | Did::Finish { .. }
            | Did::Revoke { .. }
            | Did::Status => None,
        };
        let device = self.device;
        let of = begun_by.and_then(|act| Some((act, seen.begun.get(&act)?)));
        let revoked = of.is_some_and(|(act, of)| seen.revoked.iter().any(|revoked| revoked.covers(&seen, of, act)));
        let event = event_of(device, said.unwrap_or_default(), &body, revoked);
        seen.events.push((done, event));
        match did {
            Did::Authorize { .. } => {
                seen.decided.push(Decided { act, device, begun: begun_by, sent, applied, body });
            }
            Did::Begin { .. } => seen.begun.extend(begun(device, &body).map(|begun| (act, begun))),
            Did::Finish { .. } | Did::Revoke { .. } | Did::Status => {}
        }
    }

    /// The route and the body that ask for it. None where there is nothing to show.
    fn question(&mut self, did: &Did) -> Option<(String, Option<Value>)> {
        let begun = |act: &usize| self.stage.seen().begun.get(act).cloned();
        match did {
            Did::Authorize { token, operation, resource, risk, arguments, .. } => {
                let token = match token {
                    Shown::Begun(act) => begun(act)?.token,
                    Shown::Made(theft) => self.thief.steal(*theft)?,
                    Shown::Carried => return None,
                };
                let mut ask = json!({"token": token, "operation": operation, "resource": resource, "risk": risk});
                if let Some(arguments) = arguments {
                    ask["arguments"] = serde_json::from_str(arguments).ok()?;
                }
                Some(("/v1/authorize".into(), Some(ask)))
            }
            Did::Begin { class, rights, ttl_s, uses, .. } => {
                let right = |right: &Right| json!({"resource": right.resource, "action": right.action});
                let rights: Vec<Value> = rights.iter().map(right).collect();
                let ask = json!({"task": class, "rights": rights, "ttl_s": ttl_s, "uses": uses});
                Some(("/v1/tasks".into(), Some(ask)))
            }
            Did::Finish { begun: act } => Some((format!("/v1/tasks/{}/finish", begun(act)?.task), Some(json!({})))),
            Did::Status => Some(("/v1/status".into(), None)),
            Did::Revoke { .. } => None,
        }
    }
}

/// Asks the agent. None where nobody answers.
fn ask(client: &Client, route: &str, body: Option<Value>) -> Option<Value> {
    let answer = match body {
        Some(body) => client.post(route, body.to_string().into_bytes()),
        None => client.get(route),
    };
    // An agent that was killed over it has said nothing; whether it should have is for the comparison.
    serde_json::from_slice(&answer.ok()?.body).ok()
}

/// An answer in a word, as the model has them.
fn word(body: &Value) -> String {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let finished = || match body["finished"].as_bool()? {
        true => Some("finished".to_owned()),
        false => Some("unfinished".to_owned()),
    };
    let code = || text("code");
    let of_task = || text("origin");
    let decided = if body["decision"].is_string() { text("reason") } else { None };
    decided.or_else(of_task).or_else(finished).or_else(code).unwrap_or_else(|| "answered".into())
}

fn begun(device: u32, body: &Value) -> Option<Begun> {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let token = text("token")?;
    let bytes = from_text(&token, TOKEN_BYTES_MAX).ok()?;
    let chain = Held::from_bytes(&bytes).ok()?.chain();
    Some(Begun { device, task: text("task_id")?, grant: text("grant_id")?, token, chain })
}

fn event_of(device: u32, said: String, body: &Value, revoked: bool) -> Event {
    let (era, index) = (body["audit"]["era"].as_u64(), body["audit"]["index"].as_u64());
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == said);
    match (reason, era, index) {
        (Some(reason), Some(era), Some(index)) => {
            let allow = reason == Reason::Allowed;
            Event::Decided { device, allow, reason: reason.name(), revoked, era, index }
        }
        (Some(_) | None, _, _) => Event::Replied { device, what: said },
    }
}
