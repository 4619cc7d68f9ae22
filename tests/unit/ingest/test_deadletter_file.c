/* Dead letters as lines: what is written is read again, and what is torn or strange is said to be. */
#include "tests/unit/base/cmocka_all.h"

#include "ingest/deadletter.h"
#include "ingest/deadletter_file.h"
#include "session/record.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct room {
    char path[64];
    struct dn_buffer buffer;
};

static int open_room(void **state)
{
    struct room *room = calloc(1, sizeof *room);
    strcpy(room->path, "dead_lines.XXXXXX");
    int fd = mkstemp(room->path);
    assert_true(fd >= 0);
    close(fd);
    dn_buffer_init(&room->buffer, DN_DEAD_LINE_MAX);
    *state = room;
    return 0;
}

static int close_room(void **state)
{
    struct room *room = *state;
    unlink(room->path);
    dn_buffer_free(&room->buffer);
    free(room);
    return 0;
}

static void put(const struct room *room, const void *bytes, size_t length)
{
    FILE *file = fopen(room->path, "ab");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static struct dn_dead_file *open_file(const struct room *room)
{
    struct dn_dead_file *file;
    struct dn_error err;
    if (dn_dead_file_open(room->path, &file, &err) != DN_OK)
        fail_msg("%s", err.message);
    return file;
}

static struct dn_dead_line letter_of(uint64_t number)
{
    struct dn_dead_line line = {.shard = 3, .number = number, .reason = DN_DEAD_LATE, .partition = 7};
    strcpy(line.source, "clicks");
    strcpy(line.stream, "clicks/w\"e\\b\n");
    line.offset = INT64_MAX;
    line.judged_ms = 1700000000123;
    line.time_ms = -1;
    return line;
}

/* All byte values, all lengths around a base64 group; NULL, empty and long; each comes back as it was. */
static void round_trip(void **state)
{
    struct room *room = *state;
    static uint8_t bytes[100000];
    static const size_t lengths[] = {0, 1, 2, 3, 4, 5, 255, 256, 257, sizeof bytes};
    struct dn_buffer out;
    struct dn_error err;
    size_t count = sizeof lengths / sizeof *lengths;

    dn_buffer_init(&out, 1u << 20);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    for (size_t i = 0; i < count; i++) {
        struct dn_dead_line line = letter_of(i);
        line.reason = (uint8_t)(1 + i % DN_DEAD_REASON_MAX);
        line.key = i % 2 == 0 ? NULL : bytes;
        line.key_length = i % 2 == 0 ? 0 : i;
        line.bytes = bytes;
        line.length = lengths[i];
        line.time_ms = (int64_t)i;
        dn_dead_line_write(&out, &line);
    }
    struct dn_dead_line last = letter_of(count);
    last.gone = true;
    strcpy(last.note, "nothing \"there\"");
    dn_dead_line_write(&out, &last);
    assert_false(out.failed);
    put(room, out.bytes, out.length);
    dn_buffer_free(&out);

    struct dn_dead_file *file = open_file(room);
    struct dn_dead_line line;
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
        assert_int_equal(line.shard, 3);
        assert_int_equal(line.number, i);
        assert_int_equal(line.reason, 1 + i % DN_DEAD_REASON_MAX);
        assert_string_equal(line.source, "clicks");
        assert_string_equal(line.stream, "clicks/w\"e\\b\n");
        assert_int_equal(line.partition, 7);
        assert_true(line.offset == INT64_MAX);
        assert_true(line.judged_ms == 1700000000123);
        assert_true(line.time_ms == (int64_t)i);
        assert_false(line.gone);
        assert_string_equal(line.note, "");
        assert_int_equal(line.key != NULL, i % 2);
        assert_int_equal(line.key_length, i % 2 == 0 ? 0 : i);
        assert_non_null(line.bytes);
        assert_int_equal(line.length, lengths[i]);
        assert_memory_equal(line.bytes, bytes, line.length);
        if (line.key != NULL)
            assert_memory_equal(line.key, bytes, line.key_length);
    }
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_true(line.gone);
    assert_true(line.time_ms == -1);
    assert_null(line.bytes);
    assert_string_equal(line.note, "nothing \"there\"");
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);
}

#define GOOD                                                                                                 \
    "{\"shard\":1,\"number\":17,\"reason\":\"late\",\"source\":\"s\",\"stream\":\"s/t\",\"partition\":3,"    \
    "\"offset\":99,\"judged_ms\":5,\"time_ms\":6,\"key\":\"a2V5\",\"bytes\":\"Ynl0ZXM=\",\"gone\":false}"

/* A line by hand, as another program would write it. */
static void by_hand(void **state)
{
    struct room *room = *state;
    struct dn_dead_line line;
    struct dn_error err;

    assert_int_equal(dn_dead_line_parse(GOOD, strlen(GOOD), &room->buffer, &line, &err), DN_OK);
    assert_int_equal(line.number, 17);
    assert_int_equal(line.reason, DN_DEAD_LATE);
    assert_int_equal(line.key_length, 3);
    assert_memory_equal(line.key, "key", 3);
    assert_int_equal(line.length, 5);
    assert_memory_equal(line.bytes, "bytes", 5);
}

/* Each says what is wrong; the text before and after the place is that of a good line. */
static void refused(void **state)
{
    struct room *room = *state;
    static const struct {
        const char *from, *to, *said;
    } changes[] = {
        {"\"shard\":1", "\"shard\":0", "shard"},
        {"\"shard\":1", "\"shard\":\"1\"", "shard"},
        {"\"number\":17", "\"number\":-1", "number"},
        {"\"number\":17", "\"n\":1", "number"},
        {"\"partition\":3", "\"partition\":4294967296", "partition"},
        {"\"offset\":99", "\"offset\":9.5", "offset"},
        {"\"source\":\"s\"", "\"source\":\"123456789012345678901234567890123\"", "source"},
        {"\"reason\":\"late\"", "\"reason\":7", "reason"},
        {"\"a2V5\"", "\"a2V\"", "key"},
        {"\"Ynl0ZXM=\"", "\"Ynl0ZXM\"", "bytes"},
        {"\"Ynl0ZXM=\"", "\"Yn!0ZXM=\"", "bytes"},
        {"\"Ynl0ZXM=\"", "5", "bytes"},
        {",\"bytes\":\"Ynl0ZXM=\"", "", "bytes"},
        {"\"time_ms\":6", "\"time_ms\":-6", "time_ms"},
        {"{", "[", "JSON"},
    };

    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char text[1024];
        struct dn_dead_line line = {.number = 4242};
        struct dn_error err;
        const char *at = strstr(GOOD, changes[i].from);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - GOOD), GOOD, changes[i].to,
                 at + strlen(changes[i].from));
        if (dn_dead_line_parse(text, strlen(text), &room->buffer, &line, &err) != DN_INVALID)
            fail_msg("accepted: %s", text);
        if (strstr(err.message, changes[i].said) == NULL)
            fail_msg("'%s' does not name '%s'", err.message, changes[i].said);
        assert_int_equal(line.number, 4242); /* untouched */
    }
}

/* A torn line in the middle, an empty one, and a torn end: the others are read, each fault has its line. */
static void torn(void **state)
{
    struct room *room = *state;
    static const char text[] = GOOD "\n{\"shard\":1,\"numb\n\n" GOOD "\n{\"sha";
    struct dn_dead_line line;
    struct dn_error err;

    put(room, text, strlen(text));
    struct dn_dead_file *file = open_file(room);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "line 2:"));
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_int_equal(dn_dead_file_line(file), 4);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "line 5: unfinished"));
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    put(room, GOOD "\n", strlen(GOOD) + 1); /* added later */
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);
}

/* A good last line without its end counts: people edit files. */
static void no_line_end(void **state)
{
    struct room *room = *state;
    struct dn_dead_line line;
    struct dn_error err;

    put(room, GOOD, strlen(GOOD));
    struct dn_dead_file *file = open_file(room);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);
}

/* A line that is too long is passed over whole, also one that never ends. */
static void too_long(void **state)
{
    struct room *room = *state;
    struct dn_dead_line line;
    struct dn_error err;

    assert_int_equal(truncate(room->path, (off_t)DN_DEAD_LINE_MAX + 100000), 0);
    put(room, "\n" GOOD "\n", strlen(GOOD) + 2);
    struct dn_dead_file *file = open_file(room);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "line 1: longer than"));
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_OK);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);

    assert_int_equal(truncate(room->path, (off_t)DN_DEAD_LINE_MAX + 100000), 0);
    file = open_file(room);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_INVALID);
    assert_int_equal(dn_dead_file_next(file, &room->buffer, &line, &err), DN_NOT_FOUND);
    dn_dead_file_close(file);
}

/* The caller's maximum holds. */
static void bounded(void **state)
{
    struct room *room = *state;
    struct dn_buffer small;
    struct dn_dead_line line;
    struct dn_error err;

    (void)room;
    dn_buffer_init(&small, 8);
    assert_int_equal(dn_dead_line_parse(GOOD, strlen(GOOD), &small, &line, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "more than the 8 allowed"));
    dn_buffer_free(&small);
}

static void not_there(void **state)
{
    (void)state;
    struct dn_dead_file *file;
    struct dn_error err;
    assert_int_equal(dn_dead_file_open("no_such_folder/x.jsonl", &file, &err), DN_NOT_FOUND);
    assert_non_null(strstr(err.message, "no_such_folder/x.jsonl"));
    assert_int_equal(dn_dead_file_open(".", &file, &err), DN_IO);
}

static void reasons(void **state)
{
    (void)state;
    for (uint8_t reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        assert_int_equal(dn_dead_reason_parse(dn_dead_reason_text(reason)), reason);
    }
    assert_string_equal(dn_dead_reason_text(0), "unknown");
    assert_string_equal(dn_dead_reason_text(DN_DEAD_REASON_MAX + 1), "unknown");
    assert_int_equal(dn_dead_reason_parse("unknown"), 0);
}

#define WITH_ROOM(test) cmocka_unit_test_setup_teardown(test, open_room, close_room)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ROOM(round_trip), WITH_ROOM(by_hand),          WITH_ROOM(refused),
        WITH_ROOM(torn),       WITH_ROOM(no_line_end),      WITH_ROOM(too_long),
        WITH_ROOM(bounded),    cmocka_unit_test(not_there), cmocka_unit_test(reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
