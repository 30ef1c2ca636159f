//! A client's half of the agreement on versions: what it asks, what the answer says (KIP-35, KIP-511).

use super::{ApiRequest, DecodeError, Message, api_versions, newest_common_version};
use crate::error_codes::ErrorCode;
use std::collections::BTreeMap;

/// The versions in which the question is put, one after the other: a broker that does not know the first refuses it
/// in the form of the second, which all know.
pub const QUESTION_VERSIONS: [i16; 2] = [3, 0];

/// The versions that a broker has announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnouncedVersions(BTreeMap<i16, (i16, i16)>);

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The versions.
    Versions(AnnouncedVersions),
    /// The broker does not know the version of the question; the next of [`QUESTION_VERSIONS`] is to be tried.
    UnknownQuestion,
    /// The broker refuses, with this error code.
    Refused(i16),
}

/// The question of a client program of this name and version.
#[must_use]
pub fn question<'a>(software_name: &'a str, software_version: &'a str) -> api_versions::Request<'a> {
    api_versions::Request {
        client_software_name: software_name.into(),
        client_software_version: software_version.into(),
        ..Default::default()
    }
}

/// Reads the body of the answer to a question in `version`.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_answer(body: &[u8], version: i16) -> Result<Announcement, DecodeError> {
    let unsupported = ErrorCode::UnsupportedVersion.code();
    // Such a refusal is laid out as in version 0, whatever the question's version was.
    if version > 0 && body.first_chunk() == Some(&unsupported.to_be_bytes()) {
        return Ok(Announcement::UnknownQuestion);
    }
    let response = api_versions::Response::decode_body(body, version)?;
    Ok(if response.error_code == 0 {
        let versions = response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version)));
        Announcement::Versions(AnnouncedVersions(versions.collect()))
    } else {
        Announcement::Refused(response.error_code)
    })
}

impl AnnouncedVersions {
    /// The newest version of an API that both sides speak, at most `limit`; `None` if there is none.
    #[must_use]
    pub fn newest_common<'a, R: ApiRequest<'a>>(&self, limit: i16) -> Option<i16> {
        let &(min, max) = self.0.get(&R::KEY)?;
        newest_common_version::<R>(min..=max.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{fetch, find_coordinator, response_frame};

    fn body(response: &api_versions::Response<'_>, version: i16) -> Vec<u8> {
        // The size and the header, which is that of version 0 in every version of this API.
        response_frame(response, api_versions::KEY, version, 1).unwrap().concat().split_off(8)
    }

    #[test]
    fn both_sides_ranges_count_and_the_callers_limit() {
        let offered = [(find_coordinator::KEY, 2, 99), (fetch::KEY, 90, 99)];
        let api_keys = offered
            .iter()
            .map(|&(api_key, min_version, max_version)| api_versions::ApiVersion {
                api_key,
                min_version,
                max_version,
            })
            .collect::<Vec<_>>()
            .into();
        let response = api_versions::Response { api_keys, ..Default::default() };
        for version in QUESTION_VERSIONS {
            let Ok(Announcement::Versions(versions)) = read_answer(&body(&response, version), version) else {
                panic!("no versions in version {version}");
            };
            let newest = |limit| versions.newest_common::<find_coordinator::Request<'_>>(limit);
            assert_eq!([newest(i16::MAX), newest(3), newest(1)], [Some(6), Some(3), None]);
            assert_eq!(versions.newest_common::<fetch::Request<'_>>(i16::MAX), None);
        }
    }

    #[test]
    fn a_question_that_the_broker_does_not_know_is_put_again() {
        let refusal = |error_code| body(&api_versions::Response { error_code, ..Default::default() }, 0);
        let unsupported = ErrorCode::UnsupportedVersion.code();
        assert_eq!(read_answer(&refusal(unsupported), 3), Ok(Announcement::UnknownQuestion));
        assert_eq!(read_answer(&refusal(unsupported), 0), Ok(Announcement::Refused(unsupported)));
        assert_eq!(read_answer(&refusal(58), 0), Ok(Announcement::Refused(58)));
        assert!(read_answer(&[0], 3).is_err());
    }
}
