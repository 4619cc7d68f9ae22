/* The part `experiment` of the configuration: its list of variants, and what they mean to the recommend room.
 */
#include "node/config_load.h"

#include <stdio.h>
#include <string.h>

static const char SEPARATORS[] = " ,";

enum dn_code dn_load_variants(struct dn_loader *loader, const yaml_node_t *node)
{
    static const char WANTED[] = "a list of {name, share, ...}";
    char reason[80];

    if (node->type != YAML_SEQUENCE_NODE)
        return dn_load_fail_kind(loader, node, "experiment.variants", WANTED);
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top;
         item++) {
        const yaml_node_t *entry = yaml_document_get_node(&loader->document, *item);
        size_t at = loader->config.experiment.variant_count;

        if (entry->type != YAML_MAPPING_NODE)
            return dn_load_fail_kind(loader, entry, "experiment.variants", WANTED);
        if (at == DN_VARIANTS_MAX) {
            snprintf(reason, sizeof(reason), "has more than %d entries", DN_VARIANTS_MAX);
            return dn_load_fail(loader, dn_load_line(entry), "experiment.variants", reason);
        }
        loader->config.experiment.variants[at].line = dn_load_line(entry);
        enum dn_code code =
            dn_load_entry(loader, entry, "experiment.variants[].", &loader->config.experiment.variants[at]);
        if (code != DN_OK)
            return code;
        loader->config.experiment.variant_count++;
    }
    return DN_OK;
}

/* Names to bits. False: *ret_word, of so many bytes, is no source. */
static bool read_sources(const char *text, uint32_t *ret_bits, const char **ret_word, size_t *ret_length)
{
    *ret_bits = 0;
    for (const char *word = text + strspn(text, SEPARATORS); *word; word += strspn(word, SEPARATORS)) {
        size_t length = strcspn(word, SEPARATORS);
        unsigned source = 0;

        while (source < DN_SOURCE_COUNT && (strlen(dn_recommend_source_name(source)) != length ||
                                            memcmp(dn_recommend_source_name(source), word, length) != 0))
            source++;
        *ret_word = word;
        *ret_length = length;
        if (source == DN_SOURCE_COUNT)
            return false;
        *ret_bits |= 1u << source;
        word += length;
    }
    return true;
}

static enum dn_code check_sources(struct dn_loader *loader, const struct dn_config_variant *variant)
{
    char reason[400];
    const char *word;
    uint32_t bits;
    size_t length;

    if (read_sources(variant->sources_off, &bits, &word, &length))
        return DN_OK;
    int used = snprintf(reason, sizeof(reason), "no source is called '%.*s'; there are",
                        (int)(length < 60 ? length : 60), word);
    for (unsigned i = 0; i < DN_SOURCE_COUNT && used > 0 && (size_t)used < sizeof(reason); i++)
        used += snprintf(reason + used, sizeof(reason) - (size_t)used, "%s %s", i ? "," : "",
                         dn_recommend_source_name(i));
    return dn_load_fail(loader, variant->line, "experiment.variants[].sources_off", reason);
}

enum dn_code dn_load_check_experiment(struct dn_loader *loader)
{
    const struct dn_config *config = &loader->config;
    struct dn_experiment experiment;
    struct dn_error reason = {.code = DN_OK};
    size_t about, count;
    const struct dn_config_key *name = dn_config_find("experiment.name");

    DN_ASSERT(name != NULL);
    for (size_t i = 0; i < config->experiment.variant_count; i++) {
        enum dn_code code = check_sources(loader, &config->experiment.variants[i]);

        if (code != DN_OK)
            return code;
    }
    unsigned line = config->lines[name - dn_config_keys(&count)];
    if (config->experiment.name[0] && config->experiment.variant_count == 0)
        return dn_load_fail(loader, line, "experiment.name", "is given, but experiment.variants is empty");
    dn_config_experiment(config, &experiment);
    if (dn_experiment_check(&experiment, &about, &reason) == DN_OK)
        return DN_OK;
    if (about == DN_VARIANT_NONE)
        return dn_load_fail(loader, line ? line : 1, "experiment", reason.message);
    return dn_load_fail(loader, config->experiment.variants[about].line, "experiment.variants[]",
                        reason.message);
}

void dn_config_experiment(const struct dn_config *config, struct dn_experiment *ret)
{
    *ret = (struct dn_experiment){.count = config->experiment.variant_count};
    memcpy(ret->name, config->experiment.name, sizeof(ret->name));
    for (size_t i = 0; i < ret->count; i++) {
        const struct dn_config_variant *from = &config->experiment.variants[i];
        struct dn_variant *to = &ret->variants[i];
        const char *word;
        size_t length;

        memcpy(to->name, from->name, sizeof(to->name));
        to->share = from->share;
        to->diversity = (float)from->diversity;
        to->category_cap = (uint32_t)from->category_cap;
        to->fixed_weights = from->fixed_weights;
        (void)read_sources(from->sources_off, &to->sources_off, &word, &length); /* checked */
    }
}
