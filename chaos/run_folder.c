/* The folder of a run. */
#include "chaos/run.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>

#define OPEN_FOLDERS_MAX 16

static bool kept(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".log") == 0 || strcmp(dot, ".yaml") == 0);
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    if (where->level > 0 && !(kind == FTW_F && where->level == 1 && kept(path)))
        (void)remove(path); /* what stays is seen by people, and harms nobody */
    return 0;
}

void chaos_run_remove_data(const char *folder)
{
    (void)nftw(folder, remove_one, OPEN_FOLDERS_MAX, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
