/* What `dunlin source skip|reset` is to tell the cluster, from the list that a node gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"

#include <stdio.h>
#include <string.h>

static Dunlin__V1__SourcePartition partitions[4];
static Dunlin__V1__SourcePartition *pointers[4];
static Dunlin__V1__ListSourcesResponse list;
static struct dn_cli_source_plan plan;
static char problem[400];

static void set(size_t i, const char *stream, uint32_t partition, uint32_t shard, int64_t next_offset,
                bool here, int64_t end_offset)
{
    dunlin__v1__source_partition__init(&partitions[i]);
    partitions[i].stream = (char *)(uintptr_t)stream;
    partitions[i].partition = partition;
    partitions[i].shard = shard;
    partitions[i].next_offset = next_offset;
    partitions[i].read_here = here;
    partitions[i].end_offset = end_offset;
    pointers[i] = &partitions[i];
}

/* Partition 7 of s/t in the shards 1 (read elsewhere), 2 (read here) and 3 (not known to it yet); and
 * another. */
static int reset_list(void **state)
{
    (void)state;
    set(0, "s/t", 7, 1, 100, false, -1);
    set(1, "s/t", 7, 2, 200, true, 5000);
    set(2, "s/t", 7, 3, -1, true, 5000);
    set(3, "s/t", 8, 1, 300, false, -1);
    dunlin__v1__list_sources_response__init(&list);
    list.partitions = pointers;
    list.n_partitions = 4;
    list.node_id = 5;
    memset(&plan, 0, sizeof plan);
    problem[0] = 0;
    return 0;
}

static bool planned(const struct dn_cli_source_wish *wish)
{
    return dn_cli_source_plan(&list, wish, &plan, problem, sizeof problem);
}

static void an_offset_goes_to_every_shard(void **state)
{
    struct dn_cli_source_wish wish = {.stream = "s/t", .partition = 7, .offset = 200, .forward = true};

    (void)state;
    assert_true(planned(&wish));
    assert_int_equal(plan.count, 3);
    assert_int_equal(plan.next_offset, 200);
    assert_int_equal(plan.shards[0], 1);
    assert_int_equal(plan.old_offsets[0], 100);
    assert_int_equal(plan.shards[2], 3);
    assert_int_equal(plan.old_offsets[2], -1);
    wish.shard = 2;
    assert_true(planned(&wish));
    assert_int_equal(plan.count, 1);
    assert_int_equal(plan.shards[0], 2);
}

static void skip_does_not_go_back(void **state)
{
    struct dn_cli_source_wish wish = {.stream = "s/t", .partition = 7, .offset = 199, .forward = true};

    (void)state;
    assert_false(planned(&wish));
    assert_non_null(strstr(problem, "shard 2 is at offset 200 already"));
    assert_int_equal(plan.count, 0);
    wish.shard = 1; /* which is at 100 */
    assert_true(planned(&wish));
    wish.shard = 0;
    wish.forward = false; /* reset does */
    assert_true(planned(&wish));
    assert_int_equal(plan.next_offset, 199);
}

static void end_and_beginning(void **state)
{
    struct dn_cli_source_wish wish = {.stream = "s/t", .partition = 7, .to = DN_CLI_TO_END, .forward = true};

    (void)state;
    assert_true(planned(&wish));
    assert_int_equal(plan.next_offset, 5000);
    assert_int_equal(plan.count, 3);
    wish.partition = 8; /* nobody here reads it */
    assert_false(planned(&wish));
    assert_non_null(strstr(problem, "node 5 does not know where partition 8 of s/t ends"));
    wish.partition = 7;
    partitions[1].end_offset = partitions[2].end_offset = -1; /* not heard of yet */
    assert_false(planned(&wish));
    wish = (struct dn_cli_source_wish){.stream = "s/t", .partition = 8, .to = DN_CLI_TO_BEGINNING};
    assert_true(planned(&wish));
    assert_int_equal(plan.next_offset, -1);
    assert_int_equal(plan.count, 1);
}

static void what_is_not_there_is_refused(void **state)
{
    struct dn_cli_source_wish wish = {.stream = "s/u", .partition = 7, .offset = 1};

    (void)state;
    assert_false(planned(&wish));
    assert_non_null(strstr(problem, "s/u has no partition 7"));
    wish.stream = "s/t";
    wish.partition = 9;
    assert_false(planned(&wish));
    wish.partition = 8;
    wish.shard = 2;
    assert_false(planned(&wish));
    assert_non_null(strstr(problem, "in that shard"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_offset_goes_to_every_shard, reset_list),
        cmocka_unit_test_setup(skip_does_not_go_back, reset_list),
        cmocka_unit_test_setup(end_and_beginning, reset_list),
        cmocka_unit_test_setup(what_is_not_there_is_refused, reset_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
