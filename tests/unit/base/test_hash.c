#include "base/hash.h"
#include "base/hash_private.h"
#include "tests/unit/base/cmocka_all.h"
#include "tests/unit/base/random.h"

#include <inttypes.h>
#include <string.h>

/* ---- murmur2: the values Apache Kafka's own tests pin for its Java client (before it drops the sign) ----
 */

static void murmur2_is_kafkas(void **state)
{
    static const struct {
        const char *key;
        int32_t java;
    } rows[] = {
        {"21", -973932308},
        {"foobar", -790332482},
        {"a-little-bit-long-string", -985981536},
        {"a-little-bit-longer-string", -1486304829},
        {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
        {"abc", 479470107},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(dn_murmur2(rows[i].key, strlen(rows[i].key)), (uint32_t)rows[i].java & 0x7fffffffu);
    }
    assert_int_equal(dn_murmur2("", 0), 275646681);
}

/* ---- CRC-32C ---- */

static void crc32c_of_rfc_3720(void **state)
{
    uint8_t bytes[32];

    (void)state;
    assert_int_equal(dn_crc32c(0, "123456789", 9), 0xE3069283u);
    assert_int_equal(dn_crc32c(0, "", 0), 0);
    memset(bytes, 0, 32);
    assert_int_equal(dn_crc32c(0, bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, 32);
    assert_int_equal(dn_crc32c(0, bytes, 32), 0x62a8ab43u);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = i;
    }
    assert_int_equal(dn_crc32c(0, bytes, 32), 0x46dd794eu);
    assert_int_equal(dn_crc32c_software(0, bytes, 32), 0x46dd794eu);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = (uint8_t)(31 - i);
    }
    assert_int_equal(dn_crc32c(0, bytes, 32), 0x113fdb5cu);
    assert_int_equal(dn_crc32c_software(0, bytes, 32), 0x113fdb5cu);
}

static void crc32c_hardware_and_software_agree(void **state)
{
    struct test_random random = test_random_start("crc32c");
    uint8_t bytes[600];

    (void)state;
    if (!dn_crc32c_has_hardware()) {
        print_message("skipped: this processor has no crc32 instruction\n");
        skip();
    }
    for (int round = 0; round < 5000; round++) {
        size_t start = test_random_below(&random, 16);
        size_t length = test_random_below(&random, sizeof(bytes) - start);
        uint32_t before = (uint32_t)test_random_next(&random);

        for (size_t i = 0; i < length; i++) {
            bytes[start + i] = (uint8_t)test_random_next(&random);
        }
        assert_int_equal(dn_crc32c_hardware(before, bytes + start, length),
                         dn_crc32c_software(before, bytes + start, length));
    }
}

static void crc32c_goes_on_where_it_stopped(void **state)
{
    struct test_random random = test_random_start("crc32c in parts");
    uint8_t bytes[300];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)test_random_next(&random);
    }
    for (size_t cut = 0; cut <= sizeof(bytes); cut++) {
        uint32_t whole = dn_crc32c(0, bytes, sizeof(bytes));

        assert_int_equal(dn_crc32c(dn_crc32c(0, bytes, cut), bytes + cut, sizeof(bytes) - cut), whole);
        assert_int_equal(
            dn_crc32c_software(dn_crc32c_software(0, bytes, cut), bytes + cut, sizeof(bytes) - cut), whole);
    }
}

/* ---- dn_hash64: ours, so the pinned values are of its first version, and must stay ---- */

static void hash64_stays_what_it_was(void **state)
{
    static const struct {
        size_t length;
        uint64_t seed;
        uint64_t hash;
    } rows[] = {
        {0, 0, 0x489226708fb783dbu},
        {1, 0, 0x27b38cebbf379cf3u},
        {2, 0, 0x3ffe57df46043fe6u},
        {3, 0, 0x96dcc3f7f4288028u},
        {4, 0, 0xf4717c35040bd845u},
        {7, 0, 0x619ca66f246fb7f2u},
        {8, 0, 0xf2b76e5d1ba5685du},
        {9, 0, 0x28eebc0c1d5c1160u},
        {15, 0, 0x70fa021d8f2e7c5au},
        {16, 0, 0x1dc145d76d19162au},
        {17, 0, 0x1c68e0e6e0cdfccfu},
        {31, 0, 0x21f144403d2f009fu},
        {32, 0, 0xe6c38d41f7517004u},
        {33, 0, 0x605a054c2b79e7c1u},
        {48, 0, 0xf1a19d708cecab01u},
        {63, 0, 0x07e0bb68bba70b53u},
        {64, 0, 0xdfe8aeb7e1dbb0f4u},
        {65, 0, 0xb0be16298309e472u},
        {96, 0, 0x52e7cef81fb0eff0u},
        {100, 0, 0xa08c40758111c630u},
        {255, 0, 0x37b69e4229a68cfcu},
        {256, 0, 0xf4a600a7c1d1572eu},
        {0, 1, 0x58d6038bdb4d1316u},
        {8, 42, 0xc7af75949c783937u},
        {100, UINT64_MAX, 0xaf39277a952f46ecu},
    };
    uint8_t bytes[256];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i * 7 + 3);
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t got = dn_hash64(bytes, rows[i].length, rows[i].seed);

        if (got != rows[i].hash) {
            fail_msg("length %zu, seed %" PRIu64 ": 0x%016" PRIx64, rows[i].length, rows[i].seed, got);
        }
    }
}

static void hash64_reads_exactly_its_bytes(void **state)
{
    (void)state;
    for (size_t length = 0; length <= 130; length++) {
        uint8_t *exact = malloc(length > 0 ? length : 1);
        uint8_t shifted[140];
        uint64_t hash;

        memset(shifted, 0xcc, sizeof(shifted));
        for (size_t i = 0; i < length; i++) {
            exact[i] = shifted[i + 3] = (uint8_t)(i ^ 0x5a);
        }
        hash = dn_hash64(exact, length, 1);
        assert_true(hash == dn_hash64(shifted + 3, length, 1)); /* alignment and neighbours do not matter */
        for (size_t i = 0; i < length; i++) {                   /* and every byte does */
            exact[i] ^= 0x10;
            assert_true(hash != dn_hash64(exact, length, 1));
            exact[i] ^= 0x10;
        }
        free(exact);
    }
}

/* Flipping any one input bit must flip each output bit about half of the time. */
static void hash64_avalanche(void **state)
{
    static const size_t lengths[] = {1, 3, 4, 7, 8, 9, 15, 16, 17, 32, 33, 48, 64, 65, 100};
    struct test_random random = test_random_start("hash64 avalanche");
    enum { ROUNDS = 400 };

    (void)state;
    for (size_t l = 0; l < sizeof(lengths) / sizeof(lengths[0]); l++) {
        uint32_t flips[64] = {0};
        uint32_t trials = 0;

        for (int round = 0; round < ROUNDS; round++) {
            size_t bit = test_random_below(&random, lengths[l] * 8);
            uint8_t bytes[100];
            uint64_t difference;

            for (size_t i = 0; i < lengths[l]; i++) {
                bytes[i] = (uint8_t)test_random_next(&random);
            }
            difference = dn_hash64(bytes, lengths[l], 0);
            bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
            difference ^= dn_hash64(bytes, lengths[l], 0);
            for (int out = 0; out < 64; out++) {
                flips[out] += (uint32_t)(difference >> out) & 1;
            }
            trials++;
        }
        for (int out = 0; out < 64; out++) { /* half, within 6 standard deviations */
            assert_in_range(flips[out], trials / 2 - 60, trials / 2 + 60);
        }
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

#define KEYS 200000

/* Keys that tables see: counters, decimal ids, runs of one byte, two-bit patterns, seeds. No two may collide,
 * and the low bits must spread (a table takes only those). */
static void hash64_spreads_plain_keys(void **state)
{
    static uint64_t hashes[KEYS * 2 + 4096 + 256 * 255 / 2 + 5000];
    static uint32_t cells[4096];
    size_t count = 0;
    double chi_square = 0;

    (void)state;
    for (uint64_t i = 0; i < KEYS; i++) {
        char text[24];
        int length = snprintf(text, sizeof(text), "user-%" PRIu64, i);

        hashes[count++] = dn_hash64(&i, sizeof(i), 0);
        cells[hashes[count - 1] & 4095]++;
        hashes[count++] = dn_hash64(text, (size_t)length, 0);
        cells[hashes[count - 1] & 4095]++;
    }
    for (int i = 0; i < 4096; i++) {
        double off = (double)cells[i] - KEYS * 2 / 4096.0;

        chi_square += off * off / (KEYS * 2 / 4096.0);
    }
    assert_true(chi_square > 3600 && chi_square < 4600); /* 4095 +- 90 expected */
    for (size_t length = 0; length < 4096; length++) {
        static const uint8_t zeros[4096];

        hashes[count++] = dn_hash64(zeros, length, 7);
    }
    for (size_t a = 0; a < 256; a++) {
        for (size_t b = 0; b < a; b++) {
            uint8_t bits[32] = {0};

            bits[a / 8] |= (uint8_t)(1u << (a % 8));
            bits[b / 8] |= (uint8_t)(1u << (b % 8));
            hashes[count++] = dn_hash64(bits, sizeof(bits), 0);
        }
    }
    for (uint64_t seed = 1; seed <= 5000; seed++) {
        hashes[count++] = dn_hash64("same", 4, seed);
    }
    assert_int_equal(count, sizeof(hashes) / sizeof(hashes[0]));
    qsort(hashes, count, sizeof(hashes[0]), compare_u64);
    for (size_t i = 1; i < count; i++) {
        assert_true(hashes[i - 1] != hashes[i]);
    }
}

/* ---- keyed hashes: the vectors of the SipHash authors (key 00..0f, input 00, 01, ...) ---- */

static void keyed_hashes_are_siphash_2_4(void **state)
{
    uint8_t key[DN_HASH_KEY_BYTES], input[15];
    struct dn_hash128 empty, one, other;

    (void)state;
    for (uint8_t i = 0; i < 16; i++) {
        key[i] = i;
    }
    for (uint8_t i = 0; i < 15; i++) {
        input[i] = i;
    }
    assert_true(dn_keyed_hash64(key, input, 15) == 0xa129ca6149be45e5u);
    assert_true(dn_keyed_hash64(key, NULL, 0) == 0x726fdb47dd0e0e31u);
    empty = dn_keyed_hash128(key, NULL, 0);
    one = dn_keyed_hash128(key, input, 1);
    assert_true(dn_hash128_equal(empty, (struct dn_hash128){0xe6a825ba047f81a3u, 0x930255c71472f66du}));
    assert_true(dn_hash128_equal(one, (struct dn_hash128){0x44af996bd8c187dau, 0x45fc229b11597634u}));
    assert_false(dn_hash128_equal(empty, one));
    key[15] ^= 1;
    other = dn_keyed_hash128(key, input, 1);
    assert_false(dn_hash128_equal(one, other));
    assert_false(dn_hash128_equal(one, (struct dn_hash128){one.high, one.low ^ 1}));
    assert_false(dn_hash128_equal(one, (struct dn_hash128){one.high ^ 1, one.low}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(murmur2_is_kafkas),
        cmocka_unit_test(crc32c_of_rfc_3720),
        cmocka_unit_test(crc32c_hardware_and_software_agree),
        cmocka_unit_test(crc32c_goes_on_where_it_stopped),
        cmocka_unit_test(hash64_stays_what_it_was),
        cmocka_unit_test(hash64_reads_exactly_its_bytes),
        cmocka_unit_test(hash64_avalanche),
        cmocka_unit_test(hash64_spreads_plain_keys),
        cmocka_unit_test(keyed_hashes_are_siphash_2_4),
    };
    return cmocka_run_group_tests_name("base.hash", tests, NULL, NULL);
}
