//! The brokers of a comparison: each has its turn while the others are stopped.

use crate::clock::Clock;
use crate::failure::Failure;
use crate::run::{Target, TargetOptions};
use crate::system::direct_file::flush_page_cache;
use crate::system::signals;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Time for a broker that was stopped to come back to itself: its timers fire, its sessions are renewed.
const SETTLING_NS: u64 = 1_500_000_000;

/// A broker that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What to call it.
    pub name: String,
    /// A broker of its cluster, as `HOST:PORT`.
    pub bootstrap_server: String,
    /// Its processes on this host, which are stopped while others are measured, and whose costs are taken together.
    pub pids: Vec<u32>,
    /// What an acknowledgement promises.
    pub durability: String,
}

impl Side {
    /// Reads `NAME=HOST:PORT[,pid=PID][,note=TEXT]`; `pid` may be repeated, and `note` takes the rest.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "give NAME=HOST:PORT[,pid=PID][,note=TEXT]";
        let (name, rest) = text.split_once('=').ok_or_else(|| format!("`{text}` has no name; {wanted}"))?;
        let (rest, note) = rest.split_once(",note=").map_or((rest, None), |(rest, note)| (rest, Some(note)));
        let mut parts = rest.split(',');
        let address = parts.next().unwrap_or_default();
        if name.is_empty() || !address.contains(':') {
            return Err(format!("`{text}` has no name or no address; {wanted}"));
        }
        let pids = parts
            .map(|part| part.strip_prefix("pid=").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 1))
            .collect::<Option<Vec<u32>>>()
            .ok_or_else(|| format!("`{text}` has a part that is not understood; {wanted}"))?;
        Ok(Self {
            name: name.to_owned(),
            bootstrap_server: address.to_owned(),
            pids,
            durability: note.unwrap_or("not stated").to_owned(),
        })
    }

    /// A new target for one run.
    #[must_use]
    pub fn target(&self, options: &TargetOptions, clock: &Clock) -> Target {
        let address = (self.name.as_str(), self.bootstrap_server.as_str());
        Target::new(options, address, &self.pids, &self.durability, clock.wall_ms())
    }
}

/// The sides, of which at most one runs. All go on when this is dropped.
#[derive(Debug)]
pub struct Turns {
    sides: Vec<Side>,
    own: Vec<Child>,
}

impl Turns {
    /// Stops all processes that were named, and starts a null broker too if that is wanted.
    ///
    /// # Errors
    /// [`Failure::Usage`] if two sides have the same name or process, [`Failure::File`] if a process is not there.
    pub fn new(sides: Vec<Side>, with_null_broker: bool) -> Result<Self, Failure> {
        let mut turns = Self { sides, own: Vec::new() };
        if with_null_broker {
            turns.start_null_broker()?;
        }
        for (index, side) in turns.sides.iter().enumerate() {
            let others = &turns.sides[..index];
            let is_taken = |other: &Side| {
                other.name == side.name || other.pids.iter().any(|pid| side.pids.contains(pid))
            };
            if others.iter().any(is_taken) || side.pids.contains(&std::process::id()) {
                let problem =
                    format!("the side {} has a name or a process that is another's already", side.name);
                return Err(Failure::Usage(problem));
            }
        }
        for side in &turns.sides {
            side.pids.iter().try_for_each(|pid| signals::stop(*pid))?;
        }
        Ok(turns)
    }

    /// A null broker in a process of its own, so that its costs can be told from ours.
    fn start_null_broker(&mut self) -> Result<(), Failure> {
        let failed = |cause| Failure::File { path: "the null broker".to_owned(), cause };
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["null-broker", "--listen", "127.0.0.1:0", "--keep-mib", "64"])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(failed)?;
        }
        let pid = child.id();
        self.own.push(child);
        let address = line.trim_end().rsplit(' ').next().filter(|address| address.contains(':'));
        let address = address.ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))?;
        self.sides.push(Side {
            name: "null".to_owned(),
            bootstrap_server: address.to_owned(),
            pids: vec![pid],
            durability: "nothing is stored".to_owned(),
        });
        Ok(())
    }

    /// The sides in their order.
    #[must_use]
    pub fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// Does something with one side while all others are stopped.
    ///
    /// # Errors
    /// [`Failure::File`] if a process has gone; those of `measure`.
    pub fn with<T>(
        &self,
        side: &Side,
        clock: &Clock,
        measure: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let others = self.sides.iter().filter(|other| *other != side);
        others.flat_map(|other| &other.pids).try_for_each(|pid| signals::stop(*pid))?;
        // What another side has only cached is not to be written at this one's expense.
        if self.sides.len() > 1 {
            flush_page_cache();
        }
        side.pids.iter().try_for_each(|pid| signals::go_on(*pid))?;
        if !side.pids.is_empty() && self.sides.len() > 1 {
            clock.sleep_until_ns(clock.now_ns() + SETTLING_NS);
        }
        measure()
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        for pid in self.sides.iter().flat_map(|side| &side.pids) {
            // One that has gone needs no help.
            let _ = signals::go_on(*pid);
        }
        for child in &mut self.own {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    #[test]
    fn sides_are_read() {
        let side = Side::parse("kafka=127.0.0.1:9092,pid=12,pid=13,note=page cache, no fsync").unwrap();
        assert_eq!((side.name.as_str(), side.bootstrap_server.as_str()), ("kafka", "127.0.0.1:9092"));
        assert_eq!((side.pids, side.durability.as_str()), (vec![12, 13], "page cache, no fsync"));
        assert_eq!(Side::parse("a=h:1").unwrap().pids, [] as [u32; 0]);
        for wrong in ["h:1", "=h:1", "a=h", "a=h:1,pid=x", "a=h:1,pid=0", "a=h:1,color=red"] {
            assert!(Side::parse(wrong).unwrap_err().contains("give NAME=HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn only_one_side_runs_and_all_go_on_at_the_end() {
        let sleeper = || Command::new("sleep").arg("60").spawn().unwrap();
        let mut children = [sleeper(), sleeper()];
        let side = |index: usize| Side {
            name: format!("side {index}"),
            bootstrap_server: "h:1".to_owned(),
            pids: vec![children[index].id()],
            durability: String::new(),
        };
        let sides = [side(0), side(1)];
        let pids = [children[0].id(), children[1].id()];
        let settled = |pid: u32, wanted: bool| (0..10_000).any(|_| (state(pid) == 'T') == wanted);
        let clock = Clock::start();
        let turns = Turns::new(sides.to_vec(), false).unwrap();
        assert!(settled(pids[0], true) && settled(pids[1], true));
        for (running, stopped) in [(0, 1), (1, 0)] {
            turns
                .with(&sides[running], &clock, || {
                    assert!(settled(pids[running], false) && settled(pids[stopped], true));
                    Ok(())
                })
                .unwrap();
        }
        drop(turns);
        assert!(settled(pids[0], false) && settled(pids[1], false));
        let same = vec![sides[0].clone(), Side { name: "other".to_owned(), ..sides[0].clone() }];
        assert!(matches!(Turns::new(same, false), Err(Failure::Usage(_))));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
