//! The command line. `logmill` alone is `logmill serve`.
//!
//! Exit status: 0 when all went well, 1 for a failure, 2 when the command line is wrong. Errors go to standard error as
//! `error: cause` and `remedy: what to do`.

mod cluster;
mod connect;
mod consume;
mod group;
mod produce;
mod record_output;
mod show_config;
mod table;
mod timestamp;
mod topic;

use crate::config::{CONFIG_FILE, Config, ConfigError, Sources};
use clap::{Args, Parser, Subcommand, ValueEnum};
use cluster::ClusterCommand;
use connect::Connect;
use consume::Consume;
use group::GroupCommand;
use produce::Produce;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use topic::TopicCommand;

/// A wrong command line.
const USAGE_STATUS: u8 = 2;

/// A Kafka-compatible event-streaming broker
#[derive(Parser, Debug)]
#[command(name = "logmill", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    configuration: Configuration,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node (what `logmill` does alone)
    Serve(Configuration),
    /// Show every setting, its value and where it comes from
    Config {
        #[command(flatten)]
        configuration: Configuration,
        #[command(flatten)]
        output: Output,
    },
    /// Make this node, which must not run, the only controller, when most of them are gone for good
    ForceQuorum {
        #[command(flatten)]
        configuration: Configuration,
        /// Metadata, and with them records, that only the lost controllers knew of may be lost
        #[arg(long)]
        accept_loss: bool,
    },
    /// Create, list, describe and delete topics
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Topic {
        #[command(flatten)]
        connect: Connect,
        #[command(subcommand)]
        command: TopicCommand,
    },
    /// Send the lines of standard input to a topic
    Produce(Produce),
    /// Write the records of a topic to standard output
    Consume(Consume),
    /// List, describe and delete consumer groups
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Group {
        #[command(flatten)]
        connect: Connect,
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Drain brokers, and take them back
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Cluster {
        #[command(flatten)]
        connect: Connect,
        #[command(subcommand)]
        command: ClusterCommand,
    },
}

/// How a command shows what it found.
#[derive(Args, Clone, Copy, Debug)]
struct Output {
    /// Whom the output is for
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
}

/// Whom an output is for.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// People
    Text,
    /// Programs
    Json,
}

#[derive(Args, Clone, Debug, Default)]
struct Configuration {
    /// The configuration file: TOML, or Kafka's server.properties
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting by its Kafka name; beats the environment (LOGMILL_...) and the file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Configuration {
    fn load(self, environment: Vec<(String, String)>) -> Result<Config, Vec<ConfigError>> {
        let from_environment = environment.iter().find(|(name, _)| name == CONFIG_FILE);
        let file = self.config.or_else(|| from_environment.map(|(_, path)| PathBuf::from(path)));
        Config::load(&Sources { file, flags: self.set, environment })
    }
}

/// Why a command failed, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl Failure {
    /// A failure with its remedy.
    #[must_use]
    pub fn new(cause: impl Display, remedy: impl Into<String>) -> Self {
        Self { cause: cause.to_string(), remedy: remedy.into() }
    }
}

/// Reads the process's command line and does what it says; `serve` runs a node until it is told to stop.
pub fn run(serve: impl FnOnce(Config) -> Result<(), Failure>) -> ExitCode {
    // Not `args` and `vars`, which panic on text that is not UTF-8.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let arguments = std::env::args_os();
    let status = run_with(arguments, environment, serve, &mut std::io::stdout(), &mut std::io::stderr());
    ExitCode::from(status)
}

fn run_with(
    arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    environment: Vec<(String, String)>,
    serve: impl FnOnce(Config) -> Result<(), Failure>,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        // Help and version arrive here as well; they are no errors and go to standard output.
        Err(message) if message.use_stderr() => {
            // What cannot be told because nobody listens need not be.
            let _ = write!(errors, "{}", message.render());
            return USAGE_STATUS;
        }
        Err(message) => {
            let _ = write!(output, "{}", message.render());
            return 0;
        }
    };
    let outcome = match arguments.command.unwrap_or(Command::Serve(arguments.configuration)) {
        Command::Serve(configuration) => match configuration.load(environment) {
            Ok(config) => serve(config).map_err(|failure| vec![failure]),
            Err(wrong) => return report_all(&wrong, errors),
        },
        Command::Config { configuration, output: Output { format } } => {
            match configuration.load(environment) {
                Ok(config) => show_config::write(&config, format == Format::Json, output)
                    .map_err(|error| vec![error.into()]),
                Err(wrong) => return report_all(&wrong, errors),
            }
        }
        Command::ForceQuorum { configuration, accept_loss } => match configuration.load(environment) {
            Ok(config) => force_quorum(config, accept_loss, output).map_err(|failure| vec![failure]),
            Err(wrong) => return report_all(&wrong, errors),
        },
        Command::Topic { connect, command } => topic::run(&command, &connect, output),
        Command::Consume(consume) => consume::run(&consume, output, errors),
        Command::Group { connect, command } => group::run(&command, &connect, output),
        Command::Cluster { connect, command } => cluster::run(&command, &connect, output),
        Command::Produce(produce) => produce::run(&produce, errors),
    };
    match outcome {
        Ok(()) => 0,
        Err(failures) => {
            for failure in failures {
                report(&failure.cause, &failure.remedy, errors);
            }
            1
        }
    }
}

fn force_quorum(config: Config, accept_loss: bool, output: &mut dyn Write) -> Result<(), Failure> {
    if !accept_loss {
        return Err(Failure::new(
            "what only the lost controllers knew is lost: topics, settings, changes of leaders and of in-sync sets, and \
             records that were acknowledged by replicas which this node takes for others",
            "bring back a majority of the controllers with their log directories if there is any way; otherwise stop all \
             nodes, and repeat this with --accept-loss on the controller that ran last",
        ));
    }
    let done = crate::node::force_quorum(config).map_err(|error| Failure::new(error.cause, error.remedy))?;
    // What cannot be told because nobody listens need not be.
    let _ = output.write_all(done.as_bytes());
    Ok(())
}

fn report_all(wrong: &[ConfigError], errors: &mut dyn Write) -> u8 {
    for error in wrong {
        report(&error.cause, &error.remedy, errors);
    }
    if wrong.iter().any(|error| error.is_usage) { USAGE_STATUS } else { 1 }
}

fn report(cause: &str, remedy: &str, errors: &mut dyn Write) {
    // Where even this cannot be written, the exit status has to say it.
    let _ = writeln!(errors, "error: {cause}\nremedy: {remedy}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    struct Outcome {
        status: u8,
        output: String,
        errors: String,
        served: Option<Config>,
    }

    fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let (mut output, mut errors, mut served) = (Vec::new(), Vec::new(), None);
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let status = run_with(
            std::iter::once(&"logmill").chain(arguments),
            environment.collect(),
            |config| {
                served = Some(config);
                Ok(())
            },
            &mut output,
            &mut errors,
        );
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Outcome { status, output: text(output), errors: text(errors), served }
    }

    #[test]
    fn the_declaration_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn alone_it_serves() {
        for arguments in [&["--set", "num.partitions=3"][..], &["serve", "--set", "num.partitions=3"]] {
            let outcome = run(arguments, &[]);
            assert_eq!((outcome.status, outcome.errors.as_str()), (0, ""));
            assert_eq!(outcome.served.expect("served").settings.cluster.num_partitions, 3);
        }
        assert!(run(&[], &[]).served.is_some());
    }

    #[test]
    fn wrong_usage_is_2_and_a_wrong_file_1() {
        let outcome = run(&["--set", "num.partition=3"], &[]);
        assert_eq!(outcome.status, 2);
        assert!(outcome.served.is_none());
        assert_eq!(
            outcome.errors,
            "error: --set: num.partition is not a setting\nremedy: did you mean num.partitions?\n"
        );
        assert_eq!(run(&["--nonsense"], &[]).status, 2);
        assert_eq!(run(&["--config", "/nowhere/at.all"], &[]).status, 1);
        assert_eq!(run(&[], &[("LOGMILL_CONFIG", "/nowhere/at.all")]).status, 1);
    }

    #[test]
    fn a_failure_is_1_with_its_remedy() {
        let mut errors = Vec::new();
        let fail = |_| Err(Failure::new("port 9092 is taken", "stop the other process"));
        let status = run_with(["logmill"], Vec::new(), fail, &mut Vec::new(), &mut errors);
        assert_eq!(status, 1);
        assert_eq!(errors, b"error: port 9092 is taken\nremedy: stop the other process\n");
    }

    #[test]
    fn help_and_version_are_output() {
        let version = run(&["--version"], &[]);
        assert_eq!((version.status, version.output), (0, format!("logmill {}\n", env!("CARGO_PKG_VERSION"))));
        let help = run(&["--help"], &[]);
        assert_eq!(help.status, 0);
        assert!(help.output.contains("serve") && help.output.contains("--config <FILE>"), "{}", help.output);
    }

    #[test]
    fn a_quorum_is_forced_only_where_there_is_one_and_its_loss_is_accepted() {
        let outcome = run(&["force-quorum", "--set", "log.dirs=/nowhere/at/all"], &[]);
        assert_eq!((outcome.status, outcome.output.as_str()), (1, ""));
        assert!(outcome.errors.contains("--accept-loss"), "{}", outcome.errors);
        let outcome = run(&["force-quorum", "--accept-loss", "--set", "log.dirs=/nowhere/at/all"], &[]);
        assert_eq!(outcome.status, 1);
        assert!(outcome.errors.contains("there is no metadata quorum"), "{}", outcome.errors);
        assert!(!std::path::Path::new("/nowhere").exists(), "nothing was made");
    }

    #[test]
    fn config_shows_values_and_origins() {
        let outcome = run(&["config", "--set", "num.partitions=3"], &[("LOGMILL_SHARDS", "2")]);
        assert_eq!(outcome.status, 0);
        let line = |name: &str| {
            outcome.output.lines().find(|line| line.starts_with(name)).expect("there").to_owned()
        };
        assert!(line("num.partitions ").ends_with("3  # --set"), "{}", line("num.partitions "));
        assert!(line("logmill.shards ").ends_with("2  # LOGMILL_SHARDS"));
        assert!(line("node.id ").ends_with("1  # default"));
        let outcome = run(&["config", "--format", "json", "--set", "num.partitions=3"], &[]);
        let json: serde_json::Value = serde_json::from_str(&outcome.output).expect("JSON");
        assert_eq!(json["settings"]["num.partitions"]["value"], "3");
        assert_eq!(json["settings"]["num.partitions"]["origin"], "--set");
        assert_eq!(json["settings"]["logmill.shards"]["value"], serde_json::Value::Null);
    }
}
