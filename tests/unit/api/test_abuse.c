/* Bytes that no honest client sends: the server answers or closes, leaks nothing (the address sanitizer
 * looks), and goes on serving everyone else. */
#include "core.h"

#include <unistd.h>

#define MUTATION_ROUNDS 1500
#define RANDOM_ROUNDS 300
#define RECORDED_MAX (64u << 10)

static struct dn_server *server;
static uint64_t seed, random_state;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
#define PREFACE_BYTES 24
#define SETTINGS_FRAME "\0\0\0\4\0\0\0\0\0"

/* Sends, says that no more comes, and reads until the server closes or is silent for wait_ms. */
static size_t exchange(const void *bytes, size_t length, uint8_t *ret, size_t max, int wait_ms)
{
    int fd = h2_socket(server->port);
    size_t got = 0;
    assert_true(fd >= 0);
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    (void)sent; /* the server may close at once */
    shutdown(fd, SHUT_WR);
    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (poll(&poll_fd, 1, wait_ms) <= 0)
            break;
        uint8_t scrap[4096];
        ssize_t part = recv(fd, scrap, sizeof scrap, 0);
        if (part <= 0)
            break;
        for (ssize_t i = 0; i < part && got < max; i++)
            ret[got++] = scrap[i];
    }
    close(fd);
    return got;
}

static void assert_serving(void)
{
    struct h2 h2;
    struct h2_answer answer;
    assert_true(h2_open(&h2, server->port));
    assert_true(h2_call(&h2, "/t.T/Echo", NULL, "alive", 5, &answer));
    if (answer.grpc_status != 0)
        fail_msg("seed %llu: status %d", (unsigned long long)seed, answer.grpc_status);
    h2_free(&answer);
    h2_shut(&h2);
}

static bool has_frame(const uint8_t *bytes, size_t length, uint8_t type)
{
    for (size_t at = 0; at + 9 <= length;) {
        size_t size = (size_t)bytes[at] << 16 | (size_t)bytes[at + 1] << 8 | bytes[at + 2];
        if (bytes[at + 3] == type)
            return true;
        at += 9 + size;
    }
    return false;
}

static void test_broken_preface(void **state)
{
    (void)state;
    static const char *const prefaces[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", /* a TLS hello */
        "PRI * HTTP/2.0\r\n",
        "",
    };
    uint8_t got[1024];
    for (size_t i = 0; i < sizeof prefaces / sizeof prefaces[0]; i++)
        exchange(prefaces[i], strlen(prefaces[i]), got, sizeof got, H2_WAIT_MS);
    assert_serving();
}

static void test_broken_frames(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        bool goaway;
    } cases[] = {
        {"\xff\xff\xff\0\0\0\0\0\1", 9, true},                /* a frame of 16 MiB */
        {"\0\0\1\4\0\0\0\0\0x", 10, true},                    /* SETTINGS of 1 byte */
        {"\0\0\6\4\0\0\0\0\0\0\4\xff\xff\xff\xff", 15, true}, /* a window of 2^32-1 */
        {"\0\0\0\0\0\0\0\0\0", 9, true},                      /* DATA on stream 0 */
        {"\0\0\1\1\4\0\0\0\1\xff", 10, true},                 /* HEADERS that HPACK cannot read */
        {"\0\0\1\1\4\0\0\0\2\x82", 10, true},                 /* an even stream */
        {"\0\0\4\x8\0\0\0\0\0\0\0\0\0", 13, true},            /* WINDOW_UPDATE by 0 */
        {"\0\0\5\x2\0\0\0\0\0\0\0\0\0\0", 14, true},          /* PRIORITY on stream 0 */
        {"\0\0\1\x9\4\0\0\0\1\x82", 10, true},                /* CONTINUATION of nothing */
        {"\0\0\4\5\4\0\0\0\1\0\0\0\2", 13, true},             /* PUSH_PROMISE by a client */
        {"\0\0\4\3\0\0\0\0\7\0\0\0\0", 13, false}, /* RST_STREAM of an idle stream: left out (frames.h) */
        {"\0\0\1\1\0\0\0\0\1\x82", 10, false},     /* HEADERS without their end */
        {"\0\0\0\x7f\0\0\0\0\0", 9, false},        /* an unknown frame: to be ignored */
    };
    uint8_t bytes[256], got[4096];
    memcpy(bytes, preface, PREFACE_BYTES);
    memcpy(bytes + PREFACE_BYTES, SETTINGS_FRAME, 9);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memcpy(bytes + PREFACE_BYTES + 9, cases[i].bytes, cases[i].length);
        /* not half-closed first: a GOAWAY is owed even though nothing more is sent */
        int fd = h2_socket(server->port);
        size_t length = 0;
        assert_int_equal(send(fd, bytes, PREFACE_BYTES + 9 + cases[i].length, MSG_NOSIGNAL),
                         PREFACE_BYTES + 9 + cases[i].length);
        while (cases[i].goaway) {
            ssize_t part = recv(fd, got + length, sizeof got - length, 0);
            if (part <= 0)
                break;
            length += (size_t)part;
        }
        close(fd);
        if (cases[i].goaway && !has_frame(got, length, 7))
            fail_msg("case %zu: no GOAWAY", i);
    }
    assert_serving();
}

/* Floods of frames that ask for answers. */
static void test_floods(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } floods[] = {
        {"\0\0\x8\6\0\0\0\0\0abcdefgh", 17},    /* PING */
        {"\0\0\0\4\0\0\0\0\0", 9},              /* SETTINGS */
        {"\0\0\x5\x2\0\0\0\0\1\0\0\0\3\0", 14}, /* PRIORITY */
    };
    for (size_t i = 0; i < sizeof floods / sizeof floods[0]; i++) {
        int fd = h2_socket(server->port);
        uint8_t burst[17 * 200];
        assert_true(send(fd, preface, PREFACE_BYTES, MSG_NOSIGNAL) == PREFACE_BYTES);
        assert_true(send(fd, SETTINGS_FRAME, 9, MSG_NOSIGNAL) == 9);
        for (size_t j = 0; j < 200; j++)
            memcpy(burst + j * floods[i].length, floods[i].bytes, floods[i].length);
        /* never reads: the server stops answering, and must neither grow nor spin */
        for (int round = 0; round < 500; round++) {
            struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
            if (poll(&poll_fd, 1, 10) <= 0 ||
                send(fd, burst, 200 * floods[i].length, MSG_NOSIGNAL | MSG_DONTWAIT) <= 0)
                break;
        }
        assert_serving();
        close(fd);
    }
    assert_serving();
}

/* What an honest client sends for three calls: the material to bend. */
static uint8_t recorded[RECORDED_MAX];
static size_t recorded_length;

static ssize_t record(nghttp2_session *session, const uint8_t *bytes, size_t length, int flags, void *data)
{
    (void)session, (void)flags, (void)data;
    assert_true(recorded_length + length <= sizeof recorded);
    memcpy(recorded + recorded_length, bytes, length);
    recorded_length += length;
    return (ssize_t)length;
}

static void record_calls(void)
{
    static const char *const paths[] = {"/t.T/Echo", "/dunlin.v1.Cluster/Ping", "/t.T/Big", "/t.T/Stream",
                                        "/t.T/Fail"};
    static const char body[] = "\0\0\0\0\7\x0a\5hello";
    struct h2 h2 = {.fd = -1};
    struct h2_answer answers[5];
    const struct h2_header more[] = {{"grpc-timeout", "5S"}, {"user-agent", "recorded"}, {NULL, NULL}};
    nghttp2_session_callbacks *callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_send_callback(callbacks, record);
    nghttp2_session_client_new(&h2.session, callbacks, &h2);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(h2.session, NGHTTP2_FLAG_NONE, NULL, 0);
    memset(answers, 0, sizeof answers);
    for (size_t i = 0; i < 5; i++) {
        answers[i].out = (const uint8_t *)body;
        answers[i].out_length = sizeof body - 1;
        h2_start(&h2, "POST", paths[i], h2_grpc, more, &answers[i]);
    }
    assert_int_equal(nghttp2_session_send(h2.session), 0);
    nghttp2_session_del(h2.session);
}

static void mutate(uint8_t *bytes, size_t *length)
{
    for (uint32_t changes = 1 + next_random() % 6; changes > 0; changes--) {
        size_t at = PREFACE_BYTES + next_random() % (*length - PREFACE_BYTES);
        switch (next_random() % 4) {
        case 0:
            bytes[at] = (uint8_t)next_random();
            break;
        case 1:
            bytes[at] ^= (uint8_t)(1u << next_random() % 8);
            break;
        case 2: /* a piece goes missing */
            if (*length > PREFACE_BYTES + 40) {
                size_t cut = 1 + next_random() % 20;
                cut = cut < *length - at ? cut : *length - at - 1;
                memmove(bytes + at, bytes + at + cut, *length - at - cut);
                *length -= cut;
            }
            break;
        default: /* a piece comes twice */
            if (*length + 20 < RECORDED_MAX) {
                size_t piece = 1 + next_random() % 20;
                piece = piece < *length - at ? piece : *length - at;
                memmove(bytes + at + piece, bytes + at, *length - at);
                *length += piece;
            }
            break;
        }
    }
    if (next_random() % 5 == 0)
        *length = next_random() % *length + 1;
}

static void test_mutations(void **state)
{
    (void)state;
    static uint8_t bytes[RECORDED_MAX];
    uint8_t got[64];
    atomic_store(&core_stream_value, 7);
    for (int round = 0; round < MUTATION_ROUNDS; round++) {
        size_t length = recorded_length;
        memcpy(bytes, recorded, length);
        mutate(bytes, &length);
        exchange(bytes, length, got, sizeof got, H2_WAIT_MS);
        if (round % 250 == 0)
            assert_serving();
    }
    assert_serving();
}

static void test_random_bytes(void **state)
{
    (void)state;
    static uint8_t bytes[4096];
    uint8_t got[64];
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        size_t length = 1 + next_random() % sizeof bytes;
        for (size_t i = 0; i < length; i++)
            bytes[i] = (uint8_t)next_random();
        if (round % 2 && length > PREFACE_BYTES + 9) {
            memcpy(bytes, preface, PREFACE_BYTES);
            memcpy(bytes + PREFACE_BYTES, SETTINGS_FRAME, 9);
        }
        exchange(bytes, length, got, sizeof got, H2_WAIT_MS);
    }
    assert_serving();
}

/* Cut at every byte: each prefix of an honest conversation, then the end. */
static void test_truncations(void **state)
{
    (void)state;
    uint8_t got[64];
    for (size_t length = 1; length < recorded_length; length++)
        exchange(recorded, length, got, sizeof got, H2_WAIT_MS);
    assert_serving();
}

/* Broken messages in honest frames. */
static void test_broken_messages(void **state)
{
    (void)state;
    struct h2 h2;
    struct h2_answer answer;
    assert_true(h2_open(&h2, server->port));
    for (int round = 0; round < 500; round++) {
        uint8_t message[40];
        size_t length = next_random() % sizeof message;
        for (size_t i = 0; i < length; i++)
            message[i] = (uint8_t)next_random();
        assert_true(h2_call(&h2, "/dunlin.v1.Cluster/Ping", NULL, message, length, &answer));
        if (answer.grpc_status != 0 && answer.grpc_status != 3)
            fail_msg("seed %llu round %d: status %d", (unsigned long long)seed, round, answer.grpc_status);
        h2_free(&answer);
    }
    assert_true(h2_call(&h2, "/dunlin.v1.Cluster/Ping", NULL, "\x0a\x05hi", 4, &answer));
    assert_int_equal(answer.grpc_status, 3);
    assert_non_null(strstr(answer.message, "not a valid dunlin.v1.PingRequest"));
    h2_shut(&h2);
}

static int setup(void **state)
{
    (void)state;
    server = core_start(1, (struct dn_api_limits){.connections = 4096});
    record_calls();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    core_end(server);
    return 0;
}

int main(void)
{
    const char *text = getenv("DUNLIN_TEST_SEED");
    seed = text ? strtoull(text, NULL, 10) : 7;
    random_state = seed;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_preface), cmocka_unit_test(test_broken_frames),
        cmocka_unit_test(test_floods),         cmocka_unit_test(test_broken_messages),
        cmocka_unit_test(test_truncations),    cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
