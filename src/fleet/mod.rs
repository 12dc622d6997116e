//! The operator's decisions. Pure: no SQL, no MQTT, no files, no clock, no global randomness.
