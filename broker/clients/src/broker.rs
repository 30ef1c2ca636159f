//! The broker as a process that tests start, kill and start again.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

/// How many brokers this process has made.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker as a process of its own, over a log directory of its own. It is killed, and its files go, with the value.
pub struct Broker {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Broker {
    /// A broker that is not started yet, with two shards and these settings.
    ///
    /// # Panics
    /// If there is no room for its files, or no port.
    #[must_use]
    pub fn new(name: &str, settings: &[(&str, String)]) -> Self {
        let folder = env::temp_dir().join(format!("logmill-{name}-{}", process::id()));
        fs::create_dir_all(&folder).expect("the temporary directory takes a folder");
        // Not one that the kernel may give to a client's connection while the broker is down, nor one that another
        // test of this process has just found free.
        let first = process::id() as usize + 1_009 * MADE.fetch_add(1, Ordering::Relaxed);
        let port = (20_000..30_000).cycle().skip(first % 10_000).take(10_000);
        let port = { port }.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        let settings = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self { binary: binary(), folder, port: port.expect("a free port"), settings, process: None }
    }

    /// Where it listens.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the process, and waits until it says that it serves. Returns when its port could be connected to.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(&mut self) -> Instant {
        let output = self.folder.join("output");
        let stdout = File::create(&output).expect("a file for the output");
        let stderr = stdout.try_clone().expect("a second handle");
        let mut command = Command::new(&self.binary);
        for setting in [
            format!("log.dirs={}", self.folder.join("data").display()),
            format!("listeners=PLAINTEXT://{}", self.bootstrap()),
            "logmill.shards=2".to_owned(),
        ]
        .iter()
        .chain(&self.settings)
        {
            command.arg("--set").arg(setting);
        }
        // Variables of this name are the broker's settings; those of the tests must not reach it.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LOGMILL_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let mut process = command.spawn().expect("the broker's binary can be started");
        let begin = Instant::now();
        let mut open = None;
        loop {
            if open.is_none() && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                open = Some(Instant::now());
            }
            let text = fs::read_to_string(&output).unwrap_or_default();
            if text.contains("\n  durability ") {
                break;
            }
            let ended = process.try_wait().expect("the state of a process of ours");
            assert!(ended.is_none(), "the broker ended ({ended:?}) instead of serving:\n{text}");
            assert!(begin.elapsed() < PATIENCE, "the broker does not come up:\n{text}");
            thread::sleep(Duration::from_millis(2));
        }
        self.process = Some(process);
        open.unwrap_or_else(Instant::now)
    }

    /// What it has written to its output.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }

    /// kill -9.
    ///
    /// # Panics
    /// If it has ended on its own before.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = process.try_wait().expect("the state of a process of ours");
            if let Some(status) = ended {
                let text = self.output();
                // Not again from a drop while this unwinds.
                assert!(thread::panicking(), "the broker ended on its own ({status}):\n{text}");
            }
            // SIGKILL, to this very process.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn binary() -> PathBuf {
    if let Some(path) = env::var_os("LOGMILL_CI_BIN") {
        return path.into();
    }
    let test = env::current_exe().expect("the test's own path");
    let profile_folder = test.ancestors().nth(2).expect("a test lies in TARGET/PROFILE/deps");
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "logmill", "--bin", "logmill", "--profile", profile])
        .arg("--target-dir")
        .arg(profile_folder.parent().unwrap_or(Path::new("target")))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the broker does not build");
    profile_folder.join("logmill")
}
