//! Bytes and small requests over loopback, with nothing behind them.

use super::{Finding, merged};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::latency::{histogram, record};
use crate::system::thread_time::cpu_ns;
use hdrhistogram::Histogram;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Options of `probe loopback`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoopbackOptions {
    /// Connections, each with a thread at both ends
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: u16,
    /// Bytes of one send, and of the memory to receive into
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub chunk: u32,
    /// Seconds of each of the two measurements
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
}

/// Bytes of a small request and of its response.
const SMALL_BYTES: usize = 64;

/// What one end of a connection did.
struct End {
    times: Histogram<u64>,
    bytes: u64,
    cpu_ns: u64,
}

/// Measures a stream in one direction, and small requests with responses. The stream's CPU time is given for each end.
///
/// # Errors
/// [`Failure::File`] if loopback does not work.
pub fn measure(options: &LoopbackOptions, clock: &Clock) -> Result<Vec<Finding>, Failure> {
    let failed = |cause| Failure::File { path: "loopback".to_owned(), cause };
    let end_ns = || clock.now_ns() + options.seconds * 1_000_000_000;
    let until_ns = end_ns();
    let (near, far) = exchange(
        options,
        |stream| send(options, clock, until_ns, stream),
        |stream| receive(options, clock, stream),
    )
    .map_err(failed)?;
    let what = |doing: &str| format!("{doing}, {} connection(s)", options.connections);
    let seconds = options.seconds as f64;
    let finding = |what: String, ends: Vec<End>| {
        let bytes = ends.iter().map(|end| end.bytes).sum();
        let cpu_seconds = ends.iter().map(|end| end.cpu_ns).sum::<u64>() as f64 / 1e9;
        Finding::new(what, seconds, bytes, cpu_seconds, &merged(ends.into_iter().map(|end| end.times)))
    };
    let mut findings = vec![
        finding(what(&format!("send {} KiB", options.chunk / 1024)), near),
        finding(what(&format!("receive up to {} KiB", options.chunk / 1024)), far),
    ];
    let until_ns = end_ns();
    let (near, far) =
        exchange(options, |stream| ask(clock, until_ns, stream), |stream| answer(clock, stream))
            .map_err(failed)?;
    findings.push(finding(what("64 B request and response, asking"), near));
    findings.push(finding(what("64 B request and response, answering"), far));
    Ok(findings)
}

/// Connects, and runs one function at each end of each connection.
fn exchange(
    options: &LoopbackOptions,
    near: impl Fn(TcpStream) -> io::Result<End> + Sync,
    far: impl Fn(TcpStream) -> io::Result<End> + Sync,
) -> io::Result<(Vec<End>, Vec<End>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut pairs = Vec::new();
    for _ in 0..options.connections {
        let one = TcpStream::connect(listener.local_addr()?)?;
        let other = listener.accept()?.0;
        one.set_nodelay(true)?;
        other.set_nodelay(true)?;
        pairs.push((one, other));
    }
    let (near, far) = (&near, &far);
    thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .map(|(one, other)| (scope.spawn(move || near(one)), scope.spawn(move || far(other))))
            .collect();
        let mut ends = (Vec::new(), Vec::new());
        for (one, other) in threads {
            ends.0.push(one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            ends.1.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(ends)
    })
}

/// Counts one operation after the other; `operate` returns how many bytes it moved, 0 at the end.
fn repeat(clock: &Clock, mut operate: impl FnMut() -> io::Result<usize>) -> io::Result<End> {
    let mut end = End { times: histogram(), bytes: 0, cpu_ns: 0 };
    let cpu_before_ns = cpu_ns();
    let mut begin_ns = clock.now_ns();
    loop {
        let bytes = operate()?;
        if bytes == 0 {
            end.cpu_ns = cpu_ns() - cpu_before_ns;
            return Ok(end);
        }
        let now_ns = clock.now_ns();
        record(&mut end.times, now_ns - begin_ns);
        begin_ns = now_ns;
        end.bytes += bytes as u64;
    }
}

fn send(options: &LoopbackOptions, clock: &Clock, until_ns: u64, mut stream: TcpStream) -> io::Result<End> {
    let chunk = vec![7; options.chunk as usize];
    repeat(clock, || {
        if clock.now_ns() >= until_ns {
            return Ok(0);
        }
        stream.write_all(&chunk)?;
        Ok(chunk.len())
    })
}

fn receive(options: &LoopbackOptions, clock: &Clock, mut stream: TcpStream) -> io::Result<End> {
    let mut chunk = vec![0; options.chunk as usize];
    repeat(clock, || stream.read(&mut chunk))
}

fn ask(clock: &Clock, until_ns: u64, mut stream: TcpStream) -> io::Result<End> {
    let mut message = [7; SMALL_BYTES];
    repeat(clock, || {
        if clock.now_ns() >= until_ns {
            return Ok(0);
        }
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(SMALL_BYTES)
    })
}

fn answer(clock: &Clock, mut stream: TcpStream) -> io::Result<End> {
    let mut message = [0; SMALL_BYTES];
    repeat(clock, || match stream.read_exact(&mut message) {
        Ok(()) => stream.write_all(&message).map(|()| SMALL_BYTES),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received_and_answered() {
        let options = LoopbackOptions { connections: 2, chunk: 10_000, seconds: 1 };
        let findings = measure(&options, &Clock::start()).unwrap();
        let [sent, received, asked, answered] = findings.as_slice() else { panic!("{findings:?}") };
        assert!((sent.megabytes_per_second - received.megabytes_per_second).abs() < 1e-6, "{findings:?}");
        assert!(sent.cpu_seconds_per_gb > 0.0 && received.cpu_seconds_per_gb > 0.0);
        assert_eq!(asked.latency.count, answered.latency.count);
        assert!(asked.latency.count > 100 && asked.text().contains("CPU-us each"));
    }
}
