/* dunlin eval: results as tables and as JSON. */
#include "node/cli.h"
#include "node/cli_eval.h"

#include <math.h>
#include <stdio.h>

#define MIB (1024.0 * 1024.0)

/* ---- tables ------------------------------------------------------------------------------------------ */

static void print_facts(const struct dn_cli_eval_report *report)
{
    const struct dn_eval_facts *facts = report->facts;
    const struct dn_eval_result *result = report->result;

    printf("%s: %s, %zu lines", dn_cli_clean(report->events), facts->format, facts->lines);
    if (facts->left_out > 0)
        printf(", %zu left out", facts->left_out);
    printf("; %zu items\n", facts->items);
    if (facts->other_types > 0)
        printf("%zu events have a type that dunlin does not know: they count as clicks\n",
               facts->other_types);
    printf("learned from: %zu sessions, %zu events; asked: %zu sessions, %zu of %zu predictions (%s)\n",
           facts->train_sessions, facts->train_events, result->sessions, result->predictions, facts->cases,
           result->live ? "live" : "batch");
    if (facts->single + facts->across > 0)
        printf("sessions not used: %zu of one item, %zu across the split\n", facts->single, facts->across);
    if (result->refused > 0)
        printf("%zu events were refused by the state\n", result->refused);
    printf("state: %zu events applied, %.2f us of CPU each, %.1f MiB\n", result->events, result->apply_us,
           (double)result->memory_bytes / MIB);
    if (result->steps > 0)
        printf("learning: %zu steps, %.1f us of CPU each; in %.1f %% the clicked item was a candidate; loss "
               "%.3f in the end\n",
               result->steps, result->learn_us, 100.0 * (double)result->used / (double)result->steps,
               result->loss);
    else
        printf("learning: off\n");
    if (result->network_loss > 0)
        printf("the network beside the weights: loss %.3f; %s\n", result->network_loss,
               result->network_leads ? "it leads" : "it does not lead");
}

static void print_value(struct dn_eval_value value)
{
    if (isnan(value.half))
        printf("  %6.4f        ", value.mean);
    else
        printf("  %6.4f ±%6.4f", value.mean, value.half);
}

static void print_difference(struct dn_eval_value value)
{
    if (isnan(value.half))
        printf("  %+7.4f        ", value.mean);
    else
        printf("  %+7.4f ±%6.4f", value.mean, value.half);
}

static void print_at(const struct dn_cli_eval_report *report, size_t i)
{
    const struct dn_eval_result *result = report->result;
    char k[32];

    snprintf(k, sizeof k, "k = %zu", result->methods[0].at[i].k);
    printf("\n%-15s  hit rate        MRR             NDCG            coverage\n", k);
    for (size_t m = 0; m < result->method_count; m++) {
        const struct dn_eval_at *at = &result->methods[m].at[i];
        printf("%-15s", result->methods[m].name);
        print_value(at->hr);
        print_value(at->mrr);
        print_value(at->ndcg);
        printf("  %7.4f\n", at->coverage);
    }
}

static bool has_blend(const struct dn_eval_result *result)
{
    return result->methods[0].name == dn_eval_method_name(DN_EVAL_BLEND);
}

/* What does not depend on k, and how far the others are from the blend at the largest one. */
static void print_rest(const struct dn_cli_eval_report *report)
{
    const struct dn_eval_result *result = report->result;
    size_t last = result->k_count - 1;
    bool blend = has_blend(result);

    printf("\n%-15s  CPU us  %s%s\n", "a request", report->recall ? "recall          " : "",
           blend && result->method_count > 1 ? "  less the blend: hit rate, MRR" : "");
    for (size_t m = 0; m < result->method_count; m++) {
        const struct dn_eval_method *method = &result->methods[m];
        printf("%-15s %7.1f", method->name, method->cpu_us);
        if (report->recall)
            print_value(method->recall);
        if (blend && m > 0) {
            print_difference(method->at[last].hr_less);
            print_difference(method->at[last].mrr_less);
        }
        printf("\n");
    }
}

void dn_cli_eval_table(const struct dn_cli_eval_report *report)
{
    print_facts(report);
    for (size_t i = 0; i < report->result->k_count; i++)
        print_at(report, i);
    print_rest(report);
    if (report->against != NULL) {
        const struct dn_eval_method *first = &report->result->methods[0];
        printf("\n%s less %s at %zu: hit rate", first->name, dn_cli_clean(report->against),
               first->at[report->result->k_count - 1].k);
        print_difference(first->hr_gain);
        printf(", MRR");
        print_difference(first->mrr_gain);
        printf("\n");
    }
    printf("\n± is half the width of the 95 %% interval, clustered by session. Read in %.1f s, ran in %.1f s "
           "(%u threads).\n",
           report->read_s, report->run_s, report->threads);
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *value_json(struct dn_eval_value value)
{
    return json_pack("{s:o, s:o}", "mean", number(value.mean), "half", number(value.half));
}

static json_t *count(size_t value)
{
    return json_integer((json_int_t)value);
}

/* The blend, where it was asked, is the first; it is compared with nothing. */
static json_t *less_json(const struct dn_cli_eval_report *report, const struct dn_eval_method *method,
                         struct dn_eval_value value)
{
    const struct dn_eval_method *first = &report->result->methods[0];

    return method != first && has_blend(report->result) ? value_json(value) : json_null();
}

static json_t *method_json(const struct dn_cli_eval_report *report, const struct dn_eval_method *method)
{
    const struct dn_eval_result *result = report->result;
    json_t *at = json_array(), *windows = json_array();

    for (size_t i = 0; i < result->k_count; i++)
        json_array_append_new(
            at, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "k", count(method->at[i].k), "hr",
                          value_json(method->at[i].hr), "mrr", value_json(method->at[i].mrr), "ndcg",
                          value_json(method->at[i].ndcg), "coverage", number(method->at[i].coverage),
                          "hr_less_blend", less_json(report, method, method->at[i].hr_less), "mrr_less_blend",
                          less_json(report, method, method->at[i].mrr_less)));
    for (size_t w = 0; w < result->window_count; w++)
        json_array_append_new(windows, json_pack("{s:o, s:o}", "hr", number(method->window_hr[w]), "mrr",
                                                 number(method->window_mrr[w])));
    bool gain = report->against != NULL && method == &result->methods[0];
    return json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o}", "hr_gain",
                     gain ? value_json(method->hr_gain) : json_null(), "mrr_gain",
                     gain ? value_json(method->mrr_gain) : json_null(), "name", method->name, "cpu_us",
                     number(method->cpu_us), "recall",
                     report->recall ? value_json(method->recall) : json_null(), "at", at, "windows", windows);
}

static json_t *facts_json(const struct dn_cli_eval_report *report)
{
    const struct dn_eval_facts *facts = report->facts;

    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "events",
                     dn_cli_json_text(report->events), "format", facts->format, "lines", count(facts->lines),
                     "left_out", count(facts->left_out), "other_types", count(facts->other_types), "items",
                     count(facts->items), "train_sessions", count(facts->train_sessions), "train_events",
                     count(facts->train_events), "test_sessions", count(facts->test_sessions), "cases",
                     count(facts->cases), "single", count(facts->single), "across", count(facts->across),
                     "cut_ms", (json_int_t)facts->cut_ms);
}

bool dn_cli_eval_json(const struct dn_cli_eval_report *report)
{
    const struct dn_eval_result *result = report->result;
    json_t *methods = json_array();

    for (size_t m = 0; m < result->method_count; m++)
        json_array_append_new(methods, method_json(report, &result->methods[m]));
    return dn_cli_print_json(json_pack(
        "{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:o, s:b}, s:o, s:o, s:o, s:o}",
        "log", facts_json(report), "mode", result->live ? "live" : "batch", "predictions",
        count(result->predictions), "sessions", count(result->sessions), "catalog", count(result->catalog),
        "events", count(result->events), "refused", count(result->refused), "apply_us",
        number(result->apply_us), "memory_bytes", count((size_t)result->memory_bytes), "learning", "steps",
        count(result->steps), "used", count(result->used), "loss", number(result->loss), "cpu_us",
        number(result->learn_us), "network_loss", number(result->network_loss), "network_leads",
        (int)result->network_leads, "window_k", count(result->window_k), "read_s", number(report->read_s),
        "run_s", number(report->run_s), "methods", methods));
}
