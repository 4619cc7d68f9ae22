/* Files against a model, with random lines, cuts, rotations and restarts: whatever happens, each line that
 * was written is one (stream, offset), and that is always the same line. */
#include "ingest/source_file_table.h"
#include "tests/unit/base/random.h"
#include "tests/unit/ingest/source_file_help.h"

static struct test_random random_state;

static size_t below(size_t bound)
{
    return test_random_below(&random_state, bound);
}

/* ---- one file, read from any offset that was given ---- */

#define CONTENT_MAX (1u << 21)
#define LINES_MAX 20000

struct line {
    int64_t offset, after; /* after: its newline */
    size_t begin, length;
};

static char content[CONTENT_MAX];
static size_t content_length;
static struct line lines[LINES_MAX];
static size_t line_count;

static void random_content(size_t line_bytes)
{
    size_t wanted = 1 + below(LINES_MAX - 1);

    content_length = 0;
    for (size_t i = 0; i < wanted; i++) {
        size_t length = below(8) == 0 ? 0 : below(line_bytes);

        if (content_length + length + 2 > CONTENT_MAX) {
            break;
        }
        for (size_t j = 0; j < length; j++) {
            content[content_length++] = (char)('a' + below(26));
        }
        if (below(10) == 0) {
            content[content_length++] = '\r';
        }
        content[content_length++] = '\n';
    }
    if (below(2) == 0) {
        content[content_length - 1] = 'x'; /* without newline at the end */
    }
}

/* The same in another way: byte by byte. */
static void cut_lines(void)
{
    size_t begin = 0;

    line_count = 0;
    for (size_t i = 0; i <= content_length; i++) {
        if (i == content_length || content[i] == '\n') {
            size_t length = i - begin;

            if (length > 0 && content[i - 1] == '\r') {
                length--;
            }
            if (length > 0) {
                lines[line_count++] = (struct line){.offset = (int64_t)begin,
                                                    .after = (int64_t)(i < content_length ? i + 1 : i),
                                                    .begin = begin,
                                                    .length = length};
            }
            begin = i + 1;
        }
    }
}

static void expect_line(const struct dn_message *message, size_t index)
{
    assert_true(index < line_count);
    assert_int_equal(message->offset, lines[index].offset);
    assert_true(message->next_offset >= lines[index].after);
    assert_true(index + 1 == line_count || message->next_offset <= lines[index + 1].offset);
    assert_int_equal(message->length, lines[index].length);
    assert_int_equal(message->too_large, lines[index].length > config.message_bytes);
    if (!message->too_large) {
        assert_memory_equal(message->bytes, content + lines[index].begin, message->length);
    }
}

static size_t line_from(int64_t offset)
{
    size_t index = 0;

    while (index < line_count && lines[index].offset < offset) {
        index++;
    }
    return index;
}

static void read_with_restarts(void *self)
{
    struct dn_message messages[512];
    int64_t given[512], next = 0;
    size_t given_count = 1, index = 0;

    given[0] = 0;
    start(self, 0, below(2) == 0 ? 0 : DN_STREAM_OFFSET_UNSET);
    for (;;) {
        size_t count = turn(self, 0, messages, 1 + below(512));

        for (size_t i = 0; i < count; i++) {
            next = messages[i].next_offset;
            if (messages[i].end) {
                assert_int_equal(index, line_count);
                assert_int_equal(next, content_length);
                return;
            }
            expect_line(&messages[i], index++);
            given[given_count < 512 ? given_count++ : below(512)] = next;
        }
        dn_source_file.release(self, 0, 0);
        assert_int_not_equal(status_of(self, 0).state, DN_PARTITION_FAILED);
        assert_int_not_equal(status_of(self, 0).state, DN_PARTITION_GAP);
        if (below(20) == 0 && given_count > 1) {
            next = given[below(given_count)];
            index = line_from(next);
            start(self, 0, next);
            given_count = 1;
        }
    }
}

static void any_file_from_any_offset(void **state)
{
    (void)state;
    dn_file_quiet_ms = 0; /* a last line without newline is one at once */
    for (int round = 0; round < 60; round++) {
        bool gzip = below(3) == 0;
        void *self;

        config.message_bytes = 1 + below(200);
        random_content(1 + below(round % 10 == 0 ? 100000 : 250));
        cut_lines();
        if (gzip) {
            put_gzip("a", content, content_length, "wb");
        } else {
            write_file(path_of("a"), content, content_length, O_TRUNC);
        }
        config.list_count = 0;
        add_path(path_of("a"));
        self = open_source();
        read_with_restarts(self);
        dn_source_file.close(self);
    }
}

/* ---- a followed file ---- */

#define IDS_MAX 4000
#define STREAMS_MAX 64
#define FILES_KEPT 40

struct seen {
    char stream[DN_SOURCE_MAX + 1];
    int64_t replicated; /* some next_offset that was given */
    bool started;
};

static struct seen streams[STREAMS_MAX];
static size_t stream_count;
static struct {
    size_t stream; /* of streams */
    int64_t offset;
    bool seen;
} ids[IDS_MAX];
static size_t id_count, seen_count;

static int writer = -1;  /* the program that logs */
static char pending[64]; /* the rest of a line that was written in part */
static bool has_line;    /* the current file has a whole line */

static void write_bytes(const char *bytes, size_t length)
{
    if (length > 0) {
        assert_int_equal(write(writer, bytes, length), (ssize_t)length);
    }
}

static void open_writer(void)
{
    if (writer >= 0) {
        close(writer);
    }
    writer = open(path_of("app.log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(writer >= 0);
}

static void finish_line(void)
{
    if (pending[0] != '\0') {
        write_bytes(pending, strlen(pending));
        pending[0] = '\0';
        has_line = true;
    }
}

static void write_lines(size_t count)
{
    for (size_t i = 0; i < count && id_count < IDS_MAX; i++) {
        char line[64];
        size_t length = (size_t)snprintf(line, sizeof(line), "{\"id\":%zu,\"x\":%zu}\n%s", id_count++,
                                         below(1000000), below(5) == 0 ? "\n" : "");
        size_t part = below(4) == 0 ? below(length) : length;

        finish_line();
        write_bytes(line, part);
        snprintf(pending, sizeof(pending), "%s", line + part);
        has_line = has_line || part == length;
    }
}

static void shift_files(void)
{
    char from[32], to[32];

    for (int i = FILES_KEPT - 1; i >= 1; i--) {
        for (int gzip = 0; gzip < 2; gzip++) {
            snprintf(from, sizeof(from), "app.log.%d%s", i, gzip ? ".gz" : "");
            snprintf(to, sizeof(to), "app.log.%d%s", i + 1, gzip ? ".gz" : "");
            if (access(path_of(from), F_OK) == 0) {
                assert_int_equal(rename(path_of(from), path_of(to)), 0);
            }
        }
    }
}

/* Another file, and then the old one is deleted or truncated. */
static void copy_file(const char *from, const char *to, bool gzip)
{
    static char bytes[1 << 20];
    int fd = open(path_of(from), O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, bytes, sizeof(bytes));

    assert_true(length >= 0 && length < (ssize_t)sizeof(bytes));
    close(fd);
    if (gzip) {
        put_gzip(to, bytes, (size_t)length, "wb");
    } else {
        write_file(path_of(to), bytes, (size_t)length, O_TRUNC);
    }
}

static void rotate(void)
{
    if (!has_line) {
        return; /* a file that never had a whole line is not known to anyone */
    }
    if (below(3) == 0) {
        finish_line();
        shift_files();
        copy_file("app.log", "app.log.1", false);
        assert_int_equal(ftruncate(writer, 0), 0);
    } else {
        shift_files();
        assert_int_equal(rename(path_of("app.log"), path_of("app.log.1")), 0);
        write_lines(below(5)); /* the writer has not noticed yet */
        finish_line();
        open_writer();
    }
    has_line = false;
}

static void compress_one(void)
{
    char from[32], to[32];
    size_t which = 2 + below(4);

    snprintf(from, sizeof(from), "app.log.%zu", which);
    snprintf(to, sizeof(to), "app.log.%zu.gz", which);
    if (access(path_of(from), F_OK) == 0 && access(path_of(to), F_OK) != 0) {
        copy_file(from, to, true);
        assert_int_equal(unlink(path_of(from)), 0);
    }
}

static size_t seen_stream(const char *name)
{
    for (size_t i = 0; i < stream_count; i++) {
        if (strcmp(streams[i].stream, name) == 0) {
            return i;
        }
    }
    assert_true(stream_count < STREAMS_MAX);
    memset(&streams[stream_count], 0, sizeof(streams[0]));
    strcpy(streams[stream_count].stream, name);
    streams[stream_count].replicated = DN_STREAM_OFFSET_UNSET;
    return stream_count++;
}

static void take_message(size_t stream, const struct dn_message *message)
{
    char line[80];
    size_t id = 0;

    assert_true(message->length < sizeof(line));
    memcpy(line, message->bytes, message->length);
    line[message->length] = '\0';
    if (sscanf(line, "{\"id\":%zu,", &id) != 1 || line[message->length - 1] != '}') {
        fail_msg("a line that nobody wrote: '%s'", line);
    }
    assert_true(id < id_count);
    if (ids[id].seen) {
        if (ids[id].stream != stream || ids[id].offset != message->offset) {
            fail_msg("line %zu came from %s at %lld and from %s at %lld", id, streams[ids[id].stream].stream,
                     (long long)ids[id].offset, streams[stream].stream, (long long)message->offset);
        }
        return;
    }
    ids[id].seen = true;
    ids[id].stream = stream;
    ids[id].offset = message->offset;
    seen_count++;
}

static void read_some(void *self)
{
    struct dn_stream_info infos[STREAMS_MAX];
    size_t count = dn_source_file.streams(self, infos, STREAMS_MAX);

    assert_true(count <= STREAMS_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t stream = seen_stream(infos[i].stream);
        struct dn_message messages[16];
        size_t got;

        if (!streams[stream].started || below(50) == 0) {
            start(self, i, streams[stream].replicated);
            streams[stream].started = true;
        }
        got = dn_source_file.read(self, i, 0, messages, 1 + below(16));
        for (size_t j = 0; j < got; j++) {
            if (!messages[j].end) {
                take_message(stream, &messages[j]);
            }
        }
        if (got > 0 && below(2) == 0) { /* replicated, with what stands before it */
            streams[stream].replicated = messages[below(got)].next_offset;
        }
        dn_source_file.release(self, i, 0);
        if (below(4) == 0 && streams[stream].replicated >= 0) {
            dn_source_file.mirror(self, i, 0, streams[stream].replicated);
        }
        if (status_of(self, i).state == DN_PARTITION_GAP || status_of(self, i).state == DN_PARTITION_FAILED) {
            fail_msg("%s: %s", infos[i].stream, status_of(self, i).error);
        }
    }
}

static void change_something(bool down)
{
    switch (below(down ? 4 : 12)) {
    case 0:
        rotate();
        break;
    case 1:
        compress_one();
        break;
    default:
        write_lines(below(10));
    }
}

static void follow_once(void)
{
    uint64_t until;
    void *self;

    id_count = seen_count = stream_count = 0;
    memset(ids, 0, sizeof(ids));
    pending[0] = '\0';
    has_line = false;
    open_writer();
    write_lines(3);
    self = open_source();
    for (int step = 0; step < 150; step++) {
        change_something(false);
        for (size_t i = below(6); i > 0; i--) {
            read_some(self);
            usleep((useconds_t)below(20000));
        }
        if (below(15) == 0) {
            dn_source_file.close(self);
            for (size_t i = below(6); i > 0; i--) {
                change_something(true);
            }
            for (size_t i = 0; i < stream_count; i++) {
                streams[i].started = false;
            }
            self = open_source();
        }
    }
    finish_line();
    until = dn_monotonic_us() + PATIENCE_US;
    while (seen_count < id_count && dn_monotonic_us() < until) {
        read_some(self);
        usleep(TURN_US);
    }
    for (size_t i = 0; i < id_count; i++) {
        if (!ids[i].seen) {
            fail_msg("line %zu of %zu never came", i, id_count);
        }
    }
    dn_source_file.close(self);
    close(writer);
    writer = -1;
}

static void any_rotation_and_restart(void **state)
{
    config.follow = true;
    dn_file_quiet_ms = 500;
    for (int round = 0; round < 3; round++) {
        config.list_count = 0;
        add_path(path_of("app.log"));
        follow_once();
        empty_folder(folder);
        assert_int_equal(rmdir(folder), 0);
        set_up(state);
        config.follow = true;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_file_from_any_offset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(any_rotation_and_restart, set_up, tear_down),
    };
    random_state = test_random_start("ingest.source_file_random");
    return cmocka_run_group_tests_name("ingest.source_file_random", tests, NULL, NULL);
}
