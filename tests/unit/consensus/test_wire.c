/* Frames: round trips, damage, and strangers at the peer port of running nodes. */
#include "cluster.h"

#include "consensus/wire.h"

#include <fcntl.h>

static uint64_t rng_state;

static uint64_t rng(void)
{
    uint64_t z = (rng_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void make_frame(struct wire_frame *frame, uint8_t *bytes, size_t max)
{
    memset(frame, 0, sizeof *frame);
    frame->type = (enum wire_type)(1 + rng() % WIRE_LOST);
    if (frame->type != WIRE_STAMPS && frame->type != WIRE_ROUND && frame->type != WIRE_LOST) {
        frame->request = rng();
    }
    if (frame->type == WIRE_PROPOSE || frame->type == WIRE_PROPOSE_ANSWER || frame->type == WIRE_CHUNK) {
        frame->length = 1 + rng() % max;
        for (size_t i = 0; i < frame->length; i++) {
            bytes[i] = (uint8_t)rng();
        }
        frame->bytes = bytes;
    }
    if (frame->type == WIRE_PROPOSE || frame->type == WIRE_MEMBER) {
        frame->left_ms = (uint32_t)rng();
    }
    if (frame->type == WIRE_MEMBER) {
        frame->op = (uint8_t)(rng() % (DN_MEMBER_REPLACE + 1));
        frame->flags = (uint8_t)(rng() % (WIRE_MEMBER_FLAGS + 1));
        frame->node_id = 1 + rng() % 99;
    }
    if (frame->type == WIRE_PROPOSE_ANSWER || frame->type == WIRE_MEMBER_ANSWER) {
        frame->message = "because";
        frame->message_length = 7;
    } else if (frame->type < WIRE_MEMBER && frame->type != WIRE_STAMPS) {
        frame->group = (uint32_t)rng();
    }
    if (frame->type >= WIRE_CHUNK_ASK && frame->type <= WIRE_CHUNK_GONE) {
        frame->chunk = (uint32_t)rng();
    }
    if (frame->type == WIRE_CHUNK_ASK) {
        frame->index = rng();
        frame->term = rng();
        frame->id = rng();
    }
    if (frame->type == WIRE_CHUNK) {
        frame->offset = (uint32_t)rng();
    }
    if (frame->type == WIRE_CHUNK_GONE) {
        frame->code = (enum dn_code)(1 + rng() % (DN_CODE_COUNT - 1));
        frame->message = "gone";
        frame->message_length = 4;
    }
    if (frame->type == WIRE_MEMBER_ANSWER) {
        frame->code = (enum dn_code)(rng() % DN_CODE_COUNT);
    }
    if (frame->type == WIRE_PROPOSE_ANSWER || frame->type == WIRE_BARRIER_ANSWER) {
        frame->code = (enum dn_code)(rng() % DN_CODE_COUNT);
        frame->index = rng();
    }
    if (frame->type == WIRE_ROUND) {
        frame->lead_count = (uint32_t)(rng() % (DN_GROUPS_MAX + 1));
        for (uint32_t i = 0; i < frame->lead_count; i++) {
            frame->leads[i] = (struct wire_lead){(uint32_t)rng(), rng(), rng()};
        }
    }
    if (frame->type == WIRE_STAMPS || frame->type == WIRE_ROUND) {
        frame->nonce = rng();
        frame->stamp_us = rng();
        frame->round = rng();
    }
    if (frame->type == WIRE_STAMPS) {
        frame->stamp_count = (uint32_t)(rng() % (DN_GROUPS_MAX + 1));
        for (uint32_t i = 0; i < frame->stamp_count; i++) {
            frame->stamps[i] = (struct wire_stamp){(uint32_t)rng(), rng(), rng()};
        }
    }
}

static void frames_round_trip_and_damage(void **unused)
{
    uint8_t bytes[200];
    struct dn_buffer out;
    unsigned refused = 0;
    (void)unused;
    dn_buffer_init(&out, 1 << 20);
    for (unsigned round = 0; round < 20000; round++) {
        struct wire_frame in, back;
        struct dn_error err;
        size_t used;
        make_frame(&in, bytes, sizeof bytes);
        dn_buffer_clear(&out);
        wire_frame_encode(&in, &out);
        assert_false(out.failed);
        assert_int_equal(wire_frame_decode(out.bytes, out.length, &back, &used, &err), DN_OK);
        assert_int_equal(used, out.length);
        assert_true(in.type == back.type && in.request == back.request && in.group == back.group &&
                    in.code == back.code && in.index == back.index && in.length == back.length &&
                    in.left_ms == back.left_ms && in.term == back.term && in.id == back.id &&
                    in.chunk == back.chunk && in.offset == back.offset && in.nonce == back.nonce &&
                    in.stamp_us == back.stamp_us && in.stamp_count == back.stamp_count &&
                    in.message_length == back.message_length && in.round == back.round && in.op == back.op &&
                    in.flags == back.flags && in.node_id == back.node_id && in.lead_count == back.lead_count);
        if (in.length > 0) {
            assert_memory_equal(in.bytes, back.bytes, in.length);
        }
        for (uint32_t i = 0; i < in.lead_count; i++) {
            assert_true(in.leads[i].group == back.leads[i].group && in.leads[i].term == back.leads[i].term &&
                        in.leads[i].index == back.leads[i].index);
        }
        for (uint32_t i = 0; i < in.stamp_count; i++) {
            assert_true(in.stamps[i].hash == back.stamps[i].hash &&
                        in.stamps[i].group == back.stamps[i].group);
        }
        /* Part of a frame is no frame yet. */
        assert_int_equal(wire_frame_decode(out.bytes, rng() % out.length, &back, &used, &err), DN_OK);
        assert_int_equal(used, 0);
        /* A damaged one is refused, or its length now asks for more. */
        uint8_t *damaged = malloc(out.length);
        memcpy(damaged, out.bytes, out.length);
        damaged[rng() % out.length] ^= (uint8_t)(1u << rng() % 8);
        if (wire_frame_decode(damaged, out.length, &back, &used, &err) == DN_OK) {
            assert_int_equal(used, 0);
        } else {
            refused++;
        }
        /* A payload of noise under a right checksum: refused or a valid frame, never out of bounds. */
        size_t size = rng() % (out.length - WIRE_FRAME_HEADER_BYTES + 1);
        uint8_t *noise = malloc(WIRE_FRAME_HEADER_BYTES + size);
        memcpy(noise, out.bytes, WIRE_FRAME_HEADER_BYTES + size);
        for (unsigned i = 0; i < 3 && size > 0; i++) {
            noise[WIRE_FRAME_HEADER_BYTES + rng() % size] = (uint8_t)rng();
        }
        uint32_t crc = dn_crc32c(dn_crc32c(0, noise + 4, 1), noise + WIRE_FRAME_HEADER_BYTES, size);
        for (unsigned i = 0; i < 4; i++) {
            noise[i] = (uint8_t)(size >> (8 * i));
            noise[5 + i] = (uint8_t)(crc >> (8 * i));
        }
        wire_frame_decode(noise, WIRE_FRAME_HEADER_BYTES + size, &back, &used, &err);
        free(noise);
        free(damaged);
    }
    assert_true(refused > 10000);
    dn_buffer_free(&out);
}

static int dial(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void throw_noise(const char *address, bool hello)
{
    uint8_t bytes[600];
    int fd = dial(address);
    size_t at = 0, length = rng() % sizeof bytes;
    if (fd < 0) {
        return;
    }
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)rng();
    }
    if (hello) { /* as long as a real one, and as real as one can be without a key */
        length = sizeof bytes;
    }
    while (at < length) {
        ssize_t n = send(fd, bytes + at, 1 + rng() % (length - at), MSG_NOSIGNAL);
        if (n <= 0) {
            break;
        }
        at += (size_t)n;
    }
    close(fd);
}

static void strangers_do_not_disturb(void **unused)
{
    struct cluster c;
    struct call call;
    int held[80];
    struct dn_metrics *metrics = dn_metrics_create();
    (void)unused;
    cluster_init(&c, 3, 1);
    c.options.metrics = metrics;
    cluster_start_all(&c);
    must(propose(&c, 0, 0, "before", &call), &call);
    struct dn_group_status before, after;
    dn_consensus_status(c.node[0], 0, &before);
    for (unsigned i = 0; i < 80; i++) { /* more than may wait unproved; they say nothing */
        held[i] = dial(c.addresses[i % 3]);
    }
    for (unsigned i = 0; i < 300; i++) {
        throw_noise(c.addresses[0], i % 3 == 0);
        if (i % 30 == 0) {
            must(propose(&c, 1, 0, "while", &call), &call);
        }
    }
    must_converge(&c, 0);
    dn_consensus_status(c.node[0], 0, &after);
    assert_int_equal(atomic_load(&c.fatal[0]), 0);
    for (unsigned i = 0; i < 80; i++) {
        close(held[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        cluster_stop(&c, i, 0);
    }
    struct dn_buffer page;
    dn_buffer_init(&page, 1 << 20);
    dn_metrics_render(metrics, &page);
    dn_buffer_u8(&page, 0);
    double refused = 0;
    for (char *line = (char *)page.bytes; (line = strstr(line, "\ndunlin_peer_refused_total{")) != NULL;
         line++) {
        refused += atof(strchr(line, ' '));
    }
    printf("# %.0f strangers refused\n", refused);
    assert_true(refused > 100);
    assert_non_null(strstr((char *)page.bytes, "dunlin_commit_seconds_count{group=\"0\"}"));
    dn_buffer_free(&page);
    cluster_free(&c);
    dn_metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_round_trip_and_damage),
        cmocka_unit_test(strangers_do_not_disturb),
    };
    const char *seed = getenv("DN_SEED");
    rng_state = seed != NULL ? strtoull(seed, NULL, 0) : 1;
    printf("# DN_SEED=%llu\n", (unsigned long long)rng_state);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
