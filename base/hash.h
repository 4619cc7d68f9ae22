/* Hashes and checksums. Pure functions; any thread; the same on every machine. */
#ifndef DN_BASE_HASH_H
#define DN_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The 32-bit murmur2 of Kafka's Java client (seed 0x9747b28c), made positive (& 0x7fffffff), so that
 * dn_murmur2(key) % partitions is the partition that producer picks. */
uint32_t dn_murmur2(const void *bytes, size_t length);

/* The shard (group number) of a user: 1 + murmur2(user) mod shard_count. */
static inline uint32_t dn_shard_of_user(const char *user, size_t length, uint32_t shard_count)
{
    return 1 + dn_murmur2(user, length) % shard_count;
}

/* CRC-32C (Castagnoli), as in RFC 3720; hardware where the processor has it. `crc` is 0 to start, or the
 * result so far to go on. */
uint32_t dn_crc32c(uint32_t crc, const void *bytes, size_t length);

/* A fast 64-bit hash for tables whose keys are not chosen by an enemy, and for state hashes.
 * Fixed for ever: it is part of replicated state hashes. */
uint64_t dn_hash64(const void *bytes, size_t length, uint64_t seed);

#define DN_HASH_KEY_BYTES 16

/* Keyed 128-bit and 64-bit hashes (SipHash-2-4 by libsodium): user ids, event ids. */
struct dn_hash128 {
    uint64_t high, low;
};
struct dn_hash128 dn_keyed_hash128(const uint8_t key[DN_HASH_KEY_BYTES], const void *bytes, size_t length);
uint64_t dn_keyed_hash64(const uint8_t key[DN_HASH_KEY_BYTES], const void *bytes, size_t length);

static inline bool dn_hash128_equal(struct dn_hash128 a, struct dn_hash128 b)
{
    return a.high == b.high && a.low == b.low;
}

#endif
