//! Waiting for a change of the metadata.

use super::call::Refusal;
use super::services::Services;
use crate::cluster::command::MetadataError;
use crate::runtime::{Runtime, oneshot};
use crate::shard::deadline::within;
use logmill_wire::error_codes::ErrorCode;
use std::time::Duration;

/// The least time that a change gets, in milliseconds.
const TIMEOUT_MIN_MS: u64 = 1_000;

/// What became of a change, for which a request gives `timeout_ms`.
///
/// # Errors
/// Kafka's error and its text.
pub(super) async fn outcome<R: Runtime, T>(
    services: &Services<R>,
    timeout_ms: i32,
    receiver: oneshot::Receiver<Result<T, MetadataError>>,
) -> Result<T, Refusal> {
    let timeout_ms = u64::try_from(timeout_ms).unwrap_or(0).max(TIMEOUT_MIN_MS);
    let timed_out = |message: &str| Err(Refusal::new(ErrorCode::RequestTimedOut, message));
    match within(&services.runtime, Duration::from_millis(timeout_ms), receiver).await {
        Some(Ok(Ok(value))) => Ok(value),
        Some(Ok(Err(error))) => Err(Refusal::new(error.error_code(), error.to_string())),
        Some(Err(oneshot::Closed)) => timed_out("The broker is stopping."),
        None => timed_out("The change was not made in time; it may be made nevertheless."),
    }
}
