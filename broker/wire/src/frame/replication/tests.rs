use super::*;

fn partition() -> TopicPartition {
    topic_partition(*b"0123456789abcdef", 3)
}

fn hello() -> Hello {
    Hello {
        cluster_id: Uuid([1; 16]),
        broker_id: NodeId(2),
        incarnation: Uuid([3; 16]),
        version_min: 0,
        version_max: 4,
        shard: ShardIndex(5),
        link: Link::CatchUp,
    }
}

fn pushed() -> PushedPartition {
    PushedPartition {
        partition: partition(),
        leader_epoch: LeaderEpoch(7),
        from: Offset(100),
        high_watermark: Offset(90),
        log_start: Offset(20),
        first_offset: Offset(10),
        batch_bytes: 0,
        batch_starts_crc: 0,
    }
}

fn ends() -> PartitionEnds {
    PartitionEnds {
        partition: partition(),
        leader_epoch: LeaderEpoch(7),
        log_end: Offset(120),
        written: Offset(110),
        durable: Offset(100),
        log_start: Offset(20),
        rewind: true,
    }
}

fn query() -> EpochQuery {
    let (leader_epoch, last_epoch) = (LeaderEpoch(7), LeaderEpoch(5));
    EpochQuery { partition: partition(), leader_epoch, last_epoch, log_end: Offset(120) }
}

fn answer() -> EpochAnswer {
    EpochAnswer { query: query(), epoch: LeaderEpoch(4), end_offset: Offset(80), first_offset: Offset(10) }
}

/// Something with a batch's length in the right place.
fn batch(bytes: usize, filler: u8) -> Vec<u8> {
    let mut batch = vec![filler; bytes];
    batch[8..12].copy_from_slice(&(bytes as i32 - 12).to_be_bytes());
    batch
}

fn push() -> (Vec<u8>, Vec<u8>) {
    let (first, second, third) = (batch(61, 1), batch(100, 2), batch(75, 3));
    let mut builder = PushBuilder::default();
    builder.add(pushed(), &[&first, &second]).unwrap();
    builder.add(pushed(), &[]).unwrap();
    builder.add(pushed(), &[&third]).unwrap();
    (builder.finish().unwrap(), [first, second, third].concat())
}

fn one_of_each() -> [Vec<u8>; 5] {
    [
        encode_hello(&hello()).unwrap(),
        push().0,
        encode_ends(&[ends(), PartitionEnds { rewind: false, ..ends() }]).unwrap(),
        encode_queries(&[query(), EpochQuery { last_epoch: LeaderEpoch::NONE, ..query() }]).unwrap(),
        encode_answers(&[answer()]).unwrap(),
    ]
}

fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
    let (prefix, header) = bytes.split_first_chunk().ok_or(FrameError::Truncated)?;
    open(&parse_prefix(prefix)?, header)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_round_trip() {
    let [first, _, third, fourth, fifth] = one_of_each();
    assert_eq!(read(&first), Ok(Frame::Hello(hello())));
    assert_eq!(read(&third), Ok(Frame::Ends(vec![ends(), PartitionEnds { rewind: false, ..ends() }])));
    let of_none = EpochQuery { last_epoch: LeaderEpoch::NONE, ..query() };
    assert_eq!(read(&fourth), Ok(Frame::Queries(vec![query(), of_none])));
    assert_eq!(read(&fifth), Ok(Frame::Answers(vec![answer()])));
    assert!(first.len() < 100 && super::super::prefix::is_peer_frame(*first.first_chunk().unwrap()));
}

#[test]
fn the_batches_of_a_push_are_found_and_checked() {
    let (bytes, payload) = push();
    let Frame::Push(partitions) = read(&bytes).unwrap() else { panic!() };
    let places: Vec<_> = partitions.iter().map(|(entry, at)| (*at, entry.batch_bytes)).collect();
    assert_eq!(places, [(0, 161), (161, 0), (161, 75)]);
    let (entry, at) = partitions[0];
    assert_eq!(PushedPartition { batch_bytes: 0, batch_starts_crc: 0, ..entry }, pushed());
    let batches = payload[at..at + 161].to_vec();
    assert_eq!(entry.check_batches(&batches), Ok(()));
    assert_eq!(partitions[1].0.check_batches(&[]), Ok(()));
    assert_eq!(entry.check_batches(&batches[..160]), Err(FrameError::Truncated));
    // What a batch's own checksum covers is not covered twice.
    for (at, start) in
        [(0, 0), (61, 61)].into_iter().flat_map(|(base, start)| (base..base + 61).map(move |at| (at, start)))
    {
        let mut flipped = batches.clone();
        flipped[at] ^= 4;
        assert_eq!(entry.check_batches(&flipped).is_err(), at < start + BATCH_START_BYTES, "byte {at}");
    }
}

#[test]
fn only_whole_batches_are_pushed() {
    let mut builder = PushBuilder::default();
    let whole = batch(80, 9);
    for part in [&whole[..79], &whole[..11], &batch(60, 1), &[&whole[..], &[0]].concat()] {
        assert_eq!(builder.add(pushed(), &[part]), Err(FrameError::Truncated));
    }
    let mut negative = whole.clone();
    negative[8] = 0xff;
    assert_eq!(builder.add(pushed(), &[&negative]), Err(FrameError::Truncated));
    assert_eq!(read(&builder.finish().unwrap()), Ok(Frame::Push(vec![])));
}

#[test]
fn the_bytes_of_version_0_are_fixed() {
    let fixtures = include_str!("../fixtures/replication-v0.hex");
    let written: Vec<String> = one_of_each().iter().map(|bytes| hex(bytes)).collect();
    assert_eq!(written, fixtures.lines().collect::<Vec<_>>());
}

#[test]
fn every_flipped_bit_is_noticed() {
    for bytes in one_of_each() {
        assert!(read(&bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit} of {}", hex(&bytes));
        }
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        assert!(read(&[&bytes[..], &[0]].concat()).is_err());
    }
}

/// A stranger can compute the checksum too: every field is tried with values that it cannot have.
#[test]
fn sealed_nonsense_is_an_error_or_another_frame() {
    let mut refused = 0;
    for bytes in one_of_each() {
        let (prefix, header) = bytes.split_first_chunk().unwrap();
        let prefix = parse_prefix(prefix).unwrap();
        for at in 0..header.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut wrong = header.to_vec();
                wrong[at] = value;
                for (kind, payload) in [(prefix.kind, prefix.payload_bytes), (prefix.kind % 5 + 1, 0)] {
                    let sealed = PeerPrefix::seal(
                        REPLICATION_MAGIC,
                        REPLICATION_VERSION,
                        kind,
                        &wrong,
                        payload as usize,
                    );
                    let sealed = [&sealed.unwrap()[..], &wrong].concat();
                    match read(&sealed) {
                        Err(_) => refused += 1,
                        Ok(Frame::Push(entries)) => {
                            let sum: u64 =
                                entries.iter().map(|(entry, _)| u64::from(entry.batch_bytes)).sum();
                            assert_eq!(sum, u64::from(payload));
                        }
                        Ok(Frame::Ends(entries)) => {
                            assert!(
                                entries
                                    .iter()
                                    .all(|ends| ends.durable <= ends.written && ends.written <= ends.log_end)
                            );
                            assert_eq!(encode_ends(&entries), Ok(sealed));
                        }
                        Ok(Frame::Queries(entries)) => assert_eq!(encode_queries(&entries), Ok(sealed)),
                        Ok(Frame::Answers(entries)) => assert_eq!(encode_answers(&entries), Ok(sealed)),
                        Ok(Frame::Hello(hello)) => assert_eq!(encode_hello(&hello), Ok(sealed)),
                    }
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn unknown_kinds_versions_and_lengths_are_refused() {
    let of = |version, kind, header: &[u8], payload| {
        let prefix = PeerPrefix::seal(REPLICATION_MAGIC, version, kind, header, payload).unwrap();
        read(&[&prefix[..], header].concat())
    };
    assert_eq!(of(1, ENDS, &[], 0), Err(FrameError::UnknownVersion(1)));
    assert_eq!(of(0, 6, &[], 0), Err(FrameError::InvalidField));
    assert_eq!(of(0, ENDS, &[], 1), Err(FrameError::InvalidField));
    assert_eq!(of(0, ENDS, &[0; 63], 0), Err(FrameError::InvalidField));
    assert_eq!(of(0, PUSH, &[], 1), Err(FrameError::InvalidField));
    assert_eq!(of(0, HELLO, &[], 0), Err(FrameError::InvalidField));
    assert_eq!(of(0, ENDS, &[], 0), Ok(Frame::Ends(vec![])));
    let many = vec![ends(); REPLICATION_HEADER_BYTES_MAX as usize / 64 + 1];
    assert_eq!(encode_ends(&many), Err(FrameError::InvalidField));
    assert!(encode_ends(&many[1..]).is_ok());
    let of_no_version = Hello { version_min: 5, version_max: 6, ..hello() };
    assert_eq!(hello().common_version(&of_no_version), None);
    assert_eq!(hello().common_version(&Hello { version_min: 2, version_max: 9, ..hello() }), Some(4));
}
