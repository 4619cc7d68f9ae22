/* timeline.html: time runs to the right; above, what each client was told; below, for each group its
 * acknowledged writes; at the bottom latencies. Faults are bands through all of it.
 *
 * Everything is counted into buckets first, at most BUCKETS_MAX of them: the page has the same size for a
 * thousand operations and for a million. */
#include "chaos/report_private.h"

#include "chaos/check_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BUCKET_NS 100000000 /* the least; longer histories have a whole number of them in one */
#define BUCKETS_MAX 4000u
#define ROWS_MAX 48u /* of clients; more share rows */
#define FAULTS_MAX 500u
#define LATENCIES 96u /* a quarter of a doubling each, from 1 us on */
#define ROW_HEIGHT 7u
#define GROUP_HEIGHT 44u
#define LATENCY_HEIGHT 160u
#define LEFT 70u
#define TOP 36u
#define WIDTH_MIN 900u

enum told { TOLD_OK, TOLD_FAIL, TOLD_INFO, TOLD_KINDS };

struct bucket_latencies {
    uint32_t counts[LATENCIES];
    uint32_t count;
};

struct picture {
    const struct chaos_history *history;
    int64_t bucket_ns, over_ns;
    uint32_t buckets, rows, groups, shards, clients;
    double scale;        /* pixels a bucket */
    uint8_t *told;       /* rows * buckets: bits of enum told */
    uint32_t *acked;     /* groups * buckets */
    uint32_t *acked_max; /* groups */
    struct bucket_latencies *writes, *reads;
    struct chaos_fault *faults;
    size_t faults_count;
};

/* ---- counting ------------------------------------------------------------------------------------- */

/* How many clients there are: those that asked something before any of them got another process number. */
static uint32_t count_clients(const struct chaos_history *history)
{
    uint32_t clients = 0;
    for (size_t i = 0; i < chaos_history_count(history); i++) {
        const struct chaos_op *op = chaos_history_at(history, i);
        if (op->process == CHAOS_NEMESIS) {
            continue;
        }
        if (op->type == CHAOS_INFO) {
            break;
        }
        clients = chaos_max(clients, (uint32_t)op->process + 1);
    }
    return clients > 0 ? clients : 1;
}

/* floor(4 * log2(us)) + 1, 0 below 1 us: log2's fraction in quarters by its linear approximation. */
static unsigned latency_class(int64_t ns)
{
    uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
    if (us == 0) {
        return 0;
    }
    unsigned doublings = 63u - (unsigned)__builtin_clzll(us);
    uint64_t quarter = doublings >= 2 ? us >> (doublings - 2) & 3 : (us << (2 - doublings)) & 3;
    unsigned class = 4 * doublings + (unsigned)quarter + 1;
    return class < LATENCIES ? class : LATENCIES - 1;
}

/* Where a class lies in a picture of latencies, from 0 to 1. */
static double latency_height(unsigned class)
{
    return (double)class / LATENCIES;
}

static void count_latency(struct bucket_latencies *bucket, int64_t ns)
{
    bucket->counts[latency_class(ns)]++;
    bucket->count++;
}

static unsigned quantile(const struct bucket_latencies *bucket, unsigned per_cent)
{
    uint32_t rank = (bucket->count * per_cent + 99) / 100, sum = 0;
    for (unsigned class = 0; class < LATENCIES; class ++) {
        sum += bucket->counts[class];
        if (sum >= rank) {
            return class;
        }
    }
    return LATENCIES - 1;
}

static void count_op(struct picture *p, const struct chaos_op *op)
{
    static const uint8_t told[] = {
        [CHAOS_OK] = 1u << TOLD_OK, [CHAOS_FAIL] = 1u << TOLD_FAIL, [CHAOS_INFO] = 1u << TOLD_INFO};
    size_t bucket = (size_t)(op->time_ns / p->bucket_ns);
    uint32_t group = chaos_group_of(op, p->shards);
    if (op->type == CHAOS_INVOKE || op->process == CHAOS_NEMESIS) {
        return;
    }
    p->told[(size_t)((uint32_t)op->process % p->clients % p->rows) * p->buckets + bucket] |= told[op->type];
    int64_t took_ns =
        op->time_ns - chaos_history_at(p->history, chaos_history_pair(p->history, op->index))->time_ns;
    if (group != CHAOS_NEVER && chaos_acknowledged(op)) {
        uint32_t *count = &p->acked[(size_t)group * p->buckets + bucket];
        ++*count;
        p->acked_max[group] = chaos_max(p->acked_max[group], *count);
        count_latency(&p->writes[bucket], took_ns);
    } else if (op->type == CHAOS_OK &&
               (op->f == CHAOS_READ || op->f == CHAOS_GET || op->f == CHAOS_SIMILAR)) {
        count_latency(&p->reads[bucket], took_ns);
    }
}

static void picture_make(struct picture *p, const struct chaos_history *history)
{
    size_t count = chaos_history_count(history);
    memset(p, 0, sizeof *p);
    p->history = history;
    p->over_ns = count > 0 ? chaos_history_at(history, count - 1)->time_ns : 0;
    int64_t least = p->over_ns / BUCKET_NS + 1;
    p->bucket_ns = BUCKET_NS * ((least + BUCKETS_MAX - 1) / BUCKETS_MAX);
    p->buckets = (uint32_t)(p->over_ns / p->bucket_ns) + 1;
    p->scale = p->buckets >= WIDTH_MIN ? 1.0 : (double)WIDTH_MIN / p->buckets;
    p->clients = count_clients(history);
    p->rows = chaos_min(p->clients, ROWS_MAX);
    p->shards = chaos_shards(history);
    p->groups = p->shards + 1;
    p->told = chaos_alloc((size_t)p->rows * p->buckets, 1);
    p->acked = chaos_alloc((size_t)p->groups * p->buckets, sizeof *p->acked);
    p->acked_max = chaos_alloc(p->groups, sizeof *p->acked_max);
    p->writes = chaos_alloc(p->buckets, sizeof *p->writes);
    p->reads = chaos_alloc(p->buckets, sizeof *p->reads);
    p->faults = chaos_faults(history, &p->faults_count);
    for (size_t i = 0; i < count; i++) {
        count_op(p, chaos_history_at(history, i));
    }
}

static void picture_free(struct picture *p)
{
    free(p->told);
    free(p->acked);
    free(p->acked_max);
    free(p->writes);
    free(p->reads);
    free(p->faults);
}

/* ---- page ----------------------------------------------------------------------------------------- */

static void put_text(FILE *out, const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        if (*text == '<' || *text == '>' || *text == '&' || *text == '"') {
            fprintf(out, "&#%d;", *text);
        } else {
            fputc(*text, out);
        }
    }
}

static double x_of(const struct picture *p, int64_t time_ns)
{
    return LEFT + (double)time_ns / (double)p->bucket_ns * p->scale;
}

static const char style[] =
    "body{font:14px/1.4 system-ui,sans-serif;margin:20px;background:#fff;color:#222}"
    "table{border-collapse:collapse;margin:8px 0 20px}td,th{padding:2px "
    "10px;text-align:right;border-bottom:1px solid "
    "#ddd}td:first-child,th:first-child,.l{text-align:left}.violated{background:#f8c9c4;font-weight:bold}"
    ".untested{color:#888}.scroll{overflow-x:auto;border:1px solid #ccc}svg text{font:11px "
    "system-ui,sans-serif;"
    "fill:#444}path{fill:none}.ok{stroke:#58a05c}.info{stroke:#e8a33d}.fail{stroke:#cf4436}.band{fill:#"
    "8a6fb0;"
    "fill-opacity:.16}.area{fill:#4a86c5;stroke:none}.p50{stroke:#4a86c5}.p99{stroke:#b04a86}.grid{stroke:#"
    "ddd}"
    "@media(prefers-color-scheme:dark){body{background:#1b1b1b;color:#ddd}svg "
    "text{fill:#bbb}.violated{background:"
    "#7c2a22}td,th{border-color:#444}.grid{stroke:#3a3a3a}}";

static void put_head(FILE *out, const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                     const struct chaos_report_info *info)
{
    static const char *const names[] = {"valid", "violated", "untested"};
    fprintf(out,
            "<!doctype html><html lang=\"en\"><meta "
            "charset=\"utf-8\"><title>dunlin-chaos</title><style>%s</style>"
            "<h1>dunlin-chaos</h1>\n",
            style);
    fprintf(out, "<p>Seed %" PRIu64 ". ", info->seed);
    put_text(out, info->schedule);
    if (info->command != NULL) {
        fprintf(out, "<br>Repeat with <code>");
        put_text(out, info->command);
        fprintf(out, "</code>");
    }
    fprintf(out,
            "</p>\n<table><tr><th>rule<th>verdict<th>judged<th>violations<th class=l>what it says</tr>\n");
    for (unsigned rule = 0; rule < CHAOS_RULE_COUNT; rule++) {
        const struct chaos_judgement *judgement = &judgements[rule];
        const char *name = names[judgement->verdict];
        fprintf(out, "<tr class=%s><td>%s<td>%s<td>%" PRIu64 "<td>%" PRIu64 "<td class=l>", name,
                chaos_rule_name((enum chaos_rule)rule), name, judgement->judged, judgement->violations);
        put_text(out, chaos_rule_text((enum chaos_rule)rule));
        if (judgement->examples_count > 0) {
            fprintf(out, "<br>");
            put_text(out, judgement->examples[0].text);
        }
        fprintf(out, "</tr>\n");
    }
    fprintf(out, "</table>\n");
}

static void put_list(FILE *out, const char *title, const char *const *list, size_t count)
{
    if (count == 0) {
        return;
    }
    fprintf(out, "<h2>%s</h2><ul>\n", title);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "<li>");
        put_text(out, list[i]);
        fprintf(out, "\n");
    }
    fprintf(out, "</ul>\n");
}

static void put_faults(FILE *out, const struct picture *p)
{
    fprintf(out, "<h2>Through each fault</h2>\n");
    if (p->faults_count == 0) {
        fprintf(out, "<p>None.</p>\n");
        return;
    }
    fprintf(out, "<table><tr><th>number<th>fault<th class=l>what<th>from s<th>to s<th>longest ms without a "
                 "write<th>in group"
                 "<th>write p50 ms<th>p99<th>failed<th>read p50 ms<th>p99<th>failed</tr>\n");
    for (size_t i = 0; i < p->faults_count && i < FAULTS_MAX; i++) {
        const struct chaos_fault *fault = &p->faults[i];
        fprintf(out, "<tr><td>%zu<td class=l>", i + 1);
        put_text(out, fault->name);
        fprintf(out, "<td class=l>");
        put_text(out, fault->what);
        fprintf(out, "<td>%.2f<td>%.2f", chaos_ms(fault->begin_ns) / 1000, chaos_ms(fault->end_ns) / 1000);
        if (fault->gap_ns >= 0) {
            fprintf(out, "<td>%.0f<td>%" PRIu32, chaos_ms(fault->gap_ns), fault->worst_group);
        } else {
            fprintf(out, "<td>-<td>-");
        }
        fprintf(out,
                "<td>%.1f<td>%.1f<td>%" PRIu64 " of %" PRIu64 "<td>%.1f<td>%.1f<td>%" PRIu64 " of %" PRIu64
                "</tr>\n",
                chaos_ms(fault->write_p50_ns), chaos_ms(fault->write_p99_ns), fault->writes_failed,
                fault->writes, chaos_ms(fault->read_p50_ns), chaos_ms(fault->read_p99_ns),
                fault->reads_failed, fault->reads);
    }
    fprintf(out, "</table>\n");
    if (p->faults_count > FAULTS_MAX) {
        fprintf(out, "<p>And %zu more: verdict.json has them all.</p>\n", p->faults_count - FAULTS_MAX);
    }
}

/* ---- the picture ---------------------------------------------------------------------------------- */

static void draw_bands(FILE *out, const struct picture *p, double height)
{
    for (size_t i = 0; i < p->faults_count; i++) {
        const struct chaos_fault *fault = &p->faults[i];
        double from = x_of(p, fault->begin_ns), to = x_of(p, fault->end_ns);
        fprintf(out, "<rect class=\"band\" x=\"%.1f\" y=\"%u\" width=\"%.1f\" height=\"%.0f\"><title>", from,
                TOP, to - from > 1 ? to - from : 1, height - TOP);
        put_text(out, fault->name);
        fprintf(out, ": ");
        put_text(out, fault->what);
        fprintf(out, " (%.2f s to %.2f s)</title></rect>", chaos_ms(fault->begin_ns) / 1000,
                chaos_ms(fault->end_ns) / 1000);
        if (i < FAULTS_MAX) {
            fprintf(out, "<text x=\"%.1f\" y=\"%u\">%zu</text>", from + 2, TOP - 4, i + 1);
        }
        fprintf(out, "\n");
    }
}

static void draw_times(FILE *out, const struct picture *p, double height)
{
    static const int64_t steps_s[] = {1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400};
    size_t step = 0;
    while (step + 1 < sizeof steps_s / sizeof *steps_s && x_of(p, steps_s[step] * 1000000000) - LEFT < 60) {
        step++;
    }
    for (int64_t second = 0; second * 1000000000 <= p->over_ns; second += steps_s[step]) {
        double x = x_of(p, second * 1000000000);
        fprintf(out,
                "<path class=\"grid\" d=\"M%.1f %uV%.0f\"/><text x=\"%.1f\" y=\"14\">%" PRId64 " s</text>\n",
                x, TOP, height, x + 2, second);
    }
}

/* One path for each client and kind of answer. The worst of a bucket is drawn. */
static double draw_clients(FILE *out, const struct picture *p, double y)
{
    static const char *const names[TOLD_KINDS] = {"ok", "fail", "info"};
    for (uint32_t row = 0; row < p->rows; row++, y += ROW_HEIGHT) {
        const uint8_t *told = p->told + (size_t)row * p->buckets;
        for (unsigned kind = 0; kind < TOLD_KINDS; kind++) {
            bool any = false;
            for (uint32_t i = 0; i < p->buckets;) {
                uint32_t from = i;
                while (i < p->buckets && told[i] >> kind == 1) {
                    i++;
                }
                if (i == from) {
                    i++;
                    continue;
                }
                if (!any) {
                    fprintf(out, "<path class=\"%s\" stroke-width=\"%u\" d=\"", names[kind], ROW_HEIGHT - 1);
                }
                any = true;
                fprintf(out, "M%.1f %.1fh%.1f", LEFT + from * p->scale, y + ROW_HEIGHT / 2.0,
                        (i - from) * p->scale);
            }
            fprintf(out, "%s", any ? "\"/>\n" : "");
        }
    }
    return y;
}

static double draw_group(FILE *out, const struct picture *p, uint32_t group, double y)
{
    const uint32_t *acked = p->acked + (size_t)group * p->buckets;
    double base = y + GROUP_HEIGHT - 6, high = GROUP_HEIGHT - 10;
    fprintf(out, "<text x=\"2\" y=\"%.0f\">%s%.0" PRIu32 "</text><text x=\"2\" y=\"%.0f\">%.0f/s</text>\n",
            y + 16, group == 0 ? "catalogue" : "shard ", group, y + 30,
            p->acked_max[group] * 1e9 / (double)p->bucket_ns);
    fprintf(out, "<path class=\"area\" d=\"M%u %.1f", LEFT, base);
    for (uint32_t i = 0; i < p->buckets; i++) {
        double at = p->acked_max[group] > 0 ? (double)acked[i] / p->acked_max[group] * high : 0;
        if (i == 0 || acked[i] != acked[i - 1]) {
            fprintf(out, "H%.1fV%.1f", LEFT + i * p->scale, base - at);
        }
    }
    fprintf(out, "H%.1fV%.1fZ\"/>\n", LEFT + p->buckets * p->scale, base);
    return y + GROUP_HEIGHT;
}

static void draw_quantile(FILE *out, const struct picture *p, const struct bucket_latencies *buckets,
                          unsigned per_cent, double y)
{
    bool on = false;
    fprintf(out, "<path class=\"p%u\" d=\"", per_cent);
    for (uint32_t i = 0; i < p->buckets; i++) {
        if (buckets[i].count == 0) {
            on = false;
            continue;
        }
        fprintf(out, "%c%.1f %.1f", on ? 'L' : 'M', LEFT + (i + 0.5) * p->scale,
                y + LATENCY_HEIGHT - latency_height(quantile(&buckets[i], per_cent)) * LATENCY_HEIGHT);
        on = true;
    }
    fprintf(out, "\"/>\n");
}

static double draw_latencies(FILE *out, const struct picture *p, const struct bucket_latencies *buckets,
                             const char *name, double y)
{
    static const struct {
        int64_t ns;
        const char *text;
    } lines[] = {{10000, "10 us"},    {100000, "100 us"},    {1000000, "1 ms"},
                 {10000000, "10 ms"}, {100000000, "100 ms"}, {1000000000, "1 s"}};
    y += 20;
    fprintf(out, "<text x=\"2\" y=\"%.0f\">%s</text><text x=\"2\" y=\"%.0f\">p50, p99</text>\n", y + 10, name,
            y + 24);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        double at = y + LATENCY_HEIGHT - latency_height(latency_class(lines[i].ns)) * LATENCY_HEIGHT;
        fprintf(out, "<path class=\"grid\" d=\"M%u %.1fH%.1f\"/><text x=\"%u\" y=\"%.1f\">%s</text>\n", LEFT,
                at, LEFT + p->buckets * p->scale, LEFT - 38, at + 4, lines[i].text);
    }
    draw_quantile(out, p, buckets, 50, y);
    draw_quantile(out, p, buckets, 99, y);
    return y + LATENCY_HEIGHT;
}

static void put_picture(FILE *out, const struct picture *p)
{
    double height =
        TOP + p->rows * ROW_HEIGHT + 12 + p->groups * GROUP_HEIGHT + 2 * (LATENCY_HEIGHT + 20) + 10;
    double y = TOP;
    fprintf(
        out,
        "<h2>What happened when</h2>\n<p>A line for each of %" PRIu32
        " clients (green: answered, red: failed, amber: nobody knows), then the acknowledged writes of each "
        "group, in buckets of %" PRId64
        " ms, then latencies. Bands are faults, numbered as in the table: point at one.</p>\n",
        p->clients, p->bucket_ns / 1000000);
    fprintf(
        out,
        "<div class=\"scroll\"><svg width=\"%.0f\" height=\"%.0f\" role=\"img\" aria-label=\"timeline\">\n",
        LEFT + p->buckets * p->scale + 10, height);
    draw_times(out, p, height);
    fprintf(out, "<text x=\"2\" y=\"%.0f\">clients</text>\n", y + 10);
    y = draw_clients(out, p, y) + 12;
    for (uint32_t group = 0; group < p->groups; group++) {
        y = draw_group(out, p, group, y);
    }
    y = draw_latencies(out, p, p->writes, "writes", y);
    (void)draw_latencies(out, p, p->reads, "reads", y);
    draw_bands(out, p, height); /* last: on top, to be pointed at */
    fprintf(out, "</svg></div>\n");
}

void chaos_timeline_html(FILE *out, const struct chaos_history *history,
                         const struct chaos_judgement judgements[CHAOS_RULE_COUNT],
                         const struct chaos_report_info *info)
{
    struct picture p;
    picture_make(&p, history);
    put_head(out, judgements, info);
    put_picture(out, &p);
    put_faults(out, &p);
    put_list(out, "In the logs, where it must not be", info->findings, info->findings_count);
    put_list(out, "Skipped here", info->skipped, info->skipped_count);
    put_list(out, "Logs", info->logs, info->logs_count);
    fprintf(out, "</html>\n");
    picture_free(&p);
}
