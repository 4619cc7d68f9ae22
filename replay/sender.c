/* Invariants:
 *  1. A lane has at most one request in flight; its events leave the queue only with a known outcome.
 *  2. Events of a lane are sent in queue order, and a retry starts at the oldest event without outcome.
 *  3. A batch ends at the first event that is asked about: the next event of the lane, so of its user, is
 *     published only after that answer.
 *
 * Lane: IDLE -> ASKING (send_ask) when an answer is owed, else -> PUBLISHING (send_publish)
 *       PUBLISHING, ASKING -> IDLE (lane_succeeded) | PAUSED (lane_failed)
 *       PAUSED -> as IDLE, when try_us has come. */
#include "replay/sender.h"

#include "base/clock.h"
#include "base/hash.h"
#include "client/client.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 500
#define RECONNECT_US 100000
#define PAUSE_MIN_US 10000
#define PAUSE_DOUBLINGS_MAX 5
#define LINGER_US 3000  /* a part batch waits this long for more */
#define QUEUE_BATCHES 2 /* a lane's queue holds that many batches */
#define TOKEN_MAX 4096
#define IDLE_POLL_MS 50
#define LANE_SEED 0x6c616e65

struct entry {
    struct dn_feed_event event;
    uint64_t due_us, offered_us;
    bool ask;
};

enum lane_state { LANE_IDLE, LANE_PUBLISHING, LANE_ASKING, LANE_PAUSED };

struct lane {
    struct dn_sender *sender;
    enum lane_state state;
    struct entry *ring;
    size_t head, count;
    size_t sent;      /* PUBLISHING: entries in the request */
    uint64_t sent_us; /* of the first try */
    uint64_t failing_since_us, try_us;
    unsigned failures;
    size_t node;
    bool ask_waits; /* asked is owed an answer */
    struct dn_feed_event asked;
    uint64_t asked_us;
    uint8_t token[TOKEN_MAX];
    size_t token_length;
};

struct node {
    struct dn_client *client;
    uint64_t connect_after_us;
};

struct dn_sender {
    struct dn_sender_options options;
    struct node nodes[DN_SENDER_NODES_MAX];
    struct lane *lanes;
    size_t queue_size;
    bool flushing;
    uint64_t completions;
    struct dn_sender_stats stats;
    struct dn_histogram *publish_latency, *ask_latency;
    bool failed;
    struct dn_error why;
    Dunlin__V1__Event *events; /* scratch for one request */
    Dunlin__V1__Event **event_pointers;
    struct dn_buffer packed;
};

size_t dn_split_addresses(char *text, const char **ret_parts, size_t max)
{
    size_t count = 0;
    char *part;

    while ((part = strsep(&text, ",")) != NULL) {
        if (*part == '\0' || count == max)
            return 0;
        ret_parts[count++] = part;
    }
    return count;
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------ */

enum dn_code dn_sender_create(const struct dn_sender_options *options, struct dn_sender **ret,
                              struct dn_error *err)
{
    struct dn_sender *sender;

    DN_ASSERT(options->address_count >= 1 && options->address_count <= DN_SENDER_NODES_MAX);
    DN_ASSERT(options->batch >= 1 && options->batch <= DN_SENDER_BATCH_MAX);
    DN_ASSERT(options->lanes >= 1 && options->lanes <= DN_SENDER_LANES_MAX);
    sender = calloc(1, sizeof *sender);
    if (sender == NULL)
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    sender->options = *options;
    sender->queue_size = options->batch * QUEUE_BATCHES;
    dn_buffer_init(&sender->packed, DN_CLIENT_MESSAGE_MAX);
    sender->lanes = calloc(options->lanes, sizeof *sender->lanes);
    sender->events = calloc(options->batch, sizeof *sender->events);
    sender->event_pointers = calloc(options->batch, sizeof(Dunlin__V1__Event *));
    sender->publish_latency = dn_histogram_create();
    sender->ask_latency = dn_histogram_create();
    if (sender->lanes == NULL || sender->events == NULL || sender->event_pointers == NULL ||
        sender->publish_latency == NULL || sender->ask_latency == NULL) {
        dn_sender_destroy(sender);
        return dn_fail(err, DN_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < options->lanes; i++) {
        struct lane *lane = &sender->lanes[i];

        lane->sender = sender;
        lane->node = i % options->address_count;
        lane->ring = calloc(sender->queue_size, sizeof *lane->ring);
        if (lane->ring == NULL) {
            dn_sender_destroy(sender);
            return dn_fail(err, DN_NO_MEMORY, "out of memory: lower --batch or --in-flight");
        }
    }
    *ret = sender;
    return DN_OK;
}

void dn_sender_destroy(struct dn_sender *sender)
{
    if (sender == NULL)
        return;
    sender->failed = true; /* completions from close change nothing any more */
    for (size_t i = 0; i < sender->options.address_count; i++)
        dn_client_close(sender->nodes[i].client);
    for (size_t i = 0; sender->lanes != NULL && i < sender->options.lanes; i++)
        free(sender->lanes[i].ring);
    free(sender->lanes);
    free(sender->events);
    free(sender->event_pointers);
    dn_histogram_destroy(sender->publish_latency);
    dn_histogram_destroy(sender->ask_latency);
    dn_buffer_free(&sender->packed);
    free(sender);
}

static struct entry *entry_at(const struct lane *lane, size_t position)
{
    return &lane->ring[(lane->head + position) % lane->sender->queue_size];
}

bool dn_sender_offer(struct dn_sender *sender, const struct dn_feed_event *event, bool ask, uint64_t due_us)
{
    uint64_t hash = dn_hash64(event->key, strlen(event->key), LANE_SEED);
    struct lane *lane = &sender->lanes[hash % sender->options.lanes];

    if (lane->count == sender->queue_size)
        return false;
    *entry_at(lane, lane->count) =
        (struct entry){.event = *event, .due_us = due_us, .offered_us = dn_monotonic_us(), .ask = ask};
    lane->count++;
    sender->stats.offered++;
    return true;
}

void dn_sender_flush(struct dn_sender *sender)
{
    sender->flushing = true;
}

bool dn_sender_idle(const struct dn_sender *sender)
{
    for (size_t i = 0; i < sender->options.lanes; i++)
        if (sender->lanes[i].count > 0 || sender->lanes[i].ask_waits)
            return false;
    return true;
}

void dn_sender_stats(const struct dn_sender *sender, struct dn_sender_stats *ret)
{
    *ret = sender->stats;
}

const struct dn_histogram *dn_sender_publish_latency(const struct dn_sender *sender)
{
    return sender->publish_latency;
}

const struct dn_histogram *dn_sender_ask_latency(const struct dn_sender *sender)
{
    return sender->ask_latency;
}

/* ---- failures
 * ---------------------------------------------------------------------------------------------------- */

static void fail(struct dn_sender *sender, enum dn_code code, const char *what, const char *why)
{
    if (sender->failed)
        return;
    sender->failed = true;
    dn_fail(&sender->why, code, "%s: %s", what, why);
}

/* Statuses that say nothing about the next try: the request itself is at fault. */
static bool is_final(int grpc_status)
{
    switch (dn_client_code(grpc_status)) {
    case DN_INVALID:
    case DN_NOT_FOUND:
    case DN_EXISTS:
    case DN_DENIED:
    case DN_PRECONDITION:
    case DN_UNIMPLEMENTED:
    case DN_CORRUPT:
        return true;
    default:
        return false;
    }
}

/* Pauses the lane and moves it to the next node, or gives up. */
static void lane_failed(struct lane *lane, const char *why)
{
    struct dn_sender *sender = lane->sender;
    uint64_t now_us = dn_monotonic_us();
    unsigned doublings = lane->failures < PAUSE_DOUBLINGS_MAX ? lane->failures : PAUSE_DOUBLINGS_MAX;

    if (lane->failures++ == 0)
        lane->failing_since_us = now_us;
    lane->state = LANE_PAUSED;
    lane->node = (lane->node + 1) % sender->options.address_count;
    lane->try_us = now_us + ((uint64_t)PAUSE_MIN_US << doublings);
    sender->stats.retries++;
    if (now_us - lane->failing_since_us > (uint64_t)sender->options.give_up_ms * 1000)
        fail(sender, DN_UNAVAILABLE, "gave up after retrying on every node", why);
}

static void lane_succeeded(struct lane *lane)
{
    lane->failures = 0;
    lane->state = LANE_IDLE;
}

/* The lane's node's connection, made if need be. NULL: not now (lane_failed was called). */
static struct dn_client *lane_connection(struct lane *lane)
{
    struct dn_sender *sender = lane->sender;
    struct node *node = &sender->nodes[lane->node];
    struct dn_error err;
    uint64_t now_us = dn_monotonic_us();

    if (node->client != NULL)
        return node->client;
    if (now_us < node->connect_after_us) {
        lane_failed(lane, "no node can be reached");
        return NULL;
    }
    if (dn_client_connect(sender->options.addresses[lane->node], CONNECT_TIMEOUT_MS, &node->client, &err) !=
        DN_OK) {
        node->connect_after_us = dn_monotonic_us() + RECONNECT_US;
        if (err.code == DN_INVALID)
            fail(sender, DN_INVALID, "connect", err.message);
        lane_failed(lane, err.message);
        return NULL;
    }
    return node->client;
}

/* ---- recommending
 * -------------------------------------------------------------------------------------------------- */

static void ask_done(struct lane *lane)
{
    lane->ask_waits = false;
    lane_succeeded(lane);
}

static void on_ask_reply(void *data, const struct dn_reply *reply)
{
    struct lane *lane = data;
    struct dn_sender *sender = lane->sender;
    Dunlin__V1__RecommendResponse *response;
    const char *ids[1024];
    size_t count = 0;

    sender->completions++;
    if (sender->failed)
        return;
    if (reply->grpc_status != 0 && !is_final(reply->grpc_status)) {
        lane_failed(lane, reply->message);
        return;
    }
    response = reply->grpc_status != 0
                   ? NULL
                   : dunlin__v1__recommend_response__unpack(NULL, reply->length, reply->bytes);
    if (response == NULL) {
        if (sender->stats.ask_failures++ == 0)
            snprintf(sender->stats.ask_error, sizeof sender->stats.ask_error, "%s",
                     reply->grpc_status != 0 ? reply->message : "the answer is not a RecommendResponse");
        ask_done(lane);
        return;
    }
    dn_histogram_observe_ns(sender->ask_latency, (dn_monotonic_us() - lane->asked_us) * 1000);
    sender->stats.answered++;
    while (count < response->n_items && count < sizeof ids / sizeof ids[0]) {
        ids[count] = response->items[count]->id;
        count++;
    }
    if (sender->options.on_answer != NULL)
        sender->options.on_answer(sender->options.data, &lane->asked, ids, count);
    dunlin__v1__recommend_response__free_unpacked(response, NULL);
    ask_done(lane);
}

static void send_ask(struct lane *lane)
{
    struct dn_sender *sender = lane->sender;
    Dunlin__V1__RecommendRequest request = DUNLIN__V1__RECOMMEND_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    struct dn_client *client = lane_connection(lane);
    struct dn_error err;
    uint8_t *bytes;
    size_t length;

    if (client == NULL)
        return;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token.data = lane->token;
    read.token.len = lane->token_length;
    request.user_id = lane->asked.key;
    /* The item just clicked is dropped here when the server keeps seen items: so one more is needed. */
    request.k = sender->options.k + (sender->options.include_seen ? 1 : 0);
    request.include_seen = sender->options.include_seen;
    request.read = &read;
    length = dunlin__v1__recommend_request__get_packed_size(&request);
    dn_buffer_clear(&sender->packed);
    bytes = dn_buffer_reserve(&sender->packed, length);
    if (bytes == NULL) {
        fail(sender, DN_NO_MEMORY, "recommend", "out of memory");
        return;
    }
    dunlin__v1__recommend_request__pack(&request, bytes);
    lane->state = LANE_ASKING;
    if (dn_client_send(client, "/dunlin.v1.Recommendations/Recommend", bytes, length,
                       sender->options.deadline_ms, on_ask_reply, lane, &err) != DN_OK)
        lane_failed(lane, err.message);
}

/* ---- publishing
 * ------------------------------------------------------------------------------------------------------ */

/* Takes entries with a known outcome out of the queue, keeps the others in order. */
static void settle(struct lane *lane, const Dunlin__V1__PublishResponse *response)
{
    struct dn_sender *sender = lane->sender;
    size_t kept = 0, sent = lane->sent;
    uint64_t now_us = dn_monotonic_us();

    for (size_t i = 0; i < sent; i++) {
        struct entry *entry = entry_at(lane, i);
        int outcome = (int)response->outcomes[i];

        if (outcome < 0 || outcome >= DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN) {
            if (kept != i)
                *entry_at(lane, kept) = *entry;
            kept++;
            continue;
        }
        sender->stats.outcomes[outcome]++;
        dn_histogram_observe_ns(sender->publish_latency,
                                (now_us - (entry->due_us != 0 ? entry->due_us : lane->sent_us)) * 1000);
        if (sender->options.on_outcome != NULL)
            sender->options.on_outcome(sender->options.data, &entry->event, outcome);
        if (entry->ask) {
            lane->ask_waits = true;
            lane->asked = entry->event;
            lane->asked_us = now_us;
            sender->stats.asked++;
        }
    }
    /* The kept ones move up to the entries that were not sent. */
    for (size_t i = kept; i-- > 0;)
        *entry_at(lane, i + sent - kept) = *entry_at(lane, i);
    lane->head = (lane->head + sent - kept) % sender->queue_size;
    lane->count -= sent - kept;
    sender->stats.outcomes[DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN] += kept;
    if (kept == 0)
        lane_succeeded(lane);
    else
        lane_failed(lane, response->message);
}

static void on_publish_reply(void *data, const struct dn_reply *reply)
{
    struct lane *lane = data;
    struct dn_sender *sender = lane->sender;
    Dunlin__V1__PublishResponse *response;

    sender->completions++;
    if (sender->failed)
        return;
    if (reply->grpc_status != 0) {
        if (is_final(reply->grpc_status))
            fail(sender, dn_client_code(reply->grpc_status), "publish refused", reply->message);
        else
            lane_failed(lane, reply->message);
        return;
    }
    response = dunlin__v1__publish_response__unpack(NULL, reply->length, reply->bytes);
    if (response == NULL || response->n_outcomes != lane->sent || response->token.len > TOKEN_MAX) {
        fail(sender, DN_INTERNAL, "publish", "the answer does not fit the request: is this a dunlin server?");
    } else {
        if (response->token.len > 0)
            memcpy(lane->token, response->token.data, response->token.len);
        lane->token_length = response->token.len;
        settle(lane, response);
        /* Asked at another node than the one that took the event: the token must do its work. */
        if (lane->ask_waits && lane->state == LANE_IDLE)
            lane->node = (lane->node + 1) % sender->options.address_count;
    }
    if (response != NULL)
        dunlin__v1__publish_response__free_unpacked(response, NULL);
}

/* Entries that the next request takes. */
static size_t batch_length(const struct lane *lane)
{
    size_t count = 0;

    while (count < lane->count && count < lane->sender->options.batch)
        if (entry_at(lane, count++)->ask)
            break;
    return count;
}

static void fill_event(Dunlin__V1__Event *out, struct dn_feed_event *event)
{
    dunlin__v1__event__init(out);
    out->user_id = event->key;
    out->item_id = event->item;
    out->event_id = event->event_id;
    out->type = (Dunlin__V1__EventType)event->type;
    out->time_ms = event->time_ms;
    out->weight = event->weight;
}

static void send_publish(struct lane *lane)
{
    struct dn_sender *sender = lane->sender;
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    struct dn_client *client = lane_connection(lane);
    struct dn_error err;
    uint8_t *bytes;
    size_t length;

    if (client == NULL)
        return;
    lane->sent = batch_length(lane);
    for (size_t i = 0; i < lane->sent; i++) {
        fill_event(&sender->events[i], &entry_at(lane, i)->event);
        sender->event_pointers[i] = &sender->events[i];
    }
    request.events = sender->event_pointers;
    request.n_events = lane->sent;
    length = dunlin__v1__publish_request__get_packed_size(&request);
    dn_buffer_clear(&sender->packed);
    bytes = dn_buffer_reserve(&sender->packed, length);
    if (bytes == NULL) {
        fail(sender, DN_NO_MEMORY, "publish", "out of memory");
        return;
    }
    dunlin__v1__publish_request__pack(&request, bytes);
    if (lane->failures == 0)
        lane->sent_us = dn_monotonic_us();
    lane->state = LANE_PUBLISHING;
    sender->stats.requests++;
    if (dn_client_send(client, "/dunlin.v1.Events/Publish", bytes, length, sender->options.deadline_ms,
                       on_publish_reply, lane, &err) != DN_OK)
        lane_failed(lane, err.message);
}

static void lane_turn(struct lane *lane, uint64_t now_us)
{
    size_t ready;

    if (lane->state == LANE_PUBLISHING || lane->state == LANE_ASKING ||
        (lane->state == LANE_PAUSED && now_us < lane->try_us))
        return;
    if (lane->ask_waits) {
        send_ask(lane);
        return;
    }
    ready = batch_length(lane);
    if (ready == 0)
        return;
    if (ready == lane->sender->options.batch || entry_at(lane, ready - 1)->ask || lane->sender->flushing ||
        lane->state == LANE_PAUSED || now_us - entry_at(lane, 0)->offered_us >= LINGER_US)
        send_publish(lane);
}

/* Milliseconds until a lane has something to do by itself, at most timeout_ms. */
static int next_turn_ms(const struct dn_sender *sender, int timeout_ms)
{
    uint64_t now_us = dn_monotonic_us();
    uint64_t least_us = now_us + (uint64_t)timeout_ms * 1000;

    for (size_t i = 0; i < sender->options.lanes; i++) {
        const struct lane *lane = &sender->lanes[i];
        uint64_t due_us = UINT64_MAX;

        if (lane->state == LANE_PAUSED)
            due_us = lane->try_us;
        else if (lane->state == LANE_IDLE && lane->ask_waits)
            due_us = now_us;
        else if (lane->state == LANE_IDLE && lane->count > 0)
            due_us = entry_at(lane, 0)->offered_us + LINGER_US;
        if (due_us < least_us)
            least_us = due_us;
    }
    return least_us <= now_us ? 0 : (int)((least_us - now_us + 999) / 1000);
}

/* Moves bytes on every connection without waiting. */
static void pump(struct dn_sender *sender)
{
    for (size_t i = 0; i < sender->options.address_count; i++) {
        struct node *node = &sender->nodes[i];

        if (node->client != NULL && dn_client_poll(node->client, 0, NULL) != DN_OK) {
            dn_client_close(node->client);
            node->client = NULL;
            node->connect_after_us = dn_monotonic_us() + RECONNECT_US / 10;
        }
    }
}

enum dn_code dn_sender_step(struct dn_sender *sender, int timeout_ms, struct dn_error *err)
{
    uint64_t completions = sender->completions, now_us = dn_monotonic_us();

    for (size_t i = 0; i < sender->options.lanes && !sender->failed; i++)
        lane_turn(&sender->lanes[i], now_us);
    pump(sender);
    if (!sender->failed && completions == sender->completions) {
        struct pollfd watched[DN_SENDER_NODES_MAX];
        nfds_t count = 0;

        for (size_t i = 0; i < sender->options.address_count; i++)
            if (sender->nodes[i].client != NULL)
                watched[count++] = (struct pollfd){.fd = dn_client_fd(sender->nodes[i].client),
                                                   .events = dn_client_events(sender->nodes[i].client)};
        /* Not longer than this: calls that pass their deadline are found by pump(). */
        (void)poll(watched, count,
                   next_turn_ms(sender, timeout_ms < IDLE_POLL_MS ? timeout_ms : IDLE_POLL_MS));
        pump(sender);
    }
    return sender->failed ? dn_fail(err, sender->why.code, "%s", sender->why.message) : DN_OK;
}
