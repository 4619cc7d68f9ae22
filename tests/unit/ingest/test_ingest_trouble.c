/* What the ingest thread does while the state takes nothing, or little: it neither reads for nothing, nor
 * floods the log, nor forgets a partition over another one; and what it says of a stream whose clock is
 * wrong. One node, endless partitions, and a state that is one offset for each. */
#include "base/text.h"
#include "tests/unit/ingest/ingest_rig.h"

#define PARTITIONS 4
#define FAR_MS 4000000000000 /* a clock that is a century ahead */

static struct bench {
    _Atomic uint32_t partitions;
    bool answers_at_once;
    uint8_t status;              /* of every answer */
    int64_t message_ms;          /* time of every message */
    _Atomic int64_t length;      /* of a partition */
    atomic_bool silent;          /* the driver is in touch no longer */
    _Atomic uint64_t read, sent; /* messages; proposals */
    _Atomic uint64_t sent_of[PARTITIONS];
    _Atomic int64_t stalled_ms; /* as the state says */
    atomic_uint taken_back;
    atomic_bool waits;
    _Atomic int64_t contents;             /* of the stream */
    _Atomic int64_t contents_told;        /* the state's; -1: none */
    atomic_bool no_place;                 /* for it in the state */
    const char *error;                    /* of each partition while it is silent */
    char reason[DN_STALL_REASON_MAX + 1]; /* that was told last; behind the lock */
    const struct dn_source_host *host;
    unsigned lost; /* so many answers, from now on */
    pthread_mutex_t lock;
    struct proposals pending;
    int64_t state[PARTITIONS];
    struct {
        int64_t at;
        bool end_told;
    } reading[PARTITIONS];
} bench;

/* ---- the driver ------------------------------------------------------------------------------------- */

static enum dn_code fake_open(const struct dn_source_config *config, const struct dn_source_host *host,
                              void **ret_self, struct dn_error *err)
{
    (void)config;
    (void)err;
    bench.host = host;
    *ret_self = &bench;
    return DN_OK;
}

static void fake_close(void *self)
{
    (void)self;
}

static uint32_t fake_partitions(void)
{
    return atomic_load(&bench.partitions);
}

static enum dn_code fake_start(void *self, size_t stream, uint32_t p, int64_t offset, struct dn_error *err)
{
    (void)self;
    (void)stream;
    (void)err;
    bench.reading[p].at = offset > 0 ? offset : 0;
    bench.reading[p].end_told = false;
    return DN_OK;
}

static void fake_stop(void *self, size_t stream, uint32_t p)
{
    (void)self;
    (void)stream;
    (void)p;
}

static size_t fake_read(void *self, size_t stream, uint32_t p, struct dn_message *ret, size_t max)
{
    static const char TEXT[] = "{\"user_id\":\"u\",\"item_id\":\"i\",\"type\":\"view\",\"time_ms\":1000}";
    size_t count = 0;

    (void)self;
    (void)stream;
    for (; count < max && bench.reading[p].at < bench.length; count++) {
        int64_t offset = bench.reading[p].at++;
        ret[count] = (struct dn_message){.offset = offset,
                                         .next_offset = offset + 1,
                                         .time_ms = bench.message_ms,
                                         .bytes = (const uint8_t *)TEXT,
                                         .length = sizeof TEXT - 1};
    }
    atomic_fetch_add(&bench.read, count);
    if (count > 0)
        bench.reading[p].end_told = false;
    if (count < max && !bench.reading[p].end_told) {
        ret[count++] = (struct dn_message){.end = true, .next_offset = bench.length};
        bench.reading[p].end_told = true;
    }
    return count;
}

static void fake_status(void *self, size_t stream, uint32_t p, struct dn_partition_status *ret)
{
    (void)self;
    (void)stream;
    *ret = (struct dn_partition_status){.begin_offset = 0, .end_offset = bench.length};
    if (atomic_load(&bench.silent)) {
        ret->state = DN_PARTITION_CONNECTING;
        ret->waits = atomic_load(&bench.waits);
        snprintf(ret->error, sizeof ret->error, "%s", bench.error != NULL ? bench.error : "");
        return;
    }
    ret->state = bench.reading[p].end_told ? DN_PARTITION_AT_END : DN_PARTITION_READING;
    ret->heard_ms = dn_wall_ms();
}

static int64_t fake_contents(void *self, size_t stream)
{
    (void)self;
    (void)stream;
    return atomic_load(&bench.contents);
}

/* ---- the state -------------------------------------------------------------------------------------- */

static void answer(struct dn_proposal *proposal)
{
    struct dn_reader reader;
    struct dn_buffer result;
    size_t length;

    dn_reader_init(&reader, proposal->record, proposal->length);
    uint8_t kind = dn_reader_u8(&reader);
    dn_reader_u8(&reader);
    dn_buffer_init(&result, 64);
    if (kind == DN_RECORD_SOURCE) {
        (void)dn_reader_blob(&reader, DN_SOURCE_MAX, &length);
        assert_int_equal(dn_reader_u32(&reader), DN_PARTITION_CONTENTS);
        if (!atomic_load(&bench.no_place))
            atomic_store(&bench.contents_told, dn_reader_i64(&reader));
        dn_buffer_u8(&result, atomic_load(&bench.no_place) ? DN_RESULT_FULL : DN_RESULT_OK);
        dn_buffer_i64(&result, DN_OFFSET_UNSET);
    } else if (kind == DN_RECORD_STALL) {
        int64_t since_ms = dn_reader_i64(&reader);
        const uint8_t *reason = dn_reader_blob(&reader, DN_STALL_REASON_MAX, &length);
        assert_false(reader.failed);
        pthread_mutex_lock(&bench.lock);
        memcpy(bench.reason, reason, length);
        bench.reason[length] = 0;
        pthread_mutex_unlock(&bench.lock);
        atomic_store(&bench.stalled_ms, since_ms);
        atomic_fetch_add(&bench.taken_back, since_ms == 0);
        dn_buffer_u8(&result, DN_RESULT_OK);
    } else {
        (void)dn_reader_blob(&reader, DN_SOURCE_MAX, &length);
        uint32_t partition = dn_reader_u32(&reader);
        (void)dn_reader_i64(&reader);
        int64_t next_offset = dn_reader_i64(&reader);
        pthread_mutex_lock(&bench.lock);
        if (bench.status == DN_RESULT_OK && partition < PARTITIONS)
            bench.state[partition] = next_offset;
        pthread_mutex_unlock(&bench.lock);
        dn_buffer_u8(&result, bench.status);
        dn_buffer_i64(&result, next_offset);
        dn_buffer_u32(&result, 0);
    }
    if (kind == DN_RECORD_STREAM && bench.lost > 0) {
        bench.lost--;
        proposal->done(proposal, DN_DEADLINE, 0, NULL, 0, NULL);
    } else {
        proposal->done(proposal, DN_OK, 1, result.bytes, result.length, NULL);
    }
    dn_buffer_free(&result);
}

static uint32_t partition_of(const struct dn_proposal *proposal)
{
    struct dn_reader reader;
    size_t length;

    dn_reader_init(&reader, proposal->record, proposal->length);
    (void)dn_reader_u16(&reader);
    (void)dn_reader_blob(&reader, DN_SOURCE_MAX, &length);
    return dn_reader_u32(&reader);
}

static bool target_propose(void *data, struct dn_proposal *proposal)
{
    (void)data;
    if (proposal->record[0] == DN_RECORD_STREAM) {
        uint32_t partition = partition_of(proposal);
        atomic_fetch_add(&bench.sent, 1);
        if (partition < PARTITIONS)
            atomic_fetch_add(&bench.sent_of[partition], 1);
    }
    if (bench.answers_at_once) {
        answer(proposal);
        return true;
    }
    pthread_mutex_lock(&bench.lock);
    assert_true(proposals_put(&bench.pending, proposal));
    pthread_mutex_unlock(&bench.lock);
    return true;
}

static bool answer_oldest(void)
{
    struct pending oldest;

    pthread_mutex_lock(&bench.lock);
    bool some = proposals_take(&bench.pending, &oldest);
    pthread_mutex_unlock(&bench.lock);
    if (!some)
        return false;
    free(oldest.record);
    answer(oldest.proposal);
    return true;
}

static bool target_leads(void *data, uint32_t group)
{
    (void)data;
    (void)group;
    return true;
}

static bool target_next_offset(void *data, uint32_t group, const char *stream, uint32_t partition,
                               int64_t *ret_next_offset)
{
    (void)data;
    (void)group;
    (void)stream;
    if (partition == DN_PARTITION_CONTENTS)
        *ret_next_offset = atomic_load(&bench.contents_told);
    if (partition >= PARTITIONS)
        return partition == DN_PARTITION_CONTENTS && *ret_next_offset >= 0;
    pthread_mutex_lock(&bench.lock);
    *ret_next_offset = bench.state[partition];
    pthread_mutex_unlock(&bench.lock);
    return *ret_next_offset >= 0;
}

static int64_t target_stalled(void *data, uint32_t group, char ret_reason[DN_STALL_REASON_MAX + 1])
{
    (void)data;
    (void)group;
    snprintf(ret_reason, DN_STALL_REASON_MAX, "as told");
    return atomic_load(&bench.stalled_ms);
}

/* ---- the runs --------------------------------------------------------------------------------------- */

static struct dn_source_config config;

static struct dn_ingest *start(uint32_t shards)
{
    static const uint8_t KEY[DN_HASH_KEY_BYTES] = {0};

    return start_ingest(&config, shards, 1, 200, NULL, KEY, NULL);
}

static int make_rig(void **state)
{
    (void)state;
    memset(&bench, 0, sizeof bench);
    pthread_mutex_init(&bench.lock, NULL);
    bench.partitions = 1;
    bench.length = INT64_MAX;
    bench.contents_told = -1;
    bench.message_ms = dn_wall_ms();
    bench.answers_at_once = true;
    for (size_t p = 0; p < PARTITIONS; p++)
        bench.state[p] = DN_OFFSET_UNSET;
    config = configuration();
    return 0;
}

static void stop(struct dn_ingest *ingest)
{
    dn_ingest_stop(ingest, 0);
    while (answer_oldest())
        ;
    dn_ingest_destroy(ingest);
    pthread_mutex_destroy(&bench.lock);
}

static void test_full_reads_nothing_in_vain(void **state)
{
    (void)state;
    bench.status = DN_RESULT_FULL;
    struct dn_ingest *ingest = start(1);
    poll(NULL, 0, 1500);
    uint64_t read = atomic_load(&bench.read);
    stop(ingest);
    CHECK(atomic_load(&bench.sent) > 2 && read < 20000, "read %llu messages", (unsigned long long)read);
}

static void test_mark_refused(void **state)
{
    (void)state;
    bench.status = DN_RESULT_FULL;
    struct dn_ingest *ingest = start(2); /* not keyed, two shards: the mark comes first */
    poll(NULL, 0, 1000);
    uint64_t sent = atomic_load(&bench.sent);
    stop(ingest);
    CHECK(sent > 2 && sent < 40, "%llu marks were proposed", (unsigned long long)sent);
}

/* The state takes one batch at a time, and each partition has more than that to give. */
static void test_every_partition_gets_on(void **state)
{
    (void)state;
    bench.answers_at_once = false;
    bench.partitions = PARTITIONS;
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 200; i++) {
        poll(NULL, 0, 5);
        (void)answer_oldest();
    }
    stop(ingest);
    for (size_t p = 0; p < PARTITIONS; p++)
        CHECK(atomic_load(&bench.sent_of[p]) > 10, "partition %zu: %llu batches of %llu", p,
              (unsigned long long)atomic_load(&bench.sent_of[p]),
              (unsigned long long)atomic_load(&bench.sent));
}

/* A producer's clock that is ahead must not hide that nothing comes any more. */
static void test_messages_of_the_future(void **state)
{
    struct dn_ingest_row row = {0};

    (void)state;
    bench.message_ms = FAR_MS;
    bench.length = 1000;
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 300 && row.next_offset < bench.length; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    CHECK(row.next_offset == bench.length && !row.stalled, "next offset %lld", (long long)row.next_offset);
    atomic_store(&bench.silent, true);
    for (int i = 0; i < 500 && !row.stalled; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    stop(ingest);
    CHECK(row.stalled && row.lag_ms > 0, "lag %lld ms", (long long)row.lag_ms);
}

/* The word that a stream stands still outlives its leader: the next one takes it back when it has read. */
static void test_stall_is_inherited(void **state)
{
    (void)state;
    bench.length = 0;
    atomic_store(&bench.silent, true);
    atomic_store(&bench.stalled_ms, dn_wall_ms() - 60000);
    struct dn_ingest *ingest = start(1);
    poll(NULL, 0, 1000);
    unsigned early = atomic_load(&bench.taken_back);
    atomic_store(&bench.silent, false);
    for (int i = 0; i < 300 && atomic_load(&bench.taken_back) == 0; i++)
        poll(NULL, 0, 10);
    stop(ingest);
    assert_int_equal(early, 0);
    assert_int_equal(atomic_load(&bench.taken_back), 1);
}

/* Nor is it taken back by a node that does not know yet what there is to read. */
static void test_stall_outlives_ignorance(void **state)
{
    (void)state;
    bench.length = 0;
    atomic_store(&bench.partitions, 0);
    atomic_store(&bench.stalled_ms, dn_wall_ms() - 60000);
    struct dn_ingest *ingest = start(1);
    poll(NULL, 0, 1000);
    unsigned early = atomic_load(&bench.taken_back);
    atomic_store(&bench.partitions, 1);
    for (int i = 0; i < 1000 && atomic_load(&bench.taken_back) == 0; i++)
        poll(NULL, 0, 10);
    stop(ingest);
    assert_int_equal(early, 0);
    assert_int_equal(atomic_load(&bench.taken_back), 1);
}

/* What went wrong once, and is over, is not told for as long as nothing new comes. */
static void test_old_errors_go(void **state)
{
    struct dn_ingest_row row = {.error = "?"};

    (void)state;
    bench.length = 50;
    bench.lost = 1; /* its answer: it is applied */
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 300 && (row.next_offset < bench.length || row.error[0] != 0); i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    stop(ingest);
    CHECK(row.next_offset == bench.length && row.error[0] == 0, "offset %lld: %s", (long long)row.next_offset,
          row.error);
}

/* A file that cannot be opened is no file whose turn has not come. */
static void test_waiting_is_told_from_trouble(void **state)
{
    struct dn_ingest_row row = {0};

    (void)state;
    config.kind = DN_SOURCE_FILE;
    bench.length = 0;
    atomic_store(&bench.silent, true);
    atomic_store(&bench.waits, true);
    struct dn_ingest *ingest = start(1);
    poll(NULL, 0, 2500);
    (void)dn_ingest_rows(ingest, &row, 1);
    bool waiting_stalled = row.stalled;
    atomic_store(&bench.waits, false);
    for (int i = 0; i < 400 && !row.stalled; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    stop(ingest);
    assert_false(waiting_stalled);
    assert_true(row.stalled);
}

/* Lines have no times: that a file gets on does not say that it is read to its end. */
static void test_a_file_is_behind_by_nobody_knows_what(void **state)
{
    struct dn_ingest_row row = {0};

    (void)state;
    config.kind = DN_SOURCE_FILE;
    bench.message_ms = -1;
    bench.length = 100000000;
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 300 && row.next_offset <= 0; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    stop(ingest);
    CHECK(row.next_offset > 0 && row.lag_ms == -1 && row.lag_records > 0, "lag %lld ms at %lld",
          (long long)row.lag_ms, (long long)row.next_offset);
}

/* A stream whose messages carry an old time is read to its end again and again: it does not stand still. */
static void test_old_times_at_the_end(void **state)
{
    struct dn_ingest_row row = {0};
    unsigned stalled = 0;

    (void)state;
    bench.message_ms = 1000;
    bench.answers_at_once = false;
    atomic_store(&bench.length, 0);
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 2500; i++) {
        atomic_fetch_add(&bench.length, 3);
        bench.host->wake(bench.host->data);
        poll(NULL, 0, 2);
        if (i % 10 == 0)
            (void)answer_oldest();
        (void)dn_ingest_rows(ingest, &row, 1);
        stalled += row.stalled;
    }
    stop(ingest);
    CHECK(row.next_offset > 1000 && stalled == 0, "stalled %u times, at %lld", stalled,
          (long long)row.next_offset);
}

/* Runs until the state is told that the streams stand still, and why. */
static void told_reason(uint32_t partitions, const char *error, char ret[DN_STALL_REASON_MAX + 1])
{
    bench.partitions = partitions;
    bench.error = error;
    bench.length = 0;
    atomic_store(&bench.silent, true);
    atomic_store(&bench.stalled_ms, 0);
    struct dn_ingest *ingest = start(1);
    for (int i = 0; i < 600 && atomic_load(&bench.stalled_ms) == 0; i++)
        poll(NULL, 0, 10);
    pthread_mutex_lock(&bench.lock);
    memcpy(ret, bench.reason, sizeof bench.reason);
    pthread_mutex_unlock(&bench.lock);
    assert_true(atomic_load(&bench.stalled_ms) != 0);
    stop(ingest);
}

static void test_reasons(void **state)
{
    char reason[DN_STALL_REASON_MAX + 1], words[400] = "", umlauts[400] = "";

    (void)state;
    told_reason(1, "no broker answers", reason);
    assert_string_equal(reason, "clicks/web partition 0: no broker answers");
    make_rig(state);
    told_reason(PARTITIONS, "no broker answers", reason);
    CHECK(strncmp(reason, "4 partitions, the longest clicks/web partition ", 47) == 0, "%s", reason);

    for (size_t i = 0; i < 55; i++)
        snprintf(words + strlen(words), sizeof words - strlen(words), "word%zu ", i);
    make_rig(state);
    told_reason(1, words, reason);
    const char *told = strstr(reason, "word0");
    assert_non_null(told);
    size_t kept = strlen(told) - 3;
    assert_string_equal(told + kept, "...");
    CHECK(strncmp(told, words, kept) == 0 && words[kept] == ' ', "%s", reason);
    assert_in_range(strlen(reason), DN_STALL_REASON_MAX - 10, DN_STALL_REASON_MAX);

    /* No words in it. */
    for (int shift = 0; shift < 2; shift++) {
        snprintf(umlauts, sizeof umlauts, "%s", shift > 0 ? "x" : "");
        for (size_t i = 0; i < 150; i++)
            strcat(umlauts, "\xc3\xa4");
        make_rig(state);
        told_reason(1, umlauts, reason);
        CHECK(dn_utf8_valid(reason, strlen(reason)), "%s", reason);
        assert_in_range(strlen(reason), DN_STALL_REASON_MAX - 1, DN_STALL_REASON_MAX);
    }
}

static void wait_offset(struct dn_ingest *ingest, int64_t wanted)
{
    struct dn_ingest_row row = {0};

    for (int i = 0; i < 1000 && row.next_offset != wanted; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    CHECK(row.next_offset == wanted, "at %lld: %s", (long long)row.next_offset, row.error);
}

static void test_another_file_under_the_name(void **state)
{
    struct dn_ingest_row row = {0};

    (void)state;
    config.kind = DN_SOURCE_FILE;
    bench.length = 50;
    bench.contents = 7;
    struct dn_ingest *ingest = start(1);
    wait_offset(ingest, 50);
    assert_int_equal(atomic_load(&bench.contents_told), 7);
    dn_ingest_stop(ingest, 0);
    dn_ingest_destroy(ingest);

    /* While nobody reads it is replaced, by a longer one. */
    bench.contents = 8;
    bench.length = 80;
    uint64_t sent = atomic_load(&bench.sent);
    ingest = start(1);
    for (int i = 0; i < 1000 && !row.stalled; i++) {
        poll(NULL, 0, 10);
        (void)dn_ingest_rows(ingest, &row, 1);
    }
    CHECK(row.stalled && strstr(row.error, "another file") != NULL, "%s", row.error);
    assert_int_equal(atomic_load(&bench.sent), sent);
    assert_int_equal(atomic_load(&bench.contents_told), 7);
    pthread_mutex_lock(&bench.lock);
    bench.state[0] = DN_OFFSET_UNSET; /* an operator's reset */
    pthread_mutex_unlock(&bench.lock);
    wait_offset(ingest, 80);
    assert_int_equal(atomic_load(&bench.contents_told), 8);

    /* And the one that is there grows. */
    atomic_store(&bench.length, 90);
    wait_offset(ingest, 90);
    stop(ingest);
}

/* What it begins with is known only later: it is told as soon as it is. And a state that was read before such
 * things were told, or has no room for them, is no hindrance. */
static void test_contents_that_are_not_known(void **state)
{
    (void)state;
    config.kind = DN_SOURCE_FILE;
    bench.length = 50;
    bench.contents = -1;
    struct dn_ingest *ingest = start(1);
    wait_offset(ingest, 50);
    assert_int_equal(atomic_load(&bench.contents_told), -1);
    atomic_store(&bench.contents, 7);
    for (int i = 0; i < 1000 && atomic_load(&bench.contents_told) != 7; i++)
        poll(NULL, 0, 10);
    assert_int_equal(atomic_load(&bench.contents_told), 7);
    dn_ingest_stop(ingest, 0);
    dn_ingest_destroy(ingest);

    /* Known again when something comes of it, and then it is another one: nothing of it is counted. */
    bench.contents = -1;
    ingest = start(1);
    poll(NULL, 0, 300);
    atomic_store(&bench.contents, 8);
    atomic_store(&bench.length, 55);
    bench.host->wake(bench.host->data);
    poll(NULL, 0, 700);
    dn_ingest_stop(ingest, 0);
    dn_ingest_destroy(ingest);
    assert_int_equal(bench.state[0], 50);

    atomic_store(&bench.contents_told, -1);
    atomic_store(&bench.no_place, true);
    bench.length = 60;
    ingest = start(1);
    wait_offset(ingest, 60);
    stop(ingest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_full_reads_nothing_in_vain, make_rig),
        cmocka_unit_test_setup(test_mark_refused, make_rig),
        cmocka_unit_test_setup(test_every_partition_gets_on, make_rig),
        cmocka_unit_test_setup(test_messages_of_the_future, make_rig),
        cmocka_unit_test_setup(test_stall_is_inherited, make_rig),
        cmocka_unit_test_setup(test_stall_outlives_ignorance, make_rig),
        cmocka_unit_test_setup(test_old_errors_go, make_rig),
        cmocka_unit_test_setup(test_reasons, make_rig),
        cmocka_unit_test_setup(test_another_file_under_the_name, make_rig),
        cmocka_unit_test_setup(test_contents_that_are_not_known, make_rig),
        cmocka_unit_test_setup(test_a_file_is_behind_by_nobody_knows_what, make_rig),
        cmocka_unit_test_setup(test_old_times_at_the_end, make_rig),
        cmocka_unit_test_setup(test_waiting_is_told_from_trouble, make_rig)};

    dn_log_set_level(getenv("DN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
