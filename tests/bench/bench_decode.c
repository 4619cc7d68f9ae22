/* bench_decode [events]: nanoseconds of one core for each event decoded, printed as one JSON object.
 *
 * Messages are made beforehand and differ; rounds of all of them are repeated and the best counts, since
 * whatever else runs only makes them slower. For comparison, what jansson takes to build its tree of the same
 * messages, and to have the same three fields looked up: the reason why decoding does without a tree. */
#include "base/error.h"
#include "dunlin/v1/dunlin.pb-c.h"
#include "ingest/schema.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MESSAGES 1000u
#define MESSAGE_MAX 512u
#define ROUNDS 7u

struct messages {
    uint8_t bytes[MESSAGES][MESSAGE_MAX];
    size_t lengths[MESSAGES], total;
};

struct bench {
    struct messages messages;
    struct dn_source_config config;
    struct dn_schema *schema;
    uint64_t sum; /* of what was decoded: work that is not used may be left out */
    uint64_t events;
};

static uint64_t cpu_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static size_t flat_json(uint8_t *to, unsigned n)
{
    return (size_t)snprintf(
        (char *)to, MESSAGE_MAX,
        "{\"user_id\":\"user-%07u\",\"item_id\":\"sku-%08u\",\"type\":\"click\",\"time_ms\":"
        "%" PRIu64 ",\"event_id\":\"7f3c0d2a-%04x-4b1e-9d55-0123456789ab\",\"weight\":1.5}",
        n * 7919u % 1000000u, n * 104729u % 50000000u, UINT64_C(1700000000000) + n, n % 65536);
}

static size_t nested_json(uint8_t *to, unsigned n)
{
    return (size_t)snprintf(
        (char *)to, MESSAGE_MAX,
        "{\"event\":\"page_click\",\"@timestamp\":\"2023-11-14T22:13:%02u.%03uZ\",\"context\":{"
        "\"user\":{\"id\":\"user-%07u\",\"plan\":\"b\"},\"page\":\"/shop\"},\"item\":{\"id\":"
        "\"sku-%08u\"}}",
        n % 60, n % 1000, n * 7919u % 1000000u, n * 104729u % 50000000u);
}

static size_t protobuf(uint8_t *to, unsigned n)
{
    char user[32], item[32], id[64];
    Dunlin__V1__Event event = DUNLIN__V1__EVENT__INIT;
    snprintf(user, sizeof user, "user-%07u", n * 7919u % 1000000u);
    snprintf(item, sizeof item, "sku-%08u", n * 104729u % 50000000u);
    snprintf(id, sizeof id, "7f3c0d2a-%04x-4b1e-9d55-0123456789ab", n % 65536);
    event.user_id = user;
    event.item_id = item;
    event.event_id = id;
    event.type = DUNLIN__V1__EVENT_TYPE__EVENT_TYPE_CLICK;
    event.time_ms = 1700000000000 + n;
    event.weight = 1.5f;
    return dunlin__v1__event__pack(&event, to);
}

static void make(struct bench *bench, size_t (*one)(uint8_t *to, unsigned n))
{
    bench->messages.total = 0;
    for (unsigned n = 0; n < MESSAGES; n++) {
        bench->messages.lengths[n] = one(bench->messages.bytes[n], n);
        bench->messages.total += bench->messages.lengths[n];
    }
}

static void decode(struct bench *bench, const uint8_t *bytes, size_t length)
{
    struct dn_message message = {.time_ms = 1, .bytes = bytes, .length = length};
    struct dn_decoded event;
    enum dn_dead_reason reason;
    struct dn_error err;
    if (dn_schema_decode(bench->schema, &message, &event, &reason, &err) != DN_DECODED) {
        fprintf(stderr, "%.*s: %s\n", (int)length, (const char *)bytes, err.message);
        exit(1);
    }
    bench->sum += (uint64_t)event.time_ms + event.user_length + event.item_length + event.type + event.weight;
}

static void jansson(struct bench *bench, const uint8_t *bytes, size_t length)
{
    json_t *tree = json_loadb((const char *)bytes, length, JSON_REJECT_DUPLICATES, NULL);
    bench->sum += json_string_length(json_object_get(tree, "user_id"));
    bench->sum += json_string_length(json_object_get(tree, "item_id"));
    bench->sum += (uint64_t)json_integer_value(json_object_get(tree, "time_ms"));
    json_decref(tree);
}

static double measure(struct bench *bench,
                      void (*one)(struct bench *bench, const uint8_t *bytes, size_t length))
{
    double best = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t started_ns = cpu_ns();
        for (uint64_t i = 0; i < bench->events; i++) {
            size_t n = i % MESSAGES;
            one(bench, bench->messages.bytes[n], bench->messages.lengths[n]);
        }
        double ns = (double)(cpu_ns() - started_ns) / (double)bench->events;
        best = round == 0 || ns < best ? ns : best;
    }
    return best;
}

static void configure(struct bench *bench)
{
    struct dn_error err;
    dn_schema_destroy(bench->schema);
    bench->config.message_bytes = 1 << 20;
    if (dn_schema_create(&bench->config, &bench->schema, &err) != DN_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
}

static void report(struct bench *bench, const char *what, double ns, const char *end)
{
    printf("\"%s\": {\"bytes\": %.0f, \"ns\": %.0f, \"events_per_second\": %.0f}%s", what,
           (double)bench->messages.total / MESSAGES, ns, 1e9 / ns, end);
}

int main(int argc, char **argv)
{
    struct bench *bench = calloc(1, sizeof *bench);
    char *end = NULL;
    if (bench == NULL) {
        return 1;
    }
    bench->events = argc > 1 ? strtoull(argv[1], &end, 10) : 200000;
    if (bench->events == 0 || argc > 2 || (end != NULL && *end != '\0')) {
        fprintf(stderr, "Usage: bench_decode [events]\n");
        free(bench);
        return 2;
    }
    printf("{");
    make(bench, flat_json);
    configure(bench);
    report(bench, "json", measure(bench, decode), ", ");
    report(bench, "json_jansson_tree", measure(bench, jansson), ", ");

    make(bench, nested_json);
    struct dn_source_fields *fields = &bench->config.fields;
    snprintf(fields->user, sizeof fields->user, "context.user.id");
    snprintf(fields->item, sizeof fields->item, "item.id");
    snprintf(fields->type, sizeof fields->type, "event");
    snprintf(fields->time, sizeof fields->time, "@timestamp");
    fields->time_unit = DN_TIME_ISO8601;
    snprintf(fields->types[0].name, sizeof fields->types[0].name, "page_click");
    fields->types[0].type = DN_EVENT_CLICK;
    fields->type_count = 1;
    configure(bench);
    report(bench, "json_nested_iso8601", measure(bench, decode), ", ");

    make(bench, protobuf);
    memset(&bench->config, 0, sizeof bench->config);
    bench->config.format = DN_FORMAT_PROTOBUF;
    configure(bench);
    report(bench, "protobuf", measure(bench, decode), "");
    printf("}\n");
    fprintf(stderr, "(%" PRIu64 ")\n", bench->sum);
    dn_schema_destroy(bench->schema);
    free(bench);
    return 0;
}
