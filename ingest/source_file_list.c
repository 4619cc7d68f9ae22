/* The names in a folder, bounded however many there are. */
#include "ingest/source_file_table_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

bool dn_file_join(const char *folder, const char *name, char ret[DN_FILE_PATH_MAX])
{
    size_t length = strlen(folder);
    int wanted = snprintf(ret, DN_FILE_PATH_MAX, "%s%s%s", folder,
                          length > 0 && folder[length - 1] != '/' ? "/" : "", name);

    return wanted > 0 && wanted < DN_FILE_PATH_MAX;
}

void dn_file_names_free(struct dn_file_names *names)
{
    free(names->names);
    memset(names, 0, sizeof(*names));
}

/* Keeps the first `max` in order; the room is twice that, so that sorting is seldom. */
static void shrink(struct dn_file_names *names)
{
    if (names->count > 0) {
        qsort(names->names, names->count, sizeof(names->names[0]), by_name);
    }
    if (names->count > names->max) {
        names->count = names->max;
        names->more = true;
    }
}

static bool put(struct dn_file_names *names, const char *name)
{
    if (names->count == names->capacity && names->capacity >= 2 * names->max) {
        shrink(names);
    }
    if (names->count == names->capacity) {
        size_t capacity = names->capacity == 0 ? 32 : names->capacity * 2;
        void *grown = realloc(names->names, capacity * sizeof(names->names[0]));

        if (grown == NULL) {
            return false;
        }
        names->names = grown;
        names->capacity = capacity;
    }
    snprintf(names->names[names->count++], sizeof(names->names[0]), "%s", name);
    return true;
}

static bool regular(int folder, const struct dirent *entry)
{
    struct stat status;

    if (entry->d_type == DT_REG) {
        return true;
    }
    return (entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN) &&
           fstatat(folder, entry->d_name, &status, 0) == 0 && S_ISREG(status.st_mode);
}

int dn_file_list(const char *folder, bool (*take)(const char *name, void *data), void *data, size_t max,
                 struct dn_file_names *ret)
{
    struct dn_file_names names = {.max = max};
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int error = 0;

    if (dir == NULL) {
        return errno;
    }
    while (error == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.' && (take == NULL || take(entry->d_name, data)) &&
            regular(dirfd(dir), entry) && !put(&names, entry->d_name)) {
            error = ENOMEM;
        }
    }
    if (error == 0) {
        error = errno;
    }
    closedir(dir);
    if (error != 0) {
        dn_file_names_free(&names);
        return error;
    }
    shrink(&names);
    *ret = names;
    return 0;
}
