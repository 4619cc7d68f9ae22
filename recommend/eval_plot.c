/* A chart of quality over a live run, as SVG 1.1: two panels (hit rate and mean reciprocal rank), one line
 * for each method, by predictions made so far. */
#include "recommend/eval.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum {
    WIDTH = 900,
    HEIGHT = 640,
    LEFT = 70,
    RIGHT = 130, /* the legend's */
    TOP = 56,
    PANEL = 230,
    BETWEEN = 60,
    LINES_MAX = 5, /* the blend and the best others */
    STEPS = 5,     /* of an axis */
    TITLE_MAX = 120,
};

/* Told apart also by people who see fewer colours (Okabe, Ito, 2008), and by their dashes. */
static const struct {
    const char *colour, *dashes;
} STYLES[LINES_MAX] = {
    {"#000000", ""}, {"#0072b2", "8 3"}, {"#d55e00", "3 3"}, {"#009e73", "10 3 2 3"}, {"#cc79a7", "2 5"}};

struct chart {
    const struct dn_eval_result *result;
    const struct dn_eval_method *lines[LINES_MAX];
    size_t line_count;
    FILE *file;
};

static double mean_of(const double *values, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += values[i];
    return count > 0 ? sum / (double)count : 0;
}

/* The blend first, then by hit rate. */
static void choose_lines(struct chart *chart)
{
    const struct dn_eval_result *result = chart->result;
    bool taken[DN_EVAL_METHODS] = {false};

    while (chart->line_count < LINES_MAX && chart->line_count < result->method_count) {
        size_t best = SIZE_MAX;
        for (size_t m = 0; m < result->method_count; m++) {
            double rate = mean_of(result->methods[m].window_hr, result->window_count);
            if (!taken[m] &&
                (best == SIZE_MAX || rate > mean_of(result->methods[best].window_hr, result->window_count)))
                best = m;
            if (!taken[m] && strcmp(result->methods[m].name, dn_eval_method_name(DN_EVAL_BLEND)) == 0) {
                best = m;
                break;
            }
        }
        taken[best] = true;
        chart->lines[chart->line_count++] = &result->methods[best];
    }
}

/* 1, 2 or 5 times a power of ten, so that STEPS of them reach `most`. */
static double step_for(double most)
{
    static const double factors[] = {1, 2, 5};
    double least = most / STEPS, power = pow(10, floor(log10(least)));

    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        if (power * factors[i] >= least)
            return power * factors[i];
    return power * 10;
}

/* Titles come from a command line: what XML keeps for itself, and what no XML may hold, is written otherwise.
 */
static void put_text(FILE *file, const char *text)
{
    for (size_t i = 0; text[i] != '\0' && i < TITLE_MAX; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '<' || c == '>' || c == '&' || c == '"')
            fprintf(file, "&#%d;", c);
        else
            fputc(c < 0x20 || c >= 0x7f ? '?' : c, file);
    }
}

static void axes(const struct chart *chart, const char *what, double top, double step, double most)
{
    FILE *file = chart->file;
    double width = WIDTH - LEFT - RIGHT;

    fprintf(file, "<text x=\"%d\" y=\"%.1f\" font-weight=\"bold\">%s@%zu</text>\n", LEFT, top - 8, what,
            chart->result->window_k);
    for (int i = 0; i <= (int)(most / step + 0.5); i++) {
        double value = i * step;
        double y = top + PANEL - PANEL * value / most;
        fprintf(file, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", LEFT, y,
                LEFT + width, y);
        fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n", LEFT - 6, y + 4, value);
    }
    for (int i = 0; i <= STEPS; i++) {
        double x = LEFT + width * i / STEPS;
        fprintf(file, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#000000\"/>\n", x,
                top + PANEL, x, top + PANEL + 5);
        fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%zu</text>\n", x, top + PANEL + 19,
                chart->result->predictions * (size_t)i / STEPS);
    }
    fprintf(file,
            "<path d=\"M %d %.1f V %.1f H %.1f\" fill=\"none\" stroke=\"#000000\"/>\n"
            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">predictions</text>\n",
            LEFT, top, top + PANEL, LEFT + width, LEFT + width / 2, top + PANEL + 36);
}

static void panel(const struct chart *chart, const char *what, bool hit_rate, double top)
{
    size_t windows = chart->result->window_count;
    double most = 0, width = WIDTH - LEFT - RIGHT;

    for (size_t l = 0; l < chart->line_count; l++)
        for (size_t w = 0; w < windows; w++)
            most = fmax(most, hit_rate ? chart->lines[l]->window_hr[w] : chart->lines[l]->window_mrr[w]);
    double step = step_for(most > 0 ? most : 1);
    most = step * ceil((most > 0 ? most : 1) / step - 1e-9);
    axes(chart, what, top, step, most);
    for (size_t l = chart->line_count; l-- > 0;) { /* the blend is drawn last, over the others */
        const double *values = hit_rate ? chart->lines[l]->window_hr : chart->lines[l]->window_mrr;
        fprintf(chart->file,
                "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%d\" stroke-dasharray=\"%s\" points=\"",
                STYLES[l].colour, l == 0 ? 3 : 2, STYLES[l].dashes);
        for (size_t w = 0; w < windows; w++)
            fprintf(chart->file, "%s%.1f,%.1f", w == 0 ? "" : " ",
                    LEFT + width * ((double)w + 0.5) / (double)windows,
                    top + PANEL - PANEL * values[w] / most);
        fputs("\"/>\n", chart->file);
    }
}

static void legend(const struct chart *chart)
{
    for (size_t l = 0; l < chart->line_count; l++) {
        int y = TOP + 10 + 22 * (int)l;
        fprintf(chart->file,
                "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"%d\" "
                "stroke-dasharray=\"%s\"/>\n<text x=\"%d\" y=\"%d\">%s</text>\n",
                WIDTH - RIGHT + 14, y, WIDTH - RIGHT + 48, y, STYLES[l].colour, l == 0 ? 3 : 2,
                STYLES[l].dashes, WIDTH - RIGHT + 54, y + 4, chart->lines[l]->name);
    }
}

bool dn_eval_plot(const struct dn_eval_result *result, const char *title, FILE *file)
{
    struct chart chart = {.result = result, .file = file};

    errno = 0;
    if (result->window_count == 0 || result->method_count == 0)
        return false;
    choose_lines(&chart);
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" "
            "fill=\"#ffffff\"/>\n<text x=\"%d\" y=\"24\" font-size=\"16\">",
            WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    put_text(file, title);
    fputs("</text>\n", file);
    panel(&chart, "HR", true, TOP);
    panel(&chart, "MRR", false, TOP + PANEL + BETWEEN);
    legend(&chart);
    fputs("</svg>\n", file);
    return fflush(file) == 0 && ferror(file) == 0;
}
