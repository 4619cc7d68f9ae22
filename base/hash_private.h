/* The two ways to compute CRC-32C, for the tests that hold them against each other. Others use hash.h. */
#ifndef DN_BASE_HASH_PRIVATE_H
#define DN_BASE_HASH_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether this processor has the crc32 instruction. */
bool dn_crc32c_has_hardware(void);
/* Only where dn_crc32c_has_hardware(); elsewhere it aborts. */
uint32_t dn_crc32c_hardware(uint32_t crc, const void *bytes, size_t length);
uint32_t dn_crc32c_software(uint32_t crc, const void *bytes, size_t length);

#endif
