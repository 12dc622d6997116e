//! Partitions, reboots, robs and deceives a fleet of hardtack agents until it breaks.
//!
//! The same pure agent and fleet core that ship, in a world of events over a virtual clock. A run is a pure function of
//! the code, the scenario and the seed. The map, in reading order:
//!
//! - [`scenario`] and [`fault`]: what an author writes.
//! - [`plan`]: that and a seed, resolved into single acts.
//! - `world`: the events in order of time; `device`, `network`, `broker`, `operator`, `workload`: who takes part.
//! - `disk`, `recovery`, `clocks`: what a gateway stands on.
//! - `model`: what ought to be; `check`: whether it is.
//! - [`event`], [`trace`], [`report`]: what comes out.

mod broker;
mod clocks;
mod disk;
pub mod event;
pub mod fault;
mod network;
pub mod plan;
mod random;
mod recovery;
pub mod report;
pub mod scenario;
pub mod trace;
