#include "chaos/cmd_check.h"

#include "base/text.h"
#include "chaos/report.h"

#include <argp.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_VALID = 0, EXIT_VIOLATED = 1, EXIT_USAGE = 2 };

#define BOUND_MAX_S 86400

struct options {
    const char *history, *report;
    bool json;
    int64_t bound_s; /* 0: the default */
};

static const struct argp_option option_list[] = {
    {"json", 'j', NULL, 0, "print the verdict as one JSON object", 0},
    {"report", 'r', "DIR", 0, "write a report into this folder too: verdict, timeline, figures of each fault",
     0},
    {"recovery-bound", 'b', "SECONDS", 0,
     "how long after the last fault writes may still be refused (default 10)", 0},
    {0},
};

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct options *options = state->input;
    switch (key) {
    case 'j':
        options->json = true;
        return 0;
    case 'r':
        options->report = text;
        return 0;
    case 'b':
        if (!dn_parse_i64(text, 1, BOUND_MAX_S, &options->bound_s)) {
            argp_error(state, "--recovery-bound: '%s' is not a number of seconds from 1 to %d", text,
                       BOUND_MAX_S);
            return EINVAL;
        }
        return 0;
    case ARGP_KEY_ARG:
        if (options->history != NULL) {
            argp_error(state, "one history at a time: '%s' is too much", text);
            return EINVAL;
        }
        options->history = text;
        return 0;
    case ARGP_KEY_END:
        if (options->history == NULL) {
            argp_error(state, "which history? (a file in EDN, - for standard input)");
            return EINVAL;
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static enum dn_code read_history(const char *path, struct chaos_history **ret, struct dn_error *err)
{
    if (strcmp(path, "-") == 0) {
        return chaos_history_read(stdin, "standard input", ret, err);
    }
    FILE *in = fopen(path, "r");
    if (in == NULL) {
        return dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    }
    enum dn_code code = chaos_history_read(in, path, ret, err);
    fclose(in);
    return code;
}

int chaos_cmd_check(int argc, char **argv)
{
    static const struct argp argp = {
        .options = option_list,
        .parser = parse_option,
        .args_doc = "HISTORY",
        .doc = "Judges a history again.\vExit codes: 0 no rule is violated, 1 one is, 2 wrong usage, or the "
               "history "
               "cannot be read.",
    };
    struct options options = {0};
    struct chaos_history *history = NULL;
    static struct chaos_judgement judgements[CHAOS_RULE_COUNT];
    struct dn_error err;
    argp_err_exit_status = EXIT_USAGE;
    if (argp_parse(&argp, argc, argv, 0, NULL, &options) != 0) {
        return EXIT_USAGE;
    }
    if (read_history(options.history, &history, &err) != DN_OK) {
        fprintf(stderr, "dunlin-chaos check: %s\n", err.message);
        return EXIT_USAGE;
    }
    const struct chaos_check_options check = {.recovery_bound_ns = options.bound_s * 1000000000};
    int violated = chaos_check(history, &check, judgements),
        exit_code = violated > 0 ? EXIT_VIOLATED : EXIT_VALID;
    if (options.json) {
        chaos_verdict_json(stdout, history, judgements, NULL);
    } else {
        chaos_verdict_text(stdout, history, judgements, NULL);
    }
    if (options.report != NULL &&
        chaos_report_write(options.report, history, judgements, NULL, &err) != DN_OK) {
        fprintf(stderr, "dunlin-chaos check: report: %s\n", err.message);
        exit_code = EXIT_USAGE;
    }
    chaos_history_destroy(history);
    return exit_code;
}
