/* The happy path: open each source in an empty folder of its own (a driver of files keeps notes there) ->
 * wait until its streams are known -> start every partition at the beginning -> `refill` decodes each feed's
 * next event -> the heap gives the one with the least clock -> its feed is refilled before the next one is
 * given.
 *
 * A feed's ways: reading --its driver says `end`, or it was dropped--> over. No event is given before every
 * feed that is not over has its next one: else the order would depend on who is fast. */
#include "node/replay_merge.h"

#include "base/clock.h"
#include "ingest/schema.h"

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_MAX = 512,                         /* messages of a feed at a time */
    STREAMS_MAX = DN_SOURCE_PARTITIONS_MAX, /* of a source: drivers have no more */
    SPARE_FILES = 64, /* beside those that are replayed: libraries, connections, what is written */
    WAIT_MS = 20,     /* for a wake, before a driver is asked again */
    FOLDERS_MAX = 16  /* open at once while the folder is removed */
};
#define FEEDS_MAX ((size_t)DN_SOURCES_CONFIGURED_MAX * DN_SOURCE_PARTITIONS_MAX)

struct source {
    const struct dn_source_config *config;
    const struct dn_source_driver *driver;
    struct dn_source_host host;
    struct dn_schema *schema;
    void *self; /* NULL: not open */
};

struct feed {
    struct source *source;
    size_t stream; /* the driver's number */
    char name[DN_SOURCE_MAX + 1];
    struct dn_message *messages;
    size_t count, at;
    bool started, held, over;
    bool has_head, has_next; /* next: looked at, to judge the head */
    int64_t newest_ms;       /* of the clocks of events given; -1: none */
    struct dn_merge_event head, next;
};

struct dn_merge {
    struct dn_merge_options options;
    struct source sources[DN_SOURCES_CONFIGURED_MAX];
    struct feed **feeds;
    size_t feed_count;
    size_t *heap; /* feeds that have a head, by `before` */
    size_t heap_count;
    size_t given; /* feed whose head was given last, and is taken off with the next call; SIZE_MAX: none */
    struct dn_merge_counts counts;
    char folder[64];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool woken;
};

/* ---- waiting -------------------------------------------------------------------------------------------
 */

/* Any thread. */
static void wake(void *data)
{
    struct dn_merge *merge = data;

    pthread_mutex_lock(&merge->lock);
    merge->woken = true;
    pthread_cond_signal(&merge->changed);
    pthread_mutex_unlock(&merge->lock);
}

static void wait_a_little(struct dn_merge *merge)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAIT_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&merge->lock);
    while (!merge->woken && pthread_cond_timedwait(&merge->changed, &merge->lock, &until) == 0)
        ;
    merge->woken = false;
    pthread_mutex_unlock(&merge->lock);
}

/* ---- opening -------------------------------------------------------------------------------------------
 */

static const struct dn_source_driver *real_driver(enum dn_source_kind kind)
{
    return kind == DN_SOURCE_KAFKA ? &dn_source_kafka : &dn_source_file;
}

static enum dn_code open_source(struct dn_merge *merge, struct source *source,
                                const struct dn_source_config *config, struct dn_error *err)
{
    source->config = config;
    source->driver = (merge->options.driver != NULL ? merge->options.driver : real_driver)(config->kind);
    source->host = (struct dn_source_host){.wake = wake,
                                           .data = merge,
                                           .node_id = 1,
                                           .data_dir = merge->folder,
                                           .still = true,
                                           .open_files_max = STREAMS_MAX};
    enum dn_code code = dn_schema_create(config, &source->schema, err);
    if (code != DN_OK)
        return dn_wrap(err, code, "source %s", config->name);
    return source->driver->open(config, &source->host, &source->self, err);
}

/* Whether all streams of the source are known with their partitions. */
static bool is_known(struct source *source, struct dn_stream_info *infos, size_t *ret_count)
{
    char trouble[DN_SOURCE_TEXT_MAX];
    size_t count = source->driver->streams(source->self, infos, STREAMS_MAX);

    DN_ASSERT(count <= STREAMS_MAX);
    *ret_count = count;
    for (size_t i = 0; i < *ret_count; i++)
        if (infos[i].partition_count == 0)
            return false;
    return source->driver->trouble(source->self, trouble) == 0;
}

static enum dn_code wait_known(struct dn_merge *merge, struct source *source, struct dn_stream_info *infos,
                               size_t *ret_count, struct dn_error *err)
{
    uint64_t until_us = dn_monotonic_us() + merge->options.patience_ms * UINT64_C(1000);
    char trouble[DN_SOURCE_TEXT_MAX];

    while (!is_known(source, infos, ret_count)) {
        if (dn_monotonic_us() >= until_us) {
            source->driver->trouble(source->self, trouble);
            return dn_fail(err, DN_UNAVAILABLE, "source %s: %s", source->config->name,
                           trouble[0] != '\0' ? trouble : "its streams do not become known");
        }
        wait_a_little(merge);
    }
    return DN_OK;
}

static enum dn_code add_feed(struct dn_merge *merge, struct source *source, size_t stream,
                             const struct dn_stream_info *info, uint32_t partition, struct dn_error *err)
{
    struct feed **feeds = merge->feed_count < FEEDS_MAX
                              ? realloc(merge->feeds, (merge->feed_count + 1) * sizeof(struct feed *))
                              : NULL;
    if (feeds == NULL)
        return dn_fail(err, DN_NO_MEMORY, "%zu partitions", merge->feed_count + 1);
    merge->feeds = feeds;
    size_t *heap = realloc(merge->heap, (merge->feed_count + 1) * sizeof(*heap));
    if (heap != NULL)
        merge->heap = heap;
    struct feed *feed = calloc(1, sizeof(*feed));
    if (feed != NULL)
        feed->messages = calloc(READ_MAX, sizeof(*feed->messages));
    if (heap == NULL || feed == NULL || feed->messages == NULL) {
        free(feed);
        return dn_fail(err, DN_NO_MEMORY, "%zu partitions", merge->feed_count + 1);
    }
    feed->source = source;
    feed->stream = stream;
    feed->newest_ms = -1;
    memcpy(feed->name, info->stream, sizeof(feed->name));
    feed->head = (struct dn_merge_event){.feed = merge->feed_count,
                                         .stream = feed->name,
                                         .partition = partition,
                                         .partition_count = info->partition_count,
                                         .source = source->config};
    feed->next = feed->head;
    merge->feeds[merge->feed_count++] = feed;
    enum dn_code code = source->driver->start(source->self, stream, partition, DN_STREAM_OFFSET_UNSET, err);
    feed->started = code == DN_OK;
    return code;
}

/* Each file stays open until its last event was given: this process must be allowed so many. */
static enum dn_code allow_files(const struct dn_merge *merge, const struct source *source, size_t count,
                                struct dn_error *err)
{
    const rlim_t wanted = merge->feed_count + count + SPARE_FILES;
    struct rlimit limit;

    if (source->config->kind != DN_SOURCE_FILE)
        return DN_OK;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return dn_fail(err, DN_IO, "ask how many files may be open: %s", strerror(errno));
    if (limit.rlim_cur >= wanted)
        return DN_OK;
    if (limit.rlim_max < wanted)
        return dn_fail(
            err, DN_PRECONDITION,
            "source %s: its %zu files are open at the same time, and this process may open %llu "
            "files where %llu are needed: raise its hard limit (ulimit -Hn), or replay fewer at once",
            source->config->name, count, (unsigned long long)limit.rlim_max, (unsigned long long)wanted);
    limit.rlim_cur = wanted;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0
               ? DN_OK
               : dn_fail(err, DN_IO, "raise the limit of open files to %llu: %s", (unsigned long long)wanted,
                         strerror(errno));
}

static enum dn_code open_feeds(struct dn_merge *merge, struct source *source, struct dn_error *err)
{
    struct dn_stream_info *infos = calloc(STREAMS_MAX, sizeof(*infos));
    size_t count = 0;
    enum dn_code code = infos != NULL ? wait_known(merge, source, infos, &count, err)
                                      : dn_fail(err, DN_NO_MEMORY, "source %s", source->config->name);

    if (code == DN_OK)
        code = allow_files(merge, source, count, err);
    for (size_t i = 0; code == DN_OK && i < count; i++)
        for (uint32_t p = 0; code == DN_OK && p < infos[i].partition_count; p++)
            code = add_feed(merge, source, i, &infos[i], p, err);
    free(infos);
    return code;
}

enum dn_code dn_merge_open(const struct dn_merge_options *options, struct dn_merge **ret,
                           struct dn_error *err)
{
    struct dn_merge *merge = calloc(1, sizeof(*merge));
    const char *temporary = getenv("TMPDIR");
    enum dn_code code = DN_OK;

    if (merge == NULL)
        return dn_fail(err, DN_NO_MEMORY, "open %zu sources", options->source_count);
    merge->options = *options;
    merge->given = SIZE_MAX;
    pthread_mutex_init(&merge->lock, NULL);
    pthread_cond_init(&merge->changed, NULL);
    if (temporary == NULL || strlen(temporary) > 40)
        temporary = "/tmp";
    snprintf(merge->folder, sizeof(merge->folder), "%s/dunlin-replay.XXXXXX", temporary);
    if (mkdtemp(merge->folder) == NULL) {
        code = dn_fail(err, DN_IO, "make '%s': %s", merge->folder, strerror(errno));
        merge->folder[0] = '\0';
    }
    for (size_t i = 0; code == DN_OK && i < options->source_count; i++) {
        code = open_source(merge, &merge->sources[i], &options->sources[i], err);
        if (code == DN_OK)
            code = open_feeds(merge, &merge->sources[i], err);
    }
    if (code != DN_OK) {
        dn_merge_close(merge);
        return code;
    }
    *ret = merge;
    return DN_OK;
}

/* ---- closing -------------------------------------------------------------------------------------------
 */

static void release(struct feed *feed)
{
    if (feed->held)
        feed->source->driver->release(feed->source->self, feed->stream, feed->head.partition);
    feed->held = false;
    feed->count = feed->at = 0;
}

static void stop(struct feed *feed)
{
    release(feed);
    if (feed->started)
        feed->source->driver->stop(feed->source->self, feed->stream, feed->head.partition);
    feed->started = false;
}

static int remove_one(const char *path, const struct stat *about, int flag, struct FTW *at)
{
    (void)about;
    (void)flag;
    (void)at;
    return remove(path);
}

void dn_merge_close(struct dn_merge *merge)
{
    if (merge == NULL)
        return;
    for (size_t i = 0; i < merge->feed_count; i++) {
        stop(merge->feeds[i]);
        free(merge->feeds[i]->messages);
        free(merge->feeds[i]);
    }
    for (size_t i = 0; i < merge->options.source_count; i++) {
        struct source *source = &merge->sources[i];
        if (source->self != NULL)
            source->driver->close(source->self);
        dn_schema_destroy(source->schema);
    }
    if (merge->folder[0] != '\0')
        nftw(merge->folder, remove_one, FOLDERS_MAX, FTW_DEPTH | FTW_PHYS);
    pthread_cond_destroy(&merge->changed);
    pthread_mutex_destroy(&merge->lock);
    free(merge->feeds);
    free(merge->heap);
    free(merge);
}

size_t dn_merge_feeds(const struct dn_merge *merge)
{
    return merge->feed_count;
}

void dn_merge_counts(const struct dn_merge *merge, struct dn_merge_counts *ret)
{
    *ret = merge->counts;
}

/* ---- one feed ------------------------------------------------------------------------------------------
 */

static void keep_event(struct dn_merge_event *event, const struct dn_message *message,
                       const struct dn_decoded *decoded)
{
    event->offset = message->offset;
    event->next_offset = message->next_offset;
    event->clock_ms = message->time_ms >= 0 ? message->time_ms : decoded->time_ms;
    event->time_ms = decoded->time_ms;
    event->weight = decoded->weight;
    event->type = decoded->type;
    event->user_length = decoded->user_length;
    event->item_length = decoded->item_length;
    memcpy(event->user, decoded->user, decoded->user_length);
    memcpy(event->item, decoded->item, decoded->item_length);
}

/* Decodes messages that were read until one gives an event; false: none did. */
static bool take_event(struct dn_merge *merge, struct feed *feed, struct dn_merge_event *event)
{
    struct dn_schema *schema = feed->source->schema;
    enum dn_dead_reason reason = DN_DEAD_UNDECODABLE;
    struct dn_decoded decoded;

    while (feed->at < feed->count) {
        const struct dn_message *message = &feed->messages[feed->at++];
        if (message->end) {
            feed->over = true;
            return false;
        }
        merge->counts.messages++;
        merge->counts.bytes += message->length;
        switch (dn_schema_decode(schema, message, &decoded, &reason, NULL)) {
        case DN_DECODED:
            /* No clock shows a time that far ahead: this one can be told without its neighbours. */
            if (message->time_ms >= 0 && decoded.time_ms > message->time_ms + merge->options.ahead_ms) {
                merge->counts.runaways++;
                break;
            }
            keep_event(event, message, &decoded);
            return true;
        case DN_DECODE_DEAD:
            merge->counts.dead[reason]++;
            break;
        case DN_DECODE_SKIPPED:
            merge->counts.skipped++;
            break;
        }
    }
    return false;
}

static enum dn_code check_state(const struct feed *feed, uint64_t since_us, unsigned patience_ms,
                                struct dn_error *err)
{
    struct dn_partition_status status;

    feed->source->driver->status(feed->source->self, feed->stream, feed->head.partition, &status);
    bool tired = dn_monotonic_us() - since_us >= patience_ms * UINT64_C(1000);
    if (status.state != DN_PARTITION_GAP && status.state != DN_PARTITION_FAILED && !tired)
        return DN_OK;
    return dn_fail(err, tired ? DN_DEADLINE : DN_UNAVAILABLE, "%s partition %u: %s", feed->name,
                   feed->head.partition,
                   status.error[0] != '\0' ? status.error : "nothing comes, and it is not at its end");
}

/* The next event of the feed, waited for; or feed->over. */
static enum dn_code read_event(struct dn_merge *merge, struct feed *feed, struct dn_merge_event *event,
                               bool *ret_some, struct dn_error *err)
{
    struct source *source = feed->source;
    uint64_t since_us = 0;

    *ret_some = false;
    while (!feed->over) {
        if (take_event(merge, feed, event)) {
            *ret_some = true;
            return DN_OK;
        }
        if (feed->over)
            break;
        release(feed);
        feed->count =
            source->driver->read(source->self, feed->stream, feed->head.partition, feed->messages, READ_MAX);
        feed->held = feed->count > 0;
        if (feed->count > 0) {
            since_us = 0;
            continue;
        }
        since_us = since_us != 0 ? since_us : dn_monotonic_us();
        enum dn_code code = check_state(feed, since_us, merge->options.patience_ms, err);
        if (code != DN_OK)
            return code;
        wait_a_little(merge);
    }
    stop(feed);
    return DN_OK;
}

/* Looks at the event after the head where the head may be a runaway. */
static enum dn_code judge_head(struct dn_merge *merge, struct feed *feed, bool *ret_runaway,
                               struct dn_error *err)
{
    const struct dn_merge_event *head = &feed->head;
    const int64_t ahead_ms = merge->options.ahead_ms;
    enum dn_code code = DN_OK;

    *ret_runaway = false;
    if (head->clock_ms != head->time_ms ||
        (feed->newest_ms >= 0 && head->time_ms <= feed->newest_ms + ahead_ms))
        return DN_OK;
    if (!feed->has_next)
        code = read_event(merge, feed, &feed->next, &feed->has_next, err);
    *ret_runaway = code == DN_OK && feed->has_next && feed->next.clock_ms < head->time_ms - ahead_ms;
    return code;
}

/* Sets the feed's head; has_head false: it is over. */
static enum dn_code refill(struct dn_merge *merge, struct feed *feed, struct dn_error *err)
{
    for (;;) {
        bool runaway;
        enum dn_code code = DN_OK;
        if (feed->has_next) {
            feed->head = feed->next;
            feed->has_head = true;
            feed->has_next = false;
        } else {
            code = read_event(merge, feed, &feed->head, &feed->has_head, err);
        }
        if (code != DN_OK || !feed->has_head)
            return code;
        code = judge_head(merge, feed, &runaway, err);
        if (code != DN_OK)
            return code;
        if (!runaway)
            break;
        merge->counts.runaways++;
    }
    if (feed->head.clock_ms > feed->newest_ms)
        feed->newest_ms = feed->head.clock_ms;
    return DN_OK;
}

/* ---- the heap ------------------------------------------------------------------------------------------
 */

static bool before(const struct dn_merge *merge, size_t a, size_t b)
{
    int64_t x = merge->feeds[a]->head.clock_ms, y = merge->feeds[b]->head.clock_ms;

    return x != y ? x < y : a < b;
}

static void swap(size_t *a, size_t *b)
{
    size_t kept = *a;

    *a = *b;
    *b = kept;
}

static void heap_push(struct dn_merge *merge, size_t feed)
{
    size_t at = merge->heap_count++;

    merge->heap[at] = feed;
    for (; at > 0 && before(merge, merge->heap[at], merge->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&merge->heap[at], &merge->heap[(at - 1) / 2]);
}

static size_t heap_pop(struct dn_merge *merge)
{
    size_t first = merge->heap[0];

    merge->heap[0] = merge->heap[--merge->heap_count];
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < merge->heap_count; child++)
            if (before(merge, merge->heap[child], merge->heap[least]))
                least = child;
        if (least == at)
            return first;
        swap(&merge->heap[at], &merge->heap[least]);
        at = least;
    }
}

static enum dn_code advance(struct dn_merge *merge, size_t number, struct dn_error *err)
{
    struct feed *feed = merge->feeds[number];

    feed->has_head = false;
    enum dn_code code = refill(merge, feed, err);
    if (code == DN_OK && feed->has_head)
        heap_push(merge, number);
    return code;
}

enum dn_code dn_merge_next(struct dn_merge *merge, const struct dn_merge_event **ret, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    if (merge->given == SIZE_MAX) {
        for (size_t i = 0; code == DN_OK && i < merge->feed_count; i++)
            code = advance(merge, i, err);
    } else if (!merge->feeds[merge->given]->over || merge->feeds[merge->given]->has_next) {
        code = advance(merge, merge->given, err);
    }
    if (code != DN_OK)
        return code;
    if (merge->heap_count == 0) {
        merge->given = SIZE_MAX;
        return DN_NOT_FOUND;
    }
    merge->given = heap_pop(merge);
    *ret = &merge->feeds[merge->given]->head;
    return DN_OK;
}

void dn_merge_drop(struct dn_merge *merge, size_t number)
{
    struct feed *feed = merge->feeds[number];

    DN_ASSERT(number == merge->given); /* the others' heads are in the heap */
    stop(feed);
    feed->over = true;
    feed->has_next = false;
}
