/* Members as a Raft configuration names them, and greetings, as bytes. */
#include "consensus/greet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct listed example = {.raft_id = 0x0123456789abcdef,
                                      .node_id = 12,
                                      .replaces = 0xfeed,
                                      .role = DN_ROLE_LEARNER,
                                      .address = "node-12.dunlin.svc:7101"};

static void members_are_written_and_read(void **state)
{
    char text[MEMBER_TEXT_MAX];
    struct listed got;
    (void)state;
    member_text(&example, text);
    assert_string_equal(
        text, "node=12;at=node-12.dunlin.svc:7101;raft=0123456789abcdef;replaces=000000000000feed;stays=0");
    assert_true(member_parse(text, RAFT_STANDBY, &got));
    assert_memory_equal(&got, &example, sizeof got);
    assert_true(member_parse(text, RAFT_VOTER, &got));
    assert_int_equal(got.role, DN_ROLE_VOTER);
    struct listed replica = example;
    replica.role = DN_ROLE_REPLICA;
    member_text(&replica, text);
    assert_true(member_parse(text, RAFT_SPARE, &got));
    assert_int_equal(got.role, DN_ROLE_REPLICA);
}

static void other_texts_are_no_members(void **state)
{
    static const char *const texts[] = {
        "",
        "127.0.0.1:7101",
        "node=0;at=a:1;raft=0000000000000001;replaces=0000000000000000;stays=0",
        "node=01;at=a:1;raft=0000000000000001;replaces=0000000000000000;stays=0",
        "node=1;at=a;raft=0000000000000001;replaces=0000000000000000;stays=0",
        "node=1;at=a:0;raft=0000000000000001;replaces=0000000000000000;stays=0",
        "node=1;at=a b:1;raft=0000000000000001;replaces=0000000000000000;stays=0",
        "node=1;at=a:1;raft=1;replaces=0000000000000000;stays=0",
        "node=1;at=a:1;raft=0000000000000001;replaces=0000000000000000;stays=2",
        "node=1;at=a:1;raft=0000000000000001;replaces=0000000000000000;stays=0;",
        "node=1;at=a:1;replaces=0000000000000000;raft=0000000000000001;stays=0",
    };
    struct listed got;
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (member_parse(texts[i], RAFT_VOTER, &got))
            fail_msg("'%s' was taken", texts[i]);
    char text[2 * MEMBER_TEXT_MAX] = "node=1;at="; /* an address that is too long */
    memset(text + 10, 'a', DN_ADDRESS_MAX);
    strcpy(text + 10 + DN_ADDRESS_MAX, ":1;raft=0000000000000001;replaces=0000000000000000;stays=0");
    assert_false(member_parse(text, RAFT_VOTER, &got));
}

static void configurations_are_read(void **state)
{
    struct raft_configuration configuration;
    struct member_list list;
    struct dn_error err;
    char text[MEMBER_TEXT_MAX];
    (void)state;
    raft_configuration_init(&configuration);
    member_text(&example, text);
    assert_int_equal(raft_configuration_add(&configuration, example.raft_id, text, RAFT_STANDBY), 0);
    assert_int_equal(member_list_from(&configuration, &list, &err), DN_OK);
    assert_int_equal(list.count, 1);
    assert_ptr_equal(member_list_find(&list, example.raft_id), &list.of[0]);
    assert_ptr_equal(member_list_named(&list, 12), &list.of[0]);
    assert_null(member_list_find(&list, 12));
    configuration.servers[0].id++; /* the text is another's */
    assert_int_equal(member_list_from(&configuration, &list, &err), DN_CORRUPT);
    raft_configuration_close(&configuration);
}

static struct greeting full(void)
{
    struct greeting g = {.reply = true, .node_id = 12, .group_count = 5, .list_hash = 1, .config_index = 9};
    g.in_groups = 3;
    memcpy(g.address, example.address, sizeof g.address);
    for (unsigned i = 0; i < DN_MEMBERS_MAX; i++) {
        g.members.of[i] = example;
        g.members.of[i].raft_id = i + 1;
        memset(g.members.of[i].address, 'a', DN_ADDRESS_MAX - 4); /* as long as they may be */
        strcpy(g.members.of[i].address + DN_ADDRESS_MAX - 4, ":71");
    }
    g.members.count = DN_MEMBERS_MAX;
    g.initial = g.members;
    return g;
}

static void greetings_are_written_and_read(void **state)
{
    static struct greeting g, got;
    struct dn_buffer out;
    struct dn_error err;
    (void)state;
    g = full();
    dn_buffer_init(&out, GREET_MAX);
    greeting_encode(&g, &out);
    assert_false(out.failed); /* the largest fits */
    assert_int_equal(out.bytes[0], MESSAGE_GREET);
    assert_int_equal(greeting_decode(out.bytes + 1, out.length - 1, &got, &err), DN_OK);
    assert_memory_equal(&got, &g, sizeof g);
    for (size_t length = 0; length < out.length - 1; length++) /* cut short at every place */
        assert_int_not_equal(greeting_decode(out.bytes + 1, length, &got, &err), DN_OK);
    out.bytes[1]++;
    assert_int_equal(greeting_decode(out.bytes + 1, out.length - 1, &got, &err), DN_UNIMPLEMENTED);
    dn_buffer_free(&out);
}

static void bad_greetings_are_refused(void **state)
{
    static struct greeting g, got;
    struct dn_buffer out;
    struct dn_error err;
    (void)state;
    dn_buffer_init(&out, GREET_MAX);
    for (unsigned i = 0; i < 6; i++) {
        g = full();
        switch (i) {
        case 0:
            g.node_id = 0;
            break;
        case 1:
            strcpy(g.address, "nowhere");
            break;
        case 2:
            g.members.of[3].raft_id = g.members.of[5].raft_id;
            break;
        case 3:
            g.members.of[3].role = DN_ROLE_WAITING;
            break;
        case 4:
            g.initial.of[3].raft_id = 0;
            break;
        default:
            strcpy(g.initial.of[3].address, "a;b:1");
            break;
        }
        dn_buffer_clear(&out);
        greeting_encode(&g, &out);
        assert_int_equal(greeting_decode(out.bytes + 1, out.length - 1, &got, &err), DN_CORRUPT);
    }
    dn_buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_are_written_and_read), cmocka_unit_test(other_texts_are_no_members),
        cmocka_unit_test(configurations_are_read),      cmocka_unit_test(greetings_are_written_and_read),
        cmocka_unit_test(bad_greetings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
