/* What a client's tokens cover. Tokens are opaque to clients, and no call merges two: a write's token covers
 * what it wrote; the answer of a read that was given a token carries one that covers the same, and what was
 * read. So a client keeps two for each key: of its last write, and of its last read. One thread. */
#ifndef DN_CHAOS_WORKLOAD_TOKEN_H
#define DN_CHAOS_WORKLOAD_TOKEN_H

#include "chaos/workload_random.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORKLOAD_TOKEN_BYTES_MAX 1024 /* a longer one is not kept */
#define WORKLOAD_COVERS_MAX 1024      /* CHAOS_LIST_MAX: one that would cover more is not kept */

struct workload_token {
    uint8_t *bytes;
    size_t length;    /* 0: there is none */
    uint64_t *covers; /* events of the user, or values of the item; no two equal */
    size_t covers_count;
};

struct workload_tokens {
    uint64_t key; /* the user or item */
    struct workload_token read, written;
};

/* Makes the tokens those of key: what was kept for another one is dropped. *tokens is zeros or was used
 * before. */
void workload_tokens_of(struct workload_tokens *tokens, uint64_t key);
void workload_tokens_free(struct workload_tokens *tokens);

/* One of the two, by chance; NULL: none is kept. Valid until the next call that changes the tokens. */
const struct workload_token *workload_tokens_pick(const struct workload_tokens *tokens,
                                                  struct workload_random *random);

/* A write of these was acknowledged with this token. */
void workload_tokens_wrote(struct workload_tokens *tokens, const uint8_t *bytes, size_t length,
                           const uint64_t *wrote, size_t count);
/* A read that was given `given` (one of these tokens; NULL: none) returned this token and list. The new token
 * takes the place of the last read's when it covers all that that one does. */
void workload_tokens_read(struct workload_tokens *tokens, const struct workload_token *given,
                          const uint8_t *bytes, size_t length, const uint64_t *list, size_t count);

#endif
