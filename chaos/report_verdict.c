/* The verdict, as text and as JSON. */
#include "chaos/report_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const verdict_names[] = {"valid", "VIOLATED", "untested"};
static const char *const verdict_keys[] = {"valid", "violated", "untested"};

static const struct chaos_report_info nothing;

struct tally {
    unsigned valid, violated, untested;
};

static struct tally tally_of(const struct chaos_judgement judgements[CHAOS_RULE_COUNT])
{
    struct tally tally = {0};
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        tally.valid += judgements[rule].verdict == CHAOS_VALID;
        tally.violated += judgements[rule].verdict == CHAOS_VIOLATED;
        tally.untested += judgements[rule].verdict == CHAOS_UNTESTED;
    }
    return tally;
}

double chaos_ms(int64_t ns)
{
    return (double)ns / 1e6;
}

/* ---- text ----------------------------------------------------------------------------------------- */

static void text_examples(FILE *out, const struct chaos_judgement *judgement)
{
    for (size_t i = 0; i < judgement->examples_count; i++) {
        fprintf(out, "      %s [", judgement->examples[i].text);
        const char *separator = "operations ";
        for (size_t k = 0; k < 3; k++) {
            if (judgement->examples[i].index[k] != SIZE_MAX) {
                fprintf(out, "%s%zu", separator, judgement->examples[i].index[k]);
                separator = ", ";
            }
        }
        fprintf(out, "]\n");
    }
    if (judgement->violations > judgement->examples_count && judgement->examples_count > 0) {
        fprintf(out, "      ... and %" PRIu64 " more\n", judgement->violations - judgement->examples_count);
    }
}

static void text_list(FILE *out, const char *title, const char *const *list, size_t count)
{
    if (count > 0) {
        fprintf(out, "\n%s\n", title);
    }
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "  %s\n", list[i]);
    }
}

static void text_not_begun(FILE *out, const struct chaos_fault *faults, size_t count)
{
    uint64_t not_begun = chaos_faults_not_begun(faults, count);
    if (not_begun > 0) {
        fprintf(out, "\n  not begun: %" PRIu64 "\n", not_begun);
    }
    for (size_t i = 0; i < count; i++) {
        if (!faults[i].begun) {
            fprintf(out, "    %.3f s: %s: %s\n", chaos_ms(faults[i].begin_ns) / 1000, faults[i].name,
                    faults[i].what);
        }
    }
}

static void text_faults(FILE *out, const struct chaos_history *history)
{
    struct chaos_figures figures[CHAOS_FIGURES_MAX];
    size_t count = 0;
    struct chaos_fault *faults = chaos_faults(history, &count);
    struct chaos_figures_sum *sum = chaos_figures_create();
    chaos_figures_add(sum, faults, count);
    size_t kinds = chaos_figures_get(sum, figures);
    if (kinds > 0) {
        fprintf(out, "\n  %-20s %6s %9s   %26s   %20s   %20s\n", "fault", "times", "not begun",
                "ms without a write (each", "writes failed", "reads failed");
        fprintf(out, "  %-20s %6s %9s   %26s\n", "", "", "", "group): p50, p99, longest");
    }
    for (size_t i = 0; i < kinds; i++) {
        fprintf(out,
                "  %-20s %6" PRIu64 " %9" PRIu64 "   %8.0f %8.0f %8.0f   %9" PRIu64 " of %7" PRIu64
                "   %9" PRIu64 " of %7" PRIu64 "\n",
                figures[i].name, figures[i].faults, figures[i].not_begun, chaos_ms(figures[i].gap_p50_ns),
                chaos_ms(figures[i].gap_p99_ns), chaos_ms(figures[i].gap_max_ns), figures[i].writes_failed,
                figures[i].writes, figures[i].reads_failed, figures[i].reads);
    }
    text_not_begun(out, faults, count);
    chaos_figures_destroy(sum);
    free(faults);
}

void chaos_verdict_text(FILE *out, const struct chaos_history *history,
                        const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                        const struct chaos_report_info *info)
{
    struct tally tally = tally_of(judgements);
    info = info != NULL ? info : &nothing;
    fprintf(out, "%s: %u rules valid, %u violated, %u untested; %zu lines of history\n",
            tally.violated > 0 || info->findings_count > 0 ? "VIOLATED" : "valid", tally.valid,
            tally.violated, tally.untested, chaos_history_count(history));
    if (info->schedule != NULL) {
        fprintf(out, "%s\n", info->schedule);
    }
    if (info->command != NULL) {
        fprintf(out, "repeat with: %s\n", info->command);
    }
    fprintf(out, "\n");
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        const struct chaos_judgement *judgement = &judgements[rule];
        fprintf(out, "  %-10s %-9s %10" PRIu64 " judged", chaos_rule_name((enum chaos_rule)rule),
                verdict_names[judgement->verdict], judgement->judged);
        if (judgement->violations > 0) {
            fprintf(out, ", %" PRIu64 " violations", judgement->violations);
        }
        fprintf(out, "   %s\n", chaos_rule_text((enum chaos_rule)rule));
        text_examples(out, judgement);
    }
    text_faults(out, history);
    text_list(out, "In the logs, where it must not be:", info->findings, info->findings_count);
    text_list(out, "Skipped here:", info->skipped, info->skipped_count);
    text_list(out, "Logs:", info->logs, info->logs_count);
}

/* ---- JSON ----------------------------------------------------------------------------------------- */

static void json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            fprintf(out, "\\%c", c);
        } else if (c < 0x20) {
            fprintf(out, "\\u%04x", c);
        } else {
            fputc(c, out);
        }
    }
    fputc('"', out);
}

static void json_list(FILE *out, const char *name, const char *const *list, size_t count)
{
    fprintf(out, ",\n \"%s\": [", name);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "%s", i > 0 ? ", " : "");
        json_text(out, list[i]);
    }
    fprintf(out, "]");
}

static void json_rule(FILE *out, unsigned rule, const struct chaos_judgement *judgement)
{
    fprintf(out,
            "  {\"rule\": \"%s\", \"verdict\": \"%s\", \"judged\": %" PRIu64 ", \"violations\": %" PRIu64
            ", \"text\": ",
            chaos_rule_name((enum chaos_rule)rule), verdict_keys[judgement->verdict], judgement->judged,
            judgement->violations);
    json_text(out, chaos_rule_text((enum chaos_rule)rule));
    fprintf(out, ", \"examples\": [");
    for (size_t i = 0; i < judgement->examples_count; i++) {
        fprintf(out, "%s{\"text\": ", i > 0 ? ", " : "");
        json_text(out, judgement->examples[i].text);
        fprintf(out, ", \"operations\": [");
        const char *separator = "";
        for (size_t k = 0; k < 3; k++) {
            if (judgement->examples[i].index[k] != SIZE_MAX) {
                fprintf(out, "%s%zu", separator, judgement->examples[i].index[k]);
                separator = ", ";
            }
        }
        fprintf(out, "]}");
    }
    fprintf(out, "]}");
}

static void json_gaps(FILE *out, const struct chaos_fault *fault)
{
    const char *separator = "";
    fprintf(out, ", \"without_write_ms\": {");
    for (size_t group = 0; group < CHAOS_GROUPS_MAX; group++) {
        if (fault->gaps_ns[group] >= 0) {
            fprintf(out, "%s\"%zu\": %.3f", separator, group, chaos_ms(fault->gaps_ns[group]));
            separator = ", ";
        }
    }
    fprintf(out, "}");
}

static void json_faults(FILE *out, const struct chaos_history *history)
{
    size_t count = 0;
    struct chaos_fault *faults = chaos_faults(history, &count);
    uint64_t not_begun = chaos_faults_not_begun(faults, count);
    fprintf(out, ",\n \"faults_begun\": %" PRIu64 ", \"faults_not_begun\": %" PRIu64, count - not_begun,
            not_begun);
    fprintf(out, ",\n \"faults\": [");
    for (size_t i = 0; i < count; i++) {
        const struct chaos_fault *fault = &faults[i];
        fprintf(out, "%s\n  {\"name\": ", i > 0 ? "," : "");
        json_text(out, fault->name);
        fprintf(out, ", \"what\": ");
        json_text(out, fault->what != NULL ? fault->what : "");
        fprintf(out, ", \"begun\": %s", fault->begun ? "true" : "false");
        fprintf(out, ", \"node\": %" PRIu32 ", \"begin_s\": %.3f, \"end_s\": %.3f", fault->node,
                chaos_ms(fault->begin_ns) / 1000, chaos_ms(fault->end_ns) / 1000);
        json_gaps(out, fault);
        fprintf(out,
                ", \"writes\": %" PRIu64 ", \"writes_failed\": %" PRIu64 ", \"reads\": %" PRIu64
                ", \"reads_failed\": %" PRIu64
                ", \"write_p50_ms\": %.3f, \"write_p99_ms\": %.3f, \"read_p50_ms\": %.3f, "
                "\"read_p99_ms\": %.3f}",
                fault->writes, fault->writes_failed, fault->reads, fault->reads_failed,
                chaos_ms(fault->write_p50_ns), chaos_ms(fault->write_p99_ns), chaos_ms(fault->read_p50_ns),
                chaos_ms(fault->read_p99_ns));
    }
    fprintf(out, "]");
    free(faults);
}

void chaos_verdict_json(FILE *out, const struct chaos_history *history,
                        const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                        const struct chaos_report_info *info)
{
    struct tally tally = tally_of(judgements);
    info = info != NULL ? info : &nothing;
    fprintf(out, "{\"valid\": %s, \"seed\": %" PRIu64 ", \"lines\": %zu",
            tally.violated > 0 || info->findings_count > 0 ? "false" : "true", info->seed,
            chaos_history_count(history));
    fprintf(out, ",\n \"command\": ");
    json_text(out, info->command != NULL ? info->command : "");
    fprintf(out, ",\n \"schedule\": ");
    json_text(out, info->schedule != NULL ? info->schedule : "");
    fprintf(out, ",\n \"rules\": [\n");
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        json_rule(out, rule, &judgements[rule]);
        fprintf(out, "%s\n", rule + 1 < CHAOS_RULE_COUNT ? "," : "");
    }
    fprintf(out, " ]");
    json_faults(out, history);
    json_list(out, "findings", info->findings, info->findings_count);
    json_list(out, "skipped", info->skipped, info->skipped_count);
    json_list(out, "logs", info->logs, info->logs_count);
    fprintf(out, "}\n");
}
