/* Latency at a given rate, seen from outside. Requests start at random moments that do not depend on the
 * answers (independent users: exponential gaps, a fixed seed), spread over some connections, and each is
 * timed from the moment it was meant to start, so that a stall is charged to all that had to wait for it.
 * (h2load's --rps sends in bursts every 10 ms: what it measures is the burst.) Prints JSON.
 *
 * A rate of `max` is what the server can do: IN_FLIGHT requests wait on each connection, all the time.
 *
 * Usage: bench_rate HOST:PORT PATH MESSAGE_FILE RATE SECONDS CONNECTIONS [many]
 * many: the file holds several messages, each behind its length (four bytes, little endian); they are sent in
 * turn, so that requests are of many users. */
#include "base/clock.h"
#include "base/error.h"
#include "base/metrics.h"
#include "client/client.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONNECTIONS_MAX 256
#define MESSAGES_BYTES_MAX (4u << 20)
#define MESSAGES_MAX 65536u
#define IN_FLIGHT 32
#define DEADLINE_MS 5000
#define DRAIN_NS UINT64_C(10000000000)

struct request {
    struct bench *bench;
    uint64_t due_ns;
    bool answered;
};

struct bench {
    struct dn_client *connections[CONNECTIONS_MAX];
    unsigned count;
    struct dn_histogram *latency;
    struct request *requests;
    uint64_t total, sent, answered, failed;
    const uint8_t *messages[MESSAGES_MAX];
    uint32_t lengths[MESSAGES_MAX];
    size_t message_count;
};

static void on_reply(void *data, const struct dn_reply *reply)
{
    struct request *request = data;
    struct bench *bench = request->bench;
    dn_histogram_observe_ns(bench->latency, dn_monotonic_ns() - request->due_ns);
    request->answered = true;
    bench->answered++;
    bench->failed += reply->grpc_status != 0;
}

static void schedule(struct bench *bench, double rate)
{
    uint64_t start_ns = dn_monotonic_ns() + 10000000;
    double at_s = 0;
    srand48(11);
    for (uint64_t i = 0; i < bench->total; i++) {
        at_s += -log(1 - drand48()) / rate;
        bench->requests[i] = (struct request){.bench = bench, .due_ns = start_ns + (uint64_t)(at_s * 1e9)};
    }
}

/* Until the next request is due or an answer is there. */
static enum dn_code step(struct bench *bench, struct dn_error *err)
{
    struct pollfd watched[CONNECTIONS_MAX];
    uint64_t now_ns = dn_monotonic_ns(), wait_ns = 10000000;
    enum dn_code code = DN_OK;
    if (bench->sent < bench->total) {
        uint64_t due_ns = bench->requests[bench->sent].due_ns;
        wait_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    }
    for (unsigned i = 0; i < bench->count; i++) {
        watched[i] = (struct pollfd){.fd = dn_client_fd(bench->connections[i]),
                                     .events = dn_client_events(bench->connections[i])};
    }
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000),
                            .tv_nsec = (long)(wait_ns % 1000000000)};
    if (ppoll(watched, bench->count, &wait, NULL) > 0) {
        for (unsigned i = 0; i < bench->count && code == DN_OK; i++) {
            if (watched[i].revents != 0) {
                code = dn_client_poll(bench->connections[i], 0, err);
            }
        }
    }
    return code;
}

static enum dn_code run(struct bench *bench, const char *path, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    uint64_t give_up_ns = bench->requests[bench->total - 1].due_ns + DRAIN_NS;
    while (code == DN_OK && bench->answered < bench->total) {
        uint64_t now_ns = dn_monotonic_ns();
        if (now_ns > give_up_ns) {
            return dn_fail(err, DN_DEADLINE, "%llu requests were not answered",
                           (unsigned long long)(bench->total - bench->answered));
        }
        while (code == DN_OK && bench->sent < bench->total && bench->requests[bench->sent].due_ns <= now_ns) {
            struct dn_client *client = bench->connections[bench->sent % bench->count];
            size_t which = bench->sent % bench->message_count;
            code = dn_client_send(client, path, bench->messages[which], bench->lengths[which], DEADLINE_MS,
                                  on_reply, &bench->requests[bench->sent], err);
            bench->sent++;
            if (code == DN_OK) {
                code = dn_client_poll(client, 0, err); /* it leaves now */
            }
        }
        if (code == DN_OK) {
            code = step(bench, err);
        }
    }
    return code;
}

/* A new request in each place whose last was answered, until the time is over. */
static enum dn_code run_full(struct bench *bench, const char *path, double seconds, struct dn_error *err)
{
    enum dn_code code = DN_OK;
    size_t places = (size_t)bench->count * IN_FLIGHT;
    uint64_t end_ns = dn_monotonic_ns() + (uint64_t)(seconds * 1e9), now_ns;
    for (size_t i = 0; i < places; i++) {
        bench->requests[i] = (struct request){.bench = bench, .answered = true};
    }
    while (code == DN_OK && ((now_ns = dn_monotonic_ns()) < end_ns || bench->answered < bench->sent)) {
        for (size_t i = 0; i < places && code == DN_OK && now_ns < end_ns; i++) {
            struct request *request = &bench->requests[i];
            size_t which = bench->sent % bench->message_count;
            if (!request->answered) {
                continue;
            }
            *request = (struct request){.bench = bench, .due_ns = now_ns};
            code = dn_client_send(bench->connections[i % bench->count], path, bench->messages[which],
                                  bench->lengths[which], DEADLINE_MS, on_reply, request, err);
            bench->sent++;
        }
        for (unsigned i = 0; i < bench->count && code == DN_OK; i++) {
            code = dn_client_poll(bench->connections[i], 0, err); /* they leave now */
        }
        if (code == DN_OK) {
            code = step(bench, err);
        }
        if (now_ns > end_ns + DRAIN_NS) {
            return dn_fail(err, DN_DEADLINE, "not all requests were answered");
        }
    }
    bench->total = bench->sent;
    return code;
}

static double quantile_us(const struct bench *bench, double q)
{
    return (double)dn_histogram_quantile_ns(bench->latency, q) / 1e3;
}

/* False: the lengths do not fit the bytes. */
static bool take_messages(struct bench *bench, const uint8_t *bytes, size_t length, bool many)
{
    if (!many) {
        bench->messages[0] = bytes;
        bench->lengths[0] = (uint32_t)length;
        bench->message_count = 1;
        return true;
    }
    for (size_t at = 0; at < length && bench->message_count < MESSAGES_MAX;) {
        uint32_t size;
        if (length - at < sizeof size) {
            return false;
        }
        memcpy(&size, bytes + at, sizeof size);
        at += sizeof size;
        if (size > length - at) {
            return false;
        }
        bench->messages[bench->message_count] = bytes + at;
        bench->lengths[bench->message_count++] = size;
        at += size;
    }
    return bench->message_count > 0;
}

int main(int argc, char **argv)
{
    static struct bench bench;
    static uint8_t message[MESSAGES_BYTES_MAX];
    struct dn_error err = {0};
    bool many = argc == 8 && strcmp(argv[7], "many") == 0;
    bench.latency = dn_histogram_create();
    if (argc != 7 && !many) {
        fprintf(stderr, "usage: bench_rate HOST:PORT PATH MESSAGE_FILE RATE SECONDS CONNECTIONS [many]\n");
        return 2;
    }
    FILE *file = fopen(argv[3], "rb");
    size_t length = file == NULL ? 0 : fread(message, 1, sizeof message, file);
    bool full = strcmp(argv[4], "max") == 0;
    double rate = atof(argv[4]), seconds = atof(argv[5]);
    unsigned connections = (unsigned)atoi(argv[6]);
    if (file == NULL || bench.latency == NULL || (!full && rate <= 0) || seconds <= 0 || connections == 0 ||
        connections > CONNECTIONS_MAX || !take_messages(&bench, message, length, many)) {
        fprintf(stderr, "bench_rate: a readable message, a rate, a time and 1 to %d connections are needed\n",
                CONNECTIONS_MAX);
        return 2;
    }
    fclose(file);
    for (; bench.count < connections; bench.count++) {
        if (dn_client_connect(argv[1], 2000, &bench.connections[bench.count], &err) != DN_OK) {
            fprintf(stderr, "bench_rate: %s\n", err.message);
            return 1;
        }
    }
    bench.total = full ? 0 : (uint64_t)(rate * seconds) + 1;
    bench.requests = calloc(full ? connections * IN_FLIGHT : bench.total, sizeof *bench.requests);
    if (bench.requests == NULL) {
        return 1;
    }
    if (!full) {
        schedule(&bench, rate);
    }
    uint64_t begun_ns = full ? dn_monotonic_ns() : bench.requests[0].due_ns;
    enum dn_code code = full ? run_full(&bench, argv[2], seconds, &err) : run(&bench, argv[2], &err);
    if (code != DN_OK || bench.failed > 0) {
        fprintf(stderr, "bench_rate: %llu calls failed; %s\n", (unsigned long long)bench.failed, err.message);
        return 1;
    }
    printf("{\"requests\": %llu, \"rate\": %.0f, \"us\": {\"p50\": %.0f, \"p99\": %.0f, \"p999\": %.0f}}\n",
           (unsigned long long)bench.total,
           (double)bench.total / ((double)(dn_monotonic_ns() - begun_ns) / 1e9), quantile_us(&bench, 0.5),
           quantile_us(&bench, 0.99), quantile_us(&bench, 0.999));
    for (unsigned i = 0; i < bench.count; i++) {
        dn_client_close(bench.connections[i]);
    }
    dn_histogram_destroy(bench.latency);
    free(bench.requests);
    return 0;
}
