/* The table of keys, and what needs nothing but it: setting one, printing, the sample. */
#include "base/text.h"
#include "node/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(field) offsetof(struct dn_config, field), sizeof(((struct dn_config *)0)->field)
#define MEMBER(field) offsetof(struct dn_config_member, field), sizeof(((struct dn_config_member *)0)->field)

#define BOOL(path, field, standard, help)                                                                    \
    {                                                                                                        \
        path, DN_CONFIG_BOOL, FIELD(field), 0, 0, standard, "", help, NULL                                   \
    }
#define UINT(path, field, min, max, standard, unit, help)                                                    \
    {                                                                                                        \
        path, DN_CONFIG_UINT, FIELD(field), min, max, standard, unit, help, NULL                             \
    }
#define FLOAT(path, field, min, max, standard, help)                                                         \
    {                                                                                                        \
        path, DN_CONFIG_FLOAT, FIELD(field), min, max, standard, "", help, NULL                              \
    }
#define BYTES(path, field, min, max, standard, help)                                                         \
    {                                                                                                        \
        path, DN_CONFIG_BYTES, FIELD(field), min, max, standard, "bytes", help, NULL                         \
    }
#define TEXT(path, field, min, standard, help, example)                                                      \
    {                                                                                                        \
        path, DN_CONFIG_TEXT, FIELD(field), min, 0, standard, "", help, example                              \
    }
#define ADDRESS(path, field, standard, help)                                                                 \
    {                                                                                                        \
        path, DN_CONFIG_ADDRESS, FIELD(field), 0, 0, standard, "", help, NULL                                \
    }

#define KIB 1024.0
#define MIB (1024.0 * KIB)
#define GIB (1024.0 * MIB)
#define DAY_S 86400.0

static const struct dn_config_key KEYS[] = {
    {"node.id", DN_CONFIG_UINT, FIELD(node.id), 1, 1e18, NULL, "",
     "Number of this node. One of cluster.members: it forms the cluster together with the others. None of "
     "them: it joins a cluster that is there (node.address; `dunlin member add`).",
     "1"},
    TEXT("node.name", node.name, 0, "",
         "Name in answers and logs. Empty: the name of its entry in cluster.members, else node-ID.", NULL),
    ADDRESS("node.address", node.address, "",
            "host:port where other nodes reach this one's peer port. Empty: its entry in cluster.members; "
            "must be given when there is none."),
    TEXT("node.data_dir", node.data_dir, 1, NULL,
         "Folder of this node's data, made (mode 0700) when missing. It belongs to one node of one cluster "
         "for good.",
         "/var/lib/dunlin"),
    UINT("node.drain_ms", node.drain_ms, 0, 600000, "5000", "ms",
         "On SIGTERM, calls that run get this long to end."),

    TEXT("cluster.id", cluster.id, 1, NULL,
         "Name of the cluster, 1 to 64 printable characters without spaces: the same on every node.",
         "dunlin-demo"),
    UINT("cluster.shards", cluster.shards, 1, 64, "4", "shards",
         "Session shards, fixed when the cluster is made: the same on every node, for good."),
    {"cluster.members[].id", DN_CONFIG_UINT, MEMBER(id), 1, 1e18, NULL, "",
     "The first members: the same list on each of them; they form the cluster when all are there. A node "
     "that joins later lists the nodes it asks. Who is a member now: `dunlin member list`. Without it, the "
     "node is a cluster of one (peers on 127.0.0.1:7071).\n"
     "id: unique number.",
     "1"},
    {"cluster.members[].name", DN_CONFIG_TEXT, MEMBER(name), 1, 0, NULL, "", "name: unique, for people.",
     "node1"},
    {"cluster.members[].address", DN_CONFIG_ADDRESS, MEMBER(address), 0, 0, NULL, "",
     "address: host:port where the others reach its peer port.", "127.0.0.1:7071"},

    ADDRESS("peers.bind", peers.bind, "",
            "Address to listen on for other nodes. Empty: node.address, else this node's entry in "
            "cluster.members."),
    TEXT("peers.key_file", peers.key_file, 0, "",
         "File with the cluster's key, readable by its owner only (make one with `dunlin key create FILE`): "
         "the same "
         "on every node. Links between nodes are encrypted; the key proves who may be one. Empty: no key.",
         NULL),
    TEXT("peers.previous_key_file", peers.previous_key_file, 0, "",
         "The key before, accepted too while keys are changed: give every node the new key as this one, "
         "restart; "
         "then swap the two, restart; then leave this empty.",
         NULL),
    BOOL("peers.allow_without_key", peers.allow_without_key, "false",
         "Must be true for peer addresses beyond loopback without a key: whoever reaches the peer port is "
         "believed."),

    ADDRESS("api.address", api.address, "127.0.0.1:7070",
            "Address of the gRPC API. Port 0 picks one (see the log)."),
    BOOL("api.allow_plaintext", api.allow_plaintext, "false",
         "Must be true for an api.address beyond loopback: there is no encryption and no login yet."),
    UINT("api.threads", api.threads, 1, 32, "1", "threads",
         "API threads, each with its own loop and socket."),
    BYTES("api.message_bytes", api.message_bytes, KIB, 64 * MIB, "4MiB", "Largest request message."),
    UINT("api.connections", api.connections, 1, 100000, "1024", "connections",
         "Most connections of a thread."),
    UINT("api.streams", api.streams, 1, 10000, "256", "calls", "Most concurrent calls of a connection."),
    BYTES("api.arena_bytes", api.arena_bytes, MIB, GIB, "32MiB", "Most memory of one request."),
    UINT("api.default_deadline_ms", api.default_deadline_ms, 1, 600000, "5000", "ms",
         "Deadline of a call that brings none."),
    UINT("api.max_deadline_ms", api.max_deadline_ms, 1, 3600000, "60000", "ms",
         "Longer deadlines are cut to this."),
    UINT("api.pending_calls", api.pending_calls, 1, 1000000, "10000", "calls",
         "Most calls of a thread that wait for a commit; more are refused."),
    BYTES("api.pending_bytes", api.pending_bytes, MIB, 64 * GIB, "256MiB",
          "Most bytes of requests and answers a thread holds."),
    UINT("api.idle_timeout_ms", api.idle_timeout_ms, 100, 86400000, "300000", "ms",
         "A connection without calls is closed after this."),

    ADDRESS(
        "admin.address", admin.address, "127.0.0.1:7072",
        "Address of /metrics, /livez and /readyz (HTTP/1.1, no login: keep it private). Port 0 picks one."),
    UINT("admin.connections", admin.connections, 1, 1000, "32", "connections", "Most connections."),
    UINT("admin.timeout_s", admin.timeout_s, 1, 600, "10", "s", "An idle connection is closed after this."),

    TEXT("log.level", log.level, 1, "info", "debug, info, warn or error.", NULL),

    UINT("raft.election_timeout_ms", raft.election_timeout_ms, 50, 60000, "300", "ms",
         "A follower that hears nothing for this long (up to twice) asks for votes."),
    UINT("raft.heartbeat_ms", raft.heartbeat_ms, 5, 20000, "50", "ms",
         "An idle leader sends this often; at most a third of the election timeout."),
    UINT("raft.tick_ms", raft.tick_ms, 10, 10000, "200", "ms",
         "A busy leader puts a tick into its log this often (an idle one every 50th time, to let time go "
         "on), and asks\n"
         "its followers twice as often whether they are still with it: the age of reads lives from both."),
    UINT("raft.balance_ms", raft.balance_ms, 0, 3600000, "5000", "ms",
         "Groups' leaders are spread over the nodes, one move at most this often. 0: never."),
    BYTES("raft.snapshot_log_bytes", raft.snapshot_log_bytes, 64 * KIB, 1024 * GIB, "64MiB",
          "A group is snapshotted after this much log."),
    BYTES("raft.min_free_bytes", raft.min_free_bytes, MIB, 1024 * GIB, "64MiB",
          "Writes are refused when the disk has less free than this; reads go on."),
    BYTES("raft.segment_bytes", raft.segment_bytes, 64 * KIB, GIB, "16MiB",
          "Size of a file of the journal, allocated ahead; a multiple of 4096."),
    TEXT("raft.journal_io", raft.journal_io, 1, "auto",
         "How the journal is written: io_uring, pool (threads), or auto (io_uring where the system allows "
         "it).",
         NULL),
    BYTES("raft.entry_max_bytes", raft.entry_max_bytes, 4 * KIB, 4 * MIB, "256KiB",
          "Most bytes of records packed into one log entry."),
    UINT("raft.inflight_entries", raft.inflight_entries, 1, 256, "8", "entries",
         "Entries of a group proposed and not yet applied."),

    UINT("session.gap_s", session.gap_s, 1, DAY_S, "1800", "s", "A longer pause starts a new session."),
    UINT("session.lateness_s", session.lateness_s, 0, DAY_S, "300", "s",
         "Events may come this much out of order; later ones are not applied."),
    UINT("session.ahead_s", session.ahead_s, 1, 7 * DAY_S, "86400", "s",
         "Events further in the future are refused."),
    UINT("session.idle_s", session.idle_s, 60, 3650 * DAY_S, "2592000", "s",
         "A user of whom nothing comes for this long is forgotten."),
    UINT("session.events_per_user", session.events_per_user, 2, 1000, "50", "events",
         "Newest events kept of a user."),
    UINT("session.ids_per_user", session.ids_per_user, 1, 10000, "200", "ids",
         "Event ids remembered of a user within the allowed lateness."),
    UINT("session.users_max", session.users_max, 1, 1e9, "5000000", "users",
         "Most users of a shard; the longest idle one makes room."),
    UINT("session.items_max", session.items_max, 1, 1e9, "2000000", "items",
         "Most item ids known to a shard."),
    UINT("session.trend_half_life_s", session.trend_half_life_s, 1, 365 * DAY_S, "21600", "s",
         "Trending counts halve in this time."),

    TEXT("index.factory", index.factory, 1, "auto",
         "FAISS index_factory string (Flat; IVF1024,Flat; HNSW32). auto: exact below 8,000 items, IVF above.",
         NULL),
    UINT("index.rebuild_changes", index.rebuild_changes, 0, 1e9, "0", "changes",
         "The index is built anew after this many changes. 0: 5 %, at least 1000."),
    FLOAT("index.depth", index.depth, 0, 100000, "0",
          "Share of lists searched (IVF, 0..1) or efSearch (HNSW). 0: chosen by the index."),
    UINT("index.items_max", index.items_max, 1, 1e8, "2000000", "items",
         "Most items of the catalogue. The same on every node; fixed when the cluster is created."),

    FLOAT("recommend.type_weights.view", recommend.type_weight[DN_EVENT_VIEW], -100, 100, "1",
          "What an event of each type weighs; below 0 it pushes away from its item."),
    FLOAT("recommend.type_weights.click", recommend.type_weight[DN_EVENT_CLICK], -100, 100, "1", ""),
    FLOAT("recommend.type_weights.cart", recommend.type_weight[DN_EVENT_CART], -100, 100, "2", ""),
    FLOAT("recommend.type_weights.buy", recommend.type_weight[DN_EVENT_BUY], -100, 100, "2", ""),
    FLOAT("recommend.type_weights.like", recommend.type_weight[DN_EVENT_LIKE], -100, 100, "2", ""),
    FLOAT("recommend.type_weights.dislike", recommend.type_weight[DN_EVENT_DISLIKE], -100, 100, "-1.5", ""),
    FLOAT("recommend.type_weights.play", recommend.type_weight[DN_EVENT_PLAY], -100, 100, "1.5", ""),
    FLOAT("recommend.type_weights.remove", recommend.type_weight[DN_EVENT_REMOVE], -100, 100, "-0.5", ""),
    FLOAT("recommend.recency_decay", recommend.recency_decay, 0, 1, "0.8",
          "The weight of an event is this to the power of its place, counted from the newest."),
    UINT("recommend.time_half_life_s", recommend.time_half_life_s, 0, 365 * DAY_S, "3600", "s",
         "An event's weight halves with each such time before the newest event. 0: it does not."),
    UINT("recommend.events_used", recommend.events_used, 1, 1000, "20", "events",
         "Newest events that make the session's direction."),

    UINT("freshness_alarm_ms", freshness_alarm_ms, 10, 3600000, "2000", "ms",
         "Answers from data older than this say so, and the node is not ready."),

    TEXT(
        "secrets.hash_key_file", secrets.hash_key_file, 0, "",
        "File with 32 hex characters: the key under which user ids are hashed, the same on every node (mode "
        "0600).\n"
        "Empty: derived from cluster.id, which is no secret: only allowed while every member is on loopback.",
        NULL),
};
enum { KEY_COUNT = sizeof(KEYS) / sizeof(KEYS[0]) };
_Static_assert(KEY_COUNT <= DN_CONFIG_KEYS_MAX, "raise DN_CONFIG_KEYS_MAX");

const struct dn_config_key *dn_config_keys(size_t *ret_count)
{
    *ret_count = KEY_COUNT;
    return KEYS;
}

const struct dn_config_key *dn_config_find(const char *path)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(KEYS[i].path, path) == 0)
            return &KEYS[i];
    return NULL;
}

/* ---- setting one key ---------------------------------------------------------------------------------- */

static enum dn_code out_of_range(const struct dn_config_key *key, const char *text, struct dn_error *err)
{
    return dn_fail(err, DN_INVALID, "must be %.15g to %.15g%s%s, not %s", key->min, key->max,
                   key->unit[0] ? " " : "", key->unit, text);
}

static enum dn_code set_uint(const struct dn_config_key *key, void *field, const char *text,
                             struct dn_error *err)
{
    int64_t value;

    if (!dn_parse_i64(text, INT64_MIN, INT64_MAX, &value))
        return dn_fail(err, DN_INVALID, "must be a whole number, not '%.60s'", text);
    if ((double)value < key->min || (double)value > key->max)
        return out_of_range(key, text, err);
    *(uint64_t *)field = (uint64_t)value;
    return DN_OK;
}

static enum dn_code set_bytes(const struct dn_config_key *key, void *field, const char *text,
                              struct dn_error *err)
{
    uint64_t value;

    if (!dn_parse_bytes(text, &value))
        return dn_fail(err, DN_INVALID, "must be a size such as 4096, 64KiB, 64MiB or 1GiB, not '%.60s'",
                       text);
    if ((double)value < key->min || (double)value > key->max)
        return out_of_range(key, text, err);
    *(uint64_t *)field = value;
    return DN_OK;
}

static enum dn_code set_float(const struct dn_config_key *key, void *field, const char *text,
                              struct dn_error *err)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !isfinite(value))
        return dn_fail(err, DN_INVALID, "must be a number, not '%.60s'", text);
    if (value < key->min || value > key->max)
        return out_of_range(key, text, err);
    *(double *)field = value;
    return DN_OK;
}

static enum dn_code set_text(const struct dn_config_key *key, char *field, const char *text,
                             struct dn_error *err)
{
    size_t length = strlen(text);

    if ((double)length < key->min)
        return dn_fail(err, DN_INVALID, "must not be empty");
    if (length >= key->size)
        return dn_fail(err, DN_INVALID, "must be at most %zu bytes, not %zu", key->size - 1, length);
    if (!dn_utf8_valid(text, length))
        return dn_fail(err, DN_INVALID, "must be UTF-8 text");
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return dn_fail(err, DN_INVALID, "must not hold control characters");
    memcpy(field, text, length + 1);
    return DN_OK;
}

static enum dn_code set_address(const struct dn_config_key *key, char *field, const char *text,
                                struct dn_error *err)
{
    char host[256];
    uint16_t port;

    if (text[0] && !dn_parse_address(text, host, &port))
        return dn_fail(err, DN_INVALID,
                       "must be an address such as 127.0.0.1:7070 or [::1]:7070, not '%.60s'", text);
    if (!text[0] && !(key->standard && !key->standard[0]))
        return dn_fail(err, DN_INVALID, "must be an address such as 127.0.0.1:7070, not empty");
    return set_text(key, field, text, err);
}

enum dn_code dn_config_set(const struct dn_config_key *key, void *into, const char *text,
                           struct dn_error *err)
{
    char *field = (char *)into + key->offset;

    switch (key->kind) {
    case DN_CONFIG_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return dn_fail(err, DN_INVALID, "must be true or false, not '%.60s'", text);
        *(bool *)field = text[0] == 't';
        return DN_OK;
    case DN_CONFIG_UINT:
        return set_uint(key, field, text, err);
    case DN_CONFIG_BYTES:
        return set_bytes(key, field, text, err);
    case DN_CONFIG_FLOAT:
        return set_float(key, field, text, err);
    case DN_CONFIG_TEXT:
        return set_text(key, field, text, err);
    case DN_CONFIG_ADDRESS:
        return set_address(key, field, text, err);
    }
    DN_ASSERT(false);
    return DN_INTERNAL;
}

/* ---- printing ----------------------------------------------------------------------------------------- */

static void put(struct dn_buffer *out, const char *text)
{
    dn_buffer_append(out, text, strlen(text));
}

static void put_indent(struct dn_buffer *out, size_t depth)
{
    while (depth-- > 0)
        put(out, "  ");
}

static bool needs_quotes(const char *text)
{
    /* Plain YAML scalars we surely read back as they are; everything else goes in quotes. */
    return text[0] == 0 ||
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                        "_./:-,") != strlen(text) ||
           strchr(":-,", text[0]) || text[strlen(text) - 1] == ':';
}

static void put_text(struct dn_buffer *out, const char *text)
{
    if (!needs_quotes(text)) {
        put(out, text);
        return;
    }
    put(out, "\"");
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            put(out, "\\");
        dn_buffer_append(out, text, 1);
    }
    put(out, "\"");
}

static void put_bytes(struct dn_buffer *out, uint64_t value)
{
    static const char *const UNITS[] = {"", "KiB", "MiB", "GiB"};
    char text[40];
    size_t unit = 0;

    while (unit < 3 && value > 0 && value % 1024 == 0) {
        value /= 1024;
        unit++;
    }
    snprintf(text, sizeof(text), "%llu%s", (unsigned long long)value, UNITS[unit]);
    put(out, text);
}

static void put_value(struct dn_buffer *out, const struct dn_config_key *key, const void *from)
{
    const char *field = (const char *)from + key->offset;
    char text[40];

    switch (key->kind) {
    case DN_CONFIG_BOOL:
        put(out, *(const bool *)field ? "true" : "false");
        return;
    case DN_CONFIG_UINT:
        snprintf(text, sizeof(text), "%llu", (unsigned long long)*(const uint64_t *)field);
        put(out, text);
        return;
    case DN_CONFIG_FLOAT:
        snprintf(text, sizeof(text), "%.15g", *(const double *)field);
        put(out, text);
        return;
    case DN_CONFIG_BYTES:
        put_bytes(out, *(const uint64_t *)field);
        return;
    case DN_CONFIG_TEXT:
    case DN_CONFIG_ADDRESS:
        put_text(out, field);
        return;
    }
}

/* Puts the section lines that `path` needs after `before`, and returns the depth of its last part. */
static size_t put_sections(struct dn_buffer *out, const char *before, const char *path, const char **ret_name)
{
    size_t depth = 0, start = 0;

    for (size_t i = 0; path[i]; i++) {
        if (path[i] != '.')
            continue;
        if (strncmp(before, path, i + 1) != 0) {
            size_t length = i - start;

            if (depth == 0)
                put(out, "\n");
            if (length > 2 && path[i - 1] == ']')
                length -= 2;
            put_indent(out, depth);
            dn_buffer_append(out, path + start, length);
            put(out, ":\n");
        }
        depth++;
        start = i + 1;
    }
    *ret_name = path + start;
    return depth;
}

static bool is_list(const struct dn_config_key *key)
{
    return strstr(key->path, "[].") != NULL;
}

void dn_config_print(const struct dn_config *config, struct dn_buffer *out)
{
    const char *before = "";
    const char *name;

    for (size_t k = 0; k < KEY_COUNT; k++) {
        size_t depth = put_sections(out, before, KEYS[k].path, &name);

        before = KEYS[k].path;
        if (!is_list(&KEYS[k])) {
            put_indent(out, depth);
            put(out, name);
            put(out, ": ");
            put_value(out, &KEYS[k], config);
            put(out, "\n");
            continue;
        }
        if (strcmp(name, "id") != 0) /* the whole list went out with its first key */
            continue;
        for (size_t m = 0; m < config->cluster.member_count; m++) {
            put(out, "    - {id: ");
            put_value(out, &KEYS[k], &config->cluster.members[m]);
            put(out, ", name: ");
            put_value(out, &KEYS[k + 1], &config->cluster.members[m]);
            put(out, ", address: ");
            put_text(out, config->cluster.members[m].address);
            put(out, "}\n");
        }
    }
}

static void put_help(struct dn_buffer *out, const struct dn_config_key *key, size_t depth)
{
    const char *help = key->help;
    char facts[128] = "";

    while (*help) {
        size_t length = strcspn(help, "\n");

        put_indent(out, depth);
        put(out, "# ");
        dn_buffer_append(out, help, length);
        put(out, "\n");
        help += length + (help[length] == '\n');
    }
    if (key->kind == DN_CONFIG_BYTES) {
        struct dn_buffer text;

        dn_buffer_init(&text, sizeof(facts));
        put_bytes(&text, (uint64_t)key->min);
        put(&text, " to ");
        put_bytes(&text, (uint64_t)key->max);
        dn_buffer_u8(&text, 0);
        DN_ASSERT(!text.failed);
        snprintf(facts, sizeof(facts), "%s. ", (char *)text.bytes);
        dn_buffer_free(&text);
    } else if (key->kind == DN_CONFIG_UINT || key->kind == DN_CONFIG_FLOAT)
        snprintf(facts, sizeof(facts), "%.15g to %.15g%s%s. ", key->min, key->max, key->unit[0] ? " " : "",
                 key->unit);
    put_indent(out, depth);
    put(out, "# ");
    put(out, facts);
    if (key->standard) {
        put(out, "Default: ");
        put(out, key->standard[0] ? key->standard : "empty");
        put(out, ".\n");
    } else
        put(out, "Must be given.\n");
}

void dn_config_print_sample(struct dn_buffer *out)
{
    const char *before = "";
    const char *name;

    put(out, "# dunlind's configuration: every key, with its default.\n"
             "# Made by `dunlind --sample-config`; node.id, node.data_dir and cluster.id must be given, all "
             "else may be "
             "left out.\n"
             "# Check a file with `dunlind --config FILE --check-config`, see what is in force with "
             "--print-config.\n");
    for (size_t k = 0; k < KEY_COUNT; k++) {
        const struct dn_config_key *key = &KEYS[k];
        size_t depth = put_sections(out, before, key->path, &name);

        if (depth == 0)
            put(out, "\n");
        put_help(out, key, is_list(key) && strcmp(name, "id") != 0 ? depth + 1 : depth);
        if (is_list(key)) {
            put_indent(out, depth);
            put(out, strcmp(name, "id") == 0 ? "- " : "  ");
        } else
            put_indent(out, depth);
        put(out, name);
        put(out, ": ");
        const char *value = key->standard ? key->standard : key->example;
        if (key->kind == DN_CONFIG_TEXT || key->kind == DN_CONFIG_ADDRESS)
            put_text(out, value);
        else
            put(out, value);
        put(out, "\n");
        before = key->path;
    }
}
