/* Tokens that clients bring back: as they are, and with their MAC put right. */
#include "api/token.h"
#include "base/error.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define GROUPS 5u

const unsigned dn_fuzz_runs = 1000000;

static const uint8_t key[DN_HASH_KEY_BYTES] = "a key of tokens";

static void decode(const uint8_t *bytes, size_t length)
{
    struct dn_token token;
    struct dn_error err;
    uint8_t again[DN_TOKEN_BYTES_MAX];
    if (dn_token_decode(bytes, length, key, GROUPS, &token, &err) != DN_OK) {
        return;
    }
    DN_ASSERT(token.count <= GROUPS);
    DN_ASSERT(dn_token_encode(&token, key, again) == length && memcmp(again, bytes, length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    uint8_t forged[DN_TOKEN_BYTES_MAX];
    decode(bytes, length);
    if (length < DN_TOKEN_MAC_BYTES || length > sizeof forged) {
        return 0;
    }
    memcpy(forged, bytes, length);
    uint64_t mac = dn_keyed_hash64(key, bytes, length - DN_TOKEN_MAC_BYTES);
    for (size_t i = 0; i < DN_TOKEN_MAC_BYTES; i++) {
        forged[length - DN_TOKEN_MAC_BYTES + i] = (uint8_t)(mac >> (8 * i));
    }
    decode(forged, length);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    struct dn_token token = {0};
    uint8_t bytes[DN_TOKEN_BYTES_MAX];
    if (n > GROUPS) {
        return 0;
    }
    for (uint32_t group = 0; group < n; group++) {
        dn_token_raise(&token, group, 1000u + group);
    }
    size_t length = dn_token_encode(&token, key, bytes);
    DN_ASSERT(length <= max);
    memcpy(out, bytes, length);
    return length;
}
