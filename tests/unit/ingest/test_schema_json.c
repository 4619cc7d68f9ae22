/* JSON messages: what is an event, what is not, and what is said about it. */
#include "schema_help.h"

static void test_all_fields(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    good(&t,
         "{\"user_id\":\"u1\",\"item_id\":\"i1\",\"type\":\"cart\",\"time_ms\":1700000000123,\"weight\":2.5,"
         "\"schema_version\":1}");
    is_user(&t, "u1");
    is_item(&t, "i1");
    assert_int_equal(t.got.type, DN_EVENT_CART);
    assert_int_equal(t.got.time_ms, 1700000000123);
    assert_int_equal(t.got.weight, 640);
    tried_free(&t);
}

static void test_missing_optional_fields(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}");
    assert_int_equal(t.got.type, DN_EVENT_VIEW);
    assert_int_equal(t.got.time_ms, 42);
    assert_int_equal(t.got.weight, DN_WEIGHT_ONE);
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":null,\"time_ms\":null,\"weight\":null}");
    assert_int_equal(t.got.type, DN_EVENT_VIEW);
    assert_int_equal(t.got.time_ms, 42);
    assert_int_equal(t.got.weight, DN_WEIGHT_ONE);
    tried_free(&t);
}

static void test_missing_required_fields(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is missing");
    dead(&t, "{\"user_id\":null,\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is missing");
    dead(&t, "{\"user_id\":\"u\"}", DN_DEAD_UNDECODABLE, "item_id: is missing");
    dead(&t, "{}", DN_DEAD_UNDECODABLE, "user_id: is missing");
    t.message.time_ms = -1;
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "time_ms: there is none");
    tried_free(&t);
}

static void test_unknown_fields(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "{\"a\":[1,{\"user_id\":\"no\"},[[]]],\"user_id\":\"u\",\"b\":{\"item_id\":\"no\",\"c\":{"
             "\"type\":7}},"
             "\"item_id\":\"i\",\"d\":true,\"a\":2,\"e\":1e999,\"f\":-0.5,\"USER_ID\":\"no\",\"user_i\":1}");
    is_user(&t, "u");
    is_item(&t, "i");
    assert_int_equal(t.got.type, DN_EVENT_VIEW);
    tried_free(&t);
}

static void test_not_json(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "{\"user_id\":\"u\",\"item_id\":\"i\"",
        "{\"user_id\":\"u\",\"item_id\":\"i",
        "{\"user_id\":\"u\",\"item_id\":\"i\"}}",
        "{\"user_id\":\"u\",\"item_id\":\"i\"} {}",
        "{\"user_id\":\"u\",\"item_id\":\"i\"} x",
        "{\"user_id\":\"u\",\"item_id\":\"i\"}\"",
        "{\"user_id\":\"u\",\"item_id\":\"i\"} \"x",
        "{\"user_id\":\"u\",\"item_id\":\"i\"} tru",
        "{\"user_id\":\"u\",\"item_id\":\"i\"} 7",
        "{\"user_id\":\"u\",\"item_id\":\"i\",}",
        "{\"user_id\":\"u\" \"item_id\":\"i\"}",
        "{user_id:\"u\",\"item_id\":\"i\"}",
        "{\"user_id\":'u',\"item_id\":\"i\"}",
        "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":NaN}",
        "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":01}",
        "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":1.}",
        "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":+1}",
        "{\"user_id\":\"u\",\"item_id\":\"i\"/* comment */}",
        "{\"user_id\":\"u\\x\",\"item_id\":\"i\"}",
        "{\"user_id\":\"u\\u12G4\",\"item_id\":\"i\"}",
        "{\"user_id\":\"u\nu\",\"item_id\":\"i\"}",
        "\x1f\x8b garbage",
    };
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        dead(&t, texts[i], DN_DEAD_UNDECODABLE, "not JSON: ");
        assert_null(strchr(t.err.message, '\n'));
    }
    assert_int_equal(tried_bytes(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}\0", 31), DN_DECODE_DEAD);
    good(&t, " \t\r\n{\"user_id\":\"u\",\"item_id\":\"i\"}\r\n ");
    tried_free(&t);
}

static void test_not_an_object(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    dead(&t, "[{\"user_id\":\"u\",\"item_id\":\"i\"}]", DN_DEAD_UNDECODABLE, "an array");
    dead(&t, "\"text\"", DN_DEAD_UNDECODABLE, "a single value");
    dead(&t, "\"te\\nxt\"", DN_DEAD_UNDECODABLE, "a single value");
    dead(&t, "17", DN_DEAD_UNDECODABLE, "a single value");
    dead(&t, "true", DN_DEAD_UNDECODABLE, "a single value");
    dead(&t, "null", DN_DEAD_UNDECODABLE, "a single value");
    tried_free(&t);
}

static void test_byte_order_mark(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "\xEF\xBB\xBF{\"user_id\":\"u\\u00e4\",\"item_id\":\"i\"}");
    is_user(&t, "u\xC3\xA4");
    dead(&t, "\xEF\xBB{\"user_id\":\"u\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "not JSON");
    dead(&t, "\xEF\xBB\xBF", DN_DEAD_UNDECODABLE, "not JSON");
    dead(&t, "\xEF\xBB\xBF\xEF\xBB\xBF{}", DN_DEAD_UNDECODABLE, "not JSON");
    tried_free(&t);
}

static void test_duplicate_keys(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    SET(t.config.fields.user, "who.id");
    dead(&t, "{\"who\":{\"id\":\"a\",\"id\":\"b\"},\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE,
         "'id' is there twice");
    dead(&t, "{\"who\":{\"id\":null,\"id\":\"b\"},\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE,
         "'id' is there twice");
    dead(&t, "{\"who\":{\"id\":\"a\"},\"item_id\":\"i\",\"who\":{}}", DN_DEAD_UNDECODABLE,
         "'who' is there twice");
    dead(&t, "{\"who\":1,\"item_id\":\"i\",\"\\u0077ho\":{}}", DN_DEAD_UNDECODABLE, "'who' is there twice");
    good(&t, "{\"who\":{\"id\":\"a\",\"x\":1,\"x\":2},\"item_id\":\"i\",\"x\":{\"id\":1},\"x\":{\"id\":1}}");
    is_user(&t, "a");
    tried_free(&t);
}

static void nested(char *text, size_t depth, char open, char close)
{
    size_t at = (size_t)sprintf(text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"x\":");
    for (size_t i = 0; i < depth; i++) {
        at += (size_t)sprintf(text + at, open == '{' && i + 1 < depth ? "{\"x\":" : "%c", open);
    }
    memset(text + at, close, depth);
    text[at + depth] = '}';
    text[at + depth + 1] = '\0';
}

static void test_nesting(void **state)
{
    (void)state;
    static char text[1 << 20];
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    nested(text, 63, '[', ']');
    good(&t, text);
    nested(text, 63, '{', '}');
    good(&t, text);
    nested(text, 64, '[', ']');
    dead(&t, text, DN_DEAD_UNDECODABLE, "nested more than 64 deep");
    nested(text, 64, '{', '}');
    dead(&t, text, DN_DEAD_UNDECODABLE, "nested more than 64 deep");
    memset(text, '[', sizeof text - 1);
    text[0] = '{';
    memcpy(text + 1, "\"x\":", 4);
    text[sizeof text - 1] = '\0';
    dead(&t, text, DN_DEAD_UNDECODABLE, "nested more than 64 deep");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}");
    tried_free(&t);
}

static void test_ids(void **state)
{
    (void)state;
    char text[1024], id[DN_ID_MAX + 2];
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    dead(&t, "{\"user_id\":\"\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is empty");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"\"}", DN_DEAD_UNDECODABLE, "item_id: is empty");
    dead(&t, "{\"user_id\":\"a\\u0000b\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is not UTF-8");
    dead(&t, "{\"user_id\":\"a\xFF\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is not UTF-8");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"\xC0\xAF\"}", DN_DEAD_UNDECODABLE, "item_id: is not UTF-8");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"\xED\xA0\x80\"}", DN_DEAD_UNDECODABLE,
         "item_id: is not UTF-8");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"latin1\":\"caf\xE9\"}");
    memset(id, 'x', sizeof id);
    id[DN_ID_MAX] = '\0';
    snprintf(text, sizeof text, "{\"user_id\":\"%s\",\"item_id\":\"%s\"}", id, id);
    good(&t, text);
    is_user(&t, id);
    is_item(&t, id);
    snprintf(text, sizeof text, "{\"user_id\":\"%sy\",\"item_id\":\"i\"}", id);
    dead(&t, text, DN_DEAD_LIMIT, "user_id: 257 bytes; an id has at most 256");
    snprintf(text, sizeof text, "{\"user_id\":\"%s\\n\",\"item_id\":\"i\"}", id);
    dead(&t, text, DN_DEAD_LIMIT, "user_id: 257 bytes; an id has at most 256");
    id[DN_ID_MAX - 1] = '\0';
    snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"%s\\n\"}", id);
    good(&t, text);
    assert_int_equal(t.got.item_length, DN_ID_MAX);
    assert_int_equal(t.got.item[DN_ID_MAX - 1], '\n');
    dead(&t, "{\"user_id\":{\"a\":1},\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is an object");
    dead(&t, "{\"user_id\":[\"a\"],\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is an array");
    dead(&t, "{\"user_id\":true,\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "user_id: is true");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":false}", DN_DEAD_UNDECODABLE, "item_id: is false");
    tried_free(&t);
}

static void test_ids_with_escapes(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":\"\\\"\\\\\\/"
             "\\b\\f\\n\\r\\t\\u00e4\\u20ac\",\"x\":\"\\n\",\"item_id\":\"\\ud83d\\ude00\"}");
    is_user(&t, "\"\\/\b\f\n\r\t\xC3\xA4\xE2\x82\xAC");
    is_item(&t, "\xF0\x9F\x98\x80");
    good(&t, "{\"user_id\":\"\\uD83D\\uDE00x\\uD83D\\uDE00\",\"item_id\":\"\\\\\\\\ud800\"}");
    is_user(&t, "\xF0\x9F\x98\x80x\xF0\x9F\x98\x80");
    is_item(&t, "\\\\ud800");
    static const char *const halves[] = {
        "\\ud800",         "\\ud800x",       "a\\\"\\ud83d",
        "\\ud83d\\n",      "\\ud83d\\u0041", "\\ud83d\\ud83d\\ude00",
        "\\ude00",         "\\udfff\\ud800", "\\\\\\ud800",
        "\\\"\\udbff\\\"",
    };
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"%s\"}", halves[i]);
        dead(&t, text, DN_DEAD_UNDECODABLE, "item_id: is text with half a surrogate pair");
    }
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"other\":\"\\ud800\"}");
    tried_free(&t);
}

static void test_numbers_as_ids(void **state)
{
    (void)state;
    char text[1024], id[DN_ID_MAX + 2];
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":12345,\"item_id\":-7}");
    is_user(&t, "12345");
    is_item(&t, "-7");
    good(&t, "{\"user_id\":0,\"item_id\":-0}");
    is_user(&t, "0");
    is_item(&t, "0");
    good(&t, "{\"user_id\":123456789012345678901234567890,\"item_id\":\"i\"}");
    is_user(&t, "123456789012345678901234567890");
    dead(&t, "{\"user_id\":1.5,\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE,
         "user_id: is a number that is not whole");
    dead(&t, "{\"user_id\":1.0,\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE,
         "user_id: is a number that is not whole");
    dead(&t, "{\"user_id\":1e3,\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE,
         "user_id: is a number that is not whole");
    memset(id, '9', sizeof id);
    id[DN_ID_MAX + 1] = '\0';
    snprintf(text, sizeof text, "{\"user_id\":%s,\"item_id\":\"i\"}", id);
    dead(&t, text, DN_DEAD_LIMIT, "user_id: 257 bytes");
    tried_free(&t);
}

static void test_nested_paths(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    SET(t.config.fields.user, "context.user.id");
    SET(t.config.fields.item, "context.page\\.item");
    SET(t.config.fields.type, "context.user.act");
    SET(t.config.fields.time, "@timestamp");
    SET(t.config.fields.weight, "w\\\\.\\@w");
    good(&t, "{\"context\":{\"id\":1,\"user\":{\"act\":\"buy\",\"id\":\"u\",\"user\":{\"id\":2}},\"page."
             "item\":\"i\","
             "\"page\":{\"item\":\"no\"}},\"w\\\\\":{\"@w\":3},\"@timestamp\":77,\"user\":{\"id\":\"no\"},"
             "\"id\":\"no\"}");
    is_user(&t, "u");
    is_item(&t, "i");
    assert_int_equal(t.got.type, DN_EVENT_BUY);
    assert_int_equal(t.got.time_ms, 77);
    assert_int_equal(t.got.weight, 3 * DN_WEIGHT_ONE);
    dead(&t, "{\"context\":[{\"user\":{\"id\":\"u\"}}],\"@timestamp\":77}", DN_DEAD_UNDECODABLE,
         "context.user.id: is missing");
    dead(&t, "{\"context\":[{},{\"user\":{\"id\":\"u\"}}],\"@timestamp\":77}", DN_DEAD_UNDECODABLE,
         "context.user.id: is missing");
    dead(&t, "{\"context\":\"u\",\"@timestamp\":77}", DN_DEAD_UNDECODABLE, "context.user.id: is missing");
    dead(&t, "{\"context\":{\"user\":{}},\"id\":\"u\"}", DN_DEAD_UNDECODABLE, "context.user.id: is missing");
    dead(&t, "{\"x\":{\"context\":{\"user\":{\"id\":\"u\"}}}}", DN_DEAD_UNDECODABLE,
         "context.user.id: is missing");
    tried_free(&t);
}

static void test_key_and_message_time(void **state)
{
    (void)state;
    uint8_t key[DN_ID_MAX + 1];
    struct tried t;
    tried_reset(&t);
    SET(t.config.fields.user, "@key");
    SET(t.config.fields.time, "@time");
    t.message.time_ms = 99;
    dead(&t, "{\"user_id\":\"no\",\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "@key: the message has no key");
    t.message.key = (const uint8_t *)"u7";
    t.message.key_length = 2;
    good(&t, "{\"user_id\":\"no\",\"item_id\":\"i\",\"time_ms\":1,\"@key\":\"no\",\"@time\":5}");
    is_user(&t, "u7");
    assert_int_equal(t.got.time_ms, 99);
    t.message.key_length = 0;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "@key: is empty");
    t.message.key = (const uint8_t *)"\xFF";
    t.message.key_length = 1;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "@key: is not UTF-8");
    memset(key, 'k', sizeof key);
    t.message.key = key;
    t.message.key_length = sizeof key;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_LIMIT, "@key: 257 bytes");
    t.message.key_length = DN_ID_MAX;
    good(&t, "{\"item_id\":\"i\"}");
    t.message.time_ms = -1;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "@time: there is none");
    t.message.time_ms = 0;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "out of range");
    t.message.time_ms = DN_TIME_MAX_MS;
    dead(&t, "{\"item_id\":\"i\"}", DN_DEAD_UNDECODABLE, "out of range");
    t.message.time_ms = DN_TIME_MAX_MS - 1;
    good(&t, "{\"item_id\":\"i\"}");
    tried_free(&t);
}

static void test_schema_version(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":1}");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":null}");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":\"1-0-2\"}");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"x\":{\"schema_version\":2}}");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":2}", DN_DEAD_UNDECODABLE,
         "schema_version: 2; this program knows 1 only");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":0}", DN_DEAD_UNDECODABLE,
         "schema_version: 0");
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"schema_version\":1.5}", DN_DEAD_UNDECODABLE,
         "schema_version: 1.5");
    dead(&t, "{\"schema_version\":11,\"type\":\"of the future\"}", DN_DEAD_UNDECODABLE, "schema_version: 11");
    tried_free(&t);
}

static void test_message_without_bytes(void **state)
{
    (void)state;
    struct tried t;
    struct dn_message tombstone = {.time_ms = 42};
    struct dn_message large = {.time_ms = 42, .too_large = true, .length = 123456789};
    tried_reset(&t);
    t.config.message_bytes = 64;
    assert_int_equal(tried_configure(&t), DN_OK);
    assert_int_equal(dn_schema_decode(t.schema, &tombstone, &t.got, &t.reason, &t.err), DN_DECODE_SKIPPED);
    assert_int_equal(dn_schema_decode(t.schema, &large, &t.got, &t.reason, &t.err), DN_DECODE_DEAD);
    assert_int_equal(t.reason, DN_DEAD_LIMIT);
    assert_string_equal(t.err.message, "123456789 bytes; message_bytes allows 64");
    large.length = 10; /* whoever says so */
    assert_int_equal(dn_schema_decode(t.schema, &large, &t.got, &t.reason, &t.err), DN_DECODE_DEAD);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"long\":\"1234567890123456789012345\"}");
    assert_int_equal(t.message.length, 64);
    dead(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"long\":\"12345678901234567890123456\"}", DN_DEAD_LIMIT,
         "65 bytes; message_bytes allows 64");
    tried_free(&t);
}

/* The longest strings that must be unescaped, in the largest message, and no memory that grows by it. */
static void test_large_messages(void **state)
{
    (void)state;
    const size_t size = 8u << 20;
    char *text = malloc(size + 1);
    struct tried t;
    assert_non_null(text);
    tried_reset(&t);
    t.message.time_ms = 42;
    t.config.message_bytes = size;
    size_t head = (size_t)sprintf(text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"x\":\"");
    for (size_t i = head; i < size; i++) {
        text[i] = i - head < 4096 && i % 2 == head % 2 ? '\\' : 'n';
    }
    memcpy(text + size - 2, "\"}", 3);
    for (int i = 0; i < 3; i++) {
        good(&t, text);
    }
    text[size - 2] = 'n'; /* an unfinished string */
    text[size - 1] = 'n';
    dead(&t, text, DN_DEAD_UNDECODABLE, "not JSON");
    memcpy(text, "{\"user_id\":\"", 12);
    memset(text + 12, 'n', head - 12);
    memcpy(text + size - 2, "\"}", 2);
    dead(&t, text, DN_DEAD_LIMIT, "user_id: ");
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}");
    free(text);
    tried_free(&t);
}

/* The caller that wants no words. */
static void test_no_error_wanted(void **state)
{
    (void)state;
    static const char *const texts[] = {"{", "[]", "{}", "{\"user_id\":1.5}", "{\"type\":\"x\"}"};
    struct tried t;
    tried_reset(&t);
    assert_int_equal(tried_configure(&t), DN_OK);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        t.message.bytes = (const uint8_t *)texts[i];
        t.message.length = strlen(texts[i]);
        t.reason = 0;
        assert_int_equal(dn_schema_decode(t.schema, &t.message, &t.got, &t.reason, NULL), DN_DECODE_DEAD);
        assert_int_equal(t.reason, DN_DEAD_UNDECODABLE);
    }
    tried_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_missing_optional_fields),
        cmocka_unit_test(test_missing_required_fields),
        cmocka_unit_test(test_unknown_fields),
        cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_not_an_object),
        cmocka_unit_test(test_byte_order_mark),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_ids_with_escapes),
        cmocka_unit_test(test_numbers_as_ids),
        cmocka_unit_test(test_nested_paths),
        cmocka_unit_test(test_key_and_message_time),
        cmocka_unit_test(test_schema_version),
        cmocka_unit_test(test_message_without_bytes),
        cmocka_unit_test(test_large_messages),
        cmocka_unit_test(test_no_error_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
