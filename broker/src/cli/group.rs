//! `logmill group`: groups are listed, described and deleted.

use super::connect::{Connect, write_json};
use super::table::Table;
use super::{Failure, Format};
use crate::client::{Cluster, DescribedGroup, DescribedMember, Failure as ClientFailure, LATEST};
use clap::Subcommand;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

#[derive(Subcommand, Clone, Debug)]
pub(super) enum GroupCommand {
    /// List all groups
    List,
    /// Describe groups: their members, and how far behind they are in each partition
    Describe {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Delete groups without members, and the offsets that they have committed
    Delete {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

/// Does what the command line says. All failures are reported, not only the first.
pub(super) fn run(
    command: &GroupCommand,
    connect: &Connect,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut cluster = connect.cluster().map_err(|failure| vec![failure])?;
    let format = connect.output.format;
    match command {
        GroupCommand::List => list(&mut cluster, format, output).map_err(|failure| vec![failure]),
        GroupCommand::Describe { groups } => describe(&mut cluster, groups, format, output),
        GroupCommand::Delete { groups } => delete(&mut cluster, groups, format, output),
    }
}

#[derive(Serialize)]
struct Listed {
    group: String,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    coordinator: i32,
}

#[derive(Serialize)]
struct List {
    groups: Vec<Listed>,
}

fn list(cluster: &mut Cluster, format: Format, output: &mut dyn Write) -> Result<(), Failure> {
    let groups = cluster.groups()?;
    if format == Format::Json {
        let listed = |group: crate::client::ListedGroup| Listed {
            group: group.group,
            kind: group.kind,
            state: group.state,
            coordinator: group.coordinator,
        };
        return Ok(write_json(output, &List { groups: groups.into_iter().map(listed).collect() })?);
    }
    let mut table = Table::new(&["GROUP", "TYPE", "STATE", "COORDINATOR"]);
    for group in groups {
        table.row([group.group, group.kind, group.state, group.coordinator.to_string()]);
    }
    Ok(table.write(output)?)
}

#[derive(Serialize)]
struct Assigned<'a> {
    topic: &'a str,
    partitions: &'a [i32],
}

#[derive(Serialize)]
struct Member<'a> {
    member_id: &'a str,
    instance_id: Option<&'a str>,
    client_id: &'a str,
    host: &'a str,
    assignment: Vec<Assigned<'a>>,
}

impl<'a> Member<'a> {
    fn new(member: &'a DescribedMember) -> Self {
        let assigned =
            |(topic, partitions): &'a (String, Vec<i32>)| Assigned { topic: topic.as_str(), partitions };
        Self {
            member_id: &member.id,
            instance_id: member.instance_id.as_deref(),
            client_id: &member.client_id,
            host: &member.host,
            assignment: member.assigned.iter().map(assigned).collect(),
        }
    }
}

/// How far the group is in a partition; what is not known is `None`.
#[derive(Serialize)]
struct Progress {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    member_id: Option<String>,
}

#[derive(Serialize)]
struct Described<'a> {
    group: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    state: &'a str,
    assignor: &'a str,
    coordinator: i32,
    members: Vec<Member<'a>>,
    partitions: Vec<Progress>,
}

#[derive(Serialize)]
struct Description<'a> {
    groups: Vec<Described<'a>>,
}

fn describe(
    cluster: &mut Cluster,
    groups: &[String],
    format: Format,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut found = Vec::new();
    for group in groups {
        let described = cluster.group(group);
        match described.and_then(|described| Ok((progress(cluster, &described)?, described))) {
            Ok(both) => found.push(both),
            Err(failure) => failures.push(failure.into()),
        }
    }
    let described = found.iter_mut().map(|(partitions, group)| Described {
        group: &group.group,
        kind: group.kind,
        state: &group.state,
        assignor: &group.assignor,
        coordinator: group.coordinator,
        members: group.members.iter().map(Member::new).collect(),
        partitions: std::mem::take(partitions),
    });
    let description = Description { groups: described.collect() };
    let written = match format {
        Format::Json => write_json(output, &description),
        Format::Text => write_description(&description, output),
    };
    failures.extend(written.err().map(Failure::from));
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// All partitions for which the group has committed, or that a member has.
fn progress(cluster: &mut Cluster, group: &DescribedGroup) -> Result<Vec<Progress>, ClientFailure> {
    let committed = cluster.committed(&group.group)?;
    let mut members: BTreeMap<(String, i32), String> = BTreeMap::new();
    for member in &group.members {
        for (topic, partitions) in &member.assigned {
            members
                .extend(partitions.iter().map(|partition| ((topic.clone(), *partition), member.id.clone())));
        }
    }
    let all: BTreeSet<(String, i32)> = committed.keys().chain(members.keys()).cloned().collect();
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &all {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let mut ends: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for (topic, partitions) in by_topic {
        // A topic that was deleted has no ends, but what was committed for it may still be there.
        if let Ok(found) = cluster.offsets(topic, &partitions, LATEST) {
            ends.extend(found.into_iter().map(|(partition, end)| ((topic.to_owned(), partition), end)));
        }
    }
    let partitions = all.into_iter().map(|place| {
        let (committed, end) = (committed.get(&place).copied(), ends.get(&place).copied());
        let lag = end.zip(committed).map(|(end, committed)| (end - committed).max(0));
        let member_id = members.get(&place).cloned();
        let (topic, partition) = place;
        Progress { topic, partition, committed, end, lag, member_id }
    });
    Ok(partitions.collect())
}

fn write_description(description: &Description<'_>, output: &mut dyn Write) -> io::Result<()> {
    for (number, group) in description.groups.iter().enumerate() {
        if number > 0 {
            writeln!(output)?;
        }
        let Described { group: name, kind, state, coordinator, .. } = group;
        let assignor = if group.assignor.is_empty() { "none" } else { group.assignor };
        let state = state.to_lowercase();
        writeln!(output, "group {name} ({kind}, {state}, assignor {assignor}, coordinator {coordinator})")?;
        write_members(&group.members, output)?;
        let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"]);
        let number = |number: Option<i64>| number.map_or("-".to_owned(), |number| number.to_string());
        for progress in &group.partitions {
            table.row([
                progress.topic.clone(),
                progress.partition.to_string(),
                number(progress.committed),
                number(progress.end),
                number(progress.lag),
                progress.member_id.clone().unwrap_or("-".to_owned()),
            ]);
        }
        table.write(output)?;
    }
    Ok(())
}

fn write_members(members: &[Member<'_>], output: &mut dyn Write) -> io::Result<()> {
    if members.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["MEMBER", "CLIENT", "HOST", "INSTANCE", "PARTITIONS"]);
    for member in members {
        let partitions: usize = member.assignment.iter().map(|assigned| assigned.partitions.len()).sum();
        table.row([
            member.member_id.to_owned(),
            member.client_id.to_owned(),
            member.host.to_owned(),
            member.instance_id.unwrap_or("-").to_owned(),
            partitions.to_string(),
        ]);
    }
    table.write(output)
}

#[derive(Serialize)]
struct Deleted<'a> {
    deleted: Vec<&'a str>,
}

fn delete(
    cluster: &mut Cluster,
    groups: &[String],
    format: Format,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut deleted = Vec::new();
    for group in groups {
        match cluster.delete_group(group) {
            Ok(()) => deleted.push(group.as_str()),
            Err(failure) => failures.push(failure.into()),
        }
    }
    let written = match format {
        Format::Json => write_json(output, &Deleted { deleted }),
        Format::Text => deleted.iter().try_for_each(|group| writeln!(output, "deleted group {group}")),
    };
    failures.extend(written.err().map(Failure::from));
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}
