/* Events from files: both formats, plain and gzip; every fault named with its line; any bytes survive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dunlin/v1/dunlin.pb-c.h"
#include "replay/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static char folder[] = "/tmp/dn-feed-XXXXXX";
static char path[64];

static int set_up(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/events", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void write_bytes(const void *bytes, size_t length, bool gzip)
{
    gzFile file = gzopen(path, gzip ? "wb" : "wbT");

    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)length), (int)length);
    assert_int_equal(gzclose(file), Z_OK);
}

static struct dn_feed *open_text(const char *text, bool gzip, enum dn_feed_key key)
{
    struct dn_feed *feed;
    struct dn_error err;

    write_bytes(text, strlen(text), gzip);
    if (dn_feed_open(path, DN_FEED_AUTO, key, "x-", &feed, &err) != DN_OK)
        fail_msg("%s", err.message);
    return feed;
}

static void expect(struct dn_feed *feed, const char *key, const char *item, int type, int64_t time_ms,
                   const char *event_id, float weight)
{
    struct dn_feed_event event;
    struct dn_error err;

    if (dn_feed_next(feed, &event, &err) != DN_OK)
        fail_msg("%s", err.message);
    assert_string_equal(event.key, key);
    assert_string_equal(event.item, item);
    assert_string_equal(event.event_id, event_id);
    assert_int_equal(event.type, type);
    assert_int_equal(event.time_ms, time_ms);
    assert_int_equal(event.original_ms, time_ms);
    assert_true(event.weight == weight);
}

static void expect_end(struct dn_feed *feed)
{
    struct dn_feed_event event;

    assert_int_equal(dn_feed_next(feed, &event, NULL), DN_NOT_FOUND);
    dn_feed_close(feed);
}

static void test_jsonl(void **state)
{
    static const char text[] = "{\"user\":\"u\",\"item\":\"i\"}\n\n"
                               "{\"user\":\"\\u00e9\",\"item\":\"a b\",\"type\":\"buy\",\"time_ms\":5,"
                               "\"event_id\":\"e\",\"weight\":2.5,\"session\":\"s\",\"more\":1}\r\n"
                               "{\"item\":\"i\",\"session\":\"s\"}";
    struct dn_feed *feed;

    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        feed = open_text(text, gzip != 0, DN_FEED_KEY_USER);
        expect(feed, "u", "i", 0, 0, "x-line-1", 0);
        expect(feed, "\xc3\xa9", "a b", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY, 5, "e", 2.5f);
        expect(feed, "s", "i", 0, 0, "x-line-4", 0);
        expect_end(feed);
    }
    feed = open_text(text, false, DN_FEED_KEY_SESSION);
    expect(feed, "u", "i", 0, 0, "x-line-1", 0);
    expect(feed, "s", "a b", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY, 5, "e", 2.5f);
    expect(feed, "s", "i", 0, 0, "x-line-4", 0);
    expect_end(feed);
}

static void test_tsv(void **state)
{
    static const char text[] = "ts\tuser\tsession\titem\ttype\tprice\n"
                               "1590884413.5\t\t15354\t14742\tclick\t\n"
                               "1291191960\t17850\t536365\t85123A\tpurchase\t2.55\n";
    struct dn_feed *feed;

    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        feed = open_text(text, gzip != 0, DN_FEED_KEY_USER);
        expect(feed, "15354", "14742", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK, 1590884413500, "x-line-2",
               0);
        expect(feed, "17850", "85123A", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY, 1291191960000, "x-line-3", 0);
        expect_end(feed);
    }
    feed = open_text(text, false, DN_FEED_KEY_SESSION);
    expect(feed, "15354", "14742", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK, 1590884413500, "x-line-2", 0);
    expect(feed, "536365", "85123A", DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY, 1291191960000, "x-line-3", 0);
    expect_end(feed);
    expect_end(open_text("", false, DN_FEED_KEY_USER));
}

/* The last line of `text` is at fault. */
static void expect_fault(const char *text, const char *line, const char *what)
{
    struct dn_feed *feed = open_text(text, false, DN_FEED_KEY_USER);
    struct dn_feed_event event;
    struct dn_error err;
    enum dn_code code;

    while ((code = dn_feed_next(feed, &event, &err)) == DN_OK)
        ;
    assert_int_equal(code, DN_INVALID);
    if (strstr(err.message, line) == NULL || strstr(err.message, what) == NULL ||
        strstr(err.message, path) == NULL)
        fail_msg("'%s' should name %s, %s and '%s'", err.message, path, line, what);
    dn_feed_close(feed);
}

static void test_faults(void **state)
{
    static char line[DN_FEED_LINE_MAX + 10];
    struct dn_feed *feed;
    struct dn_error err;
    char long_id[400];

    (void)state;
    expect_fault("{\"user\":\"u\",\"item\":\"i\"}\n{\"user\":\"u\"}\n", "line 2", "required");
    expect_fault("{\"user\":\"u\"", "line 1", "");
    expect_fault("[]\n", "line 1", "object");
    expect_fault("{\"user\":7,\"item\":\"i\"}", "line 1", "strings");
    expect_fault("{\"user\":\"u\",\"item\":\"i\",\"type\":\"jump\"}", "line 1", "unknown type");
    expect_fault("{\"user\":\"u\",\"item\":\"i\",\"time_ms\":-1}", "line 1", "time_ms");
    expect_fault("{\"user\":\"u\",\"item\":\"i\",\"time_ms\":1.5}", "line 1", "time_ms");
    expect_fault("{\"user\":\"u\",\"item\":\"i\",\"weight\":256}", "line 1", "weight");
    snprintf(long_id, sizeof long_id, "{\"user\":\"%0257d\",\"item\":\"i\"}", 1);
    expect_fault(long_id, "line 1", "256");
    expect_fault("ts\tuser\tsession\titem\ttype\tprice\n1\t\ts\ti\tclick\n", "line 2", "six fields");
    expect_fault("ts\tuser\tsession\titem\ttype\tprice\nnan\t\ts\ti\tclick\t\n", "line 2", "ts");
    expect_fault("ts\tuser\tsession\titem\ttype\tprice\n1\t\t\ti\tclick\t\n", "line 2", "neither");
    expect_fault("ts\tuser\tsession\titem\ttype\tprice\n1\t\ts\t\tclick\t\n", "line 2", "item");
    memset(line, 'x', sizeof line - 1);
    write_bytes(line, sizeof line - 1, false);
    assert_int_equal(dn_feed_open(path, DN_FEED_AUTO, DN_FEED_KEY_USER, "", &feed, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "line 1: longer"));
    write_bytes("ts\n", 3, false);
    assert_int_equal(dn_feed_open(path, DN_FEED_TSV, DN_FEED_KEY_USER, "", &feed, &err), DN_INVALID);
    assert_int_equal(dn_feed_open("/nowhere/at/all", DN_FEED_AUTO, DN_FEED_KEY_USER, "", &feed, &err), DN_IO);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void test_any_bytes(void **state)
{
    static const char *const good[] = {
        "{\"user\":\"u\",\"item\":\"i\",\"type\":\"view\",\"time_ms\":15,\"weight\":1.0,\"event_id\":\"e1\"}"
        "\n"
        "{\"user\":\"v\",\"item\":\"j\"}\n",
        "ts\tuser\tsession\titem\ttype\tprice\n1\tu\ts\ti\tclick\t\n2\tu\ts\tj\tclick\t9.5\n"};
    uint64_t random = 42;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        const char *text = good[round % 2];
        size_t length = strlen(text), out_length;
        char bytes[512];
        struct dn_feed *feed;
        struct dn_feed_event event;
        int lines = 0;

        memcpy(bytes, text, length);
        for (uint64_t edits = 1 + next_random(&random) % 5; edits > 0; edits--)
            bytes[next_random(&random) % length] = (char)next_random(&random);
        out_length = next_random(&random) % 4 == 0 ? next_random(&random) % length : length;
        write_bytes(bytes, out_length, round % 3 == 0);
        if (dn_feed_open(path, DN_FEED_AUTO, DN_FEED_KEY_USER, "", &feed, NULL) != DN_OK)
            continue;
        while (dn_feed_next(feed, &event, NULL) == DN_OK) {
            assert_true(strlen(event.key) >= 1 && strlen(event.key) <= DN_ID_MAX);
            assert_true(strlen(event.item) >= 1 && event.time_ms >= 0);
            assert_true(++lines < 1000);
        }
        dn_feed_close(feed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_jsonl), cmocka_unit_test(test_tsv),
                                       cmocka_unit_test(test_faults), cmocka_unit_test(test_any_bytes)};

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
