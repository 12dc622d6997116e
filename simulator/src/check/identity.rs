//! Who initiated a task: no document counts that has ended, that does not count yet, or that nobody signed whom the gateway
//! believes; and no task outlives its own.
//!
//! Owns: what a begin with a document must not come to, and what it must.
//! Never: reads a document. What is in one is known to whoever made it.
//! Read next: `documents.rs`, which makes them.

use hardtack::ids::DeviceId;
use hardtack::time::{Millis, Timestamp};

use super::authority::{Moment, Quiet};
use super::{Id, Tally};
use crate::clocks::date;
use crate::documents::Brought;
use crate::model::SLACK;

/// Closer to an end than this nobody can say from outside, in milliseconds.
const MARGIN: Millis = Millis::from_secs(20);

/// A document that was brought, and what was known on the gateway then.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) brought: Brought,
    /// The earliest that it could be there.
    pub(crate) least: Timestamp,
    /// Whether the trust bundle on its disk named the key. None where that cannot be read.
    pub(crate) believed: Option<bool>,
}

/// A task was begun with it that lives for so long, in seconds.
pub(crate) fn begun(tally: &mut Tally, moment: &Moment, name: &DeviceId, shown: &Shown, expires_in_s: u64) {
    let Shown { brought, least, believed } = shown;
    let (issued, ends, slack) = (brought.issued, brought.ends, Millis(SLACK));
    let lives = *least + Millis::from_secs(expires_in_s);
    let how = if let Some(wrong) = brought.wrong {
        Some(wrong.to_owned())
    } else if *believed == Some(false) {
        Some(format!("its key {} was withdrawn", brought.kid))
    } else if ends + slack < *least {
        Some(format!("it ended {ends}, and it was {least} at the least"))
    } else if issued > moment.know.most + slack + slack {
        Some(format!("it counts from {issued} on, and it was {} at the most", moment.know.most))
    } else {
        (lives > ends + slack).then(|| format!("it ends {ends}, and the task {lives}"))
    };
    let broken = how.map(|how| format!("{name} began a task with an identity document: {how}"));
    tally.tried(Id::Identity, moment.at, broken);
}

/// A begin was refused for its document, as this says.
pub(crate) fn refused(
    tally: &mut Tally,
    moment: &Moment,
    name: &DeviceId,
    (shown, still_believed): (Option<&Shown>, Option<bool>),
    problem: &str,
) {
    let broken = match shown {
        None => Some(format!("{name} refused an identity document that nobody brought: {problem}")),
        Some(Shown { brought, least, believed }) => {
            let in_time = brought.ends > moment.latest() + MARGIN && brought.issued + Millis(SLACK) <= *least;
            let known =
                *believed == Some(true) && still_believed == Some(true) && moment.know.misled <= date(moment.at);
            let good = brought.wrong.is_none() && in_time && known && moment.quiet == Quiet::Yes;
            good.then(|| format!("{name} refused a good identity document: {problem}"))
        }
    };
    tally.tried(Id::Identity, moment.at, broken);
}
