//! Who asks, and whether they may.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The type of a principal that authentication gives.
const USER: &str = "User";

/// Who a connection speaks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Principal {
    /// The kind of principal, `User` unless delegation says otherwise.
    pub principal_type: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Principal {
    /// The user with this name.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self { principal_type: USER.into(), name: name.into() }
    }

    /// Whoever comes over a listener without authentication.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::user("ANONYMOUS")
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.principal_type, self.name)
    }
}

/// Where a request comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestContext {
    /// The name of the listener that took the connection.
    pub listener: Arc<str>,
    /// Who is asking.
    pub principal: Principal,
    /// The connection's number, unique in one run of the broker.
    pub connection_id: u64,
    /// The name that the client gives itself, if any; it proves nothing.
    pub client_id: Option<Arc<str>>,
    /// The client's address.
    pub peer: SocketAddr,
}

/// What is to be done; the number is Kafka's `AclOperation`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Operation {
    /// Read records or offsets.
    Read = 3,
    /// Write records.
    Write = 4,
    /// Create a topic.
    Create = 5,
    /// Delete a topic, records or a group.
    Delete = 6,
    /// Alter a topic, or the access lists.
    Alter = 7,
    /// See that it is there, and what it is like.
    Describe = 8,
    /// What brokers do among one another.
    ClusterAction = 9,
    /// Read configs.
    DescribeConfigs = 10,
    /// Alter configs.
    AlterConfigs = 11,
    /// Write idempotently, without the right to write to every topic.
    IdempotentWrite = 12,
    /// Create delegation tokens.
    CreateTokens = 13,
    /// Describe delegation tokens.
    DescribeTokens = 14,
    /// Take part in two-phase commit (KIP-939).
    TwoPhaseCommit = 15,
}

/// What it is to be done to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource<'a> {
    /// A topic, by name.
    Topic(&'a str),
    /// A group, by id.
    Group(&'a str),
    /// The cluster.
    Cluster,
    /// A transactional producer, by its id.
    TransactionalId(&'a str),
    /// A delegation token, by its id.
    DelegationToken(&'a str),
    /// A user's credentials, by the user's name.
    User(&'a str),
}

impl Resource<'_> {
    /// The operations that mean something for this kind of resource.
    #[must_use]
    pub const fn operations(self) -> &'static [Operation] {
        use Operation::{
            Alter, AlterConfigs, ClusterAction, Create, CreateTokens, Delete, Describe, DescribeConfigs,
            DescribeTokens, IdempotentWrite, Read, TwoPhaseCommit, Write,
        };
        match self {
            Self::Topic(_) => &[Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs],
            Self::Group(_) => &[Read, Delete, Describe, DescribeConfigs, AlterConfigs],
            Self::Cluster => {
                &[Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite]
            }
            Self::TransactionalId(_) => &[Write, Describe, TwoPhaseCommit],
            Self::DelegationToken(_) => &[Describe],
            Self::User(_) => &[CreateTokens, DescribeTokens],
        }
    }
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It may be done.
    Allowed,
    /// It may not.
    Denied,
}

impl Decision {
    /// Whether it may be done.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// What decides who may do what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Authorizer {
    /// Everybody may do everything: the broker has no authorizer (`authorizer.class.name` is empty).
    #[default]
    AllowAll,
}

impl Authorizer {
    /// Whether requests about access lists are answered with SECURITY_DISABLED.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        match self {
            Self::AllowAll => true,
        }
    }

    /// Whether the sender of a request may do something.
    #[must_use]
    pub fn authorize(
        &self,
        _context: &RequestContext,
        operation: Operation,
        resource: Resource<'_>,
    ) -> Decision {
        match self {
            Self::AllowAll => {
                debug_assert!(resource.operations().contains(&operation), "{operation:?} on {resource:?}");
                Decision::Allowed
            }
        }
    }

    /// What the sender of a request may do to a resource, one bit for each operation at its number: the
    /// authorized operations in Metadata, DescribeGroups and DescribeCluster (KIP-430).
    #[must_use]
    pub fn authorized_operations(&self, context: &RequestContext, resource: Resource<'_>) -> i32 {
        let allowed = |&&operation: &&Operation| self.authorize(context, operation, resource).is_allowed();
        resource.operations().iter().filter(allowed).fold(0, |bits, &operation| bits | (1 << operation as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_do_everything() {
        let context = RequestContext {
            listener: "PLAINTEXT".into(),
            principal: Principal::anonymous(),
            connection_id: 1,
            client_id: None,
            peer: SocketAddr::from(([127, 0, 0, 1], 4000)),
        };
        assert_eq!(context.principal.to_string(), "User:ANONYMOUS");
        let authorizer = Authorizer::default();
        assert!(authorizer.is_disabled());
        assert!(authorizer.authorize(&context, Operation::Write, Resource::Topic("t")).is_allowed());
        // What a Kafka broker without an authorizer answers for a topic and for the cluster.
        assert_eq!(authorizer.authorized_operations(&context, Resource::Topic("t")), 3576);
        assert_eq!(authorizer.authorized_operations(&context, Resource::Cluster), 8096);
    }
}
