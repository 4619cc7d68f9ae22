/* The dead-letter thread: its life, its turn, and what it tells others. deadletter_private.h has the way of a
 * letter and the invariants. */
#include "ingest/deadletter_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IDLE_MS 200          /* it looks by itself so often */
#define SENDING_MS 5         /* while a topic or a proposal is waited for */
#define AFTER_NOTHING_MS 100 /* woken, it looks at most so often while nothing can be done */
#define LOOK_WAITING_US 1000000u

/* ---- patience ---------------------------------------------------------------------------------------- */

bool dead_patience_ready(const struct patience *patience, uint64_t now_us)
{
    return now_us >= patience->until_us;
}

void dead_patience_failed(struct patience *patience, const char *who, const char *text)
{
    uint64_t now_us = dn_monotonic_us();
    uint64_t wait_ms = RETRY_MAX_MS;

    if (patience->failures < 16 && (uint64_t)RETRY_MIN_MS << patience->failures < RETRY_MAX_MS)
        wait_ms = (uint64_t)RETRY_MIN_MS << patience->failures;
    patience->failures++;
    patience->until_us = now_us + wait_ms * 1000;
    if (patience->since_ms == 0)
        patience->since_ms = dn_wall_ms();
    snprintf(patience->text, sizeof patience->text, "%s: %s", who, text);
    if (patience->told_us != 0 && now_us - patience->told_us < LOG_EVERY_US)
        return;
    patience->told_us = now_us;
    dn_warn("deadletter", "%s; it is tried again, and the letters wait", patience->text);
}

void dead_patience_good(struct patience *patience, const char *who)
{
    if (patience->since_ms != 0)
        dn_info("deadletter", "%s: works again", who);
    uint64_t told_us = patience->told_us; /* trouble that comes and goes is told no more often */
    *patience = (struct patience){.told_us = told_us};
}

static void take_oldest(const struct patience *patience, const struct patience **oldest)
{
    if (patience->since_ms != 0 && (*oldest == NULL || patience->since_ms < (*oldest)->since_ms))
        *oldest = patience;
}

static void publish_trouble(struct dn_deadletters *d)
{
    const struct patience *oldest = NULL;

    for (size_t i = 0; i < d->feed_count; i++) {
        take_oldest(&d->feeds[i]->patience, &oldest);
        for (size_t k = 0; k < d->feeds[i]->blocked_count; k++)
            take_oldest(&d->feeds[i]->blocked[k].patience, &oldest);
    }
    for (size_t i = 0; i < d->out_count; i++)
        take_oldest(&d->outs[i]->patience, &oldest);
    for (uint32_t i = 0; i < d->options.shard_count; i++)
        take_oldest(&d->groups[i].patience, &oldest);
    pthread_mutex_lock(&d->mutex);
    d->trouble_ms = oldest == NULL ? 0 : oldest->since_ms;
    snprintf(d->trouble, sizeof d->trouble, "%s", oldest == NULL ? "" : oldest->text);
    pthread_mutex_unlock(&d->mutex);
}

int64_t dn_deadletters_trouble(struct dn_deadletters *letters, char ret_text[DN_SOURCE_TEXT_MAX])
{
    pthread_mutex_lock(&letters->mutex);
    int64_t since_ms = letters->trouble_ms;
    memcpy(ret_text, letters->trouble, DN_SOURCE_TEXT_MAX);
    pthread_mutex_unlock(&letters->mutex);
    return since_ms;
}

/* ---- the turn ---------------------------------------------------------------------------------------- */

/* How many letters wait: the queue is asked for its end by halving. */
static uint64_t count_waiting(struct dn_deadletters *d, const struct group *group)
{
    const struct dn_ingest_target *target = &d->options.target;
    struct dn_dead_letter letter;
    uint64_t low = 0, high = (uint64_t)DN_DEAD_MAX + 1; /* at least low wait, less than high */

    if (!group->led || target->dead_letters(target->data, group->number, 0, &letter, 1) == 0)
        return 0;
    uint64_t oldest = letter.number;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        bool there = target->dead_letters(target->data, group->number, oldest + middle - 1, &letter, 1) > 0;
        *(there ? &low : &high) = middle;
    }
    return low;
}

static void measure(struct dn_deadletters *d, uint64_t now_us)
{
    if (d->options.metrics == NULL || now_us - d->waiting_looked_us < LOOK_WAITING_US)
        return;
    d->waiting_looked_us = now_us;
    uint64_t dropped = 0;
    for (size_t i = 0; i < d->out_count; i++)
        dropped += d->outs[i]->writer == NULL ? 0 : dn_dead_writer_dropped(d->outs[i]->writer);
    dn_counter_add(d->m_files_dropped, dropped - d->files_dropped);
    d->files_dropped = dropped;
    for (uint32_t i = 0; i < d->options.shard_count; i++)
        dn_gauge_set(d->groups[i].waiting, (double)count_waiting(d, &d->groups[i]));
}

/* True: something went on, so that the next turn may find more. */
static bool settle(struct dn_deadletters *d, bool *ret_under_way)
{
    bool any = dead_outs_flush(d);
    *ret_under_way = dead_outs_sending(d);
    for (uint32_t i = 0; i < d->options.shard_count; i++) {
        bool proposed;
        any = dead_group_propose(d, &d->groups[i], &proposed) || any;
        *ret_under_way = *ret_under_way || proposed;
    }
    return any;
}

static bool turn(struct dn_deadletters *d, bool *ret_under_way)
{
    dead_collect(d);
    bool any = settle(d, ret_under_way);
    uint64_t now_us = dn_monotonic_us();
    for (size_t i = 0; i < d->feed_count; i++)
        dead_feed_log(d->feeds[i], now_us, false);
    measure(d, now_us);
    publish_trouble(d);
    return any;
}

static struct timespec after_us(uint64_t us)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t ns = (uint64_t)at.tv_nsec + us * 1000;
    at.tv_sec += (time_t)(ns / 1000000000);
    at.tv_nsec = (long)(ns % 1000000000);
    return at;
}

static bool any_answer(const struct dn_deadletters *d)
{
    for (uint32_t i = 0; i < d->options.shard_count; i++) {
        if (d->groups[i].answered)
            return true;
    }
    return false;
}

/* Until there is something to do, or the time is over. */
static void rest(struct dn_deadletters *d, bool worked, bool sending)
{
    struct timespec least = after_us(worked ? 0 : AFTER_NOTHING_MS * 1000u);
    struct timespec most = after_us((sending ? SENDING_MS : IDLE_MS) * 1000u);
    int waited = 0;

    pthread_mutex_lock(&d->mutex);
    while (!worked && !d->stopping && !d->woken && !any_answer(d) && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&d->changed, &d->mutex, &most);
    waited = 0;
    while (!sending && !worked && !d->stopping && !any_answer(d) && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&d->changed, &d->mutex, &least);
    d->woken = false;
    pthread_mutex_unlock(&d->mutex);
}

bool dead_stopping(struct dn_deadletters *d)
{
    pthread_mutex_lock(&d->mutex);
    bool stopping = d->stopping;
    pthread_mutex_unlock(&d->mutex);
    return stopping;
}

bool dead_ask(struct dn_deadletters *d)
{
    pthread_mutex_lock(&d->mutex);
    d->asking = !d->closed;
    bool allowed = d->asking;
    pthread_mutex_unlock(&d->mutex);
    return allowed;
}

void dead_asked(struct dn_deadletters *d)
{
    pthread_mutex_lock(&d->mutex);
    d->asking = false;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
}

/* What is with a topic or with consensus is waited for: what is written need not be written again. */
static void finish(struct dn_deadletters *d)
{
    pthread_mutex_lock(&d->mutex);
    uint64_t stop_by_us = d->stop_by_us;
    pthread_mutex_unlock(&d->mutex);
    bool under_way = true;
    settle(d, &under_way);
    while (under_way && dn_monotonic_us() < stop_by_us) {
        struct timespec most = after_us(SENDING_MS * 1000u);
        pthread_mutex_lock(&d->mutex);
        if (!any_answer(d))
            pthread_cond_timedwait(&d->changed, &d->mutex, &most);
        pthread_mutex_unlock(&d->mutex);
        settle(d, &under_way);
    }
    for (size_t i = 0; i < d->feed_count; i++)
        dead_feed_log(d->feeds[i], 0, true);
}

static void *run(void *data)
{
    struct dn_deadletters *d = data;

    while (!dead_stopping(d)) {
        bool under_way;
        bool worked = turn(d, &under_way);
        rest(d, worked, dead_outs_sending(d));
    }
    finish(d);
    /* On this thread, as everything of theirs was. */
    for (size_t i = 0; i < d->feed_count; i++)
        dead_feed_destroy(d->feeds[i]);
    for (size_t i = 0; i < d->out_count; i++)
        dead_out_destroy(d->outs[i]);
    d->feed_count = d->out_count = 0;
    pthread_mutex_lock(&d->mutex);
    d->finished = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------- */

static void wake_host(void *data)
{
    dn_deadletters_wake(data);
}

void dn_deadletters_wake(struct dn_deadletters *letters)
{
    pthread_mutex_lock(&letters->mutex);
    bool news = !letters->woken;
    letters->woken = true;
    if (news)
        pthread_cond_broadcast(&letters->changed);
    pthread_mutex_unlock(&letters->mutex);
}

static void init_groups(struct dn_deadletters *d)
{
    char labels[64];

    for (uint32_t i = 0; i < d->options.shard_count; i++) {
        struct group *group = &d->groups[i];
        group->number = i + 1;
        group->owner = d;
        dn_buffer_init(&group->record, DN_RECORD_MAX);
        if (d->options.metrics == NULL)
            continue;
        snprintf(labels, sizeof labels, "group=\"%" PRIu32 "\"", i + 1);
        group->waiting = dn_metrics_gauge(d->options.metrics, "dunlin_dead_letters_waiting", labels,
                                          "Dead letters in the queue of a shard that this node leads.");
        snprintf(labels, sizeof labels, "group=\"%" PRIu32 "\",step=\"propose\"", i + 1);
        group->propose_failures =
            dn_metrics_counter(d->options.metrics, "dunlin_dead_letter_failures_total", labels, "");
    }
}

static void free_all(struct dn_deadletters *d)
{
    for (size_t i = 0; i < d->feed_count; i++)
        dead_feed_destroy(d->feeds[i]);
    for (size_t i = 0; i < d->out_count; i++)
        dead_out_destroy(d->outs[i]);
    for (uint32_t i = 0; d->groups != NULL && i < d->options.shard_count; i++)
        dn_buffer_free(&d->groups[i].record);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->mutex);
    free(d->groups);
    free(d);
}

static struct dn_deadletters *create(const struct dn_ingest_options *options)
{
    pthread_condattr_t monotonic;
    struct dn_deadletters *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->options = *options;
    d->host = (struct dn_source_host){
        .wake = wake_host, .data = d, .node_id = options->node_id, .data_dir = options->data_dir};
    pthread_mutex_init(&d->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    d->groups = calloc(options->shard_count, sizeof *d->groups);
    if (d->groups == NULL) {
        free_all(d);
        return NULL;
    }
    init_groups(d);
    for (size_t i = 0; i < options->source_count; i++)
        d->has_own = d->has_own || dn_source_is_local(&options->sources[i]);
    if (options->metrics != NULL)
        d->m_files_dropped =
            dn_metrics_counter(options->metrics, "dunlin_dead_letter_files_dropped_total", "",
                               "Rotated files of dead letters that were removed for newer ones.");
    return d;
}

enum dn_code dn_deadletters_start(const struct dn_ingest_options *options, struct dn_deadletters **ret,
                                  struct dn_error *err)
{
    DN_ASSERT(options->shard_count >= 1 && options->shard_count < DN_GROUPS_MAX);
    DN_ASSERT(options->source_count <= DN_SOURCES_CONFIGURED_MAX);
    struct dn_deadletters *d = create(options);
    if (d == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < options->source_count; i++) {
        enum dn_code code = dead_feed_create(d, &options->sources[i], err);
        if (code != DN_OK) {
            free_all(d);
            return dn_wrap(err, code, "source '%s': dead letters", options->sources[i].name);
        }
    }
    int reason = pthread_create(&d->thread, NULL, run, d);
    if (reason != 0) {
        free_all(d);
        return dn_fail(err, DN_INTERNAL, "start the thread of dead letters: %s", strerror(reason));
    }
    *ret = d;
    return DN_OK;
}

void dn_deadletters_stop(struct dn_deadletters *letters, unsigned wait_ms)
{
    struct timespec most = after_us((uint64_t)wait_ms * 1000);
    int waited = 0;

    pthread_mutex_lock(&letters->mutex);
    if (!letters->stopping) {
        letters->stopping = true;
        letters->stop_by_us = dn_monotonic_us() + (uint64_t)wait_ms * 1000;
        pthread_cond_broadcast(&letters->changed);
    }
    while (!letters->finished && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&letters->changed, &letters->mutex, &most);
    letters->closed = true;
    while (letters->asking) /* which does not wait */
        pthread_cond_wait(&letters->changed, &letters->mutex);
    pthread_mutex_unlock(&letters->mutex);
}

void dn_deadletters_destroy(struct dn_deadletters *letters)
{
    if (letters == NULL)
        return;
    dn_deadletters_stop(letters, 0);
    pthread_join(letters->thread, NULL); /* it may be in a fetch yet, which is bounded */
    for (uint32_t i = 0; i < letters->options.shard_count; i++)
        DN_ASSERT(!letters->groups[i].proposed || letters->groups[i].answered);
    free_all(letters);
}
