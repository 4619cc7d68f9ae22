/* Whatever bytes a server sends, the client ends every call once and stays within its memory: random bytes,
 * and mutated copies of a real server's answers. Run it under asan and ubsan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client/client.h"
#include "tiny_server.h"

#define CALLS 6
#define ROUNDS 10000
#define ANSWER_MAX 65536

static uint64_t seed = 20201120;

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct end {
    int count;
    int status;
};

static void count_end(void *data, const struct dn_reply *reply)
{
    struct end *end = data;
    volatile unsigned sum = 0;

    end->count++;
    end->status = reply->grpc_status;
    for (size_t i = 0; i < reply->length; i++) /* asan looks at every byte */
        sum += reply->bytes[i];
    sum += (unsigned)strlen(reply->message);
}

static void send_calls(struct dn_client *client, struct end ends[CALLS])
{
    static const char *const paths[CALLS] = {"/t/Echo", "/t/Status", "/t/Cut",
                                             "/t/Html", "/t/Two",    "/t/Echo"};

    for (int i = 0; i < CALLS; i++)
        assert_int_equal(dn_client_send(client, paths[i], (const uint8_t *)"some message", 12, 2000,
                                        count_end, &ends[i], NULL),
                         DN_OK);
}

/* Lets a real session answer the calls and keeps its bytes. */
static size_t record_answers(struct tiny_server *server, uint8_t *ret_bytes)
{
    struct dn_client *client;
    struct end ends[CALLS] = {0};
    int fd;
    uint8_t chunk[8192];
    const uint8_t *bytes;
    size_t length = 0;
    ssize_t count;

    assert_int_equal(dn_client_connect(server->address, 5000, &client, NULL), DN_OK);
    fd = accept(server->listener, NULL, NULL);
    assert_true(fd >= 0);
    send_calls(client, ends);
    assert_int_equal(dn_client_poll(client, 0, NULL), DN_OK);
    tiny_session(server);
    count = recv(fd, chunk, sizeof chunk, 0);
    assert_true(count > 0);
    assert_int_equal(nghttp2_session_mem_recv(server->session, chunk, (size_t)count), count);
    while ((count = nghttp2_session_mem_send(server->session, &bytes)) > 0) {
        assert_true(length + (size_t)count < ANSWER_MAX / 2);
        memcpy(ret_bytes + length, bytes, (size_t)count);
        length += (size_t)count;
    }
    tiny_session_end(server);
    dn_client_close(client);
    close(fd);
    return length;
}

/* Offsets at which frames start. */
static size_t frame_starts(const uint8_t *bytes, size_t length, size_t *ret_starts, size_t max)
{
    size_t count = 0;

    for (size_t at = 0; at + 9 <= length && count < max;) {
        ret_starts[count++] = at;
        at += 9 + ((size_t)bytes[at] << 16 | (size_t)bytes[at + 1] << 8 | bytes[at + 2]);
    }
    return count;
}

static size_t mutate(uint64_t *state, const uint8_t *good, size_t good_length, uint8_t *out)
{
    size_t length = good_length, starts[64];
    size_t frames = frame_starts(good, good_length, starts, 64);
    uint64_t edits = 1 + next_random(state) % 6;

    memcpy(out, good, good_length);
    if (next_random(state) % 8 == 0) { /* nothing but noise, perhaps after good settings */
        size_t keep = next_random(state) % 2 == 0 ? 0 : starts[1];

        length = keep + 1 + next_random(state) % 600;
        for (size_t i = keep; i < length; i++)
            out[i] = (uint8_t)next_random(state);
        return length;
    }
    for (; edits > 0; edits--) {
        size_t at = next_random(state) % length;
        size_t frame = starts[next_random(state) % frames];

        switch (next_random(state) % 7) {
        case 0: /* flip a bit */
            out[at] ^= (uint8_t)(1u << next_random(state) % 8);
            break;
        case 1: /* any byte */
            out[at] = (uint8_t)next_random(state);
            break;
        case 2: /* frame type */
            if (frame + 9 <= length)
                out[frame + 3] = (uint8_t)(next_random(state) % 11);
            break;
        case 3: /* flags */
            if (frame + 9 <= length)
                out[frame + 4] = (uint8_t)next_random(state);
            break;
        case 4: /* stream id */
            if (frame + 9 <= length)
                out[frame + 8] = (uint8_t)(next_random(state) % 16);
            break;
        case 5: /* cut off */
            length = at + 1;
            break;
        default: /* a frame once more, in front of what follows */
            if (length + 128 < ANSWER_MAX && frame + 9 <= length) {
                size_t part = length - frame < 128 ? length - frame : 128;

                memmove(out + frame + part, out + frame, length - frame);
                length += part;
            }
        }
    }
    return length;
}

static void test_any_bytes(void **state)
{
    static uint8_t good[ANSWER_MAX], bad[ANSWER_MAX];
    struct tiny_server server = {0};
    uint64_t random = seed;
    size_t good_length;

    (void)state;
    tiny_listen(&server);
    good_length = record_answers(&server, good);
    for (int round = 0; round < ROUNDS; round++) {
        struct dn_client *client;
        struct end ends[CALLS] = {0};
        int fd, turns = 0;
        size_t length = round == 0 ? good_length : mutate(&random, good, good_length, bad);

        assert_int_equal(dn_client_connect(server.address, 5000, &client, NULL), DN_OK);
        fd = accept(server.listener, NULL, NULL);
        assert_true(fd >= 0);
        send_calls(client, ends);
        assert_int_equal(dn_client_poll(client, 0, NULL), DN_OK);
        assert_int_equal(send(fd, round == 0 ? good : bad, length, MSG_NOSIGNAL), (ssize_t)length);
        shutdown(fd, SHUT_WR);
        while (dn_client_pending(client) > 0 && turns++ < 1000)
            (void)dn_client_poll(client, 1000, NULL);
        for (int i = 0; i < CALLS; i++)
            if (ends[i].count != 1)
                fail_msg("seed %llu round %d: call %d ended %d times", (unsigned long long)seed, round, i,
                         ends[i]);
        dn_client_close(client);
        close(fd);
    }
    close(server.listener);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_any_bytes)};

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
