/* Raft's messages as bytes: round trips, and damage of every kind (run under the address sanitizer). */
#include "consensus/rpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t z = (rng_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fill_configuration(struct raft_configuration *configuration)
{
    raft_configuration_init(configuration);
    unsigned n = 1 + (unsigned)(rng() % 7);
    for (unsigned i = 0; i < n; i++) {
        char address[32];
        snprintf(address, sizeof address, "host-%u:%u", i, (unsigned)(rng() % 65536));
        assert_int_equal(raft_configuration_add(configuration, i + 1 + (rng() % 1000) * 16, address,
                                                rng() % 4 ? RAFT_VOTER : RAFT_STANDBY),
                         0);
    }
}

static void fill_entries(struct raft_append_entries *append)
{
    append->n_entries = (unsigned)(rng() % 6);
    append->entries = append->n_entries == 0 ? NULL : raft_calloc(append->n_entries, sizeof *append->entries);
    size_t total = 0, lengths[6];
    struct dn_buffer configuration;
    dn_buffer_init(&configuration, 4096);
    struct raft_configuration members;
    fill_configuration(&members);
    rpc_configuration_entry(&members, &configuration);
    raft_configuration_close(&members);
    for (unsigned i = 0; i < append->n_entries; i++) {
        static const unsigned short types[] = {RAFT_COMMAND, RAFT_BARRIER, RAFT_CHANGE};
        append->entries[i].term = 1 + rng() % 9;
        append->entries[i].type = types[rng() % 3];
        lengths[i] = append->entries[i].type == RAFT_CHANGE ? configuration.length : 8 * (1 + rng() % 40);
        total += lengths[i];
    }
    uint8_t *batch = append->n_entries == 0 ? NULL : raft_malloc(total);
    for (unsigned i = 0, at = 0; i < append->n_entries; at += (unsigned)lengths[i], i++) {
        for (size_t k = 0; k < lengths[i]; k++) {
            batch[at + k] = (uint8_t)rng();
        }
        if (append->entries[i].type == RAFT_CHANGE) {
            memcpy(batch + at, configuration.bytes, configuration.length);
        }
        append->entries[i].buf = (struct raft_buffer){batch + at, lengths[i]};
        append->entries[i].batch = batch;
    }
    dn_buffer_free(&configuration);
}

static void fill_message(struct raft_message *message)
{
    static const enum raft_message_type types[] = {RAFT_REQUEST_VOTE,     RAFT_REQUEST_VOTE_RESULT,
                                                   RAFT_APPEND_ENTRIES,   RAFT_APPEND_ENTRIES_RESULT,
                                                   RAFT_INSTALL_SNAPSHOT, RAFT_TIMEOUT_NOW};
    memset(message, 0, sizeof *message);
    message->type = types[rng() % 6];
    switch (message->type) {
    case RAFT_REQUEST_VOTE:
        message->request_vote =
            (struct raft_request_vote){2, rng(), rng(), rng(), rng(), rng() % 2, rng() % 2};
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        message->request_vote_result = (struct raft_request_vote_result){
            2, rng(), rng() % 2, rng() % 2, (uint16_t)rng(), (uint16_t)rng()};
        break;
    case RAFT_APPEND_ENTRIES:
        message->append_entries = (struct raft_append_entries){1, rng(), rng(), rng(), rng(), NULL, 0};
        fill_entries(&message->append_entries);
        break;
    case RAFT_APPEND_ENTRIES_RESULT:
        message->append_entries_result =
            (struct raft_append_entries_result){1, rng(), rng(), rng(), (uint16_t)rng(), (uint16_t)rng()};
        break;
    case RAFT_INSTALL_SNAPSHOT:
        message->install_snapshot.term = rng();
        message->install_snapshot.last_index = 1 + rng() % 1000;
        message->install_snapshot.last_term = rng();
        message->install_snapshot.conf_index = rng();
        fill_configuration(&message->install_snapshot.conf);
        message->install_snapshot.data.len = 1 + rng() % 500;
        message->install_snapshot.data.base = raft_calloc(1, message->install_snapshot.data.len);
        break;
    case RAFT_TIMEOUT_NOW:
        message->timeout_now = (struct raft_timeout_now){1, rng(), rng(), rng()};
        break;
    }
}

static void encode(const struct raft_message *message, uint32_t group, struct dn_buffer *out)
{
    unsigned entries = message->type == RAFT_APPEND_ENTRIES ? message->append_entries.n_entries : 0;
    dn_buffer_clear(out);
    rpc_encode(message, group, entries, out);
    for (unsigned i = 0; i < entries; i++) {
        dn_buffer_append(out, message->append_entries.entries[i].buf.base,
                         message->append_entries.entries[i].buf.len);
    }
    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        dn_buffer_append(out, message->install_snapshot.data.base, message->install_snapshot.data.len);
    }
    assert_false(out->failed);
    assert_int_equal(out->bytes[0], MESSAGE_RAFT);
}

/* Two messages are equal when they encode alike. */
static void round_trips(void **state)
{
    struct dn_buffer out, again;
    (void)state;
    dn_buffer_init(&out, 1 << 20);
    dn_buffer_init(&again, 1 << 20);
    for (unsigned round = 0; round < 5000; round++) {
        struct raft_message message, back;
        struct dn_error err = {0};
        uint32_t group = (uint32_t)rng(), got = 0;
        fill_message(&message);
        encode(&message, group, &out);
        if (rpc_decode(out.bytes + 1, out.length - 1, &back, &got, &err) != DN_OK) {
            fail_msg("type %d: %s", message.type, err.message);
        }
        assert_true(got == group && back.type == message.type);
        encode(&back, got, &again);
        assert_int_equal(out.length, again.length);
        assert_memory_equal(out.bytes, again.bytes, out.length);
        rpc_free(&back);
        rpc_free(&message);
    }
    dn_buffer_free(&out);
    dn_buffer_free(&again);
}

/* Cut, lengthened or changed bytes are refused or decode to something that is whole and can be freed. */
static void damage_is_refused_or_harmless(void **state)
{
    struct dn_buffer out;
    unsigned refused = 0;
    (void)state;
    dn_buffer_init(&out, 1 << 20);
    for (unsigned round = 0; round < 20000; round++) {
        struct raft_message message, back;
        struct dn_error err;
        uint32_t group;
        fill_message(&message);
        encode(&message, 1, &out);
        rpc_free(&message);
        size_t length = out.length - 1;
        uint8_t *copy = malloc(length + 8);
        memcpy(copy, out.bytes + 1, length);
        memset(copy + length, 0, 8);
        switch (rng() % 3) {
        case 0:
            length = rng() % length;
            break;
        case 1:
            length += 1 + rng() % 8;
            break;
        default:
            for (unsigned i = 0; i < 1 + rng() % 3; i++) {
                copy[rng() % length] = (uint8_t)(rng() % 2 ? rng() : 255);
            }
        }
        uint8_t *exact = malloc(length == 0 ? 1 : length);
        memcpy(exact, copy, length);
        if (rpc_decode(exact, length, &back, &group, &err) == DN_OK) {
            rpc_free(&back);
        } else {
            refused++;
        }
        free(copy);
        free(exact);
    }
    printf("# %u of 20000 refused\n", refused);
    assert_true(refused > 10000);
    dn_buffer_free(&out);
}

static void long_appends_are_cut(void **state)
{
    struct raft_entry entries[10];
    struct raft_append_entries append = {.entries = entries, .n_entries = 10};
    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        entries[i].buf.len = 1000;
    }
    assert_int_equal(rpc_entries_fit(&append, 1 << 20), 10);
    assert_int_equal(rpc_entries_fit(&append, 3100), 3);
    assert_int_equal(rpc_entries_fit(&append, 10), 1); /* never none: it would not go on */
    append.n_entries = 0;
    assert_int_equal(rpc_entries_fit(&append, 10), 0);
}

/* A change of members in the middle would be noted under another's index by the follower's libraft. */
static void a_change_comes_first(void **state)
{
    struct raft_entry entries[4] = {{.type = RAFT_COMMAND, .buf = {NULL, 8}},
                                    {.type = RAFT_COMMAND, .buf = {NULL, 8}},
                                    {.type = RAFT_CHANGE, .buf = {NULL, 8}},
                                    {.type = RAFT_COMMAND, .buf = {NULL, 8}}};
    struct raft_append_entries append = {.entries = entries, .n_entries = 4};
    (void)state;
    assert_int_equal(rpc_entries_fit(&append, 1 << 20), 2);
    append.entries = entries + 2;
    append.n_entries = 2;
    assert_int_equal(rpc_entries_fit(&append, 1 << 20), 2);
    entries[3].type = RAFT_CHANGE;
    assert_int_equal(rpc_entries_fit(&append, 1 << 20), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_change_comes_first), cmocka_unit_test(round_trips),
                                       cmocka_unit_test(damage_is_refused_or_harmless),
                                       cmocka_unit_test(long_appends_are_cut)};
    const char *seed = getenv("DN_SEED");
    rng_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    printf("# DN_SEED=%llu\n", (unsigned long long)rng_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
