//! The whole cluster under simulation: complete nodes, each with its control shard, data shards, disk and clocks, on one
//! simulated network with clients that speak Kafka's protocol, in one thread.
//!
//! Nothing of the broker is replaced: [`nodes`] puts nodes together as a process does and runs their shards on
//! [`logmill::runtime::simulated`]. A run is a seed: [`run`] starts the nodes, lets [`clients`] work while the [`nemesis`]
//! does what the seed draws, heals everything, demands that the cluster goes on, and at last cuts the power of all
//! hosts and looks at what is on their disks. What clients were told stands in the [`history`]; the [`checkers`] hold
//! it, and every image of the metadata, against the promises:
//!
//! | checker | looks | at |
//! |---|---|---|
//! | `AcknowledgedStays` | at the end | all that was acknowledged with acks=all |
//! | `OffsetKeepsValue` | at every answer | what stands at an offset that a consumer, or a producer with acks=all, was told |
//! | `NoDuplicates` | at every answer | records of idempotent producers |
//! | `SequencesHold` | at every answer | errors for an idempotent producer that has made none |
//! | `HighWatermarkStays` | at every answer | the log's end as one client is told it, and the high watermark in one leader epoch |
//! | `CommitsStay` | at every answer of who has acknowledged the last commit, and at the end | offsets that a group has committed |
//! | `GenerationsRise`, `OneOwner` | at every assignment | generations of groups, and who owns what in one |
//! | `GenerationsFence` | at every commit and heartbeat of a member | generations that are over |
//! | `OneLeaderPerEpoch` | at every image of every node, and every answer to Metadata | who leads in an epoch |
//! | `OneHistory` | at every image of every node | the state of a partition in an epoch of its own |
//! | `EpochsRise` | at every image of every node | epochs of partitions |
//! | `OneControllerPerTerm` | at every answer | who leads the metadata quorum |
//! | `InSyncHasAll` | now and then, between faults | what was acknowledged, on the disk of each replica that is in sync or eligible, if its power went |
//! | `NoRotServed` | at every answer | checksums of batches |
//! | `RotIsKept`, `RotIsReported` | between faults, and before the disk is replaced | a log of which one bit has rotted |
//! | `ReplicasAgree` | at the end | bytes below the high watermark on the disks of the replicas in sync |
//! | `Balances` | after a broker was added, drained or taken back, where that is done | how many replicas each holds |
//! | `Starts`, `GoesOn` | at the end | nodes serve; partitions are led and in sync; requests get through |
//! | `Protocol` | at every answer | whether it can be decoded |
//! | `Panics` | always | the broker's own asserts |

pub mod checkers;
pub mod client;
pub mod clients;
mod disks;
mod generations;
pub mod history;
mod large;
mod members;
pub mod nemesis;
pub mod nodes;
mod rot;
mod run;

pub use large::{Figures, Size, run_large};
pub use run::{Outcome, Plan, SETTINGS, run, run_plan};
