/* The command-line client's own parsing: filters, tokens, text for terminals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "node/cli.h"

#include <stdlib.h>
#include <string.h>

static void add(struct dn_cli_filter *filter, const char *text)
{
    struct dn_error err = {0};
    size_t at;

    if (dn_cli_filter_add(filter, text, &at, &err) != DN_OK)
        fail_msg("%s: %s", text, err.message);
}

static void refused(struct dn_cli_filter *filter, const char *text, size_t wanted_at, const char *message)
{
    struct dn_error err = {0};
    size_t at = 0;

    if (dn_cli_filter_add(filter, text, &at, &err) != DN_INVALID || at != wanted_at ||
        strstr(err.message, message) == NULL)
        fail_msg("%s: at %zu: %s", text, at, err.message);
}

static void test_filters(void **state)
{
    struct dn_cli_filter filter;
    const Dunlin__V1__Filter *built = &filter.filter;

    (void)state;
    dn_cli_filter_init(&filter);
    add(&filter, "category=shoes|'hats and coats'");
    add(&filter, "price=1..5.5");
    add(&filter, "price=..5");
    add(&filter, "weight=-2..");
    add(&filter, "label='a..b=c'");
    add(&filter, "title prefix Re|No");
    assert_int_equal(built->n_terms, 6);
    assert_int_equal(built->n_steps, 0); /* older servers know this much */
    assert_string_equal(built->terms[0]->name, "category");
    assert_int_equal(built->terms[0]->n_values, 2);
    assert_string_equal(built->terms[0]->values[1], "hats and coats");
    assert_true(built->terms[1]->n_values == 0 && built->terms[1]->has_min && built->terms[1]->has_max);
    assert_true(built->terms[1]->min == 1 && built->terms[1]->max == 5.5);
    assert_true(!built->terms[2]->has_min && built->terms[2]->has_max && built->terms[2]->max == 5);
    assert_true(built->terms[3]->has_min && !built->terms[3]->has_max && built->terms[3]->min == -2);
    assert_true(!built->terms[4]->has_min && !built->terms[4]->has_max); /* no numbers: a text */
    assert_string_equal(built->terms[4]->values[0], "a..b=c");
    assert_int_equal(built->terms[5]->n_values, 0);
    assert_int_equal(built->terms[5]->n_prefixes, 2);
    assert_string_equal(built->terms[5]->prefixes[0], "No"); /* in order */
    refused(&filter, "category", 8, "expected one of");
    refused(&filter, "=x", 0, "expected a condition");
    refused(&filter, "category=", 9, "expected a value");
    refused(&filter, "category=hats and coats", 23, "expected one of");
    assert_int_equal(built->n_terms, 6);
    for (int i = 6; i < DN_FILTER_TERMS_MAX; i++)
        add(&filter, "a=b");
    refused(&filter, "a=b", 0, "65 conditions; the most is 64");
    assert_int_equal(built->n_terms, DN_FILTER_TERMS_MAX);
    dn_cli_filter_free(&filter);
}

/* More than a list of conditions: steps, also for what was given in several texts. */
static void test_filter_steps(void **state)
{
    static const Dunlin__V1__FilterStep wanted[] = {
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_TERM, .count = 0},
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_TERM, .count = 1},
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_TERM, .count = 2},
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_NOT, .count = 1},
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_OR, .count = 2},
        {.join = DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_AND, .count = 2},
    };
    struct dn_cli_filter filter;

    (void)state;
    dn_cli_filter_init(&filter);
    add(&filter, "a = b");
    add(&filter, "c = d or not e < 5");
    assert_int_equal(filter.filter.n_steps, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(filter.filter.steps[i]->join, wanted[i].join);
        if (wanted[i].join != DUNLIN__V1__FILTER_JOIN__FILTER_JOIN_NOT)
            assert_int_equal(filter.filter.steps[i]->count, wanted[i].count);
    }
    assert_true(filter.filter.terms[2]->has_max && filter.filter.terms[2]->max < 5);
    assert_true(filter.filter.terms[2]->max > 4.999999);
    dn_cli_filter_free(&filter);
}

static void test_tokens(void **state)
{
    uint8_t bytes[4];
    size_t length = 99;
    ProtobufCBinaryData data = {.data = bytes, .len = 4};
    char *text;

    (void)state;
    assert_true(dn_cli_unhex("00ffA0b1", bytes, sizeof bytes, &length));
    assert_int_equal(length, 4);
    text = dn_cli_hex(&data);
    assert_string_equal(text, "00ffa0b1");
    free(text);
    assert_true(dn_cli_unhex("", bytes, sizeof bytes, &length));
    assert_int_equal(length, 0);
    assert_false(dn_cli_unhex("0", bytes, sizeof bytes, &length));
    assert_false(dn_cli_unhex("0x", bytes, sizeof bytes, &length));
    assert_false(dn_cli_unhex("0011223344", bytes, sizeof bytes, &length));
}

static void test_clean(void **state)
{
    char text[1000];

    (void)state;
    assert_string_equal(dn_cli_clean("a\033[2Jb\n\x7f"), "a?[2Jb??");
    assert_string_equal(dn_cli_clean("h\xc3\xa9"), "h\xc3\xa9");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_true(strlen(dn_cli_clean(text)) < 400);
}

static void wish(const struct dn_cli_wish *wish, Dunlin__V1__ListMembersResponse *list, bool met,
                 const char *says)
{
    char progress[200];

    if (dn_cli_wish_met(wish, list, progress, sizeof progress) != met || strstr(progress, says) == NULL)
        fail_msg("met is not %d, or '%s' not in '%s'", met, says, progress);
}

/* What --wait waits for: the role in every group of the cluster, not only in those the member is in yet. */
static void test_wishes(void **state)
{
    Dunlin__V1__Member members[4], *pointers[4];
    Dunlin__V1__ListMembersResponse list = DUNLIN__V1__LIST_MEMBERS_RESPONSE__INIT;
    struct dn_cli_wish add = {.op = DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD, .node_id = 4};
    struct dn_cli_wish replica = {.op = DUNLIN__V1__MEMBER_OP__MEMBER_OP_ADD, .node_id = 4, .replica = true};
    struct dn_cli_wish removal = {.op = DUNLIN__V1__MEMBER_OP__MEMBER_OP_REMOVE, .node_id = 1};
    struct dn_cli_wish replace = {
        .op = DUNLIN__V1__MEMBER_OP__MEMBER_OP_REPLACE, .node_id = 1, .old_raft_id = 11};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        dunlin__v1__member__init(&members[i]);
        pointers[i] = &members[i];
        members[i].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER;
        members[i].node_id = i + 1;
        members[i].raft_id = 11 + i;
        members[i].groups = members[i].voting = 5;
    }
    list.groups = 5;
    list.node_id = 3;
    list.members = pointers;
    list.n_members = 3;
    wish(&add, &list, false, "node 4: not in the list of node 3 yet");
    list.n_members = 4;
    members[3].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING;
    wish(&add, &list, false, "not in the list");
    members[3].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_LEARNER;
    members[3].groups = 1;
    members[3].voting = 0;
    wish(&add, &list, false, "node 4: learner, in 1 of 5 groups, votes in 0");
    members[3].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER;
    members[3].voting = 1; /* in every group it is in: not enough */
    wish(&add, &list, false, "voter, in 1 of 5 groups, votes in 1");
    members[3].groups = 5;
    wish(&add, &list, false, "in 5 of 5 groups, votes in 1");
    members[3].voting = 5;
    wish(&add, &list, true, "votes in 5");
    wish(&replica, &list, false, "voter");
    members[3].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_REPLICA;
    members[3].voting = 0;
    wish(&replica, &list, true, "replica, in 5 of 5 groups");
    wish(&add, &list, false, "replica");

    wish(&removal, &list, false, "node 1: still in 5 of 5 groups");
    members[0].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_WAITING; /* come back empty */
    wish(&removal, &list, true, "no longer a member");

    members[0].role = DUNLIN__V1__MEMBER_ROLE__MEMBER_ROLE_VOTER;
    wish(&replace, &list, false, "not in the list");
    members[3] = members[0];
    members[3].raft_id = 99;
    wish(&replace, &list, false, "the one it replaces is there yet");
    members[0].node_id = 2;
    members[0].raft_id = 12;
    wish(&replace, &list, true, "node 1: voter, in 5 of 5 groups, votes in 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_filters), cmocka_unit_test(test_filter_steps),
                                       cmocka_unit_test(test_tokens), cmocka_unit_test(test_clean),
                                       cmocka_unit_test(test_wishes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
