/* Printing a configuration, and the documented sample. */
#include "node/config_load.h"

#include <stdio.h>
#include <string.h>

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
                        "_./:-") != strlen(text) ||
           strchr(":-", text[0]) || text[strlen(text) - 1] == ':';
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

static void put_choice(struct dn_buffer *out, const struct dn_config_key *key, const char *field)
{
    const char *word = key->unit;
    unsigned number = 0;

    memcpy(&number, field, sizeof(number));
    while (number-- > 0)
        word += strcspn(word, " ") + 1;
    dn_buffer_append(out, word, strcspn(word, " "));
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
    case DN_CONFIG_CHOICE:
        put_choice(out, key, field);
        return;
    case DN_CONFIG_LIST:
    case DN_CONFIG_MAP:
        return; /* put_collection */
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

/* ---- what is in force -----------------------------------------------------------------------------------
 */

static const char SOURCES[] = "sources[].", MEMBERS[] = "cluster.members[].";
static const char VARIANTS[] = "experiment.variants[].";

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static void put_members(const struct dn_config *config, struct dn_buffer *out)
{
    const struct dn_config_key *id = dn_config_find("cluster.members[].id");
    const struct dn_config_key *name = dn_config_find("cluster.members[].name");

    for (size_t m = 0; m < config->cluster.member_count; m++) {
        put(out, "    - {id: ");
        put_value(out, id, &config->cluster.members[m]);
        put(out, ", name: ");
        put_value(out, name, &config->cluster.members[m]);
        put(out, ", address: ");
        put_text(out, config->cluster.members[m].address);
        put(out, "}\n");
    }
}

static void put_list(struct dn_buffer *out, const struct dn_source_config *source)
{
    put(out, "[");
    for (size_t i = 0; i < source->list_count; i++) {
        if (i > 0)
            put(out, ", ");
        put_text(out, source->list[i]);
    }
    put(out, "]");
}

static void put_types(struct dn_buffer *out, const struct dn_source_config *source)
{
    put(out, "{");
    for (size_t i = 0; i < source->fields.type_count; i++) {
        if (i > 0)
            put(out, ", ");
        put_text(out, source->fields.types[i].name);
        put(out, ": ");
        put(out, dn_source_type_word(source->fields.types[i].type));
    }
    put(out, "}");
}

static void put_properties(struct dn_buffer *out, const struct dn_source_config *source,
                           const struct dn_config_source_notes *notes)
{
    char name[sizeof(source->properties[0].name) + 8];

    put(out, "{");
    for (size_t i = 0; i < source->property_count; i++) {
        const char *path = notes->property_files[i];

        if (i > 0)
            put(out, ", ");
        snprintf(name, sizeof(name), "%s%s", source->properties[i].name, path[0] ? "_file" : "");
        put_text(out, name);
        put(out, ": ");
        if (path[0])
            put_text(out, path);
        else
            put_text(out, dn_source_property_is_public(name) ? source->properties[i].value
                                                             : DN_SOURCE_VALUE_HIDDEN);
    }
    put(out, "}");
}

/* "batch." in "sources[].batch.events"; empty where there is no such section. Returns its length. */
static size_t source_section(const char *path, const char **ret_name)
{
    const char *name = path + strlen(SOURCES), *dot = strchr(name, '.');

    *ret_name = dot ? dot + 1 : name;
    return dot ? (size_t)(dot - name) + 1 : 0;
}

/* The line "batch:" where the key is the first of its section; `before` is the key before it. */
static void put_source_section(struct dn_buffer *out, const char *before, const char *path)
{
    const char *name;
    size_t section = source_section(path, &name);

    if (section == 0 || strncmp(before, path, strlen(SOURCES) + section) == 0)
        return;
    put_indent(out, 2);
    dn_buffer_append(out, path + strlen(SOURCES), section - 1);
    put(out, ":\n");
}

static void put_source_name(struct dn_buffer *out, const char *path, bool first)
{
    const char *name;
    size_t section = source_section(path, &name);

    put_indent(out, first ? 1 : section > 0 ? 3 : 2);
    if (first)
        put(out, "- ");
    put(out, name);
    put(out, ": ");
}

static void put_source(struct dn_buffer *out, const struct dn_source_config *source,
                       const struct dn_config_source_notes *notes)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *before = "";

    for (size_t k = 0; k < count; k++) {
        const struct dn_config_key *key = &keys[k];

        if (!starts_with(key->path, SOURCES) || !dn_source_key_applies(key, source))
            continue;
        put_source_section(out, before, key->path);
        put_source_name(out, key->path, before[0] == 0);
        before = key->path;
        if (key->kind == DN_CONFIG_LIST)
            put_list(out, source);
        else if (strcmp(key->path, "sources[].types") == 0)
            put_types(out, source);
        else if (key->kind == DN_CONFIG_MAP)
            put_properties(out, source, notes);
        else
            put_value(out, key, source);
        put(out, "\n");
    }
}

/* A variant on one line; in the sample on several, with what each key means. */
static void put_variant(struct dn_buffer *out, const struct dn_config_variant *variant)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *between = "    - {";

    for (size_t k = 0; k < count; k++) {
        if (!starts_with(keys[k].path, VARIANTS))
            continue;
        put(out, between);
        put(out, keys[k].path + strlen(VARIANTS));
        put(out, ": ");
        put_value(out, &keys[k], variant);
        between = ", ";
    }
    put(out, "}\n");
}

static void put_experiment(struct dn_buffer *out, const struct dn_config *config)
{
    put(out, "\nexperiment:\n  name: ");
    put_text(out, config->experiment.name);
    put(out, config->experiment.variant_count > 0 ? "\n  variants:\n" : "\n  variants: []\n");
    for (size_t i = 0; i < config->experiment.variant_count; i++)
        put_variant(out, &config->experiment.variants[i]);
}

void dn_config_print(const struct dn_config *config, struct dn_buffer *out)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *before = "";
    const char *name;

    for (size_t k = 0; k < count && !starts_with(keys[k].path, SOURCES); k++) {
        size_t depth = put_sections(out, before, keys[k].path, &name);

        before = keys[k].path;
        if (!starts_with(keys[k].path, MEMBERS)) {
            put_indent(out, depth);
            put(out, name);
            put(out, ": ");
            put_value(out, &keys[k], config);
            put(out, "\n");
        } else if (strcmp(name, "id") == 0) /* the whole list goes out with its first key */
            put_members(config, out);
    }
    put(out, config->source_count > 0 ? "\nsources:\n" : "\nsources: []\n");
    for (size_t i = 0; i < config->source_count; i++)
        put_source(out, &config->sources[i], &config->source_notes[i]);
    put_experiment(out, config);
}

/* ---- the sample -----------------------------------------------------------------------------------------
 */

/* "kafka, file. ", "1KiB to 16MiB. ", "1 to 10000 ms. ", or nothing. */
static void put_facts(struct dn_buffer *out, const struct dn_config_key *key)
{
    char facts[128];

    switch (key->kind) {
    case DN_CONFIG_BYTES:
        put_bytes(out, (uint64_t)key->min);
        put(out, " to ");
        put_bytes(out, (uint64_t)key->max);
        put(out, ". ");
        return;
    case DN_CONFIG_UINT:
    case DN_CONFIG_FLOAT:
        snprintf(facts, sizeof(facts), "%.15g to %.15g%s%s. ", key->min, key->max, key->unit[0] ? " " : "",
                 key->unit);
        put(out, facts);
        return;
    case DN_CONFIG_CHOICE:
        for (const char *c = key->unit; *c; c++)
            dn_buffer_append(out, *c == ' ' ? ", " : c, *c == ' ' ? 2 : 1);
        put(out, ". ");
        return;
    case DN_CONFIG_LIST:
    case DN_CONFIG_MAP:
        snprintf(facts, sizeof(facts), "At most %.15g %s. ", key->max, key->unit);
        put(out, facts);
        return;
    case DN_CONFIG_BOOL:
    case DN_CONFIG_TEXT:
    case DN_CONFIG_ADDRESS:
        return;
    }
}

static void put_help(struct dn_buffer *out, const struct dn_config_key *key, size_t depth)
{
    const char *help = key->help;

    while (*help) {
        size_t length = strcspn(help, "\n");

        put_indent(out, depth);
        put(out, "# ");
        dn_buffer_append(out, help, length);
        put(out, "\n");
        help += length + (help[length] == '\n');
    }
    put_indent(out, depth);
    put(out, "# ");
    put_facts(out, key);
    if (key->standard) {
        put(out, "Default: ");
        put(out, key->standard[0] ? key->standard : "empty");
        put(out, ".\n");
    } else
        put(out, "Must be given.\n");
}

static void put_sample_value(struct dn_buffer *out, const struct dn_config_key *key)
{
    const char *value = key->example ? key->example : key->standard;

    if (key->kind == DN_CONFIG_TEXT || key->kind == DN_CONFIG_ADDRESS)
        put_text(out, value);
    else
        put(out, value);
    put(out, "\n");
}

static void put_sample_key(struct dn_buffer *out, const char *before, const struct dn_config_key *key)
{
    const char *name;
    bool first = before[0] == 0;

    put_source_section(out, before, key->path);
    put_help(out, key, first ? 1 : source_section(key->path, &name) > 0 ? 3 : 2);
    put_source_name(out, key->path, first);
    put_sample_value(out, key);
}

/* An entry of kind kafka with all that is common too, one with dead letters in a topic, and one of files. */
static void put_sample_sources(struct dn_buffer *out)
{
    const struct dn_source_config kafka = {.kind = DN_SOURCE_KAFKA};
    const struct dn_source_config topic = {.kind = DN_SOURCE_KAFKA, .dead_sink = DN_DEAD_TO_TOPIC};
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *before = "";

    put(out, "sources:\n");
    for (size_t k = 0; k < count; k++)
        if (starts_with(keys[k].path, SOURCES) && dn_source_key_applies(&keys[k], &kafka)) {
            put_sample_key(out, before, &keys[k]);
            before = keys[k].path;
        }
    put(out, "  - name: orders\n    kind: kafka\n    topics: [shop.orders]\n    brokers: \"127.0.0.1:9092\"\n"
             "    dead_letters:\n      to: topic\n");
    for (size_t k = 0; k < count; k++)
        if (starts_with(keys[k].path, SOURCES) && !dn_source_key_applies(&keys[k], &kafka) &&
            dn_source_key_applies(&keys[k], &topic))
            put_sample_key(out, keys[k].path, &keys[k]);
    put(out, "  - name: history\n    kind: file\n");
    for (size_t k = 0; k < count; k++)
        if (starts_with(keys[k].path, SOURCES) && !dn_source_key_applies(&keys[k], &kafka) &&
            !dn_source_key_applies(&keys[k], &topic))
            put_sample_key(out, keys[k].path, &keys[k]);
}

/* A variant with all there is, and one that differs in nothing. */
static void put_sample_experiment(struct dn_buffer *out)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    bool first = true;

    put(out, "experiment:\n");
    for (size_t k = 0; k < count; k++) {
        if (!starts_with(keys[k].path, "experiment."))
            continue;
        bool in_list = starts_with(keys[k].path, VARIANTS);

        if (in_list && first)
            put(out, "  variants:\n");
        put_help(out, &keys[k], !in_list ? 1 : first ? 2 : 3);
        put(out, !in_list ? "  " : first ? "    - " : "      ");
        put(out, keys[k].path + (in_list ? strlen(VARIANTS) : strlen("experiment.")));
        put(out, ": ");
        put_sample_value(out, &keys[k]);
        first = first && !in_list;
    }
    put(out, "    - {name: control, share: 0.1}\n");
}

/* A part with a # before each of its lines: by default there is none of it. */
static void put_commented(struct dn_buffer *out, void (*put_part)(struct dn_buffer *out))
{
    struct dn_buffer plain;

    dn_buffer_init(&plain, DN_CONFIG_FILE_MAX);
    put_part(&plain);
    dn_buffer_u8(&plain, 0);
    DN_ASSERT(!plain.failed);
    for (const char *line = (const char *)plain.bytes; *line;) {
        size_t length = strcspn(line, "\n") + 1;

        put(out, "#");
        dn_buffer_append(out, line, length);
        line += length;
    }
    dn_buffer_free(&plain);
}

void dn_config_print_sample(struct dn_buffer *out)
{
    size_t count;
    const struct dn_config_key *keys = dn_config_keys(&count);
    const char *before = "";
    const char *name;

    put(out, "# dunlind's configuration: every key, with its default.\n"
             "# Made by `dunlind --sample-config`; node.id, node.data_dir and cluster.id must be given, all "
             "else may be "
             "left out.\n"
             "# Check a file with `dunlind --config FILE --check-config`, see what is in force with "
             "--print-config.\n");
    for (size_t k = 0; k < count && !starts_with(keys[k].path, SOURCES); k++) {
        const struct dn_config_key *key = &keys[k];
        size_t depth = put_sections(out, before, key->path, &name);
        bool in_list = starts_with(key->path, MEMBERS), first = in_list && strcmp(name, "id") == 0;

        if (depth == 0)
            put(out, "\n");
        put_help(out, key, in_list && !first ? depth + 1 : depth);
        put_indent(out, depth);
        if (in_list)
            put(out, first ? "- " : "  ");
        put(out, name);
        put(out, ": ");
        put_sample_value(out, key);
        before = key->path;
    }
    put(out, "\n# An experiment: users are shared out among variants of the settings, by a hash of their id; "
             "answers\n"
             "# and metrics name the variant. The same on every node, or a user's variant depends on who "
             "answers. None\n"
             "# by default; to have one, take the first # of each line up to the next empty one away.\n");
    put_commented(out, put_sample_experiment);
    put(out, "\n# Streams of events that the cluster reads by itself, each event exactly once: none by "
             "default. The\n"
             "# same list on every node (paths of files may differ: each node reads its own). To use it, "
             "take the\n"
             "# first # of each line below away, and the entries that are not wanted.\n");
    put_commented(out, put_sample_sources);
}
