import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Daily use (../README.md) with the Java client of whichever version the class path has. */
public class Daily {
    private static final int PARTITIONS = 6;
    private static final int RECORDS_PER_S = 150;
    private static final long PATIENCE_MS = 30_000;
    private static final Duration POLL = Duration.ofMillis(50);
    /** In the past, but not by so much that the records were to be deleted at once. */
    private static final long BASE_MS = System.currentTimeMillis() - 3_600_000;

    private static final String NAME = "java-" + System.getProperty("version");
    private static String bootstrap;

    private interface Test {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        bootstrap = arguments[1];
        switch (arguments[0]) {
            case "plain" -> System.exit(plain(Arrays.asList(arguments).subList(2, arguments.length)) ? 0 : 1);
            case "produce" -> produceUntilTheEnd(arguments[2]);
            case "member" -> new Member(arguments[2], arguments[3], arguments[4]).run();
            case "committed" -> committed(arguments[2], arguments[3]);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.exit(0);
    }

    private static boolean plain(List<String> protocols) {
        int[] counts = new int[2];
        long begin = System.nanoTime();
        test(counts, "codecs and acks", Daily::codecsAndAcks);
        test(counts, "records", Daily::records);
        for (String protocol : protocols) {
            test(counts, "commits, " + protocol, () -> commits(protocol));
            test(counts, "seek, " + protocol, () -> seek(protocol));
            test(counts, "pause and resume, " + protocol, () -> pauseAndResume(protocol));
        }
        System.out.printf(
                "test result: %s. %d passed; %d failed; 0 ignored; finished in %ds%n",
                counts[1] == 0 ? "ok" : "FAILED", counts[0], counts[1], (System.nanoTime() - begin) / 1_000_000_000L);
        return counts[1] == 0;
    }

    private static void test(int[] counts, String name, Test test) {
        long begin = System.nanoTime();
        String verdict = "ok";
        try {
            test.run();
            counts[0]++;
        } catch (Throwable failure) {
            counts[1]++;
            verdict = "FAILED";
            failure.printStackTrace(System.out);
        }
        System.out.printf("test %s: %s ... %s (%.1f s)%n", NAME, name, verdict, (System.nanoTime() - begin) / 1e9);
    }

    private static void codecsAndAcks() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            for (String acks : List.of("0", "1", "all")) {
                String topic = NAME + "-" + codec + "-" + acks;
                create(topic, 1);
                List<ProducerRecord<byte[], byte[]>> records = IntStream.range(0, 200)
                        .mapToObj(n -> new ProducerRecord<>(
                                topic, 0, n % 2 == 1 ? bytes("" + n) : null, bytes((n + " ").repeat(20))))
                        .toList();
                var delivered = produce(records, codec, acks).stream().map(RecordMetadata::offset).toList();
                if (!acks.equals("0")) {
                    equal(offsets(0, 200), delivered);
                }
                try (var consumer = consumer(null, null)) {
                    assign(consumer, topic);
                    var found = read(consumer, 200);
                    for (int at = 0; at < 200; at++) {
                        equal(text(records.get(at).key()), text(found.get(at).key()));
                        equal(text(records.get(at).value()), text(found.get(at).value()));
                    }
                    equal(offsets(0, 200), offsets(found));
                }
            }
        }
    }

    private static void records() throws Exception {
        String topic = NAME + "-records";
        create(topic, 1);
        var first = new ProducerRecord<>(topic, 0, bytes("key"), bytes("value"));
        for (String header : List.of("a=1", "a=2", "b", "c=", "=4", "a=3")) {
            String[] parts = header.split("=", 2);
            first.headers().add(new RecordHeader(parts[0], parts.length == 1 ? null : bytes(parts[1])));
        }
        List<ProducerRecord<byte[], byte[]>> records = List.of(
                first,
                new ProducerRecord<>(topic, 0, null, bytes("value")),
                new ProducerRecord<>(topic, 0, bytes(""), bytes("")),
                new ProducerRecord<>(topic, 0, bytes("deleted"), null),
                new ProducerRecord<>(topic, 0, BASE_MS + 123, new byte[] {0, -1}, new byte[500_000]));
        produce(records, "none", "all");
        try (var consumer = consumer(null, null)) {
            assign(consumer, topic);
            var found = read(consumer, records.size());
            for (int at = 0; at < records.size(); at++) {
                equal(Arrays.toString(records.get(at).key()), Arrays.toString(found.get(at).key()));
                equal(Arrays.toString(records.get(at).value()), Arrays.toString(found.get(at).value()));
                equal(headers(records.get(at).headers()), headers(found.get(at).headers()));
            }
            equal(BASE_MS + 123, found.get(4).timestamp());
        }
    }

    private static String headers(Iterable<Header> headers) {
        StringBuilder all = new StringBuilder();
        headers.forEach(header -> all.append(header.key()).append('=').append(text(header.value())).append(';'));
        return all.toString();
    }

    private static void commits(String protocol) throws Exception {
        String topic = NAME + "-commits-" + protocol;
        create(topic, 1);
        produce(numbered(topic, 0, 300), "none", "all");
        var partition = new TopicPartition(topic, 0);
        int start = 0;
        for (var offset : List.of(new OffsetAndMetadata(100, "after the first hundred: ä"), new OffsetAndMetadata(50, ""))) {
            List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
            try (var consumer = joined(topic, protocol, 1, found)) {
                if (start == 0) {
                    equal(null, consumer.committed(Set.of(partition)).get(partition));
                }
                found.addAll(read(consumer, 300 - start - found.size()));
                equal(offsets(start, 300), offsets(found));
                consumer.commitSync(Map.of(partition, offset));
            }
            found.clear();
            // It leaves without a commit, so that the offset stays.
            try (var fresh = joined(topic, protocol, 1, found)) {
                equal(offset, fresh.committed(Set.of(partition)).get(partition));
                found.addAll(read(fresh, 300 - (int) offset.offset() - found.size()));
                equal(offsets((int) offset.offset(), 300), offsets(found));
            }
            start = (int) offset.offset();
        }
    }

    private static void seek(String protocol) throws Exception {
        String topic = NAME + "-seek-" + protocol;
        create(topic, 1);
        produce(numbered(topic, 0, 1000), "none", "all");
        var partition = new TopicPartition(topic, 0);
        try (var consumer = joined(topic, protocol, 1, new ArrayList<>())) {
            for (long offset : new long[] {990, 7, 999, 0, 500}) {
                consumer.seek(partition, offset);
                first(consumer, offset);
            }
            for (long[] each : new long[][] {{0, 0}, {1, 1}, {10, 1}, {4995, 500}, {9990, 999}}) {
                long found = consumer.offsetsForTimes(Map.of(partition, BASE_MS + each[0])).get(partition).offset();
                equal(each[1], found);
                consumer.seek(partition, found);
                first(consumer, found);
            }
            equal(null, consumer.offsetsForTimes(Map.of(partition, BASE_MS + 9991)).get(partition));
        }
    }

    private static void first(KafkaConsumer<byte[], byte[]> consumer, long offset) {
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (System.currentTimeMillis() < deadline) {
            for (var record : consumer.poll(POLL)) {
                equal(offset, record.offset());
                equal("" + offset, text(record.value()));
                return;
            }
        }
        throw new AssertionError("no record");
    }

    private static void pauseAndResume(String protocol) throws Exception {
        String topic = NAME + "-pause-" + protocol;
        create(topic, 2);
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        try (var consumer = joined(topic, protocol, 2, found)) {
            equal(0, found.size());
            consumer.pause(Set.of(new TopicPartition(topic, 0)));
            produce(numbered(topic, 0, 100), "none", "all");
            produce(numbered(topic, 1, 100), "none", "all");
            found.addAll(read(consumer, 100));
            long deadline = System.currentTimeMillis() + 1000;
            while (System.currentTimeMillis() < deadline) {
                consumer.poll(POLL).forEach(found::add);
            }
            equal(offsets(0, 100), offsets(found));
            equal(true, found.stream().allMatch(record -> record.partition() == 1));
            consumer.resume(Set.of(new TopicPartition(topic, 0)));
            var rest = read(consumer, 100);
            equal(offsets(0, 100), offsets(rest));
            equal(true, rest.stream().allMatch(record -> record.partition() == 0));
        }
    }

    /** A consumer that owns the topic; what it has read by then is added to `found`. */
    private static KafkaConsumer<byte[], byte[]> joined(
            String topic, String protocol, int partitions, List<ConsumerRecord<byte[], byte[]>> found) {
        var consumer = consumer(topic, protocol);
        consumer.subscribe(List.of(topic));
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (consumer.assignment().size() < partitions) {
            if (System.currentTimeMillis() > deadline) {
                throw new AssertionError("the group assigns nothing");
            }
            consumer.poll(POLL).forEach(found::add);
        }
        return consumer;
    }

    private static void produceUntilTheEnd(String topic) throws Exception {
        create(topic, PARTITIONS);
        AtomicBoolean ended = endOfInput();
        long begin = System.nanoTime();
        try (var producer = producer("none", "all")) {
            for (int next = 0; !ended.get(); Thread.sleep(20)) {
                for (; next < (System.nanoTime() - begin) / 1e9 * RECORDS_PER_S; next++) {
                    int value = next;
                    producer.send(new ProducerRecord<>(topic, bytes("key " + value), bytes("" + value)), (at, error) -> {
                        if (error != null) {
                            error.printStackTrace();
                            System.exit(1);
                        }
                        System.out.println("sent " + at.partition() + " " + at.offset() + " " + value);
                    });
                }
            }
        }
    }

    private static AtomicBoolean endOfInput() {
        AtomicBoolean ended = new AtomicBoolean();
        Thread reader = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException failure) {
                // Ended, too.
            }
            ended.set(true);
        });
        reader.setDaemon(true);
        reader.start();
        return ended;
    }

    private static final class Member implements ConsumerRebalanceListener {
        private final String topic;
        private final KafkaConsumer<byte[], byte[]> consumer;
        private final Map<TopicPartition, OffsetAndMetadata> done = new HashMap<>();
        private final Set<Integer> owned = new TreeSet<>();

        Member(String topic, String group, String protocol) {
            this.topic = topic;
            this.consumer = consumer(group, protocol);
        }

        void run() {
            AtomicBoolean ended = endOfInput();
            consumer.subscribe(List.of(topic), this);
            long nextCommit = 0;
            for (boolean left = false; !left; ) {
                boolean leaving = ended.get();
                var found = consumer.poll(POLL);
                int generation = consumer.groupMetadata().generationId();
                StringBuilder lines = new StringBuilder();
                for (var record : found) {
                    lines.append("got %d %d %d %s%n".formatted(
                            generation, record.partition(), record.offset(), text(record.value())));
                    done.put(new TopicPartition(topic, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                System.out.print(lines);
                System.out.flush();
                if (leaving || System.currentTimeMillis() >= nextCommit) {
                    nextCommit = System.currentTimeMillis() + 500;
                    try {
                        consumer.commitSync(done);
                        left = leaving;
                    } catch (CommitFailedException | RebalanceInProgressException rebalance) {
                        // It comes again, at the latest when partitions are handed over.
                    }
                }
            }
            consumer.close();
            System.out.println("left");
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> owned.add(partition.partition()));
            sayWhatIsOwned();
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            var wanted = new HashMap<>(done);
            wanted.keySet().retainAll(partitions);
            if (!wanted.isEmpty()) {
                consumer.commitSync(wanted);
            }
            onPartitionsLost(partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            done.keySet().removeAll(partitions);
            partitions.forEach(partition -> owned.remove(partition.partition()));
            sayWhatIsOwned();
        }

        private void sayWhatIsOwned() {
            System.out.println("owns " + owned.stream().map(String::valueOf).collect(Collectors.joining(" ")));
        }
    }

    private static void committed(String topic, String group) {
        try (var consumer = consumer(group, "classic")) {
            var partitions = IntStream.range(0, PARTITIONS).mapToObj(at -> new TopicPartition(topic, at));
            consumer.committed(partitions.collect(Collectors.toSet())).forEach((partition, offset) -> {
                if (offset != null) {
                    System.out.println("committed " + partition.partition() + " " + offset.offset());
                }
            });
        }
    }

    private static List<ProducerRecord<byte[], byte[]>> numbered(String topic, int partition, int count) {
        return IntStream.range(0, count)
                .mapToObj(n -> new ProducerRecord<>(topic, partition, BASE_MS + 10 * n, bytes("" + n), bytes("" + n)))
                .toList();
    }

    private static void create(String topic, int partitions) throws Exception {
        try (var admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
            // README.md, "A new topic".
            var ends = IntStream.range(0, partitions)
                    .boxed()
                    .collect(Collectors.toMap(at -> new TopicPartition(topic, at), at -> OffsetSpec.latest()));
            for (long deadline = System.currentTimeMillis() + PATIENCE_MS; ; Thread.sleep(10)) {
                try {
                    admin.listOffsets(ends).all().get();
                    return;
                } catch (ExecutionException failure) {
                    if (!(failure.getCause() instanceof RetriableException) || System.currentTimeMillis() > deadline) {
                        throw failure;
                    }
                }
            }
        }
    }

    private static KafkaProducer<byte[], byte[]> producer(String codec, String acks) {
        return new KafkaProducer<>(
                Map.of(
                        "bootstrap.servers", bootstrap,
                        "compression.type", codec,
                        "acks", acks,
                        // The default, idempotence, asks for acks=all.
                        "enable.idempotence", acks.equals("all")),
                new ByteArraySerializer(),
                new ByteArraySerializer());
    }

    private static List<RecordMetadata> produce(List<ProducerRecord<byte[], byte[]>> records, String codec, String acks)
            throws Exception {
        List<Future<RecordMetadata>> futures = new ArrayList<>();
        try (var producer = producer(codec, acks)) {
            records.forEach(record -> futures.add(producer.send(record)));
        }
        List<RecordMetadata> delivered = new ArrayList<>();
        for (var future : futures) {
            delivered.add(future.get());
        }
        return delivered;
    }

    private static KafkaConsumer<byte[], byte[]> consumer(String group, String protocol) {
        Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", bootstrap, "auto.offset.reset", "earliest", "enable.auto.commit", "false"));
        if (group != null) {
            settings.put("group.id", group);
            settings.put("group.protocol", protocol);
            if (protocol.equals("classic")) {
                settings.put("session.timeout.ms", "6000");
                settings.put("heartbeat.interval.ms", "1000");
            }
        }
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static void assign(KafkaConsumer<byte[], byte[]> consumer, String topic) {
        consumer.assign(List.of(new TopicPartition(topic, 0)));
    }

    private static List<ConsumerRecord<byte[], byte[]>> read(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (found.size() < count) {
            if (System.currentTimeMillis() > deadline) {
                throw new AssertionError(found.size() + " records of " + count);
            }
            consumer.poll(POLL).forEach(found::add);
        }
        equal(count, found.size());
        return found;
    }

    private static List<Long> offsets(int start, int end) {
        return IntStream.range(start, end).mapToObj(n -> (long) n).toList();
    }

    private static List<Long> offsets(List<ConsumerRecord<byte[], byte[]>> records) {
        return records.stream().map(ConsumerRecord::offset).toList();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8);
    }

    private static void equal(Object expected, Object actual) {
        if (expected == null ? actual != null : !expected.equals(actual)) {
            String found = String.valueOf(actual), wanted = String.valueOf(expected);
            throw new AssertionError(found.substring(0, Math.min(found.length(), 500)) + " is not "
                    + wanted.substring(0, Math.min(wanted.length(), 500)));
        }
    }
}
