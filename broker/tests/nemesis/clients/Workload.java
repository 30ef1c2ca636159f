import java.io.BufferedWriter;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStreamWriter;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** A client process of the nemesis with the Java client: the roles of with_confluent_kafka.py. */
public class Workload {
    private static final Duration POLL = Duration.ofMillis(100);
    private static final long CLOSE_S = 60;
    private static final long DRAIN_MS = 40_000;
    /** So many records may be on their way; an outage shall not pile up more. */
    private static final int MOST_OPEN = 1000;

    private static final AtomicBoolean stopping = new AtomicBoolean();
    private static Settings settings;
    private static History history;

    public static void main(String[] arguments) throws Exception {
        settings = new Settings(arguments[3]);
        history = new History(arguments[1], arguments[2]);
        Thread input = new Thread(Workload::stopAtEndOfInput);
        input.setDaemon(true);
        input.start();
        switch (arguments[0]) {
            case "producer" -> produce(arguments[1]);
            case "consumer" -> new Watcher().run();
            case "member" -> new Member(settings.text("group")).run();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.exit(0);
    }

    private static void stopAtEndOfInput() {
        try {
            while (System.in.read() >= 0) {
                continue;
            }
        } catch (IOException broken) {
            System.err.println(broken);
        }
        stopping.set(true);
    }

    /** One JSON object without any nesting. */
    private record Settings(String json) {
        private String find(String name, String form) {
            Matcher matcher = Pattern.compile('"' + name + "\": *" + form).matcher(json);
            if (!matcher.find()) {
                throw new IllegalArgumentException(name + " is not in " + json);
            }
            return matcher.group(1);
        }

        String text(String name) {
            return find(name, "\"([^\"]*)\"");
        }

        double number(String name) {
            return Double.parseDouble(find(name, "([-0-9.]+)"));
        }

        boolean flag(String name) {
            return find(name, "(true|false)").equals("true");
        }

        List<TopicPartition> partitions() {
            String topic = text("topic");
            return IntStream.range(0, (int) number("partitions")).mapToObj(one -> new TopicPartition(topic, one)).toList();
        }
    }

    /** The lines of ../README.md. */
    private static class History {
        private final BufferedWriter file;
        private volatile String client;
        private int numbers;

        History(String client, String path) throws IOException {
            this.client = client;
            file = new BufferedWriter(new OutputStreamWriter(new FileOutputStream(path, true), StandardCharsets.UTF_8));
        }

        /** Names and JSON values in turn; written at once, as a process that is killed has to have told what it announced. */
        synchronized void write(String op, Object... fields) {
            StringBuilder line = new StringBuilder("{\"op\":\"" + op + "\",\"t\":" + System.nanoTime());
            for (int at = 0; at < fields.length; at += 2) {
                line.append(",\"").append(fields[at]).append("\":").append(fields[at + 1]);
            }
            try {
                file.write(line.append("}\n").toString());
                file.flush();
            } catch (IOException failure) {
                throw new UncheckedIOException(failure);
            }
        }

        String client() {
            return quote(client);
        }

        synchronized int begin(String op, Object... fields) {
            List<Object> all = new ArrayList<>(List.of("ev", quote("invoke"), "client", client(), "n", ++numbers));
            all.addAll(List.of(fields));
            write(op, all.toArray());
            return numbers;
        }

        void end(String op, int number, String event, Object... fields) {
            List<Object> all = new ArrayList<>(List.of("ev", quote(event), "client", client(), "n", number));
            all.addAll(List.of(fields));
            write(op, all.toArray());
        }

        void note(Object what) {
            write("note", "client", client(), "text", quote(String.valueOf(what)));
        }
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char one : text.toCharArray()) {
            quoted.append(one < ' ' || one > '~' || one == '"' || one == '\\' ? "\\u%04x".formatted((int) one) : one);
        }
        return quoted.append('"').toString();
    }

    private static long checksum(byte[] value) {
        CRC32 sum = new CRC32();
        sum.update(value);
        return sum.getValue();
    }

    private static byte[] valueOf(String identity, int size) {
        StringBuilder text = new StringBuilder(identity + " ");
        String filling = "%08x".formatted(checksum(identity.getBytes(StandardCharsets.UTF_8)));
        while (text.length() < size) {
            text.append(filling);
        }
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static String identityOf(byte[] value) {
        String text = value == null ? "" : new String(value, StandardCharsets.UTF_8);
        return text.split(" ", 2)[0];
    }

    private static Map<String, Object> common() {
        return new HashMap<>(Map.of(
            "bootstrap.servers", settings.text("bootstrap"),
            "retry.backoff.ms", 20,
            "reconnect.backoff.ms", 10,
            "reconnect.backoff.max.ms", 500,
            "request.timeout.ms", 5000,
            "metadata.max.age.ms", 2000));
    }

    private static void produce(String name) throws InterruptedException {
        Map<String, Object> config = common();
        int timeout = (int) settings.number("timeout_ms");
        int acks = (int) settings.number("acks");
        boolean idempotent = settings.flag("idempotent");
        config.put("acks", acks < 0 ? "all" : String.valueOf(acks));
        config.put("enable.idempotence", idempotent);
        config.put("linger.ms", (int) settings.number("linger_ms"));
        config.put("delivery.timeout.ms", timeout);
        config.put("max.block.ms", timeout);
        Random random = new Random((name + settings.number("seed")).hashCode());
        String topic = settings.text("topic");
        int partitions = (int) settings.number("partitions");
        AtomicInteger open = new AtomicInteger();
        long pause = (long) (1e9 / settings.number("rate"));
        long due = System.nanoTime();
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int sent = 0; !stopping.get(); ) {
                if (open.get() < MOST_OPEN) {
                    String identity = quote(name + "-" + sent++);
                    int partition = random.nextInt(partitions);
                    byte[] value = valueOf(identity.substring(1, identity.length() - 1), 20 + random.nextInt(280));
                    // Written before it is sent.
                    history.write("produce", "ev", quote("invoke"), "client", history.client(), "topic", quote(topic),
                        "partition", partition, "id", identity, "checksum", checksum(value), "acks", acks,
                        "idempotent", idempotent);
                    open.incrementAndGet();
                    producer.send(new ProducerRecord<>(topic, partition, null, value), (metadata, failure) -> {
                        open.decrementAndGet();
                        if (failure == null) {
                            history.write("produce", "ev", quote("ok"), "id", identity, "offset", metadata.offset());
                        } else {
                            // The client does not say whether a request had been sent: nobody knows.
                            history.write("produce", "ev", quote("unknown"), "id", identity, "error",
                                quote(failure.toString()));
                        }
                    });
                }
                due = Math.max(due + pause, System.nanoTime() - 1_000_000_000L);
                long left = due - System.nanoTime();
                if (left > 0) {
                    Thread.sleep(left / 1_000_000, (int) (left % 1_000_000));
                }
            }
            producer.flush();
            producer.close(Duration.ofSeconds(CLOSE_S));
        }
    }

    /** Reads all partitions from their beginning, assigned by hand, and asks for their ends. */
    private static class Watcher {
        protected final KafkaConsumer<byte[], byte[]> consumer;
        protected final Map<TopicPartition, Long> position = new LinkedHashMap<>();

        Watcher() {
            this(null);
            history.write("assign", "client", history.client());
            consumer.assign(settings.partitions());
            consumer.seekToBeginning(settings.partitions());
        }

        protected Watcher(String group) {
            Map<String, Object> config = common();
            config.put("enable.auto.commit", false);
            config.put("auto.offset.reset", "earliest");
            config.put("fetch.max.wait.ms", 100);
            config.put("default.api.timeout.ms", 10_000);
            if (group != null) {
                config.put("group.id", group);
                config.put("session.timeout.ms", 6000);
                config.put("heartbeat.interval.ms", 1000);
            }
            consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        }

        void poll() {
            var records = consumer.poll(POLL);
            for (TopicPartition partition : records.partitions()) {
                List<ConsumerRecord<byte[], byte[]>> found = records.records(partition);
                String lines = found.stream().map(Watcher::describe).collect(Collectors.joining(",", "[", "]"));
                history.write("poll", "client", history.client(), "topic", quote(partition.topic()),
                    "partition", partition.partition(), "records", lines);
                position.put(partition, found.get(found.size() - 1).offset() + 1);
            }
        }

        private static String describe(ConsumerRecord<byte[], byte[]> record) {
            byte[] value = record.value() == null ? new byte[0] : record.value();
            return "[%d,%s,%d,%d]".formatted(record.offset(), quote(identityOf(value)), checksum(value), record.timestamp());
        }

        Map<TopicPartition, Long> askEnds(Collection<TopicPartition> partitions, int patienceMs) {
            try {
                var ends = consumer.endOffsets(partitions, Duration.ofMillis(patienceMs));
                history.write("ends", "client", history.client(), "offsets", offsets(ends));
                return ends;
            } catch (KafkaException failure) {
                history.note(failure);
                return null;
            }
        }

        protected static String offsets(Map<TopicPartition, Long> all) {
            return all.entrySet().stream().map(one -> "[%s,%d,%d]".formatted(
                quote(one.getKey().topic()), one.getKey().partition(), one.getValue())).collect(Collectors.joining(",", "[", "]"));
        }

        protected boolean reached(Map<TopicPartition, Long> ends, Map<TopicPartition, Long> floor) {
            return ends != null && ends.entrySet().stream().allMatch(one ->
                position.getOrDefault(one.getKey(), floor.getOrDefault(one.getKey(), 0L)) >= one.getValue());
        }

        void run() {
            long due = System.currentTimeMillis();
            while (!stopping.get()) {
                poll();
                if (System.currentTimeMillis() >= due) {
                    askEnds(settings.partitions(), 2000);
                    due = System.currentTimeMillis() + 1000;
                }
            }
            long deadline = System.currentTimeMillis() + DRAIN_MS;
            var ends = askEnds(settings.partitions(), 10_000);
            while (!reached(ends, Map.of())) {
                if (System.currentTimeMillis() > deadline) {
                    history.note("stopped at " + position + " of " + ends);
                    break;
                }
                poll();
                ends = ends == null ? askEnds(settings.partitions(), 10_000) : ends;
            }
            consumer.close();
        }
    }

    /** A member of a group, which commits what it has read. */
    private static class Member extends Watcher implements ConsumerRebalanceListener {
        private final String group;
        private Map<TopicPartition, Long> begins = Map.of();
        private final Map<TopicPartition, Long> committed = new HashMap<>();

        Member(String group) {
            super(group);
            this.group = group;
            consumer.subscribe(List.of(settings.text("topic")), this);
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            history.write("assign", "client", history.client());
            position.clear();
            committed.clear();
            begins = askCommitted(consumer.assignment());
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            commit();
            position.clear();
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            position.clear();
        }

        private Map<TopicPartition, Long> askCommitted(Set<TopicPartition> partitions) {
            if (partitions.isEmpty()) {
                return Map.of();
            }
            int number = history.begin("committed", "group", quote(group));
            try {
                var found = consumer.committed(partitions);
                Map<TopicPartition, Long> offsets = new HashMap<>();
                String told = found.entrySet().stream().map(one -> {
                    offsets.put(one.getKey(), one.getValue() == null ? 0 : one.getValue().offset());
                    return "[%s,%d,%s]".formatted(quote(one.getKey().topic()), one.getKey().partition(),
                        one.getValue() == null ? "null" : String.valueOf(one.getValue().offset()));
                }).collect(Collectors.joining(",", "[", "]"));
                history.end("committed", number, "ok", "offsets", told);
                return offsets;
            } catch (KafkaException failure) {
                history.end("committed", number, "fail", "error", quote(failure.toString()));
                return Map.of();
            }
        }

        private void commit() {
            if (position.isEmpty() || position.equals(committed)) {
                return;
            }
            Map<TopicPartition, OffsetAndMetadata> all = new HashMap<>();
            position.forEach((partition, offset) -> all.put(partition, new OffsetAndMetadata(offset)));
            int number = history.begin("commit", "group", quote(group), "offsets", offsets(position));
            try {
                consumer.commitSync(all, Duration.ofSeconds(10));
                history.end("commit", number, "ok");
                committed.putAll(position);
            } catch (KafkaException failure) {
                // Refused at last does not say that an earlier try was.
                history.end("commit", number, "unknown", "error", quote(failure.toString()));
            }
        }

        @Override
        void run() {
            long due = System.currentTimeMillis();
            long deadline = Long.MAX_VALUE;
            while (true) {
                poll();
                if (System.currentTimeMillis() >= due) {
                    commit();
                    askCommitted(consumer.assignment());
                    due = System.currentTimeMillis() + 700;
                }
                if (stopping.get()) {
                    deadline = Math.min(deadline, System.currentTimeMillis() + DRAIN_MS);
                    boolean done = reached(askEnds(consumer.assignment(), 5000), begins);
                    if (done || System.currentTimeMillis() > deadline) {
                        break;
                    }
                }
            }
            commit();
            consumer.close();
        }
    }
}
