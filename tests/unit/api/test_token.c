/* Tokens: what is encoded comes back; anything else is refused. */
#include "api/token.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t hash_key[DN_HASH_KEY_BYTES] = "0123456789abcde";

static struct dn_token sample(void)
{
    struct dn_token token = {.count = 0};
    dn_token_raise(&token, 3, 77);
    dn_token_raise(&token, 0, 5);
    dn_token_raise(&token, 64, UINT64_MAX);
    dn_token_raise(&token, 3, 60); /* lower: nothing changes */
    dn_token_raise(&token, 1, 0);  /* says nothing */
    return token;
}

static void test_round_trip(void **state)
{
    (void)state;
    uint8_t key[DN_HASH_KEY_BYTES], bytes[DN_TOKEN_BYTES_MAX];
    dn_token_key(hash_key, key);
    struct dn_token token = sample(), back;
    assert_int_equal(token.count, 3);
    size_t length = dn_token_encode(&token, key, bytes);
    assert_int_equal(length, 2 + 3 * 12 + 8);
    assert_int_equal(dn_token_decode(bytes, length, key, 65, &back, NULL), DN_OK);
    assert_int_equal(back.count, 3);
    assert_int_equal(back.entries[0].group, 0);
    assert_int_equal(dn_token_index(&back, 0), 5);
    assert_int_equal(dn_token_index(&back, 3), 77);
    assert_true(dn_token_index(&back, 64) == UINT64_MAX);
    assert_int_equal(dn_token_index(&back, 2), 0);
    struct dn_token none = {.count = 0};
    length = dn_token_encode(&none, key, bytes);
    assert_int_equal(dn_token_decode(bytes, length, key, 1, &back, NULL), DN_OK);
    assert_int_equal(back.count, 0);
}

static void test_full(void **state)
{
    (void)state;
    uint8_t key[DN_HASH_KEY_BYTES], bytes[DN_TOKEN_BYTES_MAX];
    dn_token_key(hash_key, key);
    struct dn_token token = {.count = 0}, back;
    for (uint32_t group = 0; group < DN_GROUPS_MAX; group++)
        dn_token_raise(&token, DN_GROUPS_MAX - 1 - group, group + 1);
    size_t length = dn_token_encode(&token, key, bytes);
    assert_int_equal(length, DN_TOKEN_BYTES_MAX);
    assert_int_equal(dn_token_decode(bytes, length, key, DN_GROUPS_MAX, &back, NULL), DN_OK);
    assert_int_equal(back.count, DN_GROUPS_MAX);
    assert_int_equal(dn_token_index(&back, 0), DN_GROUPS_MAX);
}

static void test_refused(void **state)
{
    (void)state;
    uint8_t key[DN_HASH_KEY_BYTES], other[DN_HASH_KEY_BYTES], bytes[DN_TOKEN_BYTES_MAX];
    dn_token_key(hash_key, key);
    dn_token_key((const uint8_t *)"another key, 16b", other);
    struct dn_token token = sample(), back;
    struct dn_error err;
    size_t length = dn_token_encode(&token, key, bytes);
    /* a shard that the cluster has not; another cluster's key; cut short; every single bit */
    assert_int_equal(dn_token_decode(bytes, length, key, 64, &back, &err), DN_INVALID);
    assert_non_null(strstr(err.message, "shard"));
    assert_int_equal(dn_token_decode(bytes, length, other, 65, &back, &err), DN_INVALID);
    for (size_t cut = 0; cut < length; cut++)
        assert_int_equal(dn_token_decode(bytes, cut, key, 65, &back, NULL), DN_INVALID);
    for (size_t bit = 0; bit < 8 * length; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(dn_token_decode(bytes, length, key, 65, &back, NULL), DN_INVALID);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(dn_token_decode(bytes, length, key, 65, &back, NULL), DN_OK);
}

/* Well signed and still wrong: count, order, version. */
static void test_signed_nonsense(void **state)
{
    (void)state;
    uint8_t key[DN_HASH_KEY_BYTES], bytes[DN_TOKEN_BYTES_MAX];
    dn_token_key(hash_key, key);
    struct dn_token back;
    struct dn_token doubled = {.count = 2, .entries = {{2, 9}, {2, 9}}};
    size_t length = dn_token_encode(&doubled, key, bytes);
    assert_int_equal(dn_token_decode(bytes, length, key, 65, &back, NULL), DN_INVALID);
    struct dn_token token = sample();
    for (int change = 0; change < 2; change++) {
        length = dn_token_encode(&token, key, bytes);
        bytes[change]++;
        uint64_t mac = dn_keyed_hash64(key, bytes, length - 8);
        for (size_t i = 0; i < 8; i++)
            bytes[length - 8 + i] = (uint8_t)(mac >> (8 * i));
        assert_int_equal(dn_token_decode(bytes, length, key, 65, &back, NULL), DN_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_signed_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
