// Wrote the *.batch files beside it: java -cp 'JARS/*' Golden.java DIRECTORY, with the jars of Apache Kafka 4.3.1.
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import java.nio.*; import java.nio.file.*;
public class Golden {
  public static void main(String[] a) throws Exception {
    for (String c : new String[]{"none","gzip","snappy","lz4","zstd"}) {
      Compression comp = Compression.of(c).build();
      ByteBuffer buf = ByteBuffer.allocate(65536);
      MemoryRecordsBuilder b = MemoryRecords.builder(buf, (byte)2, comp, TimestampType.CREATE_TIME, 1000L, 1700000000000L, 4711L, (short)3, 17, false, 9);
      for (int i = 0; i < 50; i++) {
        byte[] key = i % 5 == 0 ? null : ("key " + i).getBytes();
        byte[] value = i % 7 == 0 ? null : ("value " + i + " " + "abc".repeat(i)).getBytes();
        Header[] h = i % 3 == 0 ? new Header[]{new RecordHeader("name", ("h"+i).getBytes()), new RecordHeader("null", (byte[]) null)} : new Header[0];
        b.append(1700000000000L + i * 3, key == null ? null : ByteBuffer.wrap(key), value == null ? null : ByteBuffer.wrap(value), h);
      }
      MemoryRecords r = b.build();
      byte[] out = new byte[r.sizeInBytes()]; r.buffer().duplicate().get(out);
      Files.write(Paths.get(a[0], c + ".batch"), out);
    }
  }
}
