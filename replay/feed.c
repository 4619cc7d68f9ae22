#include "replay/feed.h"

#include "client/names.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define READ_BUFFER_BYTES (256u << 10)
#define TIME_MAX_S 32503680000.0 /* the year 3000 */
#define ID_PREFIX_MAX 64

static const char tsv_header[] = "ts\tuser\tsession\titem\ttype\tprice";
enum { COLUMN_TS, COLUMN_USER, COLUMN_SESSION, COLUMN_ITEM, COLUMN_TYPE, COLUMN_PRICE, COLUMNS };

struct dn_feed {
    gzFile file;
    enum dn_feed_format format;
    enum dn_feed_key key;
    uint64_t line_number;
    bool line_waits; /* `line` was looked at and not yet used */
    size_t line_length;
    char name[256];
    char id_prefix[ID_PREFIX_MAX];
    char line[DN_FEED_LINE_MAX + 1];
};

static enum dn_code bad_line(const struct dn_feed *feed, struct dn_error *err, const char *what)
{
    return dn_fail(err, DN_INVALID, "%s: line %llu: %s", feed->name, (unsigned long long)feed->line_number,
                   what);
}

/* Next line without its end into feed->line. */
static enum dn_code read_line(struct dn_feed *feed, struct dn_error *err)
{
    int zlib_error;

    feed->line_number++;
    if (gzgets(feed->file, feed->line, (int)sizeof feed->line) == NULL) {
        const char *message = gzerror(feed->file, &zlib_error);

        if (zlib_error == Z_ERRNO)
            message = strerror(errno);
        if (zlib_error != Z_OK && zlib_error != Z_STREAM_END)
            return dn_fail(err, DN_IO, "read '%s' after line %llu: %s", feed->name,
                           (unsigned long long)feed->line_number - 1, message);
        return DN_NOT_FOUND;
    }
    feed->line_length = strlen(feed->line);
    if (feed->line_length == sizeof feed->line - 1 && feed->line[feed->line_length - 1] != '\n')
        return bad_line(feed, err, "longer than 65,535 bytes");
    while (feed->line_length > 0 &&
           (feed->line[feed->line_length - 1] == '\n' || feed->line[feed->line_length - 1] == '\r'))
        feed->line[--feed->line_length] = '\0';
    return DN_OK;
}

/* Settles the format by the first line; in a tsv that line must be the header. */
static enum dn_code begin(struct dn_feed *feed, struct dn_error *err)
{
    enum dn_code code = read_line(feed, err);

    if (code == DN_NOT_FOUND)
        return DN_OK; /* an empty feed */
    if (code != DN_OK)
        return code;
    if (feed->format == DN_FEED_AUTO)
        feed->format = strcmp(feed->line, tsv_header) == 0 ? DN_FEED_TSV : DN_FEED_JSONL;
    if (feed->format == DN_FEED_TSV && strcmp(feed->line, tsv_header) != 0)
        return bad_line(feed, err,
                        "expected the header 'ts user session item type price', separated by tabs");
    feed->line_waits = feed->format == DN_FEED_JSONL;
    return DN_OK;
}

enum dn_code dn_feed_open(const char *path, enum dn_feed_format format, enum dn_feed_key key,
                          const char *id_prefix, struct dn_feed **ret, struct dn_error *err)
{
    struct dn_feed *feed = calloc(1, sizeof *feed);
    bool standard_input = strcmp(path, "-") == 0;
    enum dn_code code;
    int fd;

    if (feed == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    feed->format = format;
    feed->key = key;
    snprintf(feed->name, sizeof feed->name, "%s", standard_input ? "standard input" : path);
    snprintf(feed->id_prefix, sizeof feed->id_prefix, "%s", id_prefix);
    fd = standard_input ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    feed->file = fd < 0 ? NULL : gzdopen(fd, "rb");
    if (feed->file == NULL) {
        code = dn_fail(err, DN_IO, "open '%s': %s", feed->name, strerror(errno));
        if (fd >= 0)
            close(fd);
        free(feed);
        return code;
    }
    gzbuffer(feed->file, READ_BUFFER_BYTES);
    code = begin(feed, err);
    if (code != DN_OK) {
        dn_feed_close(feed);
        return code;
    }
    *ret = feed;
    return DN_OK;
}

void dn_feed_close(struct dn_feed *feed)
{
    if (feed == NULL)
        return;
    gzclose_r(feed->file);
    free(feed);
}

static bool copy_id(char ret[DN_ID_MAX + 1], const char *text, size_t length)
{
    if (!dn_id_valid(text, length))
        return false;
    memcpy(ret, text, length);
    ret[length] = '\0';
    return true;
}

static void make_event_id(const struct dn_feed *feed, struct dn_feed_event *ret)
{
    snprintf(ret->event_id, sizeof ret->event_id, "%sline-%llu", feed->id_prefix,
             (unsigned long long)feed->line_number);
}

/* ---- tsv
 * ---------------------------------------------------------------------------------------------------- */

static enum dn_code parse_tsv(struct dn_feed *feed, struct dn_feed_event *ret, struct dn_error *err)
{
    char *columns[COLUMNS], *rest = feed->line, *end;
    const char *key;
    double ts;
    size_t count = 0;

    while (count < COLUMNS && rest != NULL)
        columns[count++] = strsep(&rest, "\t");
    if (count != COLUMNS || rest != NULL)
        return bad_line(feed, err, "expected six fields separated by tabs");
    ts = strtod(columns[COLUMN_TS], &end);
    if (end == columns[COLUMN_TS] || *end != '\0' || !(ts >= 0 && ts <= TIME_MAX_S))
        return bad_line(feed, err, "ts is not a time in seconds since 1970");
    ret->time_ms = llround(ts * 1000);
    ret->key_is_session = feed->key == DN_FEED_KEY_SESSION || *columns[COLUMN_USER] == '\0';
    key = columns[ret->key_is_session ? COLUMN_SESSION : COLUMN_USER];
    if (!copy_id(ret->key, key, strlen(key)))
        return bad_line(feed, err, "neither user nor session is an id (1 to 256 bytes of UTF-8)");
    if (!copy_id(ret->item, columns[COLUMN_ITEM], strlen(columns[COLUMN_ITEM])))
        return bad_line(feed, err, "the item is not an id (1 to 256 bytes of UTF-8)");
    ret->type = 0;
    if (*columns[COLUMN_TYPE] != '\0' && !dn_event_type_parse(columns[COLUMN_TYPE], &ret->type))
        return bad_line(feed, err, "unknown type: use view, click, cart, buy, like, dislike, play or remove");
    ret->weight = 0;
    make_event_id(feed, ret);
    return DN_OK;
}

/* ---- jsonl
 * -------------------------------------------------------------------------------------------------- */

/* Copies a string member; absent leaves *ret empty. False: not an id. */
static bool take_id(const json_t *object, const char *name, char ret[DN_ID_MAX + 1])
{
    const json_t *value = json_object_get(object, name);

    ret[0] = '\0';
    if (value == NULL || json_is_null(value))
        return true;
    return json_is_string(value) && copy_id(ret, json_string_value(value), json_string_length(value));
}

/* What is wrong with the object, or NULL. */
static const char *take_event(const struct dn_feed *feed, const json_t *object, struct dn_feed_event *ret)
{
    const json_t *type = json_object_get(object, "type"), *time = json_object_get(object, "time_ms");
    const json_t *weight = json_object_get(object, "weight");
    char session[DN_ID_MAX + 1];

    if (!json_is_object(object))
        return "not a JSON object";
    if (!take_id(object, "user", ret->key) || !take_id(object, "session", session) ||
        !take_id(object, "item", ret->item) || !take_id(object, "event_id", ret->event_id))
        return "user, item, session and event_id must be strings of 1 to 256 bytes of UTF-8";
    ret->key_is_session = session[0] != '\0' && (feed->key == DN_FEED_KEY_SESSION || ret->key[0] == '\0');
    if (ret->key_is_session)
        memcpy(ret->key, session, sizeof session);
    if (ret->key[0] == '\0' || ret->item[0] == '\0')
        return "user and item are required";
    ret->type = 0;
    if (type != NULL && (!json_is_string(type) || !dn_event_type_parse(json_string_value(type), &ret->type)))
        return "unknown type: use view, click, cart, buy, like, dislike, play or remove";
    if (time != NULL && (!json_is_integer(time) || json_integer_value(time) < 0))
        return "time_ms must be an integer, milliseconds since 1970";
    ret->time_ms = time == NULL ? 0 : json_integer_value(time);
    if (weight != NULL &&
        !(json_is_number(weight) && json_number_value(weight) >= 0 && json_number_value(weight) <= 255))
        return "weight must be a number from 0 to 255";
    ret->weight = weight == NULL ? 0 : (float)json_number_value(weight);
    if (ret->event_id[0] == '\0')
        make_event_id(feed, ret);
    return NULL;
}

static enum dn_code parse_jsonl(struct dn_feed *feed, struct dn_feed_event *ret, struct dn_error *err)
{
    json_error_t json_error;
    json_t *object = json_loadb(feed->line, feed->line_length, JSON_REJECT_DUPLICATES, &json_error);
    const char *fault;

    if (object == NULL)
        return bad_line(feed, err, json_error.text);
    fault = take_event(feed, object, ret);
    json_decref(object);
    return fault == NULL ? DN_OK : bad_line(feed, err, fault);
}

enum dn_code dn_feed_next(struct dn_feed *feed, struct dn_feed_event *ret, struct dn_error *err)
{
    enum dn_code code;

    do {
        if (!feed->line_waits) {
            code = read_line(feed, err);
            if (code != DN_OK)
                return code;
        }
        feed->line_waits = false;
    } while (feed->line_length == 0); /* empty lines are skipped */
    code = feed->format == DN_FEED_TSV ? parse_tsv(feed, ret, err) : parse_jsonl(feed, ret, err);
    ret->original_ms = ret->time_ms;
    return code;
}
