/* The stream: what its history says is what stands in its file, byte for byte and in that order; and when
 * nodes have read it. */
#include "chaos/cluster.h"
#include "chaos/workload_stream.h"

#include "tests/unit/base/cmocka_all.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEPS 400

static char *whole_file(const char *path, size_t *ret_length)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *ret_length = (size_t)ftell(file);
    rewind(file);
    char *text = calloc(*ret_length + 1, 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *ret_length, file), *ret_length);
    fclose(file);
    return text;
}

/* One message as the history has it: before it is there, and when it is. Returns where it ends. */
static size_t judge_message(const struct chaos_history *history, size_t at, const char *text, size_t begins)
{
    const struct chaos_op *before = chaos_history_at(history, at), *after = chaos_history_at(history, at + 1);
    char wanted[256];
    assert_true(before->f == CHAOS_INGEST && before->type == CHAOS_INFO && before->events_count == 1);
    assert_true(after->f == CHAOS_INGEST && after->type == CHAOS_OK && after->events_count == 1);
    assert_string_equal(before->name, "chaos/0");
    assert_int_equal(before->key, after->key);
    assert_memory_equal(&before->events[0], &after->events[0], sizeof before->events[0]);
    assert_int_equal(before->events[0].offset, begins);
    const char *end = strchr(text + begins, '\n');
    assert_non_null(end);
    snprintf(wanted, sizeof wanted,
             "{\"user_id\":\"u-%" PRIu64 "\",\"item_id\":\"i-%" PRIu64
             "\",\"type\":\"click\",\"time_ms\":%" PRId64 "}",
             before->key, before->events[0].id, before->events[0].time_ms);
    bool same =
        strlen(wanted) == (size_t)(end - text) - begins && memcmp(wanted, text + begins, strlen(wanted)) == 0;
    assert_int_equal(same, before->key != CHAOS_NO_USER);
    return (size_t)(end - text) + 1;
}

static void file_and_history(void **state)
{
    char folder[] = "/tmp/dunlin_stream.XXXXXX", path[64], yaml[256];
    struct chaos_history *history = chaos_history_create();
    struct workload_users *users = workload_users_create();
    struct workload_stream stream;
    struct dn_error err;
    size_t length = 0, end = 0, at = 0, duds = 0;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/stream.jsonl", folder);
    assert_int_equal(workload_stream_create(path, &err), DN_OK);
    assert_int_equal(workload_stream_create(path, &err), DN_IO); /* of an earlier run */
    assert_true(workload_stream_yaml(WORKLOAD_FILE, path, yaml, sizeof yaml));
    assert_non_null(strstr(yaml, path));
    assert_false(workload_stream_yaml(WORKLOAD_FILE, path, yaml, 40));
    const struct workload_stream_options options = {.kind = WORKLOAD_FILE, .path = path, .shards = 4};
    assert_int_equal(workload_stream_open(&stream, &options, history, users, 7, &err), DN_OK);
    for (int i = 0; i < STEPS; i++) {
        assert_int_equal(workload_stream_step(&stream, &err), DN_OK);
    }
    assert_int_equal(workload_stream_finish(&stream, &err), DN_OK);
    workload_stream_close(&stream);
    char *text = whole_file(path, &length);
    for (; at + 2 < chaos_history_count(history); at += 2) {
        duds += chaos_history_at(history, at)->key == CHAOS_NO_USER;
        end = judge_message(history, at, text, end);
    }
    assert_int_equal(end, length);
    assert_true(duds > 0 && duds < STEPS / 4 && at > 2 * STEPS);
    const struct chaos_op *told = chaos_history_at(history, at + 1);
    assert_true(told->f == CHAOS_OFFSETS && told->process == CHAOS_NEMESIS && told->rows_count == 1);
    assert_int_equal(told->rows[0].of[CHAOS_ROW_NEXT_OFFSET], length);
    free(text);
    workload_users_destroy(users);
    chaos_history_destroy(history);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* ---- have the shards read it? ---- */

static bool is_read(const struct workload_stream *stream, size_t count, const struct chaos_row *rows)
{
    char text[200] = "";
    bool read = workload_stream_is_read(stream, rows, count, text, sizeof text);
    assert_int_equal(read, text[0] == '\0');
    return read;
}

static struct chaos_row row_of(uint64_t partition, uint64_t shard, uint64_t next)
{
    return (struct chaos_row){.of = {partition, shard, next, 0}};
}

/* Two shards. Partition 1 is empty, so that nobody need know of it. */
static void what_is_read(void **state)
{
    struct workload_stream stream = {
        .options = {.kind = WORKLOAD_KAFKA, .shards = 2}, .ends = {7, 0, 5}, .partitions = 3};
    const struct chaos_row keyed[] = {row_of(0, 1, 7), row_of(2, 1, 5), row_of(1, 2, 0), row_of(3, 2, 0)};
    const struct chaos_row all[] = {row_of(0, 1, 7), row_of(2, 1, 5), row_of(0, 2, 7), row_of(2, 2, 5)};
    const struct chaos_row short_of[] = {row_of(0, 1, 7), row_of(2, 1, 4)};
    const struct chaos_row past[] = {row_of(0, 1, 7), row_of(2, 1, 5), row_of(3, 2, 1)};
    (void)state;
    assert_true(is_read(&stream, 2, keyed));
    assert_true(is_read(&stream, 4, keyed));
    assert_false(is_read(&stream, 1, keyed));
    assert_false(is_read(&stream, 4, all)); /* a shard that is not to read them */
    assert_false(is_read(&stream, 2, short_of));
    assert_false(is_read(&stream, 3, past));
    stream.options.kind = WORKLOAD_KAFKA_UNKEYED;
    assert_true(is_read(&stream, 4, all));
    assert_false(is_read(&stream, 3, all));
    stream = (struct workload_stream){.options = {.kind = WORKLOAD_FILE, .shards = 2}, .partitions = 1};
    assert_true(is_read(&stream, 0, NULL)); /* nothing was ever written */
}

static void yaml_of_a_topic(void **state)
{
    char yaml[256];
    (void)state;
    assert_true(workload_stream_yaml(WORKLOAD_KAFKA, NULL, yaml, sizeof yaml));
    assert_non_null(strstr(yaml, "keyed: true"));
    assert_non_null(strstr(yaml, CLUSTER_BROKERS));
    assert_true(workload_stream_yaml(WORKLOAD_KAFKA_UNKEYED, NULL, yaml, sizeof yaml));
    assert_non_null(strstr(yaml, "keyed: false"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_and_history),
        cmocka_unit_test(what_is_read),
        cmocka_unit_test(yaml_of_a_topic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
