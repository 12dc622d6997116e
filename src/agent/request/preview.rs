//! What somebody asks who wants to know what is worth asking for, and what he is answered.
//!
//! Owns: the bodies of `POST /v1/preview` with their JSON names.
//! Never: permits anything: who acts has asked `POST /v1/authorize`, and its record is on disk.
//! Read next: `../preview.rs`.

use serde::{Deserialize, Serialize};

use super::{object, Reason};

/// The most questions of one preview.
pub const QUESTIONS_MAX: usize = 32;

/// Body of `POST /v1/preview`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// The token, base64url without padding.
    pub token: String,
    /// What might be asked, 1 to [`QUESTIONS_MAX`].
    #[serde(deserialize_with = "object::each")]
    pub questions: Vec<PreviewQuestion>,
}

/// What might be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewQuestion {
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: String,
}

/// Body of the answer to `POST /v1/preview`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PreviewReply {
    /// In the order of the questions.
    pub answers: Vec<PreviewAnswer>,
}

/// How a question would be decided now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PreviewAnswer {
    /// Whether there are arguments with which it would be allowed, as far as checks tell.
    pub allowed: bool,
    /// Why, from the closed list.
    pub reason: Reason,
}
