#include "base/text.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <stdlib.h>
#include <string.h>

static bool valid(const char *text)
{
    return dn_utf8_valid(text, strlen(text));
}

static void utf8_edges(void **state)
{
    static const char *const good[] = {
        "",
        "plain",
        "\x7f",
        "\xc2\x80",                 /* U+0080 */
        "\xdf\xbf",                 /* U+07FF */
        "\xe0\xa0\x80",             /* U+0800 */
        "\xed\x9f\xbf",             /* U+D7FF */
        "\xee\x80\x80",             /* U+E000 */
        "\xef\xbf\xbf",             /* U+FFFF */
        "\xf0\x90\x80\x80",         /* U+10000 */
        "\xf4\x8f\xbf\xbf",         /* U+10FFFF */
        "eight..\xc3\xa9 and more", /* across the words of the fast path */
    };
    static const char *const bad[] = {
        "\x80",             /* continuation alone */
        "\xbf",             /* */
        "\xc0\x80",         /* overlong NUL */
        "\xc1\xbf",         /* overlong U+007F */
        "\xc2",             /* cut */
        "\xc2\x41",         /* no continuation */
        "\xc2\xc2",         /* */
        "\xe0\x9f\xbf",     /* overlong U+07FF */
        "\xe0\xa0",         /* cut */
        "\xe1\x80\x41",     /* */
        "\xed\xa0\x80",     /* U+D800 */
        "\xed\xbf\xbf",     /* U+DFFF */
        "\xf0\x8f\xbf\xbf", /* overlong U+FFFF */
        "\xf0\x90\x80",     /* cut */
        "\xf1\x80\x80\xc0", /* */
        "\xf4\x90\x80\x80", /* U+110000 */
        "\xf5\x80\x80\x80", /* */
        "\xff",             /* */
        "eight...\x80",     /* just after a whole word */
        "seven..\xc3",      /* cut at a word's end */
        "0123456789abcde\xfe tail of it",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        if (!valid(good[i])) {
            fail_msg("good[%zu] refused", i);
        }
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (valid(bad[i])) {
            fail_msg("bad[%zu] taken", i);
        }
    }
    assert_true(dn_utf8_valid("a\0b", 3));
    assert_true(dn_utf8_valid(NULL, 0));
}

/* Another way to say the same: decode to a code point, then ask whether that many bytes were right for it. */
static bool valid_by_decoding(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length;) {
        uint8_t lead = bytes[i];
        size_t size = lead < 0x80             ? 1
                      : (lead & 0xe0) == 0xc0 ? 2
                      : (lead & 0xf0) == 0xe0 ? 3
                      : (lead & 0xf8) == 0xf0 ? 4
                                              : 0;
        uint32_t point;

        if (size == 0 || size > length - i) {
            return false;
        }
        point = size == 1 ? lead : lead & (0x7fu >> size);
        for (size_t j = 1; j < size; j++) {
            if ((bytes[i + j] & 0xc0) != 0x80) {
                return false;
            }
            point = point << 6 | (bytes[i + j] & 0x3f);
        }
        if ((point >= 0xd800 && point < 0xe000) || point > 0x10ffff) {
            return false;
        }
        if (size != (point < 0x80 ? 1u : point < 0x800 ? 2u : point < 0x10000 ? 3u : 4u)) {
            return false;
        }
        i += size;
    }
    return true;
}

static void utf8_agrees_with_a_second_way(void **state)
{
    static const uint8_t interesting[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                          0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec,
                                          0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5};
    enum { COUNT = sizeof(interesting) };
    struct test_random random = test_random_start("utf8");

    (void)state;
    for (size_t n = 0; n < (size_t)COUNT * COUNT * COUNT * COUNT; n++) {
        uint8_t bytes[4] = {interesting[n % COUNT], interesting[n / COUNT % COUNT],
                            interesting[n / COUNT / COUNT % COUNT], interesting[n / COUNT / COUNT / COUNT]};

        for (size_t length = 1; length <= 4; length++) {
            if (dn_utf8_valid(bytes, length) != valid_by_decoding(bytes, length)) {
                fail_msg("%02x %02x %02x %02x at length %zu", bytes[0], bytes[1], bytes[2], bytes[3], length);
            }
        }
    }
    for (int round = 0; round < 20000; round++) { /* long enough for the fast path; exact for asan */
        size_t length = test_random_below(&random, 40);
        uint8_t *bytes = malloc(length > 0 ? length : 1);

        memset(bytes, 'a', length);
        for (int i = 0; i < 3 && length > 4; i++) {
            size_t at = test_random_below(&random, length - 3);

            memcpy(bytes + at, i == 1 ? "\xf0\x9f\x90\xa6" : "\xc3\xa9zz", 4);
        }
        if (length > 0 && round % 2 == 0) {
            bytes[test_random_below(&random, length)] = interesting[test_random_below(&random, COUNT)];
        }
        assert_int_equal(dn_utf8_valid(bytes, length), valid_by_decoding(bytes, length));
        free(bytes);
    }
}

static void ids(void **state)
{
    char text[DN_ID_MAX + 2];

    (void)state;
    memset(text, 'i', sizeof(text));
    assert_false(dn_id_valid("", 0));
    assert_true(dn_id_valid("a", 1));
    assert_true(dn_id_valid(text, DN_ID_MAX));
    assert_false(dn_id_valid(text, DN_ID_MAX + 1));
    assert_false(dn_id_valid("a\0b", 3));
    assert_false(dn_id_valid("\0", 1));
    assert_false(dn_id_valid("a\xff", 2));
    assert_true(dn_id_valid("caf\xc3\xa9", 5));
}

static void integers(void **state)
{
    static const char *const bad[] = {"",
                                      "-",
                                      "+5",
                                      " 5",
                                      "5 ",
                                      "5x",
                                      "0x10",
                                      "1.0",
                                      "--1",
                                      "9223372036854775808",
                                      "1e3",
                                      "5\n",
                                      "- 1",
                                      "\t1",
                                      "-9223372036854775809",
                                      "18446744073709551616",
                                      "99999999999999999999999999999999"};
    int64_t value = 77;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (dn_parse_i64(bad[i], INT64_MIN, INT64_MAX, &value)) {
            fail_msg("'%s' taken", bad[i]);
        }
        assert_int_equal(value, 77);
    }
    assert_true(dn_parse_i64("9223372036854775807", INT64_MIN, INT64_MAX, &value) && value == INT64_MAX);
    assert_true(dn_parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &value) && value == INT64_MIN);
    assert_true(dn_parse_i64("0", 0, 0, &value) && value == 0);
    assert_true(dn_parse_i64("-0", 0, 0, &value) && value == 0);
    assert_true(dn_parse_i64("007", 1, 10, &value) && value == 7);
    assert_false(dn_parse_i64("11", 1, 10, &value));
    assert_false(dn_parse_i64("0", 1, 10, &value));
    assert_int_equal(value, 7);
}

static void addresses(void **state)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } good[] = {
        {"localhost:7070", "localhost", 7070},
        {"127.0.0.1:0", "127.0.0.1", 0},
        {"dunlin-0.dunlin_peers.svc:65535", "dunlin-0.dunlin_peers.svc", 65535},
        {"[::1]:7071", "::1", 7071},
        {"[fe80::1%eth0]:1", "fe80::1%eth0", 1},
    };
    static const char *const bad[] = {"",
                                      ":7070",
                                      "host",
                                      "host:",
                                      "host:x",
                                      "host:65536",
                                      "host:-1",
                                      "::1:7070",
                                      "[::1]",
                                      "[::1]7070",
                                      "[::1]:",
                                      "[::1",
                                      "[]:1",
                                      "[host]:1",
                                      "[127.0.0.1]:1",
                                      "ho st:1",
                                      "host:1 ",
                                      "host:7070:1",
                                      "a/b:1",
                                      "[fe80::1%]:1",
                                      "h\x01:1",
                                      "[::g]:1",
                                      "[:::::::::::::::::::::::::::::::::::::::::::::::]:1"};
    char host[256] = "before", text[300];
    uint16_t port = 5;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (dn_parse_address(bad[i], host, &port)) {
            fail_msg("'%s' taken", bad[i]);
        }
    }
    assert_string_equal(host, "before");
    assert_int_equal(port, 5);
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(dn_parse_address(good[i].text, host, &port));
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    memset(text, 'h', sizeof(text));
    strcpy(text + 255, ":1");
    assert_true(dn_parse_address(text, host, &port));
    assert_int_equal(strlen(host), 255);
    memset(text, 'h', sizeof(text));
    strcpy(text + 256, ":1");
    assert_false(dn_parse_address(text, host, &port));
}

static void byte_sizes(void **state)
{
    static const char *const bad[] = {"",
                                      "MiB",
                                      "-1",
                                      "1MB",
                                      "1 MiB",
                                      "1mib",
                                      "1.5GiB",
                                      "1MiBx",
                                      "16777216TiB",
                                      "18446744073709551616",
                                      "17179869184GiB",
                                      "0x10"};
    uint64_t bytes = 3;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (dn_parse_bytes(bad[i], &bytes)) {
            fail_msg("'%s' taken", bad[i]);
        }
    }
    assert_int_equal(bytes, 3);
    assert_true(dn_parse_bytes("4096", &bytes) && bytes == 4096);
    assert_true(dn_parse_bytes("0", &bytes) && bytes == 0);
    assert_true(dn_parse_bytes("3KiB", &bytes) && bytes == 3072);
    assert_true(dn_parse_bytes("64MiB", &bytes) && bytes == (uint64_t)64 << 20);
    assert_true(dn_parse_bytes("1GiB", &bytes) && bytes == (uint64_t)1 << 30);
    assert_true(dn_parse_bytes("16777215TiB", &bytes) && bytes == (uint64_t)16777215 << 40);
    assert_true(dn_parse_bytes("18446744073709551615", &bytes) && bytes == UINT64_MAX);
}

/* Random text from the characters the parsers know: no crash, and what is taken is within its bounds. */
static void random_text_is_refused_or_in_range(void **state)
{
    static const char alphabet[] = "0123456789:[]-.%KMGTiBah ";
    struct test_random random = test_random_start("text");

    (void)state;
    for (int round = 0; round < 100000; round++) {
        size_t length = test_random_below(&random, 24);
        char *text = malloc(length + 1);
        char host[256];
        uint16_t port;
        uint64_t bytes;
        int64_t value;

        for (size_t i = 0; i < length; i++) {
            text[i] = alphabet[test_random_below(&random, sizeof(alphabet) - 1)];
        }
        text[length] = '\0';
        if (dn_parse_i64(text, -50, 5000, &value)) {
            assert_true(value >= -50 && value <= 5000 && strtoll(text, NULL, 10) == value);
        }
        if (dn_parse_address(text, host, &port)) {
            assert_true(strlen(host) > 0 && strlen(host) < length);
        }
        dn_parse_bytes(text, &bytes);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_edges),
        cmocka_unit_test(utf8_agrees_with_a_second_way),
        cmocka_unit_test(ids),
        cmocka_unit_test(integers),
        cmocka_unit_test(addresses),
        cmocka_unit_test(byte_sizes),
        cmocka_unit_test(random_text_is_refused_or_in_range),
    };
    return cmocka_run_group_tests_name("base.text", tests, NULL, NULL);
}
