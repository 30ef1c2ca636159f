//! From a setting's text to the type that the broker works with, and the macro that declares both at once.

use super::declaration::{list_items, parse_boolean};
use super::endpoint::{Endpoint, Listener, ListenerProtocol, Voter};
use logmill_wire::ids::NodeId;
use std::path::PathBuf;

/// A type that a checked text turns into.
pub(super) trait Typed: Sized {
    /// The value of `text`, where no text is Kafka's null; `None` if the type has no such value, which the
    /// declaration's bounds must rule out.
    fn typed(text: Option<&str>) -> Option<Self>;
}

macro_rules! typed_by_parsing {
    ($($type:ty),+) => {
        $(impl Typed for $type {
            fn typed(text: Option<&str>) -> Option<Self> {
                text?.trim().parse().ok()
            }
        })+
    };
}
typed_by_parsing!(i16, u16, i32, u32, i64, u64, usize, f64, PathBuf);

impl Typed for String {
    fn typed(text: Option<&str>) -> Option<Self> {
        text.map(str::to_owned)
    }
}

impl Typed for bool {
    fn typed(text: Option<&str>) -> Option<Self> {
        parse_boolean(text?)
    }
}

impl Typed for NodeId {
    fn typed(text: Option<&str>) -> Option<Self> {
        i32::typed(text).map(Self)
    }
}

/// No text, an empty text and a negative number all mean "none", as -1 means "unlimited" in Kafka.
impl Typed for Option<u64> {
    fn typed(text: Option<&str>) -> Option<Self> {
        match text.map(str::trim) {
            None | Some("") => Some(None),
            Some(text) => Some(u64::try_from(text.parse::<i64>().ok()?).ok()),
        }
    }
}

impl Typed for Option<usize> {
    fn typed(text: Option<&str>) -> Option<Self> {
        Option::<u64>::typed(text)?.map_or(Some(None), |number| usize::try_from(number).ok().map(Some))
    }
}

/// An empty text means "none".
impl Typed for Option<String> {
    fn typed(text: Option<&str>) -> Option<Self> {
        Some(text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned))
    }
}

impl Typed for Option<Endpoint> {
    fn typed(text: Option<&str>) -> Option<Self> {
        Some(Endpoint::parse_list(text.unwrap_or_default()).ok()?.into_iter().next())
    }
}

macro_rules! typed_lists {
    ($($type:ty => $parse:expr),+ $(,)?) => {
        $(impl Typed for Vec<$type> {
            fn typed(text: Option<&str>) -> Option<Self> {
                $parse(text.unwrap_or_default())
            }
        })+
    };
}
typed_lists! {
    String => |text| Some(list_items(text).map(str::to_owned).collect()),
    PathBuf => |text| Some(list_items(text).map(PathBuf::from).collect()),
    Listener => |text| Listener::parse_list(text).ok(),
    ListenerProtocol => |text| ListenerProtocol::parse_list(text).ok(),
    Voter => |text| Voter::parse_list(text).ok(),
    Endpoint => |text| Endpoint::parse_list(text).ok(),
}

/// Declares a group of settings: the struct that the broker reads and the table that everything else reads.
macro_rules! settings_group {
    (
        $(#[doc = $group_doc:literal])+
        pub struct $group:ident {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $name:literal, $kind:expr, $default:expr, $scope:ident
                    $(, from $synonyms:expr)? $(, inert $why:literal)?;
            )+
        }
    ) => {
        $(#[doc = $group_doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $group {
            $(
                #[doc = concat!("`", $name, "`:")]
                $(#[doc = $doc])+
                $(#[doc = concat!("It changes nothing here: ", $why, ".")])?
                pub $field: $type,
            )+
        }

        impl $group {
            /// The declarations behind the fields.
            pub const DECLARATIONS: &'static [$crate::settings::Setting] = &[
                $($crate::settings::Setting {
                    name: $name,
                    kind: $kind,
                    default: $default,
                    scope: $crate::settings::Scope::$scope,
                    meaning: concat!($($doc),+ $(, " It changes nothing here: ", $why, ".")?),
                    synonyms: settings_group!(@synonyms $($synonyms)?),
                    inert: settings_group!(@inert $($why)?),
                }),+
            ];

            /// Reads every field through `lookup`, which gives the text that counts.
            pub(super) fn read(
                lookup: &dyn Fn(&'static $crate::settings::Setting) -> Option<String>,
            ) -> Result<Self, $crate::settings::SettingError> {
                let mut declarations = Self::DECLARATIONS.iter();
                // Fields are built in the order of their declaration, so the iterator keeps step with them.
                Ok(Self {
                    $($field: $crate::settings::typed::read_next(&mut declarations, lookup)?,)+
                })
            }
        }
    };
    (@synonyms) => { &[] };
    (@synonyms $synonyms:expr) => { $synonyms };
    (@inert) => { None };
    (@inert $why:literal) => { Some($why) };
}
pub(super) use settings_group;

/// Reads the next declared setting as a `T`.
pub(super) fn read_next<T: Typed>(
    declarations: &mut std::slice::Iter<'static, super::Setting>,
    lookup: &dyn Fn(&'static super::Setting) -> Option<String>,
) -> Result<T, super::SettingError> {
    let Some(setting) = declarations.next() else {
        unreachable!("a group has as many declarations as fields")
    };
    let text = lookup(setting);
    if let Some(text) = &text {
        setting.check(text)?;
    }
    T::typed(text.as_deref()).ok_or_else(|| super::SettingError {
        key: setting.name.to_owned(),
        value: text.filter(|_| !setting.is_sensitive()),
        problem: "The value is missing or does not fit".to_owned(),
        remedy: match setting.default {
            Some(default) => format!("leave it out for the default, {default}"),
            None => "give it a value".to_owned(),
        },
    })
}
