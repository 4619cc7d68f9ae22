/* The happy path of dn_history_replay: find the marker of the newest snapshot in the journal -> build the
 * state from its file -> read the journal's entries behind it -> decode, apply, entry_done (as apply.c does)
 * -> keep the hash in a ring -> compare what ticks report of earlier indexes.
 *
 * Failures: the directory is in use or damaged; the log begins behind where the state ends; an entry that is
 * not understood. Nothing is repaired, and nothing is skipped. */
#include "consensus/history.h"

#include "consensus/entry.h"
#include "consensus/rpc.h"
#include "consensus/snapshot_store.h"
#include "journal/journal.h"

#include <raft.h>
#include <sodium.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASHES_KEPT 4096u /* newest own hashes that reports are compared with: they come a second later */

struct dn_history {
    char dir[PATH_MAX];
    char journal_dir[PATH_MAX];
    int lock; /* -1: the directory has no lock file */
    struct dn_disk *disk;
    struct dn_journal *journal;
};

/* ---- opening ---------------------------------------------------------------------------------------- */

static enum dn_code share_lock(struct dn_history *history, struct dn_error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/lock", history->dir) >= (int)sizeof path) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    history->lock = open(path, O_RDONLY | O_CLOEXEC);
    if (history->lock < 0 && errno != ENOENT) {
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    }
    if (history->lock >= 0 && flock(history->lock, LOCK_SH | LOCK_NB) != 0) {
        return dn_fail(err, errno == EWOULDBLOCK ? DN_PRECONDITION : DN_IO,
                       "data directory '%s' is in use by a running node: stop it, or replay a copy",
                       history->dir);
    }
    return DN_OK;
}

static enum dn_code open_journal(struct dn_history *history, struct dn_error *err)
{
    struct stat about;
    if (stat(history->journal_dir, &about) != 0 || !S_ISDIR(about.st_mode)) {
        return dn_fail(err, DN_NOT_FOUND, "'%s' is not a node's data directory: it has no folder 'journal'",
                       history->dir);
    }
    enum dn_code code = dn_disk_open(history->journal_dir, NULL, "pool", &history->disk, err);
    if (code != DN_OK) {
        return code;
    }
    struct dn_journal_options options = {
        .disk = history->disk, .name = history->journal_dir, .read_only = true};
    return dn_journal_open(&options, &history->journal, err);
}

enum dn_code dn_history_open(const char *data_dir, struct dn_history **ret, struct dn_error *err)
{
    struct dn_history *history = calloc(1, sizeof *history);
    if (history == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "open '%s'", data_dir);
    }
    history->lock = -1;
    enum dn_code code = DN_OK;
    if (snprintf(history->dir, sizeof history->dir, "%s", data_dir) >= (int)sizeof history->dir ||
        snprintf(history->journal_dir, sizeof history->journal_dir, "%s/journal", data_dir) >=
            (int)sizeof history->journal_dir) {
        code = dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    if (code == DN_OK) {
        code = share_lock(history, err);
    }
    if (code == DN_OK) {
        code = open_journal(history, err);
    }
    if (code != DN_OK) {
        dn_history_close(history);
        return code;
    }
    *ret = history;
    return DN_OK;
}

void dn_history_close(struct dn_history *history)
{
    if (history == NULL) {
        return;
    }
    dn_journal_destroy(history->journal);
    if (history->disk != NULL) {
        history->disk->ops->destroy(history->disk);
    }
    if (history->lock >= 0) {
        close(history->lock);
    }
    free(history);
}

/* ---- looking ---------------------------------------------------------------------------------------- */

static bool is_sole_voter(const struct raft_configuration *configuration)
{
    unsigned voters = 0;
    for (unsigned i = 0; i < configuration->n; i++) {
        voters += configuration->servers[i].role == RAFT_VOTER;
    }
    return voters == 1;
}

/* The configuration and the manifest that stand in a snapshot's marker (raft_io.c writes them). */
static enum dn_code marker_read(uint32_t group, const struct dn_journal_group *have, bool *ret_sole,
                                struct manifest **ret, struct dn_error *err)
{
    struct raft_configuration configuration;
    struct dn_reader reader;
    size_t length = 0;
    dn_reader_init(&reader, have->marker, have->marker_length);
    uint16_t version = dn_reader_u16(&reader);
    (void)dn_reader_u64(&reader); /* the configuration's index */
    if (reader.failed || version != MARKER_VERSION) {
        return dn_fail(err, DN_CORRUPT, "group %u: the marker of snapshot %" PRIu64 " has version %u", group,
                       have->snapshot_index, version);
    }
    enum dn_code code = rpc_configuration_decode(&reader, &configuration, err);
    if (code != DN_OK) {
        return dn_wrap(err, code, "group %u: the marker of snapshot %" PRIu64, group, have->snapshot_index);
    }
    *ret_sole = is_sole_voter(&configuration);
    raft_configuration_close(&configuration);
    const uint8_t *data = dn_reader_blob(&reader, RPC_DATA_MAX, &length);
    if (reader.failed || dn_reader_left(&reader) > 0) {
        return dn_fail(err, DN_CORRUPT, "group %u: the marker of snapshot %" PRIu64 " is malformed", group,
                       have->snapshot_index);
    }
    return manifest_decode(group, data, length, ret, err);
}

struct looking {
    uint64_t sure; /* by marks */
    bool sole;     /* by the newest configuration */
};

static enum dn_code decode(uint64_t index, const struct dn_journal_entry *entry, struct entry_view *ret,
                           struct dn_error *err)
{
    enum dn_code code = entry_decode(entry->bytes, entry->length, ret, err);
    return code == DN_OK ? DN_OK : dn_wrap(err, code, "entry %" PRIu64, index);
}

static enum dn_code look_at_change(struct looking *looking, uint64_t index,
                                   const struct dn_journal_entry *entry, struct dn_error *err)
{
    struct raft_configuration configuration;
    struct raft_buffer copy = {malloc(entry->length), entry->length}; /* aligned as libraft wants it */
    enum dn_code code = DN_OK;
    if (copy.base == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "entry %" PRIu64, index);
    }
    memcpy(copy.base, entry->bytes, entry->length);
    raft_configuration_init(&configuration);
    if (raft_configuration_decode(&copy, &configuration) != 0) {
        code = dn_fail(err, DN_CORRUPT, "entry %" PRIu64 ": a configuration that is malformed", index);
    } else {
        looking->sole = is_sole_voter(&configuration);
        raft_configuration_close(&configuration);
    }
    free(copy.base);
    return code;
}

static enum dn_code look_at(void *data, uint64_t index, const struct dn_journal_entry *entry,
                            struct dn_error *err)
{
    struct looking *looking = data;
    struct entry_view view;
    if (entry->type == RAFT_CHANGE) {
        return look_at_change(looking, index, entry, err);
    }
    if (entry->type != RAFT_COMMAND) {
        return DN_OK;
    }
    enum dn_code code = decode(index, entry, &view, err);
    for (uint32_t i = 0; code == DN_OK && i < view.head.mark_count; i++) {
        struct entry_mark mark = entry_mark_at(&view, i);
        if (mark.hash_index < index && mark.hash_index > looking->sure) {
            looking->sure = mark.hash_index;
        }
    }
    return code;
}

enum dn_code dn_history_look(struct dn_history *history, uint32_t group, struct dn_history_group *ret,
                             struct dn_error *err)
{
    struct dn_journal_group have;
    struct looking looking = {0};
    struct manifest *manifest = NULL;
    enum dn_code code = DN_OK;
    dn_journal_recovered(history->journal, group, &have);
    if (!have.known) {
        *ret = (struct dn_history_group){0};
        return DN_OK;
    }
    if (have.snapshot_index > 0) {
        code = marker_read(group, &have, &looking.sole, &manifest, err);
        manifest_unref(manifest);
    }
    if (code == DN_OK) {
        code = dn_journal_read(history->journal, group, look_at, &looking, err);
    }
    if (code != DN_OK) {
        return dn_wrap(err, code, "group %u in '%s'", group, history->journal_dir);
    }
    struct dn_history_group found = {
        .known = true,
        .snapshot_index = have.snapshot_index,
        .first_index = have.entry_count > 0 ? have.first_index : have.snapshot_index + 1,
        .term = have.term,
    };
    found.last_index = found.first_index + have.entry_count - 1;
    found.sure_index = looking.sole ? found.last_index : looking.sure;
    if (found.sure_index < found.snapshot_index) {
        found.sure_index = found.snapshot_index;
    }
    *ret = found;
    return DN_OK;
}

/* ---- applying --------------------------------------------------------------------------------------- */

struct replaying {
    const struct dn_history_options *options;
    const struct dn_fsm *fsm;
    struct dn_history_result result;
    struct dn_buffer answer; /* of apply; nobody waits for it */
    struct {
        uint64_t index, hash;
    } ring[HASHES_KEPT];
};

static void keep_hash(struct replaying *r)
{
    r->result.hash = r->fsm->hash(r->fsm->state);
    r->ring[r->result.index % HASHES_KEPT].index = r->result.index;
    r->ring[r->result.index % HASHES_KEPT].hash = r->result.hash;
}

static void compare(struct replaying *r, const struct entry_view *view)
{
    for (uint32_t i = 0; i < view->head.mark_count; i++) {
        struct entry_mark mark = entry_mark_at(view, i);
        if (mark.hash_index == 0 || r->ring[mark.hash_index % HASHES_KEPT].index != mark.hash_index) {
            continue;
        }
        if (r->ring[mark.hash_index % HASHES_KEPT].hash == mark.hash) {
            r->result.checked++;
        } else if (r->result.differing++ == 0) {
            r->result.differs_at = mark.hash_index;
            r->result.differing_node = mark.raft_id;
        }
    }
}

static enum dn_code apply_command(struct replaying *r, uint64_t index, const struct dn_journal_entry *entry,
                                  struct dn_error *err)
{
    struct entry_view view;
    size_t offset = 0;
    enum dn_code code = decode(index, entry, &view, err);
    if (code != DN_OK) {
        return code;
    }
    if (view.head.time_ms > r->result.time_ms) {
        r->result.time_ms = view.head.time_ms;
    }
    struct dn_apply at = {.index = index, .time_ms = r->result.time_ms};
    for (uint32_t i = 0; i < view.head.count; i++) {
        struct entry_record record = entry_next(&view, &offset);
        dn_buffer_clear(&r->answer);
        at.ordinal = i;
        r->fsm->apply(r->fsm->state, &at, record.bytes, record.length, &r->answer);
    }
    at.ordinal = 0;
    r->fsm->entry_done(r->fsm->state, &at);
    r->result.entries++;
    r->result.records += view.head.count;
    compare(r, &view);
    return DN_OK;
}

static enum dn_code apply_entry(void *data, uint64_t index, const struct dn_journal_entry *entry,
                                struct dn_error *err)
{
    struct replaying *r = data;
    enum dn_code code = DN_OK;
    if (index <= r->result.index || index > r->options->to_index) {
        return DN_OK;
    }
    if (index != r->result.index + 1) {
        return dn_fail(err, DN_CORRUPT, "entry %" PRIu64 " follows entry %" PRIu64, index, r->result.index);
    }
    if (entry->type == RAFT_COMMAND) { /* others are Raft's own: the state stays, the index moves */
        code = apply_command(r, index, entry, err);
    }
    if (code == DN_OK) {
        r->result.index = index;
        keep_hash(r);
        if (r->options->progress != NULL) {
            r->options->progress(r->options->data, index);
        }
    }
    return code;
}

static enum dn_code restore(const struct dn_history *history, struct replaying *r,
                            const struct dn_journal_group *have, struct dn_error *err)
{
    struct snapstore store = {.group = r->options->group};
    struct manifest *manifest = NULL;
    void *built = NULL;
    bool sole;
    if (sodium_init() < 0) {
        return dn_fail(err, DN_INTERNAL, "libsodium does not start");
    }
    if (snprintf(store.dir, sizeof store.dir, "%s/snapshots/%" PRIu32, history->dir, store.group) >=
        (int)sizeof store.dir) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    enum dn_code code = marker_read(store.group, have, &sole, &manifest, err);
    if (code != DN_OK) {
        return code;
    }
    code = snapstore_build(&store, manifest, r->fsm, NULL, &built, err);
    if (code == DN_OK) {
        r->fsm->restore_install(r->fsm->state, built);
        r->result.from_index = r->result.index = manifest->name.index;
        r->result.time_ms = manifest->time_ms;
        keep_hash(r);
        if (r->result.hash != manifest->state_hash) {
            code = dn_fail(err, DN_CORRUPT,
                           "the state restored at index %" PRIu64 " has hash %016" PRIx64 " where %016" PRIx64
                           " was written",
                           r->result.index, r->result.hash, manifest->state_hash);
        }
    }
    manifest_unref(manifest);
    return code;
}

/* Whether what is kept leads to where it is to go. */
static enum dn_code check_range(const struct dn_history_options *options, const struct dn_journal_group *have,
                                struct dn_error *err)
{
    uint64_t first = have->entry_count > 0 ? have->first_index : have->snapshot_index + 1;
    uint64_t last = first + have->entry_count - 1;
    uint64_t from = options->from_start ? 0 : have->snapshot_index;
    last = last > have->snapshot_index ? last : have->snapshot_index;
    if (options->from_start && first != 1) {
        return dn_fail(err, DN_RANGE,
                       "the log begins at entry %" PRIu64 ", no longer at 1: leave --from-start", first);
    }
    if (options->to_index > last) {
        return dn_fail(err, DN_RANGE, "the log ends at entry %" PRIu64 ", before %" PRIu64, last,
                       options->to_index);
    }
    if (options->to_index < from) {
        return dn_fail(
            err, DN_RANGE,
            "entry %" PRIu64 " is before the snapshot at %" PRIu64
            ": it can be reached from the start only, while the log has entry 1 (it begins at %" PRIu64 ")",
            options->to_index, from, first);
    }
    if (options->to_index > from && first > from + 1) {
        return dn_fail(err, DN_CORRUPT,
                       "the log begins at entry %" PRIu64 ", but the snapshot ends at %" PRIu64, first, from);
    }
    return DN_OK;
}

enum dn_code dn_history_replay(struct dn_history *history, const struct dn_history_options *options,
                               const struct dn_fsm *fsm, struct dn_history_result *ret, struct dn_error *err)
{
    struct dn_journal_group have;
    struct replaying *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "group %u", options->group);
    }
    r->options = options;
    r->fsm = fsm;
    dn_buffer_init(&r->answer, DN_RESULT_MAX);
    dn_journal_recovered(history->journal, options->group, &have);
    enum dn_code code = have.known ? check_range(options, &have, err)
                                   : dn_fail(err, DN_NOT_FOUND, "the directory has nothing of this group");
    if (code == DN_OK && !options->from_start && have.snapshot_index > 0) {
        code = restore(history, r, &have, err);
    }
    if (code == DN_OK && r->result.index == 0) {
        r->result.hash = fsm->hash(fsm->state);
    }
    if (code == DN_OK) {
        code = dn_journal_read(history->journal, options->group, apply_entry, r, err);
    }
    if (code == DN_OK) {
        *ret = r->result;
    } else {
        dn_wrap(err, code, "group %u in '%s'", options->group, history->dir);
    }
    dn_buffer_free(&r->answer);
    free(r);
    return code;
}
