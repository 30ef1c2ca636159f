//! Requests and responses: the first two bytes choose message and version, the rest is its body. What can be
//! decoded can be encoded, and comes back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use logmill_wire::api::{Message, decode_request_header};
use logmill_wire::primitives::{Reader, Writer};

macro_rules! try_message {
    ($module:ident, $message:ident, $name:ident, $chosen:expr, $number:expr, $version:expr, $body:expr) => {
        if $number == $chosen {
            read::<logmill_wire::api::$module::$message>($version, $body, |bytes, version| {
                let again = logmill_wire::api::$module::$message::decode_body(bytes, version);
                format!("{again:?}")
            });
        }
        $number += 1;
    };
}

fn read<'a, M: Message<'a> + std::fmt::Debug>(
    version: u8,
    body: &'a [u8],
    again: impl Fn(&[u8], i16) -> String,
) {
    let version = M::VERSIONS.start().wrapping_add(i16::from(version));
    if let Ok(message) = M::decode_body(body, version) {
        let mut writer = Writer::new();
        message.encode(&mut writer, version).expect("what was decoded can be encoded");
        let bytes = writer.finish().concat();
        assert_eq!(again(&bytes, version), format!("{:?}", Ok::<_, ()>(&message)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_request_header(&mut Reader::new(bytes));
    if let [chosen, version, body @ ..] = bytes {
        let mut number = 0_u8;
        logmill_wire::for_each_message!(try_message, *chosen, number, *version, body);
        let _ = number;
    }
});
