import java.time.Duration;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.connect.mirror.Heartbeat;
import org.apache.kafka.connect.mirror.RemoteClusterUtils;

/**
 * Prints what MirrorMaker's tools see of clusters upstream: for each replication policy named in the arguments that follow
 * the server and the cluster's alias, its name, all clusters, and how many hops away that one is; then the last heartbeat of
 * that cluster: source, target and time as MirrorMaker's class reads them, and key and value as it writes them, in hex.
 */
public class Remote {
    public static void main(String[] args) throws Exception {
        String server = args[0];
        String alias = args[1];
        for (int i = 2; i < args.length; i++) {
            Map<String, Object> at = Map.of("bootstrap.servers", server, "replication.policy.class", "org.apache.kafka.connect.mirror." + args[i]);
            System.out.println(args[i] + " " + String.join(",", new TreeSet<>(RemoteClusterUtils.upstreamClusters(at)))
                + " " + RemoteClusterUtils.replicationHops(at, alias));
        }
        Map<String, Object> settings = Map.of("bootstrap.servers", server, "isolation.level", "read_committed");
        TopicPartition heartbeats = new TopicPartition(alias + ".heartbeats", 0);
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(heartbeats));
            consumer.seekToBeginning(List.of(heartbeats));
            Heartbeat last = null;
            for (int tries = 0; last == null && tries < 100; tries++) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(100))) {
                    last = Heartbeat.deserializeRecord(r);
                }
            }
            System.out.println(last.sourceClusterAlias() + " " + last.targetClusterAlias() + " " + last.timestamp());
        }
        for (String part : List.of("recordKey", "recordValue")) {
            var method = Heartbeat.class.getDeclaredMethod(part);
            method.setAccessible(true);
            System.out.println(HexFormat.of().formatHex((byte[]) method.invoke(new Heartbeat("shed-7", "hq", 1700000000123L))));
        }
    }
}
