import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs the main methods of Apache Kafka's tools one after the other in one Java machine, which takes a second to start.
 * A tool is as it is: only its end of the machine is caught, where Kafka's own tests catch it, and what it wants done then
 * is done after it. A tool that does not use Kafka's Exit is not for it. Numbers are of 4 bytes, big-endian, and so are the lengths before texts and bytes:
 * in: how many words, the class and each argument, what the tool reads; out: exit code, what it printed, what it complained
 * of.
 */
public class Tools {
    /** What System.out and System.err are for good: some tools look them up once. */
    static final class Tap extends OutputStream {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        @Override
        public synchronized void write(int b) {
            bytes.write(b);
        }

        @Override
        public synchronized void write(byte[] b, int from, int n) {
            bytes.write(b, from, n);
        }

        synchronized byte[] take() {
            byte[] all = bytes.toByteArray();
            bytes.reset();
            return all;
        }
    }

    private static final BlockingQueue<Integer> codes = new LinkedBlockingQueue<>();
    private static final BlockingQueue<Runnable> atEnd = new LinkedBlockingQueue<>();

    public static void main(String[] args) throws Exception {
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream answers = new DataOutputStream(System.out);
        Tap out = new Tap();
        Tap err = new Tap();
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        Exit.Procedure end = (status, message) -> end(status);
        Exit.setExitProcedure(end);
        Exit.setHaltProcedure(end);
        Exit.setShutdownHookAdder((name, last) -> atEnd.add(last));
        while (true) {
            String[] words;
            try {
                words = new String[in.readInt()];
            } catch (EOFException e) {
                System.exit(0);
                return;
            }
            for (int i = 0; i < words.length; i++) {
                words[i] = new String(in.readNBytes(in.readInt()), UTF_8);
            }
            System.setIn(new ByteArrayInputStream(in.readNBytes(in.readInt())));
            ThreadGroup group = new ThreadGroup(words[0]);
            new Thread(group, () -> run(words)).start();
            int code = codes.take();
            List<Thread> rest = new ArrayList<>();
            for (Runnable last = atEnd.poll(); last != null; last = atEnd.poll()) {
                Thread thread = new Thread(last);
                thread.start();
                rest.add(thread);
            }
            for (Thread thread : rest) {
                thread.join();
            }
            codes.clear();
            answers.writeInt(code);
            for (Tap tap : List.of(out, err)) {
                byte[] all = tap.take();
                answers.writeInt(all.length);
                answers.write(all);
            }
            answers.flush();
        }
    }

    /** Ends a tool as System.exit does: whoever calls it goes no further. */
    private static void end(int status) {
        codes.add(status);
        while (true) {
            LockSupport.park();
        }
    }

    private static void run(String[] words) {
        try {
            String[] args = Arrays.copyOfRange(words, 1, words.length);
            Class.forName(words[0]).getMethod("main", String[].class).invoke(null, (Object) args);
            awaitThreads();
            codes.add(0);
        } catch (ReflectiveOperationException e) { // what main throws, too: then the machine ends with 1
            e.printStackTrace();
            codes.add(1);
        } catch (InterruptedException e) {
            codes.add(1);
        }
    }

    /** Waits for the threads of this tool that the machine would wait for. */
    private static void awaitThreads() throws InterruptedException {
        Thread[] threads = new Thread[1000];
        int n = Thread.currentThread().getThreadGroup().enumerate(threads);
        for (int i = 0; i < n; i++) {
            if (!threads[i].isDaemon() && threads[i] != Thread.currentThread()) {
                threads[i].join();
            }
        }
    }
}
