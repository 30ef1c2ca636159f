//! Kafka's error codes; they appear only where replies are made.
