#include "consensus/identity.h"

#include "base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDENTITY_MAX 8192 /* bytes of the file */

enum dn_code identity_lock(const char *data_dir, int *ret_fd, struct dn_error *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/lock", data_dir) >= (int)sizeof path) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int reason = errno;
        close(fd);
        if (reason == EWOULDBLOCK) {
            return dn_fail(err, DN_PRECONDITION,
                           "data directory '%s' is in use by another process: stop it, or give this node a "
                           "directory of its own",
                           data_dir);
        }
        return dn_fail(err, DN_IO, "lock '%s': %s", path, strerror(reason));
    }
    *ret_fd = fd;
    return DN_OK;
}

static void render(const struct identity *id, const char *state, char out[IDENTITY_MAX])
{
    int n = snprintf(out, IDENTITY_MAX,
                     "dunlin-identity 3\nstate %s\ncluster %s\nnode %" PRIu64 "\nraft_id %016" PRIx64
                     "\naddress %s\ngroups %u\njoined %" PRIu64 "\n",
                     state, id->cluster_id, id->node_id, id->raft_id, id->address, id->group_count,
                     id->joined_index);
    for (unsigned i = 0; i < id->initial.count; i++) {
        const struct listed *m = &id->initial.of[i];
        DN_ASSERT(n > 0 && n < IDENTITY_MAX);
        n += snprintf(out + n, IDENTITY_MAX - (size_t)n, "initial %" PRIu64 " %016" PRIx64 " %s\n",
                      m->node_id, m->raft_id, m->address);
    }
    DN_ASSERT(n > 0 && n < IDENTITY_MAX - 20);
    snprintf(out + n, IDENTITY_MAX - (size_t)n, "crc32c %08x\n", dn_crc32c(0, out, (size_t)n));
}

static enum dn_code sync_dir(const char *path, struct dn_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    }
    int rv = fsync(fd);
    int reason = errno;
    close(fd);
    return rv == 0 ? DN_OK : dn_fail(err, DN_IO, "sync '%s': %s", path, strerror(reason));
}

static enum dn_code store(const char *data_dir, const struct identity *id, const char *state,
                          struct dn_error *err)
{
    char path[PATH_MAX], temp[PATH_MAX], text[IDENTITY_MAX];
    if (snprintf(path, sizeof path, "%s/identity", data_dir) >= (int)sizeof path ||
        snprintf(temp, sizeof temp, "%s/identity.tmp", data_dir) >= (int)sizeof temp) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    render(id, state, text);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return dn_fail(err, DN_IO, "create '%s': %s", temp, strerror(errno));
    }
    size_t length = strlen(text);
    bool good = write(fd, text, length) == (ssize_t)length && fsync(fd) == 0;
    int reason = errno;
    close(fd);
    if (!good) {
        return dn_fail(err, DN_IO, "write '%s': %s", temp, strerror(reason));
    }
    if (rename(temp, path) != 0) {
        return dn_fail(err, DN_IO, "rename '%s': %s", temp, strerror(errno));
    }
    return sync_dir(data_dir, err);
}

static bool dir_has_files(const char *path)
{
    DIR *dir = opendir(path);
    bool found = false;
    struct dirent *entry;
    while (dir != NULL && !found && (entry = readdir(dir)) != NULL) {
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return found;
}

/* Empties data_dir/journal, which holds nothing but files. */
static enum dn_code wipe(const char *journal_dir, struct dn_error *err)
{
    char file[PATH_MAX];
    DIR *dir = opendir(journal_dir);
    struct dirent *entry;
    enum dn_code code = DN_OK;
    if (dir == NULL) {
        return errno == ENOENT ? DN_OK : dn_fail(err, DN_IO, "open '%s': %s", journal_dir, strerror(errno));
    }
    while (code == DN_OK && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.' ||
            snprintf(file, sizeof file, "%s/%s", journal_dir, entry->d_name) >= (int)sizeof file) {
            continue;
        }
        if (unlink(file) != 0) {
            code = dn_fail(err, DN_IO, "remove '%s': %s", file, strerror(errno));
        }
    }
    closedir(dir);
    return code;
}

/* The value of "key value\n" in text, or NULL; cuts the line. */
static char *field(char *text, const char *key, char *out, size_t max)
{
    size_t length = strlen(key);
    for (char *line = text; line != NULL && *line != 0;) {
        char *end = strchr(line, '\n');
        if (strncmp(line, key, length) == 0 && line[length] == ' ' && end != NULL &&
            (size_t)(end - line) - length - 1 < max) {
            size_t size = (size_t)(end - line) - length - 1;
            memcpy(out, line + length + 1, size);
            out[size] = 0;
            return out;
        }
        line = end == NULL ? NULL : end + 1;
    }
    return NULL;
}

static enum dn_code compare(const char *path, const char *what, const char *have, const char *want,
                            struct dn_error *err)
{
    if (strcmp(have, want) == 0) {
        return DN_OK;
    }
    return dn_fail(
        err, DN_PRECONDITION,
        "'%s' says this data belongs to %s %s, but the configuration says %s: point data_dir at the "
        "right directory or correct the configuration; to join anew, use an empty directory",
        path, what, have, want);
}

/* The lines "initial <node> <raft id> <address>". */
static bool read_initial(const char *text, struct member_list *ret)
{
    ret->count = 0;
    for (const char *line = strstr(text, "\ninitial "); line != NULL; line = strstr(line + 1, "\ninitial ")) {
        struct listed *m = &ret->of[ret->count];
        char address[DN_ADDRESS_MAX];
        if (ret->count == DN_MEMBERS_MAX ||
            sscanf(line, "\ninitial %" SCNu64 " %" SCNx64 " %255s", &m->node_id, &m->raft_id, address) != 3) {
            return false;
        }
        snprintf(m->address, sizeof m->address, "%s", address);
        m->replaces = 0;
        m->role = DN_ROLE_VOTER;
        ret->count++;
    }
    return true;
}

static enum dn_code check(const char *path, char *text, struct identity *id, bool *ret_ready,
                          struct dn_error *err)
{
    char state[16], cluster[128], node[32], raft[32], address[320], groups[16], joined[32], crc[16],
        expect[32];
    char *last = strstr(text, "crc32c ");
    if (strncmp(text, "dunlin-identity 1\n", 18) == 0 || strncmp(text, "dunlin-identity 2\n", 18) == 0) {
        return dn_fail(
            err, DN_UNIMPLEMENTED,
            "'%s' was written by an earlier version of dunlin, whose log this one cannot read: set the node "
            "up anew in an empty directory",
            path);
    }
    if (last == NULL || field(text, "state", state, sizeof state) == NULL ||
        field(text, "cluster", cluster, sizeof cluster) == NULL ||
        field(text, "node", node, sizeof node) == NULL || field(text, "raft_id", raft, sizeof raft) == NULL ||
        field(text, "address", address, sizeof address) == NULL ||
        field(text, "groups", groups, sizeof groups) == NULL ||
        field(text, "joined", joined, sizeof joined) == NULL ||
        field(text, "crc32c", crc, sizeof crc) == NULL) {
        return dn_fail(err, DN_CORRUPT, "'%s' is damaged: a line is missing", path);
    }
    snprintf(expect, sizeof expect, "%08x", dn_crc32c(0, text, (size_t)(last - text)));
    if (strcmp(crc, expect) != 0) {
        return dn_fail(err, DN_CORRUPT, "'%s' is damaged: checksum %s, expected %s", path, crc, expect);
    }
    id->raft_id = strtoull(raft, NULL, 16);
    id->joined_index = strtoull(joined, NULL, 10);
    if (id->raft_id == 0 || !read_initial(text, &id->initial)) {
        return dn_fail(err, DN_CORRUPT, "'%s' is damaged: a raft id or an initial member cannot be read",
                       path);
    }
    enum dn_code code = compare(path, "cluster", cluster, id->cluster_id, err);
    if (code == DN_OK) {
        snprintf(expect, sizeof expect, "%" PRIu64, id->node_id);
        code = compare(path, "node", node, expect, err);
    }
    if (code == DN_OK) {
        code = compare(path, "address", address, id->address, err);
    }
    if (code == DN_OK) {
        snprintf(expect, sizeof expect, "%u", id->group_count);
        code = compare(path, "a cluster with group count", groups, expect, err);
    }
    if (code == DN_OK && strcmp(state, "removed") == 0) {
        code = dn_fail(err, DN_PRECONDITION,
                       "'%s' says that the cluster has removed this node: to let it in again, start it on an "
                       "empty data directory and use 'dunlin member add %s'",
                       path, node);
    }
    *ret_ready = strcmp(state, "ready") == 0;
    return code;
}

static enum dn_code choose_raft_id(struct identity *id, struct dn_error *err)
{
    do {
        if (getrandom(&id->raft_id, sizeof id->raft_id, 0) != sizeof id->raft_id) {
            return dn_fail(err, DN_IO, "no random numbers: %s", strerror(errno));
        }
    } while (id->raft_id == 0);
    id->joined_index = 0;
    id->initial.count = 0;
    return DN_OK;
}

enum dn_code identity_open(const char *data_dir, struct identity *id, bool *ret_ready, struct dn_error *err)
{
    char path[PATH_MAX], journal_dir[PATH_MAX], text[IDENTITY_MAX];
    if (snprintf(path, sizeof path, "%s/identity", data_dir) >= (int)sizeof path ||
        snprintf(journal_dir, sizeof journal_dir, "%s/journal", data_dir) >= (int)sizeof journal_dir) {
        return dn_fail(err, DN_INVALID, "data directory path is too long");
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum dn_code code = DN_OK;
    if (fd < 0 && errno != ENOENT) {
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    }
    if (fd < 0) {
        if (dir_has_files(journal_dir)) {
            return dn_fail(
                err, DN_PRECONDITION,
                "'%s' holds a journal but '%s' is missing: restore that file from a backup, or use "
                "an empty directory",
                journal_dir, path);
        }
        *ret_ready = false;
        code = choose_raft_id(id, err);
        code = code == DN_OK ? store(data_dir, id, "new", err) : code;
    } else {
        ssize_t n = read(fd, text, sizeof text - 1);
        int reason = errno;
        close(fd);
        if (n < 0) {
            return dn_fail(err, DN_IO, "read '%s': %s", path, strerror(reason));
        }
        text[n] = 0;
        code = check(path, text, id, ret_ready, err);
    }
    if (code == DN_OK && !*ret_ready) {
        code = wipe(journal_dir, err);
    }
    if (code == DN_OK && mkdir(journal_dir, 0700) != 0 && errno != EEXIST) {
        code = dn_fail(err, DN_IO, "create '%s': %s", journal_dir, strerror(errno));
    }
    return code == DN_OK ? sync_dir(data_dir, err) : code;
}

enum dn_code identity_ready(const char *data_dir, const struct identity *id, struct dn_error *err)
{
    return store(data_dir, id, "ready", err);
}

enum dn_code identity_removed(const char *data_dir, const struct identity *id, struct dn_error *err)
{
    return store(data_dir, id, "removed", err);
}
