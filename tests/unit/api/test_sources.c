/* Sources, DeadLetters, and what answers say of streams that stand still: on a real one-member cluster. */
#include "services.h"

#include "session/record.h"

#define T0 INT64_C(1700000000000)

/* ---- into the log, past the API ---------------------------------------------------------------------------
 */

struct errand {
    atomic_bool done;
    enum dn_code code;
    struct dn_result result;
};

static uint8_t last_kind;

static void errand_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index,
                        const uint8_t *result, size_t length, const struct dn_error *err)
{
    struct errand *errand = proposal->data;
    (void)index, (void)err;
    errand->code = code;
    if (code == DN_OK && dn_result_parse(result, length, last_kind, &errand->result, NULL) != DN_OK)
        errand->code = DN_CORRUPT;
    atomic_store(&errand->done, true);
}

static void commit(uint32_t group, struct dn_buffer *record)
{
    struct errand errand = {.code = DN_INTERNAL};
    struct dn_proposal proposal = {.group = group,
                                   .record = record->bytes,
                                   .length = record->length,
                                   .deadline_us = dn_monotonic_us() + 10000000,
                                   .done = errand_done,
                                   .data = &errand};
    assert_false(record->failed);
    last_kind = record->bytes[0];
    assert_true(dn_consensus_propose(cluster.consensus, &proposal));
    while (!atomic_load(&errand.done))
        usleep(1000);
    assert_int_equal(errand.code, DN_OK);
    assert_int_equal(errand.result.status, DN_RESULT_OK);
    dn_buffer_free(record);
}

/* `count` events of one user from begins_at on, and the offset after them dead. */
static void stream(uint32_t group, const char *name, uint32_t partition, int64_t begins_at, size_t count)
{
    struct dn_event_in events[8];
    struct dn_dead_in dead = {.offset = (begins_at < 0 ? 0 : begins_at) + (int64_t)count,
                              .reason = DN_DEAD_UNDECODABLE};
    struct dn_buffer record;
    for (size_t i = 0; i < count; i++)
        events[i] = (struct dn_event_in){.user = {.high = 1, .low = group},
                                         .time_ms = T0 + (int64_t)i,
                                         .weight = DN_WEIGHT_ONE,
                                         .type = DN_EVENT_VIEW,
                                         .offset = (begins_at < 0 ? 0 : begins_at) + (int64_t)i,
                                         .item = "i",
                                         .item_length = 1};
    dn_buffer_init(&record, 4096);
    dn_record_stream(&record, name, partition, begins_at, dead.offset + 1, events, count, &dead, 1);
    commit(group, &record);
}

static void stall(uint32_t group, int64_t since_ms, const char *reason)
{
    struct dn_buffer record;
    dn_buffer_init(&record, 4096);
    dn_record_stall(&record, since_ms, reason);
    commit(group, &record);
}

/* ---- listing ----------------------------------------------------------------------------------------------
 */

static Dunlin__V1__ListSourcesResponse *list(void)
{
    Dunlin__V1__ListSourcesRequest request = DUNLIN__V1__LIST_SOURCES_REQUEST__INIT;
    Dunlin__V1__ListSourcesResponse *sources =
        CALL("Sources", "List", ListSourcesResponse, list_sources_response, &request);
    if (!sources)
        fail_msg("list: %d %s", last_status, last_message);
    return sources;
}

static void no_source_is_an_empty_list(void **state)
{
    (void)state;
    Dunlin__V1__ListSourcesResponse *sources = list();
    assert_int_equal(sources->n_partitions, 0);
    assert_int_equal(sources->n_troubles, 0);
    assert_int_equal(sources->n_shards, CLUSTER_SHARDS);
    assert_int_equal(sources->shards[1]->shard, 2);
    assert_int_equal(sources->shards[1]->leader_id, 1);
    assert_string_equal(sources->shards[1]->leader, "solo");
    assert_false(sources->shards[1]->stalled);
    assert_string_equal(sources->node, "solo");
    FREE(sources);
}

static void what_shards_hold_and_the_node_reads_is_joined(void **state)
{
    static struct dn_api_source_row rows[] = {
        {.source = "web",
         .stream = "web/b",
         .partition = 0,
         .group = 1,
         .state = 2,
         .next_offset = -1,
         .begin_offset = 7,
         .end_offset = 90,
         .lag_records = 83,
         .lag_ms = 1234,
         .keyed = true},
        {.source = "web",
         .stream = "web/a",
         .partition = 1,
         .group = 2,
         .state = 4,
         .next_offset = 3,
         .begin_offset = -1,
         .end_offset = -1,
         .lag_records = -1,
         .lag_ms = -1,
         .stalled = true,
         .error = "gone"},
        {.source = "web", .partition = UINT32_MAX, .group = 0, .lag_ms = 5000, .error = "no broker"},
    };

    (void)state;
    stream(2, "web/a", 1, DN_OFFSET_UNSET, 2);
    stream(1, "web/a", 1, DN_OFFSET_UNSET, 3);
    stream(1, "web/a", 0, DN_OFFSET_UNSET, 0);
    cluster.rows = rows;
    cluster.row_count = 3;
    Dunlin__V1__ListSourcesResponse *sources = list();
    assert_int_equal(sources->n_partitions, 4);
    static const struct {
        const char *stream;
        uint32_t partition, shard;
        bool known, here;
        int64_t next_offset;
    } wanted[] = {{"web/a", 0, 1, true, false, 1},
                  {"web/a", 1, 1, true, false, 4},
                  {"web/a", 1, 2, true, true, 3},
                  {"web/b", 0, 1, false, true, -1}};
    for (size_t i = 0; i < 4; i++) {
        const Dunlin__V1__SourcePartition *got = sources->partitions[i];
        assert_string_equal(got->stream, wanted[i].stream);
        assert_int_equal(got->partition, wanted[i].partition);
        assert_int_equal(got->shard, wanted[i].shard);
        assert_int_equal(got->known, wanted[i].known);
        assert_int_equal(got->read_here, wanted[i].here);
        assert_int_equal(got->next_offset, wanted[i].next_offset);
    }
    const Dunlin__V1__SourcePartition *held = sources->partitions[2], *fresh = sources->partitions[3];
    assert_int_equal(held->events, 2);
    assert_true(held->has_newest && held->newest_ms == T0 + 1);
    assert_true(held->has_watermark && held->watermark_ms < T0);
    assert_int_equal(held->state, DUNLIN__V1__PARTITION_STATE__PARTITION_STATE_GAP);
    assert_true(held->stalled);
    assert_string_equal(held->error, "gone");
    assert_int_equal(held->lag_records, -1);
    assert_false(sources->partitions[0]->has_newest); /* nothing but a dead letter came */
    assert_int_equal(sources->partitions[0]->lag_ms, -1);
    assert_string_equal(fresh->source, "web");
    assert_true(fresh->keyed);
    assert_int_equal(fresh->begin_offset, 7);
    assert_int_equal(fresh->end_offset, 90);
    assert_int_equal(fresh->lag_records, 83);
    assert_int_equal(fresh->lag_ms, 1234);
    assert_false(fresh->has_watermark);
    assert_int_equal(sources->n_troubles, 1);
    assert_string_equal(sources->troubles[0]->source, "web");
    assert_string_equal(sources->troubles[0]->error, "no broker");
    assert_int_equal(sources->troubles[0]->age_ms, 5000);
    FREE(sources);
}

/* ---- an operator's word -----------------------------------------------------------------------------------
 */

static Dunlin__V1__SetSourceRequest set_request(const char *name, uint32_t partition, int64_t next_offset)
{
    Dunlin__V1__SetSourceRequest request = DUNLIN__V1__SET_SOURCE_REQUEST__INIT;
    request.stream = text(name);
    request.partition = partition;
    request.next_offset = next_offset;
    return request;
}

static Dunlin__V1__SetSourceResponse *set(const Dunlin__V1__SetSourceRequest *request)
{
    Dunlin__V1__SetSourceResponse *response =
        CALL("Sources", "Set", SetSourceResponse, set_source_response, request);
    if (!response)
        fail_msg("set: %d %s", last_status, last_message);
    return response;
}

static void offsets_are_set(void **state)
{
    (void)state;
    Dunlin__V1__SetSourceRequest request = set_request("web/a", 1, 50);
    Dunlin__V1__SetSourceResponse *moved = set(&request);
    assert_int_equal(moved->n_moves, 2); /* the shards that know it */
    assert_true(moved->moves[0]->done && moved->moves[1]->done);
    assert_int_equal(moved->moves[0]->shard, 1);
    assert_int_equal(moved->moves[0]->old_offset, 4);
    assert_int_equal(moved->moves[1]->old_offset, 3);
    assert_int_equal(moved->moves[1]->new_offset, 50);
    assert_true(moved->token.len > 0);
    FREE(moved);
    request = set_request("web/a", 1, 49);
    request.forward_only = true;
    moved = set(&request);
    assert_false(moved->moves[0]->done || moved->moves[1]->done);
    assert_int_equal(moved->moves[1]->old_offset, 50);
    assert_string_equal(moved->moves[1]->message, "it is at offset 50 by now, and stays there");
    FREE(moved);
    uint32_t only[] = {2};
    request = set_request("web/a", 1, DN_OFFSET_UNSET);
    request.n_shards = 1;
    request.shards = only;
    request.forget_watermark = true;
    moved = set(&request);
    assert_int_equal(moved->n_moves, 1);
    assert_int_equal(moved->moves[0]->shard, 2);
    assert_int_equal(moved->moves[0]->old_offset, 50);
    FREE(moved);
    Dunlin__V1__ListSourcesResponse *sources = list();
    assert_int_equal(sources->partitions[1]->next_offset, 50);
    assert_true(sources->partitions[1]->has_watermark);
    assert_false(sources->partitions[2]->known);
    assert_int_equal(sources->partitions[2]->next_offset, -1);
    assert_false(sources->partitions[2]->has_watermark);
    FREE(sources);
    /* Known by what the node reads alone: nothing was counted yet. */
    request = set_request("web/b", 0, 7);
    moved = set(&request);
    assert_int_equal(moved->n_moves, 1);
    assert_int_equal(moved->moves[0]->old_offset, -1);
    FREE(moved);
}

/* What is no more gives its places back; what this node reads does not. */
static void streams_that_are_over_are_finished(void **state)
{
    static const char path[] = "/dunlin.v1.Sources/Set";
    (void)state;
    stream(1, "old/x", 0, DN_OFFSET_UNSET, 2);
    stream(2, "old/x", 0, DN_OFFSET_UNSET, 5);
    stream(2, "old/x", UINT32_MAX, DN_OFFSET_UNSET, 0);
    Dunlin__V1__SetSourceRequest request = set_request("old/x", 0, 7);
    request.finished = true;
    refused(path, &request, 3, "finished: goes without next_offset");
    request.next_offset = 0;
    cluster.has = "old/x";
    refused(path, &request, 9, "it is one of this node's sources");
    cluster.has = NULL;
    Dunlin__V1__SetSourceResponse *moved = set(&request);
    assert_int_equal(moved->n_moves, 2);
    assert_true(moved->moves[0]->done && moved->moves[1]->done);
    assert_int_equal(moved->moves[0]->old_offset, 3); /* each shard's own */
    assert_int_equal(moved->moves[1]->old_offset, 6);
    FREE(moved);
    request.partition = UINT32_MAX;
    moved = set(&request);
    assert_int_equal(moved->n_moves, 1);
    assert_true(moved->moves[0]->done);
    FREE(moved);
    Dunlin__V1__ListSourcesResponse *sources = list();
    for (size_t i = 0; i < sources->n_partitions; i++) {
        bool is = strcmp(sources->partitions[i]->stream, "old/x") == 0;
        assert_int_equal(sources->partitions[i]->finished, is);
    }
    FREE(sources);
    stream(1, "old/x", 0, 3, 1); /* somebody read it all the same */
    sources = list();
    assert_false(sources->partitions[0]->finished);
    assert_true(sources->partitions[1]->finished);
    FREE(sources);
}

static void wrong_words_are_refused(void **state)
{
    static const char path[] = "/dunlin.v1.Sources/Set";
    char longest[DN_SOURCE_MAX + 2];
    uint32_t shard_list[] = {1, 1, 2};
    Dunlin__V1__SetSourceRequest request;

    (void)state;
    request = set_request("", 0, 1);
    refused(path, &request, 3, "stream: 0 bytes");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    request = set_request(longest, 0, 1);
    refused(path, &request, 3, "stream: 65 bytes");
    request = set_request("web/a", 1, -2);
    refused(path, &request, 3, "next_offset: -2");
    request = set_request("web/a", UINT32_MAX, -1);
    refused(path, &request, 3, "partition: 4294967295 is the mark");
    request = set_request("@2", UINT32_MAX - 1, 7);
    refused(path, &request, 3, "is the word of a node");
    request = set_request("web/a", 1, -1);
    request.forward_only = true;
    refused(path, &request, 3, "forward_only");
    request = set_request("web/c", 0, 1);
    refused(path, &request, 5, "no shard knows partition 0 of 'web/c'");
    request = set_request("web/a", 2, 1);
    refused(path, &request, 5, "no shard knows partition 2 of 'web/a'");
    request = set_request("web/a", 1, 1);
    request.shards = shard_list;
    request.n_shards = 2;
    refused(path, &request, 3, "shards[1]: 1 stands there twice");
    request.n_shards = 3;
    refused(path, &request, 3, "shards: 3 of them; there are 2");
    request = set_request("web/a", 0, 1);
    request.shards = shard_list + 2;
    request.n_shards = 1;
    refused(path, &request, 5, "shard 2 knows no partition 0");
    shard_list[2] = 77;
    refused(path, &request, 5, "shard 77 knows no partition 0");
    Dunlin__V1__ListSourcesResponse *sources = list();
    assert_int_equal(sources->n_partitions, 4); /* nothing was made by a slip */
    FREE(sources);
}

/* ---- dead letters -----------------------------------------------------------------------------------------
 */

static Dunlin__V1__ListDeadLettersResponse *letters(uint32_t shard, uint32_t max)
{
    Dunlin__V1__ListDeadLettersRequest request = DUNLIN__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
    request.shard = shard;
    request.max = max;
    Dunlin__V1__ListDeadLettersResponse *response =
        CALL("DeadLetters", "List", ListDeadLettersResponse, list_dead_letters_response, &request);
    if (!response)
        fail_msg("letters: %d %s", last_status, last_message);
    return response;
}

static void dead_letters_are_listed(void **state)
{
    struct dn_buffer record;

    (void)state;
    Dunlin__V1__ListDeadLettersResponse *got = letters(0, 0);
    assert_int_equal(got->n_shards, 2);
    assert_int_equal(got->n_letters, 3);
    assert_int_equal(got->letters[0]->shard, 1);
    assert_int_equal(got->letters[0]->number, 0);
    assert_string_equal(got->letters[0]->reason, "undecodable");
    assert_string_equal(got->letters[0]->stream, "web/a");
    assert_int_equal(got->letters[0]->partition, 1);
    assert_int_equal(got->letters[0]->offset, 3);
    assert_true(got->letters[0]->judged_ms > T0);
    assert_int_equal(got->letters[2]->shard, 2);
    assert_int_equal(got->shards[0]->waiting, 2);
    assert_int_equal(got->shards[0]->written, 0);
    assert_int_equal(got->shards[0]->n_counts, 1);
    assert_string_equal(got->shards[0]->counts[0]->reason, "undecodable");
    assert_int_equal(got->shards[0]->counts[0]->count, 2);
    FREE(got);
    got = letters(1, 1);
    assert_int_equal(got->n_shards, 1);
    assert_int_equal(got->n_letters, 1);
    FREE(got);
    dn_buffer_init(&record, 100);
    dn_record_dead_written(&record, 1);
    commit(1, &record);
    got = letters(1, 1000);
    assert_int_equal(got->n_letters, 1);
    assert_int_equal(got->letters[0]->number, 1);
    assert_int_equal(got->shards[0]->waiting, 1);
    assert_int_equal(got->shards[0]->written, 1);
    assert_int_equal(got->shards[0]->counts[0]->count, 2);
    FREE(got);
    Dunlin__V1__ListDeadLettersRequest request = DUNLIN__V1__LIST_DEAD_LETTERS_REQUEST__INIT;
    request.shard = 3;
    refused("/dunlin.v1.DeadLetters/List", &request, 3, "shard: 3; from 1 to 2");
    request.shard = 1;
    request.max = 1001;
    refused("/dunlin.v1.DeadLetters/List", &request, 3, "max: 1001; at most 1000");
}

/* ---- streams that stand still
 * ------------------------------------------------------------------------------ */

static const char *user_of(uint32_t group)
{
    static char name[16];
    for (int i = 0;; i++) {
        int length = snprintf(name, sizeof name, "u%d", i);
        if (dn_api_shard_of(name, (size_t)length, CLUSTER_SHARDS) == group)
            return name;
    }
}

static Dunlin__V1__StatusResponse *status_now(void)
{
    Dunlin__V1__StatusRequest request = DUNLIN__V1__STATUS_REQUEST__INIT;
    Dunlin__V1__StatusResponse *status = CALL("Cluster", "Status", StatusResponse, status_response, &request);
    assert_non_null(status);
    return status;
}

static void answers_say_that_streams_stand_still(void **state)
{
    (void)state;
    Dunlin__V1__TrendingRequest trending = DUNLIN__V1__TRENDING_REQUEST__INIT;
    trending.k = 1;
    stall(2, dn_wall_ms() - 60000, "web: no broker");
    Dunlin__V1__GetSessionResponse *session = session_get(user_of(2), NULL);
    assert_true(session->freshness->stream_stalled && session->freshness->stale);
    assert_true(session->freshness->stream_age_ms >= 60000 && session->freshness->stream_age_ms < 600000);
    FREE(session);
    session = session_get(user_of(1), NULL); /* its shard's streams run */
    assert_false(session->freshness->stream_stalled);
    assert_int_equal(session->freshness->stream_age_ms, 0);
    FREE(session);
    Dunlin__V1__ItemsResponse *items =
        CALL("Recommendations", "Trending", ItemsResponse, items_response, &trending);
    assert_non_null(items);
    assert_true(items->freshness->stream_stalled); /* it looks at every shard */
    FREE(items);
    Dunlin__V1__StatusResponse *status = status_now();
    assert_true(status->ready);
    assert_non_null(strstr(status->stream_reason, "shard 2: its streams stand still for "));
    assert_non_null(strstr(status->stream_reason, "web: no broker"));
    assert_false(status->groups[1]->stream_stalled);
    assert_true(status->groups[2]->stream_stalled);
    assert_string_equal(status->groups[2]->stream_reason, "web: no broker");
    assert_true(status->groups[2]->stream_age_ms >= 60000);
    assert_int_equal(status->groups[1]->dead_waiting, 1);
    FREE(status);
    Dunlin__V1__ListSourcesResponse *sources = list();
    assert_true(sources->shards[1]->stalled && sources->shards[1]->stalled_ms >= 60000);
    assert_string_equal(sources->shards[1]->reason, "web: no broker");
    assert_false(sources->shards[0]->stalled);
    FREE(sources);
    stall(2, 0, "");
    session = session_get(user_of(2), NULL);
    assert_false(session->freshness->stream_stalled);
    FREE(session);
    status = status_now();
    assert_string_equal(status->stream_reason, "");
    FREE(status);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_source_is_an_empty_list),
        cmocka_unit_test(what_shards_hold_and_the_node_reads_is_joined),
        cmocka_unit_test(offsets_are_set),
        cmocka_unit_test(wrong_words_are_refused),
        cmocka_unit_test(dead_letters_are_listed),
        cmocka_unit_test(answers_say_that_streams_stand_still),
        cmocka_unit_test(streams_that_are_over_are_finished),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
