/* The sender against nodes that refuse, lose answers, hang, and answer "unknown": every event ends up counted
 * once, in order for its user, and each answer was computed before the user's next event. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "../client/tiny_server.h"
#include "base/clock.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "replay/sender.h"

#define NODES 3
#define USERS 40
#define EVENTS 4000

/* What the "cluster" knows; the nodes share it. An event's id is its number within the user. */
struct cluster {
    pthread_mutex_t mutex;
    unsigned applied[USERS]; /* events applied, in order */
    unsigned disorder, duplicates, faults[6];
    uint64_t random;
    bool calm;
};

static uint64_t seed = 11;
static struct cluster cluster;
static struct tiny_server nodes[NODES];
static const char *addresses[NODES];

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static int apply(const Dunlin__V1__Event *event)
{
    unsigned user = (unsigned)atoi(event->user_id + 1), number = (unsigned)atoi(event->event_id);

    if (number < cluster.applied[user]) {
        cluster.duplicates++;
        return DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_DUPLICATE;
    }
    if (number > cluster.applied[user])
        cluster.disorder++;
    cluster.applied[user] = number + 1;
    return DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED;
}

static void answer_message(struct tiny_server *server, struct tiny_stream *stream,
                           const ProtobufCMessage *message)
{
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(length + 1);

    protobuf_c_message_pack(message, bytes);
    tiny_body(stream, bytes, length, length);
    tiny_answer(server, stream, "0");
    free(bytes);
}

static void publish(struct tiny_server *server, struct tiny_stream *stream, const uint8_t *message,
                    size_t length)
{
    Dunlin__V1__PublishRequest *request = dunlin__v1__publish_request__unpack(NULL, length, message);
    Dunlin__V1__PublishResponse response = DUNLIN__V1__PUBLISH_RESPONSE__INIT;
    Dunlin__V1__EventOutcome outcomes[64];
    unsigned fault = cluster.calm ? 9 : (unsigned)(next_random(&cluster.random) % 12);
    unsigned unknown_shard = (unsigned)(next_random(&cluster.random) % 4);

    if (fault < 6)
        cluster.faults[fault]++;
    if (fault == 0) { /* not done, and says so */
        tiny_trailers_only(server, stream, "200", "application/grpc", "14", "no leader");
    } else if (fault == 1) { /* overloaded */
        tiny_trailers_only(server, stream, "200", "application/grpc", "8", "queue full");
    } else {
        for (size_t i = 0; i < request->n_events; i++) {
            bool unknown =
                (fault == 4 || fault == 5) && (unsigned)request->events[i]->user_id[1] % 4 == unknown_shard;

            outcomes[i] = unknown && fault == 5 ? DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_ACCEPTED
                                                : (Dunlin__V1__EventOutcome)apply(request->events[i]);
            if (unknown) /* 4: done all the same; 5: not done */
                outcomes[i] = DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN;
        }
        response.outcomes = outcomes;
        response.n_outcomes = request->n_events;
        response.token.data = (uint8_t *)"token";
        response.token.len = 5;
        if (fault == 2) /* done, and the answer is lost with the connection */
            server->close_now = true;
        else if (fault != 3) /* 3: done, and never answered */
            answer_message(server, stream, &response.base);
    }
    dunlin__v1__publish_request__free_unpacked(request, NULL);
}

static void recommend(struct tiny_server *server, struct tiny_stream *stream, const uint8_t *message,
                      size_t length)
{
    Dunlin__V1__RecommendRequest *request = dunlin__v1__recommend_request__unpack(NULL, length, message);
    Dunlin__V1__RecommendResponse response = DUNLIN__V1__RECOMMEND_RESPONSE__INIT;
    Dunlin__V1__RecommendedItem item = DUNLIN__V1__RECOMMENDED_ITEM__INIT, *items[] = {&item};
    char id[16];

    if (request->read == NULL || request->read->token.len != 5 || request->k != 20 ||
        request->read->level != DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION) {
        tiny_trailers_only(server, stream, "200", "application/grpc", "3", "not as asked");
    } else if (!cluster.calm && next_random(&cluster.random) % 6 == 0) {
        tiny_trailers_only(server, stream, "200", "application/grpc", "14", "no leader");
    } else {
        snprintf(id, sizeof id, "%u", cluster.applied[atoi(request->user_id + 1)]);
        item.id = id;
        response.items = items;
        response.n_items = 1;
        answer_message(server, stream, &response.base);
    }
    dunlin__v1__recommend_request__free_unpacked(request, NULL);
}

static void serve(struct tiny_server *server, struct tiny_stream *stream, const uint8_t *message,
                  size_t length)
{
    pthread_mutex_lock(&cluster.mutex);
    if (strcmp(stream->path, "/dunlin.v1.Events/Publish") == 0)
        publish(server, stream, message, length);
    else
        recommend(server, stream, message, length);
    pthread_mutex_unlock(&cluster.mutex);
}

static void refuse(struct tiny_server *server, struct tiny_stream *stream, const uint8_t *message,
                   size_t length)
{
    (void)message;
    (void)length;
    tiny_trailers_only(server, stream, "200", "application/grpc", (const char *)server->custom_data,
                       "as told");
}

static int set_up(void **state)
{
    (void)state;
    memset(&cluster, 0, sizeof cluster);
    pthread_mutex_init(&cluster.mutex, NULL);
    cluster.random = seed;
    for (int i = 0; i < NODES; i++) {
        memset(&nodes[i], 0, sizeof nodes[i]);
        nodes[i].custom = serve;
        tiny_start(&nodes[i]);
        addresses[i] = nodes[i].address;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < NODES; i++)
        tiny_stop(&nodes[i]);
    pthread_mutex_destroy(&cluster.mutex);
    return 0;
}

struct tally {
    unsigned outcomes[USERS], answers, wrong_order, wrong_answers;
};

static void on_outcome(void *data, const struct dn_feed_event *event, int outcome)
{
    struct tally *tally = data;
    unsigned user = (unsigned)atoi(event->key + 1);

    if (outcome > 1 || (unsigned)atoi(event->event_id) != tally->outcomes[user])
        tally->wrong_order++;
    tally->outcomes[user]++;
}

static void on_answer(void *data, const struct dn_feed_event *event, const char *const *ids, size_t count)
{
    struct tally *tally = data;

    tally->answers++;
    /* The answer saw the event it was asked after, and none after it. */
    if (count != 1 || atoi(ids[0]) != atoi(event->event_id) + 1)
        tally->wrong_answers++;
}

static struct dn_sender *create(struct tally *tally, size_t node_count, unsigned give_up_ms)
{
    const struct dn_sender_options options = {.addresses = addresses,
                                              .address_count = node_count,
                                              .batch = 20,
                                              .lanes = 7,
                                              .deadline_ms = 300,
                                              .give_up_ms = give_up_ms,
                                              .k = 20,
                                              .on_outcome = on_outcome,
                                              .on_answer = on_answer,
                                              .data = tally};
    struct dn_sender *sender;

    assert_int_equal(dn_sender_create(&options, &sender, NULL), DN_OK);
    return sender;
}

static void fill(struct dn_feed_event *event, unsigned user, unsigned number)
{
    memset(event, 0, sizeof *event);
    snprintf(event->key, sizeof event->key, "u%u", user);
    snprintf(event->item, sizeof event->item, "i%u", number);
    snprintf(event->event_id, sizeof event->event_id, "%u", number);
    event->time_ms = number + 1;
}

static enum dn_code send_all(struct dn_sender *sender, unsigned events, struct dn_error *err)
{
    unsigned next[USERS] = {0};
    uint64_t random = seed + 1;
    enum dn_code code = DN_OK;

    for (unsigned i = 0; i < events && code == DN_OK; i++) {
        struct dn_feed_event event;
        unsigned user = (unsigned)(next_random(&random) % USERS);
        bool ask = next_random(&random) % 10 == 0;

        fill(&event, user, next[user]++);
        while (code == DN_OK && !dn_sender_offer(sender, &event, ask, 0))
            code = dn_sender_step(sender, 20, err);
    }
    dn_sender_flush(sender);
    while (code == DN_OK && !dn_sender_idle(sender))
        code = dn_sender_step(sender, 20, err);
    return code;
}

static void check_all_there(const struct tally *tally, const struct dn_sender *sender, unsigned events)
{
    struct dn_sender_stats stats;
    unsigned applied = 0, told = 0;

    dn_sender_stats(sender, &stats);
    for (int i = 0; i < USERS; i++) {
        applied += cluster.applied[i];
        told += tally->outcomes[i];
    }
    if (applied != events || told != events || cluster.disorder != 0 || tally->wrong_order != 0 ||
        tally->wrong_answers != 0)
        fail_msg(
            "seed %llu: %u applied, %u told of %u; out of order %u at the server, %u here; %u wrong answers",
            (unsigned long long)seed, applied, told, events, cluster.disorder, tally->wrong_order,
            tally->wrong_answers);
    assert_int_equal(stats.offered, events);
    assert_int_equal(stats.outcomes[0] + stats.outcomes[1], events);
    assert_int_equal(stats.answered, stats.asked);
    assert_int_equal(stats.answered, tally->answers);
    assert_int_equal(stats.ask_failures, 0);
    assert_true(tally->answers > events / 20);
}

static void test_calm(void **state)
{
    struct tally tally = {0};
    struct dn_sender *sender = create(&tally, NODES, 20000);
    struct dn_sender_stats stats;
    struct dn_error err;

    (void)state;
    cluster.calm = true;
    if (send_all(sender, EVENTS, &err) != DN_OK)
        fail_msg("%s", err.message);
    check_all_there(&tally, sender, EVENTS);
    dn_sender_stats(sender, &stats);
    assert_int_equal(stats.retries, 0);
    assert_int_equal(cluster.duplicates, 0);
    assert_int_equal(dn_histogram_count(dn_sender_publish_latency(sender)), EVENTS);
    dn_sender_destroy(sender);
}

static void test_faults(void **state)
{
    struct tally tally = {0};
    struct dn_sender *sender = create(&tally, NODES, 60000);
    struct dn_error err;

    (void)state;
    if (send_all(sender, EVENTS / 4, &err) != DN_OK)
        fail_msg("seed %llu: %s", (unsigned long long)seed, err.message);
    check_all_there(&tally, sender, EVENTS / 4);
    for (int i = 0; i < 6; i++)
        assert_true(cluster.faults[i] > 0);
    assert_true(cluster.duplicates > 0);
    dn_sender_destroy(sender);
}

/* A refusal for good stops at once; one that may pass is retried until the time is up. */
static void test_gives_up(void **state)
{
    struct tally tally = {0};
    struct dn_sender *sender = create(&tally, 1, 300);
    struct dn_error err;

    (void)state;
    nodes[0].custom = refuse;
    nodes[0].custom_data = (void *)(uintptr_t) "14";
    assert_int_equal(send_all(sender, 50, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "gave up"));
    assert_non_null(strstr(err.message, "as told"));
    dn_sender_destroy(sender);
    nodes[0].custom_data = (void *)(uintptr_t) "3";
    sender = create(&tally, 1, 60000);
    assert_int_equal(send_all(sender, 50, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "as told"));
    dn_sender_destroy(sender);
}

static void test_node_down(void **state)
{
    struct tally tally = {0};
    struct dn_sender *sender;
    struct dn_error err;

    (void)state;
    cluster.calm = true;
    addresses[1] = "127.0.0.1:1"; /* nobody listens there */
    sender = create(&tally, NODES, 20000);
    if (send_all(sender, EVENTS / 4, &err) != DN_OK)
        fail_msg("%s", err.message);
    check_all_there(&tally, sender, EVENTS / 4);
    dn_sender_destroy(sender);
}

static void test_split_addresses(void **state)
{
    char good[] = "a:1,b:2,c:3", gap[] = "a:1,,c:3", many[] = "a,b,c,d,e", none[] = "";
    const char *parts[4];

    (void)state;
    assert_int_equal(dn_split_addresses(good, parts, 4), 3);
    assert_string_equal(parts[2], "c:3");
    assert_int_equal(dn_split_addresses(gap, parts, 4), 0);
    assert_int_equal(dn_split_addresses(many, parts, 4), 0);
    assert_int_equal(dn_split_addresses(none, parts, 4), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_calm, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_faults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gives_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_node_down, set_up, tear_down),
        cmocka_unit_test(test_split_addresses),
    };

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
