/* Private to node's configuration: what config.c and config_sources.c share while a file is loaded. */
#ifndef DN_NODE_CONFIG_LOAD_H
#define DN_NODE_CONFIG_LOAD_H

#include "node/config.h"

#include <yaml.h>

#define DN_LOAD_PATH_MAX 160

struct dn_loader {
    const char *file;
    yaml_document_t document;
    struct dn_config config;
    unsigned
        given[DN_CONFIG_KEYS_MAX]; /* by key: where the list entry that is being loaded sets it; 0: not */
    struct dn_error *err;
};

/* DN_INVALID, "file:line: path: reason". */
enum dn_code dn_load_fail(struct dn_loader *loader, unsigned line, const char *path, const char *reason);
/* "must be WANTED, not ..." */
enum dn_code dn_load_fail_kind(struct dn_loader *loader, const yaml_node_t *node, const char *path,
                               const char *wanted);
unsigned dn_load_line(const yaml_node_t *node);
/* The text of a scalar, NUL-terminated; NULL when it holds a NUL. */
const char *dn_load_text(const yaml_node_t *node);
/* The key of `pair` stands only once in the mapping; every key before it is text. */
enum dn_code dn_load_check_repeat(struct dn_loader *loader, const yaml_node_t *mapping,
                                  const yaml_node_pair_t *pair, const char *path);

/* An entry of a list: the keys under section ("cluster.members[].") into `into`; those without a default must
 * be there. loader->given tells which were. */
enum dn_code dn_load_entry(struct dn_loader *loader, const yaml_node_t *node, const char *section,
                           void *into);

/* ---- config_sources.c ---- */

/* The key `sources`, checks included. */
enum dn_code dn_load_sources(struct dn_loader *loader, const yaml_node_t *node);
/* The value of a key of kind LIST or MAP; `into` is the source that is being loaded. */
enum dn_code dn_load_collection(struct dn_loader *loader, const struct dn_config_key *key, void *into,
                                const yaml_node_t *node);

/* Whether the key has a meaning for such a source. */
bool dn_source_key_applies(const struct dn_config_key *key, const struct dn_source_config *source);
/* The word for an event type; "none" for 0. */
const char *dn_source_type_word(uint8_t type);
/* Whether a property's value may be shown: the few that are known to be no secret. */
bool dn_source_property_is_public(const char *name);
/* What --print-config shows in place of others. */
#define DN_SOURCE_VALUE_HIDDEN "(set)"

/* ---- config_experiment.c ---- */

/* The key `experiment.variants`. */
enum dn_code dn_load_variants(struct dn_loader *loader, const yaml_node_t *node);
/* The experiment as a whole, once everything is loaded. */
enum dn_code dn_load_check_experiment(struct dn_loader *loader);

#endif
