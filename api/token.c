#include "api/token.h"

#include "base/buffer.h"

#include <sodium.h>
#include <string.h>

#define TOKEN_VERSION 1

static void put_le(uint8_t *out, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

void dn_token_key(const uint8_t hash_key[DN_HASH_KEY_BYTES], uint8_t ret_key[DN_HASH_KEY_BYTES])
{
    static const char purpose[] = "dunlin token v1";
    struct dn_hash128 key = dn_keyed_hash128(hash_key, purpose, sizeof purpose);
    put_le(ret_key, key.high, 8);
    put_le(ret_key + 8, key.low, 8);
}

void dn_token_raise(struct dn_token *token, uint32_t group, uint64_t index)
{
    if (index == 0)
        return;
    size_t at = 0;
    while (at < token->count && token->entries[at].group < group)
        at++;
    if (at < token->count && token->entries[at].group == group) {
        if (index > token->entries[at].index)
            token->entries[at].index = index;
        return;
    }
    DN_ASSERT(token->count < DN_GROUPS_MAX);
    memmove(&token->entries[at + 1], &token->entries[at], (token->count - at) * sizeof token->entries[0]);
    token->entries[at] = (struct dn_token_entry){.group = group, .index = index};
    token->count++;
}

uint64_t dn_token_index(const struct dn_token *token, uint32_t group)
{
    for (size_t i = 0; i < token->count; i++)
        if (token->entries[i].group == group)
            return token->entries[i].index;
    return 0;
}

size_t dn_token_encode(const struct dn_token *token, const uint8_t key[DN_HASH_KEY_BYTES],
                       uint8_t ret_bytes[DN_TOKEN_BYTES_MAX])
{
    size_t at = 0;
    ret_bytes[at++] = TOKEN_VERSION;
    ret_bytes[at++] = (uint8_t)token->count;
    for (size_t i = 0; i < token->count; i++) {
        put_le(ret_bytes + at, token->entries[i].group, 4);
        put_le(ret_bytes + at + 4, token->entries[i].index, 8);
        at += DN_TOKEN_ENTRY_BYTES;
    }
    put_le(ret_bytes + at, dn_keyed_hash64(key, ret_bytes, at), DN_TOKEN_MAC_BYTES);
    return at + DN_TOKEN_MAC_BYTES;
}

enum dn_code dn_token_decode(const uint8_t *bytes, size_t length, const uint8_t key[DN_HASH_KEY_BYTES],
                             uint32_t group_count, struct dn_token *ret, struct dn_error *err)
{
    if (length < 2 + DN_TOKEN_MAC_BYTES || length > DN_TOKEN_BYTES_MAX)
        return dn_fail(err, DN_INVALID, "token: %zu bytes long; not a token of this cluster", length);
    size_t signed_length = length - DN_TOKEN_MAC_BYTES;
    uint8_t mac[DN_TOKEN_MAC_BYTES];
    put_le(mac, dn_keyed_hash64(key, bytes, signed_length), sizeof mac);
    if (sodium_memcmp(mac, bytes + signed_length, sizeof mac) != 0)
        return dn_fail(err, DN_INVALID, "token: damaged, or not a token of this cluster");
    struct dn_reader reader;
    dn_reader_init(&reader, bytes, signed_length);
    uint8_t version = dn_reader_u8(&reader), count = dn_reader_u8(&reader);
    if (version != TOKEN_VERSION)
        return dn_fail(err, DN_INVALID, "token: version %u; this node reads version %d", version,
                       TOKEN_VERSION);
    if (count > DN_GROUPS_MAX || dn_reader_left(&reader) != (size_t)count * DN_TOKEN_ENTRY_BYTES)
        return dn_fail(err, DN_INVALID, "token: %u entries do not fit %zu bytes", count, length);
    struct dn_token token = {.count = count};
    for (size_t i = 0; i < count; i++) {
        token.entries[i].group = dn_reader_u32(&reader);
        token.entries[i].index = dn_reader_u64(&reader);
        if (token.entries[i].group >= group_count ||
            (i > 0 && token.entries[i].group <= token.entries[i - 1].group))
            return dn_fail(err, DN_INVALID, "token: names a shard that this cluster has not");
    }
    *ret = token;
    return DN_OK;
}
