/* The table of keys, and setting one. */
#include "base/text.h"
#include "node/config.h"
#include "node/learner.h"
#include "session/near.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(field) offsetof(struct dn_config, field), sizeof(((struct dn_config *)0)->field)
#define MEMBER(field) offsetof(struct dn_config_member, field), sizeof(((struct dn_config_member *)0)->field)

#define SOURCE(field) offsetof(struct dn_source_config, field), sizeof(((struct dn_source_config *)0)->field)

#define VARIANT(field)                                                                                       \
    offsetof(struct dn_config_variant, field), sizeof(((struct dn_config_variant *)0)->field)

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
    UINT("api.resets_per_s", api.resets_per_s, 1, 1000000, "2000", "1/s",
         "Calls that a connection may give up in the long run (four times as many at once); beyond it is "
         "closed."),

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
    UINT("session.near_cells", session.near_cells, 0, DN_NEAR_CELLS_MAX, "120", "items",
         "A shard keeps, of each item, up to so many others that are clicked near it: what recommendations "
         "from sessions live from. 0: nothing more is kept, and what there is stays in memory and fades, "
         "but is not used. New values are taken once all members "
         "are connected and of a build that knows them."),
    UINT("session.near_visitors", session.near_visitors, 1, DN_NEAR_VISITORS_MAX, "64", "users",
         "Newest users of an item whose sessions recommendations look at."),
    UINT("session.near_half_life_s", session.near_half_life_s, 3600, 3650 * DAY_S, "31536000", "s",
         "What is near an item counts half after this time."),

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
    UINT(
        "recommend.interests", recommend.interests, 0, DN_INTERESTS_MAX, "0", "items",
        "Newest items that vectors are asked for by themselves, beside the session's direction: for sessions "
        "of several interests. Each is one more search in the index."),
    UINT(
        "recommend.shown_users", recommend.shown_users, 0, 1e7, "65536", "users",
        "Users whose last answers this node keeps in memory, 257 bytes each, to count the clicks that follow "
        "(dunlin_shown_* in the metrics). 0: none."),
    BOOL("recommend.learning.enabled", recommend.learning.enabled, "true",
         "The node that leads group 0 learns the weights of recommendations from clicks, and the cluster "
         "keeps "
         "them. The same on every node. Weights can be seen, frozen and reset: `dunlin model`."),
    BOOL("recommend.learning.network", recommend.learning.network, "true",
         "A small network learns beside the weights and corrects their scores while that makes the clicks "
         "that "
         "come more likely. false: the next node that learns drops it. The same on every node."),
    UINT("recommend.learning.samples_per_s", recommend.learning.samples_per_s, 1, DN_LEARN_SAMPLES_PER_S_MAX,
         "1000", "clicks", "Most clicks a second that are learned from."),
    UINT("recommend.learning.interval_ms", recommend.learning.interval_ms, 100, 3600000, "5000", "ms",
         "What was learned is given to the cluster this often."),

    UINT("freshness_alarm_ms", freshness_alarm_ms, 10, 3600000, "2000", "ms",
         "Answers from data older than this say so, and the node is not ready."),

    TEXT(
        "secrets.hash_key_file", secrets.hash_key_file, 0, "",
        "File with 32 hex characters: the key under which user ids are hashed, the same on every node (mode "
        "0600).\n"
        "Empty: derived from cluster.id, which is no secret: only allowed while every member is on loopback.",
        NULL),

    {"sources[].name", DN_CONFIG_TEXT, SOURCE(name), 1, 0, NULL, "",
     "Name of the source: letters, digits, - and _. Part of where its offsets are kept: under a new name all "
     "is read and counted again.",
     "clicks"},
    {"sources[].kind", DN_CONFIG_CHOICE, SOURCE(kind), 0, 0, NULL, "kafka file",
     "What it is: a Kafka cluster (or what speaks its protocol), or files.", "kafka"},
    {"sources[].topics", DN_CONFIG_LIST, SOURCE(list), 0, DN_SOURCE_LIST_MAX, "", "topics",
     "kafka: the topics to read. Must be given.", "[web.clicks]"},
    {"sources[].brokers", DN_CONFIG_TEXT, SOURCE(brokers), 0, 0, "", "",
     "kafka: host:port of some of its brokers, separated by commas. Must be given.", "127.0.0.1:9092"},
    {"sources[].keyed", DN_CONFIG_BOOL, SOURCE(keyed), 0, 0, "false", "",
     "kafka: messages are partitioned by the user id as key, with murmur2 (Java's default; in librdkafka "
     "partitioner=murmur2_random).\n"
     "Where a topic's partitions are a multiple of cluster.shards, each shard then reads only its own "
     "users'; "
     "otherwise every shard reads everything.",
     NULL},
    {"sources[].group_id", DN_CONFIG_TEXT, SOURCE(group_id), 0, 0, "", "",
     "kafka: consumer group that offsets are mirrored to, for dashboards only (of a topic that is not keyed, "
     "one leader's). Empty: none.",
     NULL},
    {"sources[].properties", DN_CONFIG_MAP, SOURCE(properties), 0, DN_SOURCE_PROPERTIES_MAX, "", "properties",
     "kafka: settings of librdkafka, but for those that exactly-once rests on, which are "
     "refused.\n"
     "A value has at most 511 bytes. NAME_file: it is the content of a file that only its owner may read "
     "(mode 0600), for passwords.",
     "{security.protocol: PLAINTEXT}"},
    {"sources[].format", DN_CONFIG_CHOICE, SOURCE(format), 0, 0, "json", "json protobuf",
     "Format of a message: a JSON object, or dunlin.v1.Event in protobuf (in a file each behind its length "
     "as a varint).",
     NULL},
    {"sources[].message_bytes", DN_CONFIG_BYTES, SOURCE(message_bytes), KIB, 16 * MIB, "1MiB", "bytes",
     "A larger message is a dead letter.", NULL},
    {"sources[].fields.user", DN_CONFIG_TEXT, SOURCE(fields.user), 1, 0, "user_id", "",
     "json: where the user id stands; dots go into nested objects (context.user.id). @key: the message's "
     "key.",
     NULL},
    {"sources[].fields.item", DN_CONFIG_TEXT, SOURCE(fields.item), 1, 0, "item_id", "",
     "json: where the item id stands.", NULL},
    {"sources[].fields.type", DN_CONFIG_TEXT, SOURCE(fields.type), 1, 0, "type", "",
     "json: where the event's type stands (see types); view when it is missing.", NULL},
    {"sources[].fields.time", DN_CONFIG_TEXT, SOURCE(fields.time), 1, 0, "time_ms", "",
     "json: where the event's time stands; the message's own time when it is missing. @time: always the "
     "message's "
     "own.",
     NULL},
    {"sources[].fields.time_unit", DN_CONFIG_CHOICE, SOURCE(fields.time_unit), 0, 0, "ms",
     "ms s us ns iso8601", "What the time is counted in since 1970; or a text such as 2026-01-31T12:00:00Z.",
     NULL},
    {"sources[].fields.weight", DN_CONFIG_TEXT, SOURCE(fields.weight), 1, 0, "weight", "",
     "json: where the event's weight stands; 1 when it is missing.", NULL},
    {"sources[].fields.constant_type", DN_CONFIG_TEXT, SOURCE(fields.constant_type), 0, 0, "", "",
     "Every event has this type, whatever it says. Empty: its own.", NULL},
    {"sources[].types", DN_CONFIG_MAP, SOURCE(fields.types), 0, DN_SOURCE_TYPES_MAX, "", "names",
     "Other names of types: view, click, cart, buy, like, dislike, play, remove; none: such messages "
     "are "
     "passed over.",
     "{page_view: view, heartbeat: none}"},
    {"sources[].batch.events", DN_CONFIG_UINT, SOURCE(batch_events), 1, 10000, "5000", "events",
     "A batch goes out when it has this many events,", NULL},
    {"sources[].batch.bytes", DN_CONFIG_BYTES, SOURCE(batch_bytes), KIB, 4 * MIB, "256KiB", "bytes",
     "or this many bytes,", NULL},
    {"sources[].batch.ms", DN_CONFIG_UINT, SOURCE(batch_ms), 0, 10000, "5", "ms",
     "or when its first message waited this long. It waits only while an earlier batch of its shard and "
     "partition is on its way.",
     NULL},
    {"sources[].batch.inflight", DN_CONFIG_UINT, SOURCE(inflight_batches), 1, 64, "4", "batches",
     "Batches of a shard, from all sources, that are proposed and not yet applied. The largest of all "
     "sources' counts.",
     NULL},
    {"sources[].dead_letters.to", DN_CONFIG_CHOICE, SOURCE(dead_sink), 0, 0, "file", "file topic none",
     "Where messages go that give no event or came too late, with reason and original bytes. none: they are "
     "counted, and gone.",
     NULL},
    {"sources[].dead_letters.path", DN_CONFIG_TEXT, SOURCE(dead_to), 0, 0, "", "",
     "to: file: the file. Empty: node.data_dir/deadletters/NAME.jsonl.", NULL},
    {"sources[].dead_letters.topic", DN_CONFIG_TEXT, SOURCE(dead_to), 0, 0, "", "",
     "to: topic: the topic, on the same brokers. Must be given then.", "shop.dead"},
    {"sources[].paths", DN_CONFIG_LIST, SOURCE(list), 0, DN_SOURCE_LIST_MAX, "", "paths",
     "file: what to read: files, folders of them (JSON lines or protobuf, .gz too), or - for standard input: "
     "what was read and\nis not in the state yet when the node dies is lost. Must be given.",
     "[/var/lib/dunlin/history]"},
    {"sources[].follow", DN_CONFIG_BOOL, SOURCE(follow), 0, 0, "false", "",
     "file: go on as files grow, and over rotation, like tail -F. For files that are named one by one.",
     NULL},

    TEXT("experiment.name", experiment.name, 0, "",
         "Name of the experiment. Under another name users are dealt to variants anew.", "spring"),
    {"experiment.variants[].name", DN_CONFIG_TEXT, VARIANT(name), 1, 0, NULL, "",
     "name: in answers, metrics and requests: letters, digits and . _ -", "diverse"},
    {"experiment.variants[].share", DN_CONFIG_FLOAT, VARIANT(share), 0, 1, NULL, "",
     "share: of the users, by a hash of their id; those that the shares leave out get no variant.", "0.1"},
    {"experiment.variants[].diversity", DN_CONFIG_FLOAT, VARIANT(diversity), 0, 1, "0", "",
     "diversity: for requests that give none. 0: by score alone.", "0.3"},
    {"experiment.variants[].category_cap", DN_CONFIG_UINT, VARIANT(category_cap), 0, 1000, "0", "items",
     "category_cap: items of one category, for requests that give none. 0: any number.", NULL},
    {"experiment.variants[].sources_off", DN_CONFIG_TEXT, VARIANT(sources_off), 0, 0, "", "",
     "sources_off: sources that offer nothing: of vstan, vmis, rules, covis, session_vector, session, "
     "trending, catalog.",
     "covis, trending"},
    {"experiment.variants[].fixed_weights", DN_CONFIG_BOOL, VARIANT(fixed_weights), 0, 0, "false", "",
     "fixed_weights: the default weights instead of those that were learned.", NULL},
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

static enum dn_code set_choice(const struct dn_config_key *key, void *field, const char *text,
                               struct dn_error *err)
{
    size_t length = strlen(text);
    unsigned number = 0;

    for (const char *word = key->unit; *word; number++) {
        size_t word_length = strcspn(word, " ");

        if (word_length == length && memcmp(word, text, length) == 0) {
            DN_ASSERT(key->size == sizeof(number));
            memcpy(field, &number, sizeof(number));
            return DN_OK;
        }
        word += word_length + (word[word_length] == ' ');
    }
    return dn_fail(err, DN_INVALID, "must be one of: %s; not '%.60s'", key->unit, text);
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
    case DN_CONFIG_CHOICE:
        return set_choice(key, field, text, err);
    case DN_CONFIG_LIST:
    case DN_CONFIG_MAP:
        break;
    }
    DN_ASSERT(false);
    return DN_INTERNAL;
}
