/* Files that are not followed: lines and their offsets, gzip, protobuf, folders, names, faults, growth. */
#include "base/hash.h"
#include "ingest/reader.h"
#include "ingest/source_file_table.h"
#include "tests/unit/ingest/source_file_help.h"

static void lines_and_offsets(void **state)
{
    struct dn_message messages[8];
    void *self;

    (void)state;
    put_text("a", "{1}\n\n{22}\r\n\n\r\n{3}\n\n");
    expect_lines("a", DN_STREAM_OFFSET_UNSET, "{1}|{22}|{3}|", 19);
    expect_lines("a", 0, "{1}|{22}|{3}|", 19);
    expect_lines("a", 4, "{22}|{3}|", 19); /* an empty line */
    expect_lines("a", 5, "{22}|{3}|", 19);
    expect_lines("a", 14, "{3}|", 19);
    expect_lines("a", 18, "", 19);
    expect_lines("a", 19, "", 19);

    self = open_source();
    start(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 3);
    assert_int_equal(messages[0].offset, 0);
    assert_int_equal(messages[0].next_offset, 5);
    assert_int_equal(messages[1].offset, 5);
    assert_int_equal(messages[1].next_offset, 14);
    assert_int_equal(messages[2].offset, 14);
    assert_int_equal(messages[2].next_offset, 19);
    dn_source_file.release(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 1);
    assert_true(messages[0].end);
    assert_int_equal(messages[0].next_offset, 19);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 0); /* told once */
    start(self, 0, 14);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 1);
    assert_int_equal(messages[0].offset, 14);
    dn_source_file.stop(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, messages, 8), 0);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_IDLE);
    dn_source_file.close(self);
}

static void not_the_beginning_of_a_line(void **state)
{
    (void)state;
    put_text("a", "{1}\n{22}\n{3");
    expect_state("a", 1, DN_PARTITION_FAILED, "no line begins at byte 1");
    expect_state("a", 1, DN_PARTITION_FAILED, "decide with 'dunlin source skip' or 'dunlin source reset'");
    expect_state("a", 3, DN_PARTITION_FAILED, "no line begins at byte 3");
    expect_state("a", 10, DN_PARTITION_FAILED, "no line begins at byte 10");
    expect_lines("a", 11, "", 11);
    expect_state("a", 12, DN_PARTITION_GAP, "it ends at byte 11");
    expect_state("a", 1000000, DN_PARTITION_GAP, "dunlin source skip");
    put_text("a", "");
    expect_lines("a", 0, "", 0);
    expect_state("a", 1, DN_PARTITION_GAP, "it ends at byte 0");
}

/* Out of touch, so that it is said to stand still; not like a file whose turn has not come. */
static void a_file_that_cannot_be_opened(void **state)
{
    struct dn_message message;
    void *self;

    (void)state;
    put_text("a", "{1}\n");
    config.list_count = 0;
    add_path(path_of("a"));
    self = open_source();
    assert_int_equal(unlink(path_of("a")), 0);
    start(self, 0, 0);
    assert_int_equal(dn_source_file.read(self, 0, 0, &message, 1), 0);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_CONNECTING);
    assert_non_null(strstr(status_of(self, 0).error, "No such file"));
    assert_true(status_of(self, 0).heard_ms == 0);
    dn_source_file.close(self);
}

static void lines_too_long(void **state)
{
    char text[64];

    (void)state;
    config.message_bytes = 5;
    put_text("a", "12345\n123456\n12345\r\n123456\r\n1234567\n\n1\n123456789");
    expect_lines("a", 0, "12345|<6>|12345|<6>|<7>|1|<9>|", 48);
    put_text("a", "123456\r");
    expect_lines("a", 0, "<6>|", 7);
    /* longer than any buffer, and cut by one between CR and newline */
    for (size_t length = (512u << 10) - 3; length < (512u << 10) + 4; length++) {
        char *line = malloc(length + 8);

        assert_non_null(line);
        memset(line, 'x', length);
        memcpy(line + length, "\r\n{1}\n", 7);
        put_text("a", line);
        snprintf(text, sizeof(text), "<%zu>|{1}|", length);
        expect_lines("a", 0, text, (int64_t)length + 6);
        free(line);
    }
}

static void a_line_that_needs_a_larger_buffer(void **state)
{
    size_t length = 3000000;
    char *line = malloc(length + 8);
    struct dn_message messages[3];
    size_t count = 0;
    void *self;

    (void)state;
    assert_non_null(line);
    config.message_bytes = length;
    memset(line, 'x', length);
    memcpy(line + length, "\r\n{1}\n", 7);
    put_text("a", line);
    add_path(path_of("a"));
    self = open_source();
    start(self, 0, 0);
    while (count == 0) {
        count = turn(self, 0, messages, 3);
    }
    assert_int_equal(messages[0].length, length);
    assert_false(messages[0].too_large);
    assert_memory_equal(messages[0].bytes, line, length);
    dn_source_file.close(self);
    config.message_bytes = length - 1;
    expect_lines("a", 0, "<3000000>|{1}|", (int64_t)length + 6);
    config.message_bytes = 100; /* counted over several buffers */
    expect_lines("a", 0, "<3000000>|{1}|", (int64_t)length + 6);
    free(line);
}

/* ---- several files ---- */

static void folders(void **state)
{
    struct dn_stream_info infos[8];
    char text[DN_SOURCE_TEXT_MAX];
    void *self;

    (void)state;
    /* a short path: the name in the state is the path */
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("in", 0700), 0);
    add_path("in/");
    self = open_source();
    assert_true(dn_source_file.trouble(self, text) > 0);
    assert_non_null(strstr(text, "no files in this folder"));
    put_text("in/b.jsonl", "{b}\n");
    put_text("in/a.jsonl", "{a}\n");
    put_text("in/.hidden", "{x}\n");
    assert_int_equal(mkdir("in/folder", 0700), 0);
    assert_int_equal(wait_for_streams(self, infos, 8, 2), 2);
    dn_source_file.close(self);

    put_text("in/c d.jsonl", "{c}\n");
    put_gzip("in/d.jsonl.gz", "{d}\n", 4, "wb");
    self = open_source();
    assert_int_equal(dn_source_file.streams(self, infos, 8), 4);
    assert_string_equal(infos[0].stream, "clicks/in/a.jsonl");
    assert_string_equal(infos[1].stream, "clicks/in/b.jsonl");
    assert_memory_equal(infos[2].stream, "clicks/#", 8); /* a space is not plain */
    assert_string_equal(infos[3].stream, "clicks/in/d.jsonl.gz");
    for (size_t i = 0; i < 4; i++) {
        const char *const lines[] = {"{a}|", "{b}|", "{c}|", "{d}|"};

        assert_false(infos[i].local);
        assert_int_equal(infos[i].partition_count, 1);
        start(self, i, 0);
        assert_int_equal(read_all(self, i, text, sizeof(text)), 4);
        assert_string_equal(text, lines[i]);
    }
    assert_int_equal(dn_source_file.trouble(self, text), 0);
    put_text("in/aa.jsonl", "{aa}\n"); /* new ones come at the end */
    assert_int_equal(wait_for_streams(self, infos, 8, 5), 5);
    assert_string_equal(infos[4].stream, "clicks/in/aa.jsonl");
    assert_string_equal(infos[0].stream, "clicks/in/a.jsonl");
    dn_source_file.close(self);

    /* folder and file overlap: one stream */
    add_path("in/b.jsonl");
    self = open_source();
    assert_int_equal(dn_source_file.streams(self, infos, 8), 5);
    dn_source_file.close(self);
    assert_int_equal(chdir("/"), 0);
}

static void names(void **state)
{
    struct dn_stream_info infos[4];
    char deep[200];
    void *self;

    (void)state;
    assert_int_equal(chdir(folder), 0);
    memset(deep, 'x', sizeof(deep));
    deep[199] = '\0';
    put_text(deep, "{1}\n");
    deep[198] = 'y';
    put_text(deep, "{2}\n");
    deep[57] = '\0'; /* "clicks/" and 57 bytes: just fits */
    put_text(deep, "{3}\n");
    add_path(deep);
    memset(deep, 'x', sizeof(deep) - 1);
    add_path(deep);
    deep[198] = 'y';
    add_path(deep);
    deep[58] = '\0';
    put_text(deep, "{4}\n");
    add_path(deep);
    self = open_source();
    assert_int_equal(dn_source_file.streams(self, infos, 4), 4);
    deep[57] = '\0';
    assert_string_equal(infos[0].stream + 7, deep);
    for (size_t i = 1; i < 4; i++) {
        assert_memory_equal(infos[i].stream, "clicks/#", 8);
        assert_int_equal(strlen(infos[i].stream), 8 + 30);
        for (size_t j = 1; j < i; j++) {
            assert_string_not_equal(infos[i].stream, infos[j].stream);
        }
    }
    dn_source_file.close(self);
    assert_int_equal(chdir("/"), 0);
}

static void trouble(void **state)
{
    struct dn_stream_info info;
    char text[DN_SOURCE_TEXT_MAX];
    int64_t since;
    void *self;

    (void)state;
    add_path(path_of("later"));
    self = open_source();
    since = dn_source_file.trouble(self, text);
    assert_true(since > 0 && since <= dn_wall_ms());
    assert_non_null(strstr(text, "later: No such file"));
    usleep(1300000);
    assert_int_equal(dn_source_file.trouble(self, text), since); /* the same trouble, since then */
    put_text("later", "{1}\n");
    assert_int_equal(wait_for_streams(self, &info, 1, 1), 1);
    while (dn_source_file.trouble(self, text) != 0) {
        usleep(TURN_US);
    }
    assert_string_equal(text, "");
    dn_source_file.close(self);
    if (geteuid() != 0) { /* root may read everything */
        assert_int_equal(chmod(path_of("later"), 0), 0);
        self = open_source();
        assert_true(dn_source_file.trouble(self, text) > 0);
        assert_non_null(strstr(text, "Permission denied"));
        dn_source_file.close(self);
    }
}

static void configurations(void **state)
{
    struct dn_error err;
    void *self = NULL;

    (void)state;
    expect_open_fails("give 1 to 16 paths");
    add_path("");
    expect_open_fails("path 1 is empty");
    config.list_count = 0;
    add_path("a");
    add_path("-");
    expect_open_fails("a source of its own");
    config.list_count = 0;
    add_path("a");
    add_path("a");
    expect_open_fails("listed twice");
    config.list_count = 1;
    config.message_bytes = 0;
    expect_open_fails("message_bytes");
    config.message_bytes = 100;
    self = open_source(); /* a missing file is no fault of the configuration */
    assert_int_equal(dn_source_file.start(self, 0, 0, 0, &err), DN_INVALID); /* no such stream */
    dn_source_file.close(self);
    put_text("x", "{1}\n");
    config.list_count = 0;
    add_path(path_of("x"));
    self = open_source();
    assert_int_equal(dn_source_file.start(self, 0, 1, 0, &err), DN_INVALID);
    assert_int_equal(dn_source_file.start(self, 0, 0, -2, &err), DN_INVALID);
    dn_source_file.close(self);
}

static size_t open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    size_t count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

/* Many files do not take many descriptors, and none once they were read. */
static void many_files(void **state)
{
    enum { FILES = 150 };
    size_t before = open_files(), read = 0, most = 0;
    struct dn_message message;
    bool ended[FILES] = {false};
    char name[32];
    void *self;

    (void)state;
    assert_int_equal(mkdir(path_of("in"), 0700), 0);
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "in/%03d", i);
        put_text(name, "{1}\n{2}\n");
    }
    add_path(path_of("in"));
    self = open_source();
    for (size_t i = 0; i < FILES; i++) {
        start(self, i, 0);
    }
    for (size_t ends = 0; ends < FILES;) {
        for (size_t i = 0; i < FILES; i++) {
            if (dn_source_file.read(self, i, 0, &message, 1) == 1) {
                assert_false(ended[i]);
                ended[i] = message.end;
                ends += message.end ? 1 : 0;
                read += message.end ? 0 : 1;
            }
            dn_source_file.release(self, i, 0);
        }
        most = open_files() > most ? open_files() : most;
        usleep(TURN_US);
    }
    assert_int_equal(read, 2 * FILES);
    assert_true(most <= before + 64);
    assert_true(open_files() <= before);
    append_text("in/149", "{3}\n"); /* and it is still noticed when one grows */
    while (dn_source_file.read(self, 149, 0, &message, 1) == 0) {
        usleep(TURN_US);
    }
    assert_int_equal(message.offset, 8);
    dn_source_file.close(self);
}

/* ---- gzip and protobuf ---- */

static void compressed(void **state)
{
    size_t lines = 200000, used = 0;
    char *bytes = malloc(lines * 16), *texts = malloc(lines * 16);
    void *self;
    int64_t middle = 0;

    (void)state;
    assert_non_null(bytes);
    assert_non_null(texts);
    put_gzip("a.gz", "{1}\n\n{2", 7, "wb");
    expect_lines("a.gz", 0, "{1}|{2|", 7);
    expect_lines("a.gz", 5, "{2|", 7);
    expect_lines("a.gz", 7, "", 7);
    expect_state("a.gz", 8, DN_PARTITION_GAP, "it ends at byte 7");
    expect_state("a.gz", 2, DN_PARTITION_FAILED, "no line begins");
    put_gzip("a.gz", "}\n{3}\n", 6, "ab"); /* a second member */
    write_file(path_of("a.gz"), "\0\0\0", 3, O_APPEND);
    expect_lines("a.gz", 0, "{1}|{2}|{3}|", 13);
    write_file(path_of("a.gz"), "xy", 2, O_APPEND);
    expect_state("a.gz", 0, DN_PARTITION_FAILED, "damaged gzip");
    expect_state("a.gz", 0, DN_PARTITION_FAILED, "give up its rest: 'dunlin source skip'");

    for (size_t i = 0; i < lines; i++) {
        if (i == lines / 2) {
            middle = (int64_t)used;
        }
        used += (size_t)sprintf(bytes + used, "{%zu}\n", i * 7919 % lines);
    }
    put_gzip("b.gz", bytes, used, "wb");
    config.list_count = 0;
    add_path(path_of("b.gz"));
    self = open_source();
    assert_int_equal(status_of(self, 0).end_offset, -1);
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, texts, lines * 16), (int64_t)used);
    for (size_t i = 0; i < used; i++) {
        assert_true(texts[i] == (bytes[i] == '\n' ? '|' : bytes[i]));
    }
    assert_int_equal(status_of(self, 0).end_offset, (int64_t)used);
    start(self, 0, middle); /* backwards: from the front again */
    assert_int_equal(read_all(self, 0, texts, lines * 16), (int64_t)used);
    assert_int_equal(strlen(texts), used - (size_t)middle);
    dn_source_file.close(self);

    assert_int_equal(truncate(path_of("b.gz"), 100000), 0);
    self = open_source();
    start(self, 0, 0);
    assert_int_equal(read_all(self, 0, texts, lines * 16), -1);
    assert_int_equal(status_of(self, 0).state, DN_PARTITION_FAILED);
    assert_non_null(strstr(status_of(self, 0).error, "cut off"));
    dn_source_file.close(self);
    free(bytes);
    free(texts);
}

static void length_delimited(void **state)
{
    static const char three[] = "\x03"
                                "abc"
                                "\x00"
                                "\x02"
                                "\n\n"
                                "\x06"
                                "sixsix";
    char big[400];

    (void)state;
    config.format = DN_FORMAT_PROTOBUF;
    config.message_bytes = 300;
    write_file(path_of("p"), three, sizeof(three) - 1, O_TRUNC);
    expect_lines("p", 0, "abc||\n\n|sixsix|", 15);
    expect_lines("p", 5, "\n\n|sixsix|", 15);
    expect_lines("p", 15, "", 15);
    expect_state("p", 16, DN_PARTITION_GAP, "it ends at byte 15");
    put_gzip("p.gz", three, sizeof(three) - 1, "wb");
    expect_lines("p.gz", 8, "sixsix|", 15);
    write_file(path_of("p"), "\x05xx", 3, O_APPEND);
    expect_state("p", 0, DN_PARTITION_FAILED, "ends in the middle of the message at byte 15");

    memset(big, 'x', sizeof(big));
    memcpy(big, "\xac\x02", 2); /* 300 */
    memcpy(big + 302, "\x01y", 2);
    write_file(path_of("p"), big, 304, O_TRUNC);
    config.message_bytes = 299;
    expect_lines("p", 0, "<300>|y|", 304);
    write_file(path_of("p"), "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, O_TRUNC);
    expect_state("p", 0, DN_PARTITION_FAILED, "not length-delimited");
}

/* ---- dead letters ---- */

static void expect_fetched(void *fetcher, const char *stream, int64_t offset, const char *bytes,
                           int64_t next_offset)
{
    struct dn_error err = {0};
    struct dn_message message;

    if (dn_source_file.fetch(fetcher, stream, 0, offset, 5000, &message, &err) != DN_OK) {
        fail_msg("fetch %lld: %s", (long long)offset, err.message);
    }
    assert_int_equal(message.offset, offset);
    assert_int_equal(message.next_offset, next_offset);
    assert_int_equal(message.length, strlen(bytes));
    assert_memory_equal(message.bytes, bytes, message.length);
}

static void single_messages(void **state)
{
    struct dn_error err;
    struct dn_message message;
    char names_of[6][DN_SOURCE_MAX + 1];
    void *fetcher = NULL;

    (void)state;
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("in", 0700), 0);
    add_path("in");
    assert_int_equal(dn_source_file.fetcher_open(&config, &host, &fetcher, &err), DN_OK);
    for (int i = 0; i < 6; i++) { /* more than stay open */
        char name[16];

        snprintf(name, sizeof(name), "in/%d%s", i, i % 2 == 0 ? "" : ".gz");
        snprintf(names_of[i], sizeof(names_of[i]), "clicks/%s", name);
        if (i % 2 == 0) {
            put_text(name, "{1}\n\n{22}\n{333}");
        } else {
            put_gzip(name, "{1}\n\n{22}\n{333}", 15, "wb");
        }
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 6; i++) {
            expect_fetched(fetcher, names_of[i], 0, "{1}", 4);
            expect_fetched(fetcher, names_of[i], 5, "{22}", 10);
            expect_fetched(fetcher, names_of[i], 10, "{333}", 15);
            expect_fetched(fetcher, names_of[i], 5, "{22}", 10);
            assert_int_equal(dn_source_file.fetch(fetcher, names_of[i], 0, 6, 100, &message, &err),
                             DN_NOT_FOUND);
            assert_int_equal(dn_source_file.fetch(fetcher, names_of[i], 0, 4, 100, &message, &err),
                             DN_NOT_FOUND); /* an empty line: not the message after it */
            assert_int_equal(dn_source_file.fetch(fetcher, names_of[i], 0, 15, 100, &message, &err),
                             DN_NOT_FOUND);
            assert_int_equal(dn_source_file.fetch(fetcher, names_of[i], 0, 99, 100, &message, &err),
                             DN_NOT_FOUND);
        }
    }
    assert_int_equal(dn_source_file.fetch(fetcher, "clicks/in/9", 0, 0, 100, &message, &err), DN_NOT_FOUND);
    assert_int_equal(dn_source_file.fetch(fetcher, names_of[0], 1, 0, 100, &message, &err), DN_NOT_FOUND);
    dn_source_file.fetcher_close(fetcher);
    assert_int_equal(chdir("/"), 0);
}

/* ---- standard input ---- */

static void standard_input(void **state)
{
    struct dn_stream_info infos[2];
    char text[256], first[DN_SOURCE_MAX + 1];
    int saved = dup(STDIN_FILENO), ends[2];
    void *self, *fetcher = NULL;
    struct dn_message message;
    struct dn_error err;

    (void)state;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(pipe(ends), 0);
        assert_true(dup2(ends[0], STDIN_FILENO) >= 0);
        close(ends[0]);
        config.list_count = 0;
        add_path("-");
        self = open_source();
        assert_int_equal(dn_source_file.streams(self, infos, 2), 1);
        assert_true(infos[0].local);
        start(self, 0, DN_STREAM_OFFSET_UNSET);
        assert_int_equal(read_all(self, 0, text, sizeof(text)), 0);
        assert_int_equal(write(ends[1], "{1}\n{2}\n{", 9), 9);
        while (dn_source_file.read(self, 0, 0, &message, 1) == 0) {
            usleep(TURN_US);
        }
        assert_int_equal(message.next_offset, 4);
        assert_int_equal(read_all(self, 0, text, sizeof(text)), 8);
        assert_string_equal(text, "{2}|");
        assert_int_equal(write(ends[1], "3}\n{4", 5), 5);
        close(ends[1]);
        while (read_all(self, 0, text, sizeof(text)) < 14) { /* the end is known a moment later */
        }
        assert_int_equal(status_of(self, 0).state, DN_PARTITION_AT_END);
        start(self, 0, 4); /* it can be read again */
        assert_int_equal(read_all(self, 0, text, sizeof(text)), 14);
        assert_string_equal(text, "{2}|{3}|{4|");
        assert_int_equal(dn_source_file.fetcher_open(&config, &host, &fetcher, &err), DN_OK);
        expect_fetched(fetcher, infos[0].stream, 4, "{2}", 8);
        expect_fetched(fetcher, infos[0].stream, 8, "{3}", 12);
        /* Another node's is not said to be gone; an earlier run's is. */
        assert_int_equal(dn_stream_node(infos[0].stream), host.node_id);
        assert_int_equal(dn_source_file.fetch(fetcher, "clicks/-@9.0a1b", 0, 4, 1000, &message, &err),
                         DN_UNIMPLEMENTED);
        assert_int_equal(dn_source_file.fetch(fetcher, "clicks/-@7.0a1b", 0, 4, 1000, &message, &err),
                         DN_NOT_FOUND);
        dn_source_file.fetcher_close(fetcher);
        dn_source_file.close(self);
        if (round == 1) {
            assert_string_not_equal(infos[0].stream, first); /* another run, another stream */
        }
        memcpy(first, infos[0].stream, sizeof(first));
    }
    assert_int_equal(rmdir(data_folder), 0); /* nothing is left in it */
    assert_int_equal(mkdir(data_folder, 0700), 0);
    assert_true(dup2(saved, STDIN_FILENO) >= 0);
    close(saved);
}

/* A writer that is faster than the reader waits. */
static void standard_input_is_bounded(void **state)
{
    int saved = dup(STDIN_FILENO), ends[2];
    char *block = malloc(1 << 20);
    struct stat status;
    struct dn_stream_info info;
    size_t written = 0;
    char path[400];
    void *self;
    int quiet = 0;

    (void)state;
    assert_non_null(block);
    memset(block, '\n', 1 << 20);
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20); /* where it may be: it is only quicker */
    assert_true(dup2(ends[0], STDIN_FILENO) >= 0);
    close(ends[0]);
    add_path("-");
    self = open_source();
    assert_int_equal(dn_source_file.streams(self, &info, 1), 1);
    while (quiet < 100) { /* half a second without taking anything */
        ssize_t wrote = write(ends[1], block, 1 << 20);

        if (wrote > 0) {
            written += (size_t)wrote;
            quiet = 0;
        } else {
            usleep(5000);
            quiet++;
        }
        assert_true(written < (100u << 20));
    }
    assert_true(written >= (64u << 20));
    snprintf(path, sizeof(path), "%s/stdin-clicks%s", data_folder, info.stream + strlen("clicks/"));
    assert_int_equal(stat(path, &status), 0);
    assert_true(status.st_size < (70 << 20));
    close(ends[1]);
    dn_source_file.close(self);
    free(block);
    assert_true(dup2(saved, STDIN_FILENO) >= 0);
    close(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_and_offsets, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_the_beginning_of_a_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_opened, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lines_too_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_line_that_needs_a_larger_buffer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(folders, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(trouble, set_up, tear_down),
        cmocka_unit_test_setup_teardown(configurations, set_up, tear_down),
        cmocka_unit_test_setup_teardown(compressed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(length_delimited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(single_messages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(standard_input, set_up, tear_down),
        cmocka_unit_test_setup_teardown(standard_input_is_bounded, set_up, tear_down),
    };
    dn_file_quiet_ms = 0; /* a last line without newline is one at once */
    return cmocka_run_group_tests_name("ingest.source_file", tests, NULL, NULL);
}
