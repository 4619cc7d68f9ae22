/* Tokens (private to the room): what a client has seen, as a set of {group, Raft index}, opaque to it.
 *
 * u8 version, u8 count, count times {u32 group, u64 index} in ascending order of group, u64 keyed MAC of all
 * that. The MAC is there so that a made-up or damaged token is refused, not waited for. */
#ifndef DN_API_TOKEN_H
#define DN_API_TOKEN_H

#include "base/error.h"
#include "base/hash.h"
#include "consensus/consensus.h"

#include <stddef.h>
#include <stdint.h>

#define DN_TOKEN_ENTRY_BYTES 12
#define DN_TOKEN_MAC_BYTES 8
#define DN_TOKEN_BYTES_MAX (2 + DN_GROUPS_MAX * DN_TOKEN_ENTRY_BYTES + DN_TOKEN_MAC_BYTES)

struct dn_token_entry {
    uint32_t group;
    uint64_t index;
};
struct dn_token {
    size_t count;
    struct dn_token_entry entries[DN_GROUPS_MAX]; /* ascending by group */
};

/* The key of tokens, derived from the cluster's hash key: equal on every node. */
void dn_token_key(const uint8_t hash_key[DN_HASH_KEY_BYTES], uint8_t ret_key[DN_HASH_KEY_BYTES]);
/* Raises the group's entry to index. An index of 0 says nothing and is left out. */
void dn_token_raise(struct dn_token *token, uint32_t group, uint64_t index);
/* 0 when the token does not speak of the group. */
uint64_t dn_token_index(const struct dn_token *token, uint32_t group);
size_t dn_token_encode(const struct dn_token *token, const uint8_t key[DN_HASH_KEY_BYTES],
                       uint8_t ret_bytes[DN_TOKEN_BYTES_MAX]);
/* DN_INVALID when it is not a token that dn_token_encode made with this key, for groups below group_count. */
enum dn_code dn_token_decode(const uint8_t *bytes, size_t length, const uint8_t key[DN_HASH_KEY_BYTES],
                             uint32_t group_count, struct dn_token *ret, struct dn_error *err);

#endif
