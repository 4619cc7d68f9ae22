/* The Kafka driver against a real broker: what librdkafka's mock cannot do. scripts/kafka.sh has the broker,
 * kafka_tool does things to it. Exit code 77: no broker can be had here.
 *
 * test_source_kafka rate BROKERS TOPIC    reads the topic from its beginning to its end, and prints how fast
 */
#include "tests/unit/ingest/kafka_source.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static char folder[256], brokers[64], brokers_sasl[64], tool[512];

/* ---- commands ---- */

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...)
{
    char command[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof(command), format, arguments);
    va_end(arguments);
    int status_word = system(command);
    return WIFEXITED(status_word) ? WEXITSTATUS(status_word) : 128;
}

#define must(...) assert_int_equal(run(__VA_ARGS__), 0)

/* kafka_tool, with these words after the brokers. */
__attribute__((format(printf, 1, 2))) static void kafka(const char *format, ...)
{
    char words[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    must("%s %s %s >%s/tool.out", tool, brokers, words, folder);
}

static void read_word(const char *name, char *ret, size_t size)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(ret, (int)size, file));
    ret[strcspn(ret, "\n")] = '\0';
    fclose(file);
}

/* Of a partition, as the broker says. */
static void ends(const char *topic, int partition, long long *ret_begin, long long *ret_end)
{
    kafka("ends %s", topic);
    char path[512], line[128];
    snprintf(path, sizeof(path), "%s/tool.out", folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    bool found = false;
    while (!found && fgets(line, sizeof(line), file)) {
        char *rest;
        found = strtol(line, &rest, 10) == partition;
        *ret_begin = strtoll(rest, &rest, 10);
        *ret_end = strtoll(rest, &rest, 10);
    }
    fclose(file);
    assert_true(found);
}

static void start_broker(void)
{
    must("%s/scripts/kafka.sh start %s --sasl >/dev/null", DUNLIN_SOURCE_DIR, folder);
}

static void stop_broker(const char *how)
{
    must("%s/scripts/kafka.sh stop %s %s", DUNLIN_SOURCE_DIR, folder, how);
}

static void signal_broker(int number)
{
    char pid[32];
    read_word("pid", pid, sizeof(pid));
    assert_int_equal(kill((pid_t)strtol(pid, NULL, 10), number), 0);
}

/* ---- what a log may look like ---- */

static void test_transactions(void **state)
{
    (void)state;
    kafka("create tx 1");
    kafka("produce tx 1000 --transaction a --every 100 --abort-every 3");
    struct source *source = source_make(brokers, "tx");
    source_open(source);
    start(source, 0, 0, DN_STREAM_OFFSET_UNSET);
    struct dn_message messages[BATCH];
    size_t total = 0;
    int64_t position = 0;
    for (bool end = false; !end;) {
        size_t count = 0;
        wait_for((count = driver->read(source->self, 0, 0, messages, BATCH)) > 0);
        for (size_t i = 0; i < count; i++) {
            assert_true(messages[i].next_offset >= position);
            position = messages[i].next_offset;
            end = messages[i].end;
            total += !end;
            assert_true(end || !memmem(messages[i].bytes, messages[i].length, "aborted", 7));
        }
        driver->release(source->self, 0, 0);
    }
    long long begin, log_end;
    ends("tx", 0, &begin, &log_end);
    assert_int_equal(total, 700);
    assert_int_equal(log_end, 1010); /* ten records that say how a transaction ended */
    assert_int_equal(position, log_end);
    /* An aborted one at the end, of which nothing is ever seen, moves the end on, too. */
    kafka("produce tx 10 --transaction a --abort-every 1");
    struct dn_message message = next_of(source, 0, 0);
    assert_true(message.end);
    wait_for(message.next_offset == 1021 || (message = next_of(source, 0, 0)).next_offset == 1021);
    assert_true(message.end);
    source_close(source);
}

static void test_compacted(void **state)
{
    (void)state;
    kafka("create compact 1 cleanup.policy=compact segment.ms=200 min.cleanable.dirty.ratio=0.01 "
          "max.compaction.lag.ms=1000");
    kafka("produce compact 500 --key same");
    struct source *source = source_make(brokers, "compact");
    source_open(source);
    long long begin, end;
    size_t total = 500;
    for (int round = 0; total > 100; round++) {
        assert_true(round < 60);
        pause_ms(500);
        kafka("produce compact 1 --key same"); /* the newest segment is never compacted */
        ends("compact", 0, &begin, &end);
        start(source, 0, 0, 0);
        int64_t position = 0;
        total = read_to_end(source, 0, 0, &position);
        assert_int_equal(position, end);
    }
    assert_true(total >= 1);
    source_close(source);
}

static void test_ten_megabytes(void **state)
{
    (void)state;
    kafka("create large 2 max.message.bytes=16777216");
    kafka("produce large 1 --partition 0");
    kafka("produce large 1 --partition 0 --size 10485760");
    kafka("produce large 3 --partition 0");
    kafka("produce large 1000 --partition 1");
    struct source *source = source_make(brokers, "large");
    source_open(source);
    start(source, 0, 0, 0);
    start(source, 0, 1, 0);
    for (int i = 0; i < 5; i++) {
        struct dn_message message = next_of(source, 0, 0);
        assert_int_equal(message.offset, i);
        assert_int_equal(message.too_large, i == 1);
        assert_int_equal(message.bytes == NULL, i == 1);
        assert_true(i != 1 || message.length >= 10485760);
    }
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 1, &position), 1000);
    /* A dead letter has its original bytes, however many. */
    void *fetcher;
    struct dn_error err = {0};
    struct dn_message message;
    assert_int_equal(driver->fetcher_open(&source->config, &source->host, &fetcher, &err), DN_OK);
    assert_int_equal(driver->fetch(fetcher, "clicks/large", 0, 1, WAIT_MS, &message, &err), DN_OK);
    assert_true(message.length >= 10485760);
    assert_memory_equal(message.bytes + message.length - 2, "\"}", 2);
    driver->fetcher_close(fetcher);
    source_close(source);
}

/* ---- offsets that are not there ---- */

static void test_retention(void **state)
{
    (void)state;
    kafka("create short 1");
    kafka("produce short 1000");
    kafka("delete-records short 0 500");
    struct source *source = source_make(brokers, "short");
    source_open(source);
    start(source, 0, 0, 100);
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 && status(source, 0, 0).begin_offset == 500 &&
             status(source, 0, 0).state == DN_PARTITION_GAP);
    struct dn_partition_status now = status(source, 0, 0);
    assert_int_equal(now.end_offset, 1000);
    assert_non_null(
        strstr(now.error, "offset 100 of short/0 is not there (it has 500 to 1000): messages were deleted"));
    start(source, 0, 0, 500);
    int64_t position = 500;
    assert_int_equal(read_to_end(source, 0, 0, &position), 500);
    assert_int_equal(position, 1000);
    start(source, 0, 0, DN_STREAM_OFFSET_UNSET);
    assert_int_equal(next_of(source, 0, 0).offset, 500);

    void *fetcher;
    struct dn_error err = {0};
    assert_int_equal(driver->fetcher_open(&source->config, &source->host, &fetcher, &err), DN_OK);
    assert_int_equal(driver->fetch(fetcher, "clicks/short", 0, 499, WAIT_MS, &message, &err), DN_NOT_FOUND);
    assert_int_equal(driver->fetch(fetcher, "clicks/short", 0, 500, WAIT_MS, &message, &err), DN_OK);
    driver->fetcher_close(fetcher);
    source_close(source);
}

static void test_topic_recreated(void **state)
{
    (void)state;
    kafka("create again 1");
    kafka("produce again 500");
    struct source *source = source_make(brokers, "again");
    source_open(source);
    start(source, 0, 0, DN_STREAM_OFFSET_UNSET);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 500);
    kafka("delete again");
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 &&
             trouble_has(source, "topic again does not exist"));
    kafka("create again 1");
    kafka("produce again 10");
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 && status(source, 0, 0).end_offset == 10 &&
             status(source, 0, 0).state == DN_PARTITION_GAP);
    assert_non_null(strstr(status(source, 0, 0).error, "offset 500 of again/0"));
    assert_non_null(strstr(status(source, 0, 0).error, "made again"));
    wait_for(trouble_has(source, NULL));
    start(source, 0, 0, 0);
    position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 10);
    source_close(source);
}

/* ---- what comes and goes ---- */

static void test_late_and_growing_topic(void **state)
{
    (void)state;
    struct source *source = source_make(brokers, "early late");
    kafka("create early 1");
    kafka("produce early 5");
    source_open(source);
    wait_for(trouble_has(source, "topic late does not exist yet") && partitions(source, 0) == 1);
    start(source, 0, 0, 0);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 5); /* the other is read meanwhile */
    kafka("create late 2");
    wait_for(partitions(source, 1) == 2 && trouble_has(source, NULL));
    start(source, 1, 1, DN_STREAM_OFFSET_UNSET);
    kafka("produce late 7 --partition 1");
    for (int i = 0; i < 7;) {
        struct dn_message message = next_of(source, 1, 1);
        assert_true(message.end || message.offset == i);
        i += !message.end;
    }
    unsigned wakes = atomic_load(&source->wakes);
    kafka("grow late 4");
    wait_for(partitions(source, 1) == 4);
    assert_true(atomic_load(&source->wakes) > wakes);
    start(source, 1, 3, DN_STREAM_OFFSET_UNSET);
    kafka("produce late 3 --partition 3");
    for (int i = 0; i < 3;) {
        struct dn_message message = next_of(source, 1, 3);
        assert_true(message.end || message.offset == i);
        i += !message.end;
    }
    source_close(source);
}

static struct source *source_with_password(const char *password)
{
    struct source *source = source_make(brokers_sasl, "secret");
    source_property(source, "security.protocol", "sasl_plaintext");
    source_property(source, "sasl.mechanism", "PLAIN");
    source_property(source, "sasl.username", "dunlin");
    source_property(source, "sasl.password", password);
    source_open(source);
    start(source, 0, 0, 0);
    return source;
}

static void test_credentials(void **state)
{
    (void)state;
    kafka("create secret 1");
    kafka("produce secret 5");
    struct source *source = source_with_password("wr0ng-password");
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 && trouble_has(source, "refused us") &&
             status(source, 0, 0).state == DN_PARTITION_CONNECTING);
    assert_false(trouble_has(source, "wr0ng-password"));
    assert_true(trouble_has(source, "sasl.*"));
    source_close(source);
    source = source_with_password("right");
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 5);
    source_close(source);
}

static void test_broker_restart(void **state)
{
    (void)state;
    kafka("create r 1");
    kafka("produce r 1000");
    struct source *source = source_make(brokers, "r");
    snprintf(source->config.group_id, sizeof(source->config.group_id), "dashboards");
    source_open(source);
    start(source, 0, 0, 0);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 1000);
    driver->mirror(source->self, 0, 0, 1000);
    wait_for(run("%s %s committed dashboards r | grep -qx '0 1000'", tool, brokers) == 0);
    struct dn_message message;
    for (int round = 0; round < 2; round++) {
        stop_broker(round == 0 ? "--now" : "");
        wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 &&
                 status(source, 0, 0).state == DN_PARTITION_CONNECTING &&
                 trouble_has(source, "no broker of"));
        start_broker();
        kafka("produce r 100");
        size_t total = 0;
        while (total < 100) {
            message = next_of(source, 0, 0);
            assert_true(message.offset == position);
            position = message.next_offset;
            total += !message.end;
        }
        wait_for(trouble_has(source, NULL));
    }
    source_close(source);
}

/* The connection stands, and nobody answers. */
static void test_broker_stands_still(void **state)
{
    (void)state;
    kafka("create still 1");
    kafka("produce still 10");
    struct source *source = source_make(brokers, "still");
    source_property(source, "socket.timeout.ms", "60000"); /* it is not this that notices */
    source_open(source);
    start(source, 0, 0, 0);
    int64_t position = 0;
    assert_int_equal(read_to_end(source, 0, 0, &position), 10);
    wait_for(status(source, 0, 0).state == DN_PARTITION_AT_END);
    pause_ms(4000); /* an idle partition stays in touch */
    assert_int_equal(status(source, 0, 0).state, DN_PARTITION_AT_END);
    signal_broker(SIGSTOP);
    uint64_t begin_us = dn_monotonic_us();
    struct dn_message message;
    wait_for(driver->read(source->self, 0, 0, &message, 1) == 0 &&
             status(source, 0, 0).state == DN_PARTITION_CONNECTING);
    print_message("a broker that stands still was noticed after %llu ms\n",
                  (unsigned long long)(dn_monotonic_us() - begin_us) / 1000);
    wait_for(trouble_has(source, "no broker of"));
    signal_broker(SIGCONT);
    wait_for(status(source, 0, 0).state == DN_PARTITION_AT_END && trouble_has(source, NULL));
    kafka("produce still 1");
    assert_int_equal(next_of(source, 0, 0).offset, 10);
    /* And with one that stands still it can be closed. */
    signal_broker(SIGSTOP);
    pause_ms(500);
    begin_us = dn_monotonic_us();
    source_close(source);
    uint64_t took_us = dn_monotonic_us() - begin_us;
    signal_broker(SIGCONT);
    print_message("closed after %llu ms\n", (unsigned long long)took_us / 1000);
    assert_true(took_us < 10u * 1000 * 1000);
}

/* ---- rate ---- */

static int rate(const char *servers, const char *topic, uint64_t work_ns)
{
    struct source *source = source_make(servers, topic);
    source_open(source);
    wait_for(partitions(source, 0) > 0);
    uint32_t count = partitions(source, 0), open = count;
    bool done[DN_SOURCE_PARTITIONS_MAX] = {false};
    uint64_t begin_us = dn_monotonic_us(), messages = 0, bytes = 0, idle_ms = 0;
    for (uint32_t p = 0; p < count; p++) {
        start(source, 0, p, DN_STREAM_OFFSET_UNSET);
    }
    while (open > 0) {
        bool idle = true;
        for (uint32_t p = 0; p < count; p++) {
            struct dn_message got[512];
            size_t read = driver->read(source->self, 0, p, got, 512);
            for (size_t i = 0; i < read; i++) {
                messages += !got[i].end;
                bytes += got[i].length;
                open -= got[i].end && !done[p];
                done[p] |= got[i].end;
            }
            driver->release(source->self, 0, p);
            uint64_t until_ns = dn_monotonic_ns() + read * work_ns;
            while (work_ns > 0 && dn_monotonic_ns() < until_ns) {
            }
            idle &= read == 0;
        }
        if (idle) {
            pause_ms(1);
            idle_ms++;
        }
    }
    uint64_t took_us = dn_monotonic_us() - begin_us;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    uint64_t cpu_us = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000u +
                      (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    printf("%llu messages, %llu bytes, %u partitions in %.2f s: %.0f messages/s; %.2f us of CPU each; %ld "
           "MiB; idle %llu times\n",
           (unsigned long long)messages, (unsigned long long)bytes, count, (double)took_us / 1e6,
           (double)messages * 1e6 / (double)took_us, (double)cpu_us / (double)messages, used.ru_maxrss / 1024,
           (unsigned long long)idle_ms);
    source_close(source);
    return 0;
}

/* ---- main ---- */

static int clean_up(void **state)
{
    (void)state;
    run("%s/scripts/kafka.sh stop %s --now", DUNLIN_SOURCE_DIR, folder);
    return run("rm -rf %s", folder);
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "rate") == 0) {
        return rate(argv[2], argv[3], argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    }
    const char *temporary = getenv("TMPDIR"), *bin = getenv("DUNLIN_BIN");
    snprintf(folder, sizeof(folder), "%s/dunlin-kafka.XXXXXX", temporary ? temporary : "/tmp");
    snprintf(tool, sizeof(tool), "%s/kafka_tool", bin ? bin : "bin");
    int code = run("%s/scripts/kafka.sh setup", DUNLIN_SOURCE_DIR);
    if (code != 0) {
        return code;
    }
    if (!mkdtemp(folder)) {
        perror(folder);
        return 1;
    }
    if (run("%s/scripts/kafka.sh start %s --sasl >/dev/null", DUNLIN_SOURCE_DIR, folder) != 0) {
        return 1;
    }
    read_word("bootstrap", brokers, sizeof(brokers));
    read_word("bootstrap_sasl", brokers_sasl, sizeof(brokers_sasl));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transactions),        cmocka_unit_test(test_compacted),
        cmocka_unit_test(test_ten_megabytes),       cmocka_unit_test(test_retention),
        cmocka_unit_test(test_topic_recreated),     cmocka_unit_test(test_late_and_growing_topic),
        cmocka_unit_test(test_credentials),         cmocka_unit_test(test_broker_restart),
        cmocka_unit_test(test_broker_stands_still),
    };
    cmocka_set_test_filter(getenv("DUNLIN_TEST")); /* one of them, by name; all when it is not set */
    return cmocka_run_group_tests(tests, NULL, clean_up) == 0 ? 0 : 1;
}
