/* The ingest thread: its life and its turns.
 *
 * A turn: what came back is judged; streams and leaderships are looked at when due; every feed delivers a
 * slice; every lane sends what is due; what is behind or stands still is noted. With nothing to do it sleeps
 * until a driver, a completion, a change of leader or the next batch's time wakes it. */
#include "ingest/internal.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define THREAD_NAME "ingest"
#define NICENESS 5

struct start { /* between the thread that starts it and the ingest thread */
    struct dn_ingest *ingest;
    struct dn_error *err;
    enum dn_code code;
    sem_t opened;
};

void ingest_wake(struct dn_ingest *ingest)
{
    if (!atomic_exchange(&ingest->asleep, false))
        return;
    uint64_t one = 1;
    ssize_t ignored = write(ingest->wake_fd, &one, sizeof one);
    (void)ignored; /* the counter is full: it is awake then */
}

void dn_ingest_wake(struct dn_ingest *ingest)
{
    atomic_store(&ingest->look, true);
    ingest_wake(ingest);
}

static void host_wake(void *data)
{
    struct ingest_source *source = data;

    ingest_wake(source->ingest);
}

uint64_t dn_ingest_loop_age_us(const struct dn_ingest *ingest)
{
    uint64_t turned_us = atomic_load(&ingest->turned_us), now_us = dn_monotonic_us();

    return now_us > turned_us ? now_us - turned_us : 0;
}

/* ---- turning
 * ------------------------------------------------------------------------------------------------ */

static void take_done(struct dn_ingest *ingest)
{
    struct ingest_batch *batch;

    while ((batch = dn_queue_pop(ingest->done)) != NULL)
        lane_batch_done(batch);
}

static bool turn_feeds(struct dn_ingest *ingest)
{
    bool more = false;

    for (size_t s = 0; s < ingest->options.source_count; s++)
        for (size_t i = 0; i < ingest->sources[s].stream_count; i++) {
            struct ingest_stream *stream = &ingest->sources[s].streams[i];
            for (uint32_t p = 0; p < stream->feed_count; p++) {
                if (stream->feeds[p]->lane_count > 0)
                    more |= feed_turn(stream->feeds[p]);
            }
        }
    return more;
}

static void drop_lane(struct ingest_lane *lane)
{
    struct ingest_feed *feed = lane->feed;

    feed->lanes[lane->group - 1] = NULL;
    feed->seek = true;
    if (--feed->lane_count == 0)
        feed_stop(feed);
    lane_free(lane);
}

/* The lanes of a group share what it may have out: who has sent goes to the end, and nobody overtakes those
 * who wait (lane_room). Returns when a lane is due, or 0: a feed that stood still for a lane goes on. */
static uint64_t turn_lanes(struct dn_ingest *ingest)
{
    uint64_t due_us = UINT64_MAX;
    struct ingest_lane **place = &ingest->lanes, *sent = NULL, **sent_end = &sent;

    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        ingest->groups[group].waiting = 0;
    while (*place != NULL) {
        struct ingest_lane *lane = *place;
        lane->sent = false;
        bool stays = lane_turn(lane);
        uint64_t at_us = !stays ? UINT64_MAX : lane->sent && lane->held_up ? 0 : lane_due_us(lane);
        if (at_us < due_us)
            due_us = at_us;
        if (stays && !lane->sent) {
            place = &lane->next;
            continue;
        }
        *place = lane->next;
        if (stays) {
            lane->held_up = false;
            lane->next = NULL;
            *sent_end = lane;
            sent_end = &lane->next;
        } else {
            drop_lane(lane);
        }
    }
    *place = sent;
    return due_us;
}

static void look_around(struct dn_ingest *ingest)
{
    bool asked = atomic_exchange(&ingest->look, false);

    if (asked || ingest->now_us - ingest->refresh_us >= INGEST_REFRESH_US) {
        ingest_refresh(ingest, ingest->now_us - ingest->rules_us >= INGEST_RULES_US);
        ingest_forget(ingest);
        ingest->refresh_us = ingest->now_us;
    }
    if (ingest->now_us - ingest->watch_us >= INGEST_WATCH_US) {
        ingest_watch(ingest);
        lane_trim_batches(ingest, INGEST_KEEP_US);
        ingest->watch_us = ingest->now_us;
    }
}

static void sleep_until(struct dn_ingest *ingest, uint64_t due_us)
{
    struct pollfd wake = {.fd = ingest->wake_fd, .events = POLLIN};
    uint64_t now_us = dn_monotonic_us(), wait_us = INGEST_TURN_US;

    if (due_us <= now_us)
        return;
    if (due_us - now_us < wait_us)
        wait_us = due_us - now_us;
    struct timespec wait = {.tv_nsec = (long)wait_us * 1000};
    if (ppoll(&wake, 1, &wait, NULL) > 0) {
        uint64_t count;
        ssize_t ignored = read(ingest->wake_fd, &count, sizeof count);
        (void)ignored;
    }
}

static void turn(struct dn_ingest *ingest)
{
    /* Said before looking: what comes in between wakes the sleep below. */
    atomic_store(&ingest->asleep, true);
    ingest->now_us = dn_monotonic_us();
    atomic_store_explicit(&ingest->turned_us, ingest->now_us, memory_order_relaxed);
    take_done(ingest);
    look_around(ingest);
    bool more = turn_feeds(ingest);
    uint64_t due_us = turn_lanes(ingest);
    if (!more)
        sleep_until(ingest, due_us);
    atomic_store(&ingest->asleep, false);
}

/* Nothing is read any more; what is out may come back. */
static void wind_down(struct dn_ingest *ingest)
{
    for (struct ingest_lane *lane = ingest->lanes; lane != NULL; lane = lane->next)
        lane->leaving = true;
    for (;;) {
        atomic_store(&ingest->asleep, true);
        ingest->now_us = dn_monotonic_us();
        take_done(ingest);
        turn_lanes(ingest);
        if (ingest->batches_out == 0 || ingest->now_us >= atomic_load(&ingest->stop_by_us))
            break;
        sleep_until(ingest, atomic_load(&ingest->stop_by_us));
    }
}

/* ---- life
 * --------------------------------------------------------------------------------------------------- */

static const struct dn_source_driver *real_driver(enum dn_source_kind kind)
{
    return kind == DN_SOURCE_KAFKA ? &dn_source_kafka : &dn_source_file;
}

static struct dn_counter *counter(struct dn_ingest *ingest, const struct ingest_source *source,
                                  const char *name, const char *help)
{
    char labels[DN_SOURCE_NAME_MAX + 16];

    snprintf(labels, sizeof labels, "source=\"%s\"", source->config->name);
    return dn_metrics_counter(ingest->metrics, name, labels, help);
}

static struct dn_histogram *histogram(struct dn_ingest *ingest, const struct ingest_source *source,
                                      const char *name, const char *help)
{
    char labels[DN_SOURCE_NAME_MAX + 16];

    snprintf(labels, sizeof labels, "source=\"%s\"", source->config->name);
    return dn_metrics_histogram(ingest->metrics, name, labels, help);
}

static enum dn_code open_source(struct dn_ingest *ingest, struct ingest_source *source,
                                const struct dn_source_config *config, struct dn_error *err)
{
    const struct dn_ingest_options *options = &ingest->options;

    source->ingest = ingest;
    source->config = config;
    source->driver = (options->driver != NULL ? options->driver : real_driver)(config->kind);
    source->host = (struct dn_source_host){
        .wake = host_wake,
        .data = source,
        .node_id = options->node_id,
        .data_dir = options->data_dir,
    };
    source->messages = counter(ingest, source, "dunlin_source_messages_total",
                               "Messages read and delivered (again, after a failover)");
    source->bytes = counter(ingest, source, "dunlin_source_bytes_total", "Bytes of these messages");
    source->skipped = counter(ingest, source, "dunlin_source_skipped_total",
                              "Messages that are no events by configuration");
    source->dead =
        counter(ingest, source, "dunlin_source_dead_total", "Messages that gave no event, as read");
    source->seeks = counter(ingest, source, "dunlin_source_seeks_total", "Times reading began at an offset");
    source->proposals = counter(ingest, source, "dunlin_source_batches_total", "Batches proposed");
    source->refusals = counter(ingest, source, "dunlin_source_refusals_total",
                               "Batches refused or of unknown fate: read again");
    source->invalid = counter(ingest, source, "dunlin_source_invalid_total",
                              "Batches that the state machine did not understand: a fault of dunlin");
    source->read_delay =
        histogram(ingest, source, "dunlin_source_read_delay_seconds",
                  "From a message's own time until this node read it (the newest of each read)");
    source->commit_delay = histogram(ingest, source, "dunlin_source_commit_delay_seconds",
                                     "From a batch's proposal until its answer");
    source->streams = calloc(INGEST_STREAMS_MAX, sizeof *source->streams);
    if (source->streams == NULL)
        return dn_fail(err, DN_NO_MEMORY, "source '%s': out of memory", config->name);
    enum dn_code code = dn_schema_create(config, &source->schema, err);
    if (code == DN_OK)
        code = source->driver->open(config, &source->host, &source->self, err);
    return code; /* both say which source it is */
}

/* Sources are opened on the ingest thread: the threads that client libraries start there inherit its
 * niceness. */
static enum dn_code open_sources(struct dn_ingest *ingest, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    for (size_t s = 0; code == DN_OK && s < ingest->options.source_count; s++)
        code = open_source(ingest, &ingest->sources[s], &ingest->options.sources[s], err);
    return code;
}

static void close_sources(struct dn_ingest *ingest)
{
    for (size_t s = 0; s < ingest->options.source_count; s++) {
        struct ingest_source *source = &ingest->sources[s];
        if (source->self != NULL)
            source->driver->close(source->self);
        source->self = NULL;
    }
}

static void *run(void *data)
{
    struct start *start = data;
    struct dn_ingest *ingest = start->ingest;

    pthread_setname_np(pthread_self(), THREAD_NAME);
    /* On a machine that is all busy, consensus and answers come first: a stream can wait, an election cannot.
     */
    if (setpriority(PRIO_PROCESS, (id_t)gettid(), NICENESS) != 0)
        dn_warn("ingest", "its niceness stays as it is: %s", strerror(errno));
    start->code = open_sources(ingest, start->err);
    bool opened = start->code == DN_OK;
    sem_post(&start->opened); /* `start` may be gone from here on */
    while (opened && !atomic_load(&ingest->stopping))
        turn(ingest);
    if (opened)
        wind_down(ingest);
    ingest_close_feeds(ingest);
    close_sources(ingest);
    return NULL;
}

static void set_bounds(struct dn_ingest *ingest)
{
    uint64_t most = 1;

    for (size_t s = 0; s < ingest->options.source_count; s++)
        if (ingest->options.sources[s].inflight_batches > most)
            most = ingest->options.sources[s].inflight_batches;
    for (uint32_t group = 1; group <= ingest->options.shard_count; group++)
        ingest->groups[group].out_max = (unsigned)most;
}

static struct dn_ingest *create(const struct dn_ingest_options *options)
{
    struct dn_ingest *ingest = calloc(1, sizeof *ingest);

    if (ingest == NULL)
        return NULL;
    ingest->options = *options;
    ingest->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ingest->done = dn_queue_create(INGEST_BATCHES_OUT_MAX);
    ingest->infos = calloc(INGEST_STREAMS_MAX, sizeof *ingest->infos);
    ingest->metrics = options->metrics != NULL ? options->metrics : dn_metrics_create();
    pthread_mutex_init(&ingest->rows_lock, NULL);
    ingest->started_us = ingest->heard_us = dn_monotonic_us();
    atomic_store(&ingest->turned_us, ingest->started_us);
    for (size_t s = 0; s < options->source_count; s++)
        ingest->has_own = ingest->has_own || dn_source_is_local(&options->sources[s]);
    if (ingest->wake_fd >= 0 && ingest->done != NULL && ingest->infos != NULL && ingest->metrics != NULL)
        return ingest;
    dn_ingest_destroy(ingest);
    return NULL;
}

enum dn_code dn_ingest_start(const struct dn_ingest_options *options, struct dn_ingest **ret,
                             struct dn_error *err)
{
    DN_ASSERT(options->source_count <= DN_SOURCES_CONFIGURED_MAX);
    DN_ASSERT(options->shard_count >= 1 && options->shard_count < DN_GROUPS_MAX);
    struct dn_ingest *ingest = create(options);
    if (ingest == NULL)
        return dn_fail(err, DN_NO_MEMORY, "start of the ingest thread: out of memory or of file descriptors");
    struct start start = {.ingest = ingest, .err = err};
    sem_init(&start.opened, 0, 0);
    set_bounds(ingest);
    if (pthread_create(&ingest->thread, NULL, run, &start) != 0) {
        dn_ingest_destroy(ingest);
        return dn_fail(err, DN_EXHAUSTED, "start of the ingest thread: no thread can be had");
    }
    while (sem_wait(&start.opened) != 0 && errno == EINTR) {
    }
    sem_destroy(&start.opened);
    if (start.code != DN_OK) {
        pthread_join(ingest->thread, NULL);
        dn_ingest_destroy(ingest);
        return start.code;
    }
    ingest->threaded = true;
    *ret = ingest;
    return DN_OK;
}

void dn_ingest_stop(struct dn_ingest *ingest, unsigned wait_ms)
{
    if (!ingest->threaded)
        return;
    atomic_store(&ingest->stop_by_us, dn_monotonic_us() + wait_ms * 1000ull);
    atomic_store(&ingest->stopping, true);
    ingest_wake(ingest);
    pthread_join(ingest->thread, NULL);
    ingest->threaded = false;
}

void dn_ingest_destroy(struct dn_ingest *ingest)
{
    if (ingest == NULL)
        return;
    DN_ASSERT(!ingest->threaded);
    if (ingest->done != NULL)
        take_done(ingest); /* consensus has completed all of them */
    DN_ASSERT(ingest->batches_out == 0);
    for (size_t s = 0; s < ingest->options.source_count; s++)
        dn_schema_destroy(ingest->sources[s].schema);
    ingest_topology_free(ingest);
    lane_trim_batches(ingest, 0);
    for (uint32_t group = 0; group < DN_GROUPS_MAX; group++)
        dn_buffer_free(&ingest->groups[group].stall_record);
    ingest_heard_free(ingest);
    if (ingest->done != NULL)
        dn_queue_destroy(ingest->done);
    if (ingest->wake_fd >= 0)
        close(ingest->wake_fd);
    if (ingest->metrics != NULL && ingest->metrics != ingest->options.metrics)
        dn_metrics_destroy(ingest->metrics);
    pthread_mutex_destroy(&ingest->rows_lock);
    free(ingest->rows);
    free(ingest->names);
    free(ingest->infos);
    free(ingest);
}
