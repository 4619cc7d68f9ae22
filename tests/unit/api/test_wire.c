/* The wire check: refuses what protobuf-c would silently bend, says where, and never lets through what
 * protobuf-c cannot unpack. */
#include "api/wire.h"

#include "dunlin/v1/dunlin.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUTATIONS 60000

static uint64_t seed, random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static size_t pack_publish(uint8_t *out, size_t events, const char *user)
{
    Dunlin__V1__Event list[8], *pointers[8];
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    for (size_t i = 0; i < events; i++) {
        dunlin__v1__event__init(&list[i]);
        list[i].user_id = (char *)(uintptr_t)(i == events - 1 ? user : "someone");
        list[i].item_id = (char *)(uintptr_t) "item";
        list[i].type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_BUY;
        list[i].time_ms = 1700000000000;
        list[i].weight = 2.5f;
        pointers[i] = &list[i];
    }
    request.n_events = events;
    request.events = pointers;
    return dunlin__v1__publish_request__pack(&request, out);
}

static size_t pack_upsert(uint8_t *out)
{
    static float vector[] = {1, 2, 3};
    Dunlin__V1__Attribute attribute = DUNLIN__V1__ATTRIBUTE__INIT, *attributes[] = {&attribute};
    Dunlin__V1__Item item = DUNLIN__V1__ITEM__INIT, *items[] = {&item, &item};
    Dunlin__V1__UpsertItemsRequest request = DUNLIN__V1__UPSERT_ITEMS_REQUEST__INIT;
    attribute.key = (char *)(uintptr_t) "colour";
    attribute.value = (char *)(uintptr_t) "gr\xc3\xbcn";
    item.id = (char *)(uintptr_t) "a";
    item.n_vector = 3;
    item.vector = vector;
    item.has_price = 1;
    item.price = 9.5;
    item.n_attributes = 1;
    item.attributes = attributes;
    request.n_items = 2;
    request.items = items;
    return dunlin__v1__upsert_items_request__pack(&request, out);
}

static const ProtobufCMessageDescriptor *const publish_type = &dunlin__v1__publish_request__descriptor;

static void test_good(void **state)
{
    (void)state;
    uint8_t bytes[1024] = {0};
    struct dn_error err;
    assert_int_equal(dn_wire_check(publish_type, bytes, 0, &err), DN_OK);
    assert_int_equal(dn_wire_check(publish_type, bytes, pack_publish(bytes, 3, "u\xc3\xa4"), &err), DN_OK);
    assert_int_equal(
        dn_wire_check(&dunlin__v1__upsert_items_request__descriptor, bytes, pack_upsert(bytes), &err), DN_OK);
}

static void test_strings(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct dn_error err;
    size_t length = pack_publish(bytes, 4, "abc");
    uint8_t *at = memmem(bytes, length, "abc", 3);
    assert_non_null(at);
    at[1] = 0;
    assert_int_equal(dn_wire_check(publish_type, bytes, length, &err), DN_INVALID);
    assert_string_equal(err.message, "events[3].user_id: has a NUL byte");
    at[1] = 0xff;
    assert_int_equal(dn_wire_check(publish_type, bytes, length, &err), DN_INVALID);
    assert_string_equal(err.message, "events[3].user_id: is not valid UTF-8");
}

static void test_structure(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } bad[] = {
        {"\x0a", 1},                                          /* no length */
        {"\x0a\x05\x0a", 3},                                  /* shorter than its length */
        {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, /* a length of 2^64-1 */
        {"\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11}, /* a number over 64 bits */
        {"\x00\x01", 2},                                      /* field 0 */
        {"\x0b\x0c", 2},                                      /* a group */
        {"\x0f", 1},                                          /* no such wire type */
        {"\x80", 1},                                          /* a tag without end */
        {"\x7a\x7f", 2},                                      /* an unknown field, cut */
    };
    struct dn_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(dn_wire_check(publish_type, (const uint8_t *)bad[i].bytes, bad[i].length, &err),
                         DN_INVALID);
        assert_string_equal(err.message, "the message is not a valid dunlin.v1.PublishRequest");
    }
    /* an unknown field that is whole is left alone; a known field of the wrong wire type is named */
    assert_int_equal(dn_wire_check(publish_type, (const uint8_t *)"\x7a\x01z", 3, &err), DN_OK);
    assert_int_equal(dn_wire_check(publish_type, (const uint8_t *)"\x08\x01", 2, &err), DN_INVALID);
    assert_string_equal(err.message, "events[0]: is not encoded as its type");
    assert_int_equal(
        dn_wire_check(&dunlin__v1__recommend_request__descriptor, (const uint8_t *)"\x12\x01\x05", 3, &err),
        DN_INVALID);
    assert_string_equal(err.message, "k: is not encoded as its type");
}

/* What passes the check unpacks, whatever was done to the bytes. */
static void test_mutations(void **state)
{
    (void)state;
    uint8_t good[2][1024];
    const ProtobufCMessageDescriptor *types[2] = {publish_type,
                                                  &dunlin__v1__upsert_items_request__descriptor};
    size_t lengths[2] = {pack_publish(good[0], 5, "someone else"), pack_upsert(good[1])};
    size_t passed = 0;
    for (int round = 0; round < MUTATIONS; round++) {
        int which = round % 2;
        uint8_t bytes[1024];
        size_t length = lengths[which];
        memcpy(bytes, good[which], length);
        for (uint32_t changes = 1 + next_random() % 4; changes > 0; changes--)
            bytes[next_random() % length] = (uint8_t)next_random();
        if (next_random() % 4 == 0)
            length = next_random() % length;
        uint8_t *exact = malloc(length ? length : 1); /* so that the sanitizer sees reads past the end */
        memcpy(exact, bytes, length);
        if (dn_wire_check(types[which], exact, length, NULL) == DN_OK) {
            ProtobufCMessage *message = protobuf_c_message_unpack(types[which], NULL, length, exact);
            if (!message)
                fail_msg("seed %llu round %d: passed the check, did not unpack", (unsigned long long)seed,
                         round);
            protobuf_c_message_free_unpacked(message, NULL);
            passed++;
        }
        free(exact);
    }
    assert_true(passed > MUTATIONS / 100); /* the test looks at something */
}

int main(void)
{
    const char *text = getenv("DUNLIN_TEST_SEED");
    seed = text ? strtoull(text, NULL, 10) : 20240601;
    random_state = seed;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
