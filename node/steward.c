/* Steward: sees to what must stand in the replicated state because the configuration says so.
 *
 * Settings. The leader of a shard whose settings are not those of its configuration proposes a SETTINGS
 * record: at once when it becomes leader, and again every turn while they differ. Nodes with different
 * configurations therefore follow the leader's; no two fight within a term. Settings of the tables (near_...)
 * are in a record that older builds do not read: it waits until all members are known to (consensus.h,
 * feature levels), and the other settings go without them meanwhile.
 *
 * Facts. "shards", "key_fingerprint" and "catalog_items_max" are set once in group 0 by its first leader.
 * Every node compares them with its own before it serves its first call: a node that hashes users with
 * another key would write other people's sessions, and one with another limit would answer an upsert
 * otherwise than the rest. Once they matched, they are kept in data_dir/facts_seen, so that a later start
 * needs no majority to know.
 *
 * Invariants:
 *  1. At most one proposal of each kind is in flight; its memory stays untouched until `done` ran.
 *  2. facts_known is set only after all facts were read from the replicated state, or from facts_seen, and
 *     matched. */
#include "node/node.h"

#include "base/clock.h"
#include "base/log.h"
#include "session/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NEAR_WAITED_SAID 50 /* turns; a cluster that starts takes fewer */

enum { PROPOSAL_US = 2000000, RECORD_BYTES_MAX = 4096, FACT_MAX = 64, FACT_COUNT = 3, FILE_BYTES_MAX = 256 };

struct errand {
    struct dn_proposal proposal;
    struct dn_buffer record;
    const char *what;
    atomic_bool in_flight;
};

struct dn_steward {
    struct dn_node *node;
    struct dn_shard_settings wanted;
    struct errand settings[DN_SHARDS_MAX];
    struct errand facts[FACT_COUNT];
    atomic_uint near_waited; /* how often the settings of the tables were held back */
    char values[FACT_COUNT][FACT_MAX];
};

static const char *const FACTS[FACT_COUNT] = {"shards", "key_fingerprint", "catalog_items_max"};
/* The configuration key to correct when a fact is not ours. */
static const char *const FACT_KEYS[FACT_COUNT] = {"cluster.shards", "secrets.hash_key_file",
                                                  "index.items_max"};

struct dn_steward *dn_steward_create(struct dn_node *node)
{
    struct dn_steward *steward = calloc(1, sizeof(*steward));

    if (!steward)
        return NULL;
    steward->node = node;
    dn_config_shard_settings(node->config, &steward->wanted);
    snprintf(steward->values[0], FACT_MAX, "%u", node->shard_count);
    snprintf(steward->values[1], FACT_MAX, "%s", node->fingerprint);
    snprintf(steward->values[2], FACT_MAX, "%u", (unsigned)node->config->index.items_max);
    return steward;
}

void dn_steward_destroy(struct dn_steward *steward)
{
    if (!steward)
        return;
    for (size_t i = 0; i < DN_SHARDS_MAX; i++)
        dn_buffer_free(&steward->settings[i].record);
    for (size_t i = 0; i < FACT_COUNT; i++)
        dn_buffer_free(&steward->facts[i].record);
    free(steward);
}

/* ---- proposing ------------------------------------------------------------------------------------------
 */

static void on_done(struct dn_proposal *proposal, enum dn_code code, uint64_t index, const uint8_t *result,
                    size_t length, const struct dn_error *err)
{
    struct errand *errand = proposal->data;

    (void)result;
    (void)length;
    if (code == DN_OK)
        dn_info("node", "group %u: %s committed at index %llu", proposal->group, errand->what,
                (unsigned long long)index);
    else
        dn_debug("node", "group %u: %s: %s; trying again while leader", proposal->group, errand->what,
                 err ? err->message : dn_code_text(code));
    atomic_store(&errand->in_flight, false);
}

/* The caller took the errand (in_flight is set) and filled its record. */
static void propose(struct dn_steward *steward, struct errand *errand, uint32_t group, const char *what)
{
    struct dn_consensus *consensus = atomic_load(&steward->node->consensus);

    errand->what = what;
    errand->proposal = (struct dn_proposal){
        .group = group,
        .record = errand->record.bytes,
        .length = errand->record.length,
        .deadline_us = dn_monotonic_us() + PROPOSAL_US,
        .done = on_done,
        .data = errand,
    };
    if (errand->record.failed || !dn_consensus_propose(consensus, &errand->proposal))
        atomic_store(&errand->in_flight, false);
}

static bool take(struct errand *errand)
{
    if (atomic_exchange(&errand->in_flight, true))
        return false;
    if (!errand->record.bytes)
        dn_buffer_init(&errand->record, RECORD_BYTES_MAX);
    dn_buffer_clear(&errand->record);
    return true;
}

/* Without cells there are no tables, whatever the other two are. */
static bool near_equal(const struct dn_shard_settings *a, const struct dn_shard_settings *b)
{
    return a->near_cells == b->near_cells &&
           (a->near_cells == 0 ||
            (a->near_visitors == b->near_visitors && a->near_half_life_ms == b->near_half_life_ms));
}

static bool settings_equal(const struct dn_shard_settings *a, const struct dn_shard_settings *b)
{
    return a->gap_ms == b->gap_ms && a->lateness_ms == b->lateness_ms && a->ahead_ms == b->ahead_ms &&
           a->idle_ms == b->idle_ms && a->events_per_user == b->events_per_user &&
           a->ids_per_user == b->ids_per_user && a->users_max == b->users_max &&
           a->items_max == b->items_max && a->trend_half_life_ms == b->trend_half_life_ms;
}

/* May the record with the settings of the tables be proposed? A shard that has tables was sent one before:
 * nobody who cannot read it is left. */
static bool near_known(struct dn_steward *steward, const struct dn_shard_settings *current)
{
    if (current->near_cells != 0 ||
        dn_consensus_level(atomic_load(&steward->node->consensus)) >= DN_LEVEL_NEAR)
        return true;
    if (atomic_fetch_add(&steward->near_waited, 1) + 1 == NEAR_WAITED_SAID)
        dn_info("node",
                "session.near_cells and its kin wait until all members are connected, and of a build that "
                "knows them ('dunlin member list')");
    return false;
}

/* This node leads the group. Consensus thread or main thread. */
static void propose_settings(struct dn_steward *steward, uint32_t group)
{
    struct errand *errand = &steward->settings[group - 1];
    struct dn_shard_settings current;

    dn_shard_settings(steward->node->shards[group - 1], &current);
    bool near = !near_equal(&current, &steward->wanted) && near_known(steward, &current);
    if ((settings_equal(&current, &steward->wanted) && !near) || !take(errand))
        return;
    if (near)
        dn_record_settings(&errand->record, &steward->wanted);
    else
        dn_record_settings_without_near(&errand->record, &steward->wanted);
    propose(steward, errand, group, "settings");
}

void dn_steward_on_leader(struct dn_steward *steward, uint32_t group)
{
    /* Elections may end before dn_consensus_start returned; the next turn sees to it then. */
    if (group >= 1 && atomic_load(&steward->node->consensus))
        propose_settings(steward, group);
}

static void propose_fact(struct dn_steward *steward, size_t i)
{
    struct errand *errand = &steward->facts[i];

    if (!take(errand))
        return;
    dn_catalog_record_fact(&errand->record, FACTS[i], steward->values[i]);
    propose(steward, errand, 0, FACTS[i]);
}

/* ---- facts ----------------------------------------------------------------------------------------------
 */

static enum dn_code fail_fact(const struct dn_steward *steward, size_t i, const char *theirs,
                              const char *where, struct dn_error *err)
{
    return dn_fail(err, DN_PRECONDITION,
                   "the cluster's %s is %s (%s), this node's is %s: correct %s; nothing was written",
                   FACTS[i], theirs, where, steward->values[i], FACT_KEYS[i]);
}

static enum dn_code learn_facts(struct dn_steward *steward, bool leads, struct dn_error *err)
{
    size_t known = 0;

    for (size_t i = 0; i < FACT_COUNT; i++) {
        char value[FACT_MAX];

        dn_epoch_enter(steward->node->reader);
        enum dn_code code = dn_catalog_fact(steward->node->catalog, FACTS[i], value, sizeof(value));
        dn_epoch_leave(steward->node->reader);
        if (code == DN_OK && strcmp(value, steward->values[i]) != 0)
            return fail_fact(steward, i, value, "set in its log", err);
        if (code == DN_OK)
            known++;
        else if (leads)
            propose_fact(steward, i);
    }
    return known == FACT_COUNT ? DN_OK : DN_NOT_FOUND;
}

static void facts_path(const struct dn_steward *steward, const char *suffix, char *ret, size_t size)
{
    snprintf(ret, size, "%s/facts_seen%s", steward->node->config->node.data_dir, suffix);
}

static void facts_text(const struct dn_steward *steward, char ret[FILE_BYTES_MAX])
{
    snprintf(ret, FILE_BYTES_MAX, "dunlin facts 1\n%s %s\n%s %s\n%s %s\n", FACTS[0], steward->values[0],
             FACTS[1], steward->values[1], FACTS[2], steward->values[2]);
}

enum dn_code dn_steward_check_file(struct dn_steward *steward, struct dn_error *err)
{
    char path[DN_CONFIG_TEXT_MAX + 32], text[FILE_BYTES_MAX + 1];
    char values[FACT_COUNT][FACT_MAX];
    int end = 0;

    facts_path(steward, "", path, sizeof(path));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? DN_OK : dn_fail(err, DN_IO, "%s: cannot open: %s", path, strerror(errno));
    ssize_t length = read(fd, text, FILE_BYTES_MAX);
    close(fd);
    if (length < 0)
        return dn_fail(err, DN_IO, "%s: cannot read: %s", path, strerror(errno));
    text[length] = 0;
    if (sscanf(text, "dunlin facts 1\nshards %63s\nkey_fingerprint %63s\ncatalog_items_max %63s%n", values[0],
               values[1], values[2], &end) != 3 ||
        strcmp(text + end, "\n") != 0)
        return dn_fail(err, DN_CORRUPT,
                       "%s: is damaged: remove it, and the node learns the facts from the cluster again",
                       path);
    for (size_t i = 0; i < FACT_COUNT; i++)
        if (strcmp(values[i], steward->values[i]) != 0)
            return fail_fact(steward, i, values[i], path, err);
    atomic_store(&steward->node->facts_known, true);
    return DN_OK;
}

/* Written beside, flushed and renamed: it is whole or not there. Without it the node only waits for the
 * cluster's word at the next start, so a failure is no more than a warning. */
static void keep_facts(const struct dn_steward *steward)
{
    char path[DN_CONFIG_TEXT_MAX + 32], fresh[DN_CONFIG_TEXT_MAX + 32], text[FILE_BYTES_MAX];

    facts_path(steward, "", path, sizeof(path));
    facts_path(steward, ".new", fresh, sizeof(fresh));
    facts_text(steward, text);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        goto warn;
    bool written = write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fsync(fd) == 0;
    if (close(fd) == 0 && written && rename(fresh, path) == 0)
        return;
warn:
    dn_warn("node", "%s: cannot write: %s", path, strerror(errno));
}

enum dn_code dn_steward_turn(struct dn_steward *steward, struct dn_error *err)
{
    struct dn_node *node = steward->node;
    struct dn_consensus *consensus = atomic_load(&node->consensus);
    struct dn_group_status status;

    for (uint32_t group = 1; group <= node->shard_count; group++) {
        dn_consensus_status(consensus, group, &status);
        if (status.is_leader)
            propose_settings(steward, group);
    }
    /* Group 0 is looked at in every turn, also when facts_seen matched: the file is a memory, the log the
     * truth. */
    dn_consensus_status(consensus, 0, &status);
    enum dn_code code = learn_facts(steward, status.is_leader, err);
    if (code == DN_PRECONDITION)
        return code;
    if (code == DN_OK && !atomic_load(&node->facts_known)) {
        keep_facts(steward);
        atomic_store(&node->facts_known, true);
    }
    return DN_OK;
}
