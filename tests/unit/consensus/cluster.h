/* A cluster of struct dn_consensus in one process, for tests: loopback ports, a small state machine (a log of
 * records and a running hash), and calls that wait for their completion. */
#ifndef TESTS_CONSENSUS_CLUSTER_H
#define TESTS_CONSENSUS_CLUSTER_H

#include "base/buffer.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "consensus/consensus.h"

#include "tests/free_port.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#ifndef NODES
#define NODES 3
#endif
#ifndef GROUPS_MAX_HERE
#define GROUPS_MAX_HERE 2
#endif
#define PATIENCE_US 20000000ull

#if defined(__SANITIZE_THREAD__)
/* The same list as tests/tsan.supp, so that a bare run is clean: see there. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:interceptor_socket\nrace:interceptor_accept4\nrace:interceptor_epoll_ctl\nrace:interceptor_"
           "epoll_create1\nrace:interceptor_open\nrace:interceptor_eventfd\nrace:closedir\nrace:interceptor_"
           "close\n";
}
#endif

/* The state: every record's bytes in order, and a hash over records, indexes and ordinals. */
struct log_state {
    struct dn_buffer bytes; /* u64 index, u32 ordinal, blob */
    uint64_t count, hash;
    uint64_t entries; /* calls of entry_done: local, not part of the state */
    int64_t time_ms;
    _Atomic unsigned slow_us; /* a part of a record takes this long */
    unsigned parts;           /* done of the record that was begun: local */
    void (*look)(struct log_state *s, const struct dn_apply *at); /* before each part; NULL: none */
    _Atomic unsigned failing_writes;                              /* so many snapshots fail to be written */
    _Atomic unsigned write_us;                                    /* writing one takes this long */
    _Atomic unsigned writes;                                      /* snapshots begun to be written */
    bool sick;              /* this node's hash goes wrong from here on */
    _Atomic uint64_t built; /* restores */
};

static inline void log_part(struct log_state *s, const struct dn_apply *at)
{
    if (s->look != NULL) {
        s->look(s, at);
    }
    if (s->slow_us > 0) {
        usleep(s->slow_us);
    }
}

static inline void log_apply(void *state, const struct dn_apply *at, const uint8_t *record, size_t length,
                             struct dn_buffer *result)
{
    struct log_state *s = state;
    log_part(s, at);
    dn_buffer_u64(&s->bytes, at->index);
    dn_buffer_u32(&s->bytes, at->ordinal);
    dn_buffer_blob(&s->bytes, record, length);
    s->count++;
    s->hash = dn_hash64(record, length, s->hash ^ at->index ^ ((uint64_t)at->ordinal << 40));
    dn_buffer_append(result, record, length < 16 ? length : 16);
}

/* One to three of them, as the record is long. The state goes wrong when one is left out, or done twice. */
static inline bool log_apply_part(void *state, const struct dn_apply *at, const uint8_t *record,
                                  size_t length, struct dn_buffer *result)
{
    struct log_state *s = state;
    assert_int_equal(result->length, 0);
    if (s->parts < length % 3) {
        s->parts++;
        log_part(s, at);
        return false;
    }
    s->parts = 0;
    log_apply(s, at, record, length, result);
    return true;
}

static inline void log_entry_done(void *state, const struct dn_apply *at)
{
    struct log_state *s = state;
    s->entries++;
    assert_int_equal(s->parts, 0);
    assert_true(at->time_ms >= s->time_ms); /* time never runs back */
    s->time_ms = at->time_ms;
}

static inline uint64_t log_hash(void *state)
{
    struct log_state *s = state;
    return s->hash ^ (s->sick ? 0xbad : 0);
}

struct log_capture {
    uint64_t length, count, hash;
    int64_t time_ms;
    uint8_t *bytes;
};

static inline void *log_begin(void *state)
{
    struct log_state *s = state;
    struct log_capture *capture = malloc(sizeof *capture);
    assert_int_equal(s->parts, 0); /* never in the middle of a record */
    *capture =
        (struct log_capture){s->bytes.length, s->count, s->hash, s->time_ms, malloc(s->bytes.length + 1)};
    if (s->bytes.length > 0) {
        memcpy(capture->bytes, s->bytes.bytes, s->bytes.length);
    }
    return capture;
}

static inline enum dn_code log_write(void *state, void *capture, struct dn_sink *out, struct dn_error *err)
{
    struct log_capture *c = capture;
    struct log_state *s = state;
    atomic_fetch_add(&s->writes, 1);
    usleep(s->write_us);
    if (atomic_load(&s->failing_writes) > 0) {
        atomic_fetch_sub(&s->failing_writes, 1);
        dn_sink_write(out, "\0", 1);
        return dn_fail(err, DN_NO_MEMORY, "as the test wants it");
    }
    uint64_t head[4] = {c->count, c->hash, (uint64_t)c->time_ms, c->length};
    dn_sink_write(out, head, sizeof head);
    if (dn_sink_write(out, c->bytes, c->length) != DN_OK) {
        return dn_fail(err, out->code, "%s", out->error.message);
    }
    return DN_OK;
}

static inline void log_end(void *state, void *capture)
{
    struct log_capture *c = capture;
    (void)state;
    free(c->bytes);
    free(c);
}

static inline enum dn_code log_build(void *state, struct dn_source *in, void **ret_built,
                                     struct dn_error *err)
{
    struct log_state *s = state;
    struct log_capture *built = calloc(1, sizeof *built);
    uint64_t head[4] = {0};
    dn_source_read(in, head, sizeof head);
    built->count = head[0];
    built->hash = head[1];
    built->time_ms = (int64_t)head[2];
    built->length = head[3];
    if (built->length > 1u << 30) {
        free(built);
        return dn_fail(err, DN_CORRUPT, "test state of %llu bytes", (unsigned long long)head[3]);
    }
    built->bytes = malloc(built->length + 1);
    dn_source_read(in, built->bytes, built->length);
    if (dn_source_end(in) != DN_OK) {
        free(built->bytes);
        free(built);
        return dn_fail(err, in->code, "test state: %s", in->error.message);
    }
    atomic_fetch_add(&s->built, 1);
    *ret_built = built;
    return DN_OK;
}

static inline void log_install(void *state, void *built)
{
    struct log_state *s = state;
    struct log_capture *b = built;
    s->parts = 0;
    dn_buffer_clear(&s->bytes);
    dn_buffer_append(&s->bytes, b->bytes, b->length);
    s->count = b->count;
    s->hash = b->hash;
    s->time_ms = b->time_ms;
    free(b->bytes);
    free(b);
}

static inline void log_discard(void *state, void *built)
{
    log_end(state, built);
}

/* Records that begin so need it. */
#define NEWER_RECORD "newer"

static inline uint8_t log_level(const uint8_t *record, size_t length)
{
    return length >= 5 && memcmp(record, NEWER_RECORD, 5) == 0 ? DN_LEVEL : 1;
}

static inline struct dn_fsm log_fsm(struct log_state *state)
{
    return (struct dn_fsm){.state = state,
                           .apply = log_apply,
                           .apply_part = log_apply_part,
                           .level = log_level,
                           .entry_done = log_entry_done,
                           .hash = log_hash,
                           .snapshot_begin = log_begin,
                           .snapshot_write = log_write,
                           .snapshot_end = log_end,
                           .restore_build = log_build,
                           .restore_install = log_install,
                           .restore_discard = log_discard};
}

struct cluster {
    char dir[64];
    char addresses[NODES][32];
    struct dn_member members[NODES];
    unsigned nodes, groups;
    struct dn_consensus *node[NODES];
    struct log_state state[NODES][GROUPS_MAX_HERE];
    struct dn_fsm fsms[NODES][GROUPS_MAX_HERE];
    struct dn_consensus_options options; /* common part */
    uint8_t levels[NODES];               /* feature level that the node tells; 0: its own */
    bool sick_from[NODES];               /* start this node with a state machine that miscounts */
    _Atomic unsigned fatal[NODES], removed[NODES];
    _Atomic uint64_t applied_calls, leader_calls;
    struct {
        struct cluster *cluster;
        unsigned node;
    } data[NODES];
};

static inline void on_fatal(void *data, const char *reason)
{
    struct cluster *c = *(struct cluster **)data;
    unsigned node = *(unsigned *)((char *)data + sizeof(struct cluster *));
    fprintf(stderr, "# node %u fatal: %s\n", node, reason);
    atomic_fetch_add(&c->fatal[node], 1);
}

static inline void on_removed(void *data, const char *reason)
{
    struct cluster *c = *(struct cluster **)data;
    unsigned node = *(unsigned *)((char *)data + sizeof(struct cluster *));
    (void)reason;
    atomic_fetch_add(&c->removed[node], 1);
}

static inline void on_applied(void *data)
{
    struct cluster *c = *(struct cluster **)data;
    atomic_fetch_add(&c->applied_calls, 1);
}

static inline void on_leader(void *data, uint32_t group, bool leader, uint64_t term)
{
    struct cluster *c = *(struct cluster **)data;
    (void)group;
    (void)term;
    if (leader) {
        atomic_fetch_add(&c->leader_calls, 1);
    }
}

/* A port nobody listens on now. */
static inline unsigned free_port(void)
{
    unsigned port = test_free_port();
    assert_true(port != 0);
    return port;
}

static inline void cluster_init(struct cluster *c, unsigned nodes, unsigned groups)
{
    memset(c, 0, sizeof *c);
    snprintf(c->dir, sizeof c->dir, "/tmp/dn-consensus-XXXXXX");
    assert_non_null(mkdtemp(c->dir));
    assert_true(groups <= GROUPS_MAX_HERE);
    c->nodes = nodes;
    c->groups = groups;
    for (unsigned i = 0; i < nodes; i++) {
        char path[96];
        snprintf(path, sizeof path, "%s/%u", c->dir, i);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(c->addresses[i], sizeof c->addresses[i], "127.0.0.1:%u", free_port());
        c->members[i] = (struct dn_member){i + 1, c->addresses[i]};
        c->data[i].cluster = c;
        c->data[i].node = i;
    }
    c->options = (struct dn_consensus_options){.cluster_id = "test",
                                               .members = c->members,
                                               .member_count = nodes,
                                               .group_count = groups,
                                               .segment_bytes = 256 << 10,
                                               .min_free_bytes = 1 << 20,
                                               .on_fatal = on_fatal,
                                               .on_removed = on_removed,
                                               .on_applied = on_applied,
                                               .on_leader = on_leader};
    dn_log_set_level(getenv("DN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
}

static inline enum dn_code cluster_start_err(struct cluster *c, unsigned i, struct dn_error *err)
{
    struct dn_consensus_options o = c->options;
    char path[96];
    enum dn_code code;
    snprintf(path, sizeof path, "%s/%u", c->dir, i);
    o.data_dir = path;
    o.node_id = i + 1;
    o.address = i < o.member_count ? NULL : c->addresses[i]; /* one that joins */
    for (unsigned g = 0; g < c->groups; g++) {
        struct log_state *s = &c->state[i][g];
        unsigned slow = s->slow_us, write_us = s->write_us;
        void (*look)(struct log_state *, const struct dn_apply *) = s->look;
        dn_buffer_free(&s->bytes);
        memset(s, 0, sizeof *s);
        s->slow_us = slow;
        s->look = look;
        s->write_us = write_us;
        s->sick = c->sick_from[i];
        dn_buffer_init(&s->bytes, (size_t)1 << 30);
        c->fsms[i][g] = log_fsm(s);
    }
    o.fsms = c->fsms[i];
    o.level = c->levels[i];
    o.callback_data = &c->data[i];
    code = dn_consensus_start(&o, &c->node[i], err);
    if (code != DN_OK) {
        c->node[i] = NULL;
    }
    return code;
}

static inline void cluster_start(struct cluster *c, unsigned i)
{
    struct dn_error err = {0};
    if (cluster_start_err(c, i, &err) != DN_OK) {
        fail_msg("start node %u: %s", i, err.message);
    }
}

static inline void cluster_start_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->nodes; i++) {
        cluster_start(c, i);
    }
}

static inline void cluster_stop(struct cluster *c, unsigned i, unsigned transfer_ms)
{
    if (c->node[i] != NULL) {
        dn_consensus_stop(c->node[i], transfer_ms);
        dn_consensus_destroy(c->node[i]);
        c->node[i] = NULL;
    }
}

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* As when a disk is replaced by an empty one. */
static inline void cluster_wipe(struct cluster *c, unsigned i)
{
    char path[96];
    snprintf(path, sizeof path, "%s/%u", c->dir, i);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(path, 0700), 0);
}

static inline void cluster_free(struct cluster *c)
{
    for (unsigned i = 0; i < c->nodes; i++) {
        cluster_stop(c, i, 0);
    }
    for (unsigned i = 0; i < c->nodes; i++) {
        for (unsigned g = 0; g < c->groups; g++) {
            dn_buffer_free(&c->state[i][g].bytes);
        }
    }
    nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- calls that wait -------------------------------------------------------------------------------- */

struct call {
    struct dn_proposal proposal;
    struct dn_wait wait;
    _Atomic bool over;
    enum dn_code code;
    uint64_t index;
    uint8_t result[16];
    size_t result_length;
    struct dn_error err;
};

static inline void call_proposed(struct dn_proposal *p, enum dn_code code, uint64_t index,
                                 const uint8_t *result, size_t length, const struct dn_error *err)
{
    struct call *call = p->data;
    call->code = code;
    call->index = index;
    call->result_length = length;
    if (length > 0 && length <= sizeof call->result) {
        memcpy(call->result, result, length);
    }
    if (err != NULL) {
        call->err = *err;
    }
    atomic_store(&call->over, true);
}

static inline void call_waited(struct dn_wait *w, enum dn_code code, uint64_t applied,
                               const struct dn_error *err)
{
    struct call *call = w->data;
    call->code = code;
    call->index = applied;
    if (err != NULL) {
        call->err = *err;
    }
    atomic_store(&call->over, true);
}

static inline bool call_propose(struct call *call, struct dn_consensus *node, uint32_t group,
                                const void *record, size_t length, unsigned timeout_ms)
{
    memset(call, 0, sizeof *call);
    call->proposal = (struct dn_proposal){.group = group,
                                          .record = record,
                                          .length = length,
                                          .deadline_us = dn_monotonic_us() + timeout_ms * 1000ull,
                                          .done = call_proposed,
                                          .data = call};
    return dn_consensus_propose(node, &call->proposal);
}

static inline enum dn_code call_end(struct call *call)
{
    while (!atomic_load(&call->over)) {
        usleep(50);
    }
    return call->code;
}

/* What each node says of `group`: for the log of a test that is about to fail. */
static inline void cluster_tell(struct cluster *c, uint32_t group)
{
    for (unsigned i = 0; i < c->nodes; i++) {
        struct dn_group_status status;
        if (!c->node[i]) {
            print_message("# node %u is down\n", i);
            continue;
        }
        dn_consensus_status(c->node[i], group, &status);
        print_message("# node %u: %s, term %" PRIu64 ", leader %" PRIu64 ", commit %" PRIu64
                      ", applied %" PRIu64 ", first %" PRIu64 ", snapshot %" PRIu64 ", log %" PRIu64
                      " bytes, loop turned %" PRIu64 " us ago\n",
                      i, status.is_leader ? "leader" : "no leader", status.term, status.leader_id,
                      status.commit_index, status.applied_index, status.first_index, status.snapshot_index,
                      status.log_bytes, dn_consensus_loop_age_us(c->node[i]));
    }
}

static inline enum dn_code propose(struct cluster *c, unsigned node, uint32_t group, const char *text,
                                   struct call *call)
{
    assert_true(call_propose(call, c->node[node], group, text, strlen(text), 15000));
    return call_end(call);
}

static inline enum dn_code wait_for(struct cluster *c, unsigned node, uint32_t group, enum dn_wait_kind kind,
                                    uint64_t index, unsigned timeout_ms, struct call *call)
{
    memset(call, 0, sizeof *call);
    call->wait = (struct dn_wait){.group = group,
                                  .kind = kind,
                                  .index = index,
                                  .deadline_us = dn_monotonic_us() + timeout_ms * 1000ull,
                                  .done = call_waited,
                                  .data = call};
    assert_true(dn_consensus_wait(c->node[node], &call->wait));
    return call_end(call);
}

#define must(expression, call)                                                                               \
    do {                                                                                                     \
        enum dn_code code_ = (expression);                                                                   \
        if (code_ != DN_OK) {                                                                                \
            fail_msg("%s: %s: %s", #expression, dn_code_text(code_), (call)->err.message);                   \
        }                                                                                                    \
    } while (0)

/* The node that leads `group` and knows it; waits for one. */
static inline unsigned leader_of(struct cluster *c, uint32_t group)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    while (dn_monotonic_us() < until) {
        for (unsigned i = 0; i < c->nodes; i++) {
            struct dn_group_status status;
            if (c->node[i] == NULL) {
                continue;
            }
            dn_consensus_status(c->node[i], group, &status);
            if (status.is_leader) {
                return i;
            }
        }
        usleep(2000);
    }
    fail_msg("no leader of group %u", group);
    return 0;
}

/* Waits until every running node has applied what the leader has, and compares state hashes there. */
static inline void must_converge(struct cluster *c, uint32_t group)
{
    uint64_t until = dn_monotonic_us() + PATIENCE_US;
    uint64_t index[NODES], hash[NODES], count;
    struct call call;
    must(propose(c, leader_of(c, group), group, "converge", &call), &call);
    while (dn_monotonic_us() < until) {
        bool same = true;
        count = 0;
        for (unsigned i = 0; i < c->nodes; i++) {
            struct dn_group_status status;
            if (c->node[i] == NULL) {
                continue;
            }
            dn_consensus_status(c->node[i], group, &status);
            index[count] = status.hash_index;
            hash[count] = status.state_hash;
            same &= status.hash_index >= call.index && index[count] == index[0];
            count++;
        }
        if (same) {
            for (unsigned i = 1; i < count; i++) {
                if (hash[i] != hash[0]) {
                    fail_msg("hash at %llu differs", (unsigned long long)index[0]);
                }
            }
            return;
        }
        usleep(1000);
    }
    fail_msg("group %u did not converge", group);
}

#endif
