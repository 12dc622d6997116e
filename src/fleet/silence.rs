//! Devices that have said nothing for too long.
//!
//! Owns: how often a device says hello, by the firmware profile that it named when it joined; [`silences`], which of them
//! missed so many.
//! Never: says why. A device without a network is as silent as one that somebody has taken away.
//! Read next: `convergence.rs`, which says when a device was heard last.

use super::book::{Book, Device, Status};
use super::convergence::standing;
use crate::ids::DeviceId;
use crate::profile::{shipped, Kind, Overlay, Profile};
use crate::time::{Millis, Timestamp};

/// The longest pause between two hellos of any profile that ships: what is assumed of a profile that is not known here.
const HELLO_MOST: Millis = Millis::from_secs(3600);

/// A device that is silent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silence {
    /// The device.
    pub device: DeviceId,
    /// Its last sign of life. None: it was never heard of.
    pub heard: Option<Timestamp>,
    /// Since when it is silent: since then, or since it was approved.
    pub since: Timestamp,
    /// How often it was to say hello.
    pub hello: Millis,
}

/// The devices that may have credentials and that were silent for longer than `times` pauses between their hellos.
pub fn silences(book: &Book, at: Timestamp, times: u32) -> Vec<Silence> {
    let approved = book.devices().filter(|device| device.status == Status::Approved);
    let silence = |device: &Device| {
        let heard = standing(book, device, at).heard;
        let (since, hello) = (heard.unwrap_or(device.approved_at), hello_every(&device.profile));
        let silent = at.since(since).0 > hello.0.saturating_mul(times.into());
        silent.then(|| Silence { device: device.id.clone(), heard, since, hello })
    };
    approved.filter_map(silence).collect()
}

/// The pause between two hellos of a device with this profile: a class, or a class and an overlay with a `+` between.
fn hello_every(profile: &str) -> Millis {
    let (class, overlay) = match profile.split_once('+') {
        Some((class, overlay)) => (class, Some(overlay)),
        None => (profile, None),
    };
    let class = shipped(class, Kind::Class).and_then(|found| Profile::parse(found.name, found.text).ok());
    let merged = match overlay {
        None => class,
        Some(overlay) => {
            let overlay = shipped(overlay, Kind::Overlay).and_then(|found| Overlay::parse(found.name, found.text).ok());
            class.zip(overlay).map(|(class, overlay)| class.with(&overlay))
        }
    };
    merged.map_or(HELLO_MOST, |profile| Millis::from_secs(profile.link.hello_s))
}

#[cfg(test)]
mod tests {
    use super::super::hello::receive;
    use super::super::service::tests::{at, device_keys, one_device};
    use super::super::Effects;
    use super::*;
    use crate::profile::SHIPPED;
    use crate::wire::envelope::Signed;

    #[test]
    fn a_device_is_silent_when_it_missed_so_many_hellos() {
        let (_, mut book, hello, _) = one_device();
        // Its profile, "p", is none that ships. It was approved in second 1.
        let never = silences(&book, at(1 + 4 * 3600 + 1), 4);
        let gw: DeviceId = "gw-07".parse().unwrap();
        let expected = |heard, since| Silence { device: gw.clone(), heard, since, hello: HELLO_MOST };
        assert_eq!(never, [expected(None, at(1))]);
        assert_eq!(silences(&book, at(1 + 4 * 3600), 4), []);
        let said = Signed::sign(&hello(1), book.fleet(), &[&device_keys(1).identity]);
        receive(&mut book, &gw, &said.to_bytes(), at(100), &mut Effects::default()).unwrap();
        assert_eq!(silences(&book, at(100 + 3600), 1), []);
        assert_eq!(silences(&book, at(101 + 3600), 1), [expected(Some(at(100)), at(100))]);
        assert_eq!(silences(&book, at(101 + 3600), 2), []);
    }

    #[test]
    fn the_pause_is_that_of_the_profile_and_the_longest_where_it_is_not_known() {
        assert_eq!(hello_every("generic-x86_64"), Millis::from_secs(300));
        assert_eq!(hello_every("generic-x86_64+link-lte-metered"), Millis::from_secs(3600));
        for unknown in ["", "p", "generic-x86_64+p", "link-lte-metered", "p+link-lte-metered"] {
            assert_eq!(hello_every(unknown), HELLO_MOST, "{unknown}");
        }
        let named = |kind| SHIPPED.iter().filter(move |found| found.kind == kind).map(|found| found.name);
        let merged = named(Kind::Class).flat_map(|class| {
            named(Kind::Overlay).map(move |overlay| format!("{class}+{overlay}")).chain([class.to_owned()])
        });
        assert_eq!(merged.map(|name| hello_every(&name)).max(), Some(HELLO_MOST));
    }
}
