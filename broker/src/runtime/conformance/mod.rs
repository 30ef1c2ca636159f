//! What every backend must do, as checks that each of them runs.
//!
//! [`run_all`] drives a backend through every [`Case`]; a case gets an empty directory of its own and says
//! in words what was broken. The cases know nothing of the backend beyond the [`Runtime`] interface.
//!
//! What the cases take the interface to promise beyond its own text:
//! - An operation may start when it is called or when it is first polled.
//! - Tasks that become runnable together may run in any order; `yield_now` runs behind all of them.
//! - A receive that is dropped under way may swallow bytes that arrive until its cancellation has taken
//!   effect; nothing is lost of what is sent later. So whoever wants to go on with a connection never drops
//!   a receive of it that might have got bytes, and one who drops a send shuts the connection down.
//! - The pages of a write that is dropped under way each hold the old or the new bytes, nothing else.

mod files;
pub mod load;
mod names;
mod network;
mod tasks;

use super::{Runtime, oneshot};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// What a check found: nothing, or what is broken.
pub type Verdict = Result<(), String>;

/// How much work the costly cases do.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Bytes of a transfer that no socket buffers may hold in full.
    pub transfer_bytes: usize,
    /// Operations that are under way at the same time.
    pub operations: usize,
    /// Repetitions of what goes wrong only sometimes.
    pub rounds: usize,
    /// Longer than any operation of the disk takes.
    pub settle: Duration,
    /// How long one case may take on the backend's own clock.
    pub case_time_max: Duration,
}

impl Effort {
    /// For a real machine, whose socket buffers grow to tens of mebibytes.
    pub const FULL: Self = Self {
        transfer_bytes: 96 << 20,
        operations: 1000,
        rounds: 40,
        settle: Duration::from_millis(40),
        case_time_max: Duration::from_secs(60),
    };

    /// For a simulated machine, which runs many seeds and whose time costs nothing.
    pub const QUICK: Self = Self {
        transfer_bytes: 3 << 20,
        operations: 200,
        rounds: 8,
        settle: Duration::from_secs(10),
        case_time_max: Duration::from_secs(600),
    };
}

/// What a case works with.
pub struct Site<R> {
    /// The backend under test.
    pub runtime: R,
    /// An empty directory.
    pub directory: PathBuf,
    /// How much to do.
    pub effort: Effort,
}

/// A case's work, not yet begun.
type Running = Pin<Box<dyn Future<Output = Verdict>>>;

/// One promise of the interface.
pub struct Case<R> {
    /// What is promised; also the name of its directory.
    pub name: &'static str,
    run: fn(Site<R>) -> Running,
}

impl<R: Runtime> Case<R> {
    /// Runs the case in a directory of its own beneath `directory`.
    ///
    /// # Errors
    /// What was broken, in words.
    pub async fn run(&self, runtime: &R, directory: &Path, effort: Effort) -> Verdict {
        let own = directory.join(self.name);
        runtime.create_directory(&own).await.about("make the case's directory")?;
        let site = Site { runtime: runtime.clone(), directory: own.clone(), effort };
        let Some(verdict) = within(runtime, effort.case_time_max, (self.run)(site)).await else {
            return Err(format!("the case was not done after {:?}", effort.case_time_max));
        };
        verdict?;
        runtime.remove_directory(&own).await.about("remove the case's directory")
    }
}

/// Turns async functions into cases of the same names.
macro_rules! cases {
    ($($module:ident: $($name:ident),+ $(,)?;)+) => {
        vec![$($(Case { name: stringify!($name), run: |site| Box::pin($module::$name(site)) },)+)+]
    };
}

/// Every case.
#[must_use]
pub fn cases<R: Runtime>() -> Vec<Case<R>> {
    cases! {
        tasks:
            spawned_tasks_all_run, a_yield_lets_the_others_run, a_busy_task_starves_nobody,
            sleep_takes_at_least_its_time, sleeps_end_in_their_order, a_dropped_sleep_is_forgotten,
            values_pass_between_tasks, a_wake_is_never_lost, offload_gives_back_the_result,
            offload_wakes_from_its_thread, offload_survives_a_panic, a_turn_has_a_budget,
            clocks_and_chance_move;
        network:
            a_port_in_use_is_an_error, a_closed_port_refuses, both_ends_know_each_other,
            receive_appends_within_capacity, a_big_transfer_is_held_back, parts_arrive_in_order,
            both_directions_flow_together, shutdown_ends_both_sides, shutdown_ends_operations_under_way,
            a_dropped_peer_ends_the_stream, an_unadopted_connection_keeps_its_bytes,
            a_dropped_receive_loses_nothing_sent_later, a_dropped_accept_loses_nobody_later,
            a_released_connection_goes_on_elsewhere, many_connections_at_once;
        files:
            what_is_written_is_read, reads_end_with_the_file, length_follows_writes, changes_are_dated,
            set_length_cuts_and_extends, allocate_reads_zeros, durable_writes_and_flushes,
            handles_share_the_file, a_dropped_handle_finishes_its_work, many_operations_at_once,
            a_mapping_is_the_file,
            a_dropped_write_keeps_its_buffer, a_dropped_read_keeps_its_buffer;
        names:
            open_modes_hold, directories_nest, directories_are_listed_in_order, rename_replaces,
            rename_moves_between_directories, removal_removes, an_open_file_outlives_its_name,
            directories_can_be_synced;
    }
}

/// Runs every case, one after the other, beneath `directory`, which must exist and be empty.
pub async fn run_all<R: Runtime>(
    runtime: R,
    directory: &Path,
    effort: Effort,
) -> Vec<(&'static str, Verdict)> {
    let mut verdicts = Vec::new();
    for case in cases::<R>() {
        verdicts.push((case.name, case.run(&runtime, directory, effort).await));
    }
    verdicts
}

/// Ends the case with a text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
use ensure;

/// Says what was being done when an error came.
trait About<T> {
    fn about(self, what: &str) -> Result<T, String>;
}

impl<T> About<T> for io::Result<T> {
    fn about(self, what: &str) -> Result<T, String> {
        self.map_err(|error| format!("cannot {what}: {error}"))
    }
}

impl<T> About<T> for Result<T, oneshot::Closed> {
    fn about(self, what: &str) -> Result<T, String> {
        self.map_err(|_| format!("cannot {what}: the task went away"))
    }
}

/// Runs `future` as a task of its own and gives back its outcome.
fn start<R: Runtime, T: 'static>(
    runtime: &R,
    future: impl Future<Output = T> + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(async move { sender.send(future.await) });
    receiver
}

/// The outcome of `future`, or `None`, and the future dropped, once `duration` has passed.
async fn within<R: Runtime, T>(
    runtime: &R,
    duration: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(runtime.sleep(duration));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        sleep.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// Polls `future` once, so that its operation starts; its outcome if that came at once.
async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
