/* Times in every unit, weights, types; protobuf; configurations that are refused. */
#include "schema_help.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <math.h>

static void time_text(char text[256], const char *time)
{
    snprintf(text, 256, "{\"user_id\":\"u\",\"item_id\":\"i\",\"time_ms\":%s}", time);
}

static void time_is(struct tried *t, enum dn_time_unit unit, const char *time, int64_t ms)
{
    char text[256];
    time_text(text, time);
    t->config.fields.time_unit = unit;
    assert_int_equal(tried_configure(t), DN_OK);
    good(t, text);
    if (t->got.time_ms != ms) {
        fail_msg("%s: %lld, not %lld", time, (long long)t->got.time_ms, (long long)ms);
    }
}

static void time_dead(struct tried *t, enum dn_time_unit unit, const char *time, const char *words)
{
    char text[256];
    time_text(text, time);
    t->config.fields.time_unit = unit;
    assert_int_equal(tried_configure(t), DN_OK);
    dead(t, text, DN_DEAD_UNDECODABLE, words);
    assert_ptr_equal(strstr(t->err.message, "time_ms: "), t->err.message);
}

static void test_time_numbers(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    time_is(&t, DN_TIME_MS, "1700000000123", 1700000000123);
    time_is(&t, DN_TIME_MS, "1700000000123.999", 1700000000123);
    time_is(&t, DN_TIME_MS, "1.700000000123e12", 1700000000123);
    time_is(&t, DN_TIME_MS, "1700000000123000E-3", 1700000000123);
    time_is(&t, DN_TIME_MS, "17e+11", 1700000000000);
    time_is(&t, DN_TIME_MS, "\"1700000000123\"", 1700000000123);
    time_is(&t, DN_TIME_MS, "1", 1);
    time_is(&t, DN_TIME_MS, "281474976710655", 281474976710655);
    time_is(&t, DN_TIME_S, "1700000000", 1700000000000);
    time_is(&t, DN_TIME_S, "1700000000.1239", 1700000000123);
    time_is(&t, DN_TIME_S, "1700000000.12", 1700000000120);
    time_is(&t, DN_TIME_S, "1700000000.00000000000000000000000000000001", 1700000000000);
    time_is(&t, DN_TIME_S, "0.001", 1);
    time_is(&t, DN_TIME_S, "\"1.7e9\"", 1700000000000);
    time_is(&t, DN_TIME_US, "1700000000123999", 1700000000123);
    time_is(&t, DN_TIME_NS, "1700000000123999999", 1700000000123);
    time_is(&t, DN_TIME_NS, "1700000000123999999.5", 1700000000123);
    time_is(&t, DN_TIME_NS, "281474976710655999999", 281474976710655);
    tried_free(&t);
}

static void test_time_numbers_refused(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    time_dead(&t, DN_TIME_MS, "281474976710656", "out of range");
    time_dead(&t, DN_TIME_MS, "-1", "out of range");
    time_dead(&t, DN_TIME_MS, "-0.001", "out of range");
    time_dead(&t, DN_TIME_MS, "1e15", "out of range");
    time_dead(&t, DN_TIME_MS, "1e99999999999999999999", "out of range");
    time_dead(&t, DN_TIME_MS, "18446744073709551617", "out of range");
    time_dead(&t, DN_TIME_MS, "99999999999999999999999999999999999999", "out of range");
    time_dead(&t, DN_TIME_S, "281474976711", "out of range");
    time_dead(&t, DN_TIME_S, "1700000000123", "is the time unit right?");
    time_dead(&t, DN_TIME_MS, "\"\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"x\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"17 \"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"0x17\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"17.\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\".5\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"17e\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"+17\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"inf\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "\"2024-05-01T12:34:56Z\"", "is not a number");
    time_dead(&t, DN_TIME_MS, "11111111111111111111111111111111111111111111111111111111111111111",
              "too long");
    time_dead(&t, DN_TIME_MS, "true", "is true, which is no time");
    time_dead(&t, DN_TIME_MS, "{}", "is an object, which is no time");
    tried_free(&t);
}

/* Zero is "not given", as in dunlin.v1.Event. */
static void test_time_zero(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    time_dead(&t, DN_TIME_MS, "0", "there is none, and the message has no time itself");
    t.message.time_ms = 42;
    time_is(&t, DN_TIME_MS, "0", 42);
    time_is(&t, DN_TIME_MS, "-0", 42);
    time_is(&t, DN_TIME_MS, "0.9", 42);
    time_is(&t, DN_TIME_S, "0e5", 42);
    time_is(&t, DN_TIME_ISO8601, "\"1970-01-01T00:00:00Z\"", 42);
    tried_free(&t);
}

static void test_time_iso8601(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20Z\"", 1700000000000);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20.123Z\"", 1700000000123);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20.1Z\"", 1700000000100);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20,123999999z\"", 1700000000123);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14t22:13:20+00:00\"", 1700000000000);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14 22:13:20-00:00\"", 1700000000000);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-15T03:43:20+05:30\"", 1700000000000);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T14:13:20.5-0800\"", 1700000000500);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T23:13:20+01\"", 1700000000000);
    time_is(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13Z\"", 1699999980000);
    time_is(&t, DN_TIME_ISO8601, "\"2024-02-29T00:00:00Z\"", 1709164800000);
    time_is(&t, DN_TIME_ISO8601, "\"2000-02-29T00:00:00Z\"", 951782400000);
    time_is(&t, DN_TIME_ISO8601, "\"2016-12-31T23:59:60Z\"", 1483228800000);
    time_is(&t, DN_TIME_ISO8601, "\"1969-12-31T23:00:00-02:00\"", 3600000);
    time_is(&t, DN_TIME_ISO8601, "\"9999-12-31T23:59:59.999Z\"", 253402300799999);
    tried_free(&t);
}

static void test_time_iso8601_refused(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    time_dead(&t, DN_TIME_ISO8601, "1700000000", "is a number; the time unit iso8601 needs text");
    time_dead(&t, DN_TIME_ISO8601, "\"\"", "is not an ISO 8601 time");
    time_dead(&t, DN_TIME_ISO8601, "\"20231114T221320Z\"", "is not an ISO 8601 time");
    time_dead(&t, DN_TIME_ISO8601, "\"14.11.2023 22:13:20\"", "is not an ISO 8601 time");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14\"", "has no time of day");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22\"", "has no time of day");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:\"", "has no seconds");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20.Z\"", "has no seconds");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20 Z\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20+1\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20+24:00\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20+01:60\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20+01:\"", "has no zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-11-14T22:13:20Z[UTC]\"", "has more after the zone");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-02-29T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2100-02-29T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-04-31T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-13-01T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-00-01T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-01-00T00:00:00Z\"", "a date that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-01-01T24:00:00Z\"", "a time of day that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-01-01T00:60:00Z\"", "a time of day that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"2023-01-01T00:00:61Z\"", "a time of day that does not exist");
    time_dead(&t, DN_TIME_ISO8601, "\"1969-12-31T23:59:59.999Z\"", "is before 1970");
    time_dead(&t, DN_TIME_ISO8601, "\"1970-01-01T00:00:00+00:01\"", "is before 1970");
    time_dead(&t, DN_TIME_ISO8601, "\"0000-01-01T00:00:00Z\"", "is before 1970");
    tried_free(&t);
}

static void weight_is(struct tried *t, const char *weight, uint16_t fixed)
{
    char text[256];
    snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":%s}", weight);
    good(t, text);
    if (t->got.weight != fixed) {
        fail_msg("%s: %u, not %u", weight, t->got.weight, fixed);
    }
}

static void weight_dead(struct tried *t, const char *weight, const char *words)
{
    char text[256];
    snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"weight\":%s}", weight);
    dead(t, text, DN_DEAD_UNDECODABLE, words);
    assert_ptr_equal(strstr(t->err.message, "weight: "), t->err.message);
}

static void test_weights(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    weight_is(&t, "1", 256);
    weight_is(&t, "0", 256);
    weight_is(&t, "0.0", 256);
    weight_is(&t, "-0", 256);
    weight_is(&t, "0e9", 256);
    weight_is(&t, "0.5", 128);
    weight_is(&t, "1.001", 256);
    weight_is(&t, "1.003", 257);
    weight_is(&t, "255", 65280);
    weight_is(&t, "25.5e1", 65280);
    weight_is(&t, "0.0001", 1);
    weight_is(&t, "1e-400", 256); /* zero, in a double */
    weight_is(&t, "1e-200", 1);
    weight_is(&t, "1e-30", 1);
    weight_is(&t, "0.00000000000000000000015e22", 384);
    weight_is(&t, "\"2.25\"", 576);
    weight_is(&t, "100000000000000000000000000e-26", 256);
    weight_dead(&t, "-1", "is not within 0");
    weight_dead(&t, "-0.001", "is not within 0");
    weight_dead(&t, "255.01", "is not within 0");
    weight_dead(&t, "1e400", "is not within 0");
    weight_dead(&t, "-1e400", "is not within 0");
    weight_dead(&t, "\"much\"", "is not a number");
    weight_dead(&t, "\"NaN\"", "is not a number");
    weight_dead(&t, "\"\"", "is not a number");
    weight_dead(&t, "true", "is true, which is no number");
    weight_dead(&t, "[1]", "is an array, which is no number");
    tried_free(&t);
}

static uint8_t type_of(struct tried *t, const char *type)
{
    char text[256];
    snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":%s}", type);
    good(t, text);
    return t->got.type;
}

static void type_dead(struct tried *t, const char *type, const char *words)
{
    char text[256];
    snprintf(text, sizeof text, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":%s}", type);
    dead(t, text, DN_DEAD_UNDECODABLE, words);
}

static void test_types(void **state)
{
    (void)state;
    static const char *const names[] = {"",     "view",    "click", "cart",  "buy",
                                        "like", "dislike", "play",  "remove"};
    char text[64];
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++) {
        snprintf(text, sizeof text, "\"%s\"", names[type]);
        assert_int_equal(type_of(&t, text), type);
        snprintf(text, sizeof text, "%d", type);
        assert_int_equal(type_of(&t, text), type);
        snprintf(text, sizeof text, "\"%d\"", type);
        assert_int_equal(type_of(&t, text), type);
    }
    assert_int_equal(type_of(&t, "\"BuY\""), DN_EVENT_BUY);
    assert_int_equal(type_of(&t, "\"EVENT_TYPE_CLICK\""), DN_EVENT_CLICK);
    assert_int_equal(type_of(&t, "0"), DN_EVENT_VIEW);
    type_dead(&t, "9", "type: '9' is not an event type");
    type_dead(&t, "-1", "type: '-1' is not an event type");
    type_dead(&t, "1.0", "type: '1.0' is not an event type");
    type_dead(&t, "\"\"", "type: '' is not an event type");
    type_dead(&t, "\"views\"", "type: 'views' is not an event type");
    type_dead(&t, "\"vie\"", "type: 'vie' is not an event type");
    type_dead(&t, "\"event_type_\"", "is not an event type");
    type_dead(&t, "\"\\u001b[31m\xC3\xA4\"",
              "type: '?[31m?"
              "?' is not an event type");
    type_dead(&t, "\"a123456789a123456789a123456789a123456789a123456789a123456789a123\"",
              "type: 'a123456789a123456789a123456789a123456789' is not");
    type_dead(&t, "true", "type: is true");
    type_dead(&t, "[1]", "type: is an array");
    tried_free(&t);
}

static void add_type(struct tried *t, const char *name, uint8_t type)
{
    SET(t->config.fields.types[t->config.fields.type_count].name, name);
    t->config.fields.types[t->config.fields.type_count++].type = type;
}

static void test_type_aliases(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    add_type(&t, "Page_View", DN_EVENT_VIEW);
    add_type(&t, "add to basket", DN_EVENT_CART);
    add_type(&t, "scroll", 0);
    add_type(&t, "10", DN_EVENT_PLAY);
    add_type(&t, "2", DN_EVENT_BUY);
    add_type(&t, "like", DN_EVENT_DISLIKE);
    add_type(&t, "k\xC3\xA4uft", DN_EVENT_BUY);
    assert_int_equal(type_of(&t, "\"page_VIEW\""), DN_EVENT_VIEW);
    assert_int_equal(type_of(&t, "\"Add To Basket\""), DN_EVENT_CART);
    assert_int_equal(type_of(&t, "10"), DN_EVENT_PLAY);
    assert_int_equal(type_of(&t, "\"10\""), DN_EVENT_PLAY);
    assert_int_equal(type_of(&t, "2"), DN_EVENT_BUY);
    assert_int_equal(type_of(&t, "\"click\""), DN_EVENT_CLICK);
    assert_int_equal(type_of(&t, "\"like\""), DN_EVENT_DISLIKE);
    assert_int_equal(type_of(&t, "5"), DN_EVENT_DISLIKE);
    assert_int_equal(type_of(&t, "\"k\\u00e4uft\""), DN_EVENT_BUY);
    skipped(&t, "{\"type\":\"Scroll\"}"); /* needs no other field */
    skipped(&t, "{\"type\":\"scroll\",\"user_id\":\"\",\"time_ms\":-5,\"weight\":-5}");
    dead(&t, "{\"type\":\"scroll\"", DN_DEAD_UNDECODABLE, "not JSON");
    tried_free(&t);
}

static void test_view_is_skipped(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    add_type(&t, "View", 0);
    skipped(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":\"view\"}");
    skipped(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":1}");
    skipped(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":0}");
    skipped(&t, "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":\"EVENT_TYPE_VIEW\"}");
    skipped(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}");
    assert_int_equal(type_of(&t, "2"), DN_EVENT_CLICK);
    tried_free(&t);
}

static void test_constant_type(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.message.time_ms = 42;
    add_type(&t, "purchase", DN_EVENT_BUY);
    SET(t.config.fields.constant_type, "PURCHASE");
    assert_int_equal(type_of(&t, "\"view\""), DN_EVENT_BUY);
    assert_int_equal(type_of(&t, "\"what\""), DN_EVENT_BUY);
    assert_int_equal(type_of(&t, "{}"), DN_EVENT_BUY);
    tried_free(&t);
}

/* ---- protobuf --------------------------------------------------------------------------------------- */

static enum dn_decode_result tried_event(struct tried *t, const Dunlin__V1__Event *event)
{
    uint8_t bytes[2048];
    assert_true(dunlin__v1__event__get_packed_size(event) <= sizeof bytes);
    return tried_bytes(t, bytes, dunlin__v1__event__pack(event, bytes));
}

static void event_dead(struct tried *t, const Dunlin__V1__Event *event, enum dn_dead_reason reason,
                       const char *words)
{
    assert_int_equal(tried_event(t, event), DN_DECODE_DEAD);
    if (t->reason != reason || strstr(t->err.message, words) == NULL) {
        fail_msg("reason %d, '%s', not '%s'", (int)t->reason, t->err.message, words);
    }
}

static Dunlin__V1__Event event_of(const char *user, const char *item)
{
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT;
    event.user_id = (char *)(uintptr_t)user;
    event.item_id = (char *)(uintptr_t)item;
    event.time_ms = 1700000000123;
    return event;
}

static void test_protobuf(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    Dunlin__V1__Event event = event_of("u1", "\xC3\xA4");
    event.type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_REMOVE;
    event.weight = 2.5f;
    event.event_id = (char *)(uintptr_t) "not looked at";
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    is_user(&t, "u1");
    is_item(&t, "\xC3\xA4");
    assert_int_equal(t.got.type, DN_EVENT_REMOVE);
    assert_int_equal(t.got.time_ms, 1700000000123);
    assert_int_equal(t.got.weight, 640);
    event = event_of("u1", "i");
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.type, DN_EVENT_VIEW);
    assert_int_equal(t.got.weight, DN_WEIGHT_ONE);
    event.time_ms = 0;
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "time_ms: there is none");
    t.message.time_ms = 42;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.time_ms, 42);
    tried_free(&t);
}

static void test_protobuf_refused(void **state)
{
    (void)state;
    char id[DN_ID_MAX + 2];
    struct tried t;
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    memset(id, 'x', sizeof id);
    id[DN_ID_MAX + 1] = '\0';
    Dunlin__V1__Event event = event_of("", "i");
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "user_id: is empty");
    event = event_of("u", "");
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "item_id: is empty");
    event = event_of("\xFF", "i");
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "user_id: is not UTF-8");
    event = event_of(id, "i");
    event_dead(&t, &event, DN_DEAD_LIMIT, "user_id: 257 bytes");
    event = event_of("u", id);
    event_dead(&t, &event, DN_DEAD_LIMIT, "item_id: 257 bytes");
    event = event_of("u", "i");
    event.type = (Dunlin__V1__EventType)9;
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "type: 9 is not an event type");
    event.type = (Dunlin__V1__EventType)-1;
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "type: -1 is not an event type");
    event.type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_VIEW;
    event.time_ms = -1;
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "time_ms: -1 is out of range");
    event.time_ms = DN_TIME_MAX_MS;
    event_dead(&t, &event, DN_DEAD_UNDECODABLE, "is out of range");
    event.time_ms = DN_TIME_MAX_MS - 1;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    static const float bad[] = {-1, 255.5f, NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        event.weight = bad[i];
        event_dead(&t, &event, DN_DEAD_UNDECODABLE, "weight: ");
    }
    event.weight = 255;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.weight, 65280);
    tried_free(&t);
}

#define WIRE_GOOD "\x0a\x01u\x12\x01i\x20\x2a" /* user_id "u", item_id "i", time_ms 42 */
#define WIRE(text) text, sizeof(text) - 1

static void test_protobuf_wire(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *words; /* NULL: good */
    } rows[] = {
        {WIRE(WIRE_GOOD), NULL},
        {WIRE(WIRE_GOOD "\x38\x07"), NULL}, /* field 7, a number */
        {WIRE(WIRE_GOOD "\x3a\x03xyz\x41"
                        "12345678\x45"
                        "1234"),
         NULL},                                              /* 7 bytes, 8 fixed64, 8 fixed32 */
        {WIRE(WIRE_GOOD "\xfa\xff\xff\xff\x0f\x01x"), NULL}, /* the largest number of a field */
        {WIRE(WIRE_GOOD "\x0a\x01u"), NULL},                 /* user_id again: the last counts */
        {WIRE("\x0a\x03"
              "a\0b\x12\x01i\x20\x2a"),
         "user_id: is not UTF-8, or has a NUL"},
        {WIRE(WIRE_GOOD "\x3b\x3c"), "not a dunlin.v1.Event: wrong at byte 8 of 10"}, /* a group */
        {WIRE(WIRE_GOOD "\x3e\x00"), "wrong at byte 8"},                              /* wire type 6 */
        {WIRE(WIRE_GOOD "\x02\x01x"), "wrong at byte 8"},                             /* field 0 */
        {WIRE(WIRE_GOOD "\xfa\xff\xff\xff\x1f\x01x"), "wrong at byte 8"},             /* field 2^29 */
        {WIRE(WIRE_GOOD "\x8a\x80\x80\x80\x80\x00\x01x"), "wrong at byte 8"},         /* a tag of six bytes */
        {WIRE("\x0a\x02u"), "wrong at byte 0 of 3"},                                /* longer than there is */
        {WIRE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01u"), "wrong at byte 0"}, /* 2^64 - 1 bytes */
        {WIRE("\x0a"), "wrong at byte 0"},
        {WIRE(WIRE_GOOD "\x35\x00\x00\x80"), "wrong at byte 8"}, /* a float of 3 bytes */
        {WIRE(WIRE_GOOD "\x41"
                        "1234567"),
         "wrong at byte 8"},                                                       /* a fixed64 of 7 bytes */
        {WIRE("\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), "wrong at byte 0"}, /* more than 64 bits */
        {WIRE("\x20\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), "wrong at byte 0"},
        {WIRE("\x08\x01"), "user_id: not encoded as in dunlin.v1.Event"},
        {WIRE("\x12\x01i\x18\x01\x22\x01x"), "time_ms: not encoded"},
        {WIRE("\x30\x01"), "weight: not encoded"},
        {WIRE("\x28\x01"), "event_id: not encoded"},
        {WIRE(""), "user_id: is empty"},
        {WIRE("{\"user_id\":\"u\",\"item_id\":\"i\"}"), "not a dunlin.v1.Event"},
    };
    struct tried t;
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum dn_decode_result result = tried_bytes(&t, rows[i].bytes, rows[i].length);
        bool as_said = rows[i].words != NULL
                           ? result == DN_DECODE_DEAD && strstr(t.err.message, rows[i].words) != NULL
                           : result == DN_DECODED;
        if (!as_said) {
            fail_msg("row %zu: %d, '%s'", i, (int)result, t.err.message);
        }
        if (result == DN_DECODED) {
            is_user(&t, "u");
            is_item(&t, "i");
            assert_int_equal(t.got.time_ms, 42);
        }
    }
    assert_int_equal(tried_bytes(&t, WIRE("\x0a\x01v" WIRE_GOOD "\x20\x2b")), DN_DECODED);
    is_user(&t, "u");
    assert_int_equal(t.got.time_ms, 43);
    tried_free(&t);
}

static void test_protobuf_key_time_and_types(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    SET(t.config.fields.user, "@key");
    SET(t.config.fields.time, "@time");
    t.config.fields.time_unit = DN_TIME_S; /* of nothing */
    add_type(&t, "click", 0);
    add_type(&t, "12", DN_EVENT_LIKE);
    add_type(&t, "3", DN_EVENT_BUY);
    t.message.time_ms = 99;
    t.message.key = (const uint8_t *)"k";
    t.message.key_length = 1;
    Dunlin__V1__Event event = event_of("u", "i");
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    is_user(&t, "k");
    assert_int_equal(t.got.time_ms, 99);
    event.type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
    event.item_id = (char *)(uintptr_t) "";
    assert_int_equal(tried_event(&t, &event), DN_DECODE_SKIPPED);
    event = event_of("u", "i");
    event.type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CART;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.type, DN_EVENT_BUY);
    event.type = (Dunlin__V1__EventType)12;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.type, DN_EVENT_LIKE);
    SET(t.config.fields.constant_type, "buy");
    assert_int_equal(tried_configure(&t), DN_OK);
    event.type = (Dunlin__V1__EventType)77;
    assert_int_equal(tried_event(&t, &event), DN_DECODED);
    assert_int_equal(t.got.type, DN_EVENT_BUY);
    tried_free(&t);
}

/* ---- configuration ---------------------------------------------------------------------------------- */

static void test_paths_refused(void **state)
{
    (void)state;
    static const char *const malformed[] = {".", "a.", ".a", "a..b", "a\\", "a\\b", "a.\\"};
    char text[DN_SOURCE_TEXT_MAX];
    struct tried t;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        tried_reset(&t);
        SET(t.config.fields.item, malformed[i]);
        refused(&t, "fields.item: '");
        assert_non_null(strstr(t.err.message, "a path is keys with dots"));
    }
    tried_reset(&t);
    SET(t.config.fields.item, "a\xFF");
    refused(&t, "fields.item: a path that is not UTF-8");
    SET(t.config.fields.item, "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q");
    refused(&t, "more than 16 keys");
    SET(t.config.fields.item, "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p");
    assert_int_equal(tried_configure(&t), DN_OK);
    memset(text, 'k', sizeof text);
    text[sizeof text - 1] = '\0';
    SET(t.config.fields.item, text);
    assert_int_equal(tried_configure(&t), DN_OK);
    SET(t.config.fields.item, "a.b");
    SET(t.config.fields.user, "a.b");
    refused(&t, "another field has this path");
    SET(t.config.fields.user, "a");
    refused(&t, "another field has this path, or a part of it");
    SET(t.config.fields.user, "a.b.c");
    refused(&t, "another field has this path, or a part of it");
    SET(t.config.fields.user, "weight");
    refused(&t, "fields.weight: 'weight': another field");
    SET(t.config.fields.user, "schema_version");
    refused(&t, "fields.schema_version: ");
    SET(t.config.fields.user, "@time");
    refused(&t, "fields.user: '@time'");
    SET(t.config.fields.user, "");
    SET(t.config.fields.item, "@key");
    refused(&t, "fields.item: '@key'");
    SET(t.config.fields.item, "\\@key");
    assert_int_equal(tried_configure(&t), DN_OK);
    tried_free(&t);
}

static void test_types_refused(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    add_type(&t, "", 1);
    refused(&t, "types: a name of 0 bytes");
    tried_reset(&t);
    add_type(&t, "a", DN_EVENT_TYPE_MAX + 1);
    refused(&t, "types: 'a' is 9, which is not an event type");
    tried_reset(&t);
    add_type(&t, "a", 1);
    add_type(&t, "A", 2);
    refused(&t, "types: 'a' is there twice");
    tried_reset(&t);
    t.config.fields.type_count = DN_SOURCE_TYPES_MAX + 1;
    refused(&t, "types: 33 of them");
    tried_reset(&t);
    SET(t.config.fields.constant_type, "purchase");
    refused(&t, "fields.constant_type: 'purchase' is not an event type");
    add_type(&t, "purchase", 0);
    refused(&t, "fields.constant_type: 'purchase' is mapped to no type");
    tried_reset(&t);
    for (int i = 0; i < DN_SOURCE_TYPES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        add_type(&t, name, (uint8_t)(1 + i % DN_EVENT_TYPE_MAX));
    }
    t.message.time_ms = 42;
    assert_int_equal(type_of(&t, "\"t31\""), DN_EVENT_REMOVE);
    assert_int_equal(type_of(&t, "\"remove\""), DN_EVENT_REMOVE);
    tried_free(&t);
}

static void test_formats_refused(void **state)
{
    (void)state;
    struct tried t;
    tried_reset(&t);
    t.config.format = (enum dn_source_format)2;
    refused(&t, "format: 2");
    tried_reset(&t);
    t.config.fields.time_unit = (enum dn_time_unit)5;
    refused(&t, "fields.time_unit: 5");
    tried_reset(&t);
    t.config.message_bytes = DN_SCHEMA_MESSAGE_BYTES_MAX + 1;
    refused(&t, "message_bytes: 268435457");
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    SET(t.config.fields.user, "context.user");
    refused(&t, "fields.user: 'context.user': in protobuf it is dunlin.v1.Event's user_id");
    SET(t.config.fields.user, "user_id");
    assert_int_equal(tried_configure(&t), DN_OK);
    t.config.fields.time_unit = DN_TIME_S;
    refused(&t, "fields.time_unit: in protobuf it is always ms");
    tried_reset(&t);
    t.config.message_bytes = 0;
    assert_int_equal(tried_configure(&t), DN_OK);
    t.message.time_ms = 42;
    good(&t, "{\"user_id\":\"u\",\"item_id\":\"i\"}");
    tried_free(&t);
    dn_schema_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time_numbers),
        cmocka_unit_test(test_time_numbers_refused),
        cmocka_unit_test(test_time_zero),
        cmocka_unit_test(test_time_iso8601),
        cmocka_unit_test(test_time_iso8601_refused),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_type_aliases),
        cmocka_unit_test(test_view_is_skipped),
        cmocka_unit_test(test_constant_type),
        cmocka_unit_test(test_protobuf),
        cmocka_unit_test(test_protobuf_refused),
        cmocka_unit_test(test_protobuf_wire),
        cmocka_unit_test(test_protobuf_key_time_and_types),
        cmocka_unit_test(test_paths_refused),
        cmocka_unit_test(test_types_refused),
        cmocka_unit_test(test_formats_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
