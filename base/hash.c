#include "base/hash.h"

#include "base/error.h"
#include "base/hash_private.h"

#include <endian.h>
#include <pthread.h>
#include <sodium.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

static uint32_t load32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof(value));
    return le32toh(value);
}

static uint64_t load64(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof(value));
    return le64toh(value);
}

/* ---- murmur2 (Austin Appleby, public domain), as Kafka's Java client applies it ---- */

#define MURMUR2_SEED 0x9747b28cu
#define MURMUR2_MULTIPLIER 0x5bd1e995u
#define MURMUR2_SHIFT 24

uint32_t dn_murmur2(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint32_t h = MURMUR2_SEED ^ (uint32_t)length;

    for (; length >= 4; at += 4, length -= 4) {
        uint32_t k = load32(at) * MURMUR2_MULTIPLIER;

        k ^= k >> MURMUR2_SHIFT;
        h = (h * MURMUR2_MULTIPLIER) ^ (k * MURMUR2_MULTIPLIER);
    }
    if (length > 0) {
        for (size_t i = 0; i < length; i++) {
            h ^= (uint32_t)at[i] << (8 * i);
        }
        h *= MURMUR2_MULTIPLIER;
    }
    h ^= h >> 13;
    h *= MURMUR2_MULTIPLIER;
    h ^= h >> 15;
    return h & 0x7fffffffu;
}

/* ---- CRC-32C ---- */

#define CRC32C_POLYNOMIAL_REFLECTED 0x82f63b78u
#define CRC32C_SLICES 8

static uint32_t crc32c_table[CRC32C_SLICES][256];
static pthread_once_t crc32c_table_once = PTHREAD_ONCE_INIT;

/* crc32c_table[s][b]: what byte b does to the checksum when s more bytes follow it. */
static void crc32c_table_fill(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;

        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1) ? CRC32C_POLYNOMIAL_REFLECTED : 0);
        }
        crc32c_table[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int s = 1; s < CRC32C_SLICES; s++) {
            uint32_t before = crc32c_table[s - 1][b];

            crc32c_table[s][b] = (before >> 8) ^ crc32c_table[0][before & 0xff];
        }
    }
}

uint32_t dn_crc32c_software(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    pthread_once(&crc32c_table_once, crc32c_table_fill);
    crc = ~crc;
    for (; length >= 8; at += 8, length -= 8) {
        uint64_t word = load64(at) ^ crc;

        crc = 0;
        for (int i = 0; i < CRC32C_SLICES; i++) {
            crc ^= crc32c_table[CRC32C_SLICES - 1 - i][(word >> (8 * i)) & 0xff];
        }
    }
    for (; length > 0; at++, length--) {
        crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *at) & 0xff];
    }
    return ~crc;
}

#if defined(__x86_64__)
bool dn_crc32c_has_hardware(void)
{
    return __builtin_cpu_supports("sse4.2") != 0;
}

__attribute__((target("sse4.2"))) uint32_t dn_crc32c_hardware(uint32_t crc, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint64_t wide = (uint32_t)~crc;
    uint32_t narrow;

    for (; length >= 8; at += 8, length -= 8) {
        wide = _mm_crc32_u64(wide, load64(at));
    }
    narrow = (uint32_t)wide;
    for (; length > 0; at++, length--) {
        narrow = _mm_crc32_u8(narrow, *at);
    }
    return ~narrow;
}
#else
bool dn_crc32c_has_hardware(void)
{
    return false;
}

uint32_t dn_crc32c_hardware(uint32_t crc, const void *bytes, size_t length)
{
    (void)crc;
    (void)bytes;
    (void)length;
    DN_ASSERT(!"no crc32 instruction on this processor");
    return 0;
}
#endif

uint32_t dn_crc32c(uint32_t crc, const void *bytes, size_t length)
{
    return dn_crc32c_has_hardware() ? dn_crc32c_hardware(crc, bytes, length)
                                    : dn_crc32c_software(crc, bytes, length);
}

/* ---- 64-bit hash: 16 bytes a step, mixed by a 64x64->128-bit product whose halves are xored ----
 *
 * The rotated old state is added after each product, so that a word which happens to make a factor zero does
 * not wipe out what came before. The constants are odd and have 32 bits set; any such would do, but they are
 * fixed now (tests/unit/base/test_hash.c pins the results). */

#define HASH64_C0 0xb3c95e7d1a62f48bu
#define HASH64_C1 0x8d5a3be96c71e247u
#define HASH64_C2 0xd1c6a87e35b94e2du
#define HASH64_C3 0x9e4d72b1c85ae36bu

__extension__ typedef unsigned __int128 wide_uint;

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    wide_uint product = (wide_uint)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t hash64_step(uint64_t state, uint64_t first, uint64_t second, uint64_t constant)
{
    uint64_t turned = (state << 29) | (state >> 35);

    return fold(first ^ constant, second ^ state) + turned;
}

/* The last 0 to 16 bytes as two words. Overlapping loads are fine: the length is hashed too. */
static inline void hash64_tail(const uint8_t *at, size_t length, uint64_t *ret_first, uint64_t *ret_second)
{
    if (length >= 8) {
        *ret_first = load64(at);
        *ret_second = load64(at + length - 8);
    } else if (length >= 4) {
        *ret_first = load32(at);
        *ret_second = load32(at + length - 4);
    } else if (length > 0) {
        *ret_first = at[0] | (uint64_t)at[length / 2] << 8 | (uint64_t)at[length - 1] << 16;
        *ret_second = 0;
    } else {
        *ret_first = 0;
        *ret_second = 0;
    }
}

uint64_t dn_hash64(const void *bytes, size_t length, uint64_t seed)
{
    const uint8_t *at = bytes;
    size_t left = length;
    uint64_t state = fold(seed ^ HASH64_C0, (uint64_t)length ^ HASH64_C1) + seed;
    uint64_t first, second;

    if (left > 32) {
        uint64_t other = state ^ HASH64_C3;

        for (; left > 32; at += 32, left -= 32) {
            state = hash64_step(state, load64(at), load64(at + 8), HASH64_C1);
            other = hash64_step(other, load64(at + 16), load64(at + 24), HASH64_C2);
        }
        state = hash64_step(state, other, HASH64_C0, HASH64_C3);
    }
    if (left > 16) {
        state = hash64_step(state, load64(at), load64(at + 8), HASH64_C1);
        at += 16;
        left -= 16;
    }
    hash64_tail(at, left, &first, &second);
    state = hash64_step(state, first, second, HASH64_C2);
    return fold(state ^ HASH64_C3, (state >> 32) ^ HASH64_C0);
}

/* ---- keyed hashes ---- */

struct dn_hash128 dn_keyed_hash128(const uint8_t key[DN_HASH_KEY_BYTES], const void *bytes, size_t length)
{
    _Static_assert(crypto_shorthash_siphashx24_KEYBYTES == DN_HASH_KEY_BYTES, "key size");
    uint8_t out[crypto_shorthash_siphashx24_BYTES];

    crypto_shorthash_siphashx24(out, length > 0 ? bytes : out, length, key);
    return (struct dn_hash128){.high = load64(out), .low = load64(out + 8)};
}

uint64_t dn_keyed_hash64(const uint8_t key[DN_HASH_KEY_BYTES], const void *bytes, size_t length)
{
    _Static_assert(crypto_shorthash_KEYBYTES == DN_HASH_KEY_BYTES, "key size");
    uint8_t out[crypto_shorthash_BYTES];

    crypto_shorthash(out, length > 0 ? bytes : out, length, key);
    return load64(out);
}
