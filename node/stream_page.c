/* Streams on the metrics page, and in the API's terms. Partitions come and go with leaderships, and a series
 * of the registry stays for ever: so these lines are made anew each time, and what is not read here any more
 * is not on the page. */
#include "node/node.h"

#include "api/api.h"
#include "base/clock.h"
#include "ingest/reader.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 65536, VIEWS_MAX = 65536, LABEL_BYTES_MAX = 2 * DN_SOURCE_MAX + 3, LINE_MAX_BYTES = 1024 };

struct rows { /* malloc'ed copies of what there is now */
    struct dn_ingest_row *rows;
    size_t count;
};

/* Without memory there are none. */
static struct rows take_rows(struct dn_streams *streams)
{
    struct rows taken = {.count = dn_streams_rows(streams, NULL, 0)};

    if (taken.count == 0)
        return taken;
    if (taken.count > ROWS_MAX)
        taken.count = ROWS_MAX;
    taken.rows = malloc(taken.count * sizeof(*taken.rows));
    size_t now = taken.rows ? dn_streams_rows(streams, taken.rows, taken.count) : 0;
    if (now < taken.count)
        taken.count = now;
    return taken;
}

/* ---- the metrics page -----------------------------------------------------------------------------------
 */

static void put(struct dn_buffer *out, const char *text)
{
    dn_buffer_append(out, text, strlen(text));
}

/* A file's name may hold anything: backslash, quote and line feed are escaped. */
static const char *label(const char *text, char ret[LABEL_BYTES_MAX])
{
    size_t length = 0;

    for (; *text && length + 3 < LABEL_BYTES_MAX; text++) {
        if (*text == '\\' || *text == '"' || *text == '\n')
            ret[length++] = '\\';
        ret[length++] = *text == '\n' ? 'n' : *text;
    }
    ret[length] = 0;
    return ret;
}

static void put_head(struct dn_buffer *out, const char *name, const char *type, const char *help)
{
    char line[LINE_MAX_BYTES];

    snprintf(line, sizeof(line), "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
    put(out, line);
}

static void put_row(struct dn_buffer *out, const char *name, const struct dn_ingest_row *row, double value)
{
    char line[LINE_MAX_BYTES], source[LABEL_BYTES_MAX], stream[LABEL_BYTES_MAX];

    snprintf(line, sizeof(line), "%s{source=\"%s\",stream=\"%s\",partition=\"%u\",group=\"%u\"} %.15g\n",
             name, label(row->source, source), label(row->stream, stream), row->partition, row->group, value);
    put(out, line);
}

/* Which number of a row a family shows; NaN: none, and no line. */
static double lag_records(const struct dn_ingest_row *row)
{
    return row->lag_records < 0 ? (double)NAN : (double)row->lag_records;
}

static double lag_seconds(const struct dn_ingest_row *row)
{
    return row->lag_ms < 0 ? (double)NAN : (double)row->lag_ms / 1e3;
}

static double end_offset(const struct dn_ingest_row *row)
{
    return row->end_offset < 0 ? (double)NAN : (double)row->end_offset;
}

static double stalled(const struct dn_ingest_row *row)
{
    return row->stalled;
}

static double state(const struct dn_ingest_row *row)
{
    return row->state;
}

static void put_rows(struct dn_buffer *out, const struct rows *rows)
{
    static const struct {
        const char *name, *help;
        double (*value)(const struct dn_ingest_row *row);
    } FAMILIES[] = {
        {"dunlin_source_lag_records", "Records (bytes of a file) that the stream holds and the state has not",
         lag_records},
        {"dunlin_source_lag_seconds", "The state has everything that was in the stream this long ago",
         lag_seconds},
        {"dunlin_source_end_offset", "Where the stream ends now", end_offset},
        {"dunlin_source_stalled", "1 where it stands still longer than the freshness alarm", stalled},
        {"dunlin_source_state", "0 idle, 1 connecting, 2 reading, 3 at its end, 4 offset gone, 5 failed",
         state},
    };

    for (size_t f = 0; f < sizeof(FAMILIES) / sizeof(FAMILIES[0]) && rows->count > 0; f++) {
        put_head(out, FAMILIES[f].name, "gauge", FAMILIES[f].help);
        for (size_t i = 0; i < rows->count; i++) {
            double value = FAMILIES[f].value(&rows->rows[i]);

            if (rows->rows[i].group != 0 && !isnan(value))
                put_row(out, FAMILIES[f].name, &rows->rows[i], value);
        }
    }
}

static void put_troubles(struct dn_buffer *out, struct dn_node *node, const struct rows *rows)
{
    static const char NAME[] = "dunlin_source_trouble_seconds";
    char line[LINE_MAX_BYTES], source[LABEL_BYTES_MAX], text[DN_SOURCE_TEXT_MAX];

    put_head(out, NAME, "gauge", "For how long something is wrong with the source as a whole; 0: nothing is");
    for (size_t s = 0; s < node->config->source_count; s++) {
        const char *name = node->config->sources[s].name;
        double seconds = 0;

        for (size_t i = 0; i < rows->count; i++)
            if (rows->rows[i].group == 0 && strcmp(rows->rows[i].source, name) == 0)
                seconds = (double)rows->rows[i].lag_ms / 1e3;
        snprintf(line, sizeof(line), "%s{source=\"%s\"} %.15g\n", NAME, label(name, source), seconds);
        put(out, line);
    }
    int64_t since_ms = dn_streams_letters_trouble(node->streams, text);
    put_head(out, "dunlin_dead_letters_trouble_seconds", "gauge",
             "For how long dead letters cannot be written; 0: they can");
    snprintf(line, sizeof(line), "dunlin_dead_letters_trouble_seconds %.15g\n",
             since_ms > 0 ? (double)(dn_wall_ms() - since_ms) / 1e3 : 0.0);
    put(out, line);
}

struct views {
    struct dn_source_view *views;
    uint32_t *groups;
    size_t count;
};

/* What the shards hold: the same on every node, as far as it has applied. In an epoch. */
static struct views take_views(const struct dn_node *node)
{
    struct views taken = {.count = 0};
    size_t most = 0;

    for (uint32_t i = 0; i < node->shard_count; i++)
        most += dn_shard_sources(node->shards[i], NULL, 0);
    if (most > VIEWS_MAX)
        most = VIEWS_MAX;
    if (most == 0)
        return taken;
    taken.views = malloc(most * sizeof(*taken.views));
    taken.groups = malloc(most * sizeof(*taken.groups));
    for (uint32_t i = 0; i < node->shard_count && taken.views && taken.groups; i++) {
        size_t room = most - taken.count;
        size_t count = dn_shard_sources(node->shards[i], taken.views + taken.count, room);

        const struct dn_source_view *views = taken.views + taken.count;

        for (size_t v = 0; v < count && v < room; v++) {
            if (views[v].finished)
                continue; /* no more is to be watched */
            taken.views[taken.count] = views[v];
            taken.groups[taken.count++] = i + 1;
        }
    }
    return taken;
}

static double next_offset(const struct dn_source_view *view)
{
    return view->next_offset < 0 ? (double)NAN : (double)view->next_offset;
}

static double watermark(const struct dn_source_view *view)
{
    return view->watermark_ms == INT64_MIN ? (double)NAN : (double)view->watermark_ms / 1e3;
}

static double newest(const struct dn_source_view *view)
{
    return view->newest_ms == INT64_MIN ? (double)NAN : (double)view->newest_ms / 1e3;
}

static double events(const struct dn_source_view *view)
{
    return (double)view->events;
}

/* What nodes say of the streams that only they read stands beside the streams, and is none. */
static bool is_word(const struct dn_source_view *view)
{
    return view->name[0] == '@';
}

static void put_words(struct dn_buffer *out, const struct views *views)
{
    static const char NAME[] = "dunlin_stream_reader_seconds";
    char line[LINE_MAX_BYTES];
    bool first = true;

    for (size_t i = 0; i < views->count; i++) {
        const struct dn_source_view *view = &views->views[i];

        if (!is_word(view) || view->partition != DN_READER_HEARD || view->next_offset < 0)
            continue;
        if (first)
            put_head(out, NAME, "gauge",
                     "When a node that alone can read some streams gave its last sign of life (Unix time)");
        first = false;
        snprintf(line, sizeof(line), "%s{node=\"%llu\",group=\"%u\"} %.15g\n", NAME,
                 strtoull(view->name + 1, NULL, 16), views->groups[i], (double)view->next_offset / 1e3);
        put(out, line);
    }
}

static void put_views(struct dn_buffer *out, const struct views *views)
{
    static const struct {
        const char *name, *help;
        double (*value)(const struct dn_source_view *view);
    } FAMILIES[] = {
        {"dunlin_source_next_offset", "Where reading goes on, as applied on this node", next_offset},
        {"dunlin_source_watermark_seconds", "Events before this time are late (Unix time)", watermark},
        {"dunlin_source_newest_event_seconds", "Newest event time counted (Unix time)", newest},
        {"dunlin_source_events", "Events counted from it in the cluster's life", events},
    };
    char line[LINE_MAX_BYTES], stream[LABEL_BYTES_MAX];

    for (size_t f = 0; f < sizeof(FAMILIES) / sizeof(FAMILIES[0]) && views->count > 0; f++) {
        put_head(out, FAMILIES[f].name, "gauge", FAMILIES[f].help);
        for (size_t i = 0; i < views->count; i++) {
            double value = FAMILIES[f].value(&views->views[i]);

            if (isnan(value) || views->views[i].partition == DN_PARTITION_CONTENTS ||
                is_word(&views->views[i]))
                continue;
            snprintf(line, sizeof(line), "%s{stream=\"%s\",partition=\"%u\",group=\"%u\"} %.15g\n",
                     FAMILIES[f].name, label(views->views[i].name, stream), views->views[i].partition,
                     views->groups[i], value);
            put(out, line);
        }
    }
}

void dn_streams_render(struct dn_node *node, struct dn_epoch_reader *reader, struct dn_buffer *out)
{
    struct rows rows = take_rows(node->streams);

    dn_epoch_enter(reader);
    struct views views = take_views(node);
    dn_epoch_leave(reader);
    put_rows(out, &rows);
    if (node->config->source_count > 0)
        put_troubles(out, node, &rows);
    put_views(out, &views);
    put_words(out, &views);
    free(rows.rows);
    free(views.views);
    free(views.groups);
}

/* ---- the API's terms ------------------------------------------------------------------------------------
 */

_Static_assert((int)DN_PARTITION_IDLE == 0 && (int)DN_PARTITION_CONNECTING == 1 &&
                   (int)DN_PARTITION_READING == 2 && (int)DN_PARTITION_AT_END == 3 &&
                   (int)DN_PARTITION_GAP == 4 && (int)DN_PARTITION_FAILED == 5,
               "states have the numbers of dunlin.v1.PartitionState");

static void convert(const struct dn_ingest_row *from, struct dn_api_source_row *to)
{
    *to = (struct dn_api_source_row){
        .partition = from->partition,
        .group = from->group,
        .state = (uint8_t)from->state,
        .keyed = from->keyed,
        .stalled = from->stalled,
        .next_offset = from->next_offset,
        .begin_offset = from->begin_offset,
        .end_offset = from->end_offset,
        .lag_records = from->lag_records,
        .lag_ms = from->lag_ms,
    };
    snprintf(to->source, sizeof(to->source), "%s", from->source);
    snprintf(to->stream, sizeof(to->stream), "%s", from->stream);
    snprintf(to->error, sizeof(to->error), "%s", from->error);
}

bool dn_streams_api_has(void *data, const char *stream)
{
    return dn_streams_has(data, stream);
}

size_t dn_streams_api_rows(void *data, struct dn_api_source_row *ret, size_t max)
{
    struct rows rows = take_rows(data);

    for (size_t i = 0; i < rows.count && i < max; i++)
        convert(&rows.rows[i], &ret[i]);
    free(rows.rows);
    return rows.count;
}
