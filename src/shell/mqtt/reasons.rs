//! What a broker says, in words.
//!
//! Owns: the text of every refusal and of every end of a connection, with what to do where something can be done.
//! Never: decides what a refusal costs. `session.rs` does.
//! Read next: `tls.rs`, which explains failed handshakes.

use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{ConnectionError, StateError, TlsError};

use super::tls;

/// Why a subscription was not granted as asked, if it was not.
pub(super) fn refusal(code: SubscribeReasonCode) -> Option<&'static str> {
    match code {
        SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce) => None,
        SubscribeReasonCode::Success(QoS::AtMostOnce) => Some("granted without acknowledgements"),
        SubscribeReasonCode::Failure | SubscribeReasonCode::Unspecified => Some("unspecified error"),
        SubscribeReasonCode::ImplementationSpecific => Some("implementation-specific error"),
        SubscribeReasonCode::NotAuthorized => Some("not authorized"),
        SubscribeReasonCode::TopicFilterInvalid => Some("invalid filter"),
        SubscribeReasonCode::PkidInUse => Some("packet id in use"),
        SubscribeReasonCode::QuotaExceeded => Some("quota exceeded"),
        SubscribeReasonCode::SharedSubscriptionsNotSupported => Some("shared subscriptions are not supported"),
        SubscribeReasonCode::SubscriptionIdNotSupported => Some("subscription ids are not supported"),
        SubscribeReasonCode::WildcardSubscriptionsNotSupported => Some("wildcards are not supported"),
    }
}

/// Why a message was refused, if it was. That nobody subscribes to it yet is no refusal.
pub(super) fn publish_refusal(reason: PubAckReason) -> Option<&'static str> {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        PubAckReason::UnspecifiedError => Some("unspecified error"),
        PubAckReason::ImplementationSpecificError => Some("implementation-specific error"),
        PubAckReason::NotAuthorized => Some("not authorized: the broker's roles do not let this client publish there"),
        PubAckReason::TopicNameInvalid => Some("invalid topic"),
        PubAckReason::PacketIdentifierInUse => Some("packet id in use"),
        PubAckReason::QuotaExceeded => Some("quota exceeded"),
        PubAckReason::PayloadFormatInvalid => Some("invalid payload format"),
    }
}

/// What the end of a connection means.
#[expect(clippy::wildcard_enum_match_arm, reason = "the client's own text serves for what has no better one")]
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(code) => refused_connection(*code),
        ConnectionError::Io(error) | ConnectionError::Tls(TlsError::Io(error)) => describe_io(error),
        ConnectionError::Tls(TlsError::TLS(error)) => tls::explain(error),
        ConnectionError::Timeout(_) => "the broker did not answer in time".into(),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => "another client took over this client id: look for a copy of this device".into(),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let why = reason_string.as_deref().unwrap_or_default();
            format!("the broker ended the connection: {reason_code:?} {why}").trim_end().to_owned()
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => "the broker closed the connection".into(),
        ConnectionError::MqttState(StateError::AwaitPingResp) => "half-open: the broker answered no ping".into(),
        ConnectionError::MqttState(StateError::Io(error)) => describe_io(error),
        ConnectionError::MqttState(StateError::Deserialization(error)) => match error {
            rumqttc::v5::mqttbytes::Error::Io(error) => describe_io(error),
            other => format!("the broker sent no valid MQTT: {other}"),
        },
        other => other.to_string(),
    }
}

fn describe_io(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => tls::explain(error),
        None => error.to_string(),
    }
}

fn refused_connection(code: ConnectReturnCode) -> String {
    match code {
        ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword => {
            format!("the broker refused this client ({code:?}): its certificate or client id has no role there")
        }
        ConnectReturnCode::Success
        | ConnectReturnCode::RefusedProtocolVersion
        | ConnectReturnCode::BadClientId
        | ConnectReturnCode::ServiceUnavailable
        | ConnectReturnCode::UnspecifiedError
        | ConnectReturnCode::MalformedPacket
        | ConnectReturnCode::ProtocolError
        | ConnectReturnCode::ImplementationSpecificError
        | ConnectReturnCode::UnsupportedProtocolVersion
        | ConnectReturnCode::ClientIdentifierNotValid
        | ConnectReturnCode::ServerUnavailable
        | ConnectReturnCode::ServerBusy
        | ConnectReturnCode::Banned
        | ConnectReturnCode::BadAuthenticationMethod
        | ConnectReturnCode::TopicNameInvalid
        | ConnectReturnCode::PacketTooLarge
        | ConnectReturnCode::QuotaExceeded
        | ConnectReturnCode::PayloadFormatInvalid
        | ConnectReturnCode::RetainNotSupported
        | ConnectReturnCode::QoSNotSupported
        | ConnectReturnCode::UseAnotherServer
        | ConnectReturnCode::ServerMoved
        | ConnectReturnCode::ConnectionRateExceeded => format!("the broker refused the connection: {code:?}"),
    }
}
