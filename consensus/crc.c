/* The checksum of raft_uv's segments and snapshots, fast. libraft computes it a byte at a time, which took an
 * eighth of a node's time under load; here it takes sixteen bytes a step ("slicing": Kounavis and Berry, "A
 * Systematic Approach to Building High Performance Software-based CRC Generators", 2005). The linker puts
 * this in the place of libraft's own byteCrc32 (CMakeLists.txt: --wrap); the values are the same. */
#include "consensus/crc.h"

#include <endian.h>
#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x04c11db7u /* most significant bit first, no inversion */
#define SLICES 16

/* table[s][b]: what byte b does to the checksum when s more bytes follow it. */
static uint32_t table[SLICES][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void table_fill(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b << 24;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc << 1) ^ ((crc >> 31) != 0 ? POLYNOMIAL : 0);
        }
        table[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (int s = 1; s < SLICES; s++) {
            uint32_t before = table[s - 1][b];
            table[s][b] = (before << 8) ^ table[0][before >> 24];
        }
    }
}

/* A word whose last byte is followed by `after` more bytes. */
static uint32_t word(uint32_t value, int after)
{
    return table[after + 3][value >> 24] ^ table[after + 2][value >> 16 & 255] ^
           table[after + 1][value >> 8 & 255] ^ table[after][value & 255];
}

static uint32_t load32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return be32toh(value);
}

unsigned __wrap_byteCrc32(const void *bytes, size_t length, unsigned crc)
{
    const uint8_t *at = bytes;
    pthread_once(&table_once, table_fill);
    for (; length >= SLICES; at += SLICES, length -= SLICES) {
        crc = word(load32(at) ^ crc, 12) ^ word(load32(at + 4), 8) ^ word(load32(at + 8), 4) ^
              word(load32(at + 12), 0);
    }
    for (; length > 0; at++, length--) {
        crc = (crc << 8) ^ table[0][(crc >> 24) ^ *at];
    }
    return crc;
}
