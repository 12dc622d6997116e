//! What is asked of a broker's packets, beside what the MQTT client asks of them.
//!
//! Owns: when an answer to a subscription is one, what of a message is handed in, how large a packet may be.
//! Never: does I/O, or keeps anything: a session asks it, and so does the simulator where bytes go over its links.
//! Read next: `session.rs`.

use rumqttc::v5::mqttbytes::v5::Publish;

use crate::mutant::{active, Mutant};

/// How many bytes a packet of the broker's may have, where a configuration allows so many.
pub fn packet_bytes_max(configured: u32) -> u32 {
    if active(Mutant::PacketUnlimited) {
        return u32::MAX;
    }
    configured
}

/// Whether a SUBACK of so many codes is the answer to the oldest subscription that waits for one, of so many filters.
///
/// # Errors
/// Why the connection ends.
pub fn answers(asked: Option<usize>, granted: usize) -> Result<(), &'static str> {
    match asked {
        _ if active(Mutant::AnyGrantTaken) => Ok(()),
        None => Err("the broker granted what nobody asked for"),
        Some(asked) if asked != granted => {
            Err("the broker answered another number of subscriptions than it was asked for")
        }
        Some(_) => Ok(()),
    }
}

/// Topic and payload of a message, for the agent. None where the topic is no text.
///
/// # Errors
/// Why the connection ends.
pub fn handed_in(message: &Publish) -> Result<Option<(String, Vec<u8>)>, &'static str> {
    if message.properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some()) {
        // This side allows none. The client would keep a table of them for as long as the broker likes.
        return Err("the broker uses topic aliases without permission");
    }
    let topic = String::from_utf8(message.topic.to_vec()).ok();
    Ok(topic.map(|topic| (topic, message.payload.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_to_what_was_asked() {
        assert_eq!(answers(Some(2), 2), Ok(()));
        assert!(answers(Some(2), 1).is_err());
        assert!(answers(None, 1).is_err());
    }
}
