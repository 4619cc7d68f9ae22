/* Handshake and frame decoder without sockets: every message altered at random, cut and joined at random;
 * nothing passes that was not said, and nothing breaks. */
#include "tests/unit/base/cmocka_all.h"

#include "tests/unit/base/random.h"

#include "transport/frame.h"
#include "transport/handshake.h"

#include <stdlib.h>
#include <string.h>

struct side {
    struct handshake_party party;
    struct handshake_seen seen;
    struct handshake handshake;
};

static struct dn_transport_keys *keys; /* open: then these tests can compute proofs, too */

static void setup_side(struct side *side, uint64_t raft_id, const char *cluster)
{
    memset(side, 0, sizeof *side);
    side->party =
        (struct handshake_party){.cluster_id = cluster,
                                 .self = {.raft_id = raft_id, .name = "näme", .incarnation = raft_id * 10},
                                 .keys = keys,
                                 .seen = &side->seen};
}

/* Gives bytes to a side in pieces. */
static void feed(struct test_random *random, struct handshake *h, const uint8_t *bytes, size_t length,
                 uint8_t *out, size_t *ret_out)
{
    size_t at = 0;
    *ret_out = 0;
    while (at < length && h->state < HANDSHAKE_DONE) {
        size_t piece = 1 + test_random_below(random, length - at), some;
        at += handshake_input(h, bytes + at, piece, out + *ret_out, &some);
        *ret_out += some;
    }
}

/* A whole handshake; `change` of 0: none, k: the k-th message is altered at random. True: both sides are
 * done. */
static bool shake(struct test_random *random, struct side *a, struct side *b, unsigned change)
{
    uint8_t wire[2][2 * HANDSHAKE_STEP_MAX];
    size_t length = 0;
    struct handshake *turn[2] = {&b->handshake, &a->handshake};
    assert_true(handshake_dial(&a->handshake, &a->party, b->party.self.raft_id, wire[0], &length));
    handshake_accept(&b->handshake, &b->party, NULL);
    for (unsigned step = 0; length > 0; step++) {
        uint8_t *bytes = wire[step % 2];
        assert_true(step < 4);
        if (step + 1 == change) {
            uint8_t before[HANDSHAKE_STEP_MAX];
            size_t at = test_random_below(random, length);
            memcpy(before, bytes, length);
            switch (test_random_below(random, 3)) {
            case 0:
                bytes[at] ^= (uint8_t)(1u << test_random_below(random, 8));
                break;
            case 1:
                bytes[at] ^= (uint8_t)(1 + test_random_below(random, 255));
                bytes[test_random_below(random, length)] ^= 0x55;
                break;
            default:
                for (size_t i = at; i < length; i++) {
                    bytes[i] = (uint8_t)test_random_next(random);
                }
                break;
            }
            bytes[at] ^= memcmp(before, bytes, length) == 0; /* chance may have changed nothing */
        }
        feed(random, turn[step % 2], bytes, length, wire[(step + 1) % 2], &length);
    }
    return a->handshake.state == HANDSHAKE_DONE && b->handshake.state == HANDSHAKE_DONE;
}

static void test_handshake(void **state)
{
    static struct side a, b;
    struct test_random random = test_random_start("handshake");
    unsigned refused = 0;
    (void)state;
    setup_side(&a, 1, "c");
    setup_side(&b, 2, "c");
    for (unsigned round = 0; round < 4000; round++) {
        unsigned change = round % 5;
        bool done = shake(&random, &a, &b, change);
        if (change == 0) {
            assert_true(done);
            assert_int_equal(b.handshake.peer.raft_id, 1);
            assert_int_equal(a.handshake.peer.incarnation, 20);
            assert_string_equal(a.handshake.peer.name, "näme");
            assert_int_equal(a.handshake.refusal, REFUSED_NONE);
        } else if (done) {
            fail_msg("round %u: done in spite of an altered message %u", round, change);
        } else {
            refused += a.handshake.state == HANDSHAKE_REFUSED || b.handshake.state == HANDSHAKE_REFUSED;
        }
        handshake_wipe(&a.handshake);
        handshake_wipe(&b.handshake);
        assert_true(sodium_is_zero(a.handshake.secret, sizeof a.handshake.secret));
    }
    assert_int_equal(refused, 3200);
}

/* Nothing of an ephemeral secret stays, in whatever state a handshake is left. */
static void test_secrets_are_wiped(void **state)
{
    static struct side a, b;
    struct test_random random = test_random_start("secrets");
    (void)state;
    setup_side(&a, 1, "c");
    setup_side(&b, 2, "c");
    assert_true(shake(&random, &a, &b, 0));
    assert_true(sodium_is_zero(a.handshake.secret, sizeof a.handshake.secret));
    assert_true(sodium_is_zero(b.handshake.secret, sizeof b.handshake.secret));
    /* Each direction has its own key, the same at both ends. */
    assert_memory_equal(&a.handshake.send, &b.handshake.receive, sizeof a.handshake.send);
    assert_memory_equal(&b.handshake.send, &a.handshake.receive, sizeof a.handshake.send);
    assert_memory_not_equal(&a.handshake.send, &a.handshake.receive, sizeof a.handshake.send);
    for (unsigned change = 1; change <= 3; change++) {
        assert_false(shake(&random, &a, &b, change));
        struct handshake *h = b.handshake.state == HANDSHAKE_REFUSED ? &b.handshake : &a.handshake;
        assert_true(sodium_is_zero(h->secret, sizeof h->secret));
        assert_true(sodium_is_zero((const uint8_t *)&h->send, sizeof h->send));
    }
}

static void prove_hello(const uint8_t *first, uint8_t *hello)
{
    static const uint8_t label[] = "dunlin peer hello", key[DN_TRANSPORT_KEY_BYTES];
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, key, sizeof key, HANDSHAKE_PROOF_BYTES);
    crypto_generichash_update(&hash, label, sizeof label);
    if (first != NULL) {
        crypto_generichash_update(&hash, first, HANDSHAKE_HELLO_BYTES);
    }
    crypto_generichash_update(&hash, hello, HANDSHAKE_HELLO_BYTES - HANDSHAKE_PROOF_BYTES);
    crypto_generichash_final(&hash, hello + HANDSHAKE_HELLO_BYTES - HANDSHAKE_PROOF_BYTES,
                             HANDSHAKE_PROOF_BYTES);
}

/* Points of small order make a shared secret that everybody knows: also one who holds the key may not offer
 * them. */
static void test_small_order_points(void **state)
{
    static const uint8_t one[32] = {1};
    static const uint8_t order_8[32] = {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
                                        0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
                                        0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00};
    static const uint8_t zero[32];
    const uint8_t *points[] = {zero, one, order_8};
    static struct side a, b;
    uint8_t hello[HANDSHAKE_STEP_MAX], out[HANDSHAKE_STEP_MAX];
    size_t length;
    (void)state;
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        setup_side(&a, 1, "c");
        setup_side(&b, 2, "c");
        assert_true(handshake_dial(&a.handshake, &a.party, 2, hello, &length));
        handshake_accept(&b.handshake, &b.party, NULL);
        prove_hello(NULL, hello); /* as it was: this test computes proofs rightly */
        assert_int_equal(handshake_input(&b.handshake, hello, length, out, &length), HANDSHAKE_HELLO_BYTES);
        assert_int_equal(length, HANDSHAKE_STEP_MAX);
        /* the answer's point */
        memcpy(out + 8, points[i], 32);
        prove_hello(hello, out);
        handshake_input(&a.handshake, out, length, hello, &length);
        assert_int_equal(a.handshake.refusal, REFUSED_MALFORMED);
        assert_int_equal(length, 0);
        /* the hello's point */
        assert_true(handshake_dial(&a.handshake, &a.party, 2, hello, &length));
        handshake_accept(&b.handshake, &b.party, NULL);
        memcpy(hello + 8, points[i], 32);
        prove_hello(NULL, hello);
        handshake_input(&b.handshake, hello, length, out, &length);
        assert_int_equal(b.handshake.refusal, REFUSED_MALFORMED);
        assert_int_equal(length, 0);
    }
}

/* The keys hang on every byte of both hellos, also on those that nothing else is made of. */
static void test_transcript(void **state)
{
    static struct side a, b;
    uint8_t hello[HANDSHAKE_STEP_MAX], answer[HANDSHAKE_STEP_MAX];
    size_t length;
    (void)state;
    for (unsigned which = 0; which < 3; which++) {
        setup_side(&a, 1, "c");
        setup_side(&b, 2, "c");
        assert_true(handshake_dial(&a.handshake, &a.party, 2, hello, &length));
        handshake_accept(&b.handshake, &b.party, NULL);
        uint8_t own[HANDSHAKE_HELLO_BYTES];
        memcpy(own, hello, sizeof own);
        if (which == 1) {
            hello[50] ^= 1; /* its random part */
            prove_hello(NULL, hello);
        }
        handshake_input(&b.handshake, hello, HANDSHAKE_HELLO_BYTES, answer, &length);
        assert_int_equal(length, HANDSHAKE_STEP_MAX);
        if (which == 2) {
            answer[50] ^= 1;
        }
        prove_hello(own, answer);
        handshake_input(&a.handshake, answer, length, hello, &length);
        assert_int_equal(a.handshake.refusal, which == 0 ? REFUSED_NONE : REFUSED_TAMPERED);
        assert_int_equal(length, which == 0 ? HANDSHAKE_CONFIRM_BYTES : 0);
    }
}

/* ---- frames ------------------------------------------------------------------------------------------- */

struct pipe {
    frame_stream send, receive;
    struct frame_sender sender;
    struct frame_receiver receiver;
    uint8_t wire[1 << 19];
    size_t length;
};

static void pipe_open(struct pipe *pipe)
{
    uint8_t key[crypto_secretstream_xchacha20poly1305_KEYBYTES] = {7};
    uint8_t header[crypto_secretstream_xchacha20poly1305_HEADERBYTES];
    crypto_secretstream_xchacha20poly1305_init_push(&pipe->send, header, key);
    crypto_secretstream_xchacha20poly1305_init_pull(&pipe->receive, header, key);
    frame_sender_init(&pipe->sender);
    assert_true(frame_receiver_init(&pipe->receiver));
    pipe->length = 0;
}

static void pipe_close(struct pipe *pipe)
{
    frame_sender_clear(&pipe->sender);
    frame_receiver_free(&pipe->receiver);
}

static uint8_t filler(size_t length, size_t at)
{
    return (uint8_t)(length * 13 + at * 7 + (at >> 8));
}

static void check_message(const struct frame_view *message)
{
    for (size_t i = 0; i < message->length; i++) {
        if (message->bytes[i] != filler(message->length, i)) {
            fail_msg("byte %zu of a message of %zu", i, message->length);
        }
    }
}

/* Reads the wire as if it came in pieces; returns how it ended. FRAME_MORE: the wire is used up. */
static enum frame_result drink(struct test_random *random, struct pipe *pipe, unsigned *ret_messages)
{
    size_t at = 0, here = 0, used;
    struct frame_view message;
    *ret_messages = 0;
    for (;;) {
        /* a copy of exactly what is here, so that a sanitizer sees a read past it */
        uint8_t *copy = malloc(here - at + 1);
        assert_non_null(copy);
        memcpy(copy, pipe->wire + at, here - at);
        enum frame_result result =
            frame_receive(&pipe->receiver, &pipe->receive, copy, here - at, &used, &message);
        free(copy);
        at += used;
        switch (result) {
        case FRAME_MESSAGE:
            check_message(&message);
            (*ret_messages)++;
            break;
        case FRAME_TAKEN:
            break;
        case FRAME_MORE:
            assert_int_equal(used, 0);
            if (here == pipe->length) {
                return FRAME_MORE;
            }
            here += 1 + test_random_below(random, pipe->length - here);
            break;
        default:
            return result;
        }
    }
}

static unsigned fill(struct test_random *random, struct pipe *pipe)
{
    static uint8_t bytes[150000];
    unsigned count = 1 + (unsigned)test_random_below(random, 6);
    for (unsigned i = 0; i < count; i++) {
        size_t length = test_random_below(random, i == 0 ? sizeof bytes : 400);
        for (size_t k = 0; k < length; k++) {
            bytes[k] = filler(length, k);
        }
        struct dn_transport_part part = {bytes, length};
        assert_true(frame_sender_put(&pipe->sender,
                                     (enum dn_transport_queue)test_random_below(random, DN_TRANSPORT_QUEUES),
                                     &part, 1, length));
    }
    while (!frame_sender_empty(&pipe->sender)) {
        size_t got = frame_sender_fill(&pipe->sender, &pipe->send, pipe->wire + pipe->length,
                                       sizeof pipe->wire - pipe->length);
        assert_true(got > 0);
        pipe->length += got;
    }
    return count;
}

static void test_frames(void **state)
{
    static struct pipe pipe;
    struct test_random random = test_random_start("frames");
    (void)state;
    for (unsigned round = 0; round < 600; round++) {
        unsigned messages;
        pipe_open(&pipe);
        unsigned count = fill(&random, &pipe);
        if (round % 4 == 0) {
            frame_final(&pipe.send, pipe.wire + pipe.length);
            pipe.length += FRAME_FINAL_BYTES;
            assert_int_equal(drink(&random, &pipe, &messages), FRAME_FINAL);
            assert_int_equal(messages, count);
        } else {
            size_t at = test_random_below(&random, round % 4 == 1     ? pipe.length
                                                   : pipe.length < 64 ? pipe.length
                                                                      : 64);
            if (round % 4 == 3) { /* something is left out */
                size_t gone = 1 + test_random_below(&random, pipe.length - at);
                memmove(pipe.wire + at, pipe.wire + at + gone, pipe.length - at - gone);
                pipe.length -= gone;
            } else {
                pipe.wire[at] ^= (uint8_t)(1u << test_random_below(&random, 8));
            }
            /* check_message has looked at what came before the damage; more than that cannot come */
            enum frame_result result = drink(&random, &pipe, &messages);
            assert_true(result == FRAME_TAMPERED || result == FRAME_MALFORMED ||
                        (result == FRAME_MORE && round % 4 == 3)); /* an altered length is not waited for */
            assert_true(messages < count);
        }
        pipe_close(&pipe);
    }
}

/* What one who holds the key may send: each plaintext is judged before it is used. */
static void test_plaintexts(void **state)
{
    enum { F = FRAME_FIRST, L = FRAME_LAST };
    static const struct {
        uint8_t flags;
        uint32_t total; /* with FIRST */
        size_t payload;
        enum frame_result result;
    } rows[] = {
        {F | L, 5, 5, FRAME_MESSAGE},
        {F | L, 5, 4, FRAME_MALFORMED},
        {F | L, 5, 6, FRAME_MALFORMED},
        {F | L, 0, 0, FRAME_MESSAGE},
        {F, 5, 5, FRAME_MALFORMED},
        {F, 5, 0, FRAME_MALFORMED},
        {F, 0, 0, FRAME_MALFORMED},
        {F, 6, 5, FRAME_TAKEN},
        {F, DN_TRANSPORT_MESSAGE_MAX, 5, FRAME_TAKEN},
        {F, DN_TRANSPORT_MESSAGE_MAX + 1, 5, FRAME_MALFORMED},
        {F, UINT32_MAX, 5, FRAME_MALFORMED},
        {0, 0, 5, FRAME_MALFORMED},
        {L, 0, 5, FRAME_MALFORMED},
        {F | L | 3, 5, 5, FRAME_MALFORMED},
        {F | L | 16, 5, 5, FRAME_MALFORMED},
        {F | L | 128, 5, 5, FRAME_MALFORMED},
    };
    static struct pipe pipe;
    static uint8_t plain[64];
    struct frame_view message;
    size_t used;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t head = 1;
        pipe_open(&pipe);
        plain[0] = rows[i].flags;
        if (rows[i].flags & F) {
            for (unsigned k = 0; k < 4; k++) {
                plain[head++] = (uint8_t)(rows[i].total >> (8 * k));
            }
        }
        size_t cipher = head + rows[i].payload + crypto_secretstream_xchacha20poly1305_ABYTES;
        frame_prefix(pipe.wire, cipher);
        crypto_secretstream_xchacha20poly1305_push(&pipe.send, pipe.wire + FRAME_PREFIX_BYTES, NULL, plain,
                                                   head + rows[i].payload, NULL, 0, 0);
        if (frame_receive(&pipe.receiver, &pipe.receive, pipe.wire, cipher + FRAME_PREFIX_BYTES, &used,
                          &message) != rows[i].result) {
            fail_msg("row %zu", i);
        }
        pipe_close(&pipe);
    }
}

/* Random plaintexts after each other, rightly encrypted. */
static void test_random_plaintexts(void **state)
{
    static struct pipe pipe;
    uint8_t plain[40];
    struct test_random random = test_random_start("plaintexts");
    unsigned messages = 0;
    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        struct frame_view message;
        size_t used;
        enum frame_result result = FRAME_TAKEN;
        pipe_open(&pipe);
        for (unsigned k = 0; k < 8 && (result == FRAME_TAKEN || result == FRAME_MESSAGE); k++) {
            size_t length = test_random_below(&random, sizeof plain);
            for (size_t i = 0; i < length; i++) {
                plain[i] = (uint8_t)(test_random_next(&random) & (i == 0   ? 15
                                                                  : i == 1 ? 63
                                                                  : i < 5  ? 0
                                                                           : 255));
            }
            if (length >= 5 && test_random_below(&random, 2) == 0) {
                plain[1] = (uint8_t)(length - 5);
            }
            size_t cipher = length + crypto_secretstream_xchacha20poly1305_ABYTES;
            frame_prefix(pipe.wire, cipher);
            crypto_secretstream_xchacha20poly1305_push(&pipe.send, pipe.wire + FRAME_PREFIX_BYTES, NULL,
                                                       plain, length, NULL, 0, 0);
            result = frame_receive(&pipe.receiver, &pipe.receive, pipe.wire, cipher + FRAME_PREFIX_BYTES,
                                   &used, &message);
            if (result == FRAME_MESSAGE) {
                assert_true(message.length < 64);
                messages++;
            }
        }
        pipe_close(&pipe);
    }
    assert_true(messages > 100);
}

static int setup(void **state)
{
    (void)state;
    return dn_transport_keys_load(NULL, NULL, &keys, NULL) == DN_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    dn_transport_keys_free(keys);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake),
        cmocka_unit_test(test_secrets_are_wiped),
        cmocka_unit_test(test_small_order_points),
        cmocka_unit_test(test_transcript),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_plaintexts),
        cmocka_unit_test(test_random_plaintexts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
