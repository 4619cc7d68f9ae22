/* dunlin journal: looks at a stopped node's journal. Reads only. */
#include "journal/journal.h"
#include "node/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct arguments {
    struct dn_cli *cli;
    const char *action, *path;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *arguments = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = arguments->cli;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            arguments->action = arg;
        else if (state->arg_num == 1)
            arguments->path = arg;
        else
            argp_error(state, "unexpected argument '%s'", arg);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->path ||
            (strcmp(arguments->action, "verify") != 0 && strcmp(arguments->action, "dump") != 0))
            argp_error(state, "say: verify DIR, or dump DIR");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* DIR is a node's data directory, or the journal's own folder. *ret_lock stays open while it is read. */
static int find_folder(const char *dir, char folder[PATH_MAX], int *ret_lock)
{
    char lock[PATH_MAX];
    struct stat about;

    *ret_lock = -1;
    if (snprintf(folder, PATH_MAX, "%s/journal", dir) >= PATH_MAX) {
        fprintf(stderr, "dunlin: journal: the path is too long\n");
        return DN_CLI_USAGE;
    }
    bool data_dir = stat(folder, &about) == 0 && S_ISDIR(about.st_mode);
    if (!data_dir && snprintf(folder, PATH_MAX, "%s", dir) >= PATH_MAX)
        return DN_CLI_USAGE;
    if (snprintf(lock, sizeof lock, data_dir ? "%s/lock" : "%s/../lock", dir) >= (int)sizeof lock)
        return DN_CLI_USAGE;
    *ret_lock = open(lock, O_RDONLY | O_CLOEXEC);
    if (*ret_lock >= 0 && flock(*ret_lock, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        fprintf(stderr, "dunlin: journal: '%s' is in use by a running node: stop it first\n", dir);
        close(*ret_lock);
        *ret_lock = -1;
        return DN_CLI_FAILED;
    }
    return DN_CLI_OK;
}

/* ---- walking ------------------------------------------------------------------------------------------ */

struct walk {
    bool dump, json;
    uint64_t records, bytes, segments;
    char segment[DN_DISK_NAME_MAX];
};

static void each(void *data, const struct dn_journal_record *record)
{
    struct walk *walk = data;

    walk->records++;
    walk->bytes += record->length;
    if (strcmp(walk->segment, record->segment) != 0) {
        walk->segments++;
        snprintf(walk->segment, sizeof walk->segment, "%s", record->segment);
    }
    if (!walk->dump)
        return;
    if (walk->json) {
        dn_cli_print_json(json_pack("{s:s, s:I, s:I, s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "segment",
                                    record->segment, "offset", (json_int_t)record->offset, "lsn",
                                    (json_int_t)record->lsn, "kind", record->kind, "group",
                                    (int)record->group, "index", (json_int_t)record->index, "count",
                                    (json_int_t)record->count, "term", (json_int_t)record->term, "voted_for",
                                    (json_int_t)record->voted_for, "bytes", (json_int_t)record->length));
        return;
    }
    printf("%s %10llu  lsn %-12llu %-8s group %-3u", record->segment, (unsigned long long)record->offset,
           (unsigned long long)record->lsn, record->kind, record->group);
    if (record->count > 0)
        printf(" entries %llu..%llu of term %llu", (unsigned long long)record->index,
               (unsigned long long)(record->index + record->count - 1), (unsigned long long)record->term);
    else if (record->index > 0)
        printf(" index %llu", (unsigned long long)record->index);
    if (record->count == 0 && record->term > 0)
        printf(" term %llu vote %llu", (unsigned long long)record->term,
               (unsigned long long)record->voted_for);
    printf(" (%zu bytes)\n", record->length);
}

static void print_groups(const struct walk *walk, const struct dn_journal *journal)
{
    json_t *groups = walk->json ? json_array() : NULL;

    if (!walk->json)
        printf("%8s %8s %12s %12s %12s\n", "group", "term", "first", "last", "snapshot");
    for (uint32_t i = 0; i < DN_JOURNAL_GROUPS_MAX; i++) {
        struct dn_journal_group group;

        dn_journal_recovered(journal, i, &group);
        if (!group.known)
            continue;
        uint64_t last = group.first_index + group.entry_count - 1;
        if (walk->json)
            json_array_append_new(groups, json_pack("{s:i, s:I, s:I, s:I, s:I}", "group", (int)i, "term",
                                                    (json_int_t)group.term, "first",
                                                    (json_int_t)group.first_index, "last", (json_int_t)last,
                                                    "snapshot", (json_int_t)group.snapshot_index));
        else
            printf("%8u %8llu %12llu %12llu %12llu\n", i, (unsigned long long)group.term,
                   (unsigned long long)group.first_index, (unsigned long long)last,
                   (unsigned long long)group.snapshot_index);
    }
    if (walk->json)
        dn_cli_print_json(json_pack("{s:b, s:I, s:I, s:I, s:o}", "sound", 1, "segments",
                                    (json_int_t)walk->segments, "records", (json_int_t)walk->records, "bytes",
                                    (json_int_t)walk->bytes, "groups", groups));
    else
        printf("sound: %llu records with %llu bytes in %llu segments\n", (unsigned long long)walk->records,
               (unsigned long long)walk->bytes, (unsigned long long)walk->segments);
}

static enum dn_code look(struct walk *walk, const char *folder, struct dn_error *err)
{
    struct dn_disk *disk;
    struct dn_journal *journal = NULL;
    enum dn_code code = dn_disk_open(folder, NULL, NULL, &disk, err);

    if (code != DN_OK)
        return code;
    code = dn_journal_walk(disk, folder, each, walk, err);
    if (code == DN_OK && !walk->dump) {
        struct dn_journal_options options = {.disk = disk, .name = folder, .read_only = true};

        code = dn_journal_open(&options, &journal, err);
        if (code == DN_OK)
            print_groups(walk, journal);
        dn_journal_destroy(journal);
    }
    disk->ops->destroy(disk);
    return code;
}

int dn_cli_journal(struct dn_cli *cli, int argc, char **argv)
{
    static const struct argp_child children[] = {{&dn_cli_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {NULL,
                                     parse,
                                     "verify DIR\ndump DIR",
                                     "Looks at the journal of a stopped node; DIR is its data directory. "
                                     "verify checks every record and says what each "
                                     "group has; dump prints every record.\vExit codes: 0 sound, 1 damaged "
                                     "(the message names file and offset) or in "
                                     "use, 2 usage.",
                                     children,
                                     NULL,
                                     NULL};
    struct arguments arguments = {.cli = cli};
    struct dn_error err = {0};
    char folder[PATH_MAX];
    int lock;

    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    int exit_code = find_folder(arguments.path, folder, &lock);
    if (exit_code != DN_CLI_OK)
        return exit_code;
    struct walk walk = {.dump = strcmp(arguments.action, "dump") == 0, .json = cli->json};
    if (look(&walk, folder, &err) != DN_OK) {
        fprintf(stderr, "dunlin: journal %s: %s\n", arguments.action, err.message);
        exit_code = DN_CLI_FAILED;
    }
    if (lock >= 0)
        close(lock);
    return exit_code;
}
