// Daily use (../README.md) with franz-go.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	partitions       = 6
	recordsPerSecond = 150
	patience         = 30 * time.Second
	// One poll's longest wait.
	poll = 50 * time.Millisecond
)

var (
	bootstrap string
	// In the past, but not by so much that the records were to be deleted at once.
	base = time.Now().Add(-time.Hour).UnixMilli()
)

func main() {
	bootstrap = os.Args[2]
	var err error
	switch os.Args[1] {
	case "plain":
		err = plain(os.Args[3:])
	case "produce":
		err = produceUntilTheEnd(os.Args[3])
	case "member":
		err = member(os.Args[3], os.Args[4], os.Args[5])
	case "committed":
		err = committed(os.Args[3], os.Args[4])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type test struct {
	name string
	run  func() error
}

func plain(protocols []string) error {
	tests := []test{{"codecs and acks", codecsAndAcks}, {"records", records}}
	for _, protocol := range protocols {
		tests = append(tests,
			test{"commits, " + protocol, func() error { return commits(protocol) }},
			test{"seek, " + protocol, func() error { return seek(protocol) }},
			test{"pause and resume, " + protocol, func() error { return pauseAndResume(protocol) }})
	}
	begin, failed := time.Now(), 0
	for _, test := range tests {
		begin := time.Now()
		verdict := "ok"
		if err := test.run(); err != nil {
			failed++
			verdict = "FAILED: " + err.Error()
		}
		fmt.Printf("test franz-go: %s ... %s (%.1f s)\n", test.name, verdict, time.Since(begin).Seconds())
	}
	verdict := "ok"
	if failed > 0 {
		verdict = "FAILED"
	}
	fmt.Printf("test result: %s. %d passed; %d failed; 0 ignored; finished in %.1fs\n",
		verdict, len(tests)-failed, failed, time.Since(begin).Seconds())
	if failed > 0 {
		return fmt.Errorf("%d tests failed", failed)
	}
	return nil
}

func client(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.FetchMaxWait(200 * time.Millisecond)}, options...)...)
}

func create(topic string, partitions int32) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	// A suite may have made it, with replicas.
	if _, err = admin.CreateTopic(context.Background(), partitions, 1, nil, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	// README.md, "A new topic".
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ends, err := admin.ListEndOffsets(context.Background(), topic)
		if err == nil {
			err = ends.Error()
		}
		if err == nil && len(ends[topic]) == int(partitions) {
			return nil
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("the topic %s does not come up: %w", topic, err)
		}
	}
}

func produce(records []*kgo.Record, options ...kgo.Opt) ([]*kgo.Record, error) {
	cl, err := client(append(options, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	results := cl.ProduceSync(ctx, records...)
	var delivered []*kgo.Record
	for _, result := range results {
		if result.Err != nil {
			return nil, result.Err
		}
		delivered = append(delivered, result.Record)
	}
	return delivered, nil
}

func fetch(cl *kgo.Client) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), poll)
	defer cancel()
	fetches := cl.PollFetches(ctx)
	for _, err := range fetches.Errors() {
		if err.Err != context.DeadlineExceeded {
			return nil, fmt.Errorf("%s-%d: %w", err.Topic, err.Partition, err.Err)
		}
	}
	return fetches.Records(), nil
}

// That many records, not counting those found already, and not one more in the same poll.
func read(cl *kgo.Client, count int) ([]*kgo.Record, error) {
	var found []*kgo.Record
	for begin := time.Now(); len(found) < count; {
		if time.Since(begin) > patience {
			return nil, fmt.Errorf("%d records of %d", len(found), count)
		}
		more, err := fetch(cl)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	if len(found) != count {
		return nil, fmt.Errorf("%d records, not %d", len(found), count)
	}
	return found, nil
}

func readTopic(topic string, count int) ([]*kgo.Record, error) {
	cl, err := client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return read(cl, count)
}

func codecsAndAcks() error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	acks := map[string][]kgo.Opt{
		"0":   {kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()},
		"1":   {kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()},
		"all": {kgo.RequiredAcks(kgo.AllISRAcks())},
	}
	for codec, compression := range codecs {
		for ack, options := range acks {
			topic := "franz-go-" + codec + "-" + ack
			if err := create(topic, 1); err != nil {
				return err
			}
			var records []*kgo.Record
			for n := range 200 {
				record := &kgo.Record{Topic: topic, Value: bytes.Repeat([]byte(strconv.Itoa(n)+" "), 20)}
				if n%2 == 1 {
					record.Key = []byte(strconv.Itoa(n))
				}
				records = append(records, record)
			}
			delivered, err := produce(records, append(options, kgo.ProducerBatchCompression(compression))...)
			if err != nil {
				return err
			}
			for n, record := range delivered {
				if ack != "0" && record.Offset != int64(n) {
					return fmt.Errorf("%s: record %d is at %d", topic, n, record.Offset)
				}
			}
			found, err := readTopic(topic, 200)
			if err != nil {
				return err
			}
			for n, record := range found {
				if err := same(record, records[n], int64(n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func same(found, expected *kgo.Record, offset int64) error {
	equalBytes := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	equalHeader := func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && equalBytes(a.Value, b.Value) }
	if found.Offset != offset || !equalBytes(found.Key, expected.Key) || !equalBytes(found.Value, expected.Value) ||
		!slices.EqualFunc(found.Headers, expected.Headers, equalHeader) {
		return fmt.Errorf("at offset %d is %.500v, not %.500v at %d", found.Offset, found, expected, offset)
	}
	return nil
}

func records() error {
	topic := "franz-go-records"
	if err := create(topic, 1); err != nil {
		return err
	}
	headers := []kgo.RecordHeader{
		{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "b"}, {Key: "c", Value: []byte{}},
		{Key: "", Value: []byte("4")}, {Key: "a", Value: []byte("3")},
	}
	records := []*kgo.Record{
		{Key: []byte("key"), Value: []byte("value"), Headers: headers},
		{Value: []byte("value")},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("deleted")},
		{Key: []byte{0, 255}, Value: make([]byte, 500_000), Timestamp: time.UnixMilli(base + 123)},
	}
	for _, record := range records {
		record.Topic = topic
	}
	if _, err := produce(records); err != nil {
		return err
	}
	found, err := readTopic(topic, len(records))
	if err != nil {
		return err
	}
	for n, record := range found {
		if err := same(record, records[n], int64(n)); err != nil {
			return err
		}
	}
	if at := found[4].Timestamp.UnixMilli(); at != base+123 {
		return fmt.Errorf("the timestamp is %d, not %d", at, base+123)
	}
	return nil
}

func numbered(topic string, partition int32, count int) []*kgo.Record {
	var records []*kgo.Record
	for n := range count {
		text := []byte(strconv.Itoa(n))
		at := time.UnixMilli(base + 10*int64(n))
		records = append(records, &kgo.Record{Topic: topic, Partition: partition, Key: text, Value: text, Timestamp: at})
	}
	return records
}

func groupOptions(topic, group, protocol string) []kgo.Opt {
	options := []kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(time.Second),
	}
	if protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	return options
}

// A client that owns the topic's partitions, and what it has read by then.
func joined(topic, protocol string, count int) (*kgo.Client, []*kgo.Record, error) {
	var lock sync.Mutex
	owned := 0
	onAssigned := func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
		lock.Lock()
		defer lock.Unlock()
		owned += len(assigned[topic])
	}
	options := append(groupOptions(topic, topic, protocol), kgo.OnPartitionsAssigned(onAssigned))
	cl, err := client(options...)
	if err != nil {
		return nil, nil, err
	}
	var found []*kgo.Record
	for begin := time.Now(); ; {
		lock.Lock()
		now := owned
		lock.Unlock()
		if now == count {
			return cl, found, nil
		}
		if time.Since(begin) > patience {
			cl.Close()
			return nil, nil, fmt.Errorf("the group %s assigns nothing", topic)
		}
		more, err := fetch(cl)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, more...)
	}
}

func commits(protocol string) error {
	topic := "franz-go-commits-" + protocol
	if err := create(topic, 1); err != nil {
		return err
	}
	if _, err := produce(numbered(topic, 0, 300)); err != nil {
		return err
	}
	start := int64(0)
	for _, offset := range []kadm.Offset{
		{Topic: topic, At: 100, LeaderEpoch: -1, Metadata: "after the first hundred: ä"},
		{Topic: topic, At: 50, LeaderEpoch: -1},
	} {
		err := inGroup(topic, protocol, start, func(cl *kgo.Client) error {
			ctx := kgo.PreCommitFnContext(context.Background(), func(request *kmsg.OffsetCommitRequest) error {
				request.Topics[0].Partitions[0].Metadata = &offset.Metadata
				return nil
			})
			var failure error
			commit := map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: offset.At}}}
			cl.CommitOffsetsSync(ctx, commit, func(
				_ *kgo.Client, _ *kmsg.OffsetCommitRequest, response *kmsg.OffsetCommitResponse, err error,
			) {
				failure = err
				if err == nil {
					failure = kerr.ErrorForCode(response.Topics[0].Partitions[0].ErrorCode)
				}
			})
			return failure
		})
		if err != nil {
			return err
		}
		start = offset.At
		if err := isCommitted(topic, offset); err != nil {
			return err
		}
	}
	// What the group has last is what a fresh member starts at.
	return inGroup(topic, protocol, start, func(*kgo.Client) error { return nil })
}

// Reads from the offset that the group should have to the end, does what is to be done, and leaves.
func inGroup(topic, protocol string, start int64, then func(*kgo.Client) error) error {
	cl, found, err := joined(topic, protocol, 1)
	if err != nil {
		return err
	}
	defer cl.Close()
	rest, err := read(cl, 300-int(start)-len(found))
	if err != nil {
		return err
	}
	for n, record := range append(found, rest...) {
		if record.Offset != start+int64(n) {
			return fmt.Errorf("after a start at %d, record %d has offset %d", start, n, record.Offset)
		}
	}
	return then(cl)
}

func isCommitted(group string, expected kadm.Offset) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	if err != nil {
		return err
	}
	offset, there := found.Lookup(expected.Topic, 0)
	if !there || offset.Err != nil || offset.At != expected.At || offset.Metadata != expected.Metadata {
		return fmt.Errorf("committed is %v, not %v", offset, expected)
	}
	return nil
}

func seek(protocol string) error {
	topic := "franz-go-seek-" + protocol
	if err := create(topic, 1); err != nil {
		return err
	}
	if _, err := produce(numbered(topic, 0, 1000)); err != nil {
		return err
	}
	cl, _, err := joined(topic, protocol, 1)
	if err != nil {
		return err
	}
	defer cl.Close()
	to := func(offset int64) error {
		cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: offset}}})
		for begin := time.Now(); time.Since(begin) < patience; {
			found, err := fetch(cl)
			if err != nil {
				return err
			}
			if len(found) > 0 {
				if found[0].Offset != offset || string(found[0].Value) != strconv.FormatInt(offset, 10) {
					return fmt.Errorf("after a seek to %d comes offset %d", offset, found[0].Offset)
				}
				return nil
			}
		}
		return fmt.Errorf("no record at %d", offset)
	}
	for _, offset := range []int64{990, 7, 999, 0, 500} {
		if err := to(offset); err != nil {
			return err
		}
	}
	admin := kadm.NewClient(cl)
	for _, each := range [][2]int64{{0, 0}, {1, 1}, {10, 1}, {4995, 500}, {9990, 999}, {9991, -1}} {
		listed, err := admin.ListOffsetsAfterMilli(context.Background(), base+each[0], topic)
		if err != nil {
			return err
		}
		found, _ := listed.Lookup(topic, 0)
		// For a time after the last record the client gives the end.
		if each[1] == -1 {
			if found.Offset != 1000 {
				return fmt.Errorf("offset %d is after the last record", found.Offset)
			}
			continue
		}
		if found.Err != nil || found.Offset != each[1] {
			return fmt.Errorf("%d ms have offset %d, not %d (%v)", each[0], found.Offset, each[1], found.Err)
		}
		if err := to(found.Offset); err != nil {
			return err
		}
	}
	return nil
}

func pauseAndResume(protocol string) error {
	topic := "franz-go-pause-" + protocol
	if err := create(topic, 2); err != nil {
		return err
	}
	cl, _, err := joined(topic, protocol, 2)
	if err != nil {
		return err
	}
	defer cl.Close()
	cl.PauseFetchPartitions(map[string][]int32{topic: {0}})
	for partition := range int32(2) {
		if _, err := produce(numbered(topic, partition, 100)); err != nil {
			return err
		}
	}
	expect := func(partition int32) error {
		found, err := read(cl, 100)
		if err != nil {
			return err
		}
		for n, record := range found {
			if record.Partition != partition || record.Offset != int64(n) {
				return fmt.Errorf("record %d is %d-%d", n, record.Partition, record.Offset)
			}
		}
		return nil
	}
	if err := expect(1); err != nil {
		return err
	}
	for begin := time.Now(); time.Since(begin) < time.Second; {
		found, err := fetch(cl)
		if err != nil || len(found) > 0 {
			return fmt.Errorf("%d records of a paused partition (%v)", len(found), err)
		}
	}
	cl.ResumeFetchPartitions(map[string][]int32{topic: {0}})
	return expect(0)
}

func ended() <-chan struct{} {
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	return end
}

func produceUntilTheEnd(topic string) error {
	if err := create(topic, partitions); err != nil {
		return err
	}
	cl, err := client(kgo.ProducerLinger(time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	end, begin, next := ended(), time.Now(), 0
	for {
		for ; float64(next) < time.Since(begin).Seconds()*recordsPerSecond; next++ {
			value := strconv.Itoa(next)
			record := &kgo.Record{Topic: topic, Key: []byte("key " + value), Value: []byte(value)}
			cl.Produce(context.Background(), record, func(record *kgo.Record, err error) {
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("sent %d %d %s\n", record.Partition, record.Offset, record.Value)
			})
		}
		select {
		case <-end:
			return cl.Flush(context.Background())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func member(topic, group, protocol string) error {
	owned := map[int32]bool{}
	say := func() {
		numbers := []string{"owns"}
		for partition := range owned {
			numbers = append(numbers, strconv.Itoa(int(partition)))
		}
		fmt.Println(strings.Join(numbers, " "))
	}
	// Callbacks run only inside of AllowRebalance, so nothing here needs a lock.
	lost := func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
		for _, partition := range partitions[topic] {
			delete(owned, partition)
		}
		say()
	}
	options := append(groupOptions(topic, group, protocol),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			for _, partition := range partitions[topic] {
				owned[partition] = true
			}
			say()
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, partitions map[string][]int32) {
			if err := cl.CommitUncommittedOffsets(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "a commit before partitions are handed over:", err)
			}
			lost(ctx, cl, partitions)
		}),
		kgo.OnPartitionsLost(lost))
	cl, err := client(options...)
	if err != nil {
		return err
	}
	end, nextCommit := ended(), time.Now()
	for {
		found, err := fetch(cl)
		if err != nil {
			return err
		}
		_, generation := cl.GroupMetadata()
		var lines strings.Builder
		for _, record := range found {
			fmt.Fprintf(&lines, "got %d %d %d %s\n", generation, record.Partition, record.Offset, record.Value)
		}
		fmt.Print(lines.String())
		leaving := false
		select {
		case <-end:
			leaving = true
		default:
		}
		if leaving || time.Now().After(nextCommit) {
			nextCommit = time.Now().Add(500 * time.Millisecond)
			err := cl.CommitUncommittedOffsets(context.Background())
			if err == nil && leaving {
				cl.CloseAllowingRebalance()
				fmt.Println("left")
				return nil
			}
			if err != nil {
				// It comes again, at the latest when partitions are handed over.
				fmt.Fprintln(os.Stderr, "a commit:", err)
			}
		}
		cl.AllowRebalance()
	}
}

func committed(topic, group string) error {
	cl, err := client()
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	if err != nil {
		return err
	}
	found.Each(func(offset kadm.OffsetResponse) {
		if offset.Topic == topic && offset.At >= 0 {
			fmt.Printf("committed %d %d\n", offset.Partition, offset.At)
		}
	})
	return found.Error()
}
