//! Journal and log without network and requests, against direct writes of the same bytes: how near durable appends come to
//! what the disk allows. `perf/limits.sh` runs it.
//!
//!     appender FOLDER [APPEND_KIB [DEPTH [MB [ROUNDS]]]]
//!
//! In each round the log gets its turn, then two ways of writing the same bytes into blocks that were allocated as a
//! log's are, as many at once and as durable: each write durable by itself, and writes in rows with one flush behind each
//! row. The faster one is the limit. Files are removed again.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends, as a test would")]

use logmill::journal::Journal;
use logmill::log::{DirectoryHealth, Log, LogSettings, Owner, Store, StoreSettings, recover};
use logmill::runtime::buffer::{Chunk, ChunkView};
use logmill::runtime::uring::{UringRuntime, block_on};
use logmill::runtime::{Durability, File, OpenMode, Runtime};
use logmill::shard::join::{Boxed, join_all};
use logmill::shard::signal::Signal;
use logmill_state::partition::{Leader, PartitionSnapshot};
use logmill_wire::ids::{LeaderEpoch, Offset, PartitionIndex, ShardIndex, TimestampMs, TopicPartition, Uuid};
use logmill_wire::limits::{PAGE_BYTES, SEGMENT_SPACE_MIN_BYTES, SEGMENT_SPACE_STEP_MAX_BYTES};
use logmill_wire::record_batch::{BatchBuilder, BatchHeader};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// As in the broker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEGMENT_BYTES: u64 = 1 << 30;

struct Options {
    folder: PathBuf,
    append_bytes: usize,
    /// Appends, or writes, that are under way at the same time.
    depth: usize,
    bytes: u64,
    rounds: usize,
}

/// What one turn took.
#[derive(Clone, Copy)]
struct Turn {
    megabytes_per_second: f64,
    /// User and system, of this process: in the kernel's ticks.
    cpu_seconds_per_gb: f64,
    /// Bytes that reached the disk for each that was to.
    written_per_byte: f64,
}

/// The partition in the log's eyes.
struct Partition {
    leader: RefCell<Leader>,
    durable: Cell<Offset>,
    progress: Signal,
}

impl Owner for Partition {
    fn on_durable(&self, end: Offset) {
        self.leader.borrow_mut().advance_durable(end);
        self.durable.set(end);
        self.progress.notify_all();
    }

    fn on_start(&self, _: Offset) {}

    fn on_failed(&self) {
        panic!("the log directory failed");
    }

    fn snapshot(&self) -> PartitionSnapshot {
        self.leader.borrow().snapshot()
    }
}

struct Appender {
    runtime: UringRuntime,
    store: Rc<Store<UringRuntime>>,
    log: Rc<Log<UringRuntime>>,
    partition: Rc<Partition>,
    settings: LogSettings,
    batch: Vec<u8>,
    header: BatchHeader,
}

impl Appender {
    async fn open(runtime: &UringRuntime, options: &Options) -> Self {
        let folder = options.folder.join("log");
        runtime.create_directory(&folder).await.unwrap();
        let recovery = recover(runtime, &folder).await.unwrap();
        let store_settings = StoreSettings::default();
        let opened = recovery
            .begin_run(runtime, 1, |_| store_settings.journal_bytes, |_| ShardIndex(0))
            .await
            .unwrap();
        let (journal_id, states) = opened.shards.into_iter().next().unwrap();
        let journal =
            Journal::open_fresh(runtime, &opened.run.journal(ShardIndex(0)), journal_id).await.unwrap();
        let health = Arc::<DirectoryHealth>::default();
        let store = Store::start(runtime.clone(), opened.run, health, store_settings, journal, states);
        let key = TopicPartition { topic_id: Uuid([1; 16]), partition: PartitionIndex(0) };
        let log = Log::fresh(Rc::clone(&store), key, "measured-0".to_owned());
        let mut leader = Leader::starting_at(Offset(0));
        leader.begin_epoch(LeaderEpoch(0)).unwrap();
        let partition = Rc::new(Partition {
            leader: RefCell::new(leader),
            durable: Cell::new(Offset(0)),
            progress: Signal::default(),
        });
        let owner: Rc<dyn Owner> = Rc::<Partition>::clone(&partition);
        log.set_owner(Rc::downgrade(&owner));
        let settings =
            LogSettings { segment_bytes: SEGMENT_BYTES, segment_ms: i64::MAX, write_caching: false };
        let (batch, header) = batch(options.append_bytes);
        Self { runtime: runtime.clone(), store, log, partition, settings, batch, header }
    }

    /// Appends so many bytes, and waits until the last of them is durable.
    async fn append(&self, bytes: u64, depth: usize) {
        let (length, records) = (self.batch.len() as u64, i64::from(self.header.record_count));
        for _ in 0..bytes.div_ceil(length) {
            let next = self.partition.leader.borrow().next_offset();
            while next.0 - self.partition.durable.get().0 >= records * depth as i64 {
                self.partition.progress.wait().await;
            }
            let now = self.runtime.wall_clock();
            if !self.log.can_append(length, now, &self.settings) {
                self.log.prepare(length, next, now, &self.settings).await.unwrap();
            }
            let header = BatchHeader { base_offset: next, leader_epoch: LeaderEpoch(0), ..self.header };
            self.log.append(&header, &self.batch, now, false);
            self.partition.leader.borrow_mut().apply_batch(&header);
        }
        let end = self.partition.leader.borrow().next_offset();
        while self.partition.durable.get() < end {
            self.partition.progress.wait().await;
        }
    }
}

/// A batch of one record with so many bytes in all.
fn batch(bytes: usize) -> (Vec<u8>, BatchHeader) {
    let value: Vec<u8> =
        (0..bytes as u64 - 100).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8).collect();
    let mut builder = BatchBuilder::new();
    builder.append(TimestampMs(1), None, Some(&value), &[]);
    let batch = builder.finish().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    (batch, header)
}

/// A file that takes its space as a log's segment does.
struct Raw {
    file: <UringRuntime as Runtime>::File,
    allocated: u64,
}

impl Raw {
    async fn create(runtime: &UringRuntime, path: &Path) -> Self {
        let file = runtime.open(path, OpenMode::CreateNew).await.unwrap();
        assert!(file.is_direct(), "without direct I/O there is nothing to compare with");
        Self { file, allocated: 0 }
    }

    async fn take_space(&mut self, end: u64) {
        while self.allocated < end {
            let step = self.allocated.clamp(SEGMENT_SPACE_MIN_BYTES, SEGMENT_SPACE_STEP_MAX_BYTES);
            self.file.allocate(self.allocated, step).await.unwrap();
            self.allocated += step;
        }
    }

    /// Rows of writes: either each is durable by itself, or a flush behind each row makes them so.
    async fn write(&mut self, data: &ChunkView, bytes: u64, depth: usize, durability: Durability) {
        let length = data.len() as u64;
        let mut position = 0;
        while position < bytes {
            self.take_space(position + length * depth as u64).await;
            let row = (0..depth as u64).map(|at| {
                let written = self.file.write(data.clone(), position + at * length, durability);
                Box::pin(written) as Boxed<'_, io::Result<()>>
            });
            join_all(row.collect()).await.into_iter().collect::<io::Result<()>>().unwrap();
            if durability == Durability::Cached {
                self.file.flush().await.unwrap();
            }
            position += length * depth as u64;
        }
    }
}

/// User and system time of this process in ticks of 10 ms, and bytes that it wrote to disks.
fn spent() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let io = fs::read_to_string("/proc/self/io").unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    (ticks, written.parse().unwrap())
}

async fn timed(runtime: &UringRuntime, bytes: u64, work: impl Future<Output = ()>) -> Turn {
    let (began, (ticks_before, written_before)) = (runtime.monotonic(), spent());
    work.await;
    let seconds = runtime.monotonic().since(began) as f64 / 1e9;
    let (ticks, written) = spent();
    let gigabytes = bytes as f64 / 1e9;
    Turn {
        megabytes_per_second: gigabytes * 1e3 / seconds,
        cpu_seconds_per_gb: (ticks - ticks_before) as f64 / 100.0 / gigabytes,
        written_per_byte: (written - written_before) as f64 / bytes as f64,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const WAYS: [&str; 3] = ["log, durable appends", "raw, each write durable", "raw, a flush behind each row"];

async fn measure(runtime: UringRuntime, options: Options) {
    let appender = Appender::open(&runtime, &options).await;
    let mut chunk = Chunk::touched(options.append_bytes.next_multiple_of(PAGE_BYTES));
    let room = chunk.room();
    chunk.append(&appender.batch[..room.min(appender.batch.len())]);
    chunk.pad_to(PAGE_BYTES);
    let data = chunk.view_all();
    // The cache reaches its size, and the journal's blocks are written for the first time.
    appender.append(options.bytes.max(600 << 20), options.depth).await;
    let mut rounds = Vec::new();
    let mut output = io::stdout();
    for number in 1..=options.rounds {
        let mut turns = Vec::new();
        turns.push(timed(&runtime, options.bytes, appender.append(options.bytes, options.depth)).await);
        for durability in [Durability::Durable, Durability::Cached] {
            let path = options.folder.join("raw");
            let mut raw = Raw::create(&runtime, &path).await;
            let work = raw.write(&data, options.bytes, options.depth, durability);
            turns.push(timed(&runtime, options.bytes, work).await);
            runtime.remove_file(&path).await.unwrap();
        }
        let speeds: Vec<String> =
            turns.iter().map(|turn| format!("{:7.0}", turn.megabytes_per_second)).collect();
        writeln!(output, "round {number}: {} MB/s", speeds.join(" ")).unwrap();
        rounds.push(turns);
    }
    appender.store.stop().await;
    let ratio = |turns: &Vec<Turn>| {
        turns[0].megabytes_per_second / turns[1].megabytes_per_second.max(turns[2].megabytes_per_second)
    };
    for (way, name) in WAYS.iter().enumerate() {
        let of = |figure: fn(&Turn) -> f64| median(rounds.iter().map(|turns| figure(&turns[way])));
        let speed = of(|turn| turn.megabytes_per_second);
        let cpu = of(|turn| turn.cpu_seconds_per_gb);
        let written = of(|turn| turn.written_per_byte);
        writeln!(output, "{name:<30}{speed:>8.0} MB/s {cpu:>7.3} CPU-s/GB {written:>6.3} written per byte")
            .unwrap();
    }
    let ratios = || rounds.iter().map(ratio);
    let (least, most) = (ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max));
    let middle = median(ratios());
    writeln!(output, "log / faster raw way, round by round: {middle:.3} ({least:.3}-{most:.3}); aim: 0.9")
        .unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let Some(folder) = arguments.first() else {
        let mut errors = io::stderr().lock();
        writeln!(errors, "usage: appender FOLDER [APPEND_KIB [DEPTH [MB [ROUNDS]]]]").unwrap();
        std::process::exit(2);
    };
    let folder = Path::new(folder).join(format!("logmill-appender-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let options = Options {
        folder: folder.clone(),
        append_bytes: usize::try_from(number(1, 256)).unwrap() << 10,
        depth: usize::try_from(number(2, 8)).unwrap(),
        bytes: number(3, 512) * 1_000_000,
        rounds: usize::try_from(number(4, 5)).unwrap(),
    };
    let outcome = block_on(move |runtime| measure(runtime, options));
    fs::remove_dir_all(&folder).unwrap();
    outcome.unwrap();
}
