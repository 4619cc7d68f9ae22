/* Loading a configuration file: libyaml gives a document of nodes with line numbers; the table of keys
 * (config_schema.c) says what may stand where; then come the checks that need several keys at once. */
#include "node/config_load.h"

#include "base/log.h"
#include "base/text.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTION_DEPTH_MAX = 4, NESTING_MAX = 16 };

unsigned dn_load_line(const yaml_node_t *node)
{
    return (unsigned)node->start_mark.line + 1;
}

enum dn_code dn_load_fail(struct dn_loader *loader, unsigned line, const char *path, const char *reason)
{
    if (path[0])
        return dn_fail(loader->err, DN_INVALID, "%s:%u: %s: %s", loader->file, line, path, reason);
    return dn_fail(loader->err, DN_INVALID, "%s:%u: %s", loader->file, line, reason);
}

/* ---- unknown keys ---------------------------------------------------------------------------------------
 */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edit distance, for "did you mean". */
static size_t distance(const char *a, const char *b)
{
    size_t row[DN_LOAD_PATH_MAX + 1];
    size_t length = strlen(b);

    for (size_t j = 0; j <= length; j++)
        row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t corner = row[0];

        row[0] = i;
        for (size_t j = 1; j <= length; j++) {
            size_t replaced = corner + (*a != b[j - 1]);

            corner = row[j];
            row[j] = least(replaced, 1 + least(row[j], row[j - 1]));
        }
    }
    return row[length];
}

static enum dn_code fail_unknown(struct dn_loader *loader, unsigned line, const char *path)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *nearest = NULL;
    size_t nearest_distance = 4; /* further away is no typing slip */
    char reason[2 * DN_LOAD_PATH_MAX];

    for (size_t i = 0; i < count; i++) {
        size_t d = distance(path, keys[i].path);

        if (d < nearest_distance) {
            nearest = keys[i].path;
            nearest_distance = d;
        }
    }
    if (nearest)
        snprintf(reason, sizeof(reason), "unknown key: did you mean %s?", nearest);
    else
        snprintf(reason, sizeof(reason), "unknown key: remove it (docs/dunlind.sample.yaml has all keys)");
    return dn_load_fail(loader, line, path, reason);
}

/* ---- walking the document -------------------------------------------------------------------------------
 */

static const char *kind_name(const yaml_node_t *node)
{
    switch (node->type) {
    case YAML_MAPPING_NODE:
        return "keys and values";
    case YAML_SEQUENCE_NODE:
        return "a list";
    default:
        return "a single value";
    }
}

enum dn_code dn_load_fail_kind(struct dn_loader *loader, const yaml_node_t *node, const char *path,
                               const char *wanted)
{
    char reason[120];

    snprintf(reason, sizeof(reason), "must be %s, not %s", wanted, kind_name(node));
    return dn_load_fail(loader, dn_load_line(node), path, reason);
}

/* The text of a scalar, NUL-terminated; NULL when it holds a NUL. */
const char *dn_load_text(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;

    return strlen(text) == node->data.scalar.length ? text : NULL;
}

static enum dn_code set_key(struct dn_loader *loader, const struct dn_config_key *key, void *into,
                            const yaml_node_t *node)
{
    bool is_text = key->kind == DN_CONFIG_TEXT || key->kind == DN_CONFIG_ADDRESS ||
                   key->kind == DN_CONFIG_CHOICE || key->kind == DN_CONFIG_BYTES; /* "64KiB" */
    struct dn_error reason;

    if (node->type != YAML_SCALAR_NODE)
        return dn_load_fail_kind(loader, node, key->path, "a single value");
    const char *text = dn_load_text(node);
    if (!text)
        return dn_load_fail(loader, dn_load_line(node), key->path, "must not hold a NUL");
    if (!is_text && node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return dn_load_fail(loader, dn_load_line(node), key->path,
                            key->kind == DN_CONFIG_BOOL ? "must be true or false without quotes"
                                                        : "must be a number without quotes");
    if (dn_config_set(key, into, text, &reason) != DN_OK)
        return dn_load_fail(loader, dn_load_line(node), key->path, reason.message);
    return DN_OK;
}

/* Joins a section's path and the name of a key in it. False when the key is no text of sensible length. */
static bool join(char ret_path[DN_LOAD_PATH_MAX], const char *section, const yaml_node_t *name)
{
    if (name->type != YAML_SCALAR_NODE || !dn_load_text(name))
        return false;
    int length = snprintf(ret_path, DN_LOAD_PATH_MAX, "%s%s", section, dn_load_text(name));
    return length > 0 && length < DN_LOAD_PATH_MAX;
}

enum dn_code dn_load_check_repeat(struct dn_loader *loader, const yaml_node_t *mapping,
                                  const yaml_node_pair_t *pair, const char *path)
{
    const yaml_node_t *name = yaml_document_get_node(&loader->document, pair->key);

    for (const yaml_node_pair_t *other = mapping->data.mapping.pairs.start; other < pair; other++) {
        const yaml_node_t *earlier = yaml_document_get_node(&loader->document, other->key);
        char reason[80];

        if (strcmp(dn_load_text(earlier), dn_load_text(name)) != 0)
            continue;
        snprintf(reason, sizeof(reason), "is set twice: first in line %u", dn_load_line(earlier));
        return dn_load_fail(loader, dn_load_line(name), path, reason);
    }
    return DN_OK;
}

static enum dn_code load_member(struct dn_loader *loader, const yaml_node_t *node)
{
    struct dn_config_member *member = &loader->config.cluster.members[loader->config.cluster.member_count];

    if (node->type != YAML_MAPPING_NODE)
        return dn_load_fail_kind(loader, node, "cluster.members", "a list of {id, name, address}");
    member->line = dn_load_line(node);
    enum dn_code code = dn_load_entry(loader, node, "cluster.members[].", member);
    if (code == DN_OK)
        loader->config.cluster.member_count++;
    return code;
}

static enum dn_code load_members(struct dn_loader *loader, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE)
        return dn_load_fail_kind(loader, node, "cluster.members", "a list of {id, name, address}");
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top;
         item++) {
        const yaml_node_t *entry = yaml_document_get_node(&loader->document, *item);
        enum dn_code code;

        if (loader->config.cluster.member_count == DN_NODES_MAX)
            return dn_load_fail(loader, dn_load_line(entry), "cluster.members", "has more than 7 entries");
        code = load_member(loader, entry);
        if (code != DN_OK)
            return code;
    }
    if (loader->config.cluster.member_count == 0)
        return dn_load_fail(loader, dn_load_line(node), "cluster.members",
                            "is empty: list the nodes, or leave the key out for a cluster of one");
    return DN_OK;
}

static bool is_section(const char *path)
{
    size_t count, length = strlen(path);
    const struct dn_config_key *keys = dn_config_keys(&count);

    for (size_t i = 0; i < count; i++)
        if (strncmp(keys[i].path, path, length) == 0 && keys[i].path[length] == '.')
            return true;
    return false;
}

static enum dn_code load_section(struct dn_loader *loader, const yaml_node_t *node, const char *section,
                                 void *into, int depth);

static enum dn_code load_value(struct dn_loader *loader, const yaml_node_t *name, const yaml_node_t *value,
                               const char *path, void *into, int depth)
{
    /* A dot inside a key would let "raft.tick_ms: 5" at the top pass for the nested form. */
    bool plain = !strpbrk(dn_load_text(name), ".[");
    const struct dn_config_key *key = plain ? dn_config_find(path) : NULL;
    char inner[DN_LOAD_PATH_MAX + 1];
    enum dn_code code;
    size_t count;

    if (plain && strcmp(path, "cluster.members") == 0)
        return load_members(loader, value);
    if (plain && strcmp(path, "sources") == 0)
        return dn_load_sources(loader, value);
    if (plain && strcmp(path, "experiment.variants") == 0)
        return dn_load_variants(loader, value);
    if (plain && !key && is_section(path)) {
        if (value->type != YAML_MAPPING_NODE)
            return dn_load_fail_kind(loader, value, path, "keys and values, indented below it");
        snprintf(inner, sizeof(inner), "%s.", path);
        return load_section(loader, value, inner, into, depth + 1);
    }
    if (!key)
        return fail_unknown(loader, dn_load_line(name), path);
    if (key->kind == DN_CONFIG_LIST || key->kind == DN_CONFIG_MAP)
        code = dn_load_collection(loader, key, into, value);
    else
        code = set_key(loader, key, into, value);
    if (code == DN_OK)
        loader->given[key - dn_config_keys(&count)] = loader->config.lines[key - dn_config_keys(&count)] =
            dn_load_line(name);
    return code;
}

/* section: "" or "raft."; into: what its keys' offsets count from. */
static enum dn_code load_section(struct dn_loader *loader, const yaml_node_t *node, const char *section,
                                 void *into, int depth)
{
    DN_ASSERT(depth < SECTION_DEPTH_MAX); /* the table nests no deeper, and only its sections are entered */
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        const yaml_node_t *name = yaml_document_get_node(&loader->document, pair->key);
        const yaml_node_t *value = yaml_document_get_node(&loader->document, pair->value);
        char path[DN_LOAD_PATH_MAX];

        if (!join(path, section, name))
            return dn_load_fail(loader, dn_load_line(name), "", "a key must be short text");
        enum dn_code code = dn_load_check_repeat(loader, node, pair, path);
        if (code == DN_OK)
            code = load_value(loader, name, value, path, into, depth);
        if (code != DN_OK)
            return code;
    }
    return DN_OK;
}

enum dn_code dn_load_entry(struct dn_loader *loader, const yaml_node_t *node, const char *section, void *into)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    memset(loader->given, 0, sizeof(loader->given));
    enum dn_code code = load_section(loader, node, section, into, 0);
    for (size_t i = 0; i < count && code == DN_OK; i++)
        if (strncmp(keys[i].path, section, strlen(section)) == 0 && !keys[i].standard &&
            loader->given[i] == 0)
            code = dn_load_fail(loader, dn_load_line(node), keys[i].path, "must be given");
    return code;
}

/* ---- checks over several keys ---------------------------------------------------------------------------
 */

static unsigned key_line(const struct dn_loader *loader, const char *path)
{
    size_t count;
    const struct dn_config_key *key = dn_config_find(path);

    DN_ASSERT(key);
    unsigned line = loader->config.lines[key - dn_config_keys(&count)];
    return line ? line : 1;
}

bool dn_address_is_loopback(const char *address)
{
    char host[256];
    uint16_t port;

    if (!dn_parse_address(address, host, &port))
        return false;
    struct in_addr v4; /* parsed: "127.example.com" is a name, and anybody's */
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0;
}

const struct dn_config_member *dn_config_self(const struct dn_config *config)
{
    for (size_t i = 0; i < config->cluster.member_count; i++)
        if (config->cluster.members[i].id == config->node.id)
            return &config->cluster.members[i];
    return config->joining.id != 0 ? &config->joining : NULL;
}

#define NEEDS_KEY                                                                                            \
    ", and there is no key: set peers.key_file (`dunlin key create FILE` makes one), or "                    \
    "peers.allow_without_key to true if nobody else reaches that network"

static bool peers_guarded(const struct dn_config *config)
{
    return config->peers.key_file[0] != 0 || config->peers.allow_without_key;
}

static enum dn_code check_members(struct dn_loader *loader)
{
    const struct dn_config *config = &loader->config;

    for (size_t i = 0; i < config->cluster.member_count; i++) {
        const struct dn_config_member *a = &config->cluster.members[i];
        char host[256];
        uint16_t port;

        if (dn_parse_address(a->address, host, &port) && port == 0)
            return dn_load_fail(loader, a->line, "cluster.members[].address",
                                "port 0 cannot be reached by others");
        if (!dn_address_is_loopback(a->address) && !peers_guarded(config))
            return dn_load_fail(loader, a->line, "cluster.members[].address", "is beyond loopback" NEEDS_KEY);
        for (size_t j = 0; j < i; j++) {
            const struct dn_config_member *b = &config->cluster.members[j];

            if (a->id == b->id)
                return dn_load_fail(loader, a->line, "cluster.members[].id", "is used by another member too");
            if (strcmp(a->name, b->name) == 0)
                return dn_load_fail(loader, a->line, "cluster.members[].name",
                                    "is used by another member too");
            if (strcmp(a->address, b->address) == 0)
                return dn_load_fail(loader, a->line, "cluster.members[].address",
                                    "is used by another member too");
        }
    }
    return DN_OK;
}

/* node.address is held to what is asked of the members' addresses. */
static enum dn_code check_own_address(struct dn_loader *loader)
{
    const struct dn_config *config = &loader->config;
    const char *address = config->node.address;
    unsigned line = key_line(loader, "node.address");
    char host[256];
    uint16_t port;

    if (!address[0])
        return DN_OK;
    if (dn_parse_address(address, host, &port) && port == 0)
        return dn_load_fail(loader, line, "node.address", "port 0 cannot be reached by others");
    if (!dn_address_is_loopback(address) && !peers_guarded(config))
        return dn_load_fail(loader, line, "node.address", "is beyond loopback" NEEDS_KEY);
    for (size_t i = 0; i < config->cluster.member_count; i++)
        if (config->cluster.members[i].id != config->node.id &&
            strcmp(config->cluster.members[i].address, address) == 0)
            return dn_load_fail(loader, line, "node.address", "is another node's in cluster.members");
    return DN_OK;
}

/* A node that is none of the members joins a cluster: it needs an address, and gets an entry of its own. */
static enum dn_code check_joining(struct dn_loader *loader)
{
    struct dn_config *config = &loader->config;
    struct dn_config_member *joining = &config->joining;

    if (dn_config_self(config))
        return DN_OK;
    if (!config->node.address[0])
        return dn_load_fail(
            loader, key_line(loader, "node.id"), "node.id",
            "is not among cluster.members: to join their cluster, give node.address (where the "
            "others reach this node); to form one together, add this node to the list on every "
            "node");
    joining->id = config->node.id;
    if (config->node.name[0])
        memcpy(joining->name, config->node.name, sizeof(joining->name));
    else
        snprintf(joining->name, sizeof(joining->name), "node-%llu", (unsigned long long)config->node.id);
    memcpy(joining->address, config->node.address, sizeof(joining->address));
    for (size_t i = 0; i < config->cluster.member_count; i++)
        if (strcmp(config->cluster.members[i].name, joining->name) == 0)
            return dn_load_fail(loader, key_line(loader, "node.name"), "node.name",
                                "is another node's in cluster.members: give this one its own");
    return DN_OK;
}

static enum dn_code check_cluster_id(struct dn_loader *loader)
{
    for (const char *c = loader->config.cluster.id; *c; c++)
        if (*c <= 0x20 || *c >= 0x7f)
            return dn_load_fail(loader, key_line(loader, "cluster.id"), "cluster.id",
                                "must be printable ASCII without spaces");
    return DN_OK;
}

static enum dn_code check_addresses(struct dn_loader *loader)
{
    const struct dn_config *config = &loader->config;

    if (config->peers.bind[0] && !dn_address_is_loopback(config->peers.bind) && !peers_guarded(config))
        return dn_load_fail(loader, key_line(loader, "peers.bind"), "peers.bind",
                            "is beyond loopback" NEEDS_KEY);
    if (config->peers.previous_key_file[0] && !config->peers.key_file[0])
        return dn_load_fail(loader, key_line(loader, "peers.previous_key_file"), "peers.previous_key_file",
                            "is given, but peers.key_file is not");
    if (!dn_address_is_loopback(config->api.address) && !config->api.allow_plaintext)
        return dn_load_fail(
            loader, key_line(loader, "api.address"), "api.address",
            "is beyond loopback, and the API has no encryption yet: set api.allow_plaintext to true "
            "if the network is private");
    return DN_OK;
}

static enum dn_code check_relations(struct dn_loader *loader)
{
    struct dn_config *config = &loader->config;
    struct dn_shard_settings settings;
    enum dn_log_level level;
    struct dn_error reason;

    if (!dn_log_level_parse(config->log.level, &level))
        return dn_load_fail(loader, key_line(loader, "log.level"), "log.level",
                            "must be debug, info, warn or error");
    if (config->raft.heartbeat_ms * 3 > config->raft.election_timeout_ms)
        return dn_load_fail(
            loader, key_line(loader, "raft.heartbeat_ms"), "raft.heartbeat_ms",
            "must be at most a third of raft.election_timeout_ms: a lost heartbeat or two must not "
            "cost the leader its office");
    if (strcmp(config->raft.journal_io, "auto") != 0 && strcmp(config->raft.journal_io, "io_uring") != 0 &&
        strcmp(config->raft.journal_io, "pool") != 0)
        return dn_load_fail(loader, key_line(loader, "raft.journal_io"), "raft.journal_io",
                            "must be auto, io_uring or pool");
    if (config->raft.segment_bytes % 4096 != 0)
        return dn_load_fail(loader, key_line(loader, "raft.segment_bytes"), "raft.segment_bytes",
                            "must be a multiple of 4096");
    if (config->api.default_deadline_ms > config->api.max_deadline_ms)
        return dn_load_fail(loader, key_line(loader, "api.default_deadline_ms"), "api.default_deadline_ms",
                            "must not be above api.max_deadline_ms");
    if (config->raft.tick_ms > config->freshness_alarm_ms)
        return dn_load_fail(loader, key_line(loader, "freshness_alarm_ms"), "freshness_alarm_ms",
                            "must not be below raft.tick_ms: every answer would be stale");
    dn_config_shard_settings(config, &settings);
    if (dn_shard_settings_check(&settings, &reason) != DN_OK)
        return dn_load_fail(loader, key_line(loader, "session.gap_s"), "session", reason.message);
    return DN_OK;
}

static enum dn_code check_required(struct dn_loader *loader)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    for (size_t i = 0; i < count; i++)
        if (!keys[i].standard && !strstr(keys[i].path, "[].") && loader->config.lines[i] == 0)
            return dn_load_fail(loader, 1, keys[i].path, "must be given");
    return DN_OK;
}

/* A cluster of one, when the file lists no members. */
static void default_members(struct dn_config *config)
{
    struct dn_config_member *self = &config->cluster.members[0];

    if (config->cluster.member_count > 0)
        return;
    self->id = config->node.id;
    snprintf(self->name, sizeof(self->name), "%s", config->node.name[0] ? config->node.name : "node1");
    snprintf(self->address, sizeof(self->address), "%s",
             config->node.address[0] ? config->node.address : "127.0.0.1:7071");
    self->line = 1;
    config->cluster.member_count = 1;
}

static enum dn_code check_all(struct dn_loader *loader)
{
    struct dn_config *config = &loader->config;
    enum dn_code code = check_required(loader);

    if (code != DN_OK)
        return code;
    default_members(config);
    code = check_cluster_id(loader);
    if (code == DN_OK)
        code = check_members(loader);
    if (code == DN_OK)
        code = check_own_address(loader);
    if (code == DN_OK)
        code = check_joining(loader);
    if (code == DN_OK)
        code = check_addresses(loader);
    if (code == DN_OK)
        code = check_relations(loader);
    if (code == DN_OK)
        code = dn_load_check_experiment(loader);
    if (code == DN_OK && !config->node.name[0]) {
        const struct dn_config_member *self = dn_config_self(config);
        DN_ASSERT(self != NULL); /* check_joining saw to it */
        memcpy(config->node.name, self->name, sizeof(config->node.name));
    }
    return code;
}

/* ---- entry points ---------------------------------------------------------------------------------------
 */

static void set_defaults(struct dn_config *config)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    memset(config, 0, sizeof(*config));
    for (size_t i = 0; i < count; i++)
        if (keys[i].standard && !strstr(keys[i].path, "[]."))
            DN_ASSERT(dn_config_set(&keys[i], config, keys[i].standard, NULL) == DN_OK);
}

static enum dn_code fail_yaml(const char *file, const yaml_parser_t *parser, struct dn_error *err)
{
    return dn_fail(err, DN_INVALID, "%s:%zu: not YAML: %s%s%s", file, parser->problem_mark.line + 1,
                   parser->problem ? parser->problem : "cannot be read", parser->context ? ", " : "",
                   parser->context ? parser->context : "");
}

static enum dn_code load_document(struct dn_loader *loader, yaml_parser_t *parser)
{
    const yaml_node_t *root = yaml_document_get_root_node(&loader->document);
    yaml_document_t second;

    if (!root)
        return dn_load_fail(loader, 1, "", "the file is empty: docs/dunlind.sample.yaml is a start");
    if (root->type != YAML_MAPPING_NODE)
        return dn_load_fail_kind(loader, root, "", "keys and values");
    enum dn_code code = load_section(loader, root, "", &loader->config, 0);
    if (code != DN_OK)
        return code;
    if (!yaml_parser_load(parser, &second))
        return fail_yaml(loader->file, parser, loader->err);
    const yaml_node_t *more = yaml_document_get_root_node(&second);
    unsigned line = more ? dn_load_line(more) : 0;
    yaml_document_delete(&second);
    if (more)
        return dn_load_fail(loader, line, "", "a second document: one file holds one configuration");
    return check_all(loader);
}

/* libyaml's time grows with the square of the nesting, and a megabyte of brackets would keep it for minutes:
 * a first pass over the events gives up early. What is not YAML is left to the second pass, which says why.
 */
static enum dn_code check_nesting(const char *path, const void *bytes, size_t length, struct dn_error *err)
{
    yaml_parser_t parser;
    yaml_event_t event;
    enum dn_code code = DN_OK;
    int depth = 0;

    if (!yaml_parser_initialize(&parser))
        return dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path);
    yaml_parser_set_input_string(&parser, bytes, length);
    for (bool more = true; more && code == DN_OK;) {
        if (!yaml_parser_parse(&parser, &event))
            break;
        more = event.type != YAML_STREAM_END_EVENT;
        depth += event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_MAPPING_START_EVENT;
        depth -= event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT;
        if (depth > NESTING_MAX)
            code = dn_fail(err, DN_INVALID, "%s:%zu: nested more than %d deep", path,
                           event.start_mark.line + 1, NESTING_MAX);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return code;
}

enum dn_code dn_config_parse(const char *path, const void *bytes, size_t length, struct dn_config *ret,
                             struct dn_error *err)
{
    struct dn_loader *loader = calloc(1, sizeof(*loader));
    yaml_parser_t parser;
    enum dn_code code;

    if (!loader)
        return dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path);
    code = check_nesting(path, bytes, length, err);
    if (code != DN_OK)
        goto free_loader;
    loader->file = path;
    loader->err = err;
    set_defaults(&loader->config);
    if (!yaml_parser_initialize(&parser)) {
        code = dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path);
        goto free_loader;
    }
    yaml_parser_set_input_string(&parser, bytes, length);
    if (!yaml_parser_load(&parser, &loader->document)) {
        code = fail_yaml(path, &parser, err);
        goto delete_parser;
    }
    code = load_document(loader, &parser);
    if (code == DN_OK)
        *ret = loader->config;
    yaml_document_delete(&loader->document);
delete_parser:
    yaml_parser_delete(&parser);
free_loader:
    free(loader);
    return code;
}

enum dn_code dn_config_load(const char *path, struct dn_config *ret, struct dn_error *err)
{
    FILE *file = fopen(path, "re");
    enum dn_code code;
    char *bytes;
    size_t length;

    if (!file)
        return dn_fail(err, DN_IO, "%s: cannot open: %s", path, strerror(errno));
    bytes = malloc(DN_CONFIG_FILE_MAX + 1);
    if (!bytes) {
        code = dn_fail(err, DN_NO_MEMORY, "%s: out of memory", path);
        goto close_file;
    }
    length = fread(bytes, 1, DN_CONFIG_FILE_MAX + 1, file);
    if (ferror(file))
        code = dn_fail(err, DN_IO, "%s: cannot read: %s", path, strerror(errno));
    else if (length > DN_CONFIG_FILE_MAX)
        code = dn_fail(err, DN_INVALID, "%s: is larger than %u bytes: this is no configuration file", path,
                       DN_CONFIG_FILE_MAX);
    else
        code = dn_config_parse(path, bytes, length, ret, err);
    free(bytes);
close_file:
    fclose(file);
    return code;
}

void dn_config_shard_settings(const struct dn_config *config, struct dn_shard_settings *ret)
{
    *ret = (struct dn_shard_settings){
        .gap_ms = (int64_t)config->session.gap_s * 1000,
        .lateness_ms = (int64_t)config->session.lateness_s * 1000,
        .ahead_ms = (int64_t)config->session.ahead_s * 1000,
        .idle_ms = (int64_t)config->session.idle_s * 1000,
        .events_per_user = (uint32_t)config->session.events_per_user,
        .ids_per_user = (uint32_t)config->session.ids_per_user,
        .users_max = (uint32_t)config->session.users_max,
        .items_max = (uint32_t)config->session.items_max,
        .trend_half_life_ms = (int64_t)config->session.trend_half_life_s * 1000,
        .near_cells = (uint32_t)config->session.near_cells,
        .near_visitors = (uint32_t)config->session.near_visitors,
        .near_half_life_ms = (int64_t)config->session.near_half_life_s * 1000,
    };
}

void dn_config_recommend_settings(const struct dn_config *config, struct dn_recommend_settings *ret)
{
    *ret = (struct dn_recommend_settings){
        .recency_decay = (float)config->recommend.recency_decay,
        .time_half_life_ms = (int64_t)config->recommend.time_half_life_s * 1000,
        .session_events_used = (uint32_t)config->recommend.events_used,
        .interests = (uint32_t)config->recommend.interests,
    };
    for (int type = 1; type <= DN_EVENT_TYPE_MAX; type++)
        ret->type_weight[type] = (float)config->recommend.type_weight[type];
}
