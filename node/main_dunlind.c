/* dunlind: the server. */
#include "base/log.h"
#include "node/config.h"
#include "node/node.h"

#include <argp.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *argp_program_version = "dunlind " DUNLIN_VERSION;

enum { OPTION_CHECK = 1000, OPTION_PRINT, OPTION_SAMPLE, OPTION_ALONE };

struct options {
    const char *config;
    bool check, print, sample, alone;
};

static const struct argp_option OPTIONS[] = {
    {"config", 'c', "FILE", 0, "configuration (YAML)", 0},
    {"check-config", OPTION_CHECK, NULL, 0, "check the configuration and exit", 0},
    {"print-config", OPTION_PRINT, NULL, 0, "print every key with the value in force and exit", 0},
    {"sample-config", OPTION_SAMPLE, NULL, 0, "print a documented sample with every key and exit", 0},
    {"bootstrap-alone", OPTION_ALONE, NULL, 0,
     "with an empty data directory: form a new cluster of this node alone, without asking anyone (the way "
     "out "
     "when the others are lost for good)",
     0},
    {0},
};

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    struct options *options = state->input;

    switch (key) {
    case 'c':
        options->config = argument;
        return 0;
    case OPTION_CHECK:
        options->check = true;
        return 0;
    case OPTION_PRINT:
        options->print = true;
        return 0;
    case OPTION_SAMPLE:
        options->sample = true;
        return 0;
    case OPTION_ALONE:
        options->alone = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", argument);
        return EINVAL;
    case ARGP_KEY_END:
        if (!options->config && !options->sample)
            argp_error(state, "--config FILE is needed (--sample-config prints one to start from)");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp ARGP = {
    OPTIONS,
    parse_option,
    NULL,
    "dunlind: a node of a dunlin cluster.\v"
    "SIGTERM and SIGINT drain and stop it; a second one stops it at once; SIGKILL is always safe. It "
    "also stops when the cluster removes it.\n"
    "Exit codes: 0 stopped cleanly, 1 failed at run time, 2 bad options or configuration, 3 data directory "
    "refused "
    "or damaged (or another key or shard count than the cluster's), 4 an address is in use or not to be had, "
    "5 its state was in doubt.",
    NULL,
    NULL,
    NULL,
};

/* OpenMP and OpenBLAS read these when they are loaded, before main: a thread pool of theirs would fight with
 * the API threads. So the program starts itself once more with them set. */
static void set_environment(char **argv)
{
    static const char *const WANTED[][2] = {
        {"OMP_NUM_THREADS", "1"}, {"OPENBLAS_NUM_THREADS", "1"}, {"OMP_WAIT_POLICY", "passive"}};
    static const char GUARD[] = "DUNLIN_ENVIRONMENT_SET";
    char path[PATH_MAX];
    bool missing = false;

    if (getenv(GUARD))
        return;
    for (size_t i = 0; i < sizeof(WANTED) / sizeof(WANTED[0]); i++) {
        const char *value = getenv(WANTED[i][0]);

        missing = missing || !value || strcmp(value, WANTED[i][1]) != 0;
        if (setenv(WANTED[i][0], WANTED[i][1], 1) != 0)
            return;
    }
    if (!missing || setenv(GUARD, "1", 1) != 0)
        return;
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length <= 0)
        return; /* slower, not wrong */
    path[length] = 0;
    execv(path, argv);
}

static int print(void (*fill)(const struct dn_config *, struct dn_buffer *), const struct dn_config *config)
{
    struct dn_buffer out;

    dn_buffer_init(&out, DN_CONFIG_FILE_MAX);
    fill(config, &out);
    bool good = !out.failed && fwrite(out.bytes, 1, out.length, stdout) == out.length && fflush(stdout) == 0;
    dn_buffer_free(&out);
    return good ? DN_EXIT_OK : DN_EXIT_FAILURE;
}

static void fill_sample(const struct dn_config *config, struct dn_buffer *out)
{
    (void)config;
    dn_config_print_sample(out);
}

int main(int argc, char **argv)
{
    static struct dn_config config;
    struct options options = {0};
    struct dn_error err = {0};
    enum dn_log_level level;

    set_environment(argv);
    argp_err_exit_status = DN_EXIT_USAGE;
    if (argp_parse(&ARGP, argc, argv, 0, NULL, &options) != 0)
        return DN_EXIT_USAGE;
    if (options.sample)
        return print(fill_sample, NULL);
    if (sodium_init() < 0) {
        fprintf(stderr, "dunlind: libsodium does not start\n");
        return DN_EXIT_FAILURE;
    }
    if (dn_config_load(options.config, &config, &err) != DN_OK) {
        fprintf(stderr, "dunlind: %s\n", err.message);
        return DN_EXIT_USAGE;
    }
    if (options.print)
        return print(dn_config_print, &config);
    if (options.check) {
        uint8_t key[DN_HASH_KEY_BYTES];
        bool derived;

        if (dn_config_hash_key(&config, key, &derived, &err) != DN_OK) {
            fprintf(stderr, "dunlind: %s: %s\n", options.config, err.message);
            return DN_EXIT_USAGE;
        }
        if (dn_config_read_secrets(&config, &err) != DN_OK || dn_streams_check(&config, &err) != DN_OK) {
            fprintf(stderr, "dunlind: %s: %s\n", options.config, err.message);
            return DN_EXIT_USAGE;
        }
        printf("%s: good\n", options.config);
        return DN_EXIT_OK;
    }
    if (dn_log_level_parse(config.log.level, &level))
        dn_log_set_level(level);
    if (dn_config_read_secrets(&config, &err) != DN_OK) {
        fprintf(stderr, "dunlind: %s: %s\n", options.config, err.message);
        return DN_EXIT_USAGE;
    }
    return dn_node_run(&config, options.alone);
}
