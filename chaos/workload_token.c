#include "chaos/workload_token.h"

#include "base/error.h"

#include <stdlib.h>
#include <string.h>

static void token_free(struct workload_token *token)
{
    free(token->bytes);
    free(token->covers);
    *token = (struct workload_token){0};
}

void workload_tokens_free(struct workload_tokens *tokens)
{
    token_free(&tokens->read);
    token_free(&tokens->written);
}

void workload_tokens_of(struct workload_tokens *tokens, uint64_t key)
{
    if (tokens->key == key)
        return;
    workload_tokens_free(tokens);
    tokens->key = key;
}

const struct workload_token *workload_tokens_pick(const struct workload_tokens *tokens,
                                                  struct workload_random *random)
{
    const struct workload_token *first = &tokens->read, *second = &tokens->written;
    if (workload_random_one(random, 1, 2)) {
        first = &tokens->written;
        second = &tokens->read;
    }
    return first->length > 0 ? first : second->length > 0 ? second : NULL;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorts, and leaves each number once. Returns how many. */
static size_t unique(uint64_t *numbers, size_t count)
{
    size_t kept = 0;
    if (count > 0)
        qsort(numbers, count, sizeof *numbers, by_number);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || numbers[kept - 1] != numbers[i])
            numbers[kept++] = numbers[i];
    return kept;
}

/* A token over two lists. length 0 in the result: it cannot be kept. */
static struct workload_token token_make(const uint8_t *bytes, size_t length, const uint64_t *a,
                                        size_t a_count, const uint64_t *b, size_t b_count)
{
    struct workload_token token = {0};
    if (length == 0 || length > WORKLOAD_TOKEN_BYTES_MAX)
        return token;
    token.bytes = malloc(length);
    token.covers = malloc((a_count + b_count + 1) * sizeof *token.covers);
    DN_ASSERT(token.bytes != NULL && token.covers != NULL); /* a test program: nothing to go on with */
    memcpy(token.bytes, bytes, length);
    token.length = length;
    if (a_count > 0)
        memcpy(token.covers, a, a_count * sizeof *a);
    if (b_count > 0)
        memcpy(token.covers + a_count, b, b_count * sizeof *b);
    token.covers_count = unique(token.covers, a_count + b_count);
    if (token.covers_count > WORKLOAD_COVERS_MAX)
        token_free(&token);
    return token;
}

/* Both sorted. */
static bool covers_all(const struct workload_token *token, const struct workload_token *other)
{
    size_t at = 0;
    for (size_t i = 0; i < other->covers_count; i++) {
        while (at < token->covers_count && token->covers[at] < other->covers[i])
            at++;
        if (at == token->covers_count || token->covers[at] != other->covers[i])
            return false;
    }
    return true;
}

void workload_tokens_wrote(struct workload_tokens *tokens, const uint8_t *bytes, size_t length,
                           const uint64_t *wrote, size_t count)
{
    struct workload_token token = token_make(bytes, length, wrote, count, NULL, 0);
    if (token.length == 0)
        return;
    token_free(&tokens->written);
    tokens->written = token;
}

void workload_tokens_read(struct workload_tokens *tokens, const struct workload_token *given,
                          const uint8_t *bytes, size_t length, const uint64_t *list, size_t count)
{
    struct workload_token token =
        token_make(bytes, length, list, count, given ? given->covers : NULL, given ? given->covers_count : 0);
    if (token.length == 0)
        return;
    if (tokens->read.length > 0 && !covers_all(&token, &tokens->read)) {
        token_free(&token);
        return;
    }
    token_free(&tokens->read);
    tokens->read = token;
}
