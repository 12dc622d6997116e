//! What the Model Context Protocol says, and what of it passes by this device's decisions.
//!
//! Owns: JSON that two parsers cannot read in two ways, messages, which question each of them is, what is answered in place
//! of what is refused. Versions 2025-03-26 to 2025-11-25; batches, which only the first has, are refused.
//! Never: reads or writes anything, or decides: it turns messages into questions and rulings into messages.
//! Read next: `message.rs`, `guard.rs`, then `../shell/mcp/mod.rs`, which does what is said here.

pub mod guard;
pub mod json;
pub mod message;
pub mod sse;
