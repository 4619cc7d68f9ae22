/* Histories as EDN: a map a line. */
#include "chaos/edn.h"

#include "base/buffer.h"
#include "dunlin/v1/dunlin.pb-c.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define BIT(field) (1u << EDN_##field)
#define FRESHNESS (BIT(AGE) | BIT(SHARD) | BIT(APPLIED) | BIT(VERSION))

static_assert(DUNLIN__V1__EVENT_OUTCOME__EVENT_OUTCOME_UNKNOWN == CHAOS_OUTCOMES - 1,
              "all outcomes have names");

unsigned chaos_edn_allowed(enum chaos_f f, enum chaos_type type)
{
    const unsigned answer = type == CHAOS_OK ? BIT(FOUND) | FRESHNESS : 0;
    switch (f) {
    case CHAOS_PUBLISH:
    case CHAOS_INGEST:
        return BIT(USER) | BIT(EVENTS) | (f == CHAOS_INGEST ? BIT(NAME) : 0);
    case CHAOS_READ:
        return BIT(USER) | BIT(LEVEL) | BIT(TOKEN) | answer | (type == CHAOS_OK ? BIT(EVENTS) : 0);
    case CHAOS_ERASE:
        return BIT(USER);
    case CHAOS_UPSERT:
        return BIT(ITEM) | BIT(VALUE);
    case CHAOS_DELETE:
        return BIT(ITEM);
    case CHAOS_GET:
        return BIT(ITEM) | BIT(LEVEL) | BIT(TOKEN) | answer | (type == CHAOS_OK ? BIT(VALUE) : 0);
    case CHAOS_SIMILAR:
        return BIT(ITEM) | BIT(LEVEL) | BIT(TOKEN) | answer | (type == CHAOS_OK ? BIT(NEAR) : 0);
    case CHAOS_STATUS:
        return type == CHAOS_OK ? BIT(GROUPS) : 0;
    case CHAOS_MEMBER:
    case CHAOS_FAULT:
        return BIT(NAME) | BIT(WHAT);
    case CHAOS_OFFSETS:
        return BIT(NAME) | (type == CHAOS_OK ? BIT(ROWS) : 0);
    case CHAOS_DEAD_LETTERS:
        return type == CHAOS_OK ? BIT(ROWS) : 0;
    default:
        return 0;
    }
}

unsigned chaos_edn_required(enum chaos_f f, enum chaos_type type)
{
    switch (f) {
    case CHAOS_PUBLISH:
        return BIT(USER) | (type == CHAOS_INVOKE || type == CHAOS_OK ? BIT(EVENTS) : 0);
    case CHAOS_INGEST:
        return BIT(USER) | BIT(EVENTS);
    case CHAOS_READ:
        return BIT(USER) | BIT(LEVEL) | (type == CHAOS_OK ? BIT(FOUND) : 0);
    case CHAOS_ERASE:
        return BIT(USER);
    case CHAOS_UPSERT:
        return BIT(ITEM) | BIT(VALUE);
    case CHAOS_DELETE:
        return BIT(ITEM);
    case CHAOS_GET:
        return BIT(ITEM) | BIT(LEVEL) | (type == CHAOS_OK ? BIT(FOUND) : 0);
    case CHAOS_SIMILAR:
        return BIT(ITEM) | BIT(LEVEL);
    case CHAOS_MEMBER:
    case CHAOS_OFFSETS:
        return BIT(NAME);
    case CHAOS_FAULT:
        return BIT(NAME) | BIT(WHAT);
    default:
        return 0;
    }
}

const char *chaos_edn_field_name(enum chaos_edn_field field)
{
    static const char *const names[EDN_FIELD_COUNT] = {
#define X(symbol, name) name,
        CHAOS_EDN_FIELDS(X)
#undef X
    };
    return names[field];
}

const char *chaos_outcome_name(int outcome)
{
    static const char *const names[CHAOS_OUTCOMES] = {
        "accepted", "duplicate", "late", "window-full", "no-room", "erased", "ahead", "invalid", "unknown"};
    return outcome >= 0 && outcome < CHAOS_OUTCOMES ? names[outcome] : "?";
}

/* ---- writing -------------------------------------------------------------------------------------- */

static void put_text(struct dn_buffer *out, const char *text)
{
    dn_buffer_append(out, text, strlen(text));
}

static void put_u64(struct dn_buffer *out, uint64_t value)
{
    char digits[24];
    size_t at = sizeof digits;
    if (value > INT64_MAX) {
        digits[--at] = 'N';
    }
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    dn_buffer_append(out, digits + at, sizeof digits - at);
}

static void put_i64(struct dn_buffer *out, int64_t value)
{
    if (value >= 0) {
        put_u64(out, (uint64_t)value);
    } else if (value == INT64_MIN) {
        put_text(out, "-9223372036854775808");
    } else {
        dn_buffer_u8(out, '-');
        put_u64(out, (uint64_t)-value);
    }
}

static void put_string(struct dn_buffer *out, const char *text)
{
    dn_buffer_u8(out, '"');
    for (; *text != '\0'; text++) {
        char escaped[8];
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            dn_buffer_u8(out, '\\');
            dn_buffer_u8(out, c);
        } else if (c < 0x20 || c == 0x7f) {
            (void)snprintf(escaped, sizeof escaped, "\\u%04x", c);
            put_text(out, escaped);
        } else {
            dn_buffer_u8(out, c);
        }
    }
    dn_buffer_u8(out, '"');
}

static void put_ids(struct dn_buffer *out, const uint64_t *ids, size_t count)
{
    dn_buffer_u8(out, '[');
    for (size_t i = 0; i < count; i++) {
        put_text(out, i > 0 ? " " : "");
        put_u64(out, ids[i]);
    }
    dn_buffer_u8(out, ']');
}

static void put_events(struct dn_buffer *out, const struct chaos_op *op)
{
    dn_buffer_u8(out, '[');
    for (size_t i = 0; i < op->events_count; i++) {
        const struct chaos_event *event = &op->events[i];
        put_text(out, i > 0 ? " [" : "[");
        put_u64(out, event->id);
        dn_buffer_u8(out, ' ');
        put_i64(out, event->time_ms);
        if (op->f == CHAOS_INGEST && event->offset >= 0) {
            dn_buffer_u8(out, ' ');
            put_i64(out, event->offset);
        } else if (op->f == CHAOS_PUBLISH && (op->type == CHAOS_OK || op->type == CHAOS_INFO) &&
                   event->outcome >= 0 && event->outcome < CHAOS_OUTCOMES) {
            put_text(out, " :");
            put_text(out, chaos_outcome_name(event->outcome));
        }
        dn_buffer_u8(out, ']');
    }
    dn_buffer_u8(out, ']');
}

static void put_groups(struct dn_buffer *out, const struct chaos_op *op)
{
    dn_buffer_u8(out, '[');
    for (size_t i = 0; i < op->groups_count; i++) {
        const struct chaos_group *group = &op->groups[i];
        put_text(out, i > 0 ? " {:group " : "{:group ");
        put_u64(out, group->group);
        put_text(out, group->is_leader ? ", :leads true" : ", :leads false");
        put_text(out, ", :leader ");
        put_u64(out, group->leader);
        put_text(out, ", :term ");
        put_u64(out, group->term);
        put_text(out, ", :commit ");
        put_u64(out, group->commit);
        put_text(out, ", :applied ");
        put_u64(out, group->applied);
        put_text(out, ", :hash-index ");
        put_u64(out, group->hash_index);
        put_text(out, ", :hash ");
        put_u64(out, group->hash);
        dn_buffer_u8(out, '}');
    }
    dn_buffer_u8(out, ']');
}

static void put_rows(struct dn_buffer *out, const struct chaos_op *op)
{
    dn_buffer_u8(out, '[');
    for (size_t i = 0; i < op->rows_count; i++) {
        put_text(out, i > 0 ? " " : "");
        put_ids(out, op->rows[i].of, CHAOS_ROW_NUMBERS);
    }
    dn_buffer_u8(out, ']');
}

/* Whether the field says anything. */
static bool is_set(const struct chaos_op *op, enum chaos_edn_field field)
{
    switch (field) {
    case EDN_EVENTS:
        return op->events_count > 0;
    case EDN_TOKEN:
        return op->token_count > 0;
    case EDN_AGE:
        return op->age_known;
    case EDN_SHARD:
        return op->shard != 0;
    case EDN_APPLIED:
        return op->applied != 0;
    case EDN_VERSION:
        return op->version != 0;
    case EDN_VALUE:
        return op->f == CHAOS_UPSERT || op->found;
    case EDN_NEAR:
        return op->near_count > 0;
    case EDN_GROUPS:
        return op->groups_count > 0;
    case EDN_ROWS:
        return op->rows_count > 0;
    case EDN_NAME:
        return op->name != NULL;
    case EDN_WHAT:
        return op->what != NULL;
    default:
        return true;
    }
}

static void put_field(struct dn_buffer *out, const struct chaos_op *op, enum chaos_edn_field field)
{
    switch (field) {
    case EDN_USER:
    case EDN_ITEM:
        put_u64(out, op->key);
        break;
    case EDN_LEVEL:
        dn_buffer_u8(out, ':');
        put_text(out, chaos_level_name(op->level));
        break;
    case EDN_EVENTS:
        put_events(out, op);
        break;
    case EDN_TOKEN:
        put_ids(out, op->token, op->token_count);
        break;
    case EDN_FOUND:
        put_text(out, op->found ? "true" : "false");
        break;
    case EDN_AGE:
        put_u64(out, op->age_us);
        break;
    case EDN_SHARD:
        put_u64(out, op->shard);
        break;
    case EDN_APPLIED:
        put_u64(out, op->applied);
        break;
    case EDN_VERSION:
        put_u64(out, op->version);
        break;
    case EDN_VALUE:
        put_u64(out, op->value);
        break;
    case EDN_NEAR:
        put_ids(out, op->near, op->near_count);
        break;
    case EDN_GROUPS:
        put_groups(out, op);
        break;
    case EDN_ROWS:
        put_rows(out, op);
        break;
    case EDN_NAME:
        put_string(out, op->name != NULL ? op->name : "");
        break;
    default:
        put_string(out, op->what != NULL ? op->what : "");
        break;
    }
}

static void put_value(struct dn_buffer *out, const struct chaos_op *op)
{
    unsigned allowed = chaos_edn_allowed(op->f, op->type), required = chaos_edn_required(op->f, op->type);
    const char *separator = "{:";
    for (unsigned field = 0; field < EDN_FIELD_COUNT; field++) {
        if ((allowed & 1u << field) != 0 &&
            ((required & 1u << field) != 0 || is_set(op, (enum chaos_edn_field)field))) {
            put_text(out, separator);
            put_text(out, chaos_edn_field_name((enum chaos_edn_field)field));
            dn_buffer_u8(out, ' ');
            put_field(out, op, (enum chaos_edn_field)field);
            separator = ", :";
        }
    }
    put_text(out, separator[0] == '{' ? "{}" : "}");
}

static void put_op(struct dn_buffer *out, const struct chaos_op *op)
{
    put_text(out, "{:index ");
    put_u64(out, op->index);
    put_text(out, ", :time ");
    put_i64(out, op->time_ns);
    put_text(out, ", :type :");
    put_text(out, chaos_type_name(op->type));
    put_text(out, ", :process ");
    if (op->process == CHAOS_NEMESIS) {
        put_text(out, ":nemesis");
    } else {
        put_i64(out, op->process);
    }
    put_text(out, ", :f :");
    put_text(out, chaos_f_name(op->f));
    if (op->node != 0) {
        put_text(out, ", :node \"n");
        put_u64(out, op->node);
        dn_buffer_u8(out, '"');
    }
    if (op->error != NULL) {
        put_text(out, ", :error ");
        put_string(out, op->error);
    }
    put_text(out, ", :value ");
    put_value(out, op);
    put_text(out, "}\n");
}

enum dn_code chaos_history_write(const struct chaos_history *history, FILE *out, struct dn_error *err)
{
    struct dn_buffer line;
    enum dn_code code = DN_OK;
    size_t count = chaos_history_count(history);
    dn_buffer_init(&line, CHAOS_EDN_LINE_MAX);
    for (size_t i = 0; i < count && code == DN_OK; i++) {
        dn_buffer_clear(&line);
        put_op(&line, chaos_history_at(history, i));
        if (line.failed) {
            code = dn_fail(err, DN_NO_MEMORY, "operation %zu: no memory for its line", i);
        } else if (fwrite(line.bytes, 1, line.length, out) != line.length) {
            code = dn_fail(err, DN_IO, "operation %zu: %s", i, strerror(errno));
        }
    }
    dn_buffer_free(&line);
    if (code == DN_OK && fflush(out) != 0) {
        code = dn_fail(err, DN_IO, "%s", strerror(errno));
    }
    return code == DN_OK ? DN_OK : dn_wrap(err, code, "write history");
}
