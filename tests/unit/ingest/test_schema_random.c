/* Random events, written as JSON under random mappings (by jansson) and as protobuf (by protobuf-c), are
 * decoded to what they were. DUNLIN_SEED chooses others. */
#include "schema_help.h"

#include "dunlin/v1/dunlin.pb-c.h"
#include "tests/unit/base/random.h"

#include <jansson.h>
#include <time.h>

#define MAPPINGS 1500
#define EVENTS_PER_MAPPING 8
#define PROTOBUF_EVENTS 20000
#define KEYS_MAX 4

struct path {
    char keys[KEYS_MAX][16];
    size_t count;
};

enum field { USER, ITEM, TYPE, TIME, WEIGHT, FIELDS };

struct mapping {
    struct path paths[FIELDS];
    bool user_is_key, time_is_message, constant, aliases;
};

struct event {
    char user[DN_ID_MAX + 1], item[DN_ID_MAX + 1];
    bool user_is_number, item_is_number;
    int type; /* 0: skipped */
    int64_t time_ms;
    uint16_t weight;
};

static struct test_random random_state;

static size_t below(size_t bound)
{
    return test_random_below(&random_state, bound);
}

static bool chance(size_t in)
{
    return below(in) == 0;
}

/* Text of whole characters of one to four bytes, control characters and those that JSON escapes among them.
 */
static void random_text(char *to, size_t max)
{
    static const char *const pieces[] = {"a",
                                         "Z",
                                         "7",
                                         " ",
                                         "\"",
                                         "\\",
                                         "/",
                                         "\n",
                                         "\t",
                                         "\x01",
                                         "\x7f",
                                         "{",
                                         "\xC3\xA4",
                                         "\xE2\x82\xAC",
                                         "\xED\x9F\xBF",
                                         "\xF0\x9F\x98\x80",
                                         "?",
                                         "u"};
    size_t length = 0, want = chance(20) ? max : 1 + below(24);
    while (length < want) {
        const char *piece = pieces[below(sizeof pieces / sizeof *pieces)];
        if (length + strlen(piece) > max) {
            piece = "x";
        }
        memcpy(to + length, piece, strlen(piece));
        length += strlen(piece);
    }
    to[length] = '\0';
}

/* ---- mappings --------------------------------------------------------------------------------------- */

static void random_path(struct path *path)
{
    static const char *const keys[] = {"id", "user", "context",  "a.b",    "@time",
                                       "@x", "\\",   "\xC3\xA4", "weight", "\"q\""};
    path->count = 1 + below(KEYS_MAX);
    for (size_t i = 0; i < path->count; i++) {
        SET(path->keys[i], keys[below(sizeof keys / sizeof *keys)]);
    }
}

static void path_text(const struct path *path, char *to)
{
    for (size_t i = 0; i < path->count; i++) {
        if (i > 0) {
            *to++ = '.';
        }
        for (const char *at = path->keys[i]; *at != '\0'; at++) {
            if (*at == '.' || *at == '\\' || (*at == '@' && chance(2)) ||
                strcmp(path->keys[i], "@time") == 0) {
                if (*at == '.' || *at == '\\' || *at == '@') {
                    *to++ = '\\';
                }
            }
            *to++ = *at;
        }
    }
    *to = '\0';
}

static bool starts_with(const struct path *path, const struct path *other)
{
    for (size_t i = 0; i < other->count; i++) {
        if (i == path->count || strcmp(path->keys[i], other->keys[i]) != 0) {
            return false;
        }
    }
    return true;
}

static bool paths_collide(const struct mapping *mapping)
{
    for (int a = 0; a < FIELDS; a++) {
        for (int b = 0; b < FIELDS; b++) {
            bool used = !(a == USER && mapping->user_is_key) && !(b == USER && mapping->user_is_key) &&
                        !(a == TIME && mapping->time_is_message) &&
                        !(b == TIME && mapping->time_is_message) && !(a == TYPE && mapping->constant) &&
                        !(b == TYPE && mapping->constant);
            if (a != b && used && starts_with(&mapping->paths[a], &mapping->paths[b])) {
                return true;
            }
        }
    }
    return false;
}

/* false: the paths collide, and it was refused. */
static bool random_mapping(struct tried *t, struct mapping *mapping)
{
    struct dn_source_fields *fields = &t->config.fields;
    char *texts[FIELDS] = {fields->user, fields->item, fields->type, fields->time, fields->weight};
    memset(fields, 0, sizeof *fields);
    memset(mapping, 0, sizeof *mapping);
    mapping->user_is_key = chance(5);
    mapping->time_is_message = chance(5);
    mapping->constant = chance(6);
    mapping->aliases = chance(2);
    for (int field = 0; field < FIELDS; field++) {
        random_path(&mapping->paths[field]);
        path_text(&mapping->paths[field], texts[field]);
    }
    if (mapping->user_is_key) {
        SET(fields->user, "@key");
    }
    if (mapping->time_is_message) {
        SET(fields->time, "@time");
    }
    fields->time_unit = (enum dn_time_unit)below(DN_TIME_ISO8601 + 1);
    if (mapping->constant) {
        SET(fields->constant_type, "Play");
    }
    if (mapping->aliases) {
        SET(fields->types[0].name, "Bought It");
        fields->types[0].type = DN_EVENT_BUY;
        SET(fields->types[1].name, "nothing");
        fields->types[1].type = 0;
        fields->type_count = 2;
    }
    bool collide = paths_collide(mapping);
    enum dn_code code = tried_configure(t);
    if (code != (collide ? DN_INVALID : DN_OK)) {
        fail_msg("paths %s%s", collide ? "collide, but were taken" : "were refused: ", t->err.message);
    }
    return !collide;
}

/* ---- events as JSON --------------------------------------------------------------------------------- */

static json_t *noise(int depth)
{
    char text[64];
    switch (below(depth > 3 ? 5 : 7)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(chance(2));
    case 2:
        return json_integer((json_int_t)test_random_next(&random_state));
    case 3:
        return json_real((double)(int64_t)test_random_next(&random_state) / 1e7);
    case 4:
        random_text(text, sizeof text - 1);
        return json_string(text);
    case 5: {
        json_t *array = json_array();
        for (size_t i = below(4); i > 0; i--) {
            json_array_append_new(array, noise(depth + 1));
        }
        return array;
    }
    default: {
        json_t *object = json_object();
        for (size_t i = below(4); i > 0; i--) {
            snprintf(text, sizeof text, "%s%zu", chance(2) ? "user" : "n", below(9));
            json_object_set_new(object, chance(3) ? "id" : text, noise(depth + 1));
        }
        return object;
    }
    }
}

/* Puts the value at its path, with things that nobody wants beside it. */
static void put(json_t *root, const struct path *path, json_t *value)
{
    char key[32];
    json_t *at = root;
    for (size_t i = 0;; i++) {
        if (chance(3)) {
            snprintf(key, sizeof key, "~%zu", below(100));
            json_object_set_new(at, key, noise(0));
        }
        if (i + 1 == path->count) {
            json_object_set_new(at, path->keys[i], value);
            return;
        }
        json_t *next = json_object_get(at, path->keys[i]);
        if (next == NULL) {
            next = json_object();
            json_object_set_new(at, path->keys[i], next);
        }
        at = next;
    }
}

static void random_id(char id[DN_ID_MAX + 1], bool *is_number)
{
    *is_number = chance(3);
    if (*is_number) {
        snprintf(id, DN_ID_MAX + 1, "%lld", (long long)(test_random_next(&random_state) >> below(64)));
    } else {
        random_text(id, DN_ID_MAX);
    }
}

static json_t *id_value(const char *id, bool is_number)
{
    return is_number ? json_integer(strtoll(id, NULL, 10)) : json_string(id);
}

static json_t *type_value(int type, bool aliases)
{
    static const char *const names[] = {"nothing", "view",    "click", "cart",  "buy",
                                        "like",    "dislike", "play",  "remove"};
    char text[32];
    snprintf(text, sizeof text, "%s%s", type != 0 && chance(5) ? "EVENT_TYPE_" : "", names[type]);
    if (type == DN_EVENT_BUY && aliases && chance(2)) {
        SET(text, "BOUGHT it");
    } else if (type != 0 && chance(4)) {
        return chance(2) ? json_integer(type) : json_sprintf("%d", type);
    }
    for (char *at = text; *at != '\0'; at++) {
        *at = (char)(chance(4) && *at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
    }
    return json_string(text);
}

static json_t *iso_value(int64_t time_ms)
{
    char date[64];
    int offset = chance(3) ? 0 : (int)below(24 * 60) - 12 * 60;
    time_t local = (time_t)(time_ms / 1000) + offset * 60;
    struct tm tm;
    assert_non_null(gmtime_r(&local, &tm));
    strftime(date, sizeof date, chance(4) ? "%Y-%m-%d %H:%M:%S" : "%Y-%m-%dT%H:%M:%S", &tm);
    if (offset == 0 && chance(2)) {
        return json_sprintf("%s.%03dZ", date, (int)(time_ms % 1000));
    }
    int minutes = offset < 0 ? -offset : offset;
    return json_sprintf("%s.%03d%s%c%02d%s%02d", date, (int)(time_ms % 1000), chance(3) ? "999" : "",
                        offset < 0 ? '-' : '+', minutes / 60, chance(2) ? ":" : "", minutes % 60);
}

static json_t *time_value(int64_t time_ms, enum dn_time_unit unit)
{
    int64_t below_ms = (int64_t)below(1000);
    switch (unit) {
    case DN_TIME_MS:
        return chance(4) ? json_sprintf("%lld", (long long)time_ms) : json_integer(time_ms);
    case DN_TIME_S:
        return json_sprintf("%lld.%03d%03d", (long long)(time_ms / 1000), (int)(time_ms % 1000),
                            (int)below_ms);
    case DN_TIME_US:
        return json_integer(time_ms * 1000 + below_ms);
    case DN_TIME_NS:
        if (time_ms < INT64_MAX / 1000000 - 1) {
            return json_integer(time_ms * 1000000 + below_ms);
        }
        return json_sprintf("%lld%03d000", (long long)time_ms, (int)below_ms);
    default:
        return iso_value(time_ms);
    }
}

static char *as_json(struct tried *t, const struct mapping *mapping, const struct event *event,
                     bool with_user, bool with_item)
{
    static const size_t styles[] = {JSON_COMPACT, 0, JSON_INDENT(2), JSON_ENSURE_ASCII | JSON_SORT_KEYS,
                                    JSON_ESCAPE_SLASH | JSON_ENSURE_ASCII | JSON_COMPACT};
    json_t *root = json_object();
    if (with_user && !mapping->user_is_key) {
        put(root, &mapping->paths[USER], id_value(event->user, event->user_is_number));
    }
    if (with_item) {
        put(root, &mapping->paths[ITEM], id_value(event->item, event->item_is_number));
    }
    if (!mapping->constant && !(event->type == DN_EVENT_VIEW && chance(2))) {
        put(root, &mapping->paths[TYPE], type_value(event->type, mapping->aliases));
    }
    t->message.time_ms = -1;
    if (mapping->time_is_message || chance(8)) {
        t->message.time_ms = event->time_ms;
    } else {
        put(root, &mapping->paths[TIME], time_value(event->time_ms, t->config.fields.time_unit));
    }
    if (event->weight != DN_WEIGHT_ONE || chance(4)) {
        put(root, &mapping->paths[WEIGHT], json_real((double)event->weight / DN_WEIGHT_ONE));
    }
    char *text = json_dumps(root, styles[below(sizeof styles / sizeof *styles)]);
    json_decref(root);
    assert_non_null(text);
    return text;
}

static void random_event(const struct mapping *mapping, struct event *event)
{
    memset(event, 0, sizeof *event);
    random_id(event->user, &event->user_is_number);
    random_id(event->item, &event->item_is_number);
    event->type = mapping->aliases && chance(6) ? 0 : 1 + (int)below(DN_EVENT_TYPE_MAX);
    event->type = mapping->constant ? DN_EVENT_PLAY : event->type;
    event->time_ms =
        chance(4) ? 1 + (int64_t)below(253402300799999) : 1700000000000 + (int64_t)below(100000000);
    event->weight = chance(2) ? DN_WEIGHT_ONE : (uint16_t)(1 + below(65280));
}

static void check_same(const struct tried *t, const struct event *event, const char *text)
{
    if (t->got.type != event->type || t->got.time_ms != event->time_ms || t->got.weight != event->weight) {
        fail_msg("%s: type %d (%d), time %lld (%lld), weight %d (%d)", text, t->got.type, event->type,
                 (long long)t->got.time_ms, (long long)event->time_ms, t->got.weight, event->weight);
    }
    is_user(t, event->user);
    is_item(t, event->item);
}

static void check_event(struct tried *t, const struct mapping *mapping)
{
    struct event event;
    random_event(mapping, &event);
    bool with_user = !chance(20), with_item = !chance(20);
    char *text = as_json(t, mapping, &event, with_user, with_item);
    t->message.key = mapping->user_is_key && with_user ? (const uint8_t *)event.user : NULL;
    t->message.key_length = strlen(event.user);
    enum dn_decode_result result = tried_text(t, text);
    enum dn_decode_result due = event.type == 0            ? DN_DECODE_SKIPPED
                                : !with_user || !with_item ? DN_DECODE_DEAD
                                                           : DN_DECODED;
    if (result != due) {
        fail_msg("%s: %d, not %d: %s", text, (int)result, (int)due, t->err.message);
    }
    if (result == DN_DECODED) {
        check_same(t, &event, text);
    }
    if (result == DN_DECODE_DEAD) {
        const char *field = with_user ? t->config.fields.item : t->config.fields.user;
        assert_int_equal(t->reason, DN_DEAD_UNDECODABLE);
        assert_ptr_equal(strstr(t->err.message, field), t->err.message);
    }
    t->message.key = NULL;
    free(text);
}

static void test_json(void **state)
{
    (void)state;
    struct tried t;
    struct mapping mapping;
    random_state = test_random_start("schema, JSON");
    tried_reset(&t);
    for (int i = 0; i < MAPPINGS;) {
        if (!random_mapping(&t, &mapping)) {
            continue;
        }
        for (int n = 0; n < EVENTS_PER_MAPPING; n++) {
            check_event(&t, &mapping);
        }
        i++;
    }
    tried_free(&t);
}

/* Every piece of a message is one that was cut off: no event. */
static void test_json_cut(void **state)
{
    (void)state;
    struct tried t;
    struct mapping mapping;
    struct event event;
    random_state = test_random_start("schema, JSON that is cut");
    tried_reset(&t);
    while (!random_mapping(&t, &mapping) || mapping.aliases) {
    }
    random_event(&mapping, &event);
    char *text = as_json(&t, &mapping, &event, true, true);
    for (size_t length = strlen(text) - 1; length > 0; length--) {
        if (tried_bytes(&t, text, length) != DN_DECODE_DEAD) {
            fail_msg("%zu bytes of %s", length, text);
        }
    }
    free(text);
    tried_free(&t);
}

static void test_protobuf(void **state)
{
    (void)state;
    static const struct mapping plain;
    struct tried t;
    struct event event;
    uint8_t bytes[2048];
    random_state = test_random_start("schema, protobuf");
    tried_reset(&t);
    t.config.format = DN_FORMAT_PROTOBUF;
    for (int i = 0; i < PROTOBUF_EVENTS; i++) {
        random_event(&plain, &event);
        Dunlin__V1__Event out = DUNLIN__V1__EVENT__INIT;
        out.user_id = event.user;
        out.item_id = event.item;
        out.type = (Dunlin__V1__EventType)(event.type == DN_EVENT_VIEW && chance(2) ? 0 : event.type);
        t.message.time_ms = chance(8) ? event.time_ms : -1;
        out.time_ms = t.message.time_ms < 0 ? event.time_ms : 0;
        out.weight = event.weight == DN_WEIGHT_ONE && chance(2) ? 0 : (float)event.weight / DN_WEIGHT_ONE;
        out.event_id = event.item;
        size_t length = dunlin__v1__event__pack(&out, bytes);
        if (chance(2)) { /* a field of later: number 9, bytes */
            bytes[length++] = 9 << 3 | 2;
            bytes[length++] = 4;
            memset(bytes + length, (int)below(256), 4);
            length += 4;
        }
        if (tried_bytes(&t, bytes, length) != DN_DECODED) {
            fail_msg("event %d: %s", i, t.err.message);
        }
        check_same(&t, &event, "protobuf");
    }
    tried_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_cut),
        cmocka_unit_test(test_protobuf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
