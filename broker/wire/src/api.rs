//! Requests and responses, one module per Kafka API, generated at build time from the descriptors in
//! `schema/`.
//!
//! The same structs serve both ends: decoded, they are views of the message; to build a message, take
//! `Default::default()`, which has Kafka's defaults, and set fields. Structs that hold nothing of variable
//! size have no lifetime parameter.
//!
//! ```
//! use logmill_wire::api::{Message, find_coordinator};
//! use logmill_wire::primitives::Writer;
//!
//! let request = find_coordinator::Request { coordinator_keys: vec!["group".into()].into(), ..Default::default() };
//! let mut writer = Writer::new();
//! request.encode(&mut writer, 4)?;
//! let bytes = writer.finish().concat();
//! assert_eq!(find_coordinator::Request::decode_body(&bytes, 4)?, request);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::primitives::{DecodeError, EncodeError, Format, Reader, WireType, Writer};
use bytes::Bytes;
use core::ops::RangeInclusive;

include!(concat!(env!("OUT_DIR"), "/api.rs"));

pub mod announced;
pub mod produce_walk;

/// What the generated modules use.
mod generated_prelude {
    pub(super) use super::{ApiRequest, Message};
    pub(super) use crate::ids::Uuid;
    pub(super) use crate::primitives::{
        Array, DecodeError, EncodeError, Format, Reader, Records, WireType, Writer,
    };
    #[cfg(feature = "samples")]
    pub(super) use crate::samples::{Pattern, Sample};
    pub(super) use std::borrow::Cow;
}

/// One API as its descriptor declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// The key that requests carry.
    pub key: i16,
    /// Kafka's name.
    pub name: &'static str,
    /// The first version that the codec knows.
    pub min_version: i16,
    /// The last version that the codec knows.
    pub max_version: i16,
    /// The first version with compact lengths and tagged fields (KIP-482); `i16::MAX` if there is none.
    pub flexible_from: i16,
}

/// A request, a response or a header.
pub trait Message<'a>: WireType<'a> + Default {
    /// Kafka's name of the message.
    const NAME: &'static str;
    /// The versions that can be decoded and encoded.
    const VERSIONS: RangeInclusive<i16>;
    /// The first version with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE_FROM: i16;

    /// Decodes the message at the reader's position, in one walk and without allocating.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedVersion`] outside [`Message::VERSIONS`]; otherwise what is wrong with the bytes.
    fn decode(reader: &mut Reader<'a>, version: i16) -> Result<Self, DecodeError> {
        let format = format::<Self>(version).ok_or(DecodeError::UnsupportedVersion)?;
        Self::read(reader, format)
    }

    /// Decodes a message that takes up all of `bytes`.
    ///
    /// # Errors
    /// Those of [`Message::decode`], and [`DecodeError::TrailingBytes`].
    fn decode_body(bytes: &'a [u8], version: i16) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let message = Self::decode(&mut reader, version)?;
        reader.finish()?;
        Ok(message)
    }

    /// Encodes the message.
    ///
    /// # Errors
    /// [`EncodeError::UnsupportedVersion`] outside [`Message::VERSIONS`]; [`EncodeError::NotInVersion`] if a field
    /// that matters has a value and the version has no place for it; a null or a length that the version does not
    /// allow. What the writer then holds is incomplete.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        let format = format::<Self>(version).ok_or(EncodeError::UnsupportedVersion)?;
        self.write(writer, format)?;
        writer.check_size()
    }
}

/// A request, with what belongs to it.
pub trait ApiRequest<'a>: Message<'a> {
    /// The API's key.
    const KEY: i16;
    /// What answers it, in the same version.
    type Response<'b>: Message<'b>;
}

/// How a message is laid out in a version; `None` outside [`Message::VERSIONS`].
#[must_use]
pub fn format<'a, M: Message<'a>>(version: i16) -> Option<Format> {
    M::VERSIONS.contains(&version).then_some(Format { version, flexible: version >= M::FLEXIBLE_FROM })
}

/// The API with this key, if it has a descriptor.
#[must_use]
pub fn by_key(key: i16) -> Option<&'static Api> {
    APIS.binary_search_by_key(&key, |api| api.key).ok().map(|index| &APIS[index])
}

/// Versions of the headers around one request and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderVersions {
    /// Of [`request_header::RequestHeader`].
    pub request: i16,
    /// Of [`response_header::ResponseHeader`].
    pub response: i16,
}

/// The versions of the headers for an API's version, which may be one that the codec does not know; `None` for
/// an unknown key.
///
/// A response to ApiVersions always has the header without tagged fields, because its reader does not know yet
/// what the broker speaks (KIP-511).
#[must_use]
pub fn header_versions(key: i16, version: i16) -> Option<HeaderVersions> {
    let flexible = version >= by_key(key)?.flexible_from;
    Some(HeaderVersions {
        request: if flexible { 2 } else { 1 },
        response: i16::from(flexible && key != api_versions::KEY),
    })
}

/// Decodes the header of a request, the size prefix excluded; the reader is left at the body, whose version is
/// the header's `request_api_version` and need not be a supported one.
///
/// # Errors
/// [`DecodeError::UnknownApiKey`]; otherwise what is wrong with the bytes.
pub fn decode_request_header<'a>(
    reader: &mut Reader<'a>,
) -> Result<request_header::RequestHeader<'a>, DecodeError> {
    let mut ahead = reader.clone();
    let key = ahead.i16()?;
    let version = ahead.i16()?;
    let versions = header_versions(key, version).ok_or(DecodeError::UnknownApiKey)?;
    request_header::RequestHeader::decode(reader, versions.request)
}

/// Decodes the header of a response, the size prefix excluded, to a request of this API and version; the reader is
/// left at the body.
///
/// # Errors
/// [`DecodeError::UnknownApiKey`]; otherwise what is wrong with the bytes.
pub fn decode_response_header(
    reader: &mut Reader<'_>,
    key: i16,
    version: i16,
) -> Result<response_header::ResponseHeader, DecodeError> {
    let versions = header_versions(key, version).ok_or(DecodeError::UnknownApiKey)?;
    response_header::ResponseHeader::decode(reader, versions.response)
}

/// The newest version of an API that the codec and a broker that announced `offered` both speak (KIP-35).
#[must_use]
pub fn newest_common_version<'a, R: ApiRequest<'a>>(offered: RangeInclusive<i16>) -> Option<i16> {
    let version = *offered.end().min(R::VERSIONS.end());
    (version >= *offered.start().max(R::VERSIONS.start())).then_some(version)
}

/// A whole request frame: size, header and body.
///
/// # Errors
/// Those of [`Message::encode`].
pub fn request_frame<'a, R: ApiRequest<'a>>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<Vec<Bytes>, EncodeError> {
    let versions = header_versions(R::KEY, version).ok_or(EncodeError::UnsupportedVersion)?;
    let header = request_header::RequestHeader {
        request_api_key: R::KEY,
        request_api_version: version,
        correlation_id,
        client_id: client_id.map(Into::into),
    };
    let mut writer = Writer::framed();
    header.encode(&mut writer, versions.request)?;
    request.encode(&mut writer, version)?;
    Ok(writer.finish())
}

/// A whole response frame: size, header and body. `key` and `version` are those of the request, except that a
/// broker answers an unknown version of ApiVersions in version 0 (KIP-511).
///
/// # Errors
/// Those of [`Message::encode`]; [`EncodeError::UnsupportedVersion`] for an unknown key too.
pub fn response_frame<'a, M: Message<'a>>(
    response: &M,
    key: i16,
    version: i16,
    correlation_id: i32,
) -> Result<Vec<Bytes>, EncodeError> {
    let versions = header_versions(key, version).ok_or(EncodeError::UnsupportedVersion)?;
    let mut writer = Writer::framed();
    response_header::ResponseHeader { correlation_id }.encode(&mut writer, versions.response)?;
    response.encode(&mut writer, version)?;
    Ok(writer.finish())
}

/// The key or value of a record in one of Kafka's internal topics: a number, which is the type of a key and the
/// version of a value, and then the message.
///
/// # Errors
/// Those of [`Message::encode`].
pub fn record_bytes<'a, M: Message<'a>>(
    number: i16,
    message: &M,
    version: i16,
) -> Result<Vec<u8>, EncodeError> {
    let mut writer = Writer::new();
    writer.put_i16(number);
    message.encode(&mut writer, version)?;
    Ok(writer.finish().concat())
}

#[cfg(test)]
mod tests;
