//! The proxy between a client of the Model Context Protocol and a server: over stdio, or over HTTP.
//!
//! Owns: asking the agent, in the caller's name; the limits of what passes.
//! Never: decides what passes, which `../../mcp/guard.rs` does; keeps a credential.
//! Read next: `stdio.rs`, `http.rs`.

pub mod http;
pub mod stdio;

use serde_json::{json, Value};

use super::client::{Answer, Client};
use super::http::enforce::is_about_token;
use crate::agent::request::preview::PreviewReply;
use crate::agent::request::{DecisionReply, Reason, Verdict};
use crate::mcp::guard::{Guard, Listing, Question, Ruling};
use crate::mcp::message::Message;

/// How many questions one preview has: with the largest token they fit into the smallest profile's body.
const PREVIEWED_MAX: usize = 24;
/// The most of a list that is looked at. A server that lists more pages it, or shows less.
const LISTED_MAX: usize = 2400;

/// How a credential stands.
enum Alive {
    /// Refused, and why.
    Refused(String),
    /// Nobody could say, and why.
    Unknown(String),
    /// Good for something.
    Yes,
}

/// What both transports need.
#[derive(Debug)]
pub struct Gate {
    /// What passes.
    pub guard: Guard,
    /// The agent.
    pub agent: Client,
    /// The most bytes of a message.
    pub message_bytes_max: usize,
}

impl Gate {
    /// Asks for a decision. Where there is none, nothing is allowed.
    async fn decide(&self, token: &str, question: &Question) -> Ruling {
        let mut body = json!({"token": token, "operation": question.operation, "resource": question.resource});
        if let Some(arguments) = &question.arguments {
            body["arguments"] = Value::Object(arguments.clone());
        }
        match self.ask::<DecisionReply>("/v1/authorize", &body).await {
            Ok(decision) => Ruling {
                allowed: decision.decision == Verdict::Allow,
                reason: decision.reason.name().into(),
                explain: decision.explain,
                decision_id: Some(decision.decision_id),
                expires_in_s: decision.expires_in_s,
            },
            Err(explain) => {
                let (reason, decision_id, expires_in_s) = ("no_decision".into(), None, None);
                Ruling { allowed: false, reason, explain, decision_id, expires_in_s }
            }
        }
    }

    /// The list without what may not be used.
    async fn filter(&self, token: &str, listing: Listing) -> Message {
        let questions = listing.questions();
        if questions.len() > LISTED_MAX {
            let why = format!("the server lists {} things at once, more than {LISTED_MAX}", questions.len());
            return listing.unknown(&why);
        }
        let mut allowed = Vec::with_capacity(questions.len());
        for some in questions.chunks(PREVIEWED_MAX) {
            match self.preview(token, some).await {
                Ok(reply) if reply.answers.len() == some.len() => {
                    allowed.extend(reply.answers.iter().map(|answer| answer.allowed));
                }
                Ok(_) => return listing.unknown("the agent's answer is not understood"),
                Err(why) => return listing.unknown(&why),
            }
        }
        listing.keep(&allowed)
    }

    /// Whether a credential is good for anything, or refused whatever is asked.
    async fn check_alive(&self, token: &str) -> Alive {
        match self.preview(token, &[&self.guard.any()]).await {
            Err(why) => Alive::Unknown(why),
            Ok(reply) => match reply.answers.first() {
                // What has no use left can still hear how its last one went.
                Some(answer) if is_about_token(answer.reason) && answer.reason != Reason::UsesSpent => {
                    Alive::Refused(format!("the credential is refused: {}", answer.reason.name()))
                }
                Some(_) => Alive::Yes,
                None => Alive::Unknown("the agent's answer is not understood".into()),
            },
        }
    }

    async fn preview(&self, token: &str, questions: &[&Question]) -> Result<PreviewReply, String> {
        let questions: Vec<Value> = questions
            .iter()
            .map(|question| json!({"operation": question.operation, "resource": question.resource}))
            .collect();
        self.ask("/v1/preview", &json!({"token": token, "questions": questions})).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, String> {
        let answer = self.agent.send("POST", path, body.to_string().into_bytes()).await;
        let Answer { status, body } = answer.map_err(|error| error.to_string())?;
        if status != 200 {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("no detail");
            return Err(format!("the agent answers with {status}: {detail}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("the agent's answer is not understood: {error}"))
    }
}
