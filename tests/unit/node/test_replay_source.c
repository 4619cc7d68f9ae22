/* Sessions from the history of sources are those of shards that were fed the same events live, with other
 * batches and in another order of partitions. */
#include "replay_rig.h"

#define BATCH_MAX 50

/* ---- living  ---------------------------------------------------------------------------- */

/* The canonical form, malloc'ed. */
static char *dump(struct dn_replay_state *state)
{
    struct dn_replay_dump_options how = {.idle_ms = options.settings.idle_ms};
    struct dn_error err = {0};
    char *text = NULL;
    size_t length = 0;
    uint64_t users;
    FILE *out = open_memstream(&text, &length);

    assert_non_null(out);
    assert_int_equal(dn_replay_dump(state, &how, out, &users, &err), DN_OK);
    fclose(out);
    return text;
}

struct live { /* shards as a cluster has them */
    struct dn_replay_state state;
    int64_t next_offset[PARTITIONS][SHARDS];
    int64_t judged_ms[PARTITIONS][SHARDS]; /* a plain model of the watermark */
    size_t at[PARTITIONS];
    int64_t now_ms;
    uint64_t index, accepted, late, beyond;
};

/* A batch of at most `most` messages of the partition, for each shard what is its own. */
static void live_batch(struct live *live, uint32_t p, size_t most, bool all)
{
    static struct dn_event_in events[SHARDS][BATCH_MAX];
    size_t counts[SHARDS] = {0}, from = live->at[p];
    struct dn_buffer record, answer;

    for (size_t i = 0; i < most && live->at[p] < partitions[p].count; i++, live->at[p]++) {
        const struct sent *sent = &partitions[p].sent[live->at[p]];
        if (!sent->is_event)
            continue;
        uint32_t shard = dn_shard_of_user(sent->user, strlen(sent->user), SHARDS) - 1;
        int64_t *judged_ms = &live->judged_ms[p][shard];
        if (sent->time_ms < *judged_ms) {
            live->late += all || sent->time_ms <= options.until_ms;
            if (!all)
                continue;
        } else if (sent->time_ms - options.settings.lateness_ms > *judged_ms) {
            *judged_ms = sent->time_ms - options.settings.lateness_ms;
        }
        if (sent->time_ms > options.until_ms) {
            live->beyond++;
            continue;
        }
        live->now_ms = sent->time_ms > live->now_ms ? sent->time_ms : live->now_ms;
        events[shard][counts[shard]++] = (struct dn_event_in){.user = hash_of(sent->user),
                                                              .time_ms = sent->time_ms,
                                                              .weight = DN_WEIGHT_ONE,
                                                              .type = sent->type,
                                                              .offset = 10 * (int64_t)live->at[p],
                                                              .item = sent->item,
                                                              .item_length = (uint16_t)strlen(sent->item)};
    }
    live->now_ms += (int64_t)test_random_below(&rng, 5000); /* it was written, and read a moment later */
    for (uint32_t shard = 0; shard < SHARDS && live->at[p] > from; shard++) {
        struct dn_result result;
        int64_t next_offset = 10 * (int64_t)live->at[p];
        dn_buffer_init(&record, 1 << 20);
        dn_buffer_init(&answer, 1 << 20);
        dn_record_stream(&record, "s/topic", p, live->next_offset[p][shard], next_offset, events[shard],
                         counts[shard], NULL, 0);
        dn_shard_apply(live->state.seats[shard].shard, ++live->index, 0, live->now_ms, record.bytes,
                       record.length, &answer);
        dn_shard_entry_done(live->state.seats[shard].shard, live->index, live->now_ms);
        assert_int_equal(dn_result_parse(answer.bytes, answer.length, DN_RECORD_STREAM, &result, NULL),
                         DN_OK);
        assert_int_equal(result.status, DN_RESULT_OK);
        for (uint32_t i = 0; i < result.count; i++)
            live->accepted += result.outcomes[i] == DN_OUTCOME_ACCEPTED;
        live->next_offset[p][shard] = next_offset;
        dn_buffer_free(&record);
        dn_buffer_free(&answer);
    }
}

static void live_settings(struct live *live)
{
    struct dn_buffer record, answer;

    dn_buffer_init(&record, 1 << 10);
    dn_buffer_init(&answer, 1 << 10);
    dn_record_settings(&record, &options.settings);
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        dn_shard_apply(live->state.seats[shard].shard, ++live->index, 0, BEGIN_MS, record.bytes,
                       record.length, &answer);
        dn_shard_entry_done(live->state.seats[shard].shard, live->index, BEGIN_MS);
    }
    dn_buffer_free(&record);
    dn_buffer_free(&answer);
}

/* Everything, partitions in turn at random. all: late events too, for the state machine to judge. */
static void live_run(struct live *live, bool all)
{
    struct dn_error err = {0};
    size_t left = 0;

    *live = (struct live){.now_ms = BEGIN_MS};
    assert_int_equal(dn_replay_state_open(&live->state, SHARDS, &err), DN_OK);
    for (uint32_t p = 0; p < partition_count; p++) {
        left += partitions[p].count;
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            live->next_offset[p][shard] = DN_OFFSET_UNSET;
            live->judged_ms[p][shard] = INT64_MIN;
        }
    }
    live_settings(live);
    while (left > 0) {
        uint32_t p = (uint32_t)test_random_below(&rng, partition_count);
        size_t from = live->at[p];
        live_batch(live, p, 1 + test_random_below(&rng, BATCH_MAX), all);
        left -= live->at[p] - from;
    }
}

/* ---- sessions ----------------------------------------------------------------------------------------- */

static void sessions_are_those_of_a_live_shard(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 4; round++) {
        struct dn_replay_state state;
        struct dn_replay_source_result result;
        struct live live;

        begin(1 + round);
        options.batch_events = round == 1 ? 1 : round == 2 ? 7 : 0;
        /* Pauses within sessions, and between them. */
        send_random(round % 2 == 0 ? 10000 : 3 * MINUTE_MS);
        live_run(&live, true);
        replay(&state, &result);
        assert_int_equal(result.accepted, live.accepted);
        assert_int_equal(result.late, live.late);
        assert_true(result.late > 0 && result.accepted > 1000 && result.read.dead[DN_DEAD_UNDECODABLE] > 0);
        assert_int_equal(result.feeds, partition_count);
        char *replayed = dump(&state), *lived = dump(&live.state);
        assert_true(strlen(replayed) > 1000);
        same(replayed, lived);
        free(replayed);
        free(lived);
        dn_replay_state_close(&state);
        dn_replay_state_close(&live.state);
    }
}

static void an_end_in_the_middle_is_as_if_it_had_ended_there(void **unused)
{
    unsigned spared = 0;

    (void)unused;
    for (unsigned round = 0; round < 4; round++) {
        struct dn_replay_state state;
        struct dn_replay_source_result result;
        struct live live;

        begin(1 + round);
        send_random(10000);
        options.until_ms = BEGIN_MS + (int64_t)test_random_below(&rng, (size_t)(120 * MINUTE_MS));
        live_run(&live, false);
        replay(&state, &result);
        assert_int_equal(result.accepted, live.accepted);
        assert_true(result.beyond > 0 && result.last_ms <= options.until_ms);
        assert_true(result.beyond <= live.beyond && result.late <= live.late);
        spared += result.beyond < live.beyond;
        char *replayed = dump(&state), *lived = dump(&live.state);
        same(replayed, lived);
        free(replayed);
        free(lived);
        dn_replay_state_close(&state);
        dn_replay_state_close(&live.state);
    }
    assert_true(spared > 0); /* what cannot count any more is not read */
}

static void the_form_is_canonical(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    char wanted[600], user[DN_USER_TEXT];

    (void)unused;
    begin(1);
    send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS, -1); /* of a session before */
    for (unsigned i = 0; i < 4; i++)
        send_event(0, 1, DN_EVENT_VIEW, BEGIN_MS + DAY_MS + (i == 0 ? 9000 : 8000), -1);
    static const char *const events[] = {
        "\"item_id\":\"a\",\"type\":\"view\"", "\"item_id\":\"c\",\"type\":\"view\"",
        "\"item_id\":\"bb\",\"type\":\"buy\",\"weight\":2", "\"item_id\":\"b\",\"type\":\"buy\""};
    for (unsigned i = 0; i < 4; i++)
        snprintf(partitions[0].sent[1 + i].text, TEXT_MAX, "{\"user_id\":\"u1\",\"time_ms\":%lld,%s}",
                 (long long)(BEGIN_MS + DAY_MS + (i == 0 ? 9000 : 8000)), events[i]);
    replay(&state, &result);
    char *text = dump(&state);
    dn_replay_user_text(hash_of("u1"), user);
    snprintf(wanted, sizeof(wanted),
             "{\"user\":\"%s\",\"start_ms\":1700086408000,\"last_ms\":1700086409000,\"session_events\":4,"
             "\"counts\":{\"view\":2,\"buy\":2},\"events\":["
             "{\"time_ms\":1700086408000,\"type\":\"buy\",\"item\":\"b\",\"weight\":1.0},"
             "{\"time_ms\":1700086408000,\"type\":\"buy\",\"item\":\"bb\",\"weight\":2.0},"
             "{\"time_ms\":1700086408000,\"type\":\"view\",\"item\":\"c\",\"weight\":1.0},"
             "{\"time_ms\":1700086409000,\"type\":\"view\",\"item\":\"a\",\"weight\":1.0}]}\n",
             user);
    assert_string_equal(text, wanted);
    free(text);
    dn_replay_state_close(&state);
}

/* More dead letters than the queue of a shard holds, which nobody empties here. */
static void any_number_may_be_late(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    (void)unused;
    begin(PARTITIONS);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < MESSAGES_MAX; i++)
            send_event(p, 1, 1, i == 0 ? BEGIN_MS : BEGIN_MS - 60 * MINUTE_MS, -1);
    assert_true(PARTITIONS * (MESSAGES_MAX - 1) > DN_DEAD_MAX);
    replay(&state, &result);
    assert_int_equal(result.accepted, PARTITIONS);
    assert_int_equal(result.late, PARTITIONS * (MESSAGES_MAX - 1));
    dn_replay_state_close(&state);
}

/* A user who was silent for idle_s is in no dump; the cluster has forgotten them, or soon will. */
static void who_was_silent_for_long_is_left_out(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    options.settings.idle_ms = 2 * DAY_MS;
    send_event(0, 1, 1, BEGIN_MS, -1);
    send_event(0, 2, 1, BEGIN_MS + DAY_MS, -1);
    send_event(0, 3, 1, BEGIN_MS + 2 * DAY_MS + 1, -1);
    replay(&state, &result);
    assert_int_equal(result.accepted, 3);
    char *text = dump(&state);
    char one[DN_USER_TEXT], two[DN_USER_TEXT];
    dn_replay_user_text(hash_of("u1"), one);
    dn_replay_user_text(hash_of("u2"), two);
    assert_null(strstr(text, one));
    assert_non_null(strstr(text, two));
    free(text);
    dn_replay_state_close(&state);
}

/* ---- time --------------------------------------------------------------------------------------------- */

static void count_only(struct dn_replay_source_result *ret)
{
    struct dn_replay_state state;

    replay(&state, ret);
    dn_replay_state_close(&state);
}

static void one_bad_clock_makes_nothing_late(void **unused)
{
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    send_event(0, 1, 1, BEGIN_MS + 400 * DAY_MS, -1); /* the very first */
    for (int64_t i = 0; i < 20; i++) {
        send_event(0, 1, 1, BEGIN_MS + i * 1000, -1);
        if (i == 10)
            send_event(0, 2, 1, BEGIN_MS + 300 * DAY_MS, -1);
    }
    count_only(&result);
    assert_int_equal(result.accepted, 20);
    assert_int_equal(result.late, 0);
    assert_int_equal(result.ahead, 2);
    /* A pause of days is none. */
    begin(1);
    for (int64_t i = 0; i < 20; i++)
        send_event(0, 1, 1, BEGIN_MS + i * 3 * DAY_MS, -1);
    count_only(&result);
    assert_int_equal(result.accepted, 20);
    assert_int_equal(result.ahead, 0);
}

/* Where messages have a time of their own, that is the clock: of what is ahead, and of how far the watermark
 * goes. */
static void the_messages_time_is_the_clock(void **unused)
{
    struct dn_replay_source_result result;

    (void)unused;
    begin(1);
    send_event(0, 1, 1, BEGIN_MS, BEGIN_MS);
    send_event(0, 1, 1, BEGIN_MS + 3 * DAY_MS, BEGIN_MS + 1000); /* ahead: refused */
    send_event(0, 1, 1, BEGIN_MS + DAY_MS / 2, BEGIN_MS + 2000); /* accepted, but nothing is late for it */
    send_event(0, 1, 1, BEGIN_MS + 3000, BEGIN_MS + 3000);
    send_event(0, 1, 1, BEGIN_MS - 5 * MINUTE_MS + 2999, BEGIN_MS + 4000); /* late, by one ms */
    send_event(0, 1, 1, BEGIN_MS - 5 * MINUTE_MS + 3000, BEGIN_MS + 4000);
    for (options.batch_events = 1; options.batch_events < 8; options.batch_events++) {
        count_only(&result);
        assert_int_equal(result.accepted, 4);
        assert_int_equal(result.ahead, 1);
        assert_int_equal(result.late, 1);
    }
}

static void users_of_other_partitions_are_misrouted(void **unused)
{
    struct dn_replay_source_result result;
    uint64_t wanted = 0;

    (void)unused;
    begin(SHARDS);
    config.kind = DN_SOURCE_KAFKA;
    config.keyed = true;
    for (unsigned user = 0; user < 60; user++) {
        char text[16];
        snprintf(text, sizeof(text), "u%u", user);
        uint32_t shard = dn_shard_of_user(text, strlen(text), SHARDS);
        send_event(user % SHARDS, user, 1, BEGIN_MS + user, BEGIN_MS + user);
        wanted += shard == 1 + user % SHARDS;
    }
    count_only(&result);
    assert_int_equal(result.accepted, wanted);
    assert_int_equal(result.misrouted, 60 - wanted);
    /* A number of partitions that is no multiple of the shards is read as not keyed. */
    partition_count = SHARDS + 1;
    count_only(&result);
    assert_int_equal(result.accepted, 60);
}

static void what_cannot_be_read_is_told(void **unused)
{
    struct dn_replay_state state;
    struct dn_replay_source_result result;
    struct dn_error err = {0};

    (void)unused;
    begin(2);
    send_event(0, 1, 1, BEGIN_MS, -1);
    partitions[1].state = DN_PARTITION_GAP;
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "s/topic partition 1: as the test wants it"));
    dn_replay_state_close(&state);

    partitions[1].state = DN_PARTITION_CONNECTING;
    options.merge.patience_ms = 50;
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_DEADLINE);
    dn_replay_state_close(&state);

    trouble_text = "no such thing";
    assert_int_equal(dn_replay_state_open(&state, SHARDS, &err), DN_OK);
    assert_int_equal(dn_replay_source(&options, &state, &result, &err), DN_UNAVAILABLE);
    assert_non_null(strstr(err.message, "no such thing"));
    dn_replay_state_close(&state);
}

static void ids_are_found_again(void **unused)
{
    struct dn_replay_ids *ids = dn_replay_ids_create();
    char id[16];

    (void)unused;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < 5000; i++) {
            int length = snprintf(id, sizeof(id), "u%u", i);
            assert_true(dn_replay_ids_add(ids, hash_of(id), id, (size_t)length));
        }
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(id, sizeof(id), "u%u", i);
        assert_string_equal(dn_replay_ids_find(ids, hash_of(id)), id);
    }
    assert_null(dn_replay_ids_find(ids, hash_of("nobody")));
    dn_replay_ids_destroy(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions_are_those_of_a_live_shard),
        cmocka_unit_test(an_end_in_the_middle_is_as_if_it_had_ended_there),
        cmocka_unit_test(the_form_is_canonical),
        cmocka_unit_test(any_number_may_be_late),
        cmocka_unit_test(who_was_silent_for_long_is_left_out),
        cmocka_unit_test(one_bad_clock_makes_nothing_late),
        cmocka_unit_test(the_messages_time_is_the_clock),
        cmocka_unit_test(users_of_other_partitions_are_misrouted),
        cmocka_unit_test(what_cannot_be_read_is_told),
        cmocka_unit_test(ids_are_found_again),
    };
    return cmocka_run_group_tests(tests, open_partitions, close_partitions);
}
