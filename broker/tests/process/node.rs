//! A node: started, watched, stopped, killed.

use super::client::Client;
use super::observe::wait_until;
use super::workspace::Folder;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a node may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

type Prepare = Box<dyn FnMut() -> io::Result<()> + Send + Sync>;

/// How a node is to be started.
pub struct Plan {
    program: PathBuf,
    log_directory: PathBuf,
    settings: Vec<(String, String)>,
    prepare: Option<Prepare>,
}

impl Plan {
    /// A node on a free port of the loopback address, with two shards that are not pinned.
    pub fn new(log_directory: &Path) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_logmill").into(),
            log_directory: log_directory.into(),
            settings: Vec::new(),
            prepare: None,
        }
        .set("listeners", "PLAINTEXT://127.0.0.1:0")
        .set("logmill.admin.listener", "")
        .set("logmill.shards", 2)
        .set("logmill.pin.cores", false)
        // The tests' records are dated years ago.
        .set("log.retention.ms", -1)
        .set("logmill.journal.bytes", 16 << 20)
        .set("logmill.memory.bytes", 256 << 20)
    }

    /// Sets a setting; the last value counts.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.into(), value.to_string()));
        self
    }

    /// Runs another copy of the program.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    /// Does something in the new process before the program begins.
    pub fn prepare(mut self, prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }

    /// The settings of the node, as arguments of any command that takes them.
    pub fn arguments(&self) -> Vec<String> {
        let directory = ("log.dirs".to_owned(), self.log_directory.display().to_string());
        let all = std::iter::once(&directory).chain(&self.settings);
        all.flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect()
    }

    fn spawn(mut self) -> Node {
        let output = Folder::new();
        let mut command = Command::new(&self.program);
        command.args(self.arguments());
        let file = |name| File::create(output.path().join(name)).unwrap();
        command.stdin(std::process::Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        command.env_clear().current_dir(output.path());
        // A node does not outlive the test that started it, even if that is killed.
        // SAFETY: it is one system call.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        if let Some(prepare) = self.prepare.take() {
            // SAFETY: what the tests prepare is a few system calls.
            unsafe { command.pre_exec(prepare) };
        }
        let child = command.spawn().expect("the broker's executable runs");
        Node { child, output, address: None }
    }

    /// Starts the node and waits until it serves.
    pub fn start(self) -> Node {
        let mut node = self.begin();
        node.wait_until_it_serves();
        node
    }

    /// Starts the node; [`Node::wait_until_it_serves`] comes next.
    pub fn begin(self) -> Node {
        self.spawn()
    }

    /// Starts a node that cannot serve, and waits for its end.
    pub fn refused(self) -> Refusal {
        let mut node = self.spawn();
        let mut status = None;
        wait_until(PATIENCE, || {
            status = node.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap_or_else(|| panic!("the node runs:\n{}{}", node.stdout(), node.stderr()));
        Refusal { status, stderr: node.stderr() }
    }
}

/// How a node ended that could not serve.
pub struct Refusal {
    pub status: ExitStatus,
    pub stderr: String,
}

/// A running node. It ends with the test.
pub struct Node {
    child: Child,
    output: Folder,
    address: Option<SocketAddr>,
}

impl Node {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait_until_it_serves(&mut self) {
        let began = Instant::now();
        let mut ended = None;
        wait_until(PATIENCE, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some() || self.stdout().contains("\n  durability ")
        });
        assert!(ended.is_none(), "the node ended with {ended:?}:\n{}", self.stderr());
        let block = self.stdout();
        let address = block.lines().find_map(|line| line.trim().strip_prefix("listeners"));
        let address = address.and_then(|line| line.split("://").nth(1)).map(|text| text.trim().parse());
        let Some(Ok(address)) = address else {
            panic!("no listener after {:?} in:\n{block}\n{}", began.elapsed(), self.stderr())
        };
        self.address = Some(address);
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("the node serves")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.output.path().join("stdout")).unwrap()
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.output.path().join("stderr")).unwrap()
    }

    /// Asserts that the process is alive and that nothing in it panicked.
    pub fn assert_sound(&mut self) {
        let ended = self.child.try_wait().unwrap();
        let log = self.stderr();
        assert!(ended.is_none(), "the node ended with {ended:?}:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: it signals the test's own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Stops the node as an operator does, and asserts that it ends well.
    pub fn stop(mut self) {
        self.assert_sound();
        self.signal(libc::SIGTERM);
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let log = self.stderr();
        assert!(status.is_some_and(|status| status.success()), "the node ended with {status:?}:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Ends the node at once.
    pub fn kill(mut self) {
        self.assert_sound();
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
