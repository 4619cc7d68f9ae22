/* Reading items from files, one at a time: JSON lines, fastText .vec; .npy is in items_npy.c.
 *
 * Memory is bounded by one line. Every refusal names file, line and what is wrong. */
#include "index/items_file.h"

#include "base/text.h"

#include <jansson.h>

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WHERE_MAX 32

/* ---- lines
 * ----------------------------------------------------------------------------------------------------- */

enum dn_code dn_lines_open(struct dn_lines *lines, const char *path, struct dn_error *err)
{
    *lines = (struct dn_lines){.path = path};
    lines->file = fopen(path, "re");
    if (lines->file == NULL) {
        return dn_fail(err, errno == ENOENT ? DN_NOT_FOUND : DN_IO, "%s: %s", path, strerror(errno));
    }
    return DN_OK;
}

void dn_lines_close(struct dn_lines *lines)
{
    if (lines->file != NULL) {
        fclose(lines->file);
    }
    free(lines->bytes);
    *lines = (struct dn_lines){0};
}

static bool lines_grow(struct dn_lines *lines)
{
    size_t capacity = lines->capacity == 0 ? 4096 : lines->capacity * 2;
    char *grown = realloc(lines->bytes, capacity);
    if (grown != NULL) {
        lines->bytes = grown;
        lines->capacity = capacity;
    }
    return grown != NULL;
}

enum dn_code dn_lines_next(struct dn_lines *lines, struct dn_error *err)
{
    lines->number++;
    lines->length = 0;
    int c;
    while ((c = getc_unlocked(lines->file)) != EOF && c != '\n') {
        if (lines->length >= DN_LINE_MAX) {
            return dn_fail(err, DN_INVALID, "%s: line %" PRIu64 ": longer than %u bytes", lines->path,
                           lines->number, DN_LINE_MAX);
        }
        if (lines->length + 1 >= lines->capacity && !lines_grow(lines)) {
            return dn_fail(err, DN_NO_MEMORY, "%s: out of memory", lines->path);
        }
        lines->bytes[lines->length++] = (char)c;
    }
    if (ferror(lines->file)) {
        return dn_fail(err, DN_IO, "%s: line %" PRIu64 ": %s", lines->path, lines->number, strerror(errno));
    }
    if (c == EOF && lines->length == 0) {
        return DN_NOT_FOUND;
    }
    if (lines->length + 1 >= lines->capacity && !lines_grow(lines)) {
        return dn_fail(err, DN_NO_MEMORY, "%s: out of memory", lines->path);
    }
    if (lines->length > 0 && lines->bytes[lines->length - 1] == '\r') {
        lines->length--;
    }
    lines->bytes[lines->length] = '\0';
    return DN_OK;
}

enum dn_code dn_items_give(const char *path, const char *where, const struct dn_item *item,
                           dn_item_callback each, void *data, struct dn_error *err)
{
    enum dn_code code = dn_item_check(item, err);
    if (code != DN_OK) {
        return dn_wrap(err, code, "%s: %s", path, where);
    }
    return each(data, item, err);
}

/* ---- JSON lines
 * --------------------------------------------------------------------------------------------------- */

struct json_item {
    struct dn_item item;
    struct dn_attribute attributes[DN_ATTRIBUTES_MAX];
    float vector[DN_VECTOR_DIM_MAX];
};

static enum dn_code take_text(const json_t *value, const char *key, size_t max, const char **ret,
                              uint16_t *ret_length, struct dn_error *err)
{
    if (!json_is_string(value)) {
        return dn_fail(err, DN_INVALID, "\"%s\" must be a string", key);
    }
    size_t length = json_string_length(value);
    if (length > max) {
        return dn_fail(err, DN_INVALID, "\"%s\" has %zu bytes; the most is %zu", key, length, max);
    }
    *ret = json_string_value(value);
    *ret_length = (uint16_t)length;
    return DN_OK;
}

static enum dn_code take_vector(const json_t *value, struct json_item *out, struct dn_error *err)
{
    size_t count = json_is_array(value) ? json_array_size(value) : 0;
    if (count == 0 || count > DN_VECTOR_DIM_MAX) {
        return dn_fail(err, DN_INVALID,
                       "\"vector\" must be an array of 1 to %d numbers (leave it out for none)",
                       DN_VECTOR_DIM_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *number = json_array_get(value, i);
        if (!json_is_number(number)) {
            return dn_fail(err, DN_INVALID, "\"vector\": element %zu is not a number", i);
        }
        out->vector[i] = (float)json_number_value(number);
    }
    out->item.vector = out->vector;
    out->item.dim = (uint32_t)count;
    return DN_OK;
}

static enum dn_code take_attributes(const json_t *value, struct json_item *out, struct dn_error *err)
{
    if (!json_is_object(value)) {
        return dn_fail(err, DN_INVALID, "\"attributes\" must be an object of strings");
    }
    if (json_object_size(value) > DN_ATTRIBUTES_MAX) {
        return dn_fail(err, DN_INVALID, "\"attributes\" has %zu entries; the most is %d",
                       json_object_size(value), DN_ATTRIBUTES_MAX);
    }
    const char *key;
    json_t *text;
    size_t count = 0;
    json_object_foreach((json_t *)(uintptr_t)value, key, text)
    {
        size_t key_length = strlen(key);
        if (key_length == 0 || key_length > DN_ATTRIBUTE_KEY_MAX) {
            return dn_fail(err, DN_INVALID, "\"attributes\": a key must have 1 to %d bytes",
                           DN_ATTRIBUTE_KEY_MAX);
        }
        struct dn_attribute *a = &out->attributes[count++];
        a->key = key;
        a->key_length = (uint16_t)key_length;
        enum dn_code code = take_text(text, key, DN_ATTRIBUTE_VALUE_MAX, &a->value, &a->value_length, err);
        if (code != DN_OK) {
            return dn_wrap(err, code, "\"attributes\"");
        }
    }
    out->item.attributes = out->attributes;
    out->item.attribute_count = count;
    return DN_OK;
}

static enum dn_code take_field(const char *key, const json_t *value, struct json_item *out,
                               struct dn_error *err)
{
    if (strcmp(key, "id") == 0) {
        return take_text(value, key, DN_ID_MAX, &out->item.id, &out->item.id_length, err);
    }
    if (strcmp(key, "category") == 0) {
        return take_text(value, key, DN_ID_MAX, &out->item.category, &out->item.category_length, err);
    }
    if (strcmp(key, "vector") == 0) {
        return take_vector(value, out, err);
    }
    if (strcmp(key, "attributes") == 0) {
        return take_attributes(value, out, err);
    }
    if (strcmp(key, "price") == 0) {
        if (!json_is_number(value)) {
            return dn_fail(err, DN_INVALID, "\"price\" must be a number");
        }
        out->item.price = json_number_value(value);
        return DN_OK;
    }
    if (strcmp(key, "available") == 0) {
        if (!json_is_boolean(value)) {
            return dn_fail(err, DN_INVALID, "\"available\" must be true or false");
        }
        out->item.available = json_is_true(value);
        return DN_OK;
    }
    return dn_fail(err, DN_INVALID,
                   "unknown key \"%.64s\"; known are id, vector, category, price, available and attributes",
                   key);
}

static enum dn_code take_object(const json_t *root, struct json_item *out, struct dn_error *err)
{
    if (!json_is_object(root)) {
        return dn_fail(err, DN_INVALID, "not a JSON object");
    }
    out->item = (struct dn_item){.category = "", .price = NAN, .available = true};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        enum dn_code code = take_field(key, value, out, err);
        if (code != DN_OK) {
            return code;
        }
    }
    if (out->item.id == NULL) {
        return dn_fail(err, DN_INVALID, "\"id\" is missing");
    }
    return DN_OK;
}

static bool is_blank(const struct dn_lines *lines)
{
    return strspn(lines->bytes, " \t") == lines->length;
}

static enum dn_code read_json_line(const struct dn_lines *lines, struct json_item *room,
                                   dn_item_callback each, void *data, struct dn_error *err)
{
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "line %" PRIu64, lines->number);
    json_error_t fault;
    json_t *root = json_loadb(lines->bytes, lines->length, JSON_REJECT_DUPLICATES, &fault);
    if (root == NULL) {
        return dn_fail(err, DN_INVALID, "%s: %s: %s", lines->path, where, fault.text);
    }
    enum dn_code code = take_object(root, room, err);
    code = code != DN_OK ? dn_wrap(err, code, "%s: %s", lines->path, where)
                         : dn_items_give(lines->path, where, &room->item, each, data, err);
    json_decref(root);
    return code;
}

static enum dn_code read_jsonl(const char *path, dn_item_callback each, void *data, struct dn_error *err)
{
    struct dn_lines lines;
    enum dn_code code = dn_lines_open(&lines, path, err);
    if (code != DN_OK) {
        return code;
    }
    struct json_item *room = malloc(sizeof *room);
    if (room == NULL) {
        code = dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path);
    }
    while (code == DN_OK && (code = dn_lines_next(&lines, err)) == DN_OK) {
        if (!is_blank(&lines)) {
            code = read_json_line(&lines, room, each, data, err);
            if (code == DN_NOT_FOUND) {
                goto out; /* the callback's own; not the end of the file */
            }
        }
    }
    code = code == DN_NOT_FOUND ? DN_OK : code;
out:
    free(room);
    dn_lines_close(&lines);
    return code;
}

/* ---- fastText text vectors
 * --------------------------------------------------------------------------------------- */

static enum dn_code read_vec_head(struct dn_lines *lines, uint64_t *ret_count, uint32_t *ret_dim,
                                  struct dn_error *err)
{
    enum dn_code code = dn_lines_next(lines, err);
    if (code != DN_OK && code != DN_NOT_FOUND) {
        return code;
    }
    char *space = code == DN_OK ? strchr(lines->bytes, ' ') : NULL;
    int64_t count = 0, dim = 0;
    bool fine = space != NULL;
    if (fine) {
        *space = '\0';
        size_t end = strlen(space + 1);
        while (end > 0 && space[end] == ' ') {
            space[end--] = '\0';
        }
        fine = dn_parse_i64(lines->bytes, 0, INT64_MAX, &count) &&
               dn_parse_i64(space + 1, 1, DN_VECTOR_DIM_MAX, &dim);
    }
    if (!fine) {
        return dn_fail(err, DN_INVALID, "%s: line 1: must be \"count dim\" with dim 1 to %d", lines->path,
                       DN_VECTOR_DIM_MAX);
    }
    *ret_count = (uint64_t)count;
    *ret_dim = (uint32_t)dim;
    return DN_OK;
}

static enum dn_code parse_vec_line(const struct dn_lines *lines, uint32_t dim, float *vector,
                                   struct dn_item *ret, struct dn_error *err)
{
    /* A NUL inside the line would hide the rest of it from the number parser. */
    const char *space = strchr(lines->bytes, ' ');
    if (space == NULL || space == lines->bytes || strlen(lines->bytes) != lines->length) {
        return dn_fail(err, DN_INVALID, "must be an id, a space, and %u numbers", dim);
    }
    size_t id_length = (size_t)(space - lines->bytes);
    if (id_length > DN_ID_MAX) {
        return dn_fail(err, DN_INVALID, "the id has %zu bytes; the most is %d", id_length, DN_ID_MAX);
    }
    const char *at = space;
    uint32_t count = 0;
    for (;;) {
        at += strspn(at, " \t");
        if (*at == '\0') {
            break;
        }
        char *end;
        float number = strtof(at, &end);
        if (end == at || (*end != ' ' && *end != '\t' && *end != '\0')) {
            return dn_fail(err, DN_INVALID, "number %u is not a number: '%.24s'", count + 1, at);
        }
        if (count < dim) {
            vector[count] = number;
        }
        count++;
        at = end;
    }
    if (count != dim) {
        return dn_fail(err, DN_INVALID, "vector has %u numbers, not %u", count, dim);
    }
    *ret = (struct dn_item){
        .id = lines->bytes,
        .id_length = (uint16_t)id_length,
        .vector = vector,
        .dim = dim,
        .category = "",
        .price = NAN,
        .available = true,
    };
    return DN_OK;
}

/* fastText's word for the end of a line: no item. */
static bool is_line_end(const struct dn_item *item)
{
    return item->id_length == 4 && memcmp(item->id, "</s>", 4) == 0;
}

static enum dn_code read_vec_items(struct dn_lines *lines, uint64_t count, uint32_t dim, float *vector,
                                   dn_item_callback each, void *data, struct dn_error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        enum dn_code code = dn_lines_next(lines, err);
        if (code == DN_NOT_FOUND) {
            return dn_fail(err, DN_INVALID, "%s: ends after %" PRIu64 " vectors; line 1 says %" PRIu64,
                           lines->path, i, count);
        }
        struct dn_item item;
        char where[WHERE_MAX];
        snprintf(where, sizeof where, "line %" PRIu64, lines->number);
        if (code == DN_OK) {
            code = parse_vec_line(lines, dim, vector, &item, err);
            code = code != DN_OK        ? dn_wrap(err, code, "%s: %s", lines->path, where)
                   : is_line_end(&item) ? DN_OK
                                        : dn_items_give(lines->path, where, &item, each, data, err);
        }
        if (code != DN_OK) {
            return code;
        }
    }
    for (;;) {
        enum dn_code code = dn_lines_next(lines, err);
        if (code == DN_NOT_FOUND) {
            return DN_OK;
        }
        if (code == DN_OK && !is_blank(lines)) {
            code =
                dn_fail(err, DN_INVALID, "%s: line %" PRIu64 ": more vectors than line 1 says (%" PRIu64 ")",
                        lines->path, lines->number, count);
        }
        if (code != DN_OK) {
            return code;
        }
    }
}

static enum dn_code read_vec(const char *path, dn_item_callback each, void *data, struct dn_error *err)
{
    struct dn_lines lines;
    enum dn_code code = dn_lines_open(&lines, path, err);
    if (code != DN_OK) {
        return code;
    }
    uint64_t count = 0;
    uint32_t dim = 0;
    code = read_vec_head(&lines, &count, &dim, err);
    if (code == DN_OK) {
        float *vector = malloc(dim * sizeof *vector);
        code = vector == NULL ? dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path)
                              : read_vec_items(&lines, count, dim, vector, each, data, err);
        free(vector);
    }
    dn_lines_close(&lines);
    return code;
}

/* ---- which
 * ---------------------------------------------------------------------------------------------------------
 */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

enum dn_code dn_items_read(const char *path, const char *ids_path, dn_item_callback each, void *data,
                           struct dn_error *err)
{
    if (ends_with(path, ".npy")) {
        return dn_items_read_npy(path, ids_path, each, data, err);
    }
    if (ids_path != NULL) {
        return dn_fail(err, DN_INVALID, "%s: a file of ids goes with a .npy file only", path);
    }
    if (ends_with(path, ".jsonl")) {
        return read_jsonl(path, each, data, err);
    }
    if (ends_with(path, ".vec")) {
        return read_vec(path, each, data, err);
    }
    return dn_fail(err, DN_INVALID, "%s: the name must end in .jsonl, .npy or .vec", path);
}
