use super::*;

fn requests() -> Vec<ControlRequest> {
    vec![
        ControlRequest::Register(Registration {
            cluster_id: [1; 16],
            incarnation: [2; 16],
            broker_id: 3,
            rack: Some("a rack with a long name".into()),
            endpoints: vec![
                RegisteredEndpoint {
                    listener: "PLAINTEXT".into(),
                    host: "mill.example".into(),
                    port: 9092,
                    security_protocol: 0,
                };
                2
            ],
            directories: vec![[4; 16]],
            logs: vec![RegisteredLogs { directory: [4; 16], topics: vec![([5; 16], vec![0, 6])] }],
            lost_writes: false,
            starts_fenced: true,
        }),
        ControlRequest::Heartbeat(Heartbeat {
            broker_id: 3,
            incarnation: [2; 16],
            applied: 77,
            wants_shutdown: true,
        }),
        ControlRequest::AlterPartitions(AlterPartitions {
            broker_id: 3,
            incarnation: [2; 16],
            proposals: vec![
                Proposal {
                    topic_id: [5; 16],
                    partition: 6,
                    leader_epoch: 7,
                    partition_epoch: 8,
                    in_sync: vec![(1, [9; 16]), (3, [2; 16])],
                };
                2
            ],
        }),
        ControlRequest::AllocateProducerIds(3),
        ControlRequest::CreateMissingTopics(vec![MissingTopic {
            name: "orders".into(),
            partition_count: -1,
            replication_factor: 3,
            configs: vec![("cleanup.policy".into(), Some("compact".into())), ("x".into(), None)],
        }]),
        ControlRequest::Forward(ForwardedRequest {
            listener: "PLAINTEXT".into(),
            principal_type: "User".into(),
            principal_name: "ANONYMOUS".into(),
            peer: "127.0.0.1:4000".into(),
            connection_id: 12,
            frame: vec![0, 19, 0, 7, 1, 2, 3, 4],
        }),
        ControlRequest::ChangeVoters(VoterChange {
            node: 3,
            directory: [4; 16],
            kind: VoterChangeKind::Add(vec![ControllerEndpoint {
                listener: "CONTROLLER".into(),
                host: "mill.example".into(),
                port: 9093,
            }]),
        }),
        ControlRequest::ChangeVoters(VoterChange {
            node: 3,
            directory: [5; 16],
            kind: VoterChangeKind::Remove,
        }),
        ControlRequest::ReplicasOffline(OfflineReplicas {
            broker_id: 3,
            incarnation: [2; 16],
            partitions: vec![([5; 16], 6), ([5; 16], 7)],
        }),
    ]
}

fn answers() -> Vec<ControlAnswer> {
    vec![
        ControlAnswer::NotController(NO_NODE),
        ControlAnswer::NotCommitted("the disk is full".into()),
        ControlAnswer::NotUnderstood,
        ControlAnswer::Registered(9),
        ControlAnswer::RegistrationRefused(RegistrationRefusal::InconsistentClusterId(Some([1; 16]))),
        ControlAnswer::RegistrationRefused(RegistrationRefusal::Duplicate),
        ControlAnswer::Alive(Standing { is_fenced: true, may_stop: false }),
        ControlAnswer::StaleIncarnation,
        ControlAnswer::Altered(vec![
            ProposalOutcome::Accepted(AcceptedProposal {
                partition_epoch: 3,
                in_sync: vec![1, 2],
                has_eligible: true,
            }),
            ProposalOutcome::Ineligible,
            ProposalOutcome::Stale,
        ]),
        ControlAnswer::ProducerIds(ProducerIdRange { first: 1000, count: 1000 }),
        ControlAnswer::Created(Creations {
            outcomes: vec![
                CreationOutcome { name: "orders".into(), refusal: None },
                CreationOutcome { name: "..".into(), refusal: Some((17, "not a name".into())) },
            ],
            applied: 81,
        }),
        ControlAnswer::Forwarded(ForwardedResponse { response: vec![0, 0, 0, 4, 1, 2, 3, 4], applied: 80 }),
        ControlAnswer::VotersChanged,
        ControlAnswer::VotersUnchanged("it has not caught up".into()),
    ]
}

fn all_bytes() -> Vec<Vec<u8>> {
    let requests = requests().into_iter().map(|request| encode_request(&request).unwrap());
    requests.chain(answers().iter().map(|answer| encode_answer(answer).unwrap())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn messages_round_trip() {
    for request in requests() {
        assert_eq!(decode_request(&encode_request(&request).unwrap()), Ok(request));
    }
    for answer in answers() {
        assert_eq!(decode_answer(&encode_answer(&answer).unwrap()), Ok(answer));
    }
}

#[test]
fn the_bytes_of_version_0_are_fixed() {
    let fixtures = include_str!("../fixtures/control-v0.hex");
    let written: Vec<String> = all_bytes().iter().map(|bytes| hex(bytes)).collect();
    assert_eq!(written, fixtures.lines().collect::<Vec<_>>());
}

#[test]
fn every_flipped_bit_is_noticed() {
    for bytes in all_bytes() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_request(&flipped).is_err() && decode_answer(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(decode_request(&bytes[..end]).is_err() && decode_answer(&bytes[..end]).is_err());
        }
    }
    let mut newer = all_bytes().swap_remove(0);
    newer[4] = 1;
    assert_eq!(decode_request(&newer), Err(FrameError::UnknownVersion(1)));
}

/// A stranger can compute the checksum too: what is read of any bytes is a message that can be written, and no larger
/// than the bytes allow.
#[test]
fn sealed_nonsense_is_an_error_or_another_message() {
    let (mut refused, mut read) = (0, 0);
    let mut try_one = |archived: &[u8]| {
        let bytes = seal(archived).unwrap();
        match decode_request(&bytes) {
            Err(_) => refused += 1,
            Ok(request) => {
                read += 1;
                assert!(encode_request(&request).unwrap().len() <= 4 * bytes.len() + 256);
            }
        }
        match decode_answer(&bytes) {
            Err(_) => refused += 1,
            Ok(answer) => {
                read += 1;
                assert!(encode_answer(&answer).unwrap().len() <= 4 * bytes.len() + 256);
            }
        }
    };
    for bytes in all_bytes() {
        let archived = &bytes[PREFIX_BYTES..];
        for at in 0..archived.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff, archived[at].wrapping_add(8), archived[at] ^ 4] {
                let mut wrong = archived.to_vec();
                wrong[at] = value;
                try_one(&wrong);
            }
            try_one(&archived[at..]);
        }
    }
    assert!(refused > 5_000 && read > 1_000, "{refused} {read}");
}

#[test]
fn what_is_too_large_is_not_written() {
    let ControlRequest::Forward(forwarded) = requests().swap_remove(5) else { panic!() };
    let frame = vec![0; CONTROL_MESSAGE_BYTES_MAX];
    let large = ControlRequest::Forward(ForwardedRequest { frame, ..forwarded });
    assert_eq!(encode_request(&large), Err(FrameError::InvalidField));
}
