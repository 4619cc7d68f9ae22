/* The values of a few fields in a JSON object, without building the object.
 *
 * yajl calls back for each key and value (448 ns for an event of 153 bytes, where jansson's tree takes 2,500:
 * tests/bench/bench_decode.c). The configured paths are a small tree; while the text is in a part of the
 * message that no path leads to, depth is counted and nothing else is done. The whole text is always read: a
 * message that is not JSON to its end gives no event.
 *
 * yajl takes its memory from a pool that is emptied before each message, so that nothing is allocated for an
 * event. It does not look whether it got any: where the pool is full, which no message within message_bytes
 * has brought about, the pool leaves by longjmp and the message is over a limit.
 *
 * UTF-8 is checked by schema.c, in what is used only: an event does not fail for a field nobody reads. */
#include "ingest/schema_private.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <yajl/yajl_parse.h>

#define DEPTH_MAX 64     /* objects and arrays inside each other */
#define PATH_KEYS_MAX 16 /* keys in a path */
#define NODES_MAX (1 + DN_FIELD_COUNT * PATH_KEYS_MAX)
#define NONE (-1)
#define POOL_BASE_BYTES 65536u
/* yajl keeps one unescaped string, in a buffer that doubles, and at most one unfinished token. */
#define POOL_BYTES_PER_BYTE 4u
#define POOL_KEPT_BYTES 262144u /* after a larger message the rest is given back */
#define POOL_ALIGN 16u

struct pool {
    uint8_t *bytes;
    size_t size, used;
    size_t last; /* where the last allocation starts: it can grow in place */
    jmp_buf full;
};

struct node { /* a key on a path; the first is the root */
    char key[DN_SOURCE_TEXT_MAX];
    size_t key_length;
    int parent, child, sibling; /* NONE: none; child: the first */
    int field;                  /* at the end of a path: enum dn_schema_field; else NONE */
    uint64_t seen;              /* the last message that had it */
};

struct dn_schema_json {
    struct pool pool;
    struct node nodes[NODES_MAX];
    int node_count;

    /* Of the message that is read. */
    uint64_t turn;
    yajl_handle handle;
    const uint8_t *bytes;
    size_t length;
    int current;    /* the object that is open: NONE outside the root */
    int pending;    /* the key whose value comes: NONE if no path has it */
    unsigned depth; /* open objects and arrays */
    unsigned skip;  /* of those, the ones on no path */
    char refused[64 + DN_SOURCE_TEXT_MAX];
    struct dn_schema_value *values;
    char unescaped[DN_FIELD_COUNT][DN_ID_MAX + 1];
};

/* ---- the pool --------------------------------------------------------------------------------------- */

static size_t aligned(size_t size)
{
    return (size + POOL_ALIGN - 1) & ~(size_t)(POOL_ALIGN - 1);
}

/* Before each allocation stands its size. */
static void *pool_alloc(void *data, size_t size)
{
    struct pool *pool = data;
    if (size > pool->size || POOL_ALIGN + aligned(size) > pool->size - pool->used) {
        longjmp(pool->full, 1);
    }
    memcpy(pool->bytes + pool->used, &size, sizeof size);
    pool->last = pool->used + POOL_ALIGN;
    pool->used = pool->last + aligned(size);
    return pool->bytes + pool->last;
}

static void *pool_realloc(void *data, void *old, size_t size)
{
    struct pool *pool = data;
    size_t old_size;
    if (old == NULL) {
        return pool_alloc(pool, size);
    }
    memcpy(&old_size, (uint8_t *)old - POOL_ALIGN, sizeof old_size);
    if ((uint8_t *)old == pool->bytes + pool->last) {
        if (size > pool->size || aligned(size) > pool->size - pool->last) {
            longjmp(pool->full, 1);
        }
        memcpy((uint8_t *)old - POOL_ALIGN, &size, sizeof size);
        pool->used = pool->last + aligned(size);
        return old;
    }
    void *moved = pool_alloc(pool, size);
    memcpy(moved, old, old_size < size ? old_size : size);
    return moved;
}

static void pool_free(void *data, void *old)
{
    (void)data;
    (void)old;
}

static void pool_clear(struct pool *pool)
{
    if (pool->used > POOL_KEPT_BYTES) {
        (void)madvise(pool->bytes + POOL_KEPT_BYTES, pool->size - POOL_KEPT_BYTES, MADV_DONTNEED);
    }
    pool->used = 0;
    pool->last = 0;
}

/* ---- paths ------------------------------------------------------------------------------------------ */

static int node_child(const struct dn_schema_json *json, int parent, const char *key, size_t length)
{
    int at = json->nodes[parent].child;
    while (at != NONE &&
           (json->nodes[at].key_length != length || memcmp(json->nodes[at].key, key, length) != 0)) {
        at = json->nodes[at].sibling;
    }
    return at;
}

static int node_add(struct dn_schema_json *json, int parent, const char *key, size_t length)
{
    DN_ASSERT(json->node_count < NODES_MAX);
    int at = json->node_count++;
    struct node *node = &json->nodes[at];
    *node =
        (struct node){.key_length = length, .parent = parent, .child = NONE, .sibling = NONE, .field = NONE};
    memcpy(node->key, key, length);
    if (parent != NONE) {
        node->sibling = json->nodes[parent].child;
        json->nodes[parent].child = at;
    }
    return at;
}

/* Takes one key off the front of *path, up to its dot; a backslash makes the dot, the @ or the backslash
 * after it a plain one. Returns its length, 0 when it is malformed. */
static size_t take_key(const char **path, char ret[DN_SOURCE_TEXT_MAX])
{
    size_t length = 0;
    const char *at = *path;
    for (; *at != '\0' && *at != '.'; at++) {
        if (*at == '\\') {
            at++;
            if (*at != '.' && *at != '@' && *at != '\\') {
                return 0;
            }
        }
        if (length == DN_SOURCE_TEXT_MAX - 1) {
            return 0;
        }
        ret[length++] = *at;
    }
    *path = at;
    return length;
}

static enum dn_code path_add(struct dn_schema_json *json, int field, const char *path, struct dn_error *err)
{
    char key[DN_SOURCE_TEXT_MAX];
    const char *rest = path;
    int at = 0;
    if (!dn_utf8_valid(path, strlen(path))) {
        return dn_fail(err, DN_INVALID, "a path that is not UTF-8");
    }
    for (unsigned keys = 0;; keys++, rest++) {
        size_t length = take_key(&rest, key);
        if (length == 0) {
            return dn_fail(
                err, DN_INVALID,
                "'%s': a path is keys with dots between them (context.user.id); \\. is a dot in a key", path);
        }
        if (keys == PATH_KEYS_MAX) {
            return dn_fail(err, DN_INVALID, "'%s': more than %d keys", path, PATH_KEYS_MAX);
        }
        int child = node_child(json, at, key, length);
        at = child != NONE ? child : node_add(json, at, key, length);
        if (json->nodes[at].field != NONE || (*rest == '\0' && json->nodes[at].child != NONE)) {
            return dn_fail(err, DN_INVALID, "'%s': another field has this path, or a part of it", path);
        }
        if (*rest == '\0') {
            json->nodes[at].field = field;
            return DN_OK;
        }
    }
}

enum dn_code dn_schema_json_create(size_t message_bytes, const char *const paths[DN_FIELD_COUNT],
                                   struct dn_schema_json **ret, struct dn_error *err)
{
    static const char *const names[DN_FIELD_COUNT] = {"user", "item",   "type",
                                                      "time", "weight", "schema_version"};
    struct dn_schema_json *json = calloc(1, sizeof *json);
    enum dn_code code = DN_OK;
    if (json == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a schema");
    }
    json->pool.size = POOL_BASE_BYTES + POOL_KEPT_BYTES + POOL_BYTES_PER_BYTE * message_bytes;
    /* Only what is touched takes memory. */
    json->pool.bytes = mmap(NULL, json->pool.size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (json->pool.bytes == MAP_FAILED) {
        code = dn_fail(err, DN_NO_MEMORY, "no %zu bytes of address space to read JSON messages in",
                       json->pool.size);
        goto err_json;
    }
    (void)node_add(json, NONE, "", 0);
    for (int field = 0; field < DN_FIELD_COUNT; field++) {
        code = paths[field] != NULL ? path_add(json, field, paths[field], err) : DN_OK;
        if (code != DN_OK) {
            (void)dn_wrap(err, code, "fields.%s", names[field]);
            goto err_pool;
        }
    }
    *ret = json;
    return DN_OK;

err_pool:
    munmap(json->pool.bytes, json->pool.size);
err_json:
    free(json);
    return code;
}

void dn_schema_json_destroy(struct dn_schema_json *json)
{
    if (json != NULL) {
        munmap(json->pool.bytes, json->pool.size);
        free(json);
    }
}

/* ---- yajl's callbacks: 0 ends the reading ----------------------------------------------------------- */

static int refuse(struct dn_schema_json *json, const char *what)
{
    snprintf(json->refused, sizeof json->refused, "%s", what);
    return 0;
}

/* The place for the value that comes; NULL: nobody wants it. */
static struct dn_schema_value *wanted(struct dn_schema_json *json)
{
    if (json->skip > 0 || json->pending == NONE || json->nodes[json->pending].field == NONE) {
        return NULL;
    }
    return &json->values[json->nodes[json->pending].field];
}

static int put_other(struct dn_schema_json *json, const char *what)
{
    struct dn_schema_value *value = wanted(json);
    if (json->depth == 0) {
        return refuse(json, "not a JSON object, but a single value");
    }
    if (value != NULL) {
        *value = (struct dn_schema_value){.kind = DN_VALUE_OTHER, .what = what};
    }
    return 1;
}

static int on_null(void *data)
{
    struct dn_schema_json *json = data;
    return json->depth > 0 ? 1 : put_other(json, "");
}

static int on_boolean(void *data, int value)
{
    return put_other(data, value ? "true" : "false");
}

static int on_number(void *data, const char *text, size_t length)
{
    struct dn_schema_json *json = data;
    struct dn_schema_value *value = wanted(json);
    if (json->depth == 0) {
        return put_other(json, "");
    }
    if (value != NULL) {
        *value = (struct dn_schema_value){.kind = DN_VALUE_NUMBER, .text = text, .length = length};
    }
    return 1;
}

static bool is_hex_between(const uint8_t *at, unsigned low, unsigned high)
{
    char text[5] = {(char)at[0], (char)at[1], (char)at[2], (char)at[3], '\0'};
    unsigned long value = strtoul(text, NULL, 16);
    return value >= low && value <= high;
}

/* yajl makes '?' of half a surrogate pair and goes on, so that different broken ids would become one. This
 * looks at the string as it was written, which ends where yajl has just read to; its grammar was checked. */
static bool surrogates_paired(const struct dn_schema_json *json)
{
    size_t end = yajl_get_bytes_consumed(json->handle) - 1; /* the closing quote */
    if (end == 0 || end >= json->length || json->bytes[end] != '"') {
        return false;
    }
    size_t start = end; /* every quote inside has a backslash before it, the opening one has not */
    do {
        start--;
    } while (start > 0 && (json->bytes[start] != '"' || json->bytes[start - 1] == '\\'));
    const uint8_t *last = json->bytes + end;
    for (const uint8_t *at = json->bytes + start + 1; at < last; at++) {
        if (*at != '\\' || *++at != 'u') {
            continue;
        }
        if (is_hex_between(at + 1, 0xDC00, 0xDFFF)) {
            return false;
        }
        if (is_hex_between(at + 1, 0xD800, 0xDBFF)) {
            if (last - at < 11 || at[5] != '\\' || at[6] != 'u' || !is_hex_between(at + 7, 0xDC00, 0xDFFF)) {
                return false;
            }
            at += 6;
        }
        at += 4;
    }
    return true;
}

static int on_string(void *data, const unsigned char *text, size_t length)
{
    struct dn_schema_json *json = data;
    struct dn_schema_value *value = wanted(json);
    if (json->depth == 0) {
        return put_other(json, "");
    }
    if (value == NULL) {
        return 1;
    }
    *value = (struct dn_schema_value){.kind = DN_VALUE_TEXT, .text = (const char *)text, .length = length};
    uintptr_t place = (uintptr_t)text, start = (uintptr_t)json->bytes;
    if (place >= start && place < start + json->length) {
        return 1; /* as it stands in the message */
    }
    if (!surrogates_paired(json)) {
        return put_other(json, "text with half a surrogate pair");
    }
    char *copy = json->unescaped[json->nodes[json->pending].field];
    memcpy(copy, text, length <= DN_ID_MAX ? length : DN_ID_MAX + 1);
    value->text = copy;
    return 1;
}

static int on_key(void *data, const unsigned char *key, size_t length)
{
    struct dn_schema_json *json = data;
    if (json->skip > 0) {
        return 1;
    }
    json->pending = node_child(json, json->current, (const char *)key, length);
    if (json->pending == NONE) {
        return 1;
    }
    struct node *node = &json->nodes[json->pending];
    if (node->seen == json->turn) {
        snprintf(json->refused, sizeof json->refused, "the key '%s' is there twice", node->key);
        return 0;
    }
    node->seen = json->turn;
    return 1;
}

static int open_one(struct dn_schema_json *json, bool object)
{
    if (json->depth == DEPTH_MAX) {
        return refuse(json, "objects or arrays are nested more than 64 deep");
    }
    if (json->depth == 0 && !object) {
        return refuse(json, "not a JSON object, but an array: a message is one event");
    }
    if (json->depth == 0) {
        json->depth = 1;
        json->current = 0;
        return 1;
    }
    (void)put_other(json, object ? "an object" : "an array");
    json->depth++;
    if (object && json->skip == 0 && json->pending != NONE) {
        json->current = json->pending; /* below the end of a path there is nothing */
    } else {
        json->skip++;
    }
    return 1;
}

static int close_one(struct dn_schema_json *json)
{
    json->depth--;
    if (json->skip > 0) {
        json->skip--;
    } else {
        json->current = json->nodes[json->current].parent;
    }
    return 1;
}

static int on_map_open(void *data)
{
    return open_one(data, true);
}

static int on_array_open(void *data)
{
    return open_one(data, false);
}

static int on_close(void *data)
{
    return close_one(data);
}

/* ---- a message -------------------------------------------------------------------------------------- */

static enum dn_decode_result not_json(struct dn_schema_json *json, struct dn_schema_verdict *verdict)
{
    if (json->refused[0] != '\0') {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "%s", json->refused);
    }
    if (verdict->err == NULL) {
        verdict->reason = DN_DEAD_UNDECODABLE;
        return DN_DECODE_DEAD;
    }
    size_t at = yajl_get_bytes_consumed(json->handle);
    const char *text = (const char *)yajl_get_error(json->handle, 0, NULL, 0);
    return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE, "not JSON: %.*s, near byte %zu of %zu",
                          (int)strcspn(text, "\n"), text, at, json->length);
}

static enum dn_decode_result read_all(struct dn_schema_json *json, struct dn_schema_verdict *verdict)
{
    static const yajl_callbacks callbacks = {
        .yajl_null = on_null,
        .yajl_boolean = on_boolean,
        .yajl_number = on_number,
        .yajl_string = on_string,
        .yajl_start_map = on_map_open,
        .yajl_map_key = on_key,
        .yajl_end_map = on_close,
        .yajl_start_array = on_array_open,
        .yajl_end_array = on_close,
    };
    yajl_alloc_funcs memory = {pool_alloc, pool_realloc, pool_free, &json->pool};
    if (setjmp(json->pool.full) != 0) {
        return DN_SCHEMA_DEAD(verdict, DN_DEAD_LIMIT, "takes more than %zu bytes to read", json->pool.size);
    }
    json->handle = yajl_alloc(&callbacks, &memory, json);
    (void)yajl_config(json->handle, yajl_dont_validate_strings, 1);
    (void)yajl_config(json->handle, yajl_allow_trailing_garbage, 1);
    if (yajl_parse(json->handle, json->bytes, json->length) != yajl_status_ok) {
        return not_json(json, verdict);
    }
    /* yajl would let an unfinished token pass behind the object. */
    size_t at = yajl_get_bytes_consumed(json->handle);
    if (yajl_complete_parse(json->handle) != yajl_status_ok) {
        return not_json(json, verdict);
    }
    for (; at < json->length; at++) {
        if (strchr(" \t\r\n", json->bytes[at]) == NULL || json->bytes[at] == '\0') {
            return DN_SCHEMA_DEAD(verdict, DN_DEAD_UNDECODABLE,
                                  "not JSON: something follows at byte %zu of %zu", at, json->length);
        }
    }
    return DN_DECODED; /* yajl_free would only give back to the pool */
}

enum dn_decode_result dn_schema_json_read(struct dn_schema_json *json, const uint8_t *bytes, size_t length,
                                          struct dn_schema_value values[DN_FIELD_COUNT],
                                          struct dn_schema_verdict *verdict)
{
    static const uint8_t byte_order_mark[] = {0xEF, 0xBB, 0xBF};
    size_t mark = length >= 3 && memcmp(bytes, byte_order_mark, 3) == 0 ? 3 : 0;
    pool_clear(&json->pool);
    json->turn++;
    json->bytes = bytes + mark;
    json->length = length - mark;
    json->current = json->pending = NONE;
    json->depth = json->skip = 0;
    json->refused[0] = '\0';
    json->values = values;
    memset(values, 0, DN_FIELD_COUNT * sizeof *values);
    return read_all(json, verdict);
}
