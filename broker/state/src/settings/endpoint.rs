//! Addresses as settings write them: listeners, endpoints, voters of the quorum, and the security protocol of
//! each listener.

use super::declaration::list_items;
use logmill_wire::ids::NodeId;
use std::fmt;

/// What is wrong with a text, and what would be right.
type Refusal = (String, String);

/// A host and a port; the host may be empty, which means "every address" where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// A name or address, without the brackets of an IPv6 address.
    pub host: String,
    /// The port; 0 lets the machine choose where a socket is bound.
    pub port: u16,
}

impl Endpoint {
    /// Parses `host:port`, `[v6]:port` or `:port`.
    ///
    /// # Errors
    /// There is no port, it is not a number up to 65535, or an IPv6 address has no brackets.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let remedy = "write host:port, or [address]:port for IPv6";
        let refuse = |problem: String| (problem, remedy.to_owned());
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(refuse(format!("{text} has no port")));
        };
        let port = port.parse().map_err(|_| refuse(format!("{port} is not a port")))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => match inner.strip_suffix(']') {
                Some(address) => address,
                None => return Err(refuse(format!("the bracket of {host} does not close"))),
            },
            None if host.contains(':') => {
                return Err(refuse(format!("{host} is an IPv6 address without brackets")));
            }
            None => host,
        };
        if host.contains(|character: char| character.is_whitespace() || character == '/') {
            return Err(refuse(format!("{host} is not a host")));
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Parses endpoints separated by commas.
    ///
    /// # Errors
    /// As [`Endpoint::parse`], for the first that is wrong.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        list_items(text).map(Self::parse).collect()
    }

    /// Whether this means every address of the machine, which nobody can connect to.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host.is_empty()
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
    }

    /// Whether this names the machine itself, for processes on the same machine only.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A named endpoint (KIP-103).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The name, in capitals.
    pub name: String,
    /// Where it is bound or, for an advertised listener, where clients find it.
    pub endpoint: Endpoint,
}

impl Listener {
    /// Parses `NAME://host:port`, separated by commas.
    ///
    /// # Errors
    /// A listener has no name or no valid endpoint, or a name is there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        let mut listeners: Vec<Self> = Vec::new();
        for item in list_items(text) {
            let named = item.split_once("://").filter(|(name, _)| is_listener_name(name));
            let Some((name, endpoint)) = named else {
                return Err((
                    format!("{item} is not a listener"),
                    "write NAME://host:port, for example PLAINTEXT://127.0.0.1:9092".into(),
                ));
            };
            let name = name.to_ascii_uppercase();
            if listeners.iter().any(|listener| listener.name == name) {
                return Err((
                    format!("Each listener must have a different name; {name} is there twice"),
                    "give each listener a name of its own, and map it in listener.security.protocol.map"
                        .into(),
                ));
            }
            listeners.push(Self { name, endpoint: Endpoint::parse(endpoint)? });
        }
        Ok(listeners)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.endpoint)
    }
}

fn is_listener_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character))
}

/// How a listener protects its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecurityProtocol {
    /// Neither encryption nor authentication.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without encryption.
    SaslPlaintext,
    /// SASL within TLS.
    SaslSsl,
}

impl SecurityProtocol {
    /// Parses Kafka's name of a protocol, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl]
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(text))
    }

    /// Kafka's name of the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of `listener.security.protocol.map`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerProtocol {
    /// The listener's name, in capitals.
    pub listener: String,
    /// Its protocol.
    pub protocol: SecurityProtocol,
}

impl ListenerProtocol {
    /// Parses `NAME:PROTOCOL`, separated by commas.
    ///
    /// # Errors
    /// An entry is not of this form, its protocol is unknown, or a name is there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        let mut entries: Vec<Self> = Vec::new();
        for item in list_items(text) {
            let remedy = || "write NAME:PROTOCOL with PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL".to_owned();
            let Some((listener, protocol)) = item.split_once(':').filter(|(name, _)| is_listener_name(name))
            else {
                return Err((format!("{item} does not map a listener"), remedy()));
            };
            let Some(protocol) = SecurityProtocol::parse(protocol.trim()) else {
                return Err((format!("{protocol} is not a security protocol"), remedy()));
            };
            let listener = listener.to_ascii_uppercase();
            if entries.iter().any(|entry| entry.listener == listener) {
                return Err((format!("{listener} is mapped twice"), "map each listener once".into()));
            }
            entries.push(Self { listener, protocol });
        }
        Ok(entries)
    }
}

/// One voter of the metadata quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// The node.
    pub id: NodeId,
    /// Where its controller listener is found.
    pub endpoint: Endpoint,
}

impl Voter {
    /// Parses `id@host:port`, separated by commas.
    ///
    /// # Errors
    /// A voter is not of this form, its id is negative or there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        let mut voters: Vec<Self> = Vec::new();
        for item in list_items(text) {
            let remedy = || "write id@host:port for every voter, for example 1@10.0.0.1:9093".to_owned();
            let Some((id, endpoint)) = item.split_once('@') else {
                return Err((format!("{item} is not a voter"), remedy()));
            };
            let id = match id.parse::<i32>() {
                Ok(id) if id >= 0 => NodeId(id),
                _ => return Err((format!("{id} is not a node id"), remedy())),
            };
            if voters.iter().any(|voter| voter.id == id) {
                return Err((format!("node {id} is there twice"), "name each voter once".into()));
            }
            voters.push(Self { id, endpoint: Endpoint::parse(endpoint)? });
        }
        Ok(voters)
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_round_trip() {
        for text in ["localhost:9092", ":9092", "[::1]:9092", "0.0.0.0:0"] {
            assert_eq!(Endpoint::parse(text).expect("valid").to_string(), text);
        }
        for text in
            ["localhost", "localhost:port", "localhost:70000", "::1:9092", "[::1:9092", "a b:1", "a/b:1", ""]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        assert!(Endpoint::parse(":1").expect("valid").is_unspecified());
        assert!(Endpoint::parse("[::]:1").expect("valid").is_unspecified());
        assert!(!Endpoint::parse("127.0.0.1:1").expect("valid").is_unspecified());
        assert!(Endpoint::parse("127.0.0.1:1").expect("valid").is_loopback());
    }

    #[test]
    fn listeners_have_names_of_their_own() {
        let listeners = Listener::parse_list("plaintext://:9092, CONTROLLER://[::1]:9093").expect("valid");
        assert_eq!(listeners[0].name, "PLAINTEXT");
        assert_eq!(listeners[1].to_string(), "CONTROLLER://[::1]:9093");
        assert!(Listener::parse_list("A://:1,A://:2").expect_err("twice").0.contains("A is there twice"));
        for text in ["localhost:9092", "://:1", "A:/:1", "A b://:1"] {
            assert!(Listener::parse_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn voters_and_protocols() {
        let voters = Voter::parse_list("1@a:9093,2@b:9093").expect("valid");
        assert_eq!(voters[1].id, NodeId(2));
        for text in ["a:9093", "-1@a:1", "1@a:1,1@b:1", "x@a:1", "1@a"] {
            assert!(Voter::parse_list(text).is_err(), "{text}");
        }
        let map = ListenerProtocol::parse_list("INSIDE:sasl_ssl, OUTSIDE:SSL").expect("valid");
        assert_eq!(map[0].protocol, SecurityProtocol::SaslSsl);
        for text in ["INSIDE", "INSIDE:TLS", "A:SSL,A:SSL"] {
            assert!(ListenerProtocol::parse_list(text).is_err(), "{text}");
        }
    }
}
