/* For the tests of the ingest thread: what their fake drivers and fake consensus have in common. The test
 * defines the functions that are only declared here. */
#ifndef DN_TESTS_UNIT_INGEST_INGEST_RIG_H
#define DN_TESTS_UNIT_INGEST_INGEST_RIG_H

#include "base/clock.h"
#include "base/log.h"
#include "ingest/ingest.h"
#include "tests/unit/session/harness.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define STREAM "clicks/web" /* the only one */

/* ---- the driver ------------------------------------------------------------------------------------- */

static enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err);
static void fake_close(void *self);
static uint32_t fake_partitions(void); /* how many there are now */
static enum dn_code fake_start(void *self, size_t stream, uint32_t p, int64_t offset, struct dn_error *err);
static void fake_stop(void *self, size_t stream, uint32_t p);
static size_t fake_read(void *self, size_t stream, uint32_t p, struct dn_message *ret, size_t max);
static void fake_status(void *self, size_t stream, uint32_t p, struct dn_partition_status *ret);
static int64_t fake_contents(void *self, size_t stream);

static size_t fake_streams(void *self, struct dn_stream_info *ret, size_t max)
{
    (void)self;
    assert_true(max >= 1);
    if (fake_partitions() == 0) /* the source is not in touch yet */
        return 0;
    *ret = (struct dn_stream_info){.stream = STREAM, .partition_count = fake_partitions()};
    return 1;
}

static int64_t fake_trouble(void *self, char ret_text[DN_SOURCE_TEXT_MAX])
{
    (void)self;
    ret_text[0] = 0;
    return 0;
}

static void fake_release(void *self, size_t stream, uint32_t p)
{
    (void)self;
    (void)stream;
    (void)p;
}

static const struct dn_source_driver *fake_driver(enum dn_source_kind kind)
{
    static const struct dn_source_driver FAKE = {.kind = "fake",
                                                 .open = fake_open,
                                                 .close = fake_close,
                                                 .streams = fake_streams,
                                                 .trouble = fake_trouble,
                                                 .start = fake_start,
                                                 .stop = fake_stop,
                                                 .read = fake_read,
                                                 .release = fake_release,
                                                 .contents = fake_contents,
                                                 .status = fake_status};

    (void)kind;
    return &FAKE;
}

/* ---- proposals that wait ---------------------------------------------------------------------------- */

#define PROPOSALS_MAX 64

struct pending {
    struct dn_proposal *proposal; /* NULL: its answer was lost, it may be applied all the same */
    uint8_t *record;              /* a copy, which is freed with it */
    size_t length;
    uint32_t group;
};

struct proposals { /* under a lock of the test's */
    struct pending list[PROPOSALS_MAX];
    size_t count;
};

static inline bool proposals_put(struct proposals *proposals, struct dn_proposal *proposal)
{
    if (proposals->count == PROPOSALS_MAX)
        return false;
    struct pending *one = &proposals->list[proposals->count++];
    *one = (struct pending){.proposal = proposal, .length = proposal->length, .group = proposal->group};
    one->record = malloc(proposal->length);
    memcpy(one->record, proposal->record, proposal->length);
    return true;
}

/* The oldest; false: there is none. */
static inline bool proposals_take(struct proposals *proposals, struct pending *ret)
{
    if (proposals->count == 0)
        return false;
    *ret = proposals->list[0];
    memmove(proposals->list, proposals->list + 1, --proposals->count * sizeof *ret);
    return true;
}

/* ---- the thread ------------------------------------------------------------------------------------- */

static bool target_propose(void *data, struct dn_proposal *proposal);
static bool target_leads(void *data, uint32_t group);
static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset);
static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1]);

static struct dn_source_config configuration(void)
{
    return (struct dn_source_config){.name = "clicks",
                                     .message_bytes = 65536,
                                     .batch_events = 100,
                                     .batch_bytes = 65536,
                                     .batch_ms = 2,
                                     .inflight_batches = 1};
}

/* data: the target's. */
static struct dn_ingest *start_ingest(const struct dn_source_config *config, uint32_t shards,
                                      uint64_t node_id, uint64_t stall_ms, void *data,
                                      const uint8_t hash_key[DN_HASH_KEY_BYTES], struct dn_metrics *metrics)
{
    struct dn_ingest_options options = {
        .sources = config,
        .source_count = 1,
        .shard_count = shards,
        .node_id = node_id,
        .data_dir = ".",
        .stall_ms = stall_ms,
        .driver = fake_driver,
        .metrics = metrics,
        .target = {.data = data,
                   .propose = target_propose,
                   .leads = target_leads,
                   .next_offset = target_next_offset,
                   .stalled = target_stalled},
    };
    struct dn_ingest *ingest = NULL;
    struct dn_error err = {0};

    memcpy(options.hash_key, hash_key, DN_HASH_KEY_BYTES);
    CHECK(dn_ingest_start(&options, &ingest, &err) == DN_OK, "%s", err.message);
    return ingest;
}

#endif
