//! Histograms in the formats of `HdrHistogram`'s tools: interval logs (`.hlog`, format V2) and percentile files (`.hgrm`).

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

/// Nanoseconds in the unit of both formats' figures, a millisecond.
const UNIT_NS: f64 = 1e6;

/// A log of one histogram per interval and kind, in nanoseconds; its column of maxima is in milliseconds.
pub struct IntervalLog<'a> {
    writer: IntervalLogWriter<'a, 'a, Vec<u8>, V2DeflateSerializer>,
}

impl<'a> IntervalLog<'a> {
    /// Begins a log in `output` whose intervals count from a moment in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// None in practice: memory takes every write.
    pub fn begin(
        output: &'a mut Vec<u8>,
        serializer: &'a mut V2DeflateSerializer,
        comment: &str,
        start_ms: i64,
    ) -> io::Result<Self> {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(start_ms).unwrap_or(0));
        let writer = IntervalLogWriterBuilder::new()
            .add_comment(comment)
            .with_base_time(start)
            .with_start_time(start)
            .with_max_value_divisor(UNIT_NS)
            .begin_log_with(output, serializer)?;
        Ok(Self { writer })
    }

    /// Adds what was recorded under `tag` in an interval; nothing if nothing was.
    pub fn add(&mut self, tag: &str, start: Duration, length: Duration, times: &Histogram<u64>) {
        if !times.is_empty() {
            // Memory takes every write, and the format every histogram of 64-bit counts.
            let _ = self.writer.write_histogram(times, start, length, Tag::new(tag));
        }
    }
}

/// A distribution as the text that `HdrHistogram`'s plotters read, in milliseconds.
#[must_use]
pub fn percentile_file(times: &Histogram<u64>) -> String {
    // Writing to a string cannot fail.
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in times.iter_quantiles(5) {
        let quantile = step.quantile_iterated_to().min(1.0);
        let value = step.value_iterated_to() as f64 / UNIT_NS;
        count += step.count_since_last_iteration();
        let _ = write!(text, "{value:12.6} {quantile:2.12} {count:10}");
        let _ =
            if quantile < 1.0 { writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text) };
    }
    let max = times.max() as f64 / UNIT_NS;
    let _ = writeln!(
        text,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]\n#[Max     = {max:12.6}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        times.mean() / UNIT_NS,
        times.stdev() / UNIT_NS,
        times.len(),
        times.buckets(),
        2048
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{histogram, record};
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn times() -> Histogram<u64> {
        let mut times = histogram();
        (1..=1000).for_each(|value| record(&mut times, value * 1_000_000));
        times
    }

    #[test]
    fn interval_logs_are_read_by_the_library() {
        let (mut output, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        {
            let mut log =
                IntervalLog::begin(&mut output, &mut serializer, "a run", 1_700_000_000_000).unwrap();
            log.add("produce", Duration::from_secs(3), Duration::from_secs(1), &times());
            log.add("silence", Duration::from_secs(3), Duration::from_secs(1), &histogram());
        }
        let intervals: Vec<_> = IntervalLogIterator::new(&output)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 1);
        assert_eq!(intervals[0].tag().unwrap().as_str(), "produce");
        assert_eq!(intervals[0].start_timestamp(), Duration::from_secs(3));
        assert!((intervals[0].max() - 1000.0).abs() < 2.0, "{}", intervals[0].max());
    }

    #[test]
    fn percentile_files_have_four_columns_and_the_summary() {
        let text = percentile_file(&times());
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|field| field.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 20);
        assert!(rows.iter().all(|row| row.len() == 4 || row[1] == 1.0), "{text}");
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 2.0 && (median[2] - 500.0).abs() < 2.0, "{median:?}");
        assert!(text.contains("Total count    =         1000"));
    }
}
