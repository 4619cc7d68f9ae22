#include "ingest/source_file_table_private.h"

#include "base/clock.h"
#include "base/hash.h"
#include "ingest/source_file_gunzip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_BYTES_MAX (256ull << 20) /* one message must fit into memory, once for each file read */

unsigned dn_file_quiet_ms = 5000;

/* ---- configuration ---- */

static enum dn_code check_followed(const char *path, struct dn_error *err)
{
    size_t length = strlen(path);
    uint8_t magic[3];
    struct stat status;
    ssize_t got;
    int fd;

    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
        return dn_fail(err, DN_INVALID, "'%s' is a folder: follow takes files; name them one by one", path);
    }
    if (length > 0 && path[length - 1] == '/') {
        return dn_fail(err, DN_INVALID, "'%s' names a folder: follow takes files", path);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    got = fd >= 0 ? read(fd, magic, sizeof(magic)) : 0;
    if (fd >= 0) {
        close(fd);
    }
    if ((length > 3 && strcmp(path + length - 3, ".gz") == 0) ||
        (got > 0 && dn_gunzip_magic(magic, (size_t)got))) {
        return dn_fail(err, DN_INVALID,
                       "'%s' is compressed: follow takes plain files; leave follow out to read it once",
                       path);
    }
    return DN_OK;
}

static enum dn_code check_path(const struct dn_source_config *config, size_t index, struct dn_error *err)
{
    const char *path = config->list[index];

    if (path[0] == '\0') {
        return dn_fail(err, DN_INVALID, "path %zu is empty", index + 1);
    }
    for (size_t i = 0; i < index; i++) {
        if (strcmp(config->list[i], path) == 0) {
            return dn_fail(err, DN_INVALID, "'%s' is listed twice", path);
        }
    }
    if (strcmp(path, "-") != 0) {
        return config->follow ? check_followed(path, err) : DN_OK;
    }
    if (config->list_count > 1) {
        return dn_fail(err, DN_INVALID, "standard input ('-') must be a source of its own");
    }
    if (config->follow) {
        return dn_fail(err, DN_INVALID, "standard input ('-') cannot be followed: leave follow out");
    }
    return DN_OK;
}

enum dn_code dn_file_table_check(const struct dn_source_config *config, struct dn_error *err)
{
    enum dn_code code = DN_OK;

    if (config->list_count == 0 || config->list_count > DN_SOURCE_LIST_MAX) {
        code =
            dn_fail(err, DN_INVALID, "give 1 to %d paths: files, folders, or '-' alone", DN_SOURCE_LIST_MAX);
    } else if (config->message_bytes == 0 || config->message_bytes > MESSAGE_BYTES_MAX) {
        code = dn_fail(err, DN_INVALID, "message_bytes must be 1 to %llu", MESSAGE_BYTES_MAX);
    }
    for (size_t i = 0; i < config->list_count && code == DN_OK; i++) {
        code = check_path(config, i, err);
    }
    return code == DN_OK ? DN_OK : dn_wrap(err, code, "source '%s'", config->name);
}

enum dn_code dn_file_table_create(const struct dn_source_config *config, const struct dn_source_host *host,
                                  bool keeps, struct dn_file_table **ret, struct dn_error *err)
{
    enum dn_code code = dn_file_table_check(config, err);
    struct dn_file_table *table;

    if (code != DN_OK) {
        return code;
    }
    table = calloc(1, sizeof(*table));
    if (table == NULL) {
        return dn_fail(err, DN_NO_MEMORY, "source '%s': no memory", config->name);
    }
    table->config = config;
    table->host = host;
    table->keeps = keeps;
    pthread_mutex_init(&table->lock, NULL);
    if (config->follow && (code = dn_file_follow_create(table, err)) != DN_OK) {
        dn_file_table_destroy(table);
        return dn_wrap(err, code, "source '%s'", config->name);
    }
    *ret = table;
    return DN_OK;
}

void dn_file_table_destroy(struct dn_file_table *table)
{
    if (table == NULL) {
        return;
    }
    dn_file_follow_destroy(table->follow);
    for (size_t i = 0; i < table->count; i++) {
        free(table->entries[i]);
    }
    pthread_mutex_destroy(&table->lock);
    free(table);
}

/* ---- entries ---- */

static uint64_t hash_name(const char *name)
{
    return dn_hash64(name, strlen(name), 0);
}

size_t dn_file_table_find(struct dn_file_table *table, const char *stream)
{
    uint64_t hash = hash_name(stream);
    size_t found = SIZE_MAX;

    pthread_mutex_lock(&table->lock);
    for (size_t i = 0; i < table->count && found == SIZE_MAX; i++) {
        const struct dn_file_entry *entry = table->entries[i];

        if (entry != NULL && !entry->released && entry->stream_hash == hash &&
            strcmp(entry->stream, stream) == 0) {
            found = i;
        }
    }
    pthread_mutex_unlock(&table->lock);
    return found;
}

struct dn_file_entry *dn_file_table_add(struct dn_file_table *table, const struct dn_file_entry *entry)
{
    struct dn_file_entry *added = NULL;

    pthread_mutex_lock(&table->lock);
    table->full = table->used == DN_SOURCE_PARTITIONS_MAX;
    if (!table->full && (added = malloc(sizeof(*added))) != NULL) {
        size_t place = 0;

        while (place < table->count && table->entries[place] != NULL) {
            place++;
        }
        *added = *entry;
        added->stream_hash = hash_name(entry->stream);
        table->entries[place] = added;
        table->count = place == table->count ? place + 1 : table->count;
        table->used++;
    }
    pthread_mutex_unlock(&table->lock);
    return added;
}

void dn_file_table_drop(struct dn_file_table *table, size_t stream)
{
    pthread_mutex_lock(&table->lock);
    free(table->entries[stream]);
    table->entries[stream] = NULL;
    table->used--;
    pthread_mutex_unlock(&table->lock);
}

void dn_file_table_forget(struct dn_file_table *table, size_t stream)
{
    pthread_mutex_lock(&table->lock);
    DN_ASSERT(table->entries[stream] != NULL);
    table->entries[stream]->released = true;
    pthread_mutex_unlock(&table->lock);
}

void dn_file_table_name(struct dn_file_table *table, size_t stream, char ret[DN_SOURCE_MAX + 1])
{
    pthread_mutex_lock(&table->lock);
    DN_ASSERT(stream < table->count && table->entries[stream] != NULL);
    memcpy(ret, table->entries[stream]->stream, DN_SOURCE_MAX + 1);
    pthread_mutex_unlock(&table->lock);
}

bool dn_file_table_is_released(struct dn_file_table *table, size_t stream)
{
    pthread_mutex_lock(&table->lock);
    bool released = table->entries[stream] == NULL || table->entries[stream]->released;
    pthread_mutex_unlock(&table->lock);
    return released;
}

bool dn_file_table_has(struct dn_file_table *table, size_t stream)
{
    pthread_mutex_lock(&table->lock);
    bool has = stream < table->count && table->entries[stream] != NULL && !table->entries[stream]->released;
    pthread_mutex_unlock(&table->lock);
    return has;
}

bool dn_file_table_add_path(struct dn_file_table *table, const char *stream, const char *path)
{
    struct dn_file_entry entry = {.local = true, .where = {.finished_at = -1}};

    snprintf(entry.stream, sizeof(entry.stream), "%s", stream);
    snprintf(entry.where.path, sizeof(entry.where.path), "%s", path);
    return dn_file_table_add(table, &entry) != NULL;
}

size_t dn_file_table_streams(struct dn_file_table *table, struct dn_stream_info *ret, size_t max)
{
    size_t count;

    pthread_mutex_lock(&table->lock);
    count = table->count;
    for (size_t i = 0; i < count && i < max; i++) {
        const struct dn_file_entry *entry = table->entries[i];

        ret[i] = (struct dn_stream_info){0};
        if (entry != NULL && !entry->released) {
            memcpy(ret[i].stream, entry->stream, sizeof(ret[i].stream));
            ret[i].partition_count = 1;
            ret[i].local = entry->local;
            ret[i].gone = entry->gone;
        }
    }
    pthread_mutex_unlock(&table->lock);
    return count;
}

void dn_file_table_where(struct dn_file_table *table, size_t stream, struct dn_file_where *ret)
{
    pthread_mutex_lock(&table->lock);
    DN_ASSERT(stream < table->count);
    *ret = table->entries[stream]->where;
    ret->scans = table->scans;
    pthread_mutex_unlock(&table->lock);
}

void dn_file_table_finished(struct dn_file_table *table, size_t stream, int64_t end)
{
    pthread_mutex_lock(&table->lock);
    DN_ASSERT(stream < table->count);
    if (end > table->entries[stream]->where.finished_at) {
        table->entries[stream]->where.finished_at = end;
        table->entries[stream]->done = false;
    }
    pthread_mutex_unlock(&table->lock);
}

void dn_file_table_replicated(struct dn_file_table *table, size_t stream, int64_t next_offset)
{
    struct dn_file_entry *entry;

    pthread_mutex_lock(&table->lock);
    DN_ASSERT(stream < table->count);
    entry = table->entries[stream];
    entry->done =
        entry->where.settled || (entry->where.finished_at >= 0 && next_offset >= entry->where.finished_at);
    pthread_mutex_unlock(&table->lock);
}

/* ---- trouble ---- */

void dn_file_table_set_trouble(struct dn_file_table *table, size_t list_index, const char *text)
{
    pthread_mutex_lock(&table->lock);
    if (text == NULL) {
        table->trouble[list_index].since_ms = 0;
    } else {
        if (table->trouble[list_index].since_ms == 0) {
            table->trouble[list_index].since_ms = dn_wall_ms();
        }
        snprintf(table->trouble[list_index].text, DN_SOURCE_TEXT_MAX, "%s", text);
    }
    pthread_mutex_unlock(&table->lock);
}

void dn_file_table_explain(const char *path, int error, char ret_text[DN_SOURCE_TEXT_MAX])
{
    snprintf(ret_text, DN_SOURCE_TEXT_MAX, "%.300s: %s%s", path,
             error == EINVAL ? "no regular file" : strerror(error),
             error == ENOENT   ? ": nothing is read from it until it is there"
             : error == EACCES ? ": let this program's user read it"
                               : "");
}

void dn_file_table_unreadable(struct dn_file_table *table, size_t list_index, const char *path, int error)
{
    char text[DN_SOURCE_TEXT_MAX];

    dn_file_table_explain(path, error, text);
    dn_file_table_set_trouble(table, list_index, text);
}

int64_t dn_file_table_trouble(struct dn_file_table *table, char ret_text[DN_SOURCE_TEXT_MAX])
{
    int64_t since_ms = 0;

    ret_text[0] = '\0';
    pthread_mutex_lock(&table->lock);
    for (size_t i = 0; i < table->config->list_count; i++) {
        if (table->trouble[i].since_ms != 0 && (since_ms == 0 || table->trouble[i].since_ms < since_ms)) {
            since_ms = table->trouble[i].since_ms;
            memcpy(ret_text, table->trouble[i].text, DN_SOURCE_TEXT_MAX);
        }
    }
    pthread_mutex_unlock(&table->lock);
    return since_ms;
}

/* ---- files and folders that are not followed ---- */

uint64_t dn_file_table_mix(uint64_t signature, const char *path, const struct stat *status)
{
    const int64_t facts[] = {(int64_t)status->st_ino, (int64_t)status->st_size,
                             (int64_t)status->st_mtim.tv_sec, (int64_t)status->st_mtim.tv_nsec};

    return dn_hash64(facts, sizeof(facts), dn_hash64(path, strlen(path), signature));
}

/* ---- what is there no more ---- */

bool dn_file_absent(struct dn_file_absence *absence)
{
    uint64_t now_us = dn_monotonic_us();

    if (absence->scans++ == 0) {
        absence->since_us = now_us;
    }
    return absence->scans > DN_FILE_GONE_SCANS &&
           now_us - absence->since_us >= (uint64_t)dn_file_quiet_ms * 1000;
}

bool dn_file_home_of(const char *folder, struct dn_file_home *ret)
{
    struct stat status;

    *ret = (struct dn_file_home){0};
    if (stat(folder, &status) != 0) {
        return false;
    }
    *ret = (struct dn_file_home){.known = true, .device = status.st_dev, .inode = status.st_ino};
    return true;
}

bool dn_file_home_same(const struct dn_file_home *a, const struct dn_file_home *b)
{
    return a->known && b->known && a->device == b->device && a->inode == b->inode;
}

/* The folder was looked through, and this file of it was not there. */
static void miss(struct dn_file_table *table, size_t index, const struct dn_file_home *home)
{
    struct dn_file_entry *entry = table->entries[index];
    struct stat status;

    /* That it was not listed is not enough: the folder may hold more files than are listed. */
    if (!dn_file_home_same(&entry->home, home) ||
        fstatat(AT_FDCWD, entry->where.path, &status, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT) {
        return;
    }
    if (!dn_file_absent(&entry->absence)) {
        return;
    }
    if (!table->keeps) { /* a fetcher's, and nobody else's */
        dn_file_table_drop(table, index);
        return;
    }
    pthread_mutex_lock(&table->lock);
    entry->gone = true;
    pthread_mutex_unlock(&table->lock);
}

static void miss_others(struct dn_file_table *table, size_t list_index, const struct dn_file_home *home)
{
    for (size_t i = 0; i < table->count; i++) {
        struct dn_file_entry *entry = table->entries[i];

        if (entry != NULL && entry->list_index == list_index && entry->home.known && !entry->seen) {
            miss(table, i, home);
        }
    }
}

/* Before a scan of files that are not followed. */
static void begin_scan(struct dn_file_table *table)
{
    table->full = false; /* until something finds no room */
    for (size_t i = 0; i < table->count; i++) {
        if (table->entries[i] == NULL) {
            continue;
        }
        if (dn_file_table_is_released(table, i)) {
            dn_file_table_drop(table, i);
        } else {
            table->entries[i]->seen = false;
        }
    }
}

static void note_seen(struct dn_file_table *table, size_t index, const struct dn_file_home *home)
{
    struct dn_file_entry *entry = table->entries[index];

    entry->seen = true;
    entry->absence = (struct dn_file_absence){0};
    if (home != NULL) {
        entry->home = *home;
    }
    pthread_mutex_lock(&table->lock);
    entry->gone = false;
    pthread_mutex_unlock(&table->lock);
}

/* A regular file: its stream, if it is new. home: of the folder that it was found in; NULL: it was named by
 * itself, and is never gone. Returns errno. */
static int look_at_file(struct dn_file_table *table, size_t list_index, const char *path,
                        const struct dn_file_home *home, uint64_t *signature)
{
    struct dn_file_entry entry = {.list_index = list_index, .where = {.whole = true, .finished_at = -1}};
    struct stat status;

    if (stat(path, &status) != 0) {
        return errno;
    }
    if (!S_ISREG(status.st_mode)) {
        return EINVAL;
    }
    if (faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0) {
        return errno;
    }
    *signature = dn_file_table_mix(*signature, path, &status);
    dn_file_name_of_path(table->config->name, path, entry.stream);
    size_t index = dn_file_table_find(table, entry.stream);
    if (index == SIZE_MAX) {
        snprintf(entry.where.path, sizeof(entry.where.path), "%s", path);
        dn_file_table_add(table, &entry);
        index = dn_file_table_find(table, entry.stream);
    }
    if (index != SIZE_MAX) {
        note_seen(table, index, home);
    }
    return 0;
}

static void say_full(struct dn_file_table *table, size_t list_index, const char *path)
{
    char text[DN_FILE_PATH_MAX + 128];

    snprintf(text, sizeof(text),
             "%s: more than %d files in one source: those last in order are not read: "
             "make several sources of them",
             path, DN_SOURCE_PARTITIONS_MAX);
    dn_file_table_set_trouble(table, list_index, text);
}

static void look_at_folder(struct dn_file_table *table, size_t list_index, const char *folder,
                           uint64_t *signature)
{
    char path[DN_FILE_PATH_MAX], text[DN_FILE_PATH_MAX + 128];
    struct dn_file_home home;
    struct dn_file_names names;
    bool there = dn_file_home_of(folder, &home); /* before it is looked through: see miss */
    int error = dn_file_list(folder, NULL, NULL, DN_SOURCE_PARTITIONS_MAX, &names);
    bool trouble = false;

    if (error != 0) {
        dn_file_table_unreadable(table, list_index, folder, error);
        return;
    }
    for (size_t i = 0; i < names.count; i++) {
        if (!dn_file_join(folder, names.names[i], path)) {
            continue; /* cannot be: both have their limits */
        }
        error = look_at_file(table, list_index, path, &home, signature);
        if (error != 0 && error != ENOENT && !trouble) {
            dn_file_table_unreadable(table, list_index, path, error);
            trouble = true;
        }
    }
    if (there) {
        miss_others(table, list_index, &home);
    }
    if (names.count > 0 && there) {
        table->found_in[list_index] = home;
    }
    if (names.more || table->full) {
        say_full(table, list_index, folder);
    } else if (names.count == 0 && !(there && dn_file_home_same(&table->found_in[list_index], &home))) {
        snprintf(text, sizeof(text), "%s: no files in this folder", folder);
        dn_file_table_set_trouble(table, list_index, text);
    } else if (!trouble) {
        dn_file_table_set_trouble(table, list_index, NULL);
    }
    dn_file_names_free(&names);
}

static void look_at_path(struct dn_file_table *table, size_t list_index, uint64_t *signature)
{
    const char *path = table->config->list[list_index];
    struct stat status;
    int error = stat(path, &status) == 0 ? 0 : errno;

    if (error == 0 && S_ISDIR(status.st_mode)) {
        look_at_folder(table, list_index, path, signature);
        return;
    }
    if (error == 0) {
        error = look_at_file(table, list_index, path, NULL, signature);
    }
    if (error != 0) {
        dn_file_table_unreadable(table, list_index, path, error);
    } else if (table->full) {
        say_full(table, list_index, path);
    } else {
        dn_file_table_set_trouble(table, list_index, NULL);
    }
}

bool dn_file_table_scan(struct dn_file_table *table)
{
    uint64_t signature = 0;
    bool changed = false;

    if (table->follow != NULL) {
        changed = dn_file_follow_scan(table);
    } else if (strcmp(table->config->list[0], "-") != 0) {
        begin_scan(table);
        for (size_t i = 0; i < table->config->list_count; i++) {
            look_at_path(table, i, &signature);
        }
        changed = signature != table->signature;
        table->signature = signature;
    }
    pthread_mutex_lock(&table->lock);
    table->scans++;
    pthread_mutex_unlock(&table->lock);
    return changed;
}

enum dn_file_glance dn_file_table_glance(struct dn_file_table *table)
{
    return table->follow != NULL ? dn_file_follow_glance(table) : DN_FILE_SAME;
}
