/* Dead letters of streams that only one node can read: that node writes them, with their bytes, whoever leads
 * the shard; the leader counts them as written when it has said so, and does without their bytes only when it
 * has waited for long enough, or the node is no member any more (dead_rig.h checks in every test that nothing
 * is proposed before it is durable).
 *
 *   unit_ingest_deadletter_reader [SEED]     repeats one seed of two_nodes */
#include "tests/unit/ingest/dead_rig.h"

#include "base/log.h"
#include "ingest/deadletter_private.h"

#include <poll.h>

#define THEIRS "c/log@2.0b"
#define OURS "c/log@1.0a"
#define PLAIN "c/web"

static uint64_t member_ids[] = {1, 2};
static atomic_uint member_count;

static size_t target_members(void *data, uint64_t ret_node_ids[DN_MEMBERS_MAX])
{
    (void)data;
    memcpy(ret_node_ids, member_ids, sizeof member_ids);
    return atomic_load(&member_count);
}

static int open_rig(void **state)
{
    rig_open(state);
    struct rig *rig = *state;
    struct dn_source_config *config = rig_source(rig, "c", DN_DEAD_TO_FILE, "");
    config->kind = DN_SOURCE_FILE;
    config->follow = true;
    rig->options.target.members = target_members;
    rig->options.target.next_offset = target_next_offset;
    atomic_store(&member_count, 2);
    dn_dead_reader_wait_ms = 10 * WAIT_MS;
    dn_dead_reader_wait_full_ms = 10 * WAIT_MS;
    return 0;
}

static void path_in(const struct rig *rig, const char *data_dir, char ret[160])
{
    (void)rig;
    snprintf(ret, 160, "%s/deadletters/c.jsonl", data_dir);
}

struct content {
    size_t lines, ours, theirs, without_bytes, gone;
    char note[256];
};

static struct content content_of(const char *path)
{
    struct content content = {.lines = 0};
    struct dn_dead_file *file;
    struct dn_dead_line line;
    struct dn_buffer buffer;
    struct dn_error err;
    enum dn_code code;

    if (access(path, F_OK) != 0)
        return content;
    if (dn_dead_file_open(path, &file, &err) != DN_OK)
        fail_msg("%s", err.message);
    dn_buffer_init(&buffer, 1u << 20);
    while ((code = dn_dead_file_next(file, &buffer, &line, &err)) == DN_OK) {
        content.lines++;
        content.ours += strcmp(line.stream, OURS) == 0;
        content.theirs += strcmp(line.stream, THEIRS) == 0;
        content.without_bytes += line.bytes == NULL;
        content.gone += line.gone;
        snprintf(content.note, sizeof content.note, "%s", line.note);
    }
    if (code != DN_NOT_FOUND)
        fail_msg("%s", err.message);
    dn_dead_file_close(file);
    dn_buffer_free(&buffer);
    return content;
}

/* As the other node does. */
static void say_written(struct rig *rig, uint32_t group, int64_t before, bool first)
{
    struct dn_buffer record;

    dn_buffer_init(&record, 1024);
    dn_record_stream(&record, "@2", DN_READER_LETTERS, first ? DN_OFFSET_UNSET : 0, before, NULL, 0, NULL, 0);
    pthread_mutex_lock(&rig->mutex);
    rig->trusts_words = true;
    rig_apply(rig, group, record.bytes, record.length);
    pthread_mutex_unlock(&rig->mutex);
    dn_buffer_free(&record);
}

/* The leader leaves them to their reader; those between are written meanwhile; each goes when its reader's
 * word has passed it. */
static void left_to_their_reader(void **state)
{
    struct rig *rig = *state;
    char path[160];

    path_in(rig, rig->data_dir, path);
    rig_bury(rig, 1, PLAIN, 0, 10);  /* 0..9 */
    rig_bury(rig, 1, THEIRS, 0, 10); /* 10..19 */
    rig_bury(rig, 1, PLAIN, 0, 10);  /* 20..29 */
    rig_bury(rig, 1, OURS, 0, 10);   /* 30..39 */
    rig_start(rig);
    WAIT_FOR(rig_waiting(rig, 1) == 30);
    WAIT_FOR(content_of(path).lines == 30);
    say_written(rig, 1, 15, true);
    WAIT_FOR(rig_waiting(rig, 1) == 25);
    say_written(rig, 1, 20, false);
    rig_wait_empty(rig);
    struct content content = content_of(path);
    assert_int_equal(content.theirs, 0);
    assert_int_equal(content.ours, 10);
    assert_int_equal(content.without_bytes, 0);
    assert_int_equal(rig_check_file(path), 30);
}

/* All that wait when it is over are written at once; one that comes later has a time of its own. */
static void not_for_ever(void **state)
{
    struct rig *rig = *state;
    char path[160];

    path_in(rig, rig->data_dir, path);
    dn_dead_reader_wait_ms = 1500;
    rig_bury(rig, 1, THEIRS, 0, 600);
    rig_bury(rig, 1, PLAIN, 0, 1);
    uint64_t began_us = dn_monotonic_us();
    rig_start(rig);
    rig_wait_empty(rig);
    uint64_t took_us = dn_monotonic_us() - began_us;
    assert_true(took_us >= 1500000);
    struct content content = content_of(path);
    assert_int_equal(content.theirs, 600);
    assert_int_equal(content.without_bytes, 600);
    assert_int_equal(content.gone, 0);
    rig_bury(rig, 1, THEIRS, 0, 1);
    began_us = dn_monotonic_us();
    rig_wait_empty(rig);
    assert_true(dn_monotonic_us() - began_us >= 1400000);
    content = content_of(path);
    assert_non_null(strstr(content.note, "has not written it"));
}

static void sooner_when_the_queue_fills(void **state)
{
    struct rig *rig = *state;

    dn_dead_reader_wait_full_ms = 100;
    rig_bury(rig, 1, THEIRS, 0, 10);
    rig_start(rig);
    for (int i = 0; i < DN_DEAD_MAX / 2 / 1000; i++)
        rig_bury(rig, 1, PLAIN, 0, 1000);
    poll(NULL, 0, 1000);
    assert_int_equal(rig_waiting(rig, 1), 10 + DN_DEAD_MAX / 2 / 1000 * 1000); /* nearly half */
    rig_bury(rig, 1, PLAIN, 0, 1000);
    rig_wait_empty(rig);
}

static void no_member_is_not_waited_for(void **state)
{
    struct rig *rig = *state;
    char path[160];

    path_in(rig, rig->data_dir, path);
    atomic_store(&member_count, 0); /* nobody knows: that is no reason */
    rig_bury(rig, 2, THEIRS, 0, 5);
    rig_start(rig);
    poll(NULL, 0, 1000);
    assert_int_equal(rig_waiting(rig, 2), 5);
    atomic_store(&member_count, 1);
    rig_wait_empty(rig);
    struct content content = content_of(path);
    assert_int_equal(content.without_bytes, 5);
    assert_non_null(strstr(content.note, "no member"));
}

/* A node that does not lead writes its own, says so, and takes nothing out of the queue. */
static void own_letters_without_leading(void **state)
{
    struct rig *rig = *state;
    char path[160];
    int64_t before = 0;

    path_in(rig, rig->data_dir, path);
    rig_lead(rig, 1, false);
    rig_bury(rig, 1, PLAIN, 0, 400);
    rig_bury(rig, 1, OURS, 0, 700); /* 400..1099 */
    rig_bury(rig, 1, THEIRS, 0, 5);
    rig_bury(rig, 1, OURS, 0, 1); /* 1105 */
    rig_bury(rig, 1, PLAIN, 0, 7);
    atomic_store(&flushes_fail, 2);
    rig_start(rig);
    WAIT_FOR(target_next_offset(rig, 1, "@1", DN_READER_LETTERS, &before) && before == 1106);
    struct content content = content_of(path);
    assert_int_equal(content.ours, content.lines);
    assert_true(content.ours >= 701);
    assert_int_equal(content.without_bytes, 0);
    assert_int_equal(rig_waiting(rig, 1), 1113);
    rig_bury(rig, 1, OURS, 0, 2);
    WAIT_FOR(target_next_offset(rig, 1, "@1", DN_READER_LETTERS, &before) && before == 1115);
    size_t lines = content_of(path).lines;
    rig_stop(rig, 5000);
    rig_start(rig); /* what it has said it need not write again */
    rig_lead(rig, 1, true);
    WAIT_FOR(rig_waiting(rig, 1) == 1115 - 1100);
    say_written(rig, 1, 1110, true);
    rig_wait_empty(rig);
    content = content_of(path);
    assert_int_equal(content.lines, lines + 407);
    assert_int_equal(content.theirs, 0);
}

/* A topic has taken it, and not acknowledged it yet: the word waits. */
static void not_before_it_is_written(void **state)
{
    struct rig *rig = *state;
    struct dn_deadletters *d = calloc(1, sizeof *d);
    struct group *group = calloc(1, sizeof *group);
    uint64_t before = 0;

    d->options = rig->options;
    d->has_own = true;
    group->number = 1;
    dead_group_take(group, 0);
    dead_group_take(group, 2);
    group->looked = 4;
    dead_group_written(group, 2);
    assert_false(dead_own_written(d, group, &before));
    dead_group_untake(group, 0); /* it refuses it: it is looked for again */
    assert_int_equal(group->looked, 0);
    dead_group_take(group, 0);
    group->looked = 4;
    dead_group_written(group, 0);
    assert_true(dead_own_written(d, group, &before));
    assert_int_equal(before, 3);
    free(group);
    free(d);
}

/* ---- two nodes ---------------------------------------------------------------------------------------- */

struct pair {
    struct rig *rig;
    struct dn_ingest_options options[2];
    struct dn_deadletters *letters[2];
};

static bool second_leads(void *data, uint32_t group)
{
    return !target_leads(data, group);
}

static void start_node(struct pair *pair, int node)
{
    struct dn_error err;
    if (dn_deadletters_start(&pair->options[node], &pair->letters[node], &err) != DN_OK)
        fail_msg("%s", err.message);
}

static void stop_node(struct pair *pair, int node)
{
    dn_deadletters_stop(pair->letters[node], WAIT_MS);
    dn_deadletters_destroy(pair->letters[node]);
}

static void make_pair(struct rig *rig, struct pair *pair, char second_dir[100])
{
    snprintf(second_dir, 100, "%s/data2", rig->folder);
    assert_int_equal(mkdir(second_dir, 0700), 0);
    pair->rig = rig;
    pair->options[0] = pair->options[1] = rig->options;
    pair->options[1].node_id = 2;
    pair->options[1].data_dir = second_dir;
    pair->options[1].target.leads = second_leads;
    start_node(pair, 0);
    start_node(pair, 1);
}

static uint64_t first_seed = 1, random_state;

/* Below `bound`; SplitMix64. */
static uint64_t below(uint64_t bound)
{
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % bound;
}

static bool chance(unsigned percent)
{
    return below(100) < percent;
}

/* Letters come, leaders move, nodes are started anew, flushes and proposals fail: each letter of a node's
 * stream is in that node's file, with its bytes; no letter is lost. */
static void two_nodes(void **state)
{
    static const char *const STREAMS[] = {PLAIN, OURS, THEIRS};
    static unsigned seen[SEEN_MAX];
    struct rig *rig = *state;
    struct pair pair;
    random_state = first_seed;
    char second_dir[100], paths[2][160];
    size_t total[SHARDS + 1] = {0}, of_node[2] = {0};

    make_pair(rig, &pair, second_dir);
    path_in(rig, rig->data_dir, paths[0]);
    path_in(rig, second_dir, paths[1]);
    for (int step = 0; step < 250; step++) {
        uint32_t group = 1 + (uint32_t)below(SHARDS);
        size_t which = below(3), count = 1 + below(40);
        int node = (int)below(2);
        rig_bury(rig, group, STREAMS[which], 0, count);
        total[group] += count;
        if (which > 0)
            of_node[which - 1] += count;
        if (chance(20))
            rig_lead(rig, group, chance(50));
        if (chance(10))
            rig_answer(rig, (enum answer[]){ANSWER_OK, ANSWER_LOST, ANSWER_UNKNOWN}[below(3)]);
        if (chance(5))
            atomic_store(&flushes_fail, 1);
        if (chance(5)) {
            stop_node(&pair, node);
            start_node(&pair, node);
        }
        dn_deadletters_wake(pair.letters[node]);
        poll(NULL, 0, (int)below(20));
    }
    rig_answer(rig, ANSWER_OK);
    rig_wait_empty(rig);
    stop_node(&pair, 0);
    stop_node(&pair, 1);
    for (uint32_t group = 1; group <= SHARDS; group++) {
        size_t found = 0;
        memset(seen, 0, sizeof seen);
        read_folder(rig->folder, group, true, seen);
        for (size_t i = 0; i < SEEN_MAX; i++)
            found += seen[i] > 0;
        if (!(found == total[group]))
            fail_msg("seed %llu: shard %u: %zu of %zu letters", (unsigned long long)first_seed, group, found,
                     total[group]);
    }
    for (int node = 0; node < 2; node++) {
        struct content content = content_of(paths[node]);
        assert_int_equal(node == 0 ? content.theirs : content.ours, 0);
        if (!((node == 0 ? content.ours : content.theirs) >= of_node[node]))
            fail_msg("seed %llu: letters of node %d", (unsigned long long)first_seed, node + 1);
        assert_int_equal(content.without_bytes, 0);
        assert_int_equal(rig_check_file(paths[node]), content.lines);
    }
}

#define WITH_OPEN_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, rig_close)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        WITH_OPEN_RIG(left_to_their_reader),
        WITH_OPEN_RIG(not_for_ever),
        WITH_OPEN_RIG(sooner_when_the_queue_fills),
        WITH_OPEN_RIG(no_member_is_not_waited_for),
        WITH_OPEN_RIG(own_letters_without_leading),
        WITH_OPEN_RIG(not_before_it_is_written),
        WITH_OPEN_RIG(two_nodes),
    };

    if (argc > 1)
        first_seed = strtoull(argv[1], NULL, 10);
    dn_log_set_level(getenv("DN_TEST_LOG") != NULL ? DN_LOG_DEBUG : DN_LOG_ERROR);
    return cmocka_run_group_tests_name("ingest.deadletter_reader", tests, NULL, NULL);
}
