import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** What a Java program does with one node; partitions are assigned by hand, as there are no consumer groups yet. */
public class Smoke {
    private static final Duration POLL = Duration.ofMillis(200);
    private static final long TIMEOUT_MS = 30_000;

    private static String bootstrap;
    private static Admin admin;

    private interface Test {
        void run() throws Exception;
    }

    public static void main(String[] arguments) {
        bootstrap = arguments[0];
        admin = Admin.create(settings(Map.of("default.api.timeout.ms", "30000")));
        int[] counts = new int[2];
        long begin = System.nanoTime();
        test(counts, "topics are created, listed, described and deleted", Smoke::topics);
        test(counts, "every codec and every acks", Smoke::codecs);
        test(counts, "keys, headers and nulls", Smoke::keysHeadersAndNulls);
        test(counts, "keys choose the partition, and keep their order", Smoke::keysChooseThePartition);
        test(counts, "offsets", Smoke::offsets);
        test(counts, "timestamps", Smoke::timestamps);
        test(counts, "a record that is too large", Smoke::tooLarge);
        test(counts, "the cluster", Smoke::cluster);
        admin.close();
        String verdict = counts[1] == 0 ? "ok" : "FAILED";
        System.out.printf(
                "test result: %s. %d passed; %d failed; 0 ignored; finished in %ds%n",
                verdict, counts[0], counts[1], (System.nanoTime() - begin) / 1_000_000_000L);
        System.exit(counts[1] == 0 ? 0 : 1);
    }

    private static void test(int[] counts, String name, Test test) {
        try {
            test.run();
            counts[0]++;
            System.out.printf("test %s ... ok%n", name);
        } catch (Throwable failure) {
            counts[1]++;
            System.out.printf("test %s ... FAILED%n", name);
            failure.printStackTrace(System.out);
        }
    }

    private static void topics() throws Exception {
        create("admin", 3);
        equal(3, admin.describeTopics(List.of("admin")).allTopicNames().get().get("admin").partitions().size());
        expect(TopicExistsException.class, () -> create("admin", 1));
        produce("admin", Map.of(), List.of(record("admin", 0, null, "of the first topic")));
        var first = admin.describeTopics(List.of("admin")).allTopicNames().get().get("admin").topicId();
        admin.deleteTopics(List.of("admin")).all().get();
        equal(false, admin.listTopics().names().get().contains("admin"));
        expect(UnknownTopicOrPartitionException.class, () -> admin.deleteTopics(List.of("admin")).all().get());
        create("admin", 1);
        equal(false, first.equals(admin.describeTopics(List.of("admin")).allTopicNames().get().get("admin").topicId()));
        equal(List.of(), consume("admin", 1, 0));
    }

    private static void codecs() throws Exception {
        List<String> expected = IntStream.range(0, 2000).mapToObj(n -> (n + " ").repeat(20)).toList();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            for (String acks : List.of("0", "1", "all")) {
                String topic = "codec-" + codec + "-" + acks;
                create(topic, 1);
                Map<String, String> settings = new HashMap<>(Map.of("compression.type", codec, "acks", acks));
                // The default, idempotence, asks for acks=all.
                settings.put("enable.idempotence", String.valueOf(acks.equals("all")));
                List<RecordMetadata> delivered =
                        produce(topic, settings, expected.stream().map(v -> record(topic, 0, null, v)).toList());
                if (!acks.equals("0")) {
                    equal(offsets(0, 2000), delivered.stream().map(RecordMetadata::offset).toList());
                }
                List<ConsumerRecord<byte[], byte[]>> found = consumeCount(topic, 2000);
                equal(expected, found.stream().map(r -> text(r.value())).toList());
                equal(offsets(0, 2000), found.stream().map(ConsumerRecord::offset).toList());
            }
        }
    }

    private static void keysHeadersAndNulls() throws Exception {
        create("records", 1);
        var all = record("records", 0, "key", "value");
        for (String header : List.of("a=1", "a=2", "b=", "a=3")) {
            String[] parts = header.split("=", 2);
            all.headers().add(new RecordHeader(parts[0], bytes(parts[1])));
        }
        all.headers().add(new RecordHeader("none", (byte[]) null));
        byte[] large = new byte[500_000];
        List<ProducerRecord<byte[], byte[]>> records = List.of(
                all,
                new ProducerRecord<>("records", 0, null, bytes("value")),
                new ProducerRecord<>("records", 0, bytes(""), bytes("")),
                new ProducerRecord<>("records", 0, bytes("deleted"), null),
                new ProducerRecord<>("records", 0, 1_700_000_000_123L, new byte[] {0, -1}, large));
        produce("records", Map.of(), records);
        var found = consume("records", 1, 0);
        equal(records.size(), found.size());
        for (int at = 0; at < records.size(); at++) {
            equal(true, Arrays.equals(records.get(at).key(), found.get(at).key()));
            equal(true, Arrays.equals(records.get(at).value(), found.get(at).value()));
            equal(List.of(records.get(at).headers().toArray()), List.of(found.get(at).headers().toArray()));
        }
        equal(1_700_000_000_123L, found.get(4).timestamp());
        equal(Optional.of(0), found.get(0).leaderEpoch().map(epoch -> Math.min(epoch, 0)));
    }

    private static void keysChooseThePartition() throws Exception {
        create("keyed", 8);
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int n = 0; n < 20_000; n++) {
            records.add(new ProducerRecord<>("keyed", bytes("key-" + n % 100), bytes(String.valueOf(n))));
        }
        var delivered = produce("keyed", Map.of("batch.size", "4096", "linger.ms", "1"), records);
        equal(20_000, new HashSet<>(delivered.stream().map(m -> m.partition() + "@" + m.offset()).toList()).size());
        Map<String, Integer> partitionOf = new HashMap<>();
        Map<String, Integer> lastOf = new HashMap<>();
        Set<Integer> values = new HashSet<>();
        for (var found : consume("keyed", 8, 0)) {
            String key = text(found.key());
            int value = Integer.parseInt(text(found.value()));
            equal(found.partition(), partitionOf.computeIfAbsent(key, k -> found.partition()));
            Integer last = lastOf.put(key, value);
            equal(true, last == null || last < value);
            equal(true, values.add(value));
        }
        equal(20_000, values.size());
    }

    private static void offsets() throws Exception {
        create("offsets", 1);
        produce("offsets", Map.of(), IntStream.range(0, 1000).mapToObj(n -> record("offsets", 0, null, "" + n)).toList());
        for (int from : List.of(0, 1, 499, 999, 1000)) {
            equal(offsets(from, 1000), consume("offsets", 1, from).stream().map(ConsumerRecord::offset).toList());
        }
        TopicPartition partition = new TopicPartition("offsets", 0);
        try (var consumer = consumer()) {
            equal(Map.of(partition, 0L), consumer.beginningOffsets(List.of(partition)));
            equal(Map.of(partition, 1000L), consumer.endOffsets(List.of(partition)));
            consumer.assign(List.of(partition));
            for (long to : List.of(900L, 17L, 500L)) {
                consumer.seek(partition, to);
                equal(to, pollSome(consumer).get(0).offset());
            }
        }
    }

    private static void timestamps() throws Exception {
        create("times", 1);
        long base = 1_700_000_000_000L;
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int n = 0; n < 1000; n++) {
            // Every time is there twice.
            records.add(new ProducerRecord<>("times", 0, base + 10 * (n / 2), null, bytes("" + n)));
        }
        produce("times", Map.of("compression.type", "zstd"), records);
        TopicPartition partition = new TopicPartition("times", 0);
        try (var consumer = consumer()) {
            Map<Long, Long> expected = Map.of(0L, 0L, base, 0L, base + 1, 2L, base + 2500, 500L, base + 4990, 998L);
            for (var entry : expected.entrySet()) {
                OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, entry.getKey())).get(partition);
                equal(entry.getValue(), found.offset());
                equal(base + 10 * (found.offset() / 2), found.timestamp());
            }
            equal(null, consumer.offsetsForTimes(Map.of(partition, base + 4991)).get(partition));
        }
        equal(0L, listed(partition, OffsetSpec.earliest()).offset());
        equal(1000L, listed(partition, OffsetSpec.latest()).offset());
        equal(502L, listed(partition, OffsetSpec.forTimestamp(base + 2501)).offset());
        equal(998L, listed(partition, OffsetSpec.maxTimestamp()).offset());
    }

    private static void tooLarge() throws Exception {
        create("large", 1);
        var record = new ProducerRecord<>("large", 0, (byte[]) null, new byte[2_000_000]);
        expect(
                RecordTooLargeException.class,
                () -> produce("large", Map.of("max.request.size", "3000000"), List.of(record)));
        equal(List.of(), consume("large", 1, 0));
    }

    private static void cluster() throws Exception {
        var cluster = admin.describeCluster();
        var nodes = cluster.nodes().get();
        equal(1, nodes.size());
        var node = nodes.iterator().next();
        equal(bootstrap, node.host() + ":" + node.port());
        equal(node.id(), cluster.controller().get().id());
        equal(false, cluster.clusterId().get().isEmpty());
    }

    private static ListOffsetsResultInfo listed(TopicPartition partition, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(partition, spec)).partitionResult(partition).get();
    }

    private static void create(String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
    }

    private static List<RecordMetadata> produce(
            String topic, Map<String, String> more, List<ProducerRecord<byte[], byte[]>> records) throws Exception {
        List<Future<RecordMetadata>> futures = new ArrayList<>();
        try (var producer =
                new KafkaProducer<>(settings(more), new ByteArraySerializer(), new ByteArraySerializer())) {
            for (var record : records) {
                futures.add(producer.send(record));
            }
        }
        List<RecordMetadata> delivered = new ArrayList<>();
        for (var future : futures) {
            delivered.add(future.get());
        }
        return delivered;
    }

    private static KafkaConsumer<byte[], byte[]> consumer() {
        Map<String, Object> settings = settings(Map.of("auto.offset.reset", "none", "enable.auto.commit", "false"));
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    /** Everything from an offset to what is the end when the reading begins. */
    private static List<ConsumerRecord<byte[], byte[]>> consume(String topic, int partitions, long from) {
        List<TopicPartition> all =
                IntStream.range(0, partitions).mapToObj(partition -> new TopicPartition(topic, partition)).toList();
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        try (var consumer = consumer()) {
            consumer.assign(all);
            all.forEach(partition -> consumer.seek(partition, from));
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.currentTimeMillis() + TIMEOUT_MS;
            while (all.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                equal(true, System.currentTimeMillis() < deadline);
                consumer.poll(POLL).forEach(found::add);
            }
        }
        return found;
    }

    /** The records of a partition once there are that many; those sent without acknowledgement may be on their way. */
    private static List<ConsumerRecord<byte[], byte[]>> consumeCount(String topic, int count) throws Exception {
        long deadline = System.currentTimeMillis() + TIMEOUT_MS;
        while (true) {
            var found = consume(topic, 1, 0);
            if (found.size() >= count || System.currentTimeMillis() > deadline) {
                return found;
            }
            Thread.sleep(20);
        }
    }

    private static List<ConsumerRecord<byte[], byte[]>> pollSome(KafkaConsumer<byte[], byte[]> consumer) {
        long deadline = System.currentTimeMillis() + TIMEOUT_MS;
        while (System.currentTimeMillis() < deadline) {
            List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
            consumer.poll(POLL).forEach(found::add);
            if (!found.isEmpty()) {
                return found;
            }
        }
        throw new AssertionError("no record");
    }

    private static Map<String, Object> settings(Map<String, String> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        return settings;
    }

    private static ProducerRecord<byte[], byte[]> record(String topic, int partition, String key, String value) {
        return new ProducerRecord<>(topic, partition, key == null ? null : bytes(key), bytes(value));
    }

    private static List<Long> offsets(long from, long to) {
        List<Long> offsets = new ArrayList<>();
        for (long offset = from; offset < to; offset++) {
            offsets.add(offset);
        }
        return offsets;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static void equal(Object expected, Object actual) {
        if (expected == null ? actual != null : !expected.equals(actual)) {
            String found = String.valueOf(actual);
            throw new AssertionError(found.substring(0, Math.min(found.length(), 500)) + " is not " + expected);
        }
    }

    private static void expect(Class<? extends Exception> cause, Test test) throws Exception {
        try {
            test.run();
        } catch (ExecutionException failure) {
            if (cause.isInstance(failure.getCause())) {
                return;
            }
            throw failure;
        }
        throw new AssertionError("no " + cause.getSimpleName());
    }
}
