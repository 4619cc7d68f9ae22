/* A schema under test and what it said last. */
#ifndef DN_TESTS_UNIT_INGEST_SCHEMA_HELP_H
#define DN_TESTS_UNIT_INGEST_SCHEMA_HELP_H

#include "tests/unit/base/cmocka_all.h"

#include "base/text.h"
#include "ingest/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tried {
    struct dn_source_config config;
    struct dn_schema *schema;
    struct dn_message message; /* but for its bytes */
    struct dn_decoded got;
    enum dn_dead_reason reason;
    struct dn_error err;
    uint8_t *bytes; /* of the last message: an exact copy on the heap */
};

static inline void tried_reset(struct tried *tried)
{
    memset(tried, 0, sizeof *tried);
    snprintf(tried->config.name, sizeof tried->config.name, "clicks");
    tried->config.message_bytes = 1 << 20;
    tried->message.time_ms = -1;
}

static inline void tried_free(struct tried *tried)
{
    dn_schema_destroy(tried->schema);
    tried->schema = NULL;
    free(tried->bytes);
    tried->bytes = NULL;
}

static inline enum dn_code tried_configure(struct tried *tried)
{
    dn_schema_destroy(tried->schema);
    tried->schema = NULL;
    return dn_schema_create(&tried->config, &tried->schema, &tried->err);
}

static inline enum dn_decode_result tried_bytes(struct tried *tried, const void *bytes, size_t length)
{
    if (tried->schema == NULL && tried_configure(tried) != DN_OK) {
        fail_msg("configuration: %s", tried->err.message);
    }
    free(tried->bytes);
    tried->bytes = malloc(length > 0 ? length : 1);
    assert_non_null(tried->bytes);
    memcpy(tried->bytes, bytes, length);
    tried->message.bytes = tried->bytes;
    tried->message.length = length;
    tried->reason = 0;
    tried->err.message[0] = '\0';
    memset(&tried->got, 0xA5, sizeof tried->got);
    return dn_schema_decode(tried->schema, &tried->message, &tried->got, &tried->reason, &tried->err);
}

static inline enum dn_decode_result tried_text(struct tried *tried, const char *text)
{
    return tried_bytes(tried, text, strlen(text));
}

static inline void good(struct tried *tried, const char *text)
{
    if (tried_text(tried, text) != DN_DECODED) {
        fail_msg("%s: %s", text, tried->err.message);
    }
}

/* Dead for that reason, and said so with those words; nothing else was touched. */
static inline void dead(struct tried *tried, const char *text, enum dn_dead_reason reason, const char *words)
{
    struct dn_decoded untouched;
    memset(&untouched, 0xA5, sizeof untouched);
    if (tried_text(tried, text) != DN_DECODE_DEAD) {
        fail_msg("%s: not dead", text);
    }
    if (tried->reason != reason || strstr(tried->err.message, words) == NULL) {
        fail_msg("%s: reason %d, '%s'", text, (int)tried->reason, tried->err.message);
    }
    assert_memory_equal(&tried->got, &untouched, sizeof untouched);
}

static inline void skipped(struct tried *tried, const char *text)
{
    assert_int_equal(tried_text(tried, text), DN_DECODE_SKIPPED);
}

static inline void refused(struct tried *tried, const char *words)
{
    if (tried_configure(tried) != DN_INVALID) {
        fail_msg("a configuration was not refused for: %s", words);
    }
    if (strstr(tried->err.message, words) == NULL || strstr(tried->err.message, "source 'clicks'") == NULL) {
        fail_msg("refused with '%s', not '%s'", tried->err.message, words);
    }
}

static inline void is_user(const struct tried *tried, const char *user)
{
    assert_int_equal(tried->got.user_length, strlen(user));
    assert_memory_equal(tried->got.user, user, strlen(user));
}

static inline void is_item(const struct tried *tried, const char *item)
{
    assert_int_equal(tried->got.item_length, strlen(item));
    assert_memory_equal(tried->got.item, item, strlen(item));
}

#define SET(to, text) ((void)snprintf((to), sizeof(to), "%s", (text)))

#endif
