//! Who listens where, and who votes: the settings about that depend on one another, so they are resolved together, and
//! what contradicts itself is refused here.

use super::source::ConfigError;
use logmill_state::settings::{BrokerSettings, Endpoint, Listener, SecurityProtocol, Voter};
use std::collections::BTreeSet;

/// The protocols that connections can be served with.
const SUPPORTED_PROTOCOLS: &[SecurityProtocol] = &[SecurityProtocol::Plaintext];

/// A listener with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundListener {
    /// Its name, in capitals.
    pub name: String,
    /// The address to bind; an empty host means every address.
    pub bind: Endpoint,
    /// What clients are told to connect to; port 0 stands for the port that the machine chose.
    pub advertised: Endpoint,
    /// How its connections are protected.
    pub protocol: SecurityProtocol,
    /// Whether it belongs to the controllers.
    pub is_controller: bool,
}

/// Who listens where, and who votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// All listeners of this node, in the order in which they were given.
    pub listeners: Vec<BoundListener>,
    /// The name of the listener on which brokers reach each other; `None` without the broker role.
    pub inter_broker_listener: Option<String>,
    /// The name of this node's controller listener; `None` without the controller role, and for a quorum of one
    /// that has no such listener: nobody needs to reach it.
    pub controller_listener: Option<String>,
    /// The voters. Without any configured, this node alone; its address then means nothing.
    pub voters: Vec<Voter>,
    /// What an operator should know although it is not wrong.
    pub notices: Vec<String>,
}

/// What the resolution looks at, and what it has found so far.
struct Resolver<'a> {
    settings: &'a BrokerSettings,
    host_name: &'a str,
    errors: Vec<ConfigError>,
    notices: Vec<String>,
}

impl Topology {
    /// Resolves the settings; `host_name` stands in for an empty host where clients must be given one.
    ///
    /// # Errors
    /// All contradictions that were found.
    pub fn resolve(settings: &BrokerSettings, host_name: &str) -> Result<Self, Vec<ConfigError>> {
        let mut resolver = Resolver { settings, host_name, errors: Vec::new(), notices: Vec::new() };
        resolver.check_ports();
        resolver.check_advertised_names();
        let listeners = resolver.listeners();
        resolver.check_roles(&listeners);
        let inter_broker_listener = resolver.inter_broker_listener(&listeners);
        let voters = resolver.voters(&listeners);
        resolver.note_loopback(&listeners, &voters);
        if !resolver.errors.is_empty() {
            return Err(resolver.errors);
        }
        let controller_listener = listeners
            .iter()
            .find(|listener| listener.is_controller && settings.node.roles.controller)
            .map(|listener| listener.name.clone());
        Ok(Self { listeners, inter_broker_listener, controller_listener, voters, notices: resolver.notices })
    }

    /// The listener of a name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&BoundListener> {
        self.listeners.iter().find(|listener| listener.name == name)
    }
}

impl Resolver<'_> {
    fn refuse(&mut self, cause: impl Into<String>, remedy: impl Into<String>) {
        self.errors.push(ConfigError::general(cause, remedy));
    }

    fn is_controller_name(&self, name: &str) -> bool {
        self.settings.node.controller_listener_names.iter().any(|other| other.eq_ignore_ascii_case(name))
    }

    fn check_ports(&mut self) {
        let listeners = &self.settings.node.listeners;
        let admin = self.settings.resources.admin_listener.as_ref();
        let named = listeners.iter().map(|listener| (listener.name.as_str(), &listener.endpoint));
        let all: Vec<_> = named.chain(admin.map(|endpoint| ("logmill.admin.listener", endpoint))).collect();
        let mut clashes = Vec::new();
        for (index, (name, endpoint)) in all.iter().enumerate() {
            for (other_name, other) in &all[..index] {
                let hosts_meet =
                    endpoint.is_unspecified() || other.is_unspecified() || endpoint.host == other.host;
                if endpoint.port != 0 && endpoint.port == other.port && hosts_meet {
                    clashes.push(format!("{other_name} and {name} both listen on port {}", endpoint.port));
                }
            }
        }
        for clash in clashes {
            self.refuse(clash, "give each of them a port of its own");
        }
    }

    fn check_advertised_names(&mut self) {
        let node = &self.settings.node;
        for advertised in &node.advertised_listeners {
            let name = &advertised.name;
            if !node.listeners.iter().any(|listener| listener.name == *name) {
                self.refuse(
                    format!("advertised.listeners names {name}, which is not among the listeners"),
                    format!("add {name}://:{} to listeners, or drop it", advertised.endpoint.port),
                );
            }
            if self.is_controller_name(name) && !node.roles.controller {
                self.refuse(
                    format!(
                        "advertised.listeners names {name}, a listener of controllers, on a node that is none"
                    ),
                    format!("drop {name}, or add controller to process.roles"),
                );
            }
            if advertised.endpoint.is_unspecified() {
                self.refuse(
                    format!("advertised.listeners gives clients {advertised}, to which nobody can connect"),
                    format!(
                        "name a host that clients reach: {name}://{}:{}",
                        self.host_name, advertised.endpoint.port
                    ),
                );
            }
        }
    }

    fn listeners(&mut self) -> Vec<BoundListener> {
        let listeners = &self.settings.node.listeners;
        if listeners.is_empty() {
            self.refuse("listeners is empty", "leave it out for PLAINTEXT://127.0.0.1:9092");
        }
        listeners
            .iter()
            .map(|listener| {
                let is_controller = self.is_controller_name(&listener.name);
                let protocol = self.protocol(listener, is_controller);
                let advertised = self.advertised(listener, is_controller);
                BoundListener {
                    name: listener.name.clone(),
                    bind: listener.endpoint.clone(),
                    advertised,
                    protocol,
                    is_controller,
                }
            })
            .collect()
    }

    fn protocol(&mut self, listener: &Listener, is_controller: bool) -> SecurityProtocol {
        let map = &self.settings.node.protocol_map;
        let mapped =
            map.iter().find(|entry| entry.listener == listener.name).map(|entry| entry.protocol).or_else(
                // As Kafka does where the map says nothing of the controllers' listener.
                || is_controller.then_some(SecurityProtocol::Plaintext),
            );
        let Some(protocol) = mapped else {
            let name = &listener.name;
            self.refuse(
                format!("listener.security.protocol.map has no protocol for listener {name}"),
                format!("add {name}:PLAINTEXT to listener.security.protocol.map"),
            );
            return SecurityProtocol::Plaintext;
        };
        if !SUPPORTED_PROTOCOLS.contains(&protocol) {
            self.refuse(
                format!("listener {} asks for {protocol}, which this version does not serve", listener.name),
                "use PLAINTEXT on a network that only trusted machines reach",
            );
        }
        protocol
    }

    fn advertised(&mut self, listener: &Listener, is_controller: bool) -> Endpoint {
        let explicit = &self.settings.node.advertised_listeners;
        if let Some(advertised) = explicit.iter().find(|advertised| advertised.name == listener.name) {
            return advertised.endpoint.clone();
        }
        let mut endpoint = listener.endpoint.clone();
        if endpoint.host.is_empty() {
            self.host_name.clone_into(&mut endpoint.host);
            if !is_controller {
                self.notices.push(format!(
                    "{listener} is advertised as {endpoint}, this machine's name; set advertised.listeners if \
                     clients know it by another"
                ));
            }
        } else if endpoint.is_unspecified() && !is_controller {
            self.refuse(
                format!(
                    "{listener} would be advertised as it is, and nobody can connect to {}",
                    endpoint.host
                ),
                format!(
                    "set advertised.listeners={}://{}:{} with a host that clients reach",
                    listener.name, self.host_name, endpoint.port
                ),
            );
        }
        endpoint
    }

    fn check_roles(&mut self, listeners: &[BoundListener]) {
        let roles = self.settings.node.roles;
        let count = |is_controller| {
            listeners.iter().filter(|listener| listener.is_controller == is_controller).count()
        };
        if roles.broker && count(false) == 0 && !listeners.is_empty() {
            self.refuse(
                "a broker needs a listener besides those of the controllers",
                "add PLAINTEXT://127.0.0.1:9092 to listeners",
            );
        }
        if !roles.broker && count(false) > 0 {
            self.refuse(
                "a node that is only a controller can listen only on listeners of the controllers",
                "name its listeners in controller.listener.names, or add broker to process.roles",
            );
        }
        if !roles.controller && count(true) > 0 {
            self.refuse(
                "a node that is no controller listens on a listener of the controllers",
                "drop it from listeners, or add controller to process.roles",
            );
        }
    }

    fn inter_broker_listener(&mut self, listeners: &[BoundListener]) -> Option<String> {
        if !self.settings.node.roles.broker {
            return None;
        }
        let for_brokers = || listeners.iter().filter(|listener| !listener.is_controller);
        match &self.settings.node.inter_broker_listener_name {
            Some(name) => {
                let found = for_brokers().find(|listener| listener.name.eq_ignore_ascii_case(name));
                if found.is_none() {
                    let known: Vec<&str> = for_brokers().map(|listener| listener.name.as_str()).collect();
                    self.refuse(
                        format!("inter.broker.listener.name is {name}, which is not a listener for brokers"),
                        format!("use one of {}", known.join(", ")),
                    );
                }
                found.map(|listener| listener.name.clone())
            }
            None => for_brokers()
                .find(|listener| listener.name == "PLAINTEXT")
                .or_else(|| for_brokers().next())
                .map(|listener| listener.name.clone()),
        }
    }

    fn voters(&mut self, listeners: &[BoundListener]) -> Vec<Voter> {
        let node = &self.settings.node;
        let own_listener = listeners.iter().find(|listener| listener.is_controller);
        let own_endpoint = own_listener.or(listeners.first()).map(|listener| listener.advertised.clone());
        if node.quorum_voters.is_empty() {
            return match own_endpoint {
                Some(endpoint) if self.is_quorum_of_one(own_listener) => {
                    vec![Voter { id: node.node_id, endpoint }]
                }
                _ => {
                    self.refuse(
                        "nothing says which nodes vote on the cluster's metadata",
                        "set controller.quorum.voters=ID@HOST:PORT,… to the same list on every node",
                    );
                    Vec::new()
                }
            };
        }
        let is_voter = node.quorum_voters.iter().any(|voter| voter.id == node.node_id);
        if node.roles.controller && !is_voter {
            self.refuse(
                format!("node {} is a controller, but not among controller.quorum.voters", node.node_id),
                "add it to the voters on every node, or correct node.id, or drop controller from process.roles",
            );
        }
        if !node.roles.controller && is_voter {
            self.refuse(
                format!("node {} is among controller.quorum.voters, but no controller", node.node_id),
                "add controller to process.roles, or drop it from the voters, or correct node.id",
            );
        }
        for voter in &node.quorum_voters {
            if voter.endpoint.port == 0 || voter.endpoint.is_unspecified() {
                self.refuse(
                    format!("controller.quorum.voters names {voter}, to which nobody can connect"),
                    "give every voter the host and port of its controller listener",
                );
            }
        }
        if node.roles.controller && node.quorum_voters.len() > 1 && own_listener.is_none() {
            let name = node.controller_listener_names.first().map_or("CONTROLLER", String::as_str);
            self.refuse(
                "this node votes with others, but has no listener on which they reach it",
                format!("add {name}://:9093 to listeners, and {name} to controller.listener.names"),
            );
        }
        node.quorum_voters.clone()
    }

    /// Without a list of voters: whether this node's own controller is the only address to start from.
    fn is_quorum_of_one(&self, own_listener: Option<&BoundListener>) -> bool {
        let node = &self.settings.node;
        node.roles.controller
            && match node.quorum_bootstrap_servers.as_slice() {
                [] => true,
                [one] => own_listener.is_some_and(|own| {
                    one.port == own.bind.port
                        && (one.is_loopback()
                            || one.host == own.advertised.host
                            || one.host == own.bind.host
                            || one.host.eq_ignore_ascii_case(self.host_name))
                }),
                _ => false,
            }
    }

    fn note_loopback(&mut self, listeners: &[BoundListener], voters: &[Voter]) {
        let hosts: BTreeSet<&str> = voters.iter().map(|voter| voter.endpoint.host.as_str()).collect();
        let is_spread = voters.iter().any(|voter| !voter.endpoint.is_loopback()) && hosts.len() > 1;
        for listener in listeners.iter().filter(|listener| !listener.is_controller) {
            let (bind, advertised) = (&listener.bind, &listener.advertised);
            if is_spread && advertised.is_loopback() {
                self.notices.push(format!(
                    "the voters are on several hosts, but {} is advertised as {advertised}, which only this machine \
                     reaches; set advertised.listeners",
                    listener.name
                ));
            } else if bind.is_unspecified() && advertised.is_loopback() {
                self.notices.push(format!(
                    "{} is bound to every address, but advertised as {advertised}: clients on other machines will \
                     not reach it",
                    listener.name
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)]) -> Result<Topology, Vec<ConfigError>> {
        let values = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Topology::resolve(&BrokerSettings::from_values(values).expect("valid values"), "mill")
    }

    fn refused(pairs: &[(&str, &str)]) -> String {
        let errors = resolve(pairs).expect_err("must be refused");
        errors.into_iter().map(|error| error.cause).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn nothing_given_is_a_quorum_of_one() {
        let topology = resolve(&[]).expect("complete");
        assert_eq!(topology.inter_broker_listener.as_deref(), Some("PLAINTEXT"));
        assert_eq!(topology.controller_listener, None);
        assert_eq!(topology.voters.len(), 1);
        assert_eq!(topology.notices, Vec::<String>::new());
    }

    #[test]
    fn every_address_needs_a_name_for_clients() {
        let topology = resolve(&[("listeners", "PLAINTEXT://:9092")]).expect("the host's name is taken");
        assert_eq!(topology.listener("PLAINTEXT").expect("there").advertised.to_string(), "mill:9092");
        assert!(topology.notices[0].contains("advertised as mill:9092"));
        let cause = refused(&[("listeners", "PLAINTEXT://0.0.0.0:9092")]);
        assert!(cause.contains("nobody can connect to 0.0.0.0"), "{cause}");
        let cause = refused(&[("advertised.listeners", "PLAINTEXT://0.0.0.0:9092")]);
        assert!(cause.contains("to which nobody can connect"), "{cause}");
        let topology = resolve(&[
            ("listeners", "PLAINTEXT://0.0.0.0:9092"),
            ("advertised.listeners", "PLAINTEXT://localhost:9092"),
        ]);
        assert!(topology.expect("works on this machine").notices[0].contains("other machines"));
    }

    #[test]
    fn names_must_match() {
        assert!(refused(&[("advertised.listeners", "OUTSIDE://a:1")]).contains("not among the listeners"));
        assert!(refused(&[("inter.broker.listener.name", "INSIDE")]).contains("not a listener for brokers"));
        assert!(
            refused(&[("listeners", "INSIDE://localhost:1")]).contains("no protocol for listener INSIDE")
        );
        let mapped =
            [("listeners", "INSIDE://localhost:1"), ("listener.security.protocol.map", "INSIDE:PLAINTEXT")];
        assert_eq!(resolve(&mapped).expect("mapped").inter_broker_listener.as_deref(), Some("INSIDE"));
        assert!(refused(&[("listeners", "SSL://localhost:1")]).contains("does not serve"));
    }

    #[test]
    fn ports_are_used_once() {
        let cause = refused(&[("listeners", "PLAINTEXT://localhost:9092,CONTROLLER://:9092")]);
        assert!(cause.contains("PLAINTEXT and CONTROLLER both listen on port 9092"), "{cause}");
        assert!(refused(&[("listeners", "PLAINTEXT://:9644")]).contains("logmill.admin.listener"));
        resolve(&[("listeners", "PLAINTEXT://localhost:0,CONTROLLER://localhost:0")])
            .expect("chosen by the machine");
    }

    #[test]
    fn roles_and_voters_agree() {
        let voters = ("controller.quorum.voters", "1@a:9093,2@b:9093");
        let both = ("listeners", "PLAINTEXT://c:9092,CONTROLLER://:9093");
        assert!(refused(&[voters, both, ("node.id", "3")]).contains("node 3 is a controller, but not among"));
        assert!(refused(&[voters, ("process.roles", "broker")]).contains("but no controller"));
        assert!(refused(&[voters]).contains("no listener on which they reach it"));
        assert!(refused(&[("process.roles", "broker")]).contains("which nodes vote"));
        assert!(refused(&[("process.roles", "controller")]).contains("only a controller"));
        assert!(refused(&[("controller.quorum.voters", "1@0.0.0.0:0")]).contains("nobody can connect"));
        let broker =
            [voters, ("process.roles", "broker"), ("node.id", "3"), ("listeners", "PLAINTEXT://c:9092")];
        let topology = resolve(&broker).expect("a broker beside the voters");
        assert_eq!((topology.voters.len(), topology.controller_listener), (2, None));
        let controller = [voters, ("process.roles", "controller"), ("listeners", "CONTROLLER://:9093")];
        let topology = resolve(&controller).expect("a controller alone");
        assert_eq!(topology.controller_listener.as_deref(), Some("CONTROLLER"));
        assert_eq!(topology.inter_broker_listener, None);
    }

    #[test]
    fn bootstrap_servers_may_be_this_node() {
        let both = ("listeners", "PLAINTEXT://localhost:9092,CONTROLLER://:9093");
        let topology = resolve(&[both, ("controller.quorum.bootstrap.servers", "localhost:9093")]);
        assert_eq!(topology.expect("itself").voters[0].endpoint.port, 9093);
        assert!(
            refused(&[both, ("controller.quorum.bootstrap.servers", "other:9093")])
                .contains("which nodes vote")
        );
    }

    #[test]
    fn several_hosts_need_addresses_that_cross() {
        let topology = resolve(&[
            ("controller.quorum.voters", "1@10.0.0.1:9093,2@10.0.0.2:9093"),
            ("listeners", "PLAINTEXT://127.0.0.1:9092,CONTROLLER://:9093"),
        ])
        .expect("allowed");
        assert!(topology.notices[0].contains("which only this machine reaches"), "{:?}", topology.notices);
    }
}
