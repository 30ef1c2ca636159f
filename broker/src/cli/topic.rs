//! `logmill topic`: topics are created, listed, described and deleted.

use super::connect::{Connect, key_and_value, write_json};
use super::table::Table;
use super::{Failure, Format};
use crate::client::{Cluster, NewTopic, Topic};
use clap::Subcommand;
use serde::Serialize;
use std::io::Write;

#[derive(Subcommand, Clone, Debug)]
pub(super) enum TopicCommand {
    /// Create a topic
    Create {
        /// Its name
        name: String,
        /// How many partitions; the broker's num.partitions otherwise
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// How many replicas of each partition; the broker's default.replication.factor otherwise
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A setting of the topic's own, such as retention.ms=60000; may be repeated
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_and_value)]
        configs: Vec<(String, String)>,
    },
    /// List all topics
    List,
    /// Describe topics and their partitions: all of them if none is named
    Describe {
        /// Their names
        names: Vec<String>,
    },
    /// Delete topics with all their records
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Does what the command line says. All failures are reported, not only the first.
pub(super) fn run(
    command: &TopicCommand,
    connect: &Connect,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut cluster = connect.cluster().map_err(|failure| vec![failure])?;
    let format = connect.output.format;
    let one = |outcome: Result<(), Failure>| outcome.map_err(|failure| vec![failure]);
    match command {
        TopicCommand::Create { name, partitions, replication_factor, configs } => {
            let topic = NewTopic {
                name: name.clone(),
                partitions: *partitions,
                replication_factor: *replication_factor,
                configs: configs.clone(),
            };
            one(create(&mut cluster, &topic, format, output))
        }
        TopicCommand::List => one(list(&mut cluster, format, output)),
        TopicCommand::Describe { names } => describe(&mut cluster, names, format, output),
        TopicCommand::Delete { names } => delete(&mut cluster, names, format, output),
    }
}

#[derive(Serialize)]
struct Created<'a> {
    name: &'a str,
    partitions: Option<i32>,
    replication_factor: Option<i16>,
}

fn create(
    cluster: &mut Cluster,
    topic: &NewTopic,
    format: Format,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    let created = cluster.create_topic(topic)?;
    match (format, created.partitions, created.replication_factor) {
        (Format::Json, partitions, replication_factor) => {
            write_json(output, &Created { name: &topic.name, partitions, replication_factor })?;
        }
        (Format::Text, Some(partitions), Some(replicas)) => {
            let partitions = counted(partitions.into(), "partition");
            let replicas = counted(replicas.into(), "replica");
            writeln!(output, "created topic {} with {partitions}, {replicas} each", topic.name)?;
        }
        (Format::Text, _, _) => writeln!(output, "created topic {}", topic.name)?,
    }
    Ok(())
}

/// "1 partition", "2 partitions".
pub(super) fn counted(count: i64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: String,
    is_internal: bool,
    partitions: usize,
    replication_factor: usize,
}

impl<'a> Listed<'a> {
    fn new(topic: &'a Topic) -> Self {
        Self {
            name: &topic.name,
            id: topic.id.to_string(),
            is_internal: topic.is_internal,
            partitions: topic.partitions.len(),
            replication_factor: topic.partitions.first().map_or(0, |partition| partition.replicas.len()),
        }
    }
}

#[derive(Serialize)]
struct List<'a> {
    topics: Vec<Listed<'a>>,
}

fn list(cluster: &mut Cluster, format: Format, output: &mut dyn Write) -> Result<(), Failure> {
    let mut topics = cluster.topics(None, false)?;
    topics.sort_by(|left, right| left.name.cmp(&right.name));
    if format == Format::Json {
        return Ok(write_json(output, &List { topics: topics.iter().map(Listed::new).collect() })?);
    }
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS", "ID"]);
    for topic in topics.iter().map(Listed::new) {
        let counts = [topic.partitions.to_string(), topic.replication_factor.to_string()];
        table.row([vec![topic.name.to_owned()], counts.to_vec(), vec![topic.id]].concat());
    }
    Ok(table.write(output)?)
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync: Vec<i32>,
    start: i64,
    end: i64,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    id: String,
    is_internal: bool,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct Description<'a> {
    topics: Vec<Described<'a>>,
}

fn describe(
    cluster: &mut Cluster,
    names: &[String],
    format: Format,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut failures = Vec::new();
    let mut topics = Vec::new();
    if names.is_empty() {
        topics = cluster.topics(None, false).map_err(|failure| vec![failure.into()])?;
        topics.sort_by(|left, right| left.name.cmp(&right.name));
    }
    for name in names {
        match cluster.topic(name, false) {
            Ok(topic) => topics.push(topic),
            Err(failure) => failures.push(failure.into()),
        }
    }
    let mut description = Description { topics: Vec::new() };
    for topic in &topics {
        match partitions(cluster, topic) {
            Ok(partitions) => {
                let Topic { name, id, is_internal, .. } = topic;
                let (id, is_internal) = (id.to_string(), *is_internal);
                description.topics.push(Described { name, id, is_internal, partitions });
            }
            Err(failure) => failures.push(failure),
        }
    }
    let written = match format {
        Format::Json => write_json(output, &description),
        Format::Text => write_description(&description, output),
    };
    failures.extend(written.err().map(Failure::from));
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

fn partitions(cluster: &mut Cluster, topic: &Topic) -> Result<Vec<DescribedPartition>, Failure> {
    let bounds = cluster.log_bounds(topic)?;
    let partition = |(partition, (start, end)): (&crate::client::Partition, (i64, i64))| DescribedPartition {
        partition: partition.index,
        leader: partition.leader,
        leader_epoch: partition.leader_epoch.0,
        replicas: partition.replicas.clone(),
        in_sync: partition.in_sync.clone(),
        start,
        end,
    };
    Ok(topic.partitions.iter().zip(bounds).map(partition).collect())
}

fn write_description(description: &Description<'_>, output: &mut dyn Write) -> std::io::Result<()> {
    for (number, topic) in description.topics.iter().enumerate() {
        if number > 0 {
            writeln!(output)?;
        }
        let internal = if topic.is_internal { ", internal" } else { "" };
        writeln!(output, "topic {} (id {}{internal})", topic.name, topic.id)?;
        let mut table = Table::new(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN SYNC", "START", "END"]);
        for partition in &topic.partitions {
            table.row([
                partition.partition.to_string(),
                partition.leader.map_or("-".to_owned(), |leader| leader.to_string()),
                partition.leader_epoch.to_string(),
                joined(&partition.replicas),
                joined(&partition.in_sync),
                partition.start.to_string(),
                partition.end.to_string(),
            ]);
        }
        table.write(output)?;
    }
    Ok(())
}

/// Numbers with commas between them.
pub(super) fn joined(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[derive(Serialize)]
struct Deleted<'a> {
    deleted: Vec<&'a str>,
}

fn delete(
    cluster: &mut Cluster,
    names: &[String],
    format: Format,
    output: &mut dyn Write,
) -> Result<(), Vec<Failure>> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut deleted = Vec::new();
    for name in names {
        match cluster.delete_topic(name) {
            Ok(()) => deleted.push(name.as_str()),
            Err(failure) => failures.push(failure.into()),
        }
    }
    let written = match format {
        Format::Json => write_json(output, &Deleted { deleted }),
        Format::Text => deleted.iter().try_for_each(|name| writeln!(output, "deleted topic {name}")),
    };
    failures.extend(written.err().map(Failure::from));
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}
