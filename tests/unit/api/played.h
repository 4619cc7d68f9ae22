/* The services against a consensus that the test plays itself: this file defines dn_consensus_propose and the
 * others, so the real ones are not linked. One API, one connection, one call at a time. */
#ifndef DN_TEST_API_PLAYED_H
#define DN_TEST_API_PLAYED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/api.h"
#include "api/token.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "h2.h"

#include <pthread.h>
#include <stdatomic.h>

#define SHARDS 2
#define PENDING_MAX 16
#define PENDING_BYTES (1u << 20)

/* ---- the played consensus --------------------------------------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t came;
    struct dn_proposal *proposals[PENDING_MAX];
    struct dn_wait *waits[PENDING_MAX];
    struct dn_member_change *changes[PENDING_MAX];
    size_t proposal_count, wait_count, change_count;
    struct dn_members members;
} played = {.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};
static _Atomic uint64_t applied[SHARDS + 1];
static _Atomic uint64_t age_us[SHARDS + 1]; /* UINT64_MAX: unknown */
static _Atomic uint32_t full_groups;        /* bit g: the queue is full for group g */
static atomic_bool full_changes;
static atomic_bool api_open;

bool dn_consensus_propose(struct dn_consensus *consensus, struct dn_proposal *proposal)
{
    (void)consensus;
    if (atomic_load(&full_groups) & 1u << proposal->group)
        return false;
    pthread_mutex_lock(&played.lock);
    played.proposals[played.proposal_count++] = proposal;
    pthread_cond_signal(&played.came);
    pthread_mutex_unlock(&played.lock);
    return true;
}

bool dn_consensus_wait(struct dn_consensus *consensus, struct dn_wait *wait)
{
    (void)consensus;
    if (atomic_load(&full_groups) & 1u << wait->group)
        return false;
    pthread_mutex_lock(&played.lock);
    played.waits[played.wait_count++] = wait;
    pthread_cond_signal(&played.came);
    pthread_mutex_unlock(&played.lock);
    return true;
}

uint64_t dn_consensus_applied(const struct dn_consensus *consensus, uint32_t group)
{
    (void)consensus;
    return atomic_load(&applied[group]);
}

bool dn_consensus_age_us(const struct dn_consensus *consensus, uint32_t group, uint64_t *ret_age_us)
{
    (void)consensus;
    *ret_age_us = atomic_load(&age_us[group]);
    return *ret_age_us != UINT64_MAX;
}

void dn_consensus_status(const struct dn_consensus *consensus, uint32_t group, struct dn_group_status *ret)
{
    (void)consensus;
    *ret = (struct dn_group_status){.group = group};
}

bool dn_consensus_hash_at(const struct dn_consensus *consensus, uint32_t group, uint64_t index,
                          uint64_t *ret_hash)
{
    (void)consensus, (void)group, (void)index, (void)ret_hash;
    return false;
}

void dn_consensus_members(struct dn_consensus *consensus, struct dn_members *ret)
{
    (void)consensus;
    pthread_mutex_lock(&played.lock);
    *ret = played.members;
    pthread_mutex_unlock(&played.lock);
}

bool dn_consensus_member_change(struct dn_consensus *consensus, struct dn_member_change *change)
{
    (void)consensus;
    if (atomic_load(&full_changes))
        return false;
    pthread_mutex_lock(&played.lock);
    played.changes[played.change_count++] = change;
    pthread_mutex_unlock(&played.lock);
    return true;
}

/* ---- set-up
 * --------------------------------------------------------------------------------------------------- */

static struct dn_epoch *epoch;
static struct dn_shard *shards[SHARDS];
static struct dn_catalog *catalog;
static struct dn_api *api;
static struct h2 h2;
static struct h2_answer answer;
static uint8_t request_bytes[4096];
static const uint8_t hash_key[DN_HASH_KEY_BYTES] = "the key of tests";
static char users[SHARDS][16]; /* users[g-1] lives in group g */

static const struct dn_member configured[] = {{.node_id = 1, .address = "127.0.0.1:1"},
                                              {.node_id = 2, .address = "127.0.0.1:2"}};
static const char *const names[] = {"first", "second"};

static inline bool ready(void *data, char *ret_reason, size_t size)
{
    (void)data;
    snprintf(ret_reason, size, "waits, the test says");
    return atomic_load(&api_open);
}

static inline int setup(void **state)
{
    (void)state;
    struct dn_error err;
    epoch = dn_epoch_create();
    catalog = dn_catalog_create(epoch, 100);
    for (size_t i = 0; i < SHARDS; i++)
        shards[i] = dn_shard_create(epoch);
    struct dn_api_options options = {
        .address = "127.0.0.1:0",
        .node_name = "played",
        .node_id = 2,
        .members = configured,
        .member_names = names,
        .member_count = 2,
        .open = &api_open,
        .ready = ready,
        .shard_count = SHARDS,
        .consensus = (struct dn_consensus *)&played, /* never looked into */
        .epoch = epoch,
        .shards = shards,
        .catalog = catalog,
        .freshness_alarm_ms = 500,
        .limits = {.pending_bytes = PENDING_BYTES},
    };
    memcpy(options.hash_key, hash_key, sizeof options.hash_key);
    if (dn_api_start(&options, &api, &err) != DN_OK)
        fail_msg("%s", err.message);
    for (int i = 0; !users[0][0] || !users[1][0]; i++) {
        char name[16];
        int length = snprintf(name, sizeof name, "user-%d", i);
        memcpy(users[dn_api_shard_of(name, (size_t)length, SHARDS) - 1], name, sizeof name);
    }
    return h2_open(&h2, dn_api_port(api)) ? 0 : -1;
}

static inline int teardown(void **state)
{
    (void)state;
    h2_shut(&h2);
    dn_api_stop(api);
    dn_api_destroy(api);
    for (size_t i = 0; i < SHARDS; i++)
        dn_shard_destroy(shards[i]);
    dn_catalog_destroy(catalog);
    dn_epoch_destroy(epoch);
    return 0;
}

static inline int reset(void **state)
{
    (void)state;
    played.proposal_count = played.wait_count = played.change_count = 0;
    memset(&played.members, 0, sizeof played.members);
    atomic_store(&full_changes, false);
    atomic_store(&api_open, true);
    atomic_store(&full_groups, 0);
    for (size_t i = 0; i <= SHARDS; i++) {
        atomic_store(&applied[i], 10);
        atomic_store(&age_us[i], 1000);
    }
    return 0;
}

static const struct h2_header *more_headers; /* of the next requests; NULL: none */

/* Sends the request without waiting for its answer. */
static inline void begin(const char *path, const void *message)
{
    size_t length = protobuf_c_message_get_packed_size(message);
    assert_true(length + 5 <= sizeof request_bytes);
    memset(request_bytes, 0, 5);
    request_bytes[3] = (uint8_t)(length >> 8);
    request_bytes[4] = (uint8_t)length;
    protobuf_c_message_pack(message, request_bytes + 5);
    h2_free(&answer);
    answer = (struct h2_answer){.out = request_bytes, .out_length = length + 5};
    h2_start(&h2, "POST", path, h2_grpc, more_headers, &answer);
    h2_turn(&h2, 0);
}

static inline void *end(const ProtobufCMessageDescriptor *type)
{
    if (!h2_until(&h2, &answer.closed, H2_WAIT_MS))
        fail_msg("no answer");
    if (answer.grpc_status != 0)
        return NULL;
    return protobuf_c_message_unpack(type, NULL, answer.length - 5, answer.body + 5);
}

static inline void ends_refused(int status, const char *text)
{
    assert_null(end(&dunlin__v1__ping_response__descriptor));
    if (answer.grpc_status != status || !strstr(answer.message, text))
        fail_msg("status %d '%s'; wanted %d '%s'", answer.grpc_status, answer.message, status, text);
}

static inline void await(const size_t *count, size_t wanted)
{
    uint64_t until = dn_monotonic_us() + H2_WAIT_MS * 1000ull;
    for (;;) {
        pthread_mutex_lock(&played.lock);
        size_t now = *count;
        pthread_mutex_unlock(&played.lock);
        if (now >= wanted)
            return;
        if (dn_monotonic_us() > until)
            fail_msg("%zu came; wanted %zu", now, wanted);
        h2_turn(&h2, 5);
    }
}

#endif
