/* dunlin-chaos list: what there is to choose from, and what verdicts speak of. */
#include "chaos/check.h"
#include "chaos/nemesis.h"
#include "chaos/run.h"

#include <argp.h>
#include <stdio.h>

static error_t parse(int key, char *text, struct argp_state *state)
{
    bool *json = state->input;
    switch (key) {
    case 'j':
        *json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument '%s'", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Texts here have no quotes and no control characters. */
static void line(bool json, bool last, const char *name, const char *text)
{
    if (json)
        printf("    {\"name\": \"%s\", \"text\": \"%s\"}%s\n", name, text, last ? "" : ",");
    else
        printf("  %-26s %s\n", name, text);
}

static void title(bool json, const char *name, bool last_was_list)
{
    if (json)
        printf("%s  \"%s\": [\n", last_was_list ? "  ],\n" : "{\n", name);
    else
        printf("%s%s\n", last_was_list ? "\n" : "", name);
}

int chaos_cmd_list(int argc, char **argv)
{
    static const struct argp_option options[] = {{"json", 'j', NULL, 0, "As JSON", 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Prints the nemeses (faults), workloads and rules there are. Which nemeses this machine "
               "cannot have is "
               "printed when a run begins.",
    };
    bool json = false;
    unsigned count = 0;
    argp_err_exit_status = CHAOS_EXIT_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &json);
    const struct chaos_nemesis_info *nemeses = chaos_nemesis_list(&count);
    title(json, "nemeses", false);
    for (unsigned i = 0; i < count; i++)
        line(json, i + 1 == count, nemeses[i].name, nemeses[i].text);
    const struct chaos_workload *workloads = chaos_workload_list(&count);
    title(json, "workloads", true);
    for (unsigned i = 0; i < count; i++)
        line(json, i + 1 == count, workloads[i].name, workloads[i].text);
    title(json, "rules", true);
    for (unsigned i = 0; i < CHAOS_RULE_COUNT; i++)
        line(json, i + 1 == CHAOS_RULE_COUNT, chaos_rule_name(i), chaos_rule_text(i));
    if (json)
        puts("  ]\n}");
    return CHAOS_EXIT_VALID;
}
