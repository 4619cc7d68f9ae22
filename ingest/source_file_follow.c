/* Followed files: which file is which, over rotation.
 *
 * For each path there are *candidates*: the file that has the name now, and its siblings that look like
 * rotated ones (app.log.1, app.log-20261120, app.log.2.gz). And there are *rows*: files met before, in this
 * run or an earlier one. A row is found again
 *  1. where a file has its inode and its first message (it grows on, or was renamed);
 *  2. else, where a sibling has its first message (it was copied, compressed). Plain before gzip.
 * A candidate that is no row's:
 *  3. the path's own file is a new stream;
 *  4. a sibling that begins like a row's file is a copy of it, and nothing new;
 *  5. any other sibling was written and rotated while nobody looked: a new stream; but those that lay there
 *     when the path was looked at for the first time are history, and never read.
 *
 * A row that is found nowhere for long, while its folder could be looked through and is the one that it was,
 * is gone; with ingest it settles what is left to do (its stream is `gone`, and is forgotten), and the last
 * of those that are over are remembered.
 *
 * Limits: the first message must tell files apart (one with a time in it does) wherever a file is copied or
 * compressed; a file that gets a name of another form after rotation is read to its end only by the run
 * that had it open; a file rotated away before it had one whole message is not read. */
#include "base/clock.h"
#include "base/log.h"
#include "ingest/source_file_memory.h"
#include "ingest/source_file_table_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIBLINGS_MAX 512
#define NO_CANDIDATE SIZE_MAX

struct candidate {
    char path[DN_FILE_PATH_MAX];
    struct stat status;
    bool identified;
    struct dn_file_identity identity;
    bool taken; /* by a row */
};

struct followed {
    const char *path, *base; /* base: its last part */
    char folder[DN_SOURCE_TEXT_MAX];
    uint64_t key;
    struct stat glanced;
    bool there;
    bool nameless;                /* there, but without a whole message yet */
    struct candidate *candidates; /* 0: the path itself */
    size_t count;
    bool current; /* candidates[0] is there */
    bool sure;    /* what was not found is not there */
    struct dn_file_home home;
    char trouble[DN_SOURCE_TEXT_MAX]; /* found by this scan; the first is kept */
};

struct dn_file_follow {
    struct followed paths[DN_SOURCE_LIST_MAX];
    size_t count;
    struct dn_file_memory memory;
    bool save_failed;
    bool changed; /* by this scan */
};

/* ---- candidates ---- */

/* What follows the file's name in a rotated one's: digits and marks, or "old"; and perhaps ".gz". */
static bool looks_rotated(const char *rest)
{
    size_t length = strlen(rest);
    bool digit = false;

    if (length > 3 && strcmp(rest + length - 3, ".gz") == 0) {
        length -= 3;
    }
    if (length < 2 || strchr("._-", rest[0]) == NULL) {
        return false;
    }
    if (length == 4 && memcmp(rest + 1, "old", 3) == 0) {
        return true;
    }
    for (size_t i = 0; i < length; i++) {
        if (rest[i] >= '0' && rest[i] <= '9') {
            digit = true;
        } else if (strchr("._-:TZ", rest[i]) == NULL) {
            return false;
        }
    }
    return digit;
}

static bool is_sibling(const char *name, void *data)
{
    const struct followed *followed = data;
    size_t length = strlen(followed->base);

    return strncmp(name, followed->base, length) == 0 && looks_rotated(name + length);
}

static bool is_followed_itself(const struct dn_file_follow *follow, const char *path)
{
    for (size_t i = 0; i < follow->count; i++) {
        if (strcmp(follow->paths[i].path, path) == 0) {
            return true;
        }
    }
    return false;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* What the last scan knew of it, or a look into it. Returns errno. */
static int identify(struct candidate *candidate, const struct candidate *before, size_t before_count,
                    enum dn_source_format format)
{
    int fd;

    for (size_t i = 0; i < before_count; i++) {
        if (before[i].identified && same_file(&before[i].status, &candidate->status)) {
            candidate->identified = true;
            candidate->identity = before[i].identity;
            return 0;
        }
    }
    fd = open(candidate->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return errno;
    }
    /* Of the file that is open: the path may be another's by now, and what is kept must fit together. */
    int error = fstat(fd, &candidate->status) != 0 ? errno : S_ISREG(candidate->status.st_mode) ? 0 : EINVAL;

    candidate->identified = error == 0 && dn_file_identify(fd, format, &candidate->identity);
    close(fd);
    return error;
}

/* Returns errno. */
static int add_candidate(struct dn_file_table *table, struct followed *followed, const char *path,
                         const struct candidate *before, size_t before_count)
{
    struct candidate *candidate = &followed->candidates[followed->count];
    int error;

    memset(candidate, 0, sizeof(*candidate));
    snprintf(candidate->path, sizeof(candidate->path), "%s", path);
    if (stat(path, &candidate->status) != 0) {
        return errno;
    }
    if (!S_ISREG(candidate->status.st_mode)) {
        return EINVAL;
    }
    error = identify(candidate, before, before_count, table->config->format);
    if (error == 0) {
        followed->count++;
    }
    return error;
}

static void say(struct followed *followed, const char *path, const char *what)
{
    if (followed->trouble[0] == '\0') {
        snprintf(followed->trouble, sizeof(followed->trouble), "%.300s: %s", path, what);
    }
}

static void say_error(struct followed *followed, const char *path, int error)
{
    if (followed->trouble[0] == '\0') {
        dn_file_table_explain(path, error, followed->trouble);
    }
}

/* False: the folder could not be looked through; nothing is concluded from it then. */
static bool collect(struct dn_file_table *table, struct followed *followed)
{
    struct candidate *before = followed->candidates;
    size_t before_count = followed->count;
    struct dn_file_names names = {0};
    char path[DN_FILE_PATH_MAX];
    bool there = dn_file_home_of(followed->folder, &followed->home);
    int error = dn_file_list(followed->folder, is_sibling, followed, SIBLINGS_MAX, &names), first;

    followed->count = 0;
    followed->candidates = error == 0 ? calloc(names.count + 1, sizeof(before[0])) : NULL;
    if (followed->candidates == NULL) {
        say_error(followed, followed->folder, error != 0 ? error : ENOMEM);
        dn_file_names_free(&names);
        free(before);
        return false;
    }
    first = add_candidate(table, followed, followed->path, before, before_count);
    followed->current = first == 0;
    followed->sure = there && !names.more && (first == 0 || first == ENOENT);
    if (first != 0) {
        say_error(followed, followed->path, first);
    } else if (followed->candidates[0].identified && followed->candidates[0].identity.gzip) {
        say(followed, followed->path, "it is compressed: follow takes plain files");
    }
    for (size_t i = 0; i < names.count; i++) {
        if (dn_file_join(followed->folder, names.names[i], path) &&
            !is_followed_itself(table->follow, path)) {
            error = add_candidate(table, followed, path, before, before_count);
            if (error != 0 && error != ENOENT) {
                say_error(followed, path, error);
                followed->sure = false;
            }
        }
    }
    if (names.more) {
        say(followed, followed->folder, "too many rotated files: delete old ones, or some are missed");
    }
    dn_file_names_free(&names);
    free(before);
    return true;
}

/* ---- rows ---- */

static bool find_by(struct followed *followed, struct dn_file_row *row, bool inode, bool gzip)
{
    for (size_t i = 0; i < followed->count; i++) {
        struct candidate *candidate = &followed->candidates[i];

        if (candidate->identified && !candidate->taken && candidate->identity.gzip == gzip &&
            (inode ? candidate->identity.inode == row->identity.inode : i > 0 || !followed->current) &&
            dn_hash128_equal(candidate->identity.first, row->identity.first)) {
            candidate->taken = true;
            row->candidate = i;
            return true;
        }
    }
    return false;
}

static void find_rows(struct dn_file_follow *follow, struct followed *followed)
{
    struct dn_file_memory *memory = &follow->memory;

    for (int pass = 0; pass < 3; pass++) { /* by inode; copies; compressed */
        for (size_t i = 0; i < memory->count; i++) {
            struct dn_file_row *row = &memory->rows[i];

            if (pass == 0) {
                row->candidate = row->path_key == followed->key ? NO_CANDIDATE : row->candidate;
            }
            if (row->path_key == followed->key && row->candidate == NO_CANDIDATE) {
                find_by(followed, row, pass == 0, pass == 2);
            }
        }
    }
}

static bool begin_alike(const char *a, const char *b)
{
    uint8_t *bytes = malloc(2 * (size_t)DN_FILE_FIRST_MAX);
    int first = open(a, O_RDONLY | O_CLOEXEC), second = open(b, O_RDONLY | O_CLOEXEC);
    bool alike = true; /* where it cannot be told: nothing is read twice */

    if (bytes != NULL && first >= 0 && second >= 0) {
        size_t length = dn_file_beginning(first, bytes, DN_FILE_FIRST_MAX);
        size_t other = dn_file_beginning(second, bytes + DN_FILE_FIRST_MAX, DN_FILE_FIRST_MAX);

        alike = memcmp(bytes, bytes + DN_FILE_FIRST_MAX, length < other ? length : other) == 0;
    }
    if (first >= 0) {
        close(first);
    }
    if (second >= 0) {
        close(second);
    }
    free(bytes);
    return alike;
}

/* Rule 4. */
static bool is_copy(const struct dn_file_follow *follow, const struct followed *followed, size_t index)
{
    const struct candidate *candidate = &followed->candidates[index];

    for (size_t i = 0; i < follow->memory.count; i++) {
        const struct dn_file_row *row = &follow->memory.rows[i];

        if (row->path_key == followed->key && row->candidate != NO_CANDIDATE &&
            dn_hash128_equal(row->identity.first, candidate->identity.first) &&
            begin_alike(followed->candidates[row->candidate].path, candidate->path)) {
            return true;
        }
    }
    return false;
}

static void make_entry(struct dn_file_table *table, size_t list_index, struct followed *followed,
                       struct dn_file_row *row)
{
    struct dn_file_entry entry = {.local = true, .list_index = list_index, .done = row->done};

    entry.where.identified = true;
    entry.where.identity = row->identity;
    entry.where.finished_at = row->finished_at;
    if (row->candidate != NO_CANDIDATE) {
        memcpy(entry.where.path, followed->candidates[row->candidate].path, sizeof(entry.where.path));
    }
    dn_file_name_of_identity(table->config->name, table->config->list[list_index], table->host->node_id,
                             &row->identity, entry.stream);
    row->index = dn_file_table_find(table, entry.stream);
    if (row->index != SIZE_MAX) {
        row->entry = table->entries[row->index];
        return;
    }
    entry.gone = row->gone;
    entry.where.settled = row->done && table->keeps;
    row->entry = dn_file_table_add(table, &entry);
    if (row->entry == NULL) {
        say(followed, followed->path,
            "more than 1024 files in one source: delete old rotated ones, once read");
        return;
    }
    row->index = dn_file_table_find(table, entry.stream);
    table->follow->changed = true;
}

static void add_rows(struct dn_file_table *table, struct followed *followed)
{
    bool known = dn_file_memory_knows(&table->follow->memory, followed->key);

    for (size_t i = 0; i < followed->count; i++) {
        struct candidate *candidate = &followed->candidates[i];
        bool current = i == 0 && followed->current;
        struct dn_file_row row = {.path_key = followed->key, .finished_at = -1, .candidate = i};
        struct dn_file_row *added;

        if (!candidate->identified || candidate->taken || (current && candidate->identity.gzip) ||
            (!current && known && is_copy(table->follow, followed, i))) {
            continue;
        }
        row.identity = candidate->identity;
        row.done = !current && !known;
        added = dn_file_memory_add(&table->follow->memory, &row);
        if (added == NULL) {
            say(followed, followed->path, "too many rotated files to remember: delete old ones");
        } else {
            candidate->taken = true;
            added->candidate = i;
        }
    }
    dn_file_memory_know(&table->follow->memory, followed->key);
}

/* Tells the row's stream where it is now. */
static void place(struct dn_file_table *table, const struct followed *followed, struct dn_file_row *row)
{
    const struct candidate *candidate =
        row->candidate != NO_CANDIDATE ? &followed->candidates[row->candidate] : NULL;
    struct dn_file_where *where = &row->entry->where;
    const char *path = candidate != NULL ? candidate->path : "";
    bool rotated = candidate == NULL || row->candidate > 0 || !followed->current;

    pthread_mutex_lock(&table->lock);
    if (strcmp(where->path, path) != 0) {
        snprintf(where->path, sizeof(where->path), "%s", path);
        table->follow->changed = true;
    }
    where->gzip = candidate != NULL && candidate->identity.gzip;
    if (rotated && !where->rotated) {
        where->rotated_us = dn_monotonic_us();
        table->follow->changed = true;
    }
    where->rotated = rotated;
    row->entry->gone = row->gone;
    row->done = row->entry->done;
    row->finished_at = where->finished_at;
    pthread_mutex_unlock(&table->lock);
}

/* A file with its inode is there, though it could not be identified. */
static bool may_be_there(const struct followed *followed, const struct dn_file_row *row)
{
    for (size_t i = 0; i < followed->count; i++) {
        if ((uint64_t)followed->candidates[i].status.st_ino == row->identity.inode) {
            return true;
        }
    }
    return false;
}

static void note_absence(const struct followed *followed, struct dn_file_row *row)
{
    if (row->candidate != NO_CANDIDATE) {
        row->home = followed->home;
        row->absence = (struct dn_file_absence){0};
        row->gone = false;
        return;
    }
    /* One of an earlier run, not seen in this one: the folder is believed where the path itself is in it. */
    bool same = row->home.known ? dn_file_home_same(&row->home, &followed->home) : followed->current;

    if (followed->sure && same && !may_be_there(followed, row) && dn_file_absent(&row->absence)) {
        row->gone = true;
    }
}

/* Is the row to have a stream? One that is done has, where it is gone: ingest settles it. A fetcher has one
 * for all that may still be asked for. */
static bool wants_entry(const struct dn_file_table *table, const struct dn_file_row *row)
{
    if (row->entry != NULL || row->over) {
        return false;
    }
    return !row->done || !table->keeps || (row->gone && row->finished_at >= 0);
}

static void place_row(struct dn_file_table *table, size_t list_index, struct followed *followed,
                      struct dn_file_row *row)
{
    note_absence(followed, row);
    /* Another file with the identity and the first message of one that was let go: its size will tell. */
    if (row->over && row->candidate == 0 && followed->current) {
        row->over = row->done = false;
    }
    if (wants_entry(table, row)) {
        make_entry(table, list_index, followed, row);
    }
    if (row->entry != NULL) {
        place(table, followed, row);
    } else if (row->gone && row->done && row->finished_at < 0) { /* history: it was never a stream */
        row->over = true;
    }
}

/* A fetcher's, which nobody settles. It keeps them while there is room: it answers for them. */
static bool fetcher_drops(struct dn_file_table *table, struct dn_file_row *row)
{
    if (table->keeps || !row->gone || table->used <= DN_SOURCE_PARTITIONS_MAX / 2) {
        return false;
    }
    if (row->entry != NULL) {
        dn_file_table_drop(table, row->index);
    }
    return true;
}

static void place_rows(struct dn_file_table *table, size_t list_index, struct followed *followed)
{
    struct dn_file_memory *memory = &table->follow->memory;
    size_t kept = 0, over = 0;

    for (size_t i = 0; i < memory->count; i++) {
        over += memory->rows[i].over;
    }
    for (size_t i = 0; i < memory->count; i++) {
        struct dn_file_row *row = &memory->rows[i];

        if (row->path_key == followed->key) {
            place_row(table, list_index, followed, row);
            if (row->over && row->candidate == NO_CANDIDATE && over > DN_FILE_ROWS_OVER) {
                over--; /* the oldest first */
                continue;
            }
            if (fetcher_drops(table, row)) {
                continue;
            }
        }
        if (kept != i) {
            memory->rows[kept] = *row;
        }
        kept++;
    }
    memory->count = kept;
}

/* What ingest has forgotten since the last scan. */
static void take_released(struct dn_file_table *table)
{
    struct dn_file_memory *memory = &table->follow->memory;

    for (size_t i = 0; i < memory->count; i++) {
        struct dn_file_row *row = &memory->rows[i];

        if (row->entry != NULL && dn_file_table_is_released(table, row->index)) {
            dn_file_table_drop(table, row->index);
            row->entry = NULL;
            row->done = row->over = true; /* read to its end, or given up by a person's word */
        }
    }
}

/* ---- the table's side ---- */

static void scan_path(struct dn_file_table *table, size_t list_index)
{
    struct followed *followed = &table->follow->paths[list_index];

    followed->trouble[0] = '\0';
    if (collect(table, followed)) {
        followed->nameless = followed->current && !followed->candidates[0].identified;
        find_rows(table->follow, followed);
        add_rows(table, followed);
        place_rows(table, list_index, followed);
    }
    dn_file_table_set_trouble(table, list_index, followed->trouble[0] != '\0' ? followed->trouble : NULL);
}

static void save(struct dn_file_table *table)
{
    struct dn_file_follow *follow = table->follow;
    struct dn_error err = {0};
    bool failed =
        dn_file_memory_save(&follow->memory, table->host->data_dir, table->config->name, &err) != DN_OK;

    if (failed && !follow->save_failed) {
        dn_warn(
            "ingest",
            "source '%s': %s: if this node is started again now, files that were compressed meanwhile may be "
            "missed or read twice",
            table->config->name, err.message);
    }
    follow->save_failed = failed;
}

bool dn_file_follow_scan(struct dn_file_table *table)
{
    struct dn_file_follow *follow = table->follow;

    follow->changed = false;
    take_released(table);
    if (!table->keeps) { /* what the one that keeps has met since */
        dn_file_memory_load(&follow->memory, table->host->data_dir, table->config->name, NULL);
    }
    for (size_t i = 0; i < follow->count; i++) {
        scan_path(table, i);
    }
    if (table->keeps) {
        save(table);
    }
    return follow->changed;
}

enum dn_file_glance dn_file_follow_glance(struct dn_file_table *table)
{
    enum dn_file_glance result = DN_FILE_SAME;

    for (size_t i = 0; i < table->follow->count; i++) {
        struct followed *followed = &table->follow->paths[i];
        struct stat status;
        bool there = stat(followed->path, &status) == 0;

        if (there != followed->there ||
            (there &&
             (status.st_ino != followed->glanced.st_ino || status.st_dev != followed->glanced.st_dev ||
              status.st_size < followed->glanced.st_size ||
              (followed->nameless && status.st_size != followed->glanced.st_size)))) {
            result = DN_FILE_OTHER;
        } else if (there && status.st_size != followed->glanced.st_size && result == DN_FILE_SAME) {
            result = DN_FILE_GREW;
        }
        followed->there = there;
        if (there) {
            followed->glanced = status;
        }
    }
    return result;
}

/* Rows of paths that are no longer configured are dropped. */
static void forget_others(struct dn_file_follow *follow)
{
    struct dn_file_memory *memory = &follow->memory;
    size_t kept = 0;

    for (size_t i = 0; i < memory->count; i++) {
        for (size_t j = 0; j < follow->count; j++) {
            if (memory->rows[i].path_key == follow->paths[j].key) {
                memory->rows[kept++] = memory->rows[i];
                break;
            }
        }
    }
    memory->count = kept;
    kept = 0;
    for (size_t i = 0; i < memory->known_count; i++) {
        for (size_t j = 0; j < follow->count; j++) {
            if (memory->known[i] == follow->paths[j].key) {
                memory->known[kept++] = memory->known[i];
                break;
            }
        }
    }
    memory->known_count = kept;
}

static void split_path(struct followed *followed, const char *path)
{
    const char *slash = strrchr(path, '/');

    followed->path = path;
    followed->key = dn_file_path_key(path);
    followed->base = slash != NULL ? slash + 1 : path;
    if (slash == NULL) {
        snprintf(followed->folder, sizeof(followed->folder), ".");
    } else {
        snprintf(followed->folder, sizeof(followed->folder), "%.*s", slash == path ? 1 : (int)(slash - path),
                 path);
    }
}

enum dn_code dn_file_follow_create(struct dn_file_table *table, struct dn_error *err)
{
    struct dn_file_follow *follow = calloc(1, sizeof(*follow));
    enum dn_code code;

    if (follow == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "no memory to follow files");
    }
    for (size_t i = 0; i < table->config->list_count; i++) {
        split_path(&follow->paths[follow->count++], table->config->list[i]);
    }
    code = dn_file_memory_create(&follow->memory, err);
    if (code == DN_OK) {
        code = dn_file_memory_load(&follow->memory, table->host->data_dir, table->config->name, err);
    }
    if (code != DN_OK) {
        dn_file_follow_destroy(follow);
        return code;
    }
    forget_others(follow);
    table->follow = follow;
    return DN_OK;
}

void dn_file_follow_destroy(struct dn_file_follow *follow)
{
    if (follow != NULL) {
        for (size_t i = 0; i < follow->count; i++) {
            free(follow->paths[i].candidates);
        }
        dn_file_memory_destroy(&follow->memory);
        free(follow);
    }
}
