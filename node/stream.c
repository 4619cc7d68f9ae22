/* The streams of a node: ingest and dead letters put between the configuration and the replicated state.
 *
 * Invariants:
 *  1. Nothing is read before the cluster's facts are known to be this node's: with another key, users would
 *     be hashed to other users (steward.c).
 *  2. What asks the state has an epoch reader of its own: one for the ingest thread, one for the thread of
 *     dead letters, and the main thread's.
 *  3. Both threads have ended before consensus stops, and their memory is freed after it: by then it has
 *     completed every proposal of theirs. */
#include "node/node.h"

#include "base/clock.h"
#include "base/log.h"
#include "ingest/deadletter.h"
#include "ingest/reader.h"
#include "ingest/schema.h"
#include "ingest/source.h"
#include "session/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STOP_MS = 1000, STALL_US = 2000000, STALL_BYTES_MAX = 256 };

struct asker { /* what one thread needs to ask the state */
    struct dn_node *node;
    struct dn_epoch_reader *reader;
};

struct errand { /* what nobody else would take back, where no source is configured */
    struct dn_proposal proposal;
    struct dn_buffer record;
    atomic_bool in_flight;
};

struct dn_streams {
    struct dn_node *node;
    struct asker ingest_asks, letters_ask;
    _Atomic(struct dn_ingest *) ingest;
    _Atomic(struct dn_deadletters *) letters;
    bool started;
    struct errand stalls[DN_SHARDS_MAX], words[DN_SHARDS_MAX];
};

/* ---- the replicated state, for the threads of ingest ----------------------------------------------------
 */

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    const struct asker *asker = data;

    return dn_consensus_propose(atomic_load(&asker->node->consensus), proposal);
}

static bool target_leads(void *data, uint32_t group)
{
    const struct asker *asker = data;
    struct dn_group_status status;

    dn_consensus_status(atomic_load(&asker->node->consensus), group, &status);
    return status.is_leader;
}

static const struct dn_shard *shard_of(const struct asker *asker, uint32_t group)
{
    DN_ASSERT(group >= 1 && group <= asker->node->shard_count);
    return asker->node->shards[group - 1];
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset)
{
    const struct asker *asker = data;

    dn_epoch_enter(asker->reader);
    bool known = dn_shard_next_offset(shard_of(asker, group), stream, partition, ret_next_offset);
    dn_epoch_leave(asker->reader);
    return known;
}

static bool target_finished(void *data, uint32_t group, const char *stream, uint32_t partition)
{
    const struct asker *asker = data;

    dn_epoch_enter(asker->reader);
    bool finished = dn_shard_source_finished(shard_of(asker, group), stream, partition);
    dn_epoch_leave(asker->reader);
    return finished;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    const struct asker *asker = data;

    dn_epoch_enter(asker->reader);
    int64_t since_ms = dn_shard_stalled(shard_of(asker, group), ret_reason);
    dn_epoch_leave(asker->reader);
    return since_ms;
}

static size_t target_dead_letters(void *data, uint32_t group, uint64_t from, struct dn_dead_letter *ret,
                                  size_t max)
{
    const struct asker *asker = data;

    dn_epoch_enter(asker->reader);
    size_t count = dn_shard_dead_letters(shard_of(asker, group), from, ret, max);
    dn_epoch_leave(asker->reader);
    return count;
}

static bool target_age(void *data, uint32_t group, uint64_t *ret_age_us)
{
    const struct asker *asker = data;

    return dn_consensus_age_us(atomic_load(&asker->node->consensus), group, ret_age_us);
}

static size_t target_members(void *data, uint64_t ret_node_ids[DN_MEMBERS_MAX])
{
    const struct asker *asker = data;
    struct dn_members now;
    size_t count = 0;

    dn_consensus_members(atomic_load(&asker->node->consensus), &now);
    for (size_t i = 0; i < now.count; i++)
        if (now.members[i].role != DN_ROLE_WAITING && now.members[i].role != DN_ROLE_LEAVING)
            ret_node_ids[count++] = now.members[i].node_id;
    return count;
}

static struct dn_ingest_target target_of(struct asker *asker)
{
    return (struct dn_ingest_target){
        .data = asker,
        .propose = target_propose,
        .leads = target_leads,
        .next_offset = target_next_offset,
        .finished = target_finished,
        .stalled = target_stalled,
        .dead_letters = target_dead_letters,
        .members = target_members,
        .age_us = target_age,
    };
}

/* ---- life -----------------------------------------------------------------------------------------------
 */

enum dn_code dn_streams_check(const struct dn_config *config, struct dn_error *err)
{
    for (size_t i = 0; i < config->source_count; i++) {
        struct dn_schema *schema = NULL;
        enum dn_code code = dn_schema_create(&config->sources[i], &schema, err);

        if (code != DN_OK)
            return code; /* it names the source */
        dn_schema_destroy(schema);
        code = (config->sources[i].kind == DN_SOURCE_KAFKA ? &dn_source_kafka : &dn_source_file)
                   ->check(&config->sources[i], err);
        if (code != DN_OK)
            return code;
    }
    return DN_OK;
}

struct dn_streams *dn_streams_create(struct dn_node *node)
{
    struct dn_streams *streams = calloc(1, sizeof(*streams));

    if (!streams)
        return NULL;
    streams->node = node;
    streams->ingest_asks.node = streams->letters_ask.node = node;
    streams->ingest_asks.reader = dn_epoch_register(node->epoch);
    streams->letters_ask.reader = dn_epoch_register(node->epoch);
    if (streams->ingest_asks.reader && streams->letters_ask.reader)
        return streams;
    dn_streams_destroy(streams);
    return NULL;
}

void dn_streams_destroy(struct dn_streams *streams)
{
    if (!streams)
        return;
    dn_deadletters_destroy(atomic_load(&streams->letters));
    dn_ingest_destroy(atomic_load(&streams->ingest));
    if (streams->ingest_asks.reader)
        dn_epoch_unregister(streams->ingest_asks.reader);
    if (streams->letters_ask.reader)
        dn_epoch_unregister(streams->letters_ask.reader);
    for (size_t i = 0; i < DN_SHARDS_MAX; i++) {
        dn_buffer_free(&streams->stalls[i].record);
        dn_buffer_free(&streams->words[i].record);
    }
    free(streams);
}

static enum dn_code start(struct dn_streams *streams, struct dn_error *err)
{
    struct dn_node *node = streams->node;
    struct dn_ingest *ingest = NULL;
    struct dn_deadletters *letters = NULL;
    struct dn_ingest_options options = {
        .sources = node->config->sources,
        .source_count = node->config->source_count,
        .shard_count = node->shard_count,
        .node_id = node->config->node.id,
        .data_dir = node->config->node.data_dir,
        .stall_ms = node->config->freshness_alarm_ms,
        .target = target_of(&streams->letters_ask),
        .metrics = node->metrics,
    };

    memcpy(options.hash_key, node->hash_key, sizeof(options.hash_key));
    /* First those who take dead letters away, then the one who makes them. */
    enum dn_code code = dn_deadletters_start(&options, &letters, err);
    if (code != DN_OK)
        return dn_wrap(err, code, "dead letters");
    atomic_store(&streams->letters, letters);
    options.target = target_of(&streams->ingest_asks);
    code = dn_ingest_start(&options, &ingest, err);
    if (code != DN_OK)
        return dn_wrap(err, code, "sources");
    atomic_store(&streams->ingest, ingest);
    for (size_t i = 0; i < options.source_count; i++)
        dn_info("node", "source %s: %s, %zu %s", options.sources[i].name,
                options.sources[i].kind == DN_SOURCE_KAFKA ? "kafka" : "file", options.sources[i].list_count,
                options.sources[i].kind == DN_SOURCE_KAFKA ? "topics" : "paths");
    return DN_OK;
}

void dn_streams_stop(struct dn_streams *streams)
{
    struct dn_ingest *ingest = atomic_load(&streams->ingest);
    struct dn_deadletters *letters = atomic_load(&streams->letters);

    if (ingest)
        dn_ingest_stop(ingest, STOP_MS);
    if (letters)
        dn_deadletters_stop(letters, STOP_MS);
}

void dn_streams_wake(struct dn_streams *streams)
{
    struct dn_ingest *ingest = atomic_load(&streams->ingest);
    struct dn_deadletters *letters = atomic_load(&streams->letters);

    if (ingest)
        dn_ingest_wake(ingest);
    if (letters)
        dn_deadletters_wake(letters);
}

/* ---- what nobody would take back ------------------------------------------------------------------------
 */

static void on_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                    size_t length, const struct dn_error *err)
{
    struct errand *errand = proposal->data;

    (void)index;
    (void)result;
    (void)length;
    if (code != DN_OK)
        dn_debug("node", "group %u: taking back what was said of its streams: %s", proposal->group,
                 err ? err->message : dn_code_text(code));
    atomic_store(&errand->in_flight, false);
}

/* The record is written, and `in_flight` set. */
static void run_errand(struct dn_streams *streams, struct errand *errand, uint32_t group)
{
    errand->proposal = (struct dn_proposal){
        .group = group,
        .record = errand->record.bytes,
        .length = errand->record.length,
        .deadline_us = dn_monotonic_us() + STALL_US,
        .done = on_done,
        .data = errand,
    };
    if (errand->record.failed ||
        !dn_consensus_propose(atomic_load(&streams->node->consensus), &errand->proposal))
        atomic_store(&errand->in_flight, false);
}

/* "The streams stand still" stays in the state until their leader takes it back. Where no source is
 * configured any more there is nobody who would: every answer would be called stale for ever. */
static void take_back_stall(struct dn_streams *streams, uint32_t group)
{
    struct errand *errand = &streams->stalls[group - 1];
    char reason[DN_STALL_REASON_MAX + 1];

    dn_epoch_enter(streams->node->reader);
    int64_t since_ms = dn_shard_stalled(streams->node->shards[group - 1], reason);
    dn_epoch_leave(streams->node->reader);
    if (since_ms == 0 || atomic_exchange(&errand->in_flight, true))
        return;
    dn_info("node", "group %u: no source is configured: its streams stand still no longer (%s)", group,
            reason);
    dn_buffer_free(&errand->record);
    dn_buffer_init(&errand->record, STALL_BYTES_MAX);
    dn_record_stall(&errand->record, 0, "");
    run_errand(streams, errand, group);
}

static bool has_word(struct dn_streams *streams, uint32_t group, const char *name, uint32_t partition)
{
    int64_t ignored;

    dn_epoch_enter(streams->node->reader);
    bool known = dn_shard_next_offset(streams->node->shards[group - 1], name, partition, &ignored);
    dn_epoch_leave(streams->node->reader);
    return known;
}

/* This node read streams of its own once, and others would wait for its word (ingest/reader.h). */
static void take_back_word(struct dn_streams *streams, uint32_t group)
{
    struct errand *errand = &streams->words[group - 1];
    char name[DN_READER_NAME_MAX];
    uint32_t partition = DN_READER_HEARD;

    dn_reader_name(streams->node->config->node.id, name);
    if (!has_word(streams, group, name, partition))
        partition = DN_READER_STANDS;
    if (!has_word(streams, group, name, partition) || atomic_exchange(&errand->in_flight, true))
        return;
    dn_buffer_free(&errand->record);
    dn_buffer_init(&errand->record, STALL_BYTES_MAX);
    dn_record_source(&errand->record, name, partition, DN_OFFSET_UNSET, false);
    run_errand(streams, errand, group);
}

enum dn_code dn_streams_turn(struct dn_streams *streams, struct dn_error *err)
{
    struct dn_node *node = streams->node;

    if (!atomic_load(&node->facts_known))
        return DN_OK;
    if (node->config->source_count > 0) {
        if (streams->started)
            return DN_OK;
        streams->started = true;
        return start(streams, err);
    }
    for (uint32_t group = 1; group <= node->shard_count; group++) {
        take_back_word(streams, group);
        if (target_leads(&streams->ingest_asks, group))
            take_back_stall(streams, group);
    }
    return DN_OK;
}

/* ---- looking at them ------------------------------------------------------------------------------------
 */

uint64_t dn_streams_loop_age_us(const struct dn_streams *streams)
{
    const struct dn_ingest *ingest = atomic_load(&streams->ingest);

    return ingest ? dn_ingest_loop_age_us(ingest) : 0;
}

size_t dn_streams_rows(struct dn_streams *streams, struct dn_ingest_row *ret, size_t max)
{
    struct dn_ingest *ingest = atomic_load(&streams->ingest);

    return ingest ? dn_ingest_rows(ingest, ret, max) : 0;
}

bool dn_streams_has(struct dn_streams *streams, const char *stream)
{
    struct dn_ingest *ingest = atomic_load(&streams->ingest);

    return ingest && dn_ingest_has(ingest, stream);
}

int64_t dn_streams_letters_trouble(struct dn_streams *streams, char ret_text[DN_SOURCE_TEXT_MAX])
{
    struct dn_deadletters *letters = atomic_load(&streams->letters);

    ret_text[0] = 0;
    return letters ? dn_deadletters_trouble(letters, ret_text) : 0;
}
