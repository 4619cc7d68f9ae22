/* What the session simulation is made of: its limits, its seeded randomness, one server's state machine
 * behind libraft's raft_fsm, and the requests in flight. Included by test_session_sim.c only. */
#ifndef DN_TESTS_SIM_SESSION_SERVER_H
#define DN_TESTS_SIM_SESSION_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <raft.h>
#include <raft/fixture.h>

#include "session/record.h"
#include "session/session.h"
#include "tests/whole_stream.h"

#define SERVERS_MAX 5
#define CLIENTS 4
#define OPS_MAX 2000 /* API events of a run */
#define STREAM_MAX 600
#define BATCH_MAX 12
#define BATCHES_IN_FLIGHT 3
#define LETTERS_AT_ONCE 4
#define ENTRIES_MAX 20000
#define ANSWERS 1024 /* of the newest entries, kept for their proposers */
#define ANSWER_EVENTS 16
#define BASE_MS INT64_C(1700000000000)
#define PARTITION 3
#define SOURCE "clicks"

static uint64_t current_seed;

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        bool holds = (condition);                                                                            \
        if (!holds) {                                                                                        \
            fprintf(stderr,                                                                                  \
                    "DUNLIN_SIM_SEED=%llu DUNLIN_SIM_RUNS=1: %s:%d: %s: ", (unsigned long long)current_seed, \
                    __FILE__, __LINE__, #condition);                                                         \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)

static uint64_t random_state;

static uint64_t rnd(uint64_t bound)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % bound;
}

/* ---- one server's state machine --------------------------------------------------------------------- */

struct answer {
    uint64_t entry;
    enum dn_result_status status;
    int64_t next_offset;
    uint32_t count;
    uint8_t outcomes[ANSWER_EVENTS];
};

struct server {
    struct raft_fsm fsm;
    struct dn_epoch *epoch;
    struct dn_epoch_reader *reader;
    struct dn_arena *arena;
    struct dn_shard *shard;
    unsigned number;
    uint64_t entry;  /* commands applied */
    int64_t time_ms; /* the group's */
    int64_t skew_ms;
    bool may_snapshot;
    struct answer answers[ANSWERS];
    /* The consumer. */
    bool led;
    uint64_t era; /* of leading: answers to older ones are ignored */
    int64_t next; /* stream offset to propose from */
    unsigned in_flight;
};

struct op { /* one API event of one client */
    struct dn_event_in event;
    char item[24];
    bool in_flight, acknowledged;
    unsigned accepted;
};

enum { REQUEST_OP, REQUEST_STREAM, REQUEST_OTHER };

struct request {
    struct raft_apply raft;
    int kind;
    size_t op;
    struct server *server;
    uint64_t era;
    struct request *previous, *next;
};

struct sim {
    struct raft_fixture fixture;
    unsigned n;
    struct server servers[SERVERS_MAX];
    bool cut[SERVERS_MAX][SERVERS_MAX]; /* disconnected */
    uint64_t hashes[ENTRIES_MAX];
    raft_term snapshot_terms[ENTRIES_MAX];
    uint64_t entries; /* highest entry applied anywhere */
    struct op ops[OPS_MAX];
    size_t op_count;
    struct dn_event_in stream[STREAM_MAX]; /* type 0: a message that gave no event */
    char stream_items[STREAM_MAX][24];
    size_t stream_count;
    int64_t letters[STREAM_MAX]; /* dead letters that were written elsewhere, by number: offset + 1 */
    int64_t stream_end;
    uint64_t next_id;
    struct request *requests;
    bool small; /* tiny limits: eviction and expiry; not everything can be found in the end */
    bool quiet; /* no new events */
};

static struct sim *sim;
static uint64_t letters_seen, letters_again_seen;
static uint64_t installed_seen, taken_seen, gaps_seen, duplicates_seen, acknowledged_seen, lost_seen;

static void put_answer(struct server *server, const struct dn_buffer *result, uint8_t kind)
{
    struct dn_result parsed;
    struct dn_error err;
    struct answer *answer = &server->answers[server->entry % ANSWERS];
    CHECK(dn_result_parse(result->bytes, result->length, kind, &parsed, &err) == DN_OK, "%s", err.message);
    *answer = (struct answer){.entry = server->entry,
                              .status = parsed.status,
                              .next_offset = parsed.next_offset,
                              .count = parsed.count};
    CHECK(parsed.count <= ANSWER_EVENTS, "%u events", parsed.count);
    if (parsed.count > 0) {
        memcpy(answer->outcomes, parsed.outcomes, parsed.count);
    }
}

/* Writes at most LETTERS_AT_ONCE of the dead letters that wait in this server's state; returns the number
 * below which all are written then. A number is one offset's for ever, whoever writes it and how often. */
static uint64_t letters_write(struct server *server)
{
    struct dn_dead_letter letters[LETTERS_AT_ONCE];
    uint64_t written = 0, next = 0;
    dn_epoch_enter(server->reader);
    dn_shard_dead_range(server->shard, &written, &next);
    size_t count = dn_shard_dead_letters(server->shard, written, letters, LETTERS_AT_ONCE);
    dn_epoch_leave(server->reader);
    CHECK(next <= STREAM_MAX, "%llu letters", (unsigned long long)next);
    for (size_t i = 0; i < count; i++) {
        int64_t *known = &sim->letters[letters[i].number];
        CHECK(letters[i].number == written + i, "letter %llu is missing", (unsigned long long)(written + i));
        CHECK(*known == 0 || *known == letters[i].offset + 1, "letter %llu has two offsets",
              (unsigned long long)letters[i].number);
        letters_seen += *known == 0;
        letters_again_seen += *known != 0;
        *known = letters[i].offset + 1;
    }
    return written + count;
}

/* Every message that gave no event is one letter, and it was written. */
static void letters_check(struct server *server)
{
    uint64_t written = 0, next = 0;
    dn_epoch_enter(server->reader);
    dn_shard_dead_range(server->shard, &written, &next);
    dn_epoch_leave(server->reader);
    CHECK(written == next, "letters still wait");
    for (size_t i = 0; i < sim->stream_count; i++) {
        unsigned times = 0;
        for (uint64_t n = 0; n < next; n++) {
            CHECK(sim->letters[n] != 0, "letter %llu was never written", (unsigned long long)n);
            times += sim->letters[n] == sim->stream[i].offset + 1;
        }
        CHECK(sim->small ? times <= 1 : times == (sim->stream[i].type == 0), "offset %lld: %u letters",
              (long long)sim->stream[i].offset, times);
        CHECK(sim->stream[i].type != 0 || times == 1, "offset %lld: no letter",
              (long long)sim->stream[i].offset);
    }
}

/* An entry: i64 wall time, u32 record length, the record, zeros to a multiple of 8. No record: a tick. */
static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **ret_result)
{
    struct server *server = fsm->data;
    struct dn_reader reader;
    struct dn_buffer result;
    dn_reader_init(&reader, buf->base, buf->len);
    int64_t wall_ms = dn_reader_i64(&reader);
    size_t length = 0;
    const uint8_t *record = dn_reader_blob(&reader, buf->len, &length);
    CHECK(!reader.failed, "entry");
    server->time_ms = wall_ms > server->time_ms ? wall_ms : server->time_ms;
    server->entry++;
    dn_buffer_init(&result, 1u << 20);
    if (length > 0) {
        dn_shard_apply(server->shard, server->entry, 0, server->time_ms, record, length, &result);
        put_answer(server, &result, record[0]);
    }
    dn_buffer_free(&result);
    dn_shard_entry_done(server->shard, server->entry, server->time_ms);

    uint64_t hash = dn_shard_hash(server->shard);
    CHECK(server->entry < ENTRIES_MAX, "too many entries");
    if (server->entry > sim->entries) {
        CHECK(server->entry == sim->entries + 1, "an entry was skipped");
        sim->entries = server->entry;
        sim->hashes[server->entry] = hash;
    }
    CHECK(sim->hashes[server->entry] == hash, "server %u differs after entry %llu", server->number,
          (unsigned long long)server->entry);
    *ret_result = (void *)(uintptr_t)server->entry;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    struct server *server = fsm->data;
    struct dn_buffer bytes;
    struct dn_error err;
    if (!server->may_snapshot) {
        return RAFT_BUSY; /* asked again after the next entry */
    }
    dn_buffer_init(&bytes, 64u << 20);
    dn_buffer_u64(&bytes, server->entry);
    dn_buffer_i64(&bytes, server->time_ms);
    void *capture = dn_shard_snapshot_begin(server->shard);
    CHECK(whole_write(dn_shard_snapshot_write, server->shard, capture, &bytes, &err) == DN_OK, "%s",
          err.message);
    dn_shard_snapshot_end(server->shard, capture);
    *bufs = raft_malloc(sizeof **bufs);
    (*bufs)->len = bytes.length;
    (*bufs)->base = raft_malloc(bytes.length);
    memcpy((*bufs)->base, bytes.bytes, bytes.length);
    *n_bufs = 1;
    dn_buffer_free(&bytes);
    taken_seen++;
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct server *server = fsm->data;
    struct dn_reader reader;
    struct dn_error err;
    void *built = NULL;
    dn_reader_init(&reader, buf->base, buf->len);
    server->entry = dn_reader_u64(&reader);
    server->time_ms = dn_reader_i64(&reader);
    CHECK(whole_build(dn_shard_restore_build, server->shard, reader.bytes + reader.offset,
                      dn_reader_left(&reader), &built, &err) == DN_OK,
          "%s", err.message);
    dn_shard_restore_install(server->shard, built);
    CHECK(dn_shard_hash(server->shard) == sim->hashes[server->entry], "installed state of server %u",
          server->number);
    raft_free(buf->base);
    installed_seen++;
    return 0;
}

#endif
