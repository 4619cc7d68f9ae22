/* Internal: the checksum of raft_uv's files. See crc.c. */
#ifndef DN_CONSENSUS_CRC_H
#define DN_CONSENSUS_CRC_H

#include <stddef.h>
#include <stdint.h>

/* In the place of libraft's byteCrc32: goes on from `crc` (0 at first). Any thread. */
unsigned __wrap_byteCrc32(const void *bytes, size_t length, unsigned crc);
/* libraft's own; only tests call it. */
unsigned __real_byteCrc32(const void *bytes, size_t length, unsigned crc);

#endif
