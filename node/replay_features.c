#include "node/replay_features.h"

#include "client/names.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define ROW_BYTES_MAX ((size_t)4 << 20) /* far above DN_FEATURES_LAST_MAX items, escaped */

struct dn_features {
    struct dn_features_options options;
    struct dn_buffer row; /* of the event that is being applied; empty: it gets none */
    uint64_t rows;
    bool no_memory;
};

/* ---- the session before --------------------------------------------------------------------------------
 */

/* Of an earlier session only what is listed is known. */
static void listed_session(const struct dn_session_view *view, int64_t gap_ms, struct dn_session_before *ret)
{
    while (ret->first > 0 &&
           view->events[ret->first].time_ms - view->events[ret->first - 1].time_ms <= gap_ms)
        ret->first--;
    ret->events = (uint32_t)(ret->end - ret->first);
    ret->start_ms = view->events[ret->first].time_ms;
    for (size_t i = ret->first; i < ret->end; i++)
        ret->counts[view->events[i].type]++;
}

/* The current one, without its events after that time: those are the newest, and so are listed. */
static void current_session(const struct dn_session_view *view, struct dn_session_before *ret)
{
    while (ret->first > 0 && view->events[ret->first - 1].current)
        ret->first--;
    ret->events = view->session_events;
    ret->start_ms = view->start_ms;
    for (size_t type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        ret->counts[type] = view->counts[type];
    for (size_t i = ret->end; i < view->event_count; i++) {
        ret->events -= ret->events > 0;
        ret->counts[view->events[i].type] -= ret->counts[view->events[i].type] > 0;
    }
}

void dn_session_before(const struct dn_session_view *view, int64_t time_ms, int64_t gap_ms,
                       struct dn_session_before *ret)
{
    size_t end = view->event_count;

    *ret = (struct dn_session_before){0};
    while (end > 0 && view->events[end - 1].time_ms > time_ms)
        end--;
    if (end == 0)
        return;
    const struct dn_event_view *last = &view->events[end - 1];
    ret->known = true;
    ret->last_ms = last->time_ms;
    if (time_ms - last->time_ms > gap_ms)
        return; /* it begins a session of its own */
    ret->end = end;
    ret->first = end - 1;
    if (last->current)
        current_session(view, ret);
    else
        listed_session(view, gap_ms, ret);
}

/* ---- rows ----------------------------------------------------------------------------------------------
 */

static int append(const char *bytes, size_t length, void *data)
{
    struct dn_buffer *out = data;

    dn_buffer_append(out, bytes, length);
    return out->failed ? -1 : 0;
}

static json_t *last_items(const struct dn_features *features, const struct dn_session_view *view,
                          const struct dn_session_before *session)
{
    json_t *items = json_array();
    size_t first = session->first;

    if (session->end - first > features->options.last)
        first = session->end - features->options.last;
    for (size_t i = first; i < session->end; i++)
        json_array_append_new(items, json_stringn(view->events[i].item, view->events[i].item_length));
    return items;
}

static json_t *row_json(const struct dn_features *features, const struct dn_replay_event *event,
                        const struct dn_session_view *view, const struct dn_session_before *session)
{
    const struct dn_merge_event *in = event->in;
    json_t *counts = json_object(), *user;
    char hash[DN_USER_TEXT];

    dn_replay_user_text(event->user, hash);
    user = features->options.show_ids ? json_stringn(in->user, in->user_length) : json_string(hash);
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        json_object_set_new(counts, dn_event_type_name(type),
                            json_integer((json_int_t)session->counts[type]));
    return json_pack(
        "{s:s, s:I, s:I, s:o, s:s%, s:s, s:I, s:f, s:o, s:I, s:o, s:o, s:o}", "stream", in->stream,
        "partition", (json_int_t)in->partition, "offset", (json_int_t)in->offset,
        features->options.show_ids ? "user_id" : "user", user, "item", in->item, (size_t)in->item_length,
        "type", dn_event_type_name(in->type), "time_ms", (json_int_t)in->time_ms, "weight",
        (double)in->weight / DN_WEIGHT_ONE, "session_start_ms",
        session->events > 0 ? json_integer((json_int_t)session->start_ms) : json_null(), "session_events",
        (json_int_t)session->events, "counts", counts, "seconds_since_last",
        session->known ? json_real((double)(in->time_ms - session->last_ms) / 1000) : json_null(),
        "last_items", last_items(features, view, session));
}

/* Digits enough for milliseconds of a lifetime, and no more: 0.1 stays 0.1. */
#define ROW_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* A field of a CSV line (RFC 4180): quoted where it must be. */
static void csv_field(struct dn_buffer *out, const char *text, size_t length)
{
    bool quoted = memchr(text, ',', length) != NULL || memchr(text, '"', length) != NULL ||
                  memchr(text, '\n', length) != NULL || memchr(text, '\r', length) != NULL;

    if (!quoted) {
        dn_buffer_append(out, text, length);
        return;
    }
    dn_buffer_u8(out, '"');
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"')
            dn_buffer_u8(out, '"');
        dn_buffer_u8(out, (uint8_t)text[i]);
    }
    dn_buffer_u8(out, '"');
}

/* The members in the order they have, counts flattened, lists as JSON. False: no memory. */
static bool csv_row(const json_t *row, struct dn_buffer *out)
{
    const char *key, *name;
    json_t *value, *count;
    bool first = true;

    json_object_foreach((json_t *)(uintptr_t)row, key, value)
    {
        if (json_is_object(value)) {
            json_object_foreach(value, name, count)
            {
                char text[24];
                int length =
                    snprintf(text, sizeof(text), ",%" JSON_INTEGER_FORMAT, json_integer_value(count));
                dn_buffer_append(out, text, (size_t)length);
            }
            continue;
        }
        if (!first)
            dn_buffer_u8(out, ',');
        first = false;
        if (json_is_string(value)) {
            csv_field(out, json_string_value(value), json_string_length(value));
        } else if (!json_is_null(value)) {
            char *text = json_dumps(value, ROW_FLAGS | JSON_ENCODE_ANY);
            if (text == NULL)
                return false;
            csv_field(out, text, strlen(text));
            free(text);
        }
    }
    return true;
}

/* As csv_row writes the members of row_json. */
static void csv_header(const struct dn_features_options *options)
{
    fprintf(options->out,
            "stream,partition,offset,%s,item,type,time_ms,weight,session_start_ms,session_events",
            options->show_ids ? "user_id" : "user");
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        fprintf(options->out, ",count_%s", dn_event_type_name(type));
    fputs(",seconds_since_last,last_items\n", options->out); /* who closes the file learns of failures */
}

static bool before(void *data, struct dn_replay_state *state, const struct dn_replay_event *event)
{
    struct dn_features *features = data;
    struct dn_session_view view = {0};
    struct dn_session_before session;

    dn_buffer_clear(&features->row);
    if (features->options.types != 0 && (features->options.types & 1u << event->in->type) == 0)
        return true;
    enum dn_code code = dn_replay_read(state, event->group, event->user, &view);
    if (code != DN_OK && code != DN_NOT_FOUND) {
        features->no_memory = true;
        return false;
    }
    dn_session_before(&view, event->in->time_ms, features->options.gap_ms, &session);
    json_t *row = row_json(features, event, &view, &session);
    bool whole = row != NULL;
    if (whole && features->options.csv)
        whole = csv_row(row, &features->row);
    else if (whole)
        whole = json_dump_callback(row, append, &features->row, ROW_FLAGS) == 0;
    json_decref(row);
    dn_buffer_u8(&features->row, '\n');
    features->no_memory = !whole || features->row.failed;
    return !features->no_memory;
}

static bool after(void *data, enum dn_outcome outcome)
{
    struct dn_features *features = data;

    if (outcome != DN_OUTCOME_ACCEPTED || features->row.length == 0)
        return true;
    features->rows++;
    return fwrite(features->row.bytes, 1, features->row.length, features->options.out) ==
           features->row.length;
}

struct dn_features *dn_features_create(const struct dn_features_options *options)
{
    struct dn_features *features = calloc(1, sizeof(*features));

    if (features != NULL) {
        features->options = *options;
        dn_buffer_init(&features->row, ROW_BYTES_MAX);
        if (options->csv)
            csv_header(options);
    }
    return features;
}

void dn_features_destroy(struct dn_features *features)
{
    if (features != NULL)
        dn_buffer_free(&features->row);
    free(features);
}

void dn_features_watch(struct dn_features *features, struct dn_replay_watch *ret)
{
    ret->before = before;
    ret->after = after;
    ret->data = features;
}

uint64_t dn_features_rows(const struct dn_features *features)
{
    return features->rows;
}

bool dn_features_no_memory(const struct dn_features *features)
{
    return features->no_memory;
}
