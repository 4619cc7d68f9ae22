/* The list `sources` of the configuration: its lists and maps, the checks over several keys of an entry, and
 * the secrets that its properties keep in files. */
#include "node/config_load.h"

#include "base/text.h"

#include <stdio.h>
#include <string.h>

static const char *const TYPE_WORDS[] = {"none", "view",    "click", "cart",  "buy",
                                         "like", "dislike", "play",  "remove"};
_Static_assert(sizeof(TYPE_WORDS) / sizeof(TYPE_WORDS[0]) == DN_EVENT_TYPE_MAX + 1, "a word for each type");

const char *dn_source_type_word(uint8_t type)
{
    return type <= DN_EVENT_TYPE_MAX ? TYPE_WORDS[type] : "?";
}

static bool parse_type(const char *word, uint8_t *ret_type)
{
    for (unsigned type = 0; type <= DN_EVENT_TYPE_MAX; type++)
        if (strcmp(TYPE_WORDS[type], word) == 0) {
            *ret_type = (uint8_t)type;
            return true;
        }
    return false;
}

bool dn_source_property_is_public(const char *name)
{
    static const char *const NAMES[] = {
        "security.protocol",
        "sasl.mechanism",
        "sasl.mechanisms",
        "client.id",
        "client.rack",
        "debug",
        "enable.ssl.certificate.verification",
        "ssl.endpoint.identification.algorithm",
        "broker.address.family",
        "socket.keepalive.enable",
        "check.crcs",
        "sasl.username",
        "sasl.oauthbearer.method",
    };
    static const char *const ENDINGS[] = {".location", ".ms", ".bytes", ".kbytes", ".messages"};

    for (size_t i = 0; i < sizeof(NAMES) / sizeof(NAMES[0]); i++)
        if (strcmp(NAMES[i], name) == 0)
            return true;
    for (size_t i = 0; i < sizeof(ENDINGS) / sizeof(ENDINGS[0]); i++) {
        size_t length = strlen(name), ending = strlen(ENDINGS[i]);

        if (length > ending && strcmp(name + length - ending, ENDINGS[i]) == 0)
            return true;
    }
    return false;
}

/* ---- lists and maps -------------------------------------------------------------------------------------
 */

/* Plain text into a field, under the rules of the table's TEXT keys. */
static enum dn_code set_text(struct dn_loader *loader, const struct dn_config_key *key,
                             const yaml_node_t *node, char *field, size_t size)
{
    struct dn_config_key plain = {.path = key->path, .kind = DN_CONFIG_TEXT, .size = size, .min = 1};
    struct dn_error reason;

    if (node->type != YAML_SCALAR_NODE)
        return dn_load_fail_kind(loader, node, key->path, "a single value in each place");
    const char *text = dn_load_text(node);
    if (!text)
        return dn_load_fail(loader, dn_load_line(node), key->path, "must not hold a NUL");
    if (dn_config_set(&plain, field, text, &reason) != DN_OK)
        return dn_load_fail(loader, dn_load_line(node), key->path, reason.message);
    return DN_OK;
}

static enum dn_code fail_many(struct dn_loader *loader, const yaml_node_t *node,
                              const struct dn_config_key *key)
{
    char reason[80];

    snprintf(reason, sizeof(reason), "has more than %g entries", key->max);
    return dn_load_fail(loader, dn_load_line(node), key->path, reason);
}

static enum dn_code load_list(struct dn_loader *loader, const struct dn_config_key *key,
                              struct dn_source_config *source, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE)
        return dn_load_fail_kind(loader, node, key->path, "a list such as [a, b]");
    if (source->list_count > 0)
        return dn_load_fail(loader, dn_load_line(node), key->path,
                            "a source has topics (kind: kafka) or paths (kind: file), not both");
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top;
         item++) {
        const yaml_node_t *entry = yaml_document_get_node(&loader->document, *item);

        if (source->list_count == DN_SOURCE_LIST_MAX)
            return fail_many(loader, entry, key);
        char *field = source->list[source->list_count];
        enum dn_code code = set_text(loader, key, entry, field, DN_SOURCE_TEXT_MAX);
        if (code != DN_OK)
            return code;
        for (size_t i = 0; i < source->list_count; i++)
            if (strcmp(source->list[i], field) == 0)
                return dn_load_fail(loader, dn_load_line(entry), key->path, "has an entry twice");
        source->list_count++;
    }
    return DN_OK;
}

static enum dn_code load_type(struct dn_loader *loader, const struct dn_config_key *key,
                              struct dn_source_fields *fields, const yaml_node_t *name,
                              const yaml_node_t *value)
{
    char word[64], reason[240];

    if (fields->type_count == DN_SOURCE_TYPES_MAX)
        return fail_many(loader, name, key);
    enum dn_code code =
        set_text(loader, key, name, fields->types[fields->type_count].name, sizeof(fields->types[0].name));
    if (code == DN_OK)
        code = set_text(loader, key, value, word, sizeof(word));
    if (code != DN_OK)
        return code;
    if (!parse_type(word, &fields->types[fields->type_count].type)) {
        snprintf(reason, sizeof(reason),
                 "%.60s: must be view, click, cart, buy, like, dislike, play, remove or none, not '%.60s'",
                 fields->types[fields->type_count].name, word);
        return dn_load_fail(loader, dn_load_line(value), key->path, reason);
    }
    fields->type_count++;
    return DN_OK;
}

/* What the settings of librdkafka are called here, or why they are not to be had. */
static const char *why_not(const char *property)
{
    static const char *const OURS[][2] = {
        {"bootstrap.servers", "give it as brokers"},
        {"metadata.broker.list", "give it as brokers"},
        {"group.id", "give it as group_id"},
        {"enable.auto.commit", "offsets are kept in the replicated state"},
        {"enable.auto.offset.store", "offsets are kept in the replicated state"},
        {"auto.offset.reset", "a gap is an alarm, and never skipped (`dunlin source skip`)"},
        {"isolation.level", "only what was committed is read"},
        {"enable.partition.eof", "dunlin sets it"},
    };

    for (size_t i = 0; i < sizeof(OURS) / sizeof(OURS[0]); i++)
        if (strcmp(OURS[i][0], property) == 0)
            return OURS[i][1];
    return NULL;
}

/* "NAME_file" into NAME and true. */
static bool cut_file_suffix(char *name)
{
    static const char SUFFIX[] = "_file";
    size_t length = strlen(name), suffix = sizeof(SUFFIX) - 1;

    if (length <= suffix || strcmp(name + length - suffix, SUFFIX) != 0)
        return false;
    name[length - suffix] = 0;
    return true;
}

static enum dn_code load_property(struct dn_loader *loader, const struct dn_config_key *key,
                                  struct dn_source_config *source, const yaml_node_t *name_node,
                                  const yaml_node_t *value_node)
{
    struct dn_config_source_notes *notes = &loader->config.source_notes[loader->config.source_count];
    size_t at = source->property_count;
    unsigned line = dn_load_line(name_node);
    char reason[240];

    if (at == DN_SOURCE_PROPERTIES_MAX)
        return fail_many(loader, name_node, key);
    char *name = source->properties[at].name;
    enum dn_code code = set_text(loader, key, name_node, name, sizeof(source->properties[at].name));
    if (code != DN_OK)
        return code;
    bool is_file = cut_file_suffix(name);
    code = set_text(loader, key, value_node,
                    is_file ? notes->property_files[at] : source->properties[at].value, DN_SOURCE_TEXT_MAX);
    if (code != DN_OK)
        return code;
    if (why_not(name)) {
        snprintf(reason, sizeof(reason), "%s: not to be set: %s", name, why_not(name));
        return dn_load_fail(loader, line, key->path, reason);
    }
    if (!is_file && strcmp(source->properties[at].value, DN_SOURCE_VALUE_HIDDEN) == 0) {
        snprintf(reason, sizeof(reason),
                 "%s: " DN_SOURCE_VALUE_HIDDEN " is what --print-config shows instead of a value: give the "
                 "value, or %s_file",
                 name, name);
        return dn_load_fail(loader, line, key->path, reason);
    }
    for (size_t i = 0; i < at; i++)
        if (strcmp(source->properties[i].name, name) == 0) {
            snprintf(reason, sizeof(reason), "%s: is given twice", name);
            return dn_load_fail(loader, line, key->path, reason);
        }
    source->property_count++;
    return DN_OK;
}

static enum dn_code load_map(struct dn_loader *loader, const struct dn_config_key *key,
                             struct dn_source_config *source, const yaml_node_t *node)
{
    bool types = strcmp(key->path, "sources[].types") == 0;

    if (node->type != YAML_MAPPING_NODE)
        return dn_load_fail_kind(loader, node, key->path, "names and values such as {a: b}");
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top;
         pair++) {
        const yaml_node_t *name = yaml_document_get_node(&loader->document, pair->key);
        const yaml_node_t *value = yaml_document_get_node(&loader->document, pair->value);

        enum dn_code code = types ? load_type(loader, key, &source->fields, name, value)
                                  : load_property(loader, key, source, name, value);
        if (code == DN_OK)
            code = dn_load_check_repeat(loader, node, pair, key->path);
        if (code != DN_OK)
            return code;
    }
    return DN_OK;
}

enum dn_code dn_load_collection(struct dn_loader *loader, const struct dn_config_key *key, void *into,
                                const yaml_node_t *node)
{
    return key->kind == DN_CONFIG_LIST ? load_list(loader, key, into, node)
                                       : load_map(loader, key, into, node);
}

/* ---- checks over several keys of an entry ---------------------------------------------------------------
 */

bool dn_source_key_applies(const struct dn_config_key *key, const struct dn_source_config *source)
{
    static const char *const KAFKA[] = {"topics", "brokers", "keyed", "group_id", "properties"};
    static const char *const FILES[] = {"paths", "follow"};
    const char *name = key->path + strlen("sources[].");

    for (size_t i = 0; i < sizeof(KAFKA) / sizeof(KAFKA[0]); i++)
        if (strcmp(name, KAFKA[i]) == 0)
            return source->kind == DN_SOURCE_KAFKA;
    for (size_t i = 0; i < sizeof(FILES) / sizeof(FILES[0]); i++)
        if (strcmp(name, FILES[i]) == 0)
            return source->kind == DN_SOURCE_FILE;
    if (strcmp(name, "dead_letters.path") == 0)
        return source->dead_sink == DN_DEAD_TO_FILE;
    if (strcmp(name, "dead_letters.topic") == 0)
        return source->dead_sink == DN_DEAD_TO_TOPIC;
    return true;
}

/* Where the entry that was just loaded gives the key; the entry's own line when it does not. */
static unsigned given_line(const struct dn_loader *loader, const char *path)
{
    size_t count;
    const struct dn_config_key *key = dn_config_find(path);

    DN_ASSERT(key);
    unsigned line = loader->given[key - dn_config_keys(&count)];
    return line ? line : loader->config.source_notes[loader->config.source_count].line;
}

static enum dn_code fail_key(struct dn_loader *loader, const char *path, const char *reason)
{
    return dn_load_fail(loader, given_line(loader, path), path, reason);
}

/* Keys of the other kind of source, or of another place for dead letters. */
static enum dn_code check_applies(struct dn_loader *loader, const struct dn_source_config *source)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    for (size_t i = 0; i < count; i++) {
        if (loader->given[i] == 0 || dn_source_key_applies(&keys[i], source))
            continue;
        if (strncmp(keys[i].path, "sources[].dead_letters.", strlen("sources[].dead_letters.")) == 0)
            return fail_key(loader, keys[i].path, "has no meaning with this dead_letters.to: remove it");
        return fail_key(loader, keys[i].path,
                        source->kind == DN_SOURCE_KAFKA ? "has no meaning with kind: kafka: remove it"
                                                        : "has no meaning with kind: file: remove it");
    }
    return DN_OK;
}

static enum dn_code check_name(struct dn_loader *loader, const struct dn_source_config *source)
{
    if (strspn(source->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") !=
        strlen(source->name))
        return fail_key(loader, "sources[].name", "must be letters, digits, - and _ only");
    for (size_t i = 0; i < loader->config.source_count; i++)
        if (strcmp(loader->config.sources[i].name, source->name) == 0)
            return fail_key(loader, "sources[].name", "is used by another source too");
    return DN_OK;
}

static enum dn_code check_topics(struct dn_loader *loader, const struct dn_source_config *source)
{
    char reason[160];

    if (source->list_count == 0)
        return fail_key(loader, "sources[].topics", "must name at least one topic");
    if (!source->brokers[0])
        return fail_key(loader, "sources[].brokers", "must be given: host:port of a broker or two");
    for (size_t i = 0; i < source->list_count; i++) {
        const char *topic = source->list[i];

        if (strspn(topic, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
            strlen(topic))
            return fail_key(loader, "sources[].topics",
                            "a topic's name is letters, digits, dots, - and _ (patterns are not known)");
        if (strlen(source->name) + 1 + strlen(topic) > DN_SOURCE_MAX) {
            snprintf(reason, sizeof(reason),
                     "name and topic together must be at most %d bytes: shorten the source's name",
                     DN_SOURCE_MAX - 1);
            return fail_key(loader, "sources[].topics", reason);
        }
    }
    return DN_OK;
}

static enum dn_code check_paths(struct dn_loader *loader, const struct dn_source_config *source)
{
    if (source->list_count == 0)
        return fail_key(loader, "sources[].paths", "must name at least one file or folder, or -");
    for (size_t i = 0; i < source->list_count; i++)
        if (strcmp(source->list[i], "-") == 0) {
            for (size_t j = 0; j < loader->config.source_count; j++)
                if (loader->config.sources[j].kind == DN_SOURCE_FILE &&
                    strcmp(loader->config.sources[j].list[0], "-") == 0)
                    return fail_key(loader, "sources[].paths", "standard input is another source's already");
            if (source->list_count > 1)
                return fail_key(loader, "sources[].paths", "- (standard input) must stand alone");
        }
    return DN_OK;
}

/* Whether reading `path`, a file or a folder (not what is below its folders), reads the file too. */
static bool is_read_by(const char *path, const char *file)
{
    size_t length = strlen(path);

    while (length > 1 && path[length - 1] == '/')
        length--;
    if (strncmp(path, file, length) != 0)
        return false;
    return file[length] == 0 || (file[length] == '/' && !strchr(file + length + 1, '/'));
}

static enum dn_code check_source(struct dn_loader *loader, const struct dn_source_config *source)
{
    uint8_t type = 0;
    enum dn_code code = check_name(loader, source);

    if (code == DN_OK)
        code = check_applies(loader, source);
    if (code == DN_OK)
        code = source->kind == DN_SOURCE_KAFKA ? check_topics(loader, source) : check_paths(loader, source);
    if (code != DN_OK)
        return code;
    if (source->fields.constant_type[0] && (!parse_type(source->fields.constant_type, &type) || type == 0))
        return fail_key(loader, "sources[].fields.constant_type",
                        "must be view, click, cart, buy, like, dislike, play or remove");
    if (source->dead_sink == DN_DEAD_TO_TOPIC && source->kind != DN_SOURCE_KAFKA)
        return fail_key(loader, "sources[].dead_letters.to",
                        "must be file or none for a source of kind file");
    if (source->dead_sink == DN_DEAD_TO_TOPIC && !source->dead_to[0])
        return fail_key(loader, "sources[].dead_letters.topic", "must be given with dead_letters.to: topic");
    for (size_t i = 0; i < source->list_count && source->dead_sink == DN_DEAD_TO_TOPIC; i++)
        if (strcmp(source->list[i], source->dead_to) == 0)
            return fail_key(loader, "sources[].dead_letters.topic",
                            "is one of the topics that are read: dead letters would come back for ever");
    for (size_t i = 0; i < source->list_count && source->kind == DN_SOURCE_FILE; i++)
        if (source->dead_sink == DN_DEAD_TO_FILE && is_read_by(source->list[i], source->dead_to))
            return fail_key(loader, "sources[].dead_letters.path",
                            "is among the paths that are read: dead letters would come back for ever, each "
                            "larger than the last; give another folder");
    return DN_OK;
}

/* ---- loading --------------------------------------------------------------------------------------------
 */

static void set_defaults(struct dn_source_config *source)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);

    memset(source, 0, sizeof(*source));
    for (size_t i = 0; i < count; i++)
        if (strncmp(keys[i].path, "sources[].", strlen("sources[].")) == 0 && keys[i].standard &&
            keys[i].kind != DN_CONFIG_LIST && keys[i].kind != DN_CONFIG_MAP)
            DN_ASSERT(dn_config_set(&keys[i], source, keys[i].standard, NULL) == DN_OK);
}

enum dn_code dn_load_sources(struct dn_loader *loader, const yaml_node_t *node)
{
    struct dn_config *config = &loader->config;

    if (node->type != YAML_SEQUENCE_NODE)
        return dn_load_fail_kind(loader, node, "sources", "a list of sources, each begun by a -");
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top;
         item++) {
        const yaml_node_t *entry = yaml_document_get_node(&loader->document, *item);

        if (entry->type != YAML_MAPPING_NODE)
            return dn_load_fail_kind(loader, entry, "sources", "a list of sources, each with name and kind");
        if (config->source_count == DN_SOURCES_CONFIGURED_MAX)
            return dn_load_fail(loader, dn_load_line(entry), "sources", "has more than 16 entries");
        struct dn_source_config *source = &config->sources[config->source_count];
        config->source_notes[config->source_count].line = dn_load_line(entry);
        set_defaults(source);
        enum dn_code code = dn_load_entry(loader, entry, "sources[].", source);
        if (code == DN_OK)
            code = check_source(loader, source);
        if (code != DN_OK)
            return code;
        config->source_count++;
    }
    return DN_OK;
}

enum dn_code dn_config_read_secrets(struct dn_config *config, struct dn_error *err)
{
    for (size_t s = 0; s < config->source_count; s++) {
        struct dn_source_config *source = &config->sources[s];

        for (size_t p = 0; p < source->property_count; p++) {
            const char *path = config->source_notes[s].property_files[p];
            char what[DN_SOURCE_NAME_MAX + sizeof(source->properties[p].name) + 40];
            size_t length = 0;

            if (!path[0])
                continue;
            snprintf(what, sizeof(what), "source %s: %s_file", source->name, source->properties[p].name);
            enum dn_code code = dn_config_read_secret_file(what, path, source->properties[p].value,
                                                           DN_SOURCE_TEXT_MAX, &length, err);
            if (code != DN_OK)
                return code;
            if (length == 0)
                return dn_fail(err, DN_INVALID, "%s: %s: is empty", what, path);
            if (strlen(source->properties[p].value) != length)
                return dn_fail(err, DN_INVALID, "%s: %s: must not hold a NUL", what, path);
        }
    }
    return DN_OK;
}
