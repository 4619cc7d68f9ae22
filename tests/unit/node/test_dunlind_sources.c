/* dunlind with sources, as a process: a file is read exactly once over restarts, wrong sources end it, a
 * broker that is down does not but is said everywhere; and the commands `source` and `deadletter` on all
 * that. */
#include "process.h"

#include <jansson.h>
#include <sodium.h>

static char output[1 << 16]; /* of the last command */

static int64_t now_ms(void)
{
    return dn_wall_ms();
}

/* Runs bin/dunlin with these arguments (up to NULL) and --server; its exit code, its stdout in `output`. */
static int cli(const struct bench *b, const char *const *arguments)
{
    const char *argv[24] = {"dunlin", "--server"};
    char address[32], path[PATH_TEXT], file[PATH_TEXT];
    size_t count = 3;

    snprintf(address, sizeof(address), "127.0.0.1:%u", b->api);
    snprintf(path, sizeof(path), "%s", program());
    strcpy(strrchr(path, '/'), "/dunlin");
    snprintf(file, sizeof(file), "%s/output", b->folder);
    argv[2] = address;
    while (arguments[0] && count < 23)
        argv[count++] = *arguments++;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int out = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_RDWR);

        dup2(null, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    int code = wait_exit(b, pid);
    FILE *in = fopen(file, "r");
    assert_non_null(in);
    output[fread(output, 1, sizeof(output) - 1, in)] = 0;
    fclose(in);
    return code;
}

#define CLI(b, ...) cli((b), (const char *const[]){__VA_ARGS__, NULL})

static void append_line(const char *path, const char *text)
{
    FILE *file = fopen(path, "a");

    assert_non_null(file);
    assert_true(fprintf(file, "%s\n", text) > 0);
    assert_int_equal(fclose(file), 0);
}

static void append_event(const char *path, const char *user, int64_t time_ms)
{
    char line[200];

    snprintf(line, sizeof(line), "{\"user_id\":\"%s\",\"item_id\":\"i\",\"time_ms\":%lld}", user,
             (long long)time_ms);
    append_line(path, line);
}

/* Waits until the page has the line, which is given whole. */
static void wait_metric(const struct bench *b, const char *line)
{
    char wanted[300];

    snprintf(wanted, sizeof(wanted), "\n%s\n", line);
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        if (http(b, "GET", "/metrics") == 200 && strstr(body, wanted))
            return;
        usleep(PAUSE_US);
    }
    fail_msg("%s does not come\n%s\n%s", line, body, read_log(b));
}

static void wait_events(const struct bench *b, char *user, size_t count)
{
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        if (session_events(b, user) == count)
            return;
        usleep(PAUSE_US);
    }
    fail_msg("%zu events of %s instead of %zu\n%s", session_events(b, user), user, count, read_log(b));
}

static void wait_output(const struct bench *b, const char *text, bool there)
{
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        assert_int_equal(CLI(b, "status"), 0);
        if ((strstr(output, text) != NULL) == there)
            return;
        usleep(PAUSE_US);
    }
    fail_msg("'%s' %s\n%s\n%s", text, there ? "does not come" : "stays", output, read_log(b));
}

static json_t *output_json(void)
{
    json_t *object = json_loads(output, 0, NULL);

    if (!object)
        fail_msg("no JSON: %s", output);
    return object;
}

static int64_t member(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* ---- a file ---------------------------------------------------------------------------------------------
 */

static void write_source(struct bench *b, const char *more)
{
    char extra[700];

    snprintf(extra, sizeof(extra),
             "sources:\n  - {name: web, kind: file, paths: ['%s/events'], follow: true%s}\n", b->folder,
             more);
    write_config(b, 1, "test", extra);
}

/* The same letters, with "late" said to be "misrouted". */
static void misroute(const char *letters, const char *path)
{
    FILE *in = fopen(letters, "re"), *out = fopen(path, "we");
    char line[8192];

    assert_non_null(in);
    assert_non_null(out);
    while (fgets(line, sizeof(line), in) != NULL) {
        char *late = strstr(line, "\"late\"");
        if (late == NULL)
            continue;
        *late = 0;
        fprintf(out, "%s\"misrouted\"%s", line, late + strlen("\"late\""));
    }
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

/* The first letter's partition, which is 0, becomes one that no shard reads. */
static void other_partition(const char *path)
{
    FILE *file = fopen(path, "r+e");
    char text[8192];

    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = 0;
    const char *at = strstr(text, "\"partition\":0");
    assert_non_null(at);
    assert_int_equal(fseek(file, at - text + (long)strlen("\"partition\":"), SEEK_SET), 0);
    assert_int_equal(fputc('7', file), '7');
    assert_int_equal(fclose(file), 0);
}

static void a_file_is_read_once(void **state)
{
    struct bench *b = *state;
    char events[PATH_TEXT], letters[2 * PATH_TEXT], stream[PATH_TEXT];

    snprintf(events, sizeof(events), "%s/events", b->folder);
    snprintf(letters, sizeof(letters), "%s/deadletters/web.jsonl", b->data);
    append_event(events, "ann", now_ms());
    append_event(events, "bob", now_ms());
    append_event(events, "ann", now_ms() + 1);
    append_line(events, "garbage");
    append_event(events, "cy", now_ms() - 3600000); /* an hour late */
    append_line(events, "{\"uid\":\"dan\",\"item_id\":\"i\",\"time_ms\":1}");
    write_source(b, "");
    start(b);
    wait_ready(b);
    wait_events(b, (char[]){"ann"}, 2);
    wait_events(b, (char[]){"bob"}, 1);
    assert_int_equal(session_events(b, (char[]){"cy"}), 0);

    /* List, and its stream's name for what follows. */
    assert_int_equal(CLI(b, "source", "list", "--json"), 0);
    json_t *list = output_json();
    json_t *partition = json_array_get(json_object_get(list, "partitions"), 0);
    assert_non_null(partition);
    snprintf(stream, sizeof(stream), "%s", json_string_value(json_object_get(partition, "stream")));
    assert_true(json_is_true(json_object_get(partition, "read_here")));
    json_decref(list);
    char line[2 * PATH_TEXT];
    struct stat info;
    assert_int_equal(stat(events, &info), 0);
    snprintf(line, sizeof(line), "dunlin_source_next_offset{stream=\"%s\",partition=\"0\",group=\"2\"} %lld",
             stream, (long long)info.st_size);
    wait_metric(b, line);
    snprintf(line, sizeof(line),
             "dunlin_source_lag_records{source=\"web\",stream=\"%s\",partition=\"0\",group=\"1\"} 0", stream);
    wait_metric(b, line);
    wait_metric(b, "dunlin_source_trouble_seconds{source=\"web\"} 0");
    wait_metric(b, "dunlin_dead_letters_waiting{group=\"1\"} 0");
    assert_true(metric("dunlin_event_to_visible_seconds_count ") >= 2);
    assert_true(metric("dunlin_ingest_loop_age_seconds ") < 60);
    assert_int_equal(http(b, "GET", "/livez"), 200);
    assert_int_equal(CLI(b, "source", "list"), 0);
    assert_non_null(strstr(output, "at end"));

    /* Three letters: garbage, the one without a user, the late one. */
    assert_int_equal(CLI(b, "deadletter", "list", "--json"), 0);
    json_t *queue = output_json();
    int64_t written = 0;
    for (size_t i = 0; i < 2; i++)
        written += member(json_array_get(json_object_get(queue, "shards"), i), "written");
    assert_int_equal(written, 3);
    json_decref(queue);
    assert_int_equal(CLI(b, "deadletter", "list", letters, "--json"), 0);
    json_t *file = output_json();
    json_t *reasons = json_object_get(file, "reasons");
    assert_int_equal(member(json_object_get(reasons, "undecodable"), "letters"), 2);
    assert_int_equal(member(json_object_get(reasons, "late"), "letters"), 1);
    assert_int_equal(member(file, "broken_lines"), 0);
    json_decref(file);

    /* Tried again: the late one's user has nothing newer, so its own watermark lets it in; once. */
    assert_int_equal(
        CLI(b, "deadletter", "replay", letters, "--config", b->config, "--dry-run", "--reason", "late"), 0);
    assert_non_null(strstr(output, "{\"user\":\"cy\",\"item\":\"i\",\"type\":\"view\","));
    assert_int_equal(session_events(b, (char[]){"cy"}), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(
            CLI(b, "deadletter", "replay", letters, "--config", b->config, "--reason", "late", "--json"), 0);
        json_t *counts = output_json();
        assert_int_equal(member(counts, "chosen"), 1);
        assert_int_equal(member(counts, round == 0 ? "accepted" : "duplicate"), 1);
        json_decref(counts);
        assert_int_equal(session_events(b, (char[]){"cy"}), 1);
    }
    /* What may have been counted since is published only when it is asked for. */
    char misrouted[2 * PATH_TEXT];
    snprintf(misrouted, sizeof(misrouted), "%s/misrouted.jsonl", b->folder);
    misroute(letters, misrouted);
    assert_int_equal(CLI(b, "deadletter", "replay", misrouted, "--config", b->config, "--dry-run"), 0);
    assert_null(strstr(output, "{\"user\":\"cy\""));
    assert_int_equal(CLI(b, "deadletter", "replay", misrouted, "--config", b->config, "--dry-run", "--reason",
                         "misrouted"),
                     0);
    assert_null(strstr(output, "{\"user\":\"cy\"")); /* its user's shard reads this partition itself */
    other_partition(misrouted);
    assert_int_equal(CLI(b, "deadletter", "replay", misrouted, "--config", b->config, "--dry-run", "--reason",
                         "misrouted"),
                     0);
    assert_non_null(strstr(output, "{\"user\":\"cy\""));
    /* The others are no events yet; with the field mapped as it should have been, one is. */
    assert_int_equal(
        CLI(b, "deadletter", "replay", letters, "--config", b->config, "--reason", "undecodable"), 1);
    write_source(b, ", fields: {user: uid}");
    assert_int_equal(
        CLI(b, "deadletter", "replay", letters, "--config", b->config, "--reason", "undecodable", "--json"),
        1);
    json_t *counts = output_json();
    assert_int_equal(member(counts, "events"), 1);
    assert_int_equal(member(counts, "undecodable"), 1);
    json_decref(counts);
    write_source(b, "");

    /* A restart counts nothing twice, and goes on. */
    stop(b, SIGTERM, 0);
    append_event(events, "bob", now_ms());
    start(b);
    wait_ready(b);
    wait_events(b, (char[]){"bob"}, 2);
    assert_int_equal(session_events(b, (char[]){"ann"}), 2);

    /* An operator's word. */
    assert_int_equal(CLI(b, "source", "reset", stream, "0", "--to", "beginning"), 2); /* nobody to ask */
    assert_int_equal(CLI(b, "source", "skip", stream, "0", "--to", "1", "--yes"), 1); /* that is back */
    assert_int_equal(CLI(b, "source", "skip", "web/none", "0", "--to", "1", "--yes"), 1);
    assert_int_equal(session_events(b, (char[]){"ann"}), 2);
    assert_int_equal(CLI(b, "source", "reset", stream, "0", "--to", "beginning", "--yes", "--json"), 0);
    json_t *moves = output_json();
    assert_int_equal(json_array_size(json_object_get(moves, "moves")), 2);
    json_decref(moves);
    wait_events(b, (char[]){"ann"}, 4); /* as it said: counted once more */
    wait_metric(b, line);
    assert_int_equal(CLI(b, "source", "skip", stream, "0", "--to", "end", "--yes"), 0);
    stop(b, SIGTERM, 0);
}

/* Waits until both shards have an offset of the only stream, and tells its name. */
static void wait_offsets(const struct bench *b, char ret_stream[PATH_TEXT])
{
    for (int left = WAIT_S * (1000000 / PAUSE_US); left > 0; left--) {
        assert_int_equal(CLI(b, "source", "list", "--json"), 0);
        json_t *list = output_json();
        const json_t *partitions = json_object_get(list, "partitions");
        size_t known = 0;
        for (size_t i = 0; i < json_array_size(partitions); i++) {
            const json_t *partition = json_array_get(partitions, i);
            known += json_is_integer(json_object_get(partition, "next_offset"));
            snprintf(ret_stream, PATH_TEXT, "%s", json_string_value(json_object_get(partition, "stream")));
        }
        assert_true(json_array_size(partitions) <= 2);
        json_decref(list);
        if (known == 2)
            return;
        usleep(PAUSE_US);
    }
    fail_msg("no offsets\n%s\n%s", output, read_log(b));
}

/* While the node is down another file gets the name, with a line's beginning where reading would go on. */
static void a_file_replaced_while_down(void **state)
{
    struct bench *b = *state;
    char extra[700], events[PATH_TEXT], other[PATH_TEXT], stream[PATH_TEXT];

    snprintf(events, sizeof(events), "%s/events", b->folder);
    snprintf(other, sizeof(other), "%s/other", b->folder);
    snprintf(extra, sizeof(extra),
             "freshness_alarm_ms: 500\nsources:\n  - {name: web, kind: file, paths: ['%s']}\n", events);
    write_config(b, 1, "test", extra);
    append_event(events, "ann", now_ms());
    start(b);
    wait_ready(b);
    wait_offsets(b, stream);
    assert_int_equal(session_events(b, (char[]){"ann"}), 1);
    assert_int_equal(CLI(b, "source", "list"), 0);
    assert_null(strstr(output, "42949672")); /* what is no partition is not shown as one */
    assert_int_equal(http(b, "GET", "/metrics"), 200);
    assert_null(strstr(body, "partition=\"42949672"));
    stop(b, SIGTERM, 0);

    append_event(other, "bob", now_ms());
    append_event(other, "cyn", now_ms());
    assert_int_equal(rename(other, events), 0);
    start(b);
    wait_ready(b);
    wait_output(b, "another file has this name", true);
    assert_int_equal(session_events(b, (char[]){"cyn"}), 0);
    assert_int_equal(CLI(b, "source", "reset", stream, "0", "--to", "beginning", "--yes"), 0);
    wait_events(b, (char[]){"bob"}, 1);
    wait_events(b, (char[]){"cyn"}, 1);
    wait_output(b, "STREAMS STAND STILL", false);
    append_event(events, "bob", now_ms()); /* it may grow */
    wait_events(b, (char[]){"bob"}, 2);
    stop(b, SIGTERM, 0);
}

static void replay_reads_a_last_line(void **state)
{
    struct bench *b = *state;
    char events[PATH_TEXT], extra[700];

    snprintf(events, sizeof(events), "%s/events", b->folder);
    snprintf(extra, sizeof(extra), "sources:\n  - {name: web, kind: file, paths: ['%s']}\n", events);
    write_config(b, 1, "test", extra);
    append_event(events, "ann", 1700000000000);
    append_event(events, "bob", 1700000000000);
    struct stat info;
    assert_int_equal(stat(events, &info), 0);
    assert_int_equal(truncate(events, info.st_size - 1), 0); /* without its newline */
    assert_int_equal(CLI(b, "replay", "source", "--config", b->config, "--dump", "--show-ids"), 0);
    assert_non_null(strstr(output, "\"ann\""));
    assert_non_null(strstr(output, "\"bob\""));
}

static void files_without_letters(void **state)
{
    struct bench *b = *state;
    char path[2 * PATH_TEXT];

    write_source(b, "");
    snprintf(path, sizeof(path), "%s/letters", b->folder);
    assert_int_equal(CLI(b, "deadletter", "list", path), 1); /* there is none */
    write_file(path, "");
    assert_int_equal(CLI(b, "deadletter", "list", path), 0);
    assert_int_equal(CLI(b, "deadletter", "replay", path, "--config", b->config), 0);
    append_line(path, "2026-11-21 12:00:00 something else");
    assert_int_equal(CLI(b, "deadletter", "list", path), 1);
    assert_int_equal(CLI(b, "deadletter", "list", path, "--json"), 1);
    assert_int_equal(CLI(b, "deadletter", "replay", path, "--config", b->config), 1);
    /* Beside letters a torn line is nothing special. */
    append_line(path, "{\"shard\":1,\"number\":0,\"reason\":\"late\",\"source\":\"web\",\"stream\":\"web/a\","
                      "\"partition\":0,\"offset\":1,\"judged_ms\":1,\"time_ms\":null,\"key\":null,"
                      "\"bytes\":null,\"gone\":true}");
    assert_int_equal(CLI(b, "deadletter", "list", path), 0);
    assert_non_null(strstr(output, "1 lines are no letters"));
}

/* A letter as it would stand in a file; its message says that `user` viewed i. */
static void append_letter(const char *path, unsigned number, int64_t time_ms, const char *key,
                          const char *user)
{
    char message[200], base64[300], line[900];

    snprintf(message, sizeof(message), "{\"user_id\":\"%s\",\"item_id\":\"i\"}", user);
    sodium_bin2base64(base64, sizeof(base64), (const unsigned char *)message, strlen(message),
                      sodium_base64_VARIANT_ORIGINAL);
    snprintf(line, sizeof(line),
             "{\"shard\":1,\"number\":%u,\"reason\":\"late\",\"source\":\"web\",\"stream\":\"web/a\","
             "\"partition\":0,\"offset\":7,\"judged_ms\":1,\"time_ms\":%lld,\"key\":%s,\"bytes\":\"%s\","
             "\"gone\":false}",
             number, (long long)time_ms, key, base64);
    append_line(path, line);
}

/* What `deadletter replay` would publish of these letters: how many different ids. */
static size_t count_ids(const struct bench *b, const char *path, size_t events)
{
    char *ids[8];
    size_t count = 0, different = 0;

    assert_int_equal(CLI(b, "deadletter", "replay", path, "--config", b->config, "--dry-run"), 0);
    for (char *line = strtok(output, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        ids[count] = strstr(line, "\"event_id\":\"dead:web/a:0:7:");
        assert_non_null(ids[count]);
        ids[count][strcspn(ids[count], "}")] = 0;
        *strstr(ids[count], ",\"weight") = 0;
        bool seen = false;
        for (size_t i = 0; i < count; i++)
            seen |= strcmp(ids[i], ids[count]) == 0;
        different += !seen;
        count++;
    }
    assert_int_equal(count, events);
    return different;
}

static void ids_of_a_topic_made_anew(void **state)
{
    struct bench *b = *state;
    char path[2 * PATH_TEXT];

    write_source(b, "");
    snprintf(path, sizeof(path), "%s/letters", b->folder);
    append_letter(path, 0, 5, "null", "ann");
    append_letter(path, 0, 5, "null", "ann"); /* the same, written twice */
    append_letter(path, 3, 5, "null", "ann"); /* and read again after a reset */
    assert_int_equal(count_ids(b, path, 3), 1);
    append_letter(path, 1, 5, "null", "bob"); /* that offset in another topic of the name */
    assert_int_equal(count_ids(b, path, 4), 2);
    append_letter(path, 2, 6, "null", "ann");
    assert_int_equal(count_ids(b, path, 5), 3);
    append_letter(path, 2, 5, "\"YW5u\"", "ann");
    assert_int_equal(count_ids(b, path, 6), 4);
}

/* ---- wrong sources --------------------------------------------------------------------------------------
 */

static void wrong_sources_end_it(void **state)
{
    struct bench *b = *state;

    write_source(b, ", fields: {user: a..b}");
    start_ends(b, 2, "source 'web': ");
    ends(b, (const char *[]){"dunlind", "--config", b->config, "--check-config", NULL}, 2, "source 'web': ");
    write_config(b, 1, "test",
                 "sources:\n  - {name: web, kind: kafka, topics: [t], brokers: '127.0.0.1:1', properties: "
                 "{sasl.password_file: /nonexistent/pw}}\n");
    start_ends(b, 2, "/nonexistent/pw");
    /* What only librdkafka knows. */
    write_config(b, 1, "test",
                 "sources:\n  - {name: web, kind: kafka, topics: [t], brokers: '127.0.0.1:1', properties: "
                 "{no.such.thing: hunter2}}\n");
    start_ends(b, 2, "no.such.thing");
    assert_null(strstr(read_log(b), "hunter2"));
    ends(b, (const char *[]){"dunlind", "--config", b->config, "--check-config", NULL}, 2, "no.such.thing");
    write_config(b, 1, "test", "sources:\n  - {name: web, kind: file, paths: ['-'], follow: true}\n");
    ends(b, (const char *[]){"dunlind", "--config", b->config, "--check-config", NULL}, 2,
         "cannot be followed");
}

/* ---- a broker that is down ------------------------------------------------------------------------------
 */

static void a_broker_that_is_down_is_said(void **state)
{
    struct bench *b = *state;
    char extra[300];
    unsigned port = 0;
    int fd = hold_port(&port, false); /* nobody listens there, and nobody else gets it */

    snprintf(extra, sizeof(extra),
             "freshness_alarm_ms: 500\nsources:\n"
             "  - {name: web, kind: kafka, topics: [t], brokers: '127.0.0.1:%u'}\n",
             port);
    write_config(b, 1, "test", extra);
    start(b);
    wait_ready(b);
    wait_output(b, "STREAMS STAND STILL", true);
    assert_null(strstr(output, "NOT READY"));
    assert_int_equal(http(b, "GET", "/readyz"), 200); /* all nodes would be taken out of traffic at once */
    wait_metric(b, "dunlin_stream_stalled{group=\"1\"} 1");
    assert_true(metric("dunlin_stream_stalled_seconds{group=\"2\"} ") > 0);
    publish(b, (char[]){"ann"}, (char[]){"i"}, (char[]){"e1"}); /* the API goes on */
    assert_int_equal(CLI(b, "session", "get", "ann", "--json"), 0);
    json_t *session = output_json();
    const json_t *freshness = json_object_get(session, "freshness");
    assert_true(json_is_true(json_object_get(freshness, "stale")));
    assert_true(json_is_true(json_object_get(freshness, "stream_stalled")));
    assert_true(member(freshness, "stream_age_ms") > 0);
    json_decref(session);
    assert_int_equal(CLI(b, "source", "list"), 0);
    assert_non_null(strstr(output, "source web: for "));
    stop(b, SIGTERM, 0);

    /* Without sources nobody else would take it back. */
    write_config(b, 1, "test", "");
    start(b);
    wait_ready(b);
    wait_output(b, "STREAMS STAND STILL", false);
    stop(b, SIGTERM, 0);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_is_read_once),           TEST(a_file_replaced_while_down), TEST(replay_reads_a_last_line),
        TEST(files_without_letters),         TEST(ids_of_a_topic_made_anew),   TEST(wrong_sources_end_it),
        TEST(a_broker_that_is_down_is_said),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
