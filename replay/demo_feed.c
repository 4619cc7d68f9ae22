/* The demo's clickstream: publishes, retries, and remembers what was acknowledged. See demo.h.
 *
 * Every batch goes to one node; when the answer is an error, or says UNKNOWN for some events, those events
 * are sent again to the next live node under the same event ids. An event counts as acknowledged once an
 * answer says ACCEPTED or DUPLICATE for it. At most BATCHES_MAX batches are in flight. */
#include "replay/demo.h"

#include "base/clock.h"
#include "base/hash.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH_EVENTS 20
#define BATCHES_MAX 16
#define BATCH_TIMEOUT_MS 1500
#define RETRY_PAUSE_US 20000
#define LINE_MAX_BYTES 4096
#define SHOWN_EVENTS_MAX 50 /* a user's list on the server holds the newest 50 (session.events_per_user) */

struct click {
    char *user;
    char *item;
    int64_t time_ms;
    uint64_t id;
    bool acknowledged;
};

enum batch_state { BATCH_FREE, BATCH_DUE, BATCH_SENT };

struct batch {
    enum batch_state state;
    struct demo_feed *feed;
    size_t clicks[BATCH_EVENTS]; /* indexes into feed->clicks */
    size_t count;
    unsigned node;
    uint64_t due_us;
};

struct demo_feed {
    struct demo_cluster *cluster;
    struct dn_client *clients[DEMO_NODES];
    FILE *events;
    char *line;
    unsigned rate;
    uint64_t started_us;
    bool stopping;
    struct click *clicks;
    size_t click_count, click_capacity;
    struct batch batches[BATCHES_MAX];
    unsigned next_node;
    int64_t last_ms;
    struct demo_feed_stats stats;
};

enum dn_code demo_feed_create(struct demo_cluster *cluster, const char *events_path, unsigned rate,
                              struct demo_feed **ret, struct dn_error *err)
{
    struct demo_feed *feed = calloc(1, sizeof *feed);
    if (feed == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for the feed");
    }
    feed->line = malloc(LINE_MAX_BYTES);
    feed->events = fopen(events_path, "r");
    if (feed->events == NULL || feed->line == NULL) {
        dn_fail(err, DN_IO, "open '%s': %s", events_path, strerror(errno));
        demo_feed_destroy(feed);
        return DN_IO;
    }
    feed->cluster = cluster;
    feed->rate = rate;
    feed->started_us = dn_monotonic_us();
    feed->stats.last_ack_us = feed->started_us;
    for (size_t i = 0; i < BATCHES_MAX; i++) {
        feed->batches[i].feed = feed;
    }
    *ret = feed;
    return DN_OK;
}

void demo_feed_destroy(struct demo_feed *feed)
{
    if (feed == NULL) {
        return;
    }
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        dn_client_close(feed->clients[i]);
    }
    for (size_t i = 0; i < feed->click_count; i++) {
        free(feed->clicks[i].user);
        free(feed->clicks[i].item);
    }
    free(feed->clicks);
    free(feed->line);
    if (feed->events != NULL) {
        fclose(feed->events);
    }
    free(feed);
}

/* A new click of `user` on `item` now; its index, or SIZE_MAX when memory is out. Times never repeat, so that
 * a click is known by its user and time. */
static size_t add_click(struct demo_feed *feed, const char *user, const char *item)
{
    if (feed->click_count == feed->click_capacity) {
        size_t capacity = feed->click_capacity == 0 ? 4096 : feed->click_capacity * 2;
        struct click *grown = realloc(feed->clicks, capacity * sizeof *grown);
        if (grown == NULL) {
            return SIZE_MAX;
        }
        feed->clicks = grown;
        feed->click_capacity = capacity;
    }
    int64_t now_ms = dn_wall_ms();
    struct click *click = &feed->clicks[feed->click_count];
    feed->last_ms = now_ms > feed->last_ms ? now_ms : feed->last_ms;
    *click = (struct click){
        .user = strdup(user), .item = strdup(item), .time_ms = feed->last_ms, .id = feed->click_count + 1};
    if (click->user == NULL || click->item == NULL) {
        free(click->user);
        free(click->item);
        return SIZE_MAX;
    }
    return feed->click_count++;
}

/* Takes the next event of the file; starts again from the front at its end. False when there is none. */
static bool next_event(struct demo_feed *feed, size_t *ret_click)
{
    for (int round = 0; round < 2; round++) {
        while (fgets(feed->line, LINE_MAX_BYTES, feed->events) != NULL) {
            const char *user, *item;
            json_t *event = json_loads(feed->line, 0, NULL);
            if (event != NULL && json_unpack(event, "{s:s,s:s}", "user", &user, "item", &item) == 0) {
                *ret_click = add_click(feed, user, item);
                json_decref(event);
                return *ret_click != SIZE_MAX;
            }
            json_decref(event);
        }
        rewind(feed->events);
    }
    return false;
}

static struct dn_client *client_of(struct demo_feed *feed, unsigned i)
{
    if (feed->clients[i] == NULL && feed->cluster->nodes[i].pid > 0 &&
        dn_client_connect(feed->cluster->nodes[i].api, 100, &feed->clients[i], NULL) != DN_OK) {
        feed->clients[i] = NULL;
    }
    return feed->clients[i];
}

static void acknowledge(struct demo_feed *feed, struct click *click)
{
    uint64_t now_us = dn_monotonic_us();
    click->acknowledged = true;
    feed->stats.acknowledged++;
    if (now_us - feed->stats.last_ack_us > feed->stats.worst_gap_us) {
        feed->stats.worst_gap_us = now_us - feed->stats.last_ack_us;
    }
    feed->stats.last_ack_us = now_us;
}

/* Settles the events that the answer settled; the rest stays in the batch. */
static void settle(struct batch *batch, const Dunlin__V1__PublishResponse *response)
{
    struct demo_feed *feed = batch->feed;
    size_t left = 0;
    for (size_t i = 0; i < batch->count; i++) {
        struct click *click = &feed->clicks[batch->clicks[i]];
        switch (i < response->n_outcomes ? response->outcomes[i]
                                         : DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN) {
        case DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED:
            acknowledge(feed, click);
            break;
        case DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE:
            feed->stats.duplicates++;
            acknowledge(feed, click);
            break;
        case DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN:
            batch->clicks[left++] = batch->clicks[i];
            break;
        default:
            feed->stats.refused++;
            break;
        }
    }
    batch->count = left;
}

static void on_published(void *data, const struct dn_reply *reply)
{
    struct batch *batch = data;
    struct demo_feed *feed = batch->feed;
    if (reply->grpc_status == 0) {
        Dunlin__V1__PublishResponse *response =
            dunlin__v1__publish_response__unpack(NULL, reply->length, reply->bytes);
        if (response != NULL) {
            settle(batch, response);
            dunlin__v1__publish_response__free_unpacked(response, NULL);
        }
    }
    if (batch->count == 0) {
        batch->state = BATCH_FREE;
        return;
    }
    feed->stats.retried_batches++;
    batch->state = BATCH_DUE;
    batch->node = (batch->node + 1) % DEMO_NODES;
    batch->due_us = dn_monotonic_us() + RETRY_PAUSE_US;
}

/* Packs the events into a request. *ret is malloc'ed. */
static bool pack(const struct demo_feed *feed, const size_t *clicks, size_t count, uint8_t **ret,
                 size_t *ret_length)
{
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    Dunlin__V1__Event events[BATCH_EVENTS], *pointers[BATCH_EVENTS];
    char ids[BATCH_EVENTS][32];
    for (size_t i = 0; i < count; i++) {
        const struct click *click = &feed->clicks[clicks[i]];
        dunlin__v1__event__init(&events[i]);
        snprintf(ids[i], sizeof ids[i], "demo-%llu", (unsigned long long)click->id);
        events[i].user_id = click->user;
        events[i].item_id = click->item;
        events[i].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
        events[i].time_ms = click->time_ms;
        events[i].event_id = ids[i];
        pointers[i] = &events[i];
    }
    request.n_events = count;
    request.events = pointers;
    *ret_length = dunlin__v1__publish_request__get_packed_size(&request);
    *ret = malloc(*ret_length);
    if (*ret == NULL) {
        return false;
    }
    dunlin__v1__publish_request__pack(&request, *ret);
    return true;
}

static void send_batch(struct demo_feed *feed, struct batch *batch)
{
    for (unsigned tries = 0; tries < DEMO_NODES; tries++) {
        struct dn_client *client = client_of(feed, batch->node);
        uint8_t *bytes = NULL;
        size_t length = 0;
        if (client != NULL && pack(feed, batch->clicks, batch->count, &bytes, &length)) {
            batch->state = BATCH_SENT; /* before sending: the callback may run at once */
            enum dn_code code = dn_client_send(client, "/dunlin.v1.Events/Publish", bytes, length,
                                               BATCH_TIMEOUT_MS, on_published, batch, NULL);
            free(bytes);
            if (code == DN_OK) {
                return;
            }
            batch->state = BATCH_DUE;
        }
        batch->node = (batch->node + 1) % DEMO_NODES;
    }
    batch->due_us = dn_monotonic_us() + RETRY_PAUSE_US;
}

static void send_due(struct demo_feed *feed)
{
    uint64_t now_us = dn_monotonic_us();
    uint64_t due = (now_us - feed->started_us) * feed->rate / 1000000u;
    for (size_t i = 0; i < BATCHES_MAX; i++) {
        struct batch *batch = &feed->batches[i];
        if (batch->state == BATCH_FREE && !feed->stopping && due >= feed->stats.sent + BATCH_EVENTS) {
            batch->count = 0;
            while (batch->count < BATCH_EVENTS && next_event(feed, &batch->clicks[batch->count])) {
                batch->count++;
            }
            if (batch->count == 0) {
                return;
            }
            feed->stats.sent += batch->count;
            batch->node = feed->next_node;
            feed->next_node = (feed->next_node + 1) % DEMO_NODES;
            batch->state = BATCH_DUE;
            batch->due_us = now_us;
        }
        if (batch->state == BATCH_DUE && batch->due_us <= now_us) {
            send_batch(feed, batch);
        }
    }
}

static void poll_clients(struct demo_feed *feed)
{
    for (unsigned i = 0; i < DEMO_NODES; i++) {
        if (feed->clients[i] != NULL && dn_client_poll(feed->clients[i], 0, NULL) != DN_OK) {
            dn_client_close(feed->clients[i]);
            feed->clients[i] = NULL;
        }
    }
}

void demo_feed_turn(struct demo_feed *feed)
{
    send_due(feed);
    poll_clients(feed);
    usleep(1000);
}

static bool any_open(const struct demo_feed *feed)
{
    for (size_t i = 0; i < BATCHES_MAX; i++) {
        if (feed->batches[i].state != BATCH_FREE) {
            return true;
        }
    }
    return false;
}

bool demo_feed_finish(struct demo_feed *feed, unsigned timeout_ms)
{
    uint64_t until_us = dn_monotonic_us() + timeout_ms * 1000ull;
    feed->stopping = true;
    while (any_open(feed) && dn_monotonic_us() < until_us) {
        demo_feed_turn(feed);
    }
    return !any_open(feed);
}

enum dn_code demo_feed_click(struct demo_feed *feed, unsigned node, const char *user, const char *item,
                             ProtobufCBinaryData *ret_token, struct dn_error *err)
{
    uint8_t *bytes = NULL, *answer = NULL;
    size_t length = 0, answer_length = 0;
    enum dn_code code;
    size_t click = add_click(feed, user, item);
    if (click == SIZE_MAX || !pack(feed, &click, 1, &bytes, &length)) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for a click");
    }
    feed->stats.sent++;
    struct dn_client *client = feed->cluster->nodes[node].client;
    code = client == NULL ? dn_fail(err, DN_UNAVAILABLE, "node %u is not connected", node + 1)
                          : dn_client_call(client, "/dunlin.v1.Events/Publish", bytes, length,
                                           BATCH_TIMEOUT_MS, &answer, &answer_length, err);
    free(bytes);
    if (code == DN_OK) {
        Dunlin__V1__PublishResponse *response =
            dunlin__v1__publish_response__unpack(NULL, answer_length, answer);
        if (response != NULL && response->n_outcomes == 1 && response->outcomes[0] <= 1) {
            acknowledge(feed, &feed->clicks[click]);
            ret_token->data = malloc(response->token.len + 1);
            ret_token->len = ret_token->data == NULL ? 0 : response->token.len;
            if (ret_token->data != NULL && ret_token->len > 0) {
                memcpy(ret_token->data, response->token.data, ret_token->len);
            }
        } else {
            code = dn_fail(err, DN_UNAVAILABLE, "the click was not acknowledged");
        }
        if (response != NULL) {
            dunlin__v1__publish_response__free_unpacked(response, NULL);
        }
    }
    free(answer);
    return code;
}

void demo_feed_stats(const struct demo_feed *feed, struct demo_feed_stats *ret)
{
    *ret = feed->stats;
}

void demo_feed_reset_gap(struct demo_feed *feed)
{
    uint64_t now_us = dn_monotonic_us();
    if (feed->stats.acknowledged == 0) {
        feed->started_us = now_us; /* the rate counts from when feeding starts */
    }
    feed->stats.worst_gap_us = 0;
    feed->stats.last_ack_us = now_us;
}

/* ---- the check at the end ------------------------------------------------------------------------------ */

static int by_user_then_time(const void *a, const void *b)
{
    const struct click *x = *(const struct click *const *)a, *y = *(const struct click *const *)b;
    int order = strcmp(x->user, y->user);
    if (order == 0) {
        order = (x->time_ms > y->time_ms) - (x->time_ms < y->time_ms);
    }
    return order != 0 ? order : strcmp(x->item, y->item);
}

static size_t seen_times(const Dunlin__V1__GetSessionResponse *session, const struct click *click)
{
    size_t n = 0;
    for (size_t i = 0; i < session->n_events; i++) {
        n += session->events[i]->time_ms == click->time_ms &&
             strcmp(session->events[i]->item_id, click->item) == 0;
    }
    return n;
}

/* Clicks of one user, sorted by time, against the server's list of it. Several clicks may share item and
 * millisecond: they are compared as a multiset. Of a user with more clicks than the list holds, the newest
 * count. */
static void check_user(struct click *const *clicks, size_t count,
                       const Dunlin__V1__GetSessionResponse *session, struct demo_check *check)
{
    size_t from = count > SHOWN_EVENTS_MAX ? count - SHOWN_EVENTS_MAX : 0;
    bool cut = from > 0;
    for (size_t i = from, run; i < count; i += run) {
        size_t wanted = 0;
        run = 0;
        while (i + run < count && clicks[i + run]->time_ms == clicks[i]->time_ms &&
               strcmp(clicks[i + run]->item, clicks[i]->item) == 0) {
            wanted += clicks[i + run]->acknowledged ? 1 : 0;
            run++;
        }
        size_t found = seen_times(session, clicks[i]);
        bool edge =
            cut && clicks[i]->time_ms == clicks[from]->time_ms; /* which of equals left the list is open */
        check->events += wanted;
        if (found < wanted && !edge) {
            check->missing += wanted - found;
        }
        if (found > run) {
            check->twice += found - run;
        }
    }
}

static bool read_user(struct demo_node *node, const char *user, Dunlin__V1__GetSessionResponse **ret)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    uint8_t buffer[512], *bytes = NULL;
    size_t length = 0;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LOCAL; /* after one LINEARIZABLE read of every shard */
    request.user_id = (char *)(uintptr_t)user;
    request.read = &read;
    if (dunlin__v1__get_session_request__get_packed_size(&request) > sizeof buffer) {
        return false;
    }
    size_t size = dunlin__v1__get_session_request__pack(&request, buffer);
    if (dn_client_call(node->client, "/dunlin.v1.Sessions/Get", buffer, size, 2000, &bytes, &length, NULL) !=
        DN_OK) {
        return false;
    }
    *ret = dunlin__v1__get_session_response__unpack(NULL, length, bytes);
    free(bytes);
    return *ret != NULL;
}

/* One LINEARIZABLE read per shard brings the node up to everything acknowledged before. */
static enum dn_code barrier(struct demo_node *node, uint32_t shards, struct dn_error *err)
{
    for (uint32_t done = 0, n = 0; n < 10000 && done != (1u << shards) - 1; n++) {
        char user[32];
        Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
        Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
        uint8_t buffer[128], *bytes = NULL;
        size_t length = 0;
        int size = snprintf(user, sizeof user, "barrier-%u", n);
        uint32_t shard = dn_murmur2(user, (size_t)size) % shards;
        if (done & (1u << shard)) {
            continue;
        }
        read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_LINEARIZABLE;
        request.user_id = user;
        request.read = &read;
        size_t packed = dunlin__v1__get_session_request__pack(&request, buffer);
        enum dn_code code = dn_client_call(node->client, "/dunlin.v1.Sessions/Get", buffer, packed, 5000,
                                           &bytes, &length, err);
        free(bytes);
        if (code != DN_OK) {
            return code;
        }
        done |= 1u << shard;
    }
    return DN_OK;
}

enum dn_code demo_feed_check(struct demo_feed *feed, unsigned node_index, struct demo_check *ret,
                             struct dn_error *err)
{
    struct demo_node *node = &feed->cluster->nodes[node_index];
    struct demo_check check = {0};
    struct click **sorted;
    enum dn_code code;
    if (node->client == NULL) {
        return dn_fail(err, DN_UNAVAILABLE, "node %u is not connected", node_index + 1);
    }
    code = barrier(node, feed->cluster->groups > 1 ? feed->cluster->groups - 1 : 1, err);
    if (code != DN_OK) {
        return dn_wrap(err, code, "bring node %u up to date", node_index + 1);
    }
    sorted = malloc((feed->click_count + 1) * sizeof *sorted);
    if (sorted == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory for the check");
    }
    for (size_t i = 0; i < feed->click_count; i++) {
        sorted[i] = &feed->clicks[i];
    }
    qsort(sorted, feed->click_count, sizeof *sorted, by_user_then_time);
    for (size_t i = 0, n; i < feed->click_count; i += n) {
        Dunlin__V1__GetSessionResponse *session = NULL;
        for (n = 1; i + n < feed->click_count && strcmp(sorted[i + n]->user, sorted[i]->user) == 0; n++) {
        }
        check.users++;
        if (!read_user(node, sorted[i]->user, &session)) {
            check.unread++;
            continue;
        }
        check_user(&sorted[i], n, session, &check);
        dunlin__v1__get_session_response__free_unpacked(session, NULL);
    }
    free(sorted);
    *ret = check;
    return DN_OK;
}
