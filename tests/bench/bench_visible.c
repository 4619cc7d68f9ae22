/* How long from sending a click to its being readable on every node: publishes one click at a node, then asks
 * every node for the session with the click's token, all through the public API. Prints JSON.
 *
 * Usage: bench_visible COUNT PAUSE_US HOST:PORT... */
#include "base/clock.h"
#include "base/error.h"
#include "base/metrics.h"
#include "client/client.h"

#include <dunlin/v1/dunlin.pb-c.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NODES_MAX 7
#define DEADLINE_MS 5000

struct bench {
    struct dn_client *nodes[NODES_MAX];
    unsigned count;
    unsigned waiting;
    unsigned failed;
};

static void on_session(void *data, const struct dn_reply *reply)
{
    struct bench *bench = data;
    bench->waiting--;
    bench->failed += reply->grpc_status != 0;
}

static enum dn_code publish(struct dn_client *client, char *user, uint64_t n,
                            Dunlin__V1__PublishResponse **ret, struct dn_error *err)
{
    Dunlin__V1__PublishRequest request = DUNLIN__V1__PUBLISH_REQUEST__INIT;
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT, *events[] = {&event};
    uint8_t buffer[256], *bytes = NULL;
    size_t length = 0;
    char item[32];
    snprintf(item, sizeof item, "item-%llu", (unsigned long long)(n % 1000));
    event.user_id = user;
    event.item_id = item;
    request.n_events = 1;
    request.events = events;
    size_t size = dunlin__v1__publish_request__pack(&request, buffer);
    enum dn_code code =
        dn_client_call(client, "/dunlin.v1.Events/Publish", buffer, size, DEADLINE_MS, &bytes, &length, err);
    if (code == DN_OK) {
        *ret = dunlin__v1__publish_response__unpack(NULL, length, bytes);
        free(bytes);
        code = *ret != NULL && (*ret)->accepted == 1
                   ? DN_OK
                   : dn_fail(err, DN_INTERNAL, "the click was not accepted");
    }
    return code;
}

static enum dn_code read_everywhere(struct bench *bench, char *user, const ProtobufCBinaryData *token,
                                    struct dn_error *err)
{
    Dunlin__V1__GetSessionRequest request = DUNLIN__V1__GET_SESSION_REQUEST__INIT;
    Dunlin__V1__ReadOptions read = DUNLIN__V1__READ_OPTIONS__INIT;
    uint8_t buffer[512];
    enum dn_code code = DN_OK;
    read.level = DUNLIN__V1__READ_LEVEL__READ_LEVEL_SESSION;
    read.token = *token;
    request.user_id = user;
    request.read = &read;
    if (dunlin__v1__get_session_request__get_packed_size(&request) > sizeof buffer) {
        return dn_fail(err, DN_INTERNAL, "token too long");
    }
    size_t size = dunlin__v1__get_session_request__pack(&request, buffer);
    bench->waiting = bench->count;
    for (unsigned i = 0; i < bench->count && code == DN_OK; i++) {
        code = dn_client_send(bench->nodes[i], "/dunlin.v1.Sessions/Get", buffer, size, DEADLINE_MS,
                              on_session, bench, err);
    }
    /* One after the other: all answers are needed, so the order of waiting does not change the time. */
    for (unsigned i = 0; i < bench->count && code == DN_OK; i++) {
        while (code == DN_OK && dn_client_pending(bench->nodes[i]) > 0) {
            code = dn_client_poll(bench->nodes[i], DEADLINE_MS, err);
        }
    }
    return code;
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct dn_error err = {0};
    struct dn_histogram *acknowledged = dn_histogram_create(), *visible = dn_histogram_create();
    if (argc < 4 || argc - 3 > NODES_MAX) {
        fprintf(stderr, "usage: bench_visible COUNT PAUSE_US HOST:PORT...\n");
        return 2;
    }
    uint64_t count = strtoull(argv[1], NULL, 10);
    unsigned pause_us = (unsigned)strtoul(argv[2], NULL, 10);
    bench.count = (unsigned)argc - 3;
    for (unsigned i = 0; i < bench.count; i++) {
        if (dn_client_connect(argv[3 + i], 2000, &bench.nodes[i], &err) != DN_OK) {
            fprintf(stderr, "bench_visible: %s\n", err.message);
            return 1;
        }
    }
    for (uint64_t n = 0; n < count; n++) {
        Dunlin__V1__PublishResponse *response = NULL;
        char user[32];
        snprintf(user, sizeof user, "visible-%llu", (unsigned long long)n);
        uint64_t begun_ns = dn_monotonic_ns();
        enum dn_code code = publish(bench.nodes[n % bench.count], user, n, &response, &err);
        uint64_t acknowledged_ns = dn_monotonic_ns();
        if (code == DN_OK) {
            code = read_everywhere(&bench, user, &response->token, &err);
        }
        if (code != DN_OK || bench.failed > 0) {
            fprintf(stderr, "bench_visible: click %llu: %s\n", (unsigned long long)n,
                    code != DN_OK ? err.message : "a read failed");
            return 1;
        }
        dn_histogram_observe_ns(acknowledged, acknowledged_ns - begun_ns);
        dn_histogram_observe_ns(visible, dn_monotonic_ns() - begun_ns);
        dunlin__v1__publish_response__free_unpacked(response, NULL);
        if (pause_us > 0) {
            usleep(pause_us);
        }
    }
    printf("{\"clicks\": %llu, \"acknowledged_us\": {\"p50\": %.0f, \"p99\": %.0f, \"p999\": %.0f}, "
           "\"visible_everywhere_us\": {\"p50\": %.0f, \"p99\": %.0f, \"p999\": %.0f}}\n",
           (unsigned long long)count, (double)dn_histogram_quantile_ns(acknowledged, 0.5) / 1e3,
           (double)dn_histogram_quantile_ns(acknowledged, 0.99) / 1e3,
           (double)dn_histogram_quantile_ns(acknowledged, 0.999) / 1e3,
           (double)dn_histogram_quantile_ns(visible, 0.5) / 1e3,
           (double)dn_histogram_quantile_ns(visible, 0.99) / 1e3,
           (double)dn_histogram_quantile_ns(visible, 0.999) / 1e3);
    for (unsigned i = 0; i < bench.count; i++) {
        dn_client_close(bench.nodes[i]);
    }
    dn_histogram_destroy(acknowledged);
    dn_histogram_destroy(visible);
    return 0;
}
