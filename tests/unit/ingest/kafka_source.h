/* What the tests of the Kafka driver share: a source's configuration, a host that counts wakes, and reading.
 */
#ifndef DN_TEST_KAFKA_SOURCE_H
#define DN_TEST_KAFKA_SOURCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "ingest/source.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 30000 /* for what must come; nothing is measured by it */
#define BATCH 256

struct source {
    struct dn_source_config config;
    struct dn_source_host host;
    atomic_uint wakes;
    void *self;
};

static const struct dn_source_driver *const driver = &dn_source_kafka;

static inline void source_wake(void *data)
{
    atomic_fetch_add((atomic_uint *)data, 1);
}

/* Not opened yet. `topics`: words with a space between. */
static inline struct source *source_make(const char *brokers, const char *topics)
{
    struct source *source = calloc(1, sizeof(*source));
    assert_non_null(source);
    struct dn_source_config *config = &source->config;
    snprintf(config->name, sizeof(config->name), "clicks");
    snprintf(config->brokers, sizeof(config->brokers), "%s", brokers);
    config->message_bytes = 1 << 20;
    char words[DN_SOURCE_TEXT_MAX], *rest = words;
    snprintf(words, sizeof(words), "%s", topics);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        snprintf(config->list[config->list_count++], DN_SOURCE_TEXT_MAX, "%s", word);
    }
    source->host = (struct dn_source_host){.wake = source_wake, .data = &source->wakes, .data_dir = "."};
    return source;
}

static inline void source_property(struct source *source, const char *name, const char *value)
{
    size_t at = source->config.property_count++;
    snprintf(source->config.properties[at].name, sizeof(source->config.properties[at].name), "%s", name);
    snprintf(source->config.properties[at].value, sizeof(source->config.properties[at].value), "%s", value);
}

static inline void source_open(struct source *source)
{
    struct dn_error err = {0};
    if (driver->open(&source->config, &source->host, &source->self, &err) != DN_OK) {
        fail_msg("open: %s", err.message);
    }
}

static inline void source_close(struct source *source)
{
    driver->close(source->self);
    free(source);
}

static inline void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* Evaluates `condition` until it is true. */
#define wait_for(condition)                                                                                  \
    do {                                                                                                     \
        uint64_t until_us = dn_monotonic_us() + WAIT_MS * UINT64_C(1000);                                    \
        while (!(condition)) {                                                                               \
            if (dn_monotonic_us() > until_us) {                                                              \
                fail_msg("waited in vain for: %s", #condition);                                              \
            }                                                                                                \
            pause_ms(2);                                                                                     \
        }                                                                                                    \
    } while (0)

static inline uint32_t partitions(struct source *source, size_t stream)
{
    struct dn_stream_info info[DN_SOURCE_LIST_MAX];
    assert_true(driver->streams(source->self, info, DN_SOURCE_LIST_MAX) > stream);
    return info[stream].partition_count;
}

static inline void start(struct source *source, size_t stream, uint32_t partition, int64_t offset)
{
    struct dn_error err = {0};
    if (driver->start(source->self, stream, partition, offset, &err) != DN_OK) {
        fail_msg("start: %s", err.message);
    }
}

static inline struct dn_partition_status status(struct source *source, size_t stream, uint32_t partition)
{
    struct dn_partition_status got;
    driver->status(source->self, stream, partition, &got);
    return got;
}

static inline bool trouble_has(struct source *source, const char *part)
{
    char text[DN_SOURCE_TEXT_MAX];
    int64_t since_ms = driver->trouble(source->self, text);
    assert_int_equal(since_ms == 0, text[0] == '\0');
    return part ? strstr(text, part) != NULL : since_ms == 0;
}

/* The next message or end of partition, copied but for its bytes and key. */
static inline struct dn_message next_of(struct source *source, size_t stream, uint32_t partition)
{
    struct dn_message message;
    size_t count = 0;
    wait_for((count = driver->read(source->self, stream, partition, &message, 1)) == 1);
    driver->release(source->self, stream, partition);
    return message;
}

/* Reads up to the end of the partition. Checks that offsets rise from *position on, and moves it. Returns how
 * many messages there were. */
static inline size_t read_to_end(struct source *source, size_t stream, uint32_t partition, int64_t *position)
{
    struct dn_message messages[BATCH];
    size_t total = 0;
    for (bool end = false; !end;) {
        size_t count = 0;
        wait_for((count = driver->read(source->self, stream, partition, messages, BATCH)) > 0);
        for (size_t i = 0; i < count; i++) {
            assert_true(messages[i].next_offset >= *position);
            assert_true(messages[i].end || messages[i].offset >= *position);
            *position = messages[i].next_offset;
            total += !messages[i].end;
            end = messages[i].end;
        }
        driver->release(source->self, stream, partition);
    }
    return total;
}

#endif
