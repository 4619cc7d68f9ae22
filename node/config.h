/* Private to node: dunlind's configuration file.
 *
 * One table (config_schema.c) says for each key its type, default, unit, range and help. Loading, printing
 * and the sample file (docs/dunlind.sample.yaml, compared by a test) all come from it. Every error reads
 * "file:line: key: what is wrong, what to change". */
#ifndef DN_NODE_CONFIG_H
#define DN_NODE_CONFIG_H

#include "base/buffer.h"
#include "base/error.h"
#include "consensus/consensus.h"
#include "ingest/source.h"
#include "recommend/recommend.h"
#include "recommend/variant.h"
#include "session/session.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DN_CONFIG_FILE_MAX (1u << 20) /* bytes */
#define DN_CONFIG_TEXT_MAX 512        /* bytes in a text value, with the NUL */
#define DN_CONFIG_NAME_MAX 65
#define DN_CONFIG_ADDRESS_MAX DN_ADDRESS_MAX
#define DN_CONFIG_KEYS_MAX 128

struct dn_config_member {
    uint64_t id;
    char name[DN_CONFIG_NAME_MAX];
    char address[DN_CONFIG_ADDRESS_MAX];
    unsigned line; /* in the file; 0: made up from defaults */
};

/* What a source's entry says beside struct dn_source_config. */
struct dn_config_source_notes {
    unsigned line; /* in the file */
    /* By property: the file its value is read from (dn_config_read_secrets); empty: it was given itself. */
    char property_files[DN_SOURCE_PROPERTIES_MAX][DN_SOURCE_TEXT_MAX];
};

struct dn_config_variant { /* of the experiment */
    char name[DN_VARIANT_NAME_MAX + 1];
    double share, diversity;
    uint64_t category_cap;
    char sources_off[DN_CONFIG_TEXT_MAX]; /* names, separated by spaces or commas */
    bool fixed_weights;
    unsigned line; /* in the file */
};

struct dn_config { /* names and units are those of the keys */
    struct {
        uint64_t id;
        char name[DN_CONFIG_NAME_MAX];
        char address[DN_CONFIG_ADDRESS_MAX]; /* empty: that of its entry */
        char data_dir[DN_CONFIG_TEXT_MAX];
        uint64_t drain_ms;
    } node;
    struct {
        char id[DN_CONFIG_NAME_MAX];
        uint64_t shards;
        struct dn_config_member members[DN_NODES_MAX];
        size_t member_count;
    } cluster;
    struct {
        char bind[DN_CONFIG_ADDRESS_MAX];
        char key_file[DN_CONFIG_TEXT_MAX], previous_key_file[DN_CONFIG_TEXT_MAX];
        bool allow_without_key;
    } peers;
    struct {
        char address[DN_CONFIG_ADDRESS_MAX];
        bool allow_plaintext;
        uint64_t threads, message_bytes, connections, streams, arena_bytes, default_deadline_ms,
            max_deadline_ms, pending_calls, pending_bytes, idle_timeout_ms, resets_per_s;
    } api;
    struct {
        char address[DN_CONFIG_ADDRESS_MAX];
        uint64_t connections, timeout_s;
    } admin;
    struct {
        char level[DN_CONFIG_NAME_MAX];
    } log;
    struct {
        uint64_t election_timeout_ms, heartbeat_ms, tick_ms, balance_ms, snapshot_log_bytes, min_free_bytes,
            segment_bytes, entry_max_bytes, inflight_entries;
        char journal_io[DN_CONFIG_NAME_MAX];
    } raft;
    struct {
        uint64_t gap_s, lateness_s, ahead_s, idle_s, events_per_user, ids_per_user, users_max, items_max,
            trend_half_life_s, near_cells, near_visitors, near_half_life_s;
    } session;
    struct {
        char factory[DN_CONFIG_NAME_MAX];
        uint64_t rebuild_changes, items_max;
        double depth;
    } index;
    struct {
        double type_weight[DN_EVENT_TYPE_MAX + 1];
        double recency_decay;
        uint64_t time_half_life_s, events_used, interests, shown_users;
        struct {
            bool enabled, network;
            uint64_t samples_per_s, interval_ms;
        } learning;
    } recommend;
    uint64_t freshness_alarm_ms;
    struct {
        char hash_key_file[DN_CONFIG_TEXT_MAX];
    } secrets;
    struct {
        char name[DN_VARIANT_NAME_MAX + 1];
        struct dn_config_variant variants[DN_VARIANTS_MAX];
        size_t variant_count;
    } experiment;
    struct dn_source_config sources[DN_SOURCES_CONFIGURED_MAX];
    struct dn_config_source_notes source_notes[DN_SOURCES_CONFIGURED_MAX];
    size_t source_count;

    struct dn_config_member joining;    /* of a node that is none of the members; id 0: it is one */
    unsigned lines[DN_CONFIG_KEYS_MAX]; /* by key: where the file sets it; 0: it does not */
};

/* ---- the table -------------------------------------------------------------------------------------- */

enum dn_config_kind {
    DN_CONFIG_BOOL,
    DN_CONFIG_UINT,
    DN_CONFIG_FLOAT,
    DN_CONFIG_BYTES, /* "64MiB"; a uint64_t */
    DN_CONFIG_TEXT,
    DN_CONFIG_ADDRESS, /* "host:port" */
    DN_CONFIG_CHOICE,  /* one of the words in `unit` (separated by spaces); an enum that counts them from 0 */
    DN_CONFIG_LIST,    /* texts, at most `max`; config_sources.c knows where they go */
    DN_CONFIG_MAP,     /* names and texts, likewise */
};

struct dn_config_key {
    const char *path; /* "raft.tick_ms"; "[]." stands for the entries of a list */
    enum dn_config_kind kind;
    size_t offset; /* in struct dn_config; of list entries in struct dn_config_member, dn_source_config */
    size_t size;   /* bytes of the field */
    double min, max;
    const char *standard; /* the default as it would be written; NULL: the key must be given */
    const char *unit;     /* "" when none */
    const char *help;     /* one or more lines separated by \n */
    const char *example;  /* value in the sample where there is no default; of lists and maps always */
};

/* All keys in the order of the sample file. */
const struct dn_config_key *dn_config_keys(size_t *ret_count);
/* The key with this path, or NULL. */
const struct dn_config_key *dn_config_find(const char *path);
/* Sets the field from text (no LIST or MAP). The message names the type or the range. `into`: the config, or
 * the list entry. */
enum dn_code dn_config_set(const struct dn_config_key *key, void *into, const char *text,
                           struct dn_error *err);

/* ---- loading and printing --------------------------------------------------------------------------- */

/* DN_IO (cannot read), DN_INVALID (everything else). *ret is whole on DN_OK only. */
enum dn_code dn_config_load(const char *path, struct dn_config *ret, struct dn_error *err);
/* As loaded from these bytes; `path` is for messages. */
enum dn_code dn_config_parse(const char *path, const void *bytes, size_t length, struct dn_config *ret,
                             struct dn_error *err);
/* Every key with the value in force, as YAML that loads to the same configuration; but properties of sources
 * whose value may be a secret read "(set)", which does not load. */
void dn_config_print(const struct dn_config *config, struct dn_buffer *out);
/* The documented sample: every key with its default. `sources`, of which there are none by default, is
 * commented out: each of its lines has one # more at its beginning. */
void dn_config_print_sample(struct dn_buffer *out);

/* This node's entry among the members, or, when it is none of them, one made of node.id, name and address.
 * node.address stands above the address of an entry. Never NULL for a configuration that was loaded. */
const struct dn_config_member *dn_config_self(const struct dn_config *config);
bool dn_address_is_loopback(const char *address);

/* What other rooms want to know, in their terms. */
void dn_config_shard_settings(const struct dn_config *config, struct dn_shard_settings *ret);
void dn_config_recommend_settings(const struct dn_config *config, struct dn_recommend_settings *ret);
/* Of a configuration that was loaded: it is dn_experiment_check'ed. */
void dn_config_experiment(const struct dn_config *config, struct dn_experiment *ret);

/* ---- secrets ---------------------------------------------------------------------------------------- */

/* Reads the hash key (config_key.c): from its file, which must be ours alone (mode 0600 or less), or derived
 * from the cluster id when every member is on loopback (*ret_derived true). DN_INVALID / DN_IO / DN_DENIED.
 */
enum dn_code dn_config_hash_key(const struct dn_config *config, uint8_t ret_key[DN_HASH_KEY_BYTES],
                                bool *ret_derived, struct dn_error *err);
/* The file's text, without white space at its end, NUL-terminated: at most size - 1 bytes. It must be a
 * regular file that its owner alone may read. `what` names the key in messages. Errors as above. */
enum dn_code dn_config_read_secret_file(const char *what, const char *path, char *ret_text, size_t size,
                                        size_t *ret_length, struct dn_error *err);
/* Reads what properties of sources keep in files: dn_config_load only notes their names. Errors as above. */
enum dn_code dn_config_read_secrets(struct dn_config *config, struct dn_error *err);
/* A text that tells two keys apart and gives nothing of them away. */
#define DN_FINGERPRINT_MAX 33
void dn_key_fingerprint(const uint8_t key[DN_HASH_KEY_BYTES], char ret_text[DN_FINGERPRINT_MAX]);

#endif
