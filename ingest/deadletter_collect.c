/* From the queues into batches: what waits, whose source answers, with the bytes that it gives. */
#include "ingest/deadletter_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRANGER "unknown" /* the name of streams whose own name cannot be a file's */
#define REST_FACTOR 3      /* a source whose fetch failed is let be so many times as long as that took */

/* ---- feeds ------------------------------------------------------------------------------------------- */

static const struct dn_source_driver *driver_of(const struct dn_deadletters *d, enum dn_source_kind kind)
{
    if (d->options.driver != NULL)
        return d->options.driver(kind);
    return kind == DN_SOURCE_KAFKA ? &dn_source_kafka : &dn_source_file;
}

static void feed_metrics(struct feed *feed, struct dn_metrics *metrics)
{
    char labels[128];

    for (unsigned reason = 1; reason <= DN_DEAD_REASON_MAX; reason++) {
        snprintf(labels, sizeof labels, "source=\"%s\",reason=\"%s\"", feed->name,
                 dn_dead_reason_text((uint8_t)reason));
        feed->written[reason] = dn_metrics_counter(metrics, "dunlin_dead_letters_written_total", labels,
                                                   "Dead letters that this node wrote (or dropped, by its "
                                                   "configuration), repeats included.");
    }
    snprintf(labels, sizeof labels, "source=\"%s\"", feed->name);
    feed->without_bytes = dn_metrics_counter(metrics, "dunlin_dead_letters_without_bytes_total", labels,
                                             "Dead letters written without the message's bytes: the source "
                                             "has them no more, or they are too large.");
    snprintf(labels, sizeof labels, "source=\"%s\",step=\"fetch\"", feed->name);
    feed->fetch_failures = dn_metrics_counter(metrics, "dunlin_dead_letter_failures_total", labels,
                                              "What failed with dead letters, and is tried again.");
    snprintf(labels, sizeof labels, "source=\"%s\",step=\"write\"", feed->name);
    feed->write_failures = dn_metrics_counter(metrics, "dunlin_dead_letter_failures_total", labels, "");
}

static struct feed *feed_add(struct dn_deadletters *d, const char *name,
                             const struct dn_source_config *config)
{
    struct feed *feed = d->feed_count == FEEDS_MAX ? NULL : calloc(1, sizeof *feed);
    if (feed == NULL)
        return NULL;
    snprintf(feed->name, sizeof feed->name, "%s", name);
    feed->config = config;
    feed->dropped = config != NULL && config->dead_sink == DN_DEAD_DROPPED;
    if (d->options.metrics != NULL)
        feed_metrics(feed, d->options.metrics);
    d->feeds[d->feed_count++] = feed;
    return feed;
}

enum dn_code dead_feed_create(struct dn_deadletters *d, const struct dn_source_config *config,
                              struct dn_error *err)
{
    struct feed *feed = feed_add(d, config->name, config);
    if (feed == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    feed->driver = driver_of(d, config->kind);
    return feed->dropped ? DN_OK : dead_out_of(d, feed, &feed->out, err);
}

void dead_feed_destroy(struct feed *feed)
{
    if (feed->fetcher != NULL)
        feed->driver->fetcher_close(feed->fetcher);
    free(feed);
}

static bool name_valid(const char *name, size_t length)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    return length >= 1 && length <= DN_SOURCE_NAME_MAX && strspn(name, allowed) >= length;
}

static struct feed *find_feed(const struct dn_deadletters *d, const char *name)
{
    for (size_t i = 0; i < d->feed_count; i++) {
        if (strcmp(d->feeds[i]->name, name) == 0)
            return d->feeds[i];
    }
    return NULL;
}

struct feed *dead_feed_of(struct dn_deadletters *d, const char *stream)
{
    char name[DN_SOURCE_NAME_MAX + 1] = STRANGER;
    size_t length = strcspn(stream, "/");

    if (name_valid(stream, length)) {
        memcpy(name, stream, length);
        name[length] = '\0';
    }
    struct feed *feed = find_feed(d, name);
    if (feed != NULL)
        return feed;
    if (d->feed_count >= FEEDS_MAX - 1) { /* so many strangers share one file */
        feed = find_feed(d, STRANGER);
        return feed != NULL ? feed : feed_add(d, STRANGER, NULL);
    }
    return feed_add(d, name, NULL);
}

void dead_feed_count(struct feed *feed, uint8_t reason, bool without_bytes)
{
    unsigned index = reason <= DN_DEAD_REASON_MAX ? reason : 0;
    if (feed->written[index] != NULL)
        dn_counter_add(feed->written[index], 1);
    feed->untold[index]++;
    if (!without_bytes)
        return;
    feed->untold_without_bytes++;
    if (feed->without_bytes != NULL)
        dn_counter_add(feed->without_bytes, 1);
}

void dead_feed_log(struct feed *feed, uint64_t now_us, bool at_once)
{
    char text[512];
    size_t length = 0;

    if (!at_once && feed->told_us != 0 && now_us - feed->told_us < LOG_EVERY_US)
        return;
    for (unsigned reason = 0; reason <= DN_DEAD_REASON_MAX; reason++) {
        if (feed->untold[reason] == 0)
            continue;
        int added = snprintf(text + length, sizeof text - length, "%s%" PRIu64 " %s", length == 0 ? "" : ", ",
                             feed->untold[reason], dn_dead_reason_text((uint8_t)reason));
        length += added > 0 && (size_t)added < sizeof text - length ? (size_t)added : 0;
        feed->untold[reason] = 0;
    }
    if (length == 0)
        return;
    text[length] = '\0';
    if (feed->dropped)
        dn_warn("deadletter", "source '%s': dropped, as configured: %s", feed->name, text);
    else
        dn_warn("deadletter", "source '%s': written to '%s': %s; %" PRIu64 " of them without their bytes",
                feed->name, dead_out_name(feed->out), text, feed->untold_without_bytes);
    if (feed->untold_overflow > 0)
        dn_warn("deadletter", "%" PRIu64 " of them are too large for the topic: they are in '%s'",
                feed->untold_overflow, dead_out_name(feed->overflow));
    feed->untold_overflow = 0;
    feed->untold_without_bytes = 0;
    feed->told_us = now_us;
}

/* ---- who waits --------------------------------------------------------------------------------------- */

static struct blocked *find_blocked(struct feed *feed, const struct dn_dead_letter *letter)
{
    for (size_t i = 0; i < feed->blocked_count; i++) {
        struct blocked *blocked = &feed->blocked[i];
        if (blocked->partition == letter->partition && strcmp(blocked->stream, letter->source) == 0)
            return blocked;
    }
    return NULL;
}

static bool feed_ready(struct feed *feed, const struct dn_dead_letter *letter, uint64_t now_us)
{
    if (!dead_patience_ready(&feed->patience, now_us) || now_us < feed->rest_until_us ||
        (feed->out != NULL && !dead_out_takes(feed->out, now_us)))
        return false;
    const struct blocked *blocked = find_blocked(feed, letter);
    return blocked == NULL || dead_patience_ready(&blocked->patience, now_us);
}

static void feed_who(const struct feed *feed, char ret[128])
{
    snprintf(ret, 128, "dead letters of source '%s'", feed->name);
}

static void feed_good(struct feed *feed)
{
    char who[128];
    feed_who(feed, who);
    dead_patience_good(&feed->patience, who);
}

static void feed_failed(struct feed *feed, const char *text)
{
    char who[128];
    feed_who(feed, who);
    if (feed->fetch_failures != NULL)
        dn_counter_add(feed->fetch_failures, 1);
    dead_patience_failed(&feed->patience, who, text);
}

/* Where there is no place, that of the one that is tried next goes. */
static struct blocked *add_blocked(struct feed *feed, const struct dn_dead_letter *letter)
{
    struct blocked *blocked = &feed->blocked[0];

    if (feed->blocked_count < BLOCKED_MAX) {
        blocked = &feed->blocked[feed->blocked_count++];
    } else {
        for (size_t i = 1; i < BLOCKED_MAX; i++) {
            if (feed->blocked[i].patience.until_us < blocked->patience.until_us)
                blocked = &feed->blocked[i];
        }
    }
    *blocked = (struct blocked){.partition = letter->partition};
    snprintf(blocked->stream, sizeof blocked->stream, "%s", letter->source);
    return blocked;
}

static void partition_who(const struct dn_dead_letter *letter, char ret[128])
{
    snprintf(ret, 128, "dead letters of '%s', partition %" PRIu32, letter->source, letter->partition);
}

/* The partition waits, longer each time; the source for a little, so that many partitions that do not answer
 * take no more than a part of this thread's time. */
static void fetch_failed(struct feed *feed, const struct dn_dead_letter *letter, uint64_t took_us,
                         const char *text)
{
    char who[128];
    struct blocked *blocked = find_blocked(feed, letter);

    if (blocked == NULL)
        blocked = add_blocked(feed, letter);
    if (feed->fetch_failures != NULL)
        dn_counter_add(feed->fetch_failures, 1);
    feed->rest_until_us = dn_monotonic_us() + took_us * REST_FACTOR;
    partition_who(letter, who);
    dead_patience_failed(&blocked->patience, who, text);
}

static void fetch_good(struct feed *feed, const struct dn_dead_letter *letter)
{
    char who[128];
    struct blocked *blocked = find_blocked(feed, letter);

    if (feed->patience.since_ms != 0)
        feed_good(feed);
    if (blocked == NULL)
        return;
    partition_who(letter, who);
    dead_patience_good(&blocked->patience, who);
    *blocked = feed->blocked[--feed->blocked_count];
}

/* ---- picking ----------------------------------------------------------------------------------------- */

static void pick_letter(struct dn_deadletters *d, struct group *group, const struct dn_dead_letter *letter,
                        uint64_t now_us)
{
    const char *note = NULL;

    if (dead_group_is_taken(group, letter->number) || dead_reader_has(d, group, letter, &note))
        return;
    struct feed *feed = dead_feed_of(d, letter->source);
    if (feed == NULL)
        return;
    if (feed->dropped) {
        dead_group_take(group, letter->number);
        dead_group_written(group, letter->number);
        dead_feed_count(feed, letter->reason, false);
    } else if (feed_ready(feed, letter, now_us)) {
        d->picks[d->pick_count++] =
            (struct pick){.group = group, .feed = feed, .note = note, .letter = *letter};
    }
}

/* False: the queue is empty. */
static bool find_base(struct dn_deadletters *d, struct group *group)
{
    const struct dn_ingest_target *target = &d->options.target;

    if (target->dead_letters(target->data, group->number, 0, d->looked, 1) == 0)
        return false;
    if (d->looked[0].number != group->base)
        dead_group_advance(group, d->looked[0].number);
    return true;
}

/* Letters of this node's own streams, in a shard that another one leads. */
static void pick_own(struct dn_deadletters *d, struct group *group, uint64_t now_us)
{
    const struct dn_ingest_target *target = &d->options.target;
    size_t most = d->pick_count + GROUP_LETTERS_MAX, count;
    uint64_t from = group->looked > group->base ? group->looked : group->base;
    bool all_taken = true;

    while ((count = target->dead_letters(target->data, group->number, from, d->looked, GROUP_LETTERS_MAX)) >
           0) {
        for (size_t i = 0; i < count; i++) {
            const struct dn_dead_letter *letter = &d->looked[i];
            if (letter->number < from || letter->number >= group->base + DN_DEAD_MAX ||
                d->pick_count == most || d->pick_count == TURN_LETTERS_MAX)
                return;
            from = letter->number + 1;
            if (dead_is_own(d, letter->source)) {
                pick_letter(d, group, letter, now_us);
                all_taken = all_taken && dead_group_is_taken(group, letter->number);
            }
            if (all_taken)
                group->looked = from;
        }
    }
}

/* False: it had enough before the queue's end. */
static bool pick_group(struct dn_deadletters *d, struct group *group, uint64_t now_us)
{
    const struct dn_ingest_target *target = &d->options.target;
    size_t most = d->pick_count + GROUP_LETTERS_MAX;
    uint64_t end = group->base + DN_DEAD_MAX, from = dead_group_next_free(group, group->base);

    while (from < end) {
        size_t count = target->dead_letters(target->data, group->number, from, d->looked, GROUP_LETTERS_MAX);
        if (count == 0)
            return true;
        for (size_t i = 0; i < count; i++) {
            if (d->looked[i].number < from || d->looked[i].number >= end || d->pick_count == most ||
                d->pick_count == TURN_LETTERS_MAX)
                return false;
            from = d->looked[i].number + 1;
            pick_letter(d, group, &d->looked[i], now_us);
        }
        from = dead_group_next_free(group, from);
    }
    return true;
}

/* By stream, partition and offset: fetching goes forward. */
static int compare_picks(const void *a, const void *b)
{
    const struct dn_dead_letter *x = &((const struct pick *)a)->letter,
                                *y = &((const struct pick *)b)->letter;
    int order = strcmp(x->source, y->source);
    if (order != 0)
        return order;
    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

/* ---- fetching ---------------------------------------------------------------------------------------- */

/* These do not get better by waiting. */
static bool hopeless(enum dn_code code)
{
    return code == DN_INVALID || code == DN_CORRUPT || code == DN_RANGE || code == DN_UNIMPLEMENTED;
}

static bool prepare_feed(struct dn_deadletters *d, struct feed *feed)
{
    struct dn_error err;

    if (feed->out == NULL && dead_out_of(d, feed, &feed->out, &err) != DN_OK) {
        feed_failed(feed, err.message);
        return false;
    }
    if (feed->config != NULL && feed->fetcher == NULL &&
        feed->driver->fetcher_open(feed->config, &d->host, &feed->fetcher, &err) != DN_OK) {
        feed->fetcher = NULL;
        feed_failed(feed, err.message);
        return false;
    }
    return true;
}

/* Puts the letter into its out's batch, if its source answers. */
static void fetch_letter(struct dn_deadletters *d, const struct pick *pick)
{
    struct feed *feed = pick->feed;
    const struct dn_dead_letter *letter = &pick->letter;
    struct dn_message message = {0};
    struct dn_error err = {.message = ""};
    bool put;

    if (!prepare_feed(d, feed))
        return;
    if (pick->note != NULL) {
        put = dead_out_put(feed->out, pick, NULL, false, pick->note);
    } else if (feed->config == NULL) {
        put = dead_out_put(feed->out, pick, NULL, false, "the source is not configured any more");
    } else {
        uint64_t began_us = dn_monotonic_us();
        enum dn_code code = feed->driver->fetch(feed->fetcher, letter->source, letter->partition,
                                                letter->offset, FETCH_MS, &message, &err);
        if (code == DN_OK && message.offset != letter->offset)
            code = dn_fail(&err, DN_INTERNAL, "asked for offset %" PRId64 ", got %" PRId64, letter->offset,
                           message.offset);
        if (code != DN_OK && code != DN_NOT_FOUND && !hopeless(code)) {
            fetch_failed(feed, letter, dn_monotonic_us() - began_us, err.message);
            return;
        }
        fetch_good(feed, letter);
        put = dead_out_put(feed->out, pick, code == DN_OK ? &message : NULL, code == DN_NOT_FOUND,
                           code == DN_OK ? "" : err.message);
    }
    if (put)
        dead_group_take(pick->group, letter->number);
    else
        feed_failed(feed, "out of memory");
}

/* First those of partitions that have not failed, then those that are tried again: a partition that is down
 * keeps nobody from the source. */
static void fetch_picks(struct dn_deadletters *d)
{
    uint64_t now_us = dn_monotonic_us(), until_us = now_us + (uint64_t)TURN_MS * 1000;

    for (int again = 0; again <= 1; again++) {
        for (size_t i = 0; i < d->pick_count && now_us < until_us && !dead_stopping(d); i++) {
            struct pick *pick = &d->picks[i];
            if (dead_group_is_taken(pick->group, pick->letter.number) ||
                (find_blocked(pick->feed, &pick->letter) != NULL) != (again == 1))
                continue;
            /* What came before may have failed, or filled the batch. */
            if (feed_ready(pick->feed, &pick->letter, now_us))
                fetch_letter(d, pick);
            now_us = dn_monotonic_us();
        }
    }
}

/* False: stopping. */
static bool look_who_leads(struct dn_deadletters *d)
{
    const struct dn_ingest_target *target = &d->options.target;
    if (!dead_ask(d))
        return false;
    for (uint32_t i = 0; i < d->options.shard_count; i++)
        d->groups[i].led = target->leads(target->data, i + 1);
    dead_asked(d);
    return true;
}

void dead_collect(struct dn_deadletters *d)
{
    uint32_t count = d->options.shard_count;
    uint64_t now_us = dn_monotonic_us();

    DN_ASSERT(count > 0);
    d->pick_count = 0;
    if (!look_who_leads(d))
        return;
    dead_readers_look(d);
    for (uint32_t i = 0; i < count; i++) {
        struct group *group = &d->groups[(d->first_group + i) % count];
        if ((!group->led && !d->has_own) || !find_base(d, group))
            continue;
        group->looks++;
        if (!group->led)
            pick_own(d, group, now_us);
        else if (pick_group(d, group, now_us))
            dead_readers_looked(group);
    }
    d->first_group = (d->first_group + 1) % count;
    qsort(d->picks, d->pick_count, sizeof *d->picks, compare_picks);
    fetch_picks(d);
}
