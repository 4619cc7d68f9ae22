/* Sender: publishes events through the API of several nodes, in order per user, and asks for recommendations
 * after chosen events. One thread; no socket call blocks but connect.
 *
 * A user belongs to a lane (by hash) and a lane has one request in flight: batches of different lanes
 * overtake each other, events of one user never do, not in retries either. A request whose outcome is unknown
 * (no answer, unavailable, deadline, overload) is sent again to the next node, with the same event ids and
 * after a pause, until give_up_ms: the server counts an id once. */
#ifndef DN_REPLAY_SENDER_H
#define DN_REPLAY_SENDER_H

#include "base/error.h"
#include "base/metrics.h"
#include "replay/feed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_SENDER_NODES_MAX 16
#define DN_SENDER_LANES_MAX 4096
#define DN_SENDER_BATCH_MAX 10000
#define DN_OUTCOMES 9 /* of dunlin.v1.EventOutcome */

struct dn_sender_options {
    const char *const *addresses; /* "host:port"; kept until destroy */
    size_t address_count;
    size_t batch, lanes;
    unsigned deadline_ms; /* of one request */
    unsigned give_up_ms;  /* without progress on an event */
    /* For what is asked: */
    uint32_t k;
    bool include_seen;
    /* An event got its outcome (accepted, duplicate, late...: never unknown). May be NULL. Called inside
     * step; so is on_answer. */
    void (*on_outcome)(void *data, const struct dn_feed_event *event, int outcome);
    /* The answer to a recommendation asked after `event`; count ids, best first. May be NULL. */
    void (*on_answer)(void *data, const struct dn_feed_event *event, const char *const *ids, size_t count);
    void *data;
};

struct dn_sender_stats {
    uint64_t offered, outcomes[DN_OUTCOMES], requests, retries;
    uint64_t asked, answered, ask_failures;
    char ask_error[256]; /* of the first failed ask */
};

struct dn_sender;

enum dn_code dn_sender_create(const struct dn_sender_options *options, struct dn_sender **ret,
                              struct dn_error *err);
void dn_sender_destroy(struct dn_sender *sender); /* drops what is not sent; NULL allowed */

/* Queues a copy. due_us: when it should have been sent (dn_monotonic_us; latency counts from there), or 0.
 * ask: ask for a recommendation once it is acknowledged. False: its lane is full, step first. */
bool dn_sender_offer(struct dn_sender *sender, const struct dn_feed_event *event, bool ask, uint64_t due_us);
/* Sends what can be sent and handles answers; waits up to timeout_ms when there is nothing to do. Fails when
 * it gives up or the server refuses a request for good. */
enum dn_code dn_sender_step(struct dn_sender *sender, int timeout_ms, struct dn_error *err);
/* From now on part batches are sent at once. */
void dn_sender_flush(struct dn_sender *sender);
/* Everything offered has an outcome and an answer. */
bool dn_sender_idle(const struct dn_sender *sender);

void dn_sender_stats(const struct dn_sender *sender, struct dn_sender_stats *ret);
const struct dn_histogram *dn_sender_publish_latency(const struct dn_sender *sender);
const struct dn_histogram *dn_sender_ask_latency(const struct dn_sender *sender);

/* Splits "a:1,b:2" in place into at most max parts; 0 when one is empty or there are too many. */
size_t dn_split_addresses(char *text, const char **ret_parts, size_t max);

#endif
