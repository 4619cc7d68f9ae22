/* The handshake between nodes: transport/handshake.h, from both sides, without a key's secret (the open key).
 * The first byte says which side the input is given to; the rest is what the other side sends, in pieces. */
#include "base/error.h"
#include "tests/fuzz/fuzz.h"
#include "transport/handshake.h"

#include <stdlib.h>
#include <string.h>

const unsigned dn_fuzz_runs = 20000;

static struct handshake_seen seen[2];

static struct dn_transport_keys *keys(void)
{
    static struct dn_transport_keys *open;
    struct dn_error err;
    if (!open)
        DN_ASSERT(dn_transport_keys_load(NULL, NULL, &open, &err) == DN_OK);
    return open;
}

static struct handshake_party party(unsigned side)
{
    return (struct handshake_party){.cluster_id = "fuzz",
                                    .self = {.raft_id = side + 1, .name = "n", .incarnation = 9},
                                    .keys = keys(),
                                    .seen = &seen[side]};
}

static void feed(struct handshake *h, const uint8_t *bytes, size_t length)
{
    uint8_t out[HANDSHAKE_STEP_MAX];
    while (length > 0 && h->state != HANDSHAKE_DONE && h->state != HANDSHAKE_REFUSED) {
        size_t used, sent = 0, piece = 1 + bytes[0] % 97u;
        used = handshake_input(h, bytes, piece < length ? piece : length, out, &sent);
        DN_ASSERT(used <= length && sent <= sizeof out);
        if (used == 0)
            break;
        bytes += used;
        length -= used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct handshake_party self = party(length > 0 && bytes[0] % 2);
    struct handshake h;
    uint8_t out[HANDSHAKE_STEP_MAX];
    size_t sent = 0;
    if (length == 0)
        return 0;
    if (bytes[0] % 2)
        DN_ASSERT(handshake_dial(&h, &self, 0, out, &sent));
    else
        handshake_accept(&h, &self, NULL);
    feed(&h, bytes + 1, length - 1);
    /* Nothing was said by one who could know this handshake's secret. */
    DN_ASSERT(h.state != HANDSHAKE_DONE);
    handshake_wipe(&h);
    return 0;
}

size_t dn_fuzz_seed(unsigned n, uint8_t *out, size_t max)
{
    struct handshake_party dialler = party(0), acceptor = party(1);
    struct handshake a, b;
    uint8_t hello[HANDSHAKE_STEP_MAX], answer[HANDSHAKE_STEP_MAX], proof[HANDSHAKE_STEP_MAX];
    size_t hello_length, answer_length = 0, proof_length = 0, length = 0;
    if (n > 1 || max < 1 + 3 * HANDSHAKE_STEP_MAX)
        return 0;
    DN_ASSERT(handshake_dial(&a, &dialler, 0, hello, &hello_length));
    handshake_accept(&b, &acceptor, NULL);
    handshake_input(&b, hello, hello_length, answer, &answer_length);
    for (size_t at = 0; at < answer_length && proof_length == 0;)
        at += handshake_input(&a, answer + at, answer_length - at, proof, &proof_length);
    out[length++] = (uint8_t)n;
    if (n == 0) { /* to an acceptor */
        memcpy(out + length, hello, hello_length);
        length += hello_length;
        memcpy(out + length, proof, proof_length);
        length += proof_length;
    } else {
        memcpy(out + length, answer, answer_length);
        length += answer_length;
    }
    handshake_wipe(&a);
    handshake_wipe(&b);
    memset(seen, 0, sizeof seen);
    return length;
}
